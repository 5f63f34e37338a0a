"""Checks of the rigs and frames of a binary COLMAP model.

They are not read, since `images.bin` has the poses that COLMAP composes from them; but a model in which they are
damaged, or of other images, was not copied whole.

Format: https://colmap.github.io/format.html (little endian).
"""

from __future__ import annotations

import struct
from collections.abc import Container
from pathlib import Path

from nfc_gs.data.capture import is_file
from nfc_gs.data.readers.colmap_binary import Cursor
from nfc_gs.data.readers.colmap_model import check_pose


def check_rigs_and_frames(folder: Path, cameras: Container[int], images: set[int]) -> None:
    """Check `rigs.bin` and `frames.bin`, where a folder has both.

    Args:
        cameras: the numbers of the cameras of the model; images: those of its images.

    Raises:
        UserError: naming the file and what is wrong.
    """
    if is_file(folder / "rigs.bin") and is_file(folder / "frames.bin"):
        rigs = _check_rigs(folder / "rigs.bin", cameras)
        _check_frames(folder / "frames.bin", rigs, images)


def _check_rigs(path: Path, cameras: Container[int]) -> dict[int, set[tuple[int, int]]]:
    """The sensors (type, id) of each rig."""
    cursor = Cursor(path)
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
                    check_pose(cursor.path, cursor.take(struct.Struct("<7d")), f"sensor {sensor_id} of rig {rig_id}")
        if rig_id in rigs:
            cursor.fail(f"rig {rig_id} occurs twice")
        rigs[rig_id] = sensors
    cursor.end()
    return rigs


def _check_frames(path: Path, rigs: dict[int, set[tuple[int, int]]], images: set[int]) -> None:
    cursor = Cursor(path)
    frames: set[int] = set()
    owned: set[int] = set()
    for _ in range(cursor.count(68, "frames")):
        frame_id, rig_id, *pose = cursor.take(struct.Struct("<II7d"))
        check_pose(cursor.path, pose, f"frame {frame_id}")
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
    if not owned >= images:
        cursor.fail("it lacks images that are in images.bin")
