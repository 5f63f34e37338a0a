"""The `cpu` backend: the compiled core of `cuda/cpu`, behind one autograd function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.ops import native
from nfc_gs.ops.arguments import SplatStep, column_rates
from nfc_gs.ops.cpu import core_constants, moments_array
from nfc_gs.rendering.backend import (
    GradientConsumer,
    RasterBackend,
    RasterOutput,
    RasterSettings,
    RawSplats,
    SplatInfo,
    Splats,
    color_channels,
    inputs_of,
)

MAX_CHANNELS = 64
"""The core composites at most this many channels in one call, depth included."""

MAX_ABSGRAD_CHANNELS = 4
"""The same with absolute gradients, which it computes in one pass over the channels."""

MAX_UNUSED = 4
"""How many scratch memories are kept for later renderings."""


class CpuBackend(RasterBackend):
    """Renders splats with the compiled core: float32 tensors on the CPU, bit-identical for any number of threads.

    Raises:
        UserError: the core was not built or does not load here.
    """

    name = "cpu"
    summary = "our compiled core"
    devices = ("cpu",)
    feeds_consumers = True

    def __init__(self) -> None:
        self._core = native.core()
        self._unused: list[Any] = []

    def _render_raw(
        self,
        splats: RawSplats,
        camera: Camera,
        settings: RasterSettings,
        background: Tensor | None,
        consumer: GradientConsumer | None,
    ) -> RasterOutput:
        return self._render(splats, camera, settings, background, consumer)

    def _render(
        self,
        splats: Splats | RawSplats,
        camera: Camera,
        settings: RasterSettings,
        background: Tensor | None,
        consumer: GradientConsumer | None = None,
    ) -> RasterOutput:
        if splats.means.dtype != torch.float32 or splats.means.device.type != "cpu":
            raise UserError(
                f"Backend 'cpu' draws float32 tensors on the CPU, not {splats.means.dtype} on {splats.means.device}; "
                "convert them or choose the backend 'torch'."
            )
        info = SplatInfo(
            radii=torch.empty(len(splats.means), 2, dtype=torch.int32), means2d=torch.empty(len(splats.means), 2)
        )
        inputs = inputs_of(splats, background, camera)
        channels = color_channels(splats, settings)
        raw, keep = isinstance(splats, RawSplats), torch.is_grad_enabled()
        call = _Call(self, camera, settings, info, channels, tuple(inputs), keep, raw, consumer)
        features, alpha, depth = _Render.apply(*inputs.values(), call)
        return RasterOutput(features, alpha, depth, info)

    def take_scratch(self) -> Any:
        """Memory for one rendering: that of an earlier one, if there is any."""
        return self._unused.pop() if self._unused else self._core.RenderScratch()

    def return_scratch(self, scratch: Any) -> None:
        """Give memory back that `take_scratch` has given."""
        if len(self._unused) < MAX_UNUSED:
            self._unused.append(scratch)


@dataclass
class _Call:
    """What one rendering needs beside its tensors.

    Attributes:
        inputs: the names of these tensors, in order.
        keep: a backward pass may follow.
        raw: scales and opacities are not activated yet.
        consumer: takes the gradients of the splats.
    """

    backend: CpuBackend
    camera: Camera
    settings: RasterSettings
    info: SplatInfo
    color_channels: int
    inputs: tuple[str, ...]
    keep: bool
    raw: bool
    consumer: GradientConsumer | None


class _Render(torch.autograd.Function):
    """One call into the core forward, one backward."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        call: _Call = args[-1]
        inputs = {
            name: None if tensor is None else tensor.contiguous()
            for name, tensor in zip(call.inputs, args[:-1], strict=True)
        }
        features, settings = inputs["features"], call.settings
        channels = call.color_channels + (0 if features is None else features.shape[1])
        limit = MAX_ABSGRAD_CHANNELS if settings.absgrad else MAX_CHANNELS
        if not 1 <= channels + settings.depth <= limit:
            raise ValueError(f"cannot composite {channels + settings.depth} channels in one call, only 1 to {limit}")
        size = (call.camera.height, call.camera.width)
        outputs = (
            torch.empty(*size, channels),
            torch.empty(*size, 1),
            torch.empty(*size, 1) if settings.depth else None,
        )
        scratch = call.backend.take_scratch()
        render_inputs = _render_inputs(call, inputs, outputs)
        scratch.forward(render_inputs)
        if call.keep and any(ctx.needs_input_grad):
            # radii and means2d, too: whoever changes them in place before the backward pass gets an error.
            ctx.save_for_backward(*inputs.values(), *outputs, call.info.radii, call.info.means2d)
            ctx.call, ctx.render_inputs, ctx.scratch = call, render_inputs, scratch
            ctx.set_materialize_grads(False)
        else:
            call.backend.return_scratch(scratch)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        call: _Call = ctx.call
        inputs: dict[str, Tensor | None] = dict(zip(call.inputs, ctx.saved_tensors, strict=False))
        needed = dict(zip(call.inputs, ctx.needs_input_grad, strict=False))
        scratch = ctx.scratch
        if scratch is None:  # a second backward pass through the same graph: the memory has been returned
            scratch = call.backend.take_scratch()
            scratch.forward(ctx.render_inputs)
        left_out = {name for name in inputs if (not needed[name] if name in _OPTIONAL else call.consumer is not None)}
        v_inputs = {  # without a consumer the core always computes those of the splats
            name: None if tensor is None or name in left_out else torch.empty_like(tensor)
            for name, tensor in inputs.items()
        }
        v_out, v_alpha, v_depth = (None if grad is None else grad.contiguous() for grad in grads)
        v_means2d = torch.empty_like(call.info.means2d) if call.consumer is None else None
        v_means2d_abs = torch.empty_like(call.info.means2d) if call.settings.absgrad else None
        gradients = native.core().RenderGradients(
            v_out=_array(v_out),
            v_alpha=_array(v_alpha),
            v_depth=_array(v_depth),
            v_means2d=_array(v_means2d),
            v_means2d_abs=_array(v_means2d_abs),
            **{f"v_{_CORE_NAMES.get(name, name)}": _array(gradient) for name, gradient in v_inputs.items()},
        )
        adam = None if call.consumer is None else _splat_adam(call.consumer.take())
        scratch.backward(ctx.render_inputs, gradients, adam)
        call.info.means2d_grad, call.info.means2d_absgrad = v_means2d, v_means2d_abs
        ctx.scratch = None
        call.backend.return_scratch(scratch)
        return (*v_inputs.values(), None)


_OPTIONAL = ("background", "viewmat")
"""Inputs whose gradients the core leaves out if they are not needed."""

_CORE_NAMES = {"log_scales": "scales", "opacity_logits": "opacities"}
"""What the core calls the inputs that it can take before activation and after."""


def _splat_adam(step: SplatStep) -> Any:
    """The core's view of a step of Adam; it shares the memory of parameters and moments."""
    core = native.core()

    def parameter(name: str) -> Any:
        if name not in step.params:
            return None
        value, moments = step.params[name], (moments_array(step.m[name]), moments_array(step.v[name]))
        return core.AdamParameter(
            _array(value), *moments, rates=column_rates(step.rates[name], value.shape[1:].numel())
        )

    names = ("means", "quats", "log_scales", "opacity_logits", "sh_coeffs", "bit_logits", "bit_shifts")
    return core.SplatAdam(
        **{name: parameter(name) for name in names},
        constants=core_constants(step.constants),
        opacity_weight=step.opacity_weight,
        scale_weight=step.scale_weight,
    )


def _render_inputs(call: _Call, inputs: dict[str, Tensor | None], outputs: tuple[Tensor | None, ...]) -> Any:
    """The core's view of one rendering's inputs and outputs; it shares their memory."""
    camera, frame, settings = call.camera, call.camera.frame, call.settings
    out, out_alpha, out_depth = outputs
    return native.core().RenderInputs(
        **{_CORE_NAMES.get(name, name): _array(tensor) for name, tensor in inputs.items()},
        intrinsics=np.array([camera.fx, camera.fy, frame.cx, frame.cy], dtype=np.float32),
        width=camera.width,
        height=camera.height,
        left=frame.left,
        top=frame.top,
        whole_width=frame.width,
        whole_height=frame.height,
        sh_degree=settings.sh_degree,
        composite_bits=settings.bits,
        antialiased=settings.antialiased,
        depth=settings.depth,
        raw=call.raw,
        radii=_array(call.info.radii),
        means2d=_array(call.info.means2d),
        out=_array(out),
        out_alpha=_array(out_alpha),
        out_depth=_array(out_depth),
    )


def _array(tensor: Tensor | None) -> np.ndarray | None:
    """The memory of a contiguous tensor."""
    return None if tensor is None else tensor.detach().numpy()
