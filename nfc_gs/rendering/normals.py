"""Normals of the surface that a depth image shows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nfc_gs.core.camera import Camera


def normals_from_depth(depth: Tensor, camera: Camera) -> Tensor:
    """Unit normals of the surface through the points of a depth image, towards the camera; differentiable in the depth.

    A pixel at the ray (x, y, 1) takes the points of its left, right, upper and lower neighbours, at the depths l, r, u
    and d. The cross product of (lower - upper) and (right - left), divided by (r + l) (d + u) / (fx fy), is

        n = (gx, gy, -1 - gx x - gy y)  with  gx = fx (r - l) / (r + l)  and  gy = fy (d - u) / (d + u),

    which never vanishes and faces the camera, since its product with the ray is -1. Pixels at the border have the
    normal of the nearest pixel inside.

    Args:
        depth: [H, W, 1] along the camera's z axis; 0 where nothing is seen.

    Returns:
        [H, W, 3] in the camera's frame (x right, y down, z forward); zero where a neighbour has no depth, and
        everywhere in an image with less than three rows or columns.
    """
    height, width = depth.shape[:2]
    if height < 3 or width < 3:
        return depth.new_zeros(height, width, 3)
    z = depth[..., 0]
    left, right, upper, lower = z[1:-1, :-2], z[1:-1, 2:], z[:-2, 1:-1], z[2:, 1:-1]
    known = (left > 0) & (right > 0) & (upper > 0) & (lower > 0)
    gx = torch.where(known, camera.fx * (right - left) / torch.where(known, right + left, 1.0), 0.0)
    gy = torch.where(known, camera.fy * (lower - upper) / torch.where(known, lower + upper, 1.0), 0.0)
    columns = torch.arange(1, width - 1, dtype=z.dtype, device=z.device)
    rows = torch.arange(1, height - 1, dtype=z.dtype, device=z.device)
    x = (columns + 0.5 - camera.cx) / camera.fx
    y = (rows[:, None] + 0.5 - camera.cy) / camera.fy
    normals = functional.normalize(torch.stack([gx, gy, -1.0 - gx * x - gy * y], dim=-1), dim=-1) * known[..., None]
    return functional.pad(normals.permute(2, 0, 1)[None], (1, 1, 1, 1), mode="replicate")[0].permute(1, 2, 0)
