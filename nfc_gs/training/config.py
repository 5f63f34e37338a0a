"""What a training run can be told, and the presets that fill in the rest.

`TrainConfig` is what a user writes: None means "as the preset has it". `resolve` turns it into a
`ResolvedConfig`, in which every number is fixed and which is saved with the run.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch

from nfc_gs.core.errors import UserError
from nfc_gs.model.color_head import BitView, HeadName
from nfc_gs.model.deformation import HexPlaneConfig, MlpConfig
from nfc_gs.objective.losses import ObjectiveConfig
from nfc_gs.objective.presets import METHODS, MethodName, ObjectiveOptions
from nfc_gs.rendering.registry import backend_for
from nfc_gs.training.config_check import check

Preset = Literal["auto", "fast", "quality", "paper"]
MotionChoice = Literal["auto", "none", "hexplane", "mlp"]
DensityName = Literal["mcmc", "adc", "none"]
BackgroundName = Literal["auto", "black", "white", "random"]


@dataclass(frozen=True)
class LearningRates:
    """Adam's learning rates: those of Inria's 3DGS (arguments/__init__.py, OptimizationParams).

    The bit head's are chosen so that its color moves as fast as direct SH. Adam's step is the rate itself, whatever
    the size of the gradient: a bit's gradient carries its place value, and Adam divides it out again, so all eight
    logits of a channel move alike. A step of r on all of them changes the color by p (1 - p) r, a step of r on sh0 by
    Y_0 r with Y_0 = 0.28: at p (1 - p) = 1/4, where a grey Gaussian starts, equal color steps need r = 4 Y_0 = 1.13
    times the rate of sh0, and for the shifts (each times Y_k in both heads) 4 times that of sh_rest.
    """

    means: float = 1.6e-4
    """Of the centres at the start, times the extent of the scene."""
    means_final: float = 1.6e-6
    """Of the centres at the end, times the extent of the scene; between the two it falls exponentially."""
    sh0: float = 2.5e-3
    """Of the constant color."""
    sh_rest: float = 2.5e-3 / 20
    """Of the view-dependent color."""
    bits: float = 2.8e-3
    """Of the bit logits."""
    bit_shifts: float = 5e-4
    """Of the view-dependent shifts of the bit logits."""
    opacities: float = 5e-2
    """Of the opacity logits."""
    scales: float = 5e-3
    """Of the logarithms of the scales."""
    quats: float = 1e-3
    """Of the rotations."""


@dataclass(frozen=True)
class RefineConfig:
    """When density control acts. Fractions are of the run, so short and long runs both make sense."""

    every: int = 100
    """Steps between two refinements (3DGS: 100) ..."""
    every_fraction: float = 0.01
    """... or this fraction of the run, if that is shorter ..."""
    every_at_least: int = 20
    """... but never fewer steps than this."""
    start: float = 0.0166
    """Refinement begins after this fraction (3DGS: step 500 of 30 000)."""
    stop: float = 0.8333
    """Refinement ends here (MCMC: step 25 000 of 30 000; ADC ends at half of this run at the latest)."""


@dataclass(frozen=True)
class McmcConfig:
    """Density control as Markov chain Monte Carlo (Kheradmand et al. 2024)."""

    min_opacity: float = 0.005
    """A Gaussian at or below this opacity is dead and is moved to a living one."""
    noise: float = 5e5
    """Strength of the exploration noise, times the learning rate of the centres."""
    opacity_reg: float = 0.01
    """Weight of the mean opacity in the loss."""
    scale_reg: float = 0.01
    """Weight of the mean scale in the loss."""


@dataclass(frozen=True)
class AdcConfig:
    """Adaptive density control of 3DGS, with absolute gradients (AbsGS)."""

    grow_grad2d: float = 0.0008
    """Gaussians whose mean absolute screen gradient (in normalised screen units) passes this are cloned or split."""
    grow_scale3d: float = 0.01
    """Below this scale (fraction of the extent of the scene) they are cloned, above it split."""
    prune_opacity: float = 0.005
    """Gaussians fainter than this are removed."""
    prune_scale3d: float = 0.1
    """Gaussians larger than this fraction of the extent are removed, once opacities have been reset."""
    stop: float = 0.5
    """Growing and pruning end after this fraction of the run."""
    reset_every: float = 0.1
    """Opacities are reset after each such fraction of the run (3DGS: 3 000 of 30 000 steps) ..."""
    reset_at_least: int = 1000
    """... but never sooner than this many steps after the last time: they need a while to recover."""


@dataclass(frozen=True)
class DeformationConfig:
    """How a moving scene is trained."""

    warmup: int = 60
    """Steps before anything moves (4DGS: its coarse stage), a tenth of the run at the most. Hundreds make a still scene
    of what moves, which motion then hardly undoes."""
    open_until: float = 0.7
    """With several cameras at each time the middle of the times alone is shown at first; the rest is added evenly until
    this fraction of the run. 0 shows all times from the start, as scenes with one camera do."""
    mean_until: float = 0.7
    """With one camera at each time the squared error stands for L1 and SSIM until this fraction of the run, so that
    what moves leaves a trace."""
    scales: bool = False
    """Let scales change with time."""
    opacity: bool = True
    """Let opacities change with time."""
    color: bool = True
    """Let the constant part of colors change with time."""
    rate: float = 1.5e-4
    """Learning rate of the networks at the start, which falls with the number of steps, too ..."""
    rate_final: float = 1.5e-5
    """... and at the end of the run."""
    plane_rate: float = 4e-3
    """Learning rate of the planes of a HexPlane at the start ..."""
    plane_rate_final: float = 4e-4
    """... and at the end of the run."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Whatever is left out comes from the preset."""

    method: MethodName = "nfr"
    """What is learnt: nfr (regression), nfc (with a classification loss), nfc-te (that and target encoding: the bit
    head), nfc-bitwise (the bit head with a loss on each bit)."""
    preset: Preset = "auto"
    """fast: minutes on a CPU; quality: takes its time; paper: the 30 000 steps of 3DGS-MCMC; auto: fast on a CPU,
    quality on a GPU."""
    steps: int | None = None
    """Number of optimisation steps."""
    time_budget: str | None = None
    """Train as well as possible in this time instead of for a number of steps: 120s, 3m, 1h."""
    max_gaussians: int | None = None
    """Most Gaussians the model may have. By default the preset's number, or what the time budget affords."""
    seed: int = 0
    """The same seed gives the same result."""
    device: str = "auto"
    """Where to compute: auto, cpu or cuda; auto takes a GPU if there is one."""
    backend: str = "auto"
    """The rasterizer: auto, torch, cpu or gsplat; auto takes the fast one of the device."""
    sh_degree: int | None = None
    """Degree of the view-dependent color, 0 (none) to 3."""
    head: HeadName | None = None
    """What colors the Gaussians: sh, or bits (24 bit logits each). By default the method's."""
    bit_view: BitView = "shared"
    """View dependence of the bit head: shared (one shift for the eight bits of a channel) or full (one for each
    bit)."""
    bit_hardness: float = 0.0
    """How decided the bits are at the start: 0 (every bit's probability is the value of its channel) to 1 (the
    binary number)."""
    antialiased: bool = False
    """Compensate the opacity of splats smaller than a pixel (Mip-Splatting)."""
    background: BackgroundName = "auto"
    """Color behind the splats; auto: what the capture was composited on, else black; random: another each step."""
    init_opacity: float | None = None
    """Opacity of the first Gaussians (3DGS: 0.1, MCMC: 0.5)."""
    init_scale: float | None = None
    """Size of the first Gaussians, times the distance of neighbouring points (3DGS: 1, MCMC: 0.1)."""
    density: DensityName = "mcmc"
    """How Gaussians are added and removed: mcmc, adc (3DGS) or none."""
    coarse_factor: int | None = None
    """Training images begin this many times smaller (1, 2, 4, 8)."""
    full_resolution_at: float | None = None
    """Fraction of the run after which images have their full size."""
    growth_end: float | None = None
    """Fraction of the run after which the number of Gaussians may reach its maximum."""
    grow_factor: float | None = None
    """Each refinement adds at most this fraction of the Gaussians (MCMC: 0.05)."""
    means_factor: float | None = None
    """The learning rate of the centres begins this many times higher than in `rates`, made for 30 000 steps."""
    rate_factor: float | None = None
    """The same for all other rates but the opacities', and for the final rate of the centres."""
    sh_ramp: float = 0.1
    """Fraction of the run after which the full SH degree is used (3DGS: one degree per 1 000 of 30 000 steps)."""
    eval_every: float = 0.25
    """Held-out views are measured after each such fraction of the run; 0 for never."""
    checkpoint_every: float = 30.0
    """Seconds between two checkpoints."""
    objective: ObjectiveOptions = field(default_factory=ObjectiveOptions)
    """What is minimised."""
    rates: LearningRates = field(default_factory=LearningRates)
    """Learning rates."""
    refine: RefineConfig = field(default_factory=RefineConfig)
    """When density control acts."""
    mcmc: McmcConfig = field(default_factory=McmcConfig)
    """Parameters of `density mcmc`."""
    adc: AdcConfig = field(default_factory=AdcConfig)
    """Parameters of `density adc`."""
    motion: MotionChoice = "auto"
    """What moves the Gaussians of a capture with times: hexplane (4DGS), mlp (Deformable 3DGS), none (train a static
    splat); auto: hexplane."""
    deformation: DeformationConfig = field(default_factory=DeformationConfig)
    """How motion is trained."""
    hexplane: HexPlaneConfig = field(default_factory=HexPlaneConfig)
    """Parameters of `motion hexplane`."""
    mlp: MlpConfig = field(default_factory=MlpConfig)
    """Parameters of `motion mlp`."""


@dataclass(frozen=True)
class ResolvedConfig:
    """A `TrainConfig` in which nothing is left open; field for field as there."""

    preset: Preset
    steps: int | None
    """None with a time budget."""
    time_budget: float | None
    """Seconds."""
    max_gaussians: int
    seed: int
    device: Literal["cpu", "cuda"]
    backend: str
    sh_degree: int
    antialiased: bool
    background: BackgroundName
    init_opacity: float
    init_scale: float
    density: DensityName
    coarse_factor: int
    full_resolution_at: float
    growth_end: float
    grow_factor: float
    means_factor: float
    rate_factor: float
    sh_ramp: float
    eval_every: float
    checkpoint_every: float
    objective: ObjectiveConfig
    rates: LearningRates
    refine: RefineConfig
    mcmc: McmcConfig
    adc: AdcConfig
    method: MethodName = "nfr"  # those of before the bit head have not saved the rest
    head: HeadName = "sh"
    bit_view: BitView = "shared"
    bit_hardness: float = 0.0
    motion: MotionChoice = "auto"  # and those of before moving scenes not these
    deformation: DeformationConfig = field(default_factory=DeformationConfig)
    hexplane: HexPlaneConfig = field(default_factory=HexPlaneConfig)
    mlp: MlpConfig = field(default_factory=MlpConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dictionaries, for YAML and JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ResolvedConfig:
        """The inverse of `to_dict`.

        Raises:
            UserError: a field without a default is missing, or one is unknown.
        """
        parts = dict(values)
        for name, kind in _PARTS.items():
            if name in parts or name not in _LATER_PARTS:
                parts[name] = _build(kind, parts.get(name), f"{name}.")
        return _build(ResolvedConfig, parts, "")


_PARTS: dict[str, type] = {
    "objective": ObjectiveConfig,
    "rates": LearningRates,
    "refine": RefineConfig,
    "mcmc": McmcConfig,
    "adc": AdcConfig,
    "deformation": DeformationConfig,
    "hexplane": HexPlaneConfig,
    "mlp": MlpConfig,
}
_LATER_PARTS = ("deformation", "hexplane", "mlp")
"""Those that old runs have not saved."""

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
    },
}

_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}

_T = TypeVar("_T")


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
    device = resolve_device(config.device, config.backend)
    preset = config.preset if config.preset != "auto" else ("fast" if device == "cpu" else "quality")
    if preset not in _PRESETS:
        raise UserError(f"There is no preset '{preset}'; choose one of {', '.join(_PRESETS)}.")
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
        backend=backend_for(config.backend, device),
        time_budget=budget,
        steps=None if budget is not None else values["steps"],
        **_resolve_method(config),
    )
    resolved = ResolvedConfig(**values)
    check(resolved)
    return resolved


def _resolve_method(config: TrainConfig) -> dict[str, Any]:
    """Head and objective: what is asked for, else the method's, else the defaults."""
    if config.method not in METHODS:
        raise UserError(f"There is no method '{config.method}'; choose one of {', '.join(METHODS)}.")
    method = METHODS[config.method]
    asked = {name: value for name, value in dataclasses.asdict(config.objective).items() if value is not None}
    return {"head": config.head or method.head, "objective": ObjectiveConfig(**{**method.weights, **asked})}


def affordable_gaussians(seconds: float, move: bool = False) -> int:
    """How many Gaussians a CPU can train well in this time.

    Measured on captures of about 50 views of 0.1 megapixels on two cores: more leave too few steps, fewer too
    little detail (see "Measured" in the README). A step of Gaussians that move takes about four times as long.
    """
    return round((7_500 if move else 30_000) * (seconds / 60.0) ** 0.6)


def resolve_device(device: str = "auto", backend: str = "auto") -> Literal["cpu", "cuda"]:
    """The device that `device` stands for on this machine.

    Raises:
        UserError: no such device, or a GPU is asked for and torch sees none.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() and backend != "cpu" else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu, or install a torch build with CUDA.")
    if device not in ("cpu", "cuda"):
        raise UserError(f"There is no device '{device}'; choose auto, cpu or cuda.")
    return "cuda" if device == "cuda" else "cpu"


def _build(kind: type[_T], values: Any, prefix: str) -> _T:
    """An instance of the dataclass `kind` from a dictionary of its fields; those with a default may be missing."""
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    names = {f.name for f in fields}
    needed = {f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
    if not isinstance(values, Mapping) or not needed <= set(values) <= names:
        odd = sorted((set(values) - names) | (needed - set(values))) if isinstance(values, Mapping) else sorted(names)
        raise UserError(
            f"The saved configuration does not fit this version of nfc-gs (field {prefix}{odd[0]}); start a new run."
        )
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
