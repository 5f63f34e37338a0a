"""MLP deformation: one network of the encoded mean and time.

Deformable 3D Gaussians (Yang et al. 2024, arXiv 2309.13101, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nfc_gs.core.checks import CheckedFields
from nfc_gs.model.deformation import WIDTHS, Deformation, Quantity, linear_layer
from nfc_gs.ops.operations import Operations


@dataclass(frozen=True)
class MlpConfig(CheckedFields):
    """Size of an MLP deformation (Deformable 3D Gaussians, section 3.2 and 3.3)."""

    depth: int = 8
    """Layers."""
    width: int = 256
    """Width of the layers."""
    mean_frequencies: int = 10
    """Octaves of the encoding of means."""
    time_frequencies: int = 6
    """Octaves of the encoding of time."""
    time_noise: float | None = None
    """Noise on the time of training views, in intervals between frames, falling to 0 in the course of the run (annealed
    smooth training). By default 0.1, and 0 for images that were laid on a background, as rendered ones are."""


def encode(x: Tensor, octaves: int) -> Tensor:
    """[N, D] -> [N, D (2 octaves + 1)]: x and sin, cos of 2^k pi x (NeRF, Mildenhall et al. 2020, eq. 4)."""
    waves = x[:, None] * (math.pi * 2.0 ** torch.arange(octaves, dtype=x.dtype, device=x.device))[:, None]
    return torch.cat([x, waves.sin().flatten(1), waves.cos().flatten(1)], dim=1)


class MlpDeformation(Deformation):
    """One network of the encoded mean and time, which come in again in its middle (skip).

    Attributes:
        config: its sizes.
        skip: the layer that takes the inputs, too.
        layers: of the network.
    """

    def __init__(
        self,
        config: MlpConfig,
        quantities: Sequence[Quantity],
        bounds: Tensor,
        generator: torch.Generator | None = None,
    ) -> None:
        """`generator` of the first values; None leaves all zero, to be loaded."""
        super().__init__("mlp", quantities, bounds)
        self.config = config
        inputs = 3 * (2 * config.mean_frequencies + 1) + 2 * config.time_frequencies + 1
        self.skip = config.depth // 2  # at least 1: there are 2 layers or more
        self.layers = nn.ModuleList()
        for k in range(config.depth):
            width = (inputs if k == 0 else config.width) + (inputs if k == self.skip else 0)
            self.layers.append(linear_layer(width, config.width, generator))
        self.layers.append(linear_layer(config.width, sum(WIDTHS[name] for name in self.quantities), None))

    def changes(self, means: Tensor, time: float, operations: Operations) -> Tensor:
        # Gradients reach the means through rendering alone, as in the paper: those of the encoding are wild.
        mean = encode(self.normalized(means.detach()).nan_to_num(), self.config.mean_frequencies)
        encoded_time = encode(means.new_full((1, 1), time), self.config.time_frequencies)
        inputs = torch.cat([mean, encoded_time.expand(len(mean), -1)], dim=1)
        *hidden_layers, last = self.layers
        hidden = inputs
        for k, layer in enumerate(hidden_layers):
            if k == self.skip:
                hidden = torch.cat([inputs, hidden], dim=1)
            hidden = layer(hidden).relu()
        return last(hidden)
