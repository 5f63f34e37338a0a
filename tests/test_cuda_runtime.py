"""How the kernels are compiled, kept, loaded and launched, with stand-ins for NVIDIA's driver and compiler."""

from __future__ import annotations

import ctypes
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
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
from nfc_gs.ops.nvrtc import CudaRuntime, compile_source, options, runtime_for, source_folder, target_for
from nfc_gs.rendering import cuda_backend
from nfc_gs.rendering.cuda_backend import CudaBackend

# ---- compiling ----------------------------------------------------------------------------------------------------


def keeping(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[bytes]:
    """Let the cache be in a folder, and a compiler give other bytes each time; returns those that it has given."""
    made: list[bytes] = []

    def compile_source(source: str, architecture: str, channels: int, to: str) -> nvrtc.Compiled:
        made.append(f"cubin {len(made) + 1}".encode())
        return nvrtc.Compiled(made[-1], "")

    monkeypatch.setenv(nvrtc.CACHE_VARIABLE, str(folder))
    monkeypatch.setattr(nvrtc, "compile_source", compile_source)
    return made


def kept(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[..., bytes]:
    """What `load_or_compile` gives, of such a cache and compiler."""
    keeping(monkeypatch, folder)
    return lambda *args, **options: nvrtc.load_or_compile(*args, **options)[0]


def test_a_user_without_a_home_is_told_to_name_a_folder(monkeypatch: pytest.MonkeyPatch):
    def missing() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in (nvrtc.CACHE_VARIABLE, "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", missing)
    with pytest.raises(UserError) as error:
        nvrtc.cache_folder()
    assert str(error.value) == (
        "The user has no home folder, in which compiled kernels are kept; let NFC_GS_CACHE name a folder."
    )
    monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "caches")
    assert nvrtc.cache_folder() == Path("caches", "nfc-gs", "kernels")


def test_a_compiled_source_is_kept_until_source_options_or_compiler_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    get = kept(monkeypatch, tmp_path / "cache")
    assert get("raster", "sm_90", 3, "NVRTC 13.0") == get("raster", "sm_90", 3, "NVRTC 13.0") == b"cubin 1"
    assert get("raster", "sm_90", 4, "NVRTC 13.0") == b"cubin 2"
    assert get("raster", "sm_80", 3, "NVRTC 13.0") == b"cubin 3"
    assert get("raster", "sm_90", 3, "NVRTC 13.1") == b"cubin 4"
    (tmp_path / "cache" / ".raster-sm_80-0.1234-abcd.partial.cubin").touch()  # of a process that was killed
    assert nvrtc.cached_kernels() == {"sm_80": 1, "sm_90": 3}
    monkeypatch.setattr(nvrtc, "UNFUSED", ("raster",))
    assert get("raster", "sm_90", 3, "NVRTC 13.0") == b"cubin 5"
    assert get("raster", "sm_90", 3, "NVRTC 13.0", "ptx") == b"cubin 6"
    before = nvrtc.kernels_hash("sm_90", "cubin", "NVRTC 13.0")
    other = tmp_path / "numeric.h"
    other.write_text("// changed")
    monkeypatch.setattr(nvrtc, "_texts", lambda: (other,))
    assert get("raster", "sm_90", 3, "NVRTC 13.0") == b"cubin 7"
    hashes = {nvrtc.kernels_hash(*each) for each in (("sm_90", "cubin", "13.0"), ("sm_90", "cubin", "13.1"))}
    assert len({before, *hashes}) == 3


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


def test_the_version_of_the_compiler_has_its_patch_level():
    """Two patch levels may compile differently, so that the cache must tell them apart."""
    needs_nvrtc()
    from importlib import metadata

    name = nvrtc.compiler_name()
    assert re.fullmatch(r"NVRTC \d+\.\d+\.\d+", name)
    found = [each.version for each in metadata.distributions(name="nvidia-cuda-nvrtc")]
    if found:
        assert name == f"NVRTC {found[0]}"


def test_a_source_compiles_to_machine_code_or_ptx_without_a_gpu():
    needs_nvrtc()
    assert compile_source("binning", "sm_80").code.startswith(b"\x7fELF")
    ptx = compile_source("binning", "sm_80", to="ptx").code
    assert b".target sm_80" in ptx and b".entry find_tiles" in ptx and b"\0" not in ptx


def test_nvrtc_is_found_where_python_imports_from_that_of_torchs_cuda_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """NVIDIA's own search misses what `pip install --target` put on PYTHONPATH."""
    needs_nvrtc()
    if not sys.platform.startswith("linux"):
        pytest.skip("NVRTC is loaded by us on Linux alone")
    for file in ("nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
        (tmp_path / file).with_name("libnvrtc-builtins.so.1").touch()
    loaded: list[str] = []
    load = ctypes.CDLL

    def watch(name: Any, *args: Any, **options: Any) -> Any:
        if not str(name).startswith(str(tmp_path)):
            return load(name, *args, **options)
        return loaded.append(Path(name).name)

    monkeypatch.setattr(ctypes, "CDLL", watch)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for version, expected in {"12.6": "libnvrtc.so.12", "13.0": "libnvrtc.so.13", None: "libnvrtc.so.13"}.items():
        monkeypatch.setattr(torch.version, "cuda", version)
        nvrtc.compiler_name.cache_clear()
        loaded.clear()
        nvrtc.compiler_name()
        assert loaded == ["libnvrtc-builtins.so.1", expected]


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
        ((9, 0), [75, 80, 90, 100], ("sm_90", "cubin")),
        ((8, 9), [75, 80, 86, 90], ("sm_86", "cubin")),
        ((10, 3), [90, 100, 101, 120], ("sm_101", "cubin")),
        ((12, 1), [90, 100, 120], ("sm_120", "cubin")),
        ((12, 0), [75, 90, 121], ("sm_90", "ptx")),  # 12.1 is newer than 12.0
        ((13, 0), [90, 100, 120], ("sm_120", "ptx")),
        ((7, 0), None, ("sm_70", "cubin")),
    ],
)
def test_a_gpu_that_the_compiler_does_not_know_gets_what_also_runs_on_it_or_ptx(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], known: list[int] | None, expected: tuple[str, str]
):
    compiler = SimpleNamespace(nvrtcGetSupportedArchs=lambda: (0, known))
    monkeypatch.setattr(nvrtc, "_module", lambda name: compiler)
    assert target_for(*capability) == expected


def test_a_gpu_that_is_older_than_the_compiler_knows_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nvrtc, "_module", lambda name: SimpleNamespace(nvrtcGetSupportedArchs=lambda: (0, [75, 90])))
    monkeypatch.setattr(nvrtc, "compiler_name", lambda: "NVRTC 13.0.88")
    with pytest.raises(UserError, match=r"NVRTC 13\.0\.88 compiles for compute capability 7\.5 and .* has 6\.1; inst"):
        target_for(6, 1)


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
        self.launches: list[tuple[str, int]] = []  # the context and the stream of each

    def cuCtxGetCurrent(self) -> tuple[Status, Any]:  # noqa: N802
        return Status.CUDA_SUCCESS, getattr(self.mine, "context", None)

    def cuCtxSetCurrent(self, context: Any) -> tuple[Status]:  # noqa: N802
        self.mine.context = context
        return (Status.CUDA_SUCCESS,)

    def cuLaunchKernel(self, *args: Any) -> tuple[Status]:  # noqa: N802
        context = getattr(self.mine, "context", None)
        if context is None:
            return (Status.CUDA_ERROR_INVALID_CONTEXT,)
        self.launches.append((context, args[8]))
        return (Status.CUDA_SUCCESS,)


class Loader:
    """`cuda.core`, which loads what compilers give, or refuses everything."""

    refuses = False

    def __init__(self) -> None:
        self.ObjectCode = SimpleNamespace(
            from_cubin=lambda code: self.load(code, "cubin"), from_ptx=lambda code: self.load(code, "ptx")
        )
        self.loaded: list[str] = []
        self.forms: list[str] = []

    def load(self, code: bytes, form: str) -> Any:
        def get_kernel(name: str) -> Any:
            if self.refuses or not code.startswith(b"cubin"):
                raise RuntimeError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION")
            self.loaded.append(name)
            self.forms.append(form)
            return SimpleNamespace(handle=7)

        return SimpleNamespace(get_kernel=get_kernel)


CAPABILITIES = {0: (9, 0), 1: (8, 0), 2: (12, 0)}
"""Of the three GPUs of `stand_ins`; NVRTC knows the first two."""


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Driver, Loader]]:
    """In the place of three GPUs, of their driver and of what compiles for them."""
    driver, loader = Driver(), Loader()
    modules = {
        "cuda.core": loader,
        "cuda.bindings.driver": driver,
        "cuda.bindings.nvrtc": SimpleNamespace(nvrtcGetSupportedArchs=lambda: (0, [80, 90])),
    }

    def stream(device: torch.device) -> Any:
        """torch's CUDA makes a context when it first needs one, in the thread that needs it."""
        start = lambda: driver.cuCtxSetCurrent(f"torch's of GPU {device.index}")  # noqa: E731
        return SimpleNamespace(cuda_stream=10 + device.index, synchronize=start)

    monkeypatch.setattr(nvrtc, "_module", modules.__getitem__)
    monkeypatch.setattr(nvrtc, "compiler_name", lambda: "NVRTC 13.0")
    monkeypatch.setattr(nvrtc, "gpu_problem", lambda device: "")
    keeping(monkeypatch, tmp_path / "cache")
    for name, value in {
        "current_device": lambda: 0,
        "get_device_capability": lambda device: CAPABILITIES[device.index],
        "current_stream": stream,
        "device": lambda device: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    nvrtc._runtime_of.cache_clear()
    yield driver, loader
    nvrtc._runtime_of.cache_clear()


GPU = torch.device("cuda")


def test_kernels_run_in_torchs_context_from_any_thread(stand_ins: tuple[Driver, Loader]):
    """Autograd's threads have none until torch's CUDA needs one there."""
    runtime = CudaRuntime(GPU)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(runtime.launch, "loss", "loss_gradient", LossArgs(), 1, 256).result()
    assert len(stand_ins[0].launches) == 1


def test_a_kernel_that_two_threads_need_at_once_is_compiled_and_loaded_once(
    stand_ins: tuple[Driver, Loader], monkeypatch: pytest.MonkeyPatch
):
    """A second one in its place would unload the first, which may be running."""
    runtime, compiles, both = CudaRuntime(GPU), nvrtc.compile_source, threading.Barrier(2)

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
    assert stand_ins[1].loaded == ["adam", "loss"] and len(stand_ins[0].launches) == 2


def test_a_damaged_file_of_the_cache_is_compiled_afresh_and_replaced(stand_ins: tuple[Driver, Loader]):
    CudaRuntime(GPU)
    (file,) = nvrtc.cache_folder().iterdir()
    file.write_bytes(b"half of a cub")
    CudaRuntime(GPU)
    assert file.read_bytes() == b"cubin 2" and stand_ins[1].loaded == ["adam", "adam"]
    CudaRuntime(GPU)
    assert file.read_bytes() == b"cubin 2"


def test_a_driver_that_refuses_kernels_is_noticed_at_once_and_in_one_sentence(stand_ins: tuple[Driver, Loader]):
    stand_ins[1].refuses = True
    with pytest.raises(UserError, match=r"does not load what NVRTC 13.0 compiled for sm_90 \(CUDA_ERROR_UNS.*update"):
        CudaRuntime(GPU)


def test_each_gpu_has_its_own_kernels_context_and_stream(stand_ins: tuple[Driver, Loader]):
    driver, loader = stand_ins
    first, second, newest = (runtime_for(torch.device("cuda", index)) for index in range(3))
    assert [each.device.index for each in (first, second, newest)] == [0, 1, 2]
    assert (first.architecture, second.architecture, newest.architecture) == ("sm_90", "sm_80", "sm_90")
    assert loader.forms == ["cubin", "cubin", "ptx"]  # which the driver compiles for a GPU that NVRTC does not know
    assert runtime_for(torch.device("cuda", 1)) is second and runtime_for(GPU) is first
    for runtime in (second, first, newest, second):
        runtime.launch("loss", "loss", LossArgs(), 1, 256)
    assert driver.launches == [(f"torch's of GPU {index}", 10 + index) for index in (1, 0, 2, 1)]


def test_without_a_gpu_the_backend_says_what_to_do():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for make in (lambda: CudaRuntime(GPU), CudaBackend):
        with pytest.raises(
            UserError, match=r"Backend 'cuda' is not available: .*torch sees no GPU here.*use the backend"
        ):
            make()


def test_the_backend_draws_on_the_gpu_of_the_tensors(stand_ins: tuple[Driver, Loader], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda_backend, "compiler_name", lambda: "NVRTC 13.0")
    asked: list[torch.device] = []

    def stop(device: torch.device) -> None:
        asked.append(device)
        raise UserError("far enough")

    monkeypatch.setattr(cuda_backend, "runtime_for", stop)
    means = SimpleNamespace(dtype=torch.float32, device=torch.device("cuda", 1))
    with pytest.raises(UserError, match="far enough"):
        CudaBackend()._render(SimpleNamespace(means=means), None, None, None)  # type: ignore[arg-type]
    assert asked == [torch.device("cuda", 1)]
