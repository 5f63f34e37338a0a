"""From a path to a `SceneData`: what is this folder, and what is decided about it."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import Capture, Shot, image_files, is_file, with_moving_masks
from nfc_gs.data.images import ImageCache, ImageHeader, ImageSource, read_header
from nfc_gs.data.lens import Pinhole, is_pinhole, pinholes
from nfc_gs.data.normalize import (
    camera_centers,
    camera_layout,
    depth_range,
    normalising_transform,
    random_points,
    transform_points,
    transform_viewmats,
)
from nfc_gs.data.readers.colmap import find_models, read_colmap
from nfc_gs.data.readers.multiview import BOUNDS, find_cameras, read_multiview
from nfc_gs.data.readers.nerfies import is_nerfies, read_nerfies
from nfc_gs.data.readers.transforms import is_blender, read_blender, read_transforms
from nfc_gs.data.scene import PointCloud, SceneData, TimeAxis, View
from nfc_gs.data.times import frames_per_second, normalise_times, select_frames, times_from_names

AUTO_SIDE = 1600
"""Longest side in pixels that `--downscale auto` leaves, as 3DGS does."""

DEFAULT_TEST_EVERY = 8
"""The usual split of the literature since LLFF: every 8th image by name, the first included."""

FEW_POINTS = 8
"""Fewer points than this say nothing about a scene (and give nearest neighbours nothing to measure)."""

POINT_RANGE = 1e6
"""Points farther away than this many times the size of the camera layout are errors of SfM."""

CHECK_NOW_PIXELS = 32_000_000
"""Captures up to this size are decoded while they are opened, so that a damaged file shows at once."""


@dataclass(frozen=True)
class FrameOptions:
    """Which frames of a capture are used, and at which times they are."""

    time_from_name: str | None = None
    """Find the number of each image's frame in its name by this regular expression, and take it as the time of a
    moving scene: its one group, or all that it matches, as in "frame_(\\d+)"."""

    frame_start: int = 0
    """The number of the first frame to use, where the capture numbers its frames (multi-view video, Nerfies,
    --time-from-name)."""

    frame_end: int | None = None
    """The number of the first frame not to use any more; by default all that come are used."""

    frame_stride: int = 1
    """Use every K-th of these frames."""

    frame_rate: float | None = None
    """Frames per second, as they are numbered: their times are then in seconds. By default as the files of multi-view
    video say."""


@dataclass(frozen=True)
class DataConfig(FrameOptions):
    """How a capture is read."""

    downscale: str = "auto"
    """Make the images smaller: "auto" (longest side at most 1600 pixels), a factor such as "2" or "4" (the
    capture's own images_2, images_4, ... are used where they are there), a longest side such as "800px", or "1"."""

    test_every: int | None = None
    """Hold out every K-th image by name for testing, the first included; 0: none. By default the capture's own
    split where it has one, else 8."""

    background: tuple[float, float, float] | None = None
    """Lay transparent pixels on this color (red, green, blue in 0..1). By default white for Blender captures
    (transforms_train.json); elsewhere an alpha channel is a mask, and transparent pixels are ignored."""

    masks: bool = True
    """Ignore what the capture masks out: an alpha channel, the images in masks/ (black is ignored)."""

    normalize: bool = True
    """Move, turn and scale the scene: centre at the origin, up along +z, cameras about 1 from their mean. Exports
    are in the capture's own frame either way."""

    random_points: int = 20_000
    """How many points to start from where the capture has none."""

    cache_gb: float = 2.0
    """Memory for decoded images in gigabytes; larger captures are decoded again as training goes on."""


def load_scene(path: Path | str, config: DataConfig | None = None, *, seed: int = 0) -> SceneData:
    """Read a capture: a COLMAP project, a nerfstudio or Blender folder, the `transforms.json` itself, a Nerfies
    capture, or multi-view video.

    Args:
        seed: for the random points of captures without points.

    Raises:
        UserError: one sentence on what is wrong with the path, the configuration or the capture.
    """
    config = config or DataConfig()
    _check_config(config)
    factor, side = _parse_downscale(config.downscale)
    capture = _read(Path(path), int(factor) if factor > 1 and factor == int(factor) else None, config.masks)
    if config.time_from_name is not None:
        capture = times_from_names(capture, config.time_from_name)
    rate = frames_per_second(capture, config.frame_rate)
    capture = select_frames(capture, config.frame_start, config.frame_end, config.frame_stride)
    capture = with_moving_masks(capture)
    notes, shots = capture.notes, capture.shots
    with ThreadPoolExecutor(8) as pool:
        headers = list(pool.map(read_header, [shot.path for shot in shots], [shot.frame for shot in shots]))
        mask_paths = [path for shot in shots for path in (shot.mask, shot.moving) if path is not None]
        mask_headers = dict(zip(mask_paths, pool.map(read_header, mask_paths), strict=True))

    background = config.background
    if background is None and capture.alpha == "white":
        background = (1.0, 1.0, 1.0)
    if not any(header.has_alpha for header in headers):
        background = None

    drafts: list[_Draft] = []
    turns = _fit_all(shots, headers)
    for shot, header, turn in zip(shots, headers, turns, strict=True):
        for mask in (shot.mask, shot.moving):
            if mask is not None:
                _check_mask(mask, mask_headers[mask], header, turn)
        drafts += _draft(shot, header, turn, factor / shot.reduced, side, background, config.masks)
    drafts.sort(key=lambda draft: draft.name)
    if len(drafts) < 2:
        raise UserError(f"{path} has {len(drafts)} usable view, and a scene needs at least 2; add images to it.")

    viewmats = np.stack([draft.viewmat for draft in drafts])
    xyz, rgb = _finite_points(capture)
    layout = camera_layout(viewmats, xyz)
    transform = normalising_transform(layout) if config.normalize else np.eye(4)
    viewmats, xyz = transform_viewmats(viewmats, transform), transform_points(xyz, transform)
    layout = camera_layout(viewmats, xyz)
    xyz, rgb = _near_points(capture, xyz, rgb, viewmats, layout.size)
    if len(xyz) < FEW_POINTS:
        found = "no points" if len(xyz) == 0 else f"only {len(xyz)} points"
        notes.warning(f"The capture has {found}; training starts from {config.random_points} random ones.")
        depths = depth_range(layout, object_only=capture.alpha == "white")
        if capture.depths is not None:
            near, far = np.array(capture.depths) * np.cbrt(np.linalg.det(transform[:3, :3]))
            depths = float(near), float(far)
        xyz = random_points(viewmats, [draft.pinhole for draft in drafts], depths, config.random_points, seed)
        rgb = np.full((len(xyz), 3), 128, dtype=np.uint8)

    train, test = _split(capture, drafts, config.test_every)
    trained = {drafts[i].shot.name for i in train}
    axis = normalise_times(shots, trained, capture.time_unit, capture.root, notes)
    views = tuple(draft.view(viewmat, axis) for draft, viewmat in zip(drafts, viewmats, strict=True))
    scene = SceneData(
        root=capture.root,
        views=views,
        train=train,
        test=test,
        points=PointCloud(xyz.astype(np.float32), rgb),
        transform=transform,
        extent=1.1 * layout.size,
        background=background,
        notes=tuple(notes),
        time_axis=axis.in_seconds(rate) if axis is not None and rate is not None else axis,
        images=ImageCache(config.cache_gb),
    )
    _check_images_now(scene)
    return scene


def _check_config(config: DataConfig) -> None:
    if config.test_every is not None and config.test_every < 0:
        raise UserError(f"--test-every {config.test_every} is negative; give 0 for no test images, or 2 or more.")
    if config.test_every == 1:
        raise UserError("--test-every 1 leaves no image to train on; give 0 for no test images, or 2 or more.")
    if config.random_points < FEW_POINTS:
        raise UserError(f"--random-points {config.random_points} is too few to start from; give at least {FEW_POINTS}.")
    if not (math.isfinite(config.cache_gb) and config.cache_gb >= 0):
        raise UserError(f"--cache-gb {config.cache_gb} is no amount of memory; give a number of gigabytes.")
    if config.frame_start < 0:
        raise UserError(f"--frame-start {config.frame_start} is negative; frames are counted from 0.")
    if config.frame_end is not None and config.frame_end <= config.frame_start:
        raise UserError(f"--frame-end {config.frame_end} is not after --frame-start {config.frame_start}.")
    if config.frame_stride < 1:
        raise UserError(f"--frame-stride {config.frame_stride} is less than 1; give 1 for every frame.")
    if config.frame_rate is not None and not 0.0 < config.frame_rate < math.inf:
        raise UserError(f"--frame-rate {config.frame_rate:g} is no rate; give the number of frames per second.")
    if config.background is not None and not all(0.0 <= value <= 1.0 for value in config.background):
        raise UserError(f"background {config.background} is no color; give red, green and blue between 0 and 1.")


def _parse_downscale(text: str) -> tuple[float, int | None]:
    """A factor (1: none) and a longest side in pixels (None: any)."""
    word = text.strip().lower()
    if word == "auto":
        return 1.0, AUTO_SIDE
    try:
        value = float(word.removesuffix("px"))
    except ValueError:
        value = math.nan
    if not 1.0 <= value <= 1e6 or (word.endswith("px") and value != int(value)):
        raise UserError(
            f"--downscale {text!r} is not understood; give auto, a factor of 1 or more, or a side as in 800px."
        )
    return (1.0, int(value)) if word.endswith("px") else (value, None)


def _read(path: Path, factor: int | None, masks: bool) -> Capture:
    """Choose the reader."""
    try:
        exists = path.exists()
    except (OSError, ValueError):  # a name that no file system takes
        exists = False
    if not exists:
        raise UserError(f"There is no {path}; give the folder of a capture.")
    if path.is_file():
        if path.suffix.lower() != ".json":
            raise UserError(f"{path} is a file, not a capture; give the folder of a capture or its transforms.json.")
        return (
            read_blender(path, masks=masks) if is_blender(path) else read_transforms(path, factor=factor, masks=masks)
        )
    try:
        empty = not any(path.iterdir())
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from None
    if empty:
        raise UserError(f"The folder {path} is empty; give the folder of a capture.")
    if is_nerfies(path):
        capture = read_nerfies(path, factor=factor, masks=masks)
        if is_file(path / "transforms.json") or find_models(path):
            capture.notes.info(f"{path} has the files of Nerfies and others with poses; those of Nerfies are used.")
        return capture
    if is_blender(path):
        return read_blender(path, masks=masks)
    own = path / "transforms.json"
    models = find_models(path)
    if is_file(own) and not any(path / "sparse" in (model, model.parent) for model in models):
        return read_transforms(own, factor=factor, masks=masks)
    cameras = find_cameras(path)
    if len(cameras) > 1 and (models or is_file(path / BOUNDS)):
        rig = read_multiview(path, factor=factor, masks=masks)
        if rig is not None:
            return rig
    if models:
        capture = read_colmap(path, factor=factor, masks=masks)
        if len(cameras) > 1:
            capture.notes.info(
                f"{path} is read as photos, not as multi-view video: its model does not have one image for each camera."
            )
        if is_file(own):
            capture.notes.info(f"{path} has a COLMAP model and transforms.json; the model is used.")
        return capture
    if len(cameras) > 1:
        raise UserError(
            f"{path} has {len(cameras)} cameras ({cameras[0].name}, {cameras[1].name}, ...) but no poses; "
            f"add {BOUNDS}, or a COLMAP model of one image for each camera."
        )
    if next(image_files(path), None) is not None:
        raise UserError(
            f"{path} has images but no camera poses (no COLMAP model, no transforms.json); run COLMAP on it first."
        )
    raise UserError(
        f"{path} is no capture: it has no images, no COLMAP model and no transforms.json; give the folder that does."
    )


@dataclass(frozen=True)
class _Draft:
    """A view before the scene is normalised."""

    name: str
    shot: Shot
    viewmat: np.ndarray
    source: ImageSource
    pinhole: Pinhole

    def view(self, viewmat: np.ndarray, axis: TimeAxis | None) -> View:
        p, time = self.pinhole, self.shot.time
        matrix = torch.from_numpy(viewmat.astype(np.float32))
        camera = Camera(matrix, p.fx, p.fy, p.cx, p.cy, p.width, p.height)
        normalised = None if axis is None or time is None else axis.normalised(time)
        return View(self.name, camera, self.source, normalised)


def _draft(
    shot: Shot,
    header: ImageHeader,
    turn: bool,
    factor: float,
    side: int | None,
    background: tuple[float, float, float] | None,
    masks: bool,
) -> list[_Draft]:
    """The views of a photo: one, or several of a panorama."""
    width, height = (header.height, header.width) if turn else (header.width, header.height)
    per_lens = width / shot.lens.width  # pixels of the file per pixel of the calibration
    drafts = []
    for full in pinholes(shot.lens):
        longest = max(full.width, full.height) * per_lens
        shrink = max(1.0, factor, longest / side if side else 1.0)
        decoded = max(1, round(width / shrink)), max(1, round(height / shrink))
        if full.label:
            edge = max(1, round(full.width * per_lens / shrink))
            target = full.resized(edge, edge)
        else:
            target = full.resized(*decoded)
        resample = not is_pinhole(shot.lens)
        source = ImageSource(
            path=shot.path,
            header=header,
            turn=turn,
            width=decoded[0],
            height=decoded[1],
            background=background,
            alpha_is_mask=masks,
            mask=shot.mask,
            lens=shot.lens if resample else None,
            pinhole=target if resample else None,
            frame=shot.frame,
            moving=shot.moving,
        )
        viewmat = shot.viewmat.copy()
        viewmat[:3] = np.array(full.rotation) @ viewmat[:3]
        name = f"{shot.name}/{full.label}" if full.label else shot.name
        drafts.append(_Draft(name, shot, viewmat, source, target))
    return drafts


def _fit_all(shots: list[Shot], headers: list[ImageHeader]) -> list[bool]:
    """Whether each picture must be turned by its EXIF orientation to fit its camera.

    Images may be smaller or larger than their cameras, but all by the same factor.

    Raises:
        UserError: an image does not fit its camera.
    """
    turns = [_fit(shot, header) for shot, header in zip(shots, headers, strict=True)]
    scales = [
        (header.height if turn else header.width) / shot.lens.width * shot.reduced
        for shot, header, turn in zip(shots, headers, turns, strict=True)
    ]
    usual = float(np.median(scales)) if scales else 1.0
    for shot, header, scale in zip(shots, headers, scales, strict=True):
        if abs(scale / usual - 1.0) > 0.1:  # one pixel of rounding is less than this in all but tiny images
            raise _misfit(shot, header, f", and most images are {usual:.3g} times the size of their cameras")
    return turns


def _fit(shot: Shot, header: ImageHeader) -> bool:
    """COLMAP looks at the pixels as stored, other programs turn them first: the camera's size tells."""
    stored, camera = (header.width, header.height), (shot.lens.width, shot.lens.height)
    turned = (header.height, header.width)
    if stored == camera:
        return False
    if header.swaps_sides and turned == camera:
        return True
    if _same_picture(stored, camera):
        return False
    if header.swaps_sides and _same_picture(turned, camera):
        return True
    raise _misfit(shot, header)


def _misfit(shot: Shot, header: ImageHeader, others: str = "") -> UserError:
    return UserError(
        f"The image {shot.path} is {header.width} x {header.height} pixels, but its camera is "
        f"{shot.lens.width} x {shot.lens.height}{others}; give the images that the cameras were calibrated with."
    )


def _same_picture(size: tuple[int, int], camera: tuple[int, int]) -> bool:
    """Whether one scale, and one way of rounding, takes the camera's size to the image's."""
    for low, high in ((0.0, 1.0), (-0.5, 0.5), (-1.0, 0.0)):
        lowest = max((s + low) / c for s, c in zip(size, camera, strict=True))
        highest = min((s + high) / c for s, c in zip(size, camera, strict=True))
        if lowest <= highest:
            return True
    return False


def _check_mask(path: Path, mask: ImageHeader, image: ImageHeader, turn: bool) -> None:
    size = (image.height, image.width) if turn else (image.width, image.height)
    given = (mask.width, mask.height)
    if not (_same_picture(given, size) or _same_picture(size, given)):
        raise UserError(
            f"The mask {path} is {mask.width} x {mask.height} pixels, but its image is "
            f"{size[0]} x {size[1]}; make them alike or remove the mask."
        )


def _finite_points(capture: Capture) -> tuple[np.ndarray, np.ndarray]:
    finite = np.isfinite(capture.xyz).all(axis=1) & (np.abs(capture.xyz) < 1e15).all(axis=1)
    return capture.xyz[finite], capture.rgb[finite]


def _near_points(
    capture: Capture, xyz: np.ndarray, rgb: np.ndarray, viewmats: np.ndarray, size: float
) -> tuple[np.ndarray, np.ndarray]:
    """Drop points so far away that they are errors, and say how many of all the capture's points are gone."""
    near = np.linalg.norm(xyz - camera_centers(viewmats).mean(axis=0), axis=1) <= POINT_RANGE * size
    dropped = len(capture.xyz) - int(near.sum())
    if dropped:
        capture.notes.warning(f"{dropped} of {len(capture.xyz)} points are not finite or absurdly far away: left out.")
    return xyz[near], rgb[near]


def _split(capture: Capture, drafts: list[_Draft], every: int | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Indices of the views to train and to test on."""
    if every is None and capture.test_names is not None:
        test = [i for i, draft in enumerate(drafts) if draft.shot.name in capture.test_names]
    else:
        step = DEFAULT_TEST_EVERY if every is None else every
        test = list(range(0, len(drafts), step)) if step else []
    train = sorted(set(range(len(drafts))) - set(test))
    if len(train) < 2:
        capture.notes.warning(f"Only {len(train)} views would be left to train on: none is held out for testing.")
        return tuple(range(len(drafts))), ()
    return tuple(train), tuple(test)


def _check_images_now(scene: SceneData) -> None:
    """Decode a small capture at once: damaged files show here, and the cache is warm."""
    sources = [view.source for view in scene.views]
    if sum(s.header.width * s.header.height for s in sources) > CHECK_NOW_PIXELS:
        return
    scene.prefetch(range(len(scene.views)))
    for index in range(len(scene.views)):
        scene.image(index)
    for index in scene.test:
        scene.moving(index)
