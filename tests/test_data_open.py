"""Opening captures: splits, sizes, masks, normalisation, points, and what is said of bad ones."""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from capture_files import (
    HEIGHT,
    SHARED,
    WIDTH,
    needs_captures,
    project,
    write_capture,
    write_colmap,
    write_images,
    write_transforms,
)
from PIL import Image

from nfc_gs.core.errors import UserError
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.sampler import ViewSampler

# --- splits ------------------------------------------------------------------------------------------------------


def test_every_eighth_image_by_name_is_held_out(tmp_path):
    scene = load_scene(write_capture(tmp_path, 17))
    assert scene.test == (0, 8, 16)
    assert sorted(scene.train + scene.test) == list(range(17))
    assert [v.name for v in scene.views] == sorted(v.name for v in scene.views)


@pytest.mark.parametrize(("every", "test"), [(0, ()), (4, (0, 4, 8)), (10, (0,))])
def test_the_number_of_held_out_images_can_be_chosen(tmp_path, every, test):
    assert load_scene(write_capture(tmp_path), DataConfig(test_every=every)).test == test


def test_two_views_are_both_trained_on(tmp_path):
    scene = load_scene(write_capture(tmp_path, 2))
    assert (scene.train, scene.test) == ((0, 1), ())
    assert any("none is held out" in text for text in scene.messages)


def test_a_test_txt_beside_the_model_is_the_captures_own_split(tmp_path):
    write_capture(tmp_path)
    (tmp_path / "sparse" / "0" / "test.txt").write_text("im03.png\nim05.png\n")
    assert load_scene(tmp_path).test == (3, 5)
    assert load_scene(tmp_path, DataConfig(test_every=8)).test == (0, 8)


def test_split_lists_of_nerfstudio_win_and_unlisted_frames_are_left_out(tmp_path):
    names = [f"images/im{i:02d}.png" for i in range(9)]
    write_transforms(tmp_path, train_filenames=names[:5], test_filenames=["./" + names[6]], val_filenames=[names[7]])
    scene = load_scene(tmp_path)
    assert [v.name for v in scene.views] == ["im00.png", "im01.png", "im02.png", "im03.png", "im04.png", "im06.png"]
    assert scene.test == (5,)


def test_the_sampler_shows_each_view_once_per_epoch_and_needs_no_state():
    sampler = ViewSampler([3, 5, 7, 9], seed=1)
    order = [sampler.index(step) for step in range(40)]
    for epoch in range(10):
        assert sorted(order[4 * epoch : 4 * epoch + 4]) == [3, 5, 7, 9]
    assert len({tuple(order[4 * e : 4 * e + 4]) for e in range(10)}) > 3
    assert [ViewSampler([3, 5, 7, 9], seed=1).index(step) for step in (39, 2, 17)] == [order[39], order[2], order[17]]
    assert [ViewSampler([3, 5, 7, 9], seed=2).index(step) for step in range(40)] != order


def test_the_sampler_names_the_next_views_without_repeats():
    sampler = ViewSampler(range(5), seed=0)
    order = [sampler.index(step) for step in range(20)]
    assert sampler.upcoming(3, 6) == list(dict.fromkeys(order[3:9]))


def test_the_sampler_shows_the_views_of_a_window_alone_and_needs_no_state():
    sampler = ViewSampler([8, 6, 4, 2, 0], seed=3, times=[0.9, 0.5, 0.1, 0.5, 0.6])
    shown = [sampler.index(step, (0.5, 0.6)) for step in range(60)]
    assert set(shown) == {6, 2, 0}
    assert min(shown.count(view) for view in set(shown)) > 10
    again = ViewSampler([8, 6, 4, 2, 0], seed=3, times=[0.9, 0.5, 0.1, 0.5, 0.6])
    assert [again.index(step, (0.5, 0.6)) for step in (40, 7)] == [shown[40], shown[7]]
    assert sampler.upcoming(10, 8, (0.5, 0.6)) == list(dict.fromkeys(shown[10:18]))
    assert {sampler.index(step, (0.0, 1.0)) for step in range(60)} == {8, 6, 4, 2, 0}


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "size"), [("1", (32, 24)), ("2", (16, 12)), ("16px", (16, 12)), ("800px", (32, 24))])
def test_downscaling_takes_the_camera_along(tmp_path, text, size):
    scene = load_scene(write_capture(tmp_path), DataConfig(downscale=text))
    camera, frame = scene.views[0].camera, scene.image(0)
    assert (camera.width, camera.height) == size and frame.rgb.shape == (size[1], size[0], 3)
    scale = size[0] / WIDTH
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (30 * scale, 30 * scale, 16 * scale, 12 * scale)


def test_auto_leaves_1600_pixels_on_the_longest_side(tmp_path):
    write_transforms(tmp_path, 2, w=3200, h=80, cx=1600.0, cy=40.0, fl_x=3000.0, fl_y=3000.0)
    write_images(tmp_path, ["images/im00.png", "images/im01.png"], (3200, 80))
    scene = load_scene(tmp_path)
    assert (scene.views[0].camera.width, scene.views[0].camera.height) == (1600, 40)
    assert scene.views[0].camera.fx == 1500.0


@pytest.mark.parametrize("text", ["", "half", "0", "-2", "nan", "inf", "infpx", "0px", "1.5px", "px", "1e99"])
def test_a_downscale_that_means_nothing_is_refused(tmp_path, text):
    with pytest.raises(UserError, match="downscale"):
        load_scene(write_capture(tmp_path), DataConfig(downscale=text))


def test_the_captures_own_smaller_copies_are_used_at_their_own_size(tmp_path):
    write_capture(tmp_path)
    names = [f"im{i:02d}.JPG" for i in range(9)]  # another extension, and rounded upwards
    write_images(tmp_path / "images_5", names, (7, 5))
    scene = load_scene(tmp_path, DataConfig(downscale="5"))
    assert scene.image(0).rgb.shape == (5, 7, 3)
    assert scene.views[0].source.path == tmp_path / "images_5" / "im00.JPG"
    assert scene.views[0].camera.fx == pytest.approx(30 * 7 / 32) and scene.views[0].name == "im00.png"


def test_images_at_another_scale_than_their_camera_take_the_camera_along(tmp_path):
    write_capture(tmp_path)
    write_images(tmp_path / "images", [f"im{i:02d}.png" for i in range(9)], (16, 12))
    camera = load_scene(tmp_path).views[0].camera
    assert (camera.width, camera.height, camera.fx, camera.cx) == (16, 12, 15.0, 8.0)


@pytest.mark.parametrize("size", [(29, 24), (24, 32), (16, 12)])  # the last has the right shape, alone of all
def test_an_image_that_does_not_fit_its_camera_is_named_with_both_sizes(tmp_path, size):
    write_capture(tmp_path)
    write_images(tmp_path / "images", ["im04.png"], size)
    with pytest.raises(UserError, match=rf"im04\.png is {size[0]} x {size[1]} pixels, but its camera is 32 x 24"):
        load_scene(tmp_path)


def test_smaller_divisors_give_the_camera_of_the_smaller_picture(tmp_path):
    scene = load_scene(write_capture(tmp_path))
    camera, frame = scene.camera(0, 4), scene.image(0, 4)
    assert frame.rgb.shape == (camera.height, camera.width, 3) == (6, 8, 3)


@pytest.mark.parametrize("camera_sees_turned", [False, True])
def test_the_size_of_the_camera_decides_whether_exif_rotation_counts(tmp_path, camera_sees_turned):
    write_capture(tmp_path, 3, suffix=".jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to view"
    upright = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    upright[: HEIGHT // 2] = 255  # bright above
    stored = np.rot90(upright) if camera_sees_turned else upright
    Image.fromarray(stored).save(tmp_path / "images" / "im01.jpg", exif=exif, quality=95)
    frame = load_scene(tmp_path).image(1)
    assert frame.rgb.shape == (HEIGHT, WIDTH, 3)
    assert frame.rgb[:10].mean() > 250 and frame.rgb[-10:].mean() < 5


# --- masks and backgrounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["{name}", "{name}.png", "{stem}.png", "{stem}.PNG"])
def test_masks_are_found_by_the_name_of_their_image(tmp_path, style):
    names = [f"left/im{i}.jpg" for i in range(3)]
    write_colmap(tmp_path / "sparse", names)
    write_images(tmp_path / "images", names)
    mask = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    mask[:, :8] = 0
    (tmp_path / "masks" / "left").mkdir(parents=True)
    path = tmp_path / "masks" / style.format(name=names[1], stem="left/im1")
    Image.fromarray(mask).save(path, quality=95) if path.suffix == ".jpg" else Image.fromarray(mask).save(path)
    scene = load_scene(tmp_path)
    found = scene.image(1).mask
    assert found is not None and np.array_equal(found == 0, mask == 0)
    assert scene.image(0).mask is None
    assert load_scene(tmp_path, DataConfig(masks=False)).image(1).mask is None


def test_a_mask_of_another_shape_is_refused_by_name(tmp_path):
    write_capture(tmp_path)
    write_images(tmp_path / "masks", ["im02.png"], (24, 24), "L")
    with pytest.raises(UserError, match=r"masks/im02\.png is 24 x 24 pixels, but its image is 32 x 24"):
        load_scene(tmp_path)


def test_mask_path_of_a_frame_is_used(tmp_path):
    file = write_transforms(tmp_path)
    data = json.loads(file.read_text())
    data["frames"][2]["mask_path"] = "m/two.png"
    file.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"frame 2 .*m/two\.png is not on disk"):
        load_scene(tmp_path)
    (tmp_path / "m").mkdir()
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "m" / "two.png")
    mask = load_scene(tmp_path).image(2).mask
    assert mask is not None and not mask.any()


def test_alpha_is_a_mask_in_photos_and_white_in_blender_renders(tmp_path):
    photos = tmp_path / "photos"
    write_transforms(photos, mode="RGBA")
    scene = load_scene(photos)
    assert scene.background is None and scene.image(0).mask is not None
    scene = load_scene(photos, DataConfig(background=(0.0, 0.0, 0.0)))
    assert scene.background == (0.0, 0.0, 0.0) and scene.image(0).mask is None
    blender = tmp_path / "blender"
    write_transforms(blender, mode="RGBA", name="transforms_train.json")
    scene = load_scene(blender)
    assert scene.background == (1.0, 1.0, 1.0) and scene.image(0).mask is None


def test_captures_without_alpha_have_no_background(tmp_path):
    assert load_scene(write_capture(tmp_path), DataConfig(background=(0.0, 0.0, 0.0))).background is None


# --- bad paths and folders ---------------------------------------------------------------------------------------


def test_a_path_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path / ("x" * 5000), "a\0b"):
        with pytest.raises(UserError, match="There is no"):
            load_scene(path)


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(UserError, match="is empty"):
        load_scene(tmp_path)


def test_images_without_poses_say_what_to_run(tmp_path):
    write_images(tmp_path / "images", ["a.jpg"])
    with pytest.raises(UserError, match="run COLMAP"):
        load_scene(tmp_path)


def test_a_file_of_poses_for_testing_alone_is_named(tmp_path):
    write_transforms(tmp_path, name="transforms_test.json")
    with pytest.raises(
        UserError, match=r"has transforms_test\.json, but neither .*give .*transforms_test\.json itself"
    ):
        load_scene(tmp_path)
    assert len(load_scene(tmp_path / "transforms_test.json").views) == 9


def test_it_is_said_which_of_two_files_of_poses_is_used(tmp_path):
    for name in ("transforms.json", "transforms_train.json"):
        write_transforms(tmp_path, name=name)
    scene = load_scene(tmp_path)
    assert scene.format == "a Blender or D-NeRF capture"
    assert any(text.endswith("transforms_train.json is used.") for text in scene.messages)


def test_a_folder_of_something_else_says_what_is_lacking(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="is no capture"):
        load_scene(tmp_path)


def test_the_captures_in_a_folder_of_several_are_named(tmp_path):
    write_capture(tmp_path / "b")
    write_images(tmp_path / "photos", ["a.jpg"])
    with pytest.raises(UserError, match=r"is no capture, but .*/b is; give that"):
        load_scene(tmp_path)
    write_transforms(tmp_path / "a")
    for name in ("1", "2"):
        write_capture(tmp_path / name)
    with pytest.raises(UserError, match=r"is no capture but a folder of 4: give one of them \(1, 2, a, b\)"):
        load_scene(tmp_path)


def test_captures_in_the_folders_of_a_folder_are_named_too(tmp_path):
    for name in ("garden/spring", "garden/autumn", "house/all"):
        write_capture(tmp_path / name)
    with pytest.raises(UserError, match=r"a folder of 3: give one of them \(garden/autumn, garden/spring, house/all\)"):
        load_scene(tmp_path)


@pytest.mark.parametrize("folder", ["sparse/0", "sparse", "images", "masks", "."])
def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch, folder):
    if folder == "masks":
        write_capture(tmp_path)
    else:  # what is in it cannot be seen
        (tmp_path / "sparse" / "0").mkdir(parents=True)
        write_images(tmp_path / "images", ["a.jpg"])
    closed = tmp_path / folder
    closed.mkdir(exist_ok=True)
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != closed)
    with pytest.raises(UserError) as error:
        load_scene(tmp_path)
    assert str(error.value).startswith(f"The folder {closed} may not be read: permission is denied")


def test_photos_in_a_folder_that_may_not_be_read_are_not_called_missing(tmp_path, monkeypatch):
    (write_capture(tmp_path) / "images").rename(tmp_path / "elsewhere")
    (tmp_path / "images").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path / "images")
    with pytest.raises(UserError, match=r"The folder .*images may not be read"):
        load_scene(tmp_path)


def test_a_named_pipe_is_no_capture_and_is_not_opened(tmp_path):
    for name in ("pipe", "transforms.json", "dataset.json", "poses_bounds.npy"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="is no regular file and no folder, not a capture"):
        load_scene(tmp_path / "pipe")
    with pytest.raises(UserError, match="is no capture"):
        load_scene(tmp_path)


def test_too_many_open_files_are_said_and_nothing_is_called_damaged(tmp_path, monkeypatch):
    write_capture(tmp_path)
    (tmp_path / "images" / "im03.png").rename(tmp_path / "images" / "im03.PNG")  # so that the folder is listed

    def scandir(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"Cannot read the folder .*: Too many open files"):
        load_scene(tmp_path)


def test_a_file_that_is_no_capture_is_refused(tmp_path):
    (tmp_path / "video.mp4").write_bytes(b"x")
    with pytest.raises(UserError, match="is a file, not a capture"):
        load_scene(tmp_path / "video.mp4")


def test_one_single_view_is_too_few(tmp_path):
    with pytest.raises(UserError, match="has 1 usable view, and a scene needs at least 2"):
        load_scene(write_capture(tmp_path, 1))


def test_a_model_without_images_on_disk_says_where_it_looked(tmp_path):
    write_colmap(tmp_path / "sparse" / "0", [f"im{i}.png" for i in range(4)])
    with pytest.raises(UserError, match=r"4 of 4 images of the capture are not on disk below .*images"):
        load_scene(tmp_path)


def test_one_missing_image_is_left_out_with_a_warning_and_more_than_half_stops(tmp_path, caplog):
    write_capture(tmp_path, 6)
    (tmp_path / "images" / "im01.png").unlink()
    with caplog.at_level(logging.WARNING, "nfc_gs"):
        scene = load_scene(tmp_path)
    assert "1 of 6 images" in caplog.text and "im01.png" in caplog.text
    assert [v.name for v in scene.views] == ["im00.png", "im02.png", "im03.png", "im04.png", "im05.png"]
    for i in (0, 2):
        (tmp_path / "images" / f"im0{i}.png").unlink()
    assert len(load_scene(tmp_path).views) == 3
    (tmp_path / "images" / "im03.png").unlink()
    with pytest.raises(UserError, match="4 of 6 images"):
        load_scene(tmp_path)


def test_a_truncated_jpeg_shows_when_a_small_capture_is_opened(tmp_path):
    write_capture(tmp_path, suffix=".jpg")
    path = tmp_path / "images" / "im05.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"im05\.jpg is damaged or cut short"):
        load_scene(tmp_path)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (DataConfig(test_every=-1), "--test-every"),
        (DataConfig(test_every=1), "--test-every"),
        (DataConfig(random_points=0), "--random-points"),
        (DataConfig(cache_gb=-1.0), "--cache-gb"),
        (DataConfig(cache_gb=float("nan")), "--cache-gb"),
        (DataConfig(background=(0.0, 2.0, 0.0)), "background"),
    ],
)
def test_settings_that_make_no_sense_are_named(tmp_path, config, sentence):
    with pytest.raises(UserError, match=sentence):
        load_scene(tmp_path, config)


# --- real captures -----------------------------------------------------------------------------------------------


@needs_captures
@pytest.mark.parametrize(
    ("name", "views", "held_out", "size", "points"),
    [
        ("fox", 50, 7, (270, 480), 4905),
        ("fox_distorted", 50, 7, (270, 480), 4905),
        ("fox_transforms", 50, 7, (270, 480), 20000),
        ("snowmiku", 97, 13, (504, 378), 25784),
        ("hand_books", 86, 11, (512, 384), 20000),
        ("suzanne", 120, 20, (200, 200), 20000),
    ],
)
def test_real_captures_open(name, views, held_out, size, points):
    scene = load_scene(SHARED / name)
    assert len(scene.views) == views and len(scene.test) == held_out and len(scene.points) == points
    assert (scene.views[0].camera.width, scene.views[0].camera.height) == size
    assert scene.image(0).rgb.shape == (size[1], size[0], 3)
    assert np.isfinite(scene.points.xyz).all() and scene.extent == pytest.approx(1.1, abs=1e-6)
    dynamic = name in ("hand_books", "suzanne")
    assert all((view.time is not None) == dynamic for view in scene.views)


@needs_captures
@pytest.mark.parametrize("name", ["fox", "fox_distorted"])
def test_points_seen_through_a_scene_are_as_near_to_their_observations_as_in_colmap(name):
    scene = load_scene(SHARED / name)
    model = pycolmap.Reconstruction(str(SHARED / name / "sparse" / "0"))
    lens = model.cameras[1]
    ours, theirs = [], []
    for image in model.images.values():
        index = next(i for i, view in enumerate(scene.views) if view.name == image.name)
        seen = [p for p in image.points2D if p.has_point3D()]
        world = np.array([model.points3D[p.point3D_id].xyz for p in seen])
        keypoints = np.array([p.xy for p in seen])
        pose = image.cam_from_world().matrix()
        theirs.append(np.linalg.norm(lens.img_from_cam(world @ pose[:, :3].T + pose[:, 3]) - keypoints, axis=1))
        normalised = (world @ scene.transform[:3, :3].T + scene.transform[:3, 3]).astype(np.float32)
        camera = scene.views[index].camera
        rays = np.asarray(lens.cam_from_img(keypoints))
        observed = rays[:, :2] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
        ours.append(np.linalg.norm(project(scene, index, normalised) - observed, axis=1))
    ours, theirs = np.concatenate(ours), np.concatenate(theirs)
    assert theirs.mean() < 0.5
    # the lens stretches its pixels by at most some percent where it is undone; a pinhole does not
    assert ours.mean() == pytest.approx(theirs.mean(), rel=1e-3 if name == "fox" else 0.03)


@needs_captures
def test_our_undistorted_fox_is_the_fox_that_colmap_undistorted():
    ours, theirs = load_scene(SHARED / "fox_distorted"), load_scene(SHARED / "fox")
    for index in (0, 25, 49):
        frame, camera = ours.image(index), ours.views[index].camera
        other, target = theirs.image(index).rgb.astype(np.float64), theirs.views[index].camera
        # COLMAP chose a slightly longer focal length: look its picture up at our pixels
        x = (np.arange(270) + 0.5 - camera.cx) / camera.fx * target.fx + target.cx - 0.5
        y = (np.arange(480) + 0.5 - camera.cy) / camera.fy * target.fy + target.cy - 0.5
        picture = bilinear(other, x, y)
        assert frame.mask is not None
        counts = (frame.mask == 255) & (x >= 0)[None] & (x <= 269)[None] & (y >= 0)[:, None] & (y <= 479)[:, None]
        error = (frame.rgb - picture)[counts] / 255.0
        assert counts.mean() > 0.9
        # mean over the capture: 40.2 dB (each went once through an interpolation and JPEG that the other did not
        # see); a shift by a quarter of a pixel gives 37.5
        assert -10 * np.log10((error**2).mean()) > 38


def bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[H, W, C] at the columns x and rows y (indices), clamped at the border."""

    def along(values: np.ndarray, at: np.ndarray) -> np.ndarray:
        low = np.clip(np.floor(at).astype(int), 0, len(values) - 2)
        share = (at - low).reshape(-1, *[1] * (values.ndim - 1))
        return values[low] * (1 - share) + values[low + 1] * share

    return along(along(image, y).swapaxes(0, 1), x).swapaxes(0, 1)
