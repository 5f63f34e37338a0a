"""Crop and thresholds: which Gaussians of a model are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nfc_gs.model.gaussians import GaussianModel

Point = tuple[float, float, float]

DENSE = (0.04, 0.96)
"""Shares of all opacity below the dense middle of a scene, and up to its end, along each axis."""

MARGIN = 0.05
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

    Along each axis it lies between percentiles (`DENSE`) of the centres, weighted by opacity, so that a few Gaussians
    far out do not matter.
    """
    every = max(1, len(model) // MAX_SAMPLES)
    means, weights = model.means[::every].double(), model.opacities[::every].double()
    known = means.isfinite().all(1) & weights.isfinite()
    means, weights = means[known], weights[known]
    if len(means) == 0:
        return (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)
    corners = []
    for axis in range(3):
        values, order = means[:, axis].sort()
        share = weights[order].cumsum(0)
        places = torch.searchsorted(share, share.new_tensor(DENSE) * share[-1]).clamp(max=len(values) - 1)
        low, high = values[places].tolist()
        reach = max(MARGIN * (high - low), 1e-6)
        corners.append((low - reach, high + reach))
    (x0, x1), (y0, y1), (z0, z1) = corners
    return (x0, y0, z0), (x1, y1, z1)
