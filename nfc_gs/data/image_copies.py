"""Copies of decoded pictures on disk, so that large captures are decoded once.

A copy holds the picture of a view as training uses it: decoded, masked, made smaller, undistorted. It is exact, so
that a training reads the same bits with copies as without. Its name is a hash of everything that goes into it
(`_key`): when a photo or a setting changes, another copy is made. A copy that is damaged is made again.

Runs share the copies in one folder, since runs of one capture with other settings need the same ones. The folder is
bounded: copies that were not used for the longest time are removed first. Nothing but time is lost without it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import logging
import os
import shutil
import threading
import uuid
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import make_folder, remove_leftovers, write_error
from nfc_gs.data.image_files import unreadable
from nfc_gs.data.image_source import ImageSource
from nfc_gs.data.images import decode
from nfc_gs.data.scene import ViewImage

logger = logging.getLogger("nfc_gs")

SUFFIX = ".picture"
"""Of a copy; other files in the folder are left alone."""

LEAST_FREE = 2_000_000_000
"""Bytes of the disk that copies leave free, for checkpoints and results above all."""

FORMAT = 1
"""Of the files, and of what `decode` makes of a photo: a new number leaves the old copies aside."""

_PACKAGES = ("pillow", "numpy", "scipy", "torch", "pycolmap", "imageio-ffmpeg")
"""What decodes and resamples; another version may round in another way."""

_TAG = """Signature: 8a477f597d28d172789f06886806bc55
# Decoded copies of photos, made by nfc-gs. The folder may be removed at any time; they are made again when needed.
"""
"""Content of CACHEDIR.TAG, by which backup programs know a cache (https://bford.info/cachedir/)."""

_HEADER = np.dtype([("key", "S64"), ("size", "<u4", 2), ("masked", "<u4"), ("crc", "<u4")])


class ImageCopies:
    """Decoded pictures in a folder.

    Several threads, and several processes, may use one folder. What cannot be written is decoded again.

    Attributes:
        folder: where they are.
        own_bytes: of the copies of `sources` that were there at the beginning.
    """

    def __init__(self, folder: Path, limit: int, sources: Iterable[ImageSource] = ()) -> None:
        """Make the folder, and remove what is beyond the limit.

        Args:
            limit: bytes of all copies in the folder together.
            sources: what will be read; copies of other pictures are removed before those of these.

        Raises:
            UserError: the folder cannot be made.
        """
        self.folder, self._limit = make_folder(folder), limit
        self._lock = threading.Lock()
        self._may_write = True
        remove_leftovers(folder)
        with contextlib.suppress(OSError):
            (folder / "CACHEDIR.TAG").write_text(_TAG)
        own = set()
        for source in sources:
            with contextlib.suppress(UserError):  # said when the picture is asked for
                own.add(_key(source) + SUFFIX)
        found = []
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            found = [(each.stat(), each.name) for each in entries if each.name.endswith(SUFFIX) and each.is_file()]
        self._sizes = {name: stat.st_size for stat, name in found}
        self._bytes = sum(self._sizes.values())
        newest = [name for _, name in sorted(((stat.st_mtime_ns, name) for stat, name in found), reverse=True)]
        ours = [name for name in newest if name in own]
        self._others = [name for name in newest if name not in own]
        self._remove(self._others, 0)
        self._remove(ours, 0)
        self.own_bytes = sum(self._sizes[name] for name in ours)
        for name in ours:
            with contextlib.suppress(OSError):
                os.utime(folder / name)

    def image(self, source: ImageSource, make: Callable[[ImageSource], ViewImage] = decode) -> ViewImage:
        """The picture of a view from its copy, or else from `make`, and a copy of it is left.

        Raises:
            UserError: as `decode`.
        """
        key = _key(source)
        path = self.folder / (key + SUFFIX)
        found = _read(path, key)
        if found is None:
            found = make(source)
            self._write(path, key, found)
        return found

    def _write(self, path: Path, key: str, image: ViewImage) -> None:
        """Leave a copy, where there is room for it; a disk that does not take it ends the writing, with a warning."""
        parts = _packed(key, image)
        size = sum(part.nbytes for part in parts)
        with self._lock:
            more = size - self._sizes.get(path.name, 0)  # a damaged copy is replaced
            self._remove(self._others, more)
            if not self._may_write or self._bytes + more > self._limit:
                return
            self._sizes[path.name] = size
            self._bytes += more
        temporary = path.with_name(f".{path.stem}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial{SUFFIX}")
        try:
            if shutil.disk_usage(self.folder).free - size < LEAST_FREE:
                raise OSError(errno.ENOSPC, f"less than {LEAST_FREE / 1e9:g} GB are free")
            with open(temporary, "wb") as file:
                for part in parts:
                    file.write(part.data)
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            self._stop_writing(str(write_error(path, error)))

    def _remove(self, names: list[str], size: int) -> None:
        """Remove copies, the last of the list first, until there is room for `size` more bytes."""
        while self._bytes + size > self._limit and names:
            name = names.pop()
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
            self._bytes -= self._sizes.pop(name)

    def _stop_writing(self, why: str) -> None:
        with self._lock:
            may_write, self._may_write = self._may_write, False
        if may_write:
            logger.warning("No more decoded copies of the photos are kept, so they are decoded again. %s", why)


def _key(source: ImageSource) -> str:
    """A hash of the file, of its mask, and of all that is done to them.

    A file is known by its path, size and time of modification, which cost nothing to look at.

    Raises:
        UserError: the photo, or its mask, is not there.
    """
    files = [source.path] if source.mask is None else [source.path, source.mask.path]
    stamps = []
    for path in files:
        try:
            stat = path.stat()
        except OSError as error:
            raise unreadable(path, error) from None
        stamps.append((os.path.abspath(path), stat.st_size, stat.st_mtime_ns))
    settings = replace(source, path=Path(), moving=None)  # what moves is no part of the picture
    return hashlib.sha256(repr((FORMAT, _versions(), stamps, settings)).encode(errors="surrogateescape")).hexdigest()


@functools.cache
def _versions() -> tuple[str, ...]:
    """Of what decodes and resamples, and the instructions it does it with."""
    versions = [torch.backends.cpu.get_cpu_capability()]
    for name in _PACKAGES:
        try:
            versions.append(metadata.version(name))
        except metadata.PackageNotFoundError:
            versions.append("")
    return tuple(versions)


def _packed(key: str, image: ViewImage) -> list[np.ndarray]:
    """A picture as the arrays that are written one after the other: header, colors, mask."""
    parts = [np.ascontiguousarray(image.rgb).reshape(-1)]
    if image.mask is not None:
        parts.append(np.packbits(image.mask.reshape(-1) >= 128))
    header = np.zeros(1, _HEADER)
    header["key"], header["size"], header["masked"] = key, image.rgb.shape[:2], image.mask is not None
    header["crc"] = _checksum(header, parts)
    return [header.view(np.uint8), *parts]


def _checksum(header: np.ndarray, parts: Iterable[np.ndarray]) -> int:
    """Of a header [1] but for its own checksum, and of what follows it."""
    start = zlib.crc32(header.view(np.uint8)[:-4].data)
    return functools.reduce(lambda crc, part: zlib.crc32(part.data, crc), parts, start)


def _read(path: Path, key: str) -> ViewImage | None:
    """The picture in a file; None where there is none, or the file is not what was written under this key."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError:
        return None
    if len(content) < _HEADER.itemsize:
        return None
    header, payload = content[: _HEADER.itemsize].view(_HEADER), content[_HEADER.itemsize :]
    if header["key"][0] != key.encode() or header["crc"][0] != _checksum(header, [payload]):
        return None
    (height, width), masked = header["size"][0].tolist(), bool(header["masked"][0])
    pixels = height * width
    if len(payload) != 3 * pixels + masked * -(-pixels // 8):
        return None
    mask = None
    if masked:
        bits = np.unpackbits(payload[3 * pixels :], count=pixels).reshape(height, width)
        mask = bits * np.uint8(255)
    return ViewImage(payload[: 3 * pixels].reshape(height, width, 3), mask)
