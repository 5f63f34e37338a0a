"""`bench.py cpu`: the CPU core: throughput against a plain blending loop, training steps, where a step's time goes.

python tools/bench/bench.py cpu --capture FOLDER
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread

import torch
from measuring import CountingBackend, Samples, console, make_table, make_trainer, milliseconds, seconds_of, with_points

from nfc_gs.core.camera import Camera
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.objective.objective import Objective
from nfc_gs.objective.terms import Comparison
from nfc_gs.ops import native
from nfc_gs.ops.operations import operations_for
from nfc_gs.rendering.pipeline import render

CEILING_SPLATS = 2000
"""Splats that the blending loop lays over one tile of 16 x 16 pixels."""

CORE_STAGES = ("project", "bin", "raster", "loss", "raster_backward", "project_backward", "adam", "noise")


@dataclass(frozen=True)
class Options:
    """The CPU core: throughput against a plain blending loop, training steps, where a step's time goes."""

    capture: Path | None = None
    """A capture to measure on; by default the built-in one."""
    gaussians: tuple[int, ...] = (0, 50_000)
    """Sizes of the model; 0 means the capture's own points."""
    threads: tuple[int, ...] = (1, 2)
    """Thread counts to compare."""
    rounds: int = 7
    """How often everything is measured in turn; medians are shown."""
    steps: int = 20
    """Training steps (one view each) per round."""
    reference: bool = True
    """Also time the torch reference (seconds per step)."""


class TrainingSetup:
    """A model and a trainer on a scene, and the parts of a training step on its views, each to be timed on its own."""

    def __init__(self, scene: SceneData, gaussians: int, folder: Path) -> None:
        self.scene, self.backend = with_points(scene, gaussians), CountingBackend()
        self.trainer = make_trainer(self.scene, folder)
        self.model = GaussianModel.from_points(self.scene.points, sh_degree=3)
        self.objective = Objective(operations=operations_for("cpu"))
        views = [scene.train[7 * i % len(scene.train)] for i in range(len(scene.train))]
        self.views = [(scene.camera(i), torch.from_numpy(scene.image(i).rgb)) for i in views]

    def view(self, i: int) -> tuple[Camera, torch.Tensor]:
        return self.views[i % len(self.views)]

    def forward(self, i: int) -> None:
        with torch.no_grad():
            render(self.model, self.view(i)[0], backend=self.backend)

    def forward_backward(self, i: int) -> None:
        out = render(self.model, self.view(i)[0], backend=self.backend)
        for param in self.model.parameters():
            param.grad = None
        torch.autograd.backward(out.rgb, torch.ones_like(out.rgb))

    def reference(self, i: int) -> None:
        camera, target = self.view(i)
        out = render(self.model, camera, backend="torch")
        Objective()(Comparison(out, target)).total.backward()

    def compiled(self, i: int) -> None:
        camera, target = self.view(i)
        out = render(self.model, camera, backend=self.backend)
        self.objective(Comparison(out, target)).total.backward()


def ceiling(threads: int) -> float:
    """Pixel-Gaussian pairs per second of the plain blending loop, run by that many independent threads at once.

    The second thread of a small machine often shares a core with the first: this is the most that it can add.
    """
    repeats = 100
    loops = [Thread(target=native.core().blend_ceiling, args=(CEILING_SPLATS, repeats)) for _ in range(threads)]
    start = time.perf_counter()
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    return 256 * CEILING_SPLATS * repeats * threads / (time.perf_counter() - start)


def measure_round(setup: TrainingSetup, steps: int, threads: int, samples: Samples) -> None:
    """One round at one thread count: ceiling, forward, forward + backward, training steps, in turn."""
    native.set_threads(threads)
    core = native.core()
    samples.add("ceiling", ceiling(threads))
    for name, piece in (("forward", setup.forward), ("both", setup.forward_backward)):
        seconds, pairs = 0.0, 0
        before = core.stage_seconds()
        for i in range(steps):
            seconds += seconds_of(partial(piece, i))
            pairs += setup.backend.pairs
        after = core.stage_seconds()
        samples.add(name, pairs / seconds)
        samples.add(f"{name}_seconds", seconds / steps)
        samples.add("pairs", pairs / steps)
        if name == "forward":
            samples.add("raster_pairs", pairs / (after["raster"] - before["raster"]))
    before = core.stage_seconds()
    seconds = seconds_of(lambda: [setup.trainer.step() for _ in range(steps)])
    after = core.stage_seconds()
    samples.add("step", seconds / steps)
    inside = 0.0
    for stage in CORE_STAGES:
        samples.add(stage, (after[stage] - before[stage]) / steps)
        inside += (after[stage] - before[stage]) / steps
    samples.add("python", seconds / steps - inside)


def print_table(
    scene: SceneData, size: int, by_threads: dict[int, Samples], reference: tuple[float, float] | None
) -> None:
    """Print the medians of one model size."""
    camera = scene.camera(scene.train[0])
    pairs = next(iter(by_threads.values())).median("pairs")
    heads = ("", *(f"{threads} thread{'s' if threads > 1 else ''}" for threads in by_threads))
    title = f"{size} Gaussians, {camera.width} x {camera.height}, {pairs / 1e6:.2f} M pairs per image"
    table = make_table(title, heads)

    def row(title: str, text: Callable[[Samples, int], str]) -> None:
        table.add_row(title, *(text(samples, threads) for threads, samples in by_threads.items()))

    row("blending loop, G pairs/s", lambda s, t: f"{s.median('ceiling') / 1e9:.2f}")
    row("rasterizer alone, G pairs/s", lambda s, t: f"{s.median('raster_pairs') / 1e9:.2f}")
    row("  of the ceiling", lambda s, t: f"{s.median('raster_pairs') / s.median('ceiling'):.0%}")
    row("forward, G pairs/s", lambda s, t: f"{s.median('forward') / 1e9:.2f}")
    row("  of the ceiling", lambda s, t: f"{s.median('forward') / s.median('ceiling'):.0%}")
    row("forward + backward, G pairs/s", lambda s, t: f"{s.median('both') / 1e9:.2f}")
    row("backward / forward", lambda s, t: f"{s.median('both_seconds') / s.median('forward_seconds') - 1:.2f}")
    row("training steps per second", lambda s, t: f"{1 / s.median('step'):.1f}")
    row("training step, ms", lambda s, t: milliseconds(s, "step"))
    for stage in (*CORE_STAGES, "python"):

        def share(samples: Samples, threads: int, stage: str = stage) -> str:
            return f"{milliseconds(samples, stage)} ({samples.median(stage) / samples.median('step'):.0%})"

        row(f"  {stage}", share)
    first = next(iter(by_threads))
    row(
        f"step, speed-up over {first} thread", lambda s, t: f"{by_threads[first].median('step') / s.median('step'):.2f}"
    )
    if reference is not None:
        table.add_row("torch reference / this, render + loss + gradients", f"{reference[0] / reference[1]:.0f} x")
        table.add_row("  torch reference, ms", f"{1e3 * reference[0]:.0f}")
    console.print(table)


def time_reference(setup: TrainingSetup) -> tuple[float, float]:
    """Seconds of render + loss + gradients by the torch reference and by the core, in turn; medians of three views."""
    seconds = []
    for i in range(3):
        seconds.append((seconds_of(partial(setup.reference, i)), seconds_of(partial(setup.compiled, i))))
    return statistics.median(s[0] for s in seconds), statistics.median(s[1] for s in seconds)


def run(args: Options) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        capture = args.capture or write_capture(Path(folder) / "capture")
        scene = load_scene(capture, DataConfig())
        kernels = native.core().instruction_set()
        console.print(f"{capture.name}: {len(scene.views)} views; kernels: {kernels}; torch {torch.__version__}")
        for size in args.gaussians:
            setup = TrainingSetup(scene, size, Path(folder) / f"run{size}")
            by_threads = {threads: Samples() for threads in args.threads}
            with one_torch_thread():
                for i in range(3):
                    setup.compiled(i)
                    setup.trainer.step()
                for _ in range(args.rounds):
                    for threads, samples in by_threads.items():
                        measure_round(setup, args.steps, threads, samples)
            print_table(scene, len(setup.model), by_threads, time_reference(setup) if args.reference else None)
