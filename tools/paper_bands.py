"""Cross entropy on a band of the picture's frequencies: an experiment of `paper_arms.py`, no option of the package."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from nfc_gs.model.radiance import RenderOutput
from nfc_gs.objective.objective import LossResult, ObjectiveConfig
from nfc_gs.objective.terms import cross_entropy
from nfc_gs.training.trainer import Trainer

Band = Literal["low", "residual"]

WINDOW = 9
"""Side in pixels of the square that the low-pass averages over."""


def low_pass(image: Tensor) -> Tensor:
    """[H, W, 3]: the mean over a square around each pixel, as far as it lies in the picture."""
    planes = image.permute(2, 0, 1)
    blurred = torch.nn.functional.avg_pool2d(planes, WINDOW, 1, WINDOW // 2, count_include_pad=False)
    return blurred.permute(1, 2, 0)


def in_band(image: Tensor, band: Band) -> Tensor:
    """[H, W, 3] the low-passed picture; or what it leaves, moved and squeezed from [-1, 1] to [0, 1]."""
    low = low_pass(image)
    return low if band == "low" else (1 + image - low) / 2


class LowTrainer(Trainer):
    """A trainer whose channel-wise cross entropy compares low-passed pictures."""

    band: Band = "low"

    def _compare(
        self, out: RenderOutput, target: Tensor, mask: Tensor | None, objective: ObjectiveConfig
    ) -> LossResult:
        result = super()._compare(out, target, mask, replace(objective, ce=0.0))
        if not objective.ce:
            return result
        weights = torch.ones_like(out.rgb[..., :1]) if mask is None else (mask >= 128)[..., None].to(out.rgb.dtype)
        labels = in_band(weights * target.to(out.rgb.dtype) / 255, self.band)
        each = cross_entropy(in_band(weights * out.rgb, self.band), labels, objective.ce_eps)
        ce = (weights * each).sum() / (3 * weights.sum()).clamp(min=1)
        return LossResult(result.total + objective.ce * ce, {**result.values, "ce": ce.detach()})


class ResidualTrainer(LowTrainer):
    """A trainer whose channel-wise cross entropy compares what a low-pass leaves of the pictures."""

    band: Band = "residual"


TRAINERS: dict[str, type[Trainer]] = {"": Trainer, "low": LowTrainer, "residual": ResidualTrainer}
"""By the name of the band; empty for the whole picture."""
