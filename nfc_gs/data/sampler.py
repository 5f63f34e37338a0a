"""The order in which training visits the views, and which held-out views are measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Window = tuple[float, float]
"""The first and the last time of the views that are sampled, 0..1."""


MEASURED_WHILE_TRAINING, MEASURED_AT_THE_END = 100, 500
"""Most held-out views that are measured; the usual benchmarks have at most 300. Of more a random sample is measured,
which is the same in every run."""


def measured_views(count: int, most: int | None) -> list[int]:
    """Which of `count` held-out views are measured, in their order: all, or `most` at random.

    The choice depends on the two numbers alone. A smaller sample is a part of a larger one.
    """
    if most is None or count <= most:
        return list(range(count))
    return sorted(np.random.default_rng(0).permutation(count)[:most].tolist())


class ViewSampler:
    """Every view once per epoch, in an order that depends on nothing but (seed, epoch).

    It keeps no state: a resumed run needs only the number of its step to sample the same views as without a break.

    Args:
        train: indices of the views to visit; at least one.
        seed: any integer.
        times: of these views, 0..1; needed for `window`.
    """

    def __init__(self, train: Sequence[int], seed: int, times: Sequence[float] = ()) -> None:
        assert len(train) > 0, "no views to sample"
        self._train = np.array(train, dtype=np.int64)
        self._seed = seed % 2**63
        self._order = (-1, self._train)  # (epoch, its permutation): one assignment, so threads may share a sampler
        in_time = np.argsort(times, kind="stable")
        self._times, self._in_time = np.array(times, dtype=np.float64)[in_time], self._train[in_time]

    def index(self, step: int, window: Window | None = None) -> int:
        """The view to train on at `step`, counted from 0.

        Args:
            window: sample a view of these times at random (independently at each step); at least one lies in it.
        """
        if window is not None:
            first, last = np.searchsorted(self._times, window[0]), np.searchsorted(self._times, window[1], side="right")
            return int(self._in_time[np.random.default_rng([self._seed, step]).integers(first, last)])
        epoch, position = divmod(step, len(self._train))
        cached, order = self._order
        if cached != epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(self._train)
            self._order = (epoch, order)
        return int(order[position])

    def upcoming(self, step: int, count: int, window: Window | None = None) -> list[int]:
        """The views of `step`, `step + 1`, ... `step + count - 1`, without repeats, soonest first."""
        return list(dict.fromkeys(self.index(s, window) for s in range(step, step + count)))
