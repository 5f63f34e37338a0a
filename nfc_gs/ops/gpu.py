"""The operations of a GPU: the kernels of `loss.cu`, `optimize.cu` and `hexplane.cu`.

Each computes what a readable reference elsewhere computes, which its docstring names. All tensors are contiguous, on
the runtime's device, and float32 unless said otherwise. Nothing waits for the GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nfc_gs.core.constants import BITS
from nfc_gs.core.ssim_window import ssim_window
from nfc_gs.ops.arguments import AdamConstants, LossWeights, Noise, Rate, check_operands
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
    adam_constants,
)
from nfc_gs.ops.nvrtc import Runtime

LOSS_TILE, LOSS_THREADS, LOSS_TERMS = 16, 256, 4
OPTIMIZE_THREADS, ADAM_AT_ONCE = 256, 4
HEXPLANE_THREADS, WARP = 128, 32
"""Sizes of the kernels in cuda/gpu."""

MAX_VALUES = 2**31 - 1
"""Values of an image that the losses count: 32 bits."""

POINTS_AT_ONCE = 2**16
"""Points whose gradients are in memory together: a kilobyte and a half each."""

_SSIM_WINDOW = tuple(ssim_window().tolist())


def _blocks(count: int, threads: int) -> int:
    return -(-count // threads)


# ---- the losses ---------------------------------------------------------------------------------------------------


def photometric_loss(
    runtime: Runtime, rendered: Tensor, target: Tensor, mask: Tensor | None, weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The terms l1, mse, ssim and ce of `objective.terms`, and their gradient, in three kernels."""
    values: dict[str, Tensor] = {}
    return _PhotometricLoss.apply(rendered, target, mask, weights, runtime, values), values


def bit_cross_entropy(runtime: Runtime, bits: Tensor, target: Tensor, mask: Tensor | None, eps: float) -> Tensor:
    """The term bit_ce of `objective.terms`, and its gradient, in two kernels."""
    return _BitCrossEntropy.apply(bits, target, mask, eps, runtime)


class _PhotometricLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rendered: Tensor,
        target: Tensor,
        mask: Tensor | None,
        weights: LossWeights,
        runtime: Runtime,
        values: dict[str, Tensor],  # filled
    ) -> Tensor:
        images = (rendered.detach().contiguous(), target.contiguous(), None if mask is None else mask.contiguous())
        ctx.launches = _PhotometricLaunches(runtime, *images, weights, ctx.needs_input_grad[0])
        l1, mse, dssim, ce, total = ctx.launches.values.unbind()
        values |= {"l1": l1, "mse": mse, "ssim": 1 - dssim, "ce": ce}
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore
        return ctx.launches.gradient(grads[0].contiguous()), None, None, None, None, None


class _BitCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bits: Tensor, target: Tensor, mask: Tensor | None, eps: float, runtime: Runtime) -> Tensor:
        images = (bits.detach().contiguous(), target.contiguous(), None if mask is None else mask.contiguous())
        ctx.launches = _BitLaunches(runtime, *images, eps)
        return ctx.launches.value

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore
        return ctx.launches.gradient(grads[0].contiguous()), None, None, None, None


class _PhotometricLaunches:
    """L1, squared error, SSIM and channel-wise cross entropy of one image.

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
        _check_images(runtime, rendered, 3, target, mask)
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
        args.set(ce_eps=weights.ce_eps, window=_SSIM_WINDOW)
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


class _BitLaunches:
    """Bit-wise cross entropy of one image.

    Args:
        probabilities: [H, W, 24].
        target, mask: as those of `_PhotometricLaunches`.
        eps: probabilities are clipped to [eps, 1 - eps].

    Attributes:
        value: scalar.
    """

    def __init__(
        self, runtime: Runtime, probabilities: Tensor, target: Tensor, mask: Tensor | None, eps: float
    ) -> None:
        _check_images(runtime, probabilities, 3 * BITS, target, mask)
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


def _check_images(runtime: Runtime, rendered: Tensor, channels: int, target: Tensor, mask: Tensor | None) -> None:
    check_operands(
        runtime.device,
        rendered=(rendered, f"H W {channels}", torch.float32),
        target=(target, "H W 3", torch.uint8),
        mask=(mask, "H W", torch.uint8),
    )
    if rendered.numel() > MAX_VALUES:
        raise ValueError(f"rendered has shape {tuple(rendered.shape)}, more than the {MAX_VALUES} values of one image")


def _inverse_count(mask: Tensor | None, image: Tensor) -> Tensor:
    """[1] 1 / (3 times the number of pixels that count), 0 if none does."""
    if mask is None:
        return image.new_full((1,), 1.0 / (3 * image.shape[0] * image.shape[1]))
    count = (mask >= 128).sum(dtype=torch.float32).view(1)
    return torch.where(count > 0, 1.0 / (3.0 * count), 0.0).to(image.dtype)


# ---- Adam, noise, relocation --------------------------------------------------------------------------------------


def adam_step(
    runtime: Runtime,
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor | None],
    m: Mapping[str, Tensor],
    v: Mapping[str, Tensor],
    visible: Tensor | None,  # [N] bool
    rates: Mapping[str, Rate],
    constants: AdamConstants,
) -> None:
    """`training.optimizers.adam_step_reference` in one launch for up to `MAX_PARAMETERS` tensors, in place."""
    gradients = {name: grad.contiguous() for name, grad in grads.items() if grad is not None}
    names = [name for name, param in params.items() if name in gradients and param.numel()]
    for begin in range(0, len(names), MAX_PARAMETERS):
        part = names[begin : begin + MAX_PARAMETERS]
        args = AdamArgs()
        halves = m[part[0]].dtype == torch.bfloat16
        args.set(count=len(part), visible=visible, bfloat16_moments=halves, **adam_constants(constants))
        blocks = 0
        for slot, name in zip(args.parameters, part, strict=False):
            value, rate = params[name], rates[name]
            _check_adam(runtime, name, value, gradients[name], m[name], v[name], halves, visible)
            first_rate, other_rate, first_columns = rate if isinstance(rate, tuple) else (rate, rate, 0)
            rows = len(value)
            slot.set(value=value, gradient=gradients[name], first=m[name], second=v[name])
            slot.set(rows=rows, columns=value.numel() // rows, first_columns=first_columns)
            slot.set(first_rate=first_rate, rate=other_rate, first_block=blocks)
            blocks += _blocks(value.numel(), OPTIMIZE_THREADS * ADAM_AT_ONCE)
        runtime.launch("optimize", "adam", args, blocks, OPTIMIZE_THREADS)


def _check_adam(
    runtime: Runtime,
    name: str,
    value: Tensor,
    gradient: Tensor,
    m: Tensor,
    v: Tensor,
    halves: bool,
    visible: Tensor | None,
) -> None:
    """Check a parameter [N, ...], its gradient and moments, and which rows are visible ([N] bool or None)."""
    dimensions, moments = " ".join(map(str, value.shape)), torch.bfloat16 if halves else torch.float32
    tensors = {
        name: (value, dimensions, torch.float32),
        f"gradient of {name}": (gradient, dimensions, torch.float32),
        f"m of {name}": (m, dimensions, moments),
        f"v of {name}": (v, dimensions, moments),
    }
    check_operands(runtime.device, **tensors, visible=(visible, str(len(value)), torch.bool))


def mcmc_noise(
    runtime: Runtime, means: Tensor, quats: Tensor, log_scales: Tensor, opacity_logits: Tensor, noise: Noise
) -> None:
    """`training.density_ops.mcmc_noise_` with the generator of the CPU core, in place in `means`."""
    check_operands(
        runtime.device,
        means=(means, "N 3", torch.float32),
        quats=(quats, "N 4", torch.float32),
        log_scales=(log_scales, "N 3", torch.float32),
        opacity_logits=(opacity_logits, "N", torch.float32),
    )
    args = NoiseArgs()
    args.set(means=means, quats=quats, log_scales=log_scales, opacity_logits=opacity_logits, count=len(means))
    args.set(strength=noise.strength, sharpness=noise.steepness, threshold=noise.opacity)
    args.set(seed=noise.seed, step=noise.step)
    runtime.launch("optimize", "mcmc_noise", args, _blocks(len(means), OPTIMIZE_THREADS), OPTIMIZE_THREADS)


def relocate(
    runtime: Runtime, opacity_logits: Tensor, log_scales: Tensor, copies: Tensor, max_copies: int, min_opacity: float
) -> None:
    """`training.density_ops.relocate_sources_` of Gaussians of which `copies` [N] int32 are added, in place."""
    check_operands(
        runtime.device,
        opacity_logits=(opacity_logits, "N", torch.float32),
        log_scales=(log_scales, "N 3", torch.float32),
        copies=(copies, "N", torch.int32),
    )
    args = RelocateArgs()
    args.set(opacity_logits=opacity_logits, log_scales=log_scales, copies=copies, count=len(copies))
    args.set(max_copies=max_copies, min_opacity=min_opacity)
    runtime.launch("optimize", "share_among_copies", args, _blocks(len(copies), OPTIMIZE_THREADS), OPTIMIZE_THREADS)


# ---- deformation --------------------------------------------------------------------------------------------------


def hexplane_features(runtime: Runtime, planes: Sequence[Tensor], coords: Tensor, time: float) -> Tensor:
    """`model.hexplane.hexplane_features_reference`, of at most 8 levels; gradients are the same in every run."""
    return _HexPlaneFeatures.apply(runtime, coords, time, *planes)


class _HexPlaneFeatures(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, runtime: Runtime, coords: Tensor, time: float, *planes: Tensor) -> Tensor:
        sized = {f"plane {i}": (plane, f"rows{i} columns{i} F", torch.float32) for i, plane in enumerate(planes)}
        check_operands(runtime.device, coords=(coords, "N 3", torch.float32), **sized)
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
            _hexplane_backward(ctx.runtime, args, coords[part], v_out[part], v_coords[part])
        return (None, v_coords, None, *v_planes)


def _hexplane_args(planes: Sequence[Tensor], time: float) -> HexPlaneArgs:
    if not planes or len(planes) % 6:
        raise ValueError(f"a HexPlane has six planes per level, not {len(planes)} in all")
    if min(min(plane.shape[:2]) for plane in planes) < 2:
        raise ValueError("a plane has at least 2 x 2 cells")
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


def _hexplane_backward(runtime: Runtime, args: HexPlaneArgs, coords: Tensor, v_out: Tensor, v_coords: Tensor) -> None:
    """The backward kernels for some points: fill in `v_coords`, and add to the gradients of the planes."""
    count, features, planes = len(coords), args.features, 6 * args.levels
    cells = args.first_cell[planes]
    v_samples = coords.new_empty(planes, count, features)
    cell = torch.empty(planes * count, dtype=torch.int32, device=coords.device)
    corners = coords.new_empty(cells, 4, features)
    args.set(coords=coords, v_out=v_out, v_coords=v_coords, count=count)
    args.set(v_samples=v_samples, cell=cell, corners=corners)
    points = _blocks(count, HEXPLANE_THREADS // WARP)
    runtime.launch("hexplane", "hexplane_points_backward", args, points, HEXPLANE_THREADS)
    sorted_cell, order = torch.sort(cell, stable=True)
    every_cell = torch.arange(cells + 1, dtype=torch.int32, device=coords.device)
    cell_begin = torch.searchsorted(sorted_cell, every_cell, out_int32=True)
    args.set(order=order, cell_begin=cell_begin)
    runtime.launch("hexplane", "hexplane_cells_backward", args, cells, HEXPLANE_THREADS)
    numbers = _blocks(cells * features, HEXPLANE_THREADS)
    runtime.launch("hexplane", "hexplane_planes_backward", args, numbers, HEXPLANE_THREADS)


def add_plane_regulariser_gradient(
    runtime: Runtime,
    plane: Tensor,
    gradient: Tensor,
    column_tv: float,
    row_tv: float,
    smoothness: float,
    sparsity: float,
) -> None:
    """`model.hexplane.add_plane_regulariser_gradient_reference`, in place."""
    check_operands(runtime.device, plane=(plane, "R C F", torch.float32), gradient=(gradient, "R C F", torch.float32))
    rows, columns, features = plane.shape
    args = PlaneArgs()
    args.set(plane=plane, v_plane=gradient, rows=rows, width=columns * features, features=features)
    args.set(tv_columns=column_tv, tv_rows=row_tv, smoothness=smoothness, sparsity=sparsity)
    blocks = _blocks(plane.numel(), HEXPLANE_THREADS)
    runtime.launch("hexplane", "plane_regularisers", args, blocks, HEXPLANE_THREADS)
