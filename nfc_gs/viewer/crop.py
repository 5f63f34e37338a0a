"""The outline of a crop in a browser's scene, and the handles on the faces of a box."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import viser

from nfc_gs.viewer.cameras import three
from nfc_gs.viewer.edit import Edit
from nfc_gs.viewer.session import Session

COLOR = (255, 212, 59)

HANDLE_PIXELS = 60.0
"""Length of a face's arrow on the screen."""

OUTWARDS = {
    (0, True): (1.0, 0.0, 0.0, 0.0),
    (0, False): (0.0, 0.0, 0.0, 1.0),
    (1, True): (1.0, 0.0, 0.0, 0.0),
    (1, False): (0.0, 0.0, 0.0, 1.0),
    (2, True): (1.0, 0.0, 0.0, 0.0),
    (2, False): (0.0, 1.0, 0.0, 0.0),
}
"""Rotations (wxyz) by which the arrow of an axis points out of its high or low face."""

MoveFace = Callable[[int, bool, float], None]
"""Called with the axis (0, 1, 2), whether it is the high face, and where along the axis it is to be."""


class CropOutline:
    """A box or a sphere in the scene of one page. Each face of the box has an arrow that moves this face alone."""

    def __init__(self, session: Session, move_face: MoveFace) -> None:
        """Without an outline; `move_face` is called while an arrow is dragged."""
        self.session, self._move_face = session, move_face
        self._root = session.client.scene.add_frame("/crop", show_axes=False, visible=False)
        self._box: viser.LineSegmentsHandle | None = None
        self._sphere: viser.IcosphereHandle | None = None
        self._faces: dict[tuple[int, bool], viser.TransformControlsHandle] = {}
        self._dragged: viser.TransformControlsHandle | None = None
        self._corners = np.zeros(3), np.zeros(3)  # of the box
        self._lock = threading.RLock()  # callbacks of the page run in several threads

    @property
    def visible(self) -> bool:
        """Whether the outline is seen, if there is one."""
        return bool(self._root.visible)

    @visible.setter
    def visible(self, visible: bool) -> None:
        self._root.visible = visible

    def draw(self, edit: Edit) -> None:
        """Show the box or the sphere of an edit, or neither."""
        scene = self.session.client.scene
        with self._lock:
            if edit.sphere is not None:
                center, radius = edit.sphere
                if self._sphere is None:
                    self._sphere = scene.add_icosphere("/crop/sphere", 1.0, COLOR, wireframe=True)
                self._sphere.position, self._sphere.radius = center, radius
            if edit.box is not None:
                self._draw_box(np.asarray(edit.box[0]), np.asarray(edit.box[1]))
            for node, is_shown in ((self._sphere, edit.sphere is not None), (self._box, edit.box is not None)):
                if node is not None:
                    node.visible = is_shown
            for face in self._faces.values():
                face.visible = edit.box is not None

    def _draw_box(self, low: np.ndarray, high: np.ndarray) -> None:
        """Bring the box and its arrows to where they are to be; the arrow that is dragged is there."""
        center, self._corners = (low + high) / 2, (low, high)
        if self._box is None:
            self._box = self.session.client.scene.add_line_segments(
                "/crop/box", _edges(low, high), COLOR, thickness=2.0, thickness_units="screen"
            )
            self._faces = {face: self._add_face(*face) for face in OUTWARDS}
        self._box.points = _edges(low, high)
        for (axis, is_high), face in self._faces.items():
            place = center.copy()
            place[axis] = (high if is_high else low)[axis]
            if face is not self._dragged and not np.allclose(face.position, place):
                face.position = three(place)

    def _add_face(self, axis: int, is_high: bool) -> viser.TransformControlsHandle:
        """The arrow of a face."""
        face = self.session.client.scene.add_transform_controls(
            f"/crop/{'xyz'[axis]}{'+' if is_high else '-'}",
            HANDLE_PIXELS,
            fixed=True,
            active_axes=(axis == 0, axis == 1, axis == 2),
            disable_sliders=True,
            disable_rotations=True,
            depth_test=False,
            wxyz=OUTWARDS[axis, is_high],
        )

        def drag(event: viser.TransformControlsEvent) -> None:
            self._dragged = face
            self._move_face(axis, is_high, float(face.position[axis]))
            if event.phase == "end":
                self._dragged = None
                with self._lock:
                    self._draw_box(*self._corners)  # the arrow may have been dragged further than its face goes

        @face.on_update
        async def _(event: viser.TransformControlsEvent) -> None:  # async keeps the order of the events
            self.session.guarded(drag)(event)

        return face


def _edges(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The edges [12, 2, 3] float32 of a box."""
    corners = [np.where([i & 1, i & 2, i & 4], high, low) for i in range(8)]
    return np.asarray(
        [(corners[i], corners[i | bit]) for bit in (1, 2, 4) for i in range(8) if not i & bit], np.float32
    )
