"""How the kernels are compiled, kept, loaded and launched, with stand-ins for NVIDIA's driver and compiler."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nfc_gs.core.errors import UserError
from nfc_gs.ops import nvrtc
from nfc_gs.ops.kernel_args import LossArgs
from nfc_gs.ops.nvrtc import CudaRuntime, architecture_for, options, source_folder

# ---- compiling ----------------------------------------------------------------------------------------------------


def keeping(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[bytes]:
    """Let the cache be in a folder, and a compiler give other bytes each time; returns those that it has given."""
    made: list[bytes] = []

    def compile_source(source: str, architecture: str, channels: int) -> nvrtc.Compiled:
        made.append(f"cubin {len(made) + 1}".encode())
        return nvrtc.Compiled(made[-1], "")

    monkeypatch.setenv(nvrtc.CACHE_VARIABLE, str(folder))
    monkeypatch.setattr(nvrtc, "compile_source", compile_source)
    return made


def kept(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[..., bytes]:
    """What `load_or_compile` gives, of such a cache and compiler."""
    keeping(monkeypatch, folder)
    return lambda *args, **options: nvrtc.load_or_compile(*args, **options)[0]


def test_a_compiled_source_is_kept_until_source_options_or_compiler_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    get = kept(monkeypatch, tmp_path / "cache")
    assert get("raster", "sm_90", 3, "NVRTC 13.0") == get("raster", "sm_90", 3, "NVRTC 13.0") == b"cubin 1"
    assert get("raster", "sm_90", 4, "NVRTC 13.0") == b"cubin 2"
    assert get("raster", "sm_80", 3, "NVRTC 13.0") == b"cubin 3"
    assert get("raster", "sm_90", 3, "NVRTC 13.1") == b"cubin 4"
    assert nvrtc.cached_kernels() == {"sm_80": 1, "sm_90": 3}
    monkeypatch.setattr(nvrtc, "UNFUSED", ("raster",))
    assert get("raster", "sm_90", 3, "NVRTC 13.0") == b"cubin 5"
    other = tmp_path / "numeric.h"
    other.write_text("// changed")
    monkeypatch.setattr(nvrtc, "_texts", lambda: (other,))
    assert get("raster", "sm_90", 3, "NVRTC 13.0") == b"cubin 6"


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    get = kept(monkeypatch, tmp_path / "cache")
    assert get("raster", "sm_90", 3, "NVRTC 13.0") == b"cubin 1"


def test_what_is_compiled_afresh_takes_the_place_of_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    keeping(monkeypatch, tmp_path)
    job = ("raster", "sm_90", 3, "NVRTC 13.0")
    assert [nvrtc.load_or_compile(*job) for _ in range(2)] == [(b"cubin 1", False), (b"cubin 1", True)]
    assert nvrtc.load_or_compile(*job, afresh=True) == (b"cubin 2", False)
    assert nvrtc.load_or_compile(*job) == (b"cubin 2", True)


def needs_nvrtc() -> None:
    try:
        nvrtc.compiler_name()
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("source", ["project", "binning"])
def test_where_tiles_are_counted_and_listed_no_operations_are_fused(source: str):
    """Both walk over the tiles of a splat, in two modules, and must find the same."""
    needs_nvrtc()
    from cuda.bindings import nvrtc
    from cuda.core import Program, ProgramOptions

    folder = source_folder() / "gpu"
    text = (folder / f"{source}.cu").read_text("utf-8")
    # Roots, exponentials and logarithms are made of fused multiply-adds, and the same in both modules.
    plain = "".join(f"#define {name}(x) (x)\n" for name in ("sqrtf", "expf", "log2f")) + text
    fused = {}
    for fma in (False, True):
        given = options(source, "sm_90") | ({"fma": True} if fma else {})
        program = Program(plain, "c++", ProgramOptions(include_path=[str(folder)], **given))
        program.compile("cubin")
        ptx = bytes(nvrtc.nvrtcGetPTXSize(program.handle)[1])
        nvrtc.nvrtcGetPTX(program.handle, ptx)
        fused[fma] = ptx.count(b"fma.rn.f32")
    assert fused[False] == 0 < fused[True]


@pytest.mark.parametrize(
    ("capability", "known", "expected"),
    [
        ((9, 0), [75, 80, 90, 100], "sm_90"),
        ((8, 9), [75, 80, 86, 90], "sm_86"),
        ((10, 3), [90, 100, 101, 120], "sm_101"),
        ((12, 1), [90, 100, 120], "sm_120"),
        ((12, 0), [90, 121], "sm_120"),  # which the compiler will refuse in its own words
        ((7, 0), None, "sm_70"),
    ],
)
def test_a_gpu_that_the_compiler_does_not_know_gets_what_also_runs_on_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], known: list[int] | None, expected: str
):
    compiler = SimpleNamespace(nvrtcGetSupportedArchs=lambda: (0, known))
    monkeypatch.setattr(nvrtc, "_module", lambda name: compiler)
    assert architecture_for(*capability) == expected


# ---- loading and launching ----------------------------------------------------------------------------------------


class Status(Enum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_CONTEXT = 201


class Driver:
    """A driver, of which every thread has a context of its own, at first none."""

    CUresult = Status
    CUfunction = int

    def __init__(self) -> None:
        self.mine = threading.local()
        self.launches = 0

    def cuCtxGetCurrent(self) -> tuple[Status, Any]:  # noqa: N802
        return Status.CUDA_SUCCESS, getattr(self.mine, "context", None)

    def cuCtxSetCurrent(self, context: Any) -> tuple[Status]:  # noqa: N802
        self.mine.context = context
        return (Status.CUDA_SUCCESS,)

    def cuLaunchKernel(self, *_: Any) -> tuple[Status]:  # noqa: N802
        if getattr(self.mine, "context", None) is None:
            return (Status.CUDA_ERROR_INVALID_CONTEXT,)
        self.launches += 1
        return (Status.CUDA_SUCCESS,)


class Loader:
    """`cuda.core`, which loads what compilers give, or refuses everything."""

    refuses = False

    def __init__(self) -> None:
        self.ObjectCode = SimpleNamespace(from_cubin=self.from_cubin)
        self.loaded: list[str] = []

    def from_cubin(self, cubin: bytes) -> Any:
        def get_kernel(name: str) -> Any:
            if self.refuses or not cubin.startswith(b"cubin"):
                raise RuntimeError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION")
            self.loaded.append(name)
            return SimpleNamespace(handle=7)

        return SimpleNamespace(get_kernel=get_kernel)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Driver, Loader]:
    """In the place of a GPU, of its driver and of what compiles for it."""
    driver, loader = Driver(), Loader()
    modules = {
        "cuda.core": loader,
        "cuda.bindings.driver": driver,
        "cuda.bindings.nvrtc": SimpleNamespace(nvrtcGetSupportedArchs=lambda: (0, [90])),
    }
    # torch's CUDA makes a context when it first needs one, in the thread that needs it.
    stream = SimpleNamespace(cuda_stream=0, synchronize=lambda: driver.cuCtxSetCurrent("torch's"))
    monkeypatch.setattr(nvrtc, "_module", modules.__getitem__)
    monkeypatch.setattr(nvrtc, "compiler_name", lambda: "NVRTC 13.0")
    keeping(monkeypatch, tmp_path / "cache")
    for name, value in {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "get_device_capability": lambda device: (9, 0),
        "current_stream": lambda device: stream,
        "device": lambda device: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return driver, loader


def test_kernels_run_in_torchs_context_from_any_thread(stand_ins: tuple[Driver, Loader]):
    """Autograd's threads have none until torch's CUDA needs one there."""
    runtime = CudaRuntime()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(runtime.launch, "loss", "loss_gradient", LossArgs(), 1, 256).result()
    assert stand_ins[0].launches == 1


def test_a_kernel_that_two_threads_need_at_once_is_compiled_and_loaded_once(
    stand_ins: tuple[Driver, Loader], monkeypatch: pytest.MonkeyPatch
):
    """A second one in its place would unload the first, which may be running."""
    runtime, compiles, both = CudaRuntime(), nvrtc.compile_source, threading.Barrier(2)

    def slow(*args: Any) -> nvrtc.Compiled:
        time.sleep(0.1)
        return compiles(*args)

    def launch() -> None:
        both.wait()
        runtime.launch("loss", "loss", LossArgs(), 1, 256)

    monkeypatch.setattr(nvrtc, "compile_source", slow)
    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(launch) for _ in range(2)]:
            job.result()
    assert stand_ins[1].loaded == ["adam", "loss"] and stand_ins[0].launches == 2


def test_a_damaged_file_of_the_cache_is_compiled_afresh_and_replaced(stand_ins: tuple[Driver, Loader]):
    CudaRuntime()
    (file,) = nvrtc.cache_folder().iterdir()
    file.write_bytes(b"half of a cub")
    CudaRuntime()
    assert file.read_bytes() == b"cubin 2" and stand_ins[1].loaded == ["adam", "adam"]
    CudaRuntime()
    assert file.read_bytes() == b"cubin 2"


def test_a_driver_that_refuses_kernels_is_noticed_at_once_and_in_one_sentence(stand_ins: tuple[Driver, Loader]):
    stand_ins[1].refuses = True
    with pytest.raises(UserError, match=r"does not load what NVRTC 13.0 compiled for sm_90 \(CUDA_ERROR_UNS.*update"):
        CudaRuntime()


def test_without_a_gpu_the_backend_says_what_to_do():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=r"Backend 'cuda' is not available: it needs an NVIDIA GPU.*use the backend"):
        CudaRuntime()


def test_there_is_no_runtime_for_the_cpu_nor_without_nvidias_compiler(monkeypatch: pytest.MonkeyPatch):
    assert nvrtc.runtime_for(torch.device("cpu")) is None
    made = []

    def make() -> None:
        made.append(1)
        raise UserError("no compiler")

    monkeypatch.setattr(nvrtc, "CudaRuntime", make)
    monkeypatch.setattr(torch.cuda, "device", lambda index: torch.no_grad())
    nvrtc._runtime_of.cache_clear()
    try:
        device = torch.device("cuda", 0)
        assert nvrtc.runtime_for(device) is None and nvrtc.runtime_for(device) is None
        assert made == [1]  # it is not looked for in every step
    finally:
        nvrtc._runtime_of.cache_clear()
