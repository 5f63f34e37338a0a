"""What a page shows in the scene and over the picture: cameras, keyframes, the crop, the legend."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from time import sleep

import numpy as np
import pytest
import torch
from viewer_client import panel_of, scene_nodes, show_first_alone, sources, texts, until
from viewer_models import CPU, POSE, many, model, one
from viewer_pages import Page, opened

from nfc_gs.core.colormap import ERROR_FULL, apply
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.cameras import pose_of
from nfc_gs.viewer.content import WIDEST_HOME, Content
from nfc_gs.viewer.draw import COUNT_FULL, Photo, draw, prepared, sized_points, value_at
from nfc_gs.viewer.edit import dense_box
from nfc_gs.viewer.frustums import frustum_size
from nfc_gs.viewer.panels import views
from nfc_gs.viewer.panels.legend import LegendPanel, Scale, legend_html
from nfc_gs.viewer.panels.path import CLEAR, UNDO
from nfc_gs.viewer.panels.tabs import Tabs
from nfc_gs.viewer.source import Source
from nfc_gs.viewer.state import DisplaySettings


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> SceneData:
    return load_scene(write_capture(tmp_path_factory.mktemp("overlays") / "capture", views=6, width=48, height=36))


@pytest.fixture(scope="module")
def viewer(scene: SceneData) -> Iterator[Viewer]:
    with Viewer(sources(scene), port=8650, backend="cpu") as shown:
        yield shown


@pytest.fixture
def page(viewer: Viewer) -> Iterator[Page]:
    for page in opened(viewer):
        show_first_alone(page.session)
        yield page


# ---- cameras, keyframes and the crop in the scene ----


def cameras_seen(page: Page) -> set[int]:
    """Those of the capture's cameras that the scene of a page shows."""
    nodes = scene_nodes(page.session)
    if "/cameras" not in nodes or not nodes["/cameras"].visible:
        return set()
    return {i for i in range(6) if f"/cameras/{i}" in nodes and nodes[f"/cameras/{i}"].visible}


def test_the_cameras_are_seen_in_their_tab_and_elsewhere_if_wanted(page: Page) -> None:
    page.client.move(50.0)  # far from all of them
    assert cameras_seen(page) == set() and not page.session.state.in_scene
    page.open("Cameras")
    until(lambda: cameras_seen(page) == set(range(6)) and page.session.state.in_scene == {"cameras"})
    page.open("Show")
    until(lambda: cameras_seen(page) == set() and not page.session.state.in_scene)
    page.key("F")
    until(lambda: page.control("Cameras").value == "always" and cameras_seen(page) == set(range(6)))
    page.key("F")
    until(lambda: page.control("Cameras").value == "never" and cameras_seen(page) == set())
    page.open("Cameras")
    assert cameras_seen(page) == set()


def test_a_click_on_a_frustum_moves_the_camera_there_and_hides_it(page: Page, scene: SceneData) -> None:
    page.client.move(50.0)
    page.open("Cameras")
    until(lambda: cameras_seen(page) == set(range(6)))
    size = page.node("/cameras/0").scale
    page.set("Size (×)", 0.5)
    until(lambda: all(page.node(f"/cameras/{i}").scale == pytest.approx(0.5 * size) for i in range(6)))
    page.client.click(page.node("/cameras/4"))
    center = scene.views[4].camera.center
    until(lambda: np.allclose(page.session.pose.position, center, atol=1e-4))
    until(lambda: page.control("View").value.startswith("4: "))
    x, y, z = center.tolist()
    page.client.move(0.0, position=[x, y, z])  # as the browser says in return
    until(lambda: cameras_seen(page) == {0, 1, 2, 3, 5})
    page.client.move(50.0)
    until(lambda: cameras_seen(page) == set(range(6)))


def test_frustums_hide_near_the_eye_of_their_own_page_alone(viewer: Viewer, scene: SceneData) -> None:
    first = Page(viewer)
    second = Page(viewer)
    for page in (first, second):
        page.client.move(50.0)
        page.open("Cameras")
    until(lambda: cameras_seen(first) == cameras_seen(second) == set(range(6)))
    first.client.move(0.0, position=scene.views[2].camera.center.tolist())
    until(lambda: cameras_seen(first) == {0, 1, 3, 4, 5})
    assert cameras_seen(second) == set(range(6))
    second.open("Path")
    until(lambda: cameras_seen(second) == set())
    assert cameras_seen(first) == {0, 1, 3, 4, 5}
    for page in (first, second):
        page.client.close()
    until(lambda: not viewer.sessions)


def test_neighbouring_frustums_stay_apart(scene: SceneData, viewer: Viewer) -> None:
    size = frustum_size(viewer.content)
    centers = torch.stack([view.camera.center for view in scene.views])
    distances = torch.cdist(centers, centers).fill_diagonal_(torch.inf)
    assert 0.0 < size < 0.35 * float(distances.amin(1).median())


def test_cameras_that_are_hidden_while_their_photos_are_read_do_not_appear(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, read = threading.Event(), []

    def slow(_: SceneData, index: int) -> None:
        read.append(index)
        assert go_on.wait(20.0)

    monkeypatch.setattr(views, "_thumbnail", slow)
    page.open("Cameras")
    until(lambda: read == [0])
    page.open("Show")
    until(lambda: not page.session.state.in_scene)
    go_on.set()
    until(lambda: "/cameras/0" in scene_nodes(page.session))
    sleep(0.1)
    assert read == [0] and cameras_seen(page) == set()
    page.client.move(50.0)
    page.open("Cameras")
    until(lambda: cameras_seen(page) == set(range(6)))
    assert read == [0, 1, 2, 3, 4, 5]


def test_keyframes_are_small_frustums_of_their_tab_and_hide_near_the_eye(page: Page) -> None:
    page.add_keys(0.0, 40.0)
    until(lambda: {"/path", "/keyframes/1"} <= scene_nodes(page.session).keys())
    assert not page.session.state.in_scene and not page.node("/keyframes").visible and not page.node("/path").visible
    page.client.move(20.0)
    page.open("Path")
    until(lambda: page.session.state.in_scene == {"path"} and page.node("/path").visible)
    until(lambda: page.node("/keyframes/0").visible and page.node("/keyframes/1").visible)
    assert page.node("/keyframes/0").scale < 0.1 * page.session.content.middle_and_radius()[1]
    page.client.move(40.0)
    until(lambda: page.node("/keyframes/0").visible and not page.node("/keyframes/1").visible)
    page.client.click(page.node("/keyframes/0"))
    until(lambda: page.path_panel.chosen == 0)
    page.set("Show the path", False)
    until(lambda: not page.session.state.in_scene and not page.node("/keyframes").visible)


def test_all_keyframes_are_cleared_and_come_back(page: Page) -> None:
    clear = page.control("Clear all")
    assert not clear.visible
    page.add_keys(0.0, 1.0, 2.0)
    until(lambda: clear.visible)
    page.press("Clear all")
    until(lambda: page.places() == [] and clear.label == UNDO)
    until(lambda: page.control("Keyframe").options == ("none",) and "/keyframes/0" not in scene_nodes(page.session))
    page.press(UNDO)
    until(lambda: page.places() == [0.0, 1.0, 2.0] and clear.label == CLEAR)
    page.press(CLEAR)
    until(lambda: page.places() == [])
    page.add_keys(5.0)
    until(lambda: clear.label == CLEAR)
    assert page.places() == [5.0]


def drag_face(page: Page, name: str, *places: tuple[float, float, float]) -> None:
    """Drag the arrow of a face of the crop box along places."""
    face = {"name": f"/crop/{name}", "owner": str(page.session.id)}
    page.client.send("TransformControlsDragStartMessage", **face)
    for place in places:
        page.client.send("TransformControlsUpdateMessage", wxyz=(1.0, 0.0, 0.0, 0.0), position=place, **face)
    page.client.send("TransformControlsDragEndMessage", **face)


def test_an_arrow_moves_its_face_of_the_box_alone_and_not_through_the_other(page: Page) -> None:
    page.open("Edit")
    page.set("Crop", "box")
    page.set("Box from", [-1.0, -1.0, -1.0])
    page.set("Box to", [1.0, 1.0, 1.0])
    until(lambda: page.session.state.edit.box == ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)))
    until(lambda: np.allclose(page.node("/crop/y+").position, (0.0, 1.0, 0.0)))
    drag_face(page, "y+", (0.0, 1.2, 0.0), (0.0, 1.5, 0.0))
    until(lambda: page.session.state.edit.box == ((-1.0, -1.0, -1.0), (1.0, 1.5, 1.0)))
    drag_face(page, "x-", (-3.0, 0.25, 0.0))
    until(lambda: page.session.state.edit.box == ((-3.0, -1.0, -1.0), (1.0, 1.5, 1.0)))
    until(lambda: np.allclose(page.node("/crop/z-").position, (-1.0, 0.25, -1.0)))  # the middle of its face
    drag_face(page, "z-", (-1.0, 0.25, 5.0))
    until(lambda: page.session.state.edit.box == ((-3.0, -1.0, 1.0), (1.0, 1.5, 1.0)))
    until(lambda: np.allclose(page.node("/crop/z-").position, (-1.0, 0.25, 1.0)))


def test_a_box_is_kept_while_it_is_off_and_fits_the_scene_again(page: Page) -> None:
    page.open("Edit")
    page.set("Crop", "box")
    until(lambda: page.session.state.edit.box is not None)
    fitted = page.session.state.edit.box
    page.set("Box to", [9.0, 9.0, 9.0])
    until(lambda: page.session.state.edit.box == (fitted[0], (9.0, 9.0, 9.0)))
    page.set("Crop", "none")
    until(lambda: page.session.state.edit.box is None and not page.session.state.in_scene)
    assert not page.node("/crop/box").visible and not page.node("/crop/x+").visible
    page.set("Crop", "box")
    until(lambda: page.session.state.edit.box == (fitted[0], (9.0, 9.0, 9.0)))
    page.press("Fit to the scene")
    until(lambda: page.session.state.edit.box == fitted)
    page.open("Show")
    until(lambda: not page.node("/crop").visible and not page.session.state.in_scene)
    assert page.session.state.edit.box == fitted  # the crop itself stays


def test_the_box_fits_the_dense_middle_and_not_what_is_far_out_or_faint() -> None:
    count = 1000
    middle = 0.2 * torch.randn(count, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, 2.0, 3.0])
    faint = torch.full((count, 3), 7.0)
    far = torch.linspace(-3000.0, -50.0, 100)[:, None].expand(-1, 3)
    tensors = one().tensors()
    every = {name: tensor[:1].repeat(2 * count + 100, *[1] * (tensor.ndim - 1)) for name, tensor in tensors.items()}
    every["means"] = torch.cat([middle, faint, far])
    every["opacity_logits"] = torch.cat(
        [torch.full((count,), 4.0), torch.full((count,), -9.0), torch.full((100,), 4.0)]
    )
    every["means"][5] = torch.nan
    low, high = dense_box(GaussianModel(every))
    for axis, place in enumerate((1.0, 2.0, 3.0)):
        assert place - 0.8 < low[axis] < place - 0.2 and place + 0.2 < high[axis] < place + 0.8
    low, high = dense_box(GaussianModel({name: tensor[:1] for name, tensor in every.items()}))
    assert all(a < float(x) < b for a, x, b in zip(low, middle[0], high, strict=True))


# ---- what colors stand for ----


@pytest.mark.parametrize("show", ["depth", "count", "error", "entropy"])
def test_the_number_of_a_pixel_is_that_of_its_color(show: str) -> None:
    splats = model(200, head="bits")
    camera = POSE.camera(48, 36)
    settings = DisplaySettings(show=show, colormap="viridis", depth_range=(1.0, 6.0))  # type: ignore[arg-type]
    photo = Photo(camera, np.full((36, 48, 3), 90, np.uint8)) if show == "error" else None
    ready = prepared(splats, None, settings)
    picture = draw(ready, camera, settings, CPU, photo=photo)
    middle = value_at(ready, camera.crop(24, 18, 1, 1), settings, CPU, time=None, photo=photo)
    assert middle is not None
    share = {"depth": (middle - 1.0) / 5.0, "count": middle / COUNT_FULL, "error": middle / ERROR_FULL}.get(
        show, middle
    )
    color = apply(torch.tensor([share]), "inferno" if show == "error" else "viridis")[0]
    if show == "depth":
        color = color * float(draw(ready, camera, DisplaySettings("alpha"), CPU).rgb[18, 24, 0]) / 255
    np.testing.assert_allclose(picture.rgb[18, 24], 255 * color.numpy(), atol=2.0)


def test_where_nothing_is_there_is_no_depth_and_a_color_is_no_number() -> None:
    camera = POSE.camera(48, 36).crop(24, 18, 1, 1)
    away, here = one(z=-50.0), one()
    assert value_at(away, camera, DisplaySettings("depth"), CPU, time=None, photo=None) is None
    depth = value_at(here, camera, DisplaySettings("depth"), CPU, time=None, photo=None)
    assert depth == pytest.approx(3.0, abs=0.05)
    for show in ("color", "alpha", "normals", "error"):  # an error needs a photo
        assert value_at(here, camera, DisplaySettings(show), CPU, time=None, photo=None) is None  # type: ignore[arg-type]


def test_a_picture_of_depths_says_which_have_the_first_and_the_last_color() -> None:
    camera = POSE.camera(48, 36)
    picture = draw(many(), camera, DisplaySettings("depth"), CPU)
    assert picture.depth_range is not None and picture.depth is not None
    covered = picture.depth[picture.depth < 1e3]
    assert picture.depth_range == pytest.approx((np.quantile(covered, 0.01), np.quantile(covered, 0.99)), rel=0.02)
    assert draw(many(), camera, DisplaySettings("depth", depth_range=(1.0, 2.0)), CPU).depth_range == (1.0, 2.0)
    assert draw(many(), camera, DisplaySettings(), CPU).depth_range is None


def test_the_legend_names_the_ends_of_the_colors_and_the_number_that_was_clicked(page: Page) -> None:
    legend = panel_of(page.viewer, page.session, LegendPanel)
    assert not legend.bar.visible
    page.key("C")
    until(lambda: legend.bar.visible and "Depth (scene units)" in legend.bar.content)
    near, far = page.session.depth_range or (0.0, 0.0)
    assert 0.0 < near < far
    until(lambda: f"{near:.3g}" in legend.bar.content and f"{far:.3g}+" in legend.bar.content)
    assert "click" in legend.bar.content
    click = {"event_type": "click", "ray_origin": (0.0, 0.0, 0.0), "ray_direction": (0.0, 0.0, 1.0), "modifier": None}
    place = (0.4, 0.6)
    page.client.send("ScenePointerMessage", screen_pos=(place,), **click)
    value = page.session.value_at(*place)
    expected = "nothing there" if value is None else f"here: <b>{value:.3g}</b>"
    until(lambda: expected in legend.bar.content)
    page.set("Show", "splats per pixel")
    until(lambda: "Splats per pixel" in legend.bar.content and "here" not in legend.bar.content)
    page.set("Show", "color")
    until(lambda: not legend.bar.visible)


def test_the_legend_of_the_error_says_where_to_go_while_the_camera_is_elsewhere(page: Page) -> None:
    legend, session = panel_of(page.viewer, page.session, LegendPanel), page.session
    session.move_camera_to_view(2)
    page.set("Show", "error")
    until(lambda: "Error" in legend.bar.content)
    assert "was taken" not in legend.bar.content
    pose, scene = session.pose, session.content.scene
    assert scene is not None
    session.move_camera_to(replace(pose, position=(pose.position[0] + 0.5, *pose.position[1:])))
    until(lambda: f"where {scene.views[2].name} was taken" in legend.bar.content)
    session.move_camera_to_view(3)
    until(lambda: "was taken" not in legend.bar.content)
    page.set("Show", "color")
    until(lambda: not legend.bar.visible)


def test_the_number_of_a_place_is_that_of_the_source_on_its_side_of_a_border(viewer: Viewer) -> None:
    two = [Source("near", one()), Source("far", one(z=2.0, log_scale=1.0))]
    with Viewer(two, port=8660, backend="cpu") as shown:
        for page in opened(shown):
            session = page.session
            session.update(show="depth", compare="split", split=0.5)
            assert session.value_at(0.51, 0.5) == pytest.approx(5.0, abs=0.3)
            session.update(split=0.6)
            assert session.value_at(0.5, 0.5) == pytest.approx(3.0, abs=0.1)
            assert session.value_at(-3.0, 9.0) == session.value_at(0.0, 1.0)


def test_a_mark_on_the_bar_is_at_the_value_and_never_beside_the_bar() -> None:
    scale = Scale("Depth", "turbo", 2.0, 6.0)
    assert "50.0%" in legend_html(scale, 4.0) and "100.0%" in legend_html(scale, 60.0)
    assert "calc(0.0%" in legend_html(scale, -1.0) and "calc" not in legend_html(scale)
    assert "nothing there" in legend_html(scale, None) and "calc" not in legend_html(scale, None)


# ---- points ----


@pytest.mark.parametrize("size", [3.0, 6.0, 12.0])
@pytest.mark.parametrize("distance", [1.0, 5.0])
def test_points_have_their_size_at_any_distance(size: float, distance: float) -> None:
    settings = DisplaySettings(points=True, point_size=size)
    camera = POSE.camera(101, 101)
    point = prepared(one(z=distance - 3.0), None, settings)
    for samples in (1, 2):
        red = draw(point, camera, settings, CPU, samples=samples).rgb[50, :, 0].astype(float)
        width = float((red > 0.5 * red.max()).sum())
        assert width == pytest.approx(size, abs=1.1)


def test_points_at_the_camera_and_behind_it_do_no_harm() -> None:
    settings = DisplaySettings(points=True, point_size=4.0)
    for z in (-3.0, -9.0):
        points = prepared(one(z=z), None, settings)
        assert sized_points(points, POSE.camera(32, 24), 4.0).log_scales.isfinite().all()
        draw(points, POSE.camera(32, 24), settings, CPU)


def test_the_size_of_points_can_be_chosen_while_there_are_points(page: Page) -> None:
    size = page.control("Point size (px)")
    assert not size.visible and page.control("Splat size (×)").visible
    page.set("Points", True)
    until(lambda: size.visible and not page.control("Splat size (×)").visible)
    page.set("Point size (px)", 7.0)
    until(lambda: page.session.state.point_size == 7.0)


# ---- tabs, and a phone ----


def test_one_tab_is_open_and_a_name_that_is_none_opens_nothing(page: Page) -> None:
    tabs = panel_of(page.viewer, page.session, Tabs)
    assert tabs.names == ("Show", "Cameras", "Compare", "Path", "Edit", "Help")
    page.open("Help")
    until(lambda: any("Mouse" in text for text in texts(page.session)))
    page.set("Tab", "Nowhere")
    page.set("Tab", "Edit")
    until(lambda: tabs.opened == "Edit")
    assert "nth-child(5)" in tabs.mark.content


def test_a_narrow_window_shows_all_of_the_first_view(viewer: Viewer, scene: SceneData) -> None:
    content, view = viewer.content, scene.views[viewer.content.first_view].camera
    home = content.home
    assert content.home_in(16 / 9).fov == pytest.approx(home.fov)
    for aspect in (0.8, 1.0, 1.3):
        needed = max(pose_of(view, aspect).fov, home.fov)
        assert content.home_in(aspect) == replace(home, fov=pytest.approx(needed))
    assert home.fov < content.home_in(0.46).fov <= WIDEST_HOME
    splats = Content([Source("alone", many())], backend="cpu")
    assert splats.home_in(2.0) == splats.home and splats.home.fov < splats.home_in(0.5).fov


def test_a_very_narrow_window_shows_it_from_farther_back_but_not_from_far_outside_the_capture(
    viewer: Viewer, scene: SceneData
) -> None:
    content, view = viewer.content, scene.views[viewer.content.first_view].camera
    home, (middle, _) = content.home, content.middle_and_radius()
    near = np.linalg.norm(np.subtract(home.position, home.look_at))

    def distance(aspect: float) -> float:
        there = content.home_in(aspect)
        assert there.fov == WIDEST_HOME and there.look_at == home.look_at and there.up == home.up
        ahead, away = np.subtract(home.look_at, home.position), np.subtract(there.look_at, there.position)
        assert np.dot(ahead, away) == pytest.approx(np.linalg.norm(ahead) * np.linalg.norm(away)), "straight back"
        return float(np.linalg.norm(away))

    narrow = math.tan(pose_of(view, 1.0).fov / 2) / math.tan(WIDEST_HOME / 2)  # whose width just fits
    assert distance(narrow / 1.2) == pytest.approx(1.2 * near, rel=1e-3)
    farthest = max(math.dist(scene.views[index].camera.center.tolist(), middle) for index in scene.train)
    assert distance(0.01) == pytest.approx(max(2 * farthest, near))


def test_a_page_begins_at_the_camera_for_its_window_and_on_a_phone_without_controls(viewer: Viewer) -> None:
    sizes = ((200, 844, True), (390, 844, True), (780, 1688, True), (1170, 1992, True), (1280, 800, False))
    for width, height, is_phone in (*sizes, (2560, 1600, False), (1536, 2048, False)):
        there = viewer.content.home_in(width / height)
        page = Page(viewer, image_width=width, image_height=height)
        if is_phone:  # on others viser's own start is that of the server
            assert page.session.pose.fov == pytest.approx(there.fov, abs=1e-6)
            np.testing.assert_allclose(page.session.pose.position, there.position, atol=1e-5)
        assert any(folder.label == "Controls" for folder in page.folders()) is is_phone
        page.session.client.camera.fov = 0.3
        page.key("R")
        until(lambda page=page, there=there: page.session.pose.fov == pytest.approx(there.fov))
        np.testing.assert_allclose(page.session.pose.position, there.position, atol=1e-5)
        page.client.close()
        until(lambda: not viewer.sessions)
