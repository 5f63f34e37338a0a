"""The options of a command: one for each field of its dataclass, and of the dataclasses in it."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from nfc_gs.core.errors import UserError

AUTO = "auto"
"""What stands for None on the command line."""

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended: 128 + SIGINT, as shells have it."""


class Command(ABC):
    """A command: a frozen dataclass whose fields are its options, and whose docstrings are its help."""

    groups: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Headings of the help, and the options below each. Where this is empty the help is one list of all options."""

    more_groups: ClassVar[Mapping[str, Sequence[str]]] = {}
    """The same for what only --help-all shows; it also shows every option that is named nowhere."""

    quiet: bool = False
    """Print nothing but the result, and log nothing but warnings."""

    @abstractmethod
    def run(self) -> int:
        """Do it; returns the exit code."""


@dataclass(frozen=True)
class Arg:
    """How a field looks on the command line, where its name, type and docstring do not say it; for `Annotated`.

    Attributes:
        name: of the option, without dashes; "" for a dataclass whose options have no prefix.
        metavar: what the help shows for the value.
        choices: the values there are.
        help: the text, instead of the docstring below the field.
        positional: a word without an option's name.
        fields: the same for the fields of a dataclass.
    """

    name: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    help: str | None = None
    positional: bool = False
    fields: Mapping[str, Arg] = field(default_factory=dict)


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        path: names of the fields that lead to its value.
        flag: "--objective.l1"; the metavar of a positional one.
        default: `dataclasses.MISSING` for a value that must be given.
        count: how many words it takes; None for a switch, "*" for any number.
        metavar: what stands for them in the help.
        choices: what each of them may be; empty for anything.
        convert: the words -> the value. Raises ValueError with the end of a sentence about the word.
        help: the text, on one line.
    """

    path: tuple[str, ...]
    flag: str
    default: Any
    positional: bool
    count: int | Literal["*"] | None
    metavar: str
    choices: tuple[str, ...]
    convert: Callable[[Sequence[str]], Any]
    help: str

    @property
    def section(self) -> str:
        """What stands before the first dot of its name: "objective"; "" for an option without a prefix."""
        return self.flag.removeprefix("--").split(".")[0] if "." in self.flag else ""

    @property
    def flags(self) -> tuple[str, ...]:
        """All that may be written: of a switch also --no-..., which turns it off."""
        if self.positional:
            return ()
        *sections, name = self.flag.removeprefix("--").split(".")
        return (self.flag,) if self.count is not None else (self.flag, "--" + ".".join([*sections, f"no-{name}"]))

    def read(self, words: Sequence[str]) -> Any:
        """The value that the words stand for. Raises UserError where they stand for none."""
        try:
            return self.convert(words)
        except ValueError as error:
            raise UserError(f"{self.flag}: {error}.") from None


@functools.cache
def options_of(command: type) -> tuple[Option, ...]:
    """All options of a command, in the order of its fields."""
    return tuple(_walk(command, (), "", {}))


def _walk(kind: type, path: tuple[str, ...], prefix: str, args: Mapping[str, Arg]) -> list[Option]:
    found = []
    hints, docs = get_type_hints(kind, include_extras=True), field_docs(kind)
    for each in dataclasses.fields(kind):
        hint, arg = hints[each.name], args.get(each.name, Arg())
        if get_origin(hint) is Annotated:
            hint, *extras = get_args(hint)
            arg = next((extra for extra in extras if isinstance(extra, Arg)), arg)
        name = each.name.replace("_", "-") if arg.name is None else arg.name
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            inner = f"{prefix}{name}." if name else prefix
            found += _walk(hint, (*path, each.name), inner, arg.fields)
            continue
        has_factory = each.default_factory is not dataclasses.MISSING
        values = _values_of(hint, arg.choices)
        metavar = arg.metavar or values.metavar
        found.append(
            Option(
                path=(*path, each.name),
                flag=metavar if arg.positional else f"--{prefix}{name}",
                default=each.default_factory() if has_factory else each.default,  # type: ignore[misc]
                positional=arg.positional,
                count=values.count,
                metavar=metavar,
                choices=values.choices,
                convert=values.convert,
                help=arg.help or docs.get(each.name, ""),
            )
        )
    return found


@dataclass(frozen=True)
class _Values:
    """The words of an option; fields as in `Option`."""

    count: int | Literal["*"] | None
    metavar: str
    choices: tuple[str, ...]
    convert: Callable[[Sequence[str]], Any]


def _values_of(kind: Any, choices: tuple[str, ...]) -> _Values:
    """The words of a type: bool, X, X | None, a tuple of X or a dict, where X is in `_WORDS` or names."""
    if kind is bool:
        return _Values(None, "", (), bool)
    optional = get_origin(kind) in (Union, UnionType)
    if optional:
        (kind,) = (part for part in get_args(kind) if part is not NoneType)
    origin, items, count = get_origin(kind), (kind,), 1
    if origin is tuple:
        items, count = get_args(kind), len(get_args(kind))
        if items[-1] is Ellipsis:
            items, count = items[:1], "*"
    elif origin is dict:
        items, count = get_args(kind), "*"
    if get_origin(items[0]) is Literal:
        choices = get_args(items[0])
    if optional and choices:
        choices = (AUTO, *choices)
    metavar = "{" + ",".join(choices) + "}" if choices else " ".join(_WORDS[item][0] for item in items)

    def convert(words: Sequence[str]) -> Any:
        if optional and list(words[:1]) == [AUTO]:
            return None
        if origin is dict and len(words) % 2:
            raise ValueError(f"'{words[-1]}' has no value beside it")
        kinds = [items[i % len(items)] for i in range(len(words))]
        values = [_read(word, kind, choices) for word, kind in zip(words, kinds, strict=True)]
        if origin is dict:
            return dict(zip(values[::2], values[1::2], strict=True))
        return tuple(values) if origin is tuple else values[0]

    return _Values(count, metavar, choices, convert)


_WORDS: dict[Any, tuple[str, str]] = {
    int: ("N", "a whole number"),
    float: ("X", "a number"),
    str: ("TEXT", "a text"),
    Path: ("PATH", "a path"),
}
"""Metavar and name of the types that one word stands for."""


def _read(word: str, kind: Any, choices: tuple[str, ...]) -> Any:
    if choices:
        if word not in choices:
            raise ValueError(f"'{word}' is none of {', '.join(choices)}")
        return word
    try:
        return kind(word)
    except ValueError:
        raise ValueError(f"'{word}' is not {_WORDS[kind][1]}") from None


@functools.cache
def field_docs(kind: type) -> dict[str, str]:
    """The docstrings below the fields of a dataclass and of those it extends, each on one line."""
    docs: dict[str, str] = {}
    for base in reversed([base for base in kind.__mro__ if dataclasses.is_dataclass(base)]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for statement, below in zip(definition.body[:-1], definition.body[1:], strict=True):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                text = below.value.value if _is_text(below) else ""  # type: ignore[attr-defined]
                docs[statement.target.id] = " ".join(text.split())
    return docs


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
