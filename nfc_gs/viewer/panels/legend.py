"""What the colors of a picture stand for, and the number behind a pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

import viser

from nfc_gs.core.colormap import ERROR_FULL, ERROR_MAP, MapName, gradient
from nfc_gs.viewer.draw import COUNT_FULL
from nfc_gs.viewer.panels.panel import Panel
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.state import Show

NEAR = 0.01
"""How far from a view's camera the camera still is at it, as a share of the start camera's distance from the scene."""


@dataclass(frozen=True)
class Scale:
    """A color map and the numbers at its ends.

    Attributes:
        title: what is shown, with its unit.
        first, last: numbers of the first and the last color.
        is_open: greater numbers have the last color, too.
    """

    title: str
    colormap: MapName
    first: float
    last: float
    is_open: bool = False


class LegendPanel(Panel):
    """A bar of the colors with the numbers at its ends, and the number where the picture was clicked."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._clicked: tuple[Show, float | None] | None = None

    def build(self, gui: viser.GuiApi) -> None:
        """Add the bar, which is hidden while colors are colors, and read numbers at clicks on the picture."""
        self.bar = gui.add_html("", visible=False)
        self.session.client.scene.on_click()(self.session.in_background(self._on_click))

    def tick(self) -> None:
        """Show the scale of the picture that is shown."""
        scale = self._scale()
        if self._clicked is not None and self._clicked[0] != self.session.state.show:
            self._clicked = None
        read = [] if self._clicked is None else self._clicked[1:]
        text = "" if scale is None else legend_html(scale, *read, note=self._note())
        if self.bar.content != text:
            self.bar.content = text
        if self.bar.visible != bool(text):
            self.bar.visible = bool(text)

    def _scale(self) -> Scale | None:
        """What the colors of the picture stand for; None where they are no numbers."""
        state, depth_range = self.session.state, self.session.depth_range
        if state.show == "depth" and depth_range is not None:
            return Scale("Depth (scene units)", state.colormap, *depth_range, is_open=True)
        if state.show == "count":
            return Scale("Splats per pixel", state.colormap, 0.0, COUNT_FULL, is_open=True)
        if state.show == "error":
            return Scale("Error (levels of 255)", ERROR_MAP, 0.0, 255.0 * ERROR_FULL, is_open=True)
        if state.show == "entropy":
            return Scale("Entropy of the bits (bits)", state.colormap, 0.0, 1.0)
        return None

    def _note(self) -> str:
        """Where the camera must be for an error that means something, if it is elsewhere."""
        scene, state = self.session.content.scene, self.session.state
        if state.show != "error" or scene is None:
            return ""
        view, home = scene.views[state.view], self.session.content.home
        away = math.dist(view.camera.center.tolist(), self.session.pose.position)
        if away < NEAR * math.dist(home.position, home.look_at):
            return ""
        return f"Only right where {view.name} was taken: Cameras, Go to view, this."

    def _on_click(self, event: viser.SceneClickEvent) -> None:
        show = self.session.state.show
        if self._scale() is not None:
            value = self.session.value_at(*event.screen_pos)
            self._clicked = show, value if value is None or show != "error" else 255.0 * value
            self.tick()


def legend_html(scale: Scale, *values: float | None, note: str = "") -> str:
    """The bar as HTML, with a mark at the last of the values that were read; None is where the picture has none.

    Args:
        note: a sentence below the bar.
    """
    colors, mark, text = ", ".join(gradient(scale.colormap)), "", "click the picture to read it"
    for value in values:
        text = "nothing there" if value is None else f"here: <b>{value:.3g}</b>"
        if value is not None:
            share = min(max((value - scale.first) / max(scale.last - scale.first, 1e-9), 0.0), 1.0)
            style = f"position: absolute; left: calc({100 * share:.1f}% - 2px); top: -2px; bottom: -2px; width: 4px"
            mark = f'<div style="{style}; background: white; border: 1px solid black"></div>'
    last = f"{scale.last:.3g}{'+' if scale.is_open else ''}"
    return f"""<div style="padding: 0 0.75em 0.5em; font-size: 0.8em">
<div style="display: flex; justify-content: space-between"><span>{scale.title}</span><span>{text}</span></div>
<div style="position: relative; height: 0.8em; background: linear-gradient(to right, {colors})">{mark}</div>
<div style="display: flex; justify-content: space-between"><span>{scale.first:.3g}</span><span>{last}</span></div>
{f"<b>{escape(note)}</b>" if note else ""}</div>"""
