"""How the PSNR of held-out views grows with the number of training steps: what `runs.verdict` tells users to expect.

    python tools/bench/bench.py quality CAPTURE [CAPTURE:DOWNSCALE ...]

Every capture is trained anew for each number of steps, since schedules are fractions of a run: a long run that is cut
short is worse than a short one. The last table is that of `GAINS` in `nfc_gs/runs/verdict.py`.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import nfc_gs
from nfc_gs.core.errors import UserError

STEPS = (250, 500, 1000, 2000, 4000, 8000)
"""Numbers of steps, each twice the one before."""


@dataclass(frozen=True)
class Options:
    """How the PSNR of held-out views grows with the number of training steps."""

    captures: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders of captures; CAPTURE:2 reads one at half its size."""

    steps: tuple[int, ...] = STEPS
    """Numbers of steps to train for."""

    seed: int = 0
    """Of every run."""


def run(options: Options) -> None:
    """Train, and print a line for each run and at the end the gain of each doubling."""
    curves = {capture: _curve(capture, options) for capture in options.captures}
    print("| steps | " + " | ".join(curves) + " | median gain of the doubling |")
    print("|---" * (len(curves) + 2) + "|")
    for index, steps in enumerate(options.steps):
        row = [curve[index] for curve in curves.values()]
        gain = ""
        if index > 0:
            gain = f"{statistics.median(curve[index] - curve[index - 1] for curve in curves.values()):+.2f}"
        print(f"| {steps:,} | " + " | ".join(f"{psnr:.2f}" for psnr in row) + f" | {gain} |")


def _curve(capture: str, options: Options) -> list[float]:
    """PSNR in dB of the held-out views for each number of steps."""
    path, _, downscale = capture.partition(":")
    data = nfc_gs.DataConfig(downscale=downscale or "1")
    psnrs = []
    for steps in options.steps:
        with tempfile.TemporaryDirectory() as folder:
            config = nfc_gs.TrainConfig(steps=steps, seed=options.seed)
            result = nfc_gs.train(path, config, out=Path(folder) / "run", data=data)
        if result.metrics is None or result.metrics.psnr is None:
            raise UserError(f"{path} has no held-out views; give captures that have some.")
        psnrs.append(result.metrics.psnr)
        print(
            f"{capture}: {steps:,} steps, {result.trainer.seconds:.0f} s: {psnrs[-1]:.2f} dB "
            f"with {result.model.sizes()['gaussians']:,} Gaussians",
            flush=True,
        )
    return psnrs
