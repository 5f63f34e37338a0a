"""How many threads torch computes in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch compute in one thread.

    Its sums depend on how many there are, the compiled core's do not; and on a busy machine several wait for each other
    in every small operation.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
