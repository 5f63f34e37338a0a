"""The viewer's page in a real browser."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from viewer_client import panel_of, show_first_alone, sources, until

from nfc_gs.core.events import StepDone
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData
from nfc_gs.model.radiance import RenderOptions
from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.cameras import pose_of
from nfc_gs.viewer.draw import draw
from nfc_gs.viewer.live import LiveTraining
from nfc_gs.viewer.panels.browser import browser_splats
from nfc_gs.viewer.panels.camera import CameraPanel
from nfc_gs.viewer.panels.display import NAMES
from nfc_gs.viewer.panels.path import PathPanel
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.state import DisplaySettings

pytestmark = pytest.mark.slow

SIZE = (720, 440)

PICTURE = (slice(180, 380), slice(0, 380))
"""Rows and columns of the window that no control covers."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> SceneData:
    return load_scene(write_capture(tmp_path_factory.mktemp("page") / "capture", views=6, width=48, height=36))


@pytest.fixture(scope="module")
def viewer(scene: SceneData) -> Iterator[Viewer]:
    with Viewer(sources(scene), port=8700, backend="cpu") as shown:
        yield shown


@pytest.fixture(scope="module")
def tab(browser: Any) -> Iterator[tuple[Any, list[str]]]:
    """A tab of the browser, and what its pages complain of."""
    context = browser.new_context(accept_downloads=True)
    opened, problems = context.new_page(), []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    yield opened, problems
    context.close()


class Page:
    """The page of a viewer in a browser, and the session behind it."""

    def __init__(self, page: Any, viewer: Viewer, problems: list[str]) -> None:
        self.page, self.viewer, self.problems = page, viewer, problems
        until(lambda: len(viewer.sessions) == 1, page)
        self.session: Session = next(iter(viewer.sessions.values()))
        self.settle()

    def settle(self) -> np.ndarray:
        """What the window shows once it has its refined picture, [H, W, 3], without the panel on its right."""
        self.page.mouse.move(5, SIZE[1] - 5)  # a tooltip beside the panel would be in the picture
        scheduler = self.viewer.scheduler
        quiet = [self.session.pictures_sent, time.monotonic()]

        def is_quiet() -> bool:
            now = self.session.pictures_sent
            if now != quiet[0] or now == 0 or scheduler.wait_time() is not None:
                quiet[:] = [now, time.monotonic()]
            return time.monotonic() - quiet[1] > 0.25

        until(is_quiet, self.page)
        shots: list[np.ndarray] = []

        def is_still() -> bool:  # the page fades what is new in, and may be late
            self.page.wait_for_timeout(100)
            shots.append(self.shot())
            return len(shots) > 2 and all(np.abs(shots[-1] - shot).mean() < 0.2 for shot in shots[-3:-1])

        until(is_still, self.page)
        return shots[-1]

    def shot(self) -> np.ndarray:
        """What the window shows now, [H, W, 3], where no control covers it."""
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))[PICTURE].astype(int)

    @property
    def path_panel(self) -> PathPanel:
        return panel_of(self.viewer, self.session, PathPanel)

    @property
    def is_flying(self) -> bool:
        return panel_of(self.viewer, self.session, CameraPanel).mode.value == "fly"

    def tab(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def choose(self, label: str, value: str) -> None:
        self.page.get_by_label(label, exact=True).first.click()
        self.page.get_by_role("option", name=value, exact=True).click()

    def number(self, label: str, value: float) -> None:
        """Type into the number of a control, or beside its slider."""
        field = self._field(label)
        field.fill(str(value))
        field.press("Enter")
        field.blur()

    def shown(self, label: str) -> str:
        """The number that a control shows."""
        return self._field(label).input_value()

    def _field(self, label: str) -> Any:
        row = self.page.locator(f'xpath=//label[normalize-space()="{label}"]/ancestor::*[.//input[@type="text"]][1]')
        return row.locator("input[type=text]").last

    def check(self, label: str) -> None:
        self.page.get_by_label(label, exact=True).click()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def drag(self, begin: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag on the picture with the left button, in pixels of the window."""
        self.page.mouse.move(*begin)
        self.page.wait_for_timeout(100)
        self.page.mouse.down()
        self.page.mouse.move(*end, steps=6)
        self.page.mouse.up()

    def download(self, name: str) -> bytes:
        with self.page.expect_download(timeout=60_000) as found:
            self.press(name)
        return Path(found.value.path()).read_bytes()


@pytest.fixture
def page(tab: tuple[Any, list[str]], viewer: Viewer) -> Iterator[Page]:
    opened, problems = tab
    problems.clear()
    opened.set_viewport_size({"width": SIZE[0], "height": SIZE[1]})
    opened.goto(viewer.url)
    shown = Page(opened, viewer, problems)
    show_first_alone(shown.session)
    yield shown
    opened.goto("about:blank")
    until(lambda: not viewer.sessions, opened)
    assert problems == []


def differs(a: np.ndarray, b: np.ndarray) -> bool:
    """Two screenshots show different things: more than JPEG makes of one picture."""
    return float(np.abs(a - b).mean()) > 1.0


# ---- the page ----


def test_the_picture_is_that_of_our_renderer_and_changes_with_the_camera(page: Page) -> None:
    before, session = page.settle(), page.session
    camera = session.pose.camera(*SIZE)
    model = session.renderer.edited_gaussians(session.state)
    assert model is not None
    expected = draw(model, camera, DisplaySettings(), RenderOptions(backend="cpu"), samples=2).rgb[PICTURE]
    assert np.abs(before - expected).mean() < 2.0  # of 255, JPEG and the browser's scaling
    assert expected.std() > 10
    pose = session.pose
    page.drag((200, 320), (280, 340))
    after = page.settle()
    assert session.pose != pose and differs(before, after)
    page.page.keyboard.press("r")
    assert np.abs(page.settle() - before).mean() < 1.5


def test_the_page_asks_nobody_else_and_no_other_page_can_show_it_in_a_frame(
    browser: Any, viewer: Viewer, tmp_path: Path
) -> None:
    opened = browser.new_page()
    asked, said = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(viewer.url)
    until(lambda: len(viewer.sessions) == 1, opened)
    session = next(iter(viewer.sessions.values()))
    for tab in ("Cameras", "Compare", "Path", "Edit", "Help", "Show"):
        opened.get_by_role("button", name=tab, exact=True).click()
    opened.get_by_label("Browser draws", exact=True).click()
    until(lambda: "/splats" in session.client.scene._handle_from_node_name, opened)
    opened.wait_for_timeout(2000)  # the splats are sorted
    assert {url for url in asked if not url.startswith("blob:")} == {f"{viewer.url}/"}
    assert not [text for text in said if "Content Security Policy" in text or "Error" in text]
    opened.evaluate("fetch('http://127.0.0.1:9/').catch(() => {})")
    until(lambda: any("Content Security Policy" in text for text in said), opened)
    foreign = tmp_path / "foreign.html"
    foreign.write_text(f'<iframe src="{viewer.url}" width="500" height="300"></iframe>')
    said.clear()
    opened.goto(foreign.as_uri())
    until(lambda: any("frame-ancestors" in text for text in said), opened)
    until(lambda: not viewer.sessions, opened)
    opened.close()


def test_flying_looks_around_and_goes_forward(page: Page) -> None:
    page.settle()
    begin = page.session.pose
    page.page.keyboard.press("o")
    until(lambda: page.is_flying, page)
    page.drag((200, 320), (260, 330))
    page.settle()
    turned = page.session.pose
    assert np.linalg.norm(np.subtract(turned.position, begin.position)) < 0.03  # an orbit would go round the scene
    assert abs(np.dot(turned.wxyz, begin.wxyz)) < 0.98
    page.page.keyboard.down("w")
    page.page.wait_for_timeout(300)
    page.page.keyboard.up("w")
    page.settle()
    gone, up = np.subtract(page.session.pose.position, turned.position), page.session.client.camera.up_direction
    forward = turned.camera(8, 8).viewmat[2, :3].double().numpy()
    level = forward - forward @ up * up  # viser's W goes over the ground, Q and E down and up
    assert np.linalg.norm(gone) > 0.1 and gone @ level > 0.99 * np.linalg.norm(gone) * np.linalg.norm(level)
    page.page.keyboard.press("r")
    until(lambda: not page.is_flying, page)


def test_each_control_of_showing_does_what_it_says(page: Page) -> None:
    seen = {"color": page.settle()}
    for show in ("depth", "alpha", "normals", "count", "bits", "entropy", "error", "bit"):
        page.choose("Show", NAMES[show])
        seen[show] = page.settle()
        assert page.session.state.show == show
    page.number("Bit plane", 6)
    seen["plane"] = page.settle()
    page.choose("Channel", "blue")
    seen["channel"] = page.settle()
    assert (page.session.state.bit, page.session.state.channel) == (6, 2)
    page.choose("Show", "color")
    page.check("Points")
    seen["points"] = page.settle()
    page.check("Points")
    page.number("Splat size (×)", 0.3)
    seen["small"] = page.settle()
    page.number("SH degree", 0)
    page.settle()
    assert (page.session.state.splat_scale, page.session.state.sh_degree) == (0.3, 0)
    names = list(seen)
    same = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if np.abs(seen[a] - seen[b]).mean() < 0.2]
    assert same == []


def test_the_browser_draws_splats_itself(page: Page) -> None:
    page.number("Splat size (×)", 0.3)  # small ones are quickly drawn without a GPU
    before = page.settle()
    page.check("Browser draws")
    until(lambda: page.session.state.browser_draws, page)
    pictures = page.session.pictures_sent

    def is_drawn() -> bool:
        shot = page.shot()
        return shot.std() > 10 and np.corrcoef(shot.ravel(), before.ravel())[0, 1] > 0.9  # without view dependence

    until(is_drawn, page, 90.0)
    assert page.session.pictures_sent == pictures
    page.check("Browser draws")
    until(lambda: not page.session.state.browser_draws, page)
    assert all(np.isfinite(values).all() for values in browser_splats(page.session))
    assert np.abs(page.settle() - before).mean() < 1.5


def test_time_moves_the_scene_and_plays(page: Page) -> None:
    before = page.settle()
    track = page.page.locator("div:has(> .nfc-timeline) + div + div .mantine-Slider-track")
    box = track.bounding_box()
    track.click(position={"x": 0.8 * box["width"], "y": box["height"] / 2})
    until(lambda: abs(page.session.state.time - 0.8) < 0.03, page)
    assert differs(before, page.settle())
    there = page.session.state.time
    page.page.get_by_text(f"{12 * there:.2f} seconds").wait_for()
    page.press("◀ back")
    until(lambda: page.session.state.time == pytest.approx(there - 1 / 60), page)
    page.page.keyboard.press("p")
    until(lambda: page.session.state.playing and page.session.state.time < 0.5, page)  # from the start again
    page.page.keyboard.press("p")
    until(lambda: not page.session.state.playing, page)
    page.page.get_by_role("button", name="Play", exact=True).click()
    until(lambda: page.session.state.playing, page)
    page.page.get_by_role("button", name="Pause", exact=True).click()
    until(lambda: not page.session.state.playing, page)


def test_the_canvas_keeps_the_size_of_the_window_however_few_pictures_a_second_it_shows(page: Page) -> None:
    size = "[...document.querySelectorAll('canvas')].filter(c => c.width).map(c => [c.width, c.height])"
    assert page.page.evaluate(size) == [list(SIZE)]
    page.session.play(True)
    page.page.wait_for_timeout(6000)  # viser decides every 2.5 s
    page.session.play(False)
    page.settle()
    assert page.page.evaluate(size) == [list(SIZE)] and page.session.window == SIZE


def test_keys_do_what_the_help_says_and_a_frustum_is_clicked(page: Page, scene: SceneData) -> None:
    page.settle()
    session, press = page.session, page.page.keyboard.press
    for key, is_done in (
        ("c", lambda: session.state.show == "depth"),
        ("c", lambda: session.state.show == "color"),
        ("v", lambda: session.state.compare == "split"),
        ("v", lambda: session.state.compare == "off"),
        ("k", lambda: len(page.path_panel.path.keys) == 1),
        ("n", lambda: session.state.view == 1),
        ("b", lambda: session.state.view == 0),
        ("r", lambda: np.allclose(session.pose.position, page.viewer.server.initial_camera.position, atol=1e-4)),
        ("f", lambda: session.state.in_scene == {"cameras"}),
    ):
        press(key)
        until(is_done, page)
    view = scene.views[2].camera
    behind = (view.center - 0.5 * view.viewmat[2, :3]).tolist()
    session.move_camera_to(replace(pose_of(view, SIZE[0] / SIZE[1]), position=tuple(behind)))
    page.settle()
    page.page.mouse.click(SIZE[0] / 2, SIZE[1] / 2)
    until(lambda: np.allclose(session.pose.position, view.center, atol=1e-4), page)


def test_a_training_is_seen_and_controlled(tab: tuple[Any, list[str]], scene: SceneData) -> None:
    opened, problems = tab
    problems.clear()
    opened.set_viewport_size({"width": SIZE[0], "height": SIZE[1]})
    calls: list[str] = []
    training = SimpleNamespace(
        model=sources(scene)[1].snapshot().model,
        stopping=False,
        stop=lambda: calls.append("stop"),
        save=lambda: calls.append("save"),
    )
    live = LiveTraining(training, sources(scene)[1])  # type: ignore[arg-type]
    with Viewer([live.source], port=8740, backend="cpu", live=live) as viewer:

        def take_step(step: int) -> None:
            live(StepDone(step, step / 100, 1.0 / step, 20.0 + 0.1 * step, {"gaussians": 300}, 48, 36, 1.0, 60.0))

        for step in range(1, 40):
            take_step(step)
        opened.goto(viewer.url)
        page = Page(opened, viewer, problems)
        opened.get_by_text("Step 39 (39 %)").wait_for()
        assert opened.locator("canvas").count() >= 3  # the scene and two curves
        page.press("Pause")
        until(lambda: live.paused, page)
        page.press("Resume")
        until(lambda: not live.paused, page)
        page.press("Save checkpoint now")
        until(lambda: (take_step(40), "save" in calls)[1], page)
        page.number("Viewer's share", 0.5)
        until(lambda: live.budget.share == 0.5, page)
        page.press("Stop and save")
        opened.get_by_text("It ends after the current step").wait_for()
        page.press("Go on with the training")
        opened.get_by_text("It ends after the current step").wait_for(state="hidden")
        page.press("Stop and save")
        page.press("End it and save")
        until(lambda: calls == ["save", "stop"], page)
        opened.goto("about:blank")
        until(lambda: not viewer.sessions, opened)
    assert problems == []


def test_two_sources_are_compared(page: Page) -> None:
    before = page.settle()
    page.tab("Compare")
    page.choose("Compare", "split")
    page.number("Border", 0.3)
    until(lambda: page.session.state.split == 0.3, page)

    def is_right(split: float) -> bool:
        """Whether the picture right of a border, and nothing left of it, is another one; below the border's knob."""
        change = np.abs(page.settle() - before)[70:].mean((0, 2))  # by column
        border = round(split * SIZE[0])
        return float(change[: border - 5].max()) < 8.0 < float(change[border + 5 :].min())  # of 255; others are green

    until(lambda: is_right(0.3), page)
    place = page.session.pose
    page.drag((0.3 * SIZE[0], 330), (0.45 * SIZE[0], 350))
    until(lambda: page.session.state.split == pytest.approx(0.45, abs=2e-3), page)
    until(lambda: page.shown("Border") == "0.45", page)
    until(lambda: is_right(0.45), page)
    assert page.session.pose == place  # no orbit
    split = page.settle()
    page.tab("Show")
    page.page.get_by_text("Screenshot", exact=True).click()
    page.number("Width (px)", SIZE[0] / 2)
    page.number("Height (px)", SIZE[1] / 2)
    shot = np.asarray(Image.open(io.BytesIO(page.download("Download screenshot"))).convert("RGB")).astype(int)
    seen = split[::2, ::2]
    same = shot[PICTURE[0].start // 2 : PICTURE[0].stop // 2, : seen.shape[1]]  # it was drawn half as large
    assert np.abs(same - seen).mean() < 2.5
    page.tab("Compare")
    page.choose("Compare", "flicker")
    pictures = page.session.pictures_sent
    until(lambda: page.session.pictures_sent >= pictures + 4, page)
    page.choose("Compare", "off")
    until(lambda: not differs(before, page.settle()), page)
    page.problems[:] = [text for text in page.problems if "preventDefault" not in text]  # viser's own, harmless


def test_the_camera_goes_to_views_and_photos_are_measured(page: Page, scene: SceneData) -> None:
    page.tab("Cameras")
    until(lambda: page.session.state.in_scene == {"cameras"}, page)
    page.choose("Cameras", "never")
    until(lambda: not page.session.state.in_scene, page)
    page.choose("View", f"3: {scene.views[3].name}")
    page.settle()
    np.testing.assert_allclose(page.session.pose.position, scene.views[3].camera.center, atol=1e-4)
    page.number("Photo", 1.0)
    shown = page.settle()
    photo = scene.image(3).rgb
    top, left = SIZE[1] // 2 - PICTURE[0].start, SIZE[0] // 2
    middle = shown[top - 40 : top + 40, left - 40 : left + 20].mean((0, 1))
    assert np.abs(middle - photo[14:22, 20:26].mean((0, 1))).max() < 25  # a rough place, of a small photo
    page.press("PSNR here")
    page.page.get_by_text("dB").first.wait_for()
    page.page.locator("textarea").first.fill('{"position": [0, 0, -2], "wxyz": [1, 0, 0, 0], "fov": 0.8}')
    page.page.locator("textarea").first.blur()
    page.page.wait_for_timeout(500)
    page.press("Go to JSON")
    until(lambda: np.allclose(page.session.pose.position, (0, 0, -2), atol=1e-6), page)
    until(lambda: page.shown("FOV (°)") == "46", page)  # degrees of 0.8
    assert page.session.pose.fov == pytest.approx(0.8, abs=1e-6)
    page.page.locator("textarea").first.fill("__import__('os').abort()")
    page.page.locator("textarea").first.blur()
    page.page.wait_for_timeout(500)
    page.press("Go to JSON")
    page.page.get_by_text("not valid JSON").first.wait_for()


def test_a_path_becomes_a_video_that_plays_and_pictures(page: Page, tmp_path: Path) -> None:
    import imageio.v3 as iio

    page.tab("Path")
    page.press("Add keyframe here")
    until(lambda: len(page.path_panel.path.keys) == 1, page)
    page.session.move_camera_to(page.session.pose.__class__((0.5, 0.0, -2.0), (1.0, 0.0, 0.0, 0.0), 0.9))
    until(lambda: np.allclose(page.session.pose.position, (0.5, 0.0, -2.0), atol=1e-4), page)
    page.settle()
    page.press("Add keyframe here")
    until(lambda: len(page.path_panel.path.keys) == 2 and page.session.state.in_scene == {"path"}, page)
    panel = page.path_panel
    numbers = {"Duration (s)": (panel.seconds, 1.0), "Frames / s": (panel.fps, 8)}
    numbers |= {"Width (px)": (panel.width, 64), "Height (px)": (panel.height, 48)}
    for label, (control, value) in numbers.items():
        page.number(label, value)
        until(lambda control=control, value=value: control.value == value, page)
    until(lambda: panel.path.frame_count == 8, page)
    video = tmp_path / "path.mp4"
    video.write_bytes(page.download("Render and download"))
    frames = iio.imread(video)
    assert frames.shape == (8, 48, 64, 3) and np.abs(frames[0].astype(int) - frames[-1]).mean() > 2
    page.choose("File", "PNGs (zip)")
    with zipfile.ZipFile(io.BytesIO(page.download("Render and download"))) as archive:
        assert len(archive.namelist()) == 8
    page.session.move_camera_to(page.session.pose.__class__((0.0, 0.0, -3.0), (1.0, 0.0, 0.0, 0.0), 0.9))
    page.press("Preview")
    until(lambda: np.allclose(page.session.pose.position, (0.5, 0.0, -2.0), atol=1e-4), page)
    page.press("Clear all")
    until(lambda: not page.path_panel.path.keys and not page.session.state.in_scene, page)


def test_screenshot_and_edited_splat_are_downloaded(page: Page, tmp_path: Path) -> None:
    from nfc_gs.formats.ply import read_ply

    before = page.settle()
    page.page.get_by_text("Screenshot", exact=True).click()
    page.number("Width (px)", 200)
    page.number("Height (px)", 100)
    picture = Image.open(io.BytesIO(page.download("Download screenshot")))
    assert picture.size == (200, 100) and np.asarray(picture).std() > 10
    page.tab("Edit")
    page.choose("Crop", "sphere")
    page.page.get_by_text("of 300 Gaussians are left").wait_for()
    assert differs(before, page.settle())
    left = int(page.session.state.edit.kept(page.session.source.snapshot().model).sum())
    file = tmp_path / "left.ply"
    file.write_bytes(page.download("Export what is left as PLY"))
    assert 0 < len(read_ply(file)) == left < 300 and page.session.state.in_scene == {"crop"}
    page.choose("Crop", "none")
    until(lambda: not page.session.state.in_scene, page)
    assert not differs(before[:, 285:], page.settle()[:, 285:])  # beside the browser's notes on downloads


def test_the_window_may_become_a_phone_or_nothing(page: Page) -> None:
    page.page.set_viewport_size({"width": 390, "height": 780})
    page.settle()
    assert page.session.window[0] <= 390
    page.check("Points")
    until(lambda: page.session.state.points, page)
    page.tab("Cameras")
    page.press("Reset")
    page.tab("Show")
    page.check("Points")
    until(lambda: not page.session.state.points, page)
    page.page.set_viewport_size({"width": 1, "height": 1})
    page.page.wait_for_timeout(500)
    page.page.set_viewport_size({"width": SIZE[0], "height": SIZE[1]})
    assert page.settle().std() > 10
