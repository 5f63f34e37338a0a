"""Preview models, and what a session draws when: with a client that is none."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from deformations import pushed
from viewer_client import Sway, until, watch_models
from viewer_models import CPU, POSE, many, model, one
from viewer_sessions import WINDOW, looking, use_tiles

from nfc_gs.model.gate import GatedDeformation, gated
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.viewer import draw as drawing
from nfc_gs.viewer import preview
from nfc_gs.viewer.draw import draw, prepared
from nfc_gs.viewer.edit import Edit
from nfc_gs.viewer.preview import MAX_GROWTH, PreviewModels, coverage, thinned
from nfc_gs.viewer.session import REST, Session
from nfc_gs.viewer.snapshot import Snapshot
from nfc_gs.viewer.source import Source
from nfc_gs.viewer.state import DisplaySettings

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
    assert 1.2 < expected < MAX_GROWTH
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
    whole = draw(splats, camera, DisplaySettings(), CPU).rgb.astype(float)
    few = thinned(splats, 0.25)
    grown = np.abs(draw(few, camera, DisplaySettings(), CPU).rgb - whole).mean()
    nothing = np.abs(draw(one(z=99.0), camera, DisplaySettings(), CPU).rgb - whole).mean()
    assert grown < 0.2 * nothing


def drawing_camera() -> Any:
    return POSE.camera(*WINDOW)


def test_preview_models_are_made_once_for_each_state_of_a_source() -> None:
    previews, first, second = PreviewModels(), Snapshot(many(), 1, 0), Snapshot(many(), 2, 1)
    assert previews.model(first) is first.model
    half = previews.model(first, 0.5)
    assert len(half) == 200 and previews.model(first, 0.5) is half and len(previews.model(first, 0.25)) == 100
    assert previews.model(first, 0.5) is half
    assert previews.model(second, 0.5) is not half and previews.model(second) is second.model
    kept = weakref.ref(half)
    del half
    gc.collect()
    assert kept() is None


# ---- what stands still ----


def test_what_stands_still_is_not_deformed_as_soon_as_that_is_known() -> None:
    previews, first = PreviewModels(), Snapshot(pushed([0.0, 0.5, 0.005]), 1, 0)
    assert previews.model(first, playing=False) is first.model
    assert previews.model(first, playing=True) is first.model
    until(lambda: previews.model(first, playing=True) is not first.model)
    gate = previews.model(first, playing=True).deformation
    assert isinstance(gate, GatedDeformation) and gate.moving.tolist() == [1]
    assert previews.model(first, playing=False) is first.model
    few = previews.model(first, 0.67, playing=True)
    assert len(few) == 2 and few is not previews.model(first, 0.67, playing=False)
    newer = Snapshot(pushed([0.5, 0.0]), 2, 1)
    assert previews.model(newer, playing=True) is newer.model


def test_a_static_model_and_a_deformation_that_fails_are_played_as_they_are(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[GaussianModel] = []
    monkeypatch.setattr(preview, "gated", lambda model: followed.append(model) or gated(model))
    previews, still, broken = PreviewModels(), Snapshot(many(), 1, 0), Snapshot(pushed([0.1]), 1, 1)
    assert previews.model(still, playing=True) is still.model
    broken.model.deformation.changes = None  # type: ignore[union-attr, method-assign, assignment]
    previews.model(broken, playing=True)
    until(lambda: "could not find out which Gaussians move" in caplog.text)
    assert previews.model(broken, playing=True) is broken.model and followed == [broken.model]


# ---- sessions ----


def shown(session: Session) -> GaussianModel:
    """The Gaussians that a session shows at rest, edited."""
    gaussians = session.renderer.edited_gaussians(session.state)
    assert gaussians is not None
    return gaussians


def test_a_moving_camera_gets_few_gaussians_and_one_at_rest_all_of_them() -> None:
    source = Source("many", many(4000))
    session, scheduler, clock, pictures = looking(source)
    whole = draw(source.snapshot().model, session.pose.camera(*WINDOW), session.state, CPU).rgb
    session.renderer.frame_rate.share = 1 / 8
    session.request()
    assert scheduler.run_due() and len(pictures) == 1
    few = thinned(source.snapshot().model, 1 / 8)
    np.testing.assert_array_equal(pictures[0], draw(few, session.pose.camera(32, 24), session.state, CPU).rgb)
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
    session.renderer.frame_rate.share = 1 / 8
    middle = (-1.5 + 0.5 * time, 0.0, 0.0)  # where it is at that time
    session.update(edit=Edit(sphere=(middle, 0.25), max_scale=0.05), time=time)
    assert scheduler.run_due()
    thing = shown(session)
    assert 30 < len(thing) <= 40 and session.moving_picture.share == 1.0
    camera = session.pose.camera(32, 24)
    np.testing.assert_array_equal(pictures[0], draw(thing, camera, session.state, CPU).rgb)
    assert pictures[0].any()


def test_of_what_an_edit_leaves_the_largest_is_measured_before_gaussians_grow() -> None:
    splats = many(4000)
    session, scheduler, _, pictures = looking(Source("many", splats))
    session.renderer.frame_rate.share = 1 / 8
    session.update(edit=Edit(max_scale=float(splats.scales.detach().amax(1).median())))
    assert scheduler.run_due()
    left = shown(session)
    few = thinned(left, 500 / len(left))
    assert 1900 < len(left) < 2100 and len(few) == 500 and few.scales.max() > session.state.edit.max_scale
    camera = session.pose.camera(32, 24)
    np.testing.assert_array_equal(pictures[0], draw(few, camera, session.state, CPU).rgb)
    assert session.moving_picture.share == pytest.approx(500 / len(left))


def test_one_preview_and_one_model_at_rest_are_kept_of_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    models = watch_models(monkeypatch)
    session, scheduler, clock, pictures = looking(Source("many", many()))
    session.renderer.frame_rate.share = 1 / 8
    for scale in (0.5, 0.6, 0.7):
        session.update(splat_scale=scale)
        while scheduler.run_due():
            clock.now += REST + 0.01
    gc.collect()
    assert len(pictures) == 9 and len(models) == 2


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
    use_tiles(monkeypatch, 32)
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
    refined = draw(shown(session), session.pose.camera(*WINDOW), session.state, CPU, samples=2).rgb.astype(int)
    rest, last = (np.abs(picture - refined).mean() for picture in pictures[3:])  # two, at rest and refined
    assert last < 0.3 * rest


def test_a_model_that_changes_while_a_picture_of_it_is_drawn_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiles(monkeypatch, 32)
    source = Source("many", many())
    session, scheduler, clock, pictures = looking(source)
    session.request()
    assert scheduler.run_due()
    clock.now += REST + 0.01
    tiles = -(-WINDOW[0] // 32) * -(-WINDOW[1] // 32)
    for _ in range(tiles + 3):  # the whole picture at rest, and the first tiles of the refined one
        assert scheduler.run_due()
    assert len(pictures) == 2
    source.set_model(many(50), step=None)
    session.source_changed()
    while scheduler.run_due():
        pass
    new = draw(source.snapshot().model, session.pose.camera(*WINDOW), session.state, CPU, samples=2).rgb.astype(int)
    assert np.abs(pictures[-1] - new).mean() < 0.05


def test_gaussians_are_counted_in_full_while_the_camera_moves() -> None:
    source = Source("many", many(4000))
    session, scheduler, _, pictures = looking(source)
    session.update(show="count")
    session.renderer.frame_rate.share = 1 / 8
    scheduler.run_due()
    counted = prepared(source.snapshot().model, None, session.state)
    np.testing.assert_array_equal(pictures[0], draw(counted, session.pose.camera(32, 24), session.state, CPU).rgb)
    assert len(counted) == 4000


def test_a_large_picture_is_drawn_tile_by_tile_between_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    session, scheduler, _, _ = looking(Source("many", many()))
    camera, order, screenshots = session.pose.camera(2100, 40), [], []
    whole = draw(shown(session), camera, session.state, CPU).rgb.astype(int)
    draws = drawing.draw
    monkeypatch.setattr(drawing, "draw", lambda *args, **kwargs: (order.append("tile"), draws(*args, **kwargs))[1])

    def other() -> None:
        order.append("other")
        scheduler.submit("other", other)

    caller = threading.Thread(target=lambda: screenshots.append(session.screenshot(camera)))
    caller.start()
    until(lambda: scheduler.wait_time() == 0.0)
    scheduler.submit("other", other)
    while caller.is_alive():
        scheduler.run_due()
    assert [name for name in order if name == "tile"] == ["tile"] * 3
    assert order[: order.index("other") + 5] in (
        ["tile", "other", "tile", "other", "tile", "other"],
        ["other", "tile", "other", "tile", "other", "tile"],
    )
    assert np.abs(screenshots[0] - whole).mean() < 0.05  # beyond the margin splats are linearised elsewhere


def test_a_large_picture_of_a_page_that_is_closed_is_not_finished() -> None:
    session, scheduler, _, _ = looking(Source("many", many()))
    failed = []

    def save() -> None:
        try:
            session.screenshot(session.pose.camera(2100, 40))
        except Exception as error:
            failed.append(str(error))

    caller = threading.Thread(target=save)
    caller.start()
    until(lambda: scheduler.wait_time() == 0.0)
    scheduler.run_due()
    session.close()
    caller.join()
    assert failed == ["The page was closed before its picture was drawn."]
    while scheduler.run_due():
        pass
    assert scheduler.jobs_run == 1
