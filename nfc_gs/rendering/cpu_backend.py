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
from nfc_gs.rendering.backend import RasterOutput, RasterSettings, SplatInfo, Splats, color_channels, differentiable
from nfc_gs.rendering.torch_backend import check_inputs

MAX_CHANNELS = 64
"""The core composites at most this many channels in one call, depth included."""


class CpuBackend:
    """Draws splats with the compiled core: float32 tensors on the CPU, bit-identical for any number of threads.

    Raises:
        UserError: the core was not built or does not load here.
    """

    name = "cpu"
    reference = False

    def __init__(self) -> None:
        self._core = native.core()
        self._frames: list[Any] = []  # memory of finished renderings, to be used again

    def render(
        self, splats: Splats, camera: Camera, settings: RasterSettings, background: Tensor | None = None
    ) -> RasterOutput:
        """Draw `splats` as `camera` sees them (see `RasterBackend.render`).

        Raises:
            ValueError: shapes do not fit together, or more than 64 channels (4 with `absgrad`) are asked for.
            UserError: the tensors are not float32 on the CPU.
        """
        check_inputs(splats, camera, settings, background)
        if splats.means.dtype != torch.float32 or splats.means.device.type != "cpu":
            raise UserError(
                f"Backend 'cpu' draws float32 tensors on the CPU, not {splats.means.dtype} on {splats.means.device}; "
                "convert them or choose the backend 'torch'."
            )
        info = SplatInfo(
            radii=torch.empty(len(splats.means), 2, dtype=torch.int32), means2d=torch.empty(len(splats.means), 2)
        )
        call = _Call(self, camera, settings, info, color_channels(splats, settings), keep=torch.is_grad_enabled())
        features, alpha, depth = _Render.apply(*differentiable(splats, background, camera), call)
        return RasterOutput(features, alpha, depth, info)

    def take_frame(self) -> Any:
        """Memory for one rendering."""
        return self._frames.pop() if self._frames else self._core.Frame()

    def give_frame(self, frame: Any) -> None:
        """Give such memory back."""
        if len(self._frames) < 4:
            self._frames.append(frame)

    def scene(self, call: _Call, inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor | None, ...]) -> Any:
        """The core's view of one rendering's inputs and outputs; it shares their memory."""
        means, quats, scales, opacities, sh, bit_logits, bit_shifts, features, background, viewmat = map(_array, inputs)
        out, out_alpha, out_depth = map(_array, outputs)
        camera, settings = call.camera, call.settings
        intrinsics = np.array([camera.fx, camera.fy, camera.cx, camera.cy], dtype=np.float32)
        return self._core.Scene(
            means=means,
            quats=quats,
            scales=scales,
            opacities=opacities,
            sh=sh,
            bit_logits=bit_logits,
            bit_shifts=bit_shifts,
            features=features,
            background=background,
            sh_degree=settings.sh_degree,
            composite_bits=settings.bits,
            viewmat=viewmat,
            intrinsics=intrinsics,
            width=camera.width,
            height=camera.height,
            antialiased=settings.antialiased,
            depth=settings.depth,
            radii=_array(call.info.radii),
            means2d=_array(call.info.means2d),
            out=out,
            out_alpha=out_alpha,
            out_depth=out_depth,
        )


@dataclass
class _Call:
    """What one rendering needs beside its tensors."""

    backend: CpuBackend
    camera: Camera
    settings: RasterSettings
    info: SplatInfo
    color_channels: int
    keep: bool
    """Whether a backward pass may follow."""


class _Render(torch.autograd.Function):
    """One call into the core forward, one backward."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        call: _Call = args[-1]
        inputs = tuple(None if tensor is None else tensor.contiguous() for tensor in args[:-1])
        features = inputs[7]
        drawn = call.color_channels + (features.shape[1] if features is not None else 0)
        limit = 4 if call.settings.absgrad else MAX_CHANNELS
        if not 1 <= drawn + call.settings.depth <= limit:
            raise ValueError(f"cannot composite {drawn + call.settings.depth} channels in one call, only 1 to {limit}")
        size = (call.camera.height, call.camera.width)
        outputs = (
            torch.empty(*size, drawn),
            torch.empty(*size, 1),
            torch.empty(*size, 1) if call.settings.depth else None,
        )
        frame = call.backend.take_frame()
        scene = call.backend.scene(call, inputs, outputs)
        frame.forward(scene)
        if call.keep and any(ctx.needs_input_grad):
            ctx.save_for_backward(*inputs, *outputs)
            ctx.call, ctx.scene, ctx.frame = call, scene, frame
            ctx.set_materialize_grads(False)
        else:
            call.backend.give_frame(frame)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        call: _Call = ctx.call
        *splats, background, viewmat = ctx.saved_tensors[:10]
        frame = ctx.frame
        if frame is None:  # a second backward through the same graph: the frame has gone to another rendering
            frame = call.backend.take_frame()
            frame.forward(ctx.scene)
        v_inputs = [
            *(None if tensor is None else torch.empty_like(tensor) for tensor in splats),
            torch.empty_like(background) if background is not None and ctx.needs_input_grad[8] else None,
            torch.empty_like(viewmat) if ctx.needs_input_grad[9] else None,
        ]
        *v_geometry, v_sh, v_bit_logits, v_bit_shifts, v_features, v_background, v_viewmat = map(_array, v_inputs)
        v_out, v_alpha, v_depth = (None if grad is None else _array(grad.contiguous()) for grad in grads)
        v_means2d = torch.empty_like(call.info.means2d)
        v_means2d_abs = torch.empty_like(v_means2d) if call.settings.absgrad else None
        gradients = call.backend._core.Gradients(
            v_out,
            v_alpha,
            v_depth,
            *v_geometry,  # means, quats, scales, opacities
            v_sh,
            v_bit_logits,
            v_bit_shifts,
            v_features,
            v_viewmat,
            v_background,
            _array(v_means2d),
            _array(v_means2d_abs),
        )
        frame.backward(ctx.scene, gradients)
        call.info.means2d_grad, call.info.means2d_absgrad = v_means2d, v_means2d_abs
        ctx.frame = None
        call.backend.give_frame(frame)
        return (*v_inputs, None)


def _array(tensor: Tensor | None) -> np.ndarray | None:
    """The memory of a contiguous tensor."""
    return None if tensor is None else tensor.detach().numpy()
