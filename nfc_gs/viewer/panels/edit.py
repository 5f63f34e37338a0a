"""Crop, thresholds, and what is kept as a PLY."""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import viser

from nfc_gs.core.errors import UserError
from nfc_gs.formats.notes import Notes, StartCamera
from nfc_gs.formats.ply import write_ply
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.runs.names import SPLAT_NAME
from nfc_gs.viewer.cameras import three
from nfc_gs.viewer.crop import CropOutline
from nfc_gs.viewer.edit import EVERYTHING, Edit, Point, dense_box
from nfc_gs.viewer.panels.panel import Panel
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.style import HIDES_NUMBER

ALL_SIZES = 3.0
"""Where the slider of sizes, which shows logarithms, stands for no limit."""

SIZE_MARKS = ((-3.0, "0.001"), (0.0, "1"), (ALL_SIZES, "all"))


class EditPanel(Panel):
    """Crop box and sphere, opacity and scale thresholds, export."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._crop = CropOutline(session, self._move_face)
        self._changing = threading.Lock()  # held while the edit is made that the controls say
        self._counted: object = None  # what the count on the page is of; None where everything is kept
        self._counting = threading.Lock()  # held while Gaussians are counted

    def build(self, gui: viser.GuiApi) -> None:
        """Add the controls."""
        low, high = _dense_box_of(self.session)
        longest = max(b - a for a, b in zip(low, high, strict=True))
        step, center = _rounded(longest / 200), three((a + b) / 2 for a, b in zip(low, high, strict=True))
        self.shape = gui.add_dropdown(
            "Crop", ("none", "box", "sphere"), initial_value="none",
            hint="Removes what lies outside. The faces of the box have arrows to drag.",
        )  # fmt: skip
        self.low = gui.add_vector3("Box from", low, step=step, visible=False, hint="Lowest x, y, z, in scene units.")
        self.high = gui.add_vector3("Box to", high, step=step, visible=False, hint="Highest x, y, z, in scene units.")
        self.center = gui.add_vector3("Center", center, step=step, visible=False, hint="Of the sphere: x, y, z.")
        self.radius = gui.add_slider(
            "Radius", step, _rounded(5 * longest), step, _rounded(longest / 2), visible=False, hint="Scene units."
        )
        self.fit = gui.add_button(
            "Fit to the scene", color="gray", visible=False, hint="Box and sphere around the dense middle."
        )
        self.min_opacity = gui.add_slider("Min opacity", 0.0, 1.0, 0.01, 0.0, hint="Removes fainter Gaussians.")
        gui.add_html(HIDES_NUMBER)
        # The slider is logarithmic: large Gaussians are few and spread over many orders of magnitude.
        self.max_size = gui.add_slider(
            "Max size", -3.0, ALL_SIZES, 0.05, ALL_SIZES, marks=SIZE_MARKS,
            hint="Removes Gaussians with a longer axis, in scene units. At the right end all are kept.",
        )  # fmt: skip
        self.count = gui.add_markdown("")
        export = gui.add_button(
            "Export what is left as PLY", color="green", hint="Downloads what is left, in the capture's frame."
        )
        self.watch(self.shape, self.low, self.high, self.center, self.radius, self.min_opacity, self.max_size)
        self.fit.on_click(self.session.guarded(lambda _: self._fit()))
        export.on_click(
            self.session.in_background(lambda _: self._export(), busy="An export is being written already.")
        )

    def settings(self) -> Mapping[str, Any]:
        """What outlasts the page."""
        return {
            "shape": self.shape,
            "low": self.low,
            "high": self.high,
            "center": self.center,
            "radius": self.radius,
            "min_opacity": self.min_opacity,
            "max_size": self.max_size,
        }

    def on_change(self, event: viser.GuiEvent[Any]) -> None:
        """Show what the controls keep, and the outline of the crop."""
        with self._changing:
            shape = self.shape.value
            self.low.visible = self.high.visible = shape == "box"
            self.center.visible = self.radius.visible = shape == "sphere"
            self.fit.visible = shape != "none"
            edit = self._edit()
            self._crop.draw(edit)
            self.session.update(edit=edit)
            self._show()

    def on_tab(self, is_open: bool) -> None:
        """Show the outline of the crop with the tab; the crop itself stays."""
        self._crop.visible = is_open
        self._show()

    def _show(self) -> None:
        """Note whether the outline is seen, so that splats can hide it."""
        self.session.set_in_scene("crop", self._crop.visible and self.shape.value != "none")

    def _move_face(self, axis: int, is_high: bool, place: float) -> None:
        """Move a face of the box, but not through the opposite one."""
        near, far = (self.high, self.low) if is_high else (self.low, self.high)
        corner, other = list(near.value), far.value[axis]
        corner[axis] = max(place, other) if is_high else min(place, other)
        near.value = three(corner)

    def _fit(self) -> None:
        low, high = _dense_box_of(self.session)
        self.low.value, self.high.value = low, high
        self.center.value = three((a + b) / 2 for a, b in zip(low, high, strict=True))
        self.radius.value = max(b - a for a, b in zip(low, high, strict=True)) / 2

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
            if self.session.state.edit.max_scale < math.inf:
                text += f" None is larger than {self.session.state.edit.max_scale:.3g} scene units."
            self.count.content = text if self._counted else ""
        finally:
            self._counting.release()

    def _edit(self) -> Edit:
        """What the controls say."""
        box = sphere = None
        if self.shape.value == "box":
            low, high = zip(*(sorted(pair) for pair in zip(self.low.value, self.high.value, strict=True)), strict=True)
            box = (three(low), three(high))
        if self.shape.value == "sphere":
            sphere = (three(self.center.value), float(self.radius.value))
        scale = math.inf if self.max_size.value >= ALL_SIZES else 10.0 ** float(self.max_size.value)
        return Edit(box, sphere, float(self.min_opacity.value), scale)

    def _export(self) -> None:
        session, source = self.session, self.session.source
        kept = session.renderer.edited_gaussians(session.state)
        if kept is None:
            raise UserError(f"{source.name} has no Gaussians, which are all that a PLY can hold.")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / SPLAT_NAME
            write_ply(file, kept, None if source.frame is None else source.frame.transform, notes=self._notes())
            session.send_file(f"{source.name}.ply", file.read_bytes())

    def _notes(self) -> Notes:
        """What an exported file says: up, the background that is chosen, and to begin where the camera is now."""
        session, home = self.session, self.session.content.home
        camera = StartCamera(session.pose.position, three(session.client.camera.look_at), session.pose.fov)
        notes = Notes(up=home.up, camera=camera, background=session.state.background)
        matrix = session.content.placement_of(session.source).matrix
        return notes if matrix is None else notes.moved(np.linalg.inv(matrix))


def _dense_box_of(session: Session) -> tuple[Point, Point]:
    """The box around the dense middle of the shown Gaussians, in the frame that is shown."""
    source = session.source if session.source.snapshot().gaussians is not None else session.content.sources[0]
    gaussians, placement = source.snapshot().gaussians, session.content.placement_of(source)
    if gaussians is None:
        middle, radius = session.content.middle_and_radius()
        return three(value - radius for value in middle), three(value + radius for value in middle)
    if placement.matrix is not None:
        matrix = gaussians.means.new_tensor(placement.matrix)
        means = gaussians.means.detach() @ matrix[:3, :3].T + matrix[:3, 3]
        gaussians = GaussianModel(gaussians.tensors() | {"means": means})
    low, high = dense_box(gaussians)
    digits = 3 - math.ceil(math.log10(max(b - a for a, b in zip(low, high, strict=True))))
    return three(round(value, digits) for value in low), three(round(value, digits) for value in high)


def _rounded(value: float) -> float:
    """A positive number to two digits."""
    return float(f"{value:.2g}")
