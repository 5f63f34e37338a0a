"""The pinhole camera that everything after the readers uses.

Lenses with distortion exist only in `nfc_gs.data`: images are undistorted once, when they are read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: OpenCV axes (x right, y down, z forward), pixel centres at +0.5.

    Attributes:
        viewmat: [4, 4] float, world-to-camera, rigid. May require grad (pose refinement).
        fx, fy, cx, cy: intrinsics in pixels of the image in use; the top left corner of the image is (0, 0).
        width, height: size of the image in pixels.
    """

    viewmat: Tensor
    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    @property
    def K(self) -> Tensor:
        """The intrinsics as a matrix, [3, 3], in the dtype and on the device of `viewmat`."""
        rows = [[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]]
        return torch.tensor(rows, dtype=self.viewmat.dtype, device=self.viewmat.device)

    @property
    def center(self) -> Tensor:
        """The camera's position in the world, [3]: -R^T t (exact for a rigid `viewmat`)."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Camera:
        """This camera with its `viewmat` on another device or in another dtype."""
        return replace(self, viewmat=self.viewmat.to(device=device, dtype=dtype))

    def resized(self, width: int, height: int) -> Camera:
        """The camera of the same picture at another size in pixels."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self, fx=self.fx * sx, fy=self.fy * sy, cx=self.cx * sx, cy=self.cy * sy, width=width, height=height
        )


def look_at(eye: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """World-to-camera matrix of a camera at `eye` that looks at `target`.

    Args:
        eye, target: [3], world frame.
        up: [3], the direction that points up in the image; need not be normalised or perpendicular.

    Returns:
        [4, 4] `viewmat`, OpenCV axes, dtype of `eye`.
    """
    forward = torch.nn.functional.normalize(target - eye, dim=0)
    right = torch.linalg.cross(forward, up)
    if right.norm() < 1e-6 * up.norm():  # looking straight up or down: any right will do
        helper = torch.eye(3, dtype=eye.dtype, device=eye.device)[int(forward.abs().argmin())]
        right = torch.linalg.cross(forward, helper)
    right = torch.nn.functional.normalize(right, dim=0)
    down = torch.linalg.cross(forward, right)
    rotation = torch.stack([right, down, forward])
    viewmat = torch.eye(4, dtype=eye.dtype, device=eye.device)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = -rotation @ eye
    return viewmat
