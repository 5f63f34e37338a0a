"""What a session draws, sends and leaves, with a client that is none and a clock that the tests turn."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from test_viewer_drawing import CPU
from test_viewer_light import WINDOW, Clock, looking, many, until
from viewer_client import Sway

from nfc_gs.core.errors import UserError
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.viewer import session as sessions
from nfc_gs.viewer.draw import FAR, draw, prepared
from nfc_gs.viewer.panels import show
from nfc_gs.viewer.panels.show import draw_in_browser
from nfc_gs.viewer.scheduler import Scheduler
from nfc_gs.viewer.session import FLICKER, REST, Session
from nfc_gs.viewer.source import Source

TILES = 4
"""Tiles of the window where one is 32 pixels wide and high."""


def moving(count: int = 50) -> GaussianModel:
    """Gaussians that go to the side in the course of time."""
    splats = many(count)
    splats.deformation = Sway()
    return splats


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which sessions play."""
    found = Clock()
    monkeypatch.setattr(sessions, "perf_counter", found)
    return found


def rested(session: Session, scheduler: Scheduler, clock: Clock) -> None:
    """The camera has moved and rests; the next turn begins the picture at rest."""
    session.request()
    assert scheduler.run_due()
    clock.now += REST + 0.01


def asked(scheduler: Scheduler, question: Any) -> Any:
    """What is asked of a session from another thread, while this one draws."""
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(question()))
    asking.start()
    while asking.is_alive():
        scheduler.run_due()
    return answers[0]


# ---- how long and how well ----


def test_however_long_a_picture_takes_it_is_refined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "TILE", 32)
    session, scheduler, clock, pictures = looking(Source("many", many()))
    monkeypatch.setattr(sessions, "perf_counter", clock)
    rested(session, scheduler, clock)
    while scheduler.run_due():
        clock.now += 10.0
    assert len(pictures) == 3 and not np.array_equal(pictures[1], pictures[2])


def test_while_a_training_runs_a_picture_at_rest_is_whole_in_tiles_and_not_refined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "TILE", 32)
    session, scheduler, clock, pictures = looking(Source("many", many()))
    session.viewer.trains = True  # type: ignore[misc]
    scheduler.budget.share = 0.5
    rested(session, scheduler, clock)
    for _ in range(TILES):
        assert scheduler.run_due() and len(pictures) == 1
    while scheduler.run_due():
        pass
    assert len(pictures) == 2 and pictures[1].shape == (WINDOW[1], WINDOW[0], 3)


# ---- two in turn ----


def test_of_two_that_flicker_each_picture_at_rest_is_of_the_other_however_long_pictures_take() -> None:
    first, second = Source("first", many(50)), Source("second", many(60))
    session, scheduler, clock, pictures = looking(first, second)
    session.change(compare="flicker")
    assert scheduler.run_due()
    pictures.clear()
    for _ in range(6):
        clock.now += REST + FLICKER
        assert scheduler.run_due()
    one, other = (
        draw(source.snapshot().model, session.pose.camera(*WINDOW), session.look, CPU).rgb for source in (first, second)
    )
    if not np.array_equal(pictures[0], one):
        one, other = other, one
    assert len(pictures) == 6 and not np.array_equal(one, other)
    for index, picture in enumerate(pictures):
        np.testing.assert_array_equal(picture, other if index % 2 else one)


def test_of_two_that_flicker_both_are_seen_while_time_runs(clock: Clock) -> None:
    session, scheduler, own, _ = looking(Source("first", moving()), Source("second", many(60)))
    session.change(compare="flicker", speed=1e-9)
    session.play(True)
    seen = []
    for _ in range(40):
        assert scheduler.run_due()
        seen.append(session.others_turn)
        own.now, clock.now = own.now + 0.1, clock.now + 0.1
    assert 4 <= sum(a != b for a, b in pairwise(seen)) <= 4.0 / FLICKER


# ---- depth ----


def test_depth_is_sent_while_things_are_in_the_scene_and_is_that_of_what_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "DEPTH_SIDE", 32)
    source = Source("many", many())
    session, scheduler, clock, _ = looking(source)
    depths: list[np.ndarray | None] = []
    session.client.scene.set_background_image = lambda *_, depth, **__: depths.append(depth)
    for kind, shown in (("frustums", True), ("path", True), ("frustums", False), ("path", False)):
        session.put_in_scene(kind, shown)
        assert scheduler.run_due()
    assert [depth is None for depth in depths] == [False, False, False, True]
    session.put_in_scene("crop", True)
    while scheduler.run_due():
        clock.now += REST + 0.01
    expected = draw(source.snapshot().model, session.pose.camera(*WINDOW), session.look, CPU).depth
    assert expected is not None and 0.1 < (expected < FAR).mean() < 0.95
    np.testing.assert_array_equal(depths[-2], expected[::2, ::2])  # at rest, before it is refined


# ---- the browser draws ----


def test_pictures_end_when_the_browser_draws_though_time_ran(clock: Clock) -> None:
    session, scheduler, own, pictures = looking(Source("moving", moving()))
    session.play(True)
    for _ in range(3):
        own.now += 0.1
        assert scheduler.run_due()
    assert len(pictures) == 3
    session.browser = True  # while a picture is drawn, as it were: its successor is wished for already
    for _ in range(5):
        own.now += 1.0
        scheduler.run_due()
    assert len(pictures) == 3 and scheduler.wait_time() is None and not scheduler._last_served


def test_tiles_are_dropped_when_the_browser_draws_and_drawn_again_when_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "TILE", 32)
    session, scheduler, clock, pictures = looking(Source("many", many()))
    rested(session, scheduler, clock)
    assert scheduler.run_due() and len(pictures) == 1
    served = scheduler.served
    asked(scheduler, lambda: draw_in_browser(session, True))
    while scheduler.run_due():
        pass
    assert scheduler.served == served + 1, "only the removal of the picture had its turn"
    assert len(pictures) == 2 and pictures[1] is None
    draw_in_browser(session, False)
    assert scheduler.run_due() and pictures[2] is not None


@pytest.mark.parametrize("leave", [Session.close, lambda session: setattr(session, "browser", True)])
def test_a_picture_that_ends_when_nobody_wants_it_any_more_is_not_sent_and_leaves_nothing(leave: Any) -> None:
    session, scheduler, clock, pictures = looking(Source("many", many()))
    picture = session._picture

    def late(*args: Any, **options: Any) -> Any:
        drawn = yield from picture(*args, **options)
        leave(session)
        return drawn

    session._picture = late  # type: ignore[method-assign]
    session.request()
    while scheduler.run_due():
        clock.now += 1.0
    assert pictures == [] and not session._cache
    assert not scheduler._last_served and scheduler.wait_time() is None


def handing(session: Session) -> list[str]:
    """The names of what is in the browser's scene from now on."""
    names: list[str] = []
    session.client.scene.add_gaussian_splats = lambda name, *_: names.append(name)
    session.client.scene.remove_by_name = lambda name: names.remove(name) if name in names else None
    return names


@pytest.mark.parametrize("again", [False, True])
def test_splats_that_are_unwished_while_they_are_made_do_not_come(monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    session, scheduler, _, pictures = looking(Source("many", many()))
    names, makes, others = handing(session), show.browser_splats, []

    def slow(_: Session) -> Any:
        monkeypatch.setattr(show, "browser_splats", makes)
        for on in (False, True) if again else (False,):
            others.append(threading.Thread(target=draw_in_browser, args=(session, on)))
            others[-1].start()
            until(lambda on=on: session.browser is on)
        return makes(session)

    monkeypatch.setattr(show, "browser_splats", slow)
    asked(scheduler, lambda: (draw_in_browser(session, True), [other.join() for other in others]))
    while scheduler.run_due():
        pass
    assert session.browser is again and set(names) == ({"/splats"} if again else set())
    assert pictures and (pictures[-1] is None) is again


def test_where_splats_cannot_be_made_the_server_draws_on(monkeypatch: pytest.MonkeyPatch) -> None:
    session, scheduler, _, pictures = looking(Source("many", many()))
    names = handing(session)

    def fails(_: Session) -> Any:
        raise UserError("too many")

    monkeypatch.setattr(show, "browser_splats", fails)
    with pytest.raises(UserError, match="too many"):
        draw_in_browser(session, True)
    assert not session.browser and names == []
    assert scheduler.run_due() and pictures[0] is not None


def test_time_does_not_run_where_the_browser_draws() -> None:
    session, scheduler, _, _ = looking(Source("moving", moving()))
    session.play(True)
    asked(scheduler, lambda: draw_in_browser(session, True))
    assert not session.playing
    with pytest.raises(Exception, match=r"one moment"):
        session.play(True)
    assert not session.playing


# ---- time ----


def test_time_goes_on_from_where_it_is_when_loop_or_speed_change(clock: Clock) -> None:
    session, _, _, _ = looking(Source("moving", moving()))
    session.speed = 0.5
    session.play(True)
    for _ in range(25):  # two and a half rounds
        clock.now += 0.2
        session._advance()
    assert session.time == pytest.approx(0.5)
    session.loop = False
    session.speed = 1.0
    clock.now += 0.25
    session._advance()
    assert session.playing and session.time == pytest.approx(0.75)
    clock.now += 0.5
    session._advance()
    assert not session.playing and session.time == 1.0
    session.play(True)
    assert session.time == 0.0


def test_a_time_that_is_chosen_while_it_runs_is_where_it_goes_on(clock: Clock) -> None:
    session, _, _, _ = looking(Source("moving", moving()))
    session.play(True)
    clock.now += 1.0
    session._advance()
    session.change(time=0.6)
    clock.now += 1.0
    session._advance()
    assert session.time == pytest.approx(0.6 + session.speed)


# ---- videos ----


def test_a_video_is_of_what_was_looked_at_when_it_was_asked_for() -> None:
    source = Source("moving", moving())
    session, scheduler, _, _ = looking(source)
    session.time = 0.5
    before, look, camera = source.snapshot().model, session.look, session.pose.camera(*WINDOW)
    shot = session.shots()
    session.change(background=(1.0, 1.0, 1.0), splat_scale=0.3, time=0.9)
    source.show(moving(20), step=None)
    session.source = Source("another", many(30))
    for time, moment in ((None, 0.5), (0.25, 0.25)):
        drawn = asked(scheduler, lambda time=time: shot(camera, time))
        np.testing.assert_array_equal(drawn, draw(prepared(before, moment, look), camera, look, CPU).rgb)
