"""The objective as a function of images, for tests."""

from __future__ import annotations

from torch import Tensor

from nfc_gs.model.radiance import RenderOutput
from nfc_gs.objective.objective import LossResult, Objective, ObjectiveConfig
from nfc_gs.objective.terms import Comparison
from nfc_gs.ops.operations import REFERENCE, Operations, operations_for


def photometric(
    rendered: Tensor,
    target: Tensor,
    mask: Tensor | None,
    config: ObjectiveConfig,
    bits: Tensor | None = None,
    operations: Operations | None = None,
) -> LossResult:
    """The objective of a rendering [H, W, 3], by the fastest operations of its device and dtype."""
    operations = operations or operations_for(rendered.device, rendered.dtype)
    output = RenderOutput(rendered, alpha=rendered[..., :1], bits=bits)
    return Objective(config, operations=operations)(Comparison(output, target, mask))


def photometric_reference(
    rendered: Tensor, target: Tensor, mask: Tensor | None, config: ObjectiveConfig, bits: Tensor | None = None
) -> LossResult:
    """The same by the readable reference."""
    return photometric(rendered, target, mask, config, bits, REFERENCE)
