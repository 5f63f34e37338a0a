"""The controls of the viewer's page: what each explains, the border of a comparison, orbiting and flying."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from viewer_client import Client, commands, controls, panel_of, texts, until

from nfc_gs.core.rotation import quat_to_matrix
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.loading import load_scene
from nfc_gs.data.stored import without_photos
from nfc_gs.model.deformation import Deformation
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.heads.bits import start_bits
from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.border import MIN_SPLIT, REACH_PIXELS, paint_knob, strip
from nfc_gs.viewer.cameras import Pose
from nfc_gs.viewer.live import LiveTraining
from nfc_gs.viewer.panels.camera import FLY_DISTANCE, CameraPanel, set_turning_point
from nfc_gs.viewer.panels.compare import ComparePanel
from nfc_gs.viewer.panels.display import DisplayPanel
from nfc_gs.viewer.panels.views import ALWAYS, ViewsPanel
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.source import Source


class Still(Deformation):
    """A deformation that changes nothing."""

    def __init__(self) -> None:
        super().__init__("mlp", ("means",), torch.tensor([[-9.0] * 3, [9.0] * 3]))

    def changes(self, means: torch.Tensor, time: float, operations: object = None) -> torch.Tensor:
        return torch.zeros_like(means)


def ball(moves: bool) -> GaussianModel:
    """One opaque Gaussian in the middle, with bits."""
    tensors: dict[str, Any] = {
        "means": torch.zeros(1, 3),
        "log_scales": torch.full((1, 3), -2.0),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        "opacity_logits": torch.full((1,), 6.0),
        **start_bits(torch.full((1, 3), 0.8), 1, hardness=0.7),
    }
    return GaussianModel(tensors, Still() if moves else None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """A page with every control there is: of a training that moves and has bits, a capture, and something beside it."""
    scene = load_scene(write_capture(tmp_path_factory.mktemp("controls") / "capture", views=6, width=48, height=36))
    source = Source("run", ball(moves=True), scene=scene)
    live = LiveTraining(SimpleNamespace(), source)  # type: ignore[arg-type]
    sources = [source, Source("other", ball(moves=False))]
    with Viewer(sources, port=8770, backend="cpu", live=live) as viewer:
        client = Client(viewer)
        client.move(0.0)
        until(lambda: len(viewer.sessions) == 1)
        yield viewer
        client.close()
        until(lambda: not viewer.sessions)


@pytest.fixture
def session(viewer: Viewer) -> Session:
    """The session of that page."""
    return next(iter(viewer.sessions.values()))


# ---- help ----


def test_every_control_has_a_tooltip_that_says_more_than_its_name(session: Session) -> None:
    handles = [handle for handle in controls(session) if handle.label != "Tab"]  # one over the tabs would be in the way
    assert len(handles) > 55
    lacking = [handle.label for handle in handles if not handle.hint or len(handle.hint) < 6]
    assert lacking == []
    assert [handle.label for handle in handles if handle.hint == handle.label] == []


def check_listed_keys(session: Session) -> None:
    """The help names the keys that a page has, and no others but those of viser's own."""
    (help,) = (text for text in texts(session) if "**Mouse**" in text)
    rows = [line.split("|")[1] for line in help.splitlines() if line.startswith("| ")]
    listed = {key.strip() for row in rows for key in row.split(",")}
    assert listed - {"key", "W A S D", "Q E", "arrows", "Ctrl-K"} == set(commands(session))


def test_the_help_lists_every_key(session: Session) -> None:
    assert {"N", "P", "V"} <= commands(session).keys()
    assert not commands(session).keys() & set("WASDQE"), "these are for flying"
    check_listed_keys(session)


# ---- the border of a comparison ----


@pytest.mark.parametrize("split", [0.0, 0.3, 0.99])
def test_the_strip_that_is_dragged_lies_over_the_border(split: float) -> None:
    pose = Pose((3.0, -2.0, 5.0), (0.5, -0.1, 0.7, 0.3), 0.9)
    camera = pose.camera(1600, 900)
    corners = torch.from_numpy(strip(pose, 1600, 900, split, 0.0025))
    local = corners @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    np.testing.assert_allclose(local[:, 2], 0.0025, atol=1e-5)  # the coordinates are a thousand times as large
    x = local[:, 0] / local[:, 2] * camera.fx + camera.cx
    y = local[:, 1] / local[:, 2] * camera.fy + camera.cy
    reach = max(REACH_PIXELS, 0.02 * 1600)
    np.testing.assert_allclose(x, split * 1600 + reach * np.array([-1, 1, -1, 1]), atol=1.0)  # pixels; see above
    np.testing.assert_allclose(y, [0, 0, 900, 900], atol=1.0)


def test_a_border_that_can_be_dragged_has_a_knob() -> None:
    picture = np.zeros((200, 300, 3), np.uint8)
    paint_knob(picture, 0.5)
    rows, columns, _ = np.nonzero(picture)
    assert abs(rows.mean() - 99.5) < 1 and abs(columns.mean() - 149.5) < 1 and 8 < np.ptp(columns) < 14
    for split, shape in ((0.0, (200, 300, 3)), (1.0, (200, 300, 3)), (MIN_SPLIT, (1, 1, 3))):
        picture = np.zeros(shape, np.uint8)
        paint_knob(picture, split)
        assert picture.any()


# ---- orbiting and flying ----


def test_flying_turns_around_the_camera_and_orbiting_around_what_is_in_the_middle(session: Session) -> None:
    camera, pose = session.client.camera, session.pose
    forward = quat_to_matrix(torch.tensor(pose.wxyz, dtype=torch.float64))[:, 2].numpy()
    set_turning_point(session, fly=True)
    np.testing.assert_allclose(camera.look_at, np.asarray(pose.position) + FLY_DISTANCE * forward, atol=1e-9)
    assert camera.max_orbit_distance == pytest.approx(FLY_DISTANCE)
    np.testing.assert_allclose(session.pose.position, pose.position)
    np.testing.assert_allclose(session.pose.wxyz, pose.wxyz, atol=1e-6)
    set_turning_point(session, fly=False)
    distance = float(np.linalg.norm(camera.look_at - np.asarray(pose.position)))
    assert distance == pytest.approx(3.0, abs=0.05) and camera.max_orbit_distance > 1000  # the ball is 3 away
    np.testing.assert_allclose(session.pose.wxyz, pose.wxyz, atol=1e-6)


def test_a_reset_ends_flying_and_an_up_that_was_chosen(viewer: Viewer, session: Session) -> None:
    panel = panel_of(viewer, session, CameraPanel)
    panel.mode.value = "fly"
    set_turning_point(session, fly=True)
    panel.reset()
    assert panel.mode.value == "orbit"
    home = viewer.server.initial_camera
    np.testing.assert_allclose(session.client.camera.look_at, home.look_at, atol=1e-6)
    np.testing.assert_allclose(session.client.camera.position, home.position, atol=1e-6)


def test_the_page_without_a_training_or_a_second_source_has_fewer_controls() -> None:
    with Viewer([Source("alone", ball(moves=False))], port=8780, backend="cpu") as viewer:
        client = Client(viewer)
        client.move(0.0)
        until(lambda: len(viewer.sessions) == 1)
        session = next(iter(viewer.sessions.values()))
        labels = {handle.label for handle in controls(session)}
        check_listed_keys(session)
        assert {"Show", "Reset", "Crop"} <= labels and not labels & {"Pause", "Compare", "Play", "View"}
        assert not any(isinstance(panel, ComparePanel) for panel in viewer.panels[session.id])
        client.close()
        until(lambda: not viewer.sessions)


def test_the_page_of_a_capture_whose_photos_are_gone_has_its_cameras(tmp_path: Path) -> None:
    scene = without_photos(load_scene(write_capture(tmp_path / "capture", views=4, width=48, height=36)))
    sources = [Source(name, ball(moves=False), scene=scene) for name in ("one", "two")]
    with Viewer(sources, port=8790, backend="cpu") as viewer:
        client = Client(viewer)
        client.move(0.0)
        until(lambda: len(viewer.sessions) == 1)
        session = next(iter(viewer.sessions.values()))
        views = panel_of(viewer, session, ViewsPanel)
        labels = {handle.label for handle in controls(session)}
        assert {"View", "Go to view", "Cameras"} <= labels and not labels & {"Photo", "PSNR here", "PSNR of both"}
        assert "error" not in panel_of(viewer, session, DisplayPanel).show.options
        assert session.content.photo(0) is None
        views.go_to(1)
        assert session.state.view == 1
        views.when.value = ALWAYS
        until(lambda: "cameras" in session.state.in_scene)
        client.close()
        until(lambda: not viewer.sessions)


def test_photos_are_taken_from_whichever_source_has_them(tmp_path: Path) -> None:
    scene = load_scene(write_capture(tmp_path / "capture", views=4, width=48, height=36))
    sources = [
        Source("small", ball(moves=False), scene=without_photos(scene)), Source("run", ball(moves=False), scene=scene)
    ]  # fmt: skip
    with Viewer(sources, port=8795, backend="cpu") as viewer:
        assert viewer.content.scene is scene
        assert all(place.matrix is None and not place.note for place in viewer.content.placements.values())
