"""Cross entropy on a band of the picture's frequencies: a term of the objective for `experiments.py`.

A module of `tables.py`, not a command.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nfc_gs.objective.objective import ObjectiveConfig
from nfc_gs.objective.terms import Comparison, cross_entropy

Band = Literal["low", "residual"]

WINDOW = 9
"""Side in pixels of the square that the low-pass averages over."""


def low_pass(image: Tensor) -> Tensor:
    """[H, W, 3]: the mean over a square around each pixel, as far as it lies in the picture."""
    planes = image.permute(2, 0, 1)
    blurred = torch.nn.functional.avg_pool2d(planes, WINDOW, 1, WINDOW // 2, count_include_pad=False)
    return blurred.permute(1, 2, 0)


def in_band(image: Tensor, band: Band) -> Tensor:
    """[H, W, 3] the low-passed picture; or its residual, image - low-passed, mapped from [-1, 1] to [0, 1]."""
    low = low_pass(image)
    return low if band == "low" else (1 + image - low) / 2


def band_cross_entropy(pair: Comparison, band: Band) -> Tensor:
    """Mean channel-wise cross entropy (NFC, eq. 4 and 5) in a band of both pictures.

    Pixels that do not count are black in both. Clipped as the term `ce` of the package is by default.
    """
    labels = in_band(pair.weights * pair.truth, band)
    return pair.mean(cross_entropy(in_band(pair.weights * pair.rendered, band), labels, ObjectiveConfig.ce_eps))
