"""`bench.py gpu`: the backend `cuda` beside gsplat, bits beside direct colors, and kernels beside their lower bounds.

It needs a GPU, a torch for CUDA, and gsplat with its kernels, without which ours are
measured alone. What is compiled at first use is compiled before anything is measured.

    python tools/bench/bench.py gpu --garden test_garden.npz --json gpu.json
    python tools/bench/bench.py gpu --run runs/garden --sizes 1920 1080

Another gsplat (its main branch, say) is measured by another run in the same hour, beside ours again; its kernels, if
compiled at first use, need a folder of their own, since those of all versions are built under one name:

    pip install --no-deps --no-build-isolation --target gsplat-main git+https://github.com/nerfstudio-project/gsplat
    export PYTHONPATH=gsplat-main TORCH_EXTENSIONS_DIR=gsplat-main/build
    python tools/bench/bench.py gpu ... --json gpu-main.json

On a machine with a GPU, in this order:

    python tools/bench/bench.py gpu --short --train fox         # eight minutes: the first of all that follows
    nfc-gs info --devices                                       # are the GPU, its driver and NVRTC found?
    python tools/bench/gpu_sanitize.py                          # does every kernel run, and are its results finite?
    python -c "import gsplat.cuda._backend"                     # compiles gsplat's kernels
    python -m pytest -m "gpu and not slow" -rs tests/test_gpu.py tests/test_render_backends.py \\
        tests/test_render_bits.py tests/test_render_normals.py tests/test_render_parts.py tests/test_cuda_training.py
    python tools/bench/bench.py gpu --garden test_garden.npz --train fox --json gpu.json    # minutes; less: --rounds 5
    python -m pytest -m "gpu and slow" -rs tests/test_gpu.py    # compute-sanitizer; does it train as well as the CPU?

Open questions for a GPU:

- The step of Adam in the backward pass (`project_splats_backward_adam`; `--train` uses it) against the separate kernel:
  time of both at a million Gaussians, and whether splats and gradients agree within rounding (`gpu_sanitize.py`,
  `nfc-gs info --devices`). With bits a thread moves a row of its own, and its memory is read in parts of lines.
- What the wait for the number of entries costs (`_entries` in `cuda_backend.py`), in a trace of a training.

`tools/bench/README.md` says what to carry to a machine without a network, and how.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import gpu_short
import torch
from gpu_bounds import DeviceTimer, Rates, measure_rates
from gpu_kernels import kernel_table, profile
from gpu_scenes import BenchScene, read_garden, run_scene, synthetic_cameras, synthetic_points, tiled_scene
from gpu_variants import (
    STAGES,
    BenchView,
    CudaTimer,
    GpuLostError,
    Measurements,
    Variant,
    compare,
    gsplat_variant,
    our_variant,
    print_skipped,
)
from measuring import check_counts, console, make_table, median_and_quartiles
from rich.table import Table

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write, make_folder
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import PointCloud, SceneData
from nfc_gs.objective.objective import ObjectiveConfig
from nfc_gs.objective.presets import METHODS
from nfc_gs.ops.nvrtc import CudaRuntime, Runtime
from nfc_gs.rendering.backend import RasterBackend
from nfc_gs.rendering.cuda_backend import CudaBackend
from nfc_gs.rendering.registry import get_backend
from nfc_gs.training.config import TrainConfig
from nfc_gs.training.trainer import Trainer

Part = Literal["compare", "bits", "kernels"]
Peer = Literal["gsplat", "gsplat packed", "backend gsplat"]

OURS, DIRECT, SHARED = "ours", "nfr (SH)", "nfc-te, shared view"

BIT_AIMS = {"step": 1.02, "rendering": 1.00}
"""Time of bits (shared view) over that of direct colors is to be at most this."""

PICTURES_AIM = 300.0
"""Pictures per second of a million Gaussians at 1920 x 1080 are to be at least this."""

PEER_AIM, MEMORY_AIM = 1.5, 1.0
"""gsplat's time forward and backward over ours is to be at least this, and our memory over its at most this."""

TRAINING_AIM = 60.0
"""Seconds of a training on fox, a small capture, are to be at most this."""


@dataclass(frozen=True)
class Options:
    """What the backend `cuda` does on a GPU: beside gsplat, bits beside direct colors, and kernel by kernel.

    All variants have the same Gaussians, which stay as they are (learning rates of 1e-12), and see the same views;
    the loss is the same code for all. Ratios are taken within each round; medians and quartiles are shown.
    """

    short: bool = False
    """What is to be known of a GPU at first contact: self-test, tests, memcheck, ours beside gsplat, a training, and
    bits, each in a process with a limit of time. Of the other options it takes --budget, --garden, --train and
    --json, whose files (gpu-short.json if not given, and the same name with .txt) are written after each part."""
    budget: float = 480.0
    """Seconds that --short may take; later parts get what is left, or are not run."""
    garden: Path | None = None
    """gsplat's test scene, its file assets/test_garden.npz, to be tiled."""
    synthetic: bool = False
    """Tile synthetic points instead, which need no file."""
    run: Path | None = None
    """A trained run, of a static scene, to measure on as well."""
    capture: Path | None = None
    """Folder of the capture of the run, if it was moved."""
    train: Path | None = None
    """A capture to train on, as `nfc-gs train` does on a GPU: seconds, and the PSNR that it ends with. built-in draws
    the built-in one."""
    train_time: str | None = None
    """The time budget of that training, as 60s; without it the training takes the number of steps of its preset."""
    parts: tuple[Part, ...] = ("compare", "bits", "kernels")
    """What to measure; bits are measured at the first of the sizes alone."""
    peers: tuple[Peer, ...] = ("gsplat", "gsplat packed")
    """What to compare with: gsplat as its users call it, the same with packed tensors, and gsplat as our backend."""
    gaussians: tuple[int, ...] = (100_000, 1_000_000, 4_000_000)
    """Numbers of Gaussians of the tiled scene."""
    sizes: tuple[tuple[int, int], ...] = ((1920, 1080), (3840, 2160))
    """Widths and heights of the pictures."""
    views: int = 3
    """Views per variant and round."""
    rounds: int = 15
    """How often everything is measured in turn."""
    json: Path | None = None
    """A JSON file of all that was measured, rewritten after each part."""


BUILT_IN = "built-in"
"""What `--train` takes for the built-in capture."""


class Record:
    """All that was measured so far, in a JSON file."""

    def __init__(self, path: Path | None, facts: dict[str, Any]) -> None:
        self.path, self.content = path, {**facts, "measured": []}
        if path is not None:
            make_folder(path.parent)
            self._write()

    def add(self, part: Part, scene: BenchScene, size: tuple[int, int], found: dict[str, Any]) -> None:
        """Add what was measured of one scene at one size."""
        where = {"part": part, "scene": scene.name, "gaussians": len(scene.model), "size": list(size)}
        self.content["measured"].append(where | {"found": found})
        self._write()

    def set(self, name: str, found: dict[str, Any]) -> None:
        """Add what belongs to no scene and size."""
        self.content[name] = found
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            with atomic_write(self.path) as temporary:
                temporary.write_text(json.dumps(self.content, indent=1) + "\n", "utf-8")


# ---- beside gsplat, and bits beside direct colors ---------------------------------------------------------------


def our_and_peer_variants(scene: BenchScene, backend: RasterBackend, peers: Sequence[Peer]) -> list[Variant]:
    """Ours, and those that it is compared with; what does not work here is skipped, with a line that says why."""
    variants = [our_variant(OURS, scene.model, backend)]
    for peer in peers:
        try:
            if peer == "backend gsplat":
                variants.append(our_variant(peer, scene.model, get_backend("gsplat")))
            else:
                variants.append(gsplat_variant(peer, scene.model, packed=peer == "gsplat packed"))
        except Exception as error:  # whatever another version of gsplat says
            print_skipped(peer, error)
    return variants


def bit_variants(scene: BenchScene, backend: RasterBackend) -> list[Variant]:
    """Direct colors by regression, and bits by classification."""
    objective = replace(ObjectiveConfig(), **METHODS["nfc-te"].weights)
    return [
        our_variant(DIRECT, scene.model, backend),
        our_variant(SHARED, scene.bits("shared"), backend, objective),
        our_variant("nfc-te, full view", scene.bits("full"), backend, objective),
    ]


def comparison_table(title: str, found: Measurements) -> Table:
    """Each stage in milliseconds, and over that of the first variant (median and quartiles of the rounds); memory."""
    first, *others = found.samples
    heads = ["", first]
    for name in others:
        heads += [name, f"/ {first}"]
    table = make_table(title, heads, caption="Memory is what comes on top of parameters and moments.")
    for stage in STAGES:
        row = [f"{stage}, ms", f"{1e3 * found.samples[first].median(stage):.3f}"]
        for name in others:
            row += [
                f"{1e3 * found.samples[name].median(stage):.3f}",
                median_and_quartiles(found.ratios(name, stage), 3),
            ]
        table.add_row(*row)
    for stage, words in (("rendering", "pictures per second"), ("step", "steps per second")):
        row = [words, f"{1 / found.samples[first].median(stage):.1f}"]
        for name in others:
            row += [f"{1 / found.samples[name].median(stage):.1f}", ""]
        table.add_row(*row)
    for stage in ("rendering", "step"):
        base = found.peaks[first][stage]
        row = [f"memory of a {stage}, MB", f"{base / 1e6:.0f}"]
        for name in others:
            own = found.peaks[name][stage]
            row += [f"{own / 1e6:.0f}", f"{own / max(base, 1):.2f}"]
        table.add_row(*row)
    row = ["mean difference of the picture", ""]
    for name in others:
        row += [f"{found.differences[name]:.1e}", ""]
    table.add_row(*row)
    return table


@dataclass(frozen=True)
class Aim:
    """A wanted value and the measured one."""

    what: str
    wanted: float
    found: float
    met: bool


def aims_of(part: Part, scene: BenchScene, size: tuple[int, int], found: Measurements) -> list[Aim]:
    """The aims that these measurements belong to."""
    where = f"{scene.name}, {size[0]} x {size[1]}"
    first, *others = found.samples
    aims = []
    if part == "compare" and first == OURS:
        if len(scene.model) == 1_000_000 and size == (1920, 1080):
            speed = 1.0 / found.samples[OURS].median("rendering")
            aims.append(Aim(f"{where}: pictures per second", PICTURES_AIM, speed, speed >= PICTURES_AIM))
        for peer in (name for name in others if name.startswith("gsplat")):
            ratio = statistics.median(found.ratios(peer, "forward", "backward"))
            aims.append(Aim(f"{where}: forward + backward, {peer} / ours", PEER_AIM, ratio, ratio >= PEER_AIM))
            ratio = found.peaks[OURS]["step"] / max(found.peaks[peer]["step"], 1)
            aims.append(Aim(f"{where}: memory of a step, ours / {peer}", MEMORY_AIM, ratio, ratio <= MEMORY_AIM))
    if part == "bits" and first == DIRECT and SHARED in found.samples:
        for stage, wanted in BIT_AIMS.items():
            ratio = statistics.median(found.ratios(SHARED, stage))
            aims.append(Aim(f"{where}: {stage}, {SHARED} / SH", wanted, ratio, ratio <= wanted))
    return aims


def aim_table(aims: Sequence[Aim]) -> Table:
    """All aims."""
    table = make_table("Aims", ("", "wanted", "found", "met"))
    for aim in aims:
        table.add_row(aim.what, f"{aim.wanted:g}", f"{aim.found:.4g}", "yes" if aim.met else "no")
    return table


# ---- everything -----------------------------------------------------------------------------------------------------


def device_facts(rates: Rates) -> dict[str, Any]:
    """The device and the versions that the numbers belong to."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "bandwidth": rates.bandwidth,
        "instructions": rates.instructions,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gsplat": gsplat_version(),
        "python": platform.python_version(),
    }


def gsplat_version() -> str | None:
    """Version and folder of the gsplat that would be measured."""
    try:
        import gsplat
    except ImportError:
        return None
    return f"{gsplat.__version__} in {Path(gsplat.__file__).parent}"


def check(args: Options) -> None:
    """Raise UserError if the options make no sense or there is no GPU."""
    if not torch.cuda.is_available():
        raise UserError(
            "bench.py gpu needs an NVIDIA GPU and a CUDA build of torch, and torch sees none; run it where one is."
        )
    if not (args.garden or args.synthetic or args.run or args.train or args.short):
        raise UserError(
            "There is nothing to measure; give --short, --garden test_garden.npz (gsplat's test scene), --synthetic, "
            "--run RUN or --train CAPTURE."
        )
    counts = [(name, getattr(args, name)) for name in ("views", "rounds", "budget")]
    counts += [("gaussians", count) for count in args.gaussians]
    counts += [("sizes", side) for size in args.sizes for side in size]
    check_counts(counts)
    for name, path in (("garden", args.garden), ("train", args.train)):
        if path is not None and not path.exists() and str(path) != BUILT_IN:
            raise UserError(f"--{name} is {path}, which is not there; give a path that is.")


@dataclass(frozen=True)
class Benchmark:
    """The device, and what was measured on it so far."""

    runtime: Runtime
    timer: DeviceTimer
    rates: Rates
    record: Record
    aims: list[Aim] = field(default_factory=list)


def measure_part(part: Part, scene: BenchScene, size: tuple[int, int], args: Options, benchmark: Benchmark) -> None:
    """Measure, print and record one part of one scene at one size."""
    cameras = scene.resized_cameras(*size, args.views)
    views = [BenchView.of(camera, benchmark.runtime.device, seed) for seed, camera in enumerate(cameras)]
    title = f"{part.capitalize()}: {scene.name}, {size[0]} x {size[1]}"
    if part == "kernels":
        kernels = profile(scene.model, views[0], benchmark.runtime, benchmark.timer, args.rounds)
        console.print(kernel_table(title, kernels, benchmark.rates))
        benchmark.record.add(part, scene, size, kernels.record(benchmark.rates))
        return
    ours = CudaBackend(benchmark.runtime)
    variants = bit_variants(scene, ours) if part == "bits" else our_and_peer_variants(scene, ours, args.peers)
    found = compare(variants, views, benchmark.timer, args.rounds)
    if found is not None:
        console.print(comparison_table(title, found))
        benchmark.record.add(part, scene, size, found.record())
        benchmark.aims.extend(aims_of(part, scene, size, found))


def measure_scene(scene: BenchScene, args: Options, benchmark: Benchmark) -> None:
    """All parts on one scene; what does not work here is skipped, with a line that says why.

    Raises:
        GpuLostError: nothing works on the GPU any more.
    """
    scene.model.to(benchmark.runtime.device)
    for size in args.sizes:
        for part in args.parts:
            if part == "bits" and size != args.sizes[0]:
                continue
            try:
                measure_part(part, scene, size, args, benchmark)
            except GpuLostError:
                raise
            except Exception as error:
                print_skipped(f"{part} of {scene.name} at {size[0]} x {size[1]}", error)


def measure_training(scene: SceneData, benchmark: Benchmark, **settings: Any) -> None:
    """Train on a capture from its points to the end; a short run before it compiles what is compiled at first use.

    Args:
        settings: of `TrainConfig`.
    """
    with tempfile.TemporaryDirectory() as folder:

        def trained(name: str, **more: Any) -> Trainer:
            config = TrainConfig(eval_every=0.0, checkpoint_every=1e9, **settings | more)
            trainer = Trainer(scene, config, Path(folder) / name, capture=scene.root)
            trainer.train()
            return trainer

        trained("warm-up", steps=20, time_budget=None)
        trainer = trained("run")
        seconds, psnr = trainer.seconds, trainer.evaluate().psnr or float("nan")
    found = {"steps": trainer.steps_done, **trainer.model.sizes(), "seconds": seconds, "psnr": psnr}
    found["steps per second"] = trainer.steps_done / seconds
    console.print(f"Training on {scene.root.name}: " + ", ".join(f"{name} {value:g}" for name, value in found.items()))
    benchmark.record.set("training", {"capture": scene.root.name} | found)
    if settings.get("time_budget") is None:
        what = f"{scene.root.name}: seconds of a training, which ends at {psnr:.2f} dB"
        benchmark.aims.append(Aim(what, TRAINING_AIM, seconds, seconds <= TRAINING_AIM))


def capture_scene(capture: Path, folder: Path) -> SceneData:
    """A capture; the built-in one is drawn in `folder`."""
    if str(capture) == BUILT_IN and not capture.exists():
        capture = write_capture(folder / BUILT_IN)
    return load_scene(capture, DataConfig())


def run_short(args: Options) -> int:
    """Run all parts of the short form; returns the exit code."""
    garden, capture = (None if path is None else path.resolve() for path in (args.garden, args.train))
    if args.train is not None and str(args.train) == BUILT_IN and not args.train.exists():
        capture = None
    json_file = args.json or Path("gpu-short.json")
    return gpu_short.run(gpu_short.Plan(json_file.resolve(), capture, garden), args.budget)


def run(args: Options) -> int:
    """Measure and print; returns the exit code."""
    check(args)
    if args.short:
        return run_short(args)
    with tempfile.TemporaryDirectory() as folder:
        scenes = [] if args.garden is None else [("garden", *read_garden(args.garden))]
        scenes += [("synthetic", synthetic_points(), synthetic_cameras())] if args.synthetic else []
        trained = None if args.run is None else run_scene(args.run, args.capture)
        capture = None if args.train is None else capture_scene(args.train, Path(folder))
        measure_all(scenes, trained, capture, args)
    return 0


def measure_all(
    scenes: Sequence[tuple[str, PointCloud, tuple[Camera, ...]]],
    trained: BenchScene | None,
    capture: SceneData | None,
    args: Options,
) -> None:
    """Measure and print.

    Args:
        scenes: name, points and cameras of each that is tiled.
        trained: a trained run.
        capture: to train on.
    """
    runtime, timer = CudaRuntime(torch.device("cuda")), CudaTimer()
    rates = measure_rates(timer)
    facts = device_facts(rates)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items() if isinstance(value, str)))
    record = Record(args.json, facts | {"arguments": {name: str(value) for name, value in asdict(args).items()}})
    benchmark = Benchmark(runtime, timer, rates, record)
    try:
        for name, points, cameras in scenes:
            for count in args.gaussians:
                measure_scene(tiled_scene(name, points, cameras, count), args, benchmark)
        if trained is not None:
            measure_scene(trained, args, benchmark)
        if capture is not None:
            measure_training(capture, benchmark, device="cuda", backend="cuda", time_budget=args.train_time)
    finally:
        if benchmark.aims:
            console.print(aim_table(benchmark.aims))
