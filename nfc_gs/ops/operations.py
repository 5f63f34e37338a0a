"""Which implementations a device uses: one bundle of accelerated operations, chosen once."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from nfc_gs.core.errors import UserError
from nfc_gs.ops import cpu, gpu, native, nvrtc
from nfc_gs.ops.arguments import AdamConstants, LossWeights, Noise, Rate

_log = logging.getLogger("nfc_gs")

PHOTOMETRIC_TERMS = ("l1", "mse", "ssim", "ce")
"""The terms of the objective that `Operations.photometric_loss` computes."""

BIT_TERM = "bit_ce"
"""The term that `Operations.bit_cross_entropy` computes."""

_Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Operations:
    """Accelerated operations. None means: use the readable reference, which stands beside its subject.

    All take contiguous float32 tensors on the bundle's device, unless a shape says otherwise, and compute what their
    reference computes. References: `objective.terms`, `objective.metrics`, `training.optimizers`,
    `training.density_ops`, `model.hexplane`.

    Attributes:
        name: what computes: the references, the compiled CPU core, or the GPU kernels.
        photometric_loss: (rendered [H, W, 3], target [H, W, 3] uint8, mask [H, W] uint8 or None, weights) -> the
            weighted sum, differentiable by `rendered`, and the value of each of `PHOTOMETRIC_TERMS`, detached.
        bit_cross_entropy: (bits [H, W, 24], target, mask, eps) -> scalar, differentiable by `bits`.
        squared_error: (x [H, W, 3], y [H, W, 3], counted [H, W] bool or None) -> sum over what counts, in double
            precision; x and y are floating or uint8, see `objective.metrics.squared_error_reference`.
        ssim: the same for SSIM, see `objective.metrics.ssim_reference`.
        adam_step: (params, grads, m, v, visible [N] bool or None, rates, constants), in place; see
            `training.optimizers.adam_step_reference`.
        mcmc_noise: (means, quats, log_scales, opacity_logits, noise), in place in `means`.
        relocate: (opacity_logits, log_scales, copies [N] int32, max_copies, min_opacity), in place: what Gaussians
            must become of which so many copies are added.
        hexplane_features: (planes, coords [N, 3], time) -> [N, levels * F], differentiable.
        mlp: (x [N, inputs], weights and biases of three layers) -> [N, outputs], differentiable.
        add_plane_regulariser_gradient: (plane, gradient, column_tv, row_tv, smoothness, sparsity), in place in
            `gradient`.
        width_multiple: features of planes, and inputs and hidden widths of `mlp`, must be multiples of this.
        max_width: inputs and hidden widths of `mlp` must not be more.
    """

    name: Literal["reference", "cpu", "gpu"]
    photometric_loss: (
        Callable[[Tensor, Tensor, Tensor | None, LossWeights], tuple[Tensor, dict[str, Tensor]]] | None
    ) = None
    bit_cross_entropy: Callable[[Tensor, Tensor, Tensor | None, float], Tensor] | None = None
    squared_error: Callable[[Tensor, Tensor, Tensor | None], float] | None = None
    ssim: Callable[[Tensor, Tensor, Tensor | None], float] | None = None
    adam_step: (
        Callable[
            [
                _Tensors,
                Mapping[str, Tensor | None],
                _Tensors,
                _Tensors,
                Tensor | None,
                Mapping[str, Rate],
                AdamConstants,
            ],
            None,
        ]
        | None
    ) = None
    mcmc_noise: Callable[[Tensor, Tensor, Tensor, Tensor, Noise], None] | None = None
    relocate: Callable[[Tensor, Tensor, Tensor, int, float], None] | None = None
    hexplane_features: Callable[[Sequence[Tensor], Tensor, float], Tensor] | None = None
    mlp: Callable[[Tensor, Sequence[Tensor]], Tensor] | None = None
    add_plane_regulariser_gradient: Callable[[Tensor, Tensor, float, float, float, float], None] | None = None
    width_multiple: int = 1
    max_width: int = 0


REFERENCE = Operations("reference")
"""Everything in plain PyTorch, for any floating dtype and device: the specification."""

CPU = Operations(
    "cpu",
    photometric_loss=cpu.photometric_loss,
    bit_cross_entropy=cpu.bit_cross_entropy,
    squared_error=cpu.squared_error,
    ssim=cpu.ssim,
    adam_step=cpu.adam_step,
    mcmc_noise=cpu.mcmc_noise,
    hexplane_features=cpu.hexplane_features,
    mlp=cpu.mlp,
    add_plane_regulariser_gradient=cpu.add_plane_regulariser_gradient,
    width_multiple=cpu.WIDTH_MULTIPLE,
    max_width=cpu.MAX_WIDTH,
)
"""The compiled core's."""


def gpu_operations(runtime: nvrtc.Runtime) -> Operations:
    """The operations of a GPU, or of the emulator of one.

    The layers of a network are products of matrices, which torch's own library does best, so `mlp` is left out. So are
    the metrics, which nobody waits for.
    """
    return Operations(
        "gpu",
        photometric_loss=partial(gpu.photometric_loss, runtime),
        bit_cross_entropy=partial(gpu.bit_cross_entropy, runtime),
        adam_step=partial(gpu.adam_step, runtime),
        mcmc_noise=partial(gpu.mcmc_noise, runtime),
        relocate=partial(gpu.relocate, runtime),
        hexplane_features=partial(gpu.hexplane_features, runtime),
        add_plane_regulariser_gradient=partial(gpu.add_plane_regulariser_gradient, runtime),
    )


def operations_for(
    device: torch.device | str, dtype: torch.dtype = torch.float32, *, reference: bool = False
) -> Operations:
    """The operations for tensors of this device and dtype, always the same object.

    Returns:
        `REFERENCE` if `reference` is asked for or the dtype is not float32; else those of the GPU, if our kernels work
        there, and if not `REFERENCE`, which is logged once with the reason; else the compiled core's, on the CPU and if
        it loads; else `REFERENCE`.
    """
    if reference or dtype != torch.float32:
        return REFERENCE
    device = torch.device(device)
    return _fastest(nvrtc.with_index(device) if device.type == "cuda" else device)


def use_references(device: torch.device, reason: str) -> None:
    """Compute on a GPU by the references from now on, because our kernels failed their self-test there.

    Args:
        reason: for people, a sentence or a part of one without a full stop.
    """
    device = nvrtc.with_index(device)
    if _refused.get(device) != reason:
        _refused[device] = reason
        _fastest.cache_clear()


_refused: dict[torch.device, str] = {}
"""GPUs whose operations are the references, and why."""


@functools.cache
def _fastest(device: torch.device) -> Operations:
    if device.type != "cuda":
        return CPU if device.type == "cpu" and native.available() else REFERENCE
    try:
        if device in _refused:
            raise UserError(_refused[device])
        return gpu_operations(nvrtc.runtime_for(device))
    except UserError as error:
        _log.warning(
            "Losses, Adam, noise, relocation and HexPlane run on %s by PyTorch's own operations, which is slower: %s",
            device,
            error,
        )
        return REFERENCE
