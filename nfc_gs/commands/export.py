"""`nfc-gs export`: a trained splat as a file that other programs open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nfc_gs.checkpoint import load_model
from nfc_gs.commands.console import Output, size_on_disk
from nfc_gs.commands.runs import SPLAT_NAME, cost_of_baking, open_run, prepare_file
from nfc_gs.core.errors import UserError
from nfc_gs.core.sh import MAX_DEGREE
from nfc_gs.export.ply import read_ply, write_ply
from nfc_gs.train.evaluate import evaluate
from nfc_gs.train.guards import one_torch_thread


@dataclass(frozen=True)
class Export:
    """Write a splat as a PLY that splat viewers and other tools open, in the frame of the capture.

    The colours of a bit head are baked to spherical harmonics, and what that costs on the held-out views is told; the
    run's own checkpoint keeps the bits.

    For example:
      nfc-gs export runs/garden --out garden.ply
    """

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, a checkpoint.safetensors, or a PLY to write anew in the standard form."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.ply", help_behavior_hint="")] = None
    """File to write. By default splat.ply in the run folder."""

    sh_degree: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """SH degree of the file, 0 (no view dependence) to 3; as the model has it if left out."""

    capture: Annotated[Path | None, tyro.conf.arg(metavar="CAPTURE", help_behavior_hint="")] = None
    """Where the capture lies now, if it was moved since the training."""

    def run(self) -> int:
        """Export; returns the exit code."""
        if self.out is not None and self.out.suffix.lower() != ".ply":
            raise UserError(f"--out {self.out} does not end in .ply, the one form that is written; name it so.")
        if self.sh_degree is not None and not 0 <= self.sh_degree <= MAX_DEGREE:
            raise UserError(f"--sh-degree is {self.sh_degree}, but must be between 0 and {MAX_DEGREE}.")
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
        write_ply(prepare_file(out), model, transform, sh_degree=self.sh_degree)
        output = Output()
        output.line(f"{len(model):,} Gaussians, {size_on_disk(out)}: {out}")
        if model.head == "bits":
            output.line(self._cost_of_baking())
        return 0

    def _cost_of_baking(self) -> str:
        """What baking the bits costs, in words."""
        try:
            run = open_run(self.path, capture=self.capture, device="auto", backend="auto")
        except UserError as error:
            return f"What baking the bits costs is not measured: {error}"
        if not run.scene.test:
            return "What baking the bits costs is not measured: the run has no held-out views."
        degree = run.model.sh_degree if self.sh_degree is None else self.sh_degree
        settings = {"backend": run.backend, "background": run.checkpoint.background}
        with one_torch_thread():
            own, baked = (
                evaluate(model, run.scene, antialiased=run.config.antialiased, **settings)
                for model in (run.model, run.model.baked(degree))
            )
        return cost_of_baking(own, baked, degree)
