"""What the benchmarks share: samples by round, scenes of any size, trainers whose Gaussians stay where they are."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from nfc_gs.data.scene import PointCloud, SceneData
from nfc_gs.rendering.cpu_backend import CpuBackend
from nfc_gs.training.config import LearningRates, TrainConfig
from nfc_gs.training.trainer import Trainer

console = Console(width=120)


class CountingBackend(CpuBackend):
    """The CPU backend, counting pixel-Gaussian pairs as it goes."""

    pairs = 0

    def return_scratch(self, scratch: Any) -> None:
        """Count, then keep the memory."""
        self.pairs = scratch.evaluated_pairs()
        super().return_scratch(scratch)


@dataclass
class Samples:
    """Measurements by name, one list entry per round."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.values[name])


def seconds_of(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def with_points(scene: SceneData, gaussians: int) -> SceneData:
    """The scene with as many points as Gaussians are wanted: a part of its own, or jittered copies of them."""
    points = scene.points
    wanted = gaussians or len(points)
    copies = -(-wanted // len(points))
    jitter = np.random.default_rng(0).normal(0.0, 0.01, (copies, *points.xyz.shape)).astype(np.float32)
    jitter[0] = 0.0
    xyz, rgb = (points.xyz + jitter).reshape(-1, 3), np.tile(points.rgb, (copies, 1))
    return replace(scene, points=PointCloud(xyz[:wanted], rgb[:wanted]))


def still_trainer(scene: SceneData, folder: Path, arm: Mapping[str, Any]) -> Trainer:
    """A trainer that does all the work of a step and leaves its Gaussians where they are."""
    rates = LearningRates(**{f.name: 1e-12 for f in fields(LearningRates)})
    config = TrainConfig(
        preset="paper", steps=1_000_000, max_gaussians=len(scene.points), sh_ramp=0.0, device="cpu", init_opacity=0.1,
        init_scale=1.0, checkpoint_every=1e9, eval_every=0.0, rates=rates, **arm,
    )  # fmt: skip
    return Trainer(scene, config, folder, capture=scene.root)
