"""Model + camera + time -> picture: the only file that knows both models and backends."""

from __future__ import annotations

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import Output, RenderOutput
from nfc_gs.model.target_encoding import decode_colors, entropy, even_bits
from nfc_gs.ops.operations import operations_for
from nfc_gs.rendering.backend import RasterBackend, RasterSettings, Splats, get_backend

Background = Tensor | tuple[float, float, float] | None


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
    posed = model.posed(time, operations_for(model.device, model.means.dtype, reference=engine.reference))
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
        rgb = decode_colors(out.features)
        return RenderOutput(rgb, out.alpha, out.depth, out.info, bits=shown, bit_entropy=uncertainty)
    # All channels are colors: a slice of them would copy the picture's gradient once more.
    return RenderOutput(out.features, out.alpha, out.depth, out.info)
