"""How Gaussians are trained: the order of views, learning rates, Adam, density control."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nfc_gs.data.carving import carved_points
from nfc_gs.data.sampler import Window
from nfc_gs.data.scene import PointCloud, SceneData
from nfc_gs.model.gaussians import GEOMETRY, GaussianModel
from nfc_gs.model.radiance import Output, Part, RenderOutput
from nfc_gs.ops.operations import Operations
from nfc_gs.rendering.pipeline import render
from nfc_gs.rendering.registry import get_backend
from nfc_gs.training.config import ResolvedConfig
from nfc_gs.training.deformation import new_deformation
from nfc_gs.training.density import make_density_control
from nfc_gs.training.optimizers import AdamConsumer, VisibleAdam
from nfc_gs.training.resolve import evaluation_background
from nfc_gs.training.samples import Sample, ViewSample
from nfc_gs.training.schedules import early_progress, generator_for, learning_rates, sh_degree_at
from nfc_gs.training.views import TrainingViews, on_device

logger = logging.getLogger("nfc_gs")


def new_gaussians(scene: SceneData, config: ResolvedConfig) -> GaussianModel:
    """The Gaussians that a run begins with: one for each of its `starting_points`, and what moves them.

    Raises:
        UserError: the scene has no usable point, or an image cannot be read.
    """
    model = GaussianModel.from_points(
        starting_points(scene, config.seed),
        config.sh_degree,
        head=config.head,
        bit_view=config.bit_view,
        bit_hardness=config.bit_hardness,
        opacity=config.init_opacity,
        scale_factor=config.init_scale,
        max_gaussians=config.max_gaussians,
        seed=config.seed,
        device=config.device,
    )
    model.deformation = new_deformation(config, scene)
    return model


def starting_points(scene: SceneData, seed: int) -> PointCloud:
    """The points of the scene; of a moving one that has none of its own, points inside the silhouettes of its images
    where these have an alpha channel, since most random points are where nothing is.

    Raises:
        UserError: an image cannot be read.
    """
    if not scene.points_are_random or scene.time_axis is None:
        return scene.points
    carved = carved_points(scene, len(scene.points), seed)
    if carved is None:
        return scene.points
    logger.info(f"Training starts from {len(carved)} points inside the silhouettes that the alpha channels show.")
    return carved


class GaussianTraining:
    """Trains Gaussians; see `ModelTraining`.

    Attributes:
        optimizer: Adam for the Gaussians that a step has seen.
        density: adds and removes Gaussians.
    """

    def __init__(self, model: GaussianModel, scene: SceneData, config: ResolvedConfig, operations: Operations) -> None:
        """`operations` compute the steps; raises ValueError if a parameter of the model has no learning rate."""
        self.model, self._scene, self._config = model, scene, config
        self._rates = learning_rates(config, 0.0, 0.0, scene.extent)
        without_rate = set(model.parameter_names) - self._rates.keys()
        if without_rate:
            names = ", ".join(sorted(without_rate))
            raise ValueError(f"there is no learning rate for {names} in training.schedules.learning_rates")
        self.optimizer = VisibleAdam(model.tensors(), operations, bfloat16_moments=config.adam_moments == "bfloat16")
        self.density = make_density_control(config, model, self.optimizer, scene.extent, operations)
        self._views = TrainingViews(scene, config)
        self._backend = get_backend(config.backend)
        self._drawn_as_stored = _drawn_as_stored(model)
        self._consumer: AdamConsumer | None = None
        self._background = torch.tensor(evaluation_background(config, scene), device=config.device)

    def samples(self, step: int, progress: float, window: Window | None) -> Sequence[Sample]:
        """One view."""
        return [self._views.sample(step, progress, window)]

    def render(
        self, sample: Sample, step: int, progress: float, outputs: tuple[Output, ...], *, may_consume: bool = False
    ) -> RenderOutput:
        """The view, with the SH degree of this part of the run."""
        assert isinstance(sample, ViewSample)
        still = self.model.deformation is None or sample.time is None
        fused = (
            may_consume
            and still
            and self._drawn_as_stored
            and self._backend.feeds_consumers
            and "normals" not in outputs
        )
        early = early_progress(self._config, step, progress)
        self._rates = learning_rates(self._config, progress, early, self._scene.extent)
        self._consumer = self.optimizer.consumer(self._rates, *self.density.regularisers()) if fused else None
        return render(
            self.model,
            sample.camera,
            sample.time,
            background=self.background(step),
            outputs=outputs,
            backend=self._backend,
            sh_degree=sh_degree_at(self._config, early),
            antialiased=self._config.antialiased,
            absgrad=self.density.absgrad,
            may_be_incomplete=True,
            consumer=self._consumer,
        )

    def consumed(self) -> bool:
        """Whether the backward pass of the last rendering has moved the Gaussians."""
        return self._consumer is not None and self._consumer.taken

    def background(self, step: int) -> Tensor:
        """[3] color behind the Gaussians in this step."""
        if self._config.background != "random":
            return self._background
        color = torch.rand(3, generator=generator_for(self._config.seed, "background", step))
        return on_device(color, self._config.device)

    def parameters(self) -> Mapping[str, Tensor]:
        """The tensors of the model; their number of rows changes with density control."""
        return {name: getattr(self.model, name) for name in self.model.parameter_names}

    def update(
        self, gradients: dict[str, Tensor], outputs: Sequence[RenderOutput], samples: Sequence[Sample], progress: float
    ) -> None:
        """Move those Gaussians that a view has seen, unless the backward pass has."""
        if self.consumed():
            return
        self.density.add_gradients(gradients)
        visible = outputs[0].info.visible
        for output in outputs[1:]:
            visible = visible | output.info.visible
        self.optimizer.step(gradients, visible, self._rates)

    def after_step(
        self, outputs: Sequence[RenderOutput], samples: Sequence[Sample], step: int, progress: float
    ) -> None:
        """Density control."""
        for output, sample in zip(outputs, samples, strict=True):
            if output.info.means2d_grad is not None or output.info.means2d_absgrad is not None:
                height, width = sample.target.shape[:2]
                self.density.observe(output.info, width, height, len(samples))
        means_rate = self._rates["means"]
        assert isinstance(means_rate, float)
        self.density.act(step + 1, progress, means_rate)

    def largest_size(self, progress: float) -> int:
        """How many Gaussians there may be at the most, from this part of the run on."""
        return self.density.largest_count(progress)

    def phases(self, step: int, progress: float) -> dict[str, Any]:
        """By how much images are made smaller, the SH degree, whether Gaussians are added and moved, and the number at
        which memory has ended their growth, if it has."""
        early = early_progress(self._config, step, progress)
        phases = {
            "image_divisor": self._views.divisor(early),
            "sh_degree": sh_degree_at(self._config, early),
            "density_control": self.density.refines(progress),
        }
        limit = self.density.memory_limit
        return phases if limit is None else {**phases, "memory_limit": limit}

    def parts(self) -> dict[str, Part]:
        """Adam's moments, and the statistics and counters of density control."""
        return {
            "optimizer": Part(self.optimizer.state(), {"steps": self.optimizer.steps}),
            "density": Part(self.density.tensors(), self.density.state()),
        }

    def load(self, parts: Mapping[str, Part]) -> None:
        """The inverse of `parts`."""
        optimizer, density = parts["optimizer"], parts["density"]
        self.optimizer.load_state(optimizer.tensors, int(optimizer.values["steps"]))
        self.density.load(density.tensors, density.values)


def _drawn_as_stored(model: GaussianModel) -> bool:
    """Whether the rasterizers draw the tensors of the model themselves: a color head may compute others from its own.

    No backend moves features.
    """
    stored = model.tensors()
    colors = model.color_head.splat_colors(stored)
    if "features" in colors or {*GEOMETRY, *colors} != stored.keys():
        return False
    return all(tensor is stored[name] for name, tensor in colors.items())
