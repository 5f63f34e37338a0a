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

    python -m pip install --no-build-isolation --no-deps -e .   # needs a C++ compiler
    nfc-gs info --devices                                       # are the GPU, its driver and NVRTC found?
    python tools/bench/gpu_sanitize.py                          # does every kernel run, and are its results finite?
    python -c "import gsplat.cuda._backend"                     # compiles gsplat's kernels
    python -m pytest -m "gpu and not slow" -rs tests/test_gpu.py tests/test_render_backends.py \\
        tests/test_render_bits.py tests/test_render_normals.py tests/test_render_parts.py tests/test_cuda_training.py
    python tools/bench/bench.py gpu --garden test_garden.npz --train fox --json gpu.json    # minutes; less: --rounds 5
    python -m pytest -m "gpu and slow" -rs tests/test_gpu.py    # compute-sanitizer; does it train as well as the CPU?

Without a network that machine needs wheels, fetched elsewhere by `pip download --no-deps --only-binary=:all:
--python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d wheels NAME` and installed by
`pip install --no-index --no-deps wheels/*.whl`. Beside torch with CUDA, numpy, rich, pyyaml and pytest these are: tyro,
docstring-parser and typeguard; nanobind, scikit-build-core, pathspec, cmake and ninja, which build the package;
cuda-core (1.0 or later), cuda-pathfinder and the cuda-bindings of torch's CUDA; gsplat 1.5.3, whose wheel holds the
sources of its kernels, jaxtyping and wadler-lindig. Runs, and the tests that train (tests/test_cuda_training.py, those
that are slow), take pycolmap, plyfile, pillow, scipy and safetensors, too. gsplat's kernels compile where nvcc is, in
minutes that TORCH_CUDA_ARCH_LIST=9.0 (the GPU's own capability) and MAX_JOBS shorten; the folder TORCH_EXTENSIONS_DIR
can be kept for the next time.
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

import torch
from gpu_bounds import (
    KERNEL_ARRAYS,
    DeviceTimer,
    Rates,
    TimingRuntime,
    Workload,
    array_sizes,
    count_workload,
    measure_rates,
)
from gpu_scenes import BenchScene, garden_scene, read_garden, run_scene
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
from measuring import Samples, check_counts, console, make_table, median_and_quartiles
from rich.table import Table

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write, make_folder
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData
from nfc_gs.model.gaussians import GaussianModel
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

LOSS, ADAM, REST, TOTAL = "loss", "Adam", "rest (torch, waiting for launches)", "training step"


@dataclass(frozen=True)
class Options:
    """What the backend `cuda` does on a GPU: beside gsplat, bits beside direct colors, and kernel by kernel.

    All variants have the same Gaussians, which stay as they are (learning rates of 1e-12), and see the same views;
    the loss is the same code for all. Ratios are taken within each round; medians and quartiles are shown.
    """

    garden: Path | None = None
    """gsplat's test scene, its file assets/test_garden.npz, to be tiled."""
    run: Path | None = None
    """A trained run, of a static scene, to measure on as well."""
    capture: Path | None = None
    """Folder of the capture of the run, if it was moved."""
    train: Path | None = None
    """A capture to train on, as `nfc-gs train` does on a GPU: seconds, and the PSNR that it ends with."""
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


# ---- kernels --------------------------------------------------------------------------------------------------------


@dataclass
class Profile:
    """A training step, kernel by kernel.

    Attributes:
        samples: seconds by kernel, of the whole step (`TOTAL`) and of the rest of it (`REST`), by round.
        workload: what the rendering computed.
    """

    samples: Samples
    workload: Workload

    def record(self, rates: Rates) -> dict[str, Any]:
        """All of it, for JSON."""
        bounds = {
            kernel: {
                "bytes": self.workload.bytes_of(kernel),
                "pairs": self.workload.pairs_of(kernel),
                "seconds": rates.lower_bounds(self.workload, kernel),
            }
            for kernel in KERNEL_ARRAYS
        }
        return {"seconds": self.samples.values, "lower_bounds": bounds, "workload": asdict(self.workload)}


def profile(model: GaussianModel, view: BenchView, runtime: Runtime, timer: DeviceTimer, rounds: int) -> Profile:
    """Time the kernels of training steps on one view, and count the work of its rendering."""
    timing, samples = TimingRuntime(runtime, timer), Samples()
    variant = our_variant(OURS, model, CudaBackend(timing))
    with array_sizes() as sizes:
        picture = variant.forward(view)
        workload = count_workload(picture, sizes)
        torch.autograd.backward(picture, view.v_rgb)  # fills in the sizes of its arrays
    del picture
    variant.clear()
    timing.take_seconds()
    for turn in range(-1, rounds):  # the first round warms up
        start = timer.event()
        with timing.timed_sorts():
            rgb, visible = variant.rasterize(model, view)
        with timing.timed(LOSS):
            loss = variant.loss(rgb, view)
        loss.backward()
        with timing.timed(ADAM):
            variant.adam(visible)
        total = timer.seconds(start, timer.event())
        variant.clear()
        found = timing.take_seconds()
        found |= {REST: total - sum(found.values()), TOTAL: total}
        for name, seconds in found.items() if turn >= 0 else ():
            samples.add(name, seconds)
    return Profile(samples, workload)


def kernel_table(title: str, found: Profile, rates: Rates) -> Table:
    """Each kernel with its two lower bounds, and the higher one as a part of its time."""
    work = found.workload
    caption = (
        f"{work.visible:,} of {work.gaussians:,} Gaussians in view, {work.drawn:,} drawn; {work.entries:,} entries, "
        f"{work.reached:,} read. Lower bounds are estimates: every array once at {rates.bandwidth / 1e9:.0f} GB/s (a "
        f"copy, measured); alpha alone at {rates.instructions / 1e12:.1f} T instructions/s (units x highest clock)."
    )
    heads = ("", "ms", "share", "MB", "at least, ms", "M pairs", "at least, ms", "of the time")
    table = make_table(title, heads, caption)
    total = found.samples.median(TOTAL)
    for name in found.samples.values:
        seconds = found.samples.median(name)
        row = [name, f"{1e3 * seconds:.3f}", f"{seconds / total:.0%}"]
        if name in KERNEL_ARRAYS:
            by_bytes, by_pairs = rates.lower_bounds(work, name)
            pairs = work.pairs_of(name)
            row += [f"{work.bytes_of(name) / 1e6:.1f}", f"{1e3 * by_bytes:.3f}"]
            row += [f"{pairs / 1e6:.1f}", f"{1e3 * by_pairs:.3f}"] if pairs else ["", ""]
            row.append(f"{max(by_bytes, by_pairs) / seconds:.0%}")
        table.add_row(*row)
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
    if args.garden is None and args.run is None and args.train is None:
        raise UserError(
            "There is nothing to measure; give --garden test_garden.npz (gsplat's test scene), --run RUN or --train "
            "CAPTURE."
        )
    counts = [(name, getattr(args, name)) for name in ("views", "rounds")]
    counts += [("gaussians", count) for count in args.gaussians]
    counts += [("sizes", side) for size in args.sizes for side in size]
    check_counts(counts)


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

        trained("warm-up", steps=20)
        trainer = trained("run")
        seconds, psnr = trainer.seconds, trainer.evaluate().psnr or float("nan")
    found = {"steps": trainer.steps_done, **trainer.model.sizes(), "seconds": seconds, "psnr": psnr}
    console.print(f"Training on {scene.root.name}: " + ", ".join(f"{name} {value:g}" for name, value in found.items()))
    benchmark.record.set("training", {"capture": scene.root.name} | found)
    what = f"{scene.root.name}: seconds of a training, which ends at {psnr:.2f} dB"
    benchmark.aims.append(Aim(what, TRAINING_AIM, seconds, seconds <= TRAINING_AIM))


def run(args: Options) -> None:
    """Measure and print."""
    check(args)
    garden = None if args.garden is None else read_garden(args.garden)
    trained = None if args.run is None else run_scene(args.run, args.capture)
    capture = None if args.train is None else load_scene(args.train, DataConfig())
    runtime, timer = CudaRuntime(torch.device("cuda")), CudaTimer()
    rates = measure_rates(timer)
    facts = device_facts(rates)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items() if isinstance(value, str)))
    record = Record(args.json, facts | {"arguments": {name: str(value) for name, value in asdict(args).items()}})
    benchmark = Benchmark(runtime, timer, rates, record)
    try:
        if garden is not None:
            points, cameras = garden
            for count in args.gaussians:
                measure_scene(garden_scene(points, cameras, count), args, benchmark)
        if trained is not None:
            measure_scene(trained, args, benchmark)
        if capture is not None:
            measure_training(capture, benchmark, device="cuda", backend="cuda")
    finally:
        if benchmark.aims:
            console.print(aim_table(benchmark.aims))
