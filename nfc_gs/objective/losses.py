"""What training minimises: a weighted sum of terms that compare a rendering with a photograph.

The code here is the readable reference; the compiled twin (see `_compiled`) computes the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nfc_gs.core.checks import check_shapes
from nfc_gs.core.constants import SSIM_C1, SSIM_C2, SSIM_SIGMA, SSIM_WINDOW
from nfc_gs.render import extension


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the terms of the objective; a term of weight 0 is measured but not minimised."""

    l1: float = 0.8
    """Weight of the mean absolute difference (3D Gaussian splatting, eq. 7)."""
    ssim: float = 0.2
    """Weight of 1 - SSIM (the same)."""


@dataclass(frozen=True)
class Comparison:
    """A rendering beside its photograph.

    Attributes:
        rendered: [H, W, 3] colours, not clamped.
        target: [H, W, 3] in [0, 1], same dtype.
        weights: [H, W, 1], 1 where a pixel counts and 0 where not; at least one counts.
    """

    rendered: Tensor
    target: Tensor
    weights: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Mean of `values` [H, W, 3] over the pixels that count and the channels."""
        return (self.weights * values).sum() / (3 * self.weights.sum())


@dataclass(frozen=True)
class Term:
    """One summand of the objective: what is measured, and the loss made of it."""

    measure: Callable[[Comparison], Tensor]
    loss: Callable[[Tensor], Tensor]


def l1(pair: Comparison) -> Tensor:
    """Mean absolute difference."""
    return pair.mean((pair.rendered - pair.target).abs())


def mse(pair: Comparison) -> Tensor:
    """Mean squared difference."""
    return pair.mean((pair.rendered - pair.target).square())


def ssim(pair: Comparison) -> Tensor:
    """Mean SSIM, with what does not count set to black in both pictures and black beyond their borders."""
    x, y = pair.weights * pair.rendered, pair.weights * pair.target
    return pair.mean(ssim_map(x, y, padding=SSIM_WINDOW // 2))


TERMS: dict[str, Term] = {
    "l1": Term(l1, loss=lambda value: value),
    "ssim": Term(ssim, loss=lambda value: 1 - value),
}
"""By the name of their weight in `ObjectiveConfig`."""


@dataclass(frozen=True)
class LossResult:
    """The objective and its parts.

    Attributes:
        total: scalar, differentiable in the rendering.
        values: detached scalars: "l1", "ssim" (the similarity, 1 for equal pictures), "mse".
    """

    total: Tensor
    values: dict[str, Tensor]


def photometric(rendered: Tensor, target: Tensor, mask: Tensor | None, config: ObjectiveConfig) -> LossResult:
    """Compare a rendering with a photograph.

    Args:
        rendered: [H, W, 3] float, colours as rendered (values beyond [0, 1] count as they are).
        target: [H, W, 3] uint8, sRGB.
        mask: [H, W] uint8; a pixel counts from 128 on. None if all count.
        config: the weights of the terms.

    Returns:
        The weighted sum; 0 with a gradient of zero if no pixel counts.

    Raises:
        ValueError: the shapes do not fit together.
    """
    check_shapes(rendered=(rendered, "H W 3"), target=(target, "H W 3"), mask=(mask, "H W"))
    compiled = _compiled(rendered, target, mask, config)
    if compiled is not None:
        return compiled
    return photometric_reference(rendered, target, mask, config)


def photometric_reference(rendered: Tensor, target: Tensor, mask: Tensor | None, config: ObjectiveConfig) -> LossResult:
    """`photometric` in plain PyTorch, for any float dtype and device."""
    if mask is None:
        weights = torch.ones_like(rendered[..., :1])
    else:
        weights = (mask >= 128)[..., None].to(rendered.dtype)
        if not bool(weights.any()):
            zero = rendered.new_zeros(())
            return LossResult(rendered[:0].sum(), {"l1": zero, "ssim": zero + 1, "mse": zero})
    pair = Comparison(rendered, target.to(rendered.dtype) / 255, weights)

    total = rendered.new_zeros(())
    values = {}
    for name, term in TERMS.items():
        weight = getattr(config, name)
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight != 0):
            value = term.measure(pair)
        values[name] = value.detach()
        if weight != 0:
            total = total + weight * term.loss(value)
    with torch.no_grad():
        values["mse"] = mse(pair)
    return LossResult(total, values)


def _compiled(rendered: Tensor, target: Tensor, mask: Tensor | None, config: ObjectiveConfig) -> LossResult | None:
    """The fused CPU loss where it applies (float32 on the CPU, extension at hand), else None."""
    if rendered.dtype != torch.float32 or rendered.device.type != "cpu" or not extension.available():
        return None
    total, values = _FusedLoss.apply(rendered, target, mask, config)
    return LossResult(total, values)


class _FusedLoss(torch.autograd.Function):
    """All terms and their gradient in one pass of the CPU core."""

    @staticmethod
    def forward(
        ctx: Any, rendered: Tensor, target: Tensor, mask: Tensor | None, config: ObjectiveConfig
    ) -> tuple[Tensor, dict[str, Tensor]]:
        gradient = torch.empty(rendered.shape) if ctx.needs_input_grad[0] else None
        l1, dssim, mse = extension.core().photometric_loss(
            rendered.detach().contiguous().numpy(),
            target.contiguous().numpy(),
            None if mask is None else mask.contiguous().numpy(),
            config.l1,
            config.ssim,
            None if gradient is None else gradient.numpy(),
        )
        ctx.gradient = gradient
        values = {"l1": torch.tensor(l1), "ssim": torch.tensor(1 - dssim), "mse": torch.tensor(mse)}
        return torch.tensor(config.l1 * l1 + config.ssim * dssim), values

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore
        factor = grads[0]
        gradient = ctx.gradient if factor.item() == 1.0 else ctx.gradient * factor
        return gradient, None, None, None


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
