"""Which page is drawn for next: one picture at a time, the newest request of each page, all pages in turn."""

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
    """A limit on the share of the time that the viewer uses. Whoever uses some, all wait until the share is kept.

    Attributes:
        share: of the time, 0..1.
        unlimited: nothing else needs the time, so none of it is counted.
    """

    def __init__(self, share: float = 1.0, clock: Callable[[], float] = perf_counter) -> None:
        """A budget of which nothing has been used."""
        self.share, self.unlimited = share, False
        self._clock, self._until, self._lock = clock, 0.0, threading.Lock()

    def wait_time(self) -> float:
        """Seconds until time may be used again; 0 if it may be now."""
        return 0.0 if self.unlimited else max(0.0, self._until - self._clock())

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """Count the time of the block; blocks of several threads may overlap, and all of them count."""
        start = self._clock()
        try:
            yield
        finally:
            if not self.unlimited:
                with self._lock:
                    spent = self._clock() - start
                    self._until = max(self._until, start) + spent / min(1.0, max(self.share, 0.01))


@dataclass(frozen=True)
class _Request:
    job: Job
    due: float


class Scheduler:
    """Runs the jobs of clients one after the other in a thread of its own.

    A client has one request at most: a newer one replaces one that has not started. Of the requests that are due, the
    one whose client has waited longest since its last job comes first. A job that raises is logged, and the next runs.

    Attributes:
        budget: share of the time that jobs may use; after each job all of them wait for as long as that demands.
        jobs_run: so far.
    """

    def __init__(
        self,
        clock: Callable[[], float] = perf_counter,
        context: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        budget: Budget | None = None,
    ) -> None:
        """Nothing runs before `start`, except by `run_due`.

        Args:
            context: entered around each job.
            budget: of the time; None for all of it.
        """
        self.budget = Budget(clock=clock) if budget is None else budget
        self.jobs_run = 0
        self._clock, self._context = clock, context
        self._requests: dict[Hashable, _Request] = {}
        self._last_run: dict[Hashable, int] = {}  # number of the client's last job
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Run jobs in a thread from now on."""
        self._thread = threading.Thread(target=self._work, name="nfc-gs viewer", daemon=True)
        self._thread.start()

    def submit(self, client: Hashable, job: Job, delay: float = 0.0, *, replace: bool = True) -> None:
        """Request that `job` runs for a client.

        Args:
            delay: seconds from now before which it does not start.
            replace: replace a request that the client has; else that one stays and this one is dropped.
        """
        with self._changed:
            if self._closed or (client in self._requests and not replace):
                return
            self._requests[client] = _Request(job, self._clock() + delay)
            self._last_run.setdefault(client, self.jobs_run)  # a new one comes after those that wait
            self._changed.notify_all()

    def submit_steps(
        self, client: Hashable, steps: Iterator[object], delay: float = 0.0, *, replace: bool = True
    ) -> None:
        """Request work in steps: each `next` is one job, and jobs of other clients run in between.

        A newer request of the client replaces the steps that are left; they end when the client is forgotten. `delay`
        and `replace` are those of `submit`.
        """

        def step() -> None:
            if next(steps, _END) is _END:
                return
            with self._changed:
                if client in self._last_run:
                    self.submit(client, step, replace=False)

        self.submit(client, step, delay, replace=replace)

    def result(self, client: Hashable, work: Generator[object, None, T], is_cancelled: Callable[[], bool]) -> T:
        """Do work in steps, as `submit_steps`, and wait for what it returns; raises what it raises.

        Args:
            is_cancelled: called now and then; where it holds, the rest of the work is dropped.

        Raises:
            UserError: it was cancelled.
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
                if is_cancelled():
                    raise UserError("The page was closed before its picture was drawn.")
        finally:
            self.forget(client)
        return future.result()

    def forget(self, client: Hashable) -> None:
        """Drop all that is kept of a client, its request too; a job of it that runs comes to its end."""
        with self._changed:
            self._requests.pop(client, None)
            self._last_run.pop(client, None)

    def run_due(self) -> bool:
        """Run the next job that is due now, if there is one; returns whether there was."""
        with self._changed:
            client = self._next()
            if client is None:
                return False
            request = self._requests.pop(client)
            self.jobs_run += 1
            self._last_run[client] = self.jobs_run
        with self.budget.spending():
            try:
                with self._context():
                    request.job()
            except Exception:
                logger.exception("Drawing for the viewer failed; the viewer goes on.")
        return True

    def wait_time(self) -> float | None:
        """Seconds until a job can run, 0 if one can now; None if there is no request."""
        if not self._requests:
            return None
        first = min(request.due for request in self._requests.values())
        return max(0.0, first - self._clock(), self.budget.wait_time())

    def close(self) -> None:
        """Drop all requests and end the thread, after the job that runs now."""
        with self._changed:
            self._closed = True
            self._requests.clear()
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _next(self) -> Hashable | None:
        """The client whose job runs now."""
        if self.budget.wait_time() > 0.0:
            return None
        now = self._clock()
        due = [client for client, request in self._requests.items() if request.due <= now]
        return min(due, key=lambda client: self._last_run.get(client, 0), default=None)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (wait := self.wait_time()) != 0.0:
                    self._changed.wait(wait)
                if self._closed:
                    return
            self.run_due()


def run_to_end(work: Generator[object, None, T]) -> T:
    """Do all steps of some work now; returns what it returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
