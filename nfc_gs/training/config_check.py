"""Whether the numbers of a configuration make sense, and a sentence for the first that does not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping

from nfc_gs.core.errors import UserError
from nfc_gs.model.heads.registry import get_head
from nfc_gs.training.config import ResolvedConfig


def check(config: ResolvedConfig) -> None:
    """Raise UserError for the first number out of its range."""
    whole = {
        "steps": (1, None),
        "max_gaussians": (1, None),
        "early_steps": (1, None),
        "sh_degree": (0, 3),
        "seed": (0, 2**63 - 1),
    }
    for name, (low, high) in whole.items():
        value = getattr(config, name)
        if value is not None and (value < low or (high is not None and value > high)):
            wanted = f"at least {low}" if high is None else f"between {low} and {high}"
            raise UserError(f"{_flag(name)} is {value}, but must be {wanted}.")
    for name in ("full_resolution_at", "growth_end", "sh_ramp", "eval_every"):
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise UserError(f"{_flag(name)} is {getattr(config, name)}, but is a fraction of the run: 0 to 1.")
    if config.coarse_factor not in (1, 2, 4, 8, 16):
        raise UserError(f"--coarse-factor is {config.coarse_factor}, but must be 1, 2, 4, 8 or 16.")
    if not (0.0 < config.init_opacity < 1.0 and config.init_scale > 0.0):
        raise UserError("--init-opacity must lie between 0 and 1, and --init-scale must be positive.")
    if not (config.grow_factor >= 0.0 and config.checkpoint_every >= 0.0):
        raise UserError("--grow-factor and --checkpoint-every must not be negative.")
    if not (config.means_factor > 0.0 and config.rate_factor > 0.0):
        raise UserError("--means-factor and --rate-factor must be positive.")
    if not all(0.0 < rate < math.inf for rate in dataclasses.astuple(config.rates)):
        raise UserError("Every learning rate must be a positive number.")
    if not 0.0 <= config.bit_hardness <= 1.0:
        raise UserError(f"--bit-hardness is {config.bit_hardness}, but must be between 0 and 1.")
    _check_density(config)
    _check_objective(config)
    _check_motion(config)


def _check_density(config: ResolvedConfig) -> None:
    refine, mcmc, adc = config.refine, config.mcmc, config.adc
    steps = {"refine.every": refine.every, "refine.every_at_least": refine.every_at_least}
    for name, value in {**steps, "adc.reset_at_least": adc.reset_at_least}.items():
        if value < 1:
            raise UserError(f"{_flag(name)} is {value}, but is a number of steps: at least 1.")
    fractions = {f"refine.{name}": getattr(refine, name) for name in ("every_fraction", "start", "stop")}
    fractions |= {f"adc.{name}": getattr(adc, name) for name in ("stop", "reset_every")}
    for name, value in fractions.items():
        if not 0.0 <= value <= 1.0:
            raise UserError(f"{_flag(name)} is {value}, but is a fraction of the run: 0 to 1.")
    numbers = {f"mcmc.{name}": value for name, value in vars(mcmc).items()}
    numbers |= {f"adc.{name}": value for name, value in vars(adc).items() if f"adc.{name}" not in fractions}
    for name, value in numbers.items():
        if not 0.0 <= value < math.inf:
            raise UserError(f"{_flag(name)} is {value}, but must be 0 or a positive number.")


def _check_objective(config: ResolvedConfig) -> None:
    objective = config.objective
    objective.check_names()
    weights = objective.weights()
    for name, weight in weights.items():
        if not 0.0 <= weight < math.inf:
            option = f"extra {name}" if name in objective.extra else name.replace("_", "-")
            raise UserError(f"--objective.{option} is {weight}, but must be 0 or a positive number.")
    if not 1e-6 <= objective.ce_eps < 0.5:  # 1 - eps must differ from 1 in float32
        raise UserError(f"--objective.ce-eps is {objective.ce_eps}, but must lie between 0.000001 and 0.5.")
    if not 0.0 <= objective.ce_from < objective.ce_until <= 1.0:
        raise UserError("--objective.ce-from and --objective.ce-until must be fractions of the run, in this order.")
    regression = objective.l1 or objective.mse or objective.ssim
    if not regression and (objective.ce_from, objective.ce_until) != (0.0, 1.0):
        raise UserError(
            "With no weight on l1, mse or ssim, cross entropy must act all the time; give one of them a weight, "
            "or leave out --objective.ce-from and --objective.ce-until."
        )
    if config.head != "bits" and (config.bit_view != "shared" or config.bit_hardness != 0.0):
        raise UserError("--bit-view and --bit-hardness are about the bit head; add --head bits, or leave them out.")
    if objective.bit_ce and not get_head(config.head).has_bits:
        raise UserError("--objective.bit-ce compares bits, and only the bit head has them; add --head bits.")
    if objective.bit_ce:
        _check_density_of_bits(config)


def check_terms(config: ResolvedConfig, weights: Mapping[str, float], outputs: Collection[str]) -> None:
    """Raise UserError unless there is something to learn, and outputs that this configuration can render.

    Args:
        weights: of all terms of the objective, those that were given from Python included.
        outputs: that the terms need.
    """
    if not any(weights.values()):
        raise UserError("Every weight of the objective is 0, so there is nothing to learn; give one a positive number.")
    if not {"bits", "bit_entropy"}.isdisjoint(outputs):
        if not get_head(config.head).has_bits:
            raise UserError("A term of the objective compares bits, and only the bit head has them; add --head bits.")
        _check_density_of_bits(config)


def _check_density_of_bits(config: ResolvedConfig) -> None:
    if config.density == "adc":
        raise UserError(
            "--density adc collects absolute gradients of 4 channels at most, and an objective with bits draws 24; "
            "choose --density mcmc."
        )


def _check_motion(config: ResolvedConfig) -> None:
    deformation, hexplane, mlp = config.deformation, config.hexplane, config.mlp
    if deformation.warmup < 0:
        raise UserError(f"--deformation.warmup is {deformation.warmup}, but is a number of steps; 0 leaves it out.")
    for name in ("open_until", "mean_until"):
        value = getattr(deformation, name)
        if not 0.0 <= value <= 1.0:
            raise UserError(f"{_flag(f'deformation.{name}')} is {value}, but is a fraction of the run: 0 to 1.")
    rates = ("rate", "rate_final", "plane_rate", "plane_rate_final")
    if not all(0.0 < getattr(deformation, name) < math.inf for name in rates):
        raise UserError("Every learning rate of --deformation must be a positive number.")
    if hexplane.features < 16 or hexplane.features % 16:
        raise UserError(f"--hexplane.features is {hexplane.features}, but must be a multiple of 16.")
    if not hexplane.levels or len(hexplane.levels) > 8 or min(hexplane.levels) < 1:
        raise UserError("--hexplane.levels must be 1 to 8 whole numbers of at least 1, such as 1 2.")
    sizes = {"hexplane.resolution": hexplane.resolution, "hexplane.time-resolution": hexplane.time_resolution or 2}
    for name, value in {
        **sizes,
        "mlp.depth": mlp.depth,
        "mlp.width": mlp.width,
        "hexplane.width": hexplane.width,
    }.items():
        if value < 2:
            raise UserError(f"--{name} is {value}, but must be at least 2.")
    weights = (hexplane.tv, hexplane.smoothness, hexplane.sparsity, mlp.time_noise or 0.0)
    if not all(0.0 <= weight < math.inf for weight in weights):
        raise UserError("The weights of --hexplane and --mlp.time-noise must be 0 or positive numbers.")
    if min(mlp.mean_frequencies, mlp.time_frequencies) < 0:
        raise UserError("--mlp.mean-frequencies and --mlp.time-frequencies must not be negative.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
