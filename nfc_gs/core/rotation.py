"""Rotations as quaternions (w, x, y, z) and as matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def quat_to_matrix(quats: Tensor) -> Tensor:
    """Rotation matrices of quaternions, which are normalised first.

    Args:
        quats: [..., 4] wxyz, any float dtype. A zero quaternion has no rotation: its matrix is NaN.

    Returns:
        [..., 3, 3]; q and -q give the same matrix.
    """
    w, x, y, z = (quats / quats.square().sum(-1, keepdim=True).sqrt()).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_to_quat(matrices: Tensor) -> Tensor:
    """Unit quaternions of rotation matrices, with w >= 0.

    Each component can be read off the diagonal up to its sign; we divide by the largest, so that nothing is
    divided by a number near zero (Shepperd, "Quaternion from rotation matrix", 1978).

    Args:
        matrices: [..., 3, 3] rotations (orthogonal, determinant 1).

    Returns:
        [..., 4] wxyz.
    """
    m = matrices
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    outer = [  # 4 q q^T, row by row
        *(1 + m00 + m11 + m22, wx, wy, wz),
        *(wx, 1 + m00 - m11 - m22, xy, xz),
        *(wy, xy, 1 - m00 + m11 - m22, yz),
        *(wz, xz, yz, 1 - m00 - m11 + m22),
    ]
    table = torch.stack(outer, dim=-1).unflatten(-1, (4, 4))
    largest = torch.diagonal(table, dim1=-2, dim2=-1).argmax(-1)
    row = torch.take_along_dim(table, largest[..., None, None], dim=-2).squeeze(-2)
    quats = row / row.square().sum(-1, keepdim=True).sqrt()
    return torch.where(quats[..., :1] < 0, -quats, quats)


def quat_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product: the rotation `a` after the rotation `b`.

    Args:
        a, b: [..., 4] wxyz, broadcast against each other.

    Returns:
        [..., 4] wxyz; not normalised.
    """
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    parts = [
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    ]
    return torch.stack(parts, dim=-1)
