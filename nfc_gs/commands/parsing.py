"""What tyro does for the command line: words become a command, and commands are explained and completed."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import os
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union

import tyro

from nfc_gs.commands.options import Command, registry_of
from nfc_gs.core.errors import UserError

C = TypeVar("C", bound=Command)

SENTENCES = (
    (r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)", r"\1: \2 is not a whole number."),
    (r"Error parsing (\S+): could not convert string to float: (.*)", r"\1: \2 is not a number."),
    (r"Error parsing (\S+): Could not find valid parse for arguments: \[(.*)\]", r"\1: \2 is not understood."),
    (r"Error parsing (\S+): Failed to parse key-value pairs!", r"\1 takes pairs of a name and a value."),
    (r"invalid choice (.*) for argument '(.*)'\. Expected one of \((.*?),?\)\.", r"\2: \1 is none of \3."),
    (r"Missing value for argument '(.*)'\. Expected 1 values\.", r"\1 needs a value."),
    (r"Missing value for argument '(.*)'\. Expected (.*)\.", r"\1 needs \2."),
    (r"Missing from (.*): (\S+) .*", r"\1 needs a \2."),
)
"""What tyro says of a mistake, and what we say."""


COMPLETION = {
    "bash": """{script}
_nfc_gs() {{ _tyro_nfc_gs; [ -n "${{COMPREPLY[*]}}" ] || COMPREPLY=(); }}
complete -o default -F _nfc_gs nfc-gs""",
    "zsh": """_nfc_gs() {{
{script}
[ $compstate[nmatches] -gt 0 ] || _files
}}
autoload -Uz compinit && compinit
compdef _nfc_gs nfc-gs""",
    "fish": """{script}
complete --command nfc-gs --force-files""",
}
"""By shell: tyro's script, and what makes it complete names of files where tyro knows nothing."""


def parse_command(name: str, kind: type[C], words: Sequence[str]) -> C:
    """The command that `words` stand for; its options are known to be in `flags_of` it.

    Args:
        name: of the command, for messages.
        words: what comes after the name.

    Raises:
        UserError: they are not understood.
    """
    prog, registry = f"nfc-gs {name}", registry_of([kind])
    with _captured() as printed:
        command, surplus = tyro.cli(kind, prog=prog, args=words, registry=registry, return_unknown_args=True)
        if surplus:
            raise UserError(f"'{surplus[0]}' is one word too many here; see {prog} --help.")
        return command
    raise UserError(f"{_sentence(printed.getvalue())[:-1]}; see {prog} --help.")


@functools.cache
def flags_of(kind: type[Command]) -> dict[str, bool]:
    """The options in the whole help of a command, and whether each is a switch, which takes no value."""
    with _captured() as printed:
        tyro.cli(kind, description="", args=["--help"], registry=registry_of([kind]))
    found = re.findall(r"^  (--\w[\w.-]*)(?:, (--\w[\w.-]*))?", printed.getvalue(), re.MULTILINE)
    return {flag: inverse != "" for on, inverse in found for flag in (on, inverse) if flag}


def print_help(name: str, kind: type[Command], *, everything: bool) -> None:
    """Explain a command on stdout, with `everything` with all of its options."""
    width = min(110, shutil.get_terminal_size().columns)
    for line in re.sub(r"(?<=\S)\n(?=\S)", " ", inspect.getdoc(kind) or "").splitlines():  # a paragraph each
        print(line if line.startswith(" ") else textwrap.fill(line, width))
    if kind.short and not everything:
        print(f"\nThese options matter most; all are explained by: nfc-gs {name} --help-all")
    print()
    registry = registry_of([kind], everything=everything, inverse=False)
    with contextlib.suppress(SystemExit):
        tyro.cli(kind, prog=f"nfc-gs {name}", description="", args=["--help"], registry=registry)


def completion_script(shell: str, commands: Mapping[str, type[Command]]) -> str:
    """What a shell reads to complete `nfc-gs`.

    Args:
        shell: a name in `COMPLETION`.
        commands: by name.
    """
    kinds = [Annotated[kind, tyro.conf.subcommand(name, prefix_name=False)] for name, kind in commands.items()]
    command: Any = Union[tuple(kinds)]  # noqa: UP007
    registry = registry_of([*commands.values()])
    with _captured() as printed:
        tyro.cli(command, prog="nfc-gs", args=["--tyro-print-completion", shell], registry=registry)
    return COMPLETION[shell].format(script=printed.getvalue().strip())


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """What tyro prints, in lines of 120 characters, until it exits."""
    printed, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "120"
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit):
            yield printed
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns


def _sentence(panel: str) -> str:
    """One sentence from what tyro prints for a mistake: a title, a rule, the sentence, a rule, and more."""
    parts = re.split("-{40,}", panel)
    text = " ".join(parts[1 if len(parts) > 1 else 0].split())
    text = re.sub(r"'([^']*)'(?=[,)\]])", r"\1", text)  # the quotes in lists
    for pattern, ours in SENTENCES:
        if match := re.fullmatch(pattern, text):
            return match.expand(ours)
    return f"{text}."
