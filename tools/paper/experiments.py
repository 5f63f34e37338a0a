"""The experiments of `tables.py`: which variants of training are compared, under which conditions, and why.

A module of `tables.py`, not a command. A new variant or experiment is a new entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from frequency_bands import band_cross_entropy
from torch import Tensor

from nfc_gs.core.errors import UserError
from nfc_gs.objective.presets import LAMBDA
from nfc_gs.objective.terms import Comparison
from nfc_gs.training.config import LearningRates

SAME_FOR_ALL = ("preset", "steps", "time_budget", "max_gaussians", "seed", "device", "backend", "rates")
"""Settings that no variant may change: they make the variants comparable."""

OWN_RATES = ("rates.bits", "rates.bit_shifts")
"""Learning rates that a variant may change: only the bit head has them."""

Terms = Mapping[str, tuple[float, Callable[[Comparison], Tensor]]]
"""Terms of the objective by name: the weight, and the function from a comparison to a scalar."""

ALL_RATES = "all_rates"
"""An override that is no field of `TrainConfig`: a factor on every learning rate. The exploration noise, which is
proportional to one of them, is kept as it is."""


@dataclass(frozen=True)
class Variant:
    """A name, and the settings of a training that are its own."""

    name: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `TrainConfig`, those of its parts with a dot ("objective.ce"), and `ALL_RATES`."""
    terms: Terms = field(default_factory=dict)
    """Terms of the objective that the package does not have."""
    partner: str | None = None
    """The variant that this one is compared with beside the experiment's baseline."""
    series: str | None = None
    """The line of a plot that it is a point of; by default its own name."""
    x: float | None = None
    """Its place on the axis of that plot; None if it has none."""

    def __post_init__(self) -> None:
        for name in self.overrides:
            if name.partition(".")[0] in SAME_FOR_ALL and name not in OWN_RATES:
                raise ValueError(f"the variant '{self.name}' changes {name}, which is the same in all variants")


@dataclass(frozen=True)
class Condition:
    """What is done to a capture's training views before all trainings."""

    views: float = 1.0
    """Fraction of the training views that is kept."""
    noise: float = 0.0
    """Standard deviation of the noise added to their pictures, in units of the range [0, 1]."""

    @property
    def label(self) -> str:
        """In words; empty if nothing is done."""
        words = [] if self.views == 1.0 else [f"{self.views:.0%} of the views"]
        return ", ".join(words + ([f"noise {self.noise:g}"] if self.noise else []))


@dataclass(frozen=True)
class Experiment:
    """A question, and the variants and conditions that answer it."""

    question: str
    variants: Sequence[Variant]
    conditions: Sequence[Condition] = (Condition(),)
    kind: str = "differences"
    """How it is shown: differences (to the baseline), lines (over an axis), curves, or cost."""
    axis: str = ""
    """Name of the axis of the lines: the condition where there are several, else the `x` of the variants."""
    logarithmic: bool = False
    baseline: str = "nfr"
    """The variant that all are compared with, under the same condition and seed."""
    notes: Sequence[str] = ()


def with_and_without_ce(name: str, overrides: Mapping[str, Any]) -> tuple[Variant, Variant]:
    """A setting for regression alone, and the same with channel-wise cross entropy, to be compared with it."""
    return (
        Variant(name, {"method": "nfr", **overrides}),
        Variant(f"{name} + ce", {"method": "nfc", **overrides}, partner=name),
    )


def plain(l1: float, mse: float, ssim: float) -> dict[str, float]:
    """Overrides: a regression of these weights."""
    return {"objective.l1": l1, "objective.mse": mse, "objective.ssim": ssim}


def bit_rates(factor: float) -> dict[str, float]:
    """Overrides: the learning rates of the bit head times a factor."""
    rates = LearningRates()
    return {"rates.bits": factor * rates.bits, "rates.bit_shifts": factor * rates.bit_shifts}


NFR = Variant("nfr", {"method": "nfr"})
NFR_MSE = Variant("nfr-mse", {"method": "nfr", "head": "sh", "objective.mse": 2.0 * LAMBDA})
"""Near its minimum, cross entropy is (c - y)^2 / (2 c (1 - c)): at mid grey, twice the squared error."""
NFC = Variant("nfc", {"method": "nfc"})
NFC_TE = Variant("nfc-te", {"method": "nfc-te"})
WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
FACTORS = (0.5, 1.0, 2.0)

SEARCH: tuple[Variant, ...] = (
    NFR,
    NFC,
    NFC_TE,
    Variant("nfc early", {"method": "nfc", "objective.ce_until": 0.3}, partner="nfc"),
    Variant("nfc late", {"method": "nfc", "objective.ce_from": 0.5}, partner="nfc"),
    Variant("nfc-te early", {"method": "nfc-te", "objective.ce_until": 0.3}, partner="nfc-te"),
    Variant("nfc-te late", {"method": "nfc-te", "objective.ce_from": 0.5}, partner="nfc-te"),
    *with_and_without_ce("mse", plain(0.0, 2.0, 0.0)),
    *with_and_without_ce("mse, ssim", plain(0.0, 2.0, 0.2)),
    *with_and_without_ce("l1", plain(1.0, 0.0, 0.0)),
    Variant("nfc eps 0.03", {"method": "nfc", "objective.ce_eps": 0.03}, partner="nfc"),
    Variant(
        "nfc low-pass",
        {"method": "nfr"},
        {"ce low": (LAMBDA, partial(band_cross_entropy, band="low"))},
        partner="nfc",
    ),
    Variant(
        "nfc residual",
        {"method": "nfr"},
        {"ce residual": (LAMBDA, partial(band_cross_entropy, band="residual"))},
        partner="nfc",
    ),
    Variant("nfc-te hard start", {"method": "nfc-te", "bit_hardness": 0.7}, partner="nfc-te"),
    Variant("nfc-te rates x2", {"method": "nfc-te", **bit_rates(2.0)}, partner="nfc-te"),
    Variant("nfc-te rates x0.5", {"method": "nfc-te", **bit_rates(0.5)}, partner="nfc-te"),
    Variant("ce alone", {"method": "nfc", **plain(0.0, 0.0, 0.0), "objective.ce": 1.0}, partner="mse"),
    *with_and_without_ce("reg 0.003", {"mcmc.opacity_reg": 0.003}),
    *with_and_without_ce("reg 0.03", {"mcmc.opacity_reg": 0.03}),
)
"""Candidates for where classification helps."""

HARD_SEARCH: tuple[Variant, ...] = (
    NFR,
    NFR_MSE,
    *(Variant(f"nfc {weight:g}", {"method": "nfc", "objective.ce": weight}) for weight in (0.3, 1.0, 3.0)),
    *with_and_without_ce("mse", plain(0.0, 2.0, 0.0)),
    *with_and_without_ce("l1", plain(1.0, 0.0, 0.0)),
    Variant("ce alone", {"method": "nfc", **plain(0.0, 0.0, 0.0), "objective.ce": 1.0}, partner="mse"),
    Variant("nfc-te 1", {"method": "nfc-te", "objective.ce": 1.0}),
    Variant("nfc-bitwise", {"method": "nfc-bitwise", "objective.bit_ce": 1.0}),
    *with_and_without_ce("reg 0.03", {"mcmc.opacity_reg": 0.03}),
)
"""The same where the training pictures are few or noisy."""

EXPERIMENTS: dict[str, Experiment] = {
    "main": Experiment(
        "Does classification beat regression?",
        (NFR, NFR_MSE, NFC, NFC_TE),
        notes=(
            "nfr-mse has a squared error in place of the cross entropy, as strong as that is at mid grey: it "
            "separates the effect of classification from that of any squared error.",
        ),
    ),
    "sparse": Experiment(
        "Does it help with few training views?",
        (NFR, NFC, NFC_TE),
        tuple(Condition(views=share) for share in (0.2, 0.4, 0.6, 0.8, 1.0)),
        kind="lines",
        axis="share of the training views",
        notes=("The initial points are those of the whole capture in all conditions.",),
    ),
    "noise": Experiment(
        "Does it help with noisy training pictures?",
        (NFR, NFR_MSE, NFC, NFC_TE),
        tuple(Condition(noise=sigma) for sigma in (0.2, 0.4, 0.6)),
        kind="lines",
        axis="standard deviation of the noise",
        notes=("Test pictures and initial points are clean; training PSNR is measured on the noisy pictures.",),
    ),
    "ablation": Experiment(
        "Which part does what?",
        (
            NFR,
            Variant("te-only", {"method": "nfr", "head": "bits"}),
            NFC,
            Variant("nfc-te", {"method": "nfc-te"}, partner="nfc"),
            Variant("nfc-te full view", {"method": "nfc-te", "bit_view": "full"}, partner="nfc-te"),
            Variant("nfr degree 0", {"method": "nfr", "sh_degree": 0}),
            Variant("nfc-te degree 0", {"method": "nfc-te", "sh_degree": 0}, partner="nfr degree 0"),
        ),
    ),
    "lambda": Experiment(
        "What weight should classification have?",
        (
            NFR,
            *(Variant(f"nfc {w:g}", {"method": "nfc", "objective.ce": w}, series="nfc", x=w) for w in WEIGHTS),
            *(Variant(f"nfc-te {w:g}", {"method": "nfc-te", "objective.ce": w}, series="nfc-te", x=w) for w in WEIGHTS),
        ),
        kind="lines",
        axis="weight of the cross entropy",
        logarithmic=True,
    ),
    "density": Experiment(
        "Does the gradient of cross entropy lead density control to other Gaussians?",
        (
            Variant("nfr adc", {"method": "nfr", "density": "adc"}),
            Variant("nfc adc", {"method": "nfc", "density": "adc"}),
            Variant("nfc-te adc", {"method": "nfc-te", "density": "adc"}),
        ),
        baseline="nfr adc",
        notes=("Adaptive density control compares the size of gradients with a threshold, so the numbers differ.",),
    ),
    "bitwise": Experiment(
        "Channel-wise or bit-wise classification?",
        (NFR, NFC_TE, Variant("nfc-bitwise", {"method": "nfc-bitwise"}, partner="nfc-te")),
    ),
    "rates": Experiment(
        "Is a gain nothing but another step size?",
        (
            *(Variant(f"nfr x{f:g}", {"method": "nfr", ALL_RATES: f}, series="nfr", x=f) for f in FACTORS),
            *(
                Variant(f"nfc x{f:g}", {"method": "nfc", ALL_RATES: f}, partner=f"nfr x{f:g}", series="nfc", x=f)
                for f in FACTORS
            ),
        ),
        kind="lines",
        axis="factor on every learning rate",
        logarithmic=True,
        baseline="nfr x1",
    ),
    "generalisation": Experiment(
        "How do training and test quality diverge in the course of training?", (NFR, NFC, NFC_TE), kind="curves"
    ),
    "cost": Experiment(
        "What does it cost?",
        (NFR, NFR_MSE, NFC, NFC_TE),
        kind="cost",
        notes=(
            "Timed while the jobs ran, whatever else the machine did; `tools/bench/bench.py nfc` is the exact measure.",
        ),
    ),
    "search-sparse": Experiment(
        "Where does classification help with few training views?", HARD_SEARCH, (Condition(views=0.2),)
    ),
    "search-noise": Experiment(
        "Where does classification help with noisy training pictures?", HARD_SEARCH, (Condition(noise=0.4),)
    ),
    "search": Experiment(
        "Where does classification help?",
        SEARCH,
        notes=(
            "The weights of the opacity and scale regularisers are the same in all variants; beside a stronger loss "
            "they weigh less, which the variants `reg` show.",
            "Of many candidates about one in twenty passes a 95 % interval by chance: confirm it with new seeds "
            "(--first-seed).",
        ),
    ),
}


def chosen(names: Sequence[str]) -> dict[str, Experiment]:
    """The experiments of these names. Raises UserError if there is no such experiment."""
    names = list(EXPERIMENTS) if "all" in names else list(dict.fromkeys(names))
    for name in names:
        if name not in EXPERIMENTS:
            raise UserError(f"There is no experiment '{name}'; choose of {', '.join(EXPERIMENTS)}, or all.")
    if not names:
        raise UserError(f"No experiment is given; choose of {', '.join(EXPERIMENTS)}, or all.")
    return {name: EXPERIMENTS[name] for name in names}
