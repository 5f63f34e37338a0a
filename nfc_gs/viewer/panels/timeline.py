"""Play and the time: a bar at the bottom of the page, whatever tab is open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import viser

from nfc_gs.core.errors import UserError
from nfc_gs.viewer.panels.panel import Command, Panel
from nfc_gs.viewer.panels.style import timeline_bar
from nfc_gs.viewer.session import Session


class TimelinePanel(Panel):
    """A checkbox to play and a slider, which the style sheet puts over the picture."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        # What the page shows. A tick may come between what the browser sends and its callback, and must not undo that.
        self._page_time, self._page_playing = session.state.time, session.state.playing

    def build(self, gui: viser.GuiApi) -> None:
        """Add the bar; the two controls must follow it."""
        guarded = self.session.guarded
        self.bar = gui.add_html(timeline_bar(self._own_time()))
        self.playing = gui.add_checkbox("Play", False, hint="Let time run; frames are skipped, never queued. Key: P")
        self.slider = gui.add_slider(
            "Time", 0.0, 1.0, 0.001, 0.0, hint="0 is the first time of the capture, 1 its last."
        )
        self.slider.on_update(guarded(self._on_slider))
        self.playing.on_update(guarded(self._on_play))

    def kept(self) -> Any:
        """The time, unless it is the first."""
        return round(self.session.state.time, 3) or None

    def restore(self, kept: Any) -> None:
        """Go to the time."""
        if not isinstance(kept, float) or not 0.0 <= kept <= 1.0:
            raise UserError("The last time is not between 0 and 1.")
        self.session.update(time=kept)

    def tick(self) -> None:
        """Let the controls follow time."""
        state = self.session.state
        if abs(self._page_time - state.time) > 5e-4:
            self._page_time = state.time
            self.slider.value = round(state.time, 3)
        if self._page_playing != state.playing:
            self._page_playing = state.playing
            self.playing.value = state.playing
        bar = timeline_bar(self._own_time())
        if self.bar.content != bar:
            self.bar.content = bar

    def commands(self) -> Sequence[Command]:
        """A key to play."""
        return (Command("P", "Play or pause", lambda: self.session.play(not self.session.state.playing)),)

    def _own_time(self) -> str:
        """The time in the units of the capture; "" where they are not known."""
        axis = self.session.content.time_axis
        return "" if axis is None else f"{axis.own(self.session.state.time):.2f} {axis.unit}".strip()

    def _on_slider(self, event: viser.GuiEvent) -> None:
        if event.client is None:
            return  # the slider follows time
        self._page_time = float(self.slider.value)
        self.session.update(playing=False, time=self._page_time)

    def _on_play(self, event: viser.GuiEvent) -> None:
        if event.client is None:
            return
        self._page_playing = bool(self.playing.value)
        self.session.play(self._page_playing)
