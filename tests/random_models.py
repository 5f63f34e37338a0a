"""Gaussians at random, and a similarity to move them by."""

from __future__ import annotations

import numpy as np
import torch

from nfc_gs.model.gaussians import GaussianModel


def random_model(n: int = 20, degree: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> GaussianModel:
    g = torch.Generator().manual_seed(seed)
    k = (degree + 1) ** 2
    return GaussianModel(
        {
            "means": torch.randn(n, 3, generator=g, dtype=dtype),
            "log_scales": torch.randn(n, 3, generator=g, dtype=dtype) * 0.5 - 2,
            "quats": torch.randn(n, 4, generator=g, dtype=dtype) * 3,
            "opacity_logits": torch.randn(n, generator=g, dtype=dtype) + 1,
            "sh_coeffs": torch.randn(n, k, 3, generator=g, dtype=dtype) * 0.3,
        }
    )


def similarity(seed: int = 3, scale: float = 0.37) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    transform = np.eye(4)
    transform[:3, :3] = scale * Rotation.from_rotvec([0.5, -1.2, seed]).as_matrix()
    transform[:3, 3] = (1.5, -0.4, 2.0)
    return transform
