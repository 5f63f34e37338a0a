"""`bench.py gpu`: the backend `cuda` beside gsplat, bits beside direct colours, and kernels beside what bounds them.

It takes a GPU, the extra `cuda` (pip install "nfc-gs[cuda]"), and gsplat with its kernels, without which only our own
are measured. The first pictures of each number of channels compile, which is outside the measurements.

    python tools/bench.py gpu --garden test_garden.npz --json gpu.json
    python tools/bench.py gpu --run runs/garden --sizes 1920 1080

Another gsplat (its main branch, say) is measured by another run in the same hour, beside ours again; its kernels, if
compiled at first use, need a folder of their own, since those of all versions are built under one name:

    pip install --no-deps --no-build-isolation --target gsplat-main git+https://github.com/nerfstudio-project/gsplat
    PYTHONPATH=gsplat-main TORCH_EXTENSIONS_DIR=gsplat-main/build python tools/bench.py gpu ... --json gpu-main.json

The day a GPU is there, in this order; each line says what it proves:

    python -m pip install --no-build-isolation --no-deps -e .   # needs a C++ compiler, nanobind, scikit-build-core
    nfc-gs info --devices                                       # the GPU, its driver and NVRTC are found
    python tools/gpu_sanitize.py                                # every kernel runs once, the results are finite
    compute-sanitizer --tool memcheck --error-exitcode 1 python tools/gpu_sanitize.py
    compute-sanitizer --tool racecheck --error-exitcode 1 python tools/gpu_sanitize.py
    compute-sanitizer --tool synccheck --error-exitcode 1 python tools/gpu_sanitize.py
    python -m pytest -m "gpu and not slow"                      # all of the backend's tests, on the GPU
    python -m pytest -m gpu                                     # ... and training against the CPU's, minutes
    python tools/bench.py gpu --garden test_garden.npz --json gpu.json

Without a network the machine needs these as wheels, made elsewhere by `pip download --no-deps --only-binary=:all:
--python-version 3.12 --platform manylinux_2_28_x86_64 -d wheels NAME`: gsplat==1.5.3 (it holds the sources of its
kernels), jaxtyping and ninja for it; cuda-core and cuda-bindings of the CUDA that torch is built for; and whatever else
of the dependencies in pyproject.toml is not there. gsplat compiles where nvcc is, in minutes that
TORCH_CUDA_ARCH_LIST=9.0 (the GPU's own capability) and MAX_JOBS shorten; `python -c "import gsplat.cuda._backend"`
starts that, and the folder TORCH_EXTENSIONS_DIR can be kept for the next time.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from bench_common import Samples, console
from gpu_arms import PIECES, Arm, Comparison, GpuMeter, Shot, compare, gsplat_arm, our_arm
from gpu_floors import TOUCHED, Meter, Rates, TimingRuntime, Work, array_sizes, count_work, rates_here
from gpu_scenes import BenchScene, garden_scene, read_garden, run_scene
from rich.table import Table

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write, make_folder
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.objective.losses import ObjectiveConfig
from nfc_gs.render.cuda_backend import CudaBackend
from nfc_gs.render.cuda_runtime import CudaRuntime, Runtime
from nfc_gs.render.pipeline import render
from nfc_gs.train.methods import METHODS

Part = Literal["compare", "bits", "kernels"]
Peer = Literal["gsplat", "gsplat packed", "backend gsplat"]

PICTURES_PER_SECOND = 300.0
"""Aim for a million Gaussians at 1920 x 1080."""

BIT_STEP, BIT_RENDERING = 1.02, 1.00
"""Aims for bits (shared view): time over that of direct colours, of a training step and of a rendering."""

TOTAL, REST = "forward and backward", "the rest (other work of torch, waiting for launches)"


@dataclass(frozen=True)
class Gpu:
    """What the backend `cuda` does on a GPU: beside gsplat, bits beside direct colours, and kernel by kernel.

    All arms have the same Gaussians, which do not move (their learning rates are next to nothing), and see the same
    views; the loss is the same code for all. Ratios are taken within each round; medians and quartiles are shown.
    """

    garden: Path | None = None
    """gsplat's test scene, its file assets/test_garden.npz, to be tiled."""
    run: Path | None = None
    """A trained run, of a static scene, to measure on beside it."""
    capture: Path | None = None
    """Where the capture of the run lies now."""
    parts: tuple[Part, ...] = ("compare", "bits", "kernels")
    """What to measure; bits are measured at the first of the sizes alone."""
    peers: tuple[Peer, ...] = ("gsplat", "gsplat packed")
    """What to compare with: gsplat as its users call it, the same with packed tensors, and gsplat as our backend."""
    gaussians: tuple[int, ...] = (100_000, 1_000_000, 4_000_000)
    """Numbers of Gaussians of the tiled scene."""
    sizes: tuple[tuple[int, int], ...] = ((1920, 1080), (3840, 2160))
    """Widths and heights of the pictures."""
    views: int = 3
    """Views per arm and round."""
    rounds: int = 15
    """How often everything is measured in turn."""
    json: Path | None = None
    """A file for the record of all that was measured, written anew after each part."""


class Record:
    """All that is measured, kept in a JSON file as it grows."""

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

    def _write(self) -> None:
        if self.path is not None:
            with atomic_write(self.path) as temporary:
                temporary.write_text(json.dumps(self.content, indent=1) + "\n", "utf-8")


# ---- beside gsplat, and bits beside direct colours ---------------------------------------------------------------


def peer_arms(model: GaussianModel, peers: Sequence[Peer]) -> list[Arm]:
    """The arms that we are compared with; those that do not work here are left out, with a line that says why."""
    arms = []
    for peer in peers:
        try:
            if peer == "backend gsplat":
                arms.append(our_arm(peer, model, "gsplat"))
            else:
                arms.append(gsplat_arm(peer, model, packed=peer == "gsplat packed"))
        except UserError as error:
            console.print(f"{peer} is left out: {error}")
    return arms


def bit_arms(scene: BenchScene, device: torch.device) -> list[Arm]:
    """Direct colours by regression, and bits by classification."""
    shared, full = (scene.bits(view).to(device) for view in ("shared", "full"))
    direct, objective = copied(scene.model).to(device), ObjectiveConfig(**METHODS["nfc-te"].weights)
    return [
        our_arm("nfr (SH)", direct, "cuda"),
        our_arm("nfc-te, shared view", shared, "cuda", objective),
        our_arm("nfc-te, full view", full, "cuda", objective),
    ]


def copied(model: GaussianModel) -> GaussianModel:
    """A model of its own with the same numbers."""
    return GaussianModel({name: tensor.clone() for name, tensor in model.tensors().items()})


def quartiles(ratios: Sequence[float]) -> str:
    """Median and quartiles."""
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return f"{middle:.3f} ({low:.3f} - {high:.3f})"


def comparison_table(title: str, comparison: Comparison, caption: str) -> Table:
    """Each piece in milliseconds, and over that of the first arm; memory and pictures."""
    first, *others = comparison.samples
    table = Table(title=title, caption=caption)
    table.add_column("")
    table.add_column(first, justify="right")
    for name in others:
        table.add_column(name, justify="right")
        table.add_column(f"/ {first}", justify="right")
    for piece in PIECES:
        row = [f"{piece}, ms", f"{1e3 * comparison.samples[first].median(piece):.3f}"]
        for name in others:
            row += [f"{1e3 * comparison.samples[name].median(piece):.3f}", quartiles(comparison.ratios(name, piece))]
        table.add_row(*row)
    for piece, words in (("rendering", "pictures per second"), ("step", "steps per second")):
        row = [words, f"{1 / comparison.samples[first].median(piece):.1f}"]
        for name in others:
            row += [f"{1 / comparison.samples[name].median(piece):.1f}", ""]
        table.add_row(*row)
    for piece in ("rendering", "step"):
        base = comparison.peaks[first][piece]
        row = [f"memory of a {piece}, MB", f"{base / 1e6:.0f}"]
        for name in others:
            own = comparison.peaks[name][piece]
            row += [f"{own / 1e6:.0f}", f"{own / max(base, 1):.2f}"]
        table.add_row(*row)
    row = ["mean difference of the picture", ""]
    for name in others:
        row += [f"{comparison.differences[name]:.1e}", ""]
    table.add_row(*row)
    return table


# ---- kernels --------------------------------------------------------------------------------------------------------


@dataclass
class Profile:
    """Kernels of a rendering with gradients.

    Attributes:
        samples: seconds by kernel, of all of it (`TOTAL`) and of what lies between the kernels (`REST`), by round.
        work: what there was to do.
    """

    samples: Samples
    work: Work

    def record(self, rates: Rates) -> dict[str, Any]:
        """All of it, for JSON."""
        floors = {
            kernel: {
                "bytes": self.work.bytes_of(kernel),
                "pairs": self.work.pairs_of(kernel),
                "seconds": rates.floors(self.work, kernel),
            }
            for kernel in TOUCHED
        }
        return {"seconds": self.samples.values, "floors": floors, "work": asdict(self.work)}


def profile(model: GaussianModel, shot: Shot, runtime: Runtime, meter: Meter, rounds: int) -> Profile:
    """Time the kernels of one view, and count its work."""
    timing, samples = TimingRuntime(runtime, meter), Samples()
    backend = CudaBackend(timing)
    with array_sizes() as sizes:
        picture = render(model, shot.camera, backend=backend).rgb
        work = count_work(picture, sizes)
        torch.autograd.backward(picture, shot.v_rgb)  # fills in the sizes of its arrays
    del picture
    timing.take()
    for turn in range(-1, rounds):  # the first round warms up
        for param in model.parameters():
            param.grad = None
        start = meter.mark()
        with timing.sorts():
            torch.autograd.backward(render(model, shot.camera, backend=backend).rgb, shot.v_rgb)
        total = meter.seconds(start, meter.mark())
        found = timing.take()
        found |= {REST: total - sum(found.values()), TOTAL: total}
        for name, seconds in found.items() if turn >= 0 else ():
            samples.add(name, seconds)
    return Profile(samples, work)


def kernel_table(title: str, found: Profile, rates: Rates) -> Table:
    """Each kernel beside its two floors."""
    work = found.work
    caption = (
        f"{work.visible:,} of {work.gaussians:,} Gaussians in view, {work.drawn:,} drawn; {work.entries:,} entries, "
        f"{work.reached:,} looked at. Floors are estimates: every array once at {rates.bandwidth / 1e9:.0f} GB/s (a "
        f"copy, measured); alpha alone at {rates.instructions / 1e12:.1f} T instructions/s (units x highest clock)."
    )
    table = Table(title=title, caption=caption)
    table.add_column("")
    for head in ("ms", "share", "MB", "floor, ms", "M pairs", "floor, ms", "higher floor / time"):
        table.add_column(head, justify="right")
    total = found.samples.median(TOTAL)
    for name in found.samples.values:
        seconds = found.samples.median(name)
        row = [name, f"{1e3 * seconds:.3f}", f"{seconds / total:.0%}"]
        if name in TOUCHED:
            by_bytes, by_pairs = rates.floors(work, name)
            pairs = work.pairs_of(name)
            row += [f"{work.bytes_of(name) / 1e6:.1f}", f"{1e3 * by_bytes:.3f}"]
            row += [f"{pairs / 1e6:.1f}", f"{1e3 * by_pairs:.3f}"] if pairs else ["", ""]
            row.append(f"{max(by_bytes, by_pairs) / seconds:.0%}")
        table.add_row(*row)
    return table


# ---- everything -----------------------------------------------------------------------------------------------------


def facts_here(rates: Rates) -> dict[str, Any]:
    """What the numbers belong to."""
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
    """Of the gsplat that would be measured, and where it lies."""
    try:
        import gsplat
    except ImportError:
        return None
    return f"{gsplat.__version__} in {Path(gsplat.__file__).parent}"


def check(args: Gpu) -> None:
    """Raise UserError if the options make no sense or there is no GPU."""
    if not torch.cuda.is_available():
        raise UserError(
            "bench.py gpu needs an NVIDIA GPU and a CUDA build of torch, and torch sees none; run it where one is."
        )
    if args.garden is None and args.run is None:
        raise UserError(
            "There is nothing to measure; give --garden test_garden.npz (gsplat's test scene) or --run RUN."
        )
    counts = [(name, getattr(args, name)) for name in ("views", "rounds")]
    counts += [("gaussians", count) for count in args.gaussians]
    counts += [("sizes", side) for size in args.sizes for side in size]
    for name, value in counts:
        if value < 1:
            raise UserError(f"--{name} is {value}, but must be at least 1.")


def measure_scene(scene: BenchScene, args: Gpu, runtime: Runtime, meter: Meter, rates: Rates, record: Record) -> None:
    """All parts on one scene."""
    device = runtime.device
    for size in args.sizes:
        shots = [Shot.of(camera, device, seed) for seed, camera in enumerate(scene.views(*size, args.views))]
        title = f"{scene.name}, {size[0]} x {size[1]}"
        if "compare" in args.parts:
            model = copied(scene.model).to(device)
            found = compare([our_arm("ours", model, "cuda"), *peer_arms(model, args.peers)], shots, meter, args.rounds)
            del model
            if found is not None:
                aim = f"Aim of 1 M at 1920 x 1080: {PICTURES_PER_SECOND:.0f} pictures per second."
                console.print(comparison_table(title, found, f"{aim} Memory: beside parameters and moments."))
                record.add("compare", scene, size, found.record())
        if "bits" in args.parts and size == args.sizes[0]:
            found = compare(bit_arms(scene, device), shots, meter, args.rounds)
            if found is not None:
                aim = f"Aims of the shared view: step {BIT_STEP:.2f}, rendering {BIT_RENDERING:.2f}."
                console.print(comparison_table(f"Bits: {title}", found, aim))
                record.add("bits", scene, size, found.record())
        if "kernels" in args.parts:
            kernels = profile(copied(scene.model).to(device), shots[0], runtime, meter, args.rounds)
            console.print(kernel_table(f"Kernels: {title}", kernels, rates))
            record.add("kernels", scene, size, kernels.record(rates))


def run_gpu(args: Gpu) -> None:
    """Measure and print."""
    check(args)
    garden = None if args.garden is None else read_garden(args.garden)
    runtime, meter = CudaRuntime(), GpuMeter()
    rates = rates_here(meter)
    facts = facts_here(rates)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items() if isinstance(value, str)))
    record = Record(args.json, facts | {"arguments": {name: str(value) for name, value in asdict(args).items()}})
    if garden is not None:
        for count in args.gaussians:
            measure_scene(garden_scene(*garden, count), args, runtime, meter, rates, record)
    if args.run is not None:
        measure_scene(run_scene(args.run, args.capture), args, runtime, meter, rates, record)
