"""What holds while training runs: one torch thread, and a Ctrl-C that ends cleanly."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator

import torch

logger = logging.getLogger("nfc_gs")


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch compute in one thread: its sums depend on how many there are, the compiled core's do not."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
