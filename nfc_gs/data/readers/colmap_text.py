"""The .txt files of a COLMAP model, as COLMAP, RealityCapture, Metashape and scripts write them.

Errors name the line. Comments and empty lines may be anywhere, lines may end as in Windows or in old files of Macs,
and a byte order mark may come first. In `images.txt` each image should be followed by a line of its 2D points, which
is empty without any; files that leave these lines out, or have more empty ones, are understood.

Format: https://colmap.github.io/format.html
"""

from __future__ import annotations

import codecs
import contextlib
import math
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.data.lens import Lens
from nfc_gs.data.readers.colmap_model import (
    NO_POINT,
    NO_POINTS,
    Cameras,
    ModelImage,
    ModelPoints,
    camera_models,
    check_pose,
    damage,
    parameter_count,
)

_HEAD = 9
"""The numbers before the name of an image: its own, quaternion, translation, camera."""


def read_cameras(path: Path) -> Cameras:
    """The cameras in `cameras.txt`.

    Raises:
        UserError: naming the file, the line and what is wrong.
    """
    known = set(camera_models().values())
    cameras: Cameras = {}
    for line, text in _lines(path):
        words = text.split()
        number = _whole(path, line, words[0])
        try:
            if number in cameras:
                raise damage(path, f"camera {number} occurs twice")
            cameras[number] = _lens(path, line, words[1:], known)
        except UserError as error:
            cameras[number] = error
    return cameras


def _lens(path: Path, line: int, words: list[str], known: set[str]) -> Lens:
    if len(words) < 3:
        raise _ends_early(path, line)
    model, *rest = words
    if model not in known:
        raise damage(path, f"line {line} has the unknown camera model {model[:40]}")
    width, height, *params = (_number(path, line, word) for word in rest)
    if not all(math.isfinite(value) for value in (width, height, *params)):
        raise damage(path, f"the camera in line {line} is not made of finite numbers")
    if len(params) != parameter_count(model):
        raise damage(
            path, f"the camera in line {line} has {len(params)} parameters, but {model} has {parameter_count(model)}"
        )
    return Lens(model, int(width), int(height), tuple(params))


def read_images(path: Path) -> list[ModelImage]:
    """The images in `images.txt`; the name of an image is all that follows the number of its camera.

    Raises:
        UserError: naming the file, the line and what is wrong.
    """
    images: list[ModelImage] = []
    below_image = False  # the line before was an image, so this one should hold its 2D points
    for line, text in _lines(path, empty=True):
        if not text.strip():
            below_image = False
        elif below_image and not _is_image(text):
            images[-1] = _with_points(images[-1], text)
            below_image = False
        elif not below_image and _is_points(text):  # after an empty line that should not be there
            continue
        else:
            images.append(_image(path, line, text))
            below_image = True
    return images


def _image(path: Path, line: int, text: str) -> ModelImage:
    words = text.split(None, _HEAD)
    if len(words) <= _HEAD:
        raise _ends_early(path, line)
    name = words[_HEAD].rstrip()
    pose = tuple(_number(path, line, word) for word in words[1:8])
    check_pose(path, pose, f"image {name[:200]} in line {line}")
    return ModelImage(_whole(path, line, words[0]), pose, _whole(path, line, words[8]), name, NO_POINTS)


def _is_image(text: str) -> bool:
    """Whether a line that should hold 2D points is an image: nine numbers and a name."""
    words = text.split(None, _HEAD)
    if len(words) <= _HEAD or not (_is_whole(words[0]) and _is_whole(words[8])):
        return False
    if not all(_is_number(word) for word in words[1:8]):
        return False
    name = words[_HEAD].split()
    if not all(_is_number(word) for word in name):
        return True
    return len(name) == 1 and abs(math.hypot(*map(float, words[1:5])) - 1.0) < 0.01


def _is_points(text: str) -> bool:
    words = text.split()
    return len(words) % 3 == 0 and all(_is_number(word) for word in words)


def _with_points(image: ModelImage, text: str) -> ModelImage:
    """The image with the 2D points of that line: x, y and 3D point (-1 for none) of each in turn."""
    ids = [NO_POINT] * (len(words := text.split()) // 3)
    with contextlib.suppress(ValueError):  # without them, the tracks of the points lead nowhere
        ids = [number if 0 <= number < NO_POINT else NO_POINT for number in map(int, words[2::3])]
    return ModelImage(image.number, image.pose, image.camera, image.name, np.array(ids, dtype=np.uint64))


def read_points(path: Path) -> ModelPoints:
    """The points in `points3D.txt`.

    Raises:
        UserError: naming the file, the line and what is wrong.
    """
    ids, observations, tracks = array("Q"), array("q"), array("q")
    values = array("d")  # x, y, z, red, green, blue of each in turn
    for line, text in _lines(path):
        words = text.split()
        if len(words) < 8:
            raise _ends_early(path, line)
        ids.append(min(max(_whole(path, line, words[0]), 0), NO_POINT))
        values.extend(_number(path, line, word) for word in words[1:7])  # not the error, which is not used
        try:
            track = array("q", map(int, words[8:]))
        except (ValueError, OverflowError):
            track = array("q", (-1, -1))  # which leads nowhere
        track = track[: len(track) // 2 * 2]
        tracks.extend(track)
        observations.append(len(track) // 2)
    table = np.array(values).reshape(-1, 6)
    xyz = np.where(np.isfinite(table).all(axis=1, keepdims=True), table[:, :3], np.nan)
    rgb = np.nan_to_num(table[:, 3:]).clip(0, 255).astype(np.uint8)
    pairs = np.array(tracks, dtype=np.int64).reshape(-1, 2)
    return ModelPoints(np.array(ids, dtype=np.uint64), xyz, rgb, np.array(observations, dtype=np.int64), pairs)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or with a byte order mark in UTF-16; other bytes become surrogate escapes.

    Raises:
        UserError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    return content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def _lines(path: Path, empty: bool = False) -> Iterator[tuple[int, str]]:
    """The number and text of each line but comments, and but empty ones if they are not asked for."""
    content = read_text(path)
    if "\n" not in content:
        content = content.replace("\r", "\n")
    for number, line in enumerate(content.split("\n"), start=1):
        text = line.lstrip()
        if not text.startswith("#") and (text or empty):
            yield number, line


def _ends_early(path: Path, line: int) -> UserError:
    return damage(path, f"line {line} ends too early")


def _number(path: Path, line: int, word: str) -> float:
    """NaN also where it is spelt as C of Windows does: -nan(ind), 1.#QNAN, 1.#INF."""
    try:
        return float(word)
    except ValueError:
        if "nan" in word.lower() or ".#" in word:
            return math.nan
        raise damage(path, f"line {line} has {word[:40]!r} in the place of a number") from None


def _whole(path: Path, line: int, word: str) -> int:
    if not _is_whole(word):
        raise damage(path, f"line {line} has {word[:40]!r} in the place of a whole number")
    return int(word)


def _is_whole(word: str) -> bool:
    return len(word) <= 18 and word.removeprefix("-").isdecimal()


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
