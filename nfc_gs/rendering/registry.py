"""The rasterizer backends there are, by name.

To add one, write a subclass of `RasterBackend` in a file of its own and list it in `BACKENDS`.
"""

from __future__ import annotations

from typing import Literal

import torch

from nfc_gs.core.errors import UserError
from nfc_gs.ops.device import resolve_device
from nfc_gs.rendering.backend import RasterBackend
from nfc_gs.rendering.cpu_backend import CpuBackend
from nfc_gs.rendering.cuda_backend import CudaBackend
from nfc_gs.rendering.gsplat_backend import GsplatBackend
from nfc_gs.rendering.torch_backend import TorchBackend

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

AUTO = {"cpu": CpuBackend.name, "cuda": GsplatBackend.name}
"""The backend that "auto" stands for, by the type of the device."""

BACKEND_NAMES = ("auto", *BACKENDS)
"""All names that `get_backend` and `backend_for` take."""

BACKEND_HELP = f"auto ({' or '.join(AUTO.values())}), " + ", ".join(
    f"{name} ({backend.summary}; {' or '.join(backend.devices)})" for name, backend in BACKENDS.items()
)
"""The names and what they are, as a part of a sentence for help texts."""


def backend_for(name: str, device: str) -> str:
    """The backend that `name` stands for on a device, "cpu" or "cuda".

    Raises:
        UserError: there is no such backend, or it does not take tensors of that device.
    """
    if name == "auto":
        return AUTO[device]
    if device not in _class_of(name).devices:
        raise UserError(f"The backend '{name}' does not work on the device '{device}'; leave out one of the two.")
    return name


def choose_device_and_backend(device: str = "auto", backend: str = "auto") -> tuple[Literal["cpu", "cuda"], str]:
    """The device and the backend that these names stand for on this machine.

    Raises:
        UserError: there is no such device or backend, or the two do not work together.
    """
    only = () if backend == "auto" else _class_of(backend).devices
    chosen = resolve_device("cpu" if device == "auto" and only == ("cpu",) else device)
    return chosen, backend_for(backend, chosen)


def get_backend(name: str = "auto") -> RasterBackend:
    """The backend of that name, ready to render; "auto" for the GPU's if torch sees one, else the CPU's.

    Raises:
        UserError: there is no such backend, or it cannot work here (its name, the cause and the remedy).
    """
    if name == "auto":
        name = AUTO["cuda" if torch.cuda.is_available() else "cpu"]
    if name not in _instances:
        _instances[name] = _class_of(name)()
    return _instances[name]


_instances: dict[str, RasterBackend] = {}


def _class_of(name: str) -> type[RasterBackend]:
    if name not in BACKENDS:
        raise UserError(f"There is no backend '{name}'; choose one of {', '.join(BACKEND_NAMES)}.")
    return BACKENDS[name]
