"""Structural similarity (Wang et al. 2004), which both the objective and the metrics use."""

from __future__ import annotations

import torch
from torch import Tensor

from nfc_gs.core.constants import SSIM_C1, SSIM_C2
from nfc_gs.core.ssim_window import ssim_window


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
