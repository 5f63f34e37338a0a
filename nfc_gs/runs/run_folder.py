"""The folder of a run: that it is not overwritten, and what it says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import write_text
from nfc_gs.runs.names import CHECKPOINT_NAME, CONFIG_NAME, HISTORY_NAME


def claim_run_folder(run: Path | str) -> None:
    """Check that `run` does not hold a run already, before work is done for it.

    Raises:
        UserError: it does.
    """
    for name in (CHECKPOINT_NAME, CONFIG_NAME, HISTORY_NAME):
        if (Path(run) / name).exists():
            raise UserError(
                f"{run} holds a run already, and a run is never overwritten; choose another folder (--out), or go on "
                f"with it: --resume {run}, in Python nfc_gs.Trainer.resume({str(run)!r})."
            )


def write_config(run: Path, config: Mapping[str, Any], capture: Path, data: Mapping[str, Any]) -> None:
    """Write `config.yaml`, for people to read; a run goes on from its checkpoint, which holds the same."""
    document = {"capture": str(capture), "data": dict(data), **config}
    write_text(run / CONFIG_NAME, yaml.safe_dump(document, sort_keys=False))
