"""The objective of a training: a weighted sum of the terms in `terms.py`."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nfc_gs.core.checks import check_shapes
from nfc_gs.core.errors import UserError
from nfc_gs.model.radiance import Output
from nfc_gs.objective.presets import ObjectiveOptions
from nfc_gs.objective.terms import BUILT_IN, TERMS, Comparison, Measure, Term
from nfc_gs.ops.arguments import LossWeights
from nfc_gs.ops.operations import BIT_TERM, PHOTOMETRIC_TERMS, REFERENCE, Operations


@dataclass(frozen=True)
class ObjectiveConfig(ObjectiveOptions):
    """Weights of the terms of the objective, documented in `ObjectiveOptions`. What has weight 0 is not minimised.

    Defaults: 3D Gaussian splatting, eq. 7. `ce` is the lambda of Neural Field Classifiers, eq. 6, and `bit_ce` weighs
    eq. 3. `ce_eps` clips values and probabilities to [eps, 1 - eps] (eq. 5, for both ends); it is at least 1e-6, since
    1 - eps must be less than 1 in float32.
    """

    l1: float = 0.8
    mse: float = 0.0
    ssim: float = 0.2
    ce: float = 0.0
    bit_ce: float = 0.0
    ce_eps: float = 1e-3
    ce_from: float = 0.0
    ce_until: float = 1.0
    extra: dict[str, float] = field(default_factory=dict)

    def at(self, progress: float) -> ObjectiveConfig:
        """The weights at this fraction of the run."""
        if self.ce_from <= progress and (progress < self.ce_until or self.ce_until == 1.0):
            return self
        return replace(self, ce=0.0, bit_ce=0.0)

    def weights(self) -> dict[str, float]:
        """By the name of the term: the five that have a field, and those of `extra`."""
        fields = {"l1": self.l1, "mse": self.mse, "ssim": self.ssim, "ce": self.ce, "bit_ce": self.bit_ce}
        return {**fields, **self.extra}

    def check_names(self, terms: Mapping[str, Term] = TERMS) -> None:
        """Check that `extra` names terms that there are.

        Raises:
            UserError: it names a term that is not in `terms`, or one that has a field of its own.
        """
        for name in self.extra:
            if name in BUILT_IN:
                option = name.replace("_", "-")
                raise UserError(f"The term '{name}' has an option of its own; write --objective.{option} WEIGHT.")
            if name not in terms:
                raise UserError(
                    f"There is no term '{name}' of the objective, only {', '.join(terms)}; "
                    "add yours to nfc_gs.objective.terms.TERMS first, or correct --objective.extra."
                )


@dataclass(frozen=True)
class LossResult:
    """The objective and its parts.

    Attributes:
        total: scalar, differentiable in the rendering.
        values: detached scalars, what the terms measure: "l1", "mse", "ssim" (the similarity, 1 for equal images); of
            all other terms those that have a weight.
    """

    total: Tensor
    values: dict[str, Tensor]


class Objective:
    """Compares renderings with photographs.

    Attributes:
        config: weights of the registered terms over the whole run.
        terms: all terms by name: the registered ones and one's own.
        operations: compute the terms they know; every other term is computed by its own `measure`.
    """

    def __init__(
        self,
        config: ObjectiveConfig | None = None,
        terms: Mapping[str, tuple[float, Term | Measure]] | None = None,
        operations: Operations = REFERENCE,
    ) -> None:
        """Make an objective.

        Args:
            config: None for the default weights.
            terms: further terms by name: a weight, and the term or a function that maps a `Comparison` to a scalar.

        Raises:
            UserError: `config.extra` names an unknown term, or `terms` one that there is already.
        """
        self.config = ObjectiveConfig() if config is None else config
        self.operations = operations
        self.terms = dict(TERMS)
        self._own_weights: dict[str, float] = {}
        for name, given in (terms or {}).items():
            weight, term = _checked(name, given)
            if name in self.terms:
                raise UserError(f"There is already a term '{name}' of the objective; give yours another name.")
            self.terms[name] = term if isinstance(term, Term) else Term(term)
            self._own_weights[name] = weight
        self.config.check_names(self.terms)
        intact = {name for name, term in BUILT_IN.items() if TERMS.get(name) is term}
        self._photometric = operations.photometric_loss if intact.issuperset(PHOTOMETRIC_TERMS) else None
        self._bit_ce = operations.bit_cross_entropy if BIT_TERM in intact else None
        compiled = {*(PHOTOMETRIC_TERMS if self._photometric else ()), *((BIT_TERM,) if self._bit_ce else ())}
        self._measured = {name: term for name, term in self.terms.items() if name not in compiled}

    def outputs(self, config: ObjectiveConfig) -> tuple[Output, ...]:
        """What must be rendered for these weights: "rgb", and what terms with a weight need."""
        names: dict[Output, None] = {"rgb": None}
        for name, weight in self.weights(config).items():
            if weight:
                names |= dict.fromkeys(self.terms[name].needs)
        return tuple(names)

    def weights(self, config: ObjectiveConfig) -> dict[str, float]:
        """The weight of every term, by its name."""
        config.check_names(self.terms)
        return {**dict.fromkeys(self.terms, 0.0), **config.weights(), **self._own_weights}

    def is_built_in(self, config: ObjectiveConfig) -> bool:
        """Whether all terms with these weights are ours, and so depend on nothing but the rendering."""
        return all(self.terms[name] is BUILT_IN.get(name) for name, weight in self.weights(config).items() if weight)

    def __call__(self, comparison: Comparison, config: ObjectiveConfig | None = None) -> LossResult:
        """Compare a rendering with a photograph.

        Args:
            comparison: a rendering with `outputs`; its tensors are of the operations' device and dtype.
            config: the weights; None for those of the whole run.

        Returns:
            The weighted sum; 0 with a gradient of zero if no pixel counts.

        Raises:
            ValueError: the shapes do not fit together, or an output that a term reads was not rendered.
            UserError: a term did not return a scalar.
        """
        config = self.config if config is None else config
        output, target, mask = comparison.output, comparison.target, comparison.mask
        check_shapes(
            rendered=(output.rgb, "H W 3"), target=(target, "H W 3"), mask=(mask, "H W"), bits=(output.bits, "H W 24")
        )
        if comparison.ce_eps != config.ce_eps:
            comparison = replace(comparison, ce_eps=config.ce_eps)
        total, values = self._compiled(comparison, config)
        weights = self.weights(config)
        due = {name: term for name, term in self._measured.items() if weights[name] or term.always}
        if due and not comparison.counts:
            zero = total.detach() * 0
            values |= {name: zero + (name == "ssim") for name in due}
            return LossResult(total + output.rgb[:0].sum(), values)
        for name, term in due.items():
            with torch.set_grad_enabled(torch.is_grad_enabled() and weights[name] != 0):
                value = _scalar(name, term.measure(comparison.restricted(term.needs)))
                values[name] = value.detach()
                if weights[name]:
                    total = total + weights[name] * _scalar(name, term.loss(value))
        return LossResult(total, values)

    def _compiled(self, comparison: Comparison, config: ObjectiveConfig) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum and values of the terms that the operations compute; 0 if they compute none."""
        rendered, target, mask = comparison.rendered, comparison.target, comparison.mask
        if self._photometric is None:
            total, values = rendered.new_zeros(()), {}
        else:
            fused = LossWeights(config.l1, config.mse, config.ssim, config.ce, config.ce_eps)
            total, values = self._photometric(rendered, target, mask, fused)
            if not config.ce:
                del values["ce"]
        if self._bit_ce is not None and config.bit_ce:
            bit_ce = self._bit_ce(comparison.bits, target, mask, config.ce_eps)
            values["bit_ce"] = bit_ce.detach()
            total = total + config.bit_ce * bit_ce
        return total, values


def _checked(name: str, given: Any) -> tuple[float, Term | Measure]:
    """A weight and a term, if that is what a user gave under this name."""
    if isinstance(given, tuple) and len(given) == 2:
        weight, term = given
        if isinstance(weight, numbers.Real) and math.isfinite(weight) and (isinstance(term, Term) or callable(term)):
            return float(weight), given[1]
    raise UserError(
        f"The term '{name}' of the objective is not given as (weight, function), with a finite weight and a function "
        "of a Comparison, or a Term."
    )


def _scalar(name: str, value: object) -> Tensor:
    """What a term returned, if it is a scalar."""
    if not isinstance(value, Tensor):
        raise UserError(f"The term '{name}' of the objective returned {type(value).__name__}, not a scalar tensor.")
    if value.dim() != 0:
        raise UserError(
            f"The term '{name}' of the objective returned a tensor of shape {tuple(value.shape)}, not a scalar; "
            "end it with comparison.mean(values), for example."
        )
    return value
