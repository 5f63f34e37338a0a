"""How good a picture is, as papers report it: PSNR, SSIM and, where its weights are at hand, LPIPS."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from nfc_gs.core.checks import check_shapes
from nfc_gs.core.constants import SSIM_WINDOW
from nfc_gs.objective.ssim import ssim_map
from nfc_gs.ops.operations import Operations, operations_for

_log = logging.getLogger("nfc_gs")

Image = Tensor | np.ndarray
"""[H, W, 3]: floats, clamped to [0, 1], or uint8."""

BAND_PIXELS = 2**16
"""Pixels of a picture that the references compare at once; SSIM takes about a kilobyte for each."""

LPIPS_WEIGHTS = "vgg16-397923af.pth"
"""The file that torchvision keeps the weights of LPIPS's network in."""


def psnr(image: Image, truth: Image, mask: Image | None = None, *, operations: Operations | None = None) -> float:
    """Peak signal-to-noise ratio, dB: -10 log10 of the mean squared difference.

    Args:
        image, truth: [H, W, 3], floats (clamped to [0, 1]) or uint8.
        mask: [H, W], uint8 (a pixel counts from 128 on) or bool. None if all count.
        operations: compute it; None for those of the image's device.

    Returns:
        Infinity for equal pictures; NaN if no pixel counts.
    """
    x, y, counted = _prepare(image, truth, mask)
    values = _counted_values(x, counted)
    if values == 0:
        return math.nan
    squared_error = (operations or operations_for(x.device)).squared_error or squared_error_reference
    error = squared_error(x, y, counted) / values
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(image: Image, truth: Image, mask: Image | None = None, *, operations: Operations | None = None) -> float:
    """Mean structural similarity (Wang et al. 2004), over the pixels whose whole window lies in the picture.

    Equal to scikit-image's `structural_similarity` with gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1, channel_axis=-1. Pictures smaller than the window (11 pixels) count
    whole, with black beyond their borders. What a mask leaves out is black in both pictures and is not averaged.

    Args:
        image, truth: [H, W, 3], floats (clamped to [0, 1]) or uint8.
        mask: [H, W], uint8 (a pixel counts from 128 on) or bool. None if all count.
        operations: compute it; None for those of the image's device.

    Returns:
        At most 1; NaN if no pixel counts.
    """
    x, y, counted = _prepare(image, truth, mask)
    border = SSIM_WINDOW // 2
    if min(x.shape[:2]) < SSIM_WINDOW:
        x, y = (pad(each, (0, 0, border, border, border, border)) for each in (x, y))
        counted = None if counted is None else pad(counted, (border, border, border, border))
    inner = None if counted is None else counted[border:-border, border:-border]
    values = _counted_values(x[border:-border, border:-border], inner)
    if values == 0:
        return math.nan
    return ((operations or operations_for(x.device)).ssim or ssim_reference)(x, y, counted) / values


def squared_error_reference(x: Tensor, y: Tensor, counted: Tensor | None) -> float:
    """Squared differences of two pictures, summed over the values that count, in double precision.

    Args:
        x, y: [H, W, 3], floats (clamped to [0, 1]) or uint8.
        counted: [H, W] bool; None if all pixels count.
    """
    total = 0.0
    for a, b, weights in _bands(x, y, counted, rows=1):
        total += float((weights * (a - b).square()).sum())
    return total


def ssim_reference(x: Tensor, y: Tensor, counted: Tensor | None) -> float:
    """SSIM summed over the values that count and have their whole window in the picture, in double precision.

    Args:
        x, y: [H, W, 3], at least as large as the window; floats (clamped to [0, 1]) or uint8.
        counted: [H, W] bool; None if all pixels count.
    """
    border, total = SSIM_WINDOW // 2, 0.0
    for a, b, weights in _bands(x, y, counted, rows=SSIM_WINDOW):
        similarity = ssim_map(weights * a, weights * b, padding=0)
        total += float((weights[border:-border, border:-border] * similarity).sum())
    return total


def _bands(x: Tensor, y: Tensor, counted: Tensor | None, rows: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Both pictures in bands of rows, and the weights of their pixels [.., W, 1], as float64: memory is bounded.

    Args:
        rows: of a window. Each window of so many rows lies in one band, so bands overlap by all but one.
    """
    step = max(1, BAND_PIXELS // x.shape[1])
    for top in range(0, len(x) - rows + 1, step):
        band = slice(top, top + step + rows - 1)
        a, b = _unit(x[band]), _unit(y[band])
        yield a, b, torch.ones_like(a[..., :1]) if counted is None else counted[band][..., None].double()


def _counted_values(picture: Tensor, counted: Tensor | None) -> int:
    """How many values of a picture [H, W, 3] count."""
    return picture.numel() if counted is None else 3 * int(counted.sum())


def lpips(image: Image, truth: Image) -> float | None:
    """Learned perceptual distance (Zhang et al. 2018, VGG16), on pictures scaled to [-1, 1].

    Nothing is downloaded: without the package `lpips`, or without the network's weights in torch's cache, a sentence
    in the log says so, once, and the result is None.

    Args:
        image, truth: [H, W, 3], floats (clamped to [0, 1]) or uint8.
    """
    x, y, _ = _prepare(image, truth, None)
    x, y = _unit(x), _unit(y)
    network = _lpips_network(x.device)
    if network is None:
        return None
    with torch.no_grad():
        distance = network(*(t.float().permute(2, 0, 1)[None] for t in (x, y)), normalize=True)
    return float(distance)


def _prepare(image: Image, truth: Image, mask: Image | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both pictures on the device of the first, [H, W, 3], and which pixels count, [H, W] bool or None for all."""
    x = torch.as_tensor(image).detach()
    y = torch.as_tensor(truth).detach().to(x.device)
    counted = None if mask is None else torch.as_tensor(mask, device=x.device)
    check_shapes(image=(x, "H W 3"), truth=(y, "H W 3"), mask=(counted, "H W"))
    for name, picture in (("image", x), ("truth", y)):
        if picture.dtype != torch.uint8 and not picture.dtype.is_floating_point:
            raise ValueError(f"{name} has dtype {picture.dtype}, expected uint8 or floats")
    if counted is not None and counted.dtype not in (torch.bool, torch.uint8):
        raise ValueError(f"mask has dtype {counted.dtype}, expected uint8 or bool")
    if counted is not None and counted.dtype == torch.uint8:
        counted = counted >= 128
    return x, y, counted


def _unit(picture: Tensor) -> Tensor:
    """A picture as float64 in [0, 1]."""
    if picture.dtype == torch.uint8:
        return picture.double() / 255
    return picture.double().clamp(0, 1)


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
