"""What is learnt, by name: a color head and the weights of the objective (regression or classification)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nfc_gs.core.checks import CheckedFields
from nfc_gs.model.heads.registry import HeadName

MethodName = Literal["nfr", "nfc", "nfc-te", "nfc-bitwise"]

LAMBDA = 0.3
"""Default weight of cross entropy beside L1 and SSIM."""


@dataclass(frozen=True)
class Method:
    """A color head and the weights of the objective that go with it; what is not named keeps its default."""

    head: HeadName
    weights: Mapping[str, float]


METHODS: dict[str, Method] = {
    "nfr": Method("sh", {}),
    "nfc": Method("sh", {"ce": LAMBDA}),
    "nfc-te": Method("bits", {"ce": LAMBDA}),
    "nfc-bitwise": Method("bits", {"bit_ce": LAMBDA}),
}
"""Regression and classification (Neural Field Classifiers, Yang et al. 2024, eq. 3 to 6)."""


@dataclass(frozen=True)
class ObjectiveOptions(CheckedFields):
    """The objective as a user writes it; None is left to the method. `ObjectiveConfig` is this with every number fixed.

    A term that is registered in `objective.terms.TERMS` has its weight in `extra`.
    """

    l1: float | None = None
    """Weight of the mean absolute difference. By default 0.8 (3DGS)."""
    mse: float | None = None
    """Weight of the mean squared difference. By default 0."""
    ssim: float | None = None
    """Weight of 1 - SSIM. By default 0.2 (3DGS)."""
    ce: float | None = None
    """Weight (lambda) of the channel-wise cross entropy. By default the method's."""
    bit_ce: float | None = None
    """Weight (lambda) of the bit-wise cross entropy; needs --head bits. By default the method's."""
    ce_eps: float | None = None
    """Cross entropy clips values to [eps, 1 - eps]. By default 0.001 (NFC)."""
    ce_from: float | None = None
    """Fraction of the run after which cross entropy acts. By default 0."""
    ce_until: float | None = None
    """Fraction of the run after which cross entropy acts no more. By default 1."""
    extra: dict[str, float] = field(default_factory=dict)
    """Weights of registered terms that have no option of their own."""
