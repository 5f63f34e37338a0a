"""Training the deformation of a moving scene: when it begins, at which times views are seen, its optimizer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from nfc_gs.data.sampler import Window
from nfc_gs.data.scene import SceneData
from nfc_gs.model.deformation import Deformation, Quantity, robust_bounds
from nfc_gs.model.deformation_kinds import make_deformation
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.hexplane import HexPlane, add_plane_regulariser_gradient, choose_time_resolution, is_time_plane
from nfc_gs.model.mlp import MlpDeformation
from nfc_gs.model.radiance import Part, RadianceModel
from nfc_gs.objective.objective import ObjectiveConfig
from nfc_gs.ops.operations import REFERENCE, Operations
from nfc_gs.training.companion import Companion
from nfc_gs.training.config import ResolvedConfig
from nfc_gs.training.optimizers import DenseAdam
from nfc_gs.training.samples import Sample
from nfc_gs.training.schedules import exponential, generator_for

logger = logging.getLogger("nfc_gs")

BOUNDS_EVERY = 100
"""Steps between two checks whether the Gaussians have left the box of their deformation."""

VISIBLE_OPACITY = 0.05
"""Gaussians fainter than this are ignored where the box of a deformation is placed."""

FIRST_VIEWS = 12
"""A run of a scene with several cameras at each time begins with as many times as make so many views."""

MAX_WARMUP = 0.1
"""The fraction of a run after which deformation begins in any case: short runs have few steps."""

MSE_WEIGHT = 4.0
"""The weight of the squared error where it replaces L1 and SSIM, in multiples of theirs: the gradient of 4 e^2 is that
of |e| at an error of 1/8."""

NETWORK_STEPS = 1500.0
"""Steps after which the networks' learning rate is halved, beside its decay with progress: of long runs at the full
rate one in a few lost all deformation in a few steps, since a network's layers gave zero from then on."""

SEVERAL_CAMERAS = 3
"""Cameras at each time that are enough to reconstruct the scene at that time alone."""


def new_deformation(config: ResolvedConfig, scene: SceneData) -> Deformation | None:
    """The deformation that a run begins with; None for a static model."""
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
        times = {scene.views[i].time for i in scene.train}
        settings["time_resolution"] = choose_time_resolution(config.hexplane, len(times), len(scene.train))
    return make_deformation(settings, bounds, generator_for(config.seed, "deformation", 0)).to(config.device)


def deformation_companion(
    model: RadianceModel, scene: SceneData, config: ResolvedConfig, operations: Operations
) -> DeformationCompanion | None:
    """What trains the deformation of Gaussians; None for a static model, or one of another family."""
    if not isinstance(model, GaussianModel) or model.deformation is None:
        return None
    return DeformationCompanion(model, scene, config, operations)


class DeformationCompanion(Companion):
    """Trains the deformation of Gaussians.

    Attributes:
        deformation: what is trained.
        optimizer: of its parameters.
    """

    name: ClassVar[str] = "deformation_optimizer"

    def __init__(
        self, model: GaussianModel, scene: SceneData, config: ResolvedConfig, operations: Operations = REFERENCE
    ) -> None:
        assert model.deformation is not None
        self.deformation = model.deformation
        self._config, self._model, self._operations = config, model, operations
        self.optimizer = DenseAdam({name: p.detach() for name, p in self.deformation.named_parameters()}, operations)
        times = [time for time in (scene.views[i].time for i in scene.train) if time is not None]
        count = len(set(times))
        self._interval = 1.0 / max(1, count - 1)
        self._several_cameras = len(times) >= SEVERAL_CAMERAS * count
        distances = sorted(abs(time - 0.5) for time in times)
        self._first_reach = distances[min(FIRST_VIEWS, len(times)) - 1] + 1e-9  # times as near on the other side, too
        self._time_noise = 0.0
        if isinstance(self.deformation, MlpDeformation):
            given = config.mlp.time_noise
            self._time_noise = given if given is not None else (0.0 if scene.background is not None else 0.1)

    def active(self, step: int, progress: float) -> bool:
        """Whether the Gaussians are deformed already, after the static warm-up.

        The warm-up has a number of steps, however long the run: a few dozen tell roughly what is where, and many more
        explain what moves by a static scene, view by view. (Of 10 000 steps 3 600 were too many: nothing moved at
        all.)
        """
        return step >= self._config.deformation.warmup or progress >= MAX_WARMUP

    def time_window(self, progress: float) -> Window | None:
        """The times whose views are sampled now; None for all.

        What moves fast is at no place for long, so the median over all times, which L1 learns where nothing is deformed
        yet, has none of it, and nothing would bring it back. Where several cameras see each time a run therefore begins
        with the middle of the times alone, and the others are added one by one, starting from what has been learnt of
        their neighbours.
        """
        open_until = self._config.deformation.open_until
        if not self._several_cameras or progress >= open_until:
            return None
        reach = self._first_reach + (0.5 - self._first_reach) * progress / open_until
        return 0.5 - reach, 0.5 + reach

    def prepare(self, step: int, progress: float) -> None:
        """At the end of the warm-up, fit the box of the deformation to the Gaussians that it has found."""
        if self.active(step, progress) and self.optimizer.steps == 0:
            means = self._visible_means()
            if len(means):
                self.deformation.fit_bounds(means)

    def sample(self, sample: Sample, step: int, progress: float) -> Sample:
        """The sample at its own time, or one near it (annealed smooth training); without a time during the warm-up."""
        time = sample.time
        if time is None or not self.active(step, progress):
            return replace(sample, time=None)
        if self._time_noise == 0.0:
            return sample
        draw = torch.randn(1, generator=generator_for(self._config.seed, "time", step), dtype=torch.float64).item()
        time += self._time_noise * self._interval * (1.0 - progress) * draw
        return replace(sample, time=min(1.0, max(0.0, time)))

    def objective(self, config: ObjectiveConfig, progress: float) -> ObjectiveConfig:
        """With one camera at each time: the squared error in place of L1 and SSIM at first.

        No window of times shows the whole scene there. The optimum of the squared error is the mean over time instead
        of the median, a faint trace of all that has moved through a place, from which the deformation recovers it.
        """
        if self._several_cameras or progress >= self._config.deformation.mean_until:
            return config
        return replace(config, l1=0.0, ssim=0.0, mse=config.mse + MSE_WEIGHT * (config.l1 + config.ssim))

    def phases(self, step: int, progress: float) -> Mapping[str, Any]:
        """Whether the Gaussians are deformed, and whether views of all times are sampled."""
        return {"motion": self.active(step, progress), "all_times": self.time_window(progress) is None}

    def parameters(self) -> Mapping[str, Tensor]:
        """Those of the deformation."""
        return dict(self.deformation.named_parameters())

    def step(self, step: int, progress: float) -> None:
        """Move the parameters of the deformation once it is active, and enlarge its box where Gaussians leave it."""
        if not self.active(step, progress):
            return
        gradients = {
            name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in self.parameters().items()
        }
        if isinstance(self.deformation, HexPlane):
            add_regulariser_gradients_(self.deformation, gradients, self._operations)
        self.optimizer.step(gradients, self._rates(progress, self.optimizer.steps))
        window = self.time_window(progress)
        if window is not None and isinstance(self.deformation, HexPlane):
            self.deformation.extrapolate_constant(*window)
        means = self._visible_means() if (step + 1) % BOUNDS_EVERY == 0 else None
        if means is not None and len(means):
            self.deformation.grow_bounds(means, (self.optimizer.m, self.optimizer.v))

    def parts(self) -> dict[str, Part]:
        """Adam's moments; the deformation itself is a part of the model."""
        return {self.name: Part(self.optimizer.state(), {"steps": self.optimizer.steps})}

    def load(self, parts: Mapping[str, Part]) -> None:
        """The inverse of `parts`."""
        part = parts[self.name]
        self.optimizer.load_state(part.tensors, int(part.values["steps"]))

    def _visible_means(self) -> Tensor:
        """Means of the Gaussians that are visible; of all if none is. Faint ones drift far into empty space."""
        means, opacities = self._model.means.detach(), self._model.opacities.detach()
        finite = means.isfinite().all(dim=1)
        visible = means[finite & (opacities > VISIBLE_OPACITY)]
        return visible if len(visible) else means[finite]

    def _rates(self, progress: float, steps: int) -> dict[str, float]:
        """Learning rates after so many steps of the deformation."""
        config, factor = self._config.deformation, self._config.rate_factor
        network = exponential(config.rate, config.rate_final, progress) * factor / (1.0 + steps / NETWORK_STEPS)
        planes = exponential(config.plane_rate, config.plane_rate_final, progress) * factor
        return {name: planes if name.startswith("planes.") else network for name in self.optimizer.params}


def add_regulariser_gradients_(
    deformation: HexPlane, gradients: Mapping[str, Tensor], operations: Operations = REFERENCE
) -> None:
    """Add the gradients of a HexPlane's regularisers to those of its planes, in place.

    As in 4DGS (section 4.3 and its code), summed over planes: `tv` times twice the mean squared differences along each
    axis of the planes of space; `smoothness` times the mean squared second differences along time, and `sparsity` times
    the mean distance from 1, of the planes with time.
    """
    config = deformation.config
    for index, plane in enumerate(deformation.planes):
        rows, columns, features = plane.shape
        column_tv = row_tv = smoothness = sparsity = 0.0
        if is_time_plane(index):
            smoothness = 2.0 * config.smoothness / (max(1, rows - 2) * columns * features)
            sparsity = config.sparsity / plane.numel()
        else:  # d/dx of 2 w / n sum (x - y)^2
            column_tv = 4.0 * config.tv / (rows * (columns - 1) * features)
            row_tv = 4.0 * config.tv / ((rows - 1) * columns * features)
        weights = (column_tv, row_tv, smoothness, sparsity)
        add_plane_regulariser_gradient(plane.detach(), gradients[f"planes.{index}"], *weights, operations)


def sizes_in_words(deformation: Deformation) -> str:
    """What a deformation is: 'hexplane, 128 cells along each axis, 25 along time, 2,048,000 numbers'."""
    count = f"{sum(p.numel() for p in deformation.parameters()):,} numbers"
    if isinstance(deformation, HexPlane):
        finest = max(deformation.config.levels) * deformation.config.resolution
        return f"hexplane, {finest} cells along each axis, {deformation.time_resolution} along time, {count}"
    return f"{deformation.kind}, {count}"
