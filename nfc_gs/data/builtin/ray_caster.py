"""The ray caster that draws the built-in capture: nearest hits, sun with soft shadows, sky, gloss, haze.

It knows nothing of splats: pictures, depths and visibility come from exact solids alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nfc_gs.data.builtin.materials import linear, mix, smoothstep, value_noise
from nfc_gs.data.builtin.shapes import cross, dot, unit
from nfc_gs.data.builtin.solids import Solid, label_ids

_Seen = tuple[np.ndarray, np.ndarray, np.ndarray]

_SUN = np.array([0.52, -0.48, 0.78]) / np.linalg.norm([0.52, -0.48, 0.78])  # towards the sun
_SUN_RADIUS = 0.018  # of the sun's disc, radians: the width of penumbras
_SUN_LIGHT = np.array([[3.0], [2.5], [1.85]], np.float32)
_SKY_LIGHT = np.array([[0.48], [0.6], [0.85]], np.float32)
_BOUNCE_LIGHT = np.array([[0.36], [0.3], [0.22]], np.float32)
_ZENITH, _HORIZON = 0.95 * linear("2b7ddb"), 0.95 * linear("dbeaf2")
_CLOUD = 1.3 * linear("fffaf2")
_HAZE_DISTANCE = 100.0  # metres after which 1 - 1/e of a surface's light is replaced by haze
_SHADOW_RANGE = 26.0  # metres from the middle beyond which nothing casts a shadow
_LIFT = 1e-3  # metres a shadow ray starts above its surface


def _quiet() -> np.errstate:
    """For functions in which rays that miss give infinities and NaN on the way."""
    return np.errstate(divide="ignore", invalid="ignore", over="ignore")


def sun_directions(count: int) -> np.ndarray:
    """Unit directions [3, count] to points spread over the sun's disc (Vogel's spiral)."""
    k = np.arange(count)
    radius = _SUN_RADIUS * np.sqrt((k + 0.5) / count)
    angle = k * np.pi * (3 - np.sqrt(5))
    across = level(_SUN)
    upward = np.cross(across, _SUN)
    disc = _SUN[:, None] + across[:, None] * radius * np.cos(angle) + upward[:, None] * radius * np.sin(angle)
    return (disc / np.linalg.norm(disc, axis=0)).astype(np.float32)


def level(light: np.ndarray) -> np.ndarray:
    """The level unit direction [3] at right angles to the sun's direction [3]; points are sorted along it."""
    across = np.array([light[1], -light[0], 0.0], np.float32)
    return across / np.linalg.norm(across)


def clear_sky(directions: np.ndarray) -> np.ndarray:
    """Radiance [3, R] of the cloudless sky in unit directions [3, R]; below the horizon, of the haze there."""
    color = mix(_HORIZON, _ZENITH, 1.0 - np.exp(-4.0 * np.maximum(directions[2], 0.0)))
    return color * (1.0 + 0.25 * np.maximum(dot(directions, _SUN.astype(np.float32)), 0.0) ** 12)


def sky(directions: np.ndarray) -> np.ndarray:
    """Radiance [3, R] of the sky with its soft clouds in unit directions [3, R]."""
    x, y, z = directions
    stretch = 1.9 / (np.maximum(z, 0.0) + 0.35)
    clouds = value_noise(x * stretch + 5.2, y * stretch + 1.7, np.full_like(z, 3.5))
    return mix(clear_sky(directions), _CLOUD, 0.6 * smoothstep(0.35, 0.85, clouds) * smoothstep(0.02, 0.25, z))


def _groups(index: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each value in index [R], with its places [J] in ascending order."""
    order = np.argsort(index, kind="stable")
    values, starts = np.unique(index[order], return_index=True)
    for value, places in zip(values, np.split(order, starts[1:]), strict=True):
        yield int(value), places


class RayCaster:
    """The solids of a scene, posed at one moment.

    To find what a ray may hit, rays (or points) are sorted along one coordinate: what can meet the ball around
    a solid is then a slice, and only that slice is looked at more closely.
    """

    def __init__(self, scene: list[Solid], time: float = 0.0) -> None:
        self.solids = [solid.frozen(time) for solid in scene]
        poses = np.stack([solid.rest for solid in self.solids])
        halves = np.array([solid.shape.half for solid in self.solids])
        self.to_world = poses[:, :3, :3].astype(np.float32)  # [K, 3, 3]
        self.centers = poses[:, :3, 3].astype(np.float32)  # [K, 3]
        self.axes = poses[:, :3, 2].astype(np.float32)  # [K, 3], the solids' own z
        self.radii = (np.linalg.norm(halves, axis=1) * 1.001 + 1e-3).astype(np.float32)  # [K] of balls around them
        self.widths = (np.linalg.norm(halves[:, :2], axis=1) * 1.001 + 1e-3).astype(np.float32)  # [K] of cylinders
        self.slim = halves[:, 2] > 3.0 * halves[:, 0]  # [K], whose cylinder is much tighter than their ball
        cores = np.prod(np.where(np.isfinite(halves), halves, 0.0), axis=1) ** (1 / 3)
        self.cores = np.where(cores < 1.0, cores, 0.0).astype(np.float32)  # [K] of balls that darken what is near
        self.casts_shadow = np.array([solid.casts_shadow for solid in scene])
        ids = label_ids(scene)
        self.ids = np.array([ids[solid.label] for solid in scene], np.uint8)

    def _hit(
        self, k: int, rays: np.ndarray, middle: np.ndarray, origin: np.ndarray, direction: np.ndarray
    ) -> np.ndarray:
        """Distances [J] at which rays [J] (indices) hit solid k; middle [J] is where they are nearest to its centre."""
        turn = self.to_world[k].T
        d = turn @ (direction if direction.shape[1] == 1 else direction.take(rays, axis=1))
        o = turn @ ((origin if origin.shape[1] == 1 else origin.take(rays, axis=1)) - self.centers[k][:, None])
        # Measured from `middle` the numbers are small: float32 is exact enough however far the origin is.
        return middle + self.solids[k].shape.hit(o + middle * d, d, -middle)

    @_quiet()
    def cast(self, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest solid along each ray.

        Args:
            origin: [3, 1] float32, world; direction: [3, R] float32, unit length.

        Returns:
            distance [R] float32 (infinity for the sky) and the solid's index [R] int32 (-1 for the sky).
        """
        mean = direction.mean(axis=1)
        pole = np.array([mean[1], -mean[0], 1e-6 * mean[2]], np.float32)
        pole /= np.linalg.norm(pole)
        angles = np.arccos(np.clip(pole @ direction, -1.0, 1.0))  # between ray and pole: the sorted coordinate
        order = np.argsort(angles)
        angles, rays_sorted = angles[order], direction.take(order, axis=1)
        best = np.full(order.size, np.inf, np.float32)
        index = np.full(order.size, -1, np.int32)

        towards = self.centers - origin[:, 0]
        distance = np.maximum(np.linalg.norm(towards, axis=1), 1e-9)
        reach = np.where(distance > self.radii, np.arcsin(np.minimum(self.radii / distance, 1.0)), np.pi) + 1e-4
        angle = np.arccos(np.clip(towards @ pole / distance, -1.0, 1.0))
        firsts, ends = np.searchsorted(angles, angle - reach), np.searchsorted(angles, angle + reach)
        for k in np.flatnonzero(firsts < ends).tolist():
            part = rays_sorted[:, firsts[k] : ends[k]]
            middle = towards[k] @ part
            near = middle * middle >= distance[k] ** 2 * (1.0 - 1e-6) - self.radii[k] ** 2
            if self.slim[k]:
                gap = cross(self.axes[k], towards[k]) @ part
                tilt = 1.0 - (self.axes[k] @ part) ** 2
                near &= gap * gap <= self.widths[k] ** 2 * tilt
            rays = np.flatnonzero(near)
            if rays.size == 0:
                continue
            t = self._hit(k, rays, middle.take(rays), origin, part)
            rays += firsts[k]
            nearer = t < best.take(rays)
            rays = rays[nearer]
            best[rays], index[rays] = t[nearer], k
        distances, indices = np.empty_like(best), np.empty_like(index)
        distances[order], indices[order] = best, index
        return distances, indices

    def normals(self, points: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Outward unit normals [3, R] at surface points [3, R] of the solids [R]."""
        normals = np.empty_like(points)
        for k, here in _groups(index):
            local = self.to_world[k].T @ (points.take(here, axis=1) - self.centers[k][:, None])
            normals[:, here] = self.to_world[k] @ self.solids[k].shape.normal(local)
        return normals

    @_quiet()
    def shadowed(self, points: np.ndarray, light: np.ndarray) -> np.ndarray:
        """Whether something stands between points [3, R] and the sun in unit direction light [3].

        The points must be sorted by `level(light) @ points`.

        Returns:
            [R] bool.
        """
        dark = np.zeros(points.shape[1], bool)
        side = level(light)
        upward = cross(side, light)
        firsts, ends = self._slices(points, light, self.radii)
        along, height, sideways = light @ points, upward @ points, side @ points
        for k in np.flatnonzero(self.casts_shadow & (firsts < ends)).tolist():
            part = slice(firsts[k], ends[k])
            center = self.centers[k]
            near = (height[part] - upward @ center) ** 2 + (sideways[part] - side @ center) ** 2 <= self.radii[k] ** 2
            if self.slim[k]:
                lever = cross(self.axes[k], light)
                near &= (lever @ points[:, part] - lever @ center) ** 2 <= self.widths[k] ** 2 * (lever @ lever)
            rays = np.flatnonzero(near & ~dark[part])
            if rays.size:
                middle = light @ center - along[part].take(rays)
                t = self._hit(k, rays, middle, points[:, part], light[:, None])
                dark[rays[t < np.inf] + firsts[k]] = True
        return dark

    def openness(self, points: np.ndarray, normals: np.ndarray, light: np.ndarray) -> np.ndarray:
        """How much of the sky reaches points, [R] 0..1: solids near them taken as balls.

        A ball of radius r at distance d covers cos * (r / d)^2 of the hemisphere. The points [3, R] must be sorted
        by `level(light) @ points`.
        """
        result = np.ones(points.shape[1], np.float32)
        limits = 5.0 * self.cores
        firsts, ends = self._slices(points, light, limits)
        for k in np.flatnonzero((self.cores > 0.03) & (firsts < ends)).tolist():
            part = slice(firsts[k], ends[k])
            towards = self.centers[k][:, None] - points[:, part]
            distance2 = dot(towards, towards)
            near = np.flatnonzero(distance2 < limits[k] ** 2)
            if near.size:
                towards, distance2 = towards.take(near, axis=1), distance2.take(near)
                fading = 1.0 - distance2 / limits[k] ** 2
                distance2 = np.maximum(distance2, self.cores[k] ** 2)
                cosine = np.maximum(dot(towards, normals[:, part].take(near, axis=1)), 0.0) / np.sqrt(distance2)
                result[near + firsts[k]] *= 1.0 - 0.8 * cosine * fading * (self.cores[k] ** 2 / distance2)
        return result

    def _slices(self, points: np.ndarray, light: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and end [K] of the sorted points that are within reach [K] of the solids, along level(light)."""
        across = level(light)
        places, centers = across @ points, self.centers @ across
        return np.searchsorted(places, centers - reach), np.searchsorted(places, centers + reach)

    @_quiet()
    def radiance(self, origin: np.ndarray, direction: np.ndarray, light: np.ndarray, pixel: float) -> _Seen:
        """Linear light [3, R] that comes back along rays, with the distance [R] and solid index [R] as `cast` gives.

        Args:
            origin: [3, 1]; direction: [3, R], unit length; light: [3], unit direction to the sun.
            pixel: size of a ray's footprint at distance 1.
        """
        t, index = self.cast(origin, direction)
        color = np.empty_like(direction)
        missed = np.flatnonzero(index < 0)
        if missed.size:
            color[:, missed] = sky(direction.take(missed, axis=1))
        found = np.flatnonzero(index >= 0)
        if found.size:
            points = origin + t.take(found) * direction.take(found, axis=1)
            order = np.argsort(level(light) @ points)
            found, points = found[order], points.take(order, axis=1)
            seen, far = direction.take(found, axis=1), t.take(found)
            surface = self._surface(points, index.take(found), seen, far * pixel, light)
            haze = 0.97 * clear_sky(seen)
            color[:, found] = mix(surface, haze, 1.0 - np.exp(-np.maximum(far - 6.0, 0.0) / _HAZE_DISTANCE))
        return color, t, index

    def _surface(
        self, points: np.ndarray, index: np.ndarray, seen: np.ndarray, size: np.ndarray, light: np.ndarray
    ) -> np.ndarray:
        """Linear light [3, R] that surface points, sorted as above, send back against the rays `seen` [3, R]."""
        albedo, normals = np.empty_like(points), np.empty_like(points)
        specular, shininess = np.zeros_like(size), np.zeros_like(size)
        for k, here in _groups(index):
            solid, turn = self.solids[k], self.to_world[k]
            local = turn.T @ (points.take(here, axis=1) - self.centers[k][:, None])
            outward = solid.shape.normal(local)
            across = turn @ outward
            slant = np.maximum(np.abs(dot(across, seen.take(here, axis=1))), 0.15)
            normals[:, here] = across
            albedo[:, here] = solid.material.pattern(local, outward, size.take(here) / slant)
            specular[here], shininess[here] = solid.material.specular, solid.material.shininess

        sunlit = np.maximum(dot(normals, light), 0.0)
        lit = np.flatnonzero((sunlit > 0) & (dot(points, points) < _SHADOW_RANGE**2))
        if lit.size:  # a shadow ray starts a little above its surface, which leaves the points' order as good as it was
            dark = self.shadowed(points.take(lit, axis=1) + _LIFT * light[:, None], light)
            sunlit[lit[dark]] = 0.0
        openness = self.openness(points, normals, light)
        color = albedo * (_SUN_LIGHT * sunlit + mix(_BOUNCE_LIGHT, _SKY_LIGHT, 0.5 + 0.5 * normals[2]) * openness)

        glossy = np.flatnonzero(specular > 0)
        if glossy.size:
            n, v = normals.take(glossy, axis=1), -seen.take(glossy, axis=1)
            shiny = specular.take(glossy), shininess.take(glossy)
            fresnel, reflected = _gloss(n, v, *shiny, light, sunlit.take(glossy), openness.take(glossy))
            color[:, glossy] = color.take(glossy, axis=1) * (1.0 - fresnel) + reflected
        return color


def _gloss(
    normals: np.ndarray,
    back: np.ndarray,
    specular: np.ndarray,
    power: np.ndarray,
    light: np.ndarray,
    sunlit: np.ndarray,
    openness: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """What a varnished surface mirrors: Fresnel's share [R] and light [3, R] of the sky and the sun.

    Args:
        normals, back: [3, R] unit, outwards and to the eye.
        specular, power: [R] as in `Material`.
        light: [3] to the sun; sunlit: [R] its cosine, 0 in shadow; openness: [R].
    """
    cosine = np.clip(dot(normals, back), 0.0, 1.0)
    grazing = np.minimum(8.0 * specular, 0.6)  # below the 1 of a perfect mirror, as on worn varnish
    fresnel = specular + (grazing - specular) * (1.0 - cosine) ** 5  # Schlick 1994
    mirrored = 2.0 * cosine * normals - back
    reflected = mix(_BOUNCE_LIGHT * 0.7, clear_sky(mirrored), smoothstep(-0.25, 0.35, mirrored[2])) * openness
    halfway = unit(back + light[:, None])
    lobe = np.maximum(dot(normals, halfway), 0.0) ** power * ((power + 8.0) / 25.0)  # Blinn-Phong, (n + 8) / 8 pi
    return fresnel, reflected * fresnel + _SUN_LIGHT * (sunlit * lobe * specular)
