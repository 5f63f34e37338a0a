"""How long the kernels of the backend `cuda` take, and lower bounds of that time.

A module of `bench.py gpu`, not a command. A kernel's time is shown with two lower bounds:

- bytes: every array that it reads or writes, once, over the bandwidth that a large copy reaches on this GPU. Sizes are
  those of the arrays themselves, of which only the part counts that was needed (visible Gaussians, entries before
  their tile is opaque). Estimated: that nothing is read twice, and that no array is still in the cache.
- pairs: pixel-splat pairs whose exponent it computes, counted exactly forward and as if no pixel became opaque within a
  bucket backward, times `INSTRUCTIONS`, over the rate of float32 instructions. Estimated: the number of instructions,
  which is what the exponent alone takes (what follows where a splat counts comes on top), and a clock at its highest.

Neither bounds other algorithms.
"""

from __future__ import annotations

import ctypes
import importlib
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from unittest.mock import patch

import torch
from torch import Tensor

from nfc_gs.core.constants import TILE_SIZE
from nfc_gs.ops.kernel_args import SPLAT_PARAMETERS, RenderArgs
from nfc_gs.ops.nvrtc import Runtime
from nfc_gs.rendering.cuda_backend import TILE_PIXELS

WARP = 32

KERNEL_ARRAYS: dict[str, tuple[str, str]] = {
    "project_splats": (
        "means quats scales opacities log_scales opacity_logits sh_coeffs bit_logits bit_shifts features viewmat",
        "records radii means2d depths touched colors",
    ),
    "write_entries": ("order entry_end touched records", "entry_begin entry_splat entry_tile"),
    "find_tiles": ("slot_tile slot_entry entry_splat", "slot_splat tile_begin bucket_splats"),
    "raster": (
        "tile_begin bucket_splats slot_splat records colors background",
        "tile_reached bucket_tile bucket_transmittance bucket_sum out out_alpha out_depth",
    ),
    "pixel_gradients": ("out out_alpha out_depth v_out v_alpha v_depth", "v_pixel behind"),
    "raster_backward": (
        "tile_begin tile_reached bucket_splats bucket_tile bucket_transmittance bucket_sum slot_splat slot_entry "
        "records colors v_pixel behind",
        "partial",
    ),
    "project_splats_backward": (
        "means quats scales opacities log_scales opacity_logits sh_coeffs bit_logits bit_shifts features viewmat radii "
        "touched entry_begin colors partial",
        "v_means v_quats v_scales v_opacities v_log_scales v_opacity_logits v_sh_coeffs v_bit_logits v_bit_shifts "
        "v_features v_means2d v_means2d_abs camera_partial",
    ),
}
"""The arrays, by their names in `RenderArgs`, that a kernel reads and those that it writes. A variant of a kernel, with
its name and a suffix, is listed under the kernel's name."""

ADAM = "_adam"
"""The end of the names of those variants that move raw Gaussians: they store none of their gradients ..."""

STORED_GRADIENTS = {f"v_{name}" for name in SPLAT_PARAMETERS} | {"v_means2d"}

MOVES = 5
"""... but write the values, and read and write two moments of the same size."""

VISIBLE_ROWS = {"sh_coeffs", "bit_logits", "bit_shifts", "features", "records", "colors", "entry_begin"}
"""Arrays of which only the rows of visible Gaussians are read or written ..."""

VISIBLE_ROWS_BACKWARD = {"means", "quats", "scales", "opacities", "log_scales", "opacity_logits", "touched"}
"""... and those of which that holds for the backward pass."""

STARTED_BUCKET_ROWS = {"bucket_transmittance", "bucket_sum"}
"""Arrays of which only the rows of buckets that were started are read or written."""

REACHED_ENTRY_ROWS = {"slot_splat"}
"""Arrays of which the rasterizer reads only the entries in such buckets."""

RASTERIZERS = ("raster", "raster_backward")

INSTRUCTIONS = 8
"""Float32 instructions from a pixel and a splat to whether it counts: offsets (two), exponent (five), comparison."""


def kernel_of(variant: str) -> str:
    """The name in `KERNEL_ARRAYS` of a kernel or of a variant of it; its own name if it has none there."""
    return max((name for name in KERNEL_ARRAYS if variant.startswith(name)), key=len, default=variant)


class DeviceTimer(Protocol):
    """Measures time and memory on a device."""

    def event(self) -> Any:
        """An event, recorded at this place in the device's queue."""
        ...

    def seconds(self, start: Any, end: Any) -> float:
        """Time between two events; waits until both have happened."""
        ...

    def peak_bytes(self, function: Callable[[], object]) -> int:
        """The most memory that a call of `function` took on top of what was allocated before."""
        ...


class TimingRuntime:
    """A runtime that records how long every launch takes."""

    def __init__(self, runtime: Runtime, timer: DeviceTimer) -> None:
        self.device = runtime.device
        self._runtime, self._timer = runtime, timer
        self._spans: list[tuple[str, Any, Any]] = []

    def launch(
        self, source: str, kernel: str, args: ctypes.Structure, blocks: int, threads: int, channels: int = 0
    ) -> None:
        """See `Runtime.launch`."""
        with self.timed(kernel):
            self._runtime.launch(source, kernel, args, blocks, threads, channels)

    def read_later(self, tensor: Tensor) -> Callable[[], Tensor]:
        """See `Runtime.read_later`."""
        return self._runtime.read_later(tensor)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Record the time of the block under this name."""
        before = self._timer.event()
        yield
        self._spans.append((name, before, self._timer.event()))

    @contextmanager
    def timed_sorts(self) -> Iterator[None]:
        """Record torch's sorts and cumulative sums, too, while the block lasts."""

        def wrapped(name: str) -> Any:
            function = getattr(torch, name)

            def timed_call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
                with self.timed(f"torch.{name}, {str(tensor.dtype).removeprefix('torch.')}"):
                    return function(tensor, *args, **kwargs)

            return timed_call

        with patch.object(torch, "sort", wrapped("sort")), patch.object(torch, "cumsum", wrapped("cumsum")):
            yield

    def take_seconds(self) -> dict[str, float]:
        """Seconds by kernel since the last call of this, in the order of first launches."""
        seconds: dict[str, float] = {}
        for name, before, after in self._spans:
            seconds[name] = seconds.get(name, 0.0) + self._timer.seconds(before, after)
        self._spans.clear()
        return seconds


@contextmanager
def array_sizes() -> Iterator[dict[str, int]]:
    """Bytes of every array that is passed to kernels while the block lasts, by its name in `RenderArgs`."""
    sizes: dict[str, int] = {}
    original = RenderArgs.set

    def set_and_record(self: RenderArgs, **values: Any) -> None:
        sizes.update({name: value.nbytes for name, value in values.items() if isinstance(value, Tensor)})
        original(self, **values)

    with patch.object(RenderArgs, "set", set_and_record):
        yield sizes


@dataclass(frozen=True)
class Workload:
    """What a rendering had to compute.

    Attributes:
        gaussians, visible, drawn: all, those in view, and those with an entry that was reached.
        entries, reached: pairs of a tile and a splat, and those that were read before the tile was opaque.
        buckets, started: of consecutive entries of a tile: all that were allocated, and those that were read.
        forward_pairs: pixel-splat pairs whose exponent was computed: whole warps of 32 pixels.
        backward_pairs: the same backward, at the most.
        arrays: bytes by the name in `RenderArgs`.
    """

    gaussians: int
    visible: int
    drawn: int
    entries: int
    reached: int
    buckets: int
    started: int
    forward_pairs: int
    backward_pairs: int
    arrays: Mapping[str, int]

    def bytes_of(self, kernel: str) -> float:
        """Bytes that a kernel of `KERNEL_ARRAYS`, or a variant of one, must read and write."""
        listed = kernel_of(kernel)
        names = [name for names in KERNEL_ARRAYS[listed] for name in names.split()]
        if kernel.endswith(ADAM):
            moved = [name for name in SPLAT_PARAMETERS for _ in range(MOVES)]
            names = [name for name in names if name not in STORED_GRADIENTS] + moved
        return sum(self.arrays.get(name, 0) * self._share(listed, name) for name in names)

    def pairs_of(self, kernel: str) -> int:
        """Pixel-splat pairs of a kernel; 0 for kernels that compute no alpha."""
        return {"raster": self.forward_pairs, "raster_backward": self.backward_pairs}.get(kernel_of(kernel), 0)

    def _share(self, kernel: str, array: str) -> float:
        part, whole = 1, 1
        if array in VISIBLE_ROWS or (array in VISIBLE_ROWS_BACKWARD and kernel == "project_splats_backward"):
            part, whole = self.drawn if kernel in RASTERIZERS else self.visible, self.gaussians
        elif array in STARTED_BUCKET_ROWS:
            part, whole = self.started, self.buckets
        elif array in REACHED_ENTRY_ROWS and kernel in RASTERIZERS:
            part, whole = self.reached, self.entries
        return part / max(whole, 1)


@torch.no_grad()
def count_workload(picture: Tensor, arrays: Mapping[str, int]) -> Workload:
    """Count what the backend `cuda` computed for a picture, before its backward pass.

    Args:
        picture: as the backend returned it; differentiable.
        arrays: from `array_sizes`; it may be filled later by the backward pass.
    """
    node: Any = picture.grad_fn
    job, buffers = node.job, node.call.buffers
    tile_begin = buffers["tile_begin"].long()
    bucket_splats = int(buffers["bucket_splats"])
    tile, bucket = _tiles_and_buckets(tile_begin, bucket_splats)
    started = _started(buffers, tile_begin, bucket_splats)  # [B]
    open_pixels = (buffers["bucket_transmittance"] > 0) & started[:, None]  # [B, 256]
    reached = started[bucket]  # [M]
    splats = torch.bincount(bucket, minlength=len(started))  # [B]
    visible = buffers["radii"][:, 0] > 0
    return Workload(
        gaussians=job.count,
        visible=int(visible.sum()),
        drawn=len(buffers["slot_splat"][reached].unique()),
        entries=job.entries,
        reached=int(reached.sum()),
        buckets=job.buckets,
        started=int(started.sum()),
        forward_pairs=_forward_pairs(job, buffers, tile, bucket, open_pixels),
        backward_pairs=_backward_pairs(splats, open_pixels.sum(1)),
        arrays=arrays,
    )


def _tiles_and_buckets(tile_begin: Tensor, bucket_splats: int) -> tuple[Tensor, Tensor]:
    """The tile and the bucket of each slot, [M] each (`first_bucket` of cuda/gpu/render.h)."""
    tiles = torch.arange(len(tile_begin) - 1, device=tile_begin.device)
    tile = torch.repeat_interleave(tiles, tile_begin.diff())
    first = tile_begin[tile]
    slot = torch.arange(len(tile), device=tile.device)
    return tile, first // bucket_splats + tile + (slot - first) // bucket_splats


def _started(buffers: Mapping[str, Tensor], tile_begin: Tensor, bucket_splats: int) -> Tensor:
    """[B] Whether the rasterizer came to a bucket."""
    tile = buffers["bucket_tile"].long()
    first_bucket = tile_begin[tile] // bucket_splats + tile
    index = torch.arange(len(tile), device=tile.device)
    return (tile >= 0) & ((index - first_bucket) * bucket_splats < buffers["tile_reached"][tile])


def _backward_pairs(splats: Tensor, open_: Tensor) -> int:
    """For each 32 splats of a bucket: the lanes of a warp, for each of `open_` pixels and until all are out of them.

    Args:
        splats, open_: [B] of each bucket.
    """
    rounds = -(-splats // WARP)
    return int((rounds * WARP * (open_ + WARP - 1) * (open_ > 0)).sum())


def _forward_pairs(job: RenderArgs, buffers: Mapping[str, Tensor], tile: Tensor, bucket: Tensor, open_: Tensor) -> int:
    """32 for every warp of 8 x 4 pixels that a splat's box meets and that is not finished where its bucket begins."""
    busy = open_.view(len(open_), TILE_PIXELS // WARP, WARP).any(-1)  # [B, 8]
    boxes = buffers["records"].view(torch.int32)[:, 12:]  # [N, 4] row_begin, row_end, column_begin, column_end
    warp = torch.arange(TILE_PIXELS // WARP, device=tile.device)
    pairs, chunk = 0, 2**22
    for begin in range(0, len(tile), chunk):
        part = slice(begin, begin + chunk)
        row_begin, row_end, column_begin, column_end = boxes[buffers["slot_splat"][part].long()][..., None].unbind(1)
        left = tile[part, None] % job.tiles_x * TILE_SIZE + warp % 2 * 8
        top = tile[part, None] // job.tiles_x * TILE_SIZE + warp // 2 * 4
        meets = (column_begin < left + 8) & (column_end > left) & (row_begin < top + 4) & (row_end > top)
        pairs += WARP * int((meets & busy[bucket[part]]).sum())
    return pairs


@dataclass(frozen=True)
class Rates:
    """The speed of a GPU.

    Attributes:
        bandwidth: bytes per second of a large copy, those read plus those written; measured.
        instructions: float32 instructions per second: multiprocessors x lanes x highest clock.
    """

    bandwidth: float
    instructions: float

    def lower_bounds(self, workload: Workload, kernel: str) -> tuple[float, float]:
        """Lower bounds in seconds by the bytes and by the pairs of a kernel."""
        return workload.bytes_of(kernel) / self.bandwidth, workload.pairs_of(kernel) * INSTRUCTIONS / self.instructions


def lanes_of(major: int, minor: int) -> int:
    """Float32 instructions per clock and multiprocessor, by compute capability (CUDA C++ Programming Guide)."""
    return 64 if (major, minor) in ((7, 0), (7, 2), (7, 5), (8, 0)) else 128


def measure_rates(timer: DeviceTimer) -> Rates:
    """Measure the bandwidth of torch's current GPU and look up the rest."""
    driver = importlib.import_module("cuda.bindings.driver")
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    _, device = driver.cuDeviceGet(torch.cuda.current_device())
    _, clock = driver.cuDeviceGetAttribute(driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_CLOCK_RATE, device)  # kHz
    count = min(2**30, torch.cuda.mem_get_info()[0] // 4)
    source, target = (torch.ones(count, dtype=torch.uint8, device="cuda") for _ in range(2))
    seconds = []
    for _ in range(10):
        start = timer.event()
        target.copy_(source)
        seconds.append(timer.seconds(start, timer.event()))
    lanes = properties.multi_processor_count * lanes_of(properties.major, properties.minor)
    return Rates(2 * count / statistics.median(seconds[1:]), lanes * 1e3 * clock)
