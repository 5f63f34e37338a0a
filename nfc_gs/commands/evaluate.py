"""`nfc-gs eval`: measure the held-out views of a run again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nfc_gs.api import add_loop_video
from nfc_gs.commands.console import Output, decibels, ratio, table
from nfc_gs.commands.options import RunBackendOption
from nfc_gs.core.errors import UserError
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.export.report import write_report
from nfc_gs.runs.metrics import Metrics
from nfc_gs.runs.names import LOOP_NAME, REPORT_NAME, TEST_RENDERS
from nfc_gs.runs.opening import open_run
from nfc_gs.training.evaluation import evaluate


@dataclass(frozen=True)
class Eval:
    """Measure the held-out views of a run: PSNR, SSIM and, if asked for, LPIPS.

    Renders them from the run's checkpoint and writes metrics.json, renders/ and report.html anew. Example:
      nfc-gs eval runs/garden
    """

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run, or its checkpoint.safetensors."""

    lpips: bool = False
    """Also LPIPS (needs the extra: pip install 'nfc-gs[metrics]', and its network's weights)."""

    capture: Annotated[Path | None, tyro.conf.arg(metavar="CAPTURE", help_behavior_hint="")] = None
    """Where the capture lies now, if it was moved since the training."""

    device: str = "auto"
    """Where to compute: auto, cpu or cuda; auto takes a GPU if there is one."""

    backend: RunBackendOption = "auto"

    def run(self) -> int:
        """Measure; returns the exit code."""
        run = open_run(self.path, capture=self.capture, device=self.device, backend=self.backend)
        if not run.scene.test:
            raise UserError(f"{self.path} has no held-out views to measure; train with --test-every 8, say.")
        images = run.folder / TEST_RENDERS
        with one_torch_thread():
            metrics = evaluate(run.model, run.scene, run.options, lpips=self.lpips, save_to=images)
        path = run.save_metrics(metrics)
        add_loop_video(run.folder, run.model, run.scene, run.options)
        write_report(run.folder)
        output = Output()
        output.print(metrics_table(metrics))
        output.line(f"Metrics:  {path}")
        output.line(f"Pictures: {images}")
        if (run.folder / LOOP_NAME).exists():
            output.line(f"Video:    {run.folder / LOOP_NAME}")
        output.line(f"Report:   {run.folder / REPORT_NAME}")
        return 0


def metrics_table(metrics: Metrics):
    """Every view, and all of them: means, but for the moving pixels, which are taken together."""
    columns = [("PSNR", "psnr", decibels), ("SSIM", "ssim", ratio)]
    columns += [("LPIPS", "lpips", ratio)] if metrics.lpips is not None else []
    columns += [("Moving PSNR", "moving_psnr", decibels)] if metrics.moving_psnr is not None else []
    rows = [[view.name, *(say(getattr(view, key)) for _, key, say in columns)] for view in metrics.views]
    name = "mean" if metrics.moving_psnr is None else "mean (moving: all pixels)"
    rows.append([name, *(say(getattr(metrics, key)) for _, key, say in columns)])
    return table("Held-out views", rows, ["View", *(head for head, _, _ in columns)])
