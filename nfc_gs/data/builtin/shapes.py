"""Shapes that rays hit: the geometry of the built-in captures.

Every shape is given in its own frame around the origin. All arrays are float32 and component-first:
points and directions are [3, R], so that numpy works on contiguous rows. Directions need no unit length;
a hit is the `t` with point = origin + t * direction, infinity where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Shape(Protocol):
    """A solid in its own frame."""

    @property
    def half(self) -> tuple[float, float, float]:
        """Half the sides of the box around the solid, which is centred on the origin."""
        ...

    def hit(self, origin: np.ndarray, direction: np.ndarray, start: np.ndarray) -> np.ndarray:
        """The nearest hit with t > start.

        Args:
            origin, direction: [3, R] (or [3, 1] where all rays share it).
            start: [R], may be negative.

        Returns:
            [R] t, infinity for a miss.
        """
        ...

    def normal(self, points: np.ndarray) -> np.ndarray:
        """Outward unit normals [3, R] at points [3, R] on the surface."""
        ...


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products [R] of [3, R] and [3, R] (either may be [3, 1] or [3])."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Vector products [3, R] of [3, R] and [3, R]."""
    return np.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def unit(vectors: np.ndarray) -> np.ndarray:
    """The same directions with length one, [3, R]."""
    return vectors / np.sqrt(dot(vectors, vectors))


def _nearest(start: np.ndarray, *candidates: np.ndarray) -> np.ndarray:
    """The smallest candidate beyond `start`, ignoring NaN; infinity where there is none."""
    best = np.full(np.broadcast_shapes(start.shape, candidates[0].shape), np.inf, np.float32)
    for t in candidates:
        np.copyto(best, t, where=(t > start) & (t < best))
    return best


@dataclass(frozen=True)
class Plane:
    """The plane z = 0, seen from above and below."""

    @property
    def half(self) -> tuple[float, float, float]:
        return (np.inf, np.inf, 0.0)

    def hit(self, origin: np.ndarray, direction: np.ndarray, start: np.ndarray) -> np.ndarray:
        return _nearest(start, -origin[2] / direction[2])

    def normal(self, points: np.ndarray) -> np.ndarray:
        normals = np.zeros_like(points)
        normals[2] = 1.0
        return normals


@dataclass(frozen=True)
class Ellipsoid:
    """(x / rx)^2 + (y / ry)^2 + (z / rz)^2 = 1."""

    radii: tuple[float, float, float]

    @property
    def half(self) -> tuple[float, float, float]:
        return self.radii

    def hit(self, origin: np.ndarray, direction: np.ndarray, start: np.ndarray) -> np.ndarray:
        scale = np.array(self.radii, np.float32)[:, None]
        o, d = origin / scale, direction / scale
        inverse = 1.0 / dot(d, d)
        middle = -dot(o, d) * inverse
        foot = o + middle * d  # the ray's point nearest to the centre; stable for far origins
        reach = np.sqrt((1.0 - dot(foot, foot)) * inverse)
        return _nearest(start, middle - reach, middle + reach)

    def normal(self, points: np.ndarray) -> np.ndarray:
        return unit(points / (np.array(self.radii, np.float32) ** 2)[:, None])


def sphere(radius: float) -> Ellipsoid:
    """A ball."""
    return Ellipsoid((radius, radius, radius))


@dataclass(frozen=True)
class Box:
    """|x| <= sides[0] / 2 and so on."""

    sides: tuple[float, float, float]

    @property
    def half(self) -> tuple[float, float, float]:
        return (self.sides[0] / 2, self.sides[1] / 2, self.sides[2] / 2)

    def hit(self, origin: np.ndarray, direction: np.ndarray, start: np.ndarray) -> np.ndarray:
        half = np.array(self.half, np.float32)[:, None]
        inverse = 1.0 / direction
        middle, reach = -origin * inverse, half * np.abs(inverse)
        first, last = middle - reach, middle + reach
        enter = np.maximum(np.maximum(first[0], first[1]), first[2])
        leave = np.minimum(np.minimum(last[0], last[1]), last[2])
        missed = ~(enter < leave)
        t = _nearest(start, enter, leave)
        t[missed] = np.inf
        return t

    def normal(self, points: np.ndarray) -> np.ndarray:
        relative = points / np.array(self.half, np.float32)[:, None]
        face = np.argmax(np.abs(relative), axis=0)[None]
        normals = np.zeros_like(points)
        np.put_along_axis(normals, face, np.sign(np.take_along_axis(relative, face, 0)), 0)
        return normals


@dataclass(frozen=True)
class Frustum:
    """A capped cone around z: radius `bottom` at z = -height / 2, `top` at z = +height / 2 (a cylinder if equal)."""

    bottom: float
    top: float
    height: float

    @property
    def half(self) -> tuple[float, float, float]:
        radius = max(self.bottom, self.top)
        return (radius, radius, self.height / 2)

    @property
    def _slope(self) -> float:
        return (self.top - self.bottom) / self.height

    def _radius(self, z: np.ndarray) -> np.ndarray:
        return (self.bottom + self.top) / 2 + self._slope * z

    def hit(self, origin: np.ndarray, direction: np.ndarray, start: np.ndarray) -> np.ndarray:
        (ox, oy, oz), (dx, dy, dz) = origin, direction
        radius, change = self._radius(oz), self._slope * dz
        a = dx * dx + dy * dy - change * change
        b = ox * dx + oy * dy - radius * change
        c = ox * ox + oy * oy - radius * radius
        root = np.sqrt(b * b - a * c)
        candidates = []
        for t in ((-b - root) / a, (-b + root) / a):  # the side, x^2 + y^2 = radius(z)^2
            candidates.append(np.where(np.abs(oz + t * dz) <= self.height / 2, t, np.inf))
        for z, limit in ((-self.height / 2, self.bottom), (self.height / 2, self.top)):  # the caps
            t = (z - oz) / dz
            candidates.append(np.where((ox + t * dx) ** 2 + (oy + t * dy) ** 2 <= limit * limit, t, np.inf))
        return _nearest(start, *candidates)

    def normal(self, points: np.ndarray) -> np.ndarray:
        x, y, z = points
        distance = np.sqrt(x * x + y * y)
        side = np.abs(distance - self._radius(z))
        cap = self.height / 2 - np.abs(z)
        normals = unit(np.stack([x, y, -self._slope * distance]) + np.float32(1e-12))
        on_cap = cap < side
        normals[:, on_cap] = 0.0
        normals[2, on_cap] = np.sign(z[on_cap])
        return normals


@dataclass(frozen=True)
class Torus:
    """A ring around z: a circle of radius `ring` thickened to `tube`. Hit by sphere tracing (Hart 1996)."""

    ring: float
    tube: float

    @property
    def half(self) -> tuple[float, float, float]:
        return (self.ring + self.tube, self.ring + self.tube, self.tube)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Signed distance [R] to the surface."""
        across = np.sqrt(points[0] ** 2 + points[1] ** 2) - self.ring
        return np.sqrt(across * across + points[2] ** 2) - self.tube

    def hit(self, origin: np.ndarray, direction: np.ndarray, start: np.ndarray) -> np.ndarray:
        speed = np.sqrt(dot(direction, direction))
        entry = Box((2 * self.half[0], 2 * self.half[1], 2 * self.half[2])).hit(origin, direction, start)
        result = np.full(entry.shape, np.inf, np.float32)
        rays = np.flatnonzero(np.isfinite(entry))
        o = np.broadcast_to(origin, (3, entry.size))[:, rays]
        d = np.broadcast_to(direction / speed, (3, entry.size))[:, rays]
        foot, reach = -dot(o, d), self.ring + self.tube
        travelled = np.maximum(np.broadcast_to(start * speed, entry.shape)[rays], foot - reach)
        end = foot + reach
        for _ in range(200):
            gap = np.abs(self.distance(o + travelled * d))
            travelled = travelled + gap
            done = gap < 2e-5
            if done.any():
                result[rays[done]] = travelled[done]
            keep = ~done & (travelled < end)
            if not keep.any():
                break
            if not keep.all():
                rays, o, d, travelled, end = rays[keep], o[:, keep], d[:, keep], travelled[keep], end[keep]
        return result / speed

    def normal(self, points: np.ndarray) -> np.ndarray:
        distance = np.sqrt(points[0] ** 2 + points[1] ** 2)
        shrink = 1.0 - self.ring / distance
        return unit(np.stack([points[0] * shrink, points[1] * shrink, points[2]]))
