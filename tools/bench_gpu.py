"""`bench.py gpu`: the backend `cuda` beside gsplat, bits beside direct colors, and kernels beside what bounds them.

It takes a GPU, the extra `cuda` (pip install "nfc-gs[cuda]"), and gsplat with its kernels, without which ours are
measured alone. What is compiled at first use is compiled before anything is measured.

    python tools/bench.py gpu --garden test_garden.npz --json gpu.json
    python tools/bench.py gpu --run runs/garden --sizes 1920 1080

Another gsplat (its main branch, say) is measured by another run in the same hour, beside ours again; its kernels, if
compiled at first use, need a folder of their own, since those of all versions are built under one name:

    pip install --no-deps --no-build-isolation --target gsplat-main git+https://github.com/nerfstudio-project/gsplat
    PYTHONPATH=gsplat-main TORCH_EXTENSIONS_DIR=gsplat-main/build python tools/bench.py gpu ... --json gpu-main.json

The day a GPU is there, in this order:

    python -m pip install --no-build-isolation --no-deps -e .   # needs a C++ compiler
    nfc-gs info --devices                                       # are the GPU, its driver and NVRTC found?
    python tools/gpu_sanitize.py                                # does every kernel run, and are its results finite?
    python -c "import gsplat.cuda._backend"                     # compiles gsplat's kernels
    python -m pytest -m "gpu and not slow" -rs tests/test_gpu.py tests/test_render_backends.py \\
        tests/test_render_bits.py tests/test_cuda_training.py
    python tools/bench.py gpu --garden test_garden.npz --train fox --json gpu.json  # minutes; a first look: --rounds 5
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from bench_common import Samples, console
from gpu_arms import PIECES, Arm, Comparison, GpuLostError, GpuMeter, Shot, compare, gsplat_arm, left_out, our_arm
from gpu_floors import TOUCHED, Meter, Rates, TimingRuntime, Work, array_sizes, count_work, rates_here
from gpu_scenes import BenchScene, garden_scene, read_garden, run_scene
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
from nfc_gs.rendering.backend import RasterBackend, get_backend
from nfc_gs.rendering.cuda_backend import CudaBackend
from nfc_gs.training.config import TrainConfig
from nfc_gs.training.trainer import Trainer

Part = Literal["compare", "bits", "kernels"]
Peer = Literal["gsplat", "gsplat packed", "backend gsplat"]

OURS, DIRECT, SHARED = "ours", "nfr (SH)", "nfc-te, shared view"

BIT_AIMS = {"step": 1.02, "rendering": 1.00}
"""Time of bits (shared view) over that of direct colors is to be no more than this."""

PICTURES_AIM = 300.0
"""Pictures per second of a million Gaussians at 1920 x 1080 are to be no fewer."""

PEER_AIM, MEMORY_AIM = 1.5, 1.0
"""gsplat's time forward and backward over ours is to be no less, and our memory over its no more."""

TRAINING_AIM = 60.0
"""Seconds of a training on fox, a small capture, are to be no more."""

LOSS, ADAM, REST, TOTAL = "loss", "Adam", "rest (torch, waiting for launches)", "training step"


@dataclass(frozen=True)
class Gpu:
    """What the backend `cuda` does on a GPU: beside gsplat, bits beside direct colors, and kernel by kernel.

    All arms have the same Gaussians, which do not move (their learning rates are next to nothing), and see the same
    views; the loss is the same code for all. Ratios are taken within each round; medians and quartiles are shown.
    """

    garden: Path | None = None
    """gsplat's test scene, its file assets/test_garden.npz, to be tiled."""
    run: Path | None = None
    """A trained run, of a static scene, to measure on beside it."""
    capture: Path | None = None
    """Where the capture of the run lies now."""
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

    def note(self, name: str, found: dict[str, Any]) -> None:
        """Add what belongs to no scene and size."""
        self.content[name] = found
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            with atomic_write(self.path) as temporary:
                temporary.write_text(json.dumps(self.content, indent=1) + "\n", "utf-8")


# ---- beside gsplat, and bits beside direct colors ---------------------------------------------------------------


def our_and_peer_arms(scene: BenchScene, backend: RasterBackend, peers: Sequence[Peer]) -> list[Arm]:
    """Our arm, and those that it is compared with; what does not work here is left out, with a line that says why."""
    arms = [our_arm(OURS, scene.model, backend)]
    for peer in peers:
        try:
            if peer == "backend gsplat":
                arms.append(our_arm(peer, scene.model, get_backend("gsplat")))
            else:
                arms.append(gsplat_arm(peer, scene.model, packed=peer == "gsplat packed"))
        except Exception as error:  # whatever another version of gsplat says
            left_out(peer, error)
    return arms


def bit_arms(scene: BenchScene, backend: RasterBackend) -> list[Arm]:
    """Direct colors by regression, and bits by classification."""
    objective = ObjectiveConfig(**METHODS["nfc-te"].weights)
    return [
        our_arm(DIRECT, scene.model, backend),
        our_arm(SHARED, scene.bits("shared"), backend, objective),
        our_arm("nfc-te, full view", scene.bits("full"), backend, objective),
    ]


def quartiles(ratios: Sequence[float]) -> str:
    """Median and quartiles."""
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return f"{middle:.3f} ({low:.3f} - {high:.3f})"


def comparison_table(title: str, comparison: Comparison) -> Table:
    """Each piece in milliseconds, and over that of the first arm (median and quartiles of the rounds); memory."""
    first, *others = comparison.samples
    table = Table(title=title, caption="Memory is what comes on top of parameters and moments.")
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


@dataclass(frozen=True)
class Aim:
    """What was wanted and what was measured."""

    what: str
    wanted: float
    found: float
    met: bool


def aims_of(part: Part, scene: BenchScene, size: tuple[int, int], found: Comparison) -> list[Aim]:
    """What a comparison says of our aims."""
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
        for piece, wanted in BIT_AIMS.items():
            ratio = statistics.median(found.ratios(SHARED, piece))
            aims.append(Aim(f"{where}: {piece}, {SHARED} / SH", wanted, ratio, ratio <= wanted))
    return aims


def aim_table(aims: Sequence[Aim]) -> Table:
    """All aims."""
    table = Table(title="Aims")
    for head in ("", "wanted", "found", "met"):
        table.add_column(head, justify="right" if head else "left")
    for aim in aims:
        table.add_row(aim.what, f"{aim.wanted:g}", f"{aim.found:.4g}", "yes" if aim.met else "no")
    return table


# ---- kernels --------------------------------------------------------------------------------------------------------


@dataclass
class Profile:
    """A training step, kernel by kernel.

    Attributes:
        samples: seconds by kernel, of all of it (`TOTAL`) and of what lies between (`REST`), by round.
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
    """Time the kernels of training steps on one view, and count the work of its rendering."""
    timing, samples = TimingRuntime(runtime, meter), Samples()
    arm = our_arm(OURS, model, CudaBackend(timing))
    with array_sizes() as sizes:
        picture = arm.forward(shot)
        work = count_work(picture, sizes)
        torch.autograd.backward(picture, shot.v_rgb)  # fills in the sizes of its arrays
    del picture
    arm.clear()
    timing.take()
    for turn in range(-1, rounds):  # the first round warms up
        start = meter.mark()
        with timing.sorts():
            rgb, visible = arm.draw(model, shot)
        with timing.noted(LOSS):
            loss = arm.loss(rgb, shot)
        loss.backward()
        with timing.noted(ADAM):
            arm.adam(visible)
        total = meter.seconds(start, meter.mark())
        arm.clear()
        found = timing.take()
        found |= {REST: total - sum(found.values()), TOTAL: total}
        for name, seconds in found.items() if turn >= 0 else ():
            samples.add(name, seconds)
    return Profile(samples, work)


def kernel_table(title: str, found: Profile, rates: Rates) -> Table:
    """Each kernel beside its two floors, and the higher one as a part of its time."""
    work = found.work
    caption = (
        f"{work.visible:,} of {work.gaussians:,} Gaussians in view, {work.drawn:,} drawn; {work.entries:,} entries, "
        f"{work.reached:,} looked at. Floors are estimates: every array once at {rates.bandwidth / 1e9:.0f} GB/s (a "
        f"copy, measured); alpha alone at {rates.instructions / 1e12:.1f} T instructions/s (units x highest clock)."
    )
    table = Table(title=title, caption=caption)
    table.add_column("")
    for head in ("ms", "share", "MB", "at least, ms", "M pairs", "at least, ms", "of the time"):
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
    if args.garden is None and args.run is None and args.train is None:
        raise UserError(
            "There is nothing to measure; give --garden test_garden.npz (gsplat's test scene), --run RUN or --train "
            "CAPTURE."
        )
    counts = [(name, getattr(args, name)) for name in ("views", "rounds")]
    counts += [("gaussians", count) for count in args.gaussians]
    counts += [("sizes", side) for size in args.sizes for side in size]
    for name, value in counts:
        if value < 1:
            raise UserError(f"--{name} is {value}, but must be at least 1.")


@dataclass(frozen=True)
class Place:
    """Where things are measured, what with, and what came out."""

    runtime: Runtime
    meter: Meter
    rates: Rates
    record: Record
    aims: list[Aim] = field(default_factory=list)


def measure_part(part: Part, scene: BenchScene, size: tuple[int, int], args: Gpu, place: Place) -> None:
    """Measure, print and record one part of one scene at one size."""
    views = scene.views(*size, args.views)
    shots = [Shot.of(view, place.runtime.device, seed) for seed, view in enumerate(views)]
    title = f"{part.capitalize()}: {scene.name}, {size[0]} x {size[1]}"
    if part == "kernels":
        kernels = profile(scene.model, shots[0], place.runtime, place.meter, args.rounds)
        console.print(kernel_table(title, kernels, place.rates))
        place.record.add(part, scene, size, kernels.record(place.rates))
        return
    ours = CudaBackend(place.runtime)
    arms = bit_arms(scene, ours) if part == "bits" else our_and_peer_arms(scene, ours, args.peers)
    found = compare(arms, shots, place.meter, args.rounds)
    if found is not None:
        console.print(comparison_table(title, found))
        place.record.add(part, scene, size, found.record())
        place.aims.extend(aims_of(part, scene, size, found))


def measure_scene(scene: BenchScene, args: Gpu, place: Place) -> None:
    """All parts on one scene; what does not work here is left out with a line that says why.

    Raises:
        GpuLostError: nothing works on the GPU any more.
    """
    scene.model.to(place.runtime.device)
    for size in args.sizes:
        for part in args.parts:
            if part == "bits" and size != args.sizes[0]:
                continue
            try:
                measure_part(part, scene, size, args, place)
            except GpuLostError:
                raise
            except Exception as error:
                left_out(f"{part} of {scene.name} at {size[0]} x {size[1]}", error)


def measure_training(scene: SceneData, place: Place, **settings: Any) -> None:
    """Train on a capture from its points to the end; what is compiled at first use is compiled by a short run before.

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
    found = {"steps": trainer.steps_done, "gaussians": len(trainer.model), "seconds": seconds, "psnr": psnr}
    console.print(f"Training on {scene.root.name}: " + ", ".join(f"{name} {value:g}" for name, value in found.items()))
    place.record.note("training", {"capture": scene.root.name} | found)
    what = f"{scene.root.name}: seconds of a training, which ends at {psnr:.2f} dB"
    place.aims.append(Aim(what, TRAINING_AIM, seconds, seconds <= TRAINING_AIM))


def run_gpu(args: Gpu) -> None:
    """Measure and print."""
    check(args)
    garden = None if args.garden is None else read_garden(args.garden)
    trained = None if args.run is None else run_scene(args.run, args.capture)
    capture = None if args.train is None else load_scene(args.train, DataConfig())
    runtime, meter = CudaRuntime(), GpuMeter()
    rates = rates_here(meter)
    facts = facts_here(rates)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items() if isinstance(value, str)))
    record = Record(args.json, facts | {"arguments": {name: str(value) for name, value in asdict(args).items()}})
    place = Place(runtime, meter, rates, record)
    try:
        if garden is not None:
            points, cameras = garden
            for count in args.gaussians:
                measure_scene(garden_scene(points, cameras, count), args, place)
        if trained is not None:
            measure_scene(trained, args, place)
        if capture is not None:
            measure_training(capture, place, device="cuda", backend="cuda")
    finally:
        if place.aims:
            console.print(aim_table(place.aims))
