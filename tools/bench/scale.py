"""`bench.py scale`: training steps of large models on the CPU: speed, parts, memory, beside those of another checkout.

python tools/bench/bench.py scale --gaussians 50000 1000000 --sizes 800x800 1920x1080
python tools/bench/bench.py scale --against ../other-checkout
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from measuring import Samples, check_counts, console, in_turn, make_table, make_trainer, with_points

from nfc_gs.core.errors import UserError
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import PointCloud, SceneData
from nfc_gs.ops import native
from nfc_gs.training.density_ops import morton_order

CHECKOUT = Path(__file__).resolve().parents[2]

VIEWS = 12
"""Views of the built-in scene that are drawn for each size of pictures."""

WARM_UP = 3
"""Steps before the first that is measured."""


@dataclass(frozen=True)
class Options:
    """Training steps of large models on the CPU: speed, parts, memory, beside those of another checkout.

    The Gaussians are those of the built-in scene and jittered copies of them, in the order that density control leaves
    them in. Each model is trained in a process of its own. With another checkout, whose compiled core must be built,
    the two take turns, and ratios are taken within each round.
    """

    gaussians: tuple[int, ...] = (5_000, 50_000, 200_000, 1_000_000)
    """Sizes of the model."""
    sizes: tuple[str, ...] = ("480x270", "800x800", "1920x1080")
    """Sizes of the pictures, WIDTHxHEIGHT in pixels."""
    threads: int = 2
    """Threads of the core."""
    rounds: int = 5
    """How often everything is measured in turn; medians are shown."""
    seconds: float = 2.0
    """Roughly how long the steps of a round take."""
    against: Path | None = None
    """Another checkout to compare with."""


def resident_bytes() -> int:
    """The memory of this process now (Linux)."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def in_morton_order(scene: SceneData) -> SceneData:
    """The scene with its points in another order, in which neighbours follow each other."""
    order = morton_order(torch.from_numpy(scene.points.xyz)).numpy()
    return replace(scene, points=PointCloud(scene.points.xyz[order], scene.points.rgb[order]))


def answer(capture: str, gaussians: int, threads: int) -> None:
    """Train so many steps for each line of the standard input, and print what they took, as JSON."""
    native.set_threads(threads)
    scene = in_morton_order(with_points(load_scene(capture, DataConfig()), gaussians))
    with tempfile.TemporaryDirectory() as folder:
        before = resident_bytes()
        trainer = make_trainer(scene, Path(folder) / "run")
        for _ in range(WARM_UP):
            trainer.step()
        print("ready", flush=True)
        for line in sys.stdin:
            steps, stages, start = int(line), native.core().stage_seconds(), time.perf_counter()
            for _ in range(steps):
                trainer.step()
            whole = time.perf_counter() - start
            spent = {name: value - stages[name] for name, value in native.core().stage_seconds().items()}
            parts = {name: value / steps for name, value in spent.items() if value}
            parts["python"] = whole / steps - sum(parts.values())
            bytes_each = (resident_bytes() - before) / gaussians
            print(json.dumps({"step": whole / steps, "bytes": bytes_each, "parts": parts}), flush=True)


class Worker:
    """A process that trains one model with the code of a checkout."""

    def __init__(self, checkout: Path, capture: Path, gaussians: int, threads: int) -> None:
        code = f"import scale; scale.answer({str(capture)!r}, {gaussians}, {threads})"
        path = os.pathsep.join([str(checkout), str(Path(__file__).parent)])
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=checkout,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UserError("A process that was to be measured has ended; its own message is above.")
        return line

    def measure(self, steps: int) -> dict[str, Any]:
        """Train so many steps."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def end(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def workers(args: Options, capture: Path, gaussians: int) -> Iterator[dict[str, Worker]]:
    """The processes to measure, by name: this checkout, and the other if there is one."""
    checkouts = {"this": CHECKOUT} | ({"other": args.against.resolve()} if args.against else {})
    started: dict[str, Worker] = {}
    try:
        for name, checkout in checkouts.items():
            started[name] = Worker(checkout, capture, gaussians, args.threads)
        yield started
    finally:
        for worker in started.values():
            worker.end()


def measure(args: Options, capture: Path, gaussians: int) -> dict[str, Samples]:
    """Seconds of a step and of its parts, and bytes per Gaussian, by checkout."""
    with workers(args, capture, gaussians) as running:
        samples = {name: Samples() for name in running}
        steps = {name: max(1, round(args.seconds / worker.measure(2)["step"])) for name, worker in running.items()}
        for turn, name in in_turn(running, args.rounds):
            measured = running[name].measure(steps[name])
            if turn < 0:
                continue
            for key, value in {"step": measured["step"], "bytes": measured["bytes"], **measured["parts"]}.items():
                samples[name].add(key, value)
    return samples


def print_table(title: str, samples: dict[str, Samples]) -> None:
    """Print the medians of one model and size."""
    table = make_table(title, ("", *samples, *(["this / other"] if "other" in samples else [])))
    for key in dict.fromkeys(key for each in samples.values() for key in each.values):
        digits, scale = (0, 1.0) if key == "bytes" else (2, 1e3)
        cells = [f"{scale * each.median(key):.{digits}f}" if key in each.values else "-" for each in samples.values()]
        both = "other" in samples and all(key in each.values for each in samples.values())
        ratio = f"{statistics.median(samples['this'].ratios(samples['other'], key)):.3f}" if both else ""
        table.add_row("bytes per Gaussian" if key == "bytes" else f"{key}, ms", *cells, *([ratio] if ratio else []))
    console.print(table)


def run(args: Options) -> None:
    """Measure and print."""
    check_counts(
        [("threads", args.threads), ("rounds", args.rounds), *(("gaussians", count) for count in args.gaussians)]
    )
    if args.against is not None and not (args.against / "nfc_gs").is_dir():
        raise UserError(f"--against {args.against} is no checkout of this project: it has no folder nfc_gs.")
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            width, _, height = size.partition("x")
            if not (width.isdecimal() and height.isdecimal()):
                raise UserError(f"--sizes has '{size}'; write WIDTHxHEIGHT, 800x800 for example.")
            capture = write_capture(Path(folder) / size, VIEWS, int(width), int(height))
            for gaussians in args.gaussians:
                title = f"{gaussians:,} Gaussians, {size}, {args.threads} threads"
                print_table(title, measure(args, capture, gaussians))
