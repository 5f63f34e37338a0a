"""The sparse points of the built-in capture, with tracks, as structure from motion would have found them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nfc_gs.core.camera import Camera
from nfc_gs.data.builtin.draw import DrawnView, Rays
from nfc_gs.data.builtin.ray_caster import RayCaster
from nfc_gs.data.builtin.solids import Solid
from nfc_gs.data.builtin.still_life import still_life

_KEYPOINT_NOISE = 0.3  # pixels
_POINT_NOISE = 5e-4  # times distance


@dataclass(frozen=True)
class Tracks:
    """Sparse surface points and where they were seen, as structure from motion would give them.

    Attributes:
        xyz: [P, 3] float64, world, metres; off the surface by about a thousandth of the distance.
        rgb: [P, 3] uint8, as in the picture where the point was found.
        starts: [P + 1] int64; the observations of point p are starts[p] .. starts[p + 1].
        views: [O] int64, index of the camera of each observation.
        keypoints: [O, 2] float64, image points with about 0.3 pixels of noise.
    """

    xyz: np.ndarray
    rgb: np.ndarray
    starts: np.ndarray
    views: np.ndarray
    keypoints: np.ndarray


def track_points(
    cameras: list[Camera],
    drawn_views: list[DrawnView],
    seed: int = 0,
    time: float = 0.0,
    count: int = 6000,
    scene: list[Solid] | None = None,
) -> Tracks:
    """Choose about `count` surface points where pictures have detail, and find every view that sees them.

    Args:
        cameras, drawn_views: the cameras and what `draw` gave for them at `time`.
        seed: of the choice and the noise.
        scene: what `draw` drew; the still life if None.
    """
    random = np.random.default_rng(seed)
    caster, views = RayCaster(still_life() if scene is None else scene, time), [Rays(camera) for camera in cameras]
    found, colors = [], []
    for rays, drawn in zip(views, drawn_views, strict=True):
        y, x = _detailed_pixels(drawn, -(-count // len(cameras)), random)
        directions, z = rays.through(x + 0.5, y + 0.5)
        found.append(rays.origin + directions * (drawn.depth[y, x] / z))
        colors.append(drawn.rgb[y, x])
    points, rgb = np.concatenate(found, axis=1), np.concatenate(colors)

    keypoints = np.full((len(cameras), points.shape[1], 2), np.nan)
    for k, rays in enumerate(views):
        place, visible = _visible(caster, rays, points)
        matched = visible & (random.random(visible.shape) < 0.8)  # matching misses some
        noisy = place + _KEYPOINT_NOISE * np.clip(random.standard_normal(place.shape), -3, 3)
        inside = ((noisy > 0) & (noisy < [rays.camera.width, rays.camera.height])).all(axis=1)
        keypoints[k, matched & inside] = noisy[matched & inside]

    seen = np.isfinite(keypoints[..., 0])
    kept = seen.sum(axis=0) >= 2
    seen, keypoints = seen[:, kept].T, keypoints[:, kept].transpose(1, 0, 2)
    distance = np.linalg.norm(points[:, kept], axis=0) + 4.0
    noise = _POINT_NOISE * distance * np.clip(random.standard_normal((3, kept.sum())), -3, 3)
    starts = np.concatenate([[0], np.cumsum(seen.sum(axis=1))])
    return Tracks((points[:, kept] + noise).T, rgb[kept], starts, np.nonzero(seen)[1], keypoints[seen])


def _detailed_pixels(drawn: DrawnView, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of up to `count` different pixels that show a surface, mostly where the picture has detail."""
    grey = drawn.rgb.astype(np.float64).mean(axis=2)
    detail = np.hypot(*np.gradient(grey))
    far = np.clip(drawn.depth / 6.0, 1.0, 3.0)  # a share for the background, which fewer pictures show
    weight = np.where(drawn.mask > 0, (np.minimum(detail, 15.0) + 3.0) * far, 0.0).ravel()
    count = min(count, int(np.count_nonzero(weight)))
    if count == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    chosen = random.choice(weight.size, count, replace=False, p=weight / weight.sum())
    rows, cols = np.divmod(chosen, drawn.mask.shape[1])
    return rows, cols


def _visible(caster: RayCaster, rays: Rays, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image points [P, 2] of world points [3, P], and which of them the camera sees, [P] bool."""
    c = rays.camera
    local = rays.turn.T @ (points - rays.origin)
    place = np.stack([local[0] / local[2] * c.fx + c.cx, local[1] / local[2] * c.fy + c.cy], axis=1)
    inside = (local[2] > 0) & (place > 0).all(axis=1) & (place < [c.width, c.height]).all(axis=1)
    visible = np.zeros(points.shape[1], bool)
    which = np.flatnonzero(inside)
    if which.size:
        directions, z = rays.through(place[which, 0], place[which, 1])
        depth = caster.cast(rays.origin, directions)[0] * z
        visible[which] = np.abs(depth - local[2, which]) < 2e-3 * local[2, which]
    return place, visible
