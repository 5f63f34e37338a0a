"""Deformations: how each Gaussian differs from its canonical state at a time.

A deformation maps canonical means and a time to changes that are added to the Gaussians' tensors; at the start every
change is exactly zero. There are two kinds: `model.hexplane.HexPlane` and `model.mlp.MlpDeformation`, which
`model.deformation_kinds` makes by name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nfc_gs.ops.operations import REFERENCE, Operations

DeformationName = Literal["hexplane", "mlp"]
Quantity = Literal["means", "quats", "log_scales", "opacity_logits", "colors"]

WIDTHS: dict[Quantity, int] = {"means": 3, "quats": 4, "log_scales": 3, "opacity_logits": 1, "colors": 3}
"""Numbers per Gaussian of each quantity that may change."""


class Deformation(nn.Module, ABC):
    """What all kinds share.

    Attributes:
        kind: its name.
        quantities: what it changes, in the order of `WIDTHS`.
        bounds: [2, 3] lowest and highest corner of the box in which the Gaussians move, scene frame.
        unit: scene units that means move by for a network output of 1. It is a good part of the size of the scene, so
            that outputs for all quantities are of the same order and one learning rate suits them.
        settings: what `make_deformation` needs to make the same deformation again, as plain values.
    """

    kind: DeformationName
    quantities: tuple[Quantity, ...]
    bounds: Tensor
    unit: float = 1.0
    settings: dict[str, Any]

    def __init__(self, kind: DeformationName, quantities: Sequence[Quantity], bounds: Tensor) -> None:
        super().__init__()
        self.kind = kind
        self.quantities = tuple(name for name in WIDTHS if name in quantities)
        self.settings = {}
        self.register_buffer("bounds", bounds.detach().clone())

    def normalized(self, means: Tensor) -> Tensor:
        """Means [N, 3] with the box `bounds` as [-1, 1]."""
        low, high = self.bounds
        return (means - low) * (2.0 / (high - low)) - 1.0

    def forward(self, means: Tensor, time: float, operations: Operations = REFERENCE) -> dict[Quantity, Tensor]:
        """What to add to the Gaussians at a time.

        Args:
            means: [N, 3] canonical, scene frame.
            time: 0..1.
            operations: compute it (`operations_for` the tensors' device and dtype).

        Returns:
            By quantity [N, its width]; opacity_logits [N]. "colors" is in units of the constant color, [0, 1].
        """
        parts = self.changes(means, time, operations).split([WIDTHS[name] for name in self.quantities], dim=1)
        changes = dict(zip(self.quantities, parts, strict=True))
        if "means" in changes:
            changes["means"] = changes["means"] * self.unit
        if "opacity_logits" in changes:
            changes["opacity_logits"] = changes["opacity_logits"].squeeze(1)
        return changes

    @abstractmethod
    def changes(self, means: Tensor, time: float, operations: Operations) -> Tensor:
        """The changes side by side, [N, sum of their widths], those of means in multiples of `unit`."""

    def key_times(self) -> Tensor:
        """[T] times, 0..1, between which changes are about linear in time: who samples these sees all motion."""
        return torch.linspace(0.0, 1.0, 64)

    def subset(self, kept: Tensor) -> Deformation | None:
        """The deformation of those Gaussians that are `kept` ([N] bool); None if none of them changes."""
        return self  # it is a function of the mean, whichever Gaussian has it

    @torch.no_grad()
    def fit_bounds(self, points: Tensor) -> None:
        """Set the box to that of points [P, 3], before anything has been learnt."""
        self.bounds.copy_(robust_bounds(points))

    def grow_bounds(self, means: Tensor, optimizer_state: Sequence[Mapping[str, Tensor]] = ()) -> None:
        """Enlarge the box if Gaussians [N, 3] have left it. Not all kinds need that.

        Args:
            optimizer_state: tensors by parameter name, of the parameters' shapes (Adam's moments), which are resampled
                together with the parameters.
        """


def linear_layer(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """A linear layer, its weights drawn as torch draws them but from our generator; all zero without one.

    The last layer of a deformation is zero: at first nothing moves.
    """
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    bound = 1.0 / math.sqrt(inputs)
    for tensor in (layer.weight, layer.bias):
        if generator is None:
            nn.init.zeros_(tensor)
        else:
            nn.init.uniform_(tensor, -bound, bound, generator=generator)
    return layer


def robust_bounds(points: Tensor, share: float = 0.01) -> Tensor:
    """[2, 3] the box that holds all but `share` of the points [P, 3] on each side of each axis, a fifth larger.

    The points are finite, and at least one.
    """
    low, high = quantiles(points, share)
    sides = high - low
    # No side is so short that rounding, or the slopes of a deformation over it, would have no bounds.
    least = torch.maximum(1e-3 * sides.amax(), 1e-3 * (1.0 + torch.maximum(low.abs(), high.abs())))
    margin = 0.1 * torch.maximum(sides, least)
    return torch.stack([low - margin, high + margin])


def quantiles(points: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """[3] below and [3] above which lies that share of the points [P, 3], by axis; very many points are sampled."""
    some = points[:: len(points) // 1_000_000 + 1]  # torch.quantile takes no more than 2^24
    return torch.quantile(some, share, dim=0), torch.quantile(some, 1.0 - share, dim=0)
