"""What the commands say, and how: results on stdout, notes and errors on stderr."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

logger = logging.getLogger("nfc_gs")


class Output(Console):
    """A rich console on stdout; where nothing can be written any more, it falls silent and the work goes on."""

    def __init__(self) -> None:
        super().__init__(file=sys.stdout, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """The reader of a pipe has gone away: write to nowhere from now on."""
        self.quiet = True
        silence_stdout()

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich has it; a full disk under a redirected stdout does not stop the work."""
        try:
            super().print(*objects, **options)
        except OSError:
            self.quiet = True

    def line(self, text: str = "", style: str = "") -> None:
        """Print one line as it is: no markup, no wrapping at the edge of the terminal."""
        self.print(Text(text, style=style), soft_wrap=True)


def silence_stdout() -> None:
    """Point stdout at nowhere, so that Python does not stumble over a broken pipe when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _ToStderr(logging.Handler):
    """Prints each sentence of the library on its own line."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        with contextlib.suppress(OSError, ValueError):  # whoever closed stderr does not want to read
            print(prefix + text, file=sys.stderr, flush=True)  # looked up now: a live display stands in for it


@contextlib.contextmanager
def sentences_to_stderr() -> Iterator[None]:
    """Say what the library logs on stderr, once, while the context lasts."""
    handler, level = _ToStderr(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def table(title: str, rows: Iterable[Sequence[str]], heads: Sequence[str] = ()) -> Table:
    """A small table: the first column holds names, the others values; cells are plain text."""
    result = Table(title=Text(title, style="bold") if title else None, title_justify="left", show_header=bool(heads))
    rows = list(rows)
    width = max([len(heads), *(len(row) for row in rows)])
    for index in range(width):
        head = Text(heads[index]) if heads else Text("")
        result.add_column(head, justify="left" if index == 0 or not heads else "right", overflow="fold")
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    return result


def clock(seconds: float) -> str:
    """Seconds as on a clock: '1:05', '2:03:04'."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def decibels(value: float | None) -> str:
    """A PSNR in words."""
    return "-" if value is None else f"{value:.2f} dB"


def ratio(value: float | None) -> str:
    """An SSIM or LPIPS in words."""
    return "-" if value is None else f"{value:.4f}"


def size_on_disk(path: Path) -> str:
    """The bytes of a file, or of all files below a folder, in words."""
    files = [path] if path.is_file() else [Path(base) / name for base, _, names in os.walk(path) for name in names]
    size = 0.0
    for file in files:
        with contextlib.suppress(OSError):
            size += file.stat().st_size
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
