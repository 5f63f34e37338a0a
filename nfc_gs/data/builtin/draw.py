"""DrawnView the built-in scene through a camera: picture, depth and mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nfc_gs.core.camera import Camera
from nfc_gs.data.builtin.ray_caster import RayCaster, sun_directions
from nfc_gs.data.builtin.solids import Solid
from nfc_gs.data.builtin.still_life import still_life

_CONTRAST = 0.06  # of square roots of light between neighbours, above which a pixel gets more rays
_RAYS_AT_ONCE = 1 << 17
_SPREAD = 0.12  # share of a pixel's light that a lens lays on each neighbour


@dataclass(frozen=True)
class DrawnView:
    """A drawn picture with its ground truth.

    Attributes:
        rgb: [H, W, 3] uint8, sRGB.
        depth: [H, W] float32, along the camera's z at the pixel's centre, metres; infinity for the sky.
        mask: [H, W] uint8, the id (`builtin.solids.label_ids`) of what the pixel's centre shows; 0 for the sky.
    """

    rgb: np.ndarray
    depth: np.ndarray
    mask: np.ndarray


def _encode(light: np.ndarray) -> np.ndarray:
    """Linear light in 0..1 as 8-bit sRGB (IEC 61966-2-1)."""
    light = np.clip(light, 0.0, 1.0)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255.0 * srgb).astype(np.uint8)


def _tone(light: np.ndarray) -> np.ndarray:
    """Scene light to what a display shows, 0..1: a soft shoulder (Narkowicz 2015, fit of the ACES curve)."""
    x = 0.55 * light
    return x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)


class Rays:
    """Rays of a camera in the world."""

    def __init__(self, camera: Camera) -> None:
        viewmat = camera.viewmat.detach().cpu().double().numpy()
        self.camera = camera
        self.turn = viewmat[:3, :3].T
        self.origin = (-self.turn @ viewmat[:3, 3:]).astype(np.float32)  # [3, 1]

    def through(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unit directions [3, R] through image points (x, y) [R], and their camera z [R]: depth per distance."""
        c = self.camera
        u, v = (x - c.cx) / c.fx, (y - c.cy) / c.fy
        z = 1.0 / np.sqrt(u * u + v * v + 1.0)
        return (self.turn @ np.stack([u * z, v * z, z])).astype(np.float32), z.astype(np.float32)


def draw(camera: Camera, time: float = 0.0, supersample: int = 2, scene: list[Solid] | None = None) -> DrawnView:
    """Draw a scene made of solids.

    One ray goes through every pixel's centre; where it differs from its neighbours, the pixel is drawn again
    with supersample x supersample rays (adaptive sampling, Whitted 1980), each with its own point of the sun.

    Args:
        camera: any size.
        time: 0..1; the still life is the same at all times.
        supersample: rays per pixel along x and y; 1 draws the centres alone.
        scene: by default `builtin.still_life.still_life`; `builtin.moving_scene.moving_scene` is another.
    """
    caster, rays = RayCaster(still_life() if scene is None else scene, time), Rays(camera)
    height, width = camera.height, camera.width
    sun = sun_directions(1)[:, 0]
    y, x = np.indices((height, width)).reshape(2, -1)
    light = np.empty((3, x.size), np.float32)
    depth, index = np.empty(x.size, np.float32), np.empty(x.size, np.int32)
    for part in _parts(x.size):
        light[:, part], depth[part], index[part] = _sample(caster, rays, x[part] + 0.5, y[part] + 0.5, sun)
    if supersample > 1:
        busy = np.flatnonzero(_busy(light.reshape(3, height, width), index.reshape(height, width)))
        suns = sun_directions(supersample**2)
        for part in _parts(busy.size):
            pixels = busy[part]
            total = np.zeros((3, pixels.size), np.float32)
            for k in range(supersample**2):
                dy, dx = ((v + 0.5) / supersample for v in divmod(k, supersample))
                total += _sample(caster, rays, x[pixels] + dx, y[pixels] + dy, suns[:, k], supersample)[0]
            light[:, pixels] = total / supersample**2
    light = _blurred(light.reshape(3, height, width)).reshape(3, -1)
    ids = np.append(caster.ids, np.uint8(0))  # index -1 is the sky
    rgb = np.ascontiguousarray(_encode(light).T).reshape(height, width, 3)
    return DrawnView(rgb, depth.reshape(height, width), ids[index].reshape(height, width))


def _parts(count: int) -> list[slice]:
    """The range 0 .. count in parts that keep memory small however large the picture."""
    return [slice(k, min(k + _RAYS_AT_ONCE, count)) for k in range(0, count, _RAYS_AT_ONCE)]


def _sample(
    caster: RayCaster, rays: Rays, x: np.ndarray, y: np.ndarray, sun: np.ndarray, per_side: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One ray through each image point (x, y) [R]: displayed linear light [3, R], depth [R], solid [R] (-1: sky).

    Args:
        sun: [3], unit direction to it; per_side: rays along a pixel's side.
    """
    directions, z = rays.through(x, y)
    light, distance, index = caster.radiance(rays.origin, directions, sun, 1.0 / (rays.camera.fx * per_side))
    return _tone(light), distance * z, index


def _blurred(light: np.ndarray) -> np.ndarray:
    """Light [3, H, W] as a lens lays it on the sensor: spread over neighbouring pixels, variance 2 * _SPREAD."""
    for _ in range(2):  # along rows, then along columns
        padded = np.pad(light, [(0, 0), (1, 1), (0, 0)], mode="edge")
        light = (1.0 - 2.0 * _SPREAD) * light + _SPREAD * (padded[:, :-2] + padded[:, 2:])
        light = light.transpose(0, 2, 1)
    return np.ascontiguousarray(light)


def _busy(light: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Pixels [H, W] whose 3 x 3 neighbourhood shows several solids or visibly different colors.

    Args:
        light: [3, H, W] displayed linear light; index: [H, W] solids.
    """
    levels = np.concatenate([np.sqrt(light), index[None].astype(np.float32)])  # roots: differences as the eye sees them
    high = np.pad(levels, [(0, 0), (1, 1), (1, 1)], mode="edge")
    low = high
    for _ in range(2):  # along rows, then along columns
        high = np.maximum(np.maximum(high[:, :-2], high[:, 1:-1]), high[:, 2:]).transpose(0, 2, 1)
        low = np.minimum(np.minimum(low[:, :-2], low[:, 1:-1]), low[:, 2:]).transpose(0, 2, 1)
    difference = high - low
    return (difference[:3].max(axis=0) > _CONTRAST) | (difference[3] > 0.5)
