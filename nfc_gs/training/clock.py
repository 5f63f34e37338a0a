"""Where the time of a run goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

STAGES = ("view", "render", "loss", "backward", "optimizer", "density")
"""Stages of a step; "view" is the wait for its image."""

RUN_STAGES = ("events", "capture", "start", "timelapse", "evaluation", "saving", "export", "other")
"""Stages outside of the steps: history and listeners, reading the capture, making the first model, pictures of the
training, measuring held-out views, checkpoints, what is written at the end, and the rest."""


class StageClock:
    """Seconds spent in each stage.

    What is counted adds up to the whole: no moment counts twice, and `counting` gives its stage the rest of its body.

    Attributes:
        seconds: by stage.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys((*STAGES, *RUN_STAGES), 0.0)
        self._last = perf_counter()
        self._counted = 0.0  # by this clock, to all stages together

    def go_on(self, seconds: Mapping[str, float]) -> None:
        """Add what was counted before a run was resumed."""
        for stage, value in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + value

    def start(self) -> float:
        """Begin to measure with `lap`; the time now."""
        self._last = perf_counter()
        return self._last

    def lap(self, stage: str) -> float:
        """Count the time since the last call to this stage; the time now. Nothing else may have counted since."""
        now = perf_counter()
        self._count(stage, now - self._last)
        self._last = now
        return now

    @contextmanager
    def counting(self, stage: str) -> Iterator[None]:
        """Count the time of the body to this stage, but for what is counted to others within it."""
        began, counted = perf_counter(), self._counted
        try:
            yield
        finally:
            self._count(stage, perf_counter() - began - (self._counted - counted))

    def _count(self, stage: str, seconds: float) -> None:
        self.seconds[stage] += seconds
        self._counted += seconds
