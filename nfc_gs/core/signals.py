"""Signals that end a program: SIGINT (Ctrl-C), SIGTERM and SIGHUP (a terminal that is closed).

One that is ignored, as SIGINT is in the background jobs of a shell and SIGHUP under nohup, stays ignored.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

ENDING = tuple(signal.Signals[n] for n in ("SIGINT", "SIGTERM", "SIGHUP") if n in signal.Signals.__members__)
"""Those signals; Windows has no SIGHUP."""


class Interrupted(KeyboardInterrupt):
    """A signal that ends the program, raised as Ctrl-C is.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def raise_interrupted(number: int) -> None:
    """Raise `Interrupted`; a handler for `signals_call`."""
    raise Interrupted(number)


def exit_code(number: int | None = None) -> int:
    """The exit code of a program that a signal ended, as shells have it; None stands for SIGINT."""
    return 128 + int(signal.SIGINT if number is None else number)


def signal_of(error: KeyboardInterrupt) -> int:
    """The number of the signal that was raised as `error`."""
    return error.number if isinstance(error, Interrupted) else int(signal.SIGINT)


@contextlib.contextmanager
def signals_call(handler: Callable[[int], None]) -> Iterator[None]:
    """Let the ending signals call `handler` with their number, in the main thread; elsewhere nothing changes."""
    before = _install(handler)
    try:
        yield
    finally:
        _restore(before)


@contextlib.contextmanager
def first_signal_calls(handler: Callable[[int], None]) -> Iterator[None]:
    """Let the first ending signal call `handler` with its number, and those after it do what they did before."""
    before: dict[int, Any] = {}

    def first(number: int) -> None:
        _restore(before)
        handler(number)

    before |= _install(first)
    try:
        yield
    finally:
        _restore(before)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold the ending signals back while a library is imported; the first that came acts afterwards.

    Libraries with a C++ part turn an exception in their import into one of their own, and some replace handlers in C,
    of which Python knows nothing: those before are put back.
    """
    received: list[int] = []
    before = _install(received.append)
    try:
        yield
    finally:
        _restore(before)
    if received:
        signal.raise_signal(received[0])


def _install(handler: Callable[[int], None]) -> dict[int, Any]:
    """Set a handler; returns those before by signal, but for ignored ones, which stay."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {int(number): signal.getsignal(number) for number in ENDING}
    before = {number: old for number, old in before.items() if old != signal.SIG_IGN}
    for number in before:
        signal.signal(number, lambda received, frame: handler(received))
    return before


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        if handler is not None:  # one that was not installed from Python cannot be put back
            signal.signal(number, handler)
        elif number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
