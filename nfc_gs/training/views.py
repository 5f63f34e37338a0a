"""The training views in the order in which a run visits them, on the device that trains."""

from __future__ import annotations

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.data.sampler import ViewSampler, Window
from nfc_gs.data.scene import SceneData
from nfc_gs.training.config import ResolvedConfig
from nfc_gs.training.samples import ViewSample
from nfc_gs.training.schedules import early_progress, resolution_divisor

_PREFETCH = 16
"""Images whose decoding starts ahead of their step."""


class TrainingViews:
    """The training views of a scene as samples of a run's steps.

    A function of (seed, step) and the window of times: nothing has to be saved for a run to be resumed.
    """

    def __init__(self, scene: SceneData, config: ResolvedConfig) -> None:
        self._scene, self._config = scene, config
        times = [scene.views[i].time for i in scene.train]
        self._sampler = ViewSampler(scene.train, config.seed, [time for time in times if time is not None])
        self._sizes = {(scene.views[i].camera.width, scene.views[i].camera.height) for i in scene.train}
        self._cameras: dict[tuple[int, int], Camera] = {}

    def divisor(self, early: float) -> int:
        """The most by which an image is made smaller at an `early_progress`."""
        return max(resolution_divisor(self._config, early, *size) for size in self._sizes)

    def sample(self, step: int, progress: float, window: Window | None) -> ViewSample:
        """The view of a step, at the resolution of its time.

        Args:
            window: only views whose times lie in it; None for all.

        Raises:
            UserError: the image cannot be read.
        """
        scene, device = self._scene, self._config.device
        index = self._sampler.index(step, window)
        view = scene.views[index]
        early = early_progress(self._config, step, progress)
        divisor = resolution_divisor(self._config, early, view.camera.width, view.camera.height)
        if step % (_PREFETCH // 2) == 0:
            scene.prefetch(self._sampler.upcoming(step + 1, _PREFETCH, window), divisor)
        camera = self._cameras.get((index, divisor))
        if camera is None:
            camera = scene.camera(index, divisor).to(device)
            self._cameras[index, divisor] = camera
        image = scene.image(index, divisor)
        return ViewSample(
            target=on_device(torch.from_numpy(image.rgb), device),
            mask=None if image.mask is None else on_device(torch.from_numpy(image.mask), device),
            name=view.name,
            view=index,
            time=view.time,
            camera=camera,
        )


def on_device(tensor: Tensor, device: str) -> Tensor:
    """A tensor of the CPU on a device, by a copy that does not block."""
    return tensor if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
