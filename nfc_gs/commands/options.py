"""The options of a command: one for each field of its dataclass, and of the dataclasses in it; tyro reads them."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from tyro.constructors import (
    MISSING_NONPROP,
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

AUTO = "auto"
"""What stands for None on the command line."""


class Command(ABC):
    """A command: a frozen dataclass whose fields are its options, and whose docstrings are its help.

    A field that is a dataclass heads a group of options; those of a dataclass in a group have its name before their
    own, as in --objective.l1.
    """

    types: ClassVar[Mapping[type, Mapping[str, Any]]] = {}
    """By dataclass and field: types on the command line, where they are not those of the dataclass."""

    short: ClassVar[Collection[str]] = ()
    """Names of the fields that --help shows, while --help-all shows all. Where this is empty --help shows all, too."""

    quiet: bool = False
    """Print nothing but the result, and log nothing but warnings."""

    @abstractmethod
    def run(self) -> int:
        """Do it; returns the exit code."""


def registry_of(
    commands: Sequence[type[Command]], *, everything: bool = True, inverse: bool = True
) -> ConstructorRegistry:
    """How tyro reads and explains the options of the commands.

    Args:
        everything: have more options than those in `Command.short`.
        inverse: switches that are off by default have an inverse --no-..., too.
    """
    types = {kind: fields for command in commands for kind, fields in command.types.items()}
    short = {name for command in commands for name in command.short}
    kinds = {kind for command in commands for kind in get_type_hints(command).values()}
    groups = {kind for kind in kinds if dataclasses.is_dataclass(kind)}
    registry = ConstructorRegistry()
    registry.primitive_rule(_optional)

    @registry.struct_rule
    def options(info: StructTypeInfo) -> StructConstructorSpec | None:
        kind = info.type
        if not dataclasses.is_dataclass(kind) or not kind.__module__.startswith("nfc_gs."):  # but one of tyro's
            return None
        plain, full, docs = get_type_hints(kind), get_type_hints(kind, include_extras=True), field_docs(kind)
        specs = []
        for each in dataclasses.fields(kind):
            extras = [tyro.conf.arg(prefix_name=kind not in groups, help_behavior_hint=_default_in_words)]
            if not everything and short and each.name not in short and plain[each.name] not in groups:
                extras.append(tyro.conf.Suppress)
            if not inverse and each.default is False:
                extras.append(tyro.conf.FlagCreatePairsOff)
            hint: Any = Annotated[(types.get(kind, full).get(each.name, full[each.name]), *extras)]  # type: ignore
            default = MISSING_NONPROP if each.default is dataclasses.MISSING else each.default
            if each.default_factory is not dataclasses.MISSING:
                default = each.default_factory()
            specs.append(StructFieldSpec(each.name, hint, default, docs.get(each.name)))
        return StructConstructorSpec(kind, tuple(specs))

    return registry


@functools.cache
def field_docs(kind: type) -> dict[str, str]:
    """The docstrings below the fields of a dataclass and of those it extends, each on one line."""
    bases = [base for base in reversed(kind.__mro__) if dataclasses.is_dataclass(base)]
    params = [param for base in bases for param in docstring_parser.parse_from_object(base).params]
    return {param.arg_name: " ".join((param.description or "").split()) for param in params}


def _default_in_words(default: str) -> str:
    """What the help says of a default value, which tyro has written as words of a command line."""
    return "" if default in ("", "False") else f"(default: {default})"


def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """`X | None` as X, where `auto` stands for None."""
    kinds = [kind for kind in get_args(info.type) if kind is not NoneType]
    if get_origin(info.type) not in (Union, UnionType) or len(kinds) != 1:
        return None
    given = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))
    if not isinstance(given, PrimitiveConstructorSpec):
        return None
    choices = (AUTO, *given.choices) if given.choices else None
    return dataclasses.replace(
        given,
        metavar="{" + ",".join(choices) + "}" if choices else given.metavar,
        choices=choices,
        instance_from_str=lambda words: None if words[0] == AUTO else given.instance_from_str(words),
        is_instance=lambda value: value is None or given.is_instance(value),
        str_from_instance=lambda value: [] if value is None else given.str_from_instance(value),
    )
