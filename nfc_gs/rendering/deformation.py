"""The heavy parts of deformation fields: which implementation to take, and the compiled ones."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nfc_gs.model.deformation import (
    PAIRS,
    REFERENCE,
    FieldKernels,
    add_plane_gradient_reference,
    look_up_reference,
    network_reference,
)
from nfc_gs.ops import gpu_kernels, native, nvrtc

_STEP = 16
"""The compiled kernels take features and layers in multiples of this."""

_MAX_WIDTH = 256
"""The widest layer that the compiled network takes."""


def look_up_compiled(planes: Sequence[Tensor], coords: Tensor, time: float) -> Tensor:
    """`look_up_reference` for float32 on the CPU: all planes and levels in one pass, the same bits for any threads."""
    if planes[0].shape[2] % _STEP:
        return look_up_reference(planes, coords, time)
    return _LookUp.apply(coords, time, *planes)


def network_compiled(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """`network_reference` of three layers for float32 on the CPU, the same bits for any number of threads."""
    widths = (x.shape[1], len(weights[1]))
    if len(weights) != 6 or any(width % _STEP or width > _MAX_WIDTH for width in widths):
        return network_reference(x, weights)
    return _Network.apply(x, *weights)


def add_plane_gradient_compiled(
    plane: Tensor, gradient: Tensor, along_columns: float, along_rows: float, bend: float, from_one: float
) -> None:
    """`add_plane_gradient_reference` for float32 on the CPU, in one pass."""
    weights = (along_columns, along_rows, bend, from_one)
    if plane.shape[2] % _STEP:
        add_plane_gradient_reference(plane, gradient, *weights)
        return
    native.core().plane_regularisers(plane.numpy(), gradient.numpy(), *weights)


COMPILED = FieldKernels(look_up_compiled, network_compiled, add_plane_gradient_compiled)


def kernels_for(tensor: Tensor) -> FieldKernels:
    """The fastest kernels for tensors like this one; all compute what the reference computes."""
    if tensor.dtype != torch.float32:
        return REFERENCE
    runtime = nvrtc.runtime_for(tensor.device)
    if runtime is not None:
        return kernels_on_gpu(runtime)
    return COMPILED if tensor.device.type == "cpu" and native.available() else REFERENCE


def kernels_on_gpu(runtime: nvrtc.Runtime) -> FieldKernels:
    """Those of a GPU; the network's layers are products of matrices, which torch's own library does best."""
    return FieldKernels(
        look_up=functools.partial(gpu_kernels.look_up, runtime),
        network=network_reference,
        add_plane_gradient=functools.partial(gpu_kernels.add_plane_gradient, runtime),
    )


class _LookUp(torch.autograd.Function):
    """One call into the core forward, one backward."""

    @staticmethod
    def forward(ctx: Any, coords: Tensor, time: float, *planes: Tensor) -> Tensor:
        kept = (coords.contiguous(), *(plane.contiguous() for plane in planes))
        out = torch.empty(len(coords), len(planes) // len(PAIRS) * planes[0].shape[2])
        arrays = [tensor.detach().numpy() for tensor in kept]
        native.core().hexplane(arrays[1:], arrays[0], time, out.numpy())
        ctx.save_for_backward(*kept)
        ctx.time = time
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        coords, *planes = ctx.saved_tensors
        v_coords, v_planes = torch.empty_like(coords), [torch.empty_like(plane) for plane in planes]
        native.core().hexplane_backward(
            [plane.detach().numpy() for plane in planes],
            coords.detach().numpy(),
            ctx.time,
            grads[0].contiguous().numpy(),
            [gradient.numpy() for gradient in v_planes],
            v_coords.numpy(),
        )
        return (v_coords, None, *v_planes)


class _Network(torch.autograd.Function):
    """One call into the core forward, one backward, which computes the hidden layers again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        kept = (x.contiguous(), *(weight.contiguous() for weight in weights))
        out = torch.empty(len(x), len(weights[-1]))
        arrays = [tensor.detach().numpy() for tensor in kept]
        native.core().network(arrays[0], arrays[1:], out.numpy())
        ctx.save_for_backward(*kept)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore
        x, *weights = ctx.saved_tensors
        v_x = torch.empty_like(x)
        v_weights = torch.empty(sum(weight.numel() for weight in weights))
        native.core().network_backward(
            x.detach().numpy(),
            [weight.detach().numpy() for weight in weights],
            grads[0].contiguous().numpy(),
            v_x.numpy(),
            v_weights.numpy(),
        )
        parts = v_weights.split([weight.numel() for weight in weights])
        return (v_x, *(part.view_as(weight) for part, weight in zip(parts, weights, strict=True)))
