"""From a sparse point cloud to the Gaussians that training starts from."""

from __future__ import annotations

import logging

import numpy as np
import torch

from nfc_gs.core.errors import UserError
from nfc_gs.core.sh import MAX_DEGREE
from nfc_gs.data.scene import PointCloud
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.heads.color_head import BitView, HeadOptions
from nfc_gs.model.heads.registry import HeadName, get_head

_log = logging.getLogger("nfc_gs")

NEIGHBOURS = 3
"""The initial scale is the mean distance to this many nearest neighbours (3D Gaussian splatting, section 5.1)."""

MIN_SCALE, MAX_SCALE = 1e-5, 0.1
"""Bounds of the initial scale relative to the size of the cloud: duplicates are not infinitely thin and outliers do
not cover the picture."""


def from_points(
    points: PointCloud,
    sh_degree: int = MAX_DEGREE,
    *,
    head: HeadName = "sh",
    bit_view: BitView = "shared",
    bit_hardness: float = 0.0,
    opacity: float = 0.1,
    scale_factor: float = 1.0,
    max_gaussians: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> GaussianModel:
    """One round Gaussian per point, as large as the distance to its neighbours, in the point's color.

    Args:
        points: the cloud; points that are not finite are left out.
        sh_degree: 0..3, what the model can hold; all but degree 0 starts at zero.
        head: what colors the Gaussians, a name of `heads.registry.HEADS`; `bit_view` and `bit_hardness` are the bit
            head's (`heads.color_head.HeadOptions`).
        opacity: in (0, 1), of every Gaussian (0.1 as in 3D Gaussian splatting).
        scale_factor: multiplies the neighbours' distance.
        max_gaussians: keep at most this many points, a random choice of `seed`; None for all.

    Returns:
        A model with N = min(finite points, max_gaussians).

    Raises:
        UserError: there is no finite point.
        ValueError: an argument is out of its range, or there is no such head.
    """
    if not 0 < opacity < 1:
        raise ValueError(f"opacity is {opacity}, expected a number between 0 and 1")
    if scale_factor <= 0:
        raise ValueError(f"scale_factor is {scale_factor}, expected a positive number")
    if max_gaussians is not None and max_gaussians < 1:
        raise ValueError(f"max_gaussians is {max_gaussians}, expected at least 1")
    xyz, rgb = _choose(points, max_gaussians, seed)
    if len(xyz) == 0:
        raise UserError(
            f"The point cloud has no usable point ({len(points)} given, none finite); use a capture with points or "
            "let the reader make random ones."
        )

    count = len(xyz)
    scales = torch.from_numpy(neighbour_distances(xyz) * scale_factor)
    colors = torch.from_numpy(rgb.astype(np.float64) / 255)
    tensors = {
        "means": torch.from_numpy(xyz.astype(np.float64)),
        "log_scales": scales.log()[:, None].repeat(1, 3),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
        "opacity_logits": torch.logit(torch.full((count,), opacity, dtype=torch.float64)),
        **get_head(head).start(colors, sh_degree, HeadOptions(bit_view, bit_hardness)),
    }
    return GaussianModel({name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()})


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


def _choose(points: PointCloud, max_gaussians: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The finite points, or a seeded choice of them in their old order."""
    finite = np.asarray(np.isfinite(points.xyz).all(axis=1))
    if not finite.all():
        _log.warning("Left out %d of %d points whose position is not finite.", (~finite).sum(), len(finite))
    kept = np.flatnonzero(finite)
    if max_gaussians is not None and len(kept) > max_gaussians:
        _log.info("Starting from %d of %d points, chosen at random.", max_gaussians, len(kept))
        kept = np.sort(np.random.default_rng(seed).choice(kept, max_gaussians, replace=False))
    return points.xyz[kept], points.rgb[kept]
