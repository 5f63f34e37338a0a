"""The reader of LLFF captures: photos in a folder, poses in poses_bounds.npy."""

from __future__ import annotations

import numpy as np
import pytest
from capture_files import HEIGHT, WIDTH, ring, write_images
from PIL import Image
from videos import llff_row

from nfc_gs.core.errors import UserError
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene

NAMES = ["IMG_1.jpg", "IMG_10.jpg", "IMG_2.jpg", "IMG_3.png"]
PLAIN = DataConfig(normalize=False, random_points=200)


@pytest.fixture
def capture(tmp_path):
    write_images(tmp_path / "images", NAMES)
    np.save(tmp_path / "poses_bounds.npy", np.stack([llff_row(viewmat) for viewmat in ring(4)]))
    return tmp_path


def test_the_rows_are_those_of_the_photos_in_the_order_of_their_names(capture):
    scene = load_scene(capture, PLAIN)
    assert scene.format == "an LLFF capture" and [view.name for view in scene.views] == NAMES
    for view, viewmat in zip(scene.views, ring(4), strict=True):
        assert view.camera.viewmat.numpy() == pytest.approx(viewmat, abs=1e-6)
        assert (view.camera.width, view.camera.height, view.camera.fx) == (WIDTH, HEIGHT, 30.0)
    assert scene.time_axis is None and scene.test == (0,)


def test_points_are_random_between_the_bounds(capture):
    xyz = load_scene(capture, PLAIN).points.xyz
    depths = np.stack([xyz @ viewmat[2, :3] + viewmat[2, 3] for viewmat in ring(4)])
    assert ((depths > 1.999) & (depths < 9.001)).any(axis=0).all()


def test_smaller_copies_have_names_of_their_own(capture):
    write_images(capture / "images_2", [f"image{i:03d}.png" for i in range(4)], (16, 12))
    scene = load_scene(capture, DataConfig(downscale="2", random_points=20))
    assert scene.views[1].source.path == capture / "images_2" / "image001.png"
    assert (scene.views[1].camera.width, scene.views[1].camera.fx) == (16, 15.0)


def test_a_photo_more_or_less_than_poses_is_refused(capture):
    (capture / "images" / NAMES[0]).unlink()
    with pytest.raises(UserError, match=r"has the poses of 4 images, but 3 are there \(IMG_10\.jpg, IMG_2"):
        load_scene(capture)
    for name in NAMES[1:]:
        (capture / "images" / name).unlink()
    with pytest.raises(UserError, match=r"has poses_bounds\.npy with 4 poses, but neither as many photos"):
        load_scene(capture)
    (capture / "poses_bounds.npy").write_bytes(b"PK\3\4")
    with pytest.raises(UserError, match=r"poses_bounds\.npy cannot be read \(it is a zip archive"):
        load_scene(capture)


def test_smaller_copies_alone_are_used_and_it_is_said(capture):
    (capture / "images").rename(capture / "images_8")
    for file in (capture / "images_8").iterdir():
        Image.open(file).resize((WIDTH // 8, HEIGHT // 8)).save(file)
    for downscale, size in (("8", 4), ("auto", 4), ("16", 2)):
        scene = load_scene(capture, DataConfig(downscale=downscale, random_points=20))
        assert (scene.views[0].camera.width, scene.views[0].camera.fx) == (size, 30.0 * size / WIDTH)
        assert any("images_8 at 1/8 of the size are used" in text for text in scene.messages)


@pytest.mark.filterwarnings("error")
def test_a_pose_that_overflows_holds_no_rotation(capture):
    rows = np.load(capture / "poses_bounds.npy")
    rows[1, 1] = 1e308
    np.save(capture / "poses_bounds.npy", rows)
    with pytest.raises(UserError, match=r"image IMG_10\.jpg: the pose holds no rotation"):
        load_scene(capture)


def test_bounds_beyond_reason_are_not_believed(capture):
    rows = np.load(capture / "poses_bounds.npy")
    rows[1, 15] = 1e-308
    np.save(capture / "poses_bounds.npy", rows)
    xyz = load_scene(capture, PLAIN).points.xyz
    assert np.isfinite(xyz).all() and np.abs(xyz).max() < 100.0
