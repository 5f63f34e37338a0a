"""Play and the time: a bar at the bottom of the page, whatever tab is open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import viser

from nfc_gs.core.errors import UserError
from nfc_gs.viewer.panels.panel import Command, Panel
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.style import timeline_bar

PLAY, PAUSE = ("Play", viser.Icon.PLAYER_PLAY_FILLED), ("Pause", viser.Icon.PLAYER_PAUSE_FILLED)
"""Label and icon of the button while time stands still, and while it runs."""


class TimelinePanel(Panel):
    """A button to play and a slider, which the style sheet puts over the picture."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        # What the page shows. A tick may come between what the browser sends and its callback, and must not undo that.
        self._page_time = session.state.time

    def build(self, gui: viser.GuiApi) -> None:
        """Add the bar; the two controls must follow it."""
        guarded = self.session.guarded
        self.bar = gui.add_html(timeline_bar(self._time_text()))
        self.button = gui.add_button(PLAY[0], icon=PLAY[1], hint="Play or pause. Key: P")
        self.slider = gui.add_slider(
            "Time", 0.0, 1.0, 0.001, 0.0, hint="From the first time of the capture to its last."
        )
        self.slider.on_update(guarded(self._on_slider))
        self.button.on_click(guarded(lambda _: self._toggle()))

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
        self._show_playing()
        bar = timeline_bar(self._time_text())
        if self.bar.content != bar:
            self.bar.content = bar

    def commands(self) -> Sequence[Command]:
        """A key to play."""
        return (Command("P", "Play or pause", self._toggle),)

    def _time_text(self) -> str:
        """The time in the units of the capture; from 0 to 1 where they are not known."""
        axis, time = self.session.content.time_axis, self.session.state.time
        return f"{time:.2f}" if axis is None else f"{axis.own(time):.2f} {axis.unit}".strip()

    def _toggle(self) -> None:
        """Play, or pause."""
        self.session.play(not self.session.state.playing)
        self._show_playing()

    def _show_playing(self) -> None:
        """Let the button say what pressing it does."""
        label, icon = PAUSE if self.session.state.playing else PLAY
        if self.button.label != label:
            self.button.label, self.button.icon = label, icon

    def _on_slider(self, event: viser.GuiEvent) -> None:
        if event.client is None:
            return  # the slider follows time
        self._page_time = float(self.slider.value)
        self.session.update(playing=False, time=self._page_time)
