"""The ray caster that draws the built-in capture: nearest hits, sun with soft shadows, sky, gloss, haze.

It knows nothing of splats: pictures, depths and visibility come from exact solids alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nfc_gs.data.synthetic_materials import linear, mix, smoothstep, value_noise
from nfc_gs.data.synthetic_scene import Thing, labels
from nfc_gs.data.synthetic_shapes import Ellipsoid, Frustum, Torus, cross, dot, unit

_Seen = tuple[np.ndarray, np.ndarray, np.ndarray]
_Hits = tuple[int, np.ndarray, np.ndarray]

_SUN = np.array([0.52, -0.48, 0.78]) / np.linalg.norm([0.52, -0.48, 0.78])  # towards the sun
_SUN_RADIUS = 0.018  # of the sun's disc, radians: the width of penumbras
_SUN_LIGHT = np.array([[2.75], [2.3], [1.75]], np.float32)
_SKY_LIGHT = np.array([[0.5], [0.62], [0.85]], np.float32)
_BOUNCE_LIGHT = np.array([[0.36], [0.3], [0.22]], np.float32)
_ZENITH, _HORIZON = linear("3f83c9"), linear("e3e9e6")
_CLOUD = linear("ffffff")
_HAZE_DISTANCE = 60.0  # metres after which 1 - 1/e of a surface's light is replaced by haze
_SHADOW_RANGE = 22.0  # metres from the middle beyond which nothing casts a shadow
_LIFT = 1e-3  # metres a shadow ray starts above its surface


def sun_directions(count: int) -> np.ndarray:
    """Unit directions [3, count] to points spread over the sun's disc (Vogel's spiral)."""
    k = np.arange(count)
    radius = _SUN_RADIUS * np.sqrt((k + 0.5) / count)
    angle = k * np.pi * (3 - np.sqrt(5))
    across = np.cross(_SUN, [0.0, 0.0, 1.0])
    across /= np.linalg.norm(across)
    upward = np.cross(across, _SUN)
    disc = _SUN[:, None] + across[:, None] * radius * np.cos(angle) + upward[:, None] * radius * np.sin(angle)
    return (disc / np.linalg.norm(disc, axis=0)).astype(np.float32)


def sky(directions: np.ndarray) -> np.ndarray:
    """Radiance [3, R] of the sky in unit directions [3, R]: a gradient, soft clouds, a glow around the sun."""
    x, y, z = directions
    height = np.maximum(z, 0.0)
    color = mix(_HORIZON, _ZENITH, 1.0 - np.exp(-3.2 * height))
    stretch = 1.9 / (height + 0.35)
    clouds = 0.65 * value_noise(x * stretch + 5.2, y * stretch + 1.7, z * 0 + 3.5)
    clouds += 0.35 * value_noise(x * stretch * 2.3, y * stretch * 2.3, z * 0 + 8.5)
    color = mix(color, _CLOUD, 0.75 * smoothstep(0.45, 0.75, clouds) * smoothstep(0.02, 0.25, z))
    glow = np.maximum(dot(directions, _SUN.astype(np.float32)), 0.0) ** 12
    return color * (1.0 + 0.25 * glow)


class Caster:
    """The things of a scene, posed at one moment."""

    def __init__(self, scene: list[Thing], time: float = 0.0) -> None:
        self.things = scene
        poses = np.stack([thing.pose(time) for thing in scene])
        halves = np.array([thing.shape.half for thing in scene])
        self.to_world = poses[:, :3, :3].astype(np.float32)  # [K, 3, 3]
        self.centers = poses[:, :3, 3].astype(np.float32)  # [K, 3]
        self.radii = (np.linalg.norm(halves, axis=1) * 1.001).astype(np.float32)  # [K] of bounding spheres
        self.widths = (np.linalg.norm(halves[:, :2], axis=1) * 1.001).astype(np.float32)  # [K] around the own z axes
        for k, thing in enumerate(scene):
            if isinstance(thing.shape, (Frustum, Ellipsoid, Torus)):
                self.widths[k] = max(halves[k, :2]) * 1.001
        self.axes = np.ascontiguousarray(self.to_world[:, :, 2])  # [K, 3]
        cores = np.prod(np.where(np.isfinite(halves), halves, 0.0), axis=1) ** (1 / 3)
        self.cores = np.where(cores < 1.0, cores, 0.0).astype(np.float32)  # [K] spheres that darken what is near
        self.casts_shadow = np.array([thing.casts_shadow for thing in scene])
        ids = labels(scene)
        self.ids = np.array([ids[thing.label] for thing in scene], np.uint8)

    def _hits(self, chosen: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> Iterator[_Hits]:
        """Hits of the chosen things (indices) by rays: thing, rays [J] (indices), their t [J] (infinity: a miss).

        Rays that pass by the ball or the endless cylinder (around its own z) that hold a thing are left out.
        """
        centers, axes = self.centers[chosen], self.axes[chosen]
        radii2, widths2 = (r[chosen, None] ** 2 for r in (self.radii, self.widths))
        speed2 = dot(direction, direction)
        middles = (centers @ direction - dot(origin, direction)) / speed2  # t of the point nearest to the centre
        apart2 = (centers**2).sum(axis=1)[:, None] - 2.0 * (centers @ origin) + dot(origin, origin)
        nears = apart2 - middles * middles * speed2 <= radii2 + 1e-6 * apart2
        gaps = np.cross(axes, centers) @ direction - axes @ cross(origin, direction)
        tilts = speed2 - (axes @ direction) ** 2
        nears &= gaps * gaps <= widths2 * tilts + 1e-6 * apart2
        for k, near, middle in zip(chosen, nears, middles, strict=True):
            rays = np.flatnonzero(near)
            if rays.size == 0:
                continue
            turn, middle = self.to_world[k].T, middle.take(rays)
            d = turn @ direction.take(rays, axis=1)
            o = turn @ ((origin if origin.shape[1] == 1 else origin.take(rays, axis=1)) - self.centers[k][:, None])
            # Measured from `middle` the numbers are small: float32 is exact enough however far the origin is.
            yield k, rays, middle + self.things[k].shape.hit(o + middle * d, d, -middle)

    def cast(self, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest thing along each ray.

        Args:
            origin: [3, 1] float32, world; direction: [3, R] float32, any length.

        Returns:
            t [R] float32 (infinity for the sky) and the thing's index [R] int32 (-1 for the sky).
        """
        best = np.full(direction.shape[1], np.inf, np.float32)
        index = np.full(direction.shape[1], -1, np.int32)
        units = unit(direction)
        axis = units.mean(axis=1)
        axis /= np.linalg.norm(axis)
        spread = np.arccos(np.clip((axis @ units).min(), -1.0, 1.0))
        towards = self.centers - origin[:, 0]
        distance = np.maximum(np.linalg.norm(towards, axis=1), 1e-9)
        angle = np.arccos(np.clip(towards @ axis / distance, -1.0, 1.0))
        reach = np.arcsin(np.minimum(self.radii / distance, 1.0))
        chosen = np.flatnonzero((distance <= self.radii) | (angle <= spread + reach + 1e-4))  # in this cone of rays
        for k, rays, t in self._hits(chosen, origin, direction):
            nearer = t < best[rays]
            best[rays[nearer]] = t[nearer]
            index[rays[nearer]] = k
        return best, index

    def normals(self, points: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Outward unit normals [3, R] at surface points [3, R] of the things [R]."""
        normals = np.empty_like(points)
        for k in np.unique(index):
            here = np.flatnonzero(index == k)
            local = self.to_world[k].T @ (points[:, here] - self.centers[k][:, None])
            normals[:, here] = self.to_world[k] @ self.things[k].shape.normal(local)
        return normals

    def shadowed(self, points: np.ndarray, light: np.ndarray) -> np.ndarray:
        """Whether something stands between points [3, R] and the sun in unit directions light [3, R]; [R] bool."""
        dark = np.zeros(points.shape[1], bool)
        low, high = points.min(axis=1), points.max(axis=1)
        towards = self.centers - (low + high) / 2
        along = towards @ _SUN.astype(np.float32)
        aside = np.sqrt(np.maximum((towards**2).sum(axis=1) - along**2, 0.0))
        reach = self.radii + np.linalg.norm(high - low) / 2 + _SUN_RADIUS * np.abs(along)
        chosen = np.flatnonzero(self.casts_shadow & (aside <= reach) & (along >= -reach))
        for _, rays, t in self._hits(chosen, points, light):
            dark[rays[np.isfinite(t)]] = True
        return dark

    def openness(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """How much of the sky reaches each point, [R] 0..1: things near it taken as spheres.

        A sphere of radius r at distance d covers cos * (r / d)^2 of the hemisphere.
        """
        result = np.ones(points.shape[1], np.float32)
        low, high = points.min(axis=1), points.max(axis=1)
        gap = np.linalg.norm(np.maximum(np.abs(self.centers - (low + high) / 2) - (high - low) / 2, 0.0), axis=1)
        for k in np.flatnonzero((self.cores > 0.03) & (gap < 5.0 * self.cores)):
            towards = self.centers[k][:, None] - points
            distance2 = np.maximum(dot(towards, towards), self.cores[k] ** 2)
            cosine = np.maximum(dot(towards, normals), 0.0) / np.sqrt(distance2)
            result *= 1.0 - 0.75 * cosine * (self.cores[k] ** 2 / distance2)
        return result

    def radiance(self, origin: np.ndarray, direction: np.ndarray, light: np.ndarray, pixel: float) -> _Seen:
        """Linear light [3, R] that comes back along rays, with t [R] and thing index [R] as `cast` gives them.

        Args:
            origin: [3, 1]; direction: [3, R]; light: [3, R], unit directions to the sun.
            pixel: size of a ray's footprint at distance 1.
        """
        t, index = self.cast(origin, direction)
        length = np.sqrt(dot(direction, direction))
        units = direction / length
        color = np.empty_like(direction)
        missed = np.flatnonzero(index < 0)
        if missed.size:
            color[:, missed] = sky(units.take(missed, axis=1))
        found = np.flatnonzero(index >= 0)
        if found.size:
            seen, far = units.take(found, axis=1), (t * length).take(found)
            surface = self._surface(
                origin + far * seen, index.take(found), seen, far * pixel, light.take(found, axis=1)
            )
            haze = mix(_HORIZON, _ZENITH, 1.0 - np.exp(-3.2 * np.maximum(seen[2], 0.0))) * 0.97
            color[:, found] = mix(surface, haze, 1.0 - np.exp(-np.maximum(far - 6.0, 0.0) / _HAZE_DISTANCE))
        return color, t, index

    def _surface(
        self, points: np.ndarray, index: np.ndarray, seen: np.ndarray, size: np.ndarray, light: np.ndarray
    ) -> np.ndarray:
        """Linear light [3, R] that surface points send back against the viewing directions `seen` [3, R]."""
        albedo, normals = np.empty_like(points), np.empty_like(points)
        specular, shininess = np.empty_like(size), np.empty_like(size)
        for k in np.unique(index):
            here = np.flatnonzero(index == k)
            thing, turn = self.things[k], self.to_world[k]
            local = turn.T @ (points[:, here] - self.centers[k][:, None])
            outward = thing.shape.normal(local)
            normals[:, here] = turn @ outward
            slant = np.maximum(np.abs(dot(normals[:, here], seen[:, here])), 0.15)
            albedo[:, here] = thing.material.pattern(local, outward, size[here] / slant)
            specular[here], shininess[here] = thing.material.specular, thing.material.shininess

        facing = dot(normals, light)
        sunlit = np.maximum(facing, 0.0)
        lit = np.flatnonzero((facing > 0) & (dot(points, points) < _SHADOW_RANGE**2))
        if lit.size:
            above = points[:, lit] + _LIFT * normals[:, lit]
            sunlit[lit] = np.where(self.shadowed(above, light[:, lit]), 0.0, facing[lit])
        openness = self.openness(points, normals)
        ambient = mix(_BOUNCE_LIGHT, _SKY_LIGHT, 0.5 + 0.5 * normals[2]) * openness
        color = albedo * (_SUN_LIGHT * sunlit + ambient)

        glossy = np.flatnonzero(specular > 0)
        if glossy.size:
            n, v = normals[:, glossy], -seen[:, glossy]
            cosine = np.clip(dot(n, v), 0.0, 1.0)
            f0, power = specular[glossy], shininess[glossy]
            fresnel = f0 + (0.6 - f0) * (1.0 - cosine) ** 5 * np.minimum(f0 * 12.0, 1.0)  # Schlick 1994, softened
            mirrored = 2.0 * cosine * n - v
            open_sky = smoothstep(-0.25, 0.35, mirrored[2])
            reflected = mix(_BOUNCE_LIGHT * 0.7, sky(mirrored), open_sky) * openness[glossy]
            halfway = unit(v + light[:, glossy])
            lobe = np.maximum(dot(n, halfway), 0.0) ** power * (power + 8.0) / (8.0 * np.pi)  # Blinn-Phong, normalised
            highlight = _SUN_LIGHT * (sunlit[glossy] * lobe * f0)
            color[:, glossy] = color[:, glossy] * (1.0 - fresnel) + reflected * fresnel + highlight
        return color
