"""What is shown of a model: color, depth, normals, error, bits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import viser

from nfc_gs.core.colormap import MAP_NAMES
from nfc_gs.viewer.panels.panel import Command, Panel
from nfc_gs.viewer.state import SHOWS, Show

CHANNELS = ("red", "green", "blue")

NAMES: dict[Show, str] = {
    "color": "color",
    "alpha": "opacity",
    "depth": "depth",
    "normals": "normals",
    "count": "splats per pixel",
    "error": "error",
    "bit": "one bit plane",
    "bits": "all bit planes",
    "entropy": "undecided bits",
}
"""What people read for what is shown."""


class DisplayPanel(Panel):
    """What to show, and in which colors."""

    def build(self, gui: viser.GuiApi) -> None:
        """Add what any of the sources can show."""
        content = self.session.content
        possible = {show for source in content.sources for show in source.snapshot().shows}
        shows: list[Show] = [show for show in SHOWS if show in possible and (show != "error" or content.has_photos)]
        self.show = gui.add_dropdown(
            "Show", [NAMES[show] for show in shows], initial_value=NAMES["color"],
            hint="Error: difference from the photo of the view chosen under Cameras; be there. Bit planes: the most "
            "significant first.",
        )  # fmt: skip
        self.colormap = gui.add_dropdown(
            "Color map", MAP_NAMES, initial_value="turbo", visible=False, hint="Colors that stand for numbers."
        )
        self.auto_range = gui.add_checkbox(
            "Auto range", True, visible=False, hint="Colors span 1 % to 99 % of the depths in the picture."
        )
        self.near = gui.add_number(
            "Near (units)", 0.0, min=0.0, step=0.01, visible=False, hint="Depth of the first color."
        )
        self.far = gui.add_number(
            "Far (units)", 10.0, min=0.0, step=0.01, visible=False, hint="Depth of the last color."
        )
        self.channel = gui.add_dropdown(
            "Channel", CHANNELS, initial_value="red", visible=False, hint="Whose bits are shown."
        )
        self.bit = gui.add_slider(
            "Bit plane", 0, 7, 1, 0, visible=False, hint="0 is the most significant bit, 7 the least."
        )
        self.background = gui.add_rgb(
            "Background", _bytes(self.session.source.options.background), hint="The color behind the model."
        )
        self.watch(
            self.show, self.colormap, self.auto_range, self.near, self.far, self.channel, self.bit, self.background
        )

    def settings(self) -> Mapping[str, Any]:
        """What outlasts the page."""
        return {
            "show": self.show,
            "colormap": self.colormap,
            "auto_range": self.auto_range,
            "near": self.near,
            "far": self.far,
            "channel": self.channel,
            "bit": self.bit,
            "background": self.background,
        }

    def on_change(self, event: viser.GuiEvent[Any]) -> None:
        """Show what is chosen, and only the controls that matter for it."""
        show, auto = self.session.state.show, self.auto_range.value
        show = next((show for show, name in NAMES.items() if name == self.show.value), show)
        self.colormap.visible = show in ("depth", "count", "entropy")
        self.auto_range.visible = show == "depth"
        self.near.visible = self.far.visible = show == "depth" and not auto
        self.channel.visible = show in ("bit", "bits")
        self.bit.visible = show == "bit"
        near, far = float(self.near.value), float(self.far.value)
        self.session.update(
            show=show,
            colormap=self.colormap.value,
            depth_range=None if auto else (near, max(far, near + 1e-6)),
            channel=CHANNELS.index(self.channel.value),
            bit=int(self.bit.value),
            background=tuple(value / 255.0 for value in self.background.value),
        )

    def commands(self) -> Sequence[Command]:
        """A key for depth."""
        return (Command("C", "Color or depth", self._toggle_depth),)

    def _toggle_depth(self) -> None:
        self.show.value = NAMES["color" if self.session.state.show == "depth" else "depth"]


def _bytes(color: tuple[float, float, float]) -> tuple[int, int, int]:
    r, g, b = (math.floor(255 * value + 0.5) for value in color)
    return (r, g, b)
