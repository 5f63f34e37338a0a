"""Color maps of the viewer and the report."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

MapName = Literal["turbo", "viridis", "inferno", "grey"]

_ANCHORS: dict[MapName, str] = {
    "turbo": "30123b 466be3 28bceb 32f298 a4fc3c eecf3a fb7e21 d02f05 7a0403",
    "viridis": "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725",
    "inferno": "000004 1f0c48 550f6d 88226a ba3655 e35933 f98e09 f9c932 fcffa4",
    "grey": "000000 ffffff",
}
"""Colors at equal steps from 0 to 1; those between are interpolated linearly."""

MAP_NAMES: tuple[MapName, ...] = tuple(_ANCHORS)


ERROR_MAP: MapName = "inferno"
ERROR_FULL = 0.25
"""Absolute error, 0..1, from which on `ERROR_MAP` has its last color; 64 of 255 levels."""


def gradient(name: MapName) -> tuple[str, ...]:
    """The colors of a map at equal steps, as CSS writes them."""
    return tuple(f"#{word}" for word in _ANCHORS[name].split())


def apply(values: Tensor, name: MapName) -> Tensor:
    """Colors [..., 3] in [0, 1] of values [...], which are clamped to [0, 1]; NaN counts as 0."""
    anchors = torch.tensor([list(bytes.fromhex(word)) for word in _ANCHORS[name].split()], device=values.device) / 255.0
    position = values.nan_to_num(nan=0.0).clamp(0.0, 1.0) * (len(anchors) - 1)
    below = position.floor().long().clamp(max=len(anchors) - 2)
    return torch.lerp(anchors[below], anchors[below + 1], (position - below)[..., None])
