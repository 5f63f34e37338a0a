"""`bench.py motion`: what motion costs: a training step by part, the look-up in planes, and playing.

python tools/bench/bench.py motion
python tools/bench/bench.py motion --run RUN --parts play
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from unittest.mock import patch

import numpy as np
import torch
from measuring import (
    CountingBackend,
    Samples,
    check_counts,
    console,
    frozen_trainer,
    go_to_step,
    in_turn,
    make_table,
    median_and_quartiles,
    milliseconds,
    seconds_of,
    with_points,
)
from torch import Tensor

from nfc_gs.commands.render import sized
from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.data.builtin.captures import write_moving_capture
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import PointCloud, SceneData
from nfc_gs.model.gate import GatedDeformation, gated
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.hexplane import HexPlane, hexplane_features, hexplane_features_reference, is_time_plane
from nfc_gs.model.radiance import RadianceModel
from nfc_gs.ops import native
from nfc_gs.ops.operations import operations_for
from nfc_gs.rendering.cpu_backend import CpuBackend
from nfc_gs.rendering.pipeline import render
from nfc_gs.runs.opening import open_run
from nfc_gs.training import deformation as motion
from nfc_gs.training.config import DeformationConfig, TrainConfig
from nfc_gs.training.density_ops import morton_order
from nfc_gs.training.gaussians import GaussianTraining
from nfc_gs.training.resolve import resolve
from nfc_gs.training.trainer import Trainer

Part = Literal["step", "order", "look-up", "play"]

Key = TypeVar("Key")

TimedCamera = tuple[Camera, float]
"""A camera, and the time, 0..1, at which a moving scene is rendered."""

FROZEN = DeformationConfig(
    warmup=0, open_until=0.0, mean_until=0.0, rate=1e-12, rate_final=1e-12, plane_rate=1e-12, plane_rate_final=1e-12
)
"""The deformation acts from the first step and at all times, and is left as it is (learning rates of 1e-12)."""

VARIANTS: dict[str, dict[str, Any]] = {
    "static": {"motion": "none"},
    "moving": {"motion": "hexplane", "deformation": FROZEN},
}
"""Settings of `TrainConfig` whose steps are compared."""

STAGES: dict[str, tuple[str, ...]] = {
    "look-up forward": ("hexplane",),
    "network forward": ("network",),
    "rasterizer forward": ("project", "bin", "raster"),
    "loss": ("loss",),
    "rasterizer backward": ("raster_backward", "project_backward"),
    "network backward": ("network_backward",),
    "look-up backward": ("hexplane_backward",),
    "exploration noise": ("noise",),
}
"""Parts of a step that the core measures itself, and its names of them."""

REGULARISERS = "regularisers of the planes"
DEFORMATION_ADAM, ADAM = "Adam of the deformation", "Adam of the Gaussians"
REST = "the rest (autograd, Python)"

LOOK_UP_PARTS = ("forward", "backward", "together")

LOOK_UP_POINTS = 10_000
"""Few points are looked up several times per round, until they are so many."""


@dataclass(frozen=True)
class Options:
    """What motion costs: a training step by part, the look-up in planes, and pictures per second of playing.

    "order": steps whose Gaussians are in any order, and in Morton order, as density control puts them.

    The Gaussians and their deformation do not learn (learning rates of 1e-12); the deformation has random planes and
    moves all Gaussians a little. Ratios are taken within each round and their median is shown, with quartiles.
    """

    run: Path | None = None
    """A trained moving splat to play, with its deformation on all Gaussians and on those that move; the other parts are
    measured on its capture."""
    capture: Path | None = None
    """A capture with times to measure on, or where the run's lies now; by default the built-in moving one."""
    parts: tuple[Part, ...] = ("step", "order", "look-up", "play")
    """What to measure."""
    gaussians: tuple[int, ...] = (5_000, 50_000)
    """Sizes of the model whose training step is timed by part; 0 means the capture's own points."""
    points: tuple[int, ...] = (1_000, 10_000, 50_000)
    """Numbers of points to look up."""
    playing: int = 50_000
    """Gaussians to play, where no run is given."""
    sizes: tuple[tuple[int, int], ...] = ((320, 240), (640, 480))
    """Widths and heights of the pictures to play."""
    threads: int = 2
    """Number of threads of the core."""
    rounds: int = 5
    """How often everything is measured in turn."""
    steps: int = 6
    """Training steps per variant and round."""
    frames: int = 12
    """Pictures per size and round, from training views and times that are evenly spaced."""


@contextmanager
def timed_calls(seconds: dict[str, float], part: str, owner: object, name: str) -> Iterator[None]:
    """Add the time of every call of `owner.name` to `seconds[part]` while the block lasts."""
    function = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - start
        return result

    with patch.object(owner, name, timed):
        yield


def ratio(samples: Samples, base: Samples, name: str) -> str:
    """Median and quartiles of the ratios within the rounds."""
    return median_and_quartiles(samples.ratios(base, name), 2)


@torch.no_grad()
def randomise(model: RadianceModel) -> None:
    """Fill the planes along time of a new HexPlane at random, and let its networks move all Gaussians a little."""
    assert isinstance(model, GaussianModel) and isinstance(model.deformation, HexPlane)
    deformation = model.deformation
    generator = torch.Generator().manual_seed(0)
    for index, plane in enumerate(deformation.planes):
        if is_time_plane(index):
            plane.uniform_(0.8, 1.2, generator=generator)
    for layers in deformation.networks.values():
        list(layers.parameters())[-2].uniform_(-0.01, 0.01, generator=generator)


def moving_model(scene: SceneData, gaussians: int) -> GaussianModel:
    """This number of Gaussians at and around the capture's points, and a deformation that moves all a little."""
    scene = with_points(scene, gaussians)
    model = GaussianModel.from_points(scene.points)
    model.deformation = motion.new_deformation(resolve(TrainConfig(motion="hexplane", device="cpu")), scene)
    randomise(model)
    return model


def measure_steps(trainer: Trainer, steps: int, samples: Samples) -> None:
    """Mean seconds of a training step and of its parts over this number of steps."""
    core = native.core()
    parts: dict[str, float] = {REGULARISERS: 0.0, DEFORMATION_ADAM: 0.0, ADAM: 0.0}
    with ExitStack() as timers:
        timers.enter_context(timed_calls(parts, REGULARISERS, motion, "add_regulariser_gradients_"))
        assert isinstance(trainer.training, GaussianTraining)
        timers.enter_context(timed_calls(parts, ADAM, trainer.training.optimizer, "step"))
        for companion in trainer.companions:
            if isinstance(companion, motion.DeformationCompanion):
                timers.enter_context(timed_calls(parts, DEFORMATION_ADAM, companion.optimizer, "step"))
        before = core.stage_seconds()
        seconds = seconds_of(lambda: [trainer.step() for _ in range(steps)])
        after = core.stage_seconds()
    parts |= {part: sum(after[stage] - before[stage] for stage in stages) for part, stages in STAGES.items()}
    parts[REST] = seconds - sum(parts.values())
    for part, spent in (parts | {"step": seconds}).items():
        samples.add(part, spent / steps)


def measure_trainers(trainers: Mapping[Key, Trainer], args: Options, samples: Mapping[Key, Samples]) -> None:
    """Measure steps of all trainers in turn, in each round on the same views."""
    for turn, key in in_turn(trainers, args.rounds):
        go_to_step(trainers[key], max(0, turn) * args.steps)
        measure_steps(trainers[key], args.steps, samples[key] if turn >= 0 else Samples())


def compare_steps(scene: SceneData, args: Options, folder: Path) -> None:
    """Measure steps of the static and the moving splat in turn, on the same views, and print them by part."""
    trainers = {name: frozen_trainer(scene, folder / name, **settings) for name, settings in VARIANTS.items()}
    randomise(trainers["moving"].model)
    samples = {name: Samples() for name in trainers}
    measure_trainers(trainers, args, samples)
    static, moving = samples["static"], samples["moving"]
    camera = scene.camera(scene.train[0])
    title = f"A training step: {len(scene.points)} Gaussians, {camera.width} x {camera.height}"
    table = make_table(title, ("", "static, ms", "moving, ms", "of the step", "moving / static"))
    table.add_row("step", milliseconds(static, "step"), milliseconds(moving, "step"), "", ratio(moving, static, "step"))
    for part in (*STAGES, REGULARISERS, DEFORMATION_ADAM, ADAM, REST):
        share = f"{moving.median(part) / moving.median('step'):.0%}"
        both = static.median(part) > 0.0
        table.add_row(
            f"  {part}",
            milliseconds(static, part) if both else "",
            milliseconds(moving, part),
            share,
            ratio(moving, static, part) if both else "",
        )
    console.print(table)


def compare_orders(scene: SceneData, args: Options, folder: Path) -> None:
    """Measure steps with the Gaussians in any order and in Morton order in turn, and print them."""
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(len(scene.points)))
    orders = {"any order": shuffled, "neighbours": morton_order(torch.from_numpy(scene.points.xyz))}
    trainers: dict[tuple[str, str], Trainer] = {}
    for name, rows in orders.items():
        points = PointCloud(scene.points.xyz[rows], scene.points.rgb[rows])
        for variant, settings in VARIANTS.items():
            run_folder = folder / f"{variant} {name}"
            trainers[variant, name] = frozen_trainer(replace(scene, points=points), run_folder, **settings)
            if variant == "moving":
                randomise(trainers[variant, name].model)
    samples = {key: Samples() for key in trainers}
    measure_trainers(trainers, args, samples)
    title = f"A training step of {len(scene.points)} Gaussians by their order"
    table = make_table(title, ("", "any order, ms", "neighbours, ms", "any order / neighbours"))
    for variant in VARIANTS:
        first, second = (samples[variant, name] for name in orders)
        for part in ("step", *(part for part in STAGES if second.median(part) > 0.0)):
            row = f"{variant}: {part}" if part == "step" else f"  {part}"
            table.add_row(row, milliseconds(first, part), milliseconds(second, part), ratio(first, second, part))
    console.print(table)


LookUp = Callable[[Sequence[Tensor], Tensor, float], Tensor]


def measure_look_up(
    look_up: LookUp, planes: Sequence[Tensor], coords: Tensor, times: Sequence[float], samples: Samples
) -> None:
    """Mean seconds of looking up points at some times, -1..1, of the gradients with respect to planes and points, and
    of both together."""
    forward = backward = 0.0
    for look_up_time in times:
        start = time.perf_counter()
        out = look_up(planes, coords, look_up_time)
        forward += time.perf_counter() - start
        gradient = torch.ones_like(out)
        start = time.perf_counter()
        torch.autograd.grad(out, [coords, *planes], gradient)
        backward += time.perf_counter() - start
    for part, spent in zip(LOOK_UP_PARTS, (forward, backward, forward + backward), strict=True):
        samples.add(part, spent / len(times))


def compare_look_ups(scene: SceneData, args: Options, torch_threads: int) -> None:
    """Measure the compiled look-up and the torch reference in turn, on the same planes and points, and print them."""
    model = moving_model(scene, max(args.points, default=1))
    deformation = model.deformation
    assert isinstance(deformation, HexPlane)
    planes, all_coords = list(deformation.planes), deformation.normalized(model.means.detach())
    compiled = partial(hexplane_features, operations=operations_for("cpu"))
    variants: dict[str, tuple[LookUp, int]] = {"compiled": (compiled, 1), "1 thread": (hexplane_features_reference, 1)}
    if torch_threads > 1:
        variants[f"{torch_threads} threads"] = (hexplane_features_reference, torch_threads)

    numbers = f"{len(planes)} planes of {sum(plane.numel() for plane in planes):,} numbers"
    heads = ["points", "", "compiled, ms"]
    for name in list(variants)[1:]:
        heads += [f"{name}, ms", "/ compiled"]
    title = f"Look-up in {numbers}: compiled, {args.threads} threads, and the torch reference"
    table = make_table(title, heads)
    for count in args.points:
        coords = all_coords[:count].clone().requires_grad_()
        samples = {name: Samples() for name in variants}
        times = np.linspace(-0.9, 0.9, 1 + LOOK_UP_POINTS // count).tolist()
        for turn, name in in_turn(variants, args.rounds):
            look_up, threads = variants[name]
            torch.set_num_threads(threads)
            measure_look_up(look_up, planes, coords, times, samples[name] if turn >= 0 else Samples())
        compiled, *references = samples.values()
        for part in LOOK_UP_PARTS:
            row = [str(count) if part == LOOK_UP_PARTS[0] else "", part, milliseconds(compiled, part)]
            for reference in references:
                row += [milliseconds(reference, part), ratio(reference, compiled, part)]
            table.add_row(*row)
    torch.set_num_threads(1)
    console.print(table)


def play(model: GaussianModel, frames: Sequence[TimedCamera], backend: CpuBackend) -> None:
    """Render all frames and keep none of them."""
    for camera, time_ in frames:
        render(model, camera, time_, backend=backend)


def pairs_of(model: GaussianModel, frames: Sequence[TimedCamera]) -> float:
    """Mean pixel-Gaussian pairs of a picture."""
    backend, pairs = CountingBackend(), 0
    for frame in frames:
        play(model, [frame], backend)
        pairs += backend.pairs
    return pairs / len(frames)


def measure_playing(model: GaussianModel, frames: Sequence[TimedCamera], backend: CpuBackend, samples: Samples) -> None:
    """Seconds of a picture and of its parts."""
    parts: dict[str, float] = {}
    with timed_calls(parts, "deformation", model, "posed"), timed_calls(parts, "rasterizer", backend, "render"):
        seconds = seconds_of(lambda: play(model, frames, backend))
    for part, spent in (parts | {"picture": seconds, "rest": seconds - sum(parts.values())}).items():
        samples.add(part, spent / len(frames))


@torch.no_grad()
def compare_playing(scene: SceneData, models: Mapping[str, GaussianModel], args: Options) -> None:
    """Play the models in turn at all sizes and print how fast they are."""
    views = [scene.train[i] for i in np.linspace(0, len(scene.train) - 1, args.frames).astype(int)]
    times = np.linspace(0.0, 1.0, args.frames).tolist()
    backend = CpuBackend()
    heads = ("", "M pairs", "pictures/s", "picture, ms", "deformation, ms", "rasterizer, ms", "rest, ms")
    table = make_table(f"Playing {len(next(iter(models.values())))} Gaussians", heads)
    for width, height in args.sizes:
        cameras = [sized(scene.views[i].camera, width, height) for i in views]
        frames: list[TimedCamera] = list(zip(cameras, times, strict=True))
        pairs = {name: pairs_of(model, frames) for name, model in models.items()}
        samples = {name: Samples() for name in models}
        for turn, name in in_turn(models, args.rounds):
            measure_playing(models[name], frames, backend, samples[name] if turn >= 0 else Samples())
        for name, found in samples.items():
            row = [f"{width} x {height}, {name}", f"{pairs[name] / 1e6:.2f}", f"{1 / found.median('picture'):.1f}"]
            table.add_row(
                *row, *(milliseconds(found, part) for part in ("picture", "deformation", "rasterizer", "rest"))
            )
    console.print(table)


def models_of(model: GaussianModel) -> dict[str, GaussianModel]:
    """A trained model with its deformation on all Gaussians, and gated: on those that move."""
    gated_model = gated(model)
    moving = len(gated_model.deformation.moving) if isinstance(gated_model.deformation, GatedDeformation) else 0
    return {"deformation on all": model, f"gated, {moving} move": gated_model}


def check(args: Options) -> None:
    """Raise UserError if a number makes no sense."""
    counts = [(name, getattr(args, name)) for name in ("threads", "rounds", "steps", "frames", "playing")]
    counts += [("points", count) for count in args.points]
    check_counts(counts + [("sizes", side) for size in args.sizes for side in size])
    check_counts((("gaussians", count) for count in args.gaussians), least=0)


def moving_scene(capture: Path) -> SceneData:
    """Read a capture; raises UserError if it has no times."""
    scene = load_scene(capture, DataConfig())
    if scene.time_axis is None:
        raise UserError(f"The capture {capture} has no times; give one of a moving scene.")
    return scene


def run(args: Options) -> None:
    """Measure and print."""
    check(args)
    torch_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, one_torch_thread():
        model = None
        if args.run is not None:
            opened = open_run(args.run, capture=args.capture, device="cpu", backend="cpu")
            model, scene = opened.model, opened.scene
            if not isinstance(model, GaussianModel) or model.deformation is None:
                raise UserError(f"{args.run} is no moving splat; give the run of one.")
        else:
            scene = moving_scene(args.capture or write_moving_capture(Path(folder) / "capture"))
        native.set_threads(args.threads)
        kernels = native.core().instruction_set()
        console.print(f"{scene.root.name}: kernels {kernels}, {args.threads} threads, {args.rounds} rounds in turn")
        for size in args.gaussians if "step" in args.parts else ():
            compare_steps(with_points(scene, size), args, Path(folder) / f"runs{size}")
        for size in args.gaussians if "order" in args.parts else ():
            compare_orders(with_points(scene, size), args, Path(folder) / f"orders{size}")
        if "look-up" in args.parts:
            compare_look_ups(scene, args, torch_threads)
        if "play" in args.parts:
            models = (
                models_of(model) if model is not None else {"deformation on all": moving_model(scene, args.playing)}
            )
            compare_playing(scene, models, args)
