"""What changes during a run, as functions of progress (0 at the start, 1 at the end), and the stateless randomness."""

from __future__ import annotations

import hashlib

import torch

from nfc_gs.training.config import ResolvedConfig

MIN_SIDE = 96
"""Pixels that the shorter side of a training image keeps at least: with fewer, what is learnt has to be unlearnt."""


def exponential(start: float, end: float, progress: float) -> float:
    """Log-linear interpolation from `start` to `end` (both > 0), as 3DGS's learning rate of the centres."""
    return start * (end / start) ** min(max(progress, 0.0), 1.0)


def progress_of(config: ResolvedConfig, step: int, seconds: float) -> float:
    """How much of the run is done, 0..1, after `step` steps or `seconds` of training, whichever counts."""
    if config.budget_seconds is not None:
        return min(1.0, seconds / config.budget_seconds)
    assert config.steps is not None
    return min(1.0, step / config.steps)


def early_progress(config: ResolvedConfig, step: int, progress: float) -> float:
    """How far the early phases have come: small images, low SH degrees, high rates of the centres.

    It is the progress of the run, and in one of more than `early_steps` what a run of so many steps would have reached:
    more time in these phases gains nothing.
    """
    return min(1.0, max(progress, step / config.early_steps))


def resolution_divisor(config: ResolvedConfig, early: float, width: int, height: int) -> int:
    """By how much the image of a step is made smaller: a power of two.

    The levels from `coarse_factor` down to 2 share the time before `full_resolution_at` evenly. No level makes
    the shorter side less than `MIN_SIDE` pixels.

    Args:
        early: `early_progress`.
    """
    divisor = config.coarse_factor
    levels = divisor.bit_length() - 1
    if levels and config.full_resolution_at > 0.0:
        divisor >>= min(levels, int(early / config.full_resolution_at * levels))
    else:
        divisor = 1
    while divisor > 1 and min(width, height) < MIN_SIDE * divisor:
        divisor >>= 1
    return divisor


def sh_degree_at(config: ResolvedConfig, early: float) -> int:
    """The SH degree in use at an `early_progress`: one more after each equal part of `sh_ramp`."""
    if early >= config.sh_ramp:
        return config.sh_degree
    return int(early / config.sh_ramp * config.sh_degree)


def gaussian_cap(config: ResolvedConfig, progress: float, initial: int) -> int:
    """How many Gaussians the model may have: from the initial number to the maximum, linear until `growth_end`."""
    if config.growth_end <= 0.0 or progress >= config.growth_end:
        return config.max_gaussians
    return min(config.max_gaussians, initial + int((config.max_gaussians - initial) * progress / config.growth_end))


def learning_rates(
    config: ResolvedConfig, progress: float, early: float, extent: float
) -> dict[str, float | tuple[float, float, int]]:
    """Adam's rates by parameter, as `VisibleAdam.step` takes them.

    Args:
        early: `early_progress`, with which the `means_factor` fades.
        extent: of the scene.
    """
    rates, factor = config.rates, config.rate_factor
    means = exponential(rates.means * config.means_factor, rates.means_final * factor, progress)
    return {
        "means": means * config.means_factor ** (progress - early) * extent,
        "log_scales": rates.scales * factor,
        "quats": rates.quats * factor,
        "opacity_logits": rates.opacities,
        "sh_coeffs": (rates.sh0 * factor, rates.sh_rest * factor, 3),
        "bit_logits": rates.bits * factor,
        "bit_shifts": rates.bit_shifts * factor,
    }


def seed_for(seed: int, purpose: str, step: int) -> int:
    """A 63-bit seed that depends on all three; so randomness has no state to save or restore."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(seed: int, purpose: str, step: int) -> torch.Generator:
    """A fresh CPU generator for one use at one step."""
    return torch.Generator().manual_seed(seed_for(seed, purpose, step))
