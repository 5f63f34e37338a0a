"""The history of a run as a report draws it: curves, and what changed in the course of the training."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from nfc_gs.core import plain_json
from nfc_gs.export.report_files import as_mapping, as_number

log = logging.getLogger("nfc_gs")

MAX_POINTS = 400
"""Of a curve."""

TERMS = {"l1": "L1", "mse": "squared error", "ssim": "SSIM", "ce": "cross entropy", "bit_ce": "bit-wise cross entropy"}
"""Names of terms of the objective, for people."""

SWITCHES = {
    "density_control": ("density control begins", "density control ends"),
    "motion": ("motion begins", "motion ends"),
    "all_times": ("views of all times", "views of some times"),
}
"""What is said of a phase (`training.step.StepResult.phases`) that becomes true, or untrue."""


def read_curves(path: Path) -> dict[str, Any]:
    """The curves of a run's history: {"train": columns or None, "test": columns or None, "changes": [...]}."""
    train: list[dict[str, Any]] = []
    test: list[dict[str, Any]] = []
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            for line in handle:
                try:
                    row = as_mapping(plain_json.parse(line))
                except ValueError:  # the last line of a run that was killed
                    continue
                if as_number(row.get("step")) is None or as_number(row.get("seconds")) is None:
                    continue
                rows = test if "test_psnr" in row else train
                while rows and rows[-1]["step"] >= row["step"]:  # the run was resumed from an earlier checkpoint
                    rows.pop()
                rows.append(row)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("The report leaves out %s, which cannot be read: %s.", path.name, error)
    return {"train": _train_columns(train), "test": _test_columns(test), "changes": _changes(train)}


def _changes(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What changed, in the order of time: {"step", "seconds", "label"}."""
    noted = [row for row in rows if isinstance(row.get("phases"), dict)]
    found = []
    for before, after in pairwise(noted):
        words = _change_in_words(before["phases"], after["phases"])
        if words:
            found.append({"step": after["step"], "seconds": after["seconds"], "label": ", ".join(words)})
    return found


def _change_in_words(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    words = _terms_in_words(before.get("terms"), after.get("terms"))
    for name, value in after.items():
        if name == "terms" or value == before.get(name):
            continue
        if name in SWITCHES:
            words.append(SWITCHES[name][0 if value else 1])
        elif name == "image_divisor":
            words.append("images at full size" if value == 1 else f"images at 1/{value} of their size")
        elif name == "sh_degree":
            words.append(f"SH degree {value}")
        else:
            words.append(f"{name}: {value}")
    return words


def _terms_in_words(before: Any, after: Any) -> list[str]:
    if not isinstance(before, list) or not isinstance(after, list):
        return []
    before, after = ([name for name in names if isinstance(name, str)] for names in (before, after))
    begun, ended = (
        " and ".join(TERMS.get(name, str(name)) for name in these if name not in those)
        for these, those in ((after, before), (before, after))
    )
    if begun and ended:
        return [f"{begun} in place of {ended}"]
    return [f"{names} {verb}" for names, verb in ((begun, "from here on"), (ended, "up to here")) if names]


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """[R] float64, NaN where there is no number."""
    numbers = [as_number(row.get(name)) for row in rows]
    return np.array([math.nan if number is None else number for number in numbers], dtype=np.float64)


def _json_list(values: np.ndarray, digits: int = 5) -> list[float | None]:
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in values]


def _train_columns(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Training rows as columns of at most `MAX_POINTS`: means over equal numbers of rows, the last step kept."""
    if not rows:
        return None
    edges = np.unique(np.linspace(0, len(rows), min(len(rows), MAX_POINTS) + 1).astype(int))
    last = edges[1:] - 1
    columns: dict[str, Any] = {
        name: _json_list(_column(rows, name)[last], 9) for name in ("step", "seconds", "gaussians", "width", "height")
    }
    for name in ("loss", "psnr"):
        values = _column(rows, name)
        means = np.array([_mean(values[a:b]) for a, b in pairwise(edges)])
        columns[name] = _json_list(means)
        columns[name + "_smooth"] = _json_list(_smooth(means))
    return columns


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def _smooth(values: np.ndarray) -> np.ndarray:
    """Means over a window of about a twentieth of the curve; narrower at the steep start, one-sided at the end."""
    spans = [min(len(values) // 40, i) for i in range(len(values))]
    return np.array([_mean(values[i - span : i + span + 1]) for i, span in enumerate(spans)])


def _test_columns(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    names = {"step": "step", "seconds": "seconds", "psnr": "test_psnr", "ssim": "test_ssim"}
    return {name: _json_list(_column(rows, source), 9) for name, source in names.items()}
