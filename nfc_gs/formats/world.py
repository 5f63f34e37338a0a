"""From the normalised frame, in which training works, back to the frame of the capture, in which files are written."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core.rotation import matrix_to_quat, quat_multiply
from nfc_gs.core.sh import rotate_sh

_BLOCK = 16_384
"""Gaussians that are moved at a time, in float64: all at once would take several times the memory of the model."""


def in_world_frame(tensors: Mapping[str, Tensor], transform: np.ndarray | None) -> dict[str, Tensor]:
    """The Gaussians of a model in the capture's world frame, as files hold them.

    A point y = s R x + t of the normalised frame is x = R^T (y - t) / s in the world.

    Args:
        tensors: `GaussianModel.tensors()` of a model whose color is spherical harmonics.
        transform: [4, 4] similarity from the world to the model's frame (`SceneData.transform`); None where the two
            frames are one.

    Returns:
        The same tensors, computed in float64 and rounded to float32, on the CPU; quaternions are normalised.
    """
    moved = {name: torch.empty(value.shape, dtype=torch.float32) for name, value in tensors.items()}
    for start in range(0, len(tensors["means"]), _BLOCK):
        rows = slice(start, start + _BLOCK)
        block = {name: value[rows].double().cpu() for name, value in tensors.items()}
        if transform is not None:
            block = _moved(block, torch.from_numpy(np.array(transform, dtype=np.float64)))
        block["quats"] = torch.nn.functional.normalize(block["quats"], dim=1)
        for name, value in block.items():
            moved[name][rows] = value
    return moved


def _moved(given: Mapping[str, Tensor], matrix: Tensor) -> dict[str, Tensor]:
    """Gaussians in float64 by the inverse of a similarity [4, 4]."""
    linear, shift = matrix[:3, :3].contiguous(), matrix[:3, 3].contiguous()
    scale = torch.linalg.det(linear).item() ** (1 / 3)
    assert scale > 0, "a scene transform neither mirrors nor collapses"
    rotation = linear / scale
    return {
        "means": (given["means"] - shift) @ rotation / scale,
        "log_scales": given["log_scales"] - math.log(scale),
        "quats": quat_multiply(matrix_to_quat(rotation.T), given["quats"]),
        "opacity_logits": given["opacity_logits"],
        "sh_coeffs": rotate_sh(given["sh_coeffs"], rotation.T),
    }
