"""What the trainer tells its listeners (progress bar, TensorBoard, report, viewer): plain data, no behaviour.

A listener is any callable that takes one event. Listeners never change training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class TrainStarted:
    """Training begins, or goes on from a checkpoint (`first_step` > 0)."""

    run: Path
    first_step: int
    total_steps: int | None
    """None when a time budget decides."""
    device: str
    sizes: Mapping[str, int]
    """How many elements the model has, by what they are ("gaussians")."""
    train_views: int
    test_views: int


@dataclass(frozen=True)
class StepDone:
    """One optimisation step is over."""

    step: int
    """Number of steps done, this one included."""
    progress: float
    """How much of the run is done, 0..1."""
    loss: float
    psnr: float
    """Of the rendered training view against its image, dB."""
    sizes: Mapping[str, int]
    """How many elements the model has, by what they are ("gaussians")."""
    width: int
    height: int
    """Size of the rendered training image."""
    seconds: float
    """Training time so far, summed over resumed parts; evaluation, saving and listeners do not count."""
    remaining_seconds: float


@dataclass(frozen=True)
class Evaluated:
    """Held-out views were rendered and measured."""

    step: int
    psnr: float
    ssim: float
    seconds: float
    """Training time when the evaluation began."""


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint is on disk."""

    step: int
    path: Path


@dataclass(frozen=True)
class TrainFinished:
    """Training is over; `reason` is 'done', 'interrupted' or 'non-finite loss'."""

    step: int
    seconds: float
    reason: str
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds spent by stage (`training.clock`)."""


Event = TrainStarted | StepDone | Evaluated | CheckpointSaved | TrainFinished
Listener = Callable[[Event], None]
