"""The built-in capture: pictures of a small still life, drawn by a ray caster and written as a COLMAP project.

Everything here is exact up to rounding: cameras, depths, masks and which point is seen from where. Nothing
is drawn by a splat renderer, so the capture can judge one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

import numpy as np
import torch

from nfc_gs.core.camera import Camera, look_at
from nfc_gs.data.synthetic_caster import Caster, sun_directions
from nfc_gs.data.synthetic_scene import things

_FIELD_OF_VIEW = 55.0  # degrees across the width of a picture
_CONTRAST = 0.05  # of square roots of light between neighbours, above which a pixel gets more rays
_KEYPOINT_NOISE = 0.3  # pixels
_POINT_NOISE = 5e-4  # times distance
_Sample = tuple[np.ndarray, np.ndarray, np.ndarray]
_TILE = 80  # pixels along a side of the tiles that are drawn at once: small arrays stay in the processor's cache


@dataclass(frozen=True)
class Drawing:
    """A picture with its ground truth.

    Attributes:
        rgb: [H, W, 3] uint8, sRGB.
        depth: [H, W] float32, along the camera's z at the pixel's centre, metres; infinity for the sky.
        mask: [H, W] uint8, `synthetic_scene.labels` of what the pixel's centre shows; 0 for the sky.
    """

    rgb: np.ndarray
    depth: np.ndarray
    mask: np.ndarray


def cameras(count: int = 48, width: int = 320, height: int = 240) -> list[Camera]:
    """Cameras on a closed walk around the scene, at changing heights and distances, all looking inwards.

    Neighbours in angle are far apart in order, so that every k-th view is a fair sample of all directions.
    """
    turns = min((k for k in range(1, count + 1) if gcd(k, count) == 1), key=lambda k: abs(k - count / 9.6))
    focal = 0.5 * width / np.tan(np.radians(_FIELD_OF_VIEW / 2))
    result = []
    for k in range(count):
        phase = 2 * np.pi * k / count
        angle, distance = turns * phase, 4.75 + 0.45 * np.cos(2 * phase + 0.4)
        eye = [distance * np.cos(angle), distance * np.sin(angle), 2.15 + 0.95 * np.sin(3 * phase + 0.7)]
        target = [0.15 * np.cos(2 * phase), 0.15 * np.sin(phase), 0.62]
        position, aim, up = (torch.tensor(v, dtype=torch.float64) for v in (eye, target, [0.0, 0.0, 1.0]))
        viewmat = look_at(position, aim, up).float()
        result.append(Camera(viewmat, focal, focal, width / 2, height / 2, width, height))
    return result


def _encode(light: np.ndarray) -> np.ndarray:
    """Linear light in 0..1 as 8-bit sRGB (IEC 61966-2-1)."""
    light = np.clip(light, 0.0, 1.0)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255.0 * srgb).astype(np.uint8)


def _tone(light: np.ndarray) -> np.ndarray:
    """Scene light to what a display shows, 0..1: a soft shoulder (Narkowicz 2015, fit of the ACES curve)."""
    x = 0.62 * light
    return x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)


class _Rays:
    """Rays of a camera in the world."""

    def __init__(self, camera: Camera) -> None:
        viewmat = camera.viewmat.detach().cpu().double().numpy()
        self.camera = camera
        self.turn = viewmat[:3, :3].T
        self.origin = (-self.turn @ viewmat[:3, 3:]).astype(np.float32)  # [3, 1]

    def through(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Directions [3, R] through image points (x, y) [R]; their camera z is 1, so that t is depth."""
        c = self.camera
        local = np.stack([(x - c.cx) / c.fx, (y - c.cy) / c.fy, np.ones_like(x)])
        return (self.turn @ local).astype(np.float32)


def draw(camera: Camera, time: float = 0.0, supersample: int = 2) -> Drawing:
    """Draw the built-in scene.

    One ray goes through every pixel's centre; where it differs from its neighbours, the pixel is drawn again
    with supersample x supersample rays (adaptive sampling, Whitted 1980), each with its own point of the sun.

    Args:
        camera: any size.
        time: 0..1; the static scene is the same at all times.
        supersample: rays per pixel along x and y; 1 draws the centres alone.
    """
    caster, rays = Caster(things(), time), _Rays(camera)
    height, width = camera.height, camera.width
    light = np.empty((3, height, width), np.float32)
    depth, index = np.empty((height, width), np.float32), np.empty((height, width), np.int32)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for rows, cols in _tiles(height, width, _TILE):
            y, x = np.mgrid[rows, cols].reshape(2, -1)
            seen, t, hit = _sample(caster, rays, x, y, 1)
            shape = depth[rows, cols].shape
            light[:, rows, cols] = seen.reshape(3, *shape)
            depth[rows, cols], index[rows, cols] = t.reshape(shape), hit.reshape(shape)
        if supersample > 1:
            busy = _busy(light, index)
            for rows, cols in _tiles(height, width, _TILE // supersample):
                y, x = np.nonzero(busy[rows, cols])
                if x.size:
                    y, x = y + rows.start, x + cols.start
                    light[:, y, x] = _sample(caster, rays, x, y, supersample)[0]
    ids = np.append(caster.ids, np.uint8(0))  # index -1 is the sky
    return Drawing(np.ascontiguousarray(_encode(light).transpose(1, 2, 0)), depth, ids[index])


def _tiles(height: int, width: int, size: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, height, size):
        for left in range(0, width, size):
            yield slice(top, min(top + size, height)), slice(left, min(left + size, width))


def _busy(light: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Pixels [H, W] whose 3 x 3 neighbourhood shows several things or visibly different colours."""
    levels = np.concatenate([np.sqrt(light), index[None]])  # square roots: about as the eye sees differences
    high, low = levels, levels
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (1, 1)
        parts = [[np.pad(a, pad, mode="edge").take(range(k, k + a.shape[axis]), axis) for k in range(3)] for a in (high, low)]
        high, low = np.maximum.reduce(parts[0]), np.minimum.reduce(parts[1])
    return ((high - low) > np.array([_CONTRAST] * 3 + [0.5], np.float32)[:, None, None]).any(axis=0)


def _sample(caster: Caster, rays: _Rays, x: np.ndarray, y: np.ndarray, supersample: int) -> _Sample:
    """Displayed linear light [3, R] of pixels (x, y) [R], the mean of their rays; t and thing of the first ray."""
    samples = supersample**2
    k = np.arange(samples)[:, None]
    dx, dy = (k % supersample + 0.5) / supersample, (k // supersample + 0.5) / supersample
    light = np.repeat(sun_directions(samples), x.size, axis=1)
    directions = rays.through((x + dx).ravel(), (y + dy).ravel())
    seen, t, index = caster.radiance(rays.origin, directions, light, 1.0 / (rays.camera.fx * supersample))
    return _tone(seen).reshape(3, samples, x.size).mean(axis=1), t[: x.size], index[: x.size]


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
    shots: list[Camera], drawings: list[Drawing], seed: int = 0, time: float = 0.0, count: int = 5000
) -> Tracks:
    """Choose about `count` surface points where pictures have detail, and find every view that sees them.

    Args:
        shots, drawings: the cameras and what `draw` gave for them at `time`.
        seed: of the choice and the noise.
    """
    random = np.random.default_rng(seed)
    caster, views = Caster(things(), time), [_Rays(shot) for shot in shots]
    found, colors = [], []
    for rays, drawing in zip(views, drawings, strict=True):
        y, x = _detailed_pixels(drawing, -(-count // len(shots)), random)
        found.append(rays.origin + rays.through(x + 0.5, y + 0.5) * drawing.depth[y, x])
        colors.append(drawing.rgb[y, x])
    points, rgb = np.concatenate(found, axis=1), np.concatenate(colors)

    keypoints = np.full((len(shots), points.shape[1], 2), np.nan)
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


def _detailed_pixels(drawing: Drawing, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of up to `count` different pixels that show a surface, mostly where the picture has detail."""
    grey = drawing.rgb.astype(np.float64).mean(axis=2)
    detail = np.hypot(*np.gradient(grey))
    weight = np.where(drawing.mask > 0, np.minimum(detail, 24.0) + 1.0, 0.0).ravel()
    count = min(count, np.count_nonzero(weight))
    if count == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    chosen = random.choice(weight.size, count, replace=False, p=weight / weight.sum())
    rows, cols = np.divmod(chosen, drawing.mask.shape[1])
    return rows, cols


def _visible(caster: Caster, rays: _Rays, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image points [P, 2] of world points [3, P], and which of them the camera sees, [P] bool."""
    c = rays.camera
    local = rays.turn.T @ (points - rays.origin)
    place = np.stack([local[0] / local[2] * c.fx + c.cx, local[1] / local[2] * c.fy + c.cy], axis=1)
    inside = (local[2] > 0) & (place > 0).all(axis=1) & (place < [c.width, c.height]).all(axis=1)
    visible = np.zeros(points.shape[1], bool)
    which = np.flatnonzero(inside)
    if which.size:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            t, _ = caster.cast(rays.origin, rays.through(place[which, 0], place[which, 1]))
        depth = local[2, which]
        visible[which] = np.abs(t - depth) < 2e-3 * depth
    return place, visible
