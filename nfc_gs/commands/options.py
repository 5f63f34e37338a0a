"""How options that may be left out look in the help, and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from nfc_gs.rendering.registry import BACKEND_HELP, BACKEND_NAMES

AUTO = "auto"
"""What stands for None on the command line and in the help."""

_WORDS: dict[type, tuple[str, str]] = {
    int: ("INT", "a whole number"),
    float: ("FLOAT", "a number"),
    str: ("STR", "a text"),
    Path: ("PATH", "a path"),
}

BackendOption = Annotated[str, tyro.conf.arg(help=f"The rasterizer: {BACKEND_HELP}.")]
"""`--backend` where a training begins."""

RunBackendOption = Annotated[
    str,
    tyro.conf.arg(help=f"The rasterizer, one of {', '.join(BACKEND_NAMES)}; auto takes the one of the run's training."),
]
"""`--backend` where a run is opened."""

registry = ConstructorRegistry()


@registry.primitive_rule
def optional_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Show `X | None` as X with the default `auto`, for an int, float, str, Path, a tuple of one of them, or names."""
    if get_origin(info.type) not in (Union, UnionType):
        return None
    kinds = [kind for kind in get_args(info.type) if kind is not type(None)]
    if len(kinds) != 1 or len(get_args(info.type)) != 2:
        return None
    if get_origin(kinds[0]) is Literal:
        return _optional_choice((AUTO, *get_args(kinds[0])))
    items = get_args(kinds[0]) if get_origin(kinds[0]) is tuple else (kinds[0],)
    if any(item not in _WORDS for item in items):
        return None
    readers = [_reader(item) for item in items]

    def read(words: list[str]) -> Any:
        if words[0] == AUTO:
            return None
        values = tuple(reader(word) for reader, word in zip(readers, words, strict=True))
        return values if get_origin(kinds[0]) is tuple else values[0]

    def write(value: Any) -> list[str]:
        if value is None:
            return [AUTO]
        return [str(part) for part in (value if isinstance(value, tuple) else (value,))]

    return PrimitiveConstructorSpec(
        nargs=len(items),
        metavar=" ".join(_WORDS[item][0] for item in items),
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, (kinds[0] if len(items) == 1 else tuple)),
        str_from_instance=write,
    )


def _optional_choice(names: tuple[str, ...]) -> PrimitiveConstructorSpec:
    """One of the names, of which `auto` stands for None."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(names) + "}",
        instance_from_str=lambda words: None if words[0] == AUTO else words[0],
        is_instance=lambda value: value is None or value in names,
        str_from_instance=lambda value: [AUTO if value is None else value],
        choices=names,
    )


def _reader(kind: type) -> Callable[[str], Any]:
    def read(word: str) -> Any:
        try:
            return kind(word)
        except ValueError:
            raise ValueError(f"'{word}' is not {_WORDS[kind][1]}") from None

    return read
