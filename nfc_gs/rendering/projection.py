"""From 3D Gaussians to 2D splats: the readable statement of what every backend computes per Gaussian.

Formulas: Zwicker et al., "EWA splatting" (2002), as used by Kerbl et al., "3D Gaussian splatting" (2023), with the
slopes of rays clamped as in gsplat (Ye et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.constants import ALPHA_MIN, BLUR, FRUSTUM_MARGIN, NEAR_PLANE
from nfc_gs.core.rotation import quat_to_matrix
from nfc_gs.core.sh import eval_sh, one_sided_clamp
from nfc_gs.model.heads.bits import bit_probabilities
from nfc_gs.model.target_encoding import decode_colors
from nfc_gs.rendering.backend import RasterSettings, Splats

MAX_RADIUS = 2**30
"""Radii are cut off here, so that they fit an int32."""

COMPENSATION_FLOOR = 1e-12
"""The ratio of determinants is held above this before its square root is taken, for a finite gradient. A splat
that is held there is fainter than ALPHA_MIN and is culled, so the gradient itself never matters."""


@dataclass(frozen=True)
class Projection:
    """The splats on the image plane.

    Attributes:
        means2d: [N, 2] centres in pixels of the whole picture (`Camera.frame`).
        conics: [N, 3] upper triangle (a, b, c) of the inverse covariance, 1 / pixels^2.
        depths: [N] z in the camera's frame, scene units.
        opacities: [N], after compensation if antialiased.
        extents: [N, 2] half size in pixels of the box outside which alpha < ALPHA_MIN.
        determinants: [N] of the blurred covariance, pixels^4.
    """

    means2d: Tensor
    conics: Tensor
    depths: Tensor
    opacities: Tensor
    extents: Tensor
    determinants: Tensor


def project(splats: Splats, camera: Camera, antialiased: bool = False) -> Projection:
    """Project all splats, without culling: what `visible_splats` rejects may come out as NaN or Inf."""
    rotation, translation = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
    points = splats.means @ rotation.T + translation  # [N, 3], camera frame
    depths = points[:, 2]
    focal = points.new_tensor([camera.fx, camera.fy])
    center = points.new_tensor([camera.frame.cx, camera.frame.cy])
    slopes = points[:, :2] / depths[:, None]  # [N, 2], tangents of the ray's angles
    means2d = focal * slopes + center

    # The covariance (EWA splatting, eq. 29-31; 3D Gaussian splatting, eq. 5-6).
    axes = quat_to_matrix(splats.quats) * splats.scales[:, None, :]  # [N, 3, 3], Sigma = axes axes^T
    axes2d = _jacobian(slopes, depths, camera) @ rotation @ axes  # [N, 2, 3]
    first, second = axes2d.unbind(1)  # [N, 3] each: axes2d axes2d^T is the covariance
    xx, yy, xy = first.square().sum(-1), second.square().sum(-1), (first * second).sum(-1)
    # Lagrange's identity; the difference of products xx yy - xy xy would cancel for long thin splats.
    sharp_determinants = torch.linalg.cross(first, second).square().sum(-1)
    determinants = sharp_determinants + BLUR * (xx + yy) + BLUR * BLUR
    xx, yy = xx + BLUR, yy + BLUR
    conics = torch.stack([yy, -xy, xx], dim=-1) / determinants[:, None]

    opacities = splats.opacities
    if antialiased:  # Mip-Splatting, eq. 9
        opacities = opacities * (sharp_determinants / determinants).clamp(min=COMPENSATION_FLOOR).sqrt()

    # alpha = o exp(-sigma) reaches ALPHA_MIN at sigma = t; the ellipse sigma = t is this wide and this high.
    t = (opacities.detach() / ALPHA_MIN).log().clamp(min=0)
    extents = (2 * t[:, None] * torch.stack([xx, yy], dim=-1).detach()).sqrt()
    return Projection(means2d, conics, depths, opacities, extents, determinants)


def _jacobian(slopes: Tensor, depths: Tensor, camera: Camera) -> Tensor:
    """[N, 2, 3] derivative of the projection, with slopes held to the whole picture and a margin around it.

    Far outside the picture the linear approximation is poor and would smear splats over it.
    """
    whole = camera.frame
    margin_x = FRUSTUM_MARGIN * 0.5 * whole.width / camera.fx
    margin_y = FRUSTUM_MARGIN * 0.5 * whole.height / camera.fy
    x = slopes[:, 0].clamp(-(whole.cx / camera.fx + margin_x), (whole.width - whole.cx) / camera.fx + margin_x)
    y = slopes[:, 1].clamp(-(whole.cy / camera.fy + margin_y), (whole.height - whole.cy) / camera.fy + margin_y)
    zero = torch.zeros_like(depths)
    first = torch.stack([camera.fx / depths, zero, -camera.fx * x / depths], dim=-1)
    second = torch.stack([zero, camera.fy / depths, -camera.fy * y / depths], dim=-1)
    return torch.stack([first, second], dim=-2)


def is_visible(splats: Splats, projection: Projection, camera: Camera) -> Tensor:
    """[N] bool: which splats are drawn. Written so that any NaN or Inf, of the input or on the way, says no."""
    p = projection
    visible = (p.depths >= NEAR_PLANE) & (p.opacities >= ALPHA_MIN) & (p.determinants > 0)
    visible &= splats.quats.square().sum(-1) > 0
    for tensor in (splats.means, splats.quats, splats.scales, p.means2d, p.conics, p.extents):
        visible &= tensor.isfinite().all(-1)
    visible &= p.depths.isfinite() & p.opacities.isfinite() & p.determinants.isfinite()
    visible &= splats.quats.square().sum(-1).isfinite()
    first = p.means2d.new_tensor([camera.frame.left, camera.frame.top])
    end = first + first.new_tensor([camera.width, camera.height])
    return visible & ((p.means2d + p.extents > first) & (p.means2d - p.extents < end)).all(-1)


def visible_splats(splats: Splats, camera: Camera, settings: RasterSettings) -> tuple[Tensor, Tensor]:
    """Which splats are drawn, and how large they are.

    Returns:
        ids: [V] int64, ascending.
        radii: [N, 2] int32 half extents rounded up, at least 1; 0 for what is not drawn.
    """
    with torch.no_grad():
        projection = project(splats, camera, settings.antialiased)
        visible = is_visible(splats, projection, camera)
        radii = projection.extents.ceil().clamp(1, MAX_RADIUS)
        radii = torch.where(visible[:, None], radii, 0).to(torch.int32)
    return visible.nonzero().squeeze(-1), radii


def select(splats: Splats, ids: Tensor) -> Splats:
    """The splats with these indices; the others get a gradient of exactly zero."""
    tensors = {f.name: getattr(splats, f.name) for f in fields(splats)}
    return replace(splats, **{name: None if t is None else t.index_select(0, ids) for name, t in tensors.items()})


def scatter_rows(values: Tensor, ids: Tensor, count: int) -> Tensor:
    """The reverse of `select`: [count, ...] with `values` [V, ...] at `ids` and zeros elsewhere."""
    full = values.new_zeros(count, *values.shape[1:])
    full[ids] = values
    return full


def view_colors(splats: Splats, camera: Camera, settings: RasterSettings) -> Tensor:
    """[N, 3] colors as seen from the camera, or their [N, 24] bit probabilities with `settings.bits`.

    SH: one_sided_clamp(0.5 + SH(direction)); bits: decoded from their probabilities. The direction depends on the means
    and on `viewmat`, and both get that part of the gradient.
    """
    directions = torch.nn.functional.normalize(splats.means - camera.center, dim=-1)
    if splats.sh_coeffs is not None:
        return one_sided_clamp(0.5 + eval_sh(splats.sh_coeffs, directions, settings.sh_degree))
    assert splats.bit_logits is not None and splats.bit_shifts is not None
    bits = bit_probabilities(splats.bit_logits, splats.bit_shifts, directions, settings.sh_degree)
    return bits if settings.bits else decode_colors(bits)
