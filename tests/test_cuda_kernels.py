"""The GPU kernels without a GPU: what the emulator catches, how they compile, and how compiled ones are kept.

That they draw what the specification says is tested with the other backends (the engine `emulated`).
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from emulator import (
    CUDA,
    KERNELS_VARIABLE,
    SANITIZE_VARIABLE,
    Emulator,
    KernelError,
    build_kernels,
    chosen_architecture,
    compiled,
    launch_kernel,
    nvrtc_folder,
    run,
)
from splat_scenes import (
    Engine,
    OtherDevice,
    assert_equals_naive,
    cast,
    gradients,
    make_camera,
    make_splats,
    open_engine,
)
from tool_modules import load

from nfc_gs.core.errors import UserError
from nfc_gs.ops import nvrtc
from nfc_gs.rendering import cuda_backend, entry_memory, registry
from nfc_gs.rendering.backend import RasterSettings
from nfc_gs.rendering.cuda_backend import CudaBackend
from nfc_gs.rendering.registry import get_backend


@pytest.fixture(scope="module", autouse=True)
def emulator() -> Emulator:
    try:
        return Emulator()
    except UserError as error:
        pytest.skip(str(error))


# ---- the emulator -------------------------------------------------------------------------------------------------


EXCHANGE = """
NFC_SHARED(float, a, 64); a[i] = float(i); __syncthreads(); float v = a[63 - i];
v += 1000.0f * __shfl_up_sync(0xffffffffu, float(i), 1);
v += 1e5f * float(__ballot_sync(0xffffffffu, i % 32 < 2)) + 1e6f * float(__syncthreads_count(i < 5));
args.values[i] = v;
"""

WARP_BARRIER = "NFC_SHARED(float, a, 64); a[i] = i; __syncwarp(); args.values[i] = a[i ^ 1];"

HALVES = """
const unsigned half = i % 32 < 16 ? 0xffffu : 0xffff0000u; float v = -1.0f;
if (i % 32 < 16) { v = float(__ballot_sync(half, i % 2 == 0)); } else { v = __shfl_sync(half, float(i), 31); }
NFC_SHARED(float, a, 64); a[i] = v; __syncwarp(half); args.values[i] = a[i ^ 1];
"""

WARP_BARRIER_AFTER_READING = """
NFC_SHARED(float, a, 64); a[i] = i; __syncwarp(); float v = a[i / 32 * 32]; __syncwarp();
if (i % 32 == 0) a[i] = 5.0f; __syncwarp(); args.values[i] = v + a[i / 32 * 32];
"""

WRONG = [  # and what is said of it, where `a[N]` is a value
    ("NFC_SHARED(float, a, 64); a[i] = i; args.values[i] = a[63 - i];", r"a[63] is read before it is written"),
    (
        "NFC_SHARED(float, a, 64); a[63 - i] = i; args.values[i] = a[63];",
        r"a[63] is read with no barrier after thread 0",
    ),
    (
        "NFC_SHARED(float, a, 64); a[i % 32] = i; __syncthreads(); args.values[i] = a[i % 32];",
        r"thread 32: a[0] is written with no barrier after thread 0 wrote it",
    ),
    (
        "NFC_SHARED(float, a, 64); a[i] = i; __syncthreads(); args.values[i] = a[0]; if (i == 63) a[0] = 2;",
        r"thread 63: a[0] is written with no barrier after another thread read it",
    ),
    (
        "NFC_SHARED(float, a, 64); a[i] = i; __syncwarp(i % 32 < 16 ? 0xffffu : 0xffff0000u); "
        "args.values[i] = a[i ^ 16];",
        r"a[16] is read with no barrier after thread 16 wrote it",
    ),
    (
        "NFC_SHARED(float, a, 63); a[i] = i; __syncthreads(); args.values[i] = a[62 - i];",
        r"thread 63: a[63] is out of bounds of its 63 values",
    ),
    ("if (i % 32 < 7) __syncwarp();", "not all threads reach __syncwarp"),
    ("if (i == 3) return; __syncwarp();", "not all threads reach __syncwarp"),
    ("if (i % 2) __syncthreads(); else __syncthreads_count(true);", "wait in __syncthreads"),
    ("args.values[i] = __shfl_sync(0xffu, float(i), 0);", "thread 8: SHUFFLE with a mask that leaves out its own lane"),
    ("args.values[i] = __shfl_sync(i % 32 < 16 ? 0xffffu : 0xffff0000u, float(i), 0);",
     "thread 16: SHUFFLE from a lane that the mask leaves out"),
    ("if (i % 32 < 16) __syncwarp(i % 32 < 8 ? 0xffffu : 0xff00u);", "wait in __syncwarp with different masks"),
]  # fmt: skip

RIGHT = [EXCHANGE, WARP_BARRIER, HALVES, WARP_BARRIER_AFTER_READING]


def message(words: str, kernels: str) -> str:
    """What is said of shared memory, by the emulator of sources or that of PTX, which knows bytes alone."""
    words = words.replace("SHUFFLE", "__shfl_sync" if kernels == "sources" else "shfl.sync.idx")
    if kernels != "sources":
        words = re.sub(r"(\d+) values", lambda count: f"{4 * int(count[1])} bytes", words)
        words = re.sub(r"a\[(\d+)\]", lambda place: f"a[byte {4 * int(place[1])}]", words)
    return re.escape(words)


@pytest.fixture(scope="module", params=["sources", "oldest", "newest"])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ctypes.CDLL]:
    """The kernels above, of their sources and of their PTX."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv(KERNELS_VARIABLE, request.param)
        try:
            architecture = chosen_architecture()
        except UserError as error:
            pytest.skip(str(error))
    bodies = [body for body, _ in WRONG] + RIGHT
    return request.param, build_kernels(tmp_path_factory.mktemp("kernels"), bodies, architecture=architecture)


def values_of(kernels: tuple[str, ctypes.CDLL], body: str) -> list[float]:
    values = torch.zeros(64)
    launch_kernel(kernels[1], values, len(WRONG) + RIGHT.index(body))
    return values.tolist()


def test_threads_exchange_values_by_shared_memory_shuffles_and_votes(kernels: tuple[str, ctypes.CDLL]):
    before = [max(i - 1, i // 32 * 32) for i in range(64)]
    assert values_of(kernels, EXCHANGE) == [63 - i + 1000 * before[i] + 3e5 + 5e6 for i in range(64)]


def test_a_barrier_of_the_warp_orders_its_threads(kernels: tuple[str, ctypes.CDLL]):
    assert values_of(kernels, WARP_BARRIER) == [i ^ 1 for i in range(64)]
    assert values_of(kernels, WARP_BARRIER_AFTER_READING) == [i // 32 * 32 + 5 for i in range(64)]


def test_parts_of_a_warp_exchange_values_and_wait_for_each_other_alone(kernels: tuple[str, ctypes.CDLL]):
    assert values_of(kernels, HALVES) == [0x5555 if i % 32 < 16 else i // 32 * 32 + 31 for i in range(64)]


@pytest.mark.parametrize("kernel", range(len(WRONG)), ids=[words for _, words in WRONG])
def test_a_kernel_that_does_wrong_is_caught(kernels: tuple[str, ctypes.CDLL], kernel: int):
    with pytest.raises(KernelError, match=message(WRONG[kernel][1], kernels[0])):
        launch_kernel(kernels[1], torch.zeros(64), kernel)


SANITIZED = """
import contextlib, io, sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from splat_scenes import gradients, make_camera, make_splats, open_engine
from emulator import Emulator, build_kernels, launch_kernel
from kernel_inputs import launch_every_kernel
from tool_modules import load
from nfc_gs.rendering.backend import RasterSettings
from nfc_gs.rendering.registry import get_backend
open_engine("emulated-float32")
gradients("emulated", torch.float32, make_splats(40, sh_degree=1, channels=1), make_camera(), RasterSettings(1))
launch_every_kernel(Emulator())
with contextlib.redirect_stdout(io.StringIO()):  # every feature of the rendering, one after the other, and training
    assert load("bench/gpu_sanitize").run(get_backend("emulated"), torch.device("cpu"), 12, 18, 10) == 0
print("clean", flush=True)
launch_kernel(build_kernels(Path({folder!r}), ["args.values[i] = 1.0f;"]), torch.zeros(63))
"""


@pytest.mark.slow
def test_address_sanitizer_finds_nothing_in_our_kernels_and_a_write_beyond_the_end(tmp_path: Path):
    library = ""
    if shutil.which("g++"):
        command = ["g++", "-print-file-name=libasan.so"]
        library = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    if not Path(library).is_file():
        pytest.skip("there is no AddressSanitizer of g++")
    environment = os.environ | {
        "LD_PRELOAD": str(Path(library).resolve()),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "CXX": "g++",
        SANITIZE_VARIABLE: "1",
        "LD_LIBRARY_PATH": nvrtc_folder(),  # whose own search for its parts AddressSanitizer's dlopen breaks
    }
    code = SANITIZED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ended.stdout == "clean\n", ended.stderr
    assert ended.returncode != 0 and "heap-buffer-overflow" in ended.stderr and "kernel" in ended.stderr


# ---- the backend --------------------------------------------------------------------------------------------------


def test_a_backend_of_another_device_gives_the_same_for_tensors_on_the_cpu(monkeypatch: pytest.MonkeyPatch):
    # The engine `gpu` of the tests, with the emulator in the place of a GPU.
    engine, splats, camera = open_engine("emulated-float32"), make_splats(channels=1), make_camera()
    settings = RasterSettings(3, depth=True)
    monkeypatch.setitem(registry._instances, "moved", OtherDevice(get_backend("emulated"), "cpu"))
    expected, actual = (gradients(name, engine.dtype, splats, camera, settings) for name in (engine.name, "moved"))
    assert expected.keys() == actual.keys() and all(torch.equal(actual[name], expected[name]) for name in expected)
    assert_equals_naive(Engine("moved", engine.dtype), splats, camera, settings)


def test_a_picture_of_more_tiles_than_16_bits_count_is_the_same(monkeypatch: pytest.MonkeyPatch):
    engine, splats, camera = open_engine("emulated-float32"), make_splats(), make_camera()
    narrow = gradients(engine.name, engine.dtype, splats, camera, RasterSettings(3))
    monkeypatch.setattr(cuda_backend, "MAX_NARROW_TILES", 3)
    assert_equals_naive(engine, splats, camera, RasterSettings(3))
    wide = gradients(engine.name, engine.dtype, splats, camera, RasterSettings(3))
    assert all(torch.equal(narrow[name], wide[name]) for name in narrow)


class Miscounting(Emulator):
    """Counts three tiles too many for every splat that is seen, and looks at the tiles that are listed for them."""

    def launch(self, source: str, kernel: str, args: Any, *rest: Any) -> None:
        super().launch(source, kernel, args, *rest)
        if kernel == "project_splats":
            touched = (ctypes.c_int * args.count).from_address(args.touched)
            touched[:] = [count and count + 3 for count in touched]
        elif kernel == "write_entries":
            tiles = (ctypes.c_int16 * args.entries).from_address(args.entry_tile)
            assert min(tiles) >= 0 and max(tiles) < args.tiles_x * args.tiles_y  # or the rest writes beyond its arrays
            self.entries = args.entries


def test_a_splat_whose_tiles_were_counted_wrongly_is_listed_in_no_tile_that_is_not_there():
    runtime, splats = Miscounting(), cast(make_splats(), torch.float32)
    out = CudaBackend(runtime).render(splats, make_camera().to(dtype=torch.float32), RasterSettings(3))
    assert runtime.entries >= 4 * int(out.info.visible.sum()) > 0


class Together(Emulator):
    """Lets a warp add up what a splat collected from more than three tiles, instead of more than 256."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        text = (CUDA / "gpu" / "project.cu").read_text("utf-8").replace('#include "', f'#include "{CUDA}/gpu/')
        assert text.count("kThreadEntries = 256;") == 1
        self.source, self.most = folder / "gpu" / "project.cu", 0
        self.source.parent.mkdir()
        self.source.write_text(text.replace("kThreadEntries = 256;", "kThreadEntries = 3;"), "utf-8")

    def launch(self, source: str, kernel: str, args: Any, blocks: int, threads: int, channels: int = 0) -> None:
        if source != "project":
            super().launch(source, kernel, args, blocks, threads, channels)
            return
        run(compiled(self.source, 0, self.architecture), kernel, args, blocks, threads)
        self.most = max((ctypes.c_int * args.count).from_address(args.touched))


def test_a_splat_over_many_tiles_has_the_gradients_of_the_specification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runtime, splats, camera = Together(tmp_path), make_splats(40, channels=2), make_camera()
    settings = RasterSettings(3, depth=True)
    monkeypatch.setitem(registry._instances, "together", CudaBackend(runtime))
    expected = gradients("torch", torch.float64, splats, camera, settings)
    actual = gradients("together", torch.float32, splats, camera, settings)
    assert runtime.most > 3
    for name, value in expected.items():
        limit = 1e-3 * float(value.abs().max())
        torch.testing.assert_close(actual[name], value, rtol=0, atol=limit, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("bucket", [32, 64, 256])
def test_a_tile_of_hundreds_of_splats_is_that_of_the_specification(bucket: int, monkeypatch: pytest.MonkeyPatch):
    # More than a batch of 256, and several buckets, in one tile and over a tile's edge.
    monkeypatch.setattr(cuda_backend, "BUCKET_SIZES", (bucket,))
    engine, splats, camera = open_engine("emulated-float32"), make_splats(300), make_camera(18, 16, cx=9.0, cy=8.0)
    splats = replace(splats, opacities=0.1 * splats.opacities)
    expected = gradients("torch", torch.float64, splats, camera, RasterSettings(3, depth=True))
    actual = gradients(engine.name, engine.dtype, splats, camera, RasterSettings(3, depth=True))
    for name, value in expected.items():
        limit = 1e-3 * float(value.abs().max())
        torch.testing.assert_close(actual[name], value, rtol=0, atol=limit, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("bucket", [32, 256])
def test_pixels_that_become_opaque_among_hundreds_of_splats_have_the_gradients_of_the_specification(
    bucket: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cuda_backend, "BUCKET_SIZES", (bucket,))
    engine, splats, camera = open_engine("emulated-float32"), make_splats(400), make_camera(18, 16, cx=9.0, cy=8.0)
    splats = replace(splats, opacities=0.6 * splats.opacities)
    settings = RasterSettings(3, absgrad=True)
    expected = gradients("torch", torch.float64, splats, camera, settings)
    actual = gradients(engine.name, engine.dtype, splats, camera, settings)
    for name, value in expected.items():
        limit = 1e-3 * float(value.abs().max())
        torch.testing.assert_close(actual[name], value, rtol=0, atol=limit, msg=lambda m, name=name: f"{name}: {m}")


def test_large_scenes_have_large_buckets():
    sizes = [cuda_backend.bucket_size(entries) for entries in (0, 10**6, 2 * 10**6, 10**7)]
    assert sizes == [32, 64, 128, 256]
    assert cuda_backend.bytes_of_an_entry(3, 256) == 60 and cuda_backend.bytes_of_an_entry(3, 32) == 172


def test_the_last_batch_of_as_many_entries_as_there_may_be_does_not_overflow():
    # Where raster.cu looks after a batch of one entry, the last.
    assert entry_memory.MAX_ENTRIES - 1 + cuda_backend.TILE_PIXELS < 2**31


def test_more_entries_than_there_may_be_are_refused(monkeypatch: pytest.MonkeyPatch):
    class Counting(Emulator):
        entries = 0

        def launch(self, source: str, kernel: str, args: Any, *rest: Any) -> None:
            self.entries = args.entries if kernel == "write_entries" else self.entries
            super().launch(source, kernel, args, *rest)

    runtime, splats = Counting(), cast(make_splats(), torch.float32)
    scene = splats, make_camera().to(dtype=torch.float32), RasterSettings(3)
    backend = CudaBackend(runtime)
    backend.render(*scene)
    most = runtime.entries
    monkeypatch.setattr(entry_memory, "MAX_ENTRIES", most)
    backend.render(*scene)
    monkeypatch.setattr(entry_memory, "MAX_ENTRIES", most - 1)
    with pytest.raises(UserError, match=rf"cover {most} tiles .* can draw {most - 1}; draw a smaller image"):
        backend.render(*scene)


# ---- compiling ----------------------------------------------------------------------------------------------------


def test_kernels_compile_for_a_gpu_and_none_spills(monkeypatch: pytest.MonkeyPatch):
    try:
        nvrtc.compiler_name()
    except UserError as error:
        pytest.skip(str(error))
    cubins = load("cubins")
    monkeypatch.setattr(cubins, "WIDTHS", (1,))  # all of them and all architectures: tools/cubins.py
    usages = cubins.compile_all(("sm_90",))
    assert {usage.kernel for usage in usages} == {
        "project_splats", "project_splats_backward", "project_splats_backward_antialiased",
        "project_splats_backward_bits", "project_splats_backward_bits_antialiased",
        "project_splats_backward_adam", "project_splats_backward_antialiased_adam",
        "project_splats_backward_bits_adam", "project_splats_backward_bits_antialiased_adam",
        "write_entries", "find_tiles",
        "raster", "pixel_gradients", "raster_backward", "raster_backward_absgrad",
        "loss", "loss_values", "loss_gradient", "bit_loss", "bit_loss_gradient",
        "adam", "mcmc_noise", "share_among_copies",
        "hexplane", "hexplane_points_backward", "hexplane_cells_backward", "hexplane_planes_backward",
        "plane_regularisers",
    }  # fmt: skip
    assert all(0 < usage.registers <= 255 and usage.spills == usage.stack == 0 for usage in usages)
