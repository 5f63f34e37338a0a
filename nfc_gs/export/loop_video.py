"""The loop video: a short video of a moving model from a camera that stands still, whose end meets its beginning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from nfc_gs.core.camera import Camera
from nfc_gs.data.scene import SceneData
from nfc_gs.export.video import to_uint8, write_video
from nfc_gs.model.gate import gated
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.rendering.backend import RasterBackend
from nfc_gs.rendering.deformation import kernels_for
from nfc_gs.rendering.pipeline import render

LOOP_SIDE = 480
"""Longest side of the video, pixels."""

LOOP_FPS = 24.0
LOOP_FRAMES = 96
"""Even: half of them go from time 0 to 1, the other half back, so that the end meets the beginning."""


def write_loop_video(
    path: Path | str,
    model: GaussianModel,
    scene: SceneData,
    *,
    backend: str | RasterBackend = "auto",
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    antialiased: bool = False,
) -> None:
    """Write the loop video of a moving model: time runs evenly from 0 to 1 and back before one camera.

    Args:
        path: as for `write_video`.
        scene: its middle held-out view gives the camera (`loop_camera`).

    Raises:
        UserError: as `write_video`.
    """
    camera = loop_camera(scene)
    with torch.no_grad():
        model = gated(model, kernels=kernels_for(model.means))

    def frames() -> Iterator[np.ndarray]:
        forward = []  # kept, since the way back shows the same ones: at most 34 MB
        for k in range(LOOP_FRAMES // 2 + 1):
            time = 2 * k / LOOP_FRAMES
            with torch.no_grad():
                out = render(model, camera, time, background=background, backend=backend, antialiased=antialiased)
            forward.append(to_uint8(out.rgb.cpu().numpy()))
            yield forward[-1]
        yield from forward[-2:0:-1]

    write_video(path, frames(), LOOP_FPS)


def loop_camera(scene: SceneData) -> Camera:
    """The camera of the middle held-out view, or else of the first training view, reduced to `LOOP_SIDE`."""
    index = scene.test[len(scene.test) // 2] if scene.test else scene.train[0]
    camera = scene.views[index].camera
    factor = min(1.0, LOOP_SIDE / max(camera.width, camera.height))
    return camera.resized(max(1, round(camera.width * factor)), max(1, round(camera.height * factor)))
