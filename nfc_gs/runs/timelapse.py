"""The time-lapse of a training: small pictures of one view, in the folder of the run, named after their steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.files import atomic_write, make_folder
from nfc_gs.data.scene import SceneData
from nfc_gs.model.radiance import RadianceModel, RenderOptions
from nfc_gs.runs.families import render
from nfc_gs.runs.names import TIMELAPSE

logger = logging.getLogger("nfc_gs")

PICTURES = 20
"""Pictures of a run beside that of its start; short runs have fewer, since no step has two."""

DENSER = 3.0
"""Picture k is due at the fraction (k / PICTURES) ** DENSER of the run: most of what one sees happens early."""

SIDE = 320
"""Longest side of a picture, pixels."""

QUALITY = 85
"""Of JPEG."""


class Timelapse:
    """Writes the pictures while a run is trained; a failure is logged and ends the pictures, never the training."""

    def __init__(self, run: Path, picture: Callable[[], Tensor]) -> None:
        """`picture` renders the model as it is now, [H, W, 3] uint8 (see `timelapse_picture`)."""
        self._folder, self._picture = run / TIMELAPSE, picture
        self._taken = -1
        self._failed = False

    def go_on(self, step: int, progress: float) -> None:
        """Go on after so many steps: later pictures, left by a run that was killed, are dropped."""
        self._taken = _due(progress) if step > 0 else -1
        try:
            for later, path in timelapse_files(self._folder):
                if later > step:
                    path.unlink(missing_ok=True)
        except OSError as error:
            self._failed = True
            logger.warning("The time-lapse of the training does not go on: %s", error)

    def is_due(self, progress: float) -> bool:
        """Whether it is time for a picture."""
        return _due(progress) > self._taken and not self._failed

    def take_if_due(self, step: int, progress: float) -> None:
        """Write a picture of the model after `step` steps if it is time for one."""
        if not self.is_due(progress):
            return
        self._taken = _due(progress)
        try:
            make_folder(self._folder)
            _write_jpeg(self._folder / f"{step:07d}.jpg", self._picture())
        except Exception as error:  # an extra: whatever is wrong with it, training goes on
            self._failed = True
            logger.warning("The time-lapse of the training ends at step %d: %s", step, error)


def timelapse_files(folder: Path) -> list[tuple[int, Path]]:
    """(steps done, file) of each picture in a folder, in order; none where there is no such folder."""
    return sorted((int(path.stem), path) for path in folder.glob("*.jpg") if path.stem.isdecimal())


def timelapse_view(scene: SceneData) -> int:
    """The view that is shown: the middle one of those held out, or else the first to train on."""
    return scene.test[len(scene.test) // 2] if scene.test else scene.train[0]


def timelapse_picture(model: RadianceModel, scene: SceneData, options: RenderOptions) -> Tensor:
    """The view of the time-lapse, rendered small at its time; needs no photo. [H, W, 3] uint8 on the CPU."""
    index = timelapse_view(scene)
    view = scene.views[index]
    with torch.no_grad():
        rgb = render(model, _small(view.camera), view.time, options, view=index).rgb
    return (rgb.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).cpu()


def _due(progress: float) -> int:
    """The number of the picture that is due at this fraction of a run."""
    return int(PICTURES * progress ** (1.0 / DENSER) + 1e-9)


def _small(camera: Camera) -> Camera:
    factor = min(1.0, SIDE / max(camera.width, camera.height))
    return camera.resized(max(1, round(camera.width * factor)), max(1, round(camera.height * factor)))


def _write_jpeg(path: Path, pixels: Tensor) -> None:
    from PIL import Image

    with atomic_write(path) as temporary:
        Image.fromarray(pixels.numpy()).save(temporary, quality=QUALITY)
