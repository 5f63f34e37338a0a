"""What the files of a COLMAP model hold, as `colmap_binary` and `colmap_text` read it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import on_one_line
from nfc_gs.data.lens import Lens

NO_POINT = 2**64 - 1
"""The number of the 3D point of a 2D point that has none."""

NO_POINTS = np.zeros(0, dtype=np.uint64)
"""The 3D points of an image without 2D points."""

Cameras = dict[int, Lens | UserError]
"""The cameras by number. One that cannot be used is an error, to be raised where an image has that camera."""


@dataclass(frozen=True)
class ModelImage:
    """An image of a model.

    Attributes:
        number: its number in the model.
        pose: rotation (quaternion w, x, y, z, of any length) and translation, world-to-camera; finite.
        camera: the number of its camera.
        name: as the file has it; bytes that are not UTF-8 are surrogate escapes.
        point_ids: [K] uint64, the 3D point of each of its 2D points, or `NO_POINT`.
    """

    number: int
    pose: tuple[float, ...]
    camera: int
    name: str
    point_ids: np.ndarray


@dataclass(frozen=True)
class ModelPoints:
    """The 3D points of a model.

    Attributes:
        ids: [P] uint64.
        xyz: [P, 3] float64, which may be NaN; rgb: [P, 3] uint8.
        observations: [P] int64, how many entries of `tracks` belong to each point in turn.
        tracks: [T, 2] integers, the number of an image, and the index of one of its 2D points.
    """

    ids: np.ndarray
    xyz: np.ndarray
    rgb: np.ndarray
    observations: np.ndarray
    tracks: np.ndarray


def damage(path: Path, what: str) -> UserError:
    """The error of a file with that fault; what is no text in names is written as its bytes."""
    return UserError(f"{path} is damaged: {on_one_line(readable(what))}; export the COLMAP model again.")


def readable(name: str) -> str:
    """A name without surrogate escapes, which no terminal takes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_pose(path: Path, pose: Sequence[float], what: str) -> None:
    """Refuse a quaternion and a translation that are not finite, or no rotation at all."""
    if not all(math.isfinite(value) for value in pose):
        raise damage(path, f"the pose of {what} is not finite")
    if not 1e-6 < math.hypot(*pose[:4]) < 1e6:
        raise damage(path, f"the rotation of {what} is no rotation")


@functools.cache
def camera_models() -> dict[int, str]:
    """The names of COLMAP's camera models by their numbers."""
    from nfc_gs.data.colmap_library import pycolmap

    return {int(model): name for name, model in pycolmap.CameraModelId.__members__.items() if name != "INVALID"}


@functools.cache
def parameter_count(model: str) -> int:
    """How many parameters a camera model of COLMAP has."""
    from nfc_gs.data.colmap_library import pycolmap

    return len(pycolmap.Camera.create_from_model_name(1, model, 1.0, 1, 1).params)


def stray_observations(images: Sequence[ModelImage], points: ModelPoints, block: int = 1 << 20) -> int:
    """How many entries of tracks do not lead to a 2D point of their 3D point."""
    by_number = sorted(images, key=lambda image: image.number)
    numbers = np.array([image.number for image in by_number], dtype=np.int64)
    counts = np.array([len(image.point_ids) for image in by_number], dtype=np.int64)
    if not len(points.tracks):
        return 0
    if not counts.sum():
        return len(points.tracks)
    seen = np.concatenate([image.point_ids for image in by_number])
    first = np.cumsum(counts) - counts
    owners = np.repeat(points.ids, points.observations)
    stray = 0
    for start in range(0, len(points.tracks), block):
        image, index = points.tracks[start : start + block].T
        place = np.searchsorted(numbers, image).clip(max=len(numbers) - 1)
        there = (numbers[place] == image) & (index >= 0) & (index < counts[place])
        found = seen[np.where(there, first[place] + index, 0)]
        stray += int((~there | (found != owners[start : start + block])).sum())
    return stray
