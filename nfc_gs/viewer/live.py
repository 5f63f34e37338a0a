"""A training to look at: what the trainer's thread hands over, and what is asked of it.

The trainer calls a listener after each step and knows nothing of viewers. Here that listener copies the model when a
picture of it is wanted, waits while the training is paused, and saves when asked; whatever fails in it is logged and
does not reach the training.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Protocol

from nfc_gs.core.errors import UserError
from nfc_gs.core.events import Evaluated, Event, StepDone, TrainFinished
from nfc_gs.data.scene import SceneData
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.viewer.scheduler import Budget
from nfc_gs.viewer.source import Source

logger = logging.getLogger("nfc_gs")

SHARE = 0.15
"""Part of the time that looking at a training may take, unless one says otherwise."""

MAX_POINTS = 600
"""Points of a curve; with more, every other one is left out."""


class Training(Protocol):
    """What is needed of a trainer."""

    run: Path
    scene: SceneData

    @property
    def model(self) -> GaussianModel: ...
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
        """One more number."""
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
        budget: part of the time that looking may take, copies and pictures together; free where nothing is trained.
        paused: the trainer's thread waits after its step.
        stop_pressed: the training was ended from the viewer.
        unsaved: why the checkpoint that was asked for last was not written; empty if it was.
        last: the last step's event; None before the first.
        finished: the training is over.
        rate: steps per second, lately.
        loss, psnr, test_psnr: curves.
    """

    def __init__(self, training: Training, source: Source, clock: Callable[[], float] = perf_counter) -> None:
        """Listen to `training` (which must be told so) and keep `source` fresh."""
        self.source, self.budget = source, Budget(SHARE, clock)
        self.paused = self.stop_pressed = self.finished = False
        self.unsaved = ""
        self.last: StepDone | None = None
        self.rate = 0.0
        self.loss, self.psnr, self.test_psnr = Curve(), Curve(), Curve()
        self.on_news: Callable[[], None] = lambda: None
        self._training, self._clock = training, clock
        self._wanted, self._save_wanted = threading.Event(), threading.Event()
        self._wake = threading.Condition()
        self._rate_since: tuple[float, int] | None = None

    def want(self) -> None:
        """Ask for a copy of the model after one of the next steps."""
        self._wanted.set()

    def pause(self) -> None:
        """Let the training wait after the step it is at."""
        self.paused = self.budget.free = True

    def resume(self) -> None:
        """Let it go on."""
        with self._wake:
            self.paused, self.budget.free = False, self.finished
            self._wake.notify_all()

    def stop(self) -> None:
        """End the training, with everything saved."""
        self.stop_pressed = True
        self._training.stop()
        self.resume()

    def save(self) -> None:
        """Write a checkpoint after the step the training is at."""
        self._save_wanted.set()
        with self._wake:
            self._wake.notify_all()

    def __call__(self, event: Event) -> None:
        """Hear of an event, in the thread of the training."""
        try:
            self._hear(event)
        except Exception:
            logger.exception("The viewer failed while it listened to the training; both go on.")

    def _hear(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self.last = event
            self._note(event)
            if self._wanted.is_set() and self.budget.wait_time() == 0.0:
                self._hand_over(event.step)
            self._save_if_wanted()
            self._wait_while_paused(event.step)
        elif isinstance(event, Evaluated):
            self.test_psnr.add(event.step, event.psnr)
        elif isinstance(event, TrainFinished):
            self.finished = self.budget.free = True
            self._hand_over(event.step)

    def _note(self, event: StepDone) -> None:
        self.loss.add(event.step, event.loss)
        self.psnr.add(event.step, event.psnr)
        now = self._clock()
        since = self._rate_since or (now, event.step)
        if now - since[0] >= 1.0:
            self.rate = (event.step - since[1]) / (now - since[0])
            since = (now, event.step)
        self._rate_since = since

    def _hand_over(self, step: int) -> None:
        """Show a copy of the model as it is now."""
        self._wanted.clear()
        with self.budget.spending():
            self.source.show(copy_of(self._training.model), step)
        self.on_news()

    def _save_if_wanted(self) -> None:
        if not self._save_wanted.is_set():
            return
        self._save_wanted.clear()
        try:
            self._training.save()
            self.unsaved = ""
        except UserError as error:
            self.unsaved = str(error)
            logger.warning("The checkpoint that was asked for in the viewer is not saved: %s", error)

    def _wait_while_paused(self, step: int) -> None:
        if not self.paused:
            return
        self._hand_over(step)
        with self._wake:
            while self.paused and not self._training.stopping:
                self._save_if_wanted()
                self._wake.wait(0.1)
        self._rate_since = None


def copy_of(model: GaussianModel) -> GaussianModel:
    """A model that shares no memory with another."""
    tensors = {name: tensor.clone() for name, tensor in model.tensors().items()}
    return GaussianModel(tensors, copy.deepcopy(model.deformation))
