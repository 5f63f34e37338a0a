"""How good a picture is, as papers report it: PSNR, SSIM and, where its weights are at hand, LPIPS."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core.checks import check_shapes
from nfc_gs.core.constants import SSIM_WINDOW
from nfc_gs.objective.ssim import ssim_map

_log = logging.getLogger("nfc_gs")

Image = Tensor | np.ndarray
"""[H, W, 3]: floats, clamped to [0, 1], or uint8."""

LPIPS_WEIGHTS = "vgg16-397923af.pth"
"""The file that torchvision keeps the weights of LPIPS's network in."""


def psnr(image: Image, truth: Image, mask: Image | None = None) -> float:
    """Peak signal-to-noise ratio, dB: -10 log10 of the mean squared difference.

    Args:
        image, truth: [H, W, 3], floats (clamped to [0, 1]) or uint8.
        mask: [H, W], uint8 (a pixel counts from 128 on) or bool. None if all count.

    Returns:
        Infinity for equal pictures; NaN if no pixel counts.
    """
    x, y, weights = _prepare(image, truth, mask)
    error = (weights * (x - y).square()).sum() / (3 * weights.sum())
    return float(-10 * error.log10())


def ssim(image: Image, truth: Image, mask: Image | None = None) -> float:
    """Mean structural similarity (Wang et al. 2004), over the pixels whose whole window lies in the picture.

    Equal to scikit-image's `structural_similarity` with gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1, channel_axis=-1. Pictures smaller than the window (11 pixels) count
    whole, with black beyond their borders. What a mask leaves out is black in both pictures and is not averaged.

    Args:
        image, truth: [H, W, 3], floats (clamped to [0, 1]) or uint8.
        mask: [H, W], uint8 (a pixel counts from 128 on) or bool. None if all count.

    Returns:
        At most 1; NaN if no pixel counts.
    """
    x, y, weights = _prepare(image, truth, mask)
    border = SSIM_WINDOW // 2
    if min(x.shape[:2]) < SSIM_WINDOW:
        similarity = ssim_map(weights * x, weights * y, padding=border)
    else:
        similarity = ssim_map(weights * x, weights * y, padding=0)
        weights = weights[border:-border, border:-border]
    return float((weights * similarity).sum() / (3 * weights.sum()))


def lpips(image: Image, truth: Image) -> float | None:
    """Learned perceptual distance (Zhang et al. 2018, VGG16), on pictures scaled to [-1, 1].

    Nothing is downloaded: without the package `lpips`, or without the network's weights in torch's cache, a sentence
    in the log says so, once, and the result is None.

    Args:
        image, truth: [H, W, 3], floats (clamped to [0, 1]) or uint8.
    """
    x, y, _ = _prepare(image, truth, None)
    network = _lpips_network(x.device)
    if network is None:
        return None
    with torch.no_grad():
        distance = network(*(t.float().permute(2, 0, 1)[None] for t in (x, y)), normalize=True)
    return float(distance)


def _prepare(image: Image, truth: Image, mask: Image | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both pictures as float64 in [0, 1] and the weights of the pixels, [H, W, 1]."""
    x, y = _unit(image), _unit(truth).to(torch.as_tensor(image).device)
    check_shapes(image=(x, "H W 3"), truth=(y, "H W 3"))
    if mask is None:
        return x, y, torch.ones_like(x[..., :1])
    weights = torch.as_tensor(mask, device=x.device)
    check_shapes(image=(x, "H W 3"), mask=(weights, "H W"))
    counted = weights if weights.dtype == torch.bool else weights >= 128
    return x, y, counted[..., None].double()


def _unit(image: Image) -> Tensor:
    tensor = torch.as_tensor(image).detach()
    if tensor.dtype == torch.uint8:
        return tensor.double() / 255
    return tensor.double().clamp(0, 1)


@functools.cache
def _lpips_network(device: torch.device) -> Any | None:
    """The network, or None with a sentence in the log (once, since the answer is remembered)."""
    try:
        import lpips as package  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        _log.warning("LPIPS is left out: its package cannot be imported (%s); pip install 'nfc-gs[metrics]'.", error)
        return None
    weights = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_WEIGHTS
    if not weights.is_file():
        _log.warning(
            "LPIPS is left out: %s is not in %s; download it from https://download.pytorch.org/models/%s.",
            LPIPS_WEIGHTS,
            weights.parent,
            LPIPS_WEIGHTS,
        )
        return None
    try:
        return package.LPIPS(net="vgg", verbose=False).to(device).eval()
    except Exception as error:  # a damaged file fails in many ways; the other metrics go on
        _log.warning("LPIPS is left out: its network cannot be loaded from %s (%s).", weights, error)
        return None
