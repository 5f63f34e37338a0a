"""Which device computes."""

from __future__ import annotations

from typing import Literal

import torch

from nfc_gs.core.errors import UserError


def resolve_device(device: str = "auto") -> Literal["cpu", "cuda"]:
    """The device that `device` ("auto", "cpu" or "cuda") means on this machine; auto takes a GPU if torch sees one.

    Raises:
        UserError: no such device, or a GPU is asked for and torch sees none.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu, or install a torch build with CUDA.")
    if device not in ("cpu", "cuda"):
        raise UserError(f"There is no device '{device}'; choose auto, cpu or cuda.")
    return "cuda" if device == "cuda" else "cpu"
