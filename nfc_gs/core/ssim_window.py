"""The window of SSIM (Wang et al. 2004), of which the reference and the GPU kernels take their weights."""

from __future__ import annotations

import torch
from torch import Tensor

from nfc_gs.core.constants import SSIM_SIGMA, SSIM_WINDOW


def ssim_window(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """[11] weights of a Gaussian at whole pixels, of sum 1."""
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    weights = (-offsets.square() / (2 * SSIM_SIGMA**2)).exp()
    return (weights / weights.sum()).to(dtype=dtype, device=device)
