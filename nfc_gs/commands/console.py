"""What the commands print, and how: results on stdout, notices and errors on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nfc_gs.core.errors import UserError
from nfc_gs.runs.metrics import finite

logger = logging.getLogger("nfc_gs")


class Output(Console):
    """A rich console on stdout; where nothing can be written any more, it falls silent and the work goes on.

    With `as_json` it is on stderr, and with `quiet` nowhere: what is left for stdout is printed by `result`.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        file = sys.stderr if as_json else sys.stdout
        super().__init__(file=file, quiet=quiet, highlight=False, markup=False, emoji=False)
        self._as_json, self._result_alone = as_json, quiet and not as_json

    def on_broken_pipe(self) -> None:
        """The reader of a pipe has gone away: write to nowhere from now on."""
        self.quiet = True
        silence(self.file)

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich has it; a full disk under a redirected stdout does not stop the work."""
        try:
            super().print(*objects, **options)
        except OSError:
            self.quiet = True

    def line(self, text: str = "", style: str = "") -> None:
        """Print one line as it is: no markup, no wrapping at the edge of the terminal."""
        self.print(Text(text, style=style), soft_wrap=True)

    def address(self, text: str) -> None:
        """Print a line that is needed in any case: with `quiet` on stderr."""
        if self.quiet:
            print(text, file=sys.stderr, flush=True)
        else:
            self.line(text)

    def result(self, line: str, values: Mapping[str, Any] | None = None) -> None:
        """Print the result on stdout: with `as_json` the values as a JSON object, with `quiet` the line, else nothing.

        Numbers that are not finite, which JSON does not have, become null.

        Raises:
            UserError: stdout cannot be written.
        """
        if not self._as_json and not self._result_alone:
            return
        text = json.dumps(finite(values), indent=2, allow_nan=False) if self._as_json else line
        try:
            print(text, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"The result cannot be written to stdout: {error}.") from None


def silence(stream: IO[str]) -> None:
    """Point a stream at nowhere, so that Python does not stumble over a broken pipe when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _ToStderr(logging.Handler):
    """Prints each sentence of the library on its own line."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        with contextlib.suppress(OSError, ValueError):  # whoever closed stderr does not want to read
            print(prefix + text, file=sys.stderr, flush=True)  # looked up now: a live display stands in for it


@contextlib.contextmanager
def sentences_to_stderr(*, notices: bool = True) -> Iterator[None]:
    """Print what the library logs on stderr, once, while the context lasts; without `notices` only warnings."""
    handler, level = _ToStderr(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if notices else logging.WARNING)
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


def bytes_on_disk(path: Path) -> int:
    """The bytes of a file, or of all files below a folder."""
    files = [path] if path.is_file() else [Path(base) / name for base, _, names in os.walk(path) for name in names]
    size = 0
    for file in files:
        with contextlib.suppress(OSError):
            size += file.stat().st_size
    return size


def size_on_disk(path: Path) -> str:
    """`bytes_on_disk` in words."""
    size = float(bytes_on_disk(path))
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
