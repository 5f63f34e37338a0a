"""The rasterizer backends there are, by name.

To add one, write a subclass of `RasterBackend` in a file of its own and list it in `BACKENDS`.
"""

from __future__ import annotations

import functools
import logging

import torch

from nfc_gs.core.errors import UserError
from nfc_gs.ops import nvrtc
from nfc_gs.ops.device import gpu_problem, resolve_device, visible_gpu
from nfc_gs.ops.operations import use_references
from nfc_gs.rendering.backend import RasterBackend
from nfc_gs.rendering.cpu_backend import CpuBackend
from nfc_gs.rendering.cuda_backend import CudaBackend
from nfc_gs.rendering.gsplat_backend import GsplatBackend
from nfc_gs.rendering.self_test import self_test
from nfc_gs.rendering.torch_backend import TorchBackend

_log = logging.getLogger("nfc_gs")

BACKENDS: dict[str, type[RasterBackend]] = {
    backend.name: backend
    for backend in (
        TorchBackend,
        CpuBackend,
        GsplatBackend,
        CudaBackend,
    )
}
"""All backends by name."""

ON_GPU = (CudaBackend.name, GsplatBackend.name, TorchBackend.name)
"""What "auto" tries on a GPU, in this order: ours if its self-test passes, gsplat if it loads, the reference."""

BACKEND_NAMES = ("auto", *BACKENDS)
"""All names that `get_backend` and `backend_for` take."""

BACKEND_HELP = f"auto ({CpuBackend.name}; on a GPU the first of {', '.join(ON_GPU)} that works), " + ", ".join(
    f"{name} ({backend.summary}; {' or '.join(backend.devices)})" for name, backend in BACKENDS.items()
)
"""The names and what they are, as a part of a sentence for help texts."""


def backend_for(name: str, device: str) -> str:
    """The backend that `name` stands for on a device, "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: there is no such backend, it does not take tensors of that device, or "auto" finds none that works.
    """
    if name == "auto":
        return auto_backend(torch.device(device))
    if torch.device(device).type not in _class_of(name).devices:
        raise UserError(f"The backend '{name}' does not work on the device '{device}'; leave out one of the two.")
    return name


def choose_device_and_backend(device: str = "auto", backend: str = "auto") -> tuple[str, str]:
    """The device and the backend that these names stand for on this machine.

    On a GPU whose self-test our kernels fail, losses and optimizers are the references from then on, unless our backend
    is asked for by name.

    Raises:
        UserError: there is no such device or backend, the two do not work together, or torch sees a GPU on which no
            backend can work (each one with its reason).
    """
    only = () if backend == "auto" else _class_of(backend).devices
    if backend == "auto" and device not in ("auto", "cpu"):
        chosen = visible_gpu(device)  # if nothing works there, that is said of every backend below
    else:
        if device == "auto" and only and "cpu" not in only and (problem := gpu_problem("cuda")):
            raise UserError(
                f"The backend '{backend}' needs a GPU, and {problem}; choose another backend, or install a torch build "
                "for a GPU."
            )
        chosen = resolve_device("cpu" if device == "auto" and only == ("cpu",) else device)
    name = backend_for(backend, chosen)
    if name == GsplatBackend.name:
        _our_problem(nvrtc.with_index(torch.device(chosen)))
    return chosen, name


def get_backend(name: str = "auto") -> RasterBackend:
    """The backend of that name, ready to render; "auto" for the GPU's if torch can compute on one, else the CPU's.

    Raises:
        UserError: there is no such backend, or it cannot work here (its name, the cause and the remedy).
    """
    if name == "auto":
        name = auto_backend(torch.device(resolve_device()))
    if name not in _instances:
        _instances[name] = _class_of(name)()
    return _instances[name]


_instances: dict[str, RasterBackend] = {}


def auto_backend(device: torch.device) -> str:
    """The name of the backend that "auto" stands for on a device; on a GPU that and the reason are logged once.

    Raises:
        UserError: none works there; it names every one and why.
    """
    if device.type != "cuda":
        return CpuBackend.name
    if device.index is None and not gpu_problem(device):
        device = nvrtc.with_index(device)
    return _auto_on_gpu(device)


@functools.cache
def _auto_on_gpu(device: torch.device) -> str:
    problems: dict[str, str] = {}
    for name in ON_GPU:
        problem = _problem(name, device)
        if not problem:
            _say(name, device, problems)
            return name
        problems[name] = problem
    raise UserError(f"No backend works on the device '{device}': {_in_words(problems)}; use --device cpu.")


def _problem(name: str, device: torch.device) -> str:
    """Why a backend does not work on a GPU, a clause without a full stop; "" if it does."""
    problem = gpu_problem(device)
    if problem or name == TorchBackend.name:
        return problem
    if name == CudaBackend.name:
        return _our_problem(device)
    try:
        get_backend(name)
    except UserError as error:
        return str(error).removesuffix(".")
    return ""


@functools.cache
def _our_problem(device: torch.device) -> str:
    """Why our kernels do not work on a GPU, "" if they do; where they do not, nothing uses them from now on."""
    verdict = self_test(device)
    if not verdict.passed:
        use_references(device, verdict.reason)
    return verdict.reason


def _say(name: str, device: torch.device, problems: dict[str, str]) -> None:
    """Log what was chosen, and why."""
    if problems:
        text = "Backend '%s' on %s, because of the others: %s; nfc-gs info --devices --retest tests ours again."
        _log.warning(text, name, device, _in_words(problems))
    else:
        gpu = torch.cuda.get_device_name(device)
        _log.info("Backend '%s' on %s: our own kernels, which passed their self-test on this %s.", name, device, gpu)


def _in_words(problems: dict[str, str]) -> str:
    """Backends and why they do not work; a reason that several have is given once."""
    names: dict[str, list[str]] = {}
    for name, problem in problems.items():
        names.setdefault(problem, []).append(f"'{name}'")
    return "; ".join(
        f"{', '.join(those[:-1])}{' and ' if those[1:] else ''}{those[-1]} ({problem})"
        for problem, those in names.items()
    )


def _class_of(name: str) -> type[RasterBackend]:
    if name not in BACKENDS:
        raise UserError(f"There is no backend '{name}'; choose one of {', '.join(BACKEND_NAMES)}.")
    return BACKENDS[name]
