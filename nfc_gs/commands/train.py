"""`nfc-gs train`: from a capture to a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from nfc_gs.api import default_run_folder
from nfc_gs.commands.console import Output
from nfc_gs.commands.options import BackendOption
from nfc_gs.commands.progress import Progress, tensorboard_listener
from nfc_gs.commands.runs import train_and_finish
from nfc_gs.commands.view import Page, train_and_stay, watch
from nfc_gs.core.errors import UserError
from nfc_gs.core.events import Listener
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.runs.checkpoint import load_checkpoint
from nfc_gs.runs.opening import scene_again
from nfc_gs.runs.run_folder import claim_run_folder
from nfc_gs.training.clock import StageClock
from nfc_gs.training.config import TrainConfig
from nfc_gs.training.resolve import resolve
from nfc_gs.training.trainer import Trainer


@dataclass(frozen=True)
class CaptureOptions(DataConfig):
    """`DataConfig` on the command line, where `--background` is what the splats are drawn on."""

    background: Annotated[
        tuple[float, float, float] | None, tyro.conf.arg(name="image-background", metavar="R G B")
    ] = None
    """Lay transparent pixels of the images on this color: red, green, blue in 0..1. By default white for Blender
    captures; elsewhere an alpha channel is a mask, and transparent pixels are ignored."""

    def config(self) -> DataConfig:
        """The same as a plain `DataConfig`."""
        return DataConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(DataConfig)})


@dataclass(frozen=True)
class TrainingOptions(TrainConfig):
    """`TrainConfig` on the command line, where the backends there are stand in the help."""

    backend: BackendOption = "auto"


@dataclass(frozen=True)
class Train:
    """Train a splat on a capture: a COLMAP project, a nerfstudio or Blender folder, or one with times, which moves.

    Few options are needed; examples:
      nfc-gs train captures/garden
      nfc-gs train captures/garden --out runs/garden --time-budget 3m
      nfc-gs train captures/garden --preset quality --max-gaussians 300000
      nfc-gs train --resume runs/garden

    The run folder then holds splat.ply, report.html, metrics.json, config.yaml, history.jsonl,
    checkpoint.safetensors and renders/. Ctrl-C ends early with everything saved.
    """

    capture: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURE", help_behavior_hint="")] = (
        None
    )
    """Folder of the capture, or its transforms.json. With --resume only needed if the capture was moved."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    """Folder for the run; a run is never overwritten. By default runs/<capture>-<date-time>."""

    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    """Go on with this run from its last checkpoint, with its own settings."""

    view: bool = False
    """Watch the training in the browser; the page stays open when it is over, until Ctrl-C."""

    page: Annotated[Page, tyro.conf.arg(name="")] = field(default_factory=Page)
    """Where the page is, with --view."""

    tensorboard: bool = False
    """Also write curves for TensorBoard into the run folder (needs the extra: pip install 'nfc-gs[tensorboard]')."""

    training: Annotated[TrainingOptions, tyro.conf.arg(name="")] = field(default_factory=TrainingOptions)
    """How to train."""

    data: Annotated[CaptureOptions, tyro.conf.arg(name="")] = field(default_factory=CaptureOptions)
    """How the capture is read."""

    def run(self) -> int:
        """Train; returns the exit code."""
        output = Output()
        progress = Progress(output)
        if self.resume is None and self.capture is not None:
            output.line(f"Reading the capture {self.capture}")
        trainer = self._resumed([progress]) if self.resume is not None else self._new_run([progress])
        if not self.view:
            return train_and_finish(trainer, output, progress)
        with watch(trainer, output, self.page) as viewer:
            return train_and_stay(trainer, output, progress, viewer)

    def _new_run(self, listeners: list[Listener]) -> Trainer:
        if self.capture is None:
            raise UserError("Nothing to train on: give the folder of a capture, or a run to go on with: --resume RUN.")
        resolve(self.training)  # a wrong option should show before the capture is read
        run = self.out if self.out is not None else default_run_folder(self.capture)
        claim_run_folder(run)
        data = self.data.config()
        clock = StageClock()
        with clock.counting("capture"):
            scene = load_scene(self.capture, data, seed=self.training.seed)
        if self.tensorboard:
            listeners.append(tensorboard_listener(run / "tensorboard"))
        return Trainer(scene, self.training, run, listeners, capture=self.capture, data=data, clock=clock)

    def _resumed(self, listeners: list[Listener]) -> Trainer:
        assert self.resume is not None
        if self.out is not None and self.out.resolve() != self.resume.resolve():
            raise UserError(f"--resume {self.resume} goes on in its own folder; leave out --out {self.out}.")
        changed = _changed(self.training, TrainingOptions()) + _changed(self.data, CaptureOptions())
        if changed:
            raise UserError(f"--resume goes on with the settings of its run; leave out {', '.join(changed)}.")
        clock = StageClock()
        with clock.counting("capture"):
            scene = scene_again(load_checkpoint(self.resume), self.capture)
        if self.tensorboard:
            listeners.append(tensorboard_listener(self.resume / "tensorboard"))
        return Trainer.resume(self.resume, listeners, scene=scene, clock=clock)


def _changed(given: object, default: object) -> list[str]:
    """The options in which two configurations of one kind differ."""
    names = [f.name for f in dataclasses.fields(given)]  # type: ignore[arg-type]
    return ["--" + name.replace("_", "-") for name in names if getattr(given, name) != getattr(default, name)]
