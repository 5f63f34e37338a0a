"""What the figures of a run mean, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from nfc_gs.core.text import duration

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


@dataclass(frozen=True)
class Doubling:
    """What twice the training brings, the median over captures.

    Attributes:
        steps: of the shorter run.
        gain: of the PSNR of held-out views, dB.
        time: training time of the longer run / that of the shorter one.
    """

    steps: int
    gain: float
    time: float


GAINS = (
    Doubling(250, 1.9, 2.1),
    Doubling(500, 1.6, 2.2),
    Doubling(1000, 1.1, 2.2),
    Doubling(2000, 0.6, 2.3),
    Doubling(4000, 0.3, 2.3),
)
"""Measured by `python tools/bench/bench.py quality`; the captures and their curves are in tools/bench/README.md."""

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


def verdict(psnr: float, *, steps: int, seconds: float) -> Verdict:
    """What the mean PSNR of the held-out views of a static run means, and what twice as many steps would bring.

    Args:
        psnr: dB; not NaN.
        steps, seconds: optimisation steps of the run, and the time they took.
    """
    quality = next((words for bound, words in QUALITY if psnr < bound), BEST)
    doubling = _doubling(steps)
    if doubling is None or doubling.gain < LEAST_GAIN or math.isinf(psnr):
        return Verdict(quality, None)
    outlook = (
        f"Twice as many steps (--steps {2 * steps}, about {duration(seconds * doubling.time)}) usually give about "
        f"{psnr + doubling.gain:.1f} dB."
    )
    return Verdict(quality, outlook)


def _doubling(steps: int) -> Doubling | None:
    """What is known of twice as many steps, interpolated in log(steps); None outside of what was measured."""
    for low, high in pairwise(GAINS):
        if low.steps <= steps <= high.steps:
            t = math.log(steps / low.steps) / math.log(high.steps / low.steps)
            return Doubling(steps, low.gain + t * (high.gain - low.gain), low.time + t * (high.time - low.time))
    return None
