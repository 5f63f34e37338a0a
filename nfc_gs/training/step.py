"""One optimisation step: samples -> render -> objective -> backward -> companions -> optimizer -> what follows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nfc_gs.data.sampler import Window
from nfc_gs.model.radiance import Output, RenderOutput, check_rendered
from nfc_gs.objective.objective import LossResult, Objective, ObjectiveConfig
from nfc_gs.objective.terms import Comparison
from nfc_gs.training.clock import StageClock
from nfc_gs.training.companion import Companion
from nfc_gs.training.family import ModelTraining
from nfc_gs.training.samples import Sample, ViewSample


class NonFiniteLossError(Exception):
    """The loss of a step is not finite; no parameter has moved.

    Attributes:
        value: of the loss.
        name: of the sample.
    """

    def __init__(self, value: float, name: str) -> None:
        super().__init__(f"the loss became {value} on {name}")
        self.value, self.name = value, name


@dataclass(frozen=True)
class StepResult:
    """The figures of a step.

    Attributes:
        loss: what was minimised, a mean over the samples; None where it was not read.
        mse: scalar, mean squared difference of the rendered samples from their targets, not read yet.
        width, height: of the first sample, pixels.
        seconds: that the step took.
        view: name of the view of the capture that was rendered; None if there was none, or several.
        phases: what is in force in this part of the run, as JSON holds it: which terms are minimised ("terms"), and
            what the training of the model's family and the companions name (`ModelTraining.phases`).
    """

    loss: float | None
    mse: Tensor
    width: int
    height: int
    seconds: float
    view: str | None
    phases: Mapping[str, Any]


class Step:
    """Moves the parameters of a model and its companions once for each call. It knows no path and keeps no count.

    Attributes:
        training: of the model's family.
        objective: what is minimised.
        companions: what trains beside the model.
        clock: seconds by stage.
    """

    def __init__(
        self,
        training: ModelTraining,
        objective: Objective,
        companions: Sequence[Companion] = (),
        clock: StageClock | None = None,
    ) -> None:
        self.training, self.objective, self.companions = training, objective, tuple(companions)
        self.clock = clock or StageClock()

    def __call__(self, step: int, progress: float, *, read_loss: bool = True) -> StepResult:
        """Do step number `step`, counted from 0.

        Args:
            progress: how much of the run is done, 0..1.
            read_loss: look at the loss, for which a GPU must be waited for.

        Raises:
            UserError: an image cannot be read.
            NonFiniteLossError: the loss was read and is not finite.
        """
        clock = self.clock
        start = clock.start()
        samples = self._samples(step, progress)
        config = self._weights(progress)
        outputs_wanted = self.objective.outputs(config)
        phases = self._phases(config, step, progress)
        self._clear_gradients()
        clock.lap("view")
        outputs: list[RenderOutput] = []
        losses: list[LossResult] = []
        values: list[float] = []
        may_consume = len(samples) == 1 and self._gradients_are_free(config)
        for sample in samples:
            while True:
                output = self._render(sample, step, progress, outputs_wanted, may_consume)
                clock.lap("render")
                loss = self._loss(output, sample, config, step, progress)
                if output.complete():  # asked only now: a GPU is busy with the loss while it is waited for
                    break
            if read_loss:
                values.append(self._read(loss.total, sample))
            clock.lap("loss")
            self._backward(loss.total if len(samples) == 1 else loss.total / len(samples))
            clock.lap("backward")
            outputs.append(output)
            losses.append(loss)
        self._backward_of_companions(step, progress)
        gradients = {} if self.training.consumed() else self._gradients()
        clock.lap("backward")
        self.training.update(gradients, outputs, samples, progress)
        for companion in self.companions:
            companion.step(step, progress)
        clock.lap("optimizer")
        self.training.after_step(outputs, samples, step, progress)
        end = clock.lap("density")
        height, width = samples[0].target.shape[:2]
        mse = losses[0].values["mse"]
        if len(losses) > 1:
            mse = torch.stack([loss.values["mse"] for loss in losses]).mean()
        return StepResult(
            loss=sum(values) / len(values) if values else None,
            mse=mse,
            width=width,
            height=height,
            seconds=end - start,
            view=samples[0].name if len(samples) == 1 and samples[0].view is not None else None,
            phases=phases,
        )

    def parameters_are_finite(self) -> bool:
        """Whether every parameter of the model and its companions is a finite number."""
        tensors = [*self.training.parameters().values()]
        for companion in self.companions:
            tensors += companion.parameters().values()
        return all(_is_finite(tensor) for tensor in tensors)

    def _samples(self, step: int, progress: float) -> list[Sample]:
        """The samples as the companions have them."""
        window: Window | None = None
        for companion in self.companions:
            companion.prepare(step, progress)
            window = companion.time_window(progress) or window
        samples = list(self.training.samples(step, progress, window))
        for companion in self.companions:
            samples = [companion.sample(sample, step, progress) for sample in samples]
        return samples

    def _weights(self, progress: float) -> ObjectiveConfig:
        """The weights of the objective's terms now."""
        config = self.objective.config.at(progress)
        for companion in self.companions:
            config = companion.objective(config, progress)
        return config

    def _phases(self, config: ObjectiveConfig, step: int, progress: float) -> dict[str, Any]:
        """What is in force in this step, with these weights of the objective."""
        terms = [name for name, weight in self.objective.weights(config).items() if weight]
        phases: dict[str, Any] = {"terms": terms, **self.training.phases(step, progress)}
        for companion in self.companions:
            phases |= companion.phases(step, progress)
        return phases

    def _gradients_are_free(self, config: ObjectiveConfig) -> bool:
        """Whether nothing but the model's optimizer asks for the gradients of the model's parameters."""
        return self.objective.is_built_in(config) and not any(each.needs_gradients for each in self.companions)

    def _gradients(self) -> dict[str, Tensor]:
        """The gradients of the model's parameters as the companions have them."""
        gradients = {
            name: parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            for name, parameter in self.training.parameters().items()
        }
        for companion in self.companions:
            companion.gradients(gradients)
        return gradients

    def _clear_gradients(self) -> None:
        for parameter in self.training.parameters().values():
            parameter.grad = None
        for companion in self.companions:
            for parameter in companion.parameters().values():
                parameter.grad = None

    def _render(
        self, sample: Sample, step: int, progress: float, outputs: tuple[Output, ...], may_consume: bool
    ) -> RenderOutput:
        output = self.training.render(sample, step, progress, outputs, may_consume=may_consume)
        check_rendered(output, outputs, self.training.model.family)
        for companion in self.companions:
            output = companion.output(output, sample)
        return output

    def _loss(
        self, output: RenderOutput, sample: Sample, config: ObjectiveConfig, step: int, progress: float
    ) -> LossResult:
        comparison = Comparison(
            output,
            target=sample.target,
            mask=sample.mask,
            camera=sample.camera if isinstance(sample, ViewSample) else None,
            view=sample.view,
            name=sample.name,
            time=sample.time,
            step=step,
            progress=progress,
        )
        return self.objective(comparison, config)

    def _read(self, loss: Tensor, sample: Sample) -> float:
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteLossError(value, sample.name)
        return value

    def _backward(self, loss: Tensor) -> None:
        if loss.requires_grad:
            loss.backward()

    def _backward_of_companions(self, step: int, progress: float) -> None:
        for companion in self.companions:
            loss = companion.loss(step, progress)
            if loss is not None:
                self._backward(loss)


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite numbers: the ends of their range are. Takes no memory for a mask."""
    return tensor.numel() == 0 or all(bool(end.isfinite()) for end in tensor.aminmax())
