"""What a splat file says beside its Gaussians: an offset of its frame, what is up, where to begin, what lies behind.

In a PLY these are comments of the header, a line for each:

    comment offset 455004.0 5411001.0 323.0       add it to centres for the coordinates of the capture
    comment up 0 0 1                              the direction that is up
    comment camera_position 0.5 -3.2 1.7          where the first camera is
    comment camera_look_at 0 0 0.4                the point in the middle of its picture
    comment camera_fov 50.5                       its vertical field of view, degrees
    comment background 1 1 1                      color behind the Gaussians, 0..1

All but the offset are in the frame of the file. Each may be missing; the three of the camera belong together. Lines
that say something else are those of other programs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nfc_gs.data.scene import SceneData

Vector = tuple[float, float, float]

LARGEST = 1e9
"""Largest coordinate of a camera that is believed."""

FOVS = (1.0, 170.0)
"""Limits of the field of view, degrees."""


@dataclass(frozen=True)
class StartCamera:
    """A camera to begin with, in the frame of the Gaussians; `fov` is vertical, radians."""

    position: Vector
    look_at: Vector
    fov: float


@dataclass(frozen=True, eq=False)
class Notes:
    """What is known of Gaussians beside themselves; None for what is not.

    Attributes:
        offset: [3] float64 that centres lack to the coordinates of the capture, in its units (`formats.offset`).
        up: unit vector, in the frame of the Gaussians.
        camera: where to begin.
        background: color in [0, 1].
    """

    offset: np.ndarray | None = None
    up: Vector | None = None
    camera: StartCamera | None = None
    background: Vector | None = None

    def moved(self, matrix: np.ndarray) -> Notes:
        """The notes of Gaussians that a similarity [4, 4] moves; the offset stays."""
        linear, shift = matrix[:3, :3], matrix[:3, 3]
        up, camera = self.up, self.camera
        if up is not None:
            turned = linear @ np.asarray(up)
            up = _three(turned / np.linalg.norm(turned))
        if camera is not None:
            position, look_at = (_three(linear @ np.asarray(p) + shift) for p in (camera.position, camera.look_at))
            camera = replace(camera, position=position, look_at=look_at)
        return replace(self, up=up, camera=camera)

    def comments(self) -> list[str]:
        """The notes as comments of a PLY; those that are not known are left out."""
        lines = [] if self.offset is None else [" ".join(["offset", *map(repr, self.offset.tolist())])]
        if self.up is not None:
            lines.append(_line("up", *self.up))
        if self.camera is not None:
            lines.append(_line("camera_position", *self.camera.position))
            lines.append(_line("camera_look_at", *self.camera.look_at))
            lines.append(_line("camera_fov", math.degrees(self.camera.fov)))
        if self.background is not None:
            lines.append(_line("background", *self.background))
        return lines


def notes_in(comments: Sequence[str]) -> Notes:
    """The inverse of `Notes.comments`; what makes no sense is left out."""
    found: dict[str, list[float]] = {}
    for comment in comments:
        word, *numbers = comment.split() or [""]
        try:
            values = [float(number) for number in numbers]
        except ValueError:
            continue
        if len(values) == (1 if word == "camera_fov" else 3) and all(map(math.isfinite, values)):
            found.setdefault(word, values)
    up, background, camera = found.get("up"), found.get("background"), None
    if up is not None:
        length = math.hypot(*up)
        up = [value / length for value in up] if 1e-6 < length < LARGEST else None
    if background is not None and not all(0.0 <= value <= 1.0 for value in background):
        background = None
    if {"camera_position", "camera_look_at", "camera_fov"} <= found.keys():
        position, look_at, (degrees,) = found["camera_position"], found["camera_look_at"], found["camera_fov"]
        is_near = max(map(abs, [*position, *look_at])) <= LARGEST
        if is_near and math.dist(position, look_at) > 0.0 and FOVS[0] <= degrees <= FOVS[1]:
            camera = StartCamera(_three(position), _three(look_at), math.radians(degrees))
    return Notes(
        np.array(found["offset"]) if "offset" in found else None,
        None if up is None else _three(up),
        camera,
        None if background is None else _three(background),
    )


def notes_of_scene(scene: SceneData, means: Tensor, background: Vector) -> Notes:
    """The notes of a model of a capture: the up of its cameras, and the camera of its first view.

    Args:
        means: [N, 3] centres, in the frame of the scene: the camera turns around a point as far away as their median.
        background: of the model.
    """
    if not scene.views:
        return Notes(background=background)
    view = scene.views[first_view(scene)].camera
    forward, center = view.viewmat[2, :3].double(), view.center.double()
    middle = means[:: max(1, len(means) // 100_000)].detach().double().cpu().median(0).values if len(means) else center
    distance = float((center - middle).norm()) or 1.0
    fov = 2 * math.atan(max(view.cy, view.height - view.cy) / view.fy)
    camera = StartCamera(_three(center.tolist()), _three((center + distance * forward).tolist()), fov)
    return Notes(up=up_of(scene), camera=camera, background=background)


def first_view(scene: SceneData) -> int:
    """Index of the view that is shown at first: a held-out one if there are any; 0 without views."""
    return (scene.test or scene.train or [0])[0]


def up_of(scene: SceneData | None) -> Vector:
    """The direction that is up: that of the cameras; without a capture, -y (most splats' convention)."""
    if scene is None or not scene.views:
        return (0.0, -1.0, 0.0)
    ups = torch.stack([-view.camera.viewmat[1, :3] for view in scene.views])
    return _three(torch.nn.functional.normalize(ups.mean(0), dim=0).tolist())


def _line(word: str, *values: float) -> str:
    return " ".join([word, *(f"{value:.9g}" for value in values)])


def _three(values: Sequence[float] | np.ndarray) -> Vector:
    x, y, z = (float(value) for value in values)
    return (x, y, z)
