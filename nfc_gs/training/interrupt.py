"""Ctrl-C while training runs: the first ends it cleanly, the second at once."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator

logger = logging.getLogger("nfc_gs")


@contextlib.contextmanager
def interrupt_calls(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C call `stop` and the second do what it did before (raise KeyboardInterrupt)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = signal.getsignal(signal.SIGINT)

    def first(number: int, frame: object) -> None:
        logger.info("Interrupted: saving and ending; press Ctrl-C again to abort at once.")
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)
        stop()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)
