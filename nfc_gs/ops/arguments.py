"""Bundles of numbers that operations take beside tensors."""

from __future__ import annotations

from dataclasses import dataclass

Rate = float | tuple[float, float, int]
"""A learning rate; or (rate of the first columns, rate of the rest, number of first columns) of the flattened row."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of `Operations.photometric_loss`, and where its cross entropy is clipped: [eps, 1 - eps]."""

    l1: float
    mse: float
    ssim: float
    ce: float
    ce_eps: float


@dataclass(frozen=True)
class AdamConstants:
    """The numbers of one Adam step (Kingma & Ba 2015, algorithm 1).

    Attributes:
        beta1, beta2: decay of the moments.
        eps: added to the root of the second moment.
        correction1, correction2: 1 - beta1^t and 1 - beta2^t at step t.
    """

    beta1: float
    beta2: float
    eps: float
    correction1: float
    correction2: float


@dataclass(frozen=True)
class Noise:
    """The exploration noise of MCMC: strength * gate(o), gate(o) = sigmoid(-steepness (o - opacity)).

    Attributes:
        strength: noise weight times the learning rate of the means.
        steepness, opacity: of the gate, which lets only Gaussians of about this opacity or less move.
        seed, step: the noise depends on these and the row number alone.
    """

    strength: float
    steepness: float
    opacity: float
    seed: int
    step: int
