"""The history of a run: one JSON object per line."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfc_gs.core import plain_json
from nfc_gs.core.errors import UserError
from nfc_gs.core.files import write_error, write_text
from nfc_gs.runs.names import HISTORY_NAME

logger = logging.getLogger("nfc_gs")

_NUMBERS = ("seconds", "loss", "psnr", "test_psnr", "test_ssim")
"""Fields of a line that hold a number if they are there; it may be infinite, as the PSNR of an exact image is."""

POINTS = 400
"""About how many lines of training progress a run leaves, however long it is."""


class History:
    """Appends to `history.jsonl` of a run.

    Lines are {"step", "seconds", "loss", "psnr", "gaussians", "width", "height"} for training and
    {"step", "seconds", "test_psnr", "test_ssim"} for evaluations. A line for training has "phases", too, where these
    differ from those of the lines before (`training.step.StepResult`).

    A line that cannot be written is worth a warning, no more: it is written with the next one that can be.
    """

    def __init__(self, run: Path, step: int, progress: float) -> None:
        """Go on after `step` steps: later lines, left by a run that was killed, are dropped."""
        self.path = run / HISTORY_NAME
        self._slot = int(progress * POINTS)
        self._lines = [line for line in read_history(run) if line["step"] <= step]
        self._phases = next((line["phases"] for line in reversed(self._lines) if "phases" in line), None)
        self._has_failed = False
        self._is_whole = False  # what is on disk is `_lines`
        self._write(None)

    def due(self, progress: float) -> bool:
        """Whether a line of training progress should be written now; if so, the next is due a while later."""
        slot = int(progress * POINTS)
        if slot <= self._slot:
            return False
        self._slot = slot
        return True

    def changed(self, phases: Mapping[str, Any]) -> dict[str, Any]:
        """{"phases": ...} to be written if they are others than before, else nothing."""
        if phases == self._phases:
            return {}
        self._phases = dict(phases)
        return {"phases": self._phases}

    def write(self, **values: Any) -> None:
        """Append one line."""
        self._lines.append(values)
        self._write(values)

    def write_evaluation(self, **values: Any) -> None:
        """The same of an evaluation, in the place of an earlier one of the same step."""
        earlier = [line for line in self._lines if line["step"] == values["step"] and "test_psnr" in line]
        if earlier:
            self._lines = [line for line in self._lines if line not in earlier]
            self._is_whole = False
        self.write(**values)

    def has_evaluation(self, step: int) -> bool:
        """Whether there is a line for an evaluation after so many steps."""
        return any(line["step"] == step and "test_psnr" in line for line in self._lines)

    def _write(self, last: Mapping[str, Any] | None) -> None:
        """Write the last line, or all of them where they are not on disk."""
        try:
            if self._is_whole and last is not None:
                self._is_whole = False
                with open(self.path, "a", encoding="utf-8") as handle:
                    handle.write(json.dumps(last) + "\n")
            else:
                write_text(self.path, "".join(json.dumps(line) + "\n" for line in self._lines))
            self._is_whole = True
        except (OSError, UserError) as error:
            sentence = str(write_error(self.path, error) if isinstance(error, OSError) else error)
            if not self._has_failed:
                logger.warning("The history of the run lacks lines for now, and training goes on. %s", sentence)
            self._has_failed = True


def read_history(run: Path | str) -> list[dict[str, Any]]:
    """The lines of a run's history, oldest first; no file gives no lines.

    A line at the end that is not finished, as a run that was killed leaves it, is skipped; others that cannot be read
    are, too, with a warning. A file that cannot be read gives no lines, and a warning.
    """
    path = Path(run) / HISTORY_NAME
    try:
        lines, odd = _read(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.warning("%s cannot be read and is left out: %s.", path, error)
        return []
    if odd:
        logger.warning("%s: line %s cannot be read, and is left out.", path, ", ".join(map(str, odd[:3])))
    return lines


def check_history(run: Path | str) -> None:
    """Refuse a damaged history before it is written anew.

    Raises:
        UserError: a line that is finished cannot be read.
    """
    path = Path(run) / HISTORY_NAME
    try:
        _, odd = _read(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from None
    if odd:
        lines = f"line {odd[0]}" if len(odd) == 1 else f"{len(odd)} lines (the first is line {odd[0]})"
        raise UserError(f"{path} is damaged: {lines} of it cannot be read; remove what is damaged.")


def _read(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The lines of a history, and the numbers of those that are finished and cannot be read. Raises OSError."""
    *whole, unfinished = path.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = [_parsed(line) for line in whole]
    odd = [number for number, line in enumerate(lines, 1) if line is None and whole[number - 1].strip()]
    return [line for line in [*lines, _parsed(unfinished)] if line is not None], odd


def _parsed(text: str) -> dict[str, Any] | None:
    """What a line holds; None where it is none of a history."""
    try:
        line = plain_json.as_dict(plain_json.parse(text), "the line")
        plain_json.as_int(line.get("step"), "step")
        for name in _NUMBERS:
            if not isinstance(line.get(name), float):
                plain_json.as_float(line.get(name, 0.0), name)
        if "phases" in line:
            plain_json.as_dict(line["phases"], "phases")
    except ValueError:
        return None
    return line
