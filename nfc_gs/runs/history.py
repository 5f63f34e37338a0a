"""The log of a run: one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfc_gs.core.files import write_error, write_text
from nfc_gs.runs.names import HISTORY_NAME

POINTS = 400
"""About how many lines of training progress a run leaves, however long it is."""


class History:
    """Appends to `history.jsonl` of a run.

    Lines are {"step", "seconds", "loss", "psnr", "gaussians", "width", "height"} for training and
    {"step", "seconds", "test_psnr", "test_ssim"} for evaluations. A line for training has "phases", too, where these
    differ from those of the lines before (`training.step.StepResult`).
    """

    def __init__(self, run: Path, step: int, progress: float) -> None:
        """Go on after `step` steps: later lines, left by a run that was killed, are dropped."""
        self.path = run / HISTORY_NAME
        self._slot = int(progress * POINTS)
        kept = [line for line in read_history(run) if line["step"] <= step]
        self._phases = next((line["phases"] for line in reversed(kept) if "phases" in line), None)
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

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
        """Append one line. Raises UserError if it cannot be written."""
        try:
            with open(self.path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(values) + "\n")
        except OSError as error:
            raise write_error(self.path, error) from None


def read_history(run: Path | str) -> list[dict[str, Any]]:
    """The lines of a run's history, oldest first; unfinished lines are skipped, no file gives no lines."""
    path = Path(run) / HISTORY_NAME
    lines = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines
