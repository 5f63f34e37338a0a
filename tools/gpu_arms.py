"""What `bench.py gpu` compares: ways to draw and train the same Gaussians, measured in turn on one device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from bench_common import Samples, console
from gpu_floors import Meter
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.constants import BLUR, NEAR_PLANE, TILE_SIZE
from nfc_gs.core.errors import UserError
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RenderOutput
from nfc_gs.objective import terms
from nfc_gs.objective.objective import Objective, ObjectiveConfig
from nfc_gs.ops.operations import operations_for
from nfc_gs.rendering.backend import RasterBackend, get_backend
from nfc_gs.rendering.pipeline import render
from nfc_gs.training.optimizers import VisibleAdam

PIECES = ("rendering", "forward", "backward", "step")
"""What is timed: a picture without gradients; one with; from its gradient to those of all parameters; and a training
step of picture, loss, backward and Adam."""

RATE = 1e-12
"""Learning rate: all the work of a step is done, and the Gaussians stay where they are."""


class GpuMeter:
    """Times with CUDA events on torch's current stream, and asks torch's allocator for memory."""

    def mark(self) -> torch.cuda.Event:
        """See `Meter.mark`."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """See `Meter.seconds`."""
        end.synchronize()
        return 1e-3 * start.elapsed_time(end)

    def peak(self, work: Callable[[], object]) -> int:
        """See `Meter.peak`."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


@dataclass(frozen=True)
class Shot:
    """A view and all that its measurements need, on the device.

    Attributes:
        K: [1, 3, 3] intrinsics; made once, since making them waits for the GPU.
        target: [H, W, 3] uint8, the picture to compare with: noise.
        v_rgb: [H, W, 3] the gradient that backward begins with: noise.
    """

    camera: Camera
    K: Tensor
    target: Tensor
    v_rgb: Tensor

    @staticmethod
    def of(camera: Camera, device: torch.device, seed: int = 0) -> Shot:
        """The shot of a camera."""
        generator = torch.Generator().manual_seed(seed)
        shape = (camera.height, camera.width, 3)
        target = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        v_rgb = torch.randn(shape, generator=generator) / target.numel()
        there = camera.to(device, torch.float32)
        return Shot(there, there.K[None], target.to(device), v_rgb.to(device))


Draw = Callable[[GaussianModel, Shot], tuple[Tensor, Tensor]]
"""A picture [H, W, 3], and which Gaussians it shows [N]."""


@dataclass(frozen=True)
class Arm:
    """A way to draw and train.

    Attributes:
        adam: moves the visible Gaussians by the gradients of the model's parameters.
        objective: what a step minimises.
    """

    name: str
    model: GaussianModel
    draw: Draw
    adam: Callable[[Tensor], None]
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    @torch.no_grad()
    def rendering(self, shot: Shot) -> Tensor:
        """A picture to look at."""
        return self.draw(self.model, shot)[0]

    def forward(self, shot: Shot) -> Tensor:
        """A picture to differentiate."""
        return self.draw(self.model, shot)[0]

    def step(self, shot: Shot) -> None:
        """A training step."""
        rgb, visible = self.draw(self.model, shot)
        self.loss(rgb, shot).backward()
        self.adam(visible)
        self.clear()

    def loss(self, rgb: Tensor, shot: Shot) -> Tensor:
        """What a step minimises, of a picture [H, W, 3]."""
        output = RenderOutput(rgb, alpha=rgb[..., :1])  # no term reads alpha
        objective = Objective(self.objective, operations=operations_for(rgb.device))
        return objective(terms.Comparison(output, shot.target)).total

    def clear(self) -> None:
        """Drop the gradients."""
        for param in self.model.parameters():
            param.grad = None


def our_arm(name: str, model: GaussianModel, backend: RasterBackend, objective: ObjectiveConfig | None = None) -> Arm:
    """A backend behind our contract, trained with our Adam."""
    optimizer = VisibleAdam(model.tensors())
    rates = {name: (RATE, RATE, 3) if name == "sh_coeffs" else RATE for name in model.parameter_names}

    def draw(model: GaussianModel, shot: Shot) -> tuple[Tensor, Tensor]:
        out = render(model, shot.camera, backend=backend)
        return out.rgb, out.info.visible

    def adam(visible: Tensor) -> None:
        optimizer.step({name: getattr(model, name).grad for name in model.parameter_names}, visible, rates)

    return Arm(name, model, draw, adam, objective or ObjectiveConfig())


def gsplat_arm(name: str, model: GaussianModel, packed: bool) -> Arm:
    """gsplat as its users call it: its own projection and SH, and its fused Adam of what is visible.

    Raises:
        UserError: gsplat or its kernels are not there.
    """
    get_backend("gsplat")  # says what is wrong, in our words
    import gsplat
    from gsplat.optimizers import SelectiveAdam

    groups = [{"params": [param], "lr": RATE} for param in model.parameters()]
    optimizer: Any = SelectiveAdam(groups, eps=1e-15, betas=(0.9, 0.999))

    def draw(model: GaussianModel, shot: Shot) -> tuple[Tensor, Tensor]:
        assert model.sh_coeffs is not None
        image, _, meta = gsplat.rasterization(
            model.means,
            model.quats,
            model.log_scales.exp(),
            model.opacity_logits.sigmoid(),
            model.sh_coeffs,
            shot.camera.viewmat[None],
            shot.K,
            shot.camera.width,
            shot.camera.height,
            near_plane=NEAR_PLANE,
            eps2d=BLUR,
            sh_degree=model.sh_degree,
            packed=packed,
            tile_size=TILE_SIZE,
        )
        if not packed:
            return image[0], (meta["radii"][0] > 0).all(-1)
        visible = torch.zeros(len(model), dtype=torch.bool, device=model.device)
        visible[meta["gaussian_ids"]] = True
        return image[0], visible

    return Arm(name, model, draw, optimizer.step)


@dataclass
class Comparison:
    """What was measured of some arms on some shots.

    Attributes:
        samples: by arm; seconds of each of `PIECES`, one entry per round.
        peaks: by arm; bytes that a rendering and a step need beside parameters and moments.
        differences: by arm; mean absolute difference of its first picture from that of the first arm.
    """

    samples: dict[str, Samples]
    peaks: dict[str, dict[str, int]]
    differences: dict[str, float]

    def ratios(self, arm: str, *pieces: str) -> list[float]:
        """Time of an arm over that of the first one, each that of all these pieces together, round by round."""
        values = [self.samples[name].values for name in (arm, next(iter(self.samples)))]
        own, base = ([sum(round_) for round_ in zip(*(of[p] for p in pieces), strict=True)] for of in values)
        return [seconds / other for seconds, other in zip(own, base, strict=True)]

    def record(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            name: {"seconds": samples.values, "bytes": self.peaks[name], "difference": self.differences[name]}
            for name, samples in self.samples.items()
        }


def compare(arms: Sequence[Arm], shots: Sequence[Shot], meter: Meter, rounds: int) -> Comparison | None:
    """Measure all arms in turn, in another order each round, and all shots in each round.

    Arms that do not work here, or need more memory than there is, are left out, with a line that says so.

    Returns:
        None if no arm is left.

    Raises:
        GpuLostError: nothing works on the GPU any more, after one of the arms.
    """
    kept = {arm.name: arm for arm in arms if _works(arm, shots[0], meter)}  # and warms up
    if not kept:
        return None
    names = list(kept)
    first = kept[names[0]].rendering(shots[0])
    comparison = Comparison(
        {name: Samples() for name in names},
        {name: _peaks(arm, shots[0], meter) for name, arm in kept.items()},
        {name: float((arm.rendering(shots[0]) - first).abs().mean()) for name, arm in kept.items()},
    )
    for turn in range(-1, rounds):  # the first round warms up
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found = measure(kept[name], shots, meter)
            for piece, seconds in found.items() if turn >= 0 else ():
                comparison.samples[name].add(piece, seconds)
    return comparison


def _works(arm: Arm, shot: Shot, meter: Meter) -> bool:
    try:
        arm.rendering(shot)
        arm.step(shot)
        meter.seconds(meter.mark(), meter.mark())  # what fails on the GPU fails here and not in the next arm
    except Exception as error:  # other people's code, too: one arm that fails must not cost all the others
        arm.clear()
        left_out(arm.name, error)
        return False
    return True


class GpuLostError(UserError):
    """Nothing works on the GPU until the process ends, as after a wrong access of memory."""


def left_out(what: str, error: Exception) -> None:
    """Say that something is left out, and why.

    Raises:
        GpuLostError: the error was one of those after which nothing works.
    """
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, torch.OutOfMemoryError):
        reason = "it needs more memory than there is"
    console.print(f"{what} is left out: {reason}", markup=False)
    if not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        raise GpuLostError(
            f"The GPU works no more after this; what was measured is kept: run the rest without {what}."
        ) from None
    torch.cuda.empty_cache()


def _peaks(arm: Arm, shot: Shot, meter: Meter) -> dict[str, int]:
    return {"rendering": meter.peak(lambda: arm.rendering(shot)), "step": meter.peak(lambda: arm.step(shot))}


def measure(arm: Arm, shots: Sequence[Shot], meter: Meter) -> Mapping[str, float]:
    """Mean seconds of each of `PIECES`."""
    spans: dict[str, list[tuple[Any, Any]]] = {piece: [] for piece in PIECES}
    for shot in shots:
        start = meter.mark()
        arm.rendering(shot)
        spans["rendering"].append((start, meter.mark()))
    for shot in shots:
        start = meter.mark()
        rgb = arm.forward(shot)
        drawn = meter.mark()
        torch.autograd.backward(rgb, shot.v_rgb)
        spans["forward"].append((start, drawn))
        spans["backward"].append((drawn, meter.mark()))
        arm.clear()
    for shot in shots:
        start = meter.mark()
        arm.step(shot)
        spans["step"].append((start, meter.mark()))
    return {piece: sum(meter.seconds(*span) for span in pairs) / len(shots) for piece, pairs in spans.items()}
