"""A picture of the window, of any size."""

from __future__ import annotations

import tempfile
from pathlib import Path

import viser

from nfc_gs.core.errors import UserError
from nfc_gs.export.video import write_png
from nfc_gs.viewer.panels.panel import Panel

MAX_SIDE = 16384
"""Pixels along a side of the largest screenshot."""


class ScreenshotPanel(Panel):
    """Size and button."""

    title, expanded = "Screenshot", False

    def build(self, gui: viser.GuiApi) -> None:
        """Add the controls."""
        self.width = gui.add_number(
            "Width (px)", 1920, min=1, max=MAX_SIDE, step=1, hint="Large pictures are drawn in tiles."
        )
        self.height = gui.add_number("Height (px)", 1080, min=1, max=MAX_SIDE, step=1, hint="Of the picture.")
        button = gui.add_button("Download screenshot", hint="What you see, as a PNG.")
        button.on_click(
            self.session.in_background(
                lambda _: self._download(), busy="A screenshot is being drawn already; wait for it."
            )
        )

    def _download(self) -> None:
        """Send a PNG of what is shown; a photo over it, and the error against one, are left out."""
        width, height = int(self.width.value), int(self.height.value)
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
            raise UserError(f"A picture of {width} x {height} pixels cannot be made; give at most {MAX_SIDE} a side.")
        picture = self.session.screenshot(self.session.pose.camera(width, height))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "screenshot.png"
            write_png(file, picture)
            self.session.send_file("screenshot.png", file.read_bytes())
