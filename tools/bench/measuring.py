"""What the benchmarks share: samples by round, the order of measuring, tables, and trainers whose model stays as it is.

A module of `bench.py`, not a command.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import PointCloud, SceneData
from nfc_gs.rendering.cpu_backend import CpuBackend
from nfc_gs.training.config import LearningRates, TrainConfig
from nfc_gs.training.trainer import Trainer

console = Console(width=120)

Name = TypeVar("Name")


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

    def ratios(self, base: Samples, name: str) -> np.ndarray:
        """[rounds] a measurement divided by that of `base` in the same round."""
        return np.divide(self.values[name], base.values[name])


def seconds_of(function: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def in_turn(names: Iterable[Name], rounds: int) -> Iterator[tuple[int, Name]]:
    """(round, name) of everything to be measured: all names in each round, in another order from round to round.

    The first round has the number -1: it warms up, and what it measures does not count.
    """
    names = list(names)
    for turn in range(-1, rounds):
        first = turn % len(names)
        yield from ((turn, name) for name in names[first:] + names[:first])


def quartiles(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(low), float(middle), float(high)


def median_and_quartiles(values: Sequence[float] | np.ndarray, digits: int) -> str:
    """'1.02 (0.99 - 1.04)'."""
    low, middle, high = quartiles(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} - {high:.{digits}f})"


def milliseconds(samples: Samples, name: str) -> str:
    """The median of a measurement in seconds."""
    return f"{1e3 * samples.median(name):.2f}"


def make_table(title: str, heads: Iterable[str], caption: str | None = None, left: Sequence[str] = ("",)) -> Table:
    """A table without rows: the columns with a head of `left` hold names, the others numbers."""
    table = Table(title=title, caption=caption)
    for head in heads:
        table.add_column(head, justify="left" if head in left else "right")
    return table


def check_counts(counts: Iterable[tuple[str, float]], least: int = 1) -> None:
    """Raise UserError if an option (name, value) is less than it may be."""
    for name, value in counts:
        if not value >= least:  # nor is nan
            raise UserError(f"--{name} is {value}, but must be at least {least}.")


def with_points(scene: SceneData, gaussians: int) -> SceneData:
    """The scene with this number of points: some of its own, or jittered copies of them; 0 leaves it as it is."""
    points = scene.points
    count = gaussians or len(points)
    copies = -(-count // len(points))
    jitter = np.random.default_rng(0).normal(0.0, 0.01, (copies, *points.xyz.shape)).astype(np.float32)
    jitter[0] = 0.0
    xyz, rgb = (points.xyz + jitter).reshape(-1, 3), np.tile(points.rgb, (copies, 1))
    return replace(scene, points=PointCloud(xyz[:count], rgb[:count]))


def make_trainer(scene: SceneData, folder: Path, **settings: Any) -> Trainer:
    """A trainer that goes on as long as a benchmark lasts, neither adding Gaussians nor writing anything on the way.

    Args:
        folder: of the run.
        settings: fields of `TrainConfig`.
    """
    config = TrainConfig(
        preset="paper", steps=1_000_000, max_gaussians=len(scene.points), sh_ramp=0.0, device="cpu", init_opacity=0.1,
        init_scale=1.0, checkpoint_every=1e9, eval_every=0.0, **settings,
    )  # fmt: skip
    return Trainer(scene, config, folder, capture=scene.root)


def frozen_trainer(scene: SceneData, folder: Path, **settings: Any) -> Trainer:
    """`make_trainer` with learning rates of 1e-12: all the work of a step, which leaves the Gaussians as they are."""
    rates = LearningRates(**{f.name: 1e-12 for f in fields(LearningRates)})
    return make_trainer(scene, folder, rates=rates, **settings)


def go_to_step(trainer: Trainer, step: int) -> None:
    """Let a trainer continue at this step, so that several trainers are measured on the same views."""
    trainer.run.steps_done = step
