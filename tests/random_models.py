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


def splats_to_train(head: str, n: int = 700) -> GaussianModel:
    """Gaussians of all sorts: seen, beside the picture and behind the camera."""
    g = torch.Generator().manual_seed(3)
    colors = {
        "sh": {"sh_coeffs": (16, 3)},
        "sh0": {"sh_coeffs": (1, 3)},
        "shared": {"bit_logits": (24,), "bit_shifts": (15, 3)},
        "full": {"bit_logits": (24,), "bit_shifts": (8, 24)},
        "bits0": {"bit_logits": (24,), "bit_shifts": (0, 3)},
    }[head]
    shapes = {"means": (3,), "log_scales": (3,), "quats": (4,), "opacity_logits": (), **colors}
    tensors = {name: torch.randn(n, *shape, generator=g) for name, shape in shapes.items()}
    tensors["log_scales"] = 0.5 * tensors["log_scales"] - 2.0
    return GaussianModel(tensors)


SPLAT_RATES = {
    "means": 1e-2,
    "log_scales": 5e-3,
    "quats": 1e-3,
    "opacity_logits": 5e-2,
    "sh_coeffs": (2e-2, 1e-3, 3),
    "bit_logits": 3e-3,
    "bit_shifts": 5e-4,
}
"""Learning rates for them."""
