"""A training as a run on disk: how far it is, its folder, history, checkpoints, events and signals that end it.

It knows no mathematics: what a step does and what a checkpoint holds it is given as functions.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor

from nfc_gs.core import plain_json
from nfc_gs.core.errors import UserError
from nfc_gs.core.events import CheckpointSaved, Evaluated, Event, Listener, StepDone, TrainFinished, TrainStarted
from nfc_gs.core.signals import first_signal_calls
from nfc_gs.runs.checkpoint import Checkpoint, save_checkpoint
from nfc_gs.runs.history import History
from nfc_gs.runs.names import CHECKPOINT_NAME
from nfc_gs.runs.run_folder import RunFolder, remove_leftovers_of
from nfc_gs.runs.timelapse import Timelapse
from nfc_gs.training.clock import StageClock
from nfc_gs.training.config import ResolvedConfig
from nfc_gs.training.schedules import progress_of
from nfc_gs.training.step import StepResult

logger = logging.getLogger("nfc_gs")

SAVE_SHARE = 20
"""Saving takes at most about one part in this many of the time, however large the model."""

FIRST_SAVE = 5.0
"""Seconds after which a training that begins, or goes on, is saved for the first time."""


class Run:
    """The run of a training.

    Attributes:
        folder: where everything is written.
        steps_done: optimisation steps so far.
        seconds: training time so far, without evaluation, saving and listeners.
        view_psnr: of each training view by name, PSNR in dB when it was last rendered in a step.
        interrupted_by: the signal that ended the training early; None if there was none.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: ResolvedConfig,
        listeners: Sequence[Listener],
        *,
        make_checkpoint: Callable[[], Checkpoint],
        picture: Callable[[], Tensor],
        clock: StageClock,
    ) -> None:
        """Nothing is written before `begin` or `go_on`.

        Args:
            folder: which others cannot write into before `release`.
            make_checkpoint: what a checkpoint of the training holds now.
            picture: of the model as it is now, for the time-lapse (`runs.timelapse`).
            clock: on which the time beside the steps is counted.
        """
        self.folder, self.steps_done, self.seconds = folder.path, 0, 0.0
        self.view_psnr: dict[str, float] = {}
        self.interrupted_by: int | None = None
        self._run_folder = folder
        self._clock, self._timelapse = clock, Timelapse(folder.path, picture)
        self._config, self._make_checkpoint = config, make_checkpoint
        self._listeners = list(listeners)
        self._evaluations = 0
        self._evaluation_due = False
        self._stop_requested = False
        self._last_save, self._is_saved_early = perf_counter(), False
        self._save_seconds = 0.0
        self._save_failed = False
        self._checkpoint_stamp: tuple[int, int] | None = None
        self._history: History | None = None

    def begin(self) -> None:
        """Write a checkpoint of step 0. Raises UserError where that cannot be done."""
        self.save()
        self._history = History(self.folder, 0, 0.0)

    def go_on(self, steps_done: int, seconds: float, state: Mapping[str, Any]) -> None:
        """Go on after so many steps.

        Args:
            state: as `state` gave it.

        Raises:
            KeyError, TypeError, ValueError: something is missing in the state, or odd.
        """
        self.steps_done, self.seconds = steps_done, seconds
        self._evaluations = plain_json.as_int(state["evaluations"], "evaluations")
        psnrs = plain_json.as_dict(state["view_psnr"], "view_psnr")
        self.view_psnr = {name: plain_json.as_float(value, "view_psnr") for name, value in psnrs.items()}
        self._checkpoint_stamp = _stamp(self.folder / CHECKPOINT_NAME)
        remove_leftovers_of(self.folder)
        self._history = History(self.folder, steps_done, self.progress)
        due = plain_json.as_int(state["evaluation_due"], "evaluation_due", 0, 1)
        self._evaluation_due = bool(due) and not self._history.has_evaluation(steps_done)
        self._timelapse.go_on(steps_done, self.progress)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the run beside its steps and seconds."""
        return {
            "evaluations": self._evaluations,
            "evaluation_due": int(self._evaluation_due),
            "view_psnr": dict(self.view_psnr),
        }

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Keep others out of the folder for the time of a context, also those that would take it over.

        Raises:
            UserError: another process, or another training of this one, works in the folder or has gone on with the
                run.
        """
        self._hold(looks=True)
        lock = self._run_folder.lock
        was_busy, lock.busy = lock.busy, True
        try:
            yield
        finally:
            lock.busy = was_busy

    def release(self) -> None:
        """Let others write into the folder; this run locks it again before it writes the next time."""
        self._run_folder.lock.release()

    def _hold(self, *, looks: bool = False) -> None:
        """Lock the folder if it is not, which `writing` may raise UserError for.

        Args:
            looks: whether the lock is held still.
        """
        lock = self._run_folder.lock
        if lock.held and looks and lock.is_lost():
            lock.release()
        if lock.held:
            return
        removed = UserError(f"The run {self.folder} was removed while it was at work here; nothing more is saved.")
        if not self.folder.is_dir():
            raise removed
        lock.acquire()
        stamp = _stamp(self.folder / CHECKPOINT_NAME)
        if self._checkpoint_stamp != stamp:
            lock.release()
            if stamp is None:
                raise removed
            raise UserError(
                f"The run {self.folder} has been gone on with elsewhere since it was saved here; resume it: "
                f"nfc_gs.Trainer.resume({str(self.folder)!r})."
            )

    @property
    def progress(self) -> float:
        """How much of the run is done, 0..1."""
        return progress_of(self._config, self.steps_done, self.seconds)

    @property
    def stopping(self) -> bool:
        """Whether `loop` was asked to end after the step it is at."""
        return self._stop_requested

    def stop(self) -> None:
        """Ask `loop` to end after the step it is at; may be called from any thread."""
        self._stop_requested = True

    def add_listener(self, listener: Listener) -> None:
        """Call one more listener with every event from now on."""
        self._listeners.append(listener)

    def emit(self, event: Event) -> None:
        """Call the listeners; one that raises is logged and dropped."""
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:
                logger.exception("A listener of the training raised and is dropped; training goes on.")
                self._listeners.remove(listener)

    def loop(self, started: TrainStarted, step: Callable[[], None], evaluate: Callable[[], object] | None) -> str:
        """Step until the run is done, or until a signal or `stop`; the last state is saved in either case.

        A second signal does what it did before: Ctrl-C aborts at once.

        Args:
            evaluate: measures the held-out views; None where there are none.

        Returns:
            Why it ended: "done" or "interrupted".
        """
        self._stop_requested, self.interrupted_by = False, None
        with self.writing(), first_signal_calls(self._interrupt):
            self.emit(started)
            self._last_save, self._is_saved_early = perf_counter(), False
            self._take_picture()
            if self._evaluation_due and evaluate is not None:  # the process that should have done it was killed
                evaluate()
            self._evaluation_due = False
            while self.progress < 1.0 and not self._stop_requested:
                step()
                self._after_step(evaluate)
            self.save()
        return "done" if self.progress >= 1.0 else "interrupted"

    def _interrupt(self, number: int) -> None:
        """Take the first signal."""
        self.interrupted_by = number
        self.stop()
        if number == signal.SIGINT:
            logger.info("Interrupted: saving and ending; press Ctrl-C again to abort at once.")
        else:
            logger.info("%s: saving and ending; a second signal aborts at once.", signal.Signals(number).name)

    def finished(self, reason: str, timings: Mapping[str, float]) -> TrainFinished:
        """Emit and return the event that ends a training."""
        event = TrainFinished(self.steps_done, self.seconds, reason, dict(timings))
        self.emit(event)
        return event

    def save(self) -> Path:
        """Write the checkpoint; returns its path. Raises UserError if it cannot be written."""
        self._hold(looks=True)
        with self._clock.counting("saving"):
            return self._write(self._make_checkpoint())

    def _save_if_possible(self) -> None:
        """Save between two steps; where that fails training goes on, for the disk may have room later.

        Raises:
            UserError: a parameter is not finite.
        """
        self._hold(looks=True)
        with self._clock.counting("saving"):
            checkpoint = self._make_checkpoint()
            try:
                self._write(checkpoint)
            except UserError as error:
                if not self._save_failed:
                    logger.warning("The run is not saved for now, and training goes on. %s", error)
                self._save_failed, self._last_save = True, perf_counter()

    def _write(self, checkpoint: Checkpoint) -> Path:
        started = perf_counter()
        path = self.folder / CHECKPOINT_NAME
        save_checkpoint(path, checkpoint)
        self._checkpoint_stamp = _stamp(path)
        self._last_save = perf_counter()
        self._save_seconds = self._last_save - started
        self.emit(CheckpointSaved(self.steps_done, path))
        return path

    def step_done(self, result: StepResult, sizes: Mapping[str, int]) -> None:
        """Count a step, and report it to the history and the listeners where its loss was read.

        Args:
            sizes: of the model (`RadianceModel.sizes`).
        """
        self._hold()
        self.steps_done += 1
        self._run_folder.is_worth_keeping = True
        self.seconds += result.seconds
        progress = self.progress
        if result.loss is None:
            return
        assert self._history is not None
        psnr = -10.0 * math.log10(max(float(result.mse), 1e-10))
        if result.view is not None:
            self.view_psnr[result.view] = psnr
        changed = self._history.changed(result.phases)
        if self._history.due(progress) or progress >= 1.0 or changed:
            self._hold(looks=True)
            self._history.write(
                step=self.steps_done,
                seconds=round(self.seconds, 3),
                loss=result.loss,
                psnr=psnr,
                **sizes,
                width=result.width,
                height=result.height,
                **changed,
            )
        if self._listeners:
            self.emit(
                StepDone(
                    step=self.steps_done,
                    progress=progress,
                    loss=result.loss,
                    psnr=psnr,
                    sizes=sizes,
                    width=result.width,
                    height=result.height,
                    seconds=self.seconds,
                    remaining_seconds=self._remaining(progress),
                )
            )

    def evaluated(self, psnr: float, ssim: float) -> None:
        """Report the metrics of the held-out views to the history and the listeners."""
        assert self._history is not None
        self._hold(looks=True)
        self._history.write_evaluation(step=self.steps_done, seconds=self.seconds, test_psnr=psnr, test_ssim=ssim)
        self.emit(Evaluated(self.steps_done, psnr, ssim, self.seconds))

    def _take_picture(self) -> None:
        if not self._timelapse.is_due(self.progress):
            return
        self._hold(looks=True)
        with self._clock.counting("timelapse"):
            self._timelapse.take_if_due(self.steps_done, self.progress)

    def _remaining(self, progress: float) -> float:
        """Seconds of training that are left, by what has passed."""
        if self._config.budget_seconds is not None:
            return max(0.0, self._config.budget_seconds - self.seconds)
        return max(0.0, self.seconds / progress - self.seconds) if progress > 0.0 else math.inf

    def _after_step(self, evaluate: Callable[[], object] | None) -> None:
        """Evaluate, save and take a picture when it is time; none of it changes what training computes."""
        self._take_picture()
        every, progress = self._config.eval_every, self.progress
        if (
            every > 0.0
            and evaluate is not None
            and (self._evaluations + 1) * every <= progress + 1e-9
            and progress < 1.0
        ):
            self._evaluations = int(progress / every + 1e-9)
            self._evaluation_due = True
            self._save_if_possible()  # an image that cannot be read ends the run: nothing learnt so far is lost
            evaluate()
            self._evaluation_due = False
        pause = (
            self._config.checkpoint_every if self._is_saved_early else min(FIRST_SAVE, self._config.checkpoint_every)
        )
        if perf_counter() - self._last_save >= max(pause, SAVE_SHARE * self._save_seconds) and progress < 1.0:
            self._save_if_possible()
            self._is_saved_early = True


def _stamp(file: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced; None where there is none."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino
