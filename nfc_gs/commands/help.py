"""The help of a command as text: what it does, and its options below headings."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nfc_gs.commands.options import Command, Option, field_docs, options_of

MOST_COLUMNS = 110
"""Wider terminals leave the rest of the line free: long lines are hard to read."""

COLUMN = 26
"""Where the second column begins."""

NO_BREAK = "\N{NO-BREAK SPACE}"
"""Stands for a space at which no line is broken; a space in the end, since not every terminal knows it."""

HELP_ROWS = {
    True: [("--help", "Show the options that matter most."), ("--help-all", "Show all options.")],
    False: [("--help", "Show this help.")],
}
"""The options of every command, by whether it has more options than the short help shows."""


def command_help(name: str, kind: type[Command], *, everything: bool) -> str:
    """What `nfc-gs NAME --help` prints, or with `everything` what --help-all prints."""
    options = options_of(kind)
    headings = _headings(kind, options, everything)
    positional = [option for option in options if option.positional]
    usage = " ".join(["Usage: nfc-gs", name, *(_usage(option) for option in positional), "[OPTIONS]"])
    parts = [usage, prose(inspect.getdoc(kind) or "")]
    if positional and not kind.groups:
        headings = {"Arguments": positional, **headings}
    for heading, members in headings.items():
        parts.append(f"{heading}:\n" + rows((_label(option), _text(option)) for option in members))
    parts.append("Help:\n" + rows(HELP_ROWS[bool(kind.groups)]))
    return "\n\n".join(parts)


def rows(pairs: Iterable[tuple[str, str]]) -> str:
    """Names on the left and texts on the right, wrapped at the width of the terminal."""
    lines: list[str] = []
    for name, text in pairs:
        first = f"  {name}  ".ljust(COLUMN)
        if len(first) > COLUMN:
            lines.append(first.rstrip())
            first = " " * COLUMN
        lines += _wrapped(text, first, " " * COLUMN) if text else [first.rstrip()]
    return "\n".join(lines)


def width() -> int:
    """The width of help texts in characters: that of the terminal, but no more than `MOST_COLUMNS`."""
    return max(COLUMN + 20, min(MOST_COLUMNS, shutil.get_terminal_size().columns))


def _headings(kind: type[Command], options: Sequence[Option], everything: bool) -> dict[str, list[Option]]:
    """The options to show, by heading."""
    if not kind.groups:
        return {"Options": [option for option in options if not option.positional]}
    by_flag = {option.flag: option for option in options}
    groups: Mapping[str, Sequence[str]] = {**kind.groups, **kind.more_groups} if everything else kind.groups
    headings = {heading: [by_flag.pop(flag) for flag in flags] for heading, flags in groups.items()}
    if everything:
        for option in by_flag.values():
            headings.setdefault(_section_heading(kind, option), []).append(option)
    return headings


def _section_heading(kind: type[Command], option: Option) -> str:
    """The heading of options that no group names: what the docstring of their dataclass's field says."""
    if not option.section:
        return "More options"
    owner: Any = kind
    for name in option.path[:-2]:
        owner = next(each.default_factory for each in dataclasses.fields(owner) if each.name == name)
    return field_docs(owner)[option.path[-2]].rstrip(".")


def _usage(option: Option) -> str:
    return option.metavar if option.default is dataclasses.MISSING else f"[{option.metavar}]"


def _label(option: Option) -> str:
    if option.positional:
        return option.metavar
    if option.count is None:
        return ", ".join(option.flags) if option.default is True else option.flag
    words = f"{option.metavar} ..." if option.count == "*" and " " not in option.metavar else option.metavar
    return f"{option.flag} {words}"


def _text(option: Option) -> str:
    """The help of an option with its default, where that says something."""
    default = option.default
    if option.count is None:
        return f"{option.help} (default:{NO_BREAK}on)" if default else option.help
    if default in (None, (), "", dataclasses.MISSING) or default == {}:
        return option.help
    values = default if isinstance(default, tuple) else (default,)
    words = NO_BREAK.join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    return f"{option.help} (default:{NO_BREAK}{words})"


def prose(text: str) -> str:
    """Paragraphs wrapped at the width of the terminal; indented lines stay as they are."""
    lines: list[str] = []
    paragraph: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line and not line.startswith(" "):
            paragraph.append(line)
            continue
        if paragraph:
            lines += _wrapped(" ".join(paragraph))
            paragraph = []
        lines.append(line)
    return "\n".join(lines).strip("\n")


def _wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    """The lines of a text; numbers such as 30 000 stay on one."""
    text = re.sub(r"(?<=\d) (?=\d{3}\b)", NO_BREAK, text)
    wrapper = textwrap.TextWrapper(
        width(), initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace(NO_BREAK, " ") for line in wrapper.wrap(text)]
