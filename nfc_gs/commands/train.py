"""`nfc-gs train`: from a capture to a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from nfc_gs.api import default_run_folder
from nfc_gs.commands.console import Output
from nfc_gs.commands.options import Command
from nfc_gs.commands.progress import Progress, tensorboard_listener
from nfc_gs.commands.runs import train_and_finish
from nfc_gs.commands.shared_options import Backend, Device
from nfc_gs.commands.view import Page, train_and_stay, watch
from nfc_gs.core.errors import UserError
from nfc_gs.core.events import Listener
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.runs.checkpoint import load_checkpoint
from nfc_gs.runs.names import TENSORBOARD
from nfc_gs.runs.opening import check_results, scene_again
from nfc_gs.runs.run_folder import (
    RunFolder,
    check_is_capture,
    claim_free_folder,
    claim_run_folder,
    image_cache_of,
    lock_run_folder,
)
from nfc_gs.training.clock import StageClock
from nfc_gs.training.config import TrainConfig
from nfc_gs.training.resolve import resolve
from nfc_gs.training.trainer import Trainer


@dataclass(frozen=True)
class Train(Command):
    """Train a splat on a capture: a COLMAP project, a nerfstudio or Blender folder, or photos of a moving scene.

    Examples:
      nfc-gs train captures/garden
      nfc-gs train captures/garden --out runs/garden --time-budget 3m
      nfc-gs train captures/garden --preset quality --max-gaussians 300000
      nfc-gs train --resume runs/garden

    The run folder then holds splat.ply, report.html, metrics.json, renders/ and what --resume needs. Ctrl-C ends early
    with everything saved, and so do SIGTERM and a terminal that is closed.
    """

    types: ClassVar = {
        TrainConfig: {
            "time_budget": Annotated[str | None, tyro.conf.arg(metavar="TIME")],
            "device": Device,
            "backend": Backend,
        },
        DataConfig: {
            "downscale": Annotated[str, tyro.conf.arg(metavar="SIZE")],
            "background": Annotated[
                tuple[float, float, float] | None, tyro.conf.arg(name="image-background", metavar="R G B")
            ],
        },
    }

    short: ClassVar = (
        *("capture", "out", "resume", "view", "quiet", "json", "open", "port", "method", "preset", "steps"),
        *("time_budget", "max_gaussians", "seed", "device", "backend", "head", "motion", "downscale", "test_every"),
    )

    capture: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[CAPTURE]")] = None
    """Folder of the capture, or its transforms.json. With --resume only needed if the capture was moved."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Folder for the run; no run is ever overwritten. By default runs/CAPTURE-DATE-TIME."""

    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Continue this run from its last checkpoint, with its own settings."""

    view: bool = False
    """Watch the training in the browser; the page stays open at the end, until Ctrl-C."""

    page: Annotated[Page, tyro.conf.arg(name="viewer")] = field(default_factory=Page)
    """Where the page is, with --view."""

    tensorboard: bool = False
    """Also write curves for TensorBoard into the run folder; needs pip install 'nfc-gs[tensorboard]'."""

    quiet: bool = False
    """Print only the path of the run folder, at the end. Warnings and errors still go to stderr."""

    json: bool = False
    """Print one JSON object at the end: run, report and splat (paths), interrupted, and the content of metrics.json,
    with null for what is not known; everything else goes to stderr."""

    data: Annotated[DataConfig, tyro.conf.arg(name="image")] = field(default_factory=DataConfig)
    """How the capture is read."""

    training: TrainConfig = field(default_factory=TrainConfig)
    """How to train."""

    def run(self) -> int:
        """Train; returns the exit code."""
        output = Output(quiet=self.quiet, as_json=self.json)
        progress = Progress(output)
        with self._run_folder() as folder:
            if self.resume is None:
                output.line(f"Reading the capture {self.capture}")
                trainer = self._new_run(folder, [progress])
            else:
                trainer = self._resumed(folder, [progress])
            if not self.view:
                return train_and_finish(trainer, output, progress)
            with watch(trainer, output, self.page) as viewer:
                return train_and_stay(trainer, output, progress, viewer)

    def _run_folder(self) -> RunFolder:
        """The folder of the run, for this process alone. A wrong option shows before, and before anything is read."""
        if self.resume is not None:
            self._check_resume(self.resume)
            return lock_run_folder(self.resume)
        if self.capture is None:
            raise UserError("Nothing to train on: give the folder of a capture, or a run to go on with: --resume RUN.")
        resolve(self.training)
        check_is_capture(self.capture)
        return (
            claim_run_folder(self.out) if self.out is not None else claim_free_folder(default_run_folder(self.capture))
        )

    def _check_resume(self, run: Path) -> None:
        """Raise UserError for options that do not go with --resume, and for a run whose results are damaged."""
        if self.out is not None and self.out.resolve() != run.resolve():
            raise UserError(f"--resume {run} goes on in its own folder; leave out --out {self.out}.")
        changed = [*_changed(self.training, TrainConfig())]
        changed += [name.replace("--background", "--image-background") for name in _changed(self.data, DataConfig())]
        if changed:
            raise UserError(
                f"--resume goes on with the settings of its run, to the end that it began with; leave out "
                f"{', '.join(changed)}. To train for longer or in another way, begin a new run: leave out --resume."
            )
        check_results(run)

    def _new_run(self, folder: RunFolder, listeners: list[Listener]) -> Trainer:
        capture = Path(self.capture or "")
        clock = StageClock()
        with clock.counting("capture"):
            scene = load_scene(capture, self.data, seed=self.training.seed, copies=image_cache_of(folder.path))
        if self.tensorboard:
            listeners.append(tensorboard_listener(folder.path / TENSORBOARD))
        return Trainer(scene, self.training, folder, listeners, capture=capture, data=self.data, clock=clock)

    def _resumed(self, folder: RunFolder, listeners: list[Listener]) -> Trainer:
        clock = StageClock()
        with clock.counting("capture"):
            checkpoint = load_checkpoint(folder.path)
            scene = scene_again(checkpoint, self.capture, copies=image_cache_of(folder.path))
        if self.tensorboard:
            listeners.append(tensorboard_listener(folder.path / TENSORBOARD))
        return Trainer.resume(folder, listeners, scene=scene, clock=clock)


def _changed(given: object, default: object, prefix: str = "--") -> Iterator[str]:
    """The options in which two configurations of one kind differ."""
    for each in fields(given):  # type: ignore[arg-type]
        one, other, name = getattr(given, each.name), getattr(default, each.name), each.name.replace("_", "-")
        if is_dataclass(one):
            yield from _changed(one, other, f"{prefix}{name}.")
        elif one != other:
            yield prefix + name
