"""Renders Gaussians as a camera sees them at a time: deformation, color head, background, rasterizer, normals."""

from __future__ import annotations

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import Output, RenderOutput, check_rendered
from nfc_gs.model.target_encoding import decode_colors, entropy, even_bits
from nfc_gs.ops.operations import operations_for
from nfc_gs.rendering.backend import GradientConsumer, RasterBackend, RasterSettings, RawSplats
from nfc_gs.rendering.normals import composited_normals
from nfc_gs.rendering.registry import auto_backend, get_backend

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
    may_be_incomplete: bool = False,
    consumer: GradientConsumer | None = None,
) -> RenderOutput:
    """Render a model as a camera sees it, differentiably.

    Args:
        time: 0..1, of a moving model; None for its canonical state. A static model is the same at all times.
        background: color in [0, 1] behind the splats, [3]; None leaves black without a gradient.
        outputs: add "depth" for the expected depth and "normals" for unit normals in the world frame, which take a
            second call of the backend; with the bit head also "bits" for the probabilities of all bits and
            "bit_entropy" for their uncertainty, which both take compositing 24 channels.
        backend: a name of `rendering.registry.BACKEND_NAMES` or a backend object; "auto" is that of the model's device.
        sh_degree: use SH up to this degree; None for all that the model has.
        antialiased: Mip-Splatting's opacity compensation.
        absgrad: also compute absolute gradients of the projected means (ADC).
        may_be_incomplete: the caller asks `RenderOutput.complete` before it uses anything, and renders again if not.
        consumer: takes the gradients of the model's tensors in place of their `grad`; for a static model, a backend
            that `feeds_consumers`, and no normals.

    Raises:
        UserError: the backend does not exist or cannot work on this machine, or bits are asked of a model that has
            none.
    """
    backend = auto_backend(model.device) if backend == "auto" else backend
    engine = get_backend(backend) if isinstance(backend, str) else backend
    degree = model.sh_degree if sh_degree is None else min(sh_degree, model.sh_degree)
    bits = "bits" in outputs or "bit_entropy" in outputs
    if bits and not model.color_head.has_bits:
        raise UserError(f"The color head of this model is '{model.head}', which has no bits; train with --head bits.")
    posed = model.posed(time, operations_for(model.device, model.means.dtype, reference=engine.reference))
    splats = RawSplats(
        posed["means"],
        posed["quats"],
        posed["log_scales"],
        posed["opacity_logits"],
        **model.color_head.splat_colors(posed),
    )
    if background is not None and not isinstance(background, Tensor):
        background = torch.tensor(background, dtype=model.means.dtype, device=model.device)
    if background is not None and bits:
        background = even_bits(background)  # decodes to the background; any other bits that do are not continuous in it
    camera = camera.to(model.device, model.means.dtype)
    settings = RasterSettings(degree, "depth" in outputs, bits, antialiased, absgrad, may_be_incomplete)
    out = engine.render(splats, camera, settings, background, consumer)
    # All channels are colors: a slice of them would copy the image's gradient once more.
    rgb = decode_colors(out.features) if bits else out.features
    rendered = RenderOutput(rgb, out.alpha, out.depth, info=out.info, complete=out.complete)
    if "normals" in outputs:
        rendered.normals = composited_normals(splats, camera, engine, antialiased)
    if "bits" in outputs:
        rendered.bits = out.features
    if "bit_entropy" in outputs:
        rendered.bit_entropy = entropy(out.features)
    check_rendered(rendered, outputs, model.family)
    return rendered
