"""Procedural surfaces of the built-in captures: albedo in linear light, filtered to the size of a pixel.

A pattern takes points [3, R] and normals [3, R] in the frame of its solid and the footprint [R] of a ray
(how much of the surface it covers, metres), and returns albedo [3, R], linear, 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Pattern = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

_CELLS = 32
_LATTICE = np.random.default_rng(7).random(_CELLS**3, dtype=np.float32)


@dataclass(frozen=True)
class Material:
    """How a surface looks.

    Attributes:
        pattern: albedo.
        specular: reflectance seen head-on (Fresnel's F0): 0 is matt, 0.04 varnish, 0.1 a strong glaze.
        shininess: exponent of the Blinn-Phong highlight.
    """

    pattern: Pattern
    specular: float = 0.0
    shininess: float = 40.0


def linear(code: str) -> np.ndarray:
    """An sRGB color such as 'd8a070' as linear light [3, 1] (IEC 61966-2-1)."""
    value = np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)], np.float32)[:, None] / 255.0
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, a cubic between."""
    s = np.clip((x - low) / (high - low), 0.0, 1.0)
    return s * s * (3.0 - 2.0 * s)


def mix(a: np.ndarray, b: np.ndarray, weight: np.ndarray | float) -> np.ndarray:
    """a where weight is 0, b where it is 1."""
    return a + (b - a) * weight


def value_noise(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Smooth noise in 0..1 with one random value per unit cell, [R]; repeats every 32 units."""
    floors = [np.floor(c) for c in (x, y, z)]
    wx, wy, wz = (f * f * (3.0 - 2.0 * f) for f in (x - floors[0], y - floors[1], z - floors[2]))
    ix, iy, iz = (c.astype(np.int32) & (_CELLS - 1) for c in floors)
    jx = (ix + 1) & (_CELLS - 1)
    rows = [iy * _CELLS, ((iy + 1) & (_CELLS - 1)) * _CELLS]
    layers = [iz * _CELLS**2, ((iz + 1) & (_CELLS - 1)) * _CELLS**2]

    def along_x(row: np.ndarray) -> np.ndarray:
        a = _LATTICE.take(row + ix)
        return a + (_LATTICE.take(row + jx) - a) * wx

    def plane(layer: np.ndarray) -> np.ndarray:
        a = along_x(layer + rows[0])
        return a + (along_x(layer + rows[1]) - a) * wy

    a = plane(layers[0])
    return a + (plane(layers[1]) - a) * wz


def grain(points: np.ndarray, footprint: np.ndarray, *frequencies: float) -> np.ndarray:
    """Noise around 0 (about -0.5..0.5), [R]: octaves of decreasing weight, each gone before a pixel cannot show it."""
    total = np.zeros_like(points[0])
    weight = 1.0
    for frequency in frequencies:
        visible = 1.0 - smoothstep(0.25, 0.7, footprint * frequency)
        x, y, z = points * np.float32(frequency)
        total += weight * visible * (value_noise(x + 3.7, y + 11.3, z + 5.1) - 0.5)
        weight *= 0.6
    return total


def pulses(u: np.ndarray, period: float, width: float, footprint: np.ndarray) -> np.ndarray:
    """How much of [u - footprint / 2, u + footprint / 2] lies in the pulses [0, width) + k * period, 0..1.

    The exact box filter of a pulse train (Ebert et al., Texturing and Modeling, section 2).
    """

    def covered(x: np.ndarray) -> np.ndarray:
        whole = np.floor(x / period)
        return whole * width + np.minimum(x - whole * period, width)

    size = np.maximum(footprint, 1e-3)
    return (covered(u + size / 2) - covered(u - size / 2)) / size


def hashed(*cells: np.ndarray) -> np.ndarray:
    """A random number in 0..1 for each integer cell, [R]."""
    index = np.zeros(cells[0].shape, np.int64)
    for cell, prime in zip(cells, (73856093, 19349663, 83492791), strict=False):
        index ^= cell.astype(np.int64) * prime
    return _LATTICE.take(index % _LATTICE.size)


def face_uv(points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two coordinates [R] in metres along the face of a box: v is z on upright faces."""
    x, y, z = points
    flat, faces_x = np.abs(normals[2]) > 0.7, np.abs(normals[0]) > 0.7
    return np.where(faces_x, y, x), np.where(flat, y, z)


def plain(color: str, variation: float = 0.0, frequency: float = 6.0) -> Pattern:
    """One color, with soft blotches of relative strength `variation`."""
    base = linear(color)

    def pattern(points: np.ndarray, normals: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        if variation == 0.0:
            return np.broadcast_to(base, points.shape)
        return base * (1.0 + variation * grain(points, footprint, frequency, 2.3 * frequency))

    return pattern


def blend(low: str, high: str, *frequencies: float, contrast: float = 1.0) -> Pattern:
    """Two colors mixed by noise of these frequencies (cells per metre)."""
    a, b = linear(low), linear(high)

    def pattern(points: np.ndarray, normals: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        return mix(a, b, np.clip(0.5 + contrast * grain(points, footprint, *frequencies), 0.0, 1.0))

    return pattern


def checker(a: str, b: str, size: float) -> Pattern:
    """Squares of side `size` on the faces of a box."""
    first, second = linear(a), linear(b)

    def pattern(points: np.ndarray, normals: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        u, v = face_uv(points, normals)
        p, q = (pulses(c, 2 * size, size, footprint) for c in (u, v))
        return mix(first, second, p + q - 2 * p * q) * (1.0 + 0.35 * grain(points, footprint, 14.0))

    return pattern


def bands(a: str, b: str, period: float, width: float, twist: float = 0.0) -> Pattern:
    """Stripes around z, `width` of every `period` metres in color b; `twist` turns them into a spiral."""
    first, second = linear(a), linear(b)

    def pattern(points: np.ndarray, normals: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        turn = np.arctan2(points[1], points[0]) * np.float32(twist * period / (2 * np.pi)) if twist else 0.0
        weight = pulses(points[2] + turn, period, width, footprint)
        return mix(first, second, weight) * (1.0 + 0.2 * grain(points, footprint, 16.0))

    return pattern


def wedges(colors: tuple[str, ...], cap: str, count: int, end: float) -> Pattern:
    """A beach ball: `count` sectors around z (a multiple of the colors) in turn; color `cap` where |z| > end."""
    shades, white = [linear(code) for code in colors], linear(cap)

    def pattern(points: np.ndarray, normals: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        x, y, z = points
        per_metre = np.float32(count / (2 * np.pi)) / np.maximum(np.sqrt(x * x + y * y), 1e-3)  # sectors, along the arc
        turn, size = np.arctan2(y, x) * np.float32(count / (2 * np.pi)), footprint * per_metre
        color = np.zeros_like(points)
        for k, shade in enumerate(shades):
            color += shade * pulses(turn - k, len(shades), 1.0, size)
        capped = np.clip((np.abs(z) - end) / np.maximum(footprint, 1e-3) + 0.5, 0.0, 1.0)
        return mix(color, white, capped) * (1.0 + 0.15 * grain(points, footprint, 9.0))

    return pattern


def mixed(patterns: list[Pattern], weights: np.ndarray) -> Pattern:
    """Patterns laid over each other with these weights, which sum to 1."""

    def pattern(points: np.ndarray, normals: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        color = np.zeros_like(points)
        for one, weight in zip(patterns, weights, strict=True):
            color += np.float32(weight) * one(points, normals, footprint)
        return color

    return pattern


def stretched(rest: Pattern, scale: np.ndarray) -> Pattern:
    """The pattern on a solid that was stretched by `scale` [3] along its axes: it goes with the surface."""
    factor = np.asarray(scale, np.float32)[:, None]
    mean = np.float32(np.prod(factor) ** (1 / 3))

    def pattern(points: np.ndarray, normals: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        upright = normals * factor  # a normal is divided where a point is multiplied
        return rest(points / factor, upright / np.sqrt((upright * upright).sum(axis=0)), footprint / mean)

    return pattern


def bricks(stones: tuple[str, str], joint: str, size: tuple[float, float], gap: float) -> Pattern:
    """Courses of bricks [length, height] in metres on the faces of a box, each in its own mix of two colors."""
    a, b, mortar = linear(stones[0]), linear(stones[1]), linear(joint)

    def pattern(points: np.ndarray, normals: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        u, v = face_uv(points, normals)
        course = np.floor(v / size[1])
        u = u + (course % 2) * np.float32(size[0] / 2) + hashed(course) * np.float32(0.1 * size[0])
        shade = hashed(np.floor(u / size[0]), course)
        stone = mix(a, b, shade) * (1.0 + 0.5 * grain(points, footprint, 9.0, 21.0))
        lines = np.maximum(pulses(u, size[0], gap, footprint), pulses(v, size[1], gap, footprint))
        return mix(stone, mortar, lines)

    return pattern


def planks(a: str, b: str, width: float, gap: float) -> Pattern:
    """Wooden boards along x, with grain."""
    dark, light = linear(a), linear(b)

    def pattern(points: np.ndarray, normals: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        x, y, z = points
        board = np.floor(y / width)
        stretched = np.stack([x * 0.16 + hashed(board) * 9.0, y, z])
        weight = np.clip(0.25 + 0.5 * hashed(board) + 0.9 * grain(stretched, footprint, 14.0, 34.0), 0.0, 1.0)
        return mix(dark, light, weight) * (1.0 - 0.7 * pulses(y, width, gap, footprint))

    return pattern


def paving(stones: tuple[str, str, str], joint: str, ring: float, gap: float) -> Pattern:
    """Rings of stones around z, `ring` metres wide; every third ring in the third color."""
    a, b, accent, mortar = linear(stones[0]), linear(stones[1]), linear(stones[2]), linear(joint)

    def pattern(points: np.ndarray, normals: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        x, y, _ = points
        distance = np.sqrt(x * x + y * y)
        row = np.floor(distance / ring)
        count = np.maximum(np.floor(row * 5.0), 3.0)  # stones in this ring
        turn = (np.arctan2(y, x) / np.float32(2 * np.pi) + 0.5 + 0.37 * row) * count
        stone = np.floor(turn)
        color = mix(a, b, hashed(row, stone % count))
        color = np.where(row % 3 == 2, mix(accent, color, 0.25), color)
        color = color * (1.0 + 0.45 * grain(points, footprint, 7.0, 17.0))
        across = (turn - stone) * np.float32(2 * np.pi) * distance / count  # metres along the ring
        lines = np.maximum(
            pulses(distance, ring, gap, footprint), np.clip((gap - across) / np.maximum(footprint, 1e-3) + 0.5, 0, 1)
        )
        return mix(color, mortar, lines * (1.0 - 0.6 * smoothstep(0.5, 1.5, footprint / gap)))

    return pattern
