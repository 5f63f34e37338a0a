"""Points inside the silhouettes that alpha channels show, to start from where a capture has no points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nfc_gs.data.scene import PointCloud, SceneData

INSIDE_SHARE = 0.5
"""A point stays where so large a share of the views that see it have it inside their silhouette. In a still scene all
have; of what moves each view shows another pose."""

SEEING_SHARE = 1.0 / 3.0
"""Share of the views that must see a point: few look at the corners of the box, and soon agree."""

LEAST_VIEWS = 3
"""With fewer silhouettes nothing is carved."""

CARVING_VIEWS = 100
"""Most views that carve, chosen at random."""

MASK_SIDE = 400
"""Longest side in pixels that a silhouette keeps, about."""

SCOUTS = 100_000
"""Points that are drawn in the whole box to find the smaller one that holds the object."""

LEAST_SCOUTS = 50
"""With fewer of them inside, the silhouettes are not believed."""

MARGIN = 0.1
"""By how much of its side the smaller box exceeds these at each end."""

BATCH, MOST_BATCHES = 100_000, 50
"""Points that are drawn at once in the smaller box, and how often."""


@dataclass(frozen=True)
class _Silhouette:
    """What one view shows and how its camera stands.

    Attributes:
        inside: [H, W] bool, the foreground.
        rgb: [H, W, 3] uint8.
        viewmat: [4, 4] float64.
        intrinsics: fx, fy, cx and cy, pixels.
    """

    inside: np.ndarray
    rgb: np.ndarray
    viewmat: np.ndarray
    intrinsics: tuple[float, float, float, float]

    def pixels(self, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which points [P, 3] are in the picture, [P] bool, and the columns and rows [P] of their pixels (0 for those
        that are not)."""
        fx, fy, cx, cy = self.intrinsics
        x, y, z = (  # written out: the rounding of a matrix product may depend on the number of threads
            xyz[:, 0] * row[0] + xyz[:, 1] * row[1] + xyz[:, 2] * row[2] + row[3] for row in self.viewmat[:3]
        )
        with np.errstate(all="ignore"):
            u, v = np.floor(fx * x / z + cx), np.floor(fy * y / z + cy)
            seen = (z > 0) & (u >= 0) & (u < self.inside.shape[1]) & (v >= 0) & (v < self.inside.shape[0])
        return seen, np.where(seen, u, 0).astype(np.int64), np.where(seen, v, 0).astype(np.int64)


def carved_points(scene: SceneData, count: int, seed: int) -> PointCloud | None:
    """Points evenly inside the visual hull of the foreground of the training views (Laurentini 1994), relaxed for
    motion by `INSIDE_SHARE`, in the mean color that the silhouettes have there.

    Args:
        scene: whose points fill the box to look in.
        seed: the same gives the same points.

    Returns:
        `count` points, or fewer where the hull is a tiny part of its box; None where views have no foreground, or too
        few agree.

    Raises:
        UserError: an image cannot be read.
    """
    rng = np.random.default_rng(seed)
    silhouettes = _silhouettes(scene, rng)
    if len(silhouettes) < LEAST_VIEWS:
        return None
    low, high = scene.points.xyz.min(axis=0).astype(np.float64), scene.points.xyz.max(axis=0).astype(np.float64)
    scouts, _ = _inside(low + (high - low) * rng.random((SCOUTS, 3)), silhouettes)
    if len(scouts) < LEAST_SCOUTS:
        return None
    margin = MARGIN * (scouts.max(axis=0) - scouts.min(axis=0))
    low, high = np.maximum(low, scouts.min(axis=0) - margin), np.minimum(high, scouts.max(axis=0) + margin)
    kept: list[np.ndarray] = []
    colors: list[np.ndarray] = []
    for _ in range(MOST_BATCHES):
        xyz, rgb = _inside(low + (high - low) * rng.random((BATCH, 3)), silhouettes)
        kept.append(xyz)
        colors.append(rgb)
        if sum(map(len, kept)) >= count:
            break
    xyz, rgb = np.concatenate(kept)[:count], np.concatenate(colors)[:count]
    return PointCloud(xyz.astype(np.float32), np.round(rgb).astype(np.uint8))


def _silhouettes(scene: SceneData, rng: np.random.Generator) -> list[_Silhouette]:
    """Those of some training views that have a foreground."""
    found = []
    for index in rng.permutation(scene.train)[:CARVING_VIEWS].tolist():
        inside = scene.foreground(index)
        if inside is None:
            continue
        camera, step = scene.views[index].camera, max(1, round(max(inside.shape) / MASK_SIDE))
        intrinsics = (camera.fx / step, camera.fy / step, camera.cx / step, camera.cy / step)
        pixels = np.ascontiguousarray(scene.image(index).rgb[::step, ::step])
        viewmat = camera.viewmat.double().numpy()
        found.append(_Silhouette(np.ascontiguousarray(inside[::step, ::step]), pixels, viewmat, intrinsics))
    return found


def _inside(xyz: np.ndarray, silhouettes: Sequence[_Silhouette]) -> tuple[np.ndarray, np.ndarray]:
    """Those of the points [P, 3] that stay, [M, 3], and their colors [M, 3] in 0..255."""
    seeing, inside = np.zeros(len(xyz), dtype=np.int64), np.zeros(len(xyz), dtype=np.int64)
    total = np.zeros((len(xyz), 3))
    for silhouette in silhouettes:
        seen, columns, rows = silhouette.pixels(xyz)
        within = seen & silhouette.inside[rows, columns]
        seeing += seen
        inside += within
        total[within] += silhouette.rgb[rows[within], columns[within]]
    stays = (seeing >= SEEING_SHARE * len(silhouettes)) & (inside >= INSIDE_SHARE * seeing)
    return xyz[stays], total[stays] / inside[stays, None]
