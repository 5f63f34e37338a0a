"""Reading the arrays of captures that numpy wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nfc_gs.core.errors import UserError


def load_numbers(file: Path, columns: int, what: str) -> np.ndarray:
    """The array in a .npy file.

    Args:
        columns: how many it must have.
        what: what a row is, for the sentence: "for each camera".

    Returns:
        [R, columns] float64.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    try:
        with open(file, "rb") as opened:
            magic = opened.read(6)
        if magic != b"\x93NUMPY":
            kind = "it is a zip archive, as .npz files are" if magic.startswith(b"PK") else "it is no .npy file"
            raise ValueError(kind)
        array = np.load(file, mmap_mode="r", allow_pickle=False)  # checks the size that the file claims
    except Exception as error:  # numpy raises ValueError, EOFError, OSError, MemoryError, SyntaxError, ...
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{file} cannot be read ({cause}); export it again.") from None
    if array.ndim != 2 or array.shape[1] != columns or array.dtype.kind not in "iuf":
        kind = str(array.dtype)[:40]
        raise UserError(
            f"{file} holds {kind} of shape {list(array.shape)}, not {columns} numbers {what}; export it again."
        )
    return np.array(array, dtype=np.float64)
