"""Statistics of `tables.py`: means over seeds, and paired differences to a baseline with their intervals.

A module of `tables.py`, not a command.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ALL = "all captures"
CONFIDENCE = 0.95

METRICS = ("psnr", "ssim", "lpips", "train_psnr", "gap")
"""What is averaged and compared; gap is the training PSNR minus the test PSNR."""


@dataclass(frozen=True)
class Result:
    """A finished job in one of the experiments that use it: the entry of the plan, and the record."""

    use: Mapping[str, Any]
    record: Mapping[str, Any]

    @property
    def pair(self) -> tuple[str, int]:
        """Capture and seed: results are compared with those of the same ones."""
        return self.use["capture"], self.use["seed"]

    def value(self, metric: str) -> float | None:
        """A number of the record, or None if it has none."""
        test, train = self.record["test"], self.record["train"]
        if metric == "gap":
            known = train["psnr"] is not None and test["psnr"] is not None
            return train["psnr"] - test["psnr"] if known else None
        return train["psnr"] if metric == "train_psnr" else test.get(metric)


@dataclass(frozen=True)
class Difference:
    """A mean difference of pairs and its confidence interval, which one pair alone does not give."""

    mean: float
    low: float | None
    high: float | None
    pairs: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0.0 or self.high < 0.0)


def mean_and_deviation(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where there are too few values."""
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def paired_difference(pairs: Sequence[tuple[float, float]]) -> Difference | None:
    """Mean of first minus second with the interval of Student's t; None without pairs."""
    from scipy.stats import t

    differences = [a - b for a, b in pairs]
    mean, deviation = mean_and_deviation(differences)
    if mean is None:
        return None
    if deviation is None:
        return Difference(mean, None, None, 1)
    half = float(t.ppf(0.5 + CONFIDENCE / 2, len(differences) - 1)) * deviation / math.sqrt(len(differences))
    return Difference(mean, mean - half, mean + half, len(differences))


def compare(results: Iterable[Result], others: Iterable[Result], metric: str) -> Difference | None:
    """The paired difference of two variants in a metric, over the captures and seeds that both have."""
    known = {other.pair: other.value(metric) for other in others}
    pairs = []
    for result in results:
        ours, theirs = result.value(metric), known.get(result.pair)
        if ours is not None and theirs is not None:
            pairs.append((ours, theirs))
    return paired_difference(pairs)


def verdict(difference: Difference, lower_is_better: bool = False) -> str:
    """'better', 'worse' or 'unclear'; empty for a single pair."""
    if difference.low is None:
        return ""
    if not difference.clear:
        return "unclear"
    return "better" if (difference.mean > 0.0) != lower_is_better else "worse"


@dataclass(frozen=True)
class Summary:
    """A variant under a condition, on one capture or all."""

    capture: str
    condition: str
    variant: str
    use: Mapping[str, Any]
    results: tuple[Result, ...]
    mean: dict[str, float | None]
    deviation: dict[str, float | None]
    to_baseline: dict[str, Difference | None] | None
    """By metric; None for the baseline itself."""
    to_partner: dict[str, Difference | None] | None
    """By metric; None without a partner."""


def unique(values: Iterable[Any]) -> list[Any]:
    """Each once, in order of first appearance."""
    return list(dict.fromkeys(values))


def summarise(results: Sequence[Result], baseline: str) -> list[Summary]:
    """All variants under all conditions on each capture, then, if there are several, on all of them."""
    captures = unique(r.use["capture"] for r in results)
    summaries = []
    for capture in [*captures, *([ALL] if len(captures) > 1 else [])]:
        here = [r for r in results if capture in (ALL, r.use["capture"])]
        for condition in _conditions(here):
            group = [r for r in here if r.use["condition"] == condition]
            by_variant = {
                variant: [r for r in group if r.use["variant"] == variant]
                for variant in unique(r.use["variant"] for r in group)
            }
            for variant, own in by_variant.items():
                values = {m: [v for r in own if (v := r.value(m)) is not None] for m in METRICS}
                moments = {m: mean_and_deviation(values[m]) for m in METRICS}
                partner = own[0].use["partner"]
                summaries.append(
                    Summary(
                        capture,
                        condition,
                        variant,
                        own[0].use,
                        tuple(own),
                        {m: mean for m, (mean, _) in moments.items()},
                        {m: deviation for m, (_, deviation) in moments.items()},
                        None if variant == baseline else _compare_all(own, by_variant.get(baseline, [])),
                        None if partner is None else _compare_all(own, by_variant.get(partner, [])),
                    )
                )
    return summaries


def _compare_all(results: list[Result], others: list[Result]) -> dict[str, Difference | None]:
    return {metric: compare(results, others, metric) for metric in METRICS}


def _conditions(results: Iterable[Result]) -> list[str]:
    """Conditions in the order of their place on the axis, where they have one."""
    places = {r.use["condition"]: r.use["x"] for r in results}
    names = list(places)
    return sorted(names, key=lambda name: places[name] or 0.0) if len(names) > 1 else names
