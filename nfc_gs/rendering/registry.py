"""Which rasterizer backend is used on which device."""

from __future__ import annotations

from typing import Literal

from nfc_gs.core.errors import UserError
from nfc_gs.ops.device import resolve_device
from nfc_gs.rendering.backend import BACKEND_NAMES, auto_backend, get_backend

__all__ = ["choose_device_and_backend", "get_backend"]


def backend_for(name: str, device: str) -> str:
    if name not in BACKEND_NAMES:
        raise UserError(f"There is no backend '{name}'; choose one of {', '.join(BACKEND_NAMES)}.")
    if name == "auto":
        return "cpu" if device == "cpu" else auto_backend()
    if (name, device) in (("cpu", "cuda"), ("gsplat", "cpu"), ("cuda", "cpu")):
        raise UserError(f"The backend '{name}' does not work on the device '{device}'; leave out one of the two.")
    return name


def choose_device_and_backend(device: str = "auto", backend: str = "auto") -> tuple[Literal["cpu", "cuda"], str]:
    """The device and the backend that these names mean on this machine.

    Raises:
        UserError: there is no such device or backend, or the two do not work together.
    """
    chosen = resolve_device("cpu" if (device, backend) == ("auto", "cpu") else device)
    return chosen, backend_for(backend, chosen)
