"""What a reader of one format gives to `loading.load_scene`: the capture as it is on disk, before any decision."""

from __future__ import annotations

import errno
import logging
import os
import unicodedata
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
    """Finds files below a folder by relative name.

    The folder is only walked when there is no file of exactly that name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, Path] | None = None
        self._stems: dict[str, list[Path]] = {}

    def find(self, name: str) -> Path | None:
        """The file of that relative name; else in another spelling; else the only image with another suffix."""
        return self.exact(name) or self.respelled(name) or self.other_suffix(name)

    def exact(self, name: str) -> Path | None:
        """The file of exactly that name."""
        path = self.folder / name
        return path if name and is_file(path) else None

    def respelled(self, name: str) -> Path | None:
        """The image of that name but for case and the Unicode normal form, in which macOS spells names otherwise."""
        return self._walked().get(_key(name))

    def other_suffix(self, name: str) -> Path | None:
        """The only image whose name differs by its image suffix; none for a name without such a suffix."""
        if not has_image_suffix(name):
            return None
        self._walked()
        others = [path for path in self._stems.get(_stem(_key(name)), ()) if _suffix(path.name) != _suffix(name)]
        return others[0] if len(others) == 1 else None

    def _walked(self) -> dict[str, Path]:
        if self._names is None:
            self._names = {}
            for file in image_files(self.folder):
                key = _key(file.relative_to(self.folder).as_posix())
                self._names.setdefault(key, file)
                self._stems.setdefault(_stem(key), []).append(file)
        return self._names


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", os.path.normpath(name).replace("\\", "/")).casefold()


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _stem(name: str) -> str:
    return os.path.splitext(name)[0] if has_image_suffix(name) else name


def has_image_suffix(name: str) -> bool:
    return _suffix(name) in IMAGE_SUFFIXES


def is_file(path: Path) -> bool:
    """`Path.is_file` that answers False for names no file system takes.

    It is False for named pipes and devices, too: to open one may wait for ever.
    """
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


_NO_FOLDER = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG))


def folder_entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, sorted by name; nothing where there is no folder, or none that may be read.

    Raises:
        UserError: it cannot be read for another reason, such as too many open files.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except ValueError:  # a null character
        return []
    except OSError as error:
        if error.errno in _NO_FOLDER:
            return []
        raise UserError(f"Cannot read the folder {folder}: {error.strerror or error}.") from None


def check_readable(folder: Path) -> None:
    """Refuse a folder that is there and may not be read; where there is none, nothing happens.

    Raises:
        UserError: permission is denied.
    """
    if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"The folder {folder} may not be read: permission is denied; change its permissions.")


_MOST_LINKS = 3
"""Symbolic links to folders, one below the other, that are followed: more of them are a maze."""


def image_files(folder: Path) -> Iterator[Path]:
    """All image files below a folder, sorted within each level; what is no regular file is left out.

    Symbolic links to folders are followed, but not into a folder that they are in.

    Raises:
        UserError: see `folder_entries`.
    """
    yield from _walk(folder, (), 0)


def _walk(folder: Path, above: tuple[tuple[int, int], ...], links: int) -> Iterator[Path]:
    try:
        here = os.stat(folder)
    except (OSError, ValueError):
        return
    if (here.st_dev, here.st_ino) in above or links > _MOST_LINKS:
        return
    below = []
    for entry in folder_entries(folder):
        try:
            is_folder, is_regular = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            continue
        if is_folder:
            below.append(entry)
        elif is_regular and has_image_suffix(entry.name) and not entry.name.startswith("."):
            yield Path(entry.path)
    for entry in below:
        yield from _walk(Path(entry.path), (*above, (here.st_dev, here.st_ino)), links + entry.is_symlink())


def check_missing(missing: Sequence[str], total: int, where: Path, messages: ReaderMessages) -> None:
    """Warn of images that are not on disk.

    Args:
        missing: their names, relative to the folder `where`.

    Raises:
        UserError: more than half of them are missing, or the folder may not be read.
    """
    if not missing:
        return
    check_readable(where)
    what = f"{len(missing)} of {total} images of the capture are not on disk below {where}"
    special = [name for name in missing if _is_special(where / name)]
    note = f" ({some_names(special)}: no regular file)" if special else ""
    if 2 * len(missing) > total:
        raise UserError(f"{what} ({some_names(missing)}){note}; put them there, under these names.")
    messages.warning(f"{what} and are left out: {some_names(missing)}{note}.")


def _is_special(path: Path) -> bool:
    """Whether there is a named pipe, a socket or a device."""
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except (OSError, ValueError):
        return False


def some_names(names: Sequence[str], most: int = 3) -> str:
    """The first names of a list, for a sentence of one line."""
    listed = ", ".join(name[:200] for name in names[:most]) + (", ..." if len(names) > most else "")
    return on_one_line(listed)


def on_one_line(text: str) -> str:
    """The text with escapes for what breaks lines, steers a terminal, or is no text."""
    unwanted = ("Cc", "Cs", "Zl", "Zp")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in unwanted else c for c in text)


def unique_images(images: Iterable[CaptureImage], messages: ReaderMessages) -> list[CaptureImage]:
    """Sorted by name; of images that share a name only the first is kept, with one warning for all."""
    kept: dict[str, CaptureImage] = {}
    again: dict[str, None] = {}
    entries = 0
    for image in images:
        if kept.setdefault(image.name, image) is not image:
            again[image.name] = None
            entries += 1
    if again:
        messages.warning(
            f"{len(again)} image{' occurs' if len(again) == 1 else 's occur'} more than once in the capture "
            f"({some_names(list(again))}); only the first entry of each is used, {entries} are left out."
        )
    return [kept[name] for name in sorted(kept)]
