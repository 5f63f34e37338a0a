"""Gaussians to look at in the viewer, and where from."""

from __future__ import annotations

import torch

from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.heads.bits import start_bits
from nfc_gs.model.heads.sh import start_sh
from nfc_gs.model.radiance import RenderOptions
from nfc_gs.viewer.cameras import Pose

POSE = Pose((0.0, 0.0, -3.0), (1.0, 0.0, 0.0, 0.0), 1.0)
CPU = RenderOptions(backend="cpu")


def model(count: int = 60, head: str = "sh", seed: int = 0) -> GaussianModel:
    """Gaussians around the origin."""
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.rand(count, 3, generator=generator)
    colors = start_sh(rgb, 1) if head == "sh" else start_bits(rgb, 1, hardness=0.7)
    return GaussianModel(
        {
            "means": 0.6 * torch.randn(count, 3, generator=generator),
            "log_scales": torch.full((count, 3), -2.0),
            "quats": torch.randn(count, 4, generator=generator),
            "opacity_logits": torch.randn(count, generator=generator) + 1.0,
            **colors,
        }
    )


def one(z: float = 0.0, log_scale: float = -1.0, logit: float = 8.0, copies: int = 1) -> GaussianModel:
    tensors = {
        "means": torch.tensor([[0.0, 0.0, z]]).repeat(copies, 1),
        "log_scales": torch.full((copies, 3), log_scale),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(copies, 1),
        "opacity_logits": torch.full((copies,), logit),
        **start_sh(torch.full((copies, 3), 0.8), 0),
    }
    return GaussianModel(tensors)


def many(count: int = 400) -> GaussianModel:
    """Gaussians of many sizes."""
    splats = model(count)
    with torch.no_grad():
        splats.log_scales += 0.4 * torch.randn(count, 1, generator=torch.Generator().manual_seed(1))
    return splats
