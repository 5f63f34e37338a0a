"""The names of two sources on the halves of the picture that they are in."""

from __future__ import annotations

from html import escape

import viser

from nfc_gs.viewer.panels.panel import Panel

STYLE = (
    "position: fixed; top: 0.6rem; z-index: 5; max-width: 40vw; padding: 0.1rem 0.6rem; border-radius: 0.3rem; "
    "overflow: hidden; text-overflow: ellipsis; white-space: nowrap; pointer-events: none; color: white; "
    "background: rgba(0, 0, 0, 0.55); font-size: 0.85rem"
)
"""Of a name. It lies over the picture and lets the mouse through."""


class HalvesPanel(Panel):
    """Two names at the top of the picture, left and right of the border; they have no place in the panel itself."""

    def build(self, gui: viser.GuiApi) -> None:
        """Add the names."""
        self.names = gui.add_html("", visible=False)
        self.tick()

    def tick(self) -> None:
        """Let the names follow the sources and the border."""
        state = self.session.state
        text = halves_html(state.source, state.other, state.split) if state.is_split else ""
        if self.names.content != text:
            self.names.content = text
        if self.names.visible != bool(text):
            self.names.visible = bool(text)


def halves_html(left: str, right: str, split: float) -> str:
    """Both names as HTML, beside a border at `split` (0..1) of the window's width."""
    places = (f"right: calc({100 * (1 - split):.1f}vw + 0.6rem)", f"left: calc({100 * split:.1f}vw + 0.6rem)")
    names = zip((left, right), places, strict=True)
    return "".join(f'<div class="nfc-half" style="{STYLE}; {place}">{escape(name)}</div>' for name, place in names)
