"""From a path to a `SceneData`: which reader, which views, which points, which split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import Capture
from nfc_gs.data.cloud import (
    BEYOND_FOCUS,
    NO_COLOR,
    beyond_focus,
    colors_disagree,
    in_another_frame,
    with_colors_of_photos,
    without_color,
)
from nfc_gs.data.config import FEW_POINTS, DataConfig, Downscale, check_config, parse_downscale
from nfc_gs.data.ignored import check_ignored
from nfc_gs.data.image_plan import plan_images
from nfc_gs.data.masks import with_moving_masks
from nfc_gs.data.normalize import (
    Layout,
    at_one_position,
    camera_centers,
    camera_layout,
    depth_range,
    far_cameras,
    normalising_transform,
    random_points,
    rounded_offset,
    too_far_for_float32,
    transform_points,
    transform_viewmats,
    translation,
)
from nfc_gs.data.readers.registry import read_capture
from nfc_gs.data.scene import PointCloud, SceneData
from nfc_gs.data.times import frames_per_second, normalise_times, select_frames, times_from_names
from nfc_gs.data.views import CaptureView, capture_views, plan_masking, read_headers

DEFAULT_TEST_EVERY = 8
"""The usual split of the literature since LLFF: every 8th image by name, the first included."""

POINT_RANGE = 1e6
"""Points farther away than this many times the size of the camera layout are errors of SfM."""

DEPTH_RANGE = 1e6
"""Where the farthest depth is more than this many times the nearest, they are not believed."""

CHECK_NOW_PIXELS = 32_000_000
"""Captures up to this size are decoded while they are opened, so that a damaged file is reported at once."""


def load_scene(
    path: Path | str, config: DataConfig | None = None, *, seed: int = 0, copies: Path | str | None = None
) -> SceneData:
    """Read a capture: a COLMAP project, a nerfstudio or Blender folder, the `transforms.json` itself, a Nerfies or
    PanopticSports capture, or multi-view video.

    Args:
        seed: for the random points of captures without points.
        copies: folder for decoded copies of the images, which are made where they pay (`data.image_plan`) and which
            several runs may share; None to write nothing.

    Raises:
        UserError: one sentence on what is wrong with the path, the configuration or the capture.

    >>> scene = nfc_gs.load_scene("captures/garden")
    >>> scene
    SceneData('captures/garden': 8 views, 7 to train on and 1 held out, 4,005 points)
    >>> scene.views[0], scene.test
    (View('0001.png', 48 x 36 pixels), (0,))
    >>> scene.photo(0).shape  # float32 in [0, 1]
    torch.Size([36, 48, 3])
    """
    config = config or DataConfig()
    check_config(config)
    downscale = parse_downscale(config.downscale)
    capture, frame_rate = _read(Path(path), config, downscale)
    headers = read_headers(capture.images, capture.messages)
    masking = plan_masking(config, capture, headers)
    planned = capture_views(capture.images, headers, downscale, masking, capture.messages)
    if len(planned) < 2:
        raise UserError(f"{path} has {len(planned)} usable view, and a scene needs at least 2; add images to it.")

    placed = _place(capture, planned, config, seed)
    capture, planned = placed.capture, placed.views
    train, test = _split(capture, planned, config.test_every)
    check_ignored([planned[i].source for i in train], capture.messages)
    trained = {planned[i].image.name for i in train}
    axis = normalise_times(capture.images, trained, capture.time_unit, capture.root, capture.messages)
    views = tuple(view.in_scene(viewmat, axis) for view, viewmat in zip(planned, placed.viewmats, strict=True))
    images = plan_images(views, config, None if copies is None else Path(copies), capture.messages)
    scene = SceneData(
        root=capture.root,
        format=capture.format,
        views=views,
        train=train,
        test=test,
        points=placed.points,
        points_are_random=not placed.own,
        transform=placed.transform,
        extent=1.1 * placed.size,
        background=masking.background,
        messages=tuple(capture.messages),
        time_axis=axis.in_seconds(frame_rate) if axis is not None and frame_rate is not None else axis,
        images=images,
    )
    _check_images_now(scene)
    return _with_checked_colors(scene, capture, placed)


def _read(path: Path, config: DataConfig, downscale: Downscale) -> tuple[Capture, float | None]:
    """The images of a capture that are used, with their times, and the frames per second where they are known."""
    capture = read_capture(path, factor=downscale.copies, masks=config.masks)
    if config.time_from_name is not None:
        capture = times_from_names(capture, config.time_from_name)
    frame_rate = frames_per_second(capture, config.frame_rate)
    capture = select_frames(capture, config.frame_start, config.frame_end, config.frame_stride)
    return with_moving_masks(capture), frame_rate


@dataclass(frozen=True)
class _Placed:
    """A capture in the frame of its scene.

    Attributes:
        capture, views: without those left out.
        viewmats: [C, 4, 4] float64, of the views.
        transform: [4, 4] float64 similarity from the capture's frame.
        size: of the camera layout.
        points: to start from.
        own: they are the capture's, not random ones.
        lacking: [P] bool, those of them that have no color.
    """

    capture: Capture
    views: list[CaptureView]
    viewmats: np.ndarray
    transform: np.ndarray
    size: float
    points: PointCloud
    own: bool
    lacking: np.ndarray


def _place(capture: Capture, views: list[CaptureView], config: DataConfig, seed: int) -> _Placed:
    """Choose the frame of a scene and the points to start from, and leave out what cannot be right."""
    xyz, rgb = _finite_points(capture)
    capture, views = _without_far_views(capture, views, xyz)
    strange = _in_another_frame(capture, views, xyz, config.random_points)
    if strange:  # what is far is then measured without them
        xyz, rgb = xyz[:0], rgb[:0]
        capture, views = _without_far_views(capture, views, xyz)
    viewmats = np.stack([view.viewmat for view in views])
    if at_one_position(viewmats):
        capture.messages.warning(
            "All cameras stand at one position, so the photos say nothing about depth; if they were taken from several "
            "positions, those in the capture are wrong."
        )
    layout = camera_layout(viewmats, xyz)
    transform = _transform(capture, layout, normalize=config.normalize)
    viewmats, xyz = transform_viewmats(viewmats, transform), transform_points(xyz, transform)
    layout = camera_layout(viewmats, xyz)
    if not strange:
        xyz, rgb = _near_points(capture, xyz, rgb, viewmats, layout.size)
    own = len(xyz) >= FEW_POINTS
    if not own:
        if not strange:
            found = "no points" if len(xyz) == 0 else f"only {len(xyz)} points"
            capture.messages.warning(
                f"The capture has {found}; training starts from {config.random_points} random ones."
            )
        depths = _depths(capture, layout, transform)
        xyz = random_points(viewmats, [view.pinhole for view in views], depths, config.random_points, seed)
        rgb = np.full((len(xyz), 3), NO_COLOR, dtype=np.uint8)
    lacking = without_color(rgb) if own else np.zeros(len(xyz), dtype=bool)
    if lacking.any():
        capture.messages.warning(
            f"{lacking.sum()} of {len(xyz)} points have no color of their own: they take that of the photos."
        )
    points = PointCloud(xyz.astype(np.float32), rgb)
    return _Placed(capture, views, viewmats, transform, layout.size, points, own, lacking)


def _with_checked_colors(scene: SceneData, capture: Capture, placed: _Placed) -> SceneData:
    """The scene, in which points without color have that of the photos; a warning where others disagree with them."""
    if placed.lacking.any():
        return replace(scene, points=with_colors_of_photos(scene, placed.lacking))
    if not placed.own or not colors_disagree(scene):
        return scene
    capture.messages.warning(
        "The points have other colors than the photos at the places where they lie there: they may be in another frame "
        "than the cameras. Without points, training would start from random ones."
    )
    return replace(scene, messages=tuple(capture.messages))


def _depths(capture: Capture, layout: Layout, transform: np.ndarray) -> tuple[float, float]:
    """The nearest and farthest depth of the scene in the normalised frame, as the capture says or as its cameras do."""
    if capture.depths is None or capture.depths[1] > DEPTH_RANGE * capture.depths[0]:
        return depth_range(layout, object_only=capture.alpha == "white")
    near, far = np.array(capture.depths) * np.cbrt(np.linalg.det(transform[:3, :3]))
    return float(near), float(far)


def _finite_points(capture: Capture) -> tuple[np.ndarray, np.ndarray]:
    finite = np.isfinite(capture.xyz).all(axis=1) & (np.abs(capture.xyz) < 1e15).all(axis=1)
    return capture.xyz[finite], capture.rgb[finite]


def _in_another_frame(capture: Capture, views: Sequence[CaptureView], xyz: np.ndarray, random: int) -> bool:
    """Whether the points are in another frame than the cameras, which a warning says."""
    if len(xyz) < FEW_POINTS:
        return False
    instead = f"Training starts from {random} random ones."
    seen = in_another_frame(xyz, views, enough=random)
    if seen is not None:
        capture.messages.warning(
            f"{100 * seen.share:.3g} % of the capture's {len(capture.xyz)} points are in view of a photo, and "
            f"{seen.blind} of {seen.photos} photos see none: the points must be in another frame than the cameras. "
            f"{instead}"
        )
        return True
    if beyond_focus(xyz, views, enough=random):
        capture.messages.warning(
            f"Nearly all of the capture's {len(capture.xyz)} points are more than {BEYOND_FOCUS:.0f} times as far away "
            f"as the place that the photos look at: the points must be in another unit than the cameras. {instead}"
        )
        return True
    return False


def _near_points(
    capture: Capture, xyz: np.ndarray, rgb: np.ndarray, viewmats: np.ndarray, size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Drop points so far away that they are errors, and say how many of all the capture's points are gone."""
    near = np.linalg.norm(xyz - camera_centers(viewmats).mean(axis=0), axis=1) <= POINT_RANGE * size
    dropped = len(capture.xyz) - int(near.sum())
    if dropped:
        capture.messages.warning(
            f"{dropped} of {len(capture.xyz)} points are not finite or absurdly far away: left out."
        )
    return xyz[near], rgb[near]


def _without_far_views(
    capture: Capture, views: list[CaptureView], xyz: np.ndarray
) -> tuple[Capture, list[CaptureView]]:
    """The capture and its views without those that are absurdly far from the others, which a warning names."""
    far, times = far_cameras(np.stack([view.viewmat for view in views]), xyz)
    gone = sorted({view.image.name for view, is_far in zip(views, far, strict=True) if is_far})
    if not gone:
        return capture, views
    away = f"{times:,.0f} times farther away than the other cameras and the scene"
    if len(gone) == 1:
        sentence = f"The camera of {gone[0]} is {away}: its pose must be wrong, and the photo is left out."
    else:
        some = ", ".join(gone[:3]) + (f", ... ({len(gone)} of {len(capture.images)})" if len(gone) > 3 else "")
        sentence = f"The cameras of {some} are {away}: their poses must be wrong, and the photos are left out."
    capture.messages.warning(sentence)
    kept = replace(capture, images=[image for image in capture.images if image.name not in gone])
    return kept, [view for view in views if view.image.name not in gone]


def _transform(capture: Capture, layout: Layout, *, normalize: bool) -> np.ndarray:
    """The similarity [4, 4] from the capture's frame to that of the scene."""
    if not too_far_for_float32(layout.centre, layout.size):
        return normalising_transform(layout) if normalize else np.eye(4)
    offset = rounded_offset(layout.centre, layout.size)
    x, y, z = offset.tolist()
    around = (
        f"The cameras are around ({x:.12g}, {y:.12g}, {z:.12g}), where float32 is too coarse for a scene of this size"
    )
    if normalize:
        capture.messages.info(f"{around}: splat files are in a local frame, which lacks that offset.")
        return normalising_transform(layout)
    capture.messages.warning(f"{around}: without normalisation it is still moved by that offset.")
    return translation(-offset)


def _split(
    capture: Capture, views: Sequence[CaptureView], every: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Indices of the views to train and to test on."""
    own = capture.test_names if every is None else None
    test = [i for i, view in enumerate(views) if own and view.image.name in own]
    if own and not test:
        some = ", ".join(sorted(own)[:3]) + (", ..." if len(own) > 3 else "")
        capture.messages.warning(
            f"The capture holds out {len(own)} images for testing, none of which is there ({some}): "
            f"every {DEFAULT_TEST_EVERY}th is held out."
        )
    if not test and (own or own is None):
        step = DEFAULT_TEST_EVERY if every is None else every
        test = list(range(0, len(views), step)) if step else []
    train = sorted(set(range(len(views))) - set(test))
    if len(train) < 2:
        capture.messages.warning(f"Only {len(train)} views would be left to train on: none is held out for testing.")
        return tuple(range(len(views))), ()
    return tuple(train), tuple(test)


def _check_images_now(scene: SceneData) -> None:
    """Decode a small capture at once, so that damaged files are reported and the cache is filled."""
    headers = [view.source.header for view in scene.views if view.source is not None]
    if sum(header.width * header.height for header in headers) > CHECK_NOW_PIXELS:
        return
    scene.prefetch(range(len(scene.views)))
    for index in range(len(scene.views)):
        scene.image(index)
    for index in scene.test:
        scene.moving(index)
