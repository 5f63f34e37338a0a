"""Run folders, as the commands begin them, finish them and open them again."""

from __future__ import annotations

import math
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfc_gs.commands.console import Output, decibels, logger, ratio, table
from nfc_gs.commands.progress import Progress
from nfc_gs.core.errors import UserError
from nfc_gs.core.files import make_folder
from nfc_gs.core.text import duration
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.data.scene import SceneData
from nfc_gs.export.loop import write_loop
from nfc_gs.export.report import write_report
from nfc_gs.export.report_data import read_json
from nfc_gs.formats.ply import write_ply
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.ops import native
from nfc_gs.rendering.backend import RasterBackend
from nfc_gs.rendering.pipeline import at_time
from nfc_gs.rendering.registry import get_backend
from nfc_gs.runs.checkpoint import CHECKPOINT_NAME, Checkpoint, load_checkpoint
from nfc_gs.runs.run_folder import CONFIG_NAME, capture_is_there, check_same_times, scene_of
from nfc_gs.training.config import ResolvedConfig, TrainConfig, resolve
from nfc_gs.training.evaluation import METRICS_NAME, Metrics
from nfc_gs.training.trainer import Trainer

RUNS = Path("runs")
"""Where runs go if `--out` does not say."""

SPLAT_NAME = "splat.ply"
REPORT_NAME = "report.html"
RENDERS = Path("renders")
START_TIME = 0.0
"""When a moving splat is, in a file that knows no time."""
TEST_RENDERS = RENDERS / "test"
LOOP_NAME = RENDERS / "loop.mp4"

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""


def free_folder(wanted: Path) -> Path:
    """`wanted`, or `wanted-2`, `wanted-3`, ...: the first that is not there yet."""
    path, number = wanted, 2
    while path.exists():
        path, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return path


def default_run_folder(capture: Path) -> Path:
    """`runs/<capture>-<date-time>`, never one that is there."""
    place = capture.resolve()
    name = (place.parent if place.suffix == ".json" else place).name or "capture"
    return free_folder(RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")


def device_in_words(config: ResolvedConfig) -> str:
    """The device and how it computes: 'cpu (2 threads, avx512)', 'cuda (NVIDIA ..., backend gsplat)'."""
    if config.device == "cuda":
        import torch

        return f"cuda ({torch.cuda.get_device_name()}, backend {config.backend})"
    if config.backend != "cpu":
        return f"{config.device} (backend {config.backend})"
    threads = native.threads()
    return f"cpu ({threads} thread{'s' if threads != 1 else ''}, {native.core().instruction_set()})"


def train_and_finish(trainer: Trainer, output: Output, progress: Progress) -> int:
    """Train, then leave everything a run should hold and say what came out.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.

    Raises:
        UserError: as `Trainer.train`; the run holds its last good checkpoint.
    """
    scene, run = trainer.scene, trainer.run
    held_out = f"{len(scene.test)} held out" if scene.test else "none held out"
    output.line(f"Run folder: {run}")
    output.line(
        f"{'Training' if trainer.steps_done == 0 else f'Going on after step {trainer.steps_done:,}'} on "
        f"{len(scene.train)} views ({held_out}) with {len(trainer.model):,} Gaussians, "
        f"on {device_in_words(trainer.config)}, method {trainer.config.method}, preset {trainer.config.preset}."
    )
    if trainer.progress >= 1.0:
        output.line("The run is complete; what it left is measured and written anew.")
    with progress.shown():
        finished = trainer.train()
    interrupted = finished.reason == "interrupted"
    metrics = finish(trainer)
    output.print(results_table(trainer, metrics))
    if trainer.model.head == "bits" and metrics is not None and metrics.views:
        baked = trainer.measure(trainer.model, baked_degree=trainer.model.sh_degree)
        output.line(cost_of_baking(metrics, baked, trainer.model.sh_degree))
    for line in places(run):
        output.line(line)
    if interrupted:
        output.line(
            f"Interrupted after step {trainer.steps_done:,}; everything is saved. Go on with: "
            f"nfc-gs train --resume {shlex.quote(str(run))}"
        )
    return INTERRUPTED if interrupted or metrics is None else 0


def finish(trainer: Trainer) -> Metrics | None:
    """Write splat, metrics, renders (of a moving splat also a video) and report of a run as it stands.

    Returns:
        The metrics, or None if Ctrl-C cut the measuring short: the rest is written all the same.
    """
    run = trainer.run
    with one_torch_thread():
        still = at_time(trainer.model, START_TIME)
    write_ply(run / SPLAT_NAME, still, trainer.scene.transform)
    metrics: Metrics | None = None
    try:
        metrics = trainer.evaluate(save_to=run / TEST_RENDERS)
    except KeyboardInterrupt:
        logger.warning("Interrupted while held-out views were measured: the metrics leave them out.")
    trainer.write_metrics(metrics or Metrics(()))
    drawing = {"backend": get_backend(trainer.config.backend), "background": trainer.background}
    draw_loop(run, trainer.model, trainer.scene, antialiased=trainer.config.antialiased, **drawing)
    write_report(run)
    return metrics


def draw_loop(run: Path, model: GaussianModel, scene: SceneData, **drawing: Any) -> None:
    """Write the looping video of a moving splat into its run folder; what hinders that is said, and no more.

    Args:
        drawing: `backend`, `background` and `antialiased` as `write_loop` has them.
    """
    if model.deformation is None:
        return
    try:
        with one_torch_thread():
            write_loop(prepare_file(run / LOOP_NAME), model, scene, **drawing)
    except UserError as error:
        logger.warning("The report gets no new video. %s", error)
    except KeyboardInterrupt:
        logger.warning("Interrupted while the video of the report was drawn: there is no new one.")


def results_table(trainer: Trainer, metrics: Metrics | None) -> Any:
    """What came out of a run, in a few numbers."""
    rows = []
    if metrics is not None and metrics.views:
        rows += [("Test PSNR", decibels(metrics.psnr)), ("Test SSIM", ratio(metrics.ssim))]
        if metrics.moving_psnr is not None:
            rows += [("Moving PSNR", decibels(metrics.moving_psnr))]
        rows += [("Test views", str(len(metrics.views)))]
    else:
        rows += [("Test views", "not measured" if metrics is None else "none held out")]
    rate = trainer.steps_done / trainer.seconds if trainer.seconds > 0 else 0.0
    rows += [
        ("Gaussians", f"{len(trainer.model):,}"),
        ("Steps", f"{trainer.steps_done:,}"),
        ("Training time", f"{duration(trainer.seconds)} ({rate:.1f} steps/s)"),
        ("Device", device_in_words(trainer.config)),
    ]
    return table("Results", rows)


def cost_of_baking(own: Metrics, baked: Metrics, degree: int) -> str:
    """How much worse the held-out views of a bit head are in the splat file, in words."""
    told = f"The bits are baked to SH of degree {degree} in the splat file"
    if own.psnr is None or baked.psnr is None or not math.isfinite(own.psnr - baked.psnr):
        return f"{told}; what that costs cannot be said, since no held-out pixel counts or a picture is perfect."
    change = baked.psnr - own.psnr
    return f"{told}: {decibels(baked.psnr)} on the held-out views, {change:+.3f} dB beside the bits."


def places(run: Path) -> list[str]:
    """A line for each thing that lies in a run folder; empty folders are nothing."""
    things = (
        ("Report", REPORT_NAME),
        ("Splat", SPLAT_NAME),
        ("Checkpoint", CHECKPOINT_NAME),
        ("Metrics", METRICS_NAME),
        ("Settings", CONFIG_NAME),
        ("Pictures", str(TEST_RENDERS)),
        ("Video", str(LOOP_NAME)),
    )
    return [f"{name + ':':<12}{run / file}" for name, file in things if _holds_something(run / file)]


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


@dataclass(frozen=True)
class OpenRun:
    """A run opened for rendering.

    Attributes:
        folder: where what is made of the run goes.
        config: what it was trained with.
        model: on `device`.
        backend: ready to draw on `device`.
        scene: the capture it was trained on; without photos where they were not asked for and are not there.
    """

    folder: Path
    checkpoint: Checkpoint
    config: ResolvedConfig
    model: GaussianModel
    device: str
    backend: RasterBackend
    scene: SceneData

    def save_metrics(self, metrics: Metrics) -> Path:
        """Write `metrics.json` anew; what an earlier one says of training is kept. Returns its path."""
        from nfc_gs.training.evaluation import write_metrics

        own = {"test", "gaussians", "steps", "train_seconds"}
        extras = {"device": self.config.device, "backend": self.config.backend, "preset": self.config.preset}
        extras["method"] = self.config.method
        extras |= {name: value for name, value in read_json(self.folder / METRICS_NAME).items() if name not in own}
        extras.setdefault("timings", self.checkpoint.state.get("timings", {}))
        return write_metrics(
            self.folder,
            metrics,
            gaussians=len(self.model),
            steps=self.checkpoint.step,
            train_seconds=self.checkpoint.seconds,
            extras=extras,
        )


def open_run(path: Path, *, capture: Path | None, device: str, backend: str, photos: bool = True) -> OpenRun:
    """Open a run folder or its checkpoint.

    Args:
        capture: where the capture lies now; None where it lay when the run was trained.
        device, backend: names as in `TrainConfig`; "auto" takes the run's own backend where it works.
        photos: as `scene_again` has it.

    Raises:
        UserError: no such run, a broken checkpoint, a capture that is gone or has other times, a device that is not
            there.
    """
    checkpoint = load_checkpoint(path)
    config = ResolvedConfig.from_dict(checkpoint.config)
    here = resolve(TrainConfig(device=device, backend=backend))  # type: ignore[arg-type]
    scene = scene_again(checkpoint, capture, photos=photos)
    check_same_times(scene, checkpoint)
    name = config.backend if backend == "auto" and config.device == here.device else here.backend
    return OpenRun(
        folder=_folder_of(path),
        checkpoint=checkpoint,
        config=config,
        model=checkpoint.make_model(here.device),
        device=here.device,
        backend=get_backend(name),
        scene=scene,
    )


def _folder_of(path: Path) -> Path:
    """The folder of a run; for a file that lies elsewhere one with its name beside it, since that may be another's."""
    if path.is_dir():
        return path
    return path.parent if path.name == CHECKPOINT_NAME else path.with_name(f"{path.stem}-results")


def scene_again(checkpoint: Checkpoint, capture: Path | None, *, photos: bool = True) -> SceneData:
    """Read the capture of a run again.

    Args:
        capture: where it lies now; None where it lay.
        photos: they are needed; else what the checkpoint holds of a capture that is gone will do.

    Raises:
        UserError: it is gone, or cannot be read.
    """
    if capture is None and not capture_is_there(checkpoint):
        if not photos and checkpoint.scene is not None:
            return checkpoint.scene
        raise UserError(
            f"The capture of this run, {checkpoint.capture}, is not there any more; say where it is with --capture."
        )
    return scene_of(checkpoint, capture)


def prepare_file(path: Path) -> Path:
    """Make the folder in which a file shall be written; returns the path."""
    make_folder(path.parent)
    return path
