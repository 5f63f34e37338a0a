"""Shape checks that name what is wrong: for the boundaries between layers."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from torch import Tensor


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
