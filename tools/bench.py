"""Benchmarks. Every claim of speed comes from here, as a ratio of things run in turn in one go.

python tools/bench.py cpu                       the CPU core on the built-in capture
python tools/bench.py cpu --capture FOLDER      ... on another capture
python tools/bench.py nfc                       what classification costs beside regression
python tools/bench.py motion                    what motion costs, in training and in playing
python tools/bench.py motion --run RUN          ... playing a trained splat, on its capture
python tools/bench.py gpu --garden NPZ          our GPU kernels beside gsplat's, and beside what bounds them
python tools/bench.py viewer                    the viewer: pictures per second, their delay, what it costs a training
"""

from __future__ import annotations

import importlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
import tyro
from bench_common import CountingBackend, Samples, console, seconds_of, still_trainer, with_points
from rich.table import Table

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData
from nfc_gs.model.init import from_points
from nfc_gs.objective.objective import Objective
from nfc_gs.objective.terms import Comparison
from nfc_gs.ops import native
from nfc_gs.ops.operations import operations_for
from nfc_gs.rendering.pipeline import render
from nfc_gs.training.config import TrainConfig
from nfc_gs.training.evaluation import peak_memory_mb
from nfc_gs.training.trainer import Trainer

CEILING_SPLATS = 2000
"""Splats that the blending loop lays over one tile of 16 x 16 pixels."""

CORE_STAGES = ("project", "bin", "raster", "loss", "raster_backward", "project_backward", "adam", "noise")


@dataclass(frozen=True)
class Cpu:
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


ARMS: dict[str, dict[str, Any]] = {
    "nfr": {"method": "nfr"},
    "nfc": {"method": "nfc"},
    "nfc-te, shared view": {"method": "nfc-te"},
    "nfc-te, full view": {"method": "nfc-te", "bit_view": "full"},
    "nfr, degree 0": {"method": "nfr", "sh_degree": 0},
    "nfc-te, degree 0": {"method": "nfc-te", "sh_degree": 0},
}
"""Settings of `TrainConfig` that `nfc` compares; the first is the baseline."""


@dataclass(frozen=True)
class Nfc:
    """What classification costs: training steps, renderings and memory of regression and classification, in turn.

    All arms have the same Gaussians, which do not move (their learning rates are next to nothing), and see the same
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
    """Training steps, and renderings, per arm and round."""
    memory: bool = True
    """Also measure peak memory, in a process of its own for each arm."""


class Work:
    """The pieces of a training step on a scene, one after the other over its training views."""

    def __init__(self, scene: SceneData, gaussians: int, folder: Path) -> None:
        self.scene, self.backend = with_points(scene, gaussians), CountingBackend()
        count = len(self.scene.points)
        config = TrainConfig(
            preset="paper", steps=1_000_000, max_gaussians=count, sh_ramp=0.0, device="cpu", init_opacity=0.1,
            init_scale=1.0, checkpoint_every=1e9, eval_every=0.0,
        )  # fmt: skip
        self.trainer = Trainer(self.scene, config, folder, capture=scene.root)
        self.model = from_points(self.scene.points, sh_degree=3)
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

    The second thread of a small machine often shares a core with the first: this says what is there to be had.
    """
    repeats = 100
    loops = [Thread(target=native.core().blend_ceiling, args=(CEILING_SPLATS, repeats)) for _ in range(threads)]
    start = time.perf_counter()
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    return 256 * CEILING_SPLATS * repeats * threads / (time.perf_counter() - start)


def measure_round(work: Work, steps: int, threads: int, samples: Samples) -> None:
    """One round at one thread count: ceiling, forward, forward + backward, training steps, in turn."""
    native.set_threads(threads)
    core = native.core()
    samples.add("ceiling", ceiling(threads))
    for name, piece in (("forward", work.forward), ("both", work.forward_backward)):
        seconds, pairs = 0.0, 0
        before = core.stage_seconds()
        for i in range(steps):
            seconds += seconds_of(partial(piece, i))
            pairs += work.backend.pairs
        after = core.stage_seconds()
        samples.add(name, pairs / seconds)
        samples.add(f"{name}_seconds", seconds / steps)
        samples.add("pairs", pairs / steps)
        if name == "forward":
            samples.add("raster_pairs", pairs / (after["raster"] - before["raster"]))
    before = core.stage_seconds()
    seconds = seconds_of(lambda: [work.trainer.step() for _ in range(steps)])
    after = core.stage_seconds()
    samples.add("step", seconds / steps)
    inside = 0.0
    for stage in CORE_STAGES:
        samples.add(stage, (after[stage] - before[stage]) / steps)
        inside += (after[stage] - before[stage]) / steps
    samples.add("python", seconds / steps - inside)


def show(scene: SceneData, size: int, by_threads: dict[int, Samples], reference: tuple[float, float] | None) -> None:
    """Print the medians of one model size."""
    camera = scene.camera(scene.train[0])
    pairs = next(iter(by_threads.values())).median("pairs")
    table = Table(title=f"{size} Gaussians, {camera.width} x {camera.height}, {pairs / 1e6:.2f} M pairs per image")
    table.add_column("")
    for threads in by_threads:
        table.add_column(f"{threads} thread{'s' if threads > 1 else ''}", justify="right")

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
    row("training step, ms", lambda s, t: f"{1e3 * s.median('step'):.2f}")
    for stage in (*CORE_STAGES, "python"):

        def share(samples: Samples, threads: int, stage: str = stage) -> str:
            return f"{1e3 * samples.median(stage):.2f} ({samples.median(stage) / samples.median('step'):.0%})"

        row(f"  {stage}", share)
    first = next(iter(by_threads))
    row(
        f"step, speed-up over {first} thread", lambda s, t: f"{by_threads[first].median('step') / s.median('step'):.2f}"
    )
    if reference is not None:
        table.add_row("torch reference / this, render + loss + gradients", f"{reference[0] / reference[1]:.0f} x")
        table.add_row("  torch reference, ms", f"{1e3 * reference[0]:.0f}")
    console.print(table)


def time_reference(work: Work) -> tuple[float, float]:
    """Seconds of render + loss + gradients by the torch reference and by the core, in turn; medians of three views."""
    seconds = []
    for i in range(3):
        seconds.append((seconds_of(partial(work.reference, i)), seconds_of(partial(work.compiled, i))))
    return statistics.median(s[0] for s in seconds), statistics.median(s[1] for s in seconds)


def run_cpu(args: Cpu) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        capture = args.capture or write_capture(Path(folder) / "capture")
        scene = load_scene(capture, DataConfig())
        kernels = native.core().instruction_set()
        console.print(f"{capture.name}: {len(scene.views)} views; kernels: {kernels}; torch {torch.__version__}")
        for size in args.gaussians:
            work = Work(scene, size, Path(folder) / f"run{size}")
            by_threads = {threads: Samples() for threads in args.threads}
            with one_torch_thread():
                for i in range(3):
                    work.compiled(i)
                    work.trainer.step()
                for _ in range(args.rounds):
                    for threads, samples in by_threads.items():
                        measure_round(work, args.steps, threads, samples)
            show(scene, len(work.model), by_threads, time_reference(work) if args.reference else None)


def measure_arms(trainers: Mapping[str, Trainer], rounds: int, steps: int) -> dict[str, Samples]:
    """Seconds of a training step and of a rendering of each arm, all arms in turn, in another order each round."""
    samples = {name: Samples() for name in trainers}
    names = list(trainers)
    for turn in range(-1, rounds):  # the first round warms up
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            trainer = trainers[name]
            scene = trainer.scene
            cameras = [scene.camera(scene.train[(turn * steps + i) % len(scene.train)]) for i in range(steps)]
            trainer.steps_done = max(0, turn) * steps  # the same views for every arm
            step = seconds_of(lambda trainer=trainer: [trainer.step() for _ in range(steps)]) / steps
            with torch.no_grad():
                drawn = seconds_of(
                    lambda model=trainer.model, cameras=cameras: [
                        render(model, camera, backend="cpu") for camera in cameras
                    ]
                )
            if turn >= 0:
                samples[name].add("step", step)
                samples[name].add("render", drawn / steps)
    return samples


def peak_memory(capture: Path, gaussians: int, arm: str) -> float:
    """The most memory, MB, that a process holds which does nothing but 20 steps of an arm."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory_here, capture, gaussians, arm).result()


def _peak_memory_here(capture: Path, gaussians: int, arm: str) -> float:
    scene = with_points(load_scene(capture, DataConfig()), gaussians)
    with tempfile.TemporaryDirectory() as folder:
        trainer = still_trainer(scene, Path(folder) / "run", ARMS[arm])
        for _ in range(20):
            trainer.step()
    status = Path("/proc/self/status")
    if status.is_file():  # Linux: what `getrusage` tells includes the process that this one was forked from
        return 1024 / 1e6 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return (peak_memory_mb() or float("nan")) * 2**20 / 1e6


def run_nfc(args: Nfc) -> None:
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
            trainers = {name: still_trainer(scene, runs / str(i), arm) for i, (name, arm) in enumerate(ARMS.items())}
            samples = measure_arms(trainers, args.rounds, args.steps)
            camera = scene.camera(scene.train[0])
            table = Table(title=f"{len(scene.points)} Gaussians, {camera.width} x {camera.height}")
            heads = ("", "step, ms", "/ nfr", "quartiles", "render, ms", "/ nfr", "quartiles", "numbers each")
            for head in heads + (("peak, MB",) if args.memory else ()):
                table.add_column(head, justify="right" if head else "left")
            base = samples[next(iter(ARMS))]
            for name, trainer in trainers.items():
                row = [name]
                for what in ("step", "render"):
                    ratios = np.divide(samples[name].values[what], base.values[what])
                    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
                    row += [f"{1e3 * samples[name].median(what):.2f}", f"{middle:.3f}", f"{low:.3f} - {high:.3f}"]
                row.append(str(sum(tensor.numel() for tensor in trainer.model.tensors().values()) // len(scene.points)))
                if args.memory:
                    row.append(f"{peak_memory(capture, size, name):.0f}")
                table.add_row(*row)
            console.print(table)


ELSEWHERE = {"motion": ("Motion", "run_motion"), "gpu": ("Gpu", "run_gpu"), "viewer": ("View", "run_viewer")}
"""Benchmarks of other files, bench_NAME.py: the class of their options and the function that takes them."""


def benchmarks(wanted: str) -> dict[str, tuple[type, Callable[[Any], None]]]:
    """Options and function of every benchmark by name.

    Args:
        wanted: the first argument; if it is the name of a benchmark, the files of others are left alone, since their
            packages may be missing: those of the viewer on a machine with a GPU, say.
    """
    found: dict[str, tuple[type, Callable[[Any], None]]] = {"cpu": (Cpu, run_cpu), "nfc": (Nfc, run_nfc)}
    named = {wanted} & {*found, *ELSEWHERE}
    for name, (options, run) in ELSEWHERE.items():
        if not named or name in named:
            module = importlib.import_module(f"bench_{name}")
            found[name] = (getattr(module, options), getattr(module, run))
    return found


def main() -> int:
    """Run the benchmark named on the command line."""
    found = benchmarks(sys.argv[1] if len(sys.argv) > 1 else "")
    options = {name: options for name, (options, _) in found.items()}
    command = tyro.extras.subcommand_cli_from_dict(options, description=__doc__)
    try:
        dict(found.values())[type(command)](command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
