"""Compiles the kernels of `cuda/gpu` with NVRTC at first use and launches them on torch's current stream.

Compiled kernels are kept in the user's cache folder, by a hash of their sources, options and compiler: cubins, or PTX,
which the driver compiles, for a GPU newer than NVRTC.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib
import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write, make_folder
from nfc_gs.core.text import in_one_line
from nfc_gs.ops.device import gpu_problem

SOURCES = ("project", "binning", "raster", "loss", "optimize", "hexplane")
"""The files of `cuda/gpu` that hold kernels."""

UNFUSED = ("project", "binning")
"""Those in which no multiplication and addition become one instruction: the first counts the tiles of a splat and the
second walks through them, and both must round alike to find the same."""

CACHE_VARIABLE = "NFC_GS_CACHE"
"""Environment variable with the folder of compiled kernels; the user's cache folder if unset."""

APPROXIMATE = ("raster",)
"""Those in which quotients and powers of two may be off by two units in the last place, and numbers below 1e-38 are
zero: what they blend is at least 1/255 opaque."""


Form = Literal["cubin", "ptx"]
"""What a source is compiled to: machine code for one GPU, or PTX, which the driver compiles for newer ones."""

_NVRTC_REMEDY = (
    "install the NVRTC of torch's CUDA (pip install nvidia-cuda-nvrtc for CUDA 13, nvidia-cuda-nvrtc-cu12 for CUDA 12)"
)

_NVRTC_LIBRARIES = {"13": "nvidia/cu13/lib/libnvrtc.so.13", "12": "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"}
"""Where NVIDIA's wheels for Linux put NVRTC, by the major version of CUDA."""


class Runtime(Protocol):
    """Something that runs kernels: a GPU, or in tests the emulator of `cuda/emulate`."""

    device: torch.device

    def launch(
        self, source: str, kernel: str, args: ctypes.Structure, blocks: int, threads: int, channels: int = 0
    ) -> None:
        """Run a kernel.

        Args:
            source: one of `SOURCES`.
            args: its argument; copied before this returns.
            blocks, threads: how many of them; without blocks nothing happens.
            channels: `NFC_CHANNELS`, for a source that is compiled for a number of channels; else 0.
        """
        ...

    def read_later(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to copy a tensor to the CPU.

        Returns:
            What gives the copy; it waits for that and for nothing that is launched after this call.
        """
        ...


@dataclass(frozen=True)
class Compiled:
    """A source compiled for an architecture.

    Attributes:
        code: what the driver loads.
        log: what the assembler says of each kernel's registers, shared memory and spills.
    """

    code: bytes
    log: str


def source_folder() -> Path:
    """The folder `cuda` with the sources of the kernels: in the package, or beside it in a checkout.

    Raises:
        UserError: it is in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "cuda", package.parent / "cuda"):
        if (folder / "gpu" / "raster.cu").is_file():
            return folder
    raise UserError("The sources of the GPU kernels (cuda/gpu) are missing; reinstall nfc-gs with 'pip install .'.")


def definitions(channels: int) -> list[str]:
    """The macros that a source is compiled with, each NAME=VALUE."""
    return [f"NFC_CHANNELS={channels}"] if channels else []


def options(source: str, architecture: str, channels: int = 0) -> dict[str, Any]:
    """How NVRTC compiles a source: fields of cuda.core's `ProgramOptions`, and a part of the name in the cache."""
    return {
        "arch": architecture,
        "std": "c++17",
        "fma": source not in UNFUSED,
        "ftz": source in APPROXIMATE,
        "prec_div": source not in APPROXIMATE,
        "define_macro": definitions(channels) or None,
        "ptxas_options": ["-v"],
    }


def compile_source(source: str, architecture: str, channels: int = 0, to: Form = "cubin") -> Compiled:
    """Compile one of `SOURCES` for an architecture such as "sm_90"; needs no GPU.

    Its PTX is that of compute_90, which drivers compile for newer GPUs, too.

    Raises:
        UserError: NVRTC is not installed, or the sources do not compile with it.
    """
    compiler_name()  # loads the NVRTC that fits
    core = _module("cuda.core")
    folder = source_folder() / "gpu"
    log = _Log()
    try:
        given = core.ProgramOptions(
            name=f"{source}.cu", include_path=[str(folder)], **options(source, architecture, channels)
        )
        program = core.Program((folder / f"{source}.cu").read_text("utf-8"), "c++", given)
        code = bytes(program.compile("cubin", logs=log).code)
        if to == "ptx":  # of the same compilation; cuda.core's own way to PTX asks the driver, which needs a GPU
            code = _ptx_of(program.handle)
    except Exception as error:  # whatever the loader of NVRTC or NVRTC itself says
        raise UserError(
            f"The GPU kernels in {source}.cu do not compile for {architecture} ({in_one_line(error)}); {_NVRTC_REMEDY} "
            "or use the backend 'cpu'."
        ) from None
    return Compiled(code, log.text)


def _ptx_of(program: Any) -> bytes:
    """The PTX of a program that NVRTC has compiled."""
    nvrtc = _module("cuda.bindings.nvrtc")
    text = bytes(nvrtc.nvrtcGetPTXSize(program)[1])
    nvrtc.nvrtcGetPTX(program, text)
    return text.rstrip(b"\0")


class _Log:
    """A text stream for what the compiler says, which ends some lines with a zero byte."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text.replace("\0", "")
        return len(text)


def _module(name: str) -> Any:
    """A module of NVIDIA's Python packages, which are installed where they have wheels: Linux and Windows."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"Backend 'cuda' is not available: NVIDIA's compiler does not load ({in_one_line(error)}); run "
            "pip install cuda-core \"cuda-bindings>=12.9,<14\" or use the backend 'cpu'."
        ) from None


def cache_folder() -> Path:
    """Where compiled kernels are kept.

    Raises:
        UserError: no folder is chosen, and the user has no home.
    """
    chosen = os.environ.get(CACHE_VARIABLE, "").strip()
    if chosen:
        return Path(chosen)
    windows = sys.platform == "win32"
    parent = os.environ.get("LOCALAPPDATA" if windows else "XDG_CACHE_HOME")
    try:
        caches = Path(parent or Path.home() / ("AppData/Local" if windows else ".cache"))
    except RuntimeError:
        raise UserError(
            f"The user has no home folder, in which compiled kernels are kept; let {CACHE_VARIABLE} name a folder."
        ) from None
    return caches / "nfc-gs" / "kernels"


def cached_name(source: str, architecture: str, channels: int, compiler: str, to: Form = "cubin") -> str:
    """The name of a compiled source: another one whenever something that goes into it differs."""
    digest = hashlib.sha256(json.dumps([compiler, options(source, architecture, channels)]).encode())
    digest.update(_digest_of_texts())
    return f"{source}-{architecture}-{digest.hexdigest()[:16]}.{to}"


def kernels_hash(architecture: str, to: Form, compiler: str) -> str:
    """A hash of all kernels: their sources, options and compiler."""
    names = [cached_name(source, architecture, 0, compiler, to) for source in SOURCES]
    return hashlib.sha256("".join(names).encode()).hexdigest()[:16]


def _digest_of_texts() -> bytes:
    digest = hashlib.sha256()
    for path in _texts():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.digest()


@functools.cache
def _texts() -> tuple[Path, ...]:
    folder = source_folder()
    return tuple(sorted([*(folder / "gpu").iterdir(), *(folder / "include" / "nfc_gs").iterdir()]))


@functools.cache
def compiler_name() -> str:
    """NVRTC and its version with the patch level, such as "NVRTC 13.0.88".

    `nvrtcVersion` knows no patch level, but NVRTC writes it into the PTX that it makes ("V13.0.88"), here of nothing.

    Raises:
        UserError: it is not installed.
    """
    _load_nvrtc()
    _module("cuda.core")
    nvrtc = _module("cuda.bindings.nvrtc")
    try:
        _, major, minor = nvrtc.nvrtcVersion()
        _, program = nvrtc.nvrtcCreateProgram(b"", b"version.cu", 0, [], [])
        nvrtc.nvrtcCompileProgram(program, 0, [])
        written = re.search(rb"\bV(\d+\.\d+\.\d+)", _ptx_of(program))
    except Exception as error:  # the loader's own kinds of errors
        raise UserError(
            f"Backend 'cuda' is not available: NVRTC does not load ({in_one_line(error)}); {_NVRTC_REMEDY} or use the "
            "backend 'cpu'."
        ) from None
    return f"NVRTC {written[1].decode() if written else f'{major}.{minor}'}"


def _load_nvrtc() -> None:
    """Load NVRTC from the folders that Python imports from, that of torch's CUDA first.

    NVIDIA's own search takes what is loaded already. Else it knows site-packages alone, and not what `pip install
    --target` put on PYTHONPATH; and of two versions it takes the newer one, whose code a driver for torch's CUDA may
    refuse. On Windows torch itself has loaded the NVRTC that it brings.
    """
    if not sys.platform.startswith("linux"):
        return
    own = (torch.version.cuda or "").partition(".")[0]
    for major in sorted(_NVRTC_LIBRARIES, key=lambda major: major != own):
        for folder in map(Path, sys.path):
            library = folder / _NVRTC_LIBRARIES[major]
            if library.is_file():
                with contextlib.suppress(OSError):  # then NVIDIA's own search goes on
                    for part in (*sorted(library.parent.glob("libnvrtc-builtins.so.*")), library):
                        ctypes.CDLL(str(part), ctypes.RTLD_GLOBAL)
                    return


def driver_version() -> str:
    """The driver and the newest CUDA it knows, such as "580.65.06, CUDA 13.0".

    Raises:
        UserError: NVIDIA's Python packages are not installed, or there is no driver.
    """
    driver = _module("cuda.bindings.driver")
    try:
        _, number = driver.cuDriverGetVersion()
    except Exception as error:  # of the loader
        raise UserError(f"NVIDIA's driver does not load ({in_one_line(error)}); install it.") from None
    cuda = f"CUDA {number // 1000}.{number % 1000 // 10}"
    try:
        release = _module("cuda.core.system").get_kernel_mode_driver_version()
    except Exception:  # of NVML, which a container may lack
        return cuda
    return f"{'.'.join(map(str, release))}, {cuda}"


def target_for(major: int, minor: int) -> tuple[str, Form]:
    """For which architecture, and to what, NVRTC compiles for a GPU of this compute capability.

    Machine code for a smaller minor number runs, too. A GPU of a major number that NVRTC does not know gets the PTX of
    the newest architecture before it, which its driver compiles.

    Raises:
        UserError: the GPU is older than all that NVRTC knows.
    """
    capability = 10 * major + minor
    _, known = _module("cuda.bindings.nvrtc").nvrtcGetSupportedArchs()
    older = [number for number in known or (capability,) if number <= capability]
    if not older:
        raise UserError(
            f"Backend 'cuda' is not available: {compiler_name()} compiles for compute capability "
            f"{min(known) / 10:.1f} and newer, and this GPU has {major}.{minor}; install a torch build for CUDA 12, "
            "or use another backend."
        )
    newest = max(older)
    return f"sm_{newest}", "cubin" if newest // 10 == major else "ptx"


def load_or_compile(
    source: str, architecture: str, channels: int, compiler: str, to: Form = "cubin", *, afresh: bool = False
) -> tuple[bytes, bool]:
    """The code of a source, from the cache or else compiled and put there; and whether it was in the cache.

    A cache that cannot be written costs time at every start, and nothing else.

    Args:
        afresh: compile, whatever is in the cache, and put that in its place.

    Raises:
        UserError: see `compile_source`.
    """
    path = cache_folder() / cached_name(source, architecture, channels, compiler, to)
    if not afresh:
        with contextlib.suppress(OSError):
            return path.read_bytes(), True
    code = compile_source(source, architecture, channels, to).code
    try:
        make_folder(path.parent)
        with atomic_write(path) as temporary:
            temporary.write_bytes(code)
    except UserError:
        pass
    return code, False


class CudaRuntime:
    """Runs kernels on one GPU.

    Raises:
        UserError: torch cannot compute on it, NVRTC is not installed, or what it compiles does not load.
    """

    def __init__(self, device: torch.device) -> None:
        """`device` is a GPU, by its index or torch's current one."""
        problem = gpu_problem(device)
        if problem:
            raise UserError(f"Backend 'cuda' is not available: {problem}; use the backend 'cpu'.")
        self._core = _module("cuda.core")
        self._driver = _module("cuda.bindings.driver")
        self._compiler = compiler_name()
        self.device = with_index(device)
        self._form: Form
        self.architecture, self._form = target_for(*torch.cuda.get_device_capability(self.device))
        self._kernels: dict[tuple[str, str, int], Any] = {}
        self._loading = threading.Lock()
        with torch.cuda.device(self.device):
            torch.cuda.current_stream(self.device).synchronize()  # torch creates the context that kernels run in ...
            _, self._context = self._driver.cuCtxGetCurrent()  # ... which not every thread of autograd has
            self._function("optimize", "adam", 0)  # what does not compile or load here shows now, not in training

    def launch(
        self, source: str, kernel: str, args: ctypes.Structure, blocks: int, threads: int, channels: int = 0
    ) -> None:
        """See `Runtime.launch`.

        Raises:
            UserError: the kernels do not compile here or do not load.
            RuntimeError: the driver refuses the launch.
        """
        if blocks == 0:
            return
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(args))
        with torch.cuda.device(self.device):
            self._driver.cuCtxSetCurrent(self._context)
            function = self._function(source, kernel, channels)
            stream = torch.cuda.current_stream(self.device).cuda_stream
            (status,) = self._driver.cuLaunchKernel(
                function, blocks, 1, 1, threads, 1, 1, 0, stream, ctypes.addressof(parameters), 0
            )
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"launching {kernel} on {self.device} failed: {status.name}")

    def read_later(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """See `Runtime.read_later`."""
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)  # else the copy would wait for the GPU
        copied = torch.cuda.Event()
        with torch.cuda.device(self.device):
            copy.copy_(tensor, non_blocking=True)
            copied.record(torch.cuda.current_stream(self.device))

        def read() -> torch.Tensor:
            copied.synchronize()
            return copy

        return read

    def _function(self, source: str, kernel: str, channels: int) -> Any:
        key = (source, kernel, channels)
        if key not in self._kernels:
            with self._loading:  # of two that were loaded, the one that is not kept would go while it is in use
                if key not in self._kernels:
                    loaded = self._load(source, kernel, channels)  # which also keeps its library loaded
                    self._kernels[key] = (loaded, self._driver.CUfunction(int(loaded.handle)))
        return self._kernels[key][1]

    def _load(self, source: str, kernel: str, channels: int, *, afresh: bool = False) -> Any:
        """A kernel, loaded. What is in the cache and does not load may be damaged: it is compiled once more."""
        code, cached = load_or_compile(source, self.architecture, channels, self._compiler, self._form, afresh=afresh)
        load = self._core.ObjectCode.from_ptx if self._form == "ptx" else self._core.ObjectCode.from_cubin
        try:
            return load(code).get_kernel(kernel)
        except Exception as error:  # whatever cuda.core and the driver say
            if cached:
                return self._load(source, kernel, channels, afresh=True)
            raise UserError(
                f"Backend 'cuda' is not available: the driver does not load what {self._compiler} compiled for "
                f"{self.architecture} ({in_one_line(error)}); update the driver, {_NVRTC_REMEDY}, or use the backend "
                "'cpu'."
            ) from None


def runtime_for(device: torch.device) -> CudaRuntime:
    """What runs our kernels on a GPU, always the same object for one GPU.

    Raises:
        UserError: see `CudaRuntime`.
    """
    return _runtime_of(with_index(device))


@functools.cache
def _runtime_of(device: torch.device) -> CudaRuntime:
    return CudaRuntime(device)


def with_index(device: torch.device) -> torch.device:
    """A GPU by its index; torch's current one if it has none."""
    return torch.device("cuda", torch.cuda.current_device()) if device.index is None else device


def cached_kernels() -> dict[str, int]:
    """How many compiled sources the cache holds for each architecture."""
    compiled = (path for form in get_args(Form) for path in cache_folder().glob(f"[!.]*-sm_*-*.{form}"))
    architectures = (path.name.split("-")[1] for path in compiled)
    return dict(sorted(Counter(architectures).items()))
