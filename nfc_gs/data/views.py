"""The views of a scene, planned from the images of a capture: sizes, orientation, undistortion, masks."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import Capture, CaptureImage, ReaderMessages
from nfc_gs.data.config import DataConfig, Downscale
from nfc_gs.data.image_files import read_header
from nfc_gs.data.image_source import Color, ImageHeader, ImageSource, MaskFile, MaskReading
from nfc_gs.data.lens import SPHERICAL, Lens, Pinhole, is_pinhole, pinholes, unseen_share
from nfc_gs.data.masks import judge_masks
from nfc_gs.data.scene import TimeAxis, View


@dataclass(frozen=True)
class Headers:
    """The headers of the files of a capture: of its images in their order, and of its masks by path.

    Attributes:
        mask_reading, moving_reading: what the pixels of the masks mean, and of the images of what moves.
    """

    images: list[ImageHeader]
    masks: dict[Path, ImageHeader]
    mask_reading: MaskReading
    moving_reading: MaskReading


def read_headers(images: Sequence[CaptureImage], messages: ReaderMessages) -> Headers:
    """Read the headers of all images and masks, and judge what the pixels of the masks mean.

    Raises:
        UserError: one cannot be read.
    """
    masks = [image.mask for image in images if image.mask is not None]
    moving = [image.moving for image in images if image.moving is not None]
    with ThreadPoolExecutor(8) as pool:
        headers = list(pool.map(read_header, [image.path for image in images], [image.frame for image in images]))
        of_masks = dict(zip([*masks, *moving], pool.map(read_header, [*masks, *moving]), strict=True))
    reading = judge_masks(masks, "The masks", messages)
    return Headers(headers, of_masks, reading, judge_masks(moving, "The images in moving/", messages))


@dataclass(frozen=True)
class Masking:
    """What becomes of pixels that an alpha channel or a mask leaves out.

    Attributes:
        alpha_background: the color that transparent pixels are laid on; None where they are ignored, or kept.
        mask_background: the color that what masks leave out is laid on; None where it is ignored.
        alpha_is_mask: whether pixels that are transparent and not laid on a color are ignored.
    """

    alpha_background: Color | None = None
    mask_background: Color | None = None
    alpha_is_mask: bool = True

    @property
    def background(self) -> Color | None:
        """The color behind the scene in its pictures; None where none is laid on one."""
        return self.alpha_background or self.mask_background


def plan_masking(config: DataConfig, capture: Capture, headers: Headers) -> Masking:
    """What the user and the capture say about masks and alpha channels."""
    alpha_background = None
    if any(header.has_alpha for header in headers.images):
        white = config.background is None and capture.alpha == "white"
        alpha_background = (1.0, 1.0, 1.0) if white else config.background
    has_masks = any(image.mask is not None for image in capture.images)
    mask_background = config.background if has_masks else None
    if config.background is not None and alpha_background is None and mask_background is None:
        capture.messages.warning(
            "--image-background has no effect: the images have no alpha channel, and no masks are used."
        )
    return Masking(alpha_background, mask_background, config.masks)


@dataclass(frozen=True)
class CaptureView:
    """A view in the capture's own world frame, before the scene is normalised.

    Attributes:
        name: as that of the view in the scene.
        image: what it is made from.
        viewmat: [4, 4] float64 world-to-camera.
        source: how its picture is made from the file.
        pinhole: its intrinsics.
    """

    name: str
    image: CaptureImage
    viewmat: np.ndarray
    source: ImageSource
    pinhole: Pinhole

    def in_scene(self, viewmat: np.ndarray, axis: TimeAxis | None) -> View:
        """The view of a scene, with its world-to-camera matrix [4, 4] and the axis of times there."""
        p, time = self.pinhole, self.image.time
        matrix = torch.from_numpy(viewmat.astype(np.float32))
        camera = Camera(matrix, p.fx, p.fy, p.cx, p.cy, p.width, p.height)
        normalised = None if axis is None or time is None else axis.normalised(time)
        return View(self.name, camera, self.source, normalised)


def capture_views(
    images: Sequence[CaptureImage],
    headers: Headers,
    downscale: Downscale,
    masking: Masking,
    messages: ReaderMessages,
) -> list[CaptureView]:
    """The views that images become: one each, or several where the lens is a panorama's; sorted by name.

    Raises:
        UserError: an image does not fit its camera, a mask does not fit its image, or a lens sees nothing.
    """
    check_lenses(images, messages)
    views: list[CaptureView] = []
    turns = _orientations(images, headers.images)
    for image, header, turn in zip(images, headers.images, turns, strict=True):
        for mask in (image.mask, image.moving):
            if mask is not None:
                _check_mask(mask, headers.masks[mask], header, turn)
        for pinhole in pinholes(image.lens):
            views.append(_view(image, pinhole, header, turn, downscale, headers, masking))
    return sorted(views, key=lambda view: view.name)


def _view(
    image: CaptureImage,
    full: Pinhole,
    header: ImageHeader,
    turn: bool,
    downscale: Downscale,
    headers: Headers,
    masking: Masking,
) -> CaptureView:
    """The view of an image through one of the pinholes that its lens is converted to, at the working size."""
    width, height = (header.height, header.width) if turn else (header.width, header.height)
    per_lens = width / image.lens.width  # pixels of the file per pixel of the calibration
    longest = max(full.width, full.height) * per_lens
    shrink = max(1.0, downscale.factor / image.reduced, longest / downscale.side if downscale.side else 1.0)
    decoded = max(1, round(width / shrink)), max(1, round(height / shrink))
    if full.label:
        edge = max(1, round(full.width * per_lens / shrink))
        target = full.resized(edge, edge)
    else:
        target = full.resized(*decoded)
    resample = not is_pinhole(image.lens)
    source = ImageSource(
        path=image.path,
        header=header,
        turn=turn,
        width=decoded[0],
        height=decoded[1],
        background=masking.alpha_background,
        alpha_is_mask=masking.alpha_is_mask,
        mask=None if image.mask is None else MaskFile(image.mask, headers.mask_reading),
        mask_background=masking.mask_background,
        lens=image.lens if resample else None,
        pinhole=target if resample else None,
        frame=image.frame,
        moving=None if image.moving is None else MaskFile(image.moving, headers.moving_reading),
    )
    viewmat = image.viewmat.copy()
    viewmat[:3] = np.array(full.rotation) @ viewmat[:3]
    name = f"{image.name}/{full.label}" if full.label else image.name
    return CaptureView(name, image, viewmat, source, target)


UNSEEN_SHARE = 0.3
"""A lens that sees less of its picture than the rest is not believed without a word."""


def check_lenses(images: Sequence[CaptureImage], messages: ReaderMessages) -> None:
    """Warn of lenses that see only part of the picture that they are undistorted to.

    Raises:
        UserError: one sees nothing of it.
    """
    names: dict[Lens, list[str]] = {}
    for image in images:
        names.setdefault(image.lens, []).append(image.name)
    shares = {lens: unseen_share(lens) for lens in names if lens.model != SPHERICAL and not is_pinhole(lens)}
    bad = sorted((lens for lens, share in shares.items() if share > UNSEEN_SHARE), key=lambda lens: -shares[lens])
    if not bad:
        return
    worst, share = bad[0], shares[bad[0]]
    params = ", ".join(f"{value:.6g}" for value in worst.params)
    lens = f"The {worst.model} lens ({params}) of {_counted(names[worst])}"
    if share == 1.0:
        raise UserError(f"{lens} sees nothing of its picture: it has no such distortion; calibrate it again.")
    others = f" It is the worst of {len(bad)} such lenses." if len(bad) > 1 else ""
    messages.warning(
        f"{lens} sees only part of its picture: {share:.0%} of each undistorted image has no source and is ignored. "
        f"Such a distortion is most likely wrong; calibrate it again.{others}"
    )


def _counted(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} images ({names[0]}, ...)"


def _orientations(images: Sequence[CaptureImage], headers: Sequence[ImageHeader]) -> list[bool]:
    """Whether each image must be turned by its EXIF orientation to fit its camera.

    Images may be smaller or larger than their cameras, but all by the same factor.

    Raises:
        UserError: an image does not fit its camera.
    """
    turns = [_must_turn(image, header) for image, header in zip(images, headers, strict=True)]
    scales = [
        (header.height if turn else header.width) / image.lens.width * image.reduced
        for image, header, turn in zip(images, headers, turns, strict=True)
    ]
    usual = float(np.median(scales)) if scales else 1.0
    for image, header, scale in zip(images, headers, scales, strict=True):
        if abs(scale / usual - 1.0) > 0.1:  # one pixel of rounding is less than this in all but tiny images
            raise _misfit(image, header, f", and most images are {usual:.3g} times the size of their cameras")
    return turns


def _must_turn(image: CaptureImage, header: ImageHeader) -> bool:
    """COLMAP calibrates the pixels as stored, other programs turn them first: the size of the camera decides."""
    stored, camera = (header.width, header.height), (image.lens.width, image.lens.height)
    turned = (header.height, header.width)
    if stored == camera:
        return False
    if header.swaps_sides and turned == camera:
        return True
    if _same_picture(stored, camera):
        return False
    if header.swaps_sides and _same_picture(turned, camera):
        return True
    raise _misfit(image, header)


def _misfit(image: CaptureImage, header: ImageHeader, others: str = "") -> UserError:
    return UserError(
        f"The image {image.path} is {header.width} x {header.height} pixels, but its camera is "
        f"{image.lens.width} x {image.lens.height}{others}; give the images that the cameras were calibrated with."
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
