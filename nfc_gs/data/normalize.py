"""The normalised frame that training works in, and points to start from where a capture has none."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nfc_gs.data.lens import Pinhole

COINCIDENT = 1e-3
"""Cameras whose positions differ by less than this share of their distance to the scene count as one position."""

FAR = 30.0
"""A camera this many times farther from the others than they are from each other and from the scene has a wrong pose:
with so different a scale, no feature of its photo would have been matched."""

NEAR_POINTS = 8
"""A camera with this many points about it belongs to the scene, wherever it is."""

FLOAT32_STEP = 1e-4
"""Largest step between neighbouring float32 coordinates, as a share of the size of the scene."""


@dataclass(frozen=True)
class Layout:
    """How the cameras of a scene are arranged, in the frame of the `viewmats` it was made from.

    Attributes:
        centre: [3], the point the cameras look at where they look at one, else their mean position.
        up: [3], unit, the mean of the cameras' upward directions.
        size: radius of the cameras around their mean; where that is one position, the distance to the scene.
        distance: median distance of the cameras to the point they look at; None where there is no such point.
    """

    centre: np.ndarray
    up: np.ndarray
    size: float
    distance: float | None


def camera_centers(viewmats: np.ndarray) -> np.ndarray:
    """Positions [C, 3] of cameras with rigid world-to-camera matrices [C, 4, 4]."""
    return -np.einsum("cji,cj->ci", viewmats[:, :3, :3], viewmats[:, :3, 3])


def camera_layout(viewmats: np.ndarray, points: np.ndarray) -> Layout:
    """The layout of cameras [C, 4, 4] and points [P, 3] (P may be 0) of a scene."""
    centers = camera_centers(viewmats)
    forwards, ups = viewmats[:, 2, :3], -viewmats[:, 1, :3]
    up = ups.mean(axis=0)
    if np.linalg.norm(up) < 0.05:  # cameras at all rolls: no direction is more upward than another
        up = ups[0]
    mean = centers.mean(axis=0)
    radius = float(np.linalg.norm(centers - mean, axis=1).max())
    depth = float(np.median(np.linalg.norm(points - mean, axis=1))) if len(points) else 0.0
    size = radius if radius > COINCIDENT * depth else depth
    # rounding leaves tiny distances between cameras at one position
    if size <= 1e-9 * max(1.0, float(np.abs(mean).max())):
        size = 1.0
    focus = focus_point(centers, forwards)
    distance = None if focus is None else float(np.median(np.linalg.norm(centers - focus, axis=1)))
    return Layout(mean if focus is None else focus, up / np.linalg.norm(up), size, distance)


def at_one_position(viewmats: np.ndarray) -> bool:
    """Whether all cameras [C, 4, 4] stand at the same place, but for rounding."""
    centers = camera_centers(viewmats)
    mean = centers.mean(axis=0)
    return float(np.abs(centers - mean).max()) <= 1e-9 * max(1.0, float(np.abs(mean).max()))


def far_cameras(viewmats: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, float]:
    """Which cameras [C, 4, 4] are absurdly far from the others and from the points [P, 3]: their poses must be wrong.

    They are those behind the first gap of a factor `FAR` in the distances of the cameras from their middle, if they are
    fewer than half (without points, a quarter: as many may well have a scene of their own). The distances are measured
    by the reach of the cameras before the gap: their own radius, or that of the scene about them if it is larger.

    Returns:
        [C] bool; the distance of the nearest of them in units of that reach.
    """
    centers = camera_centers(viewmats)
    middle = np.median(centers, axis=0)
    distances = np.linalg.norm(centers - middle, axis=1)
    order = np.argsort(distances, kind="stable")
    far = np.zeros(len(viewmats), dtype=bool)
    has_points = len(points) >= NEAR_POINTS
    most = (len(viewmats) - 1) // 2 if has_points else max(1, len(viewmats) // 4)
    for near in range(len(viewmats) - most, len(viewmats)):
        if distances[order[near]] <= FAR * distances[order[near - 1]]:
            continue
        inner, reach = order[:near], float(distances[order[near - 1]])
        if has_points:
            reach = max(reach, float(np.median(np.linalg.norm(points - middle, axis=1))))
        elif near < 3 or reach <= 1e-6 * distances[order[near]]:  # nothing says how large the scene is
            continue
        focus = focus_point(centers[inner], viewmats[inner, 2, :3])
        if focus is not None:
            reach = max(reach, float(np.median(np.linalg.norm(centers[inner] - focus, axis=1))))
        outer = [i for i in order[near:] if distances[i] > FAR * reach and not _among(centers[i], points, 3.0 * reach)]
        if outer:
            far[outer] = True
            return far, float(distances[outer].min()) / reach
    return far, 0.0


def _among(position: np.ndarray, points: np.ndarray, radius: float) -> bool:
    """Whether there are points within `radius` of a position, and not just a stray one."""
    return int((np.linalg.norm(points - position, axis=1) <= radius).sum()) >= NEAR_POINTS


def focus_point(centers: np.ndarray, forwards: np.ndarray) -> np.ndarray | None:
    """The point nearest to all viewing axes in the least-squares sense, where the axes do converge.

    It minimises sum |(I - d d^T) (x - c)|^2 over cameras at c [C, 3] that look along unit d [C, 3].

    Returns:
        [3]; None where the axes are close to parallel, or where most cameras do not have the point before them
        or pass it at a distance.
    """
    across = np.eye(3) - forwards[:, :, None] * forwards[:, None, :]  # [C, 3, 3]
    normal = across.mean(axis=0)
    if np.linalg.eigvalsh(normal)[0] < 0.02:  # the mean squared sine between the axes and their common direction
        return None
    focus = np.linalg.solve(normal, np.einsum("cij,cj->i", across, centers) / len(centers))
    offsets = focus - centers
    along = np.einsum("ci,ci->c", offsets, forwards)
    distance_to_axis = np.linalg.norm(offsets - along[:, None] * forwards, axis=1)
    return focus if (distance_to_axis < 0.5 * along).mean() > 0.75 else None


def normalising_transform(layout: Layout) -> np.ndarray:
    """Similarity [4, 4] from the capture's world to the normalised frame.

    There the centre is at the origin, up is +z, and the cameras keep within a distance of about 1 of their mean.
    """
    rotation = _rotation_between(layout.up, np.array([0.0, 0.0, 1.0]))
    scale = 1.0 / layout.size
    transform = np.eye(4)
    transform[:3, :3] = scale * rotation
    transform[:3, 3] = -scale * rotation @ layout.centre
    return transform


def too_far_for_float32(centre: np.ndarray, size: float) -> bool:
    """Whether float32 coordinates about `centre` [3], of UTM for example, are too coarse for a scene of this size."""
    return float(np.finfo(np.float32).eps * np.abs(centre).max()) > FLOAT32_STEP * size


def rounded_offset(centre: np.ndarray, size: float) -> np.ndarray:
    """`centre` [3] to a power of ten that is no larger than the scene: short to write down, and still in its middle."""
    return np.round(centre, -math.floor(math.log10(size)))


def translation(shift: np.ndarray) -> np.ndarray:
    """The similarity [4, 4] that adds `shift` [3]."""
    transform = np.eye(4)
    transform[:3, 3] = shift
    return transform


def _rotation_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation [3, 3] that takes the unit vector a to the unit vector b (Rodrigues)."""
    v, c = np.cross(a, b), float(a @ b)
    if c < -1.0 + 1e-9:  # opposite: half a turn about any axis across
        axis = np.cross(a, np.eye(3)[int(np.abs(a).argmin())])
        axis /= np.linalg.norm(axis)
        return 2.0 * np.outer(axis, axis) - np.eye(3)
    k = np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])
    return np.eye(3) + k + k @ k / (1.0 + c)


def same_frame(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two similarities [4, 4] from one world lead to the same frame, but for rounding of large coordinates."""
    return np.allclose(b @ np.linalg.inv(a), np.eye(4), rtol=0.0, atol=1e-6)


def transform_viewmats(viewmats: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """World-to-camera matrices [C, 4, 4] in the frame that `transform` (a similarity, [4, 4]) leads to.

    They stay rigid: the scale goes into the positions.
    """
    scale = float(np.cbrt(np.linalg.det(transform[:3, :3])))
    centers = camera_centers(viewmats) @ transform[:3, :3].T + transform[:3, 3]
    moved = np.tile(np.eye(4), (len(viewmats), 1, 1))
    moved[:, :3, :3] = viewmats[:, :3, :3] @ (transform[:3, :3] / scale).T
    moved[:, :3, 3] = -np.einsum("cij,cj->ci", moved[:, :3, :3], centers)
    return moved


def transform_points(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Points [P, 3] in the frame that `transform` [4, 4] leads to."""
    return points @ transform[:3, :3].T + transform[:3, 3]


def depth_range(layout: Layout, *, object_only: bool) -> tuple[float, float]:
    """Nearest and farthest depth at which to look for the scene, in the units of `layout`.

    Around the point the cameras look at (closely where nothing but an object is before a plain background); where
    they look at none, from a fifth to thirty times the size of the camera layout.
    """
    if layout.distance is None:
        return 0.2 * layout.size, 30.0 * layout.size
    near, far = (0.6, 1.4) if object_only else (0.3, 2.5)
    return near * layout.distance, far * layout.distance


def random_points(
    viewmats: np.ndarray, pinholes: list[Pinhole], depths: tuple[float, float], count: int, seed: int
) -> np.ndarray:
    """Points where the cameras can see them, for captures that bring none.

    Each lies at a random pixel of a random camera, at a depth drawn evenly on a logarithmic scale between the two
    `depths`, and is in view of at least three cameras, or of as many as there are or overlap.

    Args:
        viewmats: [C, 4, 4]; pinholes: the C intrinsics.

    Returns:
        [count, 3] float64, the same for the same arguments.
    """
    rng = np.random.default_rng(seed % 2**63)
    near, far = depths
    intrinsics = np.stack([intrinsics_of(pinhole) for pinhole in pinholes])
    tested = rng.permutation(len(viewmats))[:64]  # enough cameras to test visibility with
    kept: list[np.ndarray] = []
    for least in range(min(3, len(tested)), -1, -1):
        for _ in range(10):
            lacking = count - sum(map(len, kept))
            if lacking <= 0:
                break
            camera = rng.integers(len(viewmats), size=2 * lacking if least else lacking)
            fx, fy, cx, cy, width, height = intrinsics[camera].T
            depth = near * (far / near) ** rng.random(len(camera))
            x, y = rng.random(len(camera)) * width, rng.random(len(camera)) * height
            local = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)], axis=1) * depth[:, None]
            rotation, translation = viewmats[camera, :3, :3], viewmats[camera, :3, 3]
            points = np.einsum("pji,pj->pi", rotation, local - translation)
            seen = sum(in_view(points, viewmats[c], intrinsics[c], 0.5 * near) for c in tested)
            good = points[np.asarray(seen) >= least][:lacking]
            kept.append(good)
            if len(good) < 0.05 * len(points):  # hardly any overlap: require fewer views
                break
    return np.concatenate(kept)[:count]


def intrinsics_of(p: Pinhole) -> np.ndarray:
    """What `in_view` needs to know of a pinhole, [6]."""
    return np.array([p.fx, p.fy, p.cx, p.cy, p.width, p.height])


def in_view(points: np.ndarray, viewmat: np.ndarray, intrinsics: np.ndarray, near: float = 0.0) -> np.ndarray:
    """Which points [P, 3] a camera sees, as 0 or 1: in its picture, and deeper than `near`.

    Args:
        viewmat: [4, 4]; intrinsics: fx, fy, cx, cy, width and height.

    Returns:
        [P] int64.
    """
    fx, fy, cx, cy, width, height = intrinsics
    x, y, z = (points @ viewmat[:3, :3].T + viewmat[:3, 3]).T
    with np.errstate(all="ignore"):
        u, v = fx * x / z + cx, fy * y / z + cy
        return ((z > near) & (u >= 0) & (u <= width) & (v >= 0) & (v <= height)).astype(np.int64)
