"""Splat files in a local frame, where float32 is too coarse for the coordinates of the capture."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from random_models import random_model, similarity

import nfc_gs
from nfc_gs.core.errors import UserError
from nfc_gs.core.ply import read_header
from nfc_gs.formats.notes import Notes
from nfc_gs.formats.ply import write_ply
from nfc_gs.formats.registry import FORMATS, read_notes, read_splats, write_splats
from nfc_gs.formats.splat_format import Holds, SplatFormat
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.runs.opening import load_model

UTM = np.array([455_004.25, 5_411_001.75, 323.75])


def far(scale: float = 0.37) -> np.ndarray:
    """A similarity from a world in which the model's frame has its origin at UTM coordinates."""
    transform = similarity(scale=scale)
    transform[:3, 3] = -transform[:3, :3] @ UTM
    return transform


def in_world(model: GaussianModel, transform: np.ndarray) -> np.ndarray:
    """The centres [N, 3] of a model in the capture's frame."""
    means = model.means.detach().double().numpy()
    return (means - transform[:3, 3]) @ np.linalg.inv(transform[:3, :3]).T


def test_a_file_of_large_coordinates_is_in_a_local_frame_and_says_so(tmp_path: Path, caplog) -> None:
    model, path = random_model(50), tmp_path / "splat.ply"
    with caplog.at_level(logging.WARNING, "nfc_gs"):
        write_splats(path, model, far())
    assert caplog.text.count("splat.ply is in a local frame") == 1
    assert "(455004, 5411002, 324)" in caplog.text and "splat.offset.json" in caplog.text
    offset = read_notes(path).offset
    assert offset is not None and offset.tolist() == [455_004.0, 5_411_002.0, 324.0]
    assert json.loads((tmp_path / "splat.offset.json").read_text()) == {"offset": offset.tolist()}
    assert read_header(path).comments == ("offset 455004.0 5411002.0 324.0",)
    means = read_splats(path).means.double().numpy()
    np.testing.assert_allclose(means + offset, in_world(model, far()), rtol=0, atol=1e-6)
    loaded = load_model(path)
    np.testing.assert_array_equal(loaded.transform[:3, 3], -offset)
    np.testing.assert_array_equal(loaded.transform[:3, :3], np.eye(3))


def test_a_file_of_small_coordinates_is_in_the_capture_frame(tmp_path: Path, caplog) -> None:
    path = tmp_path / "splat.ply"
    write_splats(path, random_model(50), far())
    caplog.clear()
    for transform in (similarity(), None):
        write_splats(path, random_model(50), transform)
        assert read_notes(path).offset is None and read_header(path).comments == () and caplog.text == ""
        assert [file.name for file in tmp_path.iterdir()] == ["splat.ply"], "the offset of the earlier file is gone"
        np.testing.assert_array_equal(load_model(path).transform, np.eye(4))


@pytest.mark.parametrize(("scale", "digits"), [(0.003, 0), (37.0, 2)])
def test_the_offset_is_as_round_as_the_scene_is_large(tmp_path: Path, scale: float, digits: int) -> None:
    write_splats(tmp_path / "a.ply", random_model(50), far(scale))
    offset = read_notes(tmp_path / "a.ply").offset
    assert offset is not None and np.abs(offset - UTM).max() < 0.51 / scale
    assert np.array_equal(offset, np.round(offset, digits))


def test_a_file_that_is_written_anew_keeps_its_frame(tmp_path: Path) -> None:
    write_splats(tmp_path / "a.ply", random_model(50), far(37.0))
    loaded = load_model(tmp_path / "a.ply")
    assert isinstance(loaded.model, GaussianModel)
    write_splats(tmp_path / "b.ply", loaded.model, loaded.transform)
    write_ply(tmp_path / "c.ply", loaded.model, loaded.transform)
    for name in ("b.ply", "c.ply"):
        np.testing.assert_array_equal(load_model(tmp_path / name).transform, loaded.transform)
        assert torch.equal(read_splats(tmp_path / name).means, loaded.model.means)


def test_either_the_comment_or_the_file_beside_is_enough(tmp_path: Path) -> None:
    path, beside = tmp_path / "a.ply", tmp_path / "a.offset.json"
    write_splats(path, random_model(50), far())
    beside.write_text('{"offset": [1, 2, 3]}')
    assert read_notes(path).offset.tolist() == [455_004.0, 5_411_002.0, 324.0], "the file's own is right"  # type: ignore
    write_splats(path, random_model(50), similarity())
    beside.write_text('{"offset": [1, 2, 3]}')
    np.testing.assert_array_equal(load_model(path).transform[:3, 3], [-1.0, -2.0, -3.0])


@pytest.mark.parametrize("text", ["", "{}", "[1, 2, 3]", '{"offset": [1, 2]}', '{"offset": [1, 2, NaN]}', "\0", "7",
                                  '{"offset": {"x": 1}}', '{"offset": "abc"}', "[" * 100_000])  # fmt: skip
def test_a_damaged_offset_is_one_sentence(tmp_path: Path, text: str) -> None:
    write_splats(tmp_path / "a.ply", random_model(5), similarity())
    (tmp_path / "a.offset.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.offset\.json does not hold the three numbers .* export a\.ply again"):
        load_model(tmp_path / "a.ply")


def test_comments_of_other_programs_are_no_offsets(tmp_path: Path) -> None:
    write_splats(tmp_path / "a.ply", random_model(5), far())
    content = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.offset.json").unlink()
    for comment in (b"offset by hand", b"offset 1 2", b"offset 1 2 inf", b"Generated by x"):
        (tmp_path / "a.ply").write_bytes(content.replace(b"offset 455004.0 5411002.0 324.0", comment))
        assert read_notes(tmp_path / "a.ply").offset is None


def test_a_format_without_a_place_for_the_offset_has_it_beside(tmp_path: Path, monkeypatch) -> None:
    given: list[np.ndarray | None] = []

    def read(path: Path) -> GaussianModel:
        return random_model(len(np.load(path)))

    def write(path: Path, tensors: Mapping[str, torch.Tensor], notes: Notes) -> None:
        given.append(notes.offset)
        with open(path, "wb") as file:
            np.save(file, tensors["means"].float().numpy())

    monkeypatch.setitem(FORMATS, ".means", SplatFormat("means file", ".means", read, write, Holds(sh_degree=3)))
    write_splats(tmp_path / "a.means", random_model(50), far())
    offset = read_notes(tmp_path / "a.means").offset
    assert offset is not None and given[0] is not None and np.array_equal(offset, given[0])
    np.testing.assert_allclose(
        np.load(tmp_path / "a.means") + offset, in_world(random_model(50), far()), rtol=0, atol=1e-6
    )
    np.testing.assert_array_equal(load_model(tmp_path / "a.means").transform[:3, 3], -offset)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_splat_of_a_run_measures_as_the_run_does(tmp_path: Path, normalize: bool) -> None:
    capture = nfc_gs.write_demo_capture(tmp_path / "capture", views=8, width=48, height=36)
    model = pycolmap.Reconstruction(str(capture / "sparse" / "0"))
    model.transform(pycolmap.Sim3d(1.0, pycolmap.Rotation3d(), UTM))
    model.write(str(capture / "sparse" / "0"))
    config = nfc_gs.TrainConfig(steps=6, device="cpu", max_gaussians=200, eval_every=0.0)
    run = nfc_gs.train(capture, config, data=nfc_gs.DataConfig(normalize=normalize), out=tmp_path / "run")
    splat = nfc_gs.load_model(tmp_path / "run" / "splat.ply")
    assert np.abs(splat.transform[:3, 3] + UTM).max() < 10.0
    scene = nfc_gs.load_scene(capture, nfc_gs.DataConfig(normalize=False))
    assert run.metrics is not None
    assert nfc_gs.evaluate(splat, scene).psnr == pytest.approx(run.metrics.psnr, abs=0.02)
    elsewhere = scene.in_frame(similarity(scale=1.0))
    np.testing.assert_array_equal(elsewhere.in_frame(scene.transform).transform, scene.transform)
    picture = nfc_gs.render(splat, scene.in_frame(splat.transform).camera(scene.test[0])).rgb
    truth = nfc_gs.render(run, run.scene.camera(scene.test[0])).rgb
    torch.testing.assert_close(picture, truth, rtol=0, atol=5e-3)


def test_all_times_of_a_moving_run_have_the_same_offset_and_one_warning(tmp_path: Path, caplog) -> None:
    for k, model in enumerate((random_model(50), random_model(50, seed=1))):
        write_splats(tmp_path / f"{k}.ply", model, far(), warn=k == 0)
    assert caplog.text.count("is in a local frame") == 1
    first, second = read_notes(tmp_path / "0.ply").offset, read_notes(tmp_path / "1.ply").offset
    assert first is not None and second is not None and np.array_equal(first, second)
