"""Model + camera -> picture: the only file that knows both models and backends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.render.backend import RasterBackend, RasterSettings, SplatInfo, Splats, get_backend

Background = Tensor | tuple[float, float, float] | None
Output = Literal["rgb", "depth"]


@dataclass
class RenderOutput:
    """A rendered view.

    Attributes:
        rgb: [H, W, 3] colour, not clamped (a splat's colour may pass 1).
        alpha: [H, W, 1] coverage, 0..1.
        depth: [H, W, 1] expected depth along the camera's z axis in scene units if asked for, else None.
        info: per-Gaussian facts for density control.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor | None
    info: SplatInfo = field(repr=False)


def render(
    model: GaussianModel,
    camera: Camera,
    *,
    background: Background = None,
    outputs: tuple[Output, ...] = ("rgb",),
    backend: str | RasterBackend = "auto",
    sh_degree: int | None = None,
    antialiased: bool = False,
    absgrad: bool = False,
) -> RenderOutput:
    """Draw a model as a camera sees it, differentiably.

    Args:
        background: colour in [0, 1] behind the splats, [3]; None leaves black without a gradient.
        outputs: add "depth" for the expected depth.
        backend: a name of `render.backend.BACKEND_NAMES` or a backend object.
        sh_degree: use SH up to this degree; None for all that the model has.
        antialiased: Mip-Splatting's opacity compensation.
        absgrad: collect absolute gradients of the projected means (ADC).

    Raises:
        UserError: the backend does not exist or cannot work on this machine.
    """
    engine = get_backend(backend) if isinstance(backend, str) else backend
    degree = model.sh_degree if sh_degree is None else min(sh_degree, model.sh_degree)
    splats = Splats(model.means, model.quats, model.scales, model.opacities, sh_coeffs=model.sh_coeffs)
    if background is not None and not isinstance(background, Tensor):
        background = torch.tensor(background, dtype=model.means.dtype, device=model.device)
    settings = RasterSettings(degree, depth="depth" in outputs, antialiased=antialiased, absgrad=absgrad)
    out = engine.render(splats, camera.to(model.device, model.means.dtype), settings, background)
    # All channels are colours: a slice of them would copy the picture's gradient once more.
    return RenderOutput(out.features, out.alpha, out.depth, out.info)
