"""Compiles the kernels of `cuda/gpu` with NVRTC at first use and launches them on torch's current stream.

Compiled kernels (cubins) are kept in the user's cache folder, by a hash of their sources, options and compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib
import json
import os
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write, make_folder

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


@dataclass(frozen=True)
class Compiled:
    """A source compiled for an architecture.

    Attributes:
        cubin: what the driver loads.
        log: what the assembler says of each kernel's registers, shared memory and spills.
    """

    cubin: bytes
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


def compile_source(source: str, architecture: str, channels: int = 0) -> Compiled:
    """Compile one of `SOURCES` for an architecture such as "sm_90"; needs no GPU.

    Raises:
        UserError: NVRTC is not installed, or the sources do not compile with it.
    """
    core = _module("cuda.core")
    folder = source_folder() / "gpu"
    log = _Log()
    try:
        given = core.ProgramOptions(
            name=f"{source}.cu", include_path=[str(folder)], **options(source, architecture, channels)
        )
        program = core.Program((folder / f"{source}.cu").read_text("utf-8"), "c++", given)
        cubin = bytes(program.compile("cubin", logs=log).code)
    except Exception as error:  # whatever the loader of NVRTC or NVRTC itself says
        raise UserError(
            f"The GPU kernels in {source}.cu do not compile for {architecture} ({error}); install the NVRTC that "
            'belongs to torch\'s CUDA (pip install "cuda-core[cu12]" or "cuda-core[cu13]") or use the backend \'cpu\'.'
        ) from None
    return Compiled(cubin, log.text)


class _Log:
    """A text stream for what the compiler says, which ends some lines with a zero byte."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text.replace("\0", "")
        return len(text)


def _module(name: str) -> Any:
    """A module of NVIDIA's Python packages, which are there only with the extra `cuda`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"Backend 'cuda' is not available: NVIDIA's compiler does not load ({error}); "
            "run pip install \"nfc-gs[cuda]\" or use the backend 'cpu'."
        ) from None


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    chosen = os.environ.get(CACHE_VARIABLE, "").strip()
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "nfc-gs" / "kernels"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nfc-gs" / "kernels"


def cached_name(source: str, architecture: str, channels: int, compiler: str) -> str:
    """The name of a compiled source: another one whenever something that goes into it differs."""
    digest = hashlib.sha256(json.dumps([compiler, options(source, architecture, channels)]).encode())
    for path in _texts():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"{source}-{architecture}-{digest.hexdigest()[:16]}.cubin"


@functools.cache
def _texts() -> tuple[Path, ...]:
    folder = source_folder()
    return tuple(sorted([*(folder / "gpu").iterdir(), *(folder / "include" / "nfc_gs").iterdir()]))


def compiler_name() -> str:
    """NVRTC and its version.

    Raises:
        UserError: it is not installed.
    """
    _module("cuda.core")
    nvrtc = _module("cuda.bindings.nvrtc")
    try:
        _, major, minor = nvrtc.nvrtcVersion()
    except Exception as error:  # the loader's own kinds of errors
        raise UserError(
            f"Backend 'cuda' is not available: NVRTC does not load ({error}); install the one that belongs to torch's "
            'CUDA (pip install "cuda-core[cu12]" or "cuda-core[cu13]") or use the backend \'cpu\'.'
        ) from None
    return f"NVRTC {major}.{minor}"


def architecture_for(major: int, minor: int) -> str:
    """What NVRTC compiles for a GPU of this capability, such as "sm_90".

    What is compiled for a smaller minor number runs, too, which is how a GPU newer than NVRTC is served.
    """
    _, known = _module("cuda.bindings.nvrtc").nvrtcGetSupportedArchs()
    fitting = [number for number in known or () if number // 10 == major and number % 10 <= minor]
    return f"sm_{max(fitting, default=10 * major + minor)}"


def load_or_compile(
    source: str, architecture: str, channels: int, compiler: str, *, afresh: bool = False
) -> tuple[bytes, bool]:
    """The cubin of a source, from the cache or else compiled and put there; and whether it was in the cache.

    A cache that cannot be written costs time at every start, and nothing else.

    Args:
        afresh: compile, whatever is in the cache, and put that in its place.

    Raises:
        UserError: see `compile_source`.
    """
    path = cache_folder() / cached_name(source, architecture, channels, compiler)
    if not afresh:
        with contextlib.suppress(OSError):
            return path.read_bytes(), True
    cubin = compile_source(source, architecture, channels).cubin
    try:
        make_folder(path.parent)
        with atomic_write(path) as temporary:
            temporary.write_bytes(cubin)
    except UserError:
        pass
    return cubin, False


class CudaRuntime:
    """Runs kernels on torch's current GPU.

    Raises:
        UserError: there is no GPU, NVRTC is not installed, or what it compiles does not load.
    """

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise UserError(
                "Backend 'cuda' is not available: it needs an NVIDIA GPU and a CUDA build of torch, and torch sees "
                "none; use the backend 'cpu'."
            )
        self._core = _module("cuda.core")
        self._driver = _module("cuda.bindings.driver")
        self._compiler = compiler_name()
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.architecture = architecture_for(*torch.cuda.get_device_capability(self.device))
        self._kernels: dict[tuple[str, str, int], Any] = {}
        self._loading = threading.Lock()
        torch.cuda.current_stream(self.device).synchronize()  # makes torch create the context that kernels run in ...
        _, self._context = self._driver.cuCtxGetCurrent()  # ... which not every thread of autograd has by itself
        self._function("optimize", "adam", 0)  # what does not compile or load here shows now, not in a training step

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
        cubin, cached = load_or_compile(source, self.architecture, channels, self._compiler, afresh=afresh)
        try:
            return self._core.ObjectCode.from_cubin(cubin).get_kernel(kernel)
        except Exception as error:  # whatever cuda.core and the driver say
            if cached:
                return self._load(source, kernel, channels, afresh=True)
            raise UserError(
                f"Backend 'cuda' is not available: the driver does not load what {self._compiler} compiled for "
                f"{self.architecture} ({error}); update the driver, install the NVRTC that belongs to torch's CUDA "
                '(pip install "cuda-core[cu12]" or "cuda-core[cu13]"), or use the backend \'cpu\'.'
            ) from None


def runtime_for(device: torch.device) -> Runtime | None:
    """What runs our kernels on tensors of `device`; None on the CPU and where NVIDIA's compiler does not work."""
    if device.type != "cuda":
        return None
    return _runtime_of(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _runtime_of(index: int) -> Runtime | None:
    try:
        with torch.cuda.device(index):
            return CudaRuntime()
    except UserError:
        return None


def cached_kernels() -> dict[str, int]:
    """How many compiled sources the cache holds for each architecture."""
    architectures = (path.name.split("-")[1] for path in cache_folder().glob("*-*-*.cubin"))
    return dict(sorted(Counter(architectures).items()))
