"""From the words of a command line to a command."""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from nfc_gs.commands.options import Command, Option, options_of
from nfc_gs.core.errors import UserError

C = TypeVar("C", bound=Command)


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
    named, literal = list(words), []
    if "--" in named:  # after it nothing is an option
        cut = named.index("--")
        named, literal = named[:cut], named[cut + 1 :]
    options = [option for option in options_of(kind) if not option.positional]
    positional = [option for option in options_of(kind) if option.positional]
    needed = any(option.default is dataclasses.MISSING for option in positional) and not literal
    values, others = _parse_options(name, options, named, needed)
    values |= _parse_positional(name, positional, [*others, *literal])
    return _build(kind, values)


def _parse_options(
    name: str, options: Sequence[Option], words: Sequence[str], needs_positional: bool
) -> tuple[dict[tuple[str, ...], Any], list[str]]:
    """The values of the options that are given, by path, and the words that belong to none.

    An option that takes any number of words takes all up to the next option; the last word of the line is left for a
    positional one that is needed and was not given before.
    """
    by_flag = {flag: option for option in options for flag in option.flags}
    values: dict[tuple[str, ...], Any] = {}
    others: list[str] = []
    rest = deque(words)
    while rest:
        word = rest.popleft()
        flag, equals, value = word.partition("=")
        if not _looks_like_option(word):
            others.append(word)
            continue
        if flag not in by_flag:
            raise UnknownOptionError(name, flag)
        option = by_flag[flag]
        if option.count is None:
            if equals:
                raise UserError(f"{flag} takes no value; leave it out.")
            values[option.path] = flag == option.flag
            continue
        taken = [value] if equals else []
        most = len(rest) if option.count == "*" else option.count
        while len(taken) < most and rest and not _looks_like_option(rest[0]):
            taken.append(rest.popleft())
        if option.count == "*" and taken and not rest and needs_positional and not others:
            others.append(taken.pop())
        if option.count != "*" and len(taken) < option.count:
            raise UserError(f"{flag} needs a value: {flag} {option.metavar}.")
        values[option.path] = option.read(taken)
    return values, others


def _looks_like_option(word: str) -> bool:
    """Whether a word begins with a dash and is neither a dash alone nor a negative number."""
    return word.startswith("-") and word != "-" and not re.match(r"-[\d.]", word)


def _parse_positional(name: str, options: Sequence[Option], words: Sequence[str]) -> dict[tuple[str, ...], Any]:
    """The value of the one positional option a command may have; nothing if there is none and none is needed."""
    most = {None: 0, 1: 1, "*": len(words)}[options[0].count if options else None]
    if len(words) > most:
        takes = f"takes one {options[0].metavar}" if options else "takes only options"
        raise UserError(f"nfc-gs {name} {takes}, and '{words[most]}' is one too many; see nfc-gs {name} --help.")
    if words:
        return {options[0].path: options[0].read(words)}
    for option in options:
        if option.default is dataclasses.MISSING:
            raise UserError(f"nfc-gs {name} needs a {option.metavar.split()[0]}; see nfc-gs {name} --help.")
    return {}


def _build(kind: type[C], values: Mapping[tuple[str, ...], Any]) -> C:
    """A command from the values that are given, by path."""
    given = {path[0]: value for path, value in values.items() if len(path) == 1}
    for each in dataclasses.fields(kind):  # type: ignore[arg-type]
        inner = {path[1:]: value for path, value in values.items() if len(path) > 1 and path[0] == each.name}
        if inner:
            assert each.default_factory is not dataclasses.MISSING
            given[each.name] = _changed(each.default_factory(), inner)
    return kind(**given)


def _changed(value: Any, changes: Mapping[tuple[str, ...], Any]) -> Any:
    """A dataclass with the values at these paths replaced."""
    direct = {path[0]: change for path, change in changes.items() if len(path) == 1}
    for name in {path[0] for path in changes if len(path) > 1}:
        inner = {path[1:]: change for path, change in changes.items() if path[0] == name}
        direct[name] = _changed(getattr(value, name), inner)
    return dataclasses.replace(value, **direct)
