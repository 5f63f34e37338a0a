"""The arms and experiments of `paper_tables.py`: which settings are compared, under which conditions, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nfc_gs.core.errors import UserError
from nfc_gs.objective.presets import LAMBDA
from nfc_gs.training.config import LearningRates

SAME_FOR_ALL = ("preset", "steps", "time_budget", "max_gaussians", "seed", "device", "backend", "rates")
"""Settings that no arm may change: they are what makes the arms comparable."""

OWN_RATES = ("rates.bits", "rates.bit_shifts")
"""But these learning rates only the bit head has."""

CE_BAND = "ce_band"
"""An override that is no field of `TrainConfig`: the band of the picture that cross entropy compares, "low" or
"residual" (`paper_bands.py`)."""

ALL_RATES = "all_rates"
"""An override that is no field of `TrainConfig`: a factor on every learning rate, the exploration noise, which is
proportional to one of them, staying as it is."""


@dataclass(frozen=True)
class Arm:
    """One way of training: a name and what it changes in `TrainConfig`."""

    name: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `TrainConfig`, those of its parts with a dot ("objective.ce"); `ALL_RATES` or `CE_BAND`."""
    partner: str | None = None
    """The arm that this one is also compared with, where the experiment's baseline is not the (only) one to look at."""
    series: str | None = None
    """The line of a plot that it belongs to; by default its own name."""
    x: float | None = None
    """Where on that line it is; None if it lies on none."""

    def __post_init__(self) -> None:
        for name in self.overrides:
            if name.partition(".")[0] in SAME_FOR_ALL and name not in OWN_RATES:
                raise ValueError(f"the arm '{self.name}' changes {name}, which is the same in all arms")


@dataclass(frozen=True)
class Condition:
    """What is done to a capture's training views before any arm sees them."""

    views: float = 1.0
    """Share of the training views that is kept."""
    noise: float = 0.0
    """Standard deviation of the noise added to their pictures, in units of the range [0, 1]."""

    @property
    def label(self) -> str:
        """In words; empty if nothing is done."""
        words = [] if self.views == 1.0 else [f"{self.views:.0%} of the views"]
        return ", ".join(words + ([f"noise {self.noise:g}"] if self.noise else []))


@dataclass(frozen=True)
class Experiment:
    """A question, and the arms and conditions that answer it."""

    question: str
    arms: Sequence[Arm]
    conditions: Sequence[Condition] = (Condition(),)
    kind: str = "arms"
    """How it is shown: arms (differences to the baseline), lines (over an axis), curves, or cost."""
    axis: str = ""
    """What the axis of the lines is; they are over the condition where there are several."""
    logarithmic: bool = False
    baseline: str = "nfr"
    """The arm that all are compared with, under the same condition and seed."""
    notes: Sequence[str] = ()


def with_and_without_ce(name: str, overrides: Mapping[str, Any]) -> tuple[Arm, Arm]:
    """A setting for regression alone, and the same with channel-wise cross entropy, to be compared with it."""
    return (
        Arm(name, {"method": "nfr", **overrides}),
        Arm(f"{name} + ce", {"method": "nfc", **overrides}, partner=name),
    )


def plain(l1: float, mse: float, ssim: float) -> dict[str, float]:
    """Overrides: a regression of these weights."""
    return {"objective.l1": l1, "objective.mse": mse, "objective.ssim": ssim}


def bit_rates(factor: float) -> dict[str, float]:
    """Overrides: the learning rates of the bit head times a factor."""
    rates = LearningRates()
    return {"rates.bits": factor * rates.bits, "rates.bit_shifts": factor * rates.bit_shifts}


NFR = Arm("nfr", {"method": "nfr"})
NFR_MSE = Arm("nfr-mse", {"method": "nfr", "head": "sh", "objective.mse": 2.0 * LAMBDA})
"""Near its minimum, cross entropy is (c - y)^2 / (2 c (1 - c)): at mid grey, twice the squared error."""
NFC = Arm("nfc", {"method": "nfc"})
NFC_TE = Arm("nfc-te", {"method": "nfc-te"})
WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
FACTORS = (0.5, 1.0, 2.0)

SEARCH: tuple[Arm, ...] = (
    NFR,
    NFC,
    NFC_TE,
    Arm("nfc early", {"method": "nfc", "objective.ce_until": 0.3}, partner="nfc"),
    Arm("nfc late", {"method": "nfc", "objective.ce_from": 0.5}, partner="nfc"),
    Arm("nfc-te early", {"method": "nfc-te", "objective.ce_until": 0.3}, partner="nfc-te"),
    Arm("nfc-te late", {"method": "nfc-te", "objective.ce_from": 0.5}, partner="nfc-te"),
    *with_and_without_ce("mse", plain(0.0, 2.0, 0.0)),
    *with_and_without_ce("mse, ssim", plain(0.0, 2.0, 0.2)),
    *with_and_without_ce("l1", plain(1.0, 0.0, 0.0)),
    Arm("nfc eps 0.03", {"method": "nfc", "objective.ce_eps": 0.03}, partner="nfc"),
    Arm("nfc low-pass", {"method": "nfc", CE_BAND: "low"}, partner="nfc"),
    Arm("nfc residual", {"method": "nfc", CE_BAND: "residual"}, partner="nfc"),
    Arm("nfc-te hard start", {"method": "nfc-te", "bit_hardness": 0.7}, partner="nfc-te"),
    Arm("nfc-te rates x2", {"method": "nfc-te", **bit_rates(2.0)}, partner="nfc-te"),
    Arm("nfc-te rates x0.5", {"method": "nfc-te", **bit_rates(0.5)}, partner="nfc-te"),
    Arm("ce alone", {"method": "nfc", **plain(0.0, 0.0, 0.0), "objective.ce": 1.0}, partner="mse"),
    *with_and_without_ce("reg 0.003", {"mcmc.opacity_reg": 0.003}),
    *with_and_without_ce("reg 0.03", {"mcmc.opacity_reg": 0.03}),
)
"""Candidates for where classification helps. One more is one more line."""

HARD_SEARCH: tuple[Arm, ...] = (
    NFR,
    NFR_MSE,
    *(Arm(f"nfc {weight:g}", {"method": "nfc", "objective.ce": weight}) for weight in (0.3, 1.0, 3.0)),
    *with_and_without_ce("mse", plain(0.0, 2.0, 0.0)),
    *with_and_without_ce("l1", plain(1.0, 0.0, 0.0)),
    Arm("ce alone", {"method": "nfc", **plain(0.0, 0.0, 0.0), "objective.ce": 1.0}, partner="mse"),
    Arm("nfc-te 1", {"method": "nfc-te", "objective.ce": 1.0}),
    Arm("nfc-bitwise", {"method": "nfc-bitwise", "objective.bit_ce": 1.0}),
    *with_and_without_ce("reg 0.03", {"mcmc.opacity_reg": 0.03}),
)
"""The same where the training pictures are few or noisy."""

EXPERIMENTS: dict[str, Experiment] = {
    "main": Experiment(
        "Does classification beat regression?",
        (NFR, NFR_MSE, NFC, NFC_TE),
        notes=(
            "nfr-mse has a squared error in place of the cross entropy, as strong as that is at mid grey: it tells "
            "what is due to classification from what any squared error brings.",
        ),
    ),
    "sparse": Experiment(
        "Does it help with few training views?",
        (NFR, NFC, NFC_TE),
        tuple(Condition(views=share) for share in (0.2, 0.4, 0.6, 0.8, 1.0)),
        kind="lines",
        axis="share of the training views",
        notes=("The first points are those of the whole capture at every share.",),
    ),
    "noise": Experiment(
        "Does it help with noisy training pictures?",
        (NFR, NFR_MSE, NFC, NFC_TE),
        tuple(Condition(noise=sigma) for sigma in (0.2, 0.4, 0.6)),
        kind="lines",
        axis="standard deviation of the noise",
        notes=("Test pictures and first points are clean; training PSNR is measured on the noisy pictures.",),
    ),
    "ablation": Experiment(
        "Which part does what?",
        (
            NFR,
            Arm("te-only", {"method": "nfr", "head": "bits"}),
            NFC,
            Arm("nfc-te", {"method": "nfc-te"}, partner="nfc"),
            Arm("nfc-te full view", {"method": "nfc-te", "bit_view": "full"}, partner="nfc-te"),
            Arm("nfr degree 0", {"method": "nfr", "sh_degree": 0}),
            Arm("nfc-te degree 0", {"method": "nfc-te", "sh_degree": 0}, partner="nfr degree 0"),
        ),
    ),
    "lambda": Experiment(
        "What weight should classification have?",
        (
            NFR,
            *(Arm(f"nfc {w:g}", {"method": "nfc", "objective.ce": w}, series="nfc", x=w) for w in WEIGHTS),
            *(Arm(f"nfc-te {w:g}", {"method": "nfc-te", "objective.ce": w}, series="nfc-te", x=w) for w in WEIGHTS),
        ),
        kind="lines",
        axis="weight of the cross entropy",
        logarithmic=True,
    ),
    "density": Experiment(
        "Does the gradient of cross entropy lead density control to other Gaussians?",
        (
            Arm("nfr adc", {"method": "nfr", "density": "adc"}),
            Arm("nfc adc", {"method": "nfc", "density": "adc"}),
            Arm("nfc-te adc", {"method": "nfc-te", "density": "adc"}),
        ),
        baseline="nfr adc",
        notes=("Adaptive density control compares the size of gradients with a threshold, so the numbers differ.",),
    ),
    "bitwise": Experiment(
        "Channel-wise or bit-wise classification?",
        (NFR, NFC_TE, Arm("nfc-bitwise", {"method": "nfc-bitwise"}, partner="nfc-te")),
    ),
    "rates": Experiment(
        "Is a gain nothing but another step size?",
        (
            *(Arm(f"nfr x{f:g}", {"method": "nfr", ALL_RATES: f}, series="nfr", x=f) for f in FACTORS),
            *(Arm(f"nfc x{f:g}", {"method": "nfc", ALL_RATES: f}, f"nfr x{f:g}", series="nfc", x=f) for f in FACTORS),
        ),
        kind="lines",
        axis="factor on every learning rate",
        logarithmic=True,
        baseline="nfr x1",
    ),
    "generalisation": Experiment(
        "How do training and test quality part in the course of training?", (NFR, NFC, NFC_TE), kind="curves"
    ),
    "cost": Experiment(
        "What does it cost?",
        (NFR, NFR_MSE, NFC, NFC_TE),
        kind="cost",
        notes=("Timed while the jobs ran, whatever else the machine did; `tools/bench.py nfc` is the exact measure.",),
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
            "The weights of the opacity and scale regularisers are the same in all arms; beside a stronger loss they "
            "weigh less, which the arms `reg` are there to show.",
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
        raise UserError(f"No experiment is asked for; choose of {', '.join(EXPERIMENTS)}, or all.")
    return {name: EXPERIMENTS[name] for name in names}
