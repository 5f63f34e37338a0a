"""What training minimises: a weighted sum of terms that compare a rendering with a photograph.

L = L_reg + lambda L_ce (Neural Field Classifiers, Yang et al. 2024, eq. 6): L_reg is what splats are usually trained
with, and L_ce treats the value y of a channel as a class. The code here is the readable reference; the compiled twins
(`_FusedLoss` and `_FusedBitLoss` on the CPU, `_GpuLoss` and `_GpuBitLoss` on a GPU) compute the same numbers.

Splats differ from the ray fields of that paper in two ways. A rendered value c can be exactly 0 (a pixel that nothing
covers, on black), where the gradient of -y log c has no bound; and it can pass 1 with direct SH. The paper clips c from
above (eq. 5); we clip it at both ends to [eps, 1 - eps], so that the gradient of cross entropy is at most 1 / eps there
and zero beyond, and the regression terms alone bring such values back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nfc_gs.core.checks import check_shapes
from nfc_gs.core.constants import SSIM_C1, SSIM_C2, SSIM_SIGMA, SSIM_WINDOW
from nfc_gs.model.target_encoding import decode_colors, encode_colors
from nfc_gs.ops import gpu_kernels, native, nvrtc


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the terms of the objective. What has weight 0 is not minimised."""

    l1: float = 0.8
    """Weight of the mean absolute difference (3D Gaussian splatting, eq. 7)."""
    mse: float = 0.0
    """Weight of the mean squared difference."""
    ssim: float = 0.2
    """Weight of 1 - SSIM (3D Gaussian splatting, eq. 7)."""
    ce: float = 0.0
    """Weight of the channel-wise cross entropy: lambda of Neural Field Classifiers, eq. 6."""
    bit_ce: float = 0.0
    """Weight of the bit-wise cross entropy (the same, eq. 3); needs the bit head."""
    ce_eps: float = 1e-3
    """Cross entropy clips values and probabilities to [eps, 1 - eps] (the same, eq. 5, for both ends). At least 1e-6:
    1 - eps must be less than 1 in float32."""
    ce_from: float = 0.0
    """Fraction of the run after which the cross entropies act ..."""
    ce_until: float = 1.0
    """... and after which they act no more."""

    def at(self, progress: float) -> ObjectiveConfig:
        """The weights at this fraction of the run."""
        if self.ce_from <= progress and (progress < self.ce_until or self.ce_until == 1.0):
            return self
        return replace(self, ce=0.0, bit_ce=0.0)


@dataclass(frozen=True)
class Comparison:
    """A rendering beside its photograph.

    Attributes:
        rendered: [H, W, 3] colors, not clamped.
        target: [H, W, 3] uint8.
        weights: [H, W, 1], 1 where a pixel counts and 0 where not; at least one counts.
        bits: [H, W, 24] composited probabilities of the bits, or None.
        eps: clipping of cross entropy.
    """

    rendered: Tensor
    target: Tensor
    weights: Tensor
    bits: Tensor | None
    eps: float

    @property
    def truth(self) -> Tensor:
        """[H, W, 3] the photograph in [0, 1]."""
        return self.target.to(self.rendered.dtype) / 255

    def mean(self, values: Tensor) -> Tensor:
        """Mean of `values` [H, W, 3] over the pixels that count and the channels."""
        return (self.weights * values).sum() / (3 * self.weights.sum())


@dataclass(frozen=True)
class Term:
    """One summand of the objective: what is measured, and the loss made of it.

    Attributes:
        always: measured even where its weight is 0.
    """

    measure: Callable[[Comparison], Tensor]
    loss: Callable[[Tensor], Tensor] = lambda value: value
    always: bool = False


def l1(pair: Comparison) -> Tensor:
    """Mean absolute difference."""
    return pair.mean((pair.rendered - pair.truth).abs())


def mse(pair: Comparison) -> Tensor:
    """Mean squared difference."""
    return pair.mean((pair.rendered - pair.truth).square())


def ssim(pair: Comparison) -> Tensor:
    """Mean SSIM, with what does not count set to black in both pictures and black beyond their borders."""
    x, y = pair.weights * pair.rendered, pair.weights * pair.truth
    return pair.mean(ssim_map(x, y, padding=SSIM_WINDOW // 2))


def channel_cross_entropy(pair: Comparison) -> Tensor:
    """Mean of -y log c - (1 - y) log(1 - c) over channels, y being a soft label (NFC, eq. 4 and 5).

    Its smallest value is the entropy of the photograph, not 0.
    """
    return pair.mean(cross_entropy(pair.rendered, pair.truth, pair.eps))


def bit_cross_entropy(pair: Comparison) -> Tensor:
    """Mean over channels of the cross entropy of each bit, weighted by place value: sum_j 2^j / 255 BCE_j (NFC, eq. 3).

    The probabilities are those composited at the pixel.
    """
    assert pair.bits is not None, "the bit-wise cross entropy needs rendered bits"
    each = cross_entropy(pair.bits, encode_colors(pair.target, pair.bits.dtype), pair.eps)
    return pair.mean(decode_colors(each))


def cross_entropy(values: Tensor, labels: Tensor, eps: float) -> Tensor:
    """-y log c - (1 - y) log(1 - c) with c = values clipped to [eps, 1 - eps]; no gradient where clipped."""
    c = values.clamp(eps, 1 - eps)
    return -(labels * c.log() + (1 - labels) * torch.log1p(-c))


TERMS: dict[str, Term] = {
    "l1": Term(l1, always=True),
    "mse": Term(mse, always=True),
    "ssim": Term(ssim, loss=lambda value: 1 - value, always=True),
    "ce": Term(channel_cross_entropy),
    "bit_ce": Term(bit_cross_entropy),
}
"""By the name of their weight in `ObjectiveConfig`."""


def terms_in_words(weights: Mapping[str, Any]) -> str:
    """What is minimised, as '0.8 l1 + 0.2 ssim', of an `ObjectiveConfig` as a dictionary: the terms with a weight."""
    numbers = {name: weights.get(name) for name in TERMS}
    return " + ".join(
        f"{value:g} {name}" for name, value in numbers.items() if isinstance(value, (int, float)) and value
    )


@dataclass(frozen=True)
class LossResult:
    """The objective and its parts.

    Attributes:
        total: scalar, differentiable in the rendering.
        values: detached scalars: "l1", "mse", "ssim" (the similarity, 1 for equal pictures); "ce" and "bit_ce" where
            they have a weight.
    """

    total: Tensor
    values: dict[str, Tensor]


def photometric(
    rendered: Tensor, target: Tensor, mask: Tensor | None, config: ObjectiveConfig, bits: Tensor | None = None
) -> LossResult:
    """Compare a rendering with a photograph.

    Args:
        rendered: [H, W, 3] float, colors as rendered (values beyond [0, 1] count as they are).
        target: [H, W, 3] uint8, sRGB.
        mask: [H, W] uint8; a pixel counts from 128 on. None if all count.
        config: the weights of the terms.
        bits: [H, W, 24] float, composited bit probabilities; needed for `config.bit_ce`.

    Returns:
        The weighted sum; 0 with a gradient of zero if no pixel counts.

    Raises:
        ValueError: the shapes do not fit together, or bits are missing.
    """
    check_shapes(rendered=(rendered, "H W 3"), target=(target, "H W 3"), mask=(mask, "H W"), bits=(bits, "H W 24"))
    if config.bit_ce and bits is None:
        raise ValueError("the objective has a bit-wise cross entropy but no bits were rendered")
    if rendered.dtype != torch.float32:
        return photometric_reference(rendered, target, mask, config, bits)
    runtime = nvrtc.runtime_for(rendered.device)
    if runtime is None and (rendered.device.type != "cpu" or not native.available()):
        return photometric_reference(rendered, target, mask, config, bits)
    return _photometric_compiled(rendered, target, mask, config, bits, runtime)


def photometric_reference(
    rendered: Tensor, target: Tensor, mask: Tensor | None, config: ObjectiveConfig, bits: Tensor | None = None
) -> LossResult:
    """`photometric` in plain PyTorch, for any float dtype and device."""
    if mask is None:
        weights = torch.ones_like(rendered[..., :1])
    else:
        weights = (mask >= 128)[..., None].to(rendered.dtype)
    total = rendered.new_zeros(())
    terms = {name: term for name, term in TERMS.items() if term.always or getattr(config, name) != 0}
    if not bool(weights.any()):
        zero = rendered.new_zeros(())
        return LossResult(rendered[:0].sum(), {name: zero + (name == "ssim") for name in terms})
    pair = Comparison(rendered, target, weights, bits, config.ce_eps)

    values = {}
    for name, term in terms.items():
        weight = getattr(config, name)
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight != 0):
            value = term.measure(pair)
        values[name] = value.detach()
        if weight != 0:
            total = total + weight * term.loss(value)
    return LossResult(total, values)


def _photometric_compiled(
    rendered: Tensor,
    target: Tensor,
    mask: Tensor | None,
    config: ObjectiveConfig,
    bits: Tensor | None,
    runtime: nvrtc.Runtime | None,
) -> LossResult:
    """The fused losses (float32): a GPU's where there is a `runtime`, else the CPU core's."""
    values: dict[str, Tensor] = {}
    if runtime is None:
        total = _FusedLoss.apply(rendered, target, mask, config, values)
    else:
        total = _GpuLoss.apply(rendered, target, mask, config, runtime, values)
    if config.bit_ce:
        if runtime is None:
            bit_ce = _FusedBitLoss.apply(bits, target, mask, config.ce_eps)
        else:
            bit_ce = _GpuBitLoss.apply(bits, target, mask, config.ce_eps, runtime)
        values["bit_ce"] = bit_ce.detach()
        total = total + config.bit_ce * bit_ce
    return LossResult(total, values)


class _FusedLoss(torch.autograd.Function):
    """All terms that compare colors, and their gradient, in one pass of the CPU core."""

    @staticmethod
    def forward(
        ctx: Any,
        rendered: Tensor,
        target: Tensor,
        mask: Tensor | None,
        config: ObjectiveConfig,
        values: dict[str, Tensor],  # filled
    ) -> Tensor:
        gradient = torch.empty(rendered.shape) if ctx.needs_input_grad[0] else None
        core = native.core()
        weights = core.LossWeights(config.l1, config.mse, config.ssim, config.ce, config.ce_eps)
        l1, mse, dssim, ce = core.photometric_loss(
            rendered.detach().contiguous().numpy(), _array(target), _array(mask), weights, _array(gradient)
        )
        ctx.gradient = gradient
        values |= {"l1": torch.tensor(l1), "mse": torch.tensor(mse), "ssim": torch.tensor(1 - dssim)}
        if config.ce:
            values["ce"] = torch.tensor(ce)
        return torch.tensor(config.l1 * l1 + config.mse * mse + config.ssim * dssim + config.ce * ce)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore
        return _scaled(ctx.gradient, grads[0]), None, None, None, None


class _FusedBitLoss(torch.autograd.Function):
    """The bit-wise cross entropy and its gradient in one pass of the CPU core."""

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


class _GpuLoss(torch.autograd.Function):
    """All terms that compare colors, and their gradient, in three kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        rendered: Tensor,
        target: Tensor,
        mask: Tensor | None,
        config: ObjectiveConfig,
        runtime: nvrtc.Runtime,
        values: dict[str, Tensor],  # filled
    ) -> Tensor:
        window = ssim_window(torch.float32).tolist()
        weights = gpu_kernels.LossWeights(config.l1, config.mse, config.ssim, config.ce, config.ce_eps, window)
        pictures = (rendered.detach().contiguous(), target.contiguous(), None if mask is None else mask.contiguous())
        ctx.loss = gpu_kernels.PhotometricLoss(runtime, *pictures, weights, ctx.needs_input_grad[0])
        l1, mse, dssim, ce, total = ctx.loss.values.unbind()
        values |= {"l1": l1, "mse": mse, "ssim": 1 - dssim}
        if config.ce:
            values["ce"] = ce
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore
        return ctx.loss.gradient(grads[0].contiguous()), None, None, None, None, None


class _GpuBitLoss(torch.autograd.Function):
    """The bit-wise cross entropy and its gradient in two kernels."""

    @staticmethod
    def forward(
        ctx: Any, bits: Tensor, target: Tensor, mask: Tensor | None, eps: float, runtime: nvrtc.Runtime
    ) -> Tensor:
        pictures = (bits.detach().contiguous(), target.contiguous(), None if mask is None else mask.contiguous())
        ctx.loss = gpu_kernels.BitLoss(runtime, *pictures, eps)
        return ctx.loss.value

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore
        return ctx.loss.gradient(grads[0].contiguous()), None, None, None, None


def _scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    return gradient if factor.item() == 1.0 else gradient * factor


def _array(tensor: Tensor | None) -> Any:
    """The memory of a tensor, as NumPy sees it."""
    return None if tensor is None else tensor.contiguous().numpy()


def ssim_map(x: Tensor, y: Tensor, padding: int) -> Tensor:
    """Structural similarity of every pixel (Wang et al. 2004, eq. 13; window of 11 x 11 with sigma 1.5).

    With s for (co)variances under the window:
        (2 mu_x mu_y + C1) (2 s_xy + C2) / ((mu_x^2 + mu_y^2 + C1) (s_xx + s_yy + C2))

    Args:
        x, y: [H, W, C], range [0, 1].
        padding: pixels of zeros added around: 5 keeps the size, 0 keeps only what has its whole window.

    Returns:
        [H + 2 padding - 10, W + 2 padding - 10, C].
    """
    products = torch.stack([x, y, x * x + y * y, x * y])  # [4, H, W, C]: the sum is all that SSIM needs of squares
    mu_x, mu_y, squares, cross = _blur(products, padding)
    s_xy = cross - mu_x * mu_y
    s_xx_yy = squares - mu_x * mu_x - mu_y * mu_y
    numerator = (2 * mu_x * mu_y + SSIM_C1) * (2 * s_xy + SSIM_C2)
    return numerator / ((mu_x * mu_x + mu_y * mu_y + SSIM_C1) * (s_xx_yy + SSIM_C2))


def _blur(images: Tensor, padding: int) -> Tensor:
    """Average [B, H, W, C] under SSIM's window, along columns and then along rows."""
    batch, height, width, channels = images.shape
    window = ssim_window(images.dtype, images.device)
    planes = images.permute(0, 3, 1, 2).reshape(batch * channels, 1, height, width)
    planes = torch.nn.functional.conv2d(planes, window.view(1, 1, -1, 1), padding=(padding, 0))
    planes = torch.nn.functional.conv2d(planes, window.view(1, 1, 1, -1), padding=(0, padding))
    return planes.view(batch, channels, *planes.shape[-2:]).permute(0, 2, 3, 1)


def ssim_window(dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """[11] weights of a Gaussian at whole pixels, of sum 1."""
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    weights = (-offsets.square() / (2 * SSIM_SIGMA**2)).exp()
    return (weights / weights.sum()).to(dtype=dtype, device=device)
