"""From the camera poses of capture files to world-to-camera matrices."""

from __future__ import annotations

import numpy as np

FARTHEST = 1e12
"""A camera farther from the origin than this (capture units) is an error."""


def nearest_rotation(matrix: np.ndarray) -> np.ndarray | None:
    """The rotation that a matrix [3, 3] is but for rounding and a positive scale; None where it is none."""
    with np.errstate(all="ignore"):  # it may overflow, and then is no rotation
        determinant = float(np.linalg.det(matrix))
    u, _, vt = np.linalg.svd(matrix)
    scale = abs(determinant) ** (1 / 3)  # some exporters leave the scale of a parent object in the matrix
    if not (scale >= 1e-6 and determinant > 0 and np.abs(matrix / scale - u @ vt).max() <= 0.02):  # NaN compares false
        return None
    return u @ vt


def viewmat_at(rotation: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """World-to-camera [4, 4] of a camera at `centre` [3] whose right, down and forward are the rows of `rotation`."""
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = -rotation @ centre
    return viewmat
