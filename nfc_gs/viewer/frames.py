"""Bringing models that were trained in different coordinate frames into the one that is shown.

Training transforms a capture into a frame of its own (`data.normalize`), which depends on the views that were used, so
two runs of one capture need not share theirs. Both know the transform from the capture's world, through which one frame
is converted into the other. A PLY is in the world of some capture and does not say of which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from nfc_gs.core.camera import Camera
from nfc_gs.data.normalize import same_frame, transform_viewmats
from nfc_gs.viewer.edit import EVERYTHING, Edit, Point


@dataclass(frozen=True, eq=False)
class CoordinateFrame:
    """The frame that Gaussians or cameras are given in.

    Attributes:
        transform: [4, 4] similarity from the world of a capture to this frame.
        capture: where that capture lies; None for a file, which does not know.
    """

    transform: np.ndarray
    capture: str | None


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a source lies in the frame that is shown.

    Attributes:
        matrix: [4, 4] similarity from its own frame to the one shown; None where the two are one.
        note: a sentence for people where this is a guess; "" where it is known.
    """

    matrix: np.ndarray | None = None
    note: str = ""

    @property
    def scale(self) -> float:
        """Units of the frame shown that are one unit of its own."""
        return 1.0 if self.matrix is None else float(np.cbrt(np.linalg.det(self.matrix[:3, :3])))

    def point(self, point: Point) -> Point:
        """A point of its own frame in the frame shown."""
        if self.matrix is None:
            return point
        x, y, z = (self.matrix[:3, :3] @ np.asarray(point) + self.matrix[:3, 3]).tolist()
        return (x, y, z)

    def camera(self, camera: Camera) -> Camera:
        """A camera of the frame shown, given in the own frame, where it sees the same picture."""
        if self.matrix is None:
            return camera
        viewmat = camera.viewmat.double().cpu().numpy()
        moved = transform_viewmats(viewmat[None], np.linalg.inv(self.matrix))[0]
        return replace(camera, viewmat=torch.from_numpy(moved).to(camera.viewmat))

    def edit(self, edit: Edit) -> Edit:
        """An edit made in the frame shown, for the model in its own frame."""
        if self.matrix is None or edit == EVERYTHING:
            return edit
        return replace(edit, frame=tuple(tuple(row) for row in self.matrix.tolist()))


def place(name: str, own: CoordinateFrame | None, shown: CoordinateFrame | None) -> Placement:
    """Where the source `name`, given in the frame `own`, lies in the frame `shown`.

    A frame is None where it is not known. Where the transform is not known, the source stays as it is, and the note
    says so.
    """
    if own is None or shown is None:
        return Placement(None, f"Nothing is known of the frame of {name}: it is shown as it is.")
    if own.capture is not None and shown.capture is not None and own.capture != shown.capture:
        return Placement(None, f"{name} is of another capture: how it lies beside the others is not known.")
    note = ""
    if own.capture is None:
        note = f"{name} does not say where it lies: it is taken to be in the capture's own frame, as exports are."
    elif shown.capture is None:
        note = f"{name} is shown in its capture's own frame; whether the others are of that capture is not known."
    if same_frame(own.transform, shown.transform):
        return Placement(None, note)
    return Placement(shown.transform @ np.linalg.inv(own.transform), note)
