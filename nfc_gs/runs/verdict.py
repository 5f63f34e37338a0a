"""What the figures of a run mean, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

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


def verdict(psnr: float, *, steps: int) -> Verdict:
    """What the mean PSNR of the held-out views of a static run means, and what twice as many steps would bring.

    Args:
        psnr: dB; not NaN.
        steps: optimisation steps of the run.
    """
    quality = quality_in_words(psnr)
    gain = _gain(steps)
    if gain < LEAST_GAIN or math.isinf(psnr):
        return Verdict(quality, None)
    return Verdict(quality, f"A run of twice as many steps ({2 * steps:,}) usually gains about {gain:.1f} dB.")


def _gain(steps: int) -> float:
    """The gain of twice as many steps, interpolated in log(steps); 0 outside of what was measured."""
    for (low, low_gain), (high, high_gain) in pairwise(GAINS):
        if low <= steps <= high:
            return low_gain + math.log(steps / low) / math.log(high / low) * (high_gain - low_gain)
    return 0.0
