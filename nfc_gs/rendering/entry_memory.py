"""How much memory the backend `cuda` makes for entries, the pairs of a tile of the image and a splat.

Their number is known on the GPU in the middle of a rendering, and whoever reads it waits for the GPU. Where the caller
can repeat a rendering (`RasterSettings.may_be_incomplete`), the memory is made for as many as earlier renderings let
expect, and the number is read when it has long arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nfc_gs.core.constants import TILE_SIZE
from nfc_gs.core.errors import UserError
from nfc_gs.ops.nvrtc import Runtime

MAX_ENTRIES = 2**31 - TILE_SIZE * TILE_SIZE
"""Entries are counted in 32 bits, and raster.cu goes through those of a tile in steps of as many as a tile has pixels:
the last step, which ends beyond them, must not overflow."""

MARGIN = 1.2
"""Memory is made for so many times the entries that are expected: views differ, and Gaussians become larger. Estimated,
not measured: a repeated rendering costs a third of a step, this margin 1 % of each, for sorting what is not used."""

DECAY = 0.999
"""The most entries seen count for less with every rendering: a view is forgotten after some hundred others."""

LEAST_STEP = 2**12
"""Sizes are multiples of this and of a power of two, a sixteenth to an eighth of them: mostly the same as before."""


@dataclass(frozen=True)
class _Kind:
    """Renderings that have alike numbers of entries for each Gaussian: those of images of one size.

    Attributes:
        tiles: across and down.
    """

    device: torch.device
    tiles: tuple[int, int]


class EntryMemory:
    """What is known of the entries of earlier renderings that could be repeated.

    That is the most entries for each Gaussian: the number of Gaussians may change from one to the next.
    """

    def __init__(self) -> None:
        self._most: dict[_Kind, float] = {}

    def room(self, runtime: Runtime, entry_end: Tensor, tiles: tuple[int, int], *, guess: bool) -> EntryRoom:
        """The room for the entries of a rendering.

        Args:
            entry_end: [N] int64, on the runtime's device; the last one is the number of entries.
            tiles: of the image, across and down.
            guess: do not wait for this number, if there was a rendering of this size before.

        Raises:
            UserError: the number is waited for and more than `MAX_ENTRIES`.
        """
        kind, gaussians = _Kind(runtime.device, tiles), len(entry_end)
        if gaussians == 0:
            return EntryRoom(0, lambda: 0)
        arriving = runtime.read_later(entry_end[-1:])

        def arrived() -> int:
            entries = int(arriving())
            if guess:
                self._most[kind] = max(entries / gaussians, DECAY * self._most.get(kind, 0.0))
            return entries

        if guess and kind in self._most:
            return EntryRoom(min(rounded_up(MARGIN * self._most[kind] * gaussians), MAX_ENTRIES), arrived)
        room = EntryRoom(0, arrived)
        room.capacity = room.entries()
        return room


class EntryRoom:
    """Memory for the entries of one rendering.

    Attributes:
        capacity: for how many there is memory.
    """

    def __init__(self, capacity: int, arrived: Callable[[], int]) -> None:
        """`arrived` waits for the number of entries; it is called once."""
        self.capacity = capacity
        self._arrived = arrived
        self._entries: int | None = None

    def entries(self) -> int:
        """How many there are; waits until that is known.

        Raises:
            UserError: more than `MAX_ENTRIES`.
        """
        if self._entries is None:
            self._entries = self._arrived()
        if self._entries > MAX_ENTRIES:
            raise UserError(
                f"The splats cover {self._entries} tiles of the image in all, and the backend 'cuda' can draw "
                f"{MAX_ENTRIES}; draw a smaller image or fewer splats."
            )
        return self._entries

    def suffices(self) -> bool:
        """Whether there is memory for all of them. Waits and raises as `entries`."""
        return self.entries() <= self.capacity


def rounded_up(size: float) -> int:
    """The next size that memory is made in."""
    whole = int(size) + 1
    step = max(LEAST_STEP, 2 ** max(0, whole.bit_length() - 4))
    return -(-whole // step) * step
