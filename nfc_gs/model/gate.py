"""Gaussians that hardly move need no field: a gate for looking at what has been trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nfc_gs.core.constants import ALPHA_MIN
from nfc_gs.core.rotation import quat_to_matrix
from nfc_gs.model.deformation import REFERENCE, Deformation, FieldKernels, Quantity
from nfc_gs.model.gaussians import GaussianModel

TOLERANCE = 0.05
"""By how much of its own size an opaque Gaussian that counts as still may be away from where its field puts it."""

THINNEST = 0.1
"""No axis of a Gaussian counts as shorter than this part of its longest: across flat things little seems to move."""


ADDS_UP = 25.0
"""How much more a change of size, opacity or color counts than one of place: if many change alike, that is seen."""


class GatedField(Deformation):
    """A field that is asked about some Gaussians alone; the others stay as they are.

    Attributes:
        inner: the field.
        moving: [M] int64, the Gaussians that it moves.
    """

    moving: Tensor

    def __init__(self, inner: Deformation, moving: Tensor) -> None:
        super().__init__(inner.kind, inner.quantities, inner.bounds)
        self.inner, self.unit, self.settings = inner, inner.unit, inner.settings
        self.register_buffer("moving", moving)

    def changes(self, means: Tensor, time: float, kernels: FieldKernels) -> Tensor:
        some = self.inner.changes(means[self.moving], time, kernels)
        return some.new_zeros(len(means), some.shape[1]).index_copy(0, self.moving, some)

    def moments(self) -> Tensor:
        return self.inner.moments()

    def part(self, kept: Tensor) -> GatedField | None:
        moves = torch.zeros_like(kept).index_fill_(0, self.moving, True)
        inner, moving = self.inner.part(kept), torch.nonzero(moves[kept]).squeeze(1)
        return GatedField(inner, moving) if inner is not None and len(moving) else None


@torch.no_grad()
def gated(model: GaussianModel, tolerance: float = TOLERANCE, kernels: FieldKernels = REFERENCE) -> GaussianModel:
    """The same model for looking at, in which only those Gaussians pass through the field that visibly move.

    Every Gaussian is followed through all `moments` of its field. Those that never leave the middle of their way by
    more than the tolerance stay there, and so do those that are never opaque enough to be drawn. With the default,
    pictures differ by noise of about 60 dB PSNR or less (a few pixels by more, where two large Gaussians are so near to
    each other in depth that they change places).

    Args:
        model: a moving one; a static one is returned as it is.
        tolerance: in standard deviations of an opaque Gaussian along each axis, fainter ones may go farther; what does
            not count in these (logarithms of sizes, opacity, color) may change by `ADDS_UP` times less.
        kernels: of the field; `rendering.deformation.kernels_for` knows the fastest.

    Returns:
        A model whose deformation is a `GatedField`; a static one if nothing moves. It shares memory with `model`, and
        is not for training.
    """
    field = model.deformation
    if field is None:
        return model
    first, *others = field.moments().tolist()
    low = field(model.means, first, kernels)
    high = dict(low)
    for time in others:
        for name, change in field(model.means, time, kernels).items():
            low[name], high[name] = torch.minimum(low[name], change), torch.maximum(high[name], change)
    middle: dict[Quantity, Tensor] = {name: (low[name] + high[name]) / 2.0 for name in field.quantities}
    reach: dict[Quantity, Tensor] = {name: (high[name] - low[name]) / 2.0 for name in field.quantities}
    still = _seen_motion(model, middle, reach) <= tolerance  # what is not a number moves
    moving = torch.nonzero(~still).squeeze(1)
    rest: dict[Quantity, Tensor] = {name: change.index_fill(0, moving, 0.0) for name, change in middle.items()}
    return GaussianModel(model.changed(rest), GatedField(field, moving) if len(moving) else None)


def _seen_motion(model: GaussianModel, middle: Mapping[Quantity, Tensor], reach: Mapping[Quantity, Tensor]) -> Tensor:
    """[N] how far Gaussians go from the middle of their ways, in units of their sizes, times their opacity.

    Args:
        middle, reach: by quantity, half the sum and half the difference of the largest and smallest changes.
    """
    tensors = model.changed(middle)
    scales = tensors["log_scales"].exp()  # [N, 3]
    scales = torch.maximum(scales, THINNEST * scales.amax(dim=1, keepdim=True))
    motion = torch.zeros(len(model), dtype=scales.dtype, device=scales.device)
    if "means" in reach:  # along its axes: |R^T d| <= |R|^T |d|
        along = torch.einsum("nji,nj->ni", quat_to_matrix(tensors["quats"]).abs(), reach["means"])
        motion += (along / scales).square().sum(dim=1).sqrt()
    if "quats" in reach:  # by half the angle, an axis moves off itself by the angle times its length
        angle = 2.0 * reach["quats"].square().sum(dim=1).sqrt() / tensors["quats"].square().sum(dim=1).sqrt()
        motion += angle * (scales.amax(dim=1) / scales.amin(dim=1) - 1.0)
    if "log_scales" in reach:
        motion += ADDS_UP * reach["log_scales"].amax(dim=1)
    if "colors" in reach:
        motion += ADDS_UP * reach["colors"].amax(dim=1)
    logits = tensors["opacity_logits"]
    reached = reach.get("opacity_logits", torch.zeros_like(logits))
    opacities, least, most = logits.sigmoid(), (logits - reached).sigmoid(), (logits + reached).sigmoid()
    motion = motion * most + ADDS_UP * torch.maximum(most - opacities, opacities - least)
    return torch.where(most < ALPHA_MIN, 0.0, motion)  # these are never drawn
