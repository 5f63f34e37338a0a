"""Stand-ins for pictures that must come quickly, and what a session draws when: with a client that is none."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_gate import pushed
from test_viewer_drawing import CPU, model, one
from viewer_client import Sway

from nfc_gs.model.gate import GatedDeformation
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.viewer import draw as drawing
from nfc_gs.viewer import session as sessions
from nfc_gs.viewer.draw import Look, draw
from nfc_gs.viewer.edit import Edit
from nfc_gs.viewer.frames import Placement
from nfc_gs.viewer.light import MOST_GROWTH, Light, coverage, thinned
from nfc_gs.viewer.scheduler import Scheduler
from nfc_gs.viewer.session import REST, Session
from nfc_gs.viewer.source import Snapshot, Source

WINDOW = (64, 48)


def many(count: int = 400) -> GaussianModel:
    """Gaussians of many sizes."""
    splats = model(count)
    with torch.no_grad():
        splats.log_scales += 0.4 * torch.randn(count, 1, generator=torch.Generator().manual_seed(1))
    return splats


# ---- fewer Gaussians ----


def test_those_that_cover_most_are_kept_in_their_order_and_grow_to_cover_what_all_did() -> None:
    splats = many()
    few = thinned(splats, 0.25)
    cover = coverage(splats)
    kept = cover >= cover.sort(descending=True).values[99]
    assert len(few) == 100
    for name in ("means", "quats", "opacity_logits", "sh_coeffs"):
        assert torch.equal(few.tensors()[name], splats.tensors()[name][kept])
    area = (2.0 * (few.log_scales - splats.log_scales[kept])).exp()
    expected = float(cover.sum() / cover[kept].sum())
    assert 1.2 < expected < MOST_GROWTH
    assert area.detach().flatten().tolist() == pytest.approx([expected] * 300, rel=1e-4)


def test_what_is_far_from_the_middle_covers_less() -> None:
    splats = many()
    with torch.no_grad():
        splats.means[0] = torch.tensor([100.0, 0.0, 0.0])
    assert coverage(splats)[0] < 1e-3 * coverage(many())[0]


def test_all_gaussians_are_the_model_itself_and_at_least_one_is_left() -> None:
    splats = many()
    assert thinned(splats, 1.0) is splats
    assert len(thinned(splats, 1e-9)) == 1 and len(thinned(one(), 0.5)) == 1


def test_gaussians_that_are_no_numbers_are_left_out_first() -> None:
    splats = many()
    with torch.no_grad():
        splats.means[3], splats.log_scales[4], splats.opacity_logits[5] = torch.nan, torch.inf, torch.nan
    few = thinned(splats, 0.5)
    assert all(tensor.isfinite().all() for tensor in few.tensors().values())


def test_fewer_gaussians_look_nearly_like_all() -> None:
    splats, camera = many(4000), drawing_camera()
    whole = draw(splats, camera, Look(), CPU).rgb.astype(float)
    few = thinned(splats, 0.25)
    grown = np.abs(draw(few, camera, Look(), CPU).rgb - whole).mean()
    nothing = np.abs(draw(one(z=99.0), camera, Look(), CPU).rgb - whole).mean()
    assert grown < 0.2 * nothing


def drawing_camera() -> Any:
    from test_viewer_drawing import POSE

    return POSE.camera(*WINDOW)


def test_stand_ins_are_made_once_for_each_state_of_a_source() -> None:
    light, first, second = Light(), Snapshot(many(), 1, 0), Snapshot(many(), 2, 1)
    assert light.model(first) is first.model
    half = light.model(first, 0.5)
    assert len(half) == 200 and light.model(first, 0.5) is half and len(light.model(first, 0.25)) == 100
    assert light.model(first, 0.5) is half
    assert light.model(second, 0.5) is not half and light.model(second) is second.model
    assert len(light._models) == 1


# ---- what stands still ----


def until(condition: Any) -> None:
    limit = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_what_stands_still_skips_the_field_as_soon_as_that_is_known() -> None:
    light, shown = Light(), Snapshot(pushed([0.0, 0.5, 0.005]), 1, 0)
    assert light.model(shown, plays=False) is shown.model
    assert light.model(shown, plays=True) is shown.model
    until(lambda: light.model(shown, plays=True) is not shown.model)
    gate = light.model(shown, plays=True).deformation
    assert isinstance(gate, GatedDeformation) and gate.moving.tolist() == [1]
    assert light.model(shown, plays=False) is shown.model
    few = light.model(shown, 0.67, plays=True)
    assert len(few) == 2 and few is not light.model(shown, 0.67, plays=False)
    newer = Snapshot(pushed([0.5, 0.0]), 2, 1)
    assert light.model(newer, plays=True) is newer.model


def test_a_static_model_and_a_field_that_fails_are_played_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    light, still, broken = Light(), Snapshot(many(), 1, 0), Snapshot(pushed([0.1]), 1, 1)
    assert light.model(still, plays=True) is still.model and light._at_work is None
    broken.model.deformation.changes = None  # type: ignore[union-attr, method-assign, assignment]
    light.model(broken, plays=True)
    until(lambda: "did not find out what moves" in caplog.text)
    assert light.model(broken, plays=True) is broken.model


# ---- sessions ----


class Clock:
    """Seconds that pass only when a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def looking(*sources: Source) -> tuple[Session, Scheduler, Clock, list[np.ndarray]]:
    """A session whose client keeps the pictures that it gets; nothing is drawn before the test says so."""
    clock, pictures = Clock(), []
    viewer = SimpleNamespace(
        sources=sources, target_fps=20.0, scheduler=Scheduler(clock), trains=False, backend="cpu", closed=False,
        drew=lambda: None, scene=None, time_axis=None, moves=sources[0].snapshot().model.deformation is not None,
        places={source.name: Placement() for source in sources},
    )  # fmt: skip
    width, height = WINDOW
    client = SimpleNamespace(
        client_id=1, flush=lambda: None,
        camera=SimpleNamespace(position=(0.0, 0.0, -3.0), wxyz=(1.0, 0.0, 0.0, 0.0), fov=1.0, image_width=width,
                               image_height=height),
        scene=SimpleNamespace(
            set_background_image=lambda rgb, *_, **__: pictures.append(rgb), remove_by_name=lambda name: None,
            add_gaussian_splats=lambda *_: None,
        ),
    )  # fmt: skip
    return Session(viewer, client), viewer.scheduler, clock, pictures  # type: ignore[arg-type]


def test_a_moving_camera_gets_few_gaussians_and_one_at_rest_all_of_them() -> None:
    source = Source("many", many(4000))
    session, scheduler, clock, pictures = looking(source)
    whole = draw(source.snapshot().model, session.pose.camera(*WINDOW), session.look, CPU).rgb
    session._frame_rate.share = 1 / 8
    session.request()
    assert scheduler.run_due() and len(pictures) == 1
    few = thinned(source.snapshot().model, 1 / 8)
    np.testing.assert_array_equal(pictures[0], draw(few, session.pose.camera(32, 24), session.look, CPU).rgb)
    clock.now += REST + 0.01
    assert scheduler.run_due()
    np.testing.assert_array_equal(pictures[1], whole)


def crowd() -> GaussianModel:
    """4000 large Gaussians, and behind them in order 40 small ones far to the left of them, which move with time."""
    large, small = many(4000).tensors(), model(40).tensors()
    small["means"] = 0.1 * small["means"] - torch.tensor([1.5, 0.0, 0.0])
    small["log_scales"] = small["log_scales"] - 2.0
    splats = GaussianModel({name: torch.cat([large[name], small[name]]) for name in large})
    splats.deformation = Sway()
    return splats


@pytest.mark.parametrize("time", [0.0, 1.0])
def test_a_small_thing_that_is_cropped_is_all_there_while_the_camera_moves(time: float) -> None:
    session, scheduler, _, pictures = looking(Source("crowd", crowd()))
    session._frame_rate.share = 1 / 8
    middle = (-1.5 + 0.5 * time, 0.0, 0.0)  # where it is at that time
    session.change(edit=Edit(sphere=(middle, 0.25), max_scale=0.05), time=time)
    assert scheduler.run_due()
    thing = session.still()
    assert 30 < len(thing) <= 40 and session.drawn[3] == 1.0
    camera = session.pose.camera(32, 24)
    np.testing.assert_array_equal(pictures[0], draw(thing, camera, session.look, CPU).rgb)
    assert pictures[0].any()


def test_of_what_an_edit_leaves_the_largest_is_measured_before_gaussians_grow() -> None:
    splats = many(4000)
    session, scheduler, _, pictures = looking(Source("many", splats))
    session._frame_rate.share = 1 / 8
    session.change(edit=Edit(max_scale=float(splats.scales.detach().amax(1).median())))
    assert scheduler.run_due()
    left = session.still()
    few = thinned(left, 500 / len(left))
    assert 1900 < len(left) < 2100 and len(few) == 500 and few.scales.max() > session.look.edit.max_scale
    camera = session.pose.camera(32, 24)
    np.testing.assert_array_equal(pictures[0], draw(few, camera, session.look, CPU).rgb)
    assert session.drawn[3] == pytest.approx(500 / len(left)) and len(session._cache) == 1


def test_a_picture_that_fails_is_followed_by_one_at_rest(caplog: pytest.LogCaptureFixture) -> None:
    session, scheduler, clock, pictures = looking(Source("many", many()))
    keeps = session.client.scene.set_background_image
    session.client.scene.set_background_image = lambda *_, **__: (_ for _ in ()).throw(RuntimeError("lost"))
    session.request()
    assert scheduler.run_due() and "lost" in caplog.text
    session.client.scene.set_background_image = keeps
    clock.now += REST + 0.01
    assert scheduler.run_due() and pictures[0].shape == (WINDOW[1], WINDOW[0], 3)


def test_a_camera_that_moves_on_does_not_wait_for_a_refined_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "TILE", 32)
    session, scheduler, clock, pictures = looking(Source("many", many()))
    session.request()
    tiles = -(-WINDOW[0] // 32) * -(-WINDOW[1] // 32)
    assert scheduler.run_due() and len(pictures) == 1
    clock.now += REST + 0.01
    for _ in range(tiles + 3):  # the whole picture at rest, and the first tiles of the refined one
        assert scheduler.run_due()
    assert len(pictures) == 2 and scheduler.wait_time() == 0.0
    session.client.camera.position = (0.5, 0.0, -3.0)
    session.request()
    assert scheduler.run_due() and len(pictures) == 3 and pictures[2].shape < pictures[1].shape
    clock.now += REST + 0.01
    while scheduler.run_due():
        pass
    refined = draw(session.still(), session.pose.camera(*WINDOW), session.look, CPU, samples=2).rgb.astype(int)
    rest, last = (np.abs(picture - refined).mean() for picture in pictures[3:])  # two, at rest and refined
    assert last < 0.3 * rest


def test_a_model_that_changes_while_a_picture_of_it_is_drawn_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "TILE", 32)
    source = Source("many", many())
    session, scheduler, clock, pictures = looking(source)
    session.request()
    assert scheduler.run_due()
    clock.now += REST + 0.01
    tiles = -(-WINDOW[0] // 32) * -(-WINDOW[1] // 32)
    for _ in range(tiles + 3):  # the whole picture at rest, and the first tiles of the refined one
        assert scheduler.run_due()
    assert len(pictures) == 2
    source.show(many(50), step=None)
    session.refresh()
    while scheduler.run_due():
        pass
    new = draw(source.snapshot().model, session.pose.camera(*WINDOW), session.look, CPU, samples=2).rgb.astype(int)
    assert np.abs(pictures[-1] - new).mean() < 0.05


def test_gaussians_are_counted_in_full_while_the_camera_moves() -> None:
    source = Source("many", many(4000))
    session, scheduler, _, pictures = looking(source)
    session.change(show="count")
    session._frame_rate.share = 1 / 8
    scheduler.run_due()
    counted = session._still(source, session.look, None)
    np.testing.assert_array_equal(pictures[0], draw(counted, session.pose.camera(32, 24), session.look, CPU).rgb)
    assert len(counted) == 4000


def test_a_large_picture_is_drawn_tile_by_tile_between_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    session, scheduler, _, _ = looking(Source("many", many()))
    camera, order, shots = session.pose.camera(2100, 40), [], []
    whole = draw(session.still(), camera, session.look, CPU).rgb.astype(int)
    draws = drawing.draw
    monkeypatch.setattr(drawing, "draw", lambda *args, **kwargs: (order.append("tile"), draws(*args, **kwargs))[1])

    def other() -> None:
        order.append("other")
        scheduler.submit("other", other)

    asking = threading.Thread(target=lambda: shots.append(session.large(camera)))
    asking.start()
    until(lambda: scheduler.wait_time() == 0.0)
    scheduler.submit("other", other)
    while asking.is_alive():
        scheduler.run_due()
    assert [name for name in order if name == "tile"] == ["tile"] * 3
    assert order[: order.index("other") + 5] in (
        ["tile", "other", "tile", "other", "tile", "other"],
        ["other", "tile", "other", "tile", "other", "tile"],
    )
    assert np.abs(shots[0] - whole).mean() < 0.05  # beyond the margin splats are linearised elsewhere


def test_a_large_picture_of_a_page_that_is_closed_is_not_finished() -> None:
    session, scheduler, _, _ = looking(Source("many", many()))
    failed = []

    def ask() -> None:
        try:
            session.large(session.pose.camera(2100, 40))
        except Exception as error:
            failed.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: scheduler.wait_time() == 0.0)
    scheduler.run_due()
    session.close()
    asking.join()
    assert failed == ["The page was closed before its picture was drawn."]
    while scheduler.run_due():
        pass
    assert scheduler.served == 1
