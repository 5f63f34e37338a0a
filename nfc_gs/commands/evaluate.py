"""`nfc-gs eval`: measure how well a run renders its held-out views."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nfc_gs.commands.console import Output, decibels, ratio, table
from nfc_gs.commands.options import Command
from nfc_gs.commands.progress import Progress
from nfc_gs.commands.runs import look_at_it, meaning, measured_values, places, run_values
from nfc_gs.commands.shared_options import Device, MovedCapture, RunBackend
from nfc_gs.core.errors import UserError
from nfc_gs.core.files import make_folder
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.data.sampler import MEASURED_AT_THE_END
from nfc_gs.export.report import write_report
from nfc_gs.results import add_loop_video
from nfc_gs.runs.lock import FolderInUseError, RunLock
from nfc_gs.runs.metrics import Metrics
from nfc_gs.runs.names import TEST_RENDERS
from nfc_gs.runs.opening import OpenRun, check_results, open_run
from nfc_gs.training.evaluation import evaluate

logger = logging.getLogger("nfc_gs")


@dataclass(frozen=True)
class Eval(Command):
    """Measure how well a run renders its held-out views: PSNR, SSIM and, with --lpips, LPIPS.

    Renders them from the run's checkpoint and writes metrics.json, renders/ and report.html anew. Of a run that is
    still being trained nothing is written. Of more than 500 held-out views a random sample of 500 is measured, always
    the same one; --all measures all.

    Examples:
      nfc-gs eval runs/garden
      nfc-gs eval runs/garden --json
    """

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run, its checkpoint.safetensors, or a compact file that export wrote."""

    lpips: bool = False
    """Also measure LPIPS; needs pip install 'nfc-gs[metrics]' and the weights of its network."""

    all: bool = False
    """Measure all held-out views, however many they are."""

    capture: MovedCapture = None

    device: Device = "auto"

    backend: RunBackend = "auto"

    quiet: bool = False
    """Print only one line: PSNR, SSIM and, with --lpips, LPIPS. Warnings and errors still go to stderr."""

    json: bool = False
    """Print one JSON object: run, report and splat (paths), and the content of metrics.json, with null for what is not
    known; everything else goes to stderr."""

    def run(self) -> int:
        """Measure; returns the exit code."""
        check_results(self.path)
        run = open_run(self.path, capture=self.capture, device=self.device, backend=self.backend)
        if not run.scene.test:
            raise UserError(f"{self.path} has no held-out views to measure; train with --test-every 8, say.")
        output = Output(quiet=self.quiet, as_json=self.json)
        make_folder(run.folder)
        lock, save = RunLock(run.folder), True
        try:
            lock.acquire()
        except FolderInUseError as error:
            logger.warning("The views are measured, but nothing is written. %s", error)
            save = False
        try:
            metrics = self._measure(run, output, save=save)
        finally:
            lock.release()
        output.print(metrics_table(metrics))
        static = not run.model.changes_with_time
        output.line(meaning(metrics, run.checkpoint.step, outlook=static))
        if save:
            for line in places(run.folder):
                output.line(line)
        output.line(look_at_it(self.path))
        figures = [f"PSNR {decibels(metrics.psnr)}", f"SSIM {ratio(metrics.ssim)}"]
        figures += [f"LPIPS {ratio(metrics.lpips)}"] if metrics.lpips is not None else []
        output.result(", ".join(figures), run_values(run.folder) if save else measured_values(run.folder, metrics))
        return 0

    def _measure(self, run: OpenRun, output: Output, *, save: bool) -> Metrics:
        """Measure; with `save` write what comes of it into the folder of the run."""
        with one_torch_thread(), Progress(output).measuring() as progress:
            images = run.folder / TEST_RENDERS if save else None
            metrics = evaluate(
                run.model,
                run.scene,
                run.options,
                lpips=self.lpips,
                save_to=images,
                progress=progress,
                most=None if self.all else MEASURED_AT_THE_END,
            )
        if save:
            run.save_metrics(metrics)
            add_loop_video(run.folder, run.model, run.scene, run.options)
            write_report(run.folder)
        return metrics


def metrics_table(metrics: Metrics):
    """Every view, and all of them: means, but for moving and foreground pixels, which are taken together."""
    columns = [("PSNR", "psnr", decibels), ("SSIM", "ssim", ratio)]
    columns += [("LPIPS", "lpips", ratio)] if metrics.lpips is not None else []
    parts = [("Foreground PSNR", "foreground_psnr", decibels), ("Moving PSNR", "moving_psnr", decibels)]
    parts = [column for column in parts if getattr(metrics, column[1]) is not None]
    columns += parts
    rows = [[view.name, *(say(getattr(view, key)) for _, key, say in columns)] for view in metrics.views]
    together = " and ".join(head.split()[0].lower() for head, _, _ in parts)
    name = f"mean ({together}: all pixels)" if parts else "mean"
    title = f"Held-out views ({metrics.count_in_words})" if metrics.is_sample else "Held-out views"
    rows.append([name, *(say(getattr(metrics, key)) for _, key, say in columns)])
    return table(title, rows, ["View", *(head for head, _, _ in columns)])
