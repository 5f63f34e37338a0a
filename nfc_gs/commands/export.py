"""`nfc-gs export`: a trained splat as a file that other programs open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nfc_gs.checkpoint import load_model
from nfc_gs.commands.console import Output, size_on_disk
from nfc_gs.commands.runs import SPLAT_NAME, prepare_file
from nfc_gs.core.errors import UserError
from nfc_gs.export.ply import read_ply, write_ply


@dataclass(frozen=True)
class Export:
    """Write a splat as a PLY that splat viewers and other tools open, in the frame of the capture.

    For example:
      nfc-gs export runs/garden --out garden.ply
    """

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, a checkpoint.safetensors, or a PLY to write anew in the standard form."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.ply", help_behavior_hint="")] = None
    """File to write. By default splat.ply in the run folder."""

    def run(self) -> int:
        """Export; returns the exit code."""
        if self.out is not None and self.out.suffix.lower() != ".ply":
            raise UserError(f"--out {self.out} does not end in .ply, the one form that is written; name it so.")
        if self.path.is_dir():
            out = self.out or self.path / SPLAT_NAME
        elif self.out is None:
            raise UserError(f"{self.path} is not a run folder, so say where to write: --out FILE.ply.")
        else:
            out = self.out
        if self.path.suffix.lower() == ".ply" and not self.path.is_dir():
            model, transform = read_ply(self.path), None
        else:
            loaded = load_model(self.path)
            model, transform = loaded.model, loaded.transform
        write_ply(prepare_file(out), model, transform)
        Output().line(f"{len(model):,} Gaussians, {size_on_disk(out)}: {out}")
        return 0
