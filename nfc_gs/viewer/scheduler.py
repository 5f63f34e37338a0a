"""Who is drawn for next: one picture at a time, the newest wish of each client, everyone in turn."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Generator, Hashable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

from nfc_gs.core.errors import UserError

logger = logging.getLogger("nfc_gs")

Job = Callable[[], None]
T = TypeVar("T")

_END = object()


class Budget:
    """The part of the time that looking may take; whoever took some, all wait until it is paid for.

    Attributes:
        share: that part, 0..1.
        free: nobody else needs the time, so nothing is counted.
    """

    def __init__(self, share: float = 1.0, clock: Callable[[], float] = perf_counter) -> None:
        """Nothing has been taken yet."""
        self.share, self.free = share, False
        self._clock, self._until, self._lock = clock, 0.0, threading.Lock()

    def wait_time(self) -> float:
        """Seconds until time may be taken again; 0 if it may be now."""
        return 0.0 if self.free else max(0.0, self._until - self._clock())

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """What is done within takes time; others may do so meanwhile, and all of it counts."""
        begun = self._clock()
        try:
            yield
        finally:
            if not self.free:
                with self._lock:
                    spent = self._clock() - begun
                    self._until = max(self._until, begun) + spent / min(1.0, max(self.share, 0.01))


@dataclass(frozen=True)
class _Wish:
    job: Job
    due: float


class Scheduler:
    """Runs the jobs of clients one after the other in a thread of its own.

    A client has one wish at most: a newer one takes the place of one that has not begun. Of the wishes that are due the
    one whose client was served longest ago comes first. A job that raises is logged, and the next one runs.

    Attributes:
        budget: part of the time that jobs may take; after each job all of them rest for as long as that demands.
        served: jobs run so far.
        dropped: wishes that newer ones replaced.
    """

    def __init__(
        self,
        clock: Callable[[], float] = perf_counter,
        within: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        budget: Budget | None = None,
    ) -> None:
        """Nothing runs before `start`, except what `run_due` is asked to run.

        Args:
            within: what each job runs in.
            budget: of the time; None for all of it.
        """
        self.budget = Budget(clock=clock) if budget is None else budget
        self.served = self.dropped = 0
        self._clock, self._within = clock, within
        self._wishes: dict[Hashable, _Wish] = {}
        self._last_served: dict[Hashable, int] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to work in a thread."""
        self._thread = threading.Thread(target=self._work, name="nfc-gs viewer", daemon=True)
        self._thread.start()

    def submit(self, client: Hashable, job: Job, delay: float = 0.0, *, replace: bool = True) -> None:
        """Wish for `job` to run for a client.

        Args:
            delay: seconds from now before which it does not begin.
            replace: take the place of a wish that the client has; else that one stays and this one is dropped.
        """
        with self._changed:
            if self._closed or (client in self._wishes and not replace):
                return
            self.dropped += client in self._wishes
            self._wishes[client] = _Wish(job, self._clock() + delay)
            self._last_served.setdefault(client, self.served)  # a new one comes after those that wait
            self._changed.notify_all()

    def submit_steps(
        self, client: Hashable, steps: Iterator[object], delay: float = 0.0, *, replace: bool = True
    ) -> None:
        """Wish for work that takes many turns: each goes on to the next of its steps, and others come in between.

        A newer wish of the client takes the place of what is left; when the client is forgotten, it ends. `delay` and
        `replace` are those of `submit`.
        """

        def step() -> None:
            if next(steps, _END) is _END:
                return
            with self._changed:
                if client in self._last_served:
                    self.submit(client, step, replace=False)

        self.submit(client, step, delay, replace=replace)

    def result(self, client: Hashable, work: Generator[object, None, T], given_up: Callable[[], bool]) -> T:
        """Do work in turns, as `submit_steps`, and wait for what it returns; raises what it raises.

        Args:
            given_up: asked now and then; where it holds, the rest of the work is dropped.

        Raises:
            UserError: it was given up.
        """
        future: Future[T] = Future()

        def steps() -> Iterator[object]:
            try:
                future.set_result((yield from work))
            except Exception as error:
                future.set_exception(error)

        self.submit_steps(client, steps())
        try:
            while not wait([future], timeout=0.2).done:
                if given_up():
                    raise UserError("The page was closed before its picture was drawn.")
        finally:
            self.forget(client)
        return future.result()

    def forget(self, client: Hashable) -> None:
        """The client has gone: drop its wish; a job of it that runs comes to its end."""
        with self._changed:
            self._wishes.pop(client, None)
            self._last_served.pop(client, None)

    def run_due(self) -> bool:
        """Run the next job that is due now, if there is one; returns whether there was."""
        with self._changed:
            client = self._next()
            if client is None:
                return False
            wish = self._wishes.pop(client)
            self.served += 1
            self._last_served[client] = self.served
        with self.budget.spending():
            try:
                with self._within():
                    wish.job()
            except Exception:
                logger.exception("Drawing for the viewer failed; the viewer goes on.")
        return True

    def wait_time(self) -> float | None:
        """Seconds until a wish can be granted, 0 if one can now; None if there is no wish."""
        if not self._wishes:
            return None
        first = min(wish.due for wish in self._wishes.values())
        return max(0.0, first - self._clock(), self.budget.wait_time())

    def close(self) -> None:
        """Drop all wishes and end the thread, after the job that runs now."""
        with self._changed:
            self._closed = True
            self._wishes.clear()
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _next(self) -> Hashable | None:
        """The client to serve now."""
        if self.budget.wait_time() > 0.0:
            return None
        now = self._clock()
        due = [client for client, wish in self._wishes.items() if wish.due <= now]
        return min(due, key=lambda client: self._last_served.get(client, 0), default=None)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (wait := self.wait_time()) != 0.0:
                    self._changed.wait(wait)
                if self._closed:
                    return
            self.run_due()


def at_once(work: Generator[object, None, T]) -> T:
    """Do work that was meant for many turns in one; returns what it returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
