"""Bundles of numbers that operations take beside tensors, and checks of the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nfc_gs.core.checks import check_shapes

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
        step: t, by which moments in bfloat16 are rounded.
    """

    beta1: float
    beta2: float
    eps: float
    correction1: float
    correction2: float
    step: int = 0


@dataclass(frozen=True)
class SplatStep:
    """A step of Adam on the visible Gaussians of a rendering, for a backward pass that takes it at once.

    The gradient is that of the loss + opacity_weight * sum(opacities) + scale_weight * sum(scales).

    Attributes:
        params, m, v: the parameters and their moments by name, which are changed in place; the moments are all of the
            dtype of the parameters, or all bfloat16.
        rates: learning rate by name.
        constants: of this step.
        opacity_weight, scale_weight: of the regularisers.
    """

    params: Mapping[str, Tensor]
    m: Mapping[str, Tensor]
    v: Mapping[str, Tensor]
    rates: Mapping[str, Rate]
    constants: AdamConstants
    opacity_weight: float = 0.0
    scale_weight: float = 0.0


def column_rates(rate: Rate, columns: int) -> list[float]:
    """The learning rate of each column of a flattened row."""
    if isinstance(rate, tuple):
        return [rate[0]] * rate[2] + [rate[1]] * (columns - rate[2])
    return [rate] * columns


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


def check_operands(device: torch.device, **operands: tuple[Tensor | None, str, torch.dtype]) -> dict[str, int]:
    """Check tensors before a kernel gets nothing but the address of their memory.

        check_operands(device, means=(means, "N 3", torch.float32), visible=(visible, "N", torch.bool))

    Args:
        device: where they must be.
        operands: by name: the tensor (None is skipped), its dimensions as `check_shapes` has them, and its dtype.

    Returns:
        The size of each named dimension.

    Raises:
        ValueError: names the tensor and what is wrong with it.
    """
    for name, (tensor, _, dtype) in operands.items():
        if tensor is not None and tensor.dtype != dtype:
            raise ValueError(f"{name} has dtype {tensor.dtype}, expected {dtype}")
        if tensor is not None and tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device}, expected {device}")
    return check_shapes(**{name: (tensor, dimensions) for name, (tensor, dimensions, _) in operands.items()})
