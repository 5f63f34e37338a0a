"""Lenses of captures: from any camera model that pycolmap knows to the pinhole that the rest of the project uses."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nfc_gs.core.errors import UserError

MAX_HALF_FOV = math.radians(60.0)
"""Half the largest field of view. A wider pinhole spends most of its pixels on a stretched border, and the linearised
projection of a Gaussian (EWA splatting) is inaccurate there; what lies outside is cropped."""

PINHOLE_TOLERANCE = 0.01
"""A lens that moves no pixel by more than this (pixels) is a pinhole and needs no resampling."""

RADIAL4 = "RADIAL4_TANGENTIAL"
"""Not one of COLMAP's: r^2, r^4, r^6, r^8 and tangential terms, as nerfstudio's perspective model has them, and where
there is one parameter more, a skew (pixels across for each unit down), as in Nerfies."""

SPHERICAL = "EQUIRECTANGULAR"


@dataclass(frozen=True)
class Lens:
    """A calibrated lens; `params` in the order of COLMAP's model of that name, pixels of a width x height image."""

    model: str
    width: int
    height: int
    params: tuple[float, ...]

    def project(self, rays: np.ndarray) -> np.ndarray:
        """Image positions in pixels of camera-frame rays.

        Args:
            rays: [M, 3] float64, OpenCV axes, z > 0 unless the lens is spherical.

        Returns:
            [M, 2] float64, top left corner of the image at (0, 0); NaN where the model is not defined.
        """
        with np.errstate(all="ignore"):  # what overflows is not defined
            if self.model == RADIAL4:
                return _project_radial4(np.array(self.params), rays)
            return np.asarray(_colmap_camera(self).img_from_cam(np.ascontiguousarray(rays, dtype=np.float64)))


@dataclass(frozen=True)
class Pinhole:
    """What a lens is converted to.

    Attributes:
        fx, fy, cx, cy: intrinsics in pixels of a width x height image.
        rotation: [3][3], from the lens's camera frame to this one (only spherical lenses need one).
        label: which of the pinholes of a spherical lens this is; empty otherwise.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    rotation: tuple[tuple[float, float, float], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    label: str = ""

    def resized(self, width: int, height: int) -> Pinhole:
        """The same view on another pixel grid."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self, fx=self.fx * sx, fy=self.fy * sy, cx=self.cx * sx, cy=self.cy * sy, width=width, height=height
        )


@functools.lru_cache(maxsize=64)
def _colmap_camera(lens: Lens) -> Any:
    from nfc_gs.data.colmap_library import pycolmap

    return pycolmap.Camera(model=lens.model, width=lens.width, height=lens.height, params=list(lens.params))


def _project_radial4(params: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Brown-Conrady with radial terms up to r^8: params fx, fy, cx, cy, k1, k2, k3, k4, p1, p2 and perhaps skew."""
    fx, fy, cx, cy, k1, k2, k3, k4, p1, p2 = params[:10]
    skew = params[10] if len(params) > 10 else 0.0
    x, y = rays[:, 0] / rays[:, 2], rays[:, 1] / rays[:, 2]
    r2 = x * x + y * y
    radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    u = x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x)
    v = y * radial + 2.0 * p2 * x * y + p1 * (r2 + 2.0 * y * y)
    return np.stack([fx * u + skew * v + cx, fy * v + cy], axis=1)


def check_lens(lens: Lens, where: str) -> None:
    """Refuse calibrations that no lens has.

    Raises:
        UserError: size not positive, a parameter not finite, or a focal length beyond reason; begins with `where`.
    """
    if not (1 <= lens.width <= 1_000_000 and 1 <= lens.height <= 1_000_000):
        raise UserError(
            f"{where}: an image of {lens.width:.9g} x {lens.height:.9g} pixels is not possible; calibrate again."
        )
    if not all(math.isfinite(value) for value in lens.params):
        raise UserError(f"{where}: the parameters of the {lens.model} lens are not finite; calibrate again.")
    if lens.model == SPHERICAL:
        return
    with np.errstate(all="ignore"):
        fx, fy, cx, cy = _central_intrinsics(lens)
    side = max(lens.width, lens.height)
    if not (0.01 * side <= fx <= 1000.0 * side and 0.01 * side <= fy <= 1000.0 * side):
        raise UserError(
            f"{where}: a focal length of {fx:.4g} x {fy:.4g} pixels does not fit an image of "
            f"{lens.width} x {lens.height}; calibrate again."
        )
    if not (abs(cx) <= 10.0 * side and abs(cy) <= 10.0 * side):
        raise UserError(f"{where}: the principal point ({cx:.4g}, {cy:.4g}) is far off the image; calibrate again.")


def _central_intrinsics(lens: Lens) -> tuple[float, float, float, float]:
    """Focal lengths and principal point of the pinhole that agrees with the lens around its axis."""
    if lens.model == "PINHOLE":
        fx, fy, cx, cy = lens.params
        return fx, fy, cx, cy
    if lens.model == "SIMPLE_PINHOLE":
        f, cx, cy = lens.params
        return f, f, cx, cy
    step = 1e-4
    rays = np.array([[0, 0, 1], [step, 0, 1], [-step, 0, 1], [0, step, 1], [0, -step, 1]], dtype=np.float64)
    centre, right, left, down, up = lens.project(rays)  # the middle of a fit is smooth whatever its border does
    return (
        float((right - left)[0] / (2 * step)),
        float((down - up)[1] / (2 * step)),
        float(centre[0]),
        float(centre[1]),
    )


def pinholes(lens: Lens) -> list[Pinhole]:
    """The pinhole cameras that a lens is converted to.

    One of the same size, principal point and focal length (the scale at the centre of the image is kept, so no
    detail is lost there; what a barrel-shaped lens sees beyond the border is cropped, what it does not see is
    masked), narrowed where its field of view would pass 2 x 60 degrees. A spherical panorama becomes the six
    faces of a cube.
    """
    if lens.model == SPHERICAL:
        return _cube_faces(lens)
    fx, fy, cx, cy = _central_intrinsics(lens)
    widest = max(lens.width / fx, lens.height / fy) / (2.0 * math.tan(MAX_HALF_FOV))
    if widest > 1.0 and not is_pinhole(lens):
        fx, fy = fx * widest, fy * widest
    return [Pinhole(fx, fy, cx, cy, lens.width, lens.height)]


def _cube_faces(lens: Lens) -> list[Pinhole]:
    size = max(1, round(lens.width / math.pi))  # keeps the panorama's scale at the centre of a face
    half = size / 2.0
    faces = []
    for label, yaw, pitch in (
        ("front", 0, 0),
        ("right", 90, 0),
        ("back", 180, 0),
        ("left", 270, 0),
        ("up", 0, 90),
        ("down", 0, -90),
    ):
        a, b = math.radians(yaw), math.radians(pitch)
        turn = np.array([[math.cos(a), 0, -math.sin(a)], [0, 1, 0], [math.sin(a), 0, math.cos(a)]])
        tilt = np.array([[1, 0, 0], [0, math.cos(b), math.sin(b)], [0, -math.sin(b), math.cos(b)]])
        rotation = tuple(tuple(float(v) for v in row) for row in np.round(tilt @ turn))
        faces.append(Pinhole(half, half, half, half, size, size, rotation, label))  # type: ignore[arg-type]
    return faces


@functools.lru_cache(maxsize=256)
def is_pinhole(lens: Lens) -> bool:
    """Whether the lens is a pinhole to within `PINHOLE_TOLERANCE` all over its image."""
    if lens.model in ("PINHOLE", "SIMPLE_PINHOLE"):
        return True
    if lens.model == SPHERICAL:
        return False
    fx, fy, cx, cy = _central_intrinsics(lens)
    grid = np.stack(np.meshgrid(np.linspace(0, lens.width, 17), np.linspace(0, lens.height, 17)), -1).reshape(-1, 2)
    rays = np.concatenate([(grid - [cx, cy]) / [fx, fy], np.ones((len(grid), 1))], axis=1)
    return bool((np.abs(lens.project(rays) - grid) <= PINHOLE_TOLERANCE).all())  # NaN compares false


UNSEEN_GRID = 48
"""`unseen_share` is measured on a grid of so many pixels on its longer side."""


def unseen_share(lens: Lens) -> float:
    """The share of the pixels for which the lens has no source, in the pinhole that it becomes; it is not spherical."""
    (target,) = pinholes(lens)
    per_pixel = UNSEEN_GRID / max(target.width, target.height)
    small = target.resized(max(1, round(target.width * per_pixel)), max(1, round(target.height * per_pixel)))
    return 1.0 - float(_sampling_map(lens, small)[1].mean())


@functools.lru_cache(maxsize=8)  # 8 bytes a pixel each: few enough when every image has a camera of its own
def sampling_map(lens: Lens, target: Pinhole) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the pinhole image lies in the image of the lens.

    Returns:
        positions [H, W, 2] float32: from (-1, -1), the top left corner of the lens's image, to (1, 1), the bottom
        right corner, whatever the size it is decoded at; inside [H, W] bool: false where there is no source.
    """
    return _sampling_map(lens, target)


def _sampling_map(lens: Lens, target: Pinhole) -> tuple[np.ndarray, np.ndarray]:
    x = (np.arange(target.width) + 0.5 - target.cx) / target.fx
    y = (np.arange(target.height) + 0.5 - target.cy) / target.fy
    rays = np.stack([*np.meshgrid(x, y), np.ones((target.height, target.width))], axis=-1).reshape(-1, 3)
    with np.errstate(all="ignore"):
        source = lens.project(rays @ np.array(target.rotation))
        source = source * (2.0 / np.array([lens.width, lens.height])) - 1.0
        edge = 1.0 + 1e-9
        inside = ((source >= -edge) & (source <= edge)).all(axis=1)  # NaN compares false
    if lens.model != SPHERICAL:
        inside &= np.hypot(rays[:, 0], rays[:, 1]) <= _fold_radius(lens, float(np.abs(rays[:, :2]).max()) * 1.5)
    source[~inside] = 0.0
    shape = (target.height, target.width)
    return source.astype(np.float32).reshape(*shape, 2), inside.reshape(shape)


def _fold_radius(lens: Lens, largest: float) -> float:
    """Tangent of the angle to the axis up to which the lens maps rays outwards, at most `largest`.

    A polynomial fitted inside the image may turn back outside it; rays beyond the turn would land inside the
    image again, where they were never seen.
    """
    radii = np.linspace(0.0, largest, 513)
    angles = np.linspace(0.0, 2.0 * np.pi, 32, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rays = np.ones((len(angles), len(radii), 3))
    rays[..., :2] = directions[:, None] * radii[None, :, None]
    image = lens.project(rays.reshape(-1, 3)).reshape(len(angles), len(radii), 2)
    with np.errstate(all="ignore"):
        outwards = np.diff(np.linalg.norm(image - image[:, :1], axis=-1), axis=1) > 0  # [A, R - 1]; NaN compares false
    turns = np.flatnonzero(~outwards.all(axis=0))
    return float(radii[max(turns[0] - 1, 0)]) if len(turns) else largest  # the turn may lie one step before it shows
