"""Cameras as the browser has them, as the renderer has them, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.core.rotation import matrix_to_quat, quat_to_matrix

MAX_JSON = 1_000_000
"""Longest text, in characters, that is taken from a browser."""


@dataclass(frozen=True)
class Pose:
    """Where a browser's camera is.

    Attributes:
        position: scene frame.
        wxyz: rotation from the camera's axes (OpenCV) to the scene's, a unit quaternion.
        fov: vertical field of view, radians.
    """

    position: tuple[float, float, float]
    wxyz: tuple[float, float, float, float]
    fov: float

    @property
    def forward(self) -> np.ndarray:
        """Where it looks in the scene, [3] float64, unit."""
        return quat_to_matrix(torch.tensor(self.wxyz, dtype=torch.float64))[:, 2].numpy()

    def camera(self, width: int, height: int) -> Camera:
        """The camera of a window of this size, its principal point in the middle."""
        rotation = quat_to_matrix(torch.tensor(self.wxyz, dtype=torch.float64)).T
        viewmat = torch.eye(4, dtype=torch.float64)
        viewmat[:3, :3] = rotation
        viewmat[:3, 3] = -rotation @ torch.tensor(self.position, dtype=torch.float64)
        focal = 0.5 * height / math.tan(0.5 * self.fov)
        return Camera(viewmat.float(), focal, focal, width / 2, height / 2, width, height)


def rounded(pose: Pose) -> Pose:
    """A pose to six digits, which are always the same however often a browser has sent it."""
    numbers = [[float(f"{value:.6g}") for value in values] for values in (pose.position, pose.wxyz, (pose.fov,))]
    return Pose(three(numbers[0]), (numbers[1][0], numbers[1][1], numbers[1][2], numbers[1][3]), numbers[2][0])


def pose_of(camera: Camera, aspect: float) -> Pose:
    """The pose from which a window of this aspect (width / height) shows all of a camera's picture."""
    rotation = camera.viewmat[:3, :3].double().T
    wxyz = matrix_to_quat(rotation)
    half = max(camera.cy, camera.height - camera.cy) / camera.fy
    half_x = max(camera.cx, camera.width - camera.cx) / camera.fx
    fov = 2 * math.atan(max(half, half_x / max(aspect, 1e-3)))
    return Pose(three(camera.center.double().tolist()), tuple(wxyz.tolist()), min(fov, math.radians(170)))


def pose_to_json(pose: Pose, time: float | None = None) -> str:
    """A pose, and the time where there is one, as JSON to copy."""
    return json.dumps(asdict(pose) | ({} if time is None else {"time": time}))


def pose_from_json(text: str) -> tuple[Pose, float | None]:
    """The inverse of `pose_to_json`. Raises UserError where the text is something else."""
    return pose_from(load_json(text), "The camera")


def load_json(text: str) -> Any:
    """A JSON value that a browser sent. Raises UserError if it is none, or too long."""
    if len(text) > MAX_JSON:
        raise UserError(f"The JSON has {len(text):,} characters, more than the {MAX_JSON:,} that are taken.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError("The text is not valid JSON; copy it again.") from None


def pose_from(value: Any, what: str) -> tuple[Pose, float | None]:
    """A pose and its time out of a JSON value; raises UserError, which begins with `what`, if it is no pose."""
    if not isinstance(value, dict):
        raise UserError(f"{what} is no JSON object with position, wxyz and fov.")
    position, wxyz = numbers(value, "position", 3, what), numbers(value, "wxyz", 4, what)
    (fov,) = numbers(value, "fov", 1, what)
    norm = float(np.linalg.norm(wxyz))
    if not 1e-6 < norm < 1e6 or not 0.01 <= fov <= math.radians(170) or max(map(abs, position)) > 1e9:
        raise UserError(f"{what} has a rotation, field of view or position that no camera has.")
    time = numbers(value, "time", 1, what)[0] if value.get("time") is not None else None
    if time is not None and not 0.0 <= time <= 1.0:
        raise UserError(f"{what} has the time {time:g}, which is not between 0 and 1.")
    w, x, y, z = (number / norm for number in wxyz)
    return Pose(three(position), (w, x, y, z), fov), time


def numbers(value: dict[str, Any], key: str, count: int, what: str) -> list[float]:
    """`count` finite numbers of a field (one alone need not be a list); raises UserError otherwise."""
    found = value.get(key)
    found = [found] if count == 1 and not isinstance(found, list) else found
    if not isinstance(found, list) or len(found) != count or not all(_is_finite(number) for number in found):
        raise UserError(f"{what} needs {count} finite number{'s' if count > 1 else ''} as '{key}'.")
    return [float(number) for number in found if number is not None]


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def three(values: Iterable[float]) -> tuple[float, float, float]:
    """Three numbers, of a list or an array, as plain floats."""
    x, y, z = (float(value) for value in values)
    return (x, y, z)


def nearest(pose: Pose, cameras: list[Camera]) -> int:
    """Index of the camera nearest to a pose: in place, then in direction."""
    forward = quat_to_matrix(torch.tensor(pose.wxyz))[:, 2]
    centres = torch.stack([camera.center for camera in cameras])
    forwards = torch.stack([camera.viewmat[2, :3] for camera in cameras])
    size = (centres - centres.mean(0)).norm(dim=1).mean().clamp(min=1e-6)
    away = (centres - torch.tensor(pose.position)).norm(dim=1) / size + (1 - forwards @ forward)
    return int(away.argmin())
