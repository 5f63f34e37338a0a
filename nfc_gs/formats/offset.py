"""The offset of a splat file: what is subtracted from the capture's coordinates where float32 cannot hold them.

Coordinates in UTM metres are millions, and float32 has steps of half a metre there. Such a file is in a local frame:
the capture's minus an offset, which a JSON file beside it holds and, in a PLY, a comment of its header
(`formats.notes`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write, write_error
from nfc_gs.data.normalize import rounded_offset, too_far_for_float32

WORD = "offset"
"""The name in the JSON object."""


def file_offset(means: Tensor, transform: np.ndarray | None) -> np.ndarray | None:
    """The offset [3] float64 of a file of Gaussians, in the capture's units; None where float32 can do without.

    Files of one run have the same. A frame that is the capture's but for a translation is kept as it is.

    Args:
        means: [N, 3] in the frame of the model.
        transform: [4, 4] similarity from the capture's frame to that of the model.
    """
    if transform is None:
        return None
    linear, shift = transform[:3, :3], transform[:3, 3]
    moved_only = np.array_equal(linear, np.eye(3))
    if moved_only:
        centres = means.detach().double().cpu().numpy()
        size = float(np.median(np.linalg.norm(centres - np.median(centres, axis=0), axis=1)))
    else:
        size = 1.0 / float(np.cbrt(np.linalg.det(linear)))
    origin = -np.linalg.solve(linear, shift)
    if not too_far_for_float32(origin, size):
        return None
    return -shift if moved_only else rounded_offset(origin, size)


def offset_file(path: Path) -> Path:
    """The file beside a splat that holds its offset: `splat.offset.json` of `splat.ply`."""
    return path.with_name(f"{path.stem}.offset.json")


def write_offset(path: Path, offset: np.ndarray | None) -> None:
    """Write the offset of a splat beside it, or remove that of an earlier one.

    Raises:
        UserError: it cannot be written.
    """
    file = offset_file(path)
    if offset is not None:
        with atomic_write(file) as temporary:
            temporary.write_text(json.dumps({WORD: offset.tolist()}) + "\n", encoding="utf-8")
        return
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(file, error) from None


def read_offset(path: Path) -> np.ndarray | None:
    """The offset that lies beside a splat; None where there is none.

    Raises:
        UserError: the file holds something else.
    """
    file = offset_file(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read {file}: {error}.") from None
    try:
        offset = _numbers(json.loads(text)[WORD])
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        offset = None
    if offset is None:
        raise UserError(f"{file} does not hold the three numbers of an offset; export {path.name} again or remove it.")
    return offset


def _numbers(values: Sequence[float]) -> np.ndarray:
    """Three finite numbers as an array; raises ValueError or TypeError where they are something else."""
    x, y, z = (float(value) for value in values)
    if not all(map(math.isfinite, (x, y, z))):
        raise ValueError("an offset is not finite")
    return np.array([x, y, z])
