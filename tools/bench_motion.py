"""`bench.py motion`: a training step of what moves by part, the look-up in planes, and playing."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from bench_common import CountingBackend, Samples, console, seconds_of, still_trainer, with_points
from rich.table import Table
from torch import Tensor

from nfc_gs.commands.render import Shot, sized
from nfc_gs.commands.runs import OpenRun, open_run
from nfc_gs.core.errors import UserError
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.data.builtin.captures import write_moving_capture
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import PointCloud, SceneData
from nfc_gs.model.deformation import Deformation
from nfc_gs.model.gate import GatedDeformation, gated
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.hexplane import HexPlane, hexplane_features, hexplane_features_reference, is_time_plane
from nfc_gs.model.init import from_points
from nfc_gs.ops import native
from nfc_gs.ops.operations import operations_for
from nfc_gs.rendering.cpu_backend import CpuBackend
from nfc_gs.rendering.pipeline import render
from nfc_gs.training import deformation as motion
from nfc_gs.training.config import DeformationConfig, TrainConfig, resolve
from nfc_gs.training.density_ops import morton_order
from nfc_gs.training.trainer import Trainer

Part = Literal["step", "order", "look-up", "play"]

STILL = DeformationConfig(
    warmup=0, open_until=0.0, mean_until=0.0, rate=1e-12, rate_final=1e-12, plane_rate=1e-12, plane_rate_final=1e-12
)
"""Training that moves from its first step, of all times, and leaves the field as it is."""

ARMS: dict[str, dict[str, Any]] = {"static": {"motion": "none"}, "moving": {"motion": "hexplane", "deformation": STILL}}
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

REGULARISERS, FIELD_ADAM, ADAM = "regularisers of the planes", "Adam of the field", "Adam of the Gaussians"
REST = "the rest (autograd, Python)"

LOOK_UP_PARTS = ("forward", "backward", "together")

LOOK_UP_POINTS = 10_000
"""Few points are looked up several times per round, until they are so many."""


@dataclass(frozen=True)
class Motion:
    """What motion costs: a training step by part, the look-up in planes, and pictures per second of playing.

    "order": steps whose Gaussians are in any order, and with neighbours side by side, as density control puts them.

    The Gaussians and their field do not learn (their rates are next to nothing); the field is one of random planes and
    of small motion. Ratios are taken within each round and their median is shown, with quartiles.
    """

    run: Path | None = None
    """A trained moving splat to play, as it is and with a gate for what is still; its capture serves the rest."""
    capture: Path | None = None
    """A capture with times to measure on, or where the run's lies now; by default the built-in moving one."""
    parts: tuple[Part, ...] = ("step", "order", "look-up", "play")
    """What to measure."""
    gaussians: tuple[int, ...] = (5_000, 50_000)
    """Sizes of the model of which a training step is taken apart; 0 means the capture's own points."""
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
    """Training steps per arm and round."""
    frames: int = 12
    """Pictures per size and round; in the course of them the camera visits the training views, and time passes."""


@contextmanager
def watched(seconds: dict[str, float], part: str, owner: object, name: str) -> Iterator[None]:
    """Add the time of every call of `owner.name` to a part, as long as the block lasts."""
    function = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - start
        return result

    with patch.object(owner, name, timed):
        yield


def ratio(over: Samples, under: Samples, name: str) -> str:
    """Median and quartiles of the ratios within the rounds."""
    low, middle, high = np.quantile(np.divide(over.values[name], under.values[name]), (0.25, 0.5, 0.75))
    return f"{middle:.2f} ({low:.2f} - {high:.2f})"


def ms(samples: Samples, name: str) -> str:
    """The median in milliseconds."""
    return f"{1e3 * samples.median(name):.2f}"


@torch.no_grad()
def stir(field: Deformation | None) -> None:
    """Give a new field planes that differ along time, and a last layer that moves everything a little."""
    assert isinstance(field, HexPlane)
    generator = torch.Generator().manual_seed(0)
    for index, plane in enumerate(field.planes):
        if is_time_plane(index):
            plane.uniform_(0.8, 1.2, generator=generator)
    for layers in field.networks.values():
        list(layers.parameters())[-2].uniform_(-0.01, 0.01, generator=generator)


def moving_model(scene: SceneData, gaussians: int) -> GaussianModel:
    """That many Gaussians at and around the capture's points, with a field of small motion that moves all of them."""
    scene = with_points(scene, gaussians)
    model = from_points(scene.points)
    model.deformation = motion.new_deformation(resolve(TrainConfig(motion="hexplane", device="cpu")), scene)
    stir(model.deformation)
    return model


def measure_steps(trainer: Trainer, steps: int, samples: Samples) -> None:
    """Seconds of a training step and of its parts, of so many steps."""
    core = native.core()
    parts: dict[str, float] = {REGULARISERS: 0.0, FIELD_ADAM: 0.0, ADAM: 0.0}
    with ExitStack() as watches:
        watches.enter_context(watched(parts, REGULARISERS, motion, "regulariser_gradients_"))
        watches.enter_context(watched(parts, ADAM, trainer.optimizer, "step"))
        if trainer.motion is not None:
            watches.enter_context(watched(parts, FIELD_ADAM, trainer.motion.optimizer, "step"))
        before = core.stage_seconds()
        seconds = seconds_of(lambda: [trainer.step() for _ in range(steps)])
        after = core.stage_seconds()
    parts |= {part: sum(after[stage] - before[stage] for stage in stages) for part, stages in STAGES.items()}
    parts[REST] = seconds - sum(parts.values())
    for part, spent in (parts | {"step": seconds}).items():
        samples.add(part, spent / steps)


def compare_steps(scene: SceneData, args: Motion, folder: Path) -> None:
    """Measure steps of the static and the moving splat in turn, on the same views, and print them by part."""
    trainers = {name: still_trainer(scene, folder / name, arm) for name, arm in ARMS.items()}
    stir(trainers["moving"].model.deformation)
    samples = {name: Samples() for name in trainers}
    for turn in range(-1, args.rounds):  # the first round warms up
        for name in sorted(trainers, reverse=turn % 2 == 0):
            trainers[name].steps_done = max(0, turn) * args.steps
            measure_steps(trainers[name], args.steps, samples[name] if turn >= 0 else Samples())

    still, moving = samples["static"], samples["moving"]
    camera = scene.camera(scene.train[0])
    table = Table(title=f"A training step: {len(scene.points)} Gaussians, {camera.width} x {camera.height}")
    for head in ("", "static, ms", "moving, ms", "of the step", "moving / static"):
        table.add_column(head, justify="right" if head else "left")
    table.add_row("step", ms(still, "step"), ms(moving, "step"), "", ratio(moving, still, "step"))
    for part in (*STAGES, REGULARISERS, FIELD_ADAM, ADAM, REST):
        share = f"{moving.median(part) / moving.median('step'):.0%}"
        static, beside = (ms(still, part), ratio(moving, still, part)) if still.median(part) > 0.0 else ("", "")
        table.add_row(f"  {part}", static, ms(moving, part), share, beside)
    console.print(table)


def compare_orders(scene: SceneData, args: Motion, folder: Path) -> None:
    """Measure steps with the Gaussians in any order and in that of Morton in turn, and print them."""
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(len(scene.points)))
    orders = {"any order": shuffled, "neighbours": morton_order(torch.from_numpy(scene.points.xyz))}
    trainers: dict[tuple[str, str], Trainer] = {}
    for name, rows in orders.items():
        points = PointCloud(scene.points.xyz[rows], scene.points.rgb[rows])
        for arm, settings in ARMS.items():
            trainers[arm, name] = still_trainer(replace(scene, points=points), folder / f"{arm} {name}", settings)
            if arm == "moving":
                stir(trainers[arm, name].model.deformation)
    samples = {key: Samples() for key in trainers}
    for turn in range(-1, args.rounds):  # the first round warms up
        for key in sorted(trainers, reverse=turn % 2 == 0):
            trainers[key].steps_done = max(0, turn) * args.steps
            measure_steps(trainers[key], args.steps, samples[key] if turn >= 0 else Samples())

    table = Table(title=f"A training step of {len(scene.points)} Gaussians by their order")
    for head in ("", "any order, ms", "neighbours, ms", "any order / neighbours"):
        table.add_column(head, justify="right" if head else "left")
    for arm in ARMS:
        first, second = (samples[arm, name] for name in orders)
        for part in ("step", *(part for part in STAGES if second.median(part) > 0.0)):
            row = f"{arm}: {part}" if part == "step" else f"  {part}"
            table.add_row(row, ms(first, part), ms(second, part), ratio(first, second, part))
    console.print(table)


LookUp = Callable[[Sequence[Tensor], Tensor, float], Tensor]


def measure_look_up(
    look_up: LookUp, planes: Sequence[Tensor], coords: Tensor, moments: Sequence[float], samples: Samples
) -> None:
    """Mean seconds of looking up points at some moments, -1..1, and of the gradients with respect to planes and points,
    apart and together."""
    forward = backward = 0.0
    for moment in moments:
        start = time.perf_counter()
        out = look_up(planes, coords, moment)
        forward += time.perf_counter() - start
        gradient = torch.ones_like(out)
        start = time.perf_counter()
        torch.autograd.grad(out, [coords, *planes], gradient)
        backward += time.perf_counter() - start
    for part, spent in zip(LOOK_UP_PARTS, (forward, backward, forward + backward), strict=True):
        samples.add(part, spent / len(moments))


def compare_look_ups(scene: SceneData, args: Motion, torch_threads: int) -> None:
    """Measure the compiled look-up and the torch reference in turn, on the same planes and points, and print them."""
    model = moving_model(scene, max(args.points, default=1))
    field = model.deformation
    assert isinstance(field, HexPlane)
    planes, everywhere = list(field.planes), field.normalized(model.means.detach())
    look_up_compiled = partial(hexplane_features, operations=operations_for("cpu"))
    arms: dict[str, tuple[LookUp, int]] = {"compiled": (look_up_compiled, 1)}
    arms["1 thread"] = (hexplane_features_reference, 1)
    if torch_threads > 1:
        arms[f"{torch_threads} threads"] = (hexplane_features_reference, torch_threads)

    numbers = f"{len(planes)} planes of {sum(plane.numel() for plane in planes):,} numbers"
    table = Table(title=f"Look-up in {numbers}: compiled, {args.threads} threads, and the torch reference")
    table.add_column("points", justify="right")
    table.add_column("")
    for name in arms:
        for head in (f"{name}, ms",) if name == "compiled" else (f"{name}, ms", "/ compiled"):
            table.add_column(head, justify="right")
    for count in args.points:
        coords = everywhere[:count].clone().requires_grad_()
        samples = {name: Samples() for name in arms}
        moments = np.linspace(-0.9, 0.9, 1 + LOOK_UP_POINTS // count).tolist()
        for turn in range(-1, args.rounds):  # the first round warms up
            for name, (look_up, threads) in sorted(arms.items(), reverse=turn % 2 == 0):
                torch.set_num_threads(threads)
                measure_look_up(look_up, planes, coords, moments, samples[name] if turn >= 0 else Samples())
        compiled, *references = samples.values()
        for part in LOOK_UP_PARTS:
            row = [str(count) if part == LOOK_UP_PARTS[0] else "", part, ms(compiled, part)]
            for reference in references:
                row += [ms(reference, part), ratio(reference, compiled, part)]
            table.add_row(*row)
    torch.set_num_threads(1)
    console.print(table)


def draw(model: GaussianModel, shots: Sequence[Shot], backend: CpuBackend) -> None:
    """Draw a film and keep nothing of it."""
    for camera, moment in shots:
        render(model, camera, moment, backend=backend)


def pairs_of(model: GaussianModel, shots: Sequence[Shot]) -> float:
    """Mean pixel-Gaussian pairs of a picture."""
    backend, pairs = CountingBackend(), 0
    for shot in shots:
        draw(model, [shot], backend)
        pairs += backend.pairs
    return pairs / len(shots)


def measure_playing(model: GaussianModel, shots: Sequence[Shot], backend: CpuBackend, samples: Samples) -> None:
    """Seconds of a picture and of its parts."""
    parts: dict[str, float] = {}
    with watched(parts, "field", model, "posed"), watched(parts, "rasterizer", backend, "render"):
        seconds = seconds_of(lambda: draw(model, shots, backend))
    for part, spent in (parts | {"picture": seconds, "rest": seconds - sum(parts.values())}).items():
        samples.add(part, spent / len(shots))


@torch.no_grad()
def compare_playing(scene: SceneData, models: Mapping[str, GaussianModel], args: Motion) -> None:
    """Play the models in turn at all sizes and print how fast they are."""
    views = [scene.train[i] for i in np.linspace(0, len(scene.train) - 1, args.frames).astype(int)]
    times = np.linspace(0.0, 1.0, args.frames).tolist()
    backend = CpuBackend()
    table = Table(title=f"Playing {len(next(iter(models.values())))} Gaussians")
    for head in ("", "M pairs", "pictures/s", "picture, ms", "field, ms", "rasterizer, ms", "rest, ms"):
        table.add_column(head, justify="right" if head else "left")
    for width, height in args.sizes:
        cameras = [sized(scene.views[i].camera, width, height) for i in views]
        shots: list[Shot] = list(zip(cameras, times, strict=True))
        pairs = {name: pairs_of(model, shots) for name, model in models.items()}  # and warms up
        samples = {name: Samples() for name in models}
        for turn in range(args.rounds):
            for name in sorted(models, reverse=turn % 2 == 0):
                measure_playing(models[name], shots, backend, samples[name])
        for name, found in samples.items():
            row = [f"{width} x {height}, {name}", f"{pairs[name] / 1e6:.2f}", f"{1 / found.median('picture'):.1f}"]
            table.add_row(*row, *(ms(found, part) for part in ("picture", "field", "rasterizer", "rest")))
    console.print(table)


def models_of(run: OpenRun) -> dict[str, GaussianModel]:
    """A trained model as it is, and with a gate for what is still."""
    gate = gated(run.model)
    moving = len(gate.deformation.moving) if isinstance(gate.deformation, GatedDeformation) else 0
    return {"field on all": run.model, f"gated, {moving} move": gate}


def check(args: Motion) -> None:
    """Raise UserError if a number makes no sense."""
    counts = [(name, getattr(args, name)) for name in ("threads", "rounds", "steps", "frames", "playing")]
    counts += [("points", count) for count in args.points]
    counts += [("sizes", side) for size in args.sizes for side in size]
    for name, value in counts:
        if value < 1:
            raise UserError(f"--{name} is {value}, but must be at least 1.")
    if min(args.gaussians, default=0) < 0:
        raise UserError(f"--gaussians is {min(args.gaussians)}, but must be at least 0.")


def moving_scene(capture: Path) -> SceneData:
    """Read a capture; raises UserError if it has no times."""
    scene = load_scene(capture, DataConfig())
    if scene.time_axis is None:
        raise UserError(f"The capture {capture} has no times; give one of a moving scene.")
    return scene


def run_motion(args: Motion) -> None:
    """Measure and print."""
    check(args)
    torch_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, one_torch_thread():
        run = open_run(args.run, capture=args.capture, device="cpu", backend="cpu") if args.run is not None else None
        if run is not None and run.model.deformation is None:
            raise UserError(f"{args.run} is a static splat; give the run of a moving one.")
        if run is not None:
            scene = run.scene
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
            models = models_of(run) if run is not None else {"field on all": moving_model(scene, args.playing)}
            compare_playing(scene, models, args)
