"""`nfc-gs demo`: from the built-in capture to a trained splat and its report."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from nfc_gs.api import RUNS
from nfc_gs.commands.console import Output
from nfc_gs.commands.options import Command
from nfc_gs.commands.progress import Progress
from nfc_gs.commands.render import Render
from nfc_gs.commands.runs import train_and_finish
from nfc_gs.commands.shared_options import Device
from nfc_gs.commands.view import Page, View
from nfc_gs.data.builtin.captures import write_capture, write_moving_capture
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.runs.run_folder import RunFolder, claim_free_folder, claim_run_folder
from nfc_gs.training.clock import StageClock
from nfc_gs.training.config import TrainConfig
from nfc_gs.training.resolve import resolve
from nfc_gs.training.trainer import Trainer

DEMO_TRAINING = TrainConfig(preset="fast", time_budget="65s")
"""How the demo trains; made for two cores of a plain CPU, a GPU is done no worse in the same time."""

DYNAMIC_TRAINING = TrainConfig(preset="fast", time_budget="120s", max_gaussians=10_000)
"""The same for the scene that moves."""

DYNAMIC_FRAMES, DYNAMIC_VIEWS = 24, 8
"""How many times of the moving scene the demo renders, and from how many cameras."""

DEMO_VIEWS, DEMO_WIDTH, DEMO_HEIGHT = 48, 320, 240
"""How many views of how many pixels the demo renders."""

CAPTURE_NAME = "capture"
"""Where in its run folder the demo leaves the capture."""


@dataclass(frozen=True)
class Demo(Command):
    """Train on a small built-in scene: render its capture, train, measure, write splat and report.

    Takes about a minute and a half (with --dynamic two and a half), and needs no files and no network.

    Examples:
      nfc-gs demo
      nfc-gs demo --dynamic
    """

    dynamic: bool = False
    """Take a scene that moves, seen by several cameras; also writes a video of it, renders/path.mp4."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Folder for the run and the capture. By default runs/demo, or the first free one of runs/demo-2, ..."""

    view: bool = True
    """Show the result in the browser at the end, until Ctrl-C; only in a terminal, and not with --quiet or --json."""

    page: Annotated[Page, tyro.conf.arg(name="viewer")] = field(default_factory=Page)
    """Where the page is."""

    time_budget: Annotated[str | None, tyro.conf.arg(metavar="TIME")] = None
    """Training time, such as 90s or 3m. By default 65s, and 120s with --dynamic."""

    steps: int | None = None
    """Train for this number of steps instead."""

    seed: int = 0
    """The same seed and number of steps give the same result."""

    device: Device = "auto"

    quiet: bool = False
    """Print only the path of the run folder, at the end. Warnings and errors still go to stderr."""

    json: bool = False
    """Print one JSON object as `nfc-gs train --json` does; everything else goes to stderr."""

    def run(self) -> int:
        """Render the capture, train, measure, export; returns the exit code."""
        training = DYNAMIC_TRAINING if self.dynamic else DEMO_TRAINING
        training = replace(training, seed=self.seed, device=self.device)
        if self.time_budget is not None:
            training = replace(training, time_budget=self.time_budget)
        if self.steps is not None:
            training = replace(training, time_budget=None, steps=self.steps)
        resolve(training)
        with claim_run_folder(self.out) if self.out is not None else claim_free_folder(RUNS / "demo") as folder:
            code = self._train(folder, training, Output(quiet=self.quiet, as_json=self.json))
        in_terminal = sys.stdin.isatty() and sys.stdout.isatty() and not self.quiet and not self.json
        return View((folder.path,), self.page).run() if code == 0 and self.view and in_terminal else code

    def _train(self, folder: RunFolder, training: TrainConfig, output: Output) -> int:
        """Render the capture, train, measure, export; returns the exit code."""
        capture = folder.path / CAPTURE_NAME
        try:
            self._write_capture(capture, output)
            data, clock, progress = DataConfig(), StageClock(), Progress(output)
            with clock.counting("capture"):
                scene = load_scene(capture, data)
            trainer = Trainer(scene, training, folder, [progress], capture=capture, data=data, clock=clock)
            video = Render(folder.path, what="path", device=self.device)
            then = (lambda: video.write()[1]) if self.dynamic else None
            return train_and_finish(trainer, output, progress, then=then)
        except BaseException:
            if not folder.is_worth_keeping:
                shutil.rmtree(capture, ignore_errors=True)
            raise

    def _write_capture(self, folder: Path, output: Output) -> None:
        if self.dynamic:
            output.line(
                f"Rendering the built-in moving capture, {DYNAMIC_FRAMES} times from {DYNAMIC_VIEWS} cameras: {folder}"
            )
            sizes = {"frames": DYNAMIC_FRAMES, "views": DYNAMIC_VIEWS}
            write_moving_capture(folder, kind="multiview", **sizes, ground_truth=True)
        else:
            output.line(f"Rendering the built-in capture, {DEMO_VIEWS} views of {DEMO_WIDTH} x {DEMO_HEIGHT}: {folder}")
            write_capture(folder, DEMO_VIEWS, DEMO_WIDTH, DEMO_HEIGHT)
