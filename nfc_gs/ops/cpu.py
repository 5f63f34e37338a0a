"""The operations of the compiled core: float32 tensors on the CPU, the same bits for any number of threads.

Each computes what a readable reference elsewhere computes, which its docstring names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nfc_gs.core.constants import SSIM_C1, SSIM_C2
from nfc_gs.core.ssim_window import ssim_window
from nfc_gs.ops import native
from nfc_gs.ops.arguments import AdamConstants, LossWeights, Noise, Rate, column_rates

WIDTH_MULTIPLE = 16
"""Features of planes and widths of layers must be multiples of this."""

MAX_WIDTH = 256
"""The widest layer that `mlp` takes."""

_SSIM_WINDOW = ssim_window(torch.float64).tolist()


def _array(tensor: Tensor | None) -> Any:
    """The memory of a tensor, as NumPy sees it."""
    return None if tensor is None else tensor.contiguous().numpy()


# ---- losses -------------------------------------------------------------------------------------------------------


def photometric_loss(
    rendered: Tensor, target: Tensor, mask: Tensor | None, weights: LossWeights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The terms l1, mse, ssim and ce of `objective.terms`, and their gradient, in one pass."""
    values: dict[str, Tensor] = {}
    return _PhotometricLoss.apply(rendered, target, mask, weights, values), values


def bit_cross_entropy(bits: Tensor, target: Tensor, mask: Tensor | None, eps: float) -> Tensor:
    """The term bit_ce of `objective.terms`, and its gradient, in one pass."""
    return _BitCrossEntropy.apply(bits, target, mask, eps)


class _PhotometricLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rendered: Tensor,
        target: Tensor,
        mask: Tensor | None,
        weights: LossWeights,
        values: dict[str, Tensor],  # filled
    ) -> Tensor:
        gradient = torch.empty(rendered.shape) if ctx.needs_input_grad[0] else None
        core = native.core()
        l1, mse, dssim, ce = core.photometric_loss(
            rendered.detach().contiguous().numpy(),
            _array(target),
            _array(mask),
            core.LossWeights(weights.l1, weights.mse, weights.ssim, weights.ce, weights.ce_eps),
            _array(gradient),
        )
        ctx.gradient = gradient
        values |= {
            "l1": torch.tensor(l1),
            "mse": torch.tensor(mse),
            "ssim": torch.tensor(1 - dssim),
            "ce": torch.tensor(ce),
        }
        return torch.tensor(weights.l1 * l1 + weights.mse * mse + weights.ssim * dssim + weights.ce * ce)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore
        return _scaled(ctx.gradient, grads[0]), None, None, None, None


class _BitCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bits: Tensor, target: Tensor, mask: Tensor | None, eps: float) -> Tensor:
        gradient = torch.empty(bits.shape) if ctx.needs_input_grad[0] else None
        value = native.core().bit_loss(
            bits.detach().contiguous().numpy(), _array(target), _array(mask), eps, _array(gradient)
        )
        ctx.gradient = gradient
        return torch.tensor(value)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore
        return _scaled(ctx.gradient, grads[0]), None, None, None


def _scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    return gradient if factor.item() == 1.0 else gradient * factor


# ---- metrics ------------------------------------------------------------------------------------------------------


def squared_error(x: Tensor, y: Tensor, counted: Tensor | None) -> float:
    """`objective.metrics.squared_error_reference`."""
    return native.core().squared_error(_picture(x), _picture(y), _array(counted))


def ssim(x: Tensor, y: Tensor, counted: Tensor | None) -> float:
    """`objective.metrics.ssim_reference`."""
    return native.core().ssim(_picture(x), _picture(y), _array(counted), _SSIM_WINDOW, SSIM_C1, SSIM_C2)


def _picture(picture: Tensor) -> Any:
    """The memory of a picture in a dtype that the core takes."""
    known = picture.dtype in (torch.uint8, torch.float32, torch.float64)
    return _array(picture if known else picture.double())


# ---- Adam and noise -----------------------------------------------------------------------------------------------


def moments_array(moments: Tensor) -> Any:
    """The memory of moments of Adam as the core takes them: float32, or bfloat16, which NumPy has as int16."""
    return (moments.view(torch.int16) if moments.dtype == torch.bfloat16 else moments).numpy()


def core_constants(constants: AdamConstants) -> Any:
    """The core's view of the numbers of a step."""
    return native.core().AdamConstants(
        constants.beta1,
        constants.beta2,
        constants.eps,
        1.0 / constants.correction1,
        1.0 / constants.correction2,
        constants.step,
    )


@torch.no_grad()
def adam_step(
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor | None],
    m: Mapping[str, Tensor],
    v: Mapping[str, Tensor],
    visible: Tensor | None,  # [N] bool
    rates: Mapping[str, Rate],
    constants: AdamConstants,
) -> None:
    """`training.optimizers.adam_step_reference` in one pass over each parameter."""
    core = native.core()
    rows = None if visible is None else visible.numpy()
    for name, param in params.items():
        grad = grads[name]
        if grad is None or param.numel() == 0:
            continue
        columns = param.numel() // len(param)
        core.adam(
            param.numpy(),
            grad.contiguous().numpy(),
            moments_array(m[name]),
            moments_array(v[name]),
            rows,
            column_rates(rates[name], columns),
            core_constants(constants),
        )


def mcmc_noise(means: Tensor, quats: Tensor, log_scales: Tensor, opacity_logits: Tensor, noise: Noise) -> None:
    """`training.density_ops.mcmc_noise_` with a counter-based generator, in place in `means`."""
    geometry = (tensor.contiguous().numpy() for tensor in (quats, log_scales, opacity_logits))
    native.core().mcmc_noise(
        means.numpy(), *geometry, noise.strength, noise.steepness, noise.opacity, noise.seed, noise.step
    )


# ---- deformation --------------------------------------------------------------------------------------------------


def hexplane_features(planes: Sequence[Tensor], coords: Tensor, time: float) -> Tensor:
    """`model.hexplane.hexplane_features_reference`, all planes and levels in one pass."""
    return _HexPlaneFeatures.apply(coords, time, *planes)


def mlp(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """`model.hexplane.mlp_reference` of three layers."""
    return _Mlp.apply(x, *weights)


def add_plane_regulariser_gradient(
    plane: Tensor, gradient: Tensor, column_tv: float, row_tv: float, smoothness: float, sparsity: float
) -> None:
    """`model.hexplane.add_plane_regulariser_gradient_reference` in one pass."""
    native.core().plane_regularisers(plane.numpy(), gradient.numpy(), column_tv, row_tv, smoothness, sparsity)


class _HexPlaneFeatures(torch.autograd.Function):
    """One call into the core forward, one backward."""

    @staticmethod
    def forward(ctx: Any, coords: Tensor, time: float, *planes: Tensor) -> Tensor:
        kept = (coords.contiguous(), *(plane.contiguous() for plane in planes))
        out = torch.empty(len(coords), len(planes) // 6 * planes[0].shape[2])  # [N, levels * F]
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


class _Mlp(torch.autograd.Function):
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
