"""Which device computes, and whether torch can compute on it."""

from __future__ import annotations

import functools
import logging
import os
import re
from typing import Any

import torch

from nfc_gs.core.errors import UserError
from nfc_gs.core.text import in_one_line

_log = logging.getLogger("nfc_gs")

_CUDA_ERRORS = (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError)
"""What torch raises where CUDA does not start or a GPU does not compute; the last one is none of its RuntimeErrors."""


def resolve_device(device: str = "auto") -> str:
    """The device that `device` ("auto", "cpu", "cuda" or "cuda:N") means on this machine: "cpu", "cuda" or "cuda:N".

    "cuda" is torch's current GPU, the first one unless `torch.cuda.set_device` says otherwise. "auto" takes that if
    torch can compute on it. Where torch sees one and cannot compute on it, that is logged once and "auto" is the CPU.

    Raises:
        UserError: there is no such device, or a GPU is asked for and torch cannot compute on it.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    gpu = "cuda" if device == "auto" else visible_gpu(device)
    problem = gpu_problem(gpu)
    if problem and device != "auto":
        raise UserError(f"--device {device}: {problem}; use --device cpu, or install a torch build for this GPU.")
    if problem:
        _log_once(f"Computing on the CPU, because {problem}.")
    return "cpu" if problem else gpu


def visible_gpu(device: str) -> str:
    """`device` ("cuda" or "cuda:N"), if torch sees such a GPU, whether or not it can compute on it.

    Raises:
        UserError: it sees none, or the name is of another kind.
    """
    match = re.fullmatch(r"cuda(?::(\d{1,4}))?", str(device))
    if match is None:
        raise UserError(f"There is no device '{device}'; choose auto, cpu, cuda or cuda:N with the number of a GPU.")
    if not torch.cuda.is_available():
        raise UserError(
            f"--device {device}: {_NO_GPU}{_visible()}; use --device cpu, or install a torch build with CUDA."
        )
    count = torch.cuda.device_count()
    if match[1] is not None and int(match[1]) >= count:
        seen = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise UserError(f"--device {device}: torch sees {seen}{_visible()}; choose one of these.")
    return "cuda" if match[1] is None else f"cuda:{int(match[1])}"


_NO_GPU = "torch sees no GPU here"


def _visible() -> str:
    """What restricts the GPUs that torch sees, in parentheses."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if value is None else f" (CUDA_VISIBLE_DEVICES is '{in_one_line(value, 80)}')"


def gpu_count() -> int:
    """How many GPUs torch sees: none where CUDA does not start, even if the driver counts some."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpu_properties(index: int) -> Any | None:
    """What torch knows of a GPU (`name`, `major`, `minor`, `total_memory` in bytes); None where it cannot say."""
    try:
        return torch.cuda.get_device_properties(index)
    except _CUDA_ERRORS:
        return None


def free_gpu_memory(device: torch.device | str) -> int | None:
    """Bytes that torch can still use on a GPU: the free ones and those that it keeps; None where not known."""
    try:
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    except _CUDA_ERRORS:
        return None


def gpu_problem(device: torch.device | str) -> str:
    """Why torch cannot compute on a GPU, a clause without a full stop; "" if it can."""
    if not torch.cuda.is_available():
        return _NO_GPU + _visible()
    index = torch.device(device).index
    return _start_problem() or _trial_problem(torch.cuda.current_device() if index is None else index)


@functools.cache
def _start_problem() -> str:
    """Why torch's CUDA does not start, "" if it does."""
    try:
        torch.cuda.init()
    except _CUDA_ERRORS as error:
        return f"torch sees a GPU but cannot use it ({_reason(error)})"
    return ""


@functools.cache
def _trial_problem(index: int) -> str:
    """Why a small computation on a GPU fails, "" if it does not."""
    try:
        found = torch.cuda.get_device_properties(index)
        capability, oldest = 10 * found.major + found.minor, _oldest_architecture()
        if capability < oldest:
            return (
                f"the GPU {index} ({found.name}) has compute capability {_dotted(capability)}, and torch "
                f"{torch.__version__} is built for {_dotted(oldest)} and newer"
            )
        values = torch.arange(4.0, device=torch.device("cuda", index))
        total = float((2 * values).sum())
    except _CUDA_ERRORS as error:  # no kernel for this GPU, no memory, a driver too old
        return f"torch sees the GPU {index} but cannot compute on it ({_reason(error)})"
    return "" if total == 12.0 else f"torch sees the GPU {index} but it computes 2 * (1 + 2 + 3) = {total:g}"


def _reason(error: BaseException) -> str:
    """What an error of torch says; below its first line is where to read on, or a traceback."""
    return in_one_line(str(error).strip().partition("\n")[0].rstrip("."))


def _oldest_architecture() -> int:
    """The smallest compute capability that this build of torch has machine code for, 10 * major + minor."""
    numbers = [re.match(r"sm_(\d+)", name) for name in torch.cuda.get_arch_list()]
    return min((int(match[1]) for match in numbers if match), default=0)


def _dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"


@functools.cache
def _log_once(text: str) -> None:
    _log.warning("%s", text)
