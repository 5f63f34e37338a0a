"""The reader of COLMAP models: layouts, formats, odd and damaged files."""

from __future__ import annotations

import logging
import shutil
import struct
import tempfile
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from colmap_models import HEIGHT, NAMES, POINTS, WIDTH, files_of, poke, pose, text_model, write_images, write_model
from PIL import Image

from nfc_gs.core.errors import UserError
from nfc_gs.data.config import DataConfig
from nfc_gs.data.images import describe_processing
from nfc_gs.data.loading import load_scene
from nfc_gs.data.readers.colmap_files import find_models

CONFIG = DataConfig(random_points=20)


@pytest.fixture
def capture(tmp_path) -> Path:
    write_model(tmp_path / "sparse" / "0", NAMES)
    write_images(tmp_path / "images", NAMES)
    return tmp_path


# --- layouts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["sparse/0", "sparse", ".", "colmap/sparse/0", "sparse/3"])
@pytest.mark.parametrize("text", [False, True])
def test_models_are_found_wherever_colmap_and_its_users_put_them(tmp_path, layout, text):
    write_model(tmp_path / layout, NAMES, text)
    write_images(tmp_path / "images", NAMES)
    scene = load_scene(tmp_path, DataConfig(normalize=False))
    assert [v.name for v in scene.views] == NAMES and scene.root == tmp_path
    for number, view in enumerate(scene.views, start=1):
        assert view.camera.viewmat[:3].numpy() == pytest.approx(pose(number).matrix(), abs=1e-6)
    order = np.argsort(scene.points.rgb[:, 0])
    assert scene.points.xyz[order, 0] == pytest.approx(0.1 * np.arange(POINTS), abs=1e-6)


def test_the_folder_of_the_model_itself_may_be_given(capture):
    scene = load_scene(capture / "sparse" / "0")
    assert [v.source.path for v in scene.views] == [capture / "images" / name for name in NAMES]


def test_images_may_lie_in_the_capture_folder_itself(tmp_path):
    write_model(tmp_path / "sparse", NAMES)
    write_images(tmp_path, NAMES)
    assert load_scene(tmp_path).views[0].source.path == tmp_path / "im0.png"


def test_images_in_subfolders_keep_their_relative_names(tmp_path):
    names = ["a/1.png", "a/2.png", "b/c/1.png"]
    write_model(tmp_path / "sparse", ["a/1.png", "a\\2.png", "b/c/1.png"])
    write_images(tmp_path / "images", names)
    assert [v.name for v in load_scene(tmp_path).views] == names


@pytest.mark.parametrize("on_disk", ["IM{}.PNG", "im{}.Png", "im{}.jpg", "im{}.JPEG"])
def test_case_and_extension_of_image_files_are_forgiven(tmp_path, on_disk):
    write_model(tmp_path / "sparse", NAMES)
    write_images(tmp_path / "images", [on_disk.format(i) for i in range(4)])
    assert [v.name for v in load_scene(tmp_path).views] == NAMES


def test_of_several_models_the_largest_is_taken_and_said(tmp_path, caplog):
    write_model(tmp_path / "sparse" / "0", NAMES[:2])
    write_model(tmp_path / "sparse" / "1", NAMES)
    write_model(tmp_path / "sparse" / "10", NAMES[:3])
    write_images(tmp_path / "images", NAMES)
    assert [p.name for p in find_models(tmp_path)] == ["0", "1", "10"]
    with caplog.at_level(logging.INFO, "nfc_gs"):
        scene = load_scene(tmp_path)
    assert len(scene.views) == 4
    assert "3 COLMAP models (images in each: 0: 2, 1: 4, 10: 3); 1 is used" in caplog.text


def test_a_damaged_model_is_passed_over_where_there_is_another(tmp_path, caplog):
    write_model(tmp_path / "sparse" / "0", NAMES)
    shutil.copytree(tmp_path / "sparse" / "0", tmp_path / "sparse" / "1")
    (tmp_path / "sparse" / "0" / "images.bin").write_bytes(b"\xff" * 100)
    write_images(tmp_path / "images", NAMES)
    with caplog.at_level(logging.WARNING, "nfc_gs"):
        assert len(load_scene(tmp_path).views) == 4
    assert "passed over" in caplog.text


def test_a_model_that_lacks_a_file_is_passed_over_and_named(capture):
    write_model(capture / "sparse" / "1", NAMES[:2])
    (capture / "sparse" / "0" / "images.bin").unlink()
    scene = load_scene(capture)
    assert len(scene.views) == 2
    assert any("passed over" in text and "images.bin is missing" in text for text in scene.messages)


def test_files_that_are_not_in_the_model_are_counted_and_ignored(capture):
    write_images(capture / "images", ["extra/one.png", "two.jpg"])
    scene = load_scene(capture)
    assert len(scene.views) == 4 and any("2 images in" in text for text in scene.messages)


def test_a_model_without_points_file_gets_random_points(capture):
    (capture / "sparse" / "0" / "points3D.bin").unlink()
    assert len(load_scene(capture, CONFIG).points) == 20


def strip_images(folder: Path, keep: int) -> None:
    """Leave each image only its first `keep` 2D points, as tools do that make models smaller."""
    if (folder / "images.txt").is_file():
        lines = (folder / "images.txt").read_text().split("\n")
        first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
        for i in range(first + 1, len(lines), 2):
            lines[i] = " ".join(lines[i].split()[: 3 * keep])
        (folder / "images.txt").write_text("\n".join(lines))
        return
    old = (folder / "images.bin").read_bytes()
    new, offset = old[:8], 8
    for _ in range(struct.unpack_from("<Q", old)[0]):
        after_name = old.index(b"\0", offset + 64) + 1
        (count,) = struct.unpack_from("<Q", old, after_name)
        start = after_name + 8
        new += old[offset:after_name] + struct.pack("<Q", keep) + old[start : start + 24 * keep]
        offset = start + 24 * count
    (folder / "images.bin").write_bytes(new)


@pytest.mark.parametrize("rigs", [False, True])
@pytest.mark.parametrize("keep", [0, 5])
@pytest.mark.parametrize("text", [False, True])
def test_a_model_stripped_of_its_2d_points_keeps_its_points(tmp_path, caplog, text, keep, rigs):
    folder = write_model(tmp_path / "sparse" / "0", NAMES, text)
    strip_images(folder, keep)
    if not rigs:
        for path in [*folder.glob("rigs.*"), *folder.glob("frames.*")]:
            path.unlink()
    write_images(tmp_path / "images", NAMES)
    with pytest.raises(IndexError):
        pycolmap.Reconstruction(str(folder))
    with caplog.at_level(logging.INFO, "nfc_gs"):
        scene = load_scene(tmp_path, DataConfig(normalize=False))
    assert len(scene.views) == 4 and len(scene.points) == POINTS
    expected = np.stack([0.1 * np.arange(POINTS), np.full(POINTS, 0.2), np.zeros(POINTS)], axis=1)
    order = np.argsort(scene.points.rgb[:, 0])
    assert scene.points.xyz[order] == pytest.approx(expected, abs=1e-6)
    assert scene.points.rgb[order].tolist() == [[k, 2, 3] for k in range(POINTS)]
    assert f"its {POINTS} points are used all the same" in caplog.text


def test_a_whole_model_is_not_called_stripped(capture, caplog):
    with caplog.at_level(logging.INFO, "nfc_gs"):
        load_scene(capture)
    assert "stripped" not in caplog.text


def test_points_in_a_ply_beside_the_model_stand_in_for_points3d(tmp_path):
    write_model(tmp_path / "sparse", NAMES, points=0)
    write_images(tmp_path / "images", NAMES)
    header = (
        "ply\nformat ascii 1.0\nelement vertex 9\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    (tmp_path / "sparse" / "points3D.ply").write_text(header + "1 2 3\n" * 9)
    assert len(load_scene(tmp_path, CONFIG).points) == 9


def test_a_colmap_model_wins_over_transforms_json_beside_it(capture):
    (capture / "transforms.json").write_text("{}")
    assert any("the model is used" in text for text in load_scene(capture).messages)


def test_cameras_of_a_rig_stand_where_the_rig_puts_them(tmp_path):
    reconstruction = pycolmap.Reconstruction()
    for camera_id in (1, 2):
        reconstruction.add_camera(
            pycolmap.Camera(camera_id=camera_id, model="PINHOLE", width=WIDTH, height=HEIGHT, params=[30, 30, 16, 12])
        )
    rig = pycolmap.Rig(rig_id=1)
    rig.add_ref_sensor(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, 1))
    offset = pycolmap.Rigid3d(pycolmap.Rotation3d(), np.array([-0.5, 0.0, 0.0]))
    rig.add_sensor(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, 2), offset)
    reconstruction.add_rig(rig)
    for frame_id in (1, 2):
        frame = pycolmap.Frame(frame_id=frame_id, rig_id=1, rig_from_world=pose(frame_id))
        for camera_id in (1, 2):
            sensor = pycolmap.sensor_t(pycolmap.SensorType.CAMERA, camera_id)
            frame.add_data_id(pycolmap.data_t(sensor, 2 * frame_id + camera_id))
        reconstruction.add_frame(frame)
        for camera_id, side in ((1, "left"), (2, "right")):
            image = pycolmap.Image(
                image_id=2 * frame_id + camera_id, name=f"{side}/{frame_id}.png", camera_id=camera_id
            )
            image.frame_id = frame_id
            reconstruction.add_image(image)
    (tmp_path / "sparse").mkdir()
    reconstruction.write(str(tmp_path / "sparse"))
    write_images(tmp_path / "images", [f"{side}/{i}.png" for side in ("left", "right") for i in (1, 2)])
    scene = load_scene(tmp_path, DataConfig(normalize=False, random_points=20))
    by_name = {view.name: view.camera.viewmat.numpy() for view in scene.views}
    for i in (1, 2):
        assert by_name[f"left/{i}.png"][:3] == pytest.approx(pose(i).matrix(), abs=1e-6)
        expected = pose(i).matrix() - [[0, 0, 0, 0.5], [0, 0, 0, 0], [0, 0, 0, 0]]
        assert by_name[f"right/{i}.png"][:3] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "camera",
    ["SIMPLE_RADIAL 30 16 12 -0.1", "OPENCV 30 31 16 12 -0.1 0.01 0 0", "OPENCV_FISHEYE 20 20 16 12 0 0 0 0"],
)
def test_distorted_lenses_become_pinholes_of_the_same_size(tmp_path, camera):
    write_model(tmp_path / "sparse", NAMES, camera=camera)
    write_images(tmp_path / "images", NAMES)
    scene = load_scene(tmp_path, DataConfig(downscale="2"))
    assert (scene.views[0].camera.width, scene.views[0].camera.height) == (16, 12)
    assert scene.image(0).rgb.shape == (12, 16, 3)
    assert scene.views[0].camera.fx == pytest.approx(float(camera.split()[1]) / 2)


def test_what_is_done_to_the_pictures_is_described(tmp_path):
    write_model(tmp_path / "sparse", NAMES, camera="SIMPLE_RADIAL 30 16 12 0.1")
    write_images(tmp_path / "images", NAMES)
    write_images(tmp_path / "masks", NAMES[:1])
    Image.new("RGBA", (WIDTH, HEIGHT), (9, 9, 9, 0)).save(tmp_path / "images" / NAMES[3])
    words = describe_processing(load_scene(tmp_path).views)
    assert words == ["undistorted", "masked by images (1 of 4)", "masked by their transparency (1 of 4)"]
    words = describe_processing(load_scene(tmp_path, DataConfig(background=(0.0, 0.0, 1.0), masks=False)).views)
    assert words == ["undistorted", "transparency laid on a color (1 of 4)"]


def test_a_panorama_becomes_the_six_faces_of_a_cube(tmp_path):
    write_model(tmp_path / "sparse", NAMES, camera=f"EQUIRECTANGULAR {WIDTH} {HEIGHT}")
    write_images(tmp_path / "images", NAMES)
    scene = load_scene(tmp_path, DataConfig(normalize=False))
    assert len(scene.views) == 24
    faces = {view.name.split("/")[1]: view.camera.viewmat.numpy() for view in scene.views[:6]}
    assert faces["front"][:3] == pytest.approx(pose(1).matrix(), abs=1e-6)
    forwards = np.stack([faces[label][2, :3] for label in ("front", "right", "up", "back", "left", "down")])
    assert forwards @ forwards.T == pytest.approx(
        np.block([[np.eye(3), -np.eye(3)], [-np.eye(3), np.eye(3)]]), abs=1e-6
    )
    centers = np.stack([view.camera.center.numpy() for view in scene.views[:6]])
    assert np.ptp(centers, axis=0) == pytest.approx(np.zeros(3), abs=1e-5)
    assert scene.image(0).rgb.shape == (10, 10, 3)


# --- damage ------------------------------------------------------------------------------------------------------


# one image of images.bin: 8 bytes of count, then u32 id, 7 doubles of pose, u32 camera, name
@pytest.mark.parametrize(
    ("file", "offset", "layout", "value", "sentence"),
    [
        ("images.bin", 12, "<d", np.nan, r"images\.bin is damaged: the pose of image im0\.png is not finite"),
        ("images.bin", 44, "<d", np.inf, r"images\.bin is damaged: the pose of image im0\.png is not finite"),
        ("images.bin", 12, "<4d", (0.0, 0.0, 0.0, 0.0), r"the rotation of image im0\.png is no rotation"),
        ("images.bin", 68, "<I", 77, r"image im0\.png refers to camera 77"),
        ("images.bin", 0, "<Q", 2**60, r"images\.bin is damaged: it claims \d+ images"),
        ("images.bin", 0, "<Q", 3, r"images\.bin is damaged: \d+ bytes follow its last entry"),
        ("images.bin", 80, "<Q", 2**61, r"claims \d+ points in image im0\.png"),
        ("cameras.bin", 12, "<i", 99, r"cameras\.bin is damaged: camera 1 has the unknown model number 99"),
        ("cameras.bin", 16, "<Q", 0, r"cameras\.bin is damaged: camera 1 has an image of 0 x 24 pixels"),
        ("cameras.bin", 32, "<d", np.nan, r"cameras\.bin is damaged: camera 1 has a parameter that is not finite"),
        ("cameras.bin", 32, "<d", 0.0, "focal length of 0 x 30 pixels"),
        ("cameras.bin", 0, "<Q", 0, "refers to camera 1, which is not in cameras.bin"),
        ("points3D.bin", 0, "<Q", 2**60, r"points3D\.bin is damaged: it claims"),
        ("points3D.bin", 51, "<Q", 2**61, r"points3D\.bin is damaged: it claims \d+ observations"),
        ("frames.bin", 16, "<d", np.nan, r"frames\.bin is damaged: the pose of frame 1 is not finite"),
        ("rigs.bin", 16, "<i", 7, r"rigs\.bin is damaged: sensor 1 of rig 1 is unknown"),
    ],
)
def test_each_kind_of_damage_has_its_sentence(capture, file, offset, layout, value, sentence):
    path = capture / "sparse" / "0" / file
    if file == "cameras.bin" and layout == "<Q" and offset == 0:
        path.write_bytes(bytes(8))
    else:
        poke(path, offset, layout, *(value if isinstance(value, tuple) else (value,)))
    with pytest.raises(UserError, match=sentence):
        load_scene(capture)


@pytest.mark.parametrize("text", [False, True])
def test_a_pose_that_is_not_finite_is_refused_without_frames_files_too(tmp_path, text):
    folder = write_model(tmp_path / "sparse", NAMES, text)
    write_images(tmp_path / "images", NAMES)
    for path in [*folder.glob("rigs.*"), *folder.glob("frames.*")]:
        path.unlink()
    assert len(load_scene(tmp_path).views) == 4
    if text:
        lines = (folder / "images.txt").read_text().splitlines()
        lines = [line.replace(" 4 1 im2.png", " nan 1 im2.png") for line in lines]
        (folder / "images.txt").write_text("\n".join(lines) + "\n")
    else:
        poke(folder / "images.bin", 44, "<d", np.nan)
    with pytest.raises(UserError, match=r"pose of image im\d\.png"):
        load_scene(tmp_path)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("file", ["cameras", "images", "points3D", "rigs", "frames"])
def test_files_cut_short_or_full_of_noise_raise_only_our_error(tmp_path, file, text):
    folder = write_model(tmp_path / "sparse", NAMES, text)
    write_images(tmp_path / "images", NAMES)
    path = folder / f"{file}.{'txt' if text else 'bin'}"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for attempt in range(40):
        if attempt % 4 == 0:
            path.write_bytes(whole[: rng.integers(len(whole))])
        elif attempt % 4 == 1:
            path.write_bytes(rng.bytes(int(rng.integers(300))))
        else:
            broken = bytearray(whole)
            for position in rng.integers(0, len(broken), 1 + attempt % 3):
                broken[position] = rng.choice([0, 1, 127, 128, 255, ord("9"), ord("-"), ord(" "), rng.integers(256)])
            path.write_bytes(broken)
        try:
            scene = load_scene(tmp_path, CONFIG)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 700
        else:
            assert np.isfinite(scene.points.xyz).all() and np.isfinite(scene.transform).all()
            assert all(np.isfinite(view.camera.viewmat.numpy()).all() for view in scene.views)


@pytest.mark.parametrize("file", ["cameras", "images", "points3D", "rigs", "frames"])
def test_every_truncation_of_a_binary_file_is_noticed(capture, file):
    path = capture / "sparse" / "0" / f"{file}.bin"
    whole = path.read_bytes()
    for length in {0, 1, 7, 8, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"{file}\.bin is damaged"):
            load_scene(capture)


# --- text models -------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path) -> Path:
    write_model(tmp_path / "sparse", NAMES, text=True)
    write_images(tmp_path / "images", NAMES)
    return tmp_path


def assert_whole(scene) -> None:
    """All images with their own poses, and all points."""
    assert [view.name for view in scene.views] == NAMES and len(scene.points) == POINTS
    for number, view in enumerate(scene.views, start=1):
        assert view.camera.viewmat[:3].numpy() == pytest.approx(pose(number).matrix(), abs=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.rstrip(b"\n"),
        lambda text: text.replace(b"\n\n", b"\n"),
        lambda text: text.replace(b"\n\n", b"\n").rstrip(b"\n"),
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\n\n"),
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: b"\xef\xbb\xbf# Image list\r\n" + text,
        lambda text: text.replace(b"\n\n", b"\n# no points\n\n"),
        lambda text: text.replace(b"\n\n", b"\n\n# the next\n"),
        lambda text: text.replace(b"\n\n", b"\n \t\n"),
        lambda text: text.replace(b"\n\n", b"\n1 2 -1 3.5 4 7\n"),
        lambda text: text.replace(b"\n\n", b"\n\n1 2 -1 3.5 4 7\n"),
        lambda text: text.replace(b" ", b"\t"),
        lambda text: text.decode().encode("utf-16"),
        lambda text: text.replace(b"\n", b"\r"),
    ],
    ids=range(15),
)
def test_images_txt_is_read_whole_however_its_lines_are_laid_out(written, change):
    (written / "sparse" / "images.txt").write_bytes(change(text_model(NAMES)))
    assert_whole(load_scene(written, DataConfig(normalize=False)))


@pytest.mark.parametrize("end", ["\n", "\n\n"])
def test_a_name_in_images_txt_is_all_that_follows_the_camera(tmp_path, end):
    names = ["DSC 1.jpg", "DSC 1 (2).jpg", "DSC.jpg", "a b  c.jpg", "1 2 3.jpg", "0004.jpg"]
    write_model(tmp_path / "sparse", names, text=True)
    write_images(tmp_path / "images", names)
    (tmp_path / "sparse" / "images.txt").write_bytes(text_model(names).replace(b"\n\n", end.encode()))
    scene = load_scene(tmp_path, DataConfig(normalize=False))
    assert [view.name for view in scene.views] == sorted(names)
    for view in scene.views:
        assert view.source.path.name == view.name
        assert view.camera.viewmat[:3].numpy() == pytest.approx(pose(names.index(view.name) + 1).matrix(), abs=1e-6)


def test_a_name_without_a_suffix_is_not_matched_by_stem(tmp_path):
    write_model(tmp_path / "sparse", ["DSC_00", *NAMES])
    write_images(tmp_path / "images", ["DSC_00.jpg", *NAMES])
    scene = load_scene(tmp_path)
    assert [view.name for view in scene.views] == NAMES and any("left out: DSC_00" in text for text in scene.messages)


@pytest.mark.parametrize("names", ["Cameras.txt Images.txt Points3D.txt", "CAMERAS.TXT images.txt points3d.txt"])
def test_files_of_a_model_may_begin_with_capitals(written, names):
    folder = written / "sparse"
    for old, new in zip(("cameras.txt", "images.txt", "points3D.txt"), names.split(), strict=True):
        (folder / old).rename(folder / new)
    assert_whole(load_scene(written, DataConfig(normalize=False)))


@pytest.mark.parametrize("binary", [("cameras",), ("images",), ("cameras", "points3D"), ("points3D",)])
def test_binary_and_text_files_of_one_model_may_be_mixed(written, binary):
    folder = written / "sparse"
    write_model(written / "other", NAMES)
    for stem in binary:
        (folder / f"{stem}.txt").unlink()
        shutil.copy(written / "other" / f"{stem}.bin", folder)
    scene = load_scene(written, DataConfig(normalize=False))
    assert_whole(scene)
    assert any("is read from" in text for text in scene.messages) == (len(set(binary) - {"points3D"}) == 1)


@pytest.mark.parametrize("word", ["nan", "-nan(ind)", "1.#QNAN", "inf"])
def test_points_that_are_not_finite_are_left_out_of_text_as_of_binary_models(written, word):
    file = written / "sparse" / "points3D.txt"
    lines = [line.split() for line in file.read_text().splitlines() if not line.startswith("#")]
    lines[2][2] = word  # a coordinate
    lines[3][7] = word  # the error
    file.write_text("\n".join(" ".join(line) for line in lines))
    scene = load_scene(written)
    assert len(scene.points) == POINTS - 1
    assert any(f"1 of {POINTS} points are not finite" in text for text in scene.messages)


# --- models that are odd -----------------------------------------------------------------------------------------


def test_a_camera_that_no_image_has_may_be_bad(tmp_path):
    for text in (False, True):
        root = tmp_path / str(text)
        folder = write_model(root / "sparse", NAMES, text)
        write_images(root / "images", NAMES)
        if text:
            with open(folder / "cameras.txt", "a") as file:
                file.write("7 PINHOLE 0 0 nan 1 1 1\n8 NO_SUCH_MODEL 3 4 5\n9 PINHOLE 32 24 30\n10 PINHOLE\n11\n")
        else:
            content = (folder / "cameras.bin").read_bytes()
            bad = struct.pack("<IiQQ4d", 7, 1, 0, 0, np.nan, 1.0, 1.0, 1.0)
            (folder / "cameras.bin").write_bytes(struct.pack("<Q", 2) + content[8:] + bad)
        assert len(load_scene(root).views) == 4
        file = folder / ("images.txt" if text else "images.bin")
        old, new = (b" 1 im2.png", b" 7 im2.png") if text else (b"\1\0\0\0im2.png", b"\7\0\0\0im2.png")
        file.write_bytes(file.read_bytes().replace(old, new))
        with pytest.raises(UserError, match=r"cameras\.(txt|bin) is damaged: .*camera"):
            load_scene(root)


def test_a_camera_that_occurs_twice_is_refused_where_an_image_has_it(tmp_path):
    folder = write_model(tmp_path / "sparse", NAMES, True)
    write_images(tmp_path / "images", NAMES)
    with open(folder / "cameras.txt", "a") as file:
        file.write(f"1 PINHOLE {WIDTH} {HEIGHT} 90 90 8 6\n")
    with pytest.raises(UserError, match=r"cameras\.txt is damaged: camera 1 occurs twice"):
        load_scene(tmp_path)


def test_tracks_that_lead_to_other_2d_points_are_said_and_nothing_is_lost(capture):
    poke(capture / "sparse" / "0" / "points3D.bin", 59, "<II", 99, 3)  # of an image that is not there
    file = capture / "sparse" / "0" / "images.bin"
    content = file.read_bytes()
    first = content.index(b"im1.png\0") + len("im1.png\0") + 8
    poke(file, first + 16, "<Q", 11)  # a 2D point of another 3D point
    scene = load_scene(capture)
    assert len(scene.views) == 4 and len(scene.points) == POINTS
    sentence = next(text for text in scene.messages if "disagrees with itself" in text)
    assert f"2 of the {4 * POINTS} observations" in sentence and f"its {POINTS} points are used" in sentence


def test_points_come_in_the_order_of_pycolmaps_map(capture):
    model = pycolmap.Reconstruction(str(capture / "sparse" / "0"))
    rgb = load_scene(capture).points.rgb
    assert rgb.tolist() == [point.color.tolist() for point in model.points3D.values()]


@pytest.mark.parametrize("lacking", ["images", "cameras"])
@pytest.mark.parametrize("layout", ["sparse/0", "sparse", "."])
@pytest.mark.parametrize("text", [False, True])
def test_a_model_without_one_of_its_files_says_which(tmp_path, lacking, layout, text):
    suffix = "txt" if text else "bin"
    (write_model(tmp_path / layout, NAMES, text) / f"{lacking}.{suffix}").unlink()
    write_images(tmp_path / "images", NAMES)
    with pytest.raises(UserError, match=rf"is not whole: {lacking}\.{suffix} is missing; export it again"):
        load_scene(tmp_path)


def test_a_model_is_read_where_no_temporary_file_can_be_written(written, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(written / "nowhere"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (written / "sparse" / "points3D.txt").unlink()
    assert len(load_scene(written, CONFIG).views) == 4


@pytest.mark.parametrize("given", [".", "distorted", "distorted/sparse", "distorted/sparse/0"])
def test_the_model_that_convert_py_of_inria_starts_from_has_its_photos_in_input(tmp_path, given):
    write_model(tmp_path / "distorted" / "sparse" / "0", NAMES)
    write_images(tmp_path / "input", NAMES)
    write_images(tmp_path / "images", NAMES)
    scene = load_scene(tmp_path / given)
    assert files_of(scene) == {name: tmp_path / "input" / name for name in NAMES}
    write_model(tmp_path / "sparse" / "0", NAMES)  # what it ends with
    assert files_of(load_scene(tmp_path)) == {name: tmp_path / "images" / name for name in NAMES}


@pytest.mark.parametrize("layout", ["dense/0", "dense"])
def test_the_workspace_of_colmaps_automatic_reconstruction_is_read(tmp_path, layout):
    write_model(tmp_path / layout / "sparse", NAMES)
    write_images(tmp_path / layout / "images", NAMES)
    for given in (tmp_path, tmp_path / "dense", tmp_path / layout, tmp_path / layout / "sparse"):
        assert files_of(load_scene(given)) == {name: tmp_path / layout / "images" / name for name in NAMES}
    write_model(tmp_path / "sparse" / "0", NAMES)  # of photos that lie elsewhere
    scene = load_scene(tmp_path)
    assert files_of(scene) == {name: tmp_path / layout / "images" / name for name in NAMES}
    assert any("are not there; the model in" in text for text in scene.messages)
    write_images(tmp_path / "images", NAMES)
    assert files_of(load_scene(tmp_path)) == {name: tmp_path / "images" / name for name in NAMES}


def test_of_several_workspaces_the_largest_is_used(tmp_path):
    for place, count in (("0", 2), ("1", 4)):
        write_model(tmp_path / "dense" / place / "sparse", NAMES[:count])
        write_images(tmp_path / "dense" / place / "images", NAMES[:count])
    scene = load_scene(tmp_path)
    assert len(scene.views) == 4 and any("0: 2, 1: 4); 1 is used" in text for text in scene.messages)


def test_a_link_to_itself_among_the_models_is_passed_over(capture):
    (capture / "sparse" / "1").symlink_to("1")
    assert len(load_scene(capture).views) == len(NAMES)


def test_sentences_on_damage_keep_to_one_line_and_are_not_endless(capture):
    file = capture / "sparse" / "0" / "images.bin"
    content = file.read_bytes()
    at = content.index(NAMES[0].encode())
    poke(file, at - 60, "<4d", 0.0, 0.0, 0.0, 0.0)
    file.write_bytes(file.read_bytes().replace(NAMES[0].encode(), b"\x1b[31m\n" + 3000 * b"a"))
    with pytest.raises(UserError, match=r"the rotation of image \\x1b\[31m\\na{100,195} is no rotation") as error:
        load_scene(capture)
    assert str(error.value).isprintable() and len(str(error.value)) < 600
