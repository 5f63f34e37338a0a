"""The viewer's frame-rate controller and its scheduler, with a clock that the tests turn."""

from __future__ import annotations

import logging
import threading

import pytest

from nfc_gs.viewer.controller import MIN_SCALE, FrameRate
from nfc_gs.viewer.scheduler import Scheduler

WINDOW = (1280, 720)


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# ---- how large a picture is ----


def settled(fixed: float, slope: float, fps: float, frames: int = 60) -> tuple[FrameRate, float]:
    """A controller after some pictures of a renderer, and the seconds that its next one takes."""
    control = FrameRate(fps)
    for _ in range(frames):
        width, height = control.size(*WINDOW)
        control.measured(width * height, fixed + slope * width * height)
    width, height = control.size(*WINDOW)
    return control, fixed + slope * width * height


@pytest.mark.parametrize("slope", [2e-7, 5e-7, 1e-6])
@pytest.mark.parametrize("fixed", [0.0, 0.005])
def test_the_size_is_the_largest_that_holds_the_frame_rate(fixed: float, slope: float) -> None:
    control, seconds = settled(fixed, slope, fps=20)
    assert seconds <= 1 / 20 * 1.02
    width, _ = control.size(*WINDOW)
    wider = width + round(0.1 * WINDOW[0])
    assert fixed + slope * wider * wider * 9 / 16 > 1 / 20


def test_a_fast_renderer_draws_the_whole_window() -> None:
    control, _ = settled(0.001, 1e-9, fps=60)
    assert control.size(*WINDOW) == WINDOW


def test_where_the_scene_alone_is_too_slow_the_picture_does_not_become_a_blot() -> None:
    control, seconds = settled(0.2, 2e-7, fps=20)
    assert control.size(*WINDOW)[0] > 2 * MIN_SCALE * WINDOW[0]
    assert seconds < 0.2 * 1.6


def test_the_size_follows_a_renderer_that_becomes_slower() -> None:
    control, _ = settled(0.0, 2e-8, fps=20)
    for _ in range(60):
        width, height = control.size(*WINDOW)
        control.measured(width * height, 4e-7 * width * height)
    width, height = control.size(*WINDOW)
    assert 4e-7 * width * height <= 0.052


def test_one_slow_picture_changes_little() -> None:
    control, _ = settled(0.0, 1e-7, fps=20)
    before = control.size(*WINDOW)
    control.measured(before[0] * before[1], 30.0)
    assert control.size(*WINDOW)[0] >= 0.6 * before[0]


def test_nonsense_is_not_measured_and_no_window_has_a_size_of_nothing() -> None:
    control = FrameRate(20)
    for pixels, seconds in ((0, 1.0), (100, 0.0), (100, float("nan")), (100, float("inf"))):
        control.measured(pixels, seconds)
    assert control.cost() == (0.0, 0.0)
    assert control.size(1, 1) == (1, 1)


# ---- who is drawn for ----


def scheduler() -> tuple[Scheduler, Clock, list[str]]:
    clock = Clock()
    return Scheduler(clock), clock, []


def test_the_newest_wish_of_a_client_takes_the_place_of_the_one_before() -> None:
    work, _, done = scheduler()
    for name in "abc":
        work.submit(1, lambda name=name: done.append(name))
    while work.run_due():
        pass
    assert done == ["c"] and work.dropped == 2


def test_clients_are_served_in_turn_however_much_one_of_them_wants() -> None:
    work, _, done = scheduler()

    def wish(client: int) -> None:
        done.append(str(client))
        work.submit(client, lambda: wish(client))

    for client in (1, 2, 3):
        work.submit(client, lambda client=client: wish(client))
    for _ in range(9):
        work.submit(1, lambda: wish(1))
        work.run_due()
    assert "".join(done) == "123123123"


def test_a_wish_for_later_waits_and_a_newer_one_takes_its_place() -> None:
    work, clock, done = scheduler()
    work.submit(1, lambda: done.append("rest"), delay=0.2)
    assert not work.run_due() and work.wait_time() == pytest.approx(0.2)
    clock.now += 0.1
    work.submit(1, lambda: done.append("move"))
    work.submit(1, lambda: done.append("not this"), replace=False)
    assert work.run_due() and done == ["move"]
    clock.now += 1.0
    assert not work.run_due() and done == ["move"]


def test_jobs_take_no_more_than_their_share_of_the_time() -> None:
    work, clock, done = scheduler()
    work.share = 0.25

    def job() -> None:
        clock.now += 0.1
        done.append("x")

    begun = clock.now
    for _ in range(10):
        work.submit(1, job)
        while not work.run_due():
            wait = work.wait_time()
            assert wait is not None and wait > 0
            clock.now += wait
    assert len(done) * 0.1 / (clock.now - begun) == pytest.approx(0.25, rel=0.12)  # the last rest is not waited for


def test_a_job_that_raises_is_told_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    work, _, done = scheduler()

    def broken() -> None:
        raise ValueError("no picture")

    work.submit(1, broken)
    work.submit(2, lambda: done.append("fine"))
    with caplog.at_level(logging.ERROR):
        while work.run_due():
            pass
    assert done == ["fine"] and "no picture" in caplog.text


def test_a_client_that_has_gone_is_not_drawn_for() -> None:
    work, _, done = scheduler()
    work.submit(1, lambda: done.append("gone"))
    work.forget(1)
    assert not work.run_due() and work.wait_time() is None


def test_the_thread_works_and_ends() -> None:
    work, ran = Scheduler(), threading.Event()
    before = threading.active_count()
    work.start()
    work.submit(1, ran.set)
    assert ran.wait(5.0)
    work.close()
    work.submit(1, lambda: pytest.fail("closed"))
    assert threading.active_count() == before
