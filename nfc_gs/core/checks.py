"""Shape checks that name what is wrong: for the boundaries between layers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def check_shapes(**tensors: tuple[Tensor | None, str]) -> dict[str, int]:
    """Check that tensors have the shapes they should, and that named dimensions agree.

        check_shapes(means=(means, "N 3"), quats=(quats, "N 4"), features=(features, "N D"))

    Args:
        tensors: by name: the tensor (None is skipped) and its dimensions, separated by spaces. A number must
            match exactly, a name must stand for the same number everywhere.

    Returns:
        The size of each named dimension.

    Raises:
        ValueError: names the tensor, the dimension and both numbers.
    """
    sizes: dict[str, int] = {}
    first_use: dict[str, str] = {}
    for name, (tensor, spec) in tensors.items():
        if tensor is None:
            continue
        dims = spec.split()
        shape = tuple(tensor.shape)
        if len(shape) != len(dims):
            raise ValueError(f"{name} has shape {shape}, expected [{', '.join(dims)}]: {len(dims)} dimensions")
        for dim, size in zip(dims, shape, strict=True):
            if dim.isdigit():
                if size != int(dim):
                    raise ValueError(f"{name} has shape {shape}, expected [{', '.join(dims)}]: {size} is not {dim}")
            elif sizes.setdefault(dim, size) != size:
                raise ValueError(
                    f"{name} has shape {shape}, expected [{', '.join(dims)}]: "
                    f"{dim} is {size} here but {sizes[dim]} in {first_use[dim]}"
                )
            else:
                first_use.setdefault(dim, name)
    return sizes


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
