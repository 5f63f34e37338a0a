"""The specification of every backend, in plain PyTorch: any float dtype, any device, differentiable by autograd.

Written to be read. Compiled backends are tested against it; they add speed, never semantics.

Culled splats are removed by index before anything differentiable is computed, so whatever they hold (Inf, NaN, zero
quaternions) reaches neither the image nor the gradients of the others, and their own gradient is exactly zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.constants import ALPHA_MAX, ALPHA_MIN, TILE_SIZE, TRANSMITTANCE_MIN
from nfc_gs.rendering.backend import RasterBackend, RasterOutput, RasterSettings, SplatInfo, Splats
from nfc_gs.rendering.projection import Projection, project, scatter_rows, select, view_colors, visible_splats


class TorchBackend(RasterBackend):
    """Renders splats with PyTorch operations, in any float dtype."""

    name = "torch"
    summary = "the readable reference, slow"
    devices = ("cpu", "cuda")
    reference = True

    def _render(
        self, splats: Splats, camera: Camera, settings: RasterSettings, background: Tensor | None
    ) -> RasterOutput:
        ids, radii = visible_splats(splats, camera, settings)
        visible = select(splats, ids)
        projection = project(visible, camera, settings.antialiased)
        channels = _channels(visible, camera, settings, projection.depths)

        corner = projection.means2d.new_tensor([camera.frame.left, camera.frame.top])
        info = SplatInfo(radii, means2d=scatter_rows(projection.means2d.detach() - corner, ids, len(radii)))
        absgrad = torch.zeros_like(info.means2d) if settings.absgrad else None
        image, transmittance = _composite(projection, channels, radii[ids], ids, camera, absgrad)
        _fill_on_backward(info, projection.means2d, ids, absgrad)

        alpha = 1 - transmittance
        depth = None
        if settings.depth:
            image, weighted_depth = image[..., :-1], image[..., -1:]
            depth = weighted_depth / alpha.clamp(min=1e-10)
        if background is not None:
            image = image + transmittance * background
        return RasterOutput(image, alpha, depth, info)


def _channels(visible: Splats, camera: Camera, settings: RasterSettings, depths: Tensor) -> Tensor:
    """[V, D] or, with depth as the last channel, [V, D + 1]: what is composited."""
    parts = [visible.means[:, :0]]
    if visible.sh_bases:
        parts.append(view_colors(visible, camera, settings))
    if visible.features is not None:
        parts.append(visible.features)
    if settings.depth:
        parts.append(depths[:, None])
    return torch.cat(parts, dim=-1)


def _composite(
    projection: Projection, channels: Tensor, radii: Tensor, ids: Tensor, camera: Camera, absgrad: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Blend the splats [V] over each other, tile by tile, in pixels of the whole picture (`Camera.frame`).

    Args:
        radii: [V, 2] int32.
        ids: [V] the splats' rows in `absgrad`.
        absgrad: [N, 2], added to during the backward pass; or None.

    Returns:
        image: [H, W, D] sum of weight * channel.
        transmittance: [H, W, 1] what is left for the background.
    """
    means2d = projection.means2d.detach()
    order = torch.sort(projection.depths.detach(), stable=True).indices  # front to back, ties by index
    low, high = (means2d - radii)[order], (means2d + radii)[order]
    frame, rows = camera.frame, []
    for top in range(frame.top, frame.top + camera.height, TILE_SIZE):
        bottom = min(top + TILE_SIZE, frame.top + camera.height)
        in_row = (high[:, 1] > top) & (low[:, 1] < bottom)
        row = []
        for left in range(frame.left, frame.left + camera.width, TILE_SIZE):
            right = min(left + TILE_SIZE, frame.left + camera.width)
            meets = in_row & (high[:, 0] > left) & (low[:, 0] < right)
            tile = _Tile(left, top, right, bottom, order[meets])
            row.append(_blend_tile(tile, projection, channels, ids, absgrad))
        rows.append(torch.cat(row, dim=1))
    image = torch.cat(rows, dim=0)
    return image[..., :-1], image[..., -1:]


@dataclass(frozen=True)
class _Tile:
    """Pixels left..right-1 by top..bottom-1 and the splats [G] that may reach them, front to back."""

    left: int
    top: int
    right: int
    bottom: int
    splats: Tensor


def _blend_tile(tile: _Tile, projection: Projection, channels: Tensor, ids: Tensor, absgrad: Tensor | None) -> Tensor:
    """[h, w, D + 1] the image of a tile, with the transmittance as its last channel.

    The blending of 3D Gaussian splatting, eq. 3: C = sum_i T_i alpha_i c_i with T_i = prod_{j<i} (1 - alpha_j).
    """
    centers, conics = projection.means2d[tile.splats], projection.conics[tile.splats]  # [G, 2], [G, 3]
    ys = torch.arange(tile.top, tile.bottom, device=centers.device) + 0.5
    xs = torch.arange(tile.left, tile.right, device=centers.device) + 0.5
    y, x = torch.meshgrid(ys.to(centers.dtype), xs.to(centers.dtype), indexing="ij")
    dx = x.reshape(-1, 1) - centers[:, 0]  # [P, G], pixel minus centre
    dy = y.reshape(-1, 1) - centers[:, 1]
    if absgrad is not None and dx.requires_grad:
        _add_absolute_gradients(absgrad, ids[tile.splats], dx, dy)

    a, b, c = conics.unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    raw = projection.opacities[tile.splats] * torch.exp(-sigma.clamp(min=0))  # below 0 only by rounding
    alpha = torch.where(raw >= ALPHA_MIN, raw.clamp(max=ALPHA_MAX), 0)
    with torch.no_grad():  # a pixel is finished before the splat that would make it opaque
        alive = torch.cumprod(1 - alpha, dim=1) >= TRANSMITTANCE_MIN
    alpha = torch.where(alive, alpha, 0)

    start = dx.new_ones(dx.shape[0], 1)
    transmittance = torch.cumprod(torch.cat([start, 1 - alpha], dim=1), dim=1)  # [P, G + 1], before each splat
    weights = alpha * transmittance[:, :-1]
    image = torch.cat([weights @ channels[tile.splats], transmittance[:, -1:]], dim=1)
    return image.reshape(len(ys), len(xs), -1)


def _add_absolute_gradients(absgrad: Tensor, rows: Tensor, dx: Tensor, dy: Tensor) -> None:
    """On backward, add sum over pixels |d loss / d centre| to `absgrad` (AbsGS, eq. 5); d centre = -d (dx, dy)."""
    dx.register_hook(lambda v_dx: _add(absgrad[:, 0], rows, v_dx))
    dy.register_hook(lambda v_dy: _add(absgrad[:, 1], rows, v_dy))


def _add(column: Tensor, rows: Tensor, v_distance: Tensor) -> None:
    column[rows] += v_distance.abs().sum(0)


def _fill_on_backward(info: SplatInfo, means2d: Tensor, ids: Tensor, absgrad: Tensor | None) -> None:
    """Let the backward pass store the gradients of the projected centres in `info`."""
    if not means2d.requires_grad:
        return

    def store(v_means2d: Tensor) -> None:  # runs after all tiles
        info.means2d_grad = scatter_rows(v_means2d, ids, len(info.radii))
        if absgrad is not None:
            info.means2d_absgrad = absgrad.clone()
            absgrad.zero_()

    means2d.register_hook(store)
