"""Crop and thresholds: which Gaussians of a model are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nfc_gs.model.gaussians import GaussianModel

Point = tuple[float, float, float]

DENSE = 0.8
"""Share of all opacity in the dense middle of a scene, along each axis."""

MARGIN = 0.1
"""How far the box around it reaches further, as a share of its sides."""

MAX_SAMPLES = 200_000
"""Gaussians that the box is measured with."""


@dataclass(frozen=True)
class Edit:
    """Conditions for the Gaussians that are kept; all must hold.

    Attributes:
        box: lowest and highest corner, scene frame; the centre must lie inside. None for no box.
        sphere: centre and radius, likewise.
        min_opacity: the opacity must be at least this, 0..1.
        max_scale: the longest axis (standard deviation, scene units) must be at most this.
        frame: rows of the similarity [4, 4] from the model's frame to the scene's; None where the two are one.
    """

    box: tuple[Point, Point] | None = None
    sphere: tuple[Point, float] | None = None
    min_opacity: float = 0.0
    max_scale: float = math.inf
    frame: tuple[tuple[float, ...], ...] | None = None

    @torch.no_grad()
    def kept(self, model: GaussianModel) -> Tensor:
        """[N] bool: the Gaussians that are kept."""
        means, growth = model.means, 1.0
        if self.frame is not None:
            matrix = means.new_tensor(self.frame)
            means = means @ matrix[:3, :3].T + matrix[:3, 3]
            growth = float(matrix[:3, :3].det()) ** (1 / 3)
        kept = torch.ones(len(model), dtype=torch.bool, device=model.device)
        if self.box is not None:
            low, high = (means.new_tensor(corner) for corner in self.box)
            kept &= ((means >= low) & (means <= high)).all(1)
        if self.sphere is not None:
            centre, radius = self.sphere
            kept &= (means - means.new_tensor(centre)).norm(dim=1) <= radius
        if self.min_opacity > 0.0:
            kept &= model.opacities >= self.min_opacity
        if self.max_scale < math.inf:
            kept &= model.log_scales.amax(1) <= math.log(max(self.max_scale / growth, 1e-30))
        return kept

    @torch.no_grad()
    def applied(self, model: GaussianModel) -> GaussianModel:
        """The Gaussians of a static model that are kept; the model itself for `EVERYTHING`."""
        if self == EVERYTHING:
            return model
        return model.subset(self.kept(model))


EVERYTHING = Edit()
"""The edit that keeps all Gaussians."""


@torch.no_grad()
def dense_box(model: GaussianModel) -> tuple[Point, Point]:
    """Lowest and highest corner of a box around the dense middle of a model, in its frame, with sides above 0.

    Along each axis it is the shortest interval that holds `DENSE` of the opacity at all centres, and a margin: what is
    far out, however much of it there is on one side, does not matter.
    """
    every = max(1, len(model) // MAX_SAMPLES)
    means, weights = model.means[::every].double(), model.opacities[::every].double()
    known = means.isfinite().all(1) & weights.isfinite()
    intervals = [_shortest_interval(means[known, axis], weights[known]) for axis in range(3)]
    low, high = zip(*intervals, strict=True)
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _shortest_interval(values: Tensor, weights: Tensor) -> tuple[float, float]:
    """The shortest interval that holds `DENSE` of the weights, and a margin; (-1, 1) without values."""
    if len(values) == 0:
        return -1.0, 1.0
    values, order = values.sort()
    share = weights[order].cumsum(0) / weights.sum().clamp(min=1e-12)
    begins = torch.cat([share.new_zeros(1), share[:-1]])
    ends = torch.searchsorted(share, begins + DENSE - 1e-9)
    first = int(torch.where(ends < len(values), values[ends.clamp(max=len(values) - 1)] - values, torch.inf).argmin())
    low, high = float(values[first]), float(values[ends[first].clamp(max=len(values) - 1)])
    reach = max(MARGIN * (high - low), 1e-6)
    return low - reach, high + reach
