"""The table of capture readers, and the choice among them.

To add a reader, write a module that makes a `Reader`, and add it to the table in its place.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import Capture, check_readable, folder_entries, image_files, is_file, some_names
from nfc_gs.data.npy_file import load_numbers
from nfc_gs.data.readers import colmap, llff, multiview, nerfies, panoptic, transforms
from nfc_gs.data.readers.camera_folders import find_cameras
from nfc_gs.data.readers.colmap_files import lacking_files
from nfc_gs.data.readers.reader import Reader

log = logging.getLogger("nfc_gs")

READERS: tuple[Reader, ...] = (
    nerfies.READER,
    panoptic.READER,
    transforms.BLENDER_READER,
    transforms.READER,
    multiview.READER,
    colmap.READER,
    llff.READER,
)
"""The first that recognises a path reads it: those that look for rarer files come first."""


_MOST_TRIED = 1_000
"""Of the folders in the folders of a path, so many are looked at for captures to name."""


def read_capture(path: Path, *, factor: int | None = None, masks: bool = True) -> Capture:
    """Read a capture with the reader that recognises it.

    Args:
        factor: use the capture's own copies of its images at 1 / `factor` of their size, where it has such.
        masks: use the capture's masks.

    Raises:
        UserError: there is no such path, no reader recognises it, or the capture is damaged.
    """
    _check_path(path)
    for reader in READERS:
        if reader.recognises(path):
            capture = reader.read(path, factor=factor, masks=masks)
            if capture is not None:
                log.debug("%s is read as %s.", path, reader.reads)
                return replace(capture, format=reader.reads)
    raise _not_recognised(path)


def _check_path(path: Path) -> None:
    try:
        exists = path.exists()
    except (OSError, ValueError):  # a name that no file system takes
        exists = False
    if not exists:
        raise UserError(f"There is no {path}; give the folder of a capture.")
    try:
        empty = path.is_dir() and not any(path.iterdir())
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from None
    if empty:
        raise UserError(f"The folder {path} is empty; give the folder of a capture.")


def _not_recognised(path: Path) -> UserError:
    """What a path lacks to be a capture.

    Raises:
        UserError: a folder in it may not be read.
    """
    if not path.is_dir():
        what = "a file" if is_file(path) else "no regular file and no folder"
        return UserError(f"{path} is {what}, not a capture; give the folder of a capture or its transforms.json.")
    for folder in (path, path / "sparse", path / "sparse" / "0", path / "images"):
        check_readable(folder)
    lacking = lacking_files(path)
    if lacking is not None:
        return UserError(lacking)
    inside = [str(capture.relative_to(path)) for capture in _captures_in(path)]
    if inside:
        some = some_names(inside, 8)
        return UserError(
            f"{path} is no capture but a folder of {len(inside)}: give one of them ({some})."
            if len(inside) > 1
            else f"{path} is no capture, but {path / some} is; give that."
        )
    if is_file(path / panoptic.TRAIN):
        return UserError(f"{path} has {panoptic.TRAIN}, but no folder {panoptic.IMAGES} with its images; add it.")
    cameras = find_cameras(path)
    if len(cameras) > 1:
        return UserError(
            f"{path} has {len(cameras)} cameras ({cameras[0].name}, {cameras[1].name}, ...) but no poses; "
            f"add {llff.BOUNDS}, or a COLMAP model of one image for each camera."
        )
    if is_file(path / llff.BOUNDS):
        rows = load_numbers(path / llff.BOUNDS, 17, "for each camera or photo")
        return UserError(
            f"{path} has {llff.BOUNDS} with {len(rows)} poses, but neither as many photos in {path / 'images'} nor "
            "cameras (cam00, cam01, ...) with their frames or videos; add them."
        )
    names = [entry.name for entry in folder_entries(path) if re.fullmatch(r"transforms.*\.json", entry.name)]
    other = [name for name in names if is_file(path / name)]
    if other:
        return UserError(
            f"{path} has {some_names(other)}, but neither transforms.json nor transforms_train.json; add one of them, "
            f"or give {path / some_names(other[:1])} itself."
        )
    if next(image_files(path), None) is not None:
        return UserError(
            f"{path} has images but no camera poses (no COLMAP model, no transforms.json); run COLMAP on it first."
        )
    kinds = ", ".join(reader.reads for reader in READERS)
    return UserError(f"{path} is no capture: it has no images and no camera poses; give the folder of one ({kinds}).")


def _captures_in(folder: Path) -> list[Path]:
    """The captures in a folder; where there are none, those in the folders in it."""
    entries = [Path(entry.path) for entry in folder_entries(folder)]
    below = (Path(inner.path) for entry in entries for inner in folder_entries(entry))
    return [path for path in entries if _is_capture(path)] or [
        path for path in itertools.islice(below, _MOST_TRIED) if _is_capture(path)
    ]


def _is_capture(path: Path) -> bool:
    return os.path.isdir(path) and any(reader.recognises(path) for reader in READERS)
