"""Reading the arrays of captures that numpy wrote."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.core.text import gigabytes

LARGEST_MEMBER = 2_000_000_000
"""Bytes of an array in an archive: a small archive may unpack to any size."""


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

    def load() -> np.ndarray:
        magic = _magic(file)
        if magic != b"\x93NUMPY":
            kind = "it is a zip archive, as .npz files are" if magic.startswith(b"PK") else "it is no .npy file"
            raise ValueError(kind)
        return np.load(file, mmap_mode="r", allow_pickle=False)  # checks the size that the file claims

    return _numbers(load, str(file), columns, what)


def load_numbers_of_archive(file: Path, key: str, columns: int, what: str) -> np.ndarray:
    """The array of that name in an .npz archive; arguments, result and errors as for `load_numbers`."""

    def load() -> np.ndarray:
        if not _magic(file).startswith(b"PK"):
            raise ValueError("it is no .npz file")
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if f"{key}.npy" not in names:
                raise ValueError(f"it has no array '{key}'")
            size = archive.getinfo(f"{key}.npy").file_size
        if size > LARGEST_MEMBER:
            raise ValueError(f"its array takes {gigabytes(size)}, more than {gigabytes(LARGEST_MEMBER)}")
        with np.load(file, allow_pickle=False) as archive:
            return np.asarray(archive[key])

    return _numbers(load, f"'{key}' in {file}", columns, what)


def _magic(file: Path) -> bytes:
    with open(file, "rb") as opened:
        return opened.read(6)


def _numbers(load: Callable[[], np.ndarray], where: str, columns: int, what: str) -> np.ndarray:
    try:
        array = load()
    except Exception as error:  # numpy raises ValueError, EOFError, OSError, MemoryError, SyntaxError, ...
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{where} cannot be read ({cause}); export it again.") from None
    if array.ndim != 2 or array.shape[1] != columns or array.dtype.kind not in "iuf":
        kind = str(array.dtype)[:40]
        raise UserError(
            f"{where} holds {kind} of shape {list(array.shape)}, not {columns} numbers {what}; export it again."
        )
    return np.array(array, dtype=np.float64)
