"""A picture of the window, of any size."""

from __future__ import annotations

import tempfile
from pathlib import Path

from nfc_gs.core.errors import UserError
from nfc_gs.export.video import write_png
from nfc_gs.viewer.session import Session

MOST = 16384
"""Pixels along a side of the largest screenshot."""


def add_screenshot(session: Session) -> None:
    """Size and button."""
    gui = session.client.gui
    with gui.add_folder("Screenshot", expand_by_default=False):
        width = gui.add_number("Width", 1920, min=1, max=MOST, step=1, hint="Pixels; large ones are drawn in tiles.")
        height = gui.add_number("Height", 1080, min=1, max=MOST, step=1, hint="Pixels.")
        button = gui.add_button("Download screenshot", hint="What you see, as a PNG.")

    def take(_: object) -> None:
        w, h = int(width.value), int(height.value)
        if not (1 <= w <= MOST and 1 <= h <= MOST):
            raise UserError(f"A picture of {w} x {h} pixels cannot be made; give at most {MOST} a side.")
        session.client.send_file_download("screenshot.png", picture(session, w, h), save_immediately=True)

    button.on_click(session.aside(take, "A screenshot is being drawn already; wait for it."))


def picture(session: Session, width: int, height: int) -> bytes:
    """A PNG of what the session looks at; a photo over it, and the error against one, are left out."""
    drawn = session.large(session.pose.camera(width, height))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "screenshot.png"
        write_png(file, drawn)
        return file.read_bytes()
