"""The reader of multi-view video: frames in folders or in videos, poses of COLMAP or of poses_bounds.npy."""

from __future__ import annotations

import io
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from capture_files import look_at_origin, ring, write_colmap
from PIL import Image
from videos import (
    CAMERAS,
    CODECS,
    FPS,
    FRAMES,
    HEIGHT,
    NAMES,
    PLAIN,
    WIDTH,
    color,
    llff_row,
    write_bounds,
    write_frames,
    write_video,
    write_videos,
)

from nfc_gs.core.errors import UserError
from nfc_gs.data import video
from nfc_gs.data.config import DataConfig
from nfc_gs.data.image_cache import ImageCache
from nfc_gs.data.image_copies import ImageCopies
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import TimeAxis


def colors_are_right(scene) -> bool:
    """Whether each view shows what its camera saw at its time."""
    frames = FPS if scene.time_axis.unit == "seconds" else 1
    for index, view in enumerate(scene.views):
        frame = round(scene.time_axis.own(view.time) * frames)
        wanted = color(NAMES.index(view.name.split("/")[0]), frame)
        if np.abs(scene.image(index).rgb.astype(int) - wanted).max() > 4:  # what the video codec leaves
            return False
    return True


# --- frames ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["images", "."])
@pytest.mark.parametrize("name", ["{:04d}.png", "v2_frame_{}.jpg"])
def test_frames_in_folders_are_timed_by_their_numbers_and_the_first_camera_is_held_out(tmp_path, folder, name):
    write_bounds(write_frames(tmp_path, folder, name))
    scene = load_scene(tmp_path, PLAIN)
    assert [v.name for v in scene.views] == [f"{c}/{name.format(k)}" for c in NAMES for k in range(FRAMES)]
    assert scene.test == tuple(range(FRAMES)) and len(scene.train) == 3 * FRAMES
    assert [v.time for v in scene.views] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0] * CAMERAS)
    assert scene.time_axis == TimeAxis(0.0, 4.0, "frames")
    assert colors_are_right(scene)


def test_every_kth_image_is_held_out_where_that_is_asked_for(tmp_path):
    write_bounds(write_frames(tmp_path))
    assert load_scene(tmp_path, DataConfig(test_every=7, random_points=20)).test == (0, 7, 14)
    assert load_scene(tmp_path, DataConfig(test_every=0, random_points=20)).test == ()


@pytest.mark.parametrize("kind", ["frames", "videos"])
def test_frames_are_chosen_by_start_end_and_stride(tmp_path, kind):
    write_bounds(write_frames(tmp_path) if kind == "frames" else write_videos(tmp_path))
    scene = load_scene(tmp_path, DataConfig(frame_start=1, frame_end=4, frame_stride=2, random_points=20))
    axis = TimeAxis(1.0, 3.0, "frames")
    assert len(scene.views) == 2 * CAMERAS and scene.time_axis == (axis if kind == "frames" else axis.in_seconds(FPS))
    assert colors_are_right(scene)


def test_frames_that_a_camera_lacks_are_left_out_of_all(tmp_path):
    write_bounds(write_frames(tmp_path))
    (tmp_path / "cam02" / "images" / "0001.png").unlink()
    scene = load_scene(tmp_path, PLAIN)
    assert sorted({round(scene.time_axis.own(v.time)) for v in scene.views}) == [0, 2, 3, 4]
    assert len(scene.views) == 4 * CAMERAS and colors_are_right(scene)
    assert any("cam02 has 4, cam00 has 5): only the 4 that all have are used" in text for text in scene.messages)


def test_numbers_of_frames_not_places_are_compared(tmp_path):
    write_bounds(write_frames(tmp_path))
    images = tmp_path / "cam01" / "images"
    for frame in range(FRAMES):
        (images / f"{frame:04d}.png").rename(images / f"x{frame + 3}.png")
    scene = load_scene(tmp_path, PLAIN)
    assert {v.name for v in scene.views if v.name.startswith("cam01")} == {"cam01/x3.png", "cam01/x4.png"}
    for frame in range(FRAMES):
        (images / f"x{frame + 3}.png").rename(images / f"{frame + 9}.png")
    with pytest.raises(UserError, match=r"No frame is there of all cameras \(cam00 has 5 frames\)"):
        load_scene(tmp_path, PLAIN)


def test_smaller_copies_and_masks_are_used(tmp_path):
    write_bounds(write_frames(tmp_path))
    for camera in NAMES:
        (tmp_path / camera / "images_2").mkdir()
        for frame in range(FRAMES):
            Image.new("RGB", (16, 12), (9, 9, 9)).save(tmp_path / camera / "images_2" / f"{frame:04d}.png")
    (tmp_path / "masks" / "cam01").mkdir(parents=True)
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "masks" / "cam01" / "0002.png")
    scene = load_scene(tmp_path, DataConfig(downscale="2", random_points=20))
    assert (scene.image(0).rgb == 9).all() and scene.views[0].camera.fx == 15.0
    index = [v.name for v in scene.views].index("cam01/0002.png")
    assert scene.image(index).mask is not None and scene.image(index - 1).mask is None


# --- poses -------------------------------------------------------------------------------------------------------


def test_a_known_camera_comes_back_from_the_axes_of_llff(tmp_path):
    rng = np.random.default_rng(5)
    viewmats = [look_at_origin(rng.normal(size=3) * 3.0) for _ in NAMES]
    rows = np.stack([llff_row(viewmat, focal=33.0 + k) for k, viewmat in enumerate(viewmats)])
    write_bounds(write_frames(tmp_path), rows)
    for view in load_scene(tmp_path, PLAIN).views:
        index = NAMES.index(view.name.split("/")[0])
        assert view.camera.viewmat.numpy() == pytest.approx(viewmats[index], abs=1e-6)
        assert (view.camera.fx, view.camera.fy) == (33.0 + index, 33.0 + index)
        assert (view.camera.cx, view.camera.cy) == (WIDTH / 2, HEIGHT / 2)


def test_columns_of_llff_are_down_right_and_backward(tmp_path):
    # at (1, 2, 3), looking along +x with +z up: down is -z, right is -y, backward is -x
    matrix = np.array([[0, 0, -1, 1, HEIGHT], [0, -1, 0, 2, WIDTH], [-1, 0, 0, 3, 30]])
    rows = np.tile(np.append(matrix.ravel(), [2, 9]), (CAMERAS, 1))
    write_bounds(write_frames(tmp_path), rows)
    viewmat = load_scene(tmp_path, PLAIN).views[0].camera.viewmat.numpy()
    # a point 4 before the camera, 0.5 to the left of it (+y) and 0.25 above
    assert viewmat @ [5.0, 2.5, 3.25, 1.0] == pytest.approx([-0.5, -0.25, 4.0, 1.0])


def test_random_points_lie_between_the_bounds_of_llff(tmp_path):
    write_bounds(write_frames(tmp_path))
    scene = load_scene(tmp_path, DataConfig(random_points=200))
    world = (np.c_[scene.points.xyz, np.ones(200)] @ np.linalg.inv(scene.transform).T)[:, :3]
    depths = np.stack([world @ viewmat[2, :3] + viewmat[2, 3] for viewmat in ring(CAMERAS)])
    assert ((depths > 1.999) & (depths < 9.001)).any(axis=0).all()
    assert depths.max() > 7.0  # farther than the cameras alone would suggest, which is 1.4 times their distance of 4.1


def test_poses_of_a_colmap_model_belong_to_the_cameras_their_images_are_named_after(tmp_path):
    names = ["calib/cam03.png", "cam01_0000.png", "cam00/images/0000.png", "cam02.jpg"]
    viewmats = ring(CAMERAS)
    write_colmap(write_frames(tmp_path) / "sparse" / "0", names, viewmats=viewmats)
    scene = load_scene(tmp_path, PLAIN)
    order = {"cam03": 0, "cam01": 1, "cam00": 2, "cam02": 3}
    for view in scene.views:
        expected = viewmats[order[view.name.split("/")[0]]]
        assert view.camera.viewmat.numpy() == pytest.approx(expected, abs=1e-6)
    assert len(scene.points) == 20 and len(scene.views) == CAMERAS * FRAMES


def test_cam1_is_not_taken_for_cam10(tmp_path):
    viewmats = ring(CAMERAS)
    write_frames(tmp_path)
    for old, new in zip(NAMES, ("cam1", "cam10", "cam11", "cam2"), strict=True):
        (tmp_path / old).rename(tmp_path / new)
    write_colmap(tmp_path / "sparse", ["cam1.png", "cam10.png", "cam11.png", "cam2.png"], viewmats=viewmats)
    scene = load_scene(tmp_path, PLAIN)
    assert scene.views[0].name == "cam1/0000.png"
    assert scene.views[0].camera.viewmat.numpy() == pytest.approx(viewmats[0], abs=1e-6)
    write_bounds(tmp_path)
    shutil.rmtree(tmp_path / "sparse")
    assert any(
        "order of the alphabet (cam1, cam10, cam11, ...)" in text for text in load_scene(tmp_path, PLAIN).messages
    )


def test_the_lens_of_a_colmap_model_is_undone(tmp_path):
    names = [f"{camera}.png" for camera in NAMES]
    write_colmap(write_frames(tmp_path) / "sparse", names, model="SIMPLE_RADIAL", params=(30.0, 16.0, 12.0, 0.1))
    scene = load_scene(tmp_path, PLAIN)
    assert all(view.source.lens is not None for view in scene.views)


def test_a_model_goes_before_the_bounds_and_the_bounds_before_a_model_of_other_images(tmp_path):
    write_bounds(write_frames(tmp_path))
    write_colmap(tmp_path / "sparse", [f"{camera}.png" for camera in NAMES])
    scene = load_scene(tmp_path, PLAIN)
    assert len(scene.points) == 20 and any("the model is used" in text for text in scene.messages)
    write_colmap(tmp_path / "sparse", [f"{camera}/{k}.png" for camera in NAMES for k in range(2)])
    scene = load_scene(tmp_path, PLAIN)
    assert len(scene.views) == CAMERAS * FRAMES and any("poses_bounds.npy is used" in text for text in scene.messages)


def test_a_camera_without_a_pose_is_left_out_and_most_of_them_stop(tmp_path):
    write_colmap(write_frames(tmp_path) / "sparse", [f"{camera}.png" for camera in NAMES[1:]])
    scene = load_scene(tmp_path, PLAIN)
    assert any("1 of 4 cameras" in text and "left out: cam00" in text for text in scene.messages)
    assert len(scene.views) == 3 * FRAMES and scene.views[scene.test[0]].name == "cam01/0000.png"
    shutil.rmtree(tmp_path / "sparse")
    write_colmap(tmp_path / "sparse", ["cam03.png"])
    with pytest.raises(UserError, match=r"3 of 4 cameras .* have no image in the COLMAP model .*\(cam00, cam01, "):
        load_scene(tmp_path, PLAIN)


def test_a_pose_without_frames_is_left_out_and_most_of_them_stop(tmp_path):
    write_colmap(write_frames(tmp_path) / "sparse", [f"cam{k:02d}.png" for k in range(CAMERAS + 1)])
    scene = load_scene(tmp_path, PLAIN)
    assert any("1 of 5 images" in text and "cam04.png" in text for text in scene.messages)
    shutil.rmtree(tmp_path / "sparse")
    write_colmap(tmp_path / "sparse", [f"cam{k:02d}.png" for k in range(9)])
    with pytest.raises(UserError, match=r"5 of 9 images of the COLMAP model in .* are of no camera in .*cam04\.png"):
        load_scene(tmp_path, PLAIN)


def test_photos_of_several_moments_are_a_colmap_capture_as_before(tmp_path):
    write_frames(tmp_path, ".")
    names = [f"{camera}/{k:04d}.png" for camera in NAMES for k in range(FRAMES)]
    write_colmap(tmp_path / "sparse", names)
    scene = load_scene(tmp_path, PLAIN)
    assert [v.name for v in scene.views] == names and scene.views[0].time is None
    assert any("read as photos" in text for text in scene.messages)
    scene = load_scene(tmp_path, DataConfig(time_from_name=r"/(\d+)\.png", random_points=20))
    assert colors_are_right(scene)


@pytest.mark.parametrize("folders", ["cam{:02d}", "cam{}", "Cam_{:03d}"])
@pytest.mark.parametrize("images", ["cam{}.png", "cam_{:02d}/0000.png", "calib/camera{:03d}.jpg"])
def test_cameras_and_images_of_a_model_with_the_same_numbers_belong_together(tmp_path, folders, images):
    viewmats = ring(CAMERAS)
    write_frames(tmp_path)
    for k, name in enumerate(NAMES):
        (tmp_path / name).rename(tmp_path / folders.format(k))
    write_colmap(tmp_path / "sparse", [images.format(k) for k in range(CAMERAS)], viewmats=viewmats)
    scene = load_scene(tmp_path, PLAIN)
    assert len(scene.views) == CAMERAS * FRAMES
    for view in scene.views:
        number = [folders.format(k) for k in range(CAMERAS)].index(view.name.split("/")[0])
        assert view.camera.viewmat.numpy() == pytest.approx(viewmats[number], abs=1e-6)
    assert not any("paired in order" in text for text in scene.messages)


@pytest.mark.parametrize("images", ["cam{:02d}.png", "cam{}.png"])
@pytest.mark.parametrize("from_one", ["model", "folders"])
def test_cameras_numbered_from_0_and_images_from_1_are_paired_and_it_is_said(tmp_path, images, from_one):
    viewmats = ring(CAMERAS)
    write_frames(tmp_path)
    if from_one == "folders":
        for k in reversed(range(CAMERAS)):
            (tmp_path / f"cam{k:02d}").rename(tmp_path / f"cam{k + 1:02d}")
    first = 1 if from_one == "model" else 0
    write_colmap(tmp_path / "sparse", [images.format(k + first) for k in range(CAMERAS)], viewmats=viewmats)
    scene = load_scene(tmp_path, PLAIN)
    for view in scene.views:
        number = int(view.name[3:5]) - (1 - first)
        assert view.camera.viewmat.numpy() == pytest.approx(viewmats[number], abs=1e-6)
    sentence = next(text for text in scene.messages if "paired in order" in text)
    assert f"numbered from {1 - first} (cam0{1 - first} to cam0{CAMERAS - first})" in sentence
    assert "number them alike if that is wrong" in sentence


def test_a_model_whose_images_fit_no_camera_says_how_to_name_them(tmp_path):
    write_colmap(write_frames(tmp_path) / "sparse", [f"{k}.png" for k in range(CAMERAS)])
    with pytest.raises(UserError, match=r"4 cameras \(cam00, .*\), but its COLMAP model does not .*, as in cam00\.png"):
        load_scene(tmp_path, PLAIN)


def rename_frames(root: Path, name) -> Path:
    """Frames in folders whose names are what `name` makes of the number of the camera and that of the frame."""
    write_bounds(write_frames(root))
    for c, camera in enumerate(NAMES):
        for frame in range(FRAMES):
            (root / camera / "images" / f"{frame:04d}.png").rename(root / camera / "images" / name(c, frame))
    return root


@pytest.mark.parametrize(
    "name",
    [
        lambda c, k: f"frame_{k:04d}_cam{c:02d}.png",
        lambda c, k: f"frame_{k}_{c}.png",
        lambda c, k: f"cam{c:02d}_{k}_v2.png",
        lambda c, k: f"{k:04d}_{1000 + 37 * k + c}.png",  # clocks of their own
        lambda c, k: f"take7_{k:04d}_1080p.png",
    ],
)
def test_the_number_of_a_frame_is_the_one_that_differs_from_frame_to_frame(tmp_path, name):
    scene = load_scene(rename_frames(tmp_path, name), PLAIN)
    assert len(scene.views) == CAMERAS * FRAMES
    for view in scene.views:
        assert view.name.split("/")[1] == name(NAMES.index(view.name[:5]), round(scene.time_axis.own(view.time)))
    assert colors_are_right(scene)
    assert not any("several numbers" in text for text in scene.messages)


def test_of_several_numbers_that_would_do_the_last_is_taken_and_another_can_be_chosen(tmp_path):
    rename_frames(tmp_path, lambda c, k: f"{10 * k:04d}_{k}.png")
    scene = load_scene(tmp_path, PLAIN)
    assert colors_are_right(scene) and any("have several numbers that differ" in text for text in scene.messages)
    scene = load_scene(tmp_path, DataConfig(time_from_name=r"/(\d+)_", random_points=20))
    assert scene.time_axis == TimeAxis(0.0, 40.0, "frames")


def test_one_frame_of_each_camera_needs_no_number_that_differs(tmp_path):
    write_bounds(write_frames(tmp_path, name="frame_{:04d}.png", frames=1))
    for c, camera in enumerate(NAMES):
        path = tmp_path / camera / "images" / "frame_0000.png"
        path.rename(path.with_name(f"frame_0000_cam{c:02d}.png"))
    assert len(load_scene(tmp_path, PLAIN).views) == CAMERAS


def test_a_named_pipe_among_the_frames_is_left_out_and_named(tmp_path):
    write_bounds(write_frames(tmp_path))
    path = tmp_path / "cam02" / "images" / "0003.png"
    path.unlink()
    os.mkfifo(path)
    os.mkfifo(tmp_path / "cam09.mp4")
    scene = load_scene(tmp_path, PLAIN)
    assert len(scene.views) == CAMERAS * (FRAMES - 1)
    assert any("0003.png in" in text and "no regular file" in text for text in scene.messages)


# --- videos ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [25, 30000 / 1001])
@pytest.mark.parametrize("block", [1, 3, 100])
def test_every_frame_of_a_video_is_the_one_of_its_number(tmp_path, monkeypatch, fps, block):
    monkeypatch.setattr(video, "BLOCK_BYTES", block * WIDTH * HEIGHT * 3)
    file = tmp_path / "cam00.mp4"
    write_video(file, 0, 11, fps, extra=("-g", "4"))
    header = video.read_video_header(file)
    assert (header.width, header.height, header.frames) == (WIDTH, HEIGHT, 11) and header.fps == pytest.approx(fps)
    for number in (7, 0, 10, 3, 4, 9, 1):
        assert np.abs(video.read_video_frame(file, number).astype(int) - color(0, number)).max() <= 4
    with pytest.raises(UserError, match=r"cam00\.mp4 has no frame 11"):
        video.read_video_frame(file, 11)


def test_videos_are_read_like_frames_in_folders_and_nothing_is_written(tmp_path):
    write_bounds(write_videos(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    scene = load_scene(tmp_path, PLAIN)
    assert [v.name for v in scene.views] == [f"{c}/{k:06d}" for c in NAMES for k in range(FRAMES)]
    assert scene.test == tuple(range(FRAMES)) and scene.time_axis == TimeAxis(0.0, 0.16, "seconds")
    assert [v.time for v in scene.views] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0] * CAMERAS)
    assert colors_are_right(scene) and sorted(tmp_path.rglob("*")) == before
    scene = load_scene(tmp_path, DataConfig(downscale="2", random_points=20))
    assert scene.image(3).rgb.shape == (12, 16, 3) and colors_are_right(scene)


def held(ready: Callable[[], bool]) -> bool:
    """Whether threads in the background get that far."""
    for _ in range(3000):
        if ready():
            return True
        time.sleep(0.01)
    return False


def test_frames_that_were_decoded_with_another_are_kept_and_not_decoded_again(tmp_path):
    scene = load_scene(write_bounds(write_videos(tmp_path)), PLAIN)
    expected = [scene.image(index).rgb for index in range(FRAMES)]
    cache = ImageCache(views=scene.views)
    cache.prefetch(scene.views[2:3])
    cache.image(scene.views[2])
    assert held(lambda: cache.nbytes == FRAMES * WIDTH * HEIGHT * 3)
    (tmp_path / "cam00.mp4").unlink()
    for view, rgb in zip(scene.views, expected, strict=False):
        assert (cache.image(view).rgb == rgb).all()
    with pytest.raises(UserError, match=r"cam00\.mp4"):
        ImageCache(views=scene.views).image(scene.views[3])


def test_frames_for_which_there_is_no_room_in_memory_are_kept_as_copies(tmp_path):
    scene = load_scene(write_bounds(write_videos(tmp_path / "videos")), PLAIN)
    folder = tmp_path / "copies"
    frame = WIDTH * HEIGHT * 3
    cache = ImageCache(2.5 * frame / 1e9, copies=ImageCopies(folder, 10**9), views=scene.views)
    cache.prefetch(scene.views[2:3])
    cache.image(scene.views[2])
    assert held(lambda: len(list(folder.glob("[!.]*.picture"))) == FRAMES)
    assert cache.nbytes == 2 * frame


def test_of_videos_of_different_length_the_common_one_is_used(tmp_path):
    write_bounds(write_videos(tmp_path))
    write_video(tmp_path / "cam02.mp4", 2, 3, fps=50)
    scene = load_scene(tmp_path, PLAIN)
    assert len(scene.views) == 3 * CAMERAS and colors_are_right(scene)
    assert any("cam02 has 3, cam00 has 5): only the 3 that all have are used" in text for text in scene.messages)
    assert any("different frame rates (25 in cam03, 50 in cam02)" in text for text in scene.messages)
    assert scene.time_axis == TimeAxis(0.0, 2.0, "frames")
    scene = load_scene(tmp_path, DataConfig(frame_rate=10.0, random_points=20))
    assert scene.time_axis == TimeAxis(0.0, 0.2, "seconds")


def test_a_rate_can_be_given_for_frames_in_folders_and_against_that_of_videos(tmp_path):
    for root in (write_frames(tmp_path / "frames"), write_videos(tmp_path / "videos")):
        scene = load_scene(write_bounds(root), DataConfig(frame_rate=2.0, random_points=20))
        assert scene.time_axis == TimeAxis(0.0, 2.0, "seconds")


def test_frames_are_used_rather_than_the_videos_they_are_of(tmp_path):
    write_bounds(write_videos(write_frames(tmp_path)))
    scene = load_scene(tmp_path, PLAIN)
    assert scene.views[0].name == "cam00/0000.png" and any("the frames are used" in text for text in scene.messages)
    shutil.rmtree(tmp_path / "cam03")
    scene = load_scene(tmp_path, PLAIN)
    assert scene.views[0].name == "cam00/000000" and any("cam03 has none" in text for text in scene.messages)
    (tmp_path / "cam01.mp4").unlink()
    with pytest.raises(UserError, match="camera cam03 has only a video and cam01 only a folder of frames"):
        load_scene(tmp_path, PLAIN)


def test_a_video_that_changed_while_it_was_used_is_named(tmp_path):
    write_bounds(write_videos(tmp_path))
    scene = load_scene(tmp_path, DataConfig(cache_gb=0.0, random_points=20))
    write_video(tmp_path / "cam01.mp4", 1, FRAMES, size=(16, 12))
    with pytest.raises(UserError, match=r"cam01\.mp4 has changed since the capture was opened"):
        scene.image(FRAMES)
    (tmp_path / "cam01.mp4").unlink()
    with pytest.raises(UserError, match=r"Cannot read the video .*cam01\.mp4: No such file"):
        scene.image(FRAMES + 1)


@pytest.mark.parametrize("damage", ["junk", "empty", "no index", "no end", "no frames"])
def test_a_video_that_cannot_be_read_is_named(tmp_path, damage):
    write_bounds(write_videos(tmp_path))
    file = tmp_path / "cam02.mp4"
    if damage == "no end":  # its index comes first, so it opens
        write_video(file, 2, 40, extra=("-movflags", "+faststart", "-g", "5"))
    whole = file.read_bytes()
    if damage == "no frames":
        shutil.copy(Path(imageio_ffmpeg.__file__), file)
    else:
        file.write_bytes({"junk": b"no video" * 20, "empty": b""}.get(damage, whole[: len(whole) * 2 // 3]))
    with pytest.raises(UserError, match=r"The video .*cam02\.mp4 cannot be read, or is cut short \(.+\)") as caught:
        load_scene(tmp_path, PLAIN)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", [0.4, 0.7])
@pytest.mark.parametrize("suffix", sorted(video.VIDEO_SUFFIXES))
def test_a_video_of_any_kind_that_is_cut_short_is_named(tmp_path, suffix, part):
    file = tmp_path / f"cam02{suffix}"
    write_video(file, 2, 40, codec=CODECS.get(suffix, "libx264"), extra=("-g", "5"))
    assert video.read_video_header(file).frames == 40
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(UserError, match=rf"The video .*cam02\{suffix} cannot be read, or is cut short \(.+\)"):
        video.read_video_header(file)


def test_an_avi_of_which_the_length_was_never_written_is_read(tmp_path):
    file = tmp_path / "cam00.avi"
    write_video(file, 0, 10, codec="mpeg4")
    content = bytearray(file.read_bytes())
    content[4:8] = b"\xff" * 4
    file.write_bytes(content)
    assert video.read_video_header(file).frames == 10


# --- bad input ---------------------------------------------------------------------------------------------------


def test_cameras_without_poses_get_a_sentence_on_what_to_add(tmp_path):
    write_frames(tmp_path)
    with pytest.raises(UserError, match=r"has 4 cameras \(cam00, cam01, \.\.\.\) but no poses; add poses_bounds\.npy"):
        load_scene(tmp_path, PLAIN)


def spoilt(row: int, column: int, value: float) -> np.ndarray:
    rows = np.stack([llff_row(viewmat) for viewmat in ring(CAMERAS)])
    rows[row, column] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (np.zeros((3, 17)), r"has the poses of 3 cameras, but 4 are there \(cam00, cam01, cam02, \.\.\.\)"),
        (np.zeros((4, 15)), r"holds float64 of shape \[4, 15\], not 17 numbers for each camera"),
        (np.zeros(17), r"holds float64 of shape \[17\], not 17 numbers"),
        (np.full((4, 17), "x"), r"holds <U1 of shape \[4, 17\]"),
        (np.zeros((4, 17)), r"camera cam00: the pose holds no rotation"),
        (spoilt(2, 5, np.nan), r"camera cam02: the pose is not finite"),
        (spoilt(1, 0, 3.0), r"camera cam01: the pose holds no rotation"),
        (spoilt(1, 3, 1e300), r"camera cam01: the pose is too far away"),
        (spoilt(1, 14, -30.0), r"camera cam01: a focal length of -30"),
        (spoilt(3, 4, 0.0), r"camera cam03: an image of 32 x 0 pixels is not possible"),
        (spoilt(3, 4, 32.0), r"cam03/images/0000\.png is 32 x 24 pixels, but its camera is 32 x 32"),
    ],
)
def test_what_is_wrong_in_the_bounds_is_named(tmp_path, rows, sentence):
    write_bounds(write_frames(tmp_path), rows)
    with pytest.raises(UserError, match=sentence):
        load_scene(tmp_path, PLAIN)


def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, np.zeros((4, 17)))
    return file.getvalue()


HUGE = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 17), }".ljust(117) + b"\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        b"\x93NUMPY\x01\x00",
        archive(),
        b"PK\3\4",
        b"\x93NUMPY\x01\x00\x76\x00" + HUGE,
        b"\x80\x04K\x01.",
    ],
)
def test_a_file_of_bounds_that_is_no_array_is_named(tmp_path, content):
    (write_frames(tmp_path) / "poses_bounds.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"poses_bounds\.npy cannot be read \(.+\)"):
        load_scene(tmp_path, PLAIN)


def test_a_camera_of_another_size_is_named_and_one_scale_for_all_is_not(tmp_path):
    write_bounds(write_frames(tmp_path, size=(16, 12)))
    assert load_scene(tmp_path, PLAIN).views[0].camera.fx == 15.0
    for frame in range(FRAMES):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "cam02" / "images" / f"{frame:04d}.png")
    with pytest.raises(UserError, match=r"cam02/images/0000\.png .* is 32 x 24, and most .* 0\.5 times the size"):
        load_scene(tmp_path, PLAIN)


def test_names_that_do_not_number_their_frames_are_named(tmp_path):
    images = write_bounds(write_frames(tmp_path)) / "cam01" / "images"
    shutil.copy(images / "0003.png", images / "3.png")
    with pytest.raises(UserError, match=r"0003\.png and 3\.png in .*cam01/images are both frame 3; remove one"):
        load_scene(tmp_path, PLAIN)
    (images / "3.png").rename(images / "cover.png")
    with pytest.raises(UserError, match=r"The name of .*cover\.png does not say which frame it is"):
        load_scene(tmp_path, PLAIN)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (DataConfig(frame_start=-1), "--frame-start -1 is negative"),
        (DataConfig(frame_start=3, frame_end=3), "--frame-end 3 is not after --frame-start 3"),
        (DataConfig(frame_stride=0), "--frame-stride 0 is less than 1"),
        (DataConfig(frame_rate=0.0), "--frame-rate 0 is no rate; give the number of frames per second"),
        (DataConfig(frame_rate=math.nan), "--frame-rate nan is no rate"),
        (DataConfig(frame_start=5), r"leave no image of .*, whose frames are numbered from 0 to 4"),
    ],
)
def test_choices_of_frames_that_make_no_sense_are_named(tmp_path, config, sentence):
    write_bounds(write_frames(tmp_path))
    with pytest.raises(UserError, match=sentence):
        load_scene(tmp_path, config)
