"""The `cuda` backend: the kernels of `cuda/gpu`, behind one autograd function.

A rendering launches its kernels and torch's sorts on the current stream. The size of its memory depends on the number
of entries (pairs of a tile and a splat), which the GPU finds in the middle of it. A rendering that may be incomplete,
as those of a training, does not wait for that number: its memory is sized by earlier renderings (`entry_memory`),
kernels take the number from where the GPU has it, and it is copied to the CPU, which looks at it when the loss has been
launched. Nothing that is computed depends on how much memory there was. All other renderings wait once, for this
number.

Three things are left out on purpose:

- CUDA graphs. Sizes stay the same from step to step until images or the number of Gaussians change, so a training step
  could be captured; but none of that could be run or tested without a GPU. It would take: cameras, the rates and
  corrections of Adam and seeds in memory in place of arguments by value, memory of torch's pool for graphs, and another
  capture for each size of image and after each change of the number of Gaussians or of the room for entries.
- A sort of our own with indices of 4 bytes, in place of torch's (CUB's, with indices of 8). Estimated from the bytes
  that are read and written; M entries have keys of 16 bits, N depths of 32, and a pass takes 8 bits. torch writes the
  indices, reads all keys once, and then reads and writes both in each pass: 8 + 2 + 2 * 2 * (2 + 8) = 50 bytes for an
  entry, 8 + 4 + 4 * 2 * (4 + 8) = 108 for a depth. Passes of three kernels (count, sum, scatter) read the keys once
  more in each: 2 * (2 + 2 * (2 + 4)) = 28 and 4 * (4 + 2 * (4 + 4)) = 80. But CUB's passes come near to the speed of a
  copy (taken as 85 %), and a simple scatter, which writes pieces of 8 to 16 values, to about half of it (taken as 45
  %): 59 against 62 for an entry and 127 against 178 for a depth, with 18 launches in place of two calls. CUB itself
  with indices of 4 bytes (through cuda.cccl, one more package) would take 30 and 72; that is for a day with a GPU.
- Coefficients of higher SH as float16. Adam updates them as float32, so the float16 values would be a copy that every
  step writes (2 bytes) and forward and backward read (2 + 2 instead of 4 + 4 bytes): a quarter less in training, half
  in rendering, against a loss of quality that has to be measured first, on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.constants import TILE_SIZE
from nfc_gs.core.errors import UserError
from nfc_gs.ops.arguments import SplatStep
from nfc_gs.ops.device import gpu_problem
from nfc_gs.ops.kernel_args import SPLAT_PARAMETERS, RenderArgs, adam_constants
from nfc_gs.ops.nvrtc import Runtime, compiler_name, runtime_for
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
from nfc_gs.rendering.entry_memory import EntryMemory, EntryRoom

WIDTHS = (1, 2, 3, 4, 6, 8)
"""Numbers of channels that the rasterizer is compiled for: more would take more registers and so allow fewer threads;
with 7 the assembler spills for sm_90."""

CHANNELS_AT_ONCE = WIDTHS[-1]
"""Channels that are composited in one pass over the splats."""

PROJECT_THREADS, BINNING_THREADS, BACKWARD_THREADS = 128, 256, 128
TILE_PIXELS = TILE_SIZE * TILE_SIZE
RECORD_FLOATS, MOMENTS, WARP, CAMERA_TERMS = 16, 8, 32, 12
"""Sizes of cuda/gpu/render.h."""

BUCKET_SIZES = (256, 128, 64, 32)
"""Splats of a tile that one warp of the backward pass may take, one after the other. The state of all pixels is kept at
the start of each bucket, 1024 bytes and as many for each channel; so large buckets need little memory ..."""

BACKWARD_WARPS = 2**13
"""... and small ones give work to more warps: so many are enough, about twice what the largest GPUs run at once."""

MAX_NARROW_TILES = 2**15 - 1
"""Up to this many tiles (an image of 3840 x 2160 has 32400) their indices are sorted as 16 bits, else as 32. One index
more than these is in use, for memory that no entry takes."""


class CudaBackend(RasterBackend):
    """Renders float32 splats on the GPU of their tensors; the same image and the same gradients in every run.

    Raises:
        UserError: there is no GPU, or NVIDIA's compiler is not installed.
    """

    name = "cuda"
    summary = "our own CUDA kernels"
    devices = ("cuda",)
    feeds_consumers = True

    def __init__(self, runtime: Runtime | None = None) -> None:
        """Args:
        runtime: what runs the kernels; that of the tensors' GPU if None.
        """
        self._runtime = runtime
        self._entry_memory = EntryMemory()
        if runtime is None:  # kernels are loaded by the first rendering, since only that knows the GPU
            if not torch.cuda.is_available():
                raise UserError(
                    "Backend 'cuda' is not available: it needs an NVIDIA GPU and a CUDA build of torch, and "
                    f"{gpu_problem('cuda')}; use the backend 'cpu'."
                )
            compiler_name()

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
        device = splats.means.device
        expected = torch.device("cuda") if self._runtime is None else self._runtime.device
        if splats.means.dtype != torch.float32 or device.type != expected.type:
            raise UserError(
                f"Backend 'cuda' draws float32 tensors on '{expected}', not {splats.means.dtype} on '{device}'; "
                "convert them or choose another backend."
            )
        runtime = runtime_for(device) if self._runtime is None else self._runtime
        inputs = inputs_of(splats, background, camera)
        channels = color_channels(splats, settings)
        keep = torch.is_grad_enabled()
        call = _Call(runtime, self._entry_memory, camera, settings, channels, tuple(inputs), keep, consumer)
        features, alpha, depth, radii, means2d = _Render.apply(*inputs.values(), call)
        call.info = SplatInfo(radii, means2d)
        assert call.room is not None
        return RasterOutput(features, alpha, depth, call.info, call.room.suffices)


@dataclass
class _Call:
    """What one rendering needs beside its tensors.

    Attributes:
        entry_memory: what is known of the entries of earlier renderings.
        inputs: the names of these tensors, in order; `RenderArgs` has them too.
        keep: a backward pass may follow.
        consumer: takes the gradients of the splats.
        room: the memory for the entries.
        buffers: what is kept from forward to backward, by the names of `RenderArgs`.
    """

    runtime: Runtime
    entry_memory: EntryMemory
    camera: Camera
    settings: RasterSettings
    color_channels: int
    inputs: tuple[str, ...]
    keep: bool
    consumer: GradientConsumer | None = None
    info: SplatInfo | None = None
    room: EntryRoom | None = None
    buffers: dict[str, Tensor] = field(default_factory=dict)

    def new(self, *shape: int, dtype: torch.dtype = torch.float32, fill: int | None = None) -> Tensor:
        if fill is None:
            return torch.empty(shape, dtype=dtype, device=self.runtime.device)
        return torch.full(shape, fill, dtype=dtype, device=self.runtime.device)

    def keep_new(self, args: RenderArgs, name: str, *shape: int, **options: Any) -> Tensor:
        """Memory for a field of `args` that lives as long as this call."""
        self.buffers[name] = self.new(*shape, **options)
        args.set(**{name: self.buffers[name]})
        return self.buffers[name]


class _Render(torch.autograd.Function):
    """One rendering forward, one backward."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor | None, ...]:
        call: _Call = args[-1]
        inputs = {
            name: None if tensor is None else tensor.contiguous()
            for name, tensor in zip(call.inputs, args[:-1], strict=True)
        }
        call.keep = call.keep and any(ctx.needs_input_grad)
        job = _describe(call, inputs)
        _check_channels(job)
        outputs = _draw(call, job)
        if call.keep:
            # radii and means2d, too: whoever changes them in place before the backward pass gets an error.
            ctx.save_for_backward(*inputs.values(), *outputs)
            ctx.call, ctx.job = call, job
            ctx.set_materialize_grads(False)
        else:
            call.buffers.clear()
        ctx.mark_non_differentiable(*outputs[3:])
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        call, job = ctx.call, ctx.job
        if not call.room.suffices():
            raise RuntimeError("the rendering is incomplete: ask RasterOutput.complete, and render again if it is not")
        inputs: dict[str, Tensor | None] = dict(zip(call.inputs, ctx.saved_tensors, strict=False))
        needed = dict(zip(call.inputs, ctx.needs_input_grad, strict=False))
        background, viewmat = inputs["background"], inputs["viewmat"]
        v_out, v_alpha, v_depth = (None if grad is None else grad.contiguous() for grad in grads[:3])
        left_out = ("background", "viewmat") if call.consumer is None else call.inputs
        v_inputs = {
            name: None if tensor is None or name in left_out else torch.empty_like(tensor)
            for name, tensor in inputs.items()
        }
        v_camera = _draw_backward(call, job, v_inputs, v_out, v_alpha, v_depth, camera=needed["viewmat"])
        if background is not None and needed["background"]:
            alpha = ctx.saved_tensors[len(inputs) + 1]  # which follows the inputs and the features
            v_background = torch.zeros_like(background) if v_out is None else ((1 - alpha) * v_out).sum((0, 1))
            v_inputs["background"] = v_background
        if viewmat is not None and v_camera is not None:
            v_viewmat = torch.zeros_like(viewmat)
            v_viewmat[:3] = v_camera.sum(0).reshape(3, 4)
            v_inputs["viewmat"] = v_viewmat
        return (*v_inputs.values(), None)


def _describe(call: _Call, inputs: dict[str, Tensor | None]) -> RenderArgs:
    """The argument of the kernels, with all inputs and sizes."""
    camera, frame, settings = call.camera, call.camera.frame, call.settings
    means, sh_coeffs = inputs["means"], inputs["sh_coeffs"]
    shifts, features = inputs["bit_shifts"], inputs["features"]
    assert means is not None
    feature_channels = 0 if features is None else features.shape[1]
    bases = sh_coeffs.shape[1] if sh_coeffs is not None else 0 if shifts is None else shifts.shape[1] + 1
    job = RenderArgs()
    job.set(**inputs)
    tile_left, tile_top = frame.left // TILE_SIZE, frame.top // TILE_SIZE
    tiles_x = _blocks(frame.left + camera.width, TILE_SIZE) - tile_left
    tiles_y = _blocks(frame.top + camera.height, TILE_SIZE) - tile_top
    job.set(
        count=len(means),
        sh_bases=bases,
        sh_degree=settings.sh_degree,
        shift_columns=0 if shifts is None else shifts.shape[2],
        color_channels=call.color_channels,
        feature_channels=feature_channels,
        channels=call.color_channels + feature_channels + settings.depth,
        antialiased=settings.antialiased,
        depth=settings.depth,
        absgrad=settings.absgrad,
        keep=call.keep,
        smallest_bucket=BUCKET_SIZES[-1],
        largest_bucket=BUCKET_SIZES[0],
        backward_warps=BACKWARD_WARPS,
        wide_tiles=tiles_x * tiles_y > MAX_NARROW_TILES,
        tile_left=tile_left,
        tile_top=tile_top,
        tiles_x=tiles_x,
        tiles_y=tiles_y,
        left=frame.left,
        top=frame.top,
        width=camera.width,
        height=camera.height,
        whole_width=frame.width,
        whole_height=frame.height,
        fx=camera.fx,
        fy=camera.fy,
        cx=frame.cx,
        cy=frame.cy,
    )
    return job


def _check_channels(job: RenderArgs) -> None:
    if job.channels == 0:
        raise ValueError("there is nothing to composite: no color, no features and no depth")
    if job.absgrad and job.channels > CHANNELS_AT_ONCE:
        raise ValueError(f"absgrad works with at most {CHANNELS_AT_ONCE} channels, depth included; got {job.channels}")


def _blocks(count: int, threads: int) -> int:
    return -(-count // threads)


def _passes(job: RenderArgs) -> tuple[int, range]:
    """How many channels a pass composites, and the first channel of each pass: as even as can be."""
    even = _blocks(job.channels, _blocks(job.channels, CHANNELS_AT_ONCE))
    width = next(width for width in WIDTHS if width >= even)
    return width, range(0, job.channels, width)


def bucket_size(entries: int) -> int:
    """Splats of a bucket (`BUCKET_SIZES`) for a picture: as many as leave enough buckets. The GPU computes the same."""
    return next((size for size in BUCKET_SIZES if entries >= size * BACKWARD_WARPS), BUCKET_SIZES[-1])


def most_buckets(entries: int) -> int:
    """How many whole buckets pictures with at most so many entries have: fewer entries may be in smaller buckets."""
    of_smaller = min(entries // BUCKET_SIZES[-1], 2 * BACKWARD_WARPS - 1)
    return max(entries // bucket_size(entries), of_smaller)


def bytes_of_an_entry(channels: int, bucket_splats: int) -> int:
    """What a pair of a tile and a splat takes for the backward pass: its sums, and its part of the state of pixels."""
    state = TILE_PIXELS * (1 + channels) // bucket_splats
    return 4 * (MOMENTS + channels + state)


def _draw(call: _Call, job: RenderArgs) -> tuple[Tensor | None, ...]:
    """Run the forward kernels; returns features, alpha, depth, radii and means2d as in `RasterOutput`."""
    radii = call.new(job.count, 2, dtype=torch.int32)
    means2d = call.new(job.count, 2)
    depths = call.new(job.count)
    call.keep_new(job, "records", job.count, RECORD_FLOATS)
    call.keep_new(job, "colors", job.count, job.channels)
    touched = call.keep_new(job, "touched", job.count, dtype=torch.int32)
    job.set(radii=radii, means2d=means2d, depths=depths)
    call.buffers["radii"] = radii
    call.runtime.launch("project", "project_splats", job, _blocks(job.count, PROJECT_THREADS), PROJECT_THREADS)
    _bin(call, job, depths, touched)

    size = (job.height, job.width)
    features = call.new(*size, job.channels - job.depth)
    alpha = call.new(*size, 1)
    depth = call.new(*size, 1) if job.depth else None
    job.set(out=features, out_alpha=alpha, **({} if depth is None else {"out_depth": depth}))
    if call.keep:
        tiles = job.tiles_x * job.tiles_y
        job.set(buckets=most_buckets(job.entries) + tiles)
        call.keep_new(job, "tile_reached", tiles, dtype=torch.int32)
        call.keep_new(job, "bucket_tile", job.buckets, dtype=torch.int32, fill=-1)
        call.keep_new(job, "bucket_transmittance", job.buckets, TILE_PIXELS)
        call.keep_new(job, "bucket_sum", job.buckets, job.channels, TILE_PIXELS)
    width, firsts = _passes(job)
    for first in firsts:
        job.set(first_channel=first)
        call.runtime.launch("raster", "raster", job, job.tiles_x * job.tiles_y, TILE_PIXELS, width)
    return features, alpha, depth, radii, means2d


def _bin(call: _Call, job: RenderArgs, depths: Tensor, touched: Tensor) -> None:
    """List the splats of each tile, nearest first.

    The sorts are torch's: on a GPU its stable sort of a vector is CUB's radix sort, whose time is proportional to the
    bits of the keys, which are 32 for N depths but only 16 for M tiles.
    """
    order = torch.sort(depths, stable=True).indices
    entry_end = torch.cumsum(touched[order], 0, dtype=torch.int64)
    tiles = (job.tiles_x, job.tiles_y)
    guess = call.keep and call.settings.may_be_incomplete
    call.room = call.entry_memory.room(call.runtime, entry_end, tiles, guess=guess)
    job.set(entries=call.room.capacity)
    tile_type = torch.int32 if job.wide_tiles else torch.int16
    entry_tile = call.new(job.entries, dtype=tile_type)
    entry_splat = call.new(job.entries, dtype=torch.int32)
    call.keep_new(job, "entry_begin", job.count, dtype=torch.int64)
    job.set(order=order, entry_end=entry_end, entry_tile=entry_tile, entry_splat=entry_splat)
    blocks = _blocks(job.entries, BINNING_THREADS)
    call.runtime.launch("binning", "write_entries", job, blocks, BINNING_THREADS)

    slot_tile, slot_entry = torch.sort(entry_tile, stable=True)
    call.buffers["slot_entry"] = slot_entry
    job.set(slot_tile=slot_tile, slot_entry=slot_entry)
    call.keep_new(job, "slot_splat", job.entries, dtype=torch.int32)
    call.keep_new(job, "tile_begin", job.tiles_x * job.tiles_y + 1, dtype=torch.int32)
    if call.keep:
        # `find_tiles` writes it; if that failed, this still lets the kernels after it end, within their memory.
        call.keep_new(job, "bucket_splats", 1, dtype=torch.int32, fill=BUCKET_SIZES[0])
    call.runtime.launch("binning", "find_tiles", job, _blocks(job.entries + 1, BINNING_THREADS), BINNING_THREADS)


def _draw_backward(
    call: _Call,
    job: RenderArgs,
    v_inputs: dict[str, Tensor | None],
    v_out: Tensor | None,
    v_alpha: Tensor | None,
    v_depth: Tensor | None,
    *,
    camera: bool,
) -> Tensor | None:
    """Run the backward kernels.

    Args:
        v_inputs: gradients of the splats by the names of `_Call.inputs`; filled in. None of them where a consumer takes
            them.
        v_out, v_alpha, v_depth: gradients of features, alpha and depth.
        camera: whether the gradient of the view matrix is wanted.

    Returns:
        [blocks, 12] the gradient of the first three rows of the view matrix, to be summed up.
    """
    job.set(v_out=v_out, v_alpha=v_alpha, v_depth=v_depth)
    job.set(**{f"v_{name}": gradient for name, gradient in v_inputs.items() if gradient is not None})
    tiles = job.tiles_x * job.tiles_y
    width, firsts = _passes(job)
    v_pixel, behind = call.new(tiles, width, TILE_PIXELS), call.new(tiles, TILE_PIXELS)
    partial = call.new(job.entries, MOMENTS + job.channels)
    blocks = _blocks(job.count, PROJECT_THREADS)
    camera_partial = call.new(blocks, CAMERA_TERMS) if camera else None
    v_means2d = call.new(job.count, 2) if call.consumer is None else None
    v_means2d_abs = call.new(job.count, 2) if job.absgrad else None
    job.set(v_pixel=v_pixel, behind=behind, partial=partial, camera_partial=camera_partial, v_means2d=v_means2d)
    job.set(v_means2d_abs=v_means2d_abs)

    launch = call.runtime.launch
    for first in firsts:
        job.set(first_channel=first)
        launch("raster", "pixel_gradients", job, tiles, TILE_PIXELS, width)
        warps, kernel = BACKWARD_THREADS // WARP, "raster_backward" + "_absgrad" * job.absgrad
        launch("raster", kernel, job, _blocks(job.buckets, warps), BACKWARD_THREADS, width)
    kernel = "project_splats_backward" + "_bits" * bool(job.bit_logits) + "_antialiased" * job.antialiased
    if call.consumer is not None:
        _set_step(job, call.consumer.take())
        kernel += "_adam"
    launch("project", kernel, job, blocks, PROJECT_THREADS)
    assert call.info is not None
    call.info.means2d_grad, call.info.means2d_absgrad = v_means2d, v_means2d_abs
    return camera_partial


def _set_step(job: RenderArgs, step: SplatStep) -> None:
    """Give the kernels a step of Adam, on the memory of its parameters and moments."""
    for name in SPLAT_PARAMETERS:
        if name in step.params:
            rate = step.rates[name]
            first_rate, other_rate, first_columns = rate if isinstance(rate, tuple) else (rate, rate, 0)
            parameter = getattr(job.adam, name)
            parameter.set(value=step.params[name], first=step.m[name], second=step.v[name])
            parameter.set(first_rate=first_rate, rate=other_rate, first_columns=first_columns)
    job.adam.set(opacity_weight=step.opacity_weight, scale_weight=step.scale_weight, **adam_constants(step.constants))
    job.adam.set(bfloat16_moments=step.m["means"].dtype == torch.bfloat16)
