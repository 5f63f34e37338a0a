"""The only file that loads compiled code: the CPU core, built from `cuda/` as `nfc_gs._core`."""

from __future__ import annotations

import functools
import os
from types import ModuleType

import torch

from nfc_gs.core.errors import UserError

THREADS_VARIABLE = "NFC_GS_THREADS"
"""Environment variable with the number of threads of the CPU core; torch's own number if unset."""

_TORCH_THREADS = torch.get_num_threads()  # before training makes torch compute in one thread


@functools.lru_cache(maxsize=1)
def core() -> ModuleType:
    """The compiled module, with its thread count set.

    Raises:
        UserError: it was not built or does not load on this machine; or `NFC_GS_THREADS` is no number.
    """
    try:
        import nfc_gs._core as _core
    except ImportError as error:
        raise UserError(
            f"Backend 'cpu' is not available: its compiled part does not load ({error}); "
            "reinstall with 'pip install .' on a machine with a C++17 compiler."
        ) from None
    _core.set_threads(_wanted_threads())
    return _core


@functools.cache
def available() -> bool:
    """Whether the compiled core can be used here."""
    try:
        core()
    except UserError:
        return False
    return True


def set_threads(count: int) -> None:
    """Let the CPU core use `count` threads from now on; results do not depend on it."""
    core().set_threads(count)


def threads() -> int:
    """How many threads the CPU core uses."""
    return core().threads()


def _wanted_threads() -> int:
    text = os.environ.get(THREADS_VARIABLE, "").strip()
    if not text:
        return _TORCH_THREADS
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise UserError(f"{THREADS_VARIABLE} is '{text}'; set it to a number of threads from 1 to 1024, or unset it.")
    return int(text)
