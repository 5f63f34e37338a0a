"""A gate for rendering what has been trained: Gaussians that hardly move skip the deformation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nfc_gs.core.constants import ALPHA_MIN
from nfc_gs.core.rotation import quat_to_matrix
from nfc_gs.model.deformation import Deformation, Quantity
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.ops.operations import Operations, operations_for

TOLERANCE = 0.05
"""How far an opaque Gaussian that counts as static may be from its deformed position, in standard deviations."""

MIN_AXIS_RATIO = 0.1
"""No axis of a Gaussian counts as shorter than this part of its longest: motion across a flat Gaussian is hardly seen
where its neighbours are flat, too."""

APPEARANCE_FACTOR = 25.0
"""How much more a change of size, opacity or color counts than one of position: if many Gaussians change alike, their
changes add up."""


class GatedDeformation(Deformation):
    """A deformation that is evaluated for some Gaussians alone; the others do not change.

    Attributes:
        inner: the deformation.
        moving: [M] int64, the Gaussians that it is evaluated for.
    """

    moving: Tensor

    def __init__(self, inner: Deformation, moving: Tensor) -> None:
        super().__init__(inner.kind, inner.quantities, inner.bounds)
        self.inner, self.unit, self.settings = inner, inner.unit, inner.settings
        self.register_buffer("moving", moving)

    def changes(self, means: Tensor, time: float, operations: Operations) -> Tensor:
        some = self.inner.changes(means[self.moving], time, operations)
        return some.new_zeros(len(means), some.shape[1]).index_copy(0, self.moving, some)

    def key_times(self) -> Tensor:
        return self.inner.key_times()

    def subset(self, kept: Tensor) -> GatedDeformation | None:
        moves = torch.zeros_like(kept).index_fill_(0, self.moving, True)
        inner, moving = self.inner.subset(kept), torch.nonzero(moves[kept]).squeeze(1)
        return GatedDeformation(inner, moving) if inner is not None and len(moving) else None


@torch.no_grad()
def gated(model: GaussianModel, tolerance: float = TOLERANCE, operations: Operations | None = None) -> GaussianModel:
    """The same model for rendering, in which only those Gaussians that visibly move pass through the deformation.

    Every Gaussian is followed through all `key_times` of its deformation. Those that never leave the middle of the
    range of their changes by more than the tolerance stay there, and so do those that are never opaque enough to be
    drawn. With the default, renderings differ by noise of about 60 dB PSNR or less (a few pixels by more, where two
    large Gaussians are so near to each other in depth that they change places).

    Args:
        model: a moving one; a static one is returned as it is.
        tolerance: in standard deviations of an opaque Gaussian along each axis, fainter ones may go farther; what does
            not count in these (logarithms of sizes, opacity, color) may change by `APPEARANCE_FACTOR` times less.
        operations: compute the deformation; None for those of the model's device and dtype.

    Returns:
        A model whose deformation is a `GatedDeformation`; a static one if nothing moves. It shares memory with `model`,
        and is not for training.
    """
    deformation = model.deformation
    if deformation is None:
        return model
    operations = operations or operations_for(model.device, model.means.dtype)
    first, *others = deformation.key_times().tolist()
    low = deformation(model.means, first, operations)
    high = dict(low)
    for time in others:
        for name, change in deformation(model.means, time, operations).items():
            low[name], high[name] = torch.minimum(low[name], change), torch.maximum(high[name], change)
    middle: dict[Quantity, Tensor] = {name: (low[name] + high[name]) / 2.0 for name in deformation.quantities}
    half_range: dict[Quantity, Tensor] = {name: (high[name] - low[name]) / 2.0 for name in deformation.quantities}
    static = _visible_motion(model, middle, half_range) <= tolerance  # false for NaN
    moving = torch.nonzero(~static).squeeze(1)
    constant: dict[Quantity, Tensor] = {name: change.index_fill(0, moving, 0.0) for name, change in middle.items()}
    return GaussianModel(model.changed(constant), GatedDeformation(deformation, moving) if len(moving) else None)


def _visible_motion(
    model: GaussianModel, middle: Mapping[Quantity, Tensor], half_range: Mapping[Quantity, Tensor]
) -> Tensor:
    """[N] how far Gaussians go from the middle of their changes, in standard deviations, times their opacity.

    Args:
        middle, half_range: by quantity, half the sum and half the difference of the largest and smallest changes.
    """
    tensors = model.changed(middle)
    scales = tensors["log_scales"].exp()  # [N, 3]
    scales = torch.maximum(scales, MIN_AXIS_RATIO * scales.amax(dim=1, keepdim=True))
    motion = torch.zeros(len(model), dtype=scales.dtype, device=scales.device)
    if "means" in half_range:  # along its axes: |R^T d| <= |R|^T |d|
        along = torch.einsum("nji,nj->ni", quat_to_matrix(tensors["quats"]).abs(), half_range["means"])
        motion += (along / scales).square().sum(dim=1).sqrt()
    if "quats" in half_range:  # by half the angle, an axis moves off itself by the angle times its length
        angle = 2.0 * half_range["quats"].square().sum(dim=1).sqrt() / tensors["quats"].square().sum(dim=1).sqrt()
        motion += angle * (scales.amax(dim=1) / scales.amin(dim=1) - 1.0)
    if "log_scales" in half_range:
        motion += APPEARANCE_FACTOR * half_range["log_scales"].amax(dim=1)
    if "colors" in half_range:
        motion += APPEARANCE_FACTOR * half_range["colors"].amax(dim=1)
    logits = tensors["opacity_logits"]
    logit_range = half_range.get("opacity_logits", torch.zeros_like(logits))
    opacities, least, most = logits.sigmoid(), (logits - logit_range).sigmoid(), (logits + logit_range).sigmoid()
    motion = motion * most + APPEARANCE_FACTOR * torch.maximum(most - opacities, opacities - least)
    return torch.where(most < ALPHA_MIN, 0.0, motion)  # these are never drawn
