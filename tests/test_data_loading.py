"""Which photos of a capture become views, in which frame, and which are held out."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from capture_files import project, ring, write_capture, write_transforms

import nfc_gs
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene

UTM = np.array([455_004.25, 5_411_001.75, 323.75])


def moved(viewmat: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The camera at its position plus `shift`, turned as before."""
    result = viewmat.copy()
    result[:3, 3] = viewmat[:3, 3] - viewmat[:3, :3] @ shift
    return result


def thrown(viewmat: np.ndarray, factor: float) -> np.ndarray:
    """The camera with a translation so many times as large."""
    result = viewmat.copy()
    result[:3, 3] *= factor
    return result


# --- cameras far away --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "far", "points"),
    [
        (9, {5: 1000.0}, 20),
        (9, {1: 300.0, 5: 1000.0, 8: 4e7}, 20),
        (9, {5: 1000.0}, 0),
        (9, {4: 300.0, 5: 1000.0}, 0),
        (4, {1: 1000.0}, 20),
        (3, {1: 1000.0}, 20),
    ],
)
def test_a_photo_absurdly_far_away_is_named_and_the_rest_is_as_without_it(
    tmp_path: Path, caplog, count: int, far: dict[int, float], points: int
) -> None:
    sound = ring(count)
    broken = [thrown(viewmat, far.get(k, 1.0)) for k, viewmat in enumerate(sound)]
    config = DataConfig(random_points=50, test_every=0)
    names = [f"im{k:02d}.png" for k in range(count)]
    with caplog.at_level(logging.WARNING, "nfc_gs"):
        scene = load_scene(write_capture(tmp_path / "broken", count, viewmats=broken, points=points), config)
    rest = tmp_path / "rest"
    write_capture(rest, count, viewmats=sound, points=points)
    whole = load_scene(rest, config)
    for k in far:
        assert names[k] in scene.messages[0] and caplog.text.count(names[k]) == 1
    assert "must be wrong" in scene.messages[0] and "left out" in scene.messages[0]
    assert [view.name for view in scene.views] == [name for k, name in enumerate(names) if k not in far]
    assert scene.extent == pytest.approx(whole.extent, rel=0.5)
    kept = [k for k in range(count) if k not in far]
    assert len(scene.messages) == 1 + (points == 0)
    if points:  # the same picture of the points as with sound poses
        for index, k in enumerate(kept):
            ours, theirs = project(scene, index, scene.points.xyz), project(whole, k, whole.points.xyz)
            assert np.abs(ours - theirs).max() < 1e-3


def test_the_scene_is_that_of_the_capture_without_the_photo(tmp_path: Path) -> None:
    rows = ring(9)
    whole = write_transforms(tmp_path / "broken", 9)
    content = json.loads(whole.read_text())
    del content["frames"][5]
    (whole.parent / "without.json").write_text(json.dumps(content))
    content = json.loads(whole.read_text())
    matrix = np.array(content["frames"][5]["transform_matrix"])
    matrix[:3, 3] *= 1000
    content["frames"][5]["transform_matrix"] = matrix.tolist()
    whole.write_text(json.dumps(content))
    scene, rest = load_scene(whole), load_scene(whole.parent / "without.json")
    assert len(scene.views) == len(rows) - 1
    assert np.array_equal(scene.transform, rest.transform) and scene.extent == rest.extent
    assert np.array_equal(scene.points.xyz, rest.points.xyz) and (scene.train, scene.test) == (rest.train, rest.test)


@pytest.mark.parametrize("factor", [0.3, 3.0, 20.0])
def test_a_photo_from_somewhat_farther_away_is_a_view_like_the_others(tmp_path: Path, factor: float) -> None:
    viewmats = ring(9)
    viewmats[5] = thrown(viewmats[5], factor)
    scene = load_scene(write_capture(tmp_path, viewmats=viewmats))
    assert len(scene.views) == 9 and scene.messages == ()


# --- the frame ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
def test_coordinates_in_utm_give_the_scene_of_small_ones(tmp_path: Path, normalize: bool) -> None:
    config = DataConfig(normalize=normalize)
    small = load_scene(write_capture(tmp_path / "small"), config)
    file = write_transforms(tmp_path / "utm")  # COLMAP's points would do, but these have no rounding of their own
    content = json.loads(file.read_text())
    for frame in content["frames"]:
        matrix = np.array(frame["transform_matrix"])
        matrix[:3, 3] += UTM
        frame["transform_matrix"] = matrix.tolist()
    file.write_text(json.dumps(content))
    utm = load_scene(file, config)
    assert utm.extent == pytest.approx(small.extent, rel=1e-5)
    frame = utm.transform @ np.array([*UTM, 1.0])
    for ours, theirs in zip(utm.views, small.views, strict=True):
        distance = np.linalg.norm(ours.camera.center.numpy() - frame[:3])
        origin = (small.transform @ [0.0, 0.0, 0.0, 1.0])[:3]
        assert distance == pytest.approx(float(np.linalg.norm(theirs.camera.center.numpy() - origin)), rel=1e-4)


def test_without_normalisation_coordinates_too_large_for_float32_are_moved_by_a_round_offset(tmp_path: Path) -> None:
    viewmats = [moved(viewmat, UTM) for viewmat in ring(9)]
    scene = load_scene(write_capture(tmp_path / "utm", viewmats=viewmats, points=0), DataConfig(normalize=False))
    assert scene.transform[:3, :3].tolist() == np.eye(3).tolist()
    assert scene.transform[:3, 3].tolist() == [-455_004.0, -5_411_002.0, -324.0]
    assert scene.messages[0].startswith("The cameras are around (455004, 5411002, 324), where float32 is too coarse")
    for ours, viewmat in zip(scene.views, ring(9), strict=True):
        position = -viewmat[:3, :3].T @ viewmat[:3, 3] + UTM + scene.transform[:3, 3]
        assert ours.camera.center.numpy() == pytest.approx(position, abs=1e-5)
    normal = load_scene(tmp_path / "utm")
    assert "splat files are in a local frame" in normal.messages[0] and "(455004, 5411002, 324)" in normal.messages[0]
    near = [moved(viewmat, np.array([100.0, -50.0, 7.0])) for viewmat in ring(9)]
    plain = load_scene(write_capture(tmp_path / "near", viewmats=near), DataConfig(normalize=False))
    assert np.array_equal(plain.transform, np.eye(4)) and "float32" not in " ".join(plain.messages)


# --- the split ---------------------------------------------------------------------------------------------------


def test_a_split_whose_names_are_no_views_is_said_and_every_eighth_is_held_out(tmp_path: Path) -> None:
    train = write_transforms(tmp_path, 9, name="transforms_train.json")
    content = json.loads(train.read_text())
    test = {**content, "frames": [content["frames"].pop(5)]}
    matrix = np.array(test["frames"][0]["transform_matrix"])
    matrix[:3, 3] *= 1000
    test["frames"][0]["transform_matrix"] = matrix.tolist()
    train.write_text(json.dumps(content))
    (tmp_path / "transforms_test.json").write_text(json.dumps(test))
    scene = load_scene(tmp_path, DataConfig(random_points=50))
    assert len(scene.views) == 8 and scene.test == (0,)
    sentence = (
        "The capture holds out 1 images for testing, none of which is there (images/im05.png): every 8th is held out."
    )
    assert scene.messages.count(sentence) == 1


# --- options -----------------------------------------------------------------------------------------------------


def test_cameras_that_all_stand_at_one_position_are_pointed_out(tmp_path: Path) -> None:
    turned = [np.block([[view[:3, :3], np.zeros((3, 1))], [np.zeros((1, 3)), 1.0]]) for view in ring(5)]
    scene = load_scene(write_capture(tmp_path, 5, viewmats=turned, points=0), DataConfig(random_points=20))
    assert sum("All cameras stand at one position" in text for text in scene.messages) == 1


def test_a_factor_of_downscaling_may_be_a_number() -> None:
    for value, text in ((2, "2"), (2.5, "2.5"), (np.int64(4), "4")):
        assert DataConfig(downscale=value).downscale == text  # pyright: ignore[reportArgumentType]
    with pytest.raises(nfc_gs.UserError, match="downscale must be text"):
        DataConfig(downscale=True)  # pyright: ignore[reportArgumentType]
