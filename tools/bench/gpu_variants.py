"""What `bench.py gpu` compares: renderers and optimizers of the same Gaussians, measured in turn on one device.

A module of `bench.py gpu`, not a command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from gpu_bounds import DeviceTimer
from measuring import Samples, console, in_turn
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.constants import BLUR, NEAR_PLANE, TILE_SIZE
from nfc_gs.core.errors import UserError
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RenderOutput
from nfc_gs.objective.objective import Objective, ObjectiveConfig
from nfc_gs.objective.terms import Comparison
from nfc_gs.ops.operations import operations_for
from nfc_gs.rendering.backend import RasterBackend
from nfc_gs.rendering.pipeline import render
from nfc_gs.rendering.registry import get_backend
from nfc_gs.training.optimizers import VisibleAdam

STAGES = ("rendering", "forward", "backward", "step")
"""What is timed: a picture without gradients; a differentiable one; its backward pass to all parameters; and a training
step of rendering, loss, backward and Adam."""

RATE = 1e-12
"""Learning rate: all the work of a step is done, and the Gaussians stay as they are."""


class CudaTimer:
    """Times with CUDA events on torch's current stream; memory is that of torch's allocator."""

    def event(self) -> torch.cuda.Event:
        """See `DeviceTimer.event`."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """See `DeviceTimer.seconds`."""
        end.synchronize()
        return 1e-3 * start.elapsed_time(end)

    def peak_bytes(self, function: Callable[[], object]) -> int:
        """See `DeviceTimer.peak_bytes`."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


@dataclass(frozen=True)
class BenchView:
    """A camera, and what rendering and training on it take, on the device.

    Attributes:
        K: [1, 3, 3] intrinsics; made once, since making them synchronises with the GPU.
        target: [H, W, 3] uint8, the photograph: noise.
        v_rgb: [H, W, 3] gradient of the loss with respect to the picture: noise.
    """

    camera: Camera
    K: Tensor
    target: Tensor
    v_rgb: Tensor

    @staticmethod
    def of(camera: Camera, device: torch.device, seed: int = 0) -> BenchView:
        """The view of a camera."""
        generator = torch.Generator().manual_seed(seed)
        shape = (camera.height, camera.width, 3)
        target = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        v_rgb = torch.randn(shape, generator=generator) / target.numel()
        camera = camera.to(device, torch.float32)
        return BenchView(camera, camera.K[None], target.to(device), v_rgb.to(device))


Rasterize = Callable[[GaussianModel, BenchView], tuple[Tensor, Tensor]]
"""From a model and a view to the picture [H, W, 3] and which Gaussians are visible [N]."""


@dataclass(frozen=True)
class Variant:
    """A renderer and an optimizer of a model, to be compared with others.

    Attributes:
        adam: steps the visible Gaussians [N] by the gradients of the model's parameters.
        objective: what a step minimises.
    """

    name: str
    model: GaussianModel
    rasterize: Rasterize
    adam: Callable[[Tensor], None]
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    @torch.no_grad()
    def rendering(self, view: BenchView) -> Tensor:
        """A picture without gradients."""
        return self.rasterize(self.model, view)[0]

    def forward(self, view: BenchView) -> Tensor:
        """A differentiable picture."""
        return self.rasterize(self.model, view)[0]

    def step(self, view: BenchView) -> None:
        """A training step."""
        rgb, visible = self.rasterize(self.model, view)
        self.loss(rgb, view).backward()
        self.adam(visible)
        self.clear()

    def loss(self, rgb: Tensor, view: BenchView) -> Tensor:
        """The objective of a picture [H, W, 3]."""
        output = RenderOutput(rgb, alpha=rgb[..., :1])  # no term reads alpha
        objective = Objective(self.objective, operations=operations_for(rgb.device))
        return objective(Comparison(output, view.target)).total

    def clear(self) -> None:
        """Delete the gradients."""
        for param in self.model.parameters():
            param.grad = None


def our_variant(
    name: str, model: GaussianModel, backend: RasterBackend, objective: ObjectiveConfig | None = None
) -> Variant:
    """One of our backends, trained with our Adam."""
    optimizer = VisibleAdam(model.tensors(), operations_for(model.device))
    rates = {name: (RATE, RATE, 3) if name == "sh_coeffs" else RATE for name in model.parameter_names}

    def rasterize(model: GaussianModel, view: BenchView) -> tuple[Tensor, Tensor]:
        out = render(model, view.camera, backend=backend)
        return out.rgb, out.info.visible

    def adam(visible: Tensor) -> None:
        optimizer.step({name: getattr(model, name).grad for name in model.parameter_names}, visible, rates)

    return Variant(name, model, rasterize, adam, objective or ObjectiveConfig())


def gsplat_variant(name: str, model: GaussianModel, packed: bool) -> Variant:
    """gsplat as its users call it: its own projection and SH, and its fused Adam of visible Gaussians.

    Raises:
        UserError: gsplat or its kernels are not available.
    """
    get_backend("gsplat")  # raises our UserError
    import gsplat
    from gsplat.optimizers import SelectiveAdam

    groups = [{"params": [param], "lr": RATE} for param in model.parameters()]
    optimizer: Any = SelectiveAdam(groups, eps=1e-15, betas=(0.9, 0.999))

    def rasterize(model: GaussianModel, view: BenchView) -> tuple[Tensor, Tensor]:
        assert model.sh_coeffs is not None
        image, _, meta = gsplat.rasterization(
            model.means,
            model.quats,
            model.log_scales.exp(),
            model.opacity_logits.sigmoid(),
            model.sh_coeffs,
            view.camera.viewmat[None],
            view.K,
            view.camera.width,
            view.camera.height,
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

    return Variant(name, model, rasterize, optimizer.step)


@dataclass
class Measurements:
    """What was measured of some variants on some views.

    Attributes:
        samples: by variant; seconds of each of `STAGES`, one entry per round.
        peaks: by variant; bytes that a rendering and a step take on top of parameters and moments.
        differences: by variant; mean absolute difference of its first picture from that of the first variant.
    """

    samples: dict[str, Samples]
    peaks: dict[str, dict[str, int]]
    differences: dict[str, float]

    def ratios(self, variant: str, *stages: str) -> list[float]:
        """Time of a variant over that of the first one, of all these stages together, round by round."""
        values = [self.samples[name].values for name in (variant, next(iter(self.samples)))]
        own, base = ([sum(round_) for round_ in zip(*(of[stage] for stage in stages), strict=True)] for of in values)
        return [seconds / other for seconds, other in zip(own, base, strict=True)]

    def record(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            name: {"seconds": samples.values, "bytes": self.peaks[name], "difference": self.differences[name]}
            for name, samples in self.samples.items()
        }


def compare(
    variants: Sequence[Variant], views: Sequence[BenchView], timer: DeviceTimer, rounds: int
) -> Measurements | None:
    """Measure all variants in turn, in another order each round, and all views in each round.

    Variants that do not work here, or need more memory than there is, are skipped, with a line that says so.

    Returns:
        None if no variant is left.

    Raises:
        GpuLostError: after one of the variants nothing works on the GPU any more.
    """
    kept = {variant.name: variant for variant in variants if _works(variant, views[0], timer)}
    if not kept:
        return None
    names = list(kept)
    first = kept[names[0]].rendering(views[0])
    measurements = Measurements(
        {name: Samples() for name in names},
        {name: _peaks(variant, views[0], timer) for name, variant in kept.items()},
        {name: float((variant.rendering(views[0]) - first).abs().mean()) for name, variant in kept.items()},
    )
    for turn, name in in_turn(names, rounds):
        found = measure(kept[name], views, timer)
        for stage, seconds in found.items() if turn >= 0 else ():
            measurements.samples[name].add(stage, seconds)
    return measurements


def _works(variant: Variant, view: BenchView, timer: DeviceTimer) -> bool:
    try:
        variant.rendering(view)
        variant.step(view)
        timer.seconds(timer.event(), timer.event())  # what fails on the GPU fails here and not in the next variant
    except Exception as error:  # other people's code, too: one variant that fails must not end the others
        variant.clear()
        print_skipped(variant.name, error)
        return False
    return True


class GpuLostError(UserError):
    """Nothing works on the GPU until the process ends, as after a wrong access of memory."""


def print_skipped(what: str, error: Exception) -> None:
    """Print that something is skipped, and why.

    Raises:
        GpuLostError: the error was one of those after which nothing works.
    """
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, torch.OutOfMemoryError):
        reason = "it needs more memory than there is"
    console.print(f"{what} is skipped: {reason}", markup=False)
    if not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        raise GpuLostError(
            f"The GPU works no more after this; what was measured is saved: run the rest without {what}."
        ) from None
    torch.cuda.empty_cache()


def _peaks(variant: Variant, view: BenchView, timer: DeviceTimer) -> dict[str, int]:
    return {
        "rendering": timer.peak_bytes(lambda: variant.rendering(view)),
        "step": timer.peak_bytes(lambda: variant.step(view)),
    }


def measure(variant: Variant, views: Sequence[BenchView], timer: DeviceTimer) -> Mapping[str, float]:
    """Mean seconds of each of `STAGES`."""
    spans: dict[str, list[tuple[Any, Any]]] = {stage: [] for stage in STAGES}
    for view in views:
        start = timer.event()
        variant.rendering(view)
        spans["rendering"].append((start, timer.event()))
    for view in views:
        start = timer.event()
        rgb = variant.forward(view)
        drawn = timer.event()
        torch.autograd.backward(rgb, view.v_rgb)
        spans["forward"].append((start, drawn))
        spans["backward"].append((drawn, timer.event()))
        variant.clear()
    for view in views:
        start = timer.event()
        variant.step(view)
        spans["step"].append((start, timer.event()))
    return {stage: sum(timer.seconds(*span) for span in pairs) / len(views) for stage, pairs in spans.items()}
