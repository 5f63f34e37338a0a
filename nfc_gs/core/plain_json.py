"""JSON that anybody may have written: what comes of it is checked before it is used."""

from __future__ import annotations

import json
import math
from typing import Any

DEEPEST = 32
"""Of lists and objects in one another; what nfc-gs writes is less deep."""

LARGEST = 2**53
"""Integers up to here are exact as float64, too."""


def parse(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, or nested too deep.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    _check_depth(value)
    return value


def as_int(value: Any, name: str, low: int = 0, high: int = LARGEST) -> int:
    """A whole number in a range. Raises ValueError, which names it, for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} is {in_short(value)}, not a whole number from {low:,} to {high:,}")
    return value


def as_float(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number in a range. Raises ValueError, which names it, for anything else."""
    number = finite_number(value)
    if number is None or not low <= number <= high:
        between = "" if (low, high) == (-math.inf, math.inf) else f" from {low:g} to {high:g}"
        raise ValueError(f"{name} is {in_short(value)}, not a finite number{between}")
    return number


def finite_number(value: Any) -> float | None:
    """A number as float64, None for anything else; also for NaN and what is too large."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def as_text(value: Any, name: str) -> str:
    """Text that can be written as UTF-8. Raises ValueError, which names it, for anything else."""
    if not isinstance(value, str) or not _is_unicode(value):
        raise ValueError(f"{name} is {in_short(value)}, not text")
    return value


def as_dict(value: Any, name: str) -> dict[str, Any]:
    """An object. Raises ValueError, which names it, for anything else."""
    if not isinstance(value, dict) or not all(_is_unicode(key) for key in value):
        raise ValueError(f"{name} is {in_short(value)}, not an object")
    return value


def as_list(value: Any, name: str) -> list[Any]:
    """A list. Raises ValueError, which names it, for anything else."""
    if not isinstance(value, list):
        raise ValueError(f"{name} is {in_short(value)}, not a list")
    return value


def in_short(value: Any) -> str:
    """A value as it is shown in a sentence, cut short."""
    if isinstance(value, int) and abs(value) > 10**20:
        return "a huge number"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _is_unicode(text: str) -> bool:
    """Whether there is no half of a surrogate pair in a text, which JSON can spell and no file holds."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_depth(value: Any) -> None:
    """Raise ValueError if lists and objects are nested too deep."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            part
            for each in level
            if isinstance(each, (dict, list))
            for part in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ValueError("it is nested too deep")
