"""Where to begin to look at Gaussians of which nothing else is known.

The middle is where most of the opacity is. Up is across the ground: the direction in which what is dense has much less
extent than in the others, if it is near -y, as up is in most splats, or nearly along z or y, as in those of other
conventions; a wall has such a direction, too. Where there is none, up is -y. The camera stands on the side from which
least hides the middle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nfc_gs.export.paths import DEFAULT_UP
from nfc_gs.formats.notes import StartCamera, Vector
from nfc_gs.model.gaussians import GaussianModel

MAX_SAMPLES = 100_000
"""Gaussians that are looked at."""

REACH = 3.0
"""What is farther from the middle, in median distances, is not dense."""

FLAT = 0.6
"""Extent across the ground, as a share of the next smallest one, from which on there is a ground."""

USUAL_UPS = {(0.0, -1.0, 0.0): 0.65, (0.0, 0.0, 1.0): 0.9, (0.0, 0.0, -1.0): 0.95, (0.0, 1.0, 0.0): 0.95}
"""Directions that files have up, and the cosine of the angle to them up to which a ground is believed."""

FOV = math.radians(60.0)
"""Vertical field of view."""

DISTANCE = 3.5
"""Of the camera from the middle, in median distances."""

ELEVATION = math.radians(25.0)
"""Of the camera above the middle."""

SIDES = 16
"""Directions around the middle in which the camera may stand."""


@dataclass(frozen=True)
class Guess:
    """A view of Gaussians.

    Attributes:
        camera: looks at the middle from above.
        up: unit vector.
        has_ground: up is across the ground, rather than -y for want of one.
    """

    camera: StartCamera
    up: Vector
    has_ground: bool


@torch.no_grad()
def guessed_view(model: GaussianModel, up: Vector | None = None) -> Guess:
    """A view of what is dense; `up` where it is known."""
    every = max(1, len(model) // MAX_SAMPLES)
    means, weights = model.means[::every].double().cpu(), model.opacities[::every].double().cpu()
    known = means.isfinite().all(1) & weights.isfinite()
    means, weights = means[known], weights[known]
    if len(means) == 0:
        means, weights = torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    middle = torch.stack([_weighted_median(means[:, axis], weights) for axis in range(3)])
    offsets = means - middle
    radius = float(_weighted_median(offsets.norm(dim=1), weights)) or 1.0
    dense = offsets.norm(dim=1) <= REACH * radius
    offsets, weights = offsets[dense] / radius, weights[dense]
    ground = None if up is not None else _across_the_ground(offsets, weights)
    upward = np.array(up or ground or DEFAULT_UP)
    direction = _freest_direction(offsets.numpy(), weights.numpy(), upward)
    x, y, z = (middle.numpy() + DISTANCE * radius * direction).tolist()
    look_at = tuple(middle.tolist())
    ux, uy, uz = (upward / np.linalg.norm(upward)).tolist()
    return Guess(StartCamera((x, y, z), look_at, FOV), (ux, uy, uz), ground is not None)


def _weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    values, order = values.sort()
    share = weights[order].cumsum(0)
    return values[int(torch.searchsorted(share, 0.5 * share[-1]).clamp(max=len(values) - 1))]


def _across_the_ground(offsets: Tensor, weights: Tensor) -> Vector | None:
    """The direction across a ground that what is dense lies on, upwards; None where there is none.

    What is dense has the shape of the ground, and what rises from it makes the heights skewed: most are low.
    """
    weights = weights / weights.sum()
    centered = offsets - (weights[:, None] * offsets).sum(0)
    values, vectors = torch.linalg.eigh(centered.T @ (weights[:, None] * centered))
    if not values[0] < FLAT**2 * values[1]:
        return None
    across = vectors[:, 0]
    heights = centered @ across
    skew = float((weights * heights**3).sum() / values[0].clamp(min=1e-12) ** 1.5)
    towards = skew if abs(skew) > 0.3 else float(across @ across.new_tensor(DEFAULT_UP))
    x, y, z = (across if towards >= 0 else -across).tolist()
    return (x, y, z) if any(np.dot((x, y, z), usual) >= cosine for usual, cosine in USUAL_UPS.items()) else None


def _freest_direction(offsets: np.ndarray, weights: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The unit vector from the middle to the camera: of those at `ELEVATION`, the one with least about it.

    Args:
        offsets: [N, 3] from the middle, in median distances.
    """
    up = up / np.linalg.norm(up)
    side = np.cross(up, np.eye(3)[np.abs(up).argmin()])
    side /= np.linalg.norm(side)
    turns = np.linspace(0.0, 2.0 * np.pi, SIDES, endpoint=False)[:, None]
    around = np.cos(turns) * side + np.sin(turns) * np.cross(up, side)
    directions = math.cos(ELEVATION) * around + math.sin(ELEVATION) * up  # [SIDES, 3]
    along = offsets @ directions.T
    across = np.linalg.norm(offsets, axis=1)[:, None] ** 2 - along**2
    hides = (along > 0.5) & (across < (0.35 * np.abs(DISTANCE - along)) ** 2)
    return directions[int((weights[:, None] * hides).sum(0).argmin())]
