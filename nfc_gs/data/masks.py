"""Masks of a capture: which file belongs to which image, what its pixels mean, and reading them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from nfc_gs.data.capture import (
    Capture,
    CaptureImage,
    FileIndex,
    ReaderMessages,
    check_readable,
    folder_entries,
    image_files,
    some_names,
)
from nfc_gs.data.image_files import has_alpha, opened_image
from nfc_gs.data.image_source import MaskFile, MaskReading

if TYPE_CHECKING:
    from PIL import Image

DARK, BRIGHT = 20, 230
"""In a soft mask nearly all pixels are at most as bright as the one, or at least as bright as the other (of 255): lossy
files and videos do not keep black and white exactly."""

LOSSY = frozenset(("JPEG", "MPO", "JPEG2000"))
"""Formats in which no label would survive."""

LARGEST_AREA = 0.05
"""Labels fill areas: a value between black and white that more than this share of the pixels have is one."""

JUDGED, LOOKED_AT = 8, 32
"""A capture's masks are judged by so many of them that are not of one color, among at most so many."""


# --- finding -----------------------------------------------------------------------------------------------------


def with_masks(
    images: Sequence[CaptureImage], folder: Path, messages: ReaderMessages, field: Literal["mask", "moving"] = "mask"
) -> list[CaptureImage]:
    """The same images with their masks from a folder; those that have one already keep it.

    A mask has the path of its image in the image folder: the same name, the name with '.png' added, or another
    extension. Where no path fits, the path below a folder `images`, or the bare name, will do if it is that of one
    image alone.

    Raises:
        UserError: the folder may not be read.
    """
    files = FileIndex(_in_any_case(folder))
    without = [image for image in images if image.mask is None] if field == "mask" else list(images)
    if not without or not files.folder.is_dir():
        other = folder.with_name("mask")  # the name that NeuS gives it
        if without and field == "mask" and next(image_files(other), None) is not None:
            messages.warning(f"{other} is not used: masks are looked for in a folder {folder.name}; rename it.")
        return list(images)
    check_readable(files.folder)
    found: dict[str, Path] = {}
    for image in without:
        path = find_mask(files, image.name)
        if path is not None:
            found[image.name] = path
    for other_name in (_name_below_images, _bare_name):
        names = {image.name: other_name(image) for image in without if image.name not in found}
        uses = Counter(names.values())
        taken = set(found.values())
        for name, other in names.items():
            path = find_mask(files, other) if uses[other] == 1 and other != name else None
            if path is not None and path not in taken:
                found[name] = path
    _report(without, found, files.folder, messages, field)
    own = {image.name for image in images if found.get(image.name) == image.path}  # the images may lie there
    return [
        replace(image, **{field: found[image.name]}) if image.name in found and image.name not in own else image
        for image in images
    ]


def _in_any_case(folder: Path) -> Path:
    """The folder of that name, or else one whose name differs by the case of its letters."""
    if folder.is_dir():
        return folder
    paths = [Path(entry.path) for entry in folder_entries(folder.parent) if entry.name.lower() == folder.name]
    return next((path for path in paths if path.is_dir()), folder)


def find_mask(masks: FileIndex, name: str) -> Path | None:
    """The mask of an image: the image's name with '.png' added, the name, or another extension."""
    return masks.find(f"{name}.png") or masks.find(name)


def with_moving_masks(capture: Capture) -> Capture:
    """The same capture with the images of its folder `moving`, which are named as in `masks`."""
    images = with_masks(capture.images, capture.root / "moving", capture.messages, "moving")
    return replace(capture, images=images)


def _name_below_images(image: CaptureImage) -> str:
    """Its path below the nearest folder `images` or `images_2`, `images_4`, ...; else its name."""
    for folder in image.path.parents:
        if folder.name == "images" or folder.name.startswith("images_"):
            return image.path.relative_to(folder).as_posix()
    return image.name


def _bare_name(image: CaptureImage) -> str:
    return image.name.rsplit("/", 1)[-1]


def _report(
    images: Sequence[CaptureImage], found: dict[str, Path], folder: Path, messages: ReaderMessages, field: str
) -> None:
    """Say that no image, or not every one, has a mask."""
    lacking = [image.name for image in images if image.name not in found]
    if not found:
        example = next(image_files(folder), None)
        if example is None:
            messages.warning(f"{folder} holds no images; nothing is masked by it.")
        else:
            messages.warning(
                f"{folder} is not used: no file in it has the name of an image. It holds "
                f"{example.relative_to(folder).as_posix()}, and the capture {lacking[0]}; name them alike."
            )
    elif lacking and field == "mask":
        messages.warning(
            f"{len(found)} of {len(images)} images have a mask in {folder}; nothing is masked in the others "
            f"({some_names(lacking)})."
        )


# --- what the pixels mean ----------------------------------------------------------------------------------------


def judge_masks(paths: Sequence[Path], what: str, messages: ReaderMessages) -> MaskReading:
    """How all masks of a capture are read, judged by some of them; said where they are not plainly black and white.

    Args:
        paths: the mask files.
        what: what they are called at the beginning of a message: "The masks".

    Raises:
        UserError: one of those that are looked at cannot be read.
    """
    samples = list(_samples(sorted(set(paths))))
    if not samples:
        return MaskReading()
    in_alpha, in_colors = sum(sample.in_alpha for sample in samples), sum(sample.in_colors for sample in samples)
    from_alpha = 0 < in_alpha >= in_colors
    read = [sample.alpha if from_alpha and sample.alpha is not None else sample.colors for sample in samples]
    counts = np.mean(read, axis=0)
    soft = any(sample.lossy for sample in samples) or is_soft(counts)
    values = np.flatnonzero(counts)
    if from_alpha:
        messages.warning(f"{what} are read from their alpha channel, not from their colors: transparent is black.")
    if np.count_nonzero(values) <= 1:  # black and one value more
        return MaskReading(from_alpha, soft)
    if soft:
        messages.info(f"{what} have values between black and white: what is brighter than half is taken for white.")
    else:
        some = some_names([str(value) for value in values], 5)
        messages.warning(
            f"{what} are taken for labels (their values, of 255, are {some}): all that is not 0 is taken for white."
        )
    return MaskReading(from_alpha, soft)


def is_soft(counts: np.ndarray) -> bool:
    """Whether a histogram [256] is that of black and white with soft edges or noise, and not one of labels."""
    total = counts.sum()
    dark, bright, middle = counts[: DARK + 1].sum(), counts[BRIGHT:].sum(), counts[DARK + 1 : BRIGHT]
    return bool(
        counts[128:255].any() and middle.sum() <= 3.0 * min(dark, bright) and middle.max() <= LARGEST_AREA * total
    )


@dataclass(frozen=True)
class _Sample:
    """Histograms [256] of one mask file as shares of its pixels, and where it has a shape."""

    colors: np.ndarray
    alpha: np.ndarray | None
    in_colors: bool
    in_alpha: bool
    lossy: bool


def _samples(paths: Sequence[Path]) -> Iterator[_Sample]:
    """Masks spread over the capture; one of a single color says little, so more are looked at."""
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), LOOKED_AT)).astype(int))
    judged = 0
    for index in [i for first in range(4) for i in chosen[first::4]]:
        sample = _sample(paths[index])
        yield sample
        judged += sample.in_colors or sample.in_alpha
        if judged == JUDGED:
            return


def _sample(path: Path) -> _Sample:
    with opened_image(path) as image:
        lossy = image.format in LOSSY
        colors = _histogram(_values(image, MaskReading()))
        alpha = _histogram(_values(image, MaskReading(from_alpha=True))) if has_alpha(image) else None
    in_alpha = alpha is not None and int(np.count_nonzero(alpha)) > 1
    levels = int(np.count_nonzero(colors))
    # where the alpha channel varies, too: colors of two levels are a mask of their own, of more a cut-out photo
    return _Sample(colors, alpha, levels == 2 or (levels > 2 and not in_alpha), in_alpha and levels != 2, lossy)


def _histogram(values: np.ndarray) -> np.ndarray:
    """The shares [256] of brightness, as of 255; what is not 0 is at least 1."""
    scaled = np.ceil(np.clip(values, 0, None) * (255.0 / _white(values)))
    return np.bincount(np.minimum(scaled, 255).astype(np.uint8).ravel(), minlength=256) / values.size


# --- reading -----------------------------------------------------------------------------------------------------


def read_mask(mask: MaskFile) -> np.ndarray:
    """Which pixels of a mask image are white, [H, W] bool.

    Raises:
        UserError: it cannot be read.
    """
    with opened_image(mask.path) as image:
        values = _values(image, mask.reading)
    if not mask.reading.soft:
        return values > 0
    brightest = values.max()
    if brightest <= DARK / 255.0 * _white(values):  # black as lossy files keep it
        return np.zeros(values.shape, dtype=bool)
    return (values > 0) & (values > brightest / 2)


def read_matte(mask: MaskFile) -> np.ndarray:
    """How much of each pixel is kept where the rest is laid on a color, [H, W] uint8; 0 or 255 unless it is soft.

    Raises:
        UserError: it cannot be read.
    """
    if not mask.reading.soft:
        return read_mask(mask).astype(np.uint8) * 255
    with opened_image(mask.path) as image:
        values = _values(image, mask.reading)
    return np.clip(np.rint(values * (255.0 / _white(values))), 0, 255).astype(np.uint8)


def _values(image: Image.Image, reading: MaskReading) -> np.ndarray:
    """The brightness of each pixel, [H, W], 0 where it is black; any number type."""
    if image.mode.startswith("I"):
        return np.array(image)
    if image.mode == "F":
        return np.nan_to_num(np.array(image))
    if has_alpha(image):
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        if reading.from_alpha:
            return np.array(rgba.getchannel("A"))
        image = rgba.convert("RGB")
    if reading.soft or image.mode in ("L", "1"):
        return np.array(image.convert("L"))
    return np.array(image.convert("RGB")).max(axis=2)  # a dark color is rounded to black in "L"


def _white(values: np.ndarray) -> float:
    """The value of white in a file that holds these."""
    brightest = float(values.max())
    if values.dtype == bool or (values.dtype.kind == "f" and brightest <= 1.0):
        return 1.0
    return next((white for white in (255.0, 65535.0) if brightest <= white), brightest)
