"""What only a browser shows of the viewer: room for the picture, tabs, tooltips, arrows that are dragged."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from viewer_client import bits_model, panel_of, scene_nodes, sources, until

from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData
from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.live import LiveTraining
from nfc_gs.viewer.panels.legend import LegendPanel
from nfc_gs.viewer.session import Session

pytestmark = pytest.mark.slow

DESKTOP, PHONE = (1280, 800), (390, 844)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> SceneData:
    return load_scene(write_capture(tmp_path_factory.mktemp("layout") / "capture", views=6, width=48, height=36))


@pytest.fixture(scope="module")
def viewer(scene: SceneData) -> Iterator[Viewer]:
    """A page with every tab there is."""
    shown = sources(scene)
    live = LiveTraining(SimpleNamespace(model=bits_model(scene, 0.2), stopping=False), shown[0])  # type: ignore[arg-type]
    with Viewer(shown, port=8730, backend="cpu", live=live) as viewer:
        yield viewer


class Page:
    """The page in a browser, and the session behind it."""

    def __init__(self, browser: Any, viewer: Viewer, size: tuple[int, int], **options: Any) -> None:
        """Open it; `options` as Playwright's `new_page` has them."""
        self.page = browser.new_page(viewport={"width": size[0], "height": size[1]}, **options)
        self.page.goto(viewer.url)
        until(lambda: len(viewer.sessions) == 1, self.page)
        self.session: Session = next(iter(viewer.sessions.values()))
        until(lambda: self.session.pictures_sent > 0, self.page)
        self.page.get_by_text("nfc-gs", exact=True).first.wait_for()

    def tab(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True).first

    def close(self, viewer: Viewer) -> None:
        self.page.close()
        until(lambda: not viewer.sessions)


@pytest.fixture
def desktop(browser: Any, viewer: Viewer) -> Iterator[Page]:
    page = Page(browser, viewer, DESKTOP)
    yield page
    page.close(viewer)


@pytest.fixture
def phone(browser: Any, viewer: Viewer) -> Iterator[Page]:
    page = Page(browser, viewer, PHONE)
    yield page
    page.close(viewer)


TABS = ("Training", "Show", "Cameras", "Compare", "Path", "Edit", "Help")


def are_in_one_line(page: Page) -> bool:
    """Whether all tabs are beside each other and have room for their names."""
    boxes = [page.tab(name).bounding_box() for name in TABS]
    rights = [box["x"] + box["width"] for box in boxes]
    fits = [page.tab(name).evaluate("e => e.scrollWidth <= e.clientWidth") for name in TABS]
    beside = all(right <= box["x"] + 0.5 for right, box in zip(rights[:-1], boxes[1:], strict=True))
    width = page.page.viewport_size["width"]
    return len({round(box["y"]) for box in boxes}) == 1 and beside and all(fits) and rights[-1] <= width


def test_all_tabs_are_in_one_line_and_what_viser_doubles_is_gone(desktop: Page) -> None:
    desktop.tab("Help").wait_for()
    until(lambda: are_in_one_line(desktop), desktop.page)
    desktop.page.locator("svg.tabler-icon-adjustments").first.click()
    desktop.page.get_by_text("Scene tree").wait_for()
    for name in ("Save Canvas", "Reset View"):
        assert not desktop.page.get_by_text(name).is_visible()


def test_a_tooltip_covers_no_control(desktop: Page) -> None:
    desktop.tab("Show").click()
    slider = desktop.page.locator(".mantine-Slider-root:visible").first
    slider.hover()
    tip = desktop.page.locator(".mantine-Tooltip-tooltip:visible").first
    tip.wait_for()
    until(lambda: tip.bounding_box()["x"] > 0, desktop.page)
    box, control, panel = tip.bounding_box(), slider.bounding_box(), desktop.tab("Training").bounding_box()
    assert box["x"] + box["width"] <= panel["x"], "it is left of the panel"
    assert box["y"] <= control["y"] + control["height"] and box["y"] + box["height"] >= control["y"], "and beside it"


def test_on_a_phone_the_panel_starts_small_and_opens_with_a_tap(phone: Page) -> None:
    controls = phone.page.get_by_text("Controls", exact=True)
    controls.wait_for()
    title = phone.page.get_by_text("nfc-gs", exact=True).first
    until(lambda: title.bounding_box()["y"] > 0.75 * PHONE[1], phone.page)
    assert not phone.tab("Help").is_visible()
    controls.click()
    phone.tab("Help").wait_for()
    until(lambda: title.bounding_box()["y"] < 0.75 * PHONE[1], phone.page)
    until(lambda: are_in_one_line(phone), phone.page)  # once it has unfolded


def test_a_phone_with_a_fine_screen_is_a_phone_too(browser: Any, viewer: Viewer) -> None:
    page = Page(browser, viewer, PHONE, device_scale_factor=2, is_mobile=True, has_touch=True)
    assert page.session.window[0] == 2 * PHONE[0]
    controls = page.page.get_by_text("Controls", exact=True)
    controls.wait_for()
    assert not page.tab("Help").is_visible()
    controls.tap()
    page.tab("Help").wait_for()
    page.close(viewer)


def test_the_slider_of_sizes_has_no_number_as_that_would_be_a_logarithm(desktop: Page) -> None:
    page = desktop.page
    desktop.tab("Edit").click()
    page.get_by_text("Max size", exact=True).wait_for()
    sliders, numbers = (page.locator(f".mantine-{kind}-root:visible") for kind in ("Slider", "NumberInput"))
    until(lambda: (sliders.count(), numbers.count()) == (3, 1), page)  # a slider is the timeline's


def test_an_arrow_of_the_crop_is_dragged_with_the_mouse_and_a_number_is_read_with_a_click(
    desktop: Page, viewer: Viewer
) -> None:
    page, session = desktop.page, desktop.session
    desktop.tab("Edit").click()
    page.get_by_label("Crop", exact=True).first.click()
    page.get_by_role("option", name="box", exact=True).click()
    until(lambda: session.state.edit.box is not None and "/crop/x+" in scene_nodes(session), page)
    low, high = session.state.edit.box or ((0.0,) * 3, (0.0,) * 3)
    center = (np.asarray(low) + high) / 2
    session.client.camera.position = tuple(center + np.array([0.0, -6.0, 0.5]))
    session.client.camera.look_at = tuple(center)
    page.wait_for_timeout(1000)
    face = scene_nodes(session)["/crop/x+"]

    def on_screen(place: np.ndarray) -> tuple[float, float]:
        camera = session.pose.camera(*DESKTOP)
        x, y, z = (camera.viewmat.numpy().astype(float) @ [*place, 1.0])[:3]
        return camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy

    x, y = on_screen(np.asarray(face.position))
    outside, _ = on_screen(face.position + np.array([0.2, 0.0, 0.0]))
    along = 1.0 if outside > x else -1.0
    page.mouse.move(x + 40 * along, y)  # on the arrow, which is about 60 pixels long
    page.wait_for_timeout(300)
    page.mouse.down()
    page.mouse.move(x + 140 * along, y, steps=8)
    page.mouse.up()
    until(lambda: session.state.edit.box is not None and session.state.edit.box[1][0] > high[0] + 0.1, page)
    moved = session.state.edit.box
    assert moved is not None and moved[0] == low and moved[1][1:] == high[1:]
    session.update(show="count")
    place = session.pose
    page.mouse.click(500, 400)
    legend = panel_of(viewer, session, LegendPanel)
    until(lambda: "here: <b>" in legend.bar.content, page)
    page.get_by_text("here:").wait_for()
    assert session.pose == place


def play_button(page: Any) -> Any:
    return page.get_by_role("button", name="Play", exact=True)


def is_on_top(element: Any) -> bool:
    """Whether the middle of an element is what a click there meets."""
    return element.evaluate(
        """e => {
          const box = e.getBoundingClientRect();
          return e.contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2));
        }"""
    )


def is_seen(page: Any, selector: str) -> bool:
    """Whether what a selector finds is in sight, though clicks go through it."""
    return page.locator(selector).first.evaluate(
        """e => {
          const box = e.getBoundingClientRect();
          e.style.pointerEvents = "auto";
          const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
          e.style.pointerEvents = "";
          return box.width > 0 && (e === top || e.contains(top));
        }"""
    )


def test_the_timeline_is_at_the_bottom_left_of_the_panel_and_the_names_are_beside_the_border(desktop: Page) -> None:
    page, width, height = desktop.page, *DESKTOP
    desktop.tab("Help").click()
    panel = desktop.tab("Training").bounding_box()
    slider = page.locator(".mantine-Slider-root:visible").first
    until(lambda: (slider.bounding_box() or {"y": 0})["y"] > height - 60, page)  # None while it is drawn anew
    play_button(page).wait_for()
    for part in (play_button(page), slider, page.locator(".nfc-timeline")):
        box = part.bounding_box()
        assert height - 60 < box["y"] < height and box["x"] + box["width"] < panel["x"]
    assert not page.get_by_text("Time", exact=True).first.is_visible(), "the time is there once"
    slider.click()
    until(lambda: 0.3 < desktop.session.state.time < 0.7, page)
    left, right = (page.locator(".nfc-half").nth(k).bounding_box() for k in (0, 1))
    assert left["x"] + left["width"] < width / 2 < right["x"] and max(left["y"], right["y"]) < 40


def test_the_timeline_of_a_phone_is_at_the_top_and_nothing_covers_it_or_the_names(phone: Page) -> None:
    page = phone.page
    slider = page.locator(".mantine-Slider-root:visible").first
    until(lambda: 40 < (slider.bounding_box() or {"y": 0})["y"] < 100, page)
    assert slider.bounding_box()["width"] > 100
    phone.session.notify("A note", "of the viewer")
    page.get_by_text("of the viewer").wait_for()
    assert not page.get_by_text("Software WebGL").is_visible()
    assert is_on_top(play_button(page)) and is_on_top(slider)
    assert is_seen(page, ".nfc-half >> nth=0") and is_seen(page, ".nfc-half >> nth=1")
    page.get_by_text("of the viewer").wait_for(state="hidden")


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_timeline_and_names_stay_while_visers_panel_is_minimized_which_loses_nothing(
    browser: Any, viewer: Viewer, size: tuple[int, int]
) -> None:
    opened = Page(browser, viewer, size)
    page, title = opened.page, opened.page.get_by_text("nfc-gs", exact=True).first
    if size == PHONE:
        page.get_by_text("Controls", exact=True).click()
    opened.tab("Compare").click()
    page.get_by_label("Compare", exact=True).first.wait_for()
    title.click()
    until(lambda: not opened.tab("Compare").is_visible() or opened.tab("Compare").bounding_box()["y"] > size[1], page)
    until(lambda: is_on_top(play_button(page)), page)
    assert is_seen(page, ".nfc-half >> nth=0") and is_seen(page, ".nfc-half >> nth=1")
    play_button(page).click()
    until(lambda: opened.session.state.playing, page)
    page.get_by_role("button", name="Pause", exact=True).click()
    until(lambda: not opened.session.state.playing, page)
    title.click()
    page.get_by_label("Compare", exact=True).first.wait_for()
    opened.close(viewer)


def test_buttons_have_tooltips_and_keep_their_names(desktop: Page) -> None:
    page = desktop.page
    desktop.tab("Path").click()
    button = page.get_by_role("button", name="Preview", exact=True)
    button.hover()
    after = "e => ['content', 'visibility', 'left', 'width'].map(k => getComputedStyle(e, '::after')[k])"
    until(lambda: button.evaluate(after)[1] == "visible", page)
    content, _, left, width = button.evaluate(after)
    assert "Go along the path once" in content
    assert float(left[:-2]) + float(width[:-2]) <= desktop.tab("Training").bounding_box()["x"], (
        "it is left of the panel"
    )


def test_a_file_that_is_refused_is_not_called_uploaded(desktop: Page) -> None:
    page = desktop.page
    desktop.tab("Path").click()
    page.get_by_text("Save and load", exact=True).click()
    for name, content, reason in (
        ("large.json", b" " * (5 * 2**20), "at most 4 MB"),
        ("odd.json", b"{}", "is no camera path"),
    ):
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Load path", exact=True).click()
        chooser.value.set_files({"name": name, "mimeType": "application/json", "buffer": content})
        page.get_by_text(f"{name} is not loaded").wait_for()
        page.get_by_text(reason).wait_for()
        page.wait_for_timeout(500)
        assert not page.get_by_text("uploaded successfully").is_visible()
