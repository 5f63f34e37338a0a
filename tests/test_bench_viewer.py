"""tools/bench/bench.py viewer without a connection: pictures that were not sent."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace

import pytest
from tool_modules import load

from nfc_gs.viewer.session import SentPicture

measuring, viewer = load("bench/measuring"), load("bench/viewer")


class FakeClient:
    """A client for which five pictures are rendered while it moves and two when it rests."""

    def __init__(self, lost_moving: int = 0, lost_resting: int = 0) -> None:
        self.lost_moving, self.lost_resting = lost_moving, lost_resting
        self.rendered_from: deque[tuple[float, ...]] = deque()
        self.pictures: list[float] = []
        self.sent: dict[tuple[float, ...], float] = {}
        self.session = SimpleNamespace(
            moving_picture=SentPicture(64, 48), renderer=SimpleNamespace(frame_rate=SimpleNamespace(share=1.0))
        )

    def move(self, until: object) -> None:
        for place in range(5):
            self.sent[float(place),] = 10.0 * place
            self.rendered_from.append((float(place),))
        self.pictures += [10.0 * place + 0.5 for place in range(5 - self.lost_moving)]

    def wait_until_idle(self) -> None:
        self.rendered_from += [(4.0,)] * 2
        self.pictures += [99.0] * (2 - self.lost_resting)


@pytest.mark.parametrize(("moving", "resting", "delays"), [(0, 0, 5), (0, 1, 5), (0, 2, 5), (1, 0, 0)])
def test_a_picture_at_rest_that_was_not_sent_costs_no_round(moving: int, resting: int, delays: int) -> None:
    samples, found = measuring.Samples(), []
    viewer.measure_moving(FakeClient(moving, resting), 1.0, samples, found)
    assert found == [0.5] * delays
    assert len(samples.values["rate"]) == 1 and samples.median("width") == 64
