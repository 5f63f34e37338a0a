"""The .bin files of a COLMAP model.

Every record is walked, and every count compared with what is left of the file: bytes that are not a model must not
claim terabytes, nor end the process, as they can in pycolmap. The poses in `images.bin` are whole: newer versions of
COLMAP compose them from rigs and frames, see `colmap_rigs`.

Format: https://colmap.github.io/format.html (little endian).
"""

from __future__ import annotations

import math
import mmap
import struct
from array import array
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.data.lens import Lens
from nfc_gs.data.readers.colmap_model import (
    NO_POINTS,
    Cameras,
    ModelImage,
    ModelPoints,
    camera_models,
    check_pose,
    damage,
    parameter_count,
)

_LONGEST_NAME = 4096

_POINT_2D = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<u8")])

_POINT_3D = np.dtype(
    [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("observations", "<u8")]
)  # and then its track: for each observation the number of the image, and the index of the 2D point, both u32


class Cursor:
    """Reads one file front to back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        try:
            with open(path, "rb") as file:
                self.size = file.seek(0, 2)
                self.data: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror or error}.") from None

    def fail(self, what: str) -> NoReturn:
        raise damage(self.path, what)

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        if self.offset + layout.size > self.size:
            self.fail("it ends in the middle of an entry")
        values = layout.unpack_from(self.data, self.offset)
        self.offset += layout.size
        return values

    def count(self, smallest: int, what: str, layout: str = "<Q") -> int:
        """A number of entries of at least `smallest` bytes each, which must have room in the rest of the file."""
        (number,) = self.take(struct.Struct(layout))
        if number * smallest > self.size - self.offset:
            self.fail(f"it claims {number} {what}, more than it has room for")
        return number

    def text(self, what: str) -> str:
        end = self.data.find(b"\0", self.offset, self.offset + _LONGEST_NAME)
        if end < 0:
            self.fail(f"{what} has no end")
        name = bytes(self.data[self.offset : end]).decode("utf-8", "surrogateescape")
        self.offset = end + 1
        return name

    def end(self) -> None:
        if self.offset != self.size:
            self.fail(f"{self.size - self.offset} bytes follow its last entry")


def read_cameras(path: Path) -> Cameras:
    """The cameras in `cameras.bin`.

    Raises:
        UserError: naming the file and what is wrong.
    """
    cursor = Cursor(path)
    cameras: Cameras = {}
    for _ in range(cursor.count(24, "cameras")):
        number, model, width, height = cursor.take(struct.Struct("<IiQQ"))
        if model not in camera_models():
            cursor.fail(f"camera {number} has the unknown model number {model}")  # its length is not known either
        name = camera_models()[model]
        params = cursor.take(struct.Struct(f"<{parameter_count(name)}d"))
        fault = None
        if not (0 < width < 2**31 and 0 < height < 2**31):
            fault = f"camera {number} has an image of {width} x {height} pixels"
        elif not all(math.isfinite(value) for value in params):
            fault = f"camera {number} has a parameter that is not finite"
        elif number in cameras:
            fault = f"camera {number} occurs twice"
        cameras[number] = Lens(name, width, height, params) if fault is None else damage(path, fault)
    cursor.end()
    return cameras


def read_images(path: Path) -> list[ModelImage]:
    """The images in `images.bin`.

    Raises:
        UserError: naming the file and what is wrong.
    """
    cursor = Cursor(path)
    head = struct.Struct("<I7dI")
    images = []
    for _ in range(cursor.count(73, "images")):
        number, *pose, camera = cursor.take(head)
        name = cursor.text(f"the name of image {number}")
        if not name:
            cursor.fail(f"image {number} has no name")
        check_pose(path, pose, f"image {name[:200]}")
        length = cursor.count(_POINT_2D.itemsize, f"points in image {name[:200]}")
        points = np.frombuffer(cursor.data, _POINT_2D, length, cursor.offset)["point"].copy() if length else NO_POINTS
        cursor.offset += _POINT_2D.itemsize * length
        images.append(ModelImage(number, tuple(pose), camera, name, points))
    cursor.end()
    return images


def read_points(path: Path) -> ModelPoints:
    """The points in `points3D.bin`.

    Raises:
        UserError: naming the file and what is wrong.
    """
    cursor = Cursor(path)
    length_of = struct.Struct("<Q").unpack_from
    head = _POINT_3D.itemsize
    to_length = head - 8  # the number of observations comes last
    number = cursor.count(head, "points")
    starts = array("q")
    offset, data, size = cursor.offset, cursor.data, cursor.size
    for _ in range(number):
        if offset + head > size:
            cursor.fail("it ends in the middle of an entry")
        (length,) = length_of(data, offset + to_length)
        starts.append(offset)
        offset += head + 8 * length
        if offset > size:
            cursor.fail(f"it claims {length} observations of its point {len(starts)}, more than it has room for")
    cursor.offset = offset
    cursor.end()
    raw = np.frombuffer(data, np.uint8) if size else np.zeros(0, np.uint8)
    places = np.array(starts, dtype=np.int64)
    points = _gather(raw, places, _POINT_3D)
    observations = points["observations"].astype(np.int64)
    total = int(observations.sum())
    before = np.cumsum(observations) - observations
    elements = np.repeat(places + head - 8 * before, observations) + 8 * np.arange(total)
    tracks = _gather(raw, elements, np.dtype(("<u4", 2)))
    xyz, rgb = (np.ascontiguousarray(points[column]) for column in ("xyz", "rgb"))
    return ModelPoints(points["id"].copy(), xyz, rgb, observations, tracks)


def _gather(raw: np.ndarray, places: np.ndarray, entry: np.dtype, block: int = 1 << 16) -> np.ndarray:
    """The entries that begin at these places of a file, given as its bytes."""
    gathered = np.empty((len(places), entry.itemsize), dtype=np.uint8)
    within = np.arange(entry.itemsize)
    for first in range(0, len(places), block):
        gathered[first : first + block] = raw[places[first : first + block, None] + within]
    return gathered.view(entry.base).reshape(len(places), *entry.shape)
