"""What a step needs of the family of models that it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from nfc_gs.data.sampler import Window
from nfc_gs.model.radiance import Output, Part, RadianceModel, RenderOutput
from nfc_gs.training.samples import Sample


class ModelTraining(Protocol):
    """Trains the models of one family: which samples a step sees, how they are rendered, how parameters move.

    Attributes:
        model: what is trained.
    """

    @property
    def model(self) -> RadianceModel: ...

    def samples(self, step: int, progress: float, window: Window | None) -> Sequence[Sample]:
        """The samples of a step, at least one, as a function of (seed, step).

        Args:
            step: counted from 0.
            progress: how much of the run is done, 0..1.
            window: only what was seen at these times; None for all.

        Raises:
            UserError: an image cannot be read.
        """
        ...

    def render(
        self, sample: Sample, step: int, progress: float, outputs: tuple[Output, ...], *, may_consume: bool = False
    ) -> RenderOutput:
        """The model at the pixels of a sample, differentiable in `parameters`.

        Called again in the same step where its output is not `RenderOutput.complete`.

        Args:
            may_consume: nothing but `update` asks for the gradients of the parameters, and they come from this
                rendering alone: its backward pass may move the parameters at once.
        """
        ...

    def consumed(self) -> bool:
        """Whether the backward pass of this step has moved the parameters, so that there are no gradients."""
        ...

    def parameters(self) -> Mapping[str, Tensor]:
        """The leaf tensors that are trained, by name."""
        ...

    def update(
        self, gradients: dict[str, Tensor], outputs: Sequence[RenderOutput], samples: Sequence[Sample], progress: float
    ) -> None:
        """Move the parameters.

        Args:
            gradients: of the loss, by name, zero where it does not depend on a parameter; may be changed in place. None
                where they have been `consumed`.
            outputs, samples: what was rendered in this step.
        """
        ...

    def after_step(
        self, outputs: Sequence[RenderOutput], samples: Sequence[Sample], step: int, progress: float
    ) -> None:
        """What else happens to the model after the step: density control of Gaussians, for example."""
        ...

    def largest_size(self, progress: float) -> int:
        """How many there may be at the most, from here on, of what `RadianceModel.sizes` counts first."""
        ...

    def phases(self, step: int, progress: float) -> Mapping[str, Any]:
        """What this part of the run differs in from others, by name, as JSON holds it; constant but for a few steps."""
        ...

    def parts(self) -> dict[str, Part]:
        """State of the training beside the model's own, by name, for checkpoints; shares memory."""
        ...

    def load(self, parts: Mapping[str, Part]) -> None:
        """The inverse of `parts`; raises KeyError, TypeError or ValueError where something is missing or odd."""
        ...
