"""Companions: whatever trains beside the model.

The deformation of moving scenes is one; appearance, camera poses and a process group are others. A companion overrides
what it needs of the methods below, which by default change nothing, and a step calls all of them in this order:

    prepare, time_window, sample, objective, (render), output, (backward), loss, gradients, (the model's update), step

The trainable state that evaluation and rendering need, too, lives in `model/`: in the model itself, as a deformation,
or in a `ViewCorrection`, which is saved under the companion's name and found again by the line of that name in
`model.correction_kinds.CORRECTIONS`. Optimizers are in `training.optimizers`; `VisibleAdam` suits tensors with a row
for each view, of which a step sees one. To add a companion to the package, list what makes it in `training.registry`;
one of your own is given to `nfc_gs.train(..., companions=[...])`. `tests/test_companions.py` has an example.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from nfc_gs.data.sampler import Window
from nfc_gs.model.corrections import NO_CORRECTION, ViewCorrection
from nfc_gs.model.radiance import Part, RenderOutput
from nfc_gs.objective.objective import ObjectiveConfig
from nfc_gs.training.samples import Sample, ViewSample


class Companion:
    """A companion that does nothing.

    Attributes:
        name: of the kind of companion; unique in a training.
        correction: what it learns of single views, if that is what it learns; steps, and evaluation of the held-out
            views, apply it to cameras and rendered views.

    >>> class Names(nfc_gs.Companion):  # notes which views a training sees
    ...     name = "names"
    ...     def __init__(self):
    ...         self.seen = set()
    ...     def sample(self, sample, step, progress):
    ...         self.seen.add(sample.name)
    ...         return sample
    >>> names, config = Names(), nfc_gs.TrainConfig(steps=7)
    >>> trained = nfc_gs.train("captures/garden", config, out="runs/names", companions=[names])
    >>> sorted(names.seen)[:2]
    ['0002.png', '0003.png']
    """

    name: ClassVar[str] = ""
    correction: ViewCorrection = NO_CORRECTION

    @property
    def needs_gradients(self) -> bool:
        """Whether it reads, changes or adds to the gradients of the model's parameters, which then are stored."""
        kind = type(self)
        return kind.gradients is not Companion.gradients or kind.loss is not Companion.loss

    def time_window(self, progress: float) -> Window | None:
        """The times whose views are sampled now; None for all."""
        return None

    def prepare(self, step: int, progress: float) -> None:
        """Called before a step does anything."""

    def sample(self, sample: Sample, step: int, progress: float) -> Sample:
        """What is rendered and compared in place of a sample: with another camera or time."""
        if not isinstance(sample, ViewSample):
            return sample
        camera = self.correction.camera(sample.camera, sample.view)
        return sample if camera is sample.camera else replace(sample, camera=camera)

    def objective(self, config: ObjectiveConfig, progress: float) -> ObjectiveConfig:
        """The weights that a step minimises in place of the run's."""
        return config

    def output(self, output: RenderOutput, sample: Sample) -> RenderOutput:
        """The rendered sample as it is compared.

        Called again in the same step where a GPU's rendering lacked memory and is repeated (`RenderOutput.complete`).
        """
        return self.correction.output(output, sample.view)

    def loss(self, step: int, progress: float) -> Tensor | None:
        """A scalar that is minimised beside the objective; None for nothing."""
        return None

    def phases(self, step: int, progress: float) -> Mapping[str, Any]:
        """What this part of the run differs in from others, as `ModelTraining.phases`; it has no effect."""
        return {}

    def parameters(self) -> Mapping[str, Tensor]:
        """The tensors it trains, by name; their gradients are None before each backward pass."""
        return {}

    def gradients(self, gradients: dict[str, Tensor]) -> None:
        """Change the gradients of the model's parameters in place, by name, before they are used."""

    def step(self, step: int, progress: float) -> None:
        """Move its parameters, after the model's have moved."""

    def parts(self) -> dict[str, Part]:
        """Its state by name, for checkpoints, sharing memory; the correction's, unless a companion adds to it."""
        return {} if self.correction is NO_CORRECTION else {self.name: self.correction.part()}

    def load(self, parts: Mapping[str, Part]) -> None:
        """The inverse of `parts`; raises KeyError, TypeError or ValueError where something is missing or odd."""
        if self.correction is not NO_CORRECTION:
            self.correction.load(parts[self.name])
