"""Reader of PanopticSports as Dynamic 3D Gaussians publishes it, and of captures in its form.

`train_meta.json` and `test_meta.json` list the cameras of each frame, `ims/<camera>/<frame>.jpg` are the images,
`seg/<camera>/<frame>.png` what of them is foreground, and `init_pt_cld.npz` holds points. The form is that which
`train.py` and `helpers.py` of https://github.com/JonathonLuiten/Dynamic3DGaussians read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import (
    Capture,
    CaptureImage,
    FileIndex,
    ReaderMessages,
    check_missing,
    is_file,
    on_one_line,
    unique_images,
)
from nfc_gs.data.json_file import array_of, is_text, load_json, number_of
from nfc_gs.data.lens import RADIAL4, Lens, check_lens
from nfc_gs.data.masks import with_masks
from nfc_gs.data.npy_file import load_numbers_of_archive
from nfc_gs.data.ply_points import colors_in_bytes
from nfc_gs.data.poses import FARTHEST, nearest_rotation, viewmat_at
from nfc_gs.data.readers.colmap_files import find_models
from nfc_gs.data.readers.reader import Reader

TRAIN, TEST = "train_meta.json", "test_meta.json"
IMAGES, FOREGROUND, POINTS = "ims", "seg", "init_pt_cld.npz"

_ROUNDING = 1e-3
"""What entries of a matrix that are 0 or 1 may differ from that."""


@dataclass(frozen=True)
class _Entry:
    """One image of a `*_meta.json`: its name below `ims`, lens, world-to-camera matrix [4, 4], and frame from 0."""

    name: str
    lens: Lens
    viewmat: np.ndarray
    frame: int


def is_panoptic(path: Path) -> bool:
    """Whether a folder has `train_meta.json` and the folder `ims`."""
    return is_file(path / TRAIN) and (path / IMAGES).is_dir()


def read_panoptic(root: Path, *, factor: int | None = None, masks: bool = True) -> Capture:
    """Read the capture in `root`.

    The images of `test_meta.json` are held out; there may be no such file. The time of an image is the place of its
    frame in its file, counted from 0. The method learns what is foreground and draws whole images, so `seg` says here
    what moves, which the metrics use, and masks nothing.

    Args:
        factor: ignored, since the capture has no smaller copies of its images.
        masks: look for a folder of masks, masks/<camera>/<frame>.png.

    Raises:
        UserError: naming the file, frame and field of what is wrong.
    """
    messages = ReaderMessages()
    train = _entries(root / TRAIN)
    test = _entries(root / TEST) if is_file(root / TEST) else []
    last = {file: max(entry.frame for entry in part) for file, part in ((TRAIN, train), (TEST, test)) if part}
    if len(set(last.values())) > 1:
        messages.warning(
            f"{root / TRAIN} has {last[TRAIN] + 1} frames and {TEST} {last[TEST] + 1}: frames at the same place are "
            "taken to be of the same time."
        )
    images = _images(root, [*train, *test], messages)
    if masks:
        images = with_masks(images, root / "masks", messages)
    images = with_masks(images, root / FOREGROUND, messages, "moving")
    if any(image.moving for image in images):
        messages.info(
            f"The images in {root / FOREGROUND} say what moves: metrics measure that on its own, and training uses "
            "whole images."
        )
    if find_models(root) or any(is_file(root / name) for name in ("transforms.json", "transforms_train.json")):
        messages.info(f"{root} has {TRAIN} and other files with poses; {TRAIN} is used.")
    held_out = frozenset(entry.name for entry in test) - {entry.name for entry in train}
    xyz, rgb = _points(root / POINTS)
    return Capture(root, images, xyz, rgb, held_out or None, "mask", messages, "frames")


def _images(root: Path, entries: list[_Entry], messages: ReaderMessages) -> list[CaptureImage]:
    files = FileIndex(root / IMAGES)
    images, missing = [], []
    for entry in entries:
        path = files.find(entry.name)
        if path is None:
            missing.append(entry.name)
        else:
            images.append(CaptureImage(entry.name, path, entry.lens, entry.viewmat, time=float(entry.frame)))
    check_missing(missing, len(entries), files.folder, messages)
    return unique_images(images, messages)


def _entries(file: Path) -> list[_Entry]:
    """The images of a `*_meta.json`: w, h, and for each frame lists over its cameras, k [C][3][3], w2c [C][4][4] and
    fn [C]. Its `cam_id` [C] is the folder in fn, and not read."""
    fields = load_json(file)
    lacking = [key for key in ("w", "h", "k", "w2c", "fn") if fields.get(key) is None]
    if lacking:
        raise UserError(f"{file}: '{lacking[0]}' is missing; export the capture again.")
    width, height = (round(number_of(fields, key, str(file))) for key in ("w", "h"))
    counts = {key: _count(fields[key], f"{file}: '{key}'") for key in ("fn", "k", "w2c")}
    if len(set(counts.values())) > 1:
        some = ", ".join(f"{count} in '{key}'" for key, count in counts.items())
        raise UserError(f"{file} does not have as many frames in each field ({some}); export the capture again.")
    entries = []
    for frame, (names, k, w2c) in enumerate(zip(fields["fn"], fields["k"], fields["w2c"], strict=True)):
        where = f"{file}, frame {frame}"
        cameras = _count(names, f"{where}: 'fn'")
        intrinsics = array_of(k, (cameras, 3, 3), f"{where}: 'k'")
        matrices = array_of(w2c, (cameras, 4, 4), f"{where}: 'w2c'")
        for name, matrix, viewmat in zip(names, intrinsics, matrices, strict=True):
            name = _name(name, where)
            place = f"{where}, {on_one_line(name[:200])}"
            entries.append(_Entry(name, _lens(matrix, width, height, place), _viewmat(viewmat, place), frame))
    return entries


def _count(value: Any, where: str) -> int:
    if not isinstance(value, list) or not value:
        raise UserError(f"{where} is not a list with entries; export the capture again.")
    return len(value)


def _name(value: Any, where: str) -> str:
    """The path of an image below `ims`, with forward slashes."""
    if not isinstance(value, str) or not value or not is_text(value):
        raise UserError(f"{where}: 'fn' holds {ascii(value)[:40]}, no file name; mend it.")
    path = PureWindowsPath(value)  # which knows both slashes, and drives
    if path.anchor or ".." in path.parts:
        raise UserError(f"{where}: 'fn' holds {ascii(value)[:80]}, which is not in the folder {IMAGES}; mend it.")
    return path.as_posix()


def _lens(matrix: np.ndarray, width: int, height: int, where: str) -> Lens:
    """The pinhole of [[fx, skew, cx], [0, fy, cy], [0, 0, 1]], pixels; the corner of the image is at (0, 0)."""
    if np.abs(np.append(matrix[[1, 2, 2], [0, 0, 1]], matrix[2, 2] - 1.0)).max() > _ROUNDING:
        raise UserError(f"{where}: 'k' is not [[fx, skew, cx], [0, fy, cy], [0, 0, 1]]; mend it.")
    (fx, skew, cx), (_, fy, cy) = matrix[:2].tolist()
    pinhole = (fx, fy, cx, cy)
    lens = Lens("PINHOLE", width, height, pinhole)
    if skew:
        lens = Lens(RADIAL4, width, height, (*pinhole, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, skew))
    check_lens(lens, where)
    return lens


def _viewmat(matrix: np.ndarray, where: str) -> np.ndarray:
    """A world-to-camera matrix [4, 4] with OpenCV axes, rigid but for rounding and a scale."""
    rotation = nearest_rotation(matrix[:3, :3])
    if rotation is None or np.abs(matrix[3] - [0.0, 0.0, 0.0, 1.0]).max() > _ROUNDING:
        raise UserError(
            f"{where}: 'w2c' is no world-to-camera matrix, a rotation and a translation over [0, 0, 0, 1]; mend it."
        )
    centre = -np.linalg.solve(matrix[:3, :3], matrix[:3, 3])
    if not np.abs(centre).max() <= FARTHEST:
        raise UserError(f"{where}: 'w2c' is too far away to be true; mend it.")
    return viewmat_at(rotation, centre)


def _points(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The array `data` [N, 7] of the archive: x, y, z, colors in 0..1 (or 0..255), and what is foreground."""
    if not is_file(file):
        return np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8)
    data = load_numbers_of_archive(file, "data", 7, "for each point")
    return np.ascontiguousarray(data[:, :3]), colors_in_bytes(data[:, 3:6])


READER = Reader("a PanopticSports capture", is_panoptic, read_panoptic)
