"""From the normalised frame, in which training works, back to the frame of the capture, in which files are written."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core.rotation import matrix_to_quat, quat_multiply
from nfc_gs.core.sh import rotate_sh


def in_world_frame(tensors: Mapping[str, Tensor], transform: np.ndarray | None) -> dict[str, Tensor]:
    """The Gaussians of a model in the capture's world frame.

    A point y = s R x + t of the normalised frame is x = R^T (y - t) / s in the world.

    Args:
        tensors: `GaussianModel.tensors()` of a model whose color is spherical harmonics.
        transform: [4, 4] similarity from the world to the model's frame (`SceneData.transform`); None where the two
            frames are one.

    Returns:
        The same tensors in float64 on the CPU; quaternions are not normalised.
    """
    given = {name: value.double().cpu() for name, value in tensors.items()}
    if transform is None:
        return given
    matrix = torch.from_numpy(np.array(transform, dtype=np.float64))
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
