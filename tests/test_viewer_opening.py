"""What a page begins with: the camera, up and background of splat files that say so, lie in a run, or say nothing."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import random_model, similarity

import nfc_gs
from nfc_gs.core.ply import read_header
from nfc_gs.formats.notes import Notes, StartCamera, notes_in
from nfc_gs.formats.ply import write_ply
from nfc_gs.formats.registry import read_notes
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.viewer.content import Content
from nfc_gs.viewer.guess import guessed_view
from nfc_gs.viewer.source import Source, open_source

NOTES = Notes(up=(0.0, 0.6, 0.8), camera=StartCamera((1.0, 2.0, 3.0), (4.0, 2.0, 1.0), 0.9), background=(1.0, 0.5, 0.0))


def table_with_vase(axis: int, sign: float) -> GaussianModel:
    """A flat ground across an axis, and something that rises from it to one side."""
    generator = np.random.default_rng(0)
    ground = generator.uniform(-1.0, 1.0, (3000, 3)) * [1.0, 1.0, 0.02]
    vase = generator.uniform(-0.1, 0.1, (600, 3))
    vase[:, 2] = generator.uniform(0.0, 0.6, 600)
    far = generator.uniform(-1.0, 1.0, (40, 3)) * 70_000.0
    points = np.concatenate([ground, vase, far]) * [1.0, 1.0, sign]
    means = torch.from_numpy(np.roll(points, axis - 2, axis=1)).float()
    return GaussianModel({**random_model(len(means), degree=0).tensors(), "means": means})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opening")
    capture = nfc_gs.write_demo_capture(folder / "capture", views=8, width=48, height=36)
    config = nfc_gs.TrainConfig(steps=4, device="cpu", max_gaussians=200, eval_every=0.0)
    return nfc_gs.train(capture, config, out=folder / "run").folder


def test_what_is_noted_in_a_file_is_read_again_in_the_frame_of_the_file(tmp_path: Path) -> None:
    transform = similarity()
    write_ply(tmp_path / "a.ply", random_model(5), transform, notes=NOTES)
    noted, expected = read_notes(tmp_path / "a.ply"), NOTES.moved(np.linalg.inv(transform))
    assert noted.up == pytest.approx(expected.up) and np.linalg.norm(noted.up or 0.0) == pytest.approx(1.0)
    assert noted.camera is not None and expected.camera is not None
    assert noted.camera.position == pytest.approx(expected.camera.position)
    assert noted.camera.look_at == pytest.approx(expected.camera.look_at)
    assert noted.camera.fov == pytest.approx(0.9) and noted.background == NOTES.background
    loaded = nfc_gs.load_model(tmp_path / "a.ply")
    assert loaded.background == NOTES.background and loaded.notes.up == noted.up


@pytest.mark.parametrize(
    "comments",
    [
        ["up 0 0 0"], ["up 1 2"], ["up to here"], ["up inf 0 0"], ["background 2 0 0"], ["background"], [""],
        ["camera_position 1 2 3"], ["camera_fov 50"],
        ["camera_position 1 2 3", "camera_look_at 1 2 3", "camera_fov 50"],
        ["camera_position 1 2 3", "camera_look_at 0 0 0", "camera_fov 180"],
        ["camera_position 1e300 2 3", "camera_look_at 0 0 0", "camera_fov 50"],
    ],
)  # fmt: skip
def test_comments_that_make_no_sense_are_left_out(comments: list[str]) -> None:
    assert notes_in(comments) == Notes() or vars(notes_in(comments)) == vars(Notes())


def test_a_page_begins_where_the_file_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_ply(tmp_path / "a.ply", random_model(5), notes=NOTES)
    with caplog.at_level(logging.INFO, "nfc_gs"):
        home = Content([open_source(tmp_path / "a.ply")]).home
    assert NOTES.camera is not None
    assert (home.position, home.look_at) == (NOTES.camera.position, NOTES.camera.look_at)
    assert home.up == pytest.approx(NOTES.up) and home.fov == pytest.approx(0.9)
    assert "what is up" not in caplog.text


def test_the_splat_of_a_run_says_how_the_run_is_looked_at_and_lies_in_it(run: Path, tmp_path: Path) -> None:
    assert {line.split()[0] for line in read_header(run / "splat.ply").comments} == {
        "up", "camera_position", "camera_look_at", "camera_fov", "background",
    }  # fmt: skip
    of_run, inside = Content([open_source(run)]), Content([open_source(run / "splat.ply")])
    assert inside.home == of_run.home or inside.home.position == pytest.approx(of_run.home.position)
    assert inside.scene is not None and len(inside.scene.views) == 8
    lies = inside.placement_of(inside.sources[0]).matrix
    assert lies is not None and of_run.scene is not None
    np.testing.assert_allclose(lies, of_run.scene.transform, atol=1e-6)
    alone = tmp_path / "elsewhere" / "splat.ply"
    alone.parent.mkdir()
    shutil.copy(run / "splat.ply", alone)
    home = Content([open_source(alone)]).home
    matrix = of_run.scene.transform
    position = matrix[:3, :3] @ np.array(home.position) + matrix[:3, 3]
    np.testing.assert_allclose(position, of_run.home.position, atol=1e-4)


def test_a_run_that_cannot_be_read_does_not_keep_its_splat_from_opening(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(run / "splat.ply", tmp_path / "splat.ply")
    (tmp_path / "checkpoint.safetensors").write_bytes(b"damaged")
    source = open_source(tmp_path / "splat.ply")
    assert source.scene is None and source.notes.camera is not None
    assert "without the cameras of its run" in caplog.text


@pytest.mark.parametrize(("axis", "sign"), [(1, -1.0), (2, 1.0)])
def test_a_file_that_says_nothing_opens_from_above_the_ground(
    axis: int, sign: float, caplog: pytest.LogCaptureFixture
) -> None:
    up = np.eye(3)[axis] * sign
    with caplog.at_level(logging.INFO, "nfc_gs"):
        content = Content([Source("table", table_with_vase(axis, sign))])
    home = content.home
    assert np.dot(home.up, up) > 0.99
    away = np.array(home.position) - np.array(home.look_at)
    assert away @ up > 0.3 * np.linalg.norm(away) and np.abs(home.look_at).max() < 0.3
    assert 1.0 < np.linalg.norm(away) < 6.0
    assert caplog.text.count("table does not say what is up") == 1 and "what looks like the ground" in caplog.text


def test_without_a_ground_up_is_as_in_most_splats(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "nfc_gs"):
        content = Content([Source("ball", random_model(500))])
    assert content.home.up == (0.0, -1.0, 0.0) and "as in most splats" in caplog.text
    wall = table_with_vase(0, 1.0)
    assert not guessed_view(wall).has_ground, "up is not along x in any convention"


def test_the_camera_stands_where_nothing_hides_the_middle() -> None:
    model = table_with_vase(2, 1.0)
    first = guessed_view(model).camera
    towards = torch.tensor(first.position) - torch.tensor(first.look_at)
    wall = torch.tensor(first.look_at) + 0.8 * towards / towards.norm() + 0.1 * torch.randn(400, 3)
    means = torch.cat([model.means, wall.float()])
    hidden = GaussianModel({**random_model(len(means), degree=0).tensors(), "means": means})
    second = guessed_view(hidden).camera
    other = torch.tensor(second.position) - torch.tensor(second.look_at)
    assert float(torch.nn.functional.cosine_similarity(towards, other, dim=0)) < 0.9


def test_turntables_turn_around_the_up_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[float, ...]] = []
    orbit = nfc_gs.api.orbit_around

    def watched(*args, up, **options):
        taken.append(up)
        return orbit(*args, up=up, **options)

    monkeypatch.setattr(nfc_gs.api, "orbit_around", watched)
    write_ply(tmp_path / "a.ply", random_model(5), notes=replace(NOTES, camera=None))
    loaded = nfc_gs.load_model(tmp_path / "a.ply")
    nfc_gs.turntable(loaded, tmp_path / "a", frames=1, width=16)
    nfc_gs.turntable(loaded, tmp_path / "b", frames=1, width=16, up=(1.0, 0.0, 0.0))
    nfc_gs.turntable(random_model(5), tmp_path / "c", frames=1, width=16)
    assert taken == [pytest.approx(NOTES.up), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0)]
