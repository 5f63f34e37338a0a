"""What the Gaussians that training starts from take from a sparse point cloud (`GaussianModel.from_points`)."""

from __future__ import annotations

import logging

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import PointCloud

_log = logging.getLogger("nfc_gs")

NEIGHBOURS = 3
"""The initial scale is the mean distance to this many nearest neighbours (3D Gaussian splatting, section 5.1)."""

MIN_SCALE, MAX_SCALE = 1e-5, 0.1
"""Bounds of the initial scale relative to the size of the cloud: duplicates are not infinitely thin and outliers do
not cover the picture."""


def neighbour_distances(xyz: np.ndarray) -> np.ndarray:
    """Mean distance of each point to its (at most three) nearest neighbours, within sane bounds.

    Args:
        xyz: [P, 3], finite.

    Returns:
        [P] float64, between MIN_SCALE and MAX_SCALE times the size of the cloud. Points that all coincide, or a
        single one, have no size: they get MAX_SCALE scene units.
    """
    from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

    xyz = xyz.astype(np.float64)
    size = _size(xyz)
    if size == 0:
        return np.full(len(xyz), MAX_SCALE)
    neighbours = min(NEIGHBOURS, len(xyz) - 1)
    distances, _ = cKDTree(xyz).query(xyz, k=neighbours + 1)  # the first neighbour is the point itself
    return distances[:, 1:].mean(axis=1).clip(MIN_SCALE * size, MAX_SCALE * size)


def _size(xyz: np.ndarray) -> float:
    """How large the cloud is: the distance from its middle that 90 % of its points keep, or that all keep."""
    distances = np.linalg.norm(xyz - np.median(xyz, axis=0), axis=1)
    return float(np.quantile(distances, 0.9) or distances.max())


def chosen_points(points: PointCloud, most: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The finite points, or a seeded choice of `most` of them in their old order: positions [N, 3], colors [N, 3].

    Raises:
        UserError: there is none.
    """
    finite = np.asarray(np.isfinite(points.xyz).all(axis=1))
    if not finite.all():
        _log.warning("Left out %d of %d points whose position is not finite.", (~finite).sum(), len(finite))
    kept = np.flatnonzero(finite)
    if most is not None and len(kept) > most:
        _log.info("Starting from %d of %d points, chosen at random.", most, len(kept))
        kept = np.sort(np.random.default_rng(seed).choice(kept, most, replace=False))
    if len(kept) == 0:
        raise UserError(
            f"The point cloud has no usable point ({len(points)} given, none finite); use a capture with points or "
            "let the reader make random ones."
        )
    return points.xyz[kept], points.rgb[kept]
