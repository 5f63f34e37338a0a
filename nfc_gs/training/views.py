"""What each step of a training looks at: which view, and its camera and picture on the device that trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.data.sampler import ViewSampler, Window
from nfc_gs.data.scene import SceneData
from nfc_gs.training.config import ResolvedConfig
from nfc_gs.training.schedules import resolution_divisor

_PREFETCH = 16
"""Pictures asked for ahead of their step."""


class Feed:
    """The views of a scene in the order in which a run is shown them."""

    def __init__(self, scene: SceneData, config: ResolvedConfig, times: Sequence[float]) -> None:
        """`times` of the training views, 0..1; none for a static scene."""
        self._scene, self._config = scene, config
        self._sampler = ViewSampler(scene.train, config.seed, times)
        self._cameras: dict[tuple[int, int], Camera] = {}

    def index(self, step: int, window: Window | None) -> int:
        """Which view a step is shown, of those whose times lie in the window."""
        return self._sampler.index(step, window)

    def view(
        self, index: int, step: int, progress: float, window: Window | None
    ) -> tuple[Camera, Tensor, Tensor | None]:
        """Camera, picture [H, W, 3] uint8 and mask [H, W] uint8 of a step, at the resolution of its time.

        Raises:
            UserError: the picture cannot be read.
        """
        scene, device = self._scene, self._config.device
        full = scene.views[index].camera
        divisor = resolution_divisor(self._config, progress, full.width, full.height)
        if step % (_PREFETCH // 2) == 0:
            scene.prefetch(self._sampler.upcoming(step + 1, _PREFETCH, window), divisor)
        camera = self._cameras.get((index, divisor))
        if camera is None:
            camera = scene.camera(index, divisor).to(device)
            self._cameras[index, divisor] = camera
        frame = scene.image(index, divisor)
        mask = None if frame.mask is None else on_device(torch.from_numpy(frame.mask), device)
        return camera, on_device(torch.from_numpy(frame.rgb), device), mask


def on_device(tensor: Tensor, device: str) -> Tensor:
    """A tensor of the CPU on a device, by a copy that nothing waits for."""
    return tensor if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
