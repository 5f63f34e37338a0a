"""How time runs, for what changes with it; the timeline itself is `panels.timeline`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import viser

from nfc_gs.data.scene import SceneData
from nfc_gs.viewer.panels.panel import Panel

FRAME = 1.0 / 60.0
"""A step of time where the capture does not say."""


class TimePanel(Panel):
    """Speed, loop, frame stepping."""

    title = "Time"

    def build(self, gui: viser.GuiApi) -> None:
        """Add the controls."""
        self.step = gui.add_button_group("Frame", ("◀ back", "next ▶"), hint="One frame of the capture back or on.")
        self.speed = gui.add_slider(
            "Speed", 0.02, 2.0, 0.02, self.session.state.speed, hint="Lengths of the capture per second."
        )
        self.loop = gui.add_checkbox("Loop", True, hint="Begin again at the end.")
        self.step.on_click(self.session.guarded(self._on_step))
        self.watch(self.speed, self.loop)

    def settings(self) -> Mapping[str, Any]:
        """What outlasts the page."""
        return {"speed": self.speed, "loop": self.loop}

    def on_change(self, event: viser.GuiEvent[Any]) -> None:
        """Let time run as the controls say."""
        self.session.update(speed=float(self.speed.value), loop=bool(self.loop.value))

    def _on_step(self, _: object) -> None:
        step = _frame(self.session.content.scene)
        by = step if self.step.value.startswith("next") else -step
        self.session.update(playing=False, time=min(1.0, max(0.0, self.session.state.time + by)))


def _frame(scene: SceneData | None) -> float:
    """The time between two frames of the capture."""
    times = sorted({view.time for view in scene.views if view.time is not None}) if scene is not None else []
    return 1.0 / (len(times) - 1) if len(times) > 1 else FRAME
