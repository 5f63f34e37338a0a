"""The viewer's frame rate and its scheduler, with a clock that the tests set."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Generator, Iterator
from itertools import pairwise

import numpy as np
import pytest

from nfc_gs.core.errors import UserError
from nfc_gs.viewer.frame_rate import MIN_GAUSSIANS, MIN_SCALE, FrameRate
from nfc_gs.viewer.scheduler import Scheduler

WINDOW = (1280, 720)


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# ---- how large a picture is ----


def drawn(
    control: FrameRate, scene: float, pixel: float, pictures: int = 60, gaussians: int = 0, noise: float = 0.0
) -> list[float]:
    """Seconds of pictures of a renderer, which the frame rate measures.

    Args:
        scene, pixel: seconds that all Gaussians take, and each pixel.
        noise: deviation of the times, as a part of them.
    """
    random, spent = np.random.default_rng(0), []
    for _ in range(pictures):
        width, height = control.size(*WINDOW)
        seconds = scene * control.share + pixel * width * height
        spent.append(seconds * max(0.3, 1.0 + noise * random.standard_normal()))
        control.measured(width * height, spent[-1], gaussians)
    return spent


@pytest.mark.parametrize("pixel", [2e-7, 5e-7, 1e-6])
@pytest.mark.parametrize("scene", [0.0, 0.005])
def test_the_size_is_the_largest_that_holds_the_frame_rate(scene: float, pixel: float) -> None:
    control = FrameRate(20)
    assert drawn(control, scene, pixel)[-1] <= 1 / 20 * 1.02
    width, _ = control.size(*WINDOW)
    wider = width + round(0.1 * WINDOW[0])
    assert scene + pixel * wider * wider * 9 / 16 > 1 / 20


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("pixel", [2e-8, 8e-8])
@pytest.mark.parametrize("scene", [0.15, 0.5, 1.2])
def test_of_a_large_scene_fewer_gaussians_are_drawn_from_the_second_picture_on(
    scene: float, pixel: float, noise: float
) -> None:
    control = FrameRate(20)
    seconds = drawn(control, scene, pixel, 200, 2_000_000, noise)
    assert seconds[0] > 0.1 and max(seconds[2:]) < 0.14 and np.median(seconds[20:]) < 0.06
    assert control.share < 1.0 and control.size(*WINDOW)[0] > 0.3 * WINDOW[0]


def test_of_a_small_scene_all_gaussians_are_drawn_however_slow_the_machine() -> None:
    control = FrameRate(20)
    drawn(control, 0.4, 1e-6, gaussians=MIN_GAUSSIANS)
    assert control.share == 1.0
    drawn(control, 0.4, 1e-6, gaussians=5 * MIN_GAUSSIANS)
    assert control.share == 1 / 4


def test_all_gaussians_are_drawn_again_once_they_take_less_time() -> None:
    control = FrameRate(20)
    drawn(control, 0.4, 5e-8, gaussians=2_000_000)
    assert control.share < 0.2
    drawn(control, 0.01, 5e-8, 400, gaussians=2_000_000)
    assert control.share == 1.0 and control.size(*WINDOW)[0] > 0.6 * WINDOW[0]


def test_more_gaussians_are_tried_ever_more_rarely_if_it_was_too_much() -> None:
    control, changes = FrameRate(20), []
    for _ in range(4):
        shares = []
        for _ in range(500):
            drawn(control, 0.5, 2e-8, 1, 2_000_000)
            shares.append(control.share)
        changes.append(sum(a != b for a, b in pairwise(shares)))
    assert changes[0] >= 6 > 2 >= changes[-1]


def test_a_fast_renderer_draws_the_whole_window() -> None:
    control = FrameRate(60)
    drawn(control, 0.001, 1e-9)
    assert control.size(*WINDOW) == WINDOW


def test_where_the_scene_alone_is_too_slow_the_picture_does_not_become_tiny() -> None:
    control = FrameRate(20)
    assert drawn(control, 0.2, 2e-7)[-1] < 0.2 * 1.6
    assert control.size(*WINDOW)[0] > 2 * MIN_SCALE * WINDOW[0]


def test_the_size_follows_a_renderer_that_becomes_slower() -> None:
    control = FrameRate(20)
    drawn(control, 0.0, 2e-8)
    assert drawn(control, 0.0, 4e-7)[-1] <= 0.052


def test_one_slow_picture_changes_little() -> None:
    control = FrameRate(20)
    drawn(control, 0.0, 1e-7, gaussians=2_000_000)
    before = control.size(*WINDOW)
    control.measured(before[0] * before[1], 30.0, 2_000_000)
    assert control.size(*WINDOW)[0] >= 0.6 * before[0] and control.share == 1.0


def test_nonsense_is_not_measured_and_no_window_has_a_size_of_nothing() -> None:
    control = FrameRate(20)
    for pixels, seconds in ((0, 1.0), (100, 0.0), (100, float("nan")), (100, float("inf"))):
        control.measured(pixels, seconds)
    assert control.cost() == (0.0, 0.0)
    assert control.size(1, 1) == (1, 1)


# ---- which client is drawn for ----


def scheduler() -> tuple[Scheduler, Clock, list[str]]:
    clock = Clock()
    return Scheduler(clock), clock, []


def test_the_newest_request_of_a_client_replaces_the_one_before() -> None:
    work, _, done = scheduler()
    for name in "abc":
        work.submit(1, lambda name=name: done.append(name))
    while work.run_due():
        pass
    assert done == ["c"]


def test_clients_have_their_turns_however_much_one_of_them_requests() -> None:
    work, _, done = scheduler()

    def request(client: int) -> None:
        done.append(str(client))
        work.submit(client, lambda: request(client))

    for client in (1, 2, 3):
        work.submit(client, lambda client=client: request(client))
    for _ in range(9):
        work.submit(1, lambda: request(1))
        work.run_due()
    assert "".join(done) == "123123123"


def test_a_request_for_later_waits_and_a_newer_one_replaces_it() -> None:
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
    work.budget.share = 0.25

    def job() -> None:
        clock.now += 0.1
        done.append("x")

    started = clock.now
    for _ in range(10):
        work.submit(1, job)
        while not work.run_due():
            wait = work.wait_time()
            assert wait is not None and wait > 0
            clock.now += wait
    assert len(done) * 0.1 / (clock.now - started) == pytest.approx(0.25, rel=0.12)  # the last rest is not waited for


def test_time_that_nothing_else_needs_is_not_counted() -> None:
    work, clock, done = scheduler()
    work.budget.share, work.budget.unlimited = 0.1, True

    def job() -> None:
        clock.now += 0.1
        done.append("x")

    for _ in range(3):
        work.submit(1, job)
        assert work.run_due()
    work.budget.unlimited = False
    work.submit(1, job)
    assert work.run_due(), "what was drawn in a pause is not paid for after it"
    work.submit(1, job)
    assert not work.run_due() and work.wait_time() == pytest.approx(0.9)


def test_a_new_client_comes_after_those_that_wait() -> None:
    work, _, done = scheduler()

    frames: list[int] = []

    def request(client: str) -> None:
        done.append(client)
        work.submit(client, lambda: request(client))

    for client in "ab":
        work.submit(client, lambda client=client: request(client))
    for turn in range(12):
        if done.count("-") == len(frames):
            frames.append(turn)  # the next picture of a video, which is requested when the last one is there
            work.submit(("video", turn), lambda: done.append("-"))
        work.run_due()
        for frame in frames[:-1]:
            work.forget(("video", frame))
    assert [done.count(client) for client in "ab-"] == [4, 4, 4]


def test_long_work_takes_turns_with_the_others() -> None:
    work, _, done = scheduler()

    def request(client: int) -> None:
        done.append(str(client))
        work.submit(client, lambda: request(client))

    work.submit_steps("large", (done.append("-") for _ in range(3)))
    for client in (1, 2):
        work.submit(client, lambda client=client: request(client))
    for _ in range(12):
        work.run_due()
    assert "".join(done[:9]) == "-12-12-12" and "-" not in done[9:]


def test_a_newer_request_replaces_what_is_left_of_long_work() -> None:
    work, _, done = scheduler()
    work.submit_steps(1, (done.append("-") for _ in range(3)))
    work.run_due()
    work.submit(1, lambda: done.append("new"))
    while work.run_due():
        pass
    assert done == ["-", "new"] and work.wait_time() is None


def test_long_work_of_a_client_that_goes_ends() -> None:
    work, _, done = scheduler()

    def steps() -> Iterator[None]:
        for _ in range(3):
            done.append("-")
            work.forget(1)  # while it is drawn
            yield

    work.submit_steps(1, steps())
    while work.run_due():
        pass
    assert done == ["-"]


def test_a_result_is_waited_for_and_nothing_of_it_is_kept() -> None:
    class Client:
        """What only weak references to it show to be forgotten."""

    work, client = Scheduler(), Client()
    work.start()

    def adds(broken: bool) -> Generator[None, None, int]:
        yield
        if broken:
            raise ValueError("no picture")
        return 3

    assert work.result(client, adds(False), lambda: False) == 3
    with pytest.raises(ValueError, match="no picture"):
        work.result(client, adds(True), lambda: False)
    work.close()
    with pytest.raises(UserError, match="closed"):
        work.result(client, adds(False), lambda: True)
    kept = weakref.ref(client)
    del client
    gc.collect()
    assert kept() is None


def test_a_job_that_raises_is_logged_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
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
