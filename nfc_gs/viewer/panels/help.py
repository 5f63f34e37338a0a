"""The page that explains mouse and keys."""

from __future__ import annotations

from collections.abc import Callable

import viser

from nfc_gs.viewer.content import Content
from nfc_gs.viewer.panels.panel import Panel

BEFORE_KEYS = """
**Mouse**: drag to orbit, right drag (or Shift) to pan, wheel to zoom. **Touch**: one finger orbits, two pan and zoom.
"""

AFTER_KEYS = """
Every control has a tooltip: rest the mouse on it, beside its name. Where colors stand for numbers (depth, splats per
pixel, error), click the picture to read one.

The picture is drawn by the server: small while you move, in full and then refined when you rest.
"""


KEYS: tuple[tuple[str, str, Callable[[Content], bool]], ...] = (
    ("W A S D, Q E", "go level; down and up", lambda _: True),
    ("arrows", "turn", lambda _: True),
    ("O", "orbit or fly", lambda _: True),
    ("R", "back to the start", lambda _: True),
    ("N, B", "next, previous view of the capture", lambda content: content.has_views),
    ("F", "cameras in the scene: show, hide", lambda content: content.has_views),
    ("P", "play, pause", lambda content: content.changes_with_time),
    ("K", "add a keyframe", lambda _: True),
    ("C", "color or depth", lambda _: True),
    ("V", "compare on, off", lambda content: len(content.sources) > 1),
    ("Ctrl-K", "all commands", lambda _: True),
)
"""Keys, what they do, and when a page has them; the panels' `commands` say what they run."""


class HelpPanel(Panel):
    """A text."""

    def build(self, gui: viser.GuiApi) -> None:
        """Add the text."""
        keys = [f"| {key} | {does} |" for key, does, is_there in KEYS if is_there(self.session.content)]
        gui.add_markdown("\n".join([BEFORE_KEYS, "| key | does |", "|---|---|", *keys, AFTER_KEYS]))
