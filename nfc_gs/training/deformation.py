"""Training what moves: when it begins, at which time a view is drawn, and the steps of the deformation field."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace

import torch
from torch import Tensor

from nfc_gs.data.sampler import Window
from nfc_gs.data.scene import SceneData, View
from nfc_gs.model.deformation import Deformation, Quantity, robust_bounds
from nfc_gs.model.deformation_kinds import make_deformation
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.hexplane import (
    HexPlane,
    HexPlaneConfig,
    add_plane_regulariser_gradient,
    choose_time_resolution,
    is_time_plane,
)
from nfc_gs.model.mlp import MlpDeformation
from nfc_gs.objective.objective import ObjectiveConfig
from nfc_gs.ops.operations import Operations
from nfc_gs.training.config import ResolvedConfig
from nfc_gs.training.optimizers import DenseAdam
from nfc_gs.training.schedules import exponential, generator_for

logger = logging.getLogger("nfc_gs")

BOUNDS_EVERY = 100
"""Steps between two looks at whether the Gaussians have left the box of their field."""

SEEN_OPACITY = 0.05
"""Gaussians fainter than this have no say in where the box of a field lies."""

FIRST_VIEWS = 12
"""A run of a scene with several cameras at each time begins with as many times as make so many views."""

LONGEST_WARMUP = 0.1
"""The part of a run after which things move in any case: short ones have few steps."""

MEAN_WEIGHT = 4.0
"""The weight of the squared error where it stands for L1 and SSIM, in multiples of theirs; errors of 1/8 pull alike."""

NETWORK_STEPS = 1500.0
"""Steps after which networks learn half as fast, beside their rate's fall with progress: of long runs at full rate one
in a few lost what it had learnt of motion at once, since their layers gave zero from then on."""

SEVERAL = 3
"""Cameras at each time that are several: what a splat can be made of."""


def new_deformation(config: ResolvedConfig, scene: SceneData) -> Deformation | None:
    """The field that a run begins with; None where nothing is to move."""
    kind = config.motion
    if scene.time_axis is None and kind not in ("none", "auto"):
        logger.warning(f"The capture {scene.root} has no times: --motion {kind} is left out, and the splat is static.")
    if kind == "none" or scene.time_axis is None:
        return None
    kind = "hexplane" if kind == "auto" else kind
    quantities: list[Quantity] = ["means", "quats"]
    if config.deformation.scales:
        quantities.append("log_scales")
    if config.deformation.opacity:
        quantities.append("opacity_logits")
    if config.deformation.color:
        quantities.append("colors")
    sizes = config.hexplane if kind == "hexplane" else config.mlp
    bounds = robust_bounds(torch.from_numpy(scene.points.xyz))
    settings = {"kind": kind, "quantities": quantities, "config": asdict(sizes)}
    settings["unit"] = float((bounds[1] - bounds[0]).mean()) / 8.0
    if kind == "hexplane":
        moments = {scene.views[i].time for i in scene.train}
        settings["time_resolution"] = choose_time_resolution(config.hexplane, len(moments), len(scene.train))
    return make_deformation(settings, bounds, generator_for(config.seed, "deformation", 0)).to(config.device)


def view_time(view: View) -> float:
    """The time of a view of a moving scene, 0..1."""
    assert view.time is not None
    return view.time


def regulariser_gradients_(field: HexPlane, grads: Mapping[str, Tensor], operations: Operations) -> None:
    """Add the gradients of a HexPlane's regularisers to those of its planes, in place.

    As 4DGS has them (section 4.3 and its code), summed over planes: `tv` times twice the mean squared differences along
    each axis of the planes of space; `smoothness` times the mean squared second differences along time, and `sparsity`
    times the mean distance from 1, of the planes with time.
    """
    config = field.config
    for index, plane in enumerate(field.planes):
        rows, columns, features = plane.shape
        column_tv = row_tv = smoothness = sparsity = 0.0
        if is_time_plane(index):
            smoothness = 2.0 * config.smoothness / (max(1, rows - 2) * columns * features)
            sparsity = config.sparsity / plane.numel()
        else:  # d/dx of 2 w / n sum (x - y)^2
            column_tv = 4.0 * config.tv / (rows * (columns - 1) * features)
            row_tv = 4.0 * config.tv / ((rows - 1) * columns * features)
        weights = (column_tv, row_tv, smoothness, sparsity)
        add_plane_regulariser_gradient(plane.detach(), grads[f"planes.{index}"], *weights, operations)


class MotionTraining:
    """The part of a training that a static scene does not have.

    Attributes:
        field: what is trained.
        optimizer: of its parameters.
    """

    def __init__(self, config: ResolvedConfig, scene: SceneData, model: GaussianModel, operations: Operations) -> None:
        assert model.deformation is not None
        self.field = model.deformation
        self._operations = operations
        self._config, self._model = config, model
        self.optimizer = DenseAdam({name: p.detach() for name, p in self.field.named_parameters()}, operations)
        times = [view_time(scene.views[i]) for i in scene.train]
        moments = len(set(times))
        self._interval = 1.0 / max(1, moments - 1)
        distances = sorted(abs(time - 0.5) for time in times)
        self._several = len(times) >= SEVERAL * moments
        self._first_reach = distances[min(FIRST_VIEWS, len(times)) - 1] + 1e-9  # times as near on the other side, too
        self._noise = 0.0
        if isinstance(self.field, MlpDeformation):
            given = config.mlp.time_noise
            self._noise = given if given is not None else (0.0 if scene.background is not None else 0.1)

    def prepare(self, step: int, progress: float) -> None:
        """Called before each step: when motion begins, the field's box is put around what the warm-up has found."""
        if self.begun(step, progress) and self.optimizer.steps == 0:
            seen = self._seen_means()
            if len(seen):
                self.field.fit_bounds(seen)

    def _seen_means(self) -> Tensor:
        """Means of the Gaussians that can be seen; those of all if none can. Faint ones drift far into the empty."""
        means, opacities = self._model.means.detach(), self._model.opacities.detach()
        finite = means.isfinite().all(dim=1)
        seen = means[finite & (opacities > SEEN_OPACITY)]
        return seen if len(seen) else means[finite]

    def begun(self, step: int, progress: float) -> bool:
        """Whether the scene moves already, after the static warm-up.

        That has a number of steps, however long the run: a few dozen tell roughly what is where, and many more explain
        what moves by a still scene, each view on its own. (Of 10 000 steps 3 600 were too many: nothing moved at all.)
        """
        return step >= self._config.deformation.warmup or progress >= LONGEST_WARMUP

    def window(self, progress: float) -> Window | None:
        """The times of which views are shown now; None for all.

        What moves fast is at no place for long, so the median over all times, which L1 learns where nothing moves yet,
        has none of it, and nothing would bring it back. Where several cameras see each time a run therefore begins with
        the middle of the times alone, and the others come in one by one: what has been learnt of their neighbours is
        where they begin.
        """
        open_until = self._config.deformation.open_until
        if not self._several or progress >= open_until:
            return None
        reach = self._first_reach + (0.5 - self._first_reach) * progress / open_until
        return 0.5 - reach, 0.5 + reach

    def objective(self, objective: ObjectiveConfig, progress: float) -> ObjectiveConfig:
        """What a step minimises, of what the run minimises.

        Where one camera sees each time, no window of times shows the whole scene. There L1 and SSIM give way to the
        squared error at first: its optimum is the mean over time instead of the median, a faint trace of all that has
        moved through a place, and from that the field finds things again.
        """
        if self._several or progress >= self._config.deformation.mean_until:
            return objective
        return replace(objective, l1=0.0, ssim=0.0, mse=objective.mse + MEAN_WEIGHT * (objective.l1 + objective.ssim))

    def time_of(self, view: View, step: int, progress: float) -> float | None:
        """The time at which a training view is drawn: its own, or one near it (annealed smooth training); None before
        anything moves."""
        if view.time is None or not self.begun(step, progress):
            return None
        if self._noise == 0.0:
            return view.time
        draw = torch.randn(1, generator=generator_for(self._config.seed, "time", step), dtype=torch.float64).item()
        time = view.time + self._noise * self._interval * (1.0 - progress) * draw
        return min(1.0, max(0.0, time))

    def clear(self) -> None:
        """Forget the gradients of the step before."""
        for parameter in self.field.parameters():
            parameter.grad = None

    def step(self, step: int, progress: float) -> None:
        """Move the field's parameters after a backward pass, once the scene moves."""
        if not self.begun(step, progress):
            return
        grads = {
            name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in self.field.named_parameters()
        }
        if isinstance(self.field, HexPlane):
            regulariser_gradients_(self.field, grads, self._operations)
        self.optimizer.step(grads, self._rates(progress, self.optimizer.steps))
        window = self.window(progress)
        if window is not None and isinstance(self.field, HexPlane):
            self.field.extrapolate_constant(*window)
        seen = self._seen_means() if (step + 1) % BOUNDS_EVERY == 0 else None
        if seen is not None and len(seen):
            self.field.grow_bounds(seen, (self.optimizer.m, self.optimizer.v))

    def _rates(self, progress: float, steps: int) -> dict[str, float]:
        """Learning rates after so many steps of the field."""
        config, factor = self._config.deformation, self._config.rate_factor
        network = exponential(config.rate, config.rate_final, progress) * factor / (1.0 + steps / NETWORK_STEPS)
        planes = exponential(config.plane_rate, config.plane_rate_final, progress) * factor
        return {name: planes if name.startswith("planes.") else network for name in self.optimizer.params}


def sizes_of(field: Deformation) -> str:
    """What a field is, in words: 'hexplane, 128 cells along each axis, 25 along time, 2,048,000 numbers'."""
    count = f"{sum(p.numel() for p in field.parameters()):,} numbers"
    if isinstance(field, HexPlane):
        config: HexPlaneConfig = field.config
        finest = max(config.levels) * config.resolution
        return f"hexplane, {finest} cells along each axis, {field.time_resolution} along time, {count}"
    return f"{field.kind}, {count}"
