"""Reader of LLFF captures: photos in `images` (or `images_4`, `images_8`), and their poses in `poses_bounds.npy`.

The same file holds the poses of the cameras of Neural 3D Video (see `multiview`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import Capture, CaptureImage, ReaderMessages, is_file
from nfc_gs.data.lens import Lens, check_lens
from nfc_gs.data.masks import with_masks
from nfc_gs.data.npy_file import load_numbers
from nfc_gs.data.poses import FARTHEST, nearest_rotation, viewmat_at
from nfc_gs.data.readers.camera_folders import images_in
from nfc_gs.data.readers.reader import Reader

BOUNDS = "poses_bounds.npy"


@dataclass(frozen=True)
class Bounds:
    """Lens and world-to-camera matrix [4, 4] of each row, and the nearest and farthest depth where they make sense."""

    poses: list[tuple[Lens, np.ndarray]]
    depths: tuple[float, float] | None


def read_bounds(file: Path, names: Sequence[str], kind: str) -> Bounds:
    """`poses_bounds.npy`, [C, 17]: a row for each camera or photo in the order of their names.

    A row holds a matrix [3, 5] and the nearest and farthest depth. The columns of the matrix are the camera's down,
    right and backward directions in the world, its position, and (height, width, focal length) in pixels.

    Args:
        kind: what has these names: "camera" or "image".

    Raises:
        UserError: the file cannot be read, or is not of these cameras.
    """
    rows = load_numbers(file, 17, f"for each {kind}")
    if len(rows) != len(names):
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise UserError(
            f"{file} has the poses of {len(rows)} {kind}s, but {len(names)} are there ({some}); "
            "give one row for each, in the order of their names."
        )
    poses = [_pose(row[:15].reshape(3, 5), f"{file}, {kind} {name}") for name, row in zip(names, rows, strict=True)]
    near, far = float(rows[:, 15].min()), float(rows[:, 16].max())
    return Bounds(poses, (near, far) if 0.0 < near < far < FARTHEST else None)  # NaN compares false


def _pose(matrix: np.ndarray, where: str) -> tuple[Lens, np.ndarray]:
    if not np.isfinite(matrix).all():
        raise UserError(f"{where}: the pose is not finite; export the poses again.")
    down, right, backward, centre, (height, width, focal) = matrix.T
    axes = nearest_rotation(np.stack([right, down, -backward]))
    if axes is None:
        raise UserError(f"{where}: the pose holds no rotation; export the poses again.")
    if np.abs(centre).max() > FARTHEST:
        raise UserError(f"{where}: the pose is too far away to be true; export the poses again.")
    lens = Lens("PINHOLE", round(width), round(height), (focal, focal, width / 2.0, height / 2.0))
    check_lens(lens, where)
    return lens, viewmat_at(axes, centre)


def is_llff(path: Path) -> bool:
    """Whether a folder has `poses_bounds.npy` and photos in `images`, or smaller copies of them."""
    return is_file(path / BOUNDS) and bool(_photos(path)[0])


def _photos(root: Path) -> tuple[list[Path], int]:
    """The files in `images`, else in the `images_<factor>` with the largest; and that factor."""
    for factor in (1, 2, 4, 8):
        files = images_in(root / (f"images_{factor}" if factor > 1 else "images"))
        if files:
            return files, factor
    return [], 1


def read_llff(root: Path, *, factor: int | None = None, masks: bool = True) -> Capture:
    """Read the capture in `root`; it has no points, but says how near and far they are.

    Args:
        factor: use the images in `images_<factor>`, which have names of their own and the same order.
        masks: look for a folder of masks.

    Raises:
        UserError: naming the file and what is wrong.
    """
    messages = ReaderMessages()
    files, own = _photos(root)
    if own > 1:
        messages.warning(
            f"There are no photos in {root / 'images'}: those in images_{own} at 1/{own} of the size are used."
        )
    names = [file.name for file in files]
    bounds = read_bounds(root / BOUNDS, names, "image")
    copies = images_in(root / f"images_{factor}") if factor else []
    use_copies = factor is not None and len(copies) == len(files)
    images = [
        CaptureImage(
            name=name,
            path=copies[place] if use_copies else files[place],
            lens=lens,
            viewmat=viewmat,
            reduced=factor if use_copies and factor else own,
        )
        for place, (name, (lens, viewmat)) in enumerate(zip(names, bounds.poses, strict=True))
    ]
    if masks:
        images = with_masks(images, root / "masks", messages)
    empty = np.zeros((0, 3))
    return Capture(root, images, empty, empty.astype(np.uint8), None, "mask", messages, depths=bounds.depths)


READER = Reader("an LLFF capture", is_llff, read_llff)
