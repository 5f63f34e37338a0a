"""A second family of models, for tests: a ray-marched grid of 500 numbers that trains on batches of rays.

It shares nothing with Gaussians but the seams: `RadianceModel`, `Family`, `ModelTraining`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nfc_gs.core.camera import Camera
from nfc_gs.data.sampler import Window
from nfc_gs.data.scene import SceneData
from nfc_gs.model.radiance import Output, Part, RadianceModel, RenderOptions, RenderOutput
from nfc_gs.ops.operations import Operations
from nfc_gs.runs.families import FAMILIES, Family
from nfc_gs.training.config import ResolvedConfig
from nfc_gs.training.optimizers import DenseAdam
from nfc_gs.training.registry import TRAINABLE_FAMILIES, TrainableFamily
from nfc_gs.training.samples import Sample
from nfc_gs.training.schedules import generator_for

CELLS, REACH, DEPTHS, RAYS = 5, 2.0, 24, 96


class ToyField(nn.Module):
    """Density and color on the corners of a grid over [-REACH, REACH]^3."""

    family = "toy"
    changes_with_time = False

    def __init__(self, grid: Tensor) -> None:
        super().__init__()
        self.grid = nn.Parameter(grid)  # [1, 4, C, C, C]

    @property
    def device(self) -> torch.device:
        return self.grid.device

    def parts(self) -> dict[str, Part]:
        return {"grid": Part({"values": self.grid.detach()}, {"reach": REACH})}

    def copy(self) -> ToyField:
        return ToyField(self.grid.detach().clone())

    def detached(self) -> ToyField:
        return ToyField(self.grid.detach()).requires_grad_(False)

    def sizes(self) -> dict[str, int]:
        return {"cells": CELLS**3}

    def facts(self) -> dict[str, str]:
        return {"Cells": str(CELLS**3)}

    def march(self, origins: Tensor, directions: Tensor, background: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Color [R, 3], coverage [R, 1] and expected distance [R, 1] along rays [R, 3]."""
        distances = torch.linspace(1.0, 5.0, DEPTHS)
        points = origins[:, None] + distances[:, None] * directions[:, None]  # [R, D, 3]
        found = functional.grid_sample(self.grid, points[None, None] / REACH, align_corners=True)[0, :, 0]  # [4, R, D]
        inside = (points.abs() <= REACH).all(-1)
        alphas = 1 - torch.exp(-functional.softplus(found[0]) * inside * (distances[1] - distances[0]))
        transmittance = torch.cumprod(torch.cat([torch.ones_like(alphas[:, :1]), 1 - alphas], 1), 1)
        weights = alphas * transmittance[:, :-1]
        colors = (weights * found[1:].sigmoid()).sum(-1).T + transmittance[:, -1:] * background
        alpha = weights.sum(1, keepdim=True)
        return colors, alpha, (weights * distances).sum(1, keepdim=True) / alpha.clamp(min=1e-10)


def rays_of(camera: Camera, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Origins and directions [R, 3], scene frame, of pixels [R, 2] (column, row)."""
    frame = camera.frame  # so that a part of a picture is that part of the whole
    places = pixels + torch.tensor([frame.left + 0.5, frame.top + 0.5]) - torch.tensor([frame.cx, frame.cy])
    x, y = places.div(torch.tensor([camera.fx, camera.fy])).unbind(1)
    directions = torch.stack([x, y, torch.ones_like(x)], 1) @ camera.viewmat[:3, :3]
    return camera.center.expand(len(pixels), 3), functional.normalize(directions, dim=1)


def render_toy(
    model: ToyField, camera: Camera, time: float | None, options: RenderOptions, outputs: tuple[Output, ...], **_: Any
) -> RenderOutput:
    rows, columns = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    rays = rays_of(camera, torch.stack([columns.flatten(), rows.flatten()], 1))
    images = model.march(*rays, torch.tensor(options.background))
    rgb, alpha, depth = (image.view(camera.height, camera.width, -1) for image in images)
    return RenderOutput(rgb, alpha, depth if "depth" in outputs else None)


def restore_toy(parts: Mapping[str, Part], device: str) -> ToyField:
    grid = parts["grid"].tensors["values"]
    if grid.shape != (1, 4, CELLS, CELLS, CELLS):
        raise ValueError(f"the grid has shape {tuple(grid.shape)}")
    return ToyField(grid.to(device))


@dataclass(frozen=True)
class RaySample(Sample):
    """A batch of rays: origins and directions [R, 3], scene frame."""

    origins: Tensor
    directions: Tensor


class ToyTraining:
    """Adam on batches of rays over all training pixels, drawn by (seed, step)."""

    def __init__(self, model: ToyField, scene: SceneData, config: ResolvedConfig, operations: Operations) -> None:
        self.model, self._scene, self._config = model, scene, config
        self.optimizer = DenseAdam({"grid": model.grid.detach()}, operations)
        self.steps_seen = 0

    def samples(self, step: int, progress: float, window: Window | None) -> Sequence[Sample]:
        generator = generator_for(self._config.seed, "rays", step)
        views = torch.randint(len(self._scene.train), (RAYS,), generator=generator)
        origins, directions, colors = [], [], []
        for position in views.unique().tolist():
            index, count = self._scene.train[position], int((views == position).sum())
            camera, image = self._scene.camera(index), self._scene.image(index)
            pixels = torch.stack(
                [torch.randint(size, (count,), generator=generator) for size in (camera.width, camera.height)], 1
            )
            for rays, part in zip((origins, directions), rays_of(camera, pixels), strict=True):
                rays.append(part)
            colors.append(torch.from_numpy(image.rgb)[pixels[:, 1], pixels[:, 0]])
        target = torch.cat(colors)[None]
        return [RaySample(target, None, "a batch of rays", None, None, torch.cat(origins), torch.cat(directions))]

    def render(
        self, sample: Sample, step: int, progress: float, outputs: tuple[Output, ...], *, may_consume: bool = False
    ) -> RenderOutput:
        assert isinstance(sample, RaySample)
        images = self.model.march(sample.origins, sample.directions, torch.zeros(3))
        rgb, alpha, depth = (image[None] for image in images)
        return RenderOutput(rgb, alpha, depth)

    def largest_size(self, progress: float) -> int:
        return CELLS**3

    def consumed(self) -> bool:
        return False

    def parameters(self) -> Mapping[str, Tensor]:
        return {"grid": self.model.grid}

    def update(
        self, gradients: dict[str, Tensor], outputs: Sequence[RenderOutput], samples: Sequence[Sample], progress: float
    ) -> None:
        self.optimizer.step(gradients, {"grid": 0.1 * (1.0 - 0.9 * progress)})

    def after_step(
        self, outputs: Sequence[RenderOutput], samples: Sequence[Sample], step: int, progress: float
    ) -> None:
        self.steps_seen += 1

    def phases(self, step: int, progress: float) -> dict[str, Any]:
        return {}

    def parts(self) -> dict[str, Part]:
        return {"optimizer": Part(self.optimizer.state(), {"steps": self.optimizer.steps, "seen": self.steps_seen})}

    def load(self, parts: Mapping[str, Part]) -> None:
        part = parts["optimizer"]
        self.optimizer.load_state(part.tensors, int(part.values["steps"]))
        self.steps_seen = int(part.values["seen"])


def new_toy(scene: SceneData, config: ResolvedConfig) -> ToyField:
    values = np.random.default_rng(config.seed).normal(0.0, 0.1, (1, 4, CELLS, CELLS, CELLS))
    return ToyField(torch.from_numpy(values.astype(np.float32)))


def register(families: dict[str, Family] = FAMILIES) -> None:
    """Add the family to the tables, in their one line each."""
    families["toy"] = Family(restore_toy, render_toy, lambda parts: dict(parts))
    TRAINABLE_FAMILIES["toy"] = TrainableFamily(new_toy, ToyTraining)


def is_toy(model: RadianceModel) -> bool:
    return model.family == "toy"
