"""The viewer shows models of any family, and offers only what they can do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tiny_scenes import blobs, tiny_scene
from toy_family import ToyField, register
from viewer_client import Client, controls, panel_of, texts, until

from nfc_gs.core.errors import UserError
from nfc_gs.model.radiance import RenderOptions
from nfc_gs.runs.families import FAMILIES, render
from nfc_gs.training.registry import TRAINABLE_FAMILIES
from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.panels import PANELS
from nfc_gs.viewer.panels.browser import BrowserPanel, browser_splats
from nfc_gs.viewer.panels.display import NAMES, DisplayPanel
from nfc_gs.viewer.panels.edit import EditPanel
from nfc_gs.viewer.panels.panel import Command, Panel
from nfc_gs.viewer.panels.splats import SplatsPanel
from nfc_gs.viewer.panels.tabs import Tabs
from nfc_gs.viewer.renderer import Quality
from nfc_gs.viewer.scheduler import run_to_end
from nfc_gs.viewer.session import MOVING, Session
from nfc_gs.viewer.source import Source


@pytest.fixture(autouse=True)
def toy_family() -> Iterator[None]:
    register()
    yield
    del FAMILIES["toy"], TRAINABLE_FAMILIES["toy"]


def toy() -> ToyField:
    """A field of random density and color."""
    return ToyField(torch.randn(1, 4, 5, 5, 5, generator=torch.Generator().manual_seed(0)))


def page_of(viewer: Viewer) -> Iterator[tuple[Client, Session]]:
    """A browser that has connected, and its session."""
    client = Client(viewer)
    client.move(0.0)
    until(lambda: len(viewer.sessions) == 1)
    yield client, next(iter(viewer.sessions.values()))
    client.close()
    until(lambda: not viewer.sessions)


def test_a_field_is_shown_as_its_family_renders_it_without_what_only_gaussians_can_do() -> None:
    model, scene = toy(), tiny_scene()
    source = Source("toy", model, scene=scene, options=RenderOptions(background=(0.2, 0.4, 0.6)))
    with Viewer([source], port=8605, backend="cpu") as viewer:
        for _, session in page_of(viewer):
            until(lambda session=session: session.pictures_sent >= 3)  # moving, at rest, refined
            camera = scene.camera(1)
            for quality in (Quality(), MOVING):
                picture = run_to_end(session.renderer.render(session.state, camera, quality))
                with torch.no_grad():
                    rgb = render(model, camera, options=RenderOptions(background=(0.2, 0.4, 0.6))).rgb
                np.testing.assert_array_equal(picture.rgb, (rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
                assert picture.rgb.std() > 5
            found = {handle.label for handle in controls(session)}
            assert {"Show", "View", "Reset", "Add keyframe here", "Download screenshot"} <= found
            assert not found & {"SH degree", "Points", "Browser draws", "Crop", "Export what is left as PLY"}
            splats_only = {NAMES[show] for show in ("count", "normals", "bit", "bits", "entropy")}
            assert not splats_only & set(panel_of(viewer, session, DisplayPanel).show.options)
            assert np.isfinite(session.psnr(source, 0))
            until(lambda session=session: "125 Cells" in texts(session)[0])
            assert session.screenshot(scene.camera(0)).shape[2] == 3


def test_gaussians_and_a_field_are_compared_and_each_does_what_it_can() -> None:
    scene = tiny_scene()
    sources = [Source("splats", blobs(12), scene=scene), Source("toy", toy(), scene=scene)]
    with Viewer(sources, port=8606, backend="cpu") as viewer:
        for client, session in page_of(viewer):
            for kind in (SplatsPanel, BrowserPanel, EditPanel):
                panel_of(viewer, session, kind)
            camera = scene.camera(0)
            session.update(show="count", compare="split")
            counted = run_to_end(session.renderer.render(session.state, camera, Quality())).rgb
            session.update(show="color")
            shown = run_to_end(session.renderer.render(session.state, camera, Quality())).rgb
            border = camera.width // 2
            assert not np.array_equal(counted[:, : border - 1], shown[:, : border - 1])
            right = slice(border + camera.height // 4, None)  # beyond the knob
            np.testing.assert_array_equal(counted[:, right], shown[:, right])  # a field has no count: its color
            session.update(source="toy")
            assert session.count_kept() == 0
            with pytest.raises(UserError, match="toy has no Gaussians"):
                browser_splats(session)
            said: list[str] = []
            session.notify = lambda title, body, color=None, said=said: said.append(body)  # type: ignore[method-assign]
            labels = {handle.label: handle for handle in controls(session)}
            client.set(labels["Export what is left as PLY"])
            until(lambda said=said: said == ["toy has no Gaussians, which are all that a PLY can hold."])


def test_a_field_of_the_state_that_does_not_exist_is_an_error() -> None:
    with Viewer([Source("toy", toy())], port=8607, backend="cpu") as viewer:
        for _, session in page_of(viewer):
            before = session.state
            with pytest.raises(TypeError, match="colours"):
                session.update(colours="viridis")
            assert session.state is before


def test_a_panel_is_a_class_and_a_line_and_each_key_has_one_command() -> None:
    scene = tiny_scene()
    with Viewer([Source("a", blobs(5), scene=scene), Source("b", toy())], port=8608, backend="cpu") as viewer:
        for _, session in page_of(viewer):
            panels: list[Panel] = viewer.panels[session.id]
            shown = [entry.panel for entry in PANELS if entry.is_shown(viewer.content)]
            assert [type(panel) for panel in panels if not isinstance(panel, Tabs)] == shown and len(shown) >= 10
            commands: list[Command] = [command for panel in panels for command in panel.commands()]
            assert sorted(command.key for command in commands) == sorted("RKCONBFV")
