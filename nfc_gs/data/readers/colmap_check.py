"""Checks of the files of a COLMAP model before pycolmap reads them.

pycolmap trusts the counts in binary files: bytes that are not a model can make it allocate terabytes or end the
process. Here every record is walked and every count compared with what is left of the file. Its errors
about text files do not name the line; those raised here do.

Format: https://colmap.github.io/format.html (little endian).
"""

from __future__ import annotations

import contextlib
import math
import mmap
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nfc_gs.core.errors import UserError

Points = tuple[np.ndarray, np.ndarray]
"""xyz [P, 3] float64 and rgb [P, 3] uint8, in the order of the file."""

_NO_POINT = 2**64 - 1


class _Cursor:
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
        raise UserError(f"{self.path} is damaged: {what}; export the COLMAP model again.")

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
        end = self.data.find(b"\0", self.offset, self.offset + 4096)
        if end < 0:
            self.fail(f"{what} has no end")
        try:
            name = bytes(self.data[self.offset : end]).decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is not text")
        self.offset = end + 1
        return name

    def end(self) -> None:
        if self.offset != self.size:
            self.fail(f"{self.size - self.offset} bytes follow its last entry")


def check_binary_model(folder: Path) -> Points | None:
    """Check the .bin files of a model for their format and for references between them.

    Returns:
        The points, where their tracks lead to 2D points that the images do not hold: pycolmap refuses such a model,
        which tools that strip models of their observations leave behind. None where it can be left to pycolmap.

    Raises:
        UserError: naming the file and what is wrong.
    """
    cameras = _check_cameras(folder / "cameras.bin")
    images = _check_images(folder / "images.bin", cameras)
    stripped = _check_points(folder / "points3D.bin", images) if (folder / "points3D.bin").is_file() else None
    if (folder / "rigs.bin").is_file() and (folder / "frames.bin").is_file():
        rigs = _check_rigs(folder / "rigs.bin", cameras)
        _check_frames(folder / "frames.bin", rigs, images)
    return stripped


def check_text_model(folder: Path) -> Points | None:
    """Check the format of cameras.txt, images.txt, points3D.txt and frames.txt, but for 2D points.

    Returns:
        As `check_binary_model`.

    Raises:
        UserError: naming the file, the line and what is wrong.
    """
    from nfc_gs.data.colmap_library import pycolmap

    def numbers(path: Path, line: int, words: list[str], what: str) -> list[float]:
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = [math.nan]
        if not all(math.isfinite(value) for value in values):
            raise UserError(
                f"{path} is damaged: {what} in line {line} is not made of finite numbers; export the model again."
            )
        return values

    path = folder / "cameras.txt"
    for line, words, _ in _records(path, least=4):
        if words[1] not in pycolmap.CameraModelId.__members__ or words[1] == "INVALID":
            raise UserError(
                f"{path} is damaged: line {line} has the unknown camera model {words[1][:40]}; export it again."
            )
        numbers(path, line, [words[0], *words[2:]], f"camera {words[0][:20]}")
    path = folder / "images.txt"
    points_of: dict[int, int] = {}  # 2D points of each image
    for line, words, below in _records(path, least=10, lines_each=2):
        pose = numbers(path, line, words[1:8], f"the pose of image {words[9][:200]}")
        if not 1e-6 < math.hypot(*pose[:4]) < 1e6:
            raise UserError(
                f"{path} is damaged: the rotation of image {words[9][:200]} in line {line} is no rotation; "
                "export the COLMAP model again."
            )
        with contextlib.suppress(ValueError):  # what is not a number here is left to pycolmap
            points_of[int(words[0])] = len(below.split()) // 3
    path = folder / "frames.txt"
    for line, words, _ in _records(path, least=9) if path.is_file() else ():
        numbers(path, line, words[:9], f"entry {words[0][:20]}")
    path = folder / "points3D.txt"
    values, stray = array("d"), False
    for line, words, _ in _records(path, least=8) if path.is_file() else ():
        values.extend(numbers(path, line, words[:8], f"entry {words[0][:20]}")[1:7])
        with contextlib.suppress(ValueError):
            track = [int(word) for word in words[8:]]
            pairs = zip(track[::2], track[1::2], strict=False)
            stray |= any(not 0 <= index < points_of.get(image, math.inf) for image, index in pairs)
    return _points(values) if stray else None


def _points(values: array[float]) -> Points:
    """The points from x, y, z, red, green, blue of each in turn."""
    table = np.array(values).reshape(-1, 6)
    return table[:, :3], table[:, 3:].clip(0, 255).astype(np.uint8)


def _records(path: Path, least: int, lines_each: int = 1) -> Iterator[tuple[int, list[str], str]]:
    """The number and words of each record's first line, and its last line; comments and empty lines are skipped."""
    try:
        lines = enumerate(path.read_text(encoding="utf-8").split("\n"), start=1)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is damaged: it is not text; export the COLMAP model again.") from None
    for number, line in lines:
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < least:
            raise UserError(f"{path} is damaged: line {number} ends too early; export the COLMAP model again.")
        for _ in range(lines_each - 1):
            line = next(lines, (0, ""))[1]
        yield number, words, line


def _check_cameras(path: Path) -> set[int]:
    from nfc_gs.data.colmap_library import pycolmap

    known = {int(model): name for name, model in pycolmap.CameraModelId.__members__.items() if name != "INVALID"}
    cursor = _Cursor(path)
    ids: set[int] = set()
    for _ in range(cursor.count(24, "cameras")):
        camera_id, model, width, height = cursor.take(struct.Struct("<IiQQ"))
        if model not in known:
            cursor.fail(f"camera {camera_id} has the unknown model number {model}")
        if camera_id in ids:
            cursor.fail(f"camera {camera_id} occurs twice")
        if not (0 < width < 2**31 and 0 < height < 2**31):
            cursor.fail(f"camera {camera_id} has an image of {width} x {height} pixels")
        size = len(pycolmap.Camera.create_from_model_name(1, known[model], 1.0, 1, 1).params)
        if not all(math.isfinite(value) for value in cursor.take(struct.Struct(f"<{size}d"))):
            cursor.fail(f"camera {camera_id} has a parameter that is not finite")
        ids.add(camera_id)
    cursor.end()
    return ids


def _check_images(path: Path, cameras: set[int]) -> dict[int, int]:
    """The number of 2D points of each image."""
    cursor = _Cursor(path)
    pose, camera = struct.Struct("<I7d"), struct.Struct("<I")
    points: dict[int, int] = {}
    for _ in range(cursor.count(73, "images")):
        image_id, *values = cursor.take(pose)
        (camera_id,) = cursor.take(camera)
        name = cursor.text(f"the name of image {image_id}")
        if not name:
            cursor.fail(f"image {image_id} has no name")
        _check_pose(cursor, values, f"image {name}")
        if camera_id not in cameras:
            cursor.fail(f"image {name} refers to camera {camera_id}, which is not in cameras.bin")
        if image_id in points:
            cursor.fail(f"image {image_id} occurs twice")
        number = cursor.count(24, f"points in image {name}")
        cursor.offset += 24 * number
        points[image_id] = number
    cursor.end()
    return points


def _check_points(path: Path, images: dict[int, int]) -> Points | None:
    """The points, where the track of one leads to a 2D point that its image does not hold."""
    cursor = _Cursor(path)
    # id, xyz, rgb, error; then the track: image, index of the 2D point
    head, elements = struct.Struct("<Q3d3Bd"), struct.Struct("<II")
    seen: set[int] = set()
    values, stray = array("d"), False
    for _ in range(cursor.count(head.size + 8, "points")):
        point_id, *entry = cursor.take(head)
        values.extend(entry[:6])
        if point_id in seen or point_id == _NO_POINT:
            cursor.fail(f"point {point_id} occurs twice or has no number")
        seen.add(point_id)
        length = cursor.count(8, f"observations of point {point_id}")
        track = cursor.data[cursor.offset : cursor.offset + 8 * length]
        for image_id, index in elements.iter_unpack(track):
            if image_id not in images:
                cursor.fail(f"point {point_id} refers to point {index} of image {image_id}, which is not there")
            stray |= index >= images[image_id]
        cursor.offset += 8 * length
    cursor.end()
    return _points(values) if stray else None


def _check_rigs(path: Path, cameras: set[int]) -> dict[int, set[tuple[int, int]]]:
    """The sensors (type, id) of each rig."""
    cursor = _Cursor(path)
    sensor = struct.Struct("<iI")
    rigs: dict[int, set[tuple[int, int]]] = {}
    for _ in range(cursor.count(8, "rigs")):
        (rig_id,) = cursor.take(struct.Struct("<I"))
        number = cursor.count(8, f"sensors in rig {rig_id}", "<I")
        sensors: set[tuple[int, int]] = set()
        for position in range(number):
            kind, sensor_id = cursor.take(sensor)
            if kind not in (0, 1) or (kind == 0 and sensor_id not in cameras) or (kind, sensor_id) in sensors:
                cursor.fail(f"sensor {sensor_id} of rig {rig_id} is unknown or occurs twice")
            sensors.add((kind, sensor_id))
            if position > 0:  # the first sensor is the rig's own frame
                (has_pose,) = cursor.take(struct.Struct("<B"))
                if has_pose not in (0, 1):
                    cursor.fail(f"sensor {sensor_id} of rig {rig_id} has a broken entry")
                if has_pose:
                    _check_pose(cursor, list(cursor.take(struct.Struct("<7d"))), f"sensor {sensor_id} of rig {rig_id}")
        if rig_id in rigs:
            cursor.fail(f"rig {rig_id} occurs twice")
        rigs[rig_id] = sensors
    cursor.end()
    return rigs


def _check_frames(path: Path, rigs: dict[int, set[tuple[int, int]]], images: dict[int, int]) -> None:
    cursor = _Cursor(path)
    frames: set[int] = set()
    owned: set[int] = set()
    for _ in range(cursor.count(68, "frames")):
        frame_id, rig_id, *pose = cursor.take(struct.Struct("<II7d"))
        _check_pose(cursor, pose, f"frame {frame_id}")
        if rig_id not in rigs or frame_id in frames:
            cursor.fail(f"frame {frame_id} occurs twice or refers to rig {rig_id}, which is not in rigs.bin")
        frames.add(frame_id)
        for _ in range(cursor.count(16, f"images in frame {frame_id}", "<I")):
            kind, sensor_id, data_id = cursor.take(struct.Struct("<iIQ"))
            if (kind, sensor_id) not in rigs[rig_id] or (kind == 0 and data_id in owned):
                cursor.fail(f"frame {frame_id} has an entry that does not fit its rig")
            if kind == 0:
                owned.add(data_id)
    cursor.end()
    if not owned >= images.keys():
        cursor.fail("it lacks images that are in images.bin")


def _check_pose(cursor: _Cursor, values: list[float], what: str) -> None:
    """Quaternion and translation: finite, and a rotation at all."""
    if not all(math.isfinite(value) for value in values):
        cursor.fail(f"the pose of {what} is not finite")
    if not 1e-6 < math.hypot(*values[:4]) < 1e6:
        cursor.fail(f"the rotation of {what} is no rotation")
