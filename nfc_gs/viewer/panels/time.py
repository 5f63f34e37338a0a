"""Time, for what changes with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import viser

from nfc_gs.data.scene import SceneData
from nfc_gs.viewer.panels.panel import Command, Panel
from nfc_gs.viewer.session import Session

FRAME = 1.0 / 60.0
"""A step of time where the capture does not say."""


class TimePanel(Panel):
    """Slider, play and pause, speed, loop, frame stepping."""

    title = "Time"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        # What the page shows. A tick may come between what the browser sends and its callback, and must not undo that.
        self._page_time, self._page_playing = session.state.time, session.state.playing

    def build(self, gui: viser.GuiApi) -> None:
        """Add the controls."""
        axis, guarded = self.session.content.time_axis, self.session.guarded
        self.slider = gui.add_slider(
            "Time", 0.0, 1.0, 0.001, 0.0, hint="0 is the first time of the capture, 1 its last."
        )
        self.axis_time = gui.add_markdown("", visible=axis is not None)
        self.step = gui.add_button_group("Frame", ("◀ back", "next ▶"), hint="One frame of the capture back or on.")
        self.playing = gui.add_checkbox("Play", False, hint="Let time run; frames are skipped, never queued. Key: P")
        self.speed = gui.add_slider(
            "Speed", 0.02, 2.0, 0.02, self.session.state.speed, hint="Lengths of the capture per second."
        )
        self.loop = gui.add_checkbox("Loop", True, hint="Begin again at the end.")
        self.slider.on_update(guarded(self._on_slider))
        self.step.on_click(guarded(self._on_step))
        self.playing.on_update(guarded(self._on_play))
        self.watch(self.speed, self.loop)

    def on_change(self, event: viser.GuiEvent[Any]) -> None:
        """Let time run as the controls say."""
        self.session.update(speed=float(self.speed.value), loop=bool(self.loop.value))

    def tick(self) -> None:
        """Let the controls follow time."""
        state, axis = self.session.state, self.session.content.time_axis
        if abs(self._page_time - state.time) > 5e-4:
            self._page_time = state.time
            self.slider.value = round(state.time, 3)
        if self._page_playing != state.playing:
            self._page_playing = state.playing
            self.playing.value = state.playing
        if axis is not None:
            text = f"{axis.own(state.time):.2f} {axis.unit}".strip()
            if self.axis_time.content != text:
                self.axis_time.content = text

    def commands(self) -> Sequence[Command]:
        """A key to play."""
        return (Command("P", "Play or pause", lambda: self.session.play(not self.session.state.playing)),)

    def _on_slider(self, event: viser.GuiEvent[Any]) -> None:
        if event.client is None:
            return  # the slider follows time
        self._page_time = float(self.slider.value)
        self.session.update(playing=False, time=self._page_time)

    def _on_play(self, event: viser.GuiEvent[Any]) -> None:
        if event.client is None:
            return
        self._page_playing = bool(self.playing.value)
        self.session.play(self._page_playing)

    def _on_step(self, _: object) -> None:
        step = _frame(self.session.content.scene)
        by = step if self.step.value.startswith("next") else -step
        self.session.update(playing=False, time=min(1.0, max(0.0, self.session.state.time + by)))


def _frame(scene: SceneData | None) -> float:
    """The time between two frames of the capture."""
    times = sorted({view.time for view in scene.views if view.time is not None}) if scene is not None else []
    return 1.0 / (len(times) - 1) if len(times) > 1 else FRAME
