"""Runs the parts of a benchmark one after another, each in a process of its own that has a limit of time.

A module of `bench.py gpu --short`, not a command. A part that hangs, crashes or breaks the GPU for its process costs
nothing but its own time: it is killed with its children, and the next one starts anew. What is known is written after
each part, and what a part prints is written while it prints, so that whatever ends the benchmark loses nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, Literal

from measuring import console, make_table
from rich.console import Console, RenderableType
from rich.table import Table

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write, make_folder, write_error

HERE = Path(__file__).resolve().parent
"""Where all parts run: `python -m` adds its folder to those of modules, and here they are those of the benchmark."""

Verdict = Literal["passed", "failed", "timed out", "not run"]

MOST_READ = 2**20
"""Bytes, from its end, of what a part printed that are looked at; the text has all of it."""

LAST_LINES = 15
"""Lines, from its end, of what a failed part printed that are printed again."""


@dataclass(frozen=True)
class Reading:
    """What the results of a part say.

    Attributes:
        figures: the key figures, in a line; empty if there are none.
        wrong: why the part failed although its exit code may be 0; empty if nothing is wrong.
    """

    figures: str
    wrong: str = ""


@dataclass(frozen=True)
class Part:
    """A command with a limit of time.

    Attributes:
        name: in words.
        command: the words of the command, from the seconds that it may take.
        read: the `Reading` of what it printed and of the content of the JSON file `measured` (empty if there is none).
        limit: most seconds.
        least: with fewer seconds left it is not run.
        measured: a JSON file that the command writes.
        missing: why it cannot run here, a sentence; empty if it can.
        after: a part without which it cannot run, since that has to pass first; empty if there is none.
        environment: variables on top of the others.
    """

    name: str
    command: Callable[[float], Sequence[str]]
    read: Callable[[str, Mapping[str, Any]], Reading]
    limit: float
    least: float = 5.0
    measured: Path | None = None
    missing: str = ""
    after: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a part ended.

    Attributes:
        part: its name.
        seconds: that it took.
        figures: key figures, which a part that did not pass may have, too.
        reason: why it did not pass, or what is to be known if it did; sentences.
        measured: content of its JSON file.
    """

    part: str
    verdict: Verdict
    seconds: float = 0.0
    figures: str = ""
    reason: str = ""
    command: tuple[str, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)


class Results:
    """All outcomes so far: a JSON file, and beside it a text with all that was printed.

    Raises:
        UserError: a file cannot be written, or the JSON file has another suffix than .json.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        if path.suffix != ".json":
            raise UserError(f"--json is {path}, but must end in .json: the text gets the same name with .txt.")
        make_folder(path.parent)
        self.path, self.text = path, path.with_suffix(".txt")
        self.facts, self.outcomes = dict(facts), list[Outcome]()
        try:
            self.text.write_bytes(b"")
        except OSError as error:
            raise write_error(self.text, error) from None
        self._write()

    def add(self, outcome: Outcome) -> None:
        """Add an outcome."""
        self.outcomes.append(outcome)
        self._write()

    def say(self, what: RenderableType) -> None:
        """Print something and add it to the text."""
        with self.text.open("a", encoding="utf-8") as file:
            for to in (console, Console(file=file, width=120)):
                to.print(what, markup=False, highlight=False)

    def table(self) -> Table:
        """All outcomes."""
        table = make_table(
            "Parts", ("part", "verdict", "seconds", "key figures"), left=("part", "verdict", "key figures")
        )
        for outcome in self.outcomes:
            seconds = "" if outcome.verdict == "not run" else f"{outcome.seconds:.1f}"
            notes = " ".join(text for text in (outcome.figures, outcome.reason) if text)
            table.add_row(outcome.part, outcome.verdict, seconds, notes)
        return table

    def _write(self) -> None:
        parts = [vars(outcome) for outcome in self.outcomes]
        with atomic_write(self.path) as temporary:
            temporary.write_text(json.dumps(self.facts | {"parts": parts}, indent=1) + "\n", "utf-8")


def run_parts(parts: Sequence[Part], results: Results, budget: float) -> int:
    """Run the parts in their order, and print what each says.

    Args:
        budget: seconds for all parts together; later parts get what is left, or are not run.

    Returns:
        The exit code: 0 if something ran and all that ran passed, else 1.
    """
    end = time.monotonic() + budget
    try:
        with _signal_as_exception():
            for part in parts:
                left = end - time.monotonic()
                reason = _why_not(part, results.outcomes, left, budget)
                outcome = Outcome(part.name, "not run", reason=reason) if reason else _run(part, left, results)
                results.add(outcome)
                if part.measured is not None:  # which the outcome holds
                    part.measured.unlink(missing_ok=True)
                if not reason and part is not parts[-1]:
                    results.say(results.table())
    finally:
        results.say(results.table())
    for outcome in results.outcomes:
        if outcome.verdict == "not run":
            results.say(f"Not run: {outcome.part}: {outcome.reason}")
    results.say(f"Results are in {results.path} and {results.text}.")
    verdicts = {outcome.verdict for outcome in results.outcomes}
    return 0 if verdicts <= {"passed", "not run"} and "passed" in verdicts else 1


def _why_not(part: Part, outcomes: Sequence[Outcome], left: float, budget: float) -> str:
    """Why a part is not run; empty if it is."""
    if part.missing:
        return part.missing
    if part.after and not any(outcome.part == part.after and outcome.verdict == "passed" for outcome in outcomes):
        return f"It needs '{part.after}' to pass first."
    if left < part.least:
        return f"{max(left, 0):.0f} s are left of the budget of {budget:g} s, and it takes at least {part.least:g} s."
    return ""


def _run(part: Part, left: float, results: Results) -> Outcome:
    """Run a part that can run, and read its results."""
    limit = min(part.limit, left)
    command = tuple(part.command(limit))
    shortened = f"Its limit was {limit:.0f} s instead of {part.limit:g} s." if limit < part.limit else ""
    results.say(f"\n==== {part.name} (at most {limit:.0f} s): {shlex.join(command)}")
    if part.measured is not None:
        part.measured.unlink(missing_ok=True)
    begin, start = results.text.stat().st_size, time.monotonic()
    try:
        with results.text.open("ab", buffering=0) as output:
            code = run_limited(command, limit, output, part.environment)
    except BaseException:  # a signal: what is known is written before the benchmark ends
        reason = "The benchmark was ended from outside."
        results.add(Outcome(part.name, "failed", time.monotonic() - start, "", reason, command, _measured(part)))
        raise
    seconds, output, measured = time.monotonic() - start, _read_end(results.text, begin), _measured(part)
    reading = _reading(part, output, measured)
    verdict, why = _verdict(code, limit, reading, output)
    if verdict != "passed":
        results.say(f"---- {part.name}: {verdict}. {why}")
        console.print("\n".join(output.splitlines()[-LAST_LINES:]), markup=False, highlight=False)
    notes = " ".join(text for text in (why, shortened) if text)
    return Outcome(part.name, verdict, seconds, reading.figures, notes, command, measured)


def _reading(part: Part, output: str, measured: Mapping[str, Any]) -> Reading:
    try:
        return part.read(output, measured)
    except Exception as error:  # a part that broke may leave anything behind, and the next one is to run
        return Reading("", f"Its results cannot be read ({type(error).__name__}: {error}).")


def _verdict(code: int | None, limit: float, reading: Reading, output: str) -> tuple[Verdict, str]:
    """A verdict and its reason, from an exit code (None: killed at the limit) and what the results say."""
    if code is None:
        return "timed out", f"It was killed after {limit:.0f} s. {reading.wrong}".strip()
    if code < 0:
        return "failed", f"It crashed by {_signal_name(-code)}. {reading.wrong}".strip()
    if code > 0:
        last = [line for line in output.splitlines() if line.strip()][-1:]
        return "failed", " ".join([reading.wrong, f"It ended with exit code {code}:", *last]).strip()
    return ("failed", reading.wrong) if reading.wrong else ("passed", "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those for real time
        return f"signal {number}"


def run_limited(
    command: Sequence[str], limit: float, output: BinaryIO, environment: Mapping[str, str] | None = None
) -> int | None:
    """Run a command, and kill it with its children when it ends or is over its limit.

    Args:
        limit: seconds.
        output: what is printed goes to this file.
        environment: variables on top of this process's own.

    Returns:
        The exit code, -N after a signal N; None if it was killed at the limit; 127 if there is no such program.
    """
    variables = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(environment or {})
    if "PYTHONPATH" in variables:  # from the folder that it is relative to
        folders = variables["PYTHONPATH"].split(os.pathsep)
        variables["PYTHONPATH"] = os.pathsep.join(str(Path(folder).resolve()) for folder in folders if folder)
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=HERE, env=variables,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        output.write(f"{command[0]} cannot be started: {error}\n".encode())
        return 127
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that waits for a broken driver cannot be killed
            process.wait(10.0)


def _read_end(path: Path, begin: int) -> str:
    """What a file holds from this byte on, or the last `MOST_READ` bytes of it; without codes of a terminal."""
    with path.open("rb") as file:
        file.seek(max(begin, path.stat().st_size - MOST_READ))
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.read().decode("utf-8", "replace"))


def _measured(part: Part) -> dict[str, Any]:
    """The content of the JSON file of a part; it is empty if there is no such file, or nothing of that kind in it."""
    if part.measured is None or not part.measured.is_file():
        return {}
    try:
        found = json.loads(part.measured.read_text("utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def _signal_as_exception() -> Iterator[None]:
    """While the block lasts, Ctrl-C, SIGTERM and SIGHUP end it by an exception that prints nothing."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
