"""Normals of Gaussians: their shortest axes, composited as colors are."""

from __future__ import annotations

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.rotation import quat_to_matrix
from nfc_gs.rendering.backend import RasterBackend, RasterSettings, RawSplats

LEAST_LENGTH = 1e-6
"""Composited normals shorter than this have no direction: nothing is seen, or opposite ones cancel out."""


def composited_normals(splats: RawSplats, camera: Camera, backend: RasterBackend, antialiased: bool) -> Tensor:
    """Unit normals of what a camera sees, differentiable in all that `RasterBackend.render` is.

    They are rendered in a call of their own, so that colors, and the gradients that density control looks at, are the
    same with and without them.

    Returns:
        [H, W, 3] in the world frame; zero where nothing is seen.
    """
    normals = gaussian_normals(splats.means, splats.quats, splats.log_scales, camera.center)
    colored = RawSplats(splats.means, splats.quats, splats.log_scales, splats.opacity_logits, features=normals)
    blended = backend.render(colored, camera, RasterSettings(antialiased=antialiased)).features  # [H, W, 3]
    squared = blended.square().sum(-1, keepdim=True)
    has_direction = squared > LEAST_LENGTH**2
    return torch.where(has_direction, blended / torch.where(has_direction, squared, 1.0).sqrt(), 0.0)


def gaussian_normals(means: Tensor, quats: Tensor, log_scales: Tensor, center: Tensor) -> Tensor:
    """The shortest axis of each Gaussian, turned towards the camera; differentiable in `quats`.

    Args:
        means: [N, 3]; quats: [N, 4] wxyz, not normalised; log_scales: [N, 3]; as in `RawSplats`.
        center: [3] the camera's position.

    Returns:
        [N, 3] unit vectors in the world frame. Of axes that are equally short it is one of them; a Gaussian without a
        rotation (a quaternion that is zero or not finite), which no backend draws, has that of the identity.
    """
    squared = quats.square().sum(-1, keepdim=True)
    drawn = (squared > 0) & squared.isfinite()
    axes = quat_to_matrix(torch.where(drawn, quats, quats.new_tensor([1.0, 0.0, 0.0, 0.0])))  # [N, 3, axis]
    shortest = log_scales.argmin(-1)[:, None, None].expand(-1, 3, 1)
    normals = axes.gather(2, shortest).squeeze(2)
    away = ((center - means) * normals).sum(-1, keepdim=True) < 0
    return torch.where(away, -normals, normals)


def normal_colors(normals: Tensor, camera: Camera) -> Tensor:
    """Normals [H, W, 3] in the world frame as colors in [0, 1]: x to the right, y up, z towards the camera, each from
    -1 to 1."""
    seen = normals @ camera.viewmat[:3, :3].T.to(normals)
    return 0.5 + 0.5 * seen * seen.new_tensor([1.0, -1.0, -1.0])
