"""What the controls of the page do, seen from a browser's end of the connection."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import sleep
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from viewer_client import Sway, bits_model, scene_nodes, show_first_alone, sources, texts, until
from viewer_pages import Page, opened

from nfc_gs.core.errors import UserError
from nfc_gs.core.events import StepDone
from nfc_gs.core.rotation import quat_to_matrix
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.heads.sh import start_sh
from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.cameras import Pose, pose_from_json
from nfc_gs.viewer.live import LiveTraining
from nfc_gs.viewer.panels import browser, edit, path
from nfc_gs.viewer.path import path_from_json
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.source import Source


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> SceneData:
    return load_scene(write_capture(tmp_path_factory.mktemp("panels") / "capture", views=6, width=48, height=36))


@pytest.fixture(scope="module")
def viewer(scene: SceneData) -> Iterator[Viewer]:
    with Viewer(sources(scene), port=8680, backend="cpu") as shown:
        yield shown


@pytest.fixture
def page(viewer: Viewer) -> Iterator[Page]:
    for page in opened(viewer):
        show_first_alone(page.session)
        yield page


# ---- what is shown ----


def test_background_color_map_and_the_range_of_depths_are_those_chosen(page: Page) -> None:
    page.set("Background", [255, 0, 51])
    until(lambda: page.session.state.background == pytest.approx((1.0, 0.0, 0.2)))
    page.set("Show", "depth")
    until(lambda: page.session.state.show == "depth")
    assert page.control("Color map").visible and not page.control("Near (units)").visible
    page.set("Color map", "viridis")
    page.set("Auto range", False)
    until(lambda: page.control("Near (units)").visible)
    page.set("Near (units)", 1.5)
    page.set("Far (units)", 4.0)
    until(lambda: page.session.state.depth_range == (1.5, 4.0) and page.session.state.colormap == "viridis")


def sh_model(degree: int) -> GaussianModel:
    count = 5
    tensors = {
        "means": torch.randn(count, 3),
        "log_scales": torch.full((count, 3), -2.0),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
        "opacity_logits": torch.full((count,), 2.0),
        **start_sh(torch.full((count, 3), 0.8), degree),
    }
    return GaussianModel(tensors)


def test_what_any_of_the_sources_has_can_be_shown(scene: SceneData) -> None:
    others = [Source("sh", sh_model(1)), Source("bits", bits_model(scene, 0.5)), Source("finer", sh_model(3))]
    with Viewer(others, port=8690, backend="cpu") as viewer:
        for page in opened(viewer):
            assert {"one bit plane", "all bit planes", "undecided bits"} <= set(page.control("Show").options)
            assert (page.control("SH degree").max, page.control("SH degree").value) == (3, 3)
            page.set("Show", "all bit planes")
            until(lambda page=page: page.session.state.show == "bits")
    with Viewer([Source("sh", sh_model(1))], port=8690, backend="cpu") as viewer:
        for page in opened(viewer):
            assert not any("bit" in name for name in page.control("Show").options)
            assert page.control("SH degree").max == 1


# ---- the browser draws ----


def test_what_fails_when_the_browser_is_to_draw_is_shown_and_undone(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Session) -> Any:
        raise UserError("These splats cannot be sent.")

    with monkeypatch.context() as patch:
        patch.setattr(browser, "browser_splats", fails)
        page.set("Browser draws", True)
        until(lambda: page.said == ["These splats cannot be sent."])
    assert not page.session.state.browser_draws and page.control("Browser draws").value is False
    pictures = page.session.pictures_sent
    page.client.move(0.3)
    until(lambda: page.session.pictures_sent > pictures)
    page.set("Browser draws", True)
    until(lambda: "/splats" in scene_nodes(page.session))
    page.set("Browser draws", False)
    until(lambda: "/splats" not in scene_nodes(page.session) and not page.session.state.browser_draws)


# ---- time ----


def test_the_time_slider_goes_anywhere_and_back(page: Page) -> None:
    for time in (0.8, 0.0, 0.5, 0.8, 0.0):
        page.set("Time", time)
        until(lambda time=time: page.session.state.time == pytest.approx(time))
    page.session.update(time=0.3)  # as a path or a view of the capture does: the slider follows
    until(lambda: page.control("Time").value == pytest.approx(0.3))
    page.set("Time", 0.0)
    until(lambda: page.session.state.time == 0.0)


def test_time_runs_at_its_speed_stops_at_its_end_and_goes_step_by_step(page: Page) -> None:
    page.set("Loop", False)
    page.set("Speed", 2.0)
    until(lambda: (page.session.state.loop, page.session.state.speed) == (False, 2.0))
    page.press("Play")
    until(lambda: page.session.state.time == 1.0 and not page.session.state.playing)
    until(lambda: page.controls("Play"))
    page.set("Frame", "◀ back")
    until(lambda: page.session.state.time == pytest.approx(1.0 - 1 / 60))  # the capture has no times
    page.set("Frame", "next ▶")
    until(lambda: page.session.state.time == 1.0)


# ---- cameras ----


def test_the_camera_goes_through_the_views_turns_up_widens_and_is_shown_as_json(page: Page, scene: SceneData) -> None:
    first = page.session.state.view
    for key, view in (("N", first + 1), ("N", first + 2), ("B", first + 1)):
        page.key(key)
        until(lambda view=view: page.session.state.view == view % 6)
    page.set("Go to view", "previous")
    until(lambda: page.session.state.view == first)
    there = scene.views[first].camera
    until(lambda: np.allclose(page.session.pose.position, there.center, atol=1e-4))
    turned = there.viewmat[:3, :3].T.double()
    until(lambda: np.allclose(quat_to_matrix(torch.tensor(page.session.pose.wxyz).double()), turned, atol=1e-4))
    page.set("Up", "+z")
    until(lambda: np.allclose(page.session.client.camera.up_direction, (0, 0, 1)))
    page.set("FOV (°)", 90)
    until(lambda: page.session.pose.fov == pytest.approx(np.pi / 2))
    page.session.update(time=0.25)
    page.press("Show as JSON")
    until(lambda: page.control("JSON").value != "")
    pose, time = pose_from_json(page.control("JSON").value)
    assert time == 0.25 and pose.fov == pytest.approx(np.pi / 2)
    np.testing.assert_allclose(pose.position, page.session.pose.position)
    difference = quat_to_matrix(torch.tensor(pose.wxyz)) - quat_to_matrix(torch.tensor(page.session.pose.wxyz))
    assert difference.abs().max() < 1e-6


def test_keys_show_depth_and_compare(page: Page) -> None:
    for show in ("depth", "color"):
        page.key("C")
        until(lambda show=show: page.session.state.show == show)
    for compare in ("split", "off"):
        page.key("V")
        until(lambda compare=compare: page.session.state.compare == compare)
    page.set("Left", "two")
    page.set("Right", "one")
    until(lambda: (page.session.source.name, page.session.other.name) == ("two", "one"))
    page.press("PSNR of both")
    until(lambda: not page.said and any("dB" in text and "one: " in text for text in texts(page.session)))


# ---- paths ----


def test_keyframes_are_ordered_replaced_gone_to_and_removed(page: Page) -> None:
    page.add_keys(0.0, 1.0, 2.0)
    page.set("Move it", "earlier")
    until(lambda: page.places() == [0.0, 2.0, 1.0])
    page.set("Move it", "earlier")
    until(lambda: page.places() == [2.0, 0.0, 1.0])
    page.set("Move it", "later")
    until(lambda: page.places() == [0.0, 2.0, 1.0])
    page.session.move_camera_to(Pose((5.0, 0.0, -3.0), (1.0, 0.0, 0.0, 0.0), 0.9))
    page.set("Act on it", "replace")
    until(lambda: page.places() == [0.0, 5.0, 1.0])

    def third_is_chosen() -> bool:
        page.set("Keyframe", page.control("Keyframe").options[2])  # again, where the list is made anew
        return page.path_panel.chosen == 2

    until(third_is_chosen)
    page.set("Act on it", "go there")
    until(lambda: page.session.pose.position[0] == pytest.approx(1.0))
    page.set("Act on it", "remove")
    until(lambda: page.places() == [0.0, 5.0])


def test_a_path_is_saved_and_loaded_and_what_is_none_is_refused(page: Page) -> None:
    page.add_keys(0.0, 1.5)
    page.set("Duration (s)", 2.5)
    until(lambda: page.path_panel.path.seconds == 2.5)
    page.press("Download path as JSON")
    until(lambda: "path.json" in page.files)
    saved = path_from_json(page.files["path.json"].decode())
    assert saved == page.path_panel.path
    other = replace(saved, keys=saved.keys[:1], seconds=7.0, loop=True)
    page.client.upload(page.control("Load path"), other.to_json().encode())
    until(lambda: page.path_panel.path == other)
    until(lambda: (page.control("Duration (s)").value, page.control("Closed loop").value) == (7.0, True))
    until(lambda: "The path is loaded" in page.titles)
    for nonsense in (b"\xff\xfe", b"__import__('os')", json.dumps({"keys": []}).encode()):
        page.said.clear()
        page.titles.clear()
        page.client.upload(page.control("Load path"), nonsense)
        until(lambda: len(page.said) == 1)
        assert "JSON" in page.said[0] and "file.json is not loaded" in page.titles and page.path_panel.path == other


def test_a_path_takes_no_more_keyframes_than_one_that_is_loaded(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path, "MAX_KEYS", 2)
    page.add_keys(0.0, 1.0)
    page.key("K")
    until(lambda: page.said == ["The camera path has 2 keyframes, the most that it takes; remove some first."])
    page.press("Add keyframe here")
    until(lambda: len(page.said) == 2)
    assert page.places() == [0.0, 1.0]


def test_pictures_of_a_path_are_zipped_and_cancelled_and_too_many_are_refused(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.add_keys(0.0, 1.0)
    for label, value in (("Duration (s)", 1.0), ("Frames / s", 8.0), ("File", "PNGs (zip)")):
        page.set(label, value)
    for label, value in (("Width (px)", 64), ("Height (px)", 48)):  # screenshots have their own, which come first
        page.set(label, value, last=True)
    until(lambda: page.path_panel.path.frame_count == 8 and page.control("Height (px)", last=True).value == 48)
    page.press("Render and download")
    until(lambda: "path.zip" in page.files)
    with zipfile.ZipFile(io.BytesIO(page.files["path.zip"])) as archive:
        assert archive.namelist() == [f"frame_{i:05d}.png" for i in range(8)]
    until(lambda: not page.control("Cancel").visible)
    page.files.clear()

    frame_drawer, drawn = page.session.frame_drawer, threading.Event()

    def slow() -> Any:
        draw = frame_drawer()

        def one(*args: Any) -> Any:
            drawn.set()
            sleep(0.1)
            return draw(*args)

        return one

    page.session.frame_drawer = slow  # type: ignore[method-assign]
    page.set("Duration (s)", 100.0)  # which is more than a test waits for
    until(lambda: page.path_panel.path.frame_count == 800)
    page.press("Render and download")
    until(drawn.is_set)
    assert page.control("Cancel").visible and page.path_panel.progress.visible
    page.press("Render and download")
    until(lambda: any("already" in text for text in page.said))
    page.press("Cancel")
    until(lambda: "No file was made." in page.said)
    until(lambda: not page.control("Cancel").visible and not page.path_panel.progress.visible)
    assert page.files == {}
    page.set("Duration (s)", 1.0)
    until(lambda: page.path_panel.path.frame_count == 8)
    monkeypatch.setitem(path.MAX_PIXELS, "PNGs (zip)", 8 * 64 * 48 - 1)
    page.press("Render and download")
    until(lambda: "8 pictures of 64 x 48 are too many" in page.said[-1])
    assert page.files == {}


def stands_still(page: Page) -> bool:
    """Whether the camera has stood still for some pictures of a preview."""
    place = page.session.pose
    sleep(0.5)
    return page.session.pose == place


def test_a_preview_goes_along_the_path_and_stops_time_and_itself(page: Page) -> None:
    page.add_keys(0.0, 4.0)
    page.open("Path")
    until(lambda: page.session.state.in_scene == {"path"})
    page.press("Play")
    until(lambda: page.session.state.playing)
    page.press("Preview")
    until(lambda: not page.session.state.playing and 0.1 < page.session.pose.position[0] < 3.0)
    assert not page.session.state.in_scene and not page.node("/path").visible and not page.node("/keyframes").visible
    page.press("Stop the preview")
    until(lambda: stands_still(page) and page.controls("Preview"))
    until(lambda: page.session.state.in_scene == {"path"} and page.node("/keyframes").visible)
    place = page.session.pose
    assert place.position[0] < 4.0
    until(lambda: page.viewer.scheduler.wait_time() is None)
    assert page.session.pose == place


# ---- editing ----


def test_box_and_thresholds_leave_what_they_say(page: Page) -> None:
    model = page.session.source.snapshot().model
    page.open("Edit")
    page.set("Crop", "box")
    page.set("Box from", [-0.4, -1.0, -1.5])
    page.set("Box to", [0.6, 1.0, 1.5])
    until(lambda: page.session.state.edit.box == ((-0.4, -1.0, -1.5), (0.6, 1.0, 1.5)))
    until(lambda: page.session.state.in_scene == {"crop"} and page.node("/crop").visible)
    left = int(page.session.state.edit.kept(model).sum())
    until(lambda: any(f"{left} of 300 Gaussians are left" in text for text in texts(page.session)))
    assert 0 < left < 300
    page.set("Min opacity", 0.5)
    page.set("Max size", -1.0)
    until(lambda: (page.session.state.edit.min_opacity, page.session.state.edit.max_scale) == (0.5, pytest.approx(0.1)))
    page.set("Min opacity", 0.99)
    until(lambda: any("0 of 300 Gaussians are left" in text for text in texts(page.session)))


def kept(session: Session) -> GaussianModel:
    """The Gaussians that are shown, edited."""
    gaussians = session.renderer.edited_gaussians(session.state)
    assert gaussians is not None
    return gaussians


def test_what_is_left_is_counted_as_it_is_shown(page: Page) -> None:
    """At the time and of the source that is shown, and again whenever that changes."""
    session = page.session
    page.set("Crop", "box")
    page.set("Box from", [-0.4, -4.5, -4.5])
    page.set("Box to", [0.4, 4.5, 4.5])

    def counted() -> int:
        until(lambda: session.state.edit.box == ((-0.4, -4.5, -4.5), (0.4, 4.5, 4.5)))
        left = len(kept(session))
        until(lambda: f"{left} of 300 Gaussians are left." in texts(page.session))
        return left

    first = counted()
    page.set("Time", 1.0)
    until(lambda: session.state.time == 1.0)
    second = counted()
    assert 0 < second < first
    session.update(source="two")
    assert counted() == first != second  # it is where the other one is at first
    page.set("Crop", "none")
    until(lambda: not any("are left" in text for text in texts(page.session)))


def test_an_export_that_is_being_written_is_not_started_again(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, started = threading.Event(), []

    def slow(file: Path, *_: object, **__: object) -> None:
        started.append(file)
        assert go_on.wait(20.0)
        file.write_bytes(b"ply")

    monkeypatch.setattr(edit, "write_ply", slow)
    page.press("Export what is left as PLY")
    until(lambda: len(started) == 1)
    page.press("Export what is left as PLY")
    until(lambda: page.said == ["An export is being written already."])
    go_on.set()
    until(lambda: page.files == {"one.ply": b"ply"})
    assert len(started) == 1


class Alone:
    """Calls a function, and notes whether it was called while it went on; it takes some time."""

    def __init__(self, function: Any) -> None:
        self.function, self.calls, self.most, self.now = function, 0, 0, 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.now += 1
        self.calls, self.most = self.calls + 1, max(self.most, self.now)
        sleep(0.05)
        try:
            return self.function(*args, **options)
        finally:
            self.now -= 1


def test_the_outline_of_a_crop_and_a_path_are_drawn_by_one_callback_at_a_time(
    page: Page, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    scene = page.session.client.scene
    outline = Alone(scene.add_transform_controls)
    monkeypatch.setattr(scene, "add_transform_controls", outline)
    page.set("Crop", "box")
    for size in (1.0, 2.0, 3.0, 4.0):
        page.set("Box to", [size] * 3)
    until(lambda: outline.calls >= 6)
    page.add_keys(0.0, 1.0)
    marks = Alone(scene.add_camera_frustum)
    monkeypatch.setattr(scene, "add_camera_frustum", marks)
    for seconds in (1.0, 2.0, 3.0, 4.0):
        page.set("Duration (s)", seconds)
    until(lambda: marks.calls >= 8)
    until(lambda: outline.now == marks.now == 0)
    assert outline.most == marks.most == 1 and outline.calls == 6
    assert [warning for warning in recwarn if "already removed" in str(warning.message)] == []


# ---- training ----


def test_a_training_is_paused_saved_stopped_and_given_its_share(scene: SceneData) -> None:
    calls: list[str] = []
    model = bits_model(scene, 0.2)
    model.deformation = Sway()
    training = SimpleNamespace(
        model=model, stopping=False, stop=lambda: calls.append("stop"), save=lambda: calls.append("save")
    )
    step = StepDone(1, 0.1, 0.5, 20.0, {"gaussians": 80}, 48, 36, 1.0, 1.0)
    live = LiveTraining(training, Source("run", model, scene=scene))  # type: ignore[arg-type]
    with Viewer([live.source], port=8695, backend="cpu", live=live) as viewer:
        for page in opened(viewer):
            page.set("Viewer's share", 0.4)
            until(lambda: live.budget.share == 0.4 and viewer.scheduler.budget is live.budget)
            page.press("Pause")
            until(lambda: live.paused and live.budget.unlimited)
            until(lambda page=page: bool(page.controls("Resume")))
            page.press("Resume")
            until(lambda: not live.paused and not live.budget.unlimited)
            page.press("Save checkpoint now")
            until(lambda: (live(step), "save" in calls)[1])  # the training takes steps
            live.save_error = "The disk is full."
            until(lambda page=page: any("**Not saved**: The disk is full." in text for text in texts(page.session)))
            page.press("Stop and save")
            until(lambda page=page: bool(page.controls("Go on with the training")))
            page.press("Go on with the training")
            until(lambda page=page: not page.controls("Go on with the training"))
            assert calls == ["save"] and not live.stop_pressed
            page.press("Stop and save")
            until(lambda page=page: bool(page.controls("End it and save")))
            page.press("End it and save")
            until(lambda: calls == ["save", "stop"] and live.stop_pressed)
            live.finished = True
            until(lambda page=page: page.control("Stop and save").disabled)
