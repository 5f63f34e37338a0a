"""Model + camera + time -> picture: the only file that knows both models and backends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.target_encoding import decode_colors, entropy, even_bits
from nfc_gs.rendering.backend import RasterBackend, RasterSettings, SplatInfo, Splats, get_backend
from nfc_gs.rendering.deformation import kernels_for

Background = Tensor | tuple[float, float, float] | None
Output = Literal["rgb", "depth", "bits", "bit_entropy"]


@dataclass
class RenderOutput:
    """A rendered view.

    Attributes:
        rgb: [H, W, 3] color, not clamped (a splat's color may pass 1).
        alpha: [H, W, 1] coverage, 0..1.
        depth: [H, W, 1] expected depth along the camera's z axis in scene units if asked for, else None.
        bits: [H, W, 24] composited probabilities of the bits of red, green and blue, each most significant first, if
            asked for, else None. `rgb` is then decoded from them.
        bit_entropy: [H, W, 1] how undecided these are, 0..1 (`model.target_encoding.entropy`), if asked for.
        info: per-Gaussian facts for density control.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor | None
    info: SplatInfo = field(repr=False)
    bits: Tensor | None = None
    bit_entropy: Tensor | None = None


def render(
    model: GaussianModel,
    camera: Camera,
    time: float | None = None,
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
        time: 0..1, when a moving model is seen; None for its canonical state. A static model does not care.
        background: color in [0, 1] behind the splats, [3]; None leaves black without a gradient.
        outputs: add "depth" for the expected depth; with the bit head also "bits" for the probabilities of all bits
            and "bit_entropy" for their uncertainty, both at the price of compositing 24 channels.
        backend: a name of `rendering.backend.BACKEND_NAMES` or a backend object.
        sh_degree: use SH up to this degree; None for all that the model has.
        antialiased: Mip-Splatting's opacity compensation.
        absgrad: collect absolute gradients of the projected means (ADC).

    Raises:
        UserError: the backend does not exist or cannot work on this machine, or bits are asked of a model that has
            none.
    """
    engine = get_backend(backend) if isinstance(backend, str) else backend
    degree = model.sh_degree if sh_degree is None else min(sh_degree, model.sh_degree)
    bits = "bits" in outputs or "bit_entropy" in outputs
    if bits and model.head != "bits":
        raise UserError(f"The color head of this model is '{model.head}', which has no bits; train with --head bits.")
    posed = model.posed(time, kernels_for(model.means))
    raw = getattr(engine, "activates", False)
    splats = Splats(
        posed["means"],
        posed["quats"],
        posed["log_scales"] if raw else posed["log_scales"].exp(),
        posed["opacity_logits"] if raw else posed["opacity_logits"].sigmoid(),
        sh_coeffs=posed.get("sh_coeffs"),
        bit_logits=posed.get("bit_logits"),
        bit_shifts=posed.get("bit_shifts"),
    )
    if background is not None and not isinstance(background, Tensor):
        background = torch.tensor(background, dtype=model.means.dtype, device=model.device)
    if background is not None and bits:
        background = even_bits(background)  # decodes to the background, and any other bits of it would not be smooth
    settings = RasterSettings(degree, "depth" in outputs, bits, antialiased=antialiased, absgrad=absgrad, raw=raw)
    out = engine.render(splats, camera.to(model.device, model.means.dtype), settings, background)
    if bits:
        uncertainty = entropy(out.features) if "bit_entropy" in outputs else None
        shown = out.features if "bits" in outputs else None
        return RenderOutput(decode_colors(out.features), out.alpha, out.depth, out.info, shown, uncertainty)
    # All channels are colors: a slice of them would copy the picture's gradient once more.
    return RenderOutput(out.features, out.alpha, out.depth, out.info)


def at_time(model: GaussianModel, time: float | None) -> GaussianModel:
    """The static model that a moving one is at a time, 0..1, as `render` draws it; None for its canonical state."""
    return model.at(time, kernels_for(model.means))
