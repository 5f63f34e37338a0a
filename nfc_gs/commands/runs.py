"""How the commands train, and what they print of a run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nfc_gs.commands.console import Output, decibels, ratio, table
from nfc_gs.commands.progress import Progress
from nfc_gs.core.files import make_folder
from nfc_gs.core.signals import exit_code
from nfc_gs.core.text import duration
from nfc_gs.data.sampler import MEASURED_AT_THE_END, MEASURED_WHILE_TRAINING
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RadianceModel
from nfc_gs.ops import native
from nfc_gs.results import finish
from nfc_gs.runs.metrics import Metrics, read_metrics, test_values
from nfc_gs.runs.names import REPORT_NAME, SPLAT_NAME
from nfc_gs.runs.verdict import verdict
from nfc_gs.training.evaluation import baked_at
from nfc_gs.training.trainer import Trainer


def device_in_words(device: str, backend: str) -> str:
    """The device and how it computes: 'cpu (2 threads, avx512)', 'cuda (NVIDIA ..., backend gsplat)'."""
    if device.startswith("cuda"):
        import torch

        return f"{device} ({torch.cuda.get_device_name(device)}, backend {backend})"
    if backend != "cpu":
        return f"{device} (backend {backend})"
    threads = native.threads()
    return f"cpu ({threads} thread{'s' if threads != 1 else ''}, {native.core().instruction_set()})"


def size_in_words(model: RadianceModel) -> str:
    """How large a model is: '12,345 Gaussians'."""
    name, value = next(iter(model.facts().items()))
    return f"{value} {name}"


def train_and_finish(
    trainer: Trainer, output: Output, progress: Progress, then: Callable[[], str] | None = None
) -> int:
    """Train, then leave everything a run should hold and print what came out.

    Args:
        then: done after a training that was not interrupted, before the result is printed; returns a line to print.

    Returns:
        The exit code: 0, or 128 and the number of the signal that ended the training, 130 after Ctrl-C.

    Raises:
        UserError: as `Trainer.train`; the run holds its last good checkpoint.
    """
    scene, config, run = trainer.scene, trainer.config, trainer.run.folder
    held_out = f"{len(scene.test)} held out" if scene.test else "none held out"
    if len(scene.test) > MEASURED_WHILE_TRAINING:
        held_out += f", of which {MEASURED_WHILE_TRAINING} are measured while training"
    output.line(f"Run folder: {run}")
    output.line(
        f"{'Training' if trainer.steps_done == 0 else f'Going on after step {trainer.steps_done:,}'} on "
        f"{len(scene.train)} views ({held_out}) with {size_in_words(trainer.model)}, "
        f"on {device_in_words(config.device, config.backend)}, method {config.method}, preset {config.preset}."
    )
    if trainer.forecast is not None and trainer.progress < 1.0:
        output.line(str(trainer.forecast))
    if config.budget_seconds is not None and trainer.progress < 1.0:
        left = duration(config.budget_seconds - trainer.seconds)
        output.line(f"Time: {left} of training (the time budget), beside evaluation and saving.")
    if trainer.progress >= 1.0:
        output.line(
            "The run is complete and is not trained any further (for that, begin a new one without --resume); its "
            "results are measured and written anew."
        )
    with progress.shown():
        finished = trainer.train()
    with progress.measuring() as measured:
        metrics = finish(trainer, measured)
    interrupted = finished.reason == "interrupted" or trainer.run.interrupted_by is not None
    output.print(results_table(trainer, metrics))
    model = trainer.model
    if isinstance(model, GaussianModel) and model.color_head.has_bits and metrics is not None and metrics.views:
        baked = trainer.measure(model_at=baked_at(model, model.sh_degree), most=MEASURED_AT_THE_END)
        output.line(cost_of_baking(metrics, baked, model.sh_degree))
    if metrics is not None:
        outlook = not interrupted and not model.changes_with_time
        output.line(meaning(metrics, trainer.steps_done, outlook=outlook))
    for line in places(run):
        output.line(line)
    output.line(look_at_it(run))
    if finished.reason == "interrupted":
        output.line(
            f"Interrupted after step {trainer.steps_done:,}; everything is saved. Go on with: "
            f"nfc-gs train --resume {shlex.quote(str(run))}"
        )
    if then is not None and not interrupted:
        output.line(then())
    output.result(str(run), {**run_values(run), "interrupted": interrupted})
    return exit_code(trainer.run.interrupted_by) if interrupted else 0


def meaning(metrics: Metrics, steps: int, *, outlook: bool) -> str:
    """What the PSNR of the held-out views means, in a sentence or two.

    Args:
        steps: of the training.
        outlook: also say what longer training usually gives, which is known of static scenes alone.
    """
    if not metrics.views:
        return "No views are held out, so the quality is not measured; --test-every 8 holds out every 8th."
    if metrics.psnr is None:
        return "The masks ignore the held-out views whole, so the quality is not measured."
    words = verdict(metrics.psnr, steps=steps, better_than_flat=metrics.better_than_flat)
    sample = f" ({metrics.count_in_words}; nfc-gs eval --all measures all)" if metrics.is_sample else ""
    return f"{metrics.psnr:.1f} dB on the held-out views{sample}, {words if outlook else f'{words.quality}.'}"


def run_values(run: Path) -> dict[str, Any]:
    """What --json prints of a run: its files, and the content of its metrics.json."""
    return _values(run, read_metrics(run))


def measured_values(run: Path, metrics: Metrics) -> dict[str, Any]:
    """The same of figures that are not written into the run."""
    return _values(run, {"test": test_values(metrics)})


def _values(run: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    unknown = dict.fromkeys(("psnr", "ssim", "lpips", "foreground_psnr", "moving_psnr"))
    test = {**unknown, **metrics.pop("test", {})}
    splat = run / SPLAT_NAME
    files = {"run": run, "report": run / REPORT_NAME, "splat": splat if splat.exists() else None}
    return {**{name: None if file is None else str(file) for name, file in files.items()}, "test": test, **metrics}


def results_table(trainer: Trainer, metrics: Metrics | None) -> Any:
    """What came out of a run, in a few numbers."""
    rows = []
    if metrics is not None and metrics.views:
        rows += [("Test PSNR", decibels(metrics.psnr)), ("Test SSIM", ratio(metrics.ssim))]
        if metrics.foreground_psnr is not None:
            rows += [("Foreground PSNR", decibels(metrics.foreground_psnr))]
        if metrics.moving_psnr is not None:
            rows += [("Moving PSNR", decibels(metrics.moving_psnr))]
        rows += [("Test views", metrics.count_in_words)]
    else:
        rows += [("Test views", "not measured" if metrics is None else "none held out")]
    rate = trainer.steps_done / trainer.seconds if trainer.seconds > 0 else 0.0
    rows += [
        *list(trainer.model.facts().items())[:1],
        ("Steps", f"{trainer.steps_done:,}"),
        ("Training time", f"{duration(trainer.seconds)} ({rate:.1f} steps/s)"),
        ("Device", device_in_words(trainer.config.device, trainer.config.backend)),
    ]
    return table("Results", rows)


def cost_of_baking(own: Metrics, baked: Metrics, degree: int) -> str:
    """How much worse the held-out views of a bit head are in the splat file, in words."""
    sentence = f"The bits are baked to SH of degree {degree} in the splat file"
    if own.psnr is None or baked.psnr is None or not math.isfinite(own.psnr - baked.psnr):
        return f"{sentence}; what that costs cannot be said, since no held-out pixel counts or an image is perfect."
    change = baked.psnr - own.psnr
    return f"{sentence}: {decibels(baked.psnr)} on the held-out views, {change:+.3f} dB beside the bits."


def places(run: Path) -> list[str]:
    """Where the results of a run are, in two lines."""
    splat = run / SPLAT_NAME
    everything = f"Splat: {splat}, with everything else in {run}" if splat.exists() else f"Everything else: {run}"
    return [f"Report: {run / REPORT_NAME} (open it in a browser)", everything]


def look_at_it(path: Path) -> str:
    """The command that shows a run."""
    return f"Look at it: nfc-gs view {shlex.quote(str(path))}"


def prepare_file(path: Path) -> Path:
    """Make the folder in which a file shall be written; returns the path."""
    make_folder(path.parent)
    return path


def replacement_note(path: Path) -> str:
    """What to add to the line about a file, or about a folder of PNG files, that replaces an earlier one.

    To be called before anything is written.
    """
    if path.is_dir():
        return " (earlier images of the same names are replaced)" if any(path.glob("*.png")) else ""
    return " (replaces the earlier file)" if path.is_file() else ""
