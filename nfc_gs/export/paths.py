"""Camera paths for videos: an orbit around what a capture looks at, and a smooth path through given cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core.camera import Camera, look_at, look_at_viewmat
from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import SceneData

DEFAULT_UP = (0.0, -1.0, 0.0)
"""Up in most files of splats."""

_FULL_CIRCLE_GAP = np.radians(120)
"""Cameras around a centre make a full circle if they leave no gap of azimuth wider than this."""


def orbit(scene: SceneData, frames: int, *, width: int | None = None, height: int | None = None) -> list[Camera]:
    """A smooth closed path around what the training cameras look at.

    The centre is the point nearest to the viewing axes in least squares. If the cameras go around it, so does the
    path, at a distance and height that follow theirs; otherwise (forward-facing captures, arcs) the path is an
    ellipse within the region that the cameras cover. Where they look outwards, the path goes through them.

    Args:
        frames: number of cameras, >= 1; the last is one step before the first, so that a video loops.
        width, height: of the pictures in pixels; a side that is left out follows from the other, and both are those of
            the first training view if none is given.

    Returns:
        `frames` cameras in the frame of the scene.

    Raises:
        UserError: `frames` is less than 1, or the scene has no views.

    >>> garden = nfc_gs.load_model("runs/garden")
    >>> cameras = nfc_gs.orbit(garden.scene, frames=8, width=320)
    >>> len(cameras), cameras[0].width, cameras[0].height
    (8, 320, 240)
    >>> images = [nfc_gs.render(garden, camera).rgb.numpy() for camera in cameras]
    """
    if not isinstance(scene, SceneData):
        raise UserError(f"orbit follows the cameras of a scene, not of a {type(scene).__name__}; give its .scene.")
    cameras = [scene.views[i].camera for i in scene.train or range(len(scene.views))]
    _check(cameras, frames)
    poses = _Poses.of(cameras)
    centre = _focus(poses, scene.points.xyz)
    if centre is None:
        return interpolate(cameras, frames, closed=True, order="nearest", width=width, height=height)
    up = _up(poses)
    east = _perpendicular(up, poses.centres.mean(0) - centre)
    north = np.cross(up, east)
    local = (poses.centres - centre) @ np.stack([east, north, up]).T  # [C, 3], up is the third axis
    turns = np.linspace(0, 2 * np.pi, frames, endpoint=False)
    azimuths = np.arctan2(local[:, 1], local[:, 0])
    gap, gap_middle = _widest_gap(azimuths)
    if gap <= _FULL_CIRCLE_GAP:
        points = _circle(local, azimuths, turns)
    else:
        points = _ellipse(local, azimuths, turns, front=gap_middle + np.pi)
    eyes = points @ np.stack([east, north, up]) + centre
    lens = _lens(cameras[0], width, height)
    up_tensor = torch.from_numpy(up).float()
    target = torch.from_numpy(centre).float()
    return [_with_pose(lens, look_at_viewmat(torch.from_numpy(eye).float(), target, up_tensor)) for eye in eyes]


def orbit_around(
    points: Tensor,
    frames: int,
    *,
    up: tuple[float, float, float] = DEFAULT_UP,
    width: int | None = None,
    height: int | None = None,
) -> list[Camera]:
    """A circle around points of which no camera is known, from a little above.

    Args:
        points: [N, 3], the centres of Gaussians for example.
        frames: number of cameras, >= 1; the last is one step before the first.
        up: that of a file is `load_model(file).notes.up`; by default -y, as in most files of splats.
        width, height: of the pictures in pixels; 4 : 3, and 640 x 480 if none is given.

    Raises:
        UserError: `frames` is less than 1, or the size is not positive.
    """
    middle, radius = middle_and_radius(points)
    upward = np.array(up)
    side = _perpendicular(upward, np.array([1.0, 0.0, 0.0]))
    ahead = np.cross(upward, side)
    turns = np.linspace(0, 2 * np.pi, max(frames, 0), endpoint=False)[:, None]
    offsets = 4.0 * radius * (np.cos(turns) * side + np.sin(turns) * ahead) + 1.0 * radius * upward
    center = middle.double().cpu().numpy()
    cameras = [look_at(center + offset, center, up, width=640, height=480) for offset in offsets]
    _check(cameras, frames)
    lens = _lens(cameras[0], width, height)
    return [_with_pose(lens, camera.viewmat) for camera in cameras]


def middle_and_radius(points: Tensor) -> tuple[Tensor, float]:
    """Where points [N, 3] are: their median [3], and the median distance from it, never 0."""
    points = points[:: max(1, len(points) // 100_000)].cpu()
    middle = points.median(0).values
    return middle, float((points - middle).norm(dim=1).median()) or 1.0


def interpolate(
    cameras: Sequence[Camera],
    frames: int,
    *,
    closed: bool = False,
    order: Literal["given", "nearest"] = "given",
    width: int | None = None,
    height: int | None = None,
) -> list[Camera]:
    """A smooth path through the poses of given cameras, at an even pace.

    Positions follow a centripetal Catmull-Rom spline (Yuksel et al., "Parameterization and applications of
    Catmull-Rom curves", 2011), rotations a cubic rotation spline with continuous angular acceleration.

    Args:
        frames: number of cameras of the path, >= 1.
        closed: come back to the first camera; the last is one step before it.
        order: "given" keeps the order of the cameras; "nearest" takes a short path through them, from the first on.
        width, height: of the pictures in pixels, as `orbit` has them.

    Returns:
        `frames` cameras; an open path begins at the first camera and ends at the last.

    Raises:
        UserError: no frames or no cameras.
    """
    _check(cameras, frames)
    if order == "nearest":
        cameras = [cameras[i] for i in _short_order(_Poses.of(cameras), closed)]
    return travel(cameras, frames, closed=closed, width=width, height=height)[0]


def travel(
    cameras: Sequence[Camera],
    frames: int,
    *,
    closed: bool = False,
    width: int | None = None,
    height: int | None = None,
) -> tuple[list[Camera], np.ndarray]:
    """The path of `interpolate` in the order given, and where on it each picture is.

    Returns:
        `frames` cameras, and for each which of the given ones it is at, [frames] float: i for `cameras[i]`, what lies
        between two of them for the path from one to the next; on a closed path `len(cameras)` is the first again.
        Numbers never decrease; cameras at the pose of the one before them share the part of the path that follows.
    """
    from scipy.interpolate import CubicHermiteSpline
    from scipy.spatial.transform import Rotation, RotationSpline

    _check(cameras, frames)
    lens = _lens(cameras[0], width, height)
    poses, count = _Poses.of(cameras), len(cameras)
    kept = np.asarray(_distinct(poses, closed))
    if len(kept) == 1:
        places = np.linspace(0.0, count if closed else count - 1, frames, endpoint=not closed)
        return [_with_pose(lens, torch.from_numpy(poses.viewmats[0]).float())] * frames, places
    margin = 3 if closed else 0  # go on behind the first and the last, so that the seam is as smooth as the rest
    keys = np.arange(-margin, len(kept) + margin + closed)
    numbers = kept[keys % len(kept)] + count * (keys // len(kept))
    if not closed:
        numbers[-1] = count - 1
    poses = poses[kept[keys % len(kept)]]
    knots = np.concatenate([[0.0], np.cumsum(np.sqrt(_steps(poses)))])
    slopes = np.gradient(poses.centres, knots, axis=0)  # of the parabola through three neighbours
    position = CubicHermiteSpline(knots, poses.centres, slopes)
    rotation = RotationSpline(knots, Rotation.from_matrix(poses.viewmats[:, :3, :3]))
    begin, end = knots[margin], knots[-1 - margin]

    def sample(at: np.ndarray) -> _Poses:
        return _Poses.at(position(at), rotation(at).as_matrix())

    fine = np.linspace(begin, end, max(20 * len(poses), 4 * frames))
    length = np.concatenate([[0.0], np.cumsum(_steps(sample(fine), poses.size))])
    even = np.interp(np.linspace(0, length[-1], frames, endpoint=not closed), length, fine)
    path = [_with_pose(lens, torch.from_numpy(viewmat).float()) for viewmat in sample(even).viewmats]
    return path, np.interp(even, knots, numbers)


@dataclass(frozen=True)
class _Poses:
    """Poses of C cameras as arrays.

    Attributes:
        viewmats: [C, 4, 4] float64, world to camera.
        centres: [C, 3] their positions.
    """

    viewmats: np.ndarray
    centres: np.ndarray

    @staticmethod
    def of(cameras: Sequence[Camera]) -> _Poses:
        viewmats = np.stack([camera.viewmat.detach().cpu().double().numpy() for camera in cameras])
        return _Poses(viewmats, -np.einsum("cji,cj->ci", viewmats[:, :3, :3], viewmats[:, :3, 3]))

    @staticmethod
    def at(centres: np.ndarray, rotations: np.ndarray) -> _Poses:
        viewmats = np.tile(np.eye(4), (len(centres), 1, 1))
        viewmats[:, :3, :3] = rotations
        viewmats[:, :3, 3] = -np.einsum("cij,cj->ci", rotations, centres)
        return _Poses(viewmats, centres)

    def __len__(self) -> int:
        return len(self.viewmats)

    def __getitem__(self, index: np.ndarray | list[int]) -> _Poses:
        return _Poses(self.viewmats[index], self.centres[index])

    @property
    def forwards(self) -> np.ndarray:
        """[C, 3] viewing directions."""
        return self.viewmats[:, 2, :3]

    @property
    def size(self) -> float:
        """The distance that counts as much as a turn of one radian: the spread of the positions, never 0."""
        return float(np.linalg.norm(self.centres - self.centres.mean(0), axis=1).mean()) or 1.0


def _check(cameras: Sequence[Camera], frames: int) -> None:
    if frames < 1:
        raise UserError(f"A camera path of {frames} frames is empty; ask for at least 1.")
    if not cameras:
        raise UserError("A camera path needs at least one camera, and there is none.")


def _lens(camera: Camera, width: int | None, height: int | None) -> Camera:
    """`camera` with a centred principal point and another size in pixels; what it shows is cropped, never widened."""
    width, height = size_like(camera, width, height)
    zoom = max(width / camera.width, height / camera.height)
    return Camera(camera.viewmat, camera.fx * zoom, camera.fy * zoom, width / 2, height / 2, width, height)


def size_like(camera: Camera, width: int | None, height: int | None) -> tuple[int, int]:
    """A size in pixels; a side that is left out follows from the other, and both are the camera's if none is given.

    Raises:
        UserError: it is not positive.
    """
    sides = (camera.width if width is None else width, camera.height if height is None else height)
    if min(sides) < 1:
        raise UserError(f"A picture of {sides[0]} x {sides[1]} pixels cannot be drawn; give a positive size.")
    if width is None and height is not None:
        return max(1, round(camera.width * height / camera.height)), height
    if height is None and width is not None:
        return width, max(1, round(camera.height * width / camera.width))
    return sides


def _with_pose(lens: Camera, viewmat: torch.Tensor) -> Camera:
    return Camera(viewmat, lens.fx, lens.fy, lens.cx, lens.cy, lens.width, lens.height)


def _up(poses: _Poses) -> np.ndarray:
    """The direction that is up for the cameras, [3].

    Photographers hold the camera level, so up is perpendicular to every camera's right; among such directions
    (there are many if all look the same way) it is the one nearest to the mean of the cameras' own up.
    """
    rights, ups = poses.viewmats[:, 0, :3], -poses.viewmats[:, 1, :3]
    mean = ups.mean(0)
    _, vectors = np.linalg.eigh(rights.T @ rights / len(rights) - 0.02 * np.outer(mean, mean))
    up = vectors[:, 0]
    return up if up @ mean >= 0 else -up


def _focus(poses: _Poses, points: np.ndarray) -> np.ndarray | None:
    """The point that the cameras look at, [3]; None if they look outwards.

    It minimises sum |(I - d d^T) (p - c)|^2 over positions c and directions d. Nearly parallel axes leave its
    depth open, so there (and if it lies behind the cameras) the median depth of the scene's points decides.
    """
    forwards, centres = poses.forwards, poses.centres
    mean = forwards.mean(0)
    across = np.eye(3) - np.einsum("ci,cj->cij", forwards, forwards)  # [C, 3, 3]
    matrix = across.mean(0)
    if np.linalg.eigvalsh(matrix)[0] > 0.005:  # the axes spread by about 4 degrees or more
        focus = np.linalg.solve(matrix, np.einsum("cij,cj->i", across, centres) / len(poses))
        in_front = ((focus - centres) * forwards).sum(1) > 0
        if in_front.mean() > 0.8:
            return focus
    if np.linalg.norm(mean) < 0.5:
        return None
    forward = mean / np.linalg.norm(mean)
    depths = (points - centres.mean(0)) @ forward
    depths = depths[depths > 0]
    depth = float(np.median(depths)) if len(depths) else 4 * poses.size
    return centres.mean(0) + depth * forward


def _perpendicular(up: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """A unit vector perpendicular to `up`, as near to `towards` as can be."""
    flat = towards - up * (up @ towards)
    if np.linalg.norm(flat) < 1e-6 * max(np.linalg.norm(towards), 1e-12):
        flat = np.eye(3)[np.abs(up).argmin()]
        flat = flat - up * (up @ flat)
    return flat / np.linalg.norm(flat)


def _widest_gap(azimuths: np.ndarray) -> tuple[float, float]:
    """The widest angle around the circle with no camera in it, and its middle; radians."""
    turned = np.sort(azimuths)
    gaps = np.diff(np.append(turned, turned[0] + 2 * np.pi))
    widest = int(gaps.argmax())
    return float(gaps[widest]), float(turned[widest] + gaps[widest] / 2)


def _circle(local: np.ndarray, azimuths: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """A closed path around the origin whose distance and height follow the cameras', [F, 3].

    Both are fitted by a + b cos(azimuth) + c sin(azimuth), with b and c drawn towards 0.
    """

    def waves(angles: np.ndarray) -> np.ndarray:
        return np.stack([np.ones_like(angles), np.cos(angles), np.sin(angles)], axis=1)

    basis = waves(azimuths)
    values = np.stack([np.hypot(local[:, 0], local[:, 1]), local[:, 2]], axis=1)
    damping = np.diag([0.0, 0.2, 0.2]) * len(local)
    distance, height = (waves(turns) @ np.linalg.solve(basis.T @ basis + damping, basis.T @ values)).T
    distance = np.maximum(distance, 0.5 * values[:, 0].mean())
    return np.stack([distance * np.cos(turns), distance * np.sin(turns), height], axis=1)


def _ellipse(local: np.ndarray, azimuths: np.ndarray, turns: np.ndarray, front: float) -> np.ndarray:
    """A closed path on a sphere within the azimuths and elevations of the cameras, around azimuth `front`, [F, 3]."""
    radii = np.linalg.norm(local, axis=1)
    elevations = np.arcsin(np.clip(local[:, 2] / np.maximum(radii, 1e-12), -1, 1))

    def middle_and_reach(values: np.ndarray, least: float) -> tuple[float, float]:
        low, high = np.percentile(values, [10, 90])
        return (low + high) / 2, max((high - low) / 2, least)

    sides = (azimuths - front + np.pi) % (2 * np.pi) - np.pi  # the gap lies at +-pi, so no camera's wraps around
    side, sideways = middle_and_reach(sides, np.radians(3))
    elevation, upwards = middle_and_reach(elevations, np.radians(1.5))
    a = front + side + sideways * np.sin(turns)
    e = elevation + min(upwards, 0.4 * sideways) * np.cos(turns)
    directions = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], axis=1)
    return np.median(radii) * directions


def _steps(poses: _Poses, size: float | None = None) -> np.ndarray:
    """[C - 1] how far each pose is from the one before: distance in units of `size`, plus the turn in radians."""
    moves = np.linalg.norm(np.diff(poses.centres, axis=0), axis=1) / (size or poses.size)
    return moves + _angles(poses.viewmats[:-1], poses.viewmats[1:])


def _angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[C] angles x in radians between rotations, exact for small ones too: |A - B|_F = 2 sqrt(2) sin(x / 2)."""
    chord = np.linalg.norm(a[..., :3, :3] - b[..., :3, :3], axis=(-2, -1))
    return 2 * np.arcsin(np.minimum(chord / (2 * np.sqrt(2)), 1.0))


def _distinct(poses: _Poses, closed: bool) -> list[int]:
    """Indices of the poses that differ from the one before them (on a closed path the last from the first too)."""
    kept = [0, *(np.flatnonzero(_steps(poses) > 1e-6) + 1).tolist()]
    if closed and len(kept) > 1 and _steps(poses[[kept[-1], 0]], poses.size)[0] <= 1e-6:
        kept.pop()
    return kept


def _short_order(poses: _Poses, closed: bool) -> list[int]:
    """An order of the poses, from the first on, that makes the path short: nearest neighbour, then 2-opt."""
    n = len(poses)
    distance = np.linalg.norm(poses.centres[:, None] - poses.centres[None], axis=2) / poses.size
    distance += _angles(poses.viewmats[:, None], poses.viewmats[None])
    left = set(range(1, n))
    order = [0]
    while left:
        order.append(min(left, key=lambda i: (distance[order[-1], i], i)))
        left.remove(order[-1])
    improved = n <= 500  # beyond, the greedy order has to do
    while improved:
        improved = False
        for i in range(1, n - 1):
            tour = np.array(order)
            ends, nexts = tour[i + 1 :], np.append(tour[i + 2 :], 0)  # turn order[i..j] around, for every j > i
            before = distance[tour[i - 1], tour[i]] + distance[ends, nexts]
            turned = distance[tour[i - 1], ends] + distance[tour[i], nexts]
            gain = before - turned
            if not closed:  # no edge follows the last
                gain[-1] = distance[tour[i - 1], tour[i]] - distance[tour[i - 1], tour[-1]]
            best = int(gain.argmax())
            if gain[best] > 1e-9:
                j = i + 1 + best
                order[i : j + 1] = order[i : j + 1][::-1]
                improved = True
    return order
