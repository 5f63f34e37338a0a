"""`bench.py nfc`: what classification costs beside regression, in training, in rendering and in memory.

python tools/bench/bench.py nfc --capture FOLDER --rounds 30
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import (
    Samples,
    console,
    frozen_trainer,
    go_to_step,
    in_turn,
    make_table,
    milliseconds,
    quartiles,
    seconds_of,
    with_points,
)

from nfc_gs.core.camera import Camera
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RadianceModel
from nfc_gs.ops import native
from nfc_gs.rendering.pipeline import render
from nfc_gs.runs.metrics import peak_memory_mb
from nfc_gs.training.trainer import Trainer

VARIANTS: dict[str, dict[str, Any]] = {
    "nfr": {"method": "nfr"},
    "nfc": {"method": "nfc"},
    "nfc-te, shared view": {"method": "nfc-te"},
    "nfc-te, full view": {"method": "nfc-te", "bit_view": "full"},
    "nfr, degree 0": {"method": "nfr", "sh_degree": 0},
    "nfc-te, degree 0": {"method": "nfc-te", "sh_degree": 0},
}
"""Settings of `TrainConfig` to compare; the first is the baseline."""


@dataclass(frozen=True)
class Options:
    """What classification costs: training steps, renderings and memory of regression and classification, in turn.

    All variants have the same Gaussians, which stay as they are (learning rates of 1e-12), and see the same
    views. Ratios are taken within each round and their median is shown.
    """

    capture: Path | None = None
    """A capture to measure on; by default the built-in one."""
    gaussians: tuple[int, ...] = (0, 50_000)
    """Sizes of the model; 0 means the capture's own points."""
    threads: int = 2
    """Number of threads."""
    rounds: int = 40
    """How often everything is measured in turn."""
    steps: int = 6
    """Training steps, and renderings, per variant and round."""
    memory: bool = True
    """Also measure peak memory, in a process of its own for each variant."""


def render_all(model: RadianceModel, cameras: Sequence[Camera]) -> None:
    """Render all cameras and keep nothing."""
    for camera in cameras:
        assert isinstance(model, GaussianModel)
        render(model, camera, backend="cpu")


def measure(trainers: Mapping[str, Trainer], rounds: int, steps: int) -> dict[str, Samples]:
    """Seconds of a training step and of a rendering of each variant, all variants in turn."""
    samples = {name: Samples() for name in trainers}
    for turn, name in in_turn(trainers, rounds):
        trainer = trainers[name]
        scene = trainer.scene
        cameras = [scene.camera(scene.train[(turn * steps + i) % len(scene.train)]) for i in range(steps)]
        go_to_step(trainer, max(0, turn) * steps)
        step = seconds_of(lambda trainer=trainer: [trainer.step() for _ in range(steps)])
        with torch.no_grad():
            rendering = seconds_of(partial(render_all, trainer.model, cameras))
        if turn >= 0:
            samples[name].add("step", step / steps)
            samples[name].add("render", rendering / steps)
    return samples


def peak_memory(capture: Path, gaussians: int, variant: str) -> float:
    """The most memory, MB, that a process holds which does nothing but 20 steps of a variant."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory_here, capture, gaussians, variant).result()


def _peak_memory_here(capture: Path, gaussians: int, variant: str) -> float:
    scene = with_points(load_scene(capture, DataConfig()), gaussians)
    with tempfile.TemporaryDirectory() as folder:
        trainer = frozen_trainer(scene, Path(folder) / "run", **VARIANTS[variant])
        for _ in range(20):
            trainer.step()
    status = Path("/proc/self/status")
    if status.is_file():  # Linux: what `getrusage` reports includes the process that this one was forked from
        return 1024 / 1e6 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return (peak_memory_mb() or float("nan")) * 2**20 / 1e6


def run(args: Options) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder, one_torch_thread():
        capture = args.capture or write_capture(Path(folder) / "capture")
        whole = load_scene(capture, DataConfig())
        native.set_threads(args.threads)
        kernels = native.core().instruction_set()
        console.print(f"{capture.name}: kernels {kernels}, {args.threads} threads, {args.rounds} rounds in turn")
        for size in args.gaussians:
            scene = with_points(whole, size)
            runs = Path(folder) / f"runs{size}"
            trainers = {
                name: frozen_trainer(scene, runs / str(i), **settings)
                for i, (name, settings) in enumerate(VARIANTS.items())
            }
            samples = measure(trainers, args.rounds, args.steps)
            camera = scene.camera(scene.train[0])
            heads = ("", "step, ms", "/ nfr", "quartiles", "render, ms", "/ nfr", "quartiles", "numbers each")
            title = f"{len(scene.points)} Gaussians, {camera.width} x {camera.height}"
            table = make_table(title, heads + (("peak, MB",) if args.memory else ()))
            base = samples[next(iter(VARIANTS))]
            for name, trainer in trainers.items():
                row = [name]
                for what in ("step", "render"):
                    low, middle, high = quartiles(samples[name].ratios(base, what))
                    row += [milliseconds(samples[name], what), f"{middle:.3f}", f"{low:.3f} - {high:.3f}"]
                row.append(
                    str(
                        sum(
                            tensor.numel()
                            for part in trainer.model.parts().values()
                            for tensor in part.tensors.values()
                        )
                        // len(scene.points)
                    )
                )
                if args.memory:
                    row.append(f"{peak_memory(capture, size, name):.0f}")
                table.add_row(*row)
            console.print(table)
