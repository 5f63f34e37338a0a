"""Models of one capture in different coordinate frames and time axes are shown in one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from random_models import random_model, similarity
from viewer_client import Sway

from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import TimeAxis
from nfc_gs.data.stored import without_photos
from nfc_gs.formats.ply import read_ply, write_ply
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.heads.sh import start_sh
from nfc_gs.runs.checkpoint import Checkpoint, save_checkpoint
from nfc_gs.runs.names import CHECKPOINT_NAME
from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.draw import FAR
from nfc_gs.viewer.edit import Edit
from nfc_gs.viewer.frames import CoordinateFrame, place
from nfc_gs.viewer.panels.browser import browser_splats
from nfc_gs.viewer.renderer import Quality
from nfc_gs.viewer.scheduler import run_to_end
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.source import Source, open_source

WORLD = CoordinateFrame(np.eye(4), None)


def write_run(folder: Path, splats: GaussianModel, capture: Path, *, normalize: bool) -> Path:
    """A run of a capture that was read with or without normalisation."""
    scene = load_scene(capture, DataConfig(normalize=normalize))
    folder.mkdir()
    checkpoint = Checkpoint(
        family="gaussians", model_parts=("model",), parts=splats.parts(), step=1, seconds=1.0, config={},
        capture=str(capture), scene=without_photos(scene), background=(0.0, 0.0, 0.0), data={"normalize": normalize},
    )  # fmt: skip
    save_checkpoint(folder / CHECKPOINT_NAME, checkpoint)
    return folder


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same splats as a run in the normalised frame, as one in the capture's world, and as a PLY."""
    folder = tmp_path_factory.mktemp("frames")
    capture = write_capture(folder / "capture", views=6, width=48, height=36)
    scene = load_scene(capture)
    assert not np.allclose(scene.transform, np.eye(4), atol=0.1)
    generator = torch.Generator().manual_seed(0)
    pick = torch.randint(len(scene.points), (200,), generator=generator)
    colors = start_sh(torch.rand(200, 3, generator=generator), 1)
    colors["sh_coeffs"][:, 1:] = 0.3 * torch.randn(200, 3, 3, generator=generator)
    normalised = GaussianModel(
        {
            "means": torch.from_numpy(scene.points.xyz)[pick],
            "log_scales": -2.5 + 0.5 * torch.randn(200, 3, generator=generator),
            "quats": torch.randn(200, 4, generator=generator),
            "opacity_logits": torch.full((200,), 2.0),
            **colors,
        }
    )
    write_ply(folder / "exported.ply", normalised, scene.transform)
    return {
        "normalised": write_run(folder / "normalised", normalised, capture, normalize=True),
        "world": write_run(folder / "world", read_ply(folder / "exported.ply"), capture, normalize=False),
        "exported": folder / "exported.ply",
    }


def session_of(viewer: Viewer) -> Session:
    """A session of a client that is none, to which no picture is sent."""
    session = Session(SimpleNamespace(client_id=0), viewer.content, viewer.scheduler)  # type: ignore[arg-type]
    session.update(browser_draws=True)
    return session


def gaussians_of(session: Session) -> GaussianModel:
    """The Gaussians that are shown, edited."""
    gaussians = session.renderer.edited_gaussians(session.state)
    assert gaussians is not None
    return gaussians


@pytest.fixture(params=["normalised", "world", "exported"])
def session(request: pytest.FixtureRequest, things: dict[str, Path]) -> Iterator[Session]:
    """A session in which one of them, and so its frame, is first."""
    names = sorted(things, key=lambda name: name != request.param)
    sources = [open_source(things[name], device="cpu") for name in names]
    with Viewer(sources, port=8750, backend="cpu") as viewer:
        yield session_of(viewer)


def test_sources_in_different_frames_are_seen_alike(session: Session) -> None:
    assert session.content.scene is not None
    camera = session.content.scene.camera(2)
    first, *others = (
        run_to_end(session.renderer.render_source(session.state, source, camera)) for source in session.content.sources
    )
    covered = first.depth < FAR
    assert first.rgb.std() > 20 and covered.mean() > 0.2
    for other in others:
        assert np.abs(first.rgb.astype(int) - other.rgb).mean() < 0.3  # of 255: rounded in other frames
        both = covered & (other.depth < FAR)
        assert both.sum() > 0.98 * covered.sum()
        np.testing.assert_allclose(other.depth[both], first.depth[both], rtol=2e-3)  # rounded in other frames, too
    psnrs = [session.psnr(source, 0) for source in session.content.sources]
    assert max(psnrs) - min(psnrs) < 0.02  # dB


def test_a_file_with_an_offset_lies_where_its_capture_does(tmp_path: Path) -> None:
    transform = similarity()
    transform[:3, 3] = -transform[:3, :3] @ [455_004.25, 5_411_001.75, 323.5]
    model = random_model(50)
    write_ply(tmp_path / "a.ply", model, transform)
    source = open_source(tmp_path / "a.ply", device="cpu")
    found = place("a", source.frame, CoordinateFrame(transform, "somewhere"))
    gaussians = source.snapshot().gaussians
    assert gaussians is not None and found.matrix is not None and "capture's own frame" in found.note
    moved = gaussians.means.double().numpy() @ found.matrix[:3, :3].T + found.matrix[:3, 3]
    np.testing.assert_allclose(moved, model.means.detach().numpy(), rtol=0, atol=1e-5)


def test_an_edit_and_a_range_of_depths_mean_the_same_for_all_of_them(session: Session) -> None:
    middle, radius = session.content.middle_and_radius()
    low, high = ([m + sign * radius for m in middle] for sign in (-1, 1))
    box = ((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    assert session.content.scene is not None
    camera = session.content.scene.camera(1)
    whole = gaussians_of(session)
    size = (
        float(whole.scales.detach().amax(1).median()) * session.content.placement_of(session.content.sources[0]).scale
    )
    for edit in (Edit(box=box), Edit(sphere=(middle, radius)), Edit(max_scale=size * 1.0001)):
        session.update(edit=edit, show="depth", depth_range=(0.5 * radius, 6.0 * radius))
        left, pictures = [], []
        for source in session.content.sources:
            session.update(source=source.name)
            left.append(len(gaussians_of(session)))
            steps = session.renderer.render_source(session.state, source, camera)
            pictures.append(run_to_end(steps).rgb.astype(int))
        assert len(set(left)) == 1 and 0 < left[0] < len(whole)
        assert all(np.abs(pictures[0] - picture).mean() < 0.5 for picture in pictures)


def test_both_sides_of_a_border_have_the_same_color_for_the_same_depth(session: Session) -> None:
    assert session.content.scene is not None
    camera = session.content.scene.camera(2)
    pictures = []
    for split in (0.1, 0.9):  # the middle is to the right of the border, and then to the left
        session.update(show="depth", compare="split", split=split)
        picture = run_to_end(session.renderer.render(session.state, camera, Quality()))
        pictures.append(picture.rgb[:, 12:-12].astype(int))
    assert np.abs(pictures[0] - pictures[1]).mean() < 1.0 < pictures[0].std()


def test_the_browser_is_given_splats_in_the_frame_that_is_shown(session: Session) -> None:
    given = []
    for source in session.content.sources:
        session.update(source=source.name)
        given.append(browser_splats(session))
    for other in given[1:]:
        for a, b in zip(given[0], other, strict=True):
            scale = float(np.abs(a).max())
            np.testing.assert_allclose(a, b, atol=1e-3 * scale)  # covariances of long splats, rounded in other frames


def test_only_what_is_known_to_be_of_one_capture_goes_without_a_note(session: Session) -> None:
    notes = {source.name: session.content.placement_of(source).note for source in session.content.sources}
    assert notes["normalised"] == notes["world"] == ""
    assert "does not say where it lies" in notes["exported"]


def test_what_cannot_be_brought_together_stays_as_it_is_and_says_so() -> None:
    moved = np.diag([2.0, 2.0, 2.0, 1.0])
    one, other = CoordinateFrame(np.eye(4), "/captures/one"), CoordinateFrame(moved, "/captures/other")
    for own, shown, word in (
        (other, one, "another capture"),
        (None, one, "Nothing is known"),
        (None, None, "Nothing is known"),
    ):
        placement = place("x", own, shown)
        assert placement.matrix is None and word in placement.note and placement.note.endswith(".")
    assert place("x", WORLD, WORLD).note and place("x", WORLD, WORLD).matrix is None
    guessed = place("x", WORLD, other)
    assert guessed.matrix is not None and guessed.scale == pytest.approx(2.0) and guessed.note
    assert guessed.point((1.0, 0.0, -1.0)) == (2.0, 0.0, -2.0)


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (TimeAxis(0.0, 10.0, "seconds"), 0.5),
        (TimeAxis(4.0, 6.0, "seconds"), 0.5),
        (TimeAxis(0.0, 20.0, "seconds"), 0.25),
        (TimeAxis(8.0, 9.0, "seconds"), 0.0),  # it has not begun yet
        (TimeAxis(0.0, 20.0, "frames"), 0.5),  # nobody knows how long a frame is
        (None, 0.5),
    ],
)
def test_runs_of_other_parts_of_a_video_show_the_same_moment(axis: TimeAxis | None, expected: float) -> None:
    def moving(name: str, axis: TimeAxis | None) -> Source:
        tensors: dict[str, Any] = {
            "means": torch.zeros(1, 3),
            "log_scales": torch.zeros(1, 3),
            "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
            "opacity_logits": torch.zeros(1),
            **start_sh(torch.full((1, 3), 0.5), 0),
        }
        return Source(name, GaussianModel(tensors, Sway()), time_axis=axis)  # type: ignore[arg-type]

    with Viewer([moving("a", TimeAxis(0.0, 10.0, "seconds")), moving("b", axis)], port=8756, backend="cpu") as viewer:
        session = session_of(viewer)
        session.update(time=0.5, source="b")
        assert float(gaussians_of(session).means[0, 0].detach()) == pytest.approx(0.5 * expected)  # what `Sway` does
