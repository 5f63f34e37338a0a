"""The sparse points of a capture: which of them training can start from, and which color they have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nfc_gs.data.normalize import camera_centers, camera_layout, in_view, intrinsics_of
from nfc_gs.data.scene import PointCloud, SceneData
from nfc_gs.data.views import CaptureView

SEEN_SHARE = 0.25
"""Of the points of SfM nearly all are in view of a photo, of those of a laser scanner at least so many; of a cloud in
another frame than the cameras only those that are in view by accident."""

BLIND_SHARE = 0.25
"""SfM finds the pose of a photo by the points it sees; where so many photos (and two at least) see none, the cloud is
in another frame. Fewer may have a wrong pose, or show the sky."""

FEW_TESTED, MOST_TESTED = 1_000, 100_000_000
"""How many points are tested for visibility at first; how many pairs of a point and a camera where these say that the
cloud does not fit, since a photo of a large scene may see none of a few."""

BEYOND_FOCUS, NEAR_SHARE = 10.0, 0.01
"""Where photos look at one place, SfM finds points there, and on what is before it and behind it; if not even this
share of the points is nearer to the cameras than so many times that place, the points are in another unit."""

COLOR_VIEWS = 32
"""Most photos that colors of points are taken from."""

COLOR_SAMPLES = 3
"""Photos that see a point and give it its color; with so many, one before which it is hidden matters little."""

COLOR_SIDE = 400
"""Longest side of these photos in pixels, at least: a pixel averages over more than the error of a point's position."""

LEAST_COMPARED, COMPARED = 50, 2_000
"""Least and most points whose colors are compared with the photos."""

NO_COLOR = 128
"""Red, green and blue of points of which nothing is known: middle grey."""


@dataclass(frozen=True)
class Visibility:
    """How many of a capture's points its photos see.

    Attributes:
        share: of the points that lie in view of a photo, 0..1.
        blind: photos that see none of them.
        photos: all of them.
    """

    share: float
    blind: int
    photos: int


def in_another_frame(xyz: np.ndarray, views: Sequence[CaptureView], enough: int) -> Visibility | None:
    """Whether points [P, 3] seem to be in another frame than the cameras of `views`.

    That is where few are in view (and fewer than `enough` to start from), or many photos see none.

    Returns:
        what the photos see of the points; None where they fit.
    """
    found = None
    for most in (FEW_TESTED, MOST_TESTED // len(views)):
        step = max(1, math.ceil(len(xyz) / most))
        found = _visibility(xyz[::step], views)
        few = found.share < SEEN_SHARE and found.share * len(xyz) < enough
        if not few and found.blind < max(2, BLIND_SHARE * found.photos):
            return None
        if step == 1:
            break
    return found


def beyond_focus(xyz: np.ndarray, views: Sequence[CaptureView], enough: int) -> bool:
    """Whether points [P, 3] seem to be in another unit than the cameras of `views`.

    That is where the cameras look at one place, and all points but few (and fewer than `enough` to start from) are much
    farther away.
    """
    viewmats = np.stack([view.viewmat for view in views])
    distance = camera_layout(viewmats, xyz).distance
    if distance is None:
        return False
    away = np.linalg.norm(xyz - camera_centers(viewmats).mean(axis=0), axis=1)
    near = int((away <= BEYOND_FOCUS * distance).sum())
    return near < min(enough, NEAR_SHARE * len(xyz))


def _visibility(xyz: np.ndarray, views: Sequence[CaptureView]) -> Visibility:
    seen, seeing = np.zeros(len(xyz), dtype=bool), set()
    for view in views:
        visible = in_view(xyz, view.viewmat, intrinsics_of(view.pinhole)) > 0
        seen |= visible
        if visible.any():
            seeing.add(view.image.name)
    photos = len({view.image.name for view in views})
    return Visibility(float(seen.mean()), photos - len(seeing), photos)


def without_color(rgb: np.ndarray) -> np.ndarray:
    """Which points [P] have no color of their own, by their colors [P, 3] uint8.

    They are the black ones where most are black, as LLFF's scripts leave them. Readers make points grey whose file has
    no colors, and training starts well from these.
    """
    black = (rgb == 0).all(axis=1)
    return black & (2 * black.sum() > len(rgb))


def with_colors_of_photos(scene: SceneData, lacking: np.ndarray) -> PointCloud:
    """The points of a scene, of which those that are `lacking` [P] take their color from the photos, or are grey.

    Raises:
        UserError: a photo cannot be read.
    """
    colors, found = colors_of_photos(scene, scene.points.xyz[lacking])
    rgb = scene.points.rgb.copy()
    rgb[lacking] = np.where(found[:, None], np.round(colors), NO_COLOR)
    return PointCloud(scene.points.xyz, rgb)


def colors_disagree(scene: SceneData) -> bool:
    """Whether the points of a scene have not the brightness of the photos at the places where they lie there.

    That is a sign of another frame. Brightness must say where a point is at all: that of points which are neighbours
    must correlate, as it does not for points made at random, and far better than that of points and photos.

    Raises:
        UserError: a photo cannot be read.
    """
    from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

    chosen = np.random.default_rng(0).permutation(len(scene.points))[:COMPARED]
    colors, found = colors_of_photos(scene, scene.points.xyz[chosen])
    if found.sum() < LEAST_COMPARED:
        return False
    xyz, own = scene.points.xyz[chosen][found], scene.points.rgb[chosen][found].mean(axis=1)
    neighbours = own[cKDTree(xyz).query(xyz, k=2)[1][:, 1]]
    doubt = 1.0 / math.sqrt(len(own))  # the standard deviation of a correlation by accident
    return _correlation(own, colors[found].mean(axis=1)) + doubt < 0.5 * _correlation(own, neighbours)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, -1..1; 0 where one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / spread if spread else 0.0


def colors_of_photos(scene: SceneData, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the pixels at which points [P, 3] lie in a few of the training photos, masked-out ones left aside.

    Returns:
        [P, 3] float64, 0..255; [P] bool, whether there is such a pixel.

    Raises:
        UserError: a photo cannot be read.
    """
    xyz = xyz.astype(np.float64)
    total, count = np.zeros((len(xyz), 3)), np.zeros(len(xyz), dtype=np.int64)
    order = np.random.default_rng(0).permutation(scene.train)[:COLOR_VIEWS].tolist()
    for k, index in enumerate(order):
        if k % COLOR_SAMPLES == 0:
            if (count >= COLOR_SAMPLES).mean() > 0.95:
                break
            for ahead in order[k : k + COLOR_SAMPLES]:
                scene.prefetch([ahead], _color_divisor(scene, ahead))
        divisor = _color_divisor(scene, index)
        camera, image = scene.camera(index, divisor), scene.image(index, divisor)
        viewmat = camera.viewmat.double().numpy()
        intrinsics = np.array([camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height])
        visible = np.flatnonzero(in_view(xyz, viewmat, intrinsics))
        local = xyz[visible] @ viewmat[:3, :3].T + viewmat[:3, 3]
        x, y = (local[:, :2] / local[:, 2:] * intrinsics[:2] + intrinsics[2:4]).T.astype(np.int64)
        x, y = x.clip(0, camera.width - 1), y.clip(0, camera.height - 1)
        if image.mask is not None:
            counts = image.mask[y, x] >= 128
            visible, x, y = visible[counts], x[counts], y[counts]
        if scene.background is not None:  # nothing of the scene is where its color was laid
            drawn = (image.rgb[y, x] != np.round(255.0 * np.array(scene.background))).any(axis=1)
            visible, x, y = visible[drawn], x[drawn], y[drawn]
        total[visible] += image.rgb[y, x]
        count[visible] += 1
    return total / np.maximum(count, 1)[:, None], count > 0


def _color_divisor(scene: SceneData, index: int) -> int:
    camera = scene.views[index].camera
    return 2 ** max(0, int(math.log2(max(camera.width, camera.height) / COLOR_SIDE)))
