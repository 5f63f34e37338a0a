"""A camera path: keyframes, the smooth path through them, JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.export.paths import travel
from nfc_gs.viewer.cameras import Pose, load_json, pose_from

FORMAT = "nfc-gs camera path"
MAX_KEYS, MAX_FRAMES = 1_000, 100_000

SECONDS, FPS = (0.1, 3600.0), (1.0, 120.0)
"""Limits of both, in a file and on the page."""


@dataclass(frozen=True)
class Key:
    """A pose on the path, and the time there, 0..1, where the scene changes with time."""

    pose: Pose
    time: float | None = None


@dataclass(frozen=True)
class CameraPath:
    """A camera path through keyframes.

    Attributes:
        keys: in their order.
        seconds: duration of the whole path, within `SECONDS`.
        fps: pictures per second, within `FPS`.
        loop: come back to the first key.
    """

    keys: tuple[Key, ...] = ()
    seconds: float = 5.0
    fps: float = 30.0
    loop: bool = False

    @property
    def frame_count(self) -> int:
        """Number of pictures, at least 1. Raises UserError if there are more than `MAX_FRAMES`."""
        frames = max(1, round(self.seconds * self.fps))
        if frames > MAX_FRAMES:
            raise UserError(
                f"A path of {self.seconds:g} seconds with {self.fps:g} pictures a second has {frames:,}, more than the "
                f"{MAX_FRAMES:,} that are drawn; make it shorter or take fewer a second."
            )
        return frames

    def moved(self, index: int, by: int) -> CameraPath:
        """The key `index` a place earlier (-1) or later (1); the same path if there is no such place."""
        keys, other = list(self.keys), index + by
        if 0 <= index < len(keys) and 0 <= other < len(keys):
            keys[index], keys[other] = keys[other], keys[index]
        return replace(self, keys=tuple(keys))

    def without(self, index: int) -> CameraPath:
        """The path without a key."""
        return replace(self, keys=tuple(key for i, key in enumerate(self.keys) if i != index))

    def camera_frames(self, width: int, height: int, count: int | None = None) -> list[tuple[Camera, float | None]]:
        """Camera and time of each picture; field of view and time are interpolated linearly from key to key.

        Args:
            count: of the pictures; `frame_count` if not given.

        Raises:
            UserError: there is no key, or it has too many pictures.
        """
        if not self.keys:
            raise UserError("The camera path has no keyframe yet; add one at your camera.")
        cameras, closed = [key.pose.camera(width, height) for key in self.keys], self.loop and len(self.keys) > 1
        path, places = travel(cameras, count or self.frame_count, closed=closed, width=width, height=height)
        focals = _interpolated([camera.fy for camera in cameras], places, closed)
        times: list[float] | list[None] = [None] * len(path)
        if any(key.time is not None for key in self.keys):
            times = _interpolated([key.time or 0.0 for key in self.keys], places, closed)
        return [
            (replace(camera, fx=focal, fy=focal), time)
            for camera, focal, time in zip(path, focals, times, strict=True)
        ]  # fmt: skip

    def to_json(self) -> str:
        """The path as JSON to save."""
        keys = [asdict(key.pose) | {"time": key.time} for key in self.keys]
        values = {"format": FORMAT, "seconds": self.seconds, "fps": self.fps, "loop": self.loop, "keys": keys}
        return json.dumps(values, indent=1)


def path_from_json(text: str) -> CameraPath:
    """The inverse of `CameraPath.to_json`. Raises UserError where the text is something else."""
    value = load_json(text)
    if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("keys"), list):
        raise UserError(f"The JSON is no camera path: it needs the format '{FORMAT}' and a list of keys.")
    if len(value["keys"]) > MAX_KEYS:
        raise UserError(f"The camera path has {len(value['keys']):,} keys, more than the {MAX_KEYS:,} that are taken.")
    keys = tuple(Key(*pose_from(key, f"Key {i + 1}")) for i, key in enumerate(value["keys"]))
    seconds, fps = _number_within(value, "seconds", SECONDS), _number_within(value, "fps", FPS)
    return CameraPath(keys, seconds, fps, value.get("loop") is True)


def _number_within(value: dict[str, Any], name: str, limits: tuple[float, float]) -> float:
    number, (low, high) = value.get(name), limits
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not low <= number <= high:
        raise UserError(f"The camera path needs a number of {low:g} to {high:g} as '{name}'.")
    return float(number)


def _interpolated(values: list[float], places: np.ndarray, loop: bool) -> list[float]:
    known = np.asarray([*values, values[0]] if loop else values, float)
    return np.interp(places, np.arange(len(known)), known).tolist()
