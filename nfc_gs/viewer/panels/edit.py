"""Crop, thresholds, and what is kept as a PLY."""

from __future__ import annotations

import math
import tempfile
import threading
from pathlib import Path
from typing import Any

import viser

from nfc_gs.core.errors import UserError
from nfc_gs.formats.ply import write_ply
from nfc_gs.runs.names import SPLAT_NAME
from nfc_gs.viewer.cameras import three
from nfc_gs.viewer.edit import EVERYTHING, Edit
from nfc_gs.viewer.panels.panel import Panel
from nfc_gs.viewer.session import Session


class EditPanel(Panel):
    """Crop box and sphere, opacity and scale thresholds, export."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._outline: list[viser.SceneNodeHandle] = []
        self._drawing = threading.Lock()  # held while the outline is drawn or removed
        self._counted: object = None  # what the count on the page is of; None where everything is kept
        self._counting = threading.Lock()  # held while Gaussians are counted

    def build(self, gui: viser.GuiApi) -> None:
        """Add the controls."""
        (x, y, z), radius = self.session.content.middle_and_radius()
        reach, step, side = 10 * radius, max(radius / 100, 1e-4), 4 * radius
        self.shape = gui.add_dropdown(
            "Crop", ("none", "box", "sphere"), initial_value="none", hint="Removes what lies outside."
        )
        self.centre = gui.add_vector3(
            "Centre", (x, y, z), step=step, visible=False, hint="Of box or sphere, scene units."
        )
        self.size = gui.add_vector3("Size", (side, side, side), step=step, visible=False, hint="Sides of the box.")
        self.radius = gui.add_slider("Radius", step, reach, step, 2 * radius, visible=False, hint="Of the sphere.")
        self.min_opacity = gui.add_slider("Least opacity", 0.0, 1.0, 0.01, 0.0, hint="Removes fainter Gaussians.")
        # The slider is logarithmic: large Gaussians are few and spread over many orders of magnitude.
        self.max_size = gui.add_slider(
            "Largest size (log10)", -4.0, 3.0, 0.05, 3.0, hint="Removes larger Gaussians; 3 keeps all."
        )
        self.count = gui.add_markdown("")
        export = gui.add_button(
            "Export what is left as PLY", color="green", hint="Downloads it, in the capture's frame."
        )
        self.watch(self.shape, self.centre, self.size, self.radius, self.min_opacity, self.max_size)
        export.on_click(
            self.session.in_background(lambda _: self._export(), busy="An export is being written already.")
        )

    def on_change(self, event: viser.GuiEvent[Any]) -> None:
        """Show what the controls keep, and the outline of the crop."""
        with self._drawing:
            self.centre.visible = self.shape.value != "none"
            self.size.visible, self.radius.visible = self.shape.value == "box", self.shape.value == "sphere"
            edit = self._edit()
            _draw_outline(self.session, self._outline, edit)
            self.session.update(edit=edit)
            self.session.set_in_scene("crop", bool(self._outline))

    def tick(self) -> None:
        """Count what is kept anew where that may have changed, unless time runs."""
        state, source = self.session.state, self.session.source
        now = None if state.edit == EVERYTHING else (state.edit, source.name, source.snapshot().number, state.time)
        if now != self._counted and not state.playing and self._counting.acquire(blocking=False):
            self._counted = now
            self.session.in_background(self._show_count)()

    def _show_count(self) -> None:
        try:
            gaussians = self.session.source.snapshot().gaussians
            total = 0 if gaussians is None else len(gaussians)
            text = f"{self.session.count_kept():,} of {total:,} Gaussians are left."
            self.count.content = text if self._counted else ""
        finally:
            self._counting.release()

    def _edit(self) -> Edit:
        """What the controls say."""
        middle = three(self.centre.value)
        half = [abs(float(value)) / 2 for value in self.size.value]
        box = None
        if self.shape.value == "box":
            low, high = zip(*((m - h, m + h) for m, h in zip(middle, half, strict=True)), strict=True)
            box = (three(low), three(high))
        sphere = (middle, float(self.radius.value)) if self.shape.value == "sphere" else None
        scale = math.inf if self.max_size.value >= 3.0 else 10.0 ** float(self.max_size.value)
        return Edit(box, sphere, float(self.min_opacity.value), scale)

    def _export(self) -> None:
        session, source = self.session, self.session.source
        kept = session.renderer.edited_gaussians(session.state)
        if kept is None:
            raise UserError(f"{source.name} has no Gaussians, which are all that a PLY can hold.")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / SPLAT_NAME
            write_ply(file, kept, None if source.frame is None else source.frame.transform)
            session.send_file(f"{source.name}.ply", file.read_bytes())


def _draw_outline(session: Session, shown: list[viser.SceneNodeHandle], edit: Edit) -> None:
    """Draw the crop shape in the browser's scene in place of those that are shown."""
    while shown:
        shown.pop().remove()
    scene = session.client.scene
    if edit.box is not None:
        low, high = edit.box
        sides = three(b - a for a, b in zip(low, high, strict=True))
        middle = three((a + b) / 2 for a, b in zip(low, high, strict=True))
        shown.append(scene.add_box("/crop", (255, 212, 59), sides, wireframe=True, position=middle))
    if edit.sphere is not None:
        middle, radius = edit.sphere
        shown.append(scene.add_icosphere("/crop", radius, (255, 212, 59), wireframe=True, position=middle))
