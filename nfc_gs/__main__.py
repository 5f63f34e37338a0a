"""The program `nfc-gs`, which `python -m nfc_gs` is, too: from its first moment on a signal ends it quietly."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn, TextIO

from nfc_gs.core.signals import exit_code, signals_call


def main() -> int:
    """Run the command line of the process; returns the exit code."""
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    stderr = sys.stderr  # tyro redirects it while it parses
    with signals_call(lambda number: _end(number, stderr)):  # what is imported may hide an exception
        from nfc_gs.cli import main as run

        return run()


def _nowhere() -> TextIO:
    """What stands for a stream that was closed before the process began."""
    return open(os.devnull, "w", encoding="utf-8")


def _end(number: int, stderr: TextIO) -> NoReturn:
    """End the process at once; nothing has been written yet, or everything has."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        print("Interrupted.", file=stderr, flush=True)
    os._exit(exit_code(number))


if __name__ == "__main__":
    sys.exit(main())
