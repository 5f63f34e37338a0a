"""What a reader of one format gives to `loading.load_scene`: the capture as it is on disk, before any decision."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.data.lens import Lens

log = logging.getLogger("nfc_gs")

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tga", ".jp2")
)


TimeUnit = Literal["", "seconds", "frames"]
"""The unit of the times of a capture; "" where it does not say."""


class ReaderMessages(list[str]):
    """Sentences on what a reader decided; each is logged when it is added."""

    def info(self, sentence: str) -> None:
        log.info(sentence)
        self.append(sentence)

    def warning(self, sentence: str) -> None:
        log.warning(sentence)
        self.append(sentence)


@dataclass(frozen=True)
class CaptureImage:
    """One image of a capture: its file, its lens, and where it was taken from.

    Attributes:
        name: path relative to the image folder, with forward slashes.
        path: the image file.
        lens: calibration; its size need not be that of the file.
        viewmat: [4, 4] float64 world-to-camera in the capture's world frame, OpenCV axes, rigid.
        mask: a mask image, or None.
        time: as the capture gives it, finite, or None.
        reduced: the file is a copy that the capture holds at 1 / `reduced` of the size of its images.
        frame: which frame, counted from 0, where `path` is a video.
        moving: an image that is white where the photo shows something that moves, or None.
    """

    name: str
    path: Path
    lens: Lens
    viewmat: np.ndarray
    mask: Path | None = None
    time: float | None = None
    reduced: int = 1
    frame: int | None = None
    moving: Path | None = None


@dataclass(frozen=True)
class Capture:
    """All that a reader found; frozen, but readers and options add to its `messages`.

    Attributes:
        root: the capture's folder.
        images: sorted by name, names unique.
        xyz: [P, 3] float64 in the capture's world frame; rgb: [P, 3] uint8. P may be 0.
        test_names: names that the capture itself holds out for testing; None where it has no split.
        alpha: what an alpha channel means where the user does not say: a mask, or transparency over white.
        messages: what the reader decided.
        time_unit: of the images' times.
        depths: the nearest and farthest depth of the scene, in the units of `xyz`, where the capture says.
        frame_rate: frames per second, where times are numbers of frames and the capture says.
        format: what it was read as, "a COLMAP project" for example; set by the table of readers.
    """

    root: Path
    images: list[CaptureImage]
    xyz: np.ndarray
    rgb: np.ndarray
    test_names: frozenset[str] | None
    alpha: Literal["mask", "white"]
    messages: ReaderMessages = field(default_factory=ReaderMessages)
    time_unit: TimeUnit = ""
    depths: tuple[float, float] | None = None
    frame_rate: float | None = None
    format: str = ""


class FileIndex:
    """Finds files below a folder by relative name; another case or extension is accepted.

    The folder is only walked when there is no file of exactly that name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_name: dict[str, Path] | None = None
        self._by_stem: dict[str, Path | None] = {}

    def find(self, name: str) -> Path | None:
        """The file of that relative name; else in another case; else the only image with another extension."""
        if not name or "\0" in name:
            return None
        path = self.folder / name
        if is_file(path):
            return path
        if self._by_name is None:
            self._by_name = {}
            for file in image_files(self.folder):
                key = file.relative_to(self.folder).as_posix().casefold()
                self._by_name.setdefault(key, file)
                stem = _stem(key)
                self._by_stem[stem] = None if stem in self._by_stem else file
        key = os.path.normpath(name).replace("\\", "/").casefold()
        return self._by_name.get(key) or self._by_stem.get(_stem(key))


def _stem(name: str) -> str:
    base, suffix = os.path.splitext(name)
    return base if suffix in IMAGE_SUFFIXES else name


def is_file(path: Path) -> bool:
    """`Path.is_file` that answers False for names no file system takes."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def image_files(folder: Path) -> Iterator[Path]:
    """All image files below a folder, sorted within each level."""
    for base, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES and not file.startswith("."):
                yield Path(base) / file


def check_missing(missing: Sequence[str], total: int, where: Path | str, messages: ReaderMessages) -> None:
    """Warn of images that are not on disk.

    Raises:
        UserError: more than half of them are missing.
    """
    if not missing:
        return
    some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    if 2 * len(missing) > total:
        raise UserError(
            f"{len(missing)} of {total} images of the capture are not on disk below {where} ({some}); "
            "put the images there or give the folder that has them."
        )
    messages.warning(f"{len(missing)} of {total} images of the capture are not on disk and are left out: {some}.")


def unique_images(images: Iterable[CaptureImage], messages: ReaderMessages) -> list[CaptureImage]:
    """Sorted by name; of images that share a name only the first is kept."""
    kept: dict[str, CaptureImage] = {}
    for image in images:
        if image.name in kept:
            messages.warning(f"The image {image.name} occurs more than once; only its first entry is used.")
        else:
            kept[image.name] = image
    return [kept[name] for name in sorted(kept)]
