"""What a training step needs on a GPU beside the rendering: the kernels of `loss.cu`, `optimize.cu` and `hexplane.cu`.

Each function computes what a readable one elsewhere does, which its docstring names. All tensors are contiguous, on the
runtime's device, and float32 unless said otherwise. Nothing waits for the GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nfc_gs.ops.kernel_args import (
    MAX_PARAMETERS,
    MAX_PLANES,
    AdamArgs,
    BitLossArgs,
    HexPlaneArgs,
    LossArgs,
    NoiseArgs,
    PlaneArgs,
    RelocateArgs,
)
from nfc_gs.ops.nvrtc import Runtime

LOSS_TILE, LOSS_THREADS, LOSS_TERMS = 16, 256, 4
OPTIMIZE_THREADS, ADAM_AT_ONCE = 256, 4
HEXPLANE_THREADS, WARP = 128, 32
"""Sizes of the kernels in cuda/gpu."""

POINTS_AT_ONCE = 2**16
"""Points whose gradients are in memory together: a kilobyte and a half each."""


def _blocks(count: int, threads: int) -> int:
    return -(-count // threads)


# ---- the losses ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of `photometric_loss`, where cross entropy is clipped, and SSIM's window of 11 numbers."""

    l1: float
    mse: float
    ssim: float
    ce: float
    ce_eps: float
    window: Sequence[float]


class PhotometricLoss:
    """L1, squared error, SSIM and channel-wise cross entropy of one picture: `losses.photometric_reference`.

    Args:
        rendered: [H, W, 3].
        target: [H, W, 3] uint8.
        mask: [H, W] uint8, a pixel counts from 128 on; None if all count.
        with_gradient: whether `gradient` will be called.

    Attributes:
        values: [5] absolute error, squared error, 1 - SSIM, cross entropy, each a mean over what counts, and the loss.
    """

    def __init__(
        self,
        runtime: Runtime,
        rendered: Tensor,
        target: Tensor,
        mask: Tensor | None,
        weights: LossWeights,
        with_gradient: bool,
    ) -> None:
        height, width = rendered.shape[:2]
        tiles_x, tiles_y = _blocks(width, LOSS_TILE), _blocks(height, LOSS_TILE)
        self._runtime, self._rendered = runtime, rendered
        inv_count = _inverse_count(mask, rendered)
        self._kept = (target, mask, inv_count, rendered.new_empty(tiles_x * tiles_y, LOSS_TERMS))
        self.values = rendered.new_empty(LOSS_TERMS + 1)
        args = self._args = LossArgs()
        args.set(rendered=rendered, target=target, mask=mask, inv_count=inv_count, sums=self._kept[3])
        args.set(values=self.values, width=width, height=height, tiles_x=tiles_x, tiles=tiles_x * tiles_y)
        args.set(l1_weight=weights.l1, mse_weight=weights.mse, ssim_weight=weights.ssim, ce_weight=weights.ce)
        args.set(ce_eps=weights.ce_eps, window=tuple(weights.window))
        if with_gradient and weights.ssim:
            self._derivative = rendered.new_empty(3, *rendered.shape)
            args.set(derivative=self._derivative)
        runtime.launch("loss", "loss", args, args.tiles, LOSS_THREADS)
        runtime.launch("loss", "loss_values", args, 1, LOSS_THREADS)

    def gradient(self, v_loss: Tensor) -> Tensor:
        """[H, W, 3] the gradient of `v_loss` (a scalar) times the loss."""
        gradient = torch.empty_like(self._rendered)
        self._args.set(gradient=gradient, v_loss=v_loss)
        self._runtime.launch("loss", "loss_gradient", self._args, self._args.tiles, LOSS_THREADS)
        return gradient


class BitLoss:
    """Bit-wise cross entropy of one picture: `losses.bit_cross_entropy`.

    Args:
        probabilities: [H, W, 24].
        target, mask: as those of `PhotometricLoss`.
        eps: probabilities are clipped to [eps, 1 - eps].

    Attributes:
        value: scalar.
    """

    def __init__(
        self, runtime: Runtime, probabilities: Tensor, target: Tensor, mask: Tensor | None, eps: float
    ) -> None:
        self._runtime, self._probabilities = runtime, probabilities
        blocks = _blocks(probabilities.numel(), LOSS_THREADS)
        inv_count = _inverse_count(mask, probabilities)
        sums = probabilities.new_empty(blocks)
        self._kept = (target, mask, inv_count)
        args = self._args = BitLossArgs()
        args.set(probabilities=probabilities, target=target, mask=mask, inv_count=inv_count, sums=sums)
        args.set(count=probabilities.numel(), eps=eps)
        runtime.launch("loss", "bit_loss", args, blocks, LOSS_THREADS)
        self.value = sums.sum(dtype=torch.float64).to(sums.dtype)

    def gradient(self, v_loss: Tensor) -> Tensor:
        """[H, W, 24] the gradient of `v_loss` (a scalar) times the loss."""
        gradient = torch.empty_like(self._probabilities)
        self._args.set(gradient=gradient, v_loss=v_loss)
        blocks = _blocks(self._args.count, LOSS_THREADS)
        self._runtime.launch("loss", "bit_loss_gradient", self._args, blocks, LOSS_THREADS)
        return gradient


def _inverse_count(mask: Tensor | None, picture: Tensor) -> Tensor:
    """[1] 1 / (3 times the number of pixels that count), 0 if none does."""
    if mask is None:
        return picture.new_full((1,), 1.0 / (3 * picture.shape[0] * picture.shape[1]))
    count = (mask >= 128).sum(dtype=torch.float32).view(1)
    return torch.where(count > 0, 1.0 / (3.0 * count), 0.0).to(picture.dtype)


# ---- Adam, noise, relocation --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdamTensor:
    """A parameter of `adam`, [rows, ...], its gradient and moments of its shape.

    Attributes:
        first_rate, rate: learning rates of the first columns of the flattened row, and of the others.
        first_columns: how many those are.
    """

    value: Tensor
    gradient: Tensor
    m: Tensor
    v: Tensor
    first_rate: float
    rate: float
    first_columns: int


def adam(
    runtime: Runtime, tensors: Sequence[AdamTensor], visible: Tensor | None, constants: Mapping[str, float]
) -> None:
    """`optimizers.adam_step_reference` in one launch, in place.

    Args:
        visible: [rows] bool, the rows that are moved; None for all, whose number may then differ among the tensors.
        constants: beta1, beta2, gain1, gain2, epsilon, correction1, correction2 of cuda/include/nfc_gs/adam.h.
    """
    tensors = [tensor for tensor in tensors if tensor.value.numel()]
    for begin in range(0, len(tensors), MAX_PARAMETERS):
        part = tensors[begin : begin + MAX_PARAMETERS]
        args = AdamArgs()
        args.set(count=len(part), visible=visible, **constants)
        blocks = 0
        for slot, tensor in zip(args.parameters, part, strict=False):
            rows = len(tensor.value)
            slot.set(value=tensor.value, gradient=tensor.gradient, first=tensor.m, second=tensor.v)
            slot.set(rows=rows, columns=tensor.value.numel() // rows, first_columns=tensor.first_columns)
            slot.set(first_rate=tensor.first_rate, rate=tensor.rate, first_block=blocks)
            blocks += _blocks(tensor.value.numel(), OPTIMIZE_THREADS * ADAM_AT_ONCE)
        runtime.launch("optimize", "adam", args, blocks, OPTIMIZE_THREADS)


@dataclass(frozen=True)
class Noise:
    """How strong the noise of `mcmc_noise` is, whom it moves, and which it is; see `density_ops.mcmc_noise_`."""

    strength: float
    steepness: float
    opacity: float
    seed: int
    step: int


def mcmc_noise(
    runtime: Runtime, means: Tensor, quats: Tensor, log_scales: Tensor, opacity_logits: Tensor, noise: Noise
) -> None:
    """`density_ops.mcmc_noise_` with the generator of the CPU core, in place in `means`."""
    args = NoiseArgs()
    args.set(means=means, quats=quats, log_scales=log_scales, opacity_logits=opacity_logits, count=len(means))
    args.set(strength=noise.strength, sharpness=noise.steepness, threshold=noise.opacity)
    args.set(seed=noise.seed, step=noise.step)
    runtime.launch("optimize", "mcmc_noise", args, _blocks(len(means), OPTIMIZE_THREADS), OPTIMIZE_THREADS)


def share_among_copies(
    runtime: Runtime, opacity_logits: Tensor, log_scales: Tensor, copies: Tensor, max_copies: int, min_opacity: float
) -> None:
    """What `density_ops.share_` does to Gaussians of which `copies` [N] int32 are made, in place."""
    args = RelocateArgs()
    args.set(opacity_logits=opacity_logits, log_scales=log_scales, copies=copies, count=len(copies))
    args.set(max_copies=max_copies, min_opacity=min_opacity)
    runtime.launch("optimize", "share_among_copies", args, _blocks(len(copies), OPTIMIZE_THREADS), OPTIMIZE_THREADS)


# ---- deformation --------------------------------------------------------------------------------------------------


def look_up(runtime: Runtime, planes: Sequence[Tensor], coords: Tensor, time: float) -> Tensor:
    """`deformation.look_up_reference`, of at most 8 levels; gradients are the same in every run."""
    return _LookUp.apply(runtime, coords, time, *planes)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, runtime: Runtime, coords: Tensor, time: float, *planes: Tensor) -> Tensor:
        kept = (coords.contiguous(), *(plane.contiguous() for plane in planes))
        args = _hexplane_args(kept[1:], time)
        out = coords.new_empty(len(coords), args.levels * args.features)
        args.set(coords=kept[0], out=out, count=len(coords))
        runtime.launch("hexplane", "hexplane", args, _blocks(out.numel(), HEXPLANE_THREADS), HEXPLANE_THREADS)
        ctx.save_for_backward(*kept)
        ctx.runtime, ctx.time = runtime, time
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        coords, *planes = ctx.saved_tensors
        v_out, v_coords = grads[0].contiguous(), torch.empty_like(coords)
        v_planes = [torch.zeros_like(plane) for plane in planes]
        args = _hexplane_args(planes, ctx.time)
        args.v_planes[: len(planes)] = [gradient.data_ptr() for gradient in v_planes]
        for begin in range(0, len(coords), POINTS_AT_ONCE):
            part = slice(begin, begin + POINTS_AT_ONCE)
            _look_up_backward(ctx.runtime, args, coords[part], v_out[part], v_coords[part])
        return (None, v_coords, None, *v_planes)


def _hexplane_args(planes: Sequence[Tensor], time: float) -> HexPlaneArgs:
    if len(planes) > MAX_PLANES:
        raise ValueError(f"a HexPlane has at most {MAX_PLANES // 6} levels on a GPU, not {len(planes) // 6}")
    args = HexPlaneArgs()
    cells = 0
    for index, plane in enumerate(planes):
        args.planes[index] = plane.data_ptr()
        args.rows[index], args.columns[index] = plane.shape[:2]
        cells += plane.shape[0] * plane.shape[1]
        args.first_cell[index + 1] = cells
    args.set(levels=len(planes) // 6, features=planes[0].shape[2], time=time)
    return args


def _look_up_backward(runtime: Runtime, args: HexPlaneArgs, coords: Tensor, v_out: Tensor, v_coords: Tensor) -> None:
    """The backward kernels for some points: fill in `v_coords`, and add to the gradients of the planes."""
    count, features, planes = len(coords), args.features, 6 * args.levels
    cells = args.first_cell[planes]
    v_samples = coords.new_empty(planes, count, features)
    cell = torch.empty(planes * count, dtype=torch.int32, device=coords.device)
    corners = coords.new_empty(cells, 4, features)
    args.set(
        coords=coords, v_out=v_out, v_coords=v_coords, count=count, v_samples=v_samples, cell=cell, corners=corners
    )
    points = _blocks(count, HEXPLANE_THREADS // WARP)
    runtime.launch("hexplane", "hexplane_points_backward", args, points, HEXPLANE_THREADS)
    sorted_cell, order = torch.sort(cell, stable=True)
    every_cell = torch.arange(cells + 1, dtype=torch.int32, device=coords.device)
    cell_begin = torch.searchsorted(sorted_cell, every_cell, out_int32=True)
    args.set(order=order, cell_begin=cell_begin)
    runtime.launch("hexplane", "hexplane_cells_backward", args, cells, HEXPLANE_THREADS)
    numbers = _blocks(cells * features, HEXPLANE_THREADS)
    runtime.launch("hexplane", "hexplane_planes_backward", args, numbers, HEXPLANE_THREADS)


def add_plane_gradient(
    runtime: Runtime,
    plane: Tensor,
    gradient: Tensor,
    along_columns: float,
    along_rows: float,
    bend: float,
    from_one: float,
) -> None:
    """`deformation.add_plane_gradient_reference`, in place."""
    rows, columns, features = plane.shape
    args = PlaneArgs()
    args.set(plane=plane, v_plane=gradient, rows=rows, width=columns * features, features=features)
    args.set(tv_columns=along_columns, tv_rows=along_rows, smoothness=bend, sparsity=from_one)
    blocks = _blocks(plane.numel(), HEXPLANE_THREADS)
    runtime.launch("hexplane", "plane_regularisers", args, blocks, HEXPLANE_THREADS)
