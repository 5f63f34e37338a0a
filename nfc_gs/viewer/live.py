"""A running training that is shown: snapshots of its model, its curves, and pause, save and stop.

The trainer calls a listener after each step and knows nothing of viewers. Here that listener copies the model when a
snapshot was requested, waits while the training is paused, and saves on request; whatever fails in it is logged and
does not reach the training.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, time
from typing import Protocol

from nfc_gs.core.errors import UserError
from nfc_gs.core.events import CheckpointSaved, Evaluated, Event, StepDone, TrainFinished
from nfc_gs.model.radiance import RadianceModel
from nfc_gs.runs.names import REPORT_NAME, SPLAT_NAME
from nfc_gs.viewer.scheduler import Budget
from nfc_gs.viewer.source import Source

logger = logging.getLogger("nfc_gs")

SHARE = 0.15
"""Share of the time that the viewer of a training may use, unless set otherwise."""

MAX_POINTS = 600
"""Points of a curve; with more, every other one is left out."""


class Training(Protocol):
    """What the viewer needs of a trainer."""

    @property
    def model(self) -> RadianceModel: ...
    @property
    def steps_done(self) -> int: ...
    @property
    def stopping(self) -> bool: ...
    def stop(self) -> None: ...
    def save(self) -> object: ...


class Curve:
    """Numbers over steps, thinned so that they stay few."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.values: list[float] = []
        self._every = self._seen = 0

    def add(self, step: int, value: float) -> None:
        """Add a number."""
        self._seen += 1
        if self._every and self._seen % self._every:
            return
        self.steps.append(step)
        self.values.append(value)
        if len(self.steps) > MAX_POINTS:
            self.steps, self.values = self.steps[::2], self.values[::2]
            self._every = max(1, self._every) * 2


class LiveTraining:
    """The listener of a trainer (`core.events`) that a viewer shows.

    Attributes:
        source: what is shown; its model is a copy that training does not touch.
        budget: share of the time for copies and pictures together; unlimited while nothing is trained.
        paused: the trainer's thread waits after its step.
        stop_pressed: the training was ended from the viewer.
        save_error: why the last checkpoint that was requested was not written; empty if it was.
        saved_step: of the last checkpoint; None before the first.
        last: the last step's event; None before the first.
        finished: the training is over.
        ended_early: it is over before all of its steps or its time were used.
        rate: steps per second, lately.
        loss, psnr, test_psnr: curves.
        on_snapshot: called after each new snapshot, in the thread of the training.
    """

    def __init__(self, training: Training, source: Source, clock: Callable[[], float] = perf_counter) -> None:
        """Keep `source` up to date with `training`, whose listener this must become (`training.listen`)."""
        self.source, self.budget = source, Budget(SHARE, clock)
        self.paused = self.stop_pressed = self.finished = self.ended_early = False
        self.save_error = ""
        self.saved_step: int | None = None
        self.last: StepDone | None = None
        self.rate = 0.0
        self.loss, self.psnr, self.test_psnr = Curve(), Curve(), Curve()
        self.on_snapshot: Callable[[], None] = lambda: None
        self._training, self._clock = training, clock
        self._began = time()
        self._snapshot_requested, self._save_requested = threading.Event(), threading.Event()
        self._wake = threading.Condition()
        self._rate_since: tuple[float, int] | None = None

    @property
    def is_running(self) -> bool:
        """Whether steps are being taken, so that pictures take time from the training."""
        return not self.paused and not self.finished

    def request_snapshot(self) -> None:
        """Copy the model after one of the next steps."""
        self._snapshot_requested.set()

    def pause(self) -> None:
        """Let the training wait after its current step."""
        self.paused = self.budget.unlimited = True

    def resume(self) -> None:
        """Let the training go on."""
        with self._wake:
            self.paused, self.budget.unlimited = False, self.finished
            self._wake.notify_all()

    def stop(self) -> None:
        """End the training, with everything saved."""
        self.stop_pressed = True
        self._training.stop()
        self.resume()

    def results(self) -> list[Path]:
        """Report and splat of the training as files, once it is over and the report, the last of all, is written."""
        folder = self.source.folder
        if not self.finished or folder is None:
            return []
        files = [path for name in (REPORT_NAME, SPLAT_NAME) if (path := folder / name).is_file()]
        is_there = len(files) > 0 and files[0].name == REPORT_NAME and files[0].stat().st_mtime >= self._began
        return files if is_there else []

    def save(self) -> None:
        """Write a checkpoint after the current step of the training."""
        self._save_requested.set()
        with self._wake:
            self._wake.notify_all()

    def __call__(self, event: Event) -> None:
        """Handle an event, in the thread of the training."""
        try:
            self._handle(event)
        except Exception:
            logger.exception("The viewer failed while it handled an event of the training; both go on.")

    def _handle(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self.last = event
            self._record(event)
            if self._snapshot_requested.is_set() and self.budget.wait_time() == 0.0:
                self._take_snapshot(event.step)
            self._save_if_requested()
            self._wait_while_paused(event.step)
        elif isinstance(event, Evaluated):
            self.test_psnr.add(event.step, event.psnr)
        elif isinstance(event, CheckpointSaved):
            self.saved_step = event.step
        elif isinstance(event, TrainFinished):
            self.ended_early = event.reason != "done"
            self.finished = self.budget.unlimited = True
            self._take_snapshot(event.step)

    def _record(self, event: StepDone) -> None:
        self.loss.add(event.step, event.loss)
        self.psnr.add(event.step, event.psnr)
        now = self._clock()
        since = self._rate_since or (now, event.step)
        if now - since[0] >= 1.0:
            self.rate = (event.step - since[1]) / (now - since[0])
            since = (now, event.step)
        self._rate_since = since

    def _take_snapshot(self, step: int) -> None:
        """Show a copy of the model as it is now."""
        self._snapshot_requested.clear()
        with self.budget.spending():
            self.source.set_model(self._training.model.copy(), step)
        self.on_snapshot()

    def _save_if_requested(self) -> None:
        if not self._save_requested.is_set():
            return
        self._save_requested.clear()
        try:
            self._training.save()
            self.save_error = ""
        except UserError as error:
            self.save_error = str(error)
            logger.warning("The checkpoint requested in the viewer is not saved: %s", error)

    def _wait_while_paused(self, step: int) -> None:
        if not self.paused:
            return
        self._take_snapshot(step)
        with self._wake:
            while self.paused and not self._training.stopping:
                self._save_if_requested()
                self._wake.wait(0.1)
        self._rate_since = None
