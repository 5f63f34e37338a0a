"""A trainer whose objective has terms of one's own.

A module of `tables.py`, not a command.
"""

from __future__ import annotations

import torch
from experiments import Terms
from torch import Tensor

from nfc_gs.objective.losses import Comparison, LossResult, ObjectiveConfig
from nfc_gs.rendering.pipeline import RenderOutput
from nfc_gs.training.trainer import Trainer


def trainer_with(terms: Terms) -> type[Trainer]:
    """The class of trainers that minimise these terms beside those of their configuration."""

    class TermTrainer(Trainer):
        def _compare(
            self, out: RenderOutput, target: Tensor, mask: Tensor | None, objective: ObjectiveConfig
        ) -> LossResult:
            result = super()._compare(out, target, mask, objective)
            if mask is None:
                weights = torch.ones_like(out.rgb[..., :1])
            else:
                weights = (mask >= 128)[..., None].to(out.rgb.dtype)
            if not bool(weights.any()):
                return result
            pair = Comparison(out.rgb, target, weights, out.bits, objective.ce_eps)
            total, values = result.total, dict(result.values)
            for name, (weight, function) in terms.items():
                value = function(pair)
                values[name] = value.detach()
                total = total + weight * value
            return LossResult(total, values)

    return TermTrainer if terms else Trainer
