"""Density control: when Gaussians are added, moved and removed, and how many. The mechanics are in `density_ops.py`."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nfc_gs.core.checks import check_same_shapes
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.ops.operations import Operations
from nfc_gs.rendering.backend import SplatInfo
from nfc_gs.training import density_ops
from nfc_gs.training.config import RefineConfig, ResolvedConfig
from nfc_gs.training.forecast import growth_fits, largest_count
from nfc_gs.training.optimizers import VisibleAdam
from nfc_gs.training.schedules import gaussian_cap, generator_for

logger = logging.getLogger("nfc_gs")


class RefineClock:
    """Says when to refine: every so many steps, or every so large a part of a short run."""

    def __init__(self, config: RefineConfig, stop: float) -> None:
        self._config = config
        self._stop = stop
        self.last_step = 0
        self.last_progress = 0.0

    def open(self, progress: float) -> bool:
        """Whether this part of the run has refinements."""
        return self._config.start <= progress and not self.over(progress)

    def over(self, progress: float) -> bool:
        """Whether the last refinement has been."""
        return progress > self._stop

    def due(self, step: int, progress: float) -> bool:
        """Whether to refine after `step` steps; if so, the clock starts anew."""
        config = self._config
        if not self.open(progress):
            return False
        steps = step - self.last_step
        part = progress - self.last_progress + 1e-9  # progress is rounded
        if steps < config.every and (steps < config.every_at_least or part < config.every_fraction):
            return False
        self.last_step, self.last_progress = step, progress
        return True


class DensityControl:
    """No density control at all; and what the two kinds share.

    Attributes:
        memory_limit: the number of Gaussians at which growth has ended since memory was short; None while it was not.
    """

    absgrad = False
    """Whether `observe` needs absolute gradients."""

    def __init__(
        self,
        config: ResolvedConfig,
        model: GaussianModel,
        optimizer: VisibleAdam,
        extent: float,
        operations: Operations,
    ) -> None:
        """`extent`: that of the scene. The model has its initial Gaussians."""
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.extent = extent
        self.operations = operations
        self.initial = len(model)
        self.clock = RefineClock(config.refine, config.refine.stop)
        self.memory_limit: int | None = None

    def refines(self, progress: float) -> bool:
        """Whether Gaussians are added, moved or removed in this part of the run."""
        return self.config.density != "none" and self.clock.open(progress)

    def largest_count(self, progress: float) -> int:
        """How many Gaussians there may be at the most, from this part of the run on."""
        count = len(self.model)
        if self.clock.over(progress):
            return count
        most = largest_count(self.config, count)
        return most if self.memory_limit is None else max(count, min(most, self.memory_limit))

    def regularisers(self) -> tuple[float, float]:
        """The weights of the sums of all opacities and of all scales in the loss, beside the objective."""
        return 0.0, 0.0

    def add_gradients(self, grads: Mapping[str, Tensor]) -> None:
        """Add the gradients of the regularisers to `grads`; called after each backward pass that stores them."""
        density_ops.add_regulariser_gradients_(self.optimizer.params, grads, *self.regularisers())

    def observe(self, info: SplatInfo, width: int, height: int, samples: int = 1) -> None:
        """Collect statistics of a rendering [W x H pixels] after its backward pass.

        Args:
            samples: renderings of this step, of whose losses the mean is minimised.
        """

    def act(self, step: int, progress: float, means_rate: float) -> None:
        """Change the model after optimisation step number `step`.

        Args:
            means_rate: learning rate of the centres in this step.
        """

    def tensors(self) -> dict[str, Tensor]:
        """Per-Gaussian statistics to save."""
        return {}

    def state(self) -> dict[str, Any]:
        """Plain values to save."""
        return {
            "initial": self.initial,
            "last_step": self.clock.last_step,
            "last_progress": self.clock.last_progress,
            "memory_limit": self.memory_limit,
        }

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """The inverse of `tensors` and `state`.

        Raises:
            KeyError: a value of the state is missing.
            ValueError: a tensor is missing, unexpected or of another shape.
        """
        check_same_shapes(tensors, self.tensors())
        self.initial = int(state["initial"])
        self.clock.last_step = int(state["last_step"])
        self.clock.last_progress = float(state["last_progress"])
        limit = state["memory_limit"]
        self.memory_limit = None if limit is None else int(limit)

    def _room(self, new: int) -> int:
        """How many of `new` Gaussians may be added: none once memory was too short for them."""
        count = len(self.model)
        if self.memory_limit is None and new > 0 and not growth_fits(self.optimizer.params, new):
            self.memory_limit = count
            logger.warning(
                "The memory is nearly used up: the training goes on with at most %s Gaussians.", f"{count:,}"
            )
        return new if self.memory_limit is None else max(0, min(new, self.memory_limit - count))

    def _generator(self, purpose: str, step: int) -> torch.Generator:
        return generator_for(self.config.seed, purpose, step)

    def _reorder(self) -> None:
        """Put neighbours side by side, which makes steps faster and changes nothing else."""
        self.optimizer.reorder(density_ops.morton_order(self.optimizer.params["means"]))

    def _replace(self, tensors: Mapping[str, Tensor]) -> None:
        """Put other tensors into model and optimizer, whose moments already have the new length."""
        self.model.replace(tensors)
        self.optimizer.bind(self.model.tensors())


class McmcControl(DensityControl):
    """Gaussians as samples of a Markov chain: dead ones move to living ones, new ones are copies, noise explores."""

    def regularisers(self) -> tuple[float, float]:
        """Means over all Gaussians (and axes)."""
        mcmc, count = self.config.mcmc, len(self.model)
        return mcmc.opacity_reg / count, mcmc.scale_reg / (3 * count)

    @torch.no_grad()
    def act(self, step: int, progress: float, means_rate: float) -> None:
        if self.clock.due(step, progress):
            self._relocate(step)
            self._grow(step, progress)
            self._reorder()
        p = self.optimizer.params
        geometry = (p["means"], p["quats"], p["log_scales"], p["opacity_logits"])
        density_ops.mcmc_noise_(*geometry, means_rate * self.config.mcmc.noise, self.config.seed, step, self.operations)

    def _relocate(self, step: int) -> None:
        """Move the dead to places drawn by opacity among the living."""
        tensors, floor = self.optimizer.params, self.config.mcmc.min_opacity
        opacities = tensors["opacity_logits"].sigmoid()
        alive = opacities > floor  # not so for NaN, which is healed like the dead
        rows, living = (~alive).nonzero().squeeze(1), alive.nonzero().squeeze(1)
        if len(rows) == 0 or len(living) == 0:
            return
        picks = density_ops.sample_proportional(opacities[living], len(rows), self._generator("relocate", step))
        sources = living[picks]
        density_ops.relocate_sources_(tensors, sources, floor, self.operations)
        density_ops.copy_rows_(tensors, rows, sources)
        self.optimizer.reset_rows(torch.cat([rows, sources.unique()]))

    def _grow(self, step: int, progress: float) -> None:
        """Add copies up to what the growth curve allows."""
        count = len(self.model)
        cap = gaussian_cap(self.config, progress, self.initial)
        new = self._room(min(cap, math.ceil(count * (1.0 + self.config.grow_factor))) - count)
        if new <= 0:
            return
        tensors = self.optimizer.params
        sources = density_ops.sample_proportional(
            tensors["opacity_logits"].sigmoid(), new, self._generator("grow", step)
        )
        density_ops.relocate_sources_(tensors, sources, self.config.mcmc.min_opacity, self.operations)
        self.optimizer.reset_rows(sources.unique())
        self.optimizer.append(new)
        self._replace(density_ops.concatenate(tensors, density_ops.select_rows(tensors, sources)))


class AdcControl(DensityControl):
    """Adaptive density control (Kerbl et al. 2023, section 5) by absolute gradients (Ye et al. 2024, AbsGS)."""

    absgrad = True

    def __init__(
        self,
        config: ResolvedConfig,
        model: GaussianModel,
        optimizer: VisibleAdam,
        extent: float,
        operations: Operations,
    ) -> None:
        super().__init__(config, model, optimizer, extent, operations)
        self.clock = RefineClock(config.refine, min(config.refine.stop, config.adc.stop))
        self._reset_step = 0
        self._reset_progress = 0.0
        self._reset_statistics()

    def _reset_statistics(self) -> None:
        """Start the statistics of screen gradients at zero."""
        n, device = len(self.model), self.model.device
        self._grad2d = torch.zeros(n, device=device)  # [N] sum of norms of screen gradients, normalised units
        self._count = torch.zeros(n, device=device)  # [N] how often seen

    @torch.no_grad()
    def observe(self, info: SplatInfo, width: int, height: int, samples: int = 1) -> None:
        grad = info.means2d_absgrad if info.means2d_absgrad is not None else info.means2d_grad
        assert grad is not None, "observe comes after the backward pass"
        visible = info.visible
        # From pixels to [-1, 1], and from the mean over the samples to the loss of this one.
        x, y = grad[:, 0] * (samples * width / 2.0), grad[:, 1] * (samples * height / 2.0)
        self._grad2d += torch.hypot(x, y) * visible
        self._count += visible

    @torch.no_grad()
    def act(self, step: int, progress: float, means_rate: float) -> None:
        adc = self.config.adc
        if progress > adc.stop:
            return
        if self.clock.due(step, progress):
            self._grow(step)
            self._prune()
            self._reorder()
            self._reset_statistics()
        if (
            progress - self._reset_progress + 1e-9 >= adc.reset_every
            and step - self._reset_step >= adc.reset_at_least
            and progress < adc.stop
        ):
            self._reset_step, self._reset_progress = step, progress
            ceiling = torch.tensor(2.0 * adc.prune_opacity).logit().item()
            self.optimizer.params["opacity_logits"].clamp_(max=ceiling)
            everyone = torch.arange(len(self.model), device=self.model.device)
            self.optimizer.reset_rows(everyone, ("opacity_logits",))

    def _grow(self, step: int) -> None:
        """Clone small and split large Gaussians whose screen gradient is high; the highest first if room is short."""
        adc, tensors = self.config.adc, self.optimizer.params
        mean_grad = self._grad2d / self._count.clamp_min(1.0)
        rows = (mean_grad > adc.grow_grad2d).nonzero().squeeze(1)
        room = self._room(min(len(rows), max(0, self.config.max_gaussians - len(self.model))))
        if len(rows) > room:
            order = torch.argsort(mean_grad[rows], descending=True, stable=True)
            rows = rows[order[:room]].sort().values
        if len(rows) == 0:
            return
        small = tensors["log_scales"][rows].amax(1).exp() <= adc.grow_scale3d * self.extent
        clones = density_ops.select_rows(tensors, rows[small])
        halves = density_ops.split(tensors, rows[~small], self._generator("split", step))
        keep = torch.ones(len(self.model), dtype=torch.bool, device=self.model.device)
        keep[rows[~small]] = False
        kept = keep.nonzero().squeeze(1)
        self.optimizer.select(kept)
        self.optimizer.append(len(clones["means"]) + len(halves["means"]))
        self._replace(
            density_ops.concatenate(density_ops.concatenate(density_ops.select_rows(tensors, kept), clones), halves)
        )

    def _prune(self) -> None:
        """Remove faint Gaussians and, once opacities have been reset, huge ones."""
        adc, tensors = self.config.adc, self.optimizer.params
        bad = tensors["opacity_logits"].sigmoid() < adc.prune_opacity
        if self._reset_step > 0:
            bad |= tensors["log_scales"].amax(1).exp() > adc.prune_scale3d * self.extent
        kept = (~bad).nonzero().squeeze(1)
        if len(kept) == 0:
            logger.warning("All Gaussians are faint or huge; none is removed.")
            return
        if len(kept) < len(bad):
            self.optimizer.select(kept)
            self._replace(density_ops.select_rows(tensors, kept))

    def tensors(self) -> dict[str, Tensor]:
        return {"grad2d": self._grad2d, "count": self._count}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "reset_step": self._reset_step, "reset_progress": self._reset_progress}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        super().load(tensors, state)
        self._grad2d = tensors["grad2d"].to(self._grad2d, copy=True)
        self._count = tensors["count"].to(self._count, copy=True)
        self._reset_step = int(state["reset_step"])
        self._reset_progress = float(state["reset_progress"])


def make_density_control(
    config: ResolvedConfig, model: GaussianModel, optimizer: VisibleAdam, extent: float, operations: Operations
) -> DensityControl:
    """The density control that the configuration names."""
    kinds = {"none": DensityControl, "mcmc": McmcControl, "adc": AdcControl}
    return kinds[config.density](config, model, optimizer, extent, operations)
