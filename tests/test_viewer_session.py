"""What a session draws, sends and leaves, with a client that is none and a clock that the tests set."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from viewer_client import Sway, until, watch_models
from viewer_models import CPU, many
from viewer_sessions import WINDOW, Clock, is_forgotten, looking, use_tiles

from nfc_gs.core.camera import look_at
from nfc_gs.core.errors import UserError
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.viewer import session as sessions
from nfc_gs.viewer.draw import FAR, draw, prepared
from nfc_gs.viewer.panels import browser
from nfc_gs.viewer.panels.browser import BrowserPanel
from nfc_gs.viewer.panels.status import StatusPanel
from nfc_gs.viewer.renderer import Quality
from nfc_gs.viewer.scheduler import Scheduler, run_to_end
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


def called(scheduler: Scheduler, function: Any) -> Any:
    """What a function returns that is called in another thread, while this one draws."""
    results: list[Any] = []
    caller = threading.Thread(target=lambda: results.append(function()))
    caller.start()
    while caller.is_alive():
        scheduler.run_due()
    return results[0]


# ---- parts of pictures ----


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("split", [0.5, 0.213])
def test_the_halves_of_a_comparison_are_those_of_the_whole_pictures_bit_for_bit(split: float, samples: int) -> None:
    models = [many(), many(300)]
    with torch.no_grad():
        models[0].log_scales += 1.5  # as wide as the picture
        models[1].log_scales += 1.0
    session, _, _, _ = looking(*(Source(name, splats) for name, splats in zip("ab", models, strict=True)))
    session.update(compare="split", split=split)
    camera = look_at((0.0, 0.0, -3.0), (0.0, -1.4, -1.0), (0.0, -1.0, 0.0), width=331, height=97, fov=75)  # up by 35
    picture = run_to_end(session.renderer.render_sources(session.state, camera, Quality(samples=samples, tile=70)))
    left, right = (draw(splats, camera, session.state, CPU, samples=samples) for splats in models)
    border = round(split * 331)
    np.testing.assert_array_equal(picture.rgb[:, : border - 1], left.rgb[:, : border - 1])
    np.testing.assert_array_equal(picture.rgb[:, border + 1 :], right.rgb[:, border + 1 :])
    assert (picture.rgb[:, border - 1 : border + 1] == 255).all(), "a white line between them"
    assert left.depth is not None and right.depth is not None
    depth = run_to_end(
        session.renderer.render_sources(session.state, camera, Quality(samples=samples), depth=True)
    ).depth
    np.testing.assert_array_equal(depth, np.concatenate([left.depth[:, :border], right.depth[:, border:]], axis=1))


# ---- how long and how well ----


def test_however_long_a_picture_takes_it_is_refined(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiles(monkeypatch, 32)
    session, scheduler, clock, pictures = looking(Source("many", many()))
    monkeypatch.setattr(sessions, "perf_counter", clock)
    rested(session, scheduler, clock)
    while scheduler.run_due():
        clock.now += 10.0
    assert len(pictures) == 3 and not np.array_equal(pictures[1], pictures[2])


def test_the_status_line_is_about_the_picture_that_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    session, scheduler, clock, _ = looking(Source("many", many(4000)))
    monkeypatch.setattr(sessions, "perf_counter", clock)
    panel = StatusPanel(session)
    panel.build(SimpleNamespace(add_markdown=lambda text: SimpleNamespace(content=text)))  # type: ignore[arg-type]
    lines: list[str] = []

    def read() -> None:
        panel.tick()
        lines.append(panel.line.content.splitlines()[1])

    read()
    session.renderer.frame_rate.share = 1 / 8
    rested(session, scheduler, clock)
    read()
    while scheduler.run_due():
        read()
    assert lines[0] == "waiting for the first picture"
    assert lines[1] == "32 x 24 in 0 ms, 12.5 % of Gaussians"  # half of the window, at first
    assert lines[2] == "64 x 48 in 0 ms" and lines[-1] == "64 x 48 in 0 ms, 4 samples/pixel"


def test_while_a_training_runs_a_picture_at_rest_is_whole_in_tiles_and_not_refined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_tiles(monkeypatch, 32)
    session, scheduler, clock, pictures = looking(Source("many", many()))
    session.content.live = SimpleNamespace(is_running=True, request_snapshot=lambda: None)  # type: ignore[assignment]
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
    session.update(compare="flicker")
    assert scheduler.run_due()
    pictures.clear()
    for _ in range(6):
        clock.now += REST + FLICKER
        assert scheduler.run_due()
    one, other = (
        draw(source.snapshot().model, session.pose.camera(*WINDOW), session.state, CPU).rgb
        for source in (first, second)
    )
    if not np.array_equal(pictures[0], one):
        one, other = other, one
    assert len(pictures) == 6 and not np.array_equal(one, other)
    for index, picture in enumerate(pictures):
        np.testing.assert_array_equal(picture, other if index % 2 else one)


def test_of_two_that_flicker_both_are_seen_while_time_runs(clock: Clock) -> None:
    session, scheduler, own, _ = looking(Source("first", moving()), Source("second", many(60)))
    session.update(compare="flicker", speed=1e-9)
    session.play(True)
    seen = []
    for _ in range(40):
        assert scheduler.run_due()
        seen.append(session.state.flicker_to_other)
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
    for kind, shown in (("cameras", True), ("path", True), ("cameras", False), ("path", False)):
        session.set_in_scene(kind, shown)
        assert scheduler.run_due()
    assert [depth is None for depth in depths] == [False, False, False, True]
    while scheduler.run_due():
        clock.now += REST + 0.01
    session.set_in_scene("path", False)
    assert not scheduler.run_due(), "it is not there already"
    session.set_in_scene("crop", True)
    while scheduler.run_due():
        clock.now += REST + 0.01
    expected = draw(source.snapshot().model, session.pose.camera(*WINDOW), session.state, CPU).depth
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
    session.update(browser_draws=True)  # while a picture is drawn, as it were: the next one is requested already
    for _ in range(5):
        own.now += 1.0
        scheduler.run_due()
    assert len(pictures) == 3 and scheduler.wait_time() is None and is_forgotten(session)


def test_tiles_are_dropped_when_the_browser_draws_and_drawn_again_when_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_tiles(monkeypatch, 32)
    session, scheduler, clock, pictures = looking(Source("many", many()))
    rested(session, scheduler, clock)
    assert scheduler.run_due() and len(pictures) == 1
    jobs = scheduler.jobs_run
    session.state = replace(session.state, background=(0.0, 0.5, 1.0))
    called(scheduler, lambda: BrowserPanel(session).draw_in_browser(True))
    while scheduler.run_due():
        pass
    assert scheduler.jobs_run == jobs + 1, "only the removal of the picture had its turn"
    assert len(pictures) == 2 and (pictures[1] == (0, 128, 255)).all(), "the background alone is left"
    BrowserPanel(session).draw_in_browser(False)
    assert scheduler.run_due() and not is_plain(pictures[2])


@pytest.mark.parametrize("leave", [Session.close, lambda session: session.update(browser_draws=True)])
def test_a_picture_that_is_done_when_none_is_needed_any_more_is_not_sent_and_leaves_nothing(
    leave: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = watch_models(monkeypatch)
    session, scheduler, clock, pictures = looking(Source("many", many()))
    session.update(splat_scale=0.5)
    render = session.renderer.render

    def late(*args: Any, **options: Any) -> Any:
        drawn = yield from render(*args, **options)
        assert len(models) > 0
        leave(session)
        return drawn

    session.renderer.render = late  # type: ignore[method-assign]
    session.request()
    while scheduler.run_due():
        clock.now += 1.0
    assert pictures == [] and scheduler.wait_time() is None
    assert is_forgotten(session) and len(models) == 0


def is_plain(picture: np.ndarray) -> bool:
    """Whether a picture is of one color."""
    return bool((picture == picture[0, 0]).all())


def names_in_scene(session: Session) -> list[str]:
    """The names of what is in the browser's scene from now on."""
    names: list[str] = []
    session.client.scene.add_gaussian_splats = lambda name, *_: names.append(name)
    session.client.scene.remove_by_name = lambda name: names.remove(name) if name in names else None
    return names


@pytest.mark.parametrize("again", [False, True])
def test_splats_that_are_cancelled_while_they_are_made_are_not_sent(
    monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    session, scheduler, _, pictures = looking(Source("many", many()))
    panel, names, makes, others = BrowserPanel(session), names_in_scene(session), browser.browser_splats, []

    def slow(_: Session) -> Any:
        monkeypatch.setattr(browser, "browser_splats", makes)
        for on in (False, True) if again else (False,):
            others.append(threading.Thread(target=panel.draw_in_browser, args=(on,)))
            others[-1].start()
            until(lambda on=on: session.state.browser_draws is on)
        return makes(session)

    monkeypatch.setattr(browser, "browser_splats", slow)
    called(scheduler, lambda: (panel.draw_in_browser(True), [other.join() for other in others]))
    while scheduler.run_due():
        pass
    assert session.state.browser_draws is again and set(names) == ({"/splats"} if again else set())
    assert pictures and is_plain(pictures[-1]) is again


def test_where_splats_cannot_be_made_the_server_draws_on(monkeypatch: pytest.MonkeyPatch) -> None:
    session, scheduler, _, pictures = looking(Source("many", many()))
    names = names_in_scene(session)

    def fails(_: Session) -> Any:
        raise UserError("too many")

    monkeypatch.setattr(browser, "browser_splats", fails)
    with pytest.raises(UserError, match="too many"):
        BrowserPanel(session).draw_in_browser(True)
    assert not session.state.browser_draws and names == []
    assert scheduler.run_due() and pictures[0] is not None


def test_time_does_not_run_where_the_browser_draws() -> None:
    session, scheduler, _, _ = looking(Source("moving", moving()))
    session.play(True)
    called(scheduler, lambda: BrowserPanel(session).draw_in_browser(True))
    assert not session.state.playing
    with pytest.raises(Exception, match=r"one time"):
        session.play(True)
    assert not session.state.playing


# ---- time ----


def draw_at(seconds: float, clock: Clock, scheduler: Scheduler, own: Clock) -> None:
    """Let some time pass and draw the next picture; `own` is the scheduler's clock."""
    clock.now, own.now = clock.now + seconds, own.now + 1.0
    assert scheduler.run_due()


def test_time_goes_on_from_where_it_is_when_loop_or_speed_change(clock: Clock) -> None:
    session, scheduler, own, _ = looking(Source("moving", moving()))
    session.update(speed=0.5)
    session.play(True)
    for _ in range(25):  # two and a half rounds
        draw_at(0.2, clock, scheduler, own)
    assert session.state.time == pytest.approx(0.5)
    session.update(loop=False, speed=1.0)
    draw_at(0.25, clock, scheduler, own)
    assert session.state.playing and session.state.time == pytest.approx(0.75)
    draw_at(0.5, clock, scheduler, own)
    assert not session.state.playing and session.state.time == 1.0
    session.play(True)
    assert session.state.time == 0.0


def test_a_time_that_is_chosen_while_it_runs_is_where_it_goes_on(clock: Clock) -> None:
    session, scheduler, own, _ = looking(Source("moving", moving()))
    session.play(True)
    draw_at(1.0, clock, scheduler, own)
    session.update(time=0.6)
    draw_at(1.0, clock, scheduler, own)
    assert session.state.time == pytest.approx(0.6 + session.state.speed)


# ---- videos ----


def test_a_video_is_of_what_was_shown_when_it_was_requested() -> None:
    source = Source("moving", moving())
    session, scheduler, _, _ = looking(source, Source("another", many(30)))
    session.update(time=0.5)
    before, state, camera = source.snapshot().model, session.state, session.pose.camera(*WINDOW)
    draw_frame = session.frame_drawer()
    session.update(background=(1.0, 1.0, 1.0), splat_scale=0.3, time=0.9)
    source.set_model(moving(20), step=None)
    session.update(source="another")
    for time, moment in ((None, 0.5), (0.25, 0.25)):
        drawn = called(scheduler, lambda time=time: draw_frame(camera, time))
        np.testing.assert_array_equal(drawn, draw(prepared(before, moment, state), camera, state, CPU).rgb)


def test_what_is_far_away_or_huge_does_not_spoil_the_order_of_splats_in_the_browser() -> None:
    near = many().tensors()
    tensors = {name: value.clone() for name, value in near.items()}
    tensors["means"][0] = torch.tensor([76_000.0, 0.0, 76_000.0])
    tensors["log_scales"][0] = 6.0
    tensors["log_scales"][1] = 60.0
    tensors["means"][2] = torch.nan
    tensors["opacity_logits"][3] = torch.nan
    session, _, _, _ = looking(Source("far", GaussianModel(tensors)))
    centers, covariances, colors, opacities = browser.browser_splats(session)
    assert len(centers) == len(tensors["means"]) - 2, "what is not finite is left out"
    assert all(np.isfinite(values).all() for values in (centers, covariances.astype(np.float16), colors, opacities))
    middle = np.median(centers, axis=0)
    distances = np.linalg.norm(centers - middle, axis=1)
    assert distances.max() == pytest.approx(50.0 * np.median(distances), rel=0.05)
    direction = (centers[0] - middle) / distances[0]
    np.testing.assert_allclose(direction, np.array([1.0, 0.0, 1.0]) / np.sqrt(2.0), atol=1e-3)
    seen = np.sqrt(np.linalg.eigvalsh(covariances[0])[-1]) / distances[0]
    assert seen == pytest.approx(np.exp(6.0) / np.hypot(76_000.0, 76_000.0), rel=0.01), "it looks as large as before"
    np.testing.assert_allclose(centers[2:], near["means"][4:].numpy(), atol=1e-4)
