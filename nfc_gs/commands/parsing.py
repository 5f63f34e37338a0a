"""What tyro does for the command line: words become a command, and commands are explained and completed."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import itertools
import os
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, TypeVar, Union

import tyro

from nfc_gs.commands.options import Command, registry_of
from nfc_gs.core.errors import UserError

C = TypeVar("C", bound=Command)

SHELLS = ("bash", "zsh", "fish")

MOST_COLUMNS = 110
"""Wider terminals leave the rest of the line free: long lines are hard to read."""

_SENTENCES = (
    (r"Error parsing (\S+): (.*)", r"\1: \2."),
    (r"invalid choice (.*) for argument '(.*)'. Expected one of \((.*?),?\)\.", r"\2: \1 is none of \3."),
    (r"Missing value for argument '(.*)'. Expected 1 values.", r"\1 needs a value; see {prog} --help."),
    (r"Missing value for argument '(.*)'. Expected (.*).", r"\1 needs \2; see {prog} --help."),
    (r"Missing from .*?: (\S+) .*", r"{prog} needs a \1; see {prog} --help."),
)
"""What tyro says of a mistake, and what we say."""


class UnknownOptionError(UserError):
    """The command has no option of that name.

    Attributes:
        flag: as it was given.
    """

    def __init__(self, name: str, flag: str) -> None:
        super().__init__(f"nfc-gs {name} has no option {flag}; see nfc-gs {name} --help.")
        self.flag = flag


def parse_command(name: str, kind: type[C], words: Sequence[str]) -> C:
    """The command that `words` stand for.

    Args:
        name: of the command, for messages.
        words: what comes after the name.

    Raises:
        UserError: they are not understood; `UnknownOptionError` for an option that the command does not have.
    """
    prog = f"nfc-gs {name}"
    flags = flags_of(kind)
    for word in itertools.takewhile(lambda word: word != "--", words):
        flag, equals, _ = word.partition("=")
        if not re.match("--?[a-z]", flag, re.IGNORECASE):
            continue
        if flag not in flags:
            raise UnknownOptionError(name, flag)
        if equals and flags[flag]:
            raise UserError(f"{flag} takes no value; leave it out.")
    registry = registry_of([kind], everything=True)
    with _captured() as printed:
        command, surplus = tyro.cli(kind, prog=prog, args=words, registry=registry, return_unknown_args=True)
        if surplus:
            raise UserError(f"'{surplus[0]}' is one word too many; see {prog} --help.")
        return command
    raise UserError(_sentence(printed.getvalue(), prog))


@functools.cache
def flags_of(kind: type[Command]) -> dict[str, bool]:
    """All that begins with a dash in the whole help of a command, and whether it is a switch, which has no value."""
    with _captured() as printed:
        tyro.cli(kind, description="", args=["--help"], registry=registry_of([kind], everything=True))
    found = re.findall(r"^  (--[\w.-]+)(?:, (--[\w.-]+))?", printed.getvalue(), re.MULTILINE)
    return {flag: off != "" for on, off in found for flag in (on, off) if flag}


def print_help(name: str, kind: type[Command], *, everything: bool) -> None:
    """Explain a command on stdout, with `everything` with all of its options."""
    print(prose(inspect.getdoc(kind) or ""))
    if kind.short and not everything:
        print(f"\nThese options matter most; all are explained by: nfc-gs {name} --help-all")
    print()
    with contextlib.suppress(SystemExit):
        tyro.cli(
            kind,
            prog=f"nfc-gs {name}",
            description="",
            args=["--help"],
            registry=registry_of([kind], everything=everything),
        )


def prose(text: str) -> str:
    """Paragraphs wrapped at the width of the terminal; indented lines stay as they are."""
    width = min(MOST_COLUMNS, shutil.get_terminal_size().columns)
    lines = re.sub(r"(?<=\S)\n(?=\S)", " ", text).splitlines()
    return "\n".join(line if line.startswith(" ") else textwrap.fill(line, width) for line in lines)


def completion_script(shell: str, commands: Mapping[str, type[Command]]) -> str:
    """What a shell reads to complete `nfc-gs`.

    Args:
        shell: one of `SHELLS`.
        commands: by name.

    Raises:
        UserError: it is none of these.
    """
    if shell not in SHELLS:
        raise UserError(f"--completion: '{shell}' is none of {', '.join(SHELLS)}.")
    kinds = [Annotated[kind, tyro.conf.subcommand(name, prefix_name=False)] for name, kind in commands.items()]
    with _captured() as printed:
        tyro.cli(
            Union[tuple(kinds)],  # noqa: UP007
            prog="nfc-gs",
            args=["--tyro-print-completion", shell],
            registry=registry_of([*commands.values()], everything=True),
        )
    return printed.getvalue()


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """What tyro prints in lines of 120 characters, while its SystemExit is ignored."""
    printed, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "120"
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit):
            yield printed
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns


def _sentence(panel: str, prog: str) -> str:
    """One sentence from the panel that tyro prints for a mistake: a title, a line, the sentence, a line, and more."""
    text = " ".join(re.split("-{40,}", panel)[1].split())
    for pattern, ours in _SENTENCES:
        if match := re.fullmatch(pattern, text):
            return match.expand(ours.replace("{prog}", prog))
    return text
