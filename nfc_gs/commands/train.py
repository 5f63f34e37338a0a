"""`nfc-gs train`: from a capture to a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from nfc_gs.api import default_run_folder
from nfc_gs.commands.console import Output
from nfc_gs.commands.options import Arg, Command, options_of
from nfc_gs.commands.progress import Progress, tensorboard_listener
from nfc_gs.commands.runs import train_and_finish
from nfc_gs.commands.shared_options import BACKEND, DEVICE
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

TRAINING = {
    "method": Arg(
        metavar="NAME",
        help="What is learnt: nfr (regression), nfc (with a classification loss), nfc-te (the same with the bit head), "
        "nfc-bitwise (the bit head, with a loss on each bit).",
    ),
    "preset": Arg(
        metavar="NAME",
        help="fast: minutes on a CPU; quality: longer; paper: the 30 000 steps of 3DGS-MCMC; auto: fast on a CPU, "
        "quality on a GPU.",
    ),
    "steps": Arg(help="Number of optimisation steps. By default the preset's."),
    "time_budget": Arg(metavar="TIME", help="Train as well as possible in this time instead: 90s, 3m, 1h."),
    "max_gaussians": Arg(help="Most Gaussians there may be. By default the preset's, or what the time budget affords."),
    "seed": Arg(help="The same seed and number of steps give the same result."),
    "device": DEVICE,
    "backend": BACKEND,
    "head": Arg(
        metavar="NAME",
        help="What colors the Gaussians: sh (spherical harmonics) or bits (24 bit logits). By default the method's.",
    ),
    "motion": Arg(
        metavar="NAME",
        help="What moves the Gaussians of a capture with times: hexplane (4DGS), mlp (Deformable 3DGS), none (train a "
        "static splat); auto: hexplane.",
    ),
    "objective": Arg(fields={"extra": Arg(metavar="NAME X ...")}),
}
"""How the fields of `TrainConfig` look on the command line."""

DATA = {
    "downscale": Arg(
        metavar="SIZE",
        help="Make the images smaller: by a factor (2, 4) or to a longest side (800px); 1 leaves them, auto makes them "
        "1600px at most.",
    ),
    "test_every": Arg(
        metavar="K",
        help="Hold out every K-th image for testing, 0 for none. By default the capture's own split, else 8.",
    ),
    "background": Arg(
        name="image-background",
        metavar="R G B",
        help="Lay transparent pixels of the images on this color, three numbers in 0..1. By default white for Blender "
        "captures; elsewhere transparent pixels are ignored.",
    ),
    "time_from_name": Arg(metavar="REGEX"),
}
"""How the fields of `DataConfig` look on the command line, where --background is what the splats are rendered on."""


@dataclass(frozen=True)
class Train(Command):
    """Train a splat on a capture: a COLMAP project, a nerfstudio or Blender folder, or photos of a moving scene.

    Examples:
      nfc-gs train captures/garden
      nfc-gs train captures/garden --out runs/garden --time-budget 3m
      nfc-gs train captures/garden --preset quality --max-gaussians 300000
      nfc-gs train --resume runs/garden

    The run folder then holds splat.ply, report.html, metrics.json, renders/ and what --resume needs. Ctrl-C ends early
    with everything saved.
    """

    groups: ClassVar = {
        "Capture and run": ("CAPTURE", "--out", "--resume"),
        "How long": ("--preset", "--steps", "--time-budget", "--max-gaussians"),
        "Images": ("--downscale", "--test-every", "--image-background"),
        "Model": ("--method", "--head", "--motion"),
        "Machine": ("--device", "--backend", "--seed"),
        "Viewer": ("--view", "--open", "--port"),
        "Output": ("--quiet", "--json"),
    }

    more_groups: ClassVar = {
        "More on images": ("--masks", "--normalize", "--random-points", "--cache-gb"),
        "Frames and their times": (
            "--time-from-name",
            "--frame-start",
            "--frame-end",
            "--frame-stride",
            "--frame-rate",
        ),
        "More on the model": (
            "--sh-degree",
            "--bit-view",
            "--bit-hardness",
            "--antialiased",
            "--background",
            "--init-opacity",
            "--init-scale",
        ),
        "Schedule": (
            "--density",
            "--coarse-factor",
            "--full-resolution-at",
            "--growth-end",
            "--grow-factor",
            "--means-factor",
            "--rate-factor",
            "--sh-ramp",
        ),
        "Measuring and saving": ("--eval-every", "--checkpoint-every", "--tensorboard"),
        "More on the viewer": ("--host", "--share"),
    }

    capture: Annotated[Path | None, Arg(positional=True, metavar="CAPTURE")] = None
    """Folder of the capture, or its transforms.json. With --resume only needed if the capture was moved."""

    out: Annotated[Path | None, Arg(metavar="RUN")] = None
    """Folder for the run; no run is ever overwritten. By default runs/CAPTURE-DATE-TIME."""

    resume: Annotated[Path | None, Arg(metavar="RUN")] = None
    """Continue this run from its last checkpoint, with its own settings."""

    view: bool = False
    """Watch the training in the browser; the page stays open at the end, until Ctrl-C."""

    page: Annotated[Page, Arg(name="")] = field(default_factory=Page)
    """Where the page is, with --view."""

    tensorboard: bool = False
    """Also write curves for TensorBoard into the run folder; needs pip install 'nfc-gs[tensorboard]'."""

    quiet: bool = False
    """Print only the path of the run folder, at the end. Warnings and errors still go to stderr."""

    json: bool = False
    """Print one JSON object at the end: run, report and splat (paths), interrupted, and the content of metrics.json,
    with null for what is not known; everything else goes to stderr."""

    training: Annotated[TrainConfig, Arg(name="", fields=TRAINING)] = field(default_factory=TrainConfig)
    """How to train."""

    data: Annotated[DataConfig, Arg(name="", fields=DATA)] = field(default_factory=DataConfig)
    """How the capture is read."""

    def run(self) -> int:
        """Train; returns the exit code."""
        output = Output(quiet=self.quiet, as_json=self.json)
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
        clock = StageClock()
        with clock.counting("capture"):
            scene = load_scene(self.capture, self.data, seed=self.training.seed)
        if self.tensorboard:
            listeners.append(tensorboard_listener(run / "tensorboard"))
        return Trainer(scene, self.training, run, listeners, capture=self.capture, data=self.data, clock=clock)

    def _resumed(self, listeners: list[Listener]) -> Trainer:
        assert self.resume is not None
        if self.out is not None and self.out.resolve() != self.resume.resolve():
            raise UserError(f"--resume {self.resume} goes on in its own folder; leave out --out {self.out}.")
        changed = self._changed_settings()
        if changed:
            raise UserError(f"--resume goes on with the settings of its run; leave out {', '.join(changed)}.")
        clock = StageClock()
        with clock.counting("capture"):
            scene = scene_again(load_checkpoint(self.resume), self.capture)
        if self.tensorboard:
            listeners.append(tensorboard_listener(self.resume / "tensorboard"))
        return Trainer.resume(self.resume, listeners, scene=scene, clock=clock)

    def _changed_settings(self) -> list[str]:
        """The options of the training and the capture that are given."""
        changed = []
        for option in options_of(Train):
            if option.path[0] in ("training", "data"):
                value: Any = self
                for name in option.path:
                    value = getattr(value, name)
                changed += [option.flag] if value != option.default else []
        return changed
