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
from nfc_gs.model.radiance import RadianceModel, RenderOptions
from nfc_gs.runs.families import render

LOOP_SIDE = 480
"""Longest side, pixels."""

LOOP_FPS = 24.0
LOOP_FRAMES = 96
"""Even: half of them go from time 0 to 1, the other half back, so that the end meets the beginning."""


def write_loop_video(
    path: Path | str, model: RadianceModel, scene: SceneData, options: RenderOptions = RenderOptions()
) -> None:
    """Write a video of a model that changes with time: the camera stands still while time runs from 0 to 1 and back.

    Args:
        path: as `write_video` has it.

    Raises:
        UserError: as `write_video`.
    """
    camera = loop_camera(scene)
    if isinstance(model, GaussianModel):
        with torch.no_grad():
            model = gated(model)

    def images() -> Iterator[np.ndarray]:
        rendered = []  # shown again backwards: at most 34 MB
        for k in range(LOOP_FRAMES // 2 + 1):
            with torch.no_grad():
                out = render(model, camera, 2 * k / LOOP_FRAMES, options)
            rendered.append(to_uint8(out.rgb.cpu().numpy()))
            yield rendered[-1]
        yield from rendered[-2:0:-1]

    write_video(path, images(), LOOP_FPS)


def loop_camera(scene: SceneData) -> Camera:
    """The camera of the middle held-out view, or else of the first view to train on, with small pictures."""
    index = scene.test[len(scene.test) // 2] if scene.test else scene.train[0]
    camera = scene.views[index].camera
    factor = min(1.0, LOOP_SIDE / max(camera.width, camera.height))
    return camera.resized(max(1, round(camera.width * factor)), max(1, round(camera.height * factor)))
