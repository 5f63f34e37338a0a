"""Runs the kernels of `cuda/gpu` without a GPU: their sources as C++ over `cuda/emulate/device.h`, or the PTX that
NVRTC makes of them, which `cuda/emulate/ptx.py` translates to C++."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import torch

from nfc_gs.core.errors import UserError
from nfc_gs.ops import nvrtc

CUDA = Path(__file__).resolve().parents[1] / "cuda"

sys.path.insert(0, str(CUDA / "emulate"))
from ptx import supported_architectures, translate  # noqa: E402

KERNELS_VARIABLE = "NFC_GS_EMULATOR_KERNELS"
"""Environment variable: what the emulator runs. `sources` (the default), or the PTX for an architecture: `oldest` or
`newest` of those that NVRTC knows, or a name such as `sm_90`."""

SANITIZE_VARIABLE = "NFC_GS_EMULATOR_SANITIZE"
"""Environment variable: if set, kernels are compiled with AddressSanitizer, whose library must be preloaded."""


class KernelError(Exception):
    """What the emulator caught a kernel at."""


class Emulator:
    """A `nvrtc.Runtime` on the CPU. Each source is compiled once per process and number of channels.

    Raises:
        UserError: there is no C++ compiler; or NVRTC is not installed, where PTX is to be run.
    """

    device = torch.device("cpu")

    def __init__(self) -> None:
        if shutil.which(_compiler()) is None or not (CUDA / "gpu").is_dir():
            raise UserError("the emulator needs a C++ compiler and the sources in cuda/")
        self.architecture = chosen_architecture()

    def launch(
        self, source: str, kernel: str, args: ctypes.Structure, blocks: int, threads: int, channels: int = 0
    ) -> None:
        library = compiled(CUDA / "gpu" / f"{source}.cu", channels, self.architecture)
        run(library, kernel, args, blocks, threads)

    def read_later(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        copy = tensor.clone()
        return lambda: copy


def chosen_architecture() -> str:
    """The architecture whose PTX is to be run, or "" for the sources: see `KERNELS_VARIABLE`.

    Raises:
        UserError: it is to be PTX, and NVRTC is not installed.
    """
    chosen = os.environ.get(KERNELS_VARIABLE, "sources")
    if chosen == "sources":
        return ""
    nvrtc.compiler_name()
    ends = {"oldest": 0, "newest": -1}
    return supported_architectures()[ends[chosen]] if chosen in ends else chosen


def run(library: ctypes.CDLL, kernel: str, args: ctypes.Structure | ctypes.Array, blocks: int, threads: int) -> None:
    """Run one kernel.

    Raises:
        KernelError: it did something wrong.
    """
    allowed = ctypes.c_uint.in_dll(library, f"{kernel}_threads").value
    assert threads == allowed, f"{kernel} is made for blocks of {allowed} threads, not {threads}"
    library.emulate_launch.restype = ctypes.c_char_p
    function = ctypes.cast(getattr(library, kernel), ctypes.c_void_p)
    failure = library.emulate_launch(function, ctypes.c_uint(blocks), ctypes.c_uint(threads), ctypes.byref(args))
    if failure is not None:
        raise KernelError(f"{kernel}, {failure.decode()}")


def nvrtc_folder() -> str:
    """Where NVRTC is, or "" if PTX is not to be run."""
    if not chosen_architecture():
        return ""
    from cuda.pathfinder import load_nvidia_dynamic_lib  # which may be missing

    return str(Path(load_nvidia_dynamic_lib("nvrtc").abs_path).parent)


@functools.cache
def compiled(path: Path, channels: int = 0, architecture: str = "") -> ctypes.CDLL:
    """A file of kernels as a library: its C++, or its PTX for an architecture."""
    if architecture:
        code = _folder() / f"{path.stem}-{channels}-{architecture}.cpp"
        code.write_text(translate(ptx_of(path, channels, architecture)), "utf-8")
        return compiled_cpp(code)
    definitions = [f"-D{definition}" for definition in nvrtc.definitions(channels)]
    return compiled_cpp(path, ["-include", str(CUDA / "emulate" / "device.h"), *definitions])


def compiled_cpp(path: Path, options: Sequence[str] = ()) -> ctypes.CDLL:
    """A file of C++ as a library."""
    library = _folder() / f"{path.stem}-{uuid.uuid4().hex[:8]}.so"  # a name is loaded only once
    command = [_compiler(), "-std=c++17", "-O1", "-ffp-contract=off", "-fwrapv", "-shared", "-fPIC", *options]
    if SANITIZE_VARIABLE in os.environ:
        command += ["-fsanitize=address"]
    built = subprocess.run([*command, "-x", "c++", str(path), "-o", str(library)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return ctypes.CDLL(str(library))


def ptx_of(path: Path, channels: int, architecture: str) -> str:
    """What NVRTC makes of a file in a folder `gpu`, with the options of the package."""
    with mock.patch.object(nvrtc, "source_folder", lambda: path.parents[1]):
        return nvrtc.compile_source(path.stem, architecture, channels, to="ptx").code.decode()


def _compiler() -> str:
    return os.environ.get("CXX", "c++")


@functools.cache
def _folder() -> Path:
    _folder.keep = tempfile.TemporaryDirectory(prefix="nfc-gs-emulator-")  # removed when the process ends
    return Path(_folder.keep.name)


class Values(ctypes.Structure):
    """What the kernels of `build_kernels` are given."""

    _fields_ = (("values", ctypes.c_void_p), ("count", ctypes.c_int))


def build_kernels(folder: Path, bodies: Sequence[str], threads: int = 64, architecture: str = "") -> ctypes.CDLL:
    """Kernels with these bodies, called kernel_0, kernel_1 and so on, for the emulator."""
    source = folder / "gpu" / "kernels.cu"
    source.parent.mkdir(exist_ok=True)
    kernels = [
        f"NFC_KERNEL(kernel_{k}, Values, {threads}) {{ const int i = threadIdx.x; (void)args; {body} }}"
        for k, body in enumerate(bodies)
    ]
    struct = "struct Values { float* values; int count; };"
    source.write_text("\n".join([f'#include "{CUDA}/gpu/kernel.h"', struct, *kernels]) + "\n")
    return compiled(source, architecture=architecture)


def launch_kernel(library: ctypes.CDLL, values: torch.Tensor, kernel: int = 0) -> None:
    run(library, f"kernel_{kernel}", Values(values.data_ptr(), len(values)), blocks=1, threads=64)
