"""What outlasts a page and its server: camera, keyframes, settings, and a file that nobody has to trust."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from viewer_client import Client, bits_model, panel_of, scene_nodes, until

from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData
from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.cameras import pose_of
from nfc_gs.viewer.panels.camera import CameraPanel
from nfc_gs.viewer.panels.display import DisplayPanel
from nfc_gs.viewer.panels.path import PathPanel
from nfc_gs.viewer.panels.splats import SplatsPanel
from nfc_gs.viewer.panels.tabs import Tabs
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.source import Source


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> SceneData:
    return load_scene(write_capture(tmp_path_factory.mktemp("memory") / "capture", views=6, width=48, height=36))


@contextmanager
def opened(scene: SceneData, folder: Path | None) -> Iterator[Viewer]:
    source = Source("run", bits_model(scene, 0.2), scene=scene, folder=folder)
    with Viewer([source], port=8840, backend="cpu", keeps_state=True) as viewer:
        yield viewer


@contextmanager
def page(viewer: Viewer) -> Iterator[Session]:
    """A page that has just been opened at the start camera, as a browser opens one."""
    client, home = Client(viewer), viewer.content.home
    camera = viewer.content.scene.views[viewer.content.first_view].camera  # type: ignore[union-attr]
    pose = pose_of(camera, 4 / 3)
    client.move(0.0, position=list(home.position), look_at=list(home.look_at), wxyz=list(pose.wxyz))
    until(lambda: len(viewer.sessions) == 1)
    yield next(iter(viewer.sessions.values()))
    client.close()
    until(lambda: not viewer.sessions)


def change(viewer: Viewer, session: Session) -> None:
    """What a user does to a page."""
    panel_of(viewer, session, DisplayPanel).show.value = "depth"
    panel_of(viewer, session, SplatsPanel).scale.value = 0.5
    session.move_camera_to(replace(session.pose, position=(1.0, 2.0, 3.0)), orbit_distance=0.75)
    panel_of(viewer, session, PathPanel).add()


def check(viewer: Viewer, session: Session) -> None:
    until(lambda: session.state.show == "depth" and session.state.splat_scale == 0.5)
    until(lambda: session.pose.position == pytest.approx((1.0, 2.0, 3.0)))
    turning_point = np.add(session.pose.position, 0.75 * session.pose.forward)
    np.testing.assert_allclose(session.client.camera.look_at, turning_point, atol=1e-5)
    (key,) = panel_of(viewer, session, PathPanel).path.keys
    assert key.pose.position == pytest.approx((1.0, 2.0, 3.0))


@pytest.mark.parametrize("has_folder", [True, False])
def test_a_reload_keeps_keyframes_camera_and_settings_and_a_restart_does_for_runs(
    scene: SceneData, tmp_path: Path, has_folder: bool
) -> None:
    folder = tmp_path if has_folder else None
    with opened(scene, folder) as viewer:
        with page(viewer) as session:
            change(viewer, session)
            until(lambda: viewer.memory is not None and len(viewer.memory.state) == 4)
        with page(viewer) as session:
            check(viewer, session)
    assert [file.name for file in tmp_path.iterdir()] == (["viewer.json"] if has_folder else [])
    with opened(scene, folder) as viewer, page(viewer) as session:
        if has_folder:
            check(viewer, session)
        else:
            assert session.state.show == "color" and not panel_of(viewer, session, PathPanel).path.keys


def test_a_reload_opens_the_tab_that_was_open(scene: SceneData) -> None:
    with opened(scene, None) as viewer:
        with page(viewer) as session:
            panel_of(viewer, session, Tabs).open("Path")
            until(lambda: viewer.memory is not None and viewer.memory.state == {"Tabs": {"kept": "Path"}})
        with page(viewer) as session:
            assert panel_of(viewer, session, Tabs).opened == "Path"
            panel_of(viewer, session, PathPanel).add()
            until(lambda: scene_nodes(session)["/keyframes"].visible)


def test_a_page_that_is_only_opened_leaves_nothing(scene: SceneData, tmp_path: Path) -> None:
    with opened(scene, tmp_path) as viewer, page(viewer) as session:
        ticked = panel_of(viewer, session, CameraPanel)
        assert ticked.kept() is None
        until(lambda: session.pictures_sent > 0)
        session.client.flush()
        viewer._end.wait(1.2)
    assert list(tmp_path.iterdir()) == []


def test_of_two_pages_the_one_changed_last_counts(scene: SceneData) -> None:
    with opened(scene, None) as viewer:
        clients = [Client(viewer), Client(viewer)]
        for client in clients:
            client.move(0.0)
        until(lambda: len(viewer.sessions) == 2)
        for session, scale in zip(list(viewer.sessions.values()), (0.5, 0.75), strict=True):
            panel_of(viewer, session, SplatsPanel).scale.value = scale
            until(lambda scale=scale: viewer.memory.state.get("SplatsPanel") == {"scale": scale})  # type: ignore
        for client in clients:
            client.close()


def set_to(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: state[name].update(value)


@pytest.mark.parametrize(
    "damage",
    [
        set_to("SplatsPanel", {"scale": 1e9, "points": "yes", "unknown": 3}),
        set_to("SplatsPanel", {"scale": float("nan"), "sh_degree": [1]}),
        set_to("DisplayPanel", {"show": "secret", "background": [1, 2]}),
        set_to("PathPanel", {"kept": "{}"}),
        set_to("PathPanel", {"kept": [1], "seconds": -5}),
        set_to("CameraPanel", {"kept": {"position": [1e300, 0, 0], "wxyz": [0, 0, 0, 0], "fov": 9}}),
        set_to("CameraPanel", {"kept": None}),
        lambda state: state.update(Tabs={"kept": "Nowhere"}),
        lambda state: state.update(Tabs={"kept": ["Path"]}),
        lambda state: state.update(SplatsPanel=[], DisplayPanel=3, PathPanel=None),
    ],
)
def test_what_does_not_fit_is_left_out_and_the_rest_is_kept(
    scene: SceneData, tmp_path: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    with opened(scene, tmp_path) as viewer, page(viewer) as session:
        change(viewer, session)
        until(lambda: viewer.memory is not None and len(viewer.memory.state) == 4)
    state = json.loads((tmp_path / "viewer.json").read_text())
    damage(state)
    (tmp_path / "viewer.json").write_text(json.dumps(state))
    with opened(scene, tmp_path) as viewer, page(viewer) as session:
        shown = session.state
        assert shown.splat_scale in (0.5, 1.0) and shown.show in ("depth", "color") and not shown.points
        assert panel_of(viewer, session, PathPanel).path.seconds == 5.0
        assert max(map(abs, session.pose.position)) < 100.0
        assert session in viewer.sessions.values() and not session.closed


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * 2_000_000])
def test_a_file_that_is_something_else_is_left_out(scene: SceneData, tmp_path: Path, content: bytes, caplog) -> None:
    (tmp_path / "viewer.json").write_bytes(content)
    with opened(scene, tmp_path) as viewer, page(viewer) as session:
        assert session.state.show == "color" and viewer.memory is not None and viewer.memory.state == {}
    assert "viewer.json is left out" in caplog.text


@pytest.mark.slow
def test_a_page_that_lost_its_connection_connects_again_and_is_as_it_was(scene: SceneData, browser: Any) -> None:
    with opened(scene, None) as viewer:
        tab = browser.new_page(viewport={"width": 900, "height": 600})
        tab.goto(viewer.url)
        until(lambda: len(viewer.sessions) == 1, tab)
        (first,) = viewer.sessions.values()
        home = pytest.approx(viewer.content.home.position, abs=1e-3)
        until(lambda: first.pictures_sent > 0 and first.pose.position == home, tab)  # viser's own camera came first
        change(viewer, first)
        panel_of(viewer, first, Tabs).open("Edit")
        until(lambda: viewer.memory is not None and len(viewer.memory.state) == 5, tab)
        (connection,) = viewer.server._websock_server._live_connections.values()
        connection.loop.call_soon_threadsafe(connection.transport.abort)
        until(lambda: first.closed and len(viewer.sessions) == 1, tab)
        (second,) = viewer.sessions.values()
        assert second is not first
        check(viewer, second)
        assert panel_of(viewer, second, Tabs).opened == "Edit"
        tab.close()
