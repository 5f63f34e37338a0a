"""Solids and rays of pixels in float64, written out from their definitions alone."""

from __future__ import annotations

import numpy as np

from nfc_gs.core.camera import Camera
from nfc_gs.data.builtin.shapes import Box, Ellipsoid, Frustum, Plane, Shape, Torus


def outside(shape: Shape, points: np.ndarray) -> np.ndarray:
    """How far points [3, ...] are from the solid, roughly in metres: negative inside, 0 on the surface."""
    x, y, z = points
    if isinstance(shape, Plane):
        return z
    if isinstance(shape, Ellipsoid):
        a, b, c = shape.radii
        return (np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2) - 1) * min(shape.radii)
    if isinstance(shape, Box):
        return np.max([np.abs(v) - s / 2 for v, s in zip((x, y, z), shape.sides, strict=True)], axis=0)
    if isinstance(shape, Frustum):
        radius = shape.bottom + (shape.top - shape.bottom) * (z / shape.height + 0.5)
        return np.maximum(np.hypot(x, y) - radius, np.abs(z) - shape.height / 2)
    assert isinstance(shape, Torus)
    return np.hypot(np.hypot(x, y) - shape.ring, z) - shape.tube


def center_of(camera: Camera) -> np.ndarray:
    return camera.center.double().numpy()[:, None]


def pixel_rays(camera: Camera) -> np.ndarray:
    """Directions [3, H, W], camera z 1, float64, written out from the conventions alone."""
    y, x = np.mgrid[: camera.height, : camera.width] + 0.5
    local = np.stack([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, np.ones_like(x)])
    return np.tensordot(camera.viewmat.double().numpy()[:3, :3].T, local, 1)
