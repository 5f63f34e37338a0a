"""Checks that name what is wrong: of shapes, for the boundaries between layers, and of the fields of configurations."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor

from nfc_gs.core.errors import UserError
from nfc_gs.core.plain_json import in_short


def check_shapes(**tensors: tuple[Tensor | None, str]) -> dict[str, int]:
    """Check that tensors have the shapes they should, and that named dimensions agree.

        check_shapes(means=(means, "N 3"), quats=(quats, "N 4"), features=(features, "N D"))

    Args:
        tensors: by name: the tensor (None is skipped) and its dimensions, separated by spaces. A number must
            match exactly, a name must be the same number everywhere.

    Returns:
        The size of each named dimension.

    Raises:
        ValueError: names the tensor, the dimension and both numbers.
    """
    sizes: dict[str, int] = {}
    for name, (tensor, spec) in tensors.items():
        if tensor is None:
            continue
        dims, shape = _dimensions(spec), tensor.shape
        if len(shape) != len(dims):
            raise _wrong(name, shape, spec, f"{len(dims)} dimensions")
        for dim, size in zip(dims, shape, strict=True):
            if isinstance(dim, int):
                if size != dim:
                    raise _wrong(name, shape, spec, f"{size} is not {dim}")
            elif sizes.setdefault(dim, size) != size:
                first = next(n for n, (t, s) in tensors.items() if t is not None and dim in _dimensions(s))
                raise _wrong(name, shape, spec, f"{dim} is {size} here but {sizes[dim]} in {first}")
    return sizes


def check_same_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that there are all the tensors that are expected, and no others, with the same shapes.

    Raises:
        ValueError: names the first tensor that is missing, unexpected or of another shape.
    """
    for name, tensor in expected.items():
        if name not in tensors:
            raise ValueError(f"there is no tensor '{name}'")
        if tensors[name].shape != tensor.shape:
            raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}")
    unknown = sorted(tensors.keys() - expected.keys())
    if unknown:
        raise ValueError(f"there is an unexpected tensor '{unknown[0]}'")


@functools.cache  # a training step checks the same few shapes again and again
def _dimensions(spec: str) -> tuple[int | str, ...]:
    return tuple(int(dim) if dim.isdigit() else dim for dim in spec.split())


def _wrong(name: str, shape: Iterable[int], spec: str, what: str) -> ValueError:
    return ValueError(f"{name} has shape {tuple(shape)}, expected [{', '.join(spec.split())}]: {what}")


def check_alike(tensors: Mapping[str, Tensor | None]) -> None:
    """Check that tensors share one floating dtype and one device (None is skipped).

    Raises:
        ValueError: names the two that differ and how.
    """
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if not present:
        return
    first, reference = next(iter(present.items()))
    if not reference.dtype.is_floating_point:
        raise ValueError(f"{first} has dtype {reference.dtype}, expected a floating dtype")
    for name, tensor in present.items():
        if tensor.dtype != reference.dtype:
            raise ValueError(f"{name} has dtype {tensor.dtype} but {first} has {reference.dtype}")
        if tensor.device != reference.device:
            raise ValueError(f"{name} is on {tensor.device} but {first} is on {reference.device}")


class CheckedFields:
    """A dataclass that checks its fields when it is made (`check_fields`)."""

    def __post_init__(self) -> None:
        check_fields(self)


def check_fields(config: Any) -> None:
    """Check that each field of a dataclass holds a value of its type.

    The types are bool, int, float (an int will do), str, None, Literal, tuple, dict, other classes, and unions of them.
    NumPy's numbers become Python's, and a list or an array becomes the tuple that is expected.

    Raises:
        UserError: names the first field that holds something else, its value and what is expected.
    """
    kind = type(config)
    for name, hint in _hints(kind).items():
        value = getattr(config, name)
        fitted = _fitted(value, hint)
        if fitted is _MISFIT:
            raise UserError(f"{kind.__name__}({name}={in_short(value)}): {name} must be {_in_words(hint)}.")
        if fitted is not value:
            object.__setattr__(config, name, fitted)


_MISFIT = object()


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _fitted(value: Any, hint: Any) -> Any:
    """The value as a type has it, or `_MISFIT`."""
    kind, choices = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return next((fit for fit in (_fitted(value, each) for each in choices) if fit is not _MISFIT), _MISFIT)
    if kind is Literal:
        return value if isinstance(value, str) and value in choices else _MISFIT
    if kind is tuple:
        return _fitted_tuple(value, choices)
    if kind is dict:
        if not isinstance(value, Mapping):
            return _MISFIT
        parts = {_fitted(key, choices[0]): _fitted(part, choices[1]) for key, part in value.items()}
        return _MISFIT if _MISFIT in (*parts, *parts.values()) else value
    if hint in (int, float):
        numbers = (int, np.integer) if hint is int else (int, float, np.integer, np.floating)
        if not isinstance(value, numbers) or isinstance(value, bool):
            return _MISFIT
        return value if type(value) in (int, float) else hint(value)
    if hint is bool and isinstance(value, np.bool_):
        return bool(value)
    return value if isinstance(value, hint) else _MISFIT


def _fitted_tuple(value: Any, kinds: tuple[Any, ...]) -> Any:
    if not isinstance(value, (tuple, list, np.ndarray)):
        return _MISFIT
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        return _MISFIT
    parts = tuple(_fitted(part, kind) for part, kind in zip(value, kinds, strict=True))
    if _MISFIT in parts:
        return _MISFIT
    return value if isinstance(value, tuple) and all(a is b for a, b in zip(parts, value, strict=True)) else parts


_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}


def _in_words(hint: Any) -> str:
    """What a type takes: "a whole number or None"."""
    kind, choices = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return " or ".join(_in_words(each) for each in choices)
    if kind is Literal:
        return "one of " + ", ".join(repr(each) for each in choices)
    if kind is tuple:
        parts = "numbers" if float in choices else "whole numbers"
        return f"a tuple of {parts}" if choices[-1] is Ellipsis else f"a tuple of {len(choices)} {parts}"
    if kind is dict:
        return "a dictionary of numbers by name"
    return _WORDS.get(hint) or f"a {hint.__name__}"
