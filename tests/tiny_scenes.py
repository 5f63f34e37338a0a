"""A tiny scene in memory and a short training of it, for tests."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nfc_gs.core.camera import Camera, look_at_viewmat
from nfc_gs.core.events import StepDone
from nfc_gs.data.scene import PointCloud, SceneData, View, ViewImage
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.rendering.pipeline import render
from nfc_gs.rendering.registry import get_backend
from nfc_gs.training.config import RefineConfig, TrainConfig
from nfc_gs.training.trainer import Trainer

WIDTH, HEIGHT = 32, 24


class ImagesInMemory:
    """Images held in memory, in place of an ImageCache."""

    def __init__(self, images: dict[str, ViewImage]) -> None:
        self.images = images

    def image(self, view: View, divisor: int = 1) -> ViewImage:
        full = self.images[view.name]
        if divisor == 1:
            return full
        height, width = max(1, round(full.rgb.shape[0] / divisor)), max(1, round(full.rgb.shape[1] / divisor))
        small = full.rgb[: height * divisor : divisor, : width * divisor : divisor]
        mask = None if full.mask is None else np.ascontiguousarray(full.mask[::divisor, ::divisor][:height, :width])
        return ViewImage(np.ascontiguousarray(small), mask)

    def moving(self, view: View) -> None:
        return None

    def foreground(self, view: View) -> None:
        return None

    def prefetch(self, views: list[View], divisor: int = 1) -> None:
        pass


def blobs(count: int, seed: int = 0) -> GaussianModel:
    g = torch.Generator().manual_seed(seed)
    return GaussianModel(
        {
            "means": torch.randn(count, 3, generator=g) * 0.5,
            "log_scales": torch.full((count, 3), math.log(0.15)),
            "quats": torch.randn(count, 4, generator=g),
            "opacity_logits": torch.full((count,), 1.5),
            "sh_coeffs": torch.randn(count, 1, 3, generator=g) * 0.8,
        }
    )


def tiny_scene(views: int = 8, points: int = 30) -> SceneData:
    """A few colored blobs, drawn from a circle of cameras."""
    truth = blobs(12)
    images, listed = {}, []
    for i in range(views):
        angle = 2 * math.pi * i / views
        eye = torch.tensor([3 * math.cos(angle), -0.5, 3 * math.sin(angle)])
        viewmat = look_at_viewmat(eye, torch.zeros(3), torch.tensor([0.0, -1.0, 0.0]))
        camera = Camera(viewmat, 30.0, 30.0, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT)
        with torch.no_grad():
            rgb = render(truth, camera, backend="torch").rgb
        name = f"view_{i:02d}.png"
        images[name] = ViewImage((rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy(), None)
        listed.append(View(name, camera, None))
    rng = np.random.default_rng(0)
    cloud = PointCloud(
        rng.normal(scale=0.5, size=(points, 3)).astype(np.float32), rng.integers(0, 255, (points, 3)).astype(np.uint8)
    )
    return SceneData(
        root=Path("tiny"),
        views=tuple(listed),
        train=tuple(i for i in range(views) if i % 4),
        test=tuple(i for i in range(views) if not i % 4),
        points=cloud,
        transform=np.diag([2.0, 2.0, 2.0, 1.0]),
        extent=1.0,
        images=ImagesInMemory(images),
    )


def tiny_config(**changes: object) -> TrainConfig:
    base = TrainConfig(
        preset="fast",
        steps=30,
        device="cpu",
        backend="torch",
        max_gaussians=50,
        sh_degree=1,
        coarse_factor=2,
        full_resolution_at=0.4,
        refine=RefineConfig(every=5, every_at_least=5, every_fraction=0.1, start=0.0, stop=0.9),
        grow_factor=0.2,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def available_backends() -> list[str]:
    names = ["torch"]
    try:
        get_backend("cpu")
        names.append("cpu")
    except Exception:  # not built, or not written yet
        pass
    return names


def all_tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    training = trainer.training
    return {**trainer.model.tensors(), **training.optimizer.state(), **training.density.tensors()}


def stop_after(steps: int, holder: list[Trainer]):
    def listener(event: object) -> None:
        if isinstance(event, StepDone) and event.step == steps:
            holder[0].stop()

    return listener
