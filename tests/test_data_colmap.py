"""The reader of COLMAP models: layouts, formats, damaged files."""

from __future__ import annotations

import logging
import shutil
import struct
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from nfc_gs.core.errors import UserError
from nfc_gs.data.config import DataConfig
from nfc_gs.data.images import describe_processing
from nfc_gs.data.loading import load_scene
from nfc_gs.data.readers.colmap_files import find_models

WIDTH, HEIGHT, POINTS = 32, 24, 12
CONFIG = DataConfig(random_points=20)


def pose(number: int) -> pycolmap.Rigid3d:
    """Cameras in a row, turned a little towards the origin's far side."""
    half = 0.05 * (number - 2)
    rotation = pycolmap.Rotation3d(np.array([0.0, np.sin(half), 0.0, np.cos(half)]))
    return pycolmap.Rigid3d(rotation, np.array([0.3 * number, 0.0, 4.0]))


def write_model(
    folder: Path, names: list[str], text: bool = False, camera: str = "PINHOLE 30 30 16 12", points: int = POINTS
) -> Path:
    model, *params = camera.split()
    reconstruction = pycolmap.Reconstruction()
    reconstruction.add_camera_with_trivial_rig(
        pycolmap.Camera(camera_id=1, model=model, width=WIDTH, height=HEIGHT, params=[float(p) for p in params])
    )
    for number, name in enumerate(names, start=1):
        image = pycolmap.Image(image_id=number, name=name, camera_id=1)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(np.array([k, 1.0])) for k in range(points)])
        reconstruction.add_image_with_trivial_frame(image, pose(number))
    for k in range(points):
        track = pycolmap.Track()
        for number in range(1, len(names) + 1):
            track.add_element(number, k)
        reconstruction.add_point3D(np.array([0.1 * k, 0.2, 0.0]), track, np.array([k, 2, 3], dtype=np.uint8))
    folder.mkdir(parents=True, exist_ok=True)
    (reconstruction.write_text if text else reconstruction.write)(str(folder))
    return folder


def write_images(folder: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


NAMES = [f"im{i}.png" for i in range(4)]


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


def poke(path: Path, offset: int, layout: str, *values) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, offset, *values)
    path.write_bytes(data)


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


@pytest.mark.parametrize("file", ["cameras", "images", "points3D"])
def test_every_truncation_of_a_binary_file_is_noticed(capture, file):
    path = capture / "sparse" / "0" / f"{file}.bin"
    whole = path.read_bytes()
    for length in {0, 1, 7, 8, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"{file}\.bin is damaged"):
            load_scene(capture)


@pytest.mark.parametrize("file", ["rigs", "frames"])
def test_poses_are_those_of_the_images_whatever_the_files_of_rigs_hold(capture, file):
    expected = [view.camera.viewmat.tolist() for view in load_scene(capture).views]
    (capture / "sparse" / "0" / f"{file}.bin").write_bytes(b"\xff" * 50)
    assert [view.camera.viewmat.tolist() for view in load_scene(capture).views] == expected
