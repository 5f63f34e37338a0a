"""The mechanics of density control: functions on tensors. When and how many is decided in `density.py`.

`tensors` is always the dictionary of `GaussianModel.tensors()`: N rows each, raw (not activated) values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nfc_gs.core.rotation import quat_to_matrix
from nfc_gs.ops.arguments import Noise
from nfc_gs.ops.operations import REFERENCE, Operations
from nfc_gs.training.schedules import generator_for

Tensors = Mapping[str, Tensor]

MAX_COPIES = 51
"""Most Gaussians that a relocation puts in one place (as the MCMC authors' code)."""

NOISE_STEEPNESS = 100.0
"""k of the MCMC noise gate sigmoid(-k (o - t))."""

NOISE_OPACITY = 0.005
"""t of the same: only Gaussians about as faint as dead ones are moved."""

_NOISE_GATE_MIN = 1e-7
"""Below this gate the noise is smaller than float32 resolves and is left out."""

_SPREAD = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)
"""Shifts and masks that put two zeros between the bits of a number of 21 bits."""

_SPLIT_SHRINK = 1.6
"""By how much the two halves of a split are smaller (3DGS, section 5.2)."""


def relocation(opacities: Tensor, scales: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity and scale that make `copies` Gaussians in one place look like the one that was there.

    With n copies, the new opacity is o' = 1 - (1 - o)^(1/n), so that the centre composites to o, and the scale
    shrinks so that the integral of the composited profile 1 - (1 - o' G)^n over a line is kept
    (Kheradmand et al. 2024, eq. 9). Their double sum over binomials is written as one,
    sum_{k=1..n} C(n, k) (-1)^(k+1) o'^k / sqrt(k), since sum_{i=k..n} C(i-1, k-1) = C(n, k).

    Args:
        opacities: [M] in (0, 1).
        scales: [M, 3].
        copies: [M] integers, 1..MAX_COPIES.

    Returns:
        new opacities [M] and scales [M, 3] in the dtype given; computed in float64.
    """
    n = copies.to(torch.float64)
    old = opacities.to(torch.float64)
    new = -torch.expm1(torch.log1p(-old) / n)
    orders = torch.arange(1, MAX_COPIES + 1, dtype=torch.float64, device=new.device)
    table = [[math.comb(row, k) for k in range(1, MAX_COPIES + 1)] for row in range(MAX_COPIES + 1)]
    binomials = torch.tensor(table, dtype=torch.float64, device=new.device)[copies.long()]  # [M, MAX_COPIES]
    signs = 1.0 - 2.0 * ((orders + 1) % 2)
    integral = (binomials * signs * new[:, None] ** orders / orders.sqrt()).sum(1)
    shrink = old / integral
    return new.to(opacities.dtype), (scales.to(torch.float64) * shrink[:, None]).to(scales.dtype)


def sample_proportional(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` indices with replacement, each with a probability proportional to its weight.

    Args:
        weights: [N] >= 0, not all zero, NaN counts as 0; any N (torch.multinomial ends at 2^24).
        generator: on the CPU.

    Returns:
        [count] int64 on the device of `weights`.
    """
    cumulative = weights.to(torch.float64).nan_to_num(0.0).cumsum(0)
    draws = torch.rand(count, generator=generator, dtype=torch.float64).to(weights.device) * cumulative[-1]
    return torch.searchsorted(cumulative, draws, right=True).clamp_(max=len(weights) - 1)


def relocate_sources_(
    tensors: Tensors, sources: Tensor, min_opacity: float, operations: Operations = REFERENCE
) -> None:
    """Give each source the opacity and scale that `relocation` says when each entry of `sources` becomes a copy of it.

    Args:
        sources: [M] int64 row numbers, perhaps repeated; changed in place in `tensors`.
        min_opacity: no new opacity is less than this.
    """
    n = tensors["means"].shape[0]
    if operations.relocate is not None:
        copies = torch.zeros(n, dtype=torch.int32, device=sources.device)
        copies.index_add_(0, sources, torch.ones_like(sources, dtype=torch.int32))
        operations.relocate(tensors["opacity_logits"], tensors["log_scales"], copies, MAX_COPIES, min_opacity)
        return
    counts = torch.bincount(sources, minlength=n)
    rows = counts.nonzero().squeeze(1)
    eps = torch.finfo(torch.float32).eps
    opacities = tensors["opacity_logits"][rows].sigmoid().clamp(eps, 1.0 - eps)
    copies = (counts[rows] + 1).clamp_max(MAX_COPIES)
    opacities, scales = relocation(opacities, tensors["log_scales"][rows].exp(), copies)
    tensors["opacity_logits"][rows] = opacities.clamp(min_opacity, 1.0 - eps).logit()
    tensors["log_scales"][rows] = scales.log()


def copy_rows_(tensors: Tensors, rows: Tensor, sources: Tensor) -> None:
    """Make each of `rows` [M] a copy of the row in `sources` [M]; the two must not overlap."""
    for tensor in tensors.values():
        tensor.index_copy_(0, rows, tensor.index_select(0, sources))


def select_rows(tensors: Tensors, rows: Tensor) -> dict[str, Tensor]:
    """Copies of the rows [M], in this order."""
    return {name: tensor.index_select(0, rows) for name, tensor in tensors.items()}


def morton_order(means: Tensor) -> Tensor:
    """The rows in the order of a curve through space that keeps neighbours together (Morton 1966, Z-order).

    Kernels then find what they read for one Gaussian near what they read for the one before.

    Args:
        means: [N, 3]; what is not finite counts as the lowest corner.

    Returns:
        [N] int64, stable: rows in the same one of 2^21 cells along each axis stay in their order.
    """
    finite = means.isfinite().all(dim=1, keepdim=True)
    low = means.where(finite, math.inf).amin(0).nan_to_num(posinf=0.0)
    high = means.where(finite, -math.inf).amax(0).nan_to_num(neginf=0.0)
    cells = (means.where(finite, low) - low).double() / (high - low).double().clamp_min(1e-300)
    codes = torch.zeros(len(means), dtype=torch.int64, device=means.device)
    for axis, cell in enumerate((cells * (2**21 - 1)).long().unbind(1)):
        for shift, mask in _SPREAD:  # bit b goes to 3 b
            cell = (cell | (cell << shift)) & mask
        codes |= cell << axis
    return codes.argsort(stable=True)


def concatenate(first: Tensors, second: Tensors) -> dict[str, Tensor]:
    """The rows of both."""
    return {name: torch.cat([tensor, second[name]]) for name, tensor in first.items()}


def split(tensors: Tensors, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Two smaller Gaussians for each of `rows` [M], placed at random as it is distributed (3DGS, section 5.2).

    Returns:
        2 M rows: first one half of each, then the other.
    """
    twice = select_rows(tensors, torch.cat([rows, rows]))
    normal = torch.randn(2 * len(rows), 3, generator=generator).to(twice["means"])
    offsets = torch.einsum("nij,nj->ni", quat_to_matrix(twice["quats"]), normal * twice["log_scales"].exp())
    twice["means"] += offsets
    twice["log_scales"] -= math.log(_SPLIT_SHRINK)
    return twice


@torch.no_grad()
def mcmc_noise_(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    log_scales: Tensor,  # [N, 3]
    opacity_logits: Tensor,  # [N]
    strength: float,
    seed: int,
    step: int,
    operations: Operations = REFERENCE,
) -> None:
    """Move the centres of faint Gaussians at random, in place.

    means += Sigma z gate(o) strength with z ~ N(0, I) and gate(o) = sigmoid(-k (o - t)), k = 100, t = 0.005
    (Kheradmand et al. 2024, eq. 8; there Sigma^(1/2) is meant as in their code: the covariance).

    The compiled kernels draw from a counter-based generator of their own, so their noise differs from PyTorch's.

    Args:
        strength: noise weight times the learning rate of the centres.
        seed, step: the noise depends on these and the row number alone.
    """
    if operations.mcmc_noise is not None:
        noise = Noise(strength, NOISE_STEEPNESS, NOISE_OPACITY, seed, step)
        operations.mcmc_noise(means, quats, log_scales, opacity_logits, noise)
        return
    gate = torch.sigmoid(-NOISE_STEEPNESS * (opacity_logits.sigmoid() - NOISE_OPACITY))
    normal = torch.randn(means.shape, generator=generator_for(seed, "noise", step))
    rows = (gate > _NOISE_GATE_MIN).nonzero().squeeze(1)
    if len(rows) == 0:
        return
    rotations = quat_to_matrix(quats[rows])  # [M, 3, 3]
    variances = (2.0 * log_scales[rows]).exp()  # [M, 3]
    z = normal.to(means)[rows] * (gate[rows, None] * strength)
    local = (rotations * z[:, :, None]).sum(1) * variances  # R^T z, scaled
    means.index_add_(0, rows, (rotations * local[:, None, :]).sum(2).nan_to_num_(0.0, 0.0, 0.0))


@torch.no_grad()
def add_regulariser_gradients_(
    tensors: Tensors, grads: Mapping[str, Tensor], opacity_weight: float, scale_weight: float
) -> None:
    """Add the gradients of opacity_weight * sum(opacities) + scale_weight * sum(scales) to `grads`, in place.

    Written out by hand: two passes over small tensors instead of a graph each step.
    """
    logits, log_scales = tensors["opacity_logits"], tensors["log_scales"]
    if opacity_weight:
        opacities = logits.sigmoid()
        grads["opacity_logits"].addcmul_(opacities, 1.0 - opacities, value=opacity_weight)
    if scale_weight:
        grads["log_scales"].add_(log_scales.exp(), alpha=scale_weight)
