"""What the figures of a run mean, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from nfc_gs.data.sampler import MEASURED_WHILE_TRAINING
from nfc_gs.runs.metrics import Metrics

QUALITY = (
    (18.0, "hardly recognisable: check cameras and photos, or train longer"),
    (22.0, "rough: large shapes and colors are right, detail is missing"),
    (27.0, "fair: shapes and edges are right, texture is blurred"),
    (31.0, "good for a preview: close to the photos, fine detail is soft"),
    (35.0, "good: only the finest detail is soft"),
)
"""(PSNR in dB below which it holds, what one sees) of held-out views, judged by eye on the captures of `GAINS`."""

BEST = "very good: hard to tell from the photos"
"""The same above all of `QUALITY`."""

FLAT = "of no use: no better than one flat color for each photo"
"""The same where that is so, whatever the PSNR."""

FALL = 1.0
"""dB by which the held-out views may become worse in a sound run, as where few photos are learned by heart."""

JUDGED_STEPS = 50
"""Steps after which a sound training is better than that; shorter ones are only tried."""

EMPTY_ALPHA = 0.01
"""Mean alpha below which renderings are empty."""


GAINS = ((250, 2.5), (500, 1.8), (1000, 0.8), (2000, 0.8), (4000, 0.5))
"""(Steps of a run, how much more PSNR in dB a run of twice as many has): medians over captures, measured by
`python tools/bench/bench.py quality`; the curves are in tools/bench/README.md."""

LEAST_GAIN = 0.1
"""dB; a smaller gain is not worth a sentence, since two seeds differ by as much."""


@dataclass(frozen=True)
class Verdict:
    """What a PSNR of held-out views means.

    Attributes:
        quality: what one sees, in a few words.
        outlook: a sentence on what longer training usually gives; None where hardly anything is known to be gained.
    """

    quality: str
    outlook: str | None

    def __str__(self) -> str:
        return f"{self.quality}." if self.outlook is None else f"{self.quality}. {self.outlook}"


def quality_in_words(psnr: float) -> str:
    """What one sees in views of this mean PSNR in dB (not NaN), in a few words."""
    return next((words for bound, words in QUALITY if psnr < bound), BEST)


def verdict(psnr: float, *, steps: int, better_than_flat: bool | None = None) -> Verdict:
    """What the mean PSNR of the held-out views of a static run means, and what twice as many steps would bring.

    Args:
        psnr: dB; not NaN.
        steps: optimisation steps of the run.
        better_than_flat: as `Metrics` has it; None if that is not known.
    """
    if better_than_flat is False and steps >= JUDGED_STEPS:
        return Verdict(FLAT, None)
    quality = quality_in_words(psnr)
    gain = _gain(steps)
    if gain < LEAST_GAIN or math.isinf(psnr):
        return Verdict(quality, None)
    return Verdict(quality, f"A run of twice as many steps ({2 * steps:,}) usually gains about {gain:.1f} dB.")


def shortfall(metrics: Metrics, history: Sequence[Mapping[str, Any]], *, steps: int) -> str | None:
    """What is wrong with a training whose renderings show nothing or have not become better; None if nothing is.

    Args:
        metrics: of the held-out views at the end.
        history: the lines of the run's history, oldest first.
        steps: optimisation steps done.

    Returns:
        A sentence with numbers and likely causes.
    """
    psnr, flat = metrics.psnr, metrics.flat_psnr
    if psnr is None or steps < JUDGED_STEPS:
        return None
    after = f"after {steps:,} steps"
    if metrics.better_than_flat is False and flat is not None:
        against = f"PSNR {psnr:.1f} dB, and {flat:.1f} dB for the mean color of each photo"
        if metrics.alpha is not None and metrics.alpha < EMPTY_ALPHA:
            return (
                f"The held-out views are rendered empty {after} (mean alpha {metrics.alpha:.3f}; {against}): likely no "
                "camera sees the points, or the poses are wrong."
            )
        return (
            f"The held-out views are rendered no better than one flat color {after} ({against}): likely the poses are "
            "wrong or belong to other photos, no camera sees the points, or the training was too short."
        )
    first = next((line for line in history if isinstance(line.get("test_psnr"), float)), None)
    psnr = metrics.among(MEASURED_WHILE_TRAINING).psnr  # of the same views as in the history
    if first is not None and psnr is not None and psnr < first["test_psnr"] - FALL:
        return (
            f"The held-out views have become worse in training (PSNR {first['test_psnr']:.1f} dB after step "
            f"{first['step']:,}, {psnr:.1f} dB {after}): likely some poses are wrong, or the photos are too few."
        )
    return None


def _gain(steps: int) -> float:
    """The gain of twice as many steps, interpolated in log(steps); 0 outside of what was measured."""
    for (low, low_gain), (high, high_gain) in pairwise(GAINS):
        if low <= steps <= high:
            return low_gain + math.log(steps / low) / math.log(high / low) * (high_gain - low_gain)
    return 0.0
