"""From what a user wrote to a configuration without open values: presets, time budget, device and backend."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import SceneData
from nfc_gs.objective.objective import ObjectiveConfig
from nfc_gs.objective.presets import METHODS
from nfc_gs.rendering.registry import BACKENDS, choose_device_and_backend
from nfc_gs.training.config import ResolvedConfig, TrainConfig
from nfc_gs.training.config_check import check

_PRESETS: dict[str, dict[str, Any]] = {
    "fast": {
        "steps": 3000,
        "max_gaussians": 30_000,
        "sh_degree": 3,
        "init_opacity": 0.3,
        "init_scale": 1.0,
        "coarse_factor": 4,
        "full_resolution_at": 0.25,
        "growth_end": 0.5,
        "grow_factor": 0.1,
        "means_factor": 16.0,
        "rate_factor": 4.0,
        "early_steps": 3000,
    },
    "quality": {
        "steps": 15_000,
        "max_gaussians": 200_000,
        "sh_degree": 3,
        "init_opacity": 0.1,
        "init_scale": 1.0,
        "coarse_factor": 4,
        "full_resolution_at": 0.25,
        "growth_end": 0.5,
        "grow_factor": 0.05,
        "means_factor": 4.0,
        "rate_factor": 2.0,
        "early_steps": 5000,
    },
    "paper": {
        "steps": 30_000,
        "max_gaussians": 1_000_000,
        "sh_degree": 3,
        "init_opacity": 0.5,
        "init_scale": 0.1,
        "coarse_factor": 1,
        "full_resolution_at": 0.0,
        "growth_end": 0.0,
        "grow_factor": 0.05,
        "means_factor": 1.0,
        "rate_factor": 1.0,
        "early_steps": 30_000,
    },
}

_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds in a text such as "120s", "3m", "1.5h", "1h30m" or "90".

    Raises:
        UserError: it is not a positive duration.
    """
    compact = text.strip().lower().replace(" ", "")
    pieces = re.findall(r"(\d+(?:\.\d*)?|\.\d+)([a-z]*)", compact)
    seconds = sum(float(number) * _UNITS.get(unit, math.nan) for number, unit in pieces)
    if "".join(number + unit for number, unit in pieces) != compact or not 0.0 < seconds < math.inf:
        raise UserError(f"'{text}' is not a time budget; write for example 120s, 3m or 1h.")
    return seconds


def resolve(config: TrainConfig, *, moves: bool = False) -> ResolvedConfig:
    """Fill in the preset, choose device and backend, and check every number.

    Args:
        moves: the capture has times.

    Raises:
        UserError: a value is out of its range, two do not go together, or the device is not there.
    """
    device, backend = choose_device_and_backend(config.device, config.backend)
    if not BACKENDS[backend].trains:
        raise UserError(f"The backend '{backend}' only renders, and has no gradients to train by; choose another one.")
    preset = config.preset if config.preset != "auto" else ("fast" if device == "cpu" else "quality")
    if config.steps is not None and config.time_budget is not None:
        raise UserError("--steps and --time-budget exclude each other; give one of the two.")

    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    for name, value in _PRESETS[preset].items():
        if values[name] is None:
            values[name] = value
    budget = None if config.time_budget is None else parse_duration(config.time_budget)
    if budget is not None and config.max_gaussians is None and device == "cpu":
        values["max_gaussians"] = affordable_gaussians(budget, moves and config.motion != "none")
    values.update(
        preset=preset,
        device=device,
        backend=backend,
        budget_seconds=budget,
        steps=None if budget is not None else values["steps"],
        **_resolve_method(config),
    )
    resolved = ResolvedConfig(**values)
    check(resolved)
    return resolved


def _resolve_method(config: TrainConfig) -> dict[str, Any]:
    """Head and objective: what is asked for, else the method's, else the defaults."""
    method = METHODS[config.method]
    given = {name: value for name, value in dataclasses.asdict(config.objective).items() if value is not None}
    return {"head": config.head or method.head, "objective": ObjectiveConfig(**{**method.weights, **given})}


def affordable_gaussians(seconds: float, move: bool = False) -> int:
    """How many Gaussians a CPU can train well in this time.

    Measured on captures of about 50 views of 0.1 megapixels on two cores: more leave too few steps, fewer too
    little detail (see tools/bench/README.md). A step of Gaussians that move takes about four times as long.
    """
    return round((7_500 if move else 30_000) * (seconds / 60.0) ** 0.6)


def evaluation_background(config: ResolvedConfig, scene: SceneData) -> tuple[float, float, float]:
    """The color behind the model when views are measured: the capture's own if it has one, else black."""
    if config.background == "white":
        return (1.0, 1.0, 1.0)
    if config.background == "auto" and scene.background is not None:
        return scene.background
    return (0.0, 0.0, 0.0)
