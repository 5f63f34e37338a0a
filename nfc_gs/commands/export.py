"""`nfc-gs export`: a trained splat as a file that other programs open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nfc_gs.commands.console import Output, size_on_disk
from nfc_gs.commands.options import Command
from nfc_gs.commands.runs import cost_of_baking, prepare_file, replacement_note
from nfc_gs.commands.shared_options import MovedCapture
from nfc_gs.core.errors import UserError
from nfc_gs.core.files import make_folder
from nfc_gs.core.sh import MAX_DEGREE
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.data.sampler import MEASURED_AT_THE_END
from nfc_gs.formats.registry import FORMATS, splat_suffixes, write_splats
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.results import START_TIME
from nfc_gs.runs.checkpoint import checkpoint_path, load_checkpoint, save_compact
from nfc_gs.runs.names import CHECKPOINT_NAME, FRAMES_NAME, SPLAT_NAME
from nfc_gs.runs.opening import LoadedModel, load_model, open_run
from nfc_gs.training.evaluation import baked_at, evaluate


@dataclass(frozen=True)
class Export(Command):
    """Write a run as a splat file that other programs open, in the frame of the capture.

    A .ply file holds a static splat: of a moving one it has one time (--time), or --frames writes several. Colors of a
    bit head are baked to spherical harmonics, and the cost of that on the held-out views is printed. A .safetensors
    file is the compact form: all that rendering needs, motion and cameras included, without run and capture.

    Examples:
      nfc-gs export runs/garden --out garden.ply
      nfc-gs export runs/dancer --time 0.5 --out middle.ply
      nfc-gs export runs/dancer --frames 60 --out dancer
      nfc-gs export runs/dancer --out dancer.safetensors
    """

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run, its checkpoint.safetensors, or a splat file to write anew in the standard form."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File to write: .ply, or .safetensors for the compact form; with --frames a folder. By default splat.ply (or
    frames) in the run folder."""

    time: Annotated[float | None, tyro.conf.arg(metavar="T")] = None
    """Of a moving splat: the time to write, 0 (its start) to 1 (its end). By default 0."""

    frames: int | None = None
    """Of a moving splat: write N files, evenly from its start to its end: frame_0000.ply, ..."""

    sh_degree: int | None = None
    """SH degree of the file, 0 (no view dependence) to 3. By default that of the model."""

    capture: MovedCapture = None

    quiet: bool = False
    """Print only the path of the file or folder. Warnings and errors still go to stderr."""

    def run(self) -> int:
        """Export; returns the exit code."""
        self._check_options()
        output = Output(quiet=self.quiet)
        out = self.out or self.path / (SPLAT_NAME if self.frames is None else FRAMES_NAME)
        if out.suffix.lower() == ".safetensors":
            itself = out.resolve() == checkpoint_path(self.path).resolve()
            if itself or (out.name == CHECKPOINT_NAME and out.exists()):
                raise UserError(
                    f"--out {out} is {'the checkpoint itself' if itself else 'the checkpoint of a run'}, from which "
                    "training goes on; name another file."
                )
            note = replacement_note(out)
            save_compact(prepare_file(out), load_checkpoint(self.path))
            output.line(f"{size_on_disk(out)}, all that rendering needs: {out}{note}")
            output.result(str(out))
            return 0
        loaded = load_model(self.path)
        model, transform = loaded.model, loaded.transform
        if not isinstance(model, GaussianModel):
            raise UserError(f"{self.path} holds no Gaussians, and a splat file holds nothing else; render it.")
        if model.deformation is None and (self.time is not None or self.frames is not None):
            raise UserError(f"{self.path} is a static splat, the same at all times; leave out --time and --frames.")
        if self.frames is None:
            with one_torch_thread():
                still = model.at(START_TIME if self.time is None else self.time)
            note = replacement_note(out)
            write_splats(prepare_file(out), still, transform, sh_degree=self.sh_degree, notes=loaded.notes)
            output.line(f"{len(model):,} Gaussians, {size_on_disk(out)}: {out}{note}")
        else:
            self._write_frames(out, loaded)
            output.line(f"{self.frames} times of {len(model):,} Gaussians: {out}")
        if model.color_head.has_bits and not self.quiet:
            output.line(self._cost_of_baking())
        output.result(str(out))
        return 0

    def _check_options(self) -> None:
        """Raise UserError for options that make no sense."""
        suffix = "" if self.out is None else self.out.suffix.lower()
        if self.frames is not None and suffix:
            raise UserError(
                f"--frames writes a folder of PLYs, and --out {self.out} is the name of a file; leave one out."
            )
        written = suffix in FORMATS and FORMATS[suffix].write is not None
        if self.out is not None and self.frames is None and not written and suffix != ".safetensors":
            formats = splat_suffixes(written=True).replace(" or ", " nor in ")
            raise UserError(f"--out {self.out} ends neither in {formats} nor in .safetensors; name it so.")
        if suffix == ".safetensors" and (self.time is not None or self.sh_degree is not None):
            raise UserError(
                "The compact form keeps all times and colors as they are; leave out --time and --sh-degree."
            )
        if self.frames is not None and (self.frames < 1 or self.time is not None):
            raise UserError("--frames must be at least 1, and goes without --time.")
        if self.time is not None and not 0.0 <= self.time <= 1.0:
            raise UserError(f"--time is {self.time}, but must be between 0 and 1.")
        if self.sh_degree is not None and not 0 <= self.sh_degree <= MAX_DEGREE:
            raise UserError(f"--sh-degree is {self.sh_degree}, but must be between 0 and {MAX_DEGREE}.")
        if self.out is None and not self.path.is_dir():
            raise UserError(f"{self.path} is not a run folder, so say where to write: --out FILE.ply.")

    def _write_frames(self, folder: Path, loaded: LoadedModel) -> None:
        model, options = loaded.model, {"sh_degree": self.sh_degree, "notes": loaded.notes}
        assert self.frames is not None and isinstance(model, GaussianModel)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                f"Cannot write frames to {folder}: it is there already and not empty; choose another --out."
            )
        make_folder(folder)
        for k in range(self.frames):
            with one_torch_thread():
                still = model.at(k / max(1, self.frames - 1))
            write_splats(folder / f"frame_{k:04d}.ply", still, loaded.transform, warn=k == 0, **options)

    def _cost_of_baking(self) -> str:
        """What baking the bits costs, in words."""
        try:
            run = open_run(self.path, capture=self.capture, device="auto", backend="auto")
        except UserError as error:
            return f"What baking the bits costs is not measured: {error}"
        if not run.scene.test:
            return "What baking the bits costs is not measured: the run has no held-out views."
        assert isinstance(run.model, GaussianModel)
        degree = run.model.sh_degree if self.sh_degree is None else self.sh_degree
        with one_torch_thread():
            most = MEASURED_AT_THE_END
            own = evaluate(run.model, run.scene, run.options, most=most)
            baked = evaluate(run.model, run.scene, run.options, model_at=baked_at(run.model, degree), most=most)
        return cost_of_baking(own, baked, degree)
