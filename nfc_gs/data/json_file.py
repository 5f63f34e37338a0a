"""Reading the JSON files of captures, with one sentence for what is missing or wrong in them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from nfc_gs.core.errors import UserError, system_cause


def load_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file, in UTF-8, -16 or -32, with or without a byte order mark.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    if file.exists() and not file.is_file():  # to open a named pipe may wait for ever
        raise UserError(f"{file} is no regular file; export the capture again.")
    try:
        data = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"Cannot read {file}: {system_cause(error)}.") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file} is not valid JSON ({error.msg} in line {error.lineno}); export the capture again."
        ) from None
    except (ValueError, RecursionError):
        raise UserError(f"{file} is not valid JSON; export the capture again.") from None
    if not isinstance(data, dict):
        raise UserError(f"{file} holds no JSON object; export the capture again.")
    return data


def number_of(fields: dict[str, Any], key: str, where: str) -> float:
    """A field that must be there.

    Raises:
        UserError: it is not a finite number; begins with `where`.
    """
    value = fields[key]
    try:
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: '{key}' is {str(value)[:40]!r}, not a finite number; mend it.")
    return number


def array_of(value: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """The finite numbers of a field of that shape, float64; `()` is one number.

    Raises:
        UserError: they are something else; begins with `where`.
    """
    try:
        values = np.array(value)
        values = values.astype(np.float64) if values.dtype.kind in "iuf" else np.zeros(0)
    except (TypeError, ValueError, OverflowError):
        values = np.zeros(0)
    if values.shape != shape or not np.isfinite(values).all():
        wanted = " x ".join(str(side) for side in shape) + " finite numbers" if shape else "a finite number"
        raise UserError(f"{where} is not {wanted}; mend it.")
    return values


def is_text(name: str) -> bool:
    """JSON can spell half a surrogate pair, which no file name and no terminal takes."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in name
