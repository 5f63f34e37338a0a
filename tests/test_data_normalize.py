"""The normalised frame of a scene, and the points that training starts from."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from capture_files import HEIGHT, WIDTH, look_at_origin, project, ring, write_capture, write_transforms
from plyfile import PlyData, PlyElement

from nfc_gs.core.errors import UserError
from nfc_gs.data.config import DataConfig
from nfc_gs.data.lens import Pinhole
from nfc_gs.data.loading import load_scene
from nfc_gs.data.normalize import (
    camera_layout,
    far_cameras,
    focus_point,
    normalising_transform,
    random_points,
    same_frame,
    transform_viewmats,
)
from nfc_gs.data.ply_points import read_ply_points

# --- normalisation -----------------------------------------------------------------------------------------------


def test_normalising_changes_no_picture(tmp_path):
    write_capture(tmp_path)
    plain, ours = load_scene(tmp_path, DataConfig(normalize=False)), load_scene(tmp_path)
    assert np.array_equal(plain.transform, np.eye(4)) and not np.allclose(ours.transform, np.eye(4))
    for index in range(9):
        assert np.abs(project(plain, index, plain.points.xyz) - project(ours, index, ours.points.xyz)).max() < 1e-3


def test_the_normalised_frame_has_its_centre_in_focus_up_along_z_and_cameras_at_one(tmp_path):
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = turn, [100.0, -50.0, 7.0]
    write_capture(tmp_path, viewmats=[viewmat @ np.linalg.inv(world) for viewmat in ring(9)])
    scene = load_scene(tmp_path)
    centers = np.stack([v.camera.center.numpy() for v in scene.views])
    assert np.linalg.norm(centers[:, :2], axis=1) == pytest.approx(1.0, abs=1e-5)
    assert centers[:, 2] == pytest.approx(0.25, abs=1e-5)  # one above, four away from what they look at
    assert scene.extent == pytest.approx(1.1, abs=1e-6)
    assert scene.transform @ [100.0, -50.0, 7.0, 1.0] == pytest.approx([0.0, 0.0, 0.0, 1.0], abs=1e-5)


def test_parallel_cameras_have_no_focus_and_are_centred_on_their_mean():
    forwards = np.tile([0.0, 0.0, 1.0], (5, 1))
    centers = np.random.default_rng(0).normal(size=(5, 3))
    assert focus_point(centers, forwards) is None
    assert focus_point(centers, -forwards) is None


def test_cameras_that_look_outwards_have_no_focus():
    inwards = np.stack(ring(8))
    centers = -np.einsum("cji,cj->ci", inwards[:, :3, :3], inwards[:, :3, 3])
    assert focus_point(centers, inwards[:, 2, :3]) == pytest.approx(np.zeros(3), abs=1e-9)
    assert focus_point(centers, -inwards[:, 2, :3]) is None


@pytest.mark.parametrize("points", [0, 50])
def test_cameras_at_one_place_give_a_sensible_scale(points):
    viewmats = np.stack(ring(6))
    viewmats[:, :3, 3] = 0.0
    cloud = np.random.default_rng(0).normal(size=(points, 3)) * 30.0
    layout = camera_layout(viewmats, cloud)
    assert layout.size == (1.0 if points == 0 else pytest.approx(np.median(np.linalg.norm(cloud, axis=1))))
    assert np.isfinite(normalising_transform(layout)).all()


def test_a_scene_that_hangs_upside_down_is_turned_over():
    viewmats = np.stack(ring(6)) @ np.diag([1.0, -1.0, -1.0, 1.0])
    transform = normalising_transform(camera_layout(viewmats, np.zeros((0, 3))))
    assert np.linalg.det(transform[:3, :3]) > 0
    moved = transform_viewmats(viewmats, transform)
    assert (-moved[:, 1, :3]).mean(axis=0)[2] > 0.9
    assert moved[:, :3, :3] @ moved[:, :3, :3].transpose(0, 2, 1) == pytest.approx(np.tile(np.eye(3), (6, 1, 1)))


def test_frames_of_large_coordinates_are_told_apart():
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    frame = np.eye(4)
    frame[:3, :3], frame[:3, 3] = 0.3 * turn, -0.3 * turn @ [455_004.25, 5_411_001.75, 323.5]
    beside = frame.copy()
    beside[:3, 3] -= 0.3 * turn @ [0.01, 0.0, 0.0]  # a centimetre
    assert same_frame(frame, frame * (1.0 + 1e-15)) and not same_frame(frame, beside)
    scaled = np.diag([1.001, 1.001, 1.001, 1.0]) @ frame
    assert not same_frame(frame, scaled) and not same_frame(np.eye(4), frame)


def looking(positions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """World-to-camera matrices [C, 4, 4] of cameras at [C, 3] that look at [C, 3]."""
    viewmats = []
    for position, target in zip(positions, targets, strict=True):
        viewmat = look_at_origin(position - target)
        viewmat[:3, 3] -= viewmat[:3, :3] @ target
        viewmats.append(viewmat)
    return np.stack(viewmats)


def circle(count: int, radius: float, height: float) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(count, height)], axis=1)


def layouts() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Ordinary captures: the positions of their cameras, and what these look at."""
    rng = np.random.default_rng(0)
    corridor = np.stack([np.linspace(0, 2000, 200), rng.normal(size=200), rng.normal(size=200)], axis=1)
    drone = np.concatenate([circle(60, 3.0, 1.6), circle(9, 40.0, 60.0)])
    item = np.concatenate([circle(40, 0.3, 0.2), [[6.0, 0.0, 2.0], [5.0, 2.0, 1.0]]])
    two_places = np.concatenate([circle(30, 1.0, 0.5), circle(20, 1.0, 0.5) + np.array([500.0, 0.0, 0.0])])
    one_place = np.tile([[5.0, 0.0, 1.0]], (8, 1)) + 1e-9 * rng.normal(size=(8, 3))
    return {
        "corridor": (corridor, corridor + np.array([1.0, 0.0, 0.1])),
        "drone and street": (drone, np.zeros_like(drone)),
        "an item and its surroundings": (item, np.zeros_like(item)),
        "two places": (two_places, np.where(two_places[:, :1] > 250, [500.0, 0.0, 0.0], 0.0)),
        "one place": (one_place, np.zeros_like(one_place)),
        "one place and another": (np.concatenate([one_place, [[0.0, 3.0, 1.0]]]), np.zeros((9, 3))),
        "two": (circle(2, 1.0, 0.5), np.zeros((2, 3))),
        "three": (np.array([[1.0, 0.0, 0.1], [1.001, 0.0, 0.1], [0.0, 1.0, 0.1]]), np.zeros((3, 3))),
    }


@pytest.mark.parametrize("name", layouts())
@pytest.mark.parametrize("with_points", [True, False])
def test_no_camera_of_an_ordinary_capture_is_far_away(name: str, with_points: bool):
    positions, targets = layouts()[name]
    cloud = np.concatenate([targets + np.random.default_rng(1).normal(size=targets.shape) * 0.2 for _ in range(10)])
    far, _ = far_cameras(looking(positions, targets), cloud if with_points else cloud[:0])
    assert not far.any()


# --- points ------------------------------------------------------------------------------------------------------


def test_captures_without_points_get_seeded_ones_in_view(tmp_path, caplog):
    write_capture(tmp_path, points=0)
    with caplog.at_level(logging.WARNING, "nfc_gs"):
        scene = load_scene(tmp_path, DataConfig(random_points=500), seed=4)
    assert "no points" in caplog.text and any("no points" in text for text in scene.messages)
    xyz = scene.points.xyz
    assert xyz.shape == (500, 3) and xyz.dtype == np.float32 and scene.points.rgb.dtype == np.uint8
    assert np.array_equal(xyz, load_scene(tmp_path, DataConfig(random_points=500), seed=4).points.xyz)
    assert not np.array_equal(xyz, load_scene(tmp_path, DataConfig(random_points=500), seed=5).points.xyz)
    seen = np.zeros(500, dtype=int)
    for index, view in enumerate(scene.views):
        before = xyz @ view.camera.viewmat[2, :3].numpy() + view.camera.viewmat[2, 3].numpy() > 0
        pixel = project(scene, index, xyz)
        seen += before & (pixel > -0.01).all(axis=1) & (pixel < [WIDTH + 0.01, HEIGHT + 0.01]).all(axis=1)
    assert seen.min() >= 3


def test_random_points_do_without_overlap_where_there_is_none():
    pinholes = [Pinhole(200.0, 200.0, 5.0, 5.0, 10, 10)] * 2  # narrow, back to back
    viewmats = np.stack([np.eye(4), np.diag([-1.0, 1.0, -1.0, 1.0])])
    points = random_points(viewmats, pinholes, (1.0, 10.0), 300, 0)
    assert points.shape == (300, 3) and 0.3 < (points[:, 2] > 0).mean() < 0.7


def test_points_that_are_not_finite_or_absurdly_far_are_dropped_and_counted(tmp_path):
    file = write_transforms(tmp_path, ply_file_path="points.ply")
    rows = [f"{x} 0 0 255 0 0" for x in range(10)] + ["nan 0 0 0 0 0", "1e20 0 0 0 0 0", "1e9 0 0 0 0 0"]
    write_ply(tmp_path / "points.ply", rows)
    scene = load_scene(file)
    assert len(scene.points) == 10 and (scene.points.rgb == [255, 0, 0]).all()
    assert any("3 of 13 points" in text for text in scene.messages)


def write_ply(path: Path, rows: list[str], count: int | None = None, names: str = "xyz") -> None:
    header = ["ply", "format ascii 1.0", f"element vertex {len(rows) if count is None else count}"]
    header += [f"property float {name}" for name in names]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    path.write_text("\n".join([*header, "end_header", *rows]) + "\n")


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        (["0 0 0 0 0 0"], {"count": 10**9}, "claims 1,000,000,000 points"),
        (["0 0 0 0 0 0"], {"count": 12}, "is cut short"),
        (["0 0 0 0 0"], {"names": "xy"}, "has no property z"),
        (["a b c d e f"], {}, "could not convert"),
        (["0 0 0 0 0 256"], {}, "property blue of its points is no integer"),
    ],
)
def test_broken_point_files_are_named(tmp_path, rows, options, sentence):
    file = write_transforms(tmp_path, ply_file_path="points.ply")
    write_ply(tmp_path / "points.ply", rows, **options)
    with pytest.raises(UserError, match=rf"points\.ply.*{sentence}"):
        load_scene(file)


@pytest.mark.parametrize("text", [False, True])
def test_points_behind_faces_of_different_sizes_are_read(tmp_path, text):
    faces = np.empty(2, [("vertex_indices", object)])
    faces["vertex_indices"] = [[0, 1, 2], [3, 2, 1, 0]]
    points = np.array(
        [(k, 2 * k, 3, 10 * k, 0, 255) for k in range(9)],
        [(c, "f8") for c in "xyz"] + [(c, "u1") for c in ("red", "green", "blue")],
    )
    elements = [PlyElement.describe(faces, "face"), PlyElement.describe(points, "vertex")]
    PlyData(elements, text=text).write(str(tmp_path / "points.ply"))
    xyz, rgb = read_ply_points(tmp_path / "points.ply")
    assert xyz.tolist() == [[k, 2 * k, 3] for k in range(9)] and rgb.tolist() == [[10 * k, 0, 255] for k in range(9)]


@pytest.mark.filterwarnings("error")
def test_a_nan_that_signals_is_a_point_that_is_left_out(tmp_path):
    points = np.zeros(20, [(c, "<f4") for c in "xyz"])
    points["x"] = np.random.default_rng(0).normal(size=20)
    PlyData([PlyElement.describe(points, "vertex")], byte_order="<").write(str(tmp_path / "points.ply"))
    content = bytearray((tmp_path / "points.ply").read_bytes())
    content[-12 * 17 + 4 : -12 * 17 + 8] = b"\x00\x00\xa0\x7f"
    (tmp_path / "points.ply").write_bytes(content)
    xyz, _ = read_ply_points(tmp_path / "points.ply")
    assert np.flatnonzero(np.isnan(xyz).any(axis=1)).tolist() == [3]


def test_points_named_but_not_on_disk_are_replaced_by_random_ones(tmp_path):
    scene = load_scene(write_transforms(tmp_path, ply_file_path="gone.ply"), DataConfig(random_points=50))
    assert len(scene.points) == 50 and any("gone.ply" in text for text in scene.messages)
