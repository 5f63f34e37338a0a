"""The configuration of a training.

`TrainConfig` is what a user writes: None means "as the preset has it". `training.resolve` turns it into a
`ResolvedConfig`, in which every number is fixed and which is saved with the run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_type_hints

from nfc_gs.core.checks import CheckedFields
from nfc_gs.core.errors import UserError
from nfc_gs.core.text import in_one_line
from nfc_gs.model.heads.color_head import BitView
from nfc_gs.model.heads.registry import HeadName
from nfc_gs.model.hexplane import HexPlaneConfig
from nfc_gs.model.mlp import MlpConfig
from nfc_gs.objective.objective import ObjectiveConfig
from nfc_gs.objective.presets import MethodName, ObjectiveOptions

Preset = Literal["auto", "fast", "quality", "paper"]
MotionChoice = Literal["auto", "none", "hexplane", "mlp"]
DensityName = Literal["mcmc", "adc", "none"]
BackgroundName = Literal["auto", "black", "white", "random"]
MomentsName = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class LearningRates(CheckedFields):
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
class RefineConfig(CheckedFields):
    """When density control acts. Fractions are of the run, so short and long runs both make sense."""

    every: int = 100
    """Most steps between two refinements (3DGS: 100)."""
    every_fraction: float = 0.01
    """Fraction of the run between two refinements, where that is shorter."""
    every_at_least: int = 20
    """Least steps between two refinements, in a short run."""
    start: float = 0.0166
    """Refinement begins after this fraction (3DGS: step 500 of 30000)."""
    stop: float = 0.8333
    """Refinement ends here (MCMC: step 25000 of 30000; ADC ends at half of this run at the latest)."""


@dataclass(frozen=True)
class McmcConfig(CheckedFields):
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
class AdcConfig(CheckedFields):
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
    """Opacities are reset after each such fraction of the run (3DGS: 3000 of 30000 steps)."""
    reset_at_least: int = 1000
    """Least steps between two resets, since opacities need a while to recover."""


@dataclass(frozen=True)
class DeformationConfig(CheckedFields):
    """How a moving scene is trained."""

    warmup: int = 60
    """Steps before anything moves (4DGS: its coarse stage), a tenth of the run at the most. Hundreds make a still scene
    of what moves, which motion then hardly undoes."""
    open_until: float = 0.7
    """With several cameras at each time only the middle of the times is shown at first; the rest is added evenly until
    this fraction of the run. 0 shows all times from the start, as scenes with one camera do."""
    mean_until: float = 0.7
    """With one camera at each time the squared error replaces L1 and SSIM until this fraction of the run, so that
    what moves leaves a trace."""
    scales: bool = False
    """Let scales change with time."""
    opacity: bool = True
    """Let opacities change with time."""
    color: bool = True
    """Let the constant part of colors change with time."""
    rate: float = 1.5e-4
    """Learning rate of the networks at the start, which falls with the number of steps, too."""
    rate_final: float = 1.5e-5
    """Learning rate of the networks at the end of the run."""
    plane_rate: float = 4e-3
    """Learning rate of the planes of a HexPlane at the start."""
    plane_rate_final: float = 4e-4
    """Learning rate of the planes of a HexPlane at the end of the run."""


@dataclass(frozen=True)
class TrainConfig(CheckedFields):
    """How to train. Whatever is left out comes from the preset.

    Raises:
        UserError: a value is not of the type of its field.

    >>> config = nfc_gs.TrainConfig(steps=2000, seed=7)
    >>> config.method, config.max_gaussians is None
    ('nfr', True)
    >>> nfc_gs.TrainConfig(steps="abc")
    Traceback (most recent call last):
        ...
    nfc_gs.core.errors.UserError: TrainConfig(steps='abc'): steps must be a whole number or None.
    """

    method: MethodName = "nfr"
    """What is learnt: nfr (regression), nfc (with a classification loss), nfc-te (the same with the bit head),
    nfc-bitwise (the bit head, with a loss on each bit)."""
    preset: Preset = "auto"
    """fast: minutes on a CPU; quality: longer; paper: the 30000 steps of 3DGS-MCMC; auto: fast on a CPU, quality on a
    GPU."""
    steps: int | None = None
    """Number of optimisation steps. By default the preset's."""
    time_budget: str | None = None
    """Train as well as possible in this time instead of for a number of steps: 90s, 3m, 1h."""
    max_gaussians: int | None = None
    """Most Gaussians there may be. By default the preset's number, or what the time budget affords; fewer where the
    memory does not suffice."""
    seed: int = 0
    """The same seed and number of steps give the same result."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N (the GPU of that number); auto takes a GPU if there is one."""
    backend: str = "auto"
    """The rasterizer, a name of `rendering.registry.BACKEND_NAMES`; auto takes the fastest that works on
    the device. With torch
    everything else is the readable reference, too."""
    sh_degree: int | None = None
    """Degree of the view-dependent color, 0 (none) to 3. By default the preset's."""
    head: HeadName | None = None
    """What colors the Gaussians: sh (spherical harmonics) or bits (24 bit logits each). By default the method's."""
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
    """Opacity of the first Gaussians (3DGS: 0.1, MCMC: 0.5). By default the preset's."""
    init_scale: float | None = None
    """Size of the first Gaussians, times the distance of neighbouring points (3DGS: 1, MCMC: 0.1). By default the
    preset's."""
    density: DensityName = "mcmc"
    """How Gaussians are added and removed: mcmc, adc (3DGS) or none."""
    coarse_factor: int | None = None
    """Training images begin this many times smaller (1, 2, 4, 8). By default the preset's."""
    full_resolution_at: float | None = None
    """Fraction of the run, or of `early_steps` in a longer one, after which images have their full size. By default
    the preset's."""
    growth_end: float | None = None
    """Fraction of the run after which the number of Gaussians may reach its maximum. By default the preset's."""
    grow_factor: float | None = None
    """Each refinement adds at most this fraction of the Gaussians (MCMC: 0.05). By default the preset's."""
    means_factor: float | None = None
    """The learning rate of the centres begins this many times higher than `rates.means`, made for 30000 steps; this
    fades until the end of the run, or for `early_steps`. By default the preset's."""
    rate_factor: float | None = None
    """The same for all other rates but the opacities', and for the final rate of the centres. By default the
    preset's."""
    early_steps: int | None = None
    """In a run of more steps than this, `full_resolution_at` and `sh_ramp` are fractions of so many steps, after which
    `means_factor` has ended, too. By default the preset's."""
    sh_ramp: float = 0.1
    """Fraction of the run, or of `early_steps` in a longer one, after which the full SH degree is used (3DGS: one
    degree per 1000 of 30000 steps)."""
    eval_every: float = 0.25
    """Held-out views are measured after each such fraction of the run; 0 for never."""
    checkpoint_every: float = 30.0
    """Seconds between two checkpoints."""
    objective: ObjectiveOptions = field(default_factory=ObjectiveOptions)
    """What is minimised."""
    rates: LearningRates = field(default_factory=LearningRates)
    """Learning rates."""
    adam_moments: MomentsName = "float32"
    """How Adam's two moments of each parameter of the Gaussians are stored; bfloat16 takes half the memory."""
    refine: RefineConfig = field(default_factory=RefineConfig)
    """When density control acts."""
    mcmc: McmcConfig = field(default_factory=McmcConfig)
    """Density control "mcmc"."""
    adc: AdcConfig = field(default_factory=AdcConfig)
    """Density control "adc"."""
    motion: MotionChoice = "auto"
    """What moves the Gaussians of a capture with times: hexplane (4DGS), mlp (Deformable 3DGS), none (train a static
    splat); auto: hexplane."""
    deformation: DeformationConfig = field(default_factory=DeformationConfig)
    """How motion is trained."""
    hexplane: HexPlaneConfig = field(default_factory=HexPlaneConfig)
    """Motion "hexplane"."""
    mlp: MlpConfig = field(default_factory=MlpConfig)
    """Motion "mlp"."""


@dataclass(frozen=True)
class ResolvedConfig(TrainConfig):
    """A `TrainConfig` in which nothing is left open: the fields that are narrower than there."""

    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    budget_seconds: float | None = None
    """The time budget in seconds; None with a number of steps, of which exactly one of the two is given."""
    max_gaussians: int = 0
    sh_degree: int = 0
    head: HeadName = "sh"
    init_opacity: float = 0.0
    init_scale: float = 0.0
    coarse_factor: int = 1
    full_resolution_at: float = 0.0
    growth_end: float = 0.0
    grow_factor: float = 0.0
    means_factor: float = 0.0
    rate_factor: float = 0.0
    early_steps: int = 1
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dictionaries, for YAML and JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ResolvedConfig:
        """The inverse of `to_dict`.

        Raises:
            UserError: a field is missing or unknown.
        """
        parts = dict(values)
        for name, kind in get_type_hints(ResolvedConfig).items():
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                parts[name] = _build(kind, parts.get(name), f"{name}.")
        return _build(ResolvedConfig, parts, "")


_T = TypeVar("_T")


def _build(kind: type[_T], values: Any, prefix: str) -> _T:
    """An instance of the dataclass `kind` from a dictionary of all of its fields."""
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    given = set(values) if isinstance(values, Mapping) else set()
    if given != names:
        other = in_one_line(min(given ^ names))
        raise UserError(
            f"The saved configuration does not fit this version of nfc-gs (field {prefix}{other}); start a new run."
        )
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
