"""The families of radiance models: how a model is made of saved state, rendered, and saved in a small file.

Everything above (evaluation, report, viewer, export) renders through `render` and names no family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import Output, Part, RadianceModel, RenderOptions, RenderOutput, check_rendered
from nfc_gs.rendering import pipeline


@dataclass(frozen=True)
class Family:
    """What is done with models of one family.

    Attributes:
        restore: (parts, device) -> model, from what `RadianceModel.parts` gave; the tensors are used as they are where
            they lie on the device already. Raises ValueError, KeyError or TypeError where they do not fit together.
        render: (model, camera, time, options, outputs, **further) -> RenderOutput; `further` are options that this
            family alone has.
        compact: parts -> the same with what may be saved in half precision.
    """

    restore: Callable[[Mapping[str, Part], str], RadianceModel]
    render: Callable[..., RenderOutput]
    compact: Callable[[Mapping[str, Part]], dict[str, Part]]


def _render_gaussians(
    model: GaussianModel,
    camera: Camera,
    time: float | None,
    options: RenderOptions,
    outputs: tuple[Output, ...],
    background: Tensor | None = None,
    **further: Any,
) -> RenderOutput:
    return pipeline.render(
        model,
        camera,
        time,
        background=options.background if background is None else background,
        outputs=outputs,
        backend=options.backend,
        antialiased=options.antialiased,
        **further,
    )


_FULL_PRECISION = ("means", "log_scales", "quats", "opacity_logits", "bounds")
"""Tensors whose rounding to half precision would be seen."""


def _compact_gaussians(parts: Mapping[str, Part]) -> dict[str, Part]:
    def halved(part: Part) -> Part:
        tensors = {name: t if name in _FULL_PRECISION else t.half() for name, t in part.tensors.items()}
        return replace(part, tensors=tensors)

    return {name: halved(part) for name, part in parts.items()}


FAMILIES: dict[str, Family] = {
    "gaussians": Family(GaussianModel.from_parts, _render_gaussians, _compact_gaussians),
}
"""By `RadianceModel.family`."""


def render(
    model: RadianceModel,
    camera: Camera,
    time: float | None = None,
    options: RenderOptions = RenderOptions(),
    outputs: tuple[Output, ...] = ("rgb",),
    *,
    view: int | None = None,
    **further: Any,
) -> RenderOutput:
    """Render a model of any family.

    Args:
        time: 0..1, of a model that changes with time; None for its canonical state.
        view: the view of the capture that `camera` belongs to, for corrections; None if it is none of them.
        further: options that the model's family alone has, as `sh_degree` of Gaussians, or `background`, a tensor [3]
            in place of that of the options, which may require grad.

    Raises:
        UserError: the family cannot render this here (no such backend or output).
    """
    for correction in options.corrections:
        camera = correction.camera(camera, view)
    output = FAMILIES[model.family].render(model, camera, time, options, outputs, **further)
    for correction in options.corrections:
        output = correction.output(output, view)
    check_rendered(output, outputs, model.family)
    return output
