"""The reader of PanopticSports, as Dynamic 3D Gaussians publishes it."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from capture_files import HEIGHT, WIDTH, project, ring
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from junk import JUNK
from PIL import Image

from nfc_gs.core.errors import UserError
from nfc_gs.data import npy_file
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.readers import panoptic
from nfc_gs.data.scene import SceneData, TimeAxis

CAMERAS, FRAMES = 6, 4
TRAINED, TESTED = [1, 2, 4, 5], [0, 3]  # there they are 27, and 0, 10, 15 and 30
PLAIN = DataConfig(normalize=False, random_points=20)


def intrinsics(camera: int) -> list[list[float]]:
    return [[30.0 + camera, 0.0, 15.0 + camera / 2], [0.0, 31.0 + camera, 12.5], [0.0, 0.0, 1.0]]


def meta(cameras: list[int], frames: int = FRAMES) -> dict:
    return {
        "w": WIDTH,
        "h": HEIGHT,
        "k": [[intrinsics(camera) for camera in cameras] for _ in range(frames)],
        "w2c": [[ring(CAMERAS)[camera].tolist() for camera in cameras]] * frames,
        "fn": [[f"{camera}/{frame:06d}.jpg" for camera in cameras] for frame in range(frames)],
        "cam_id": [cameras] * frames,
    }


def points(count: int = 40) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.c_[rng.normal(size=(count, 3)) * 0.3, rng.random((count, 3)), rng.integers(0, 2, count)]


def capture(root: Path) -> Path:
    for camera in range(CAMERAS):
        for folder in ("ims", "seg"):
            (root / folder / str(camera)).mkdir(parents=True)
        for frame in range(FRAMES):
            color = (40 + 30 * camera, 20 + 40 * frame, 128)
            Image.new("RGB", (WIDTH, HEIGHT), color).save(root / "ims" / str(camera) / f"{frame:06d}.jpg", quality=95)
            foreground = np.zeros((HEIGHT, WIDTH), np.uint8)
            foreground[8:16, 10 + frame : 20 + frame] = 1
            Image.fromarray(foreground).save(root / "seg" / str(camera) / f"{frame:06d}.png")
    for name, cameras in (("train_meta.json", TRAINED), ("test_meta.json", TESTED)):
        (root / name).write_text(json.dumps(meta(cameras)))
    np.savez(root / "init_pt_cld.npz", data=points())
    return root


def change(file: Path, **fields) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def names(scene: SceneData, indices: tuple[int, ...]) -> list[str]:
    return [scene.views[i].name for i in indices]


def test_the_cameras_of_the_test_file_are_held_out_and_times_are_places_of_frames(tmp_path):
    scene = load_scene(capture(tmp_path), PLAIN)
    assert scene.format == "a PanopticSports capture"
    assert names(scene, scene.train) == [f"{camera}/{frame:06d}.jpg" for camera in TRAINED for frame in range(FRAMES)]
    assert names(scene, scene.test) == [f"{camera}/{frame:06d}.jpg" for camera in TESTED for frame in range(FRAMES)]
    assert scene.time_axis == TimeAxis(0.0, FRAMES - 1.0, "frames")
    for view in scene.views:
        assert view.time == pytest.approx(int(view.name[2:8]) / (FRAMES - 1))
    assert load_scene(tmp_path, DataConfig(frame_rate=30.0)).time_axis == TimeAxis(0.0, 0.1, "seconds")


def test_points_appear_where_the_methods_projection_puts_them(tmp_path):
    scene = load_scene(capture(tmp_path), PLAIN)
    xyz = points()[:, :3]
    assert scene.points.xyz == pytest.approx(xyz, abs=1e-6)
    assert scene.points.rgb == pytest.approx(points()[:, 3:6] * 255, abs=1.0)
    for index, view in enumerate(scene.views):
        camera = int(view.name[0])
        (fx, _, cx), (_, fy, cy), _ = intrinsics(camera)
        local = xyz @ ring(CAMERAS)[camera][:3, :3].T + ring(CAMERAS)[camera][:3, 3]
        ndc_x = 2 * fx / WIDTH * local[:, 0] / local[:, 2] - (WIDTH - 2 * cx) / WIDTH  # setup_camera of helpers.py
        ndc_y = 2 * fy / HEIGHT * local[:, 1] / local[:, 2] - (HEIGHT - 2 * cy) / HEIGHT
        number = np.stack([((ndc_x + 1) * WIDTH - 1) / 2, ((ndc_y + 1) * HEIGHT - 1) / 2], axis=1)  # of the pixel
        assert project(scene, index, xyz) == pytest.approx(number + 0.5, abs=1e-4)


def test_the_foreground_is_what_moves_and_masks_nothing(tmp_path):
    scene = load_scene(capture(tmp_path), PLAIN)
    frame = scene.image(scene.test[2])
    assert frame.mask is None and scene.views[scene.test[2]].name == "0/000002.jpg"
    moving = scene.moving(scene.test[2])
    assert moving is not None and moving[8:16, 12:22].all() and moving.sum() == 80
    assert any("say what moves" in text for text in scene.messages)


def test_a_folder_of_masks_masks(tmp_path):
    (capture(tmp_path) / "masks" / "1").mkdir(parents=True)
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:12] = 0
    for frame in range(FRAMES):
        Image.fromarray(mask).save(tmp_path / "masks" / "1" / f"{frame:06d}.png")
    scene = load_scene(tmp_path, PLAIN)
    masked = scene.image(scene.train[0]).mask
    assert masked is not None and (masked == mask).all()
    assert load_scene(tmp_path, DataConfig(masks=False)).image(scene.train[0]).mask is None


def test_without_test_file_foreground_and_points_it_is_a_capture_all_the_same(tmp_path):
    capture(tmp_path)
    for path in (tmp_path / "test_meta.json", tmp_path / "init_pt_cld.npz"):
        path.unlink()
    (tmp_path / "seg").rename(tmp_path / "elsewhere")
    scene = load_scene(tmp_path, PLAIN)
    assert len(scene.views) == len(TRAINED) * FRAMES and len(scene.test) == 2
    assert len(scene.points) == 20 and scene.moving(0) is None


def test_cameras_may_differ_from_frame_to_frame(tmp_path):
    fields = meta(TRAINED)
    matrices = np.array(fields["w2c"])
    matrices[:, :, :3, 3] *= 1.0 + 0.1 * np.arange(FRAMES)[:, None, None]  # the cameras move away
    fields["w2c"] = matrices.tolist()
    for key in ("k", "w2c", "fn"):  # one camera less in the last frame
        fields[key][-1] = fields[key][-1][:-1]
    change(capture(tmp_path) / "train_meta.json", **fields)
    scene = load_scene(tmp_path, PLAIN)
    assert len(scene.train) == len(TRAINED) * FRAMES - 1
    moved = {scene.views[i].name: scene.views[i].camera.viewmat.numpy() for i in scene.train}
    for frame in range(FRAMES - 1):
        expected = ring(CAMERAS)[1][:3, 3] * (1.0 + 0.1 * frame)
        assert moved[f"1/{frame:06d}.jpg"][:3, 3] == pytest.approx(expected, abs=1e-5)


def test_a_scaled_matrix_has_its_camera_at_the_same_place(tmp_path):
    expected = load_scene(capture(tmp_path), PLAIN).views[0].camera.viewmat.numpy()
    for name in ("train_meta.json", "test_meta.json"):
        matrices = np.array(json.loads((tmp_path / name).read_text())["w2c"])
        matrices[:, :, :3] *= 2.5
        change(tmp_path / name, w2c=matrices.tolist())
    assert load_scene(tmp_path, PLAIN).views[0].camera.viewmat.numpy() == pytest.approx(expected, abs=1e-5)


def test_skew_is_undistorted(tmp_path):
    matrix = intrinsics(1)
    matrix[0][1] = 4.0
    fields = meta(TRAINED)
    change(capture(tmp_path) / "train_meta.json", k=[[matrix, *row[1:]] for row in fields["k"]])
    scene = load_scene(tmp_path, PLAIN)
    lenses = {view.name[0]: view.source.lens for view in scene.views if view.source is not None}
    assert lenses["1"] is not None and lenses["2"] is None
    u, v = lenses["1"].project(np.array([[0.2, 0.3, 1.0]]))[0]
    assert (u, v) == pytest.approx((31.0 * 0.2 + 4.0 * 0.3 + 15.5, 32.0 * 0.3 + 12.5))


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_colors_of_points_may_be_fractions_or_bytes(tmp_path, scale):
    data = points()
    data[:, 3:6] *= scale
    np.savez_compressed(capture(tmp_path) / "init_pt_cld.npz", data=data.astype(np.float32))
    assert load_scene(tmp_path, PLAIN).points.rgb == pytest.approx(points()[:, 3:6] * 255, abs=1.0)


def test_images_of_both_files_are_trained_on_and_said(tmp_path):
    change(capture(tmp_path) / "test_meta.json", **meta([0, 1]))
    scene = load_scene(tmp_path, PLAIN)
    assert {name[0] for name in names(scene, scene.test)} == {"0"}
    assert any("4 images occur more than once" in text for text in scene.messages)


def test_files_of_different_length_are_said_to_be(tmp_path):
    change(capture(tmp_path) / "test_meta.json", **meta(TESTED, FRAMES - 1))
    scene = load_scene(tmp_path, PLAIN)
    assert any("4 frames and test_meta.json 3" in text for text in scene.messages)
    assert max(scene.views[i].time or 0.0 for i in scene.test) == pytest.approx(2 / 3)


def test_other_files_with_poses_are_not_used(tmp_path):
    (capture(tmp_path) / "transforms_train.json").write_text("{}")
    assert any("train_meta.json is used" in text for text in load_scene(tmp_path, PLAIN).messages)


# --- bad input ---------------------------------------------------------------------------------------------------

NAN = [[float("nan")] * 4] * 4


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"w": None}, r"train_meta\.json: 'w' is missing"),
        ({"fn": None}, r"train_meta\.json: 'fn' is missing"),
        ({"w": "wide"}, r"train_meta\.json: 'w' is 'wide', not a finite number"),
        ({"w": 0}, r"frame 0, 1/000000\.jpg: an image of 0 x 24 pixels is not possible"),
        ({"h": 10**12}, r"an image of 32 x 1e\+12 pixels is not possible"),
        ({"w": 2 * WIDTH}, r"1/000000\.jpg is 32 x 24 pixels, but its camera is 64 x 24"),
        ({"fn": {}}, r"train_meta\.json: 'fn' is not a list with entries"),
        ({"fn": [], "k": [], "w2c": []}, r"'fn' is not a list with entries"),
        ({"k": meta(TRAINED, 3)["k"]}, r"as many frames in each field \(4 in 'fn', 3 in 'k', 4 in 'w2c'\)"),
        ({"k": meta([1, 2])["k"]}, r"frame 0: 'k' is not 4 x 3 x 3 finite numbers"),
        ({"k": [[intrinsics(1)] * 3 + [[1]]] * 4}, r"frame 0: 'k' is not 4 x 3 x 3 finite numbers"),
        ({"k": [[np.transpose(intrinsics(1)).tolist()] * 4] * 4}, r"'k' is not \[\[fx, skew, cx\]"),
        ({"k": [[np.diag([-30.0, 30.0, 1.0]).tolist()] * 4] * 4}, r"1/000000\.jpg: a focal length of -30 x 30"),
        ({"w2c": [[NAN] * 4] * 4}, r"frame 0: 'w2c' is not 4 x 4 x 4 finite numbers"),
        ({"w2c": [[np.zeros((4, 4)).tolist()] * 4] * 4}, r"'w2c' is no world-to-camera matrix"),
        ({"w2c": [[np.diag([1, 1, -1, 1]).tolist()] * 4] * 4}, r"'w2c' is no world-to-camera matrix"),
        ({"w2c": [[ring(4)[0].T.tolist()] * 4] * 4}, r"'w2c' is no world-to-camera matrix"),
        ({"w2c": [[(np.eye(4) + 1e300 * np.eye(4, k=3)).tolist()] * 4] * 4}, r"'w2c' is too far away"),
        ({"fn": [[*"abc", 7]] * 4}, r"'fn' holds 7, no file name"),
        ({"fn": [[*"abc", ""]] * 4}, r"'fn' holds '', no file name"),
        ({"fn": [[*"abc", "\ud800"]] * 4}, r"'fn' holds '\\ud800', no file name"),
        ({"fn": [["../../secret.jpg", *"abc"]] * 4}, r"'\.\./\.\./secret\.jpg', which is not in the folder ims"),
        ({"fn": [["1/../../../a.jpg", *"abc"]] * 4}, r"which is not in the folder ims"),
        ({"fn": [["..\\a.jpg", *"abc"]] * 4}, r"which is not in the folder ims"),
        ({"fn": [["/etc/passwd", *"abc"]] * 4}, r"'/etc/passwd', which is not in the folder ims"),
        ({"fn": [["C:\\a.jpg", *"abc"]] * 4}, r"which is not in the folder ims"),
        ({"fn": [list("abcd")] * 4}, r"16 of 24 images of the capture are not on disk below .*ims \(a, b, c, \.\.\.\)"),
    ],
)
def test_what_is_wrong_is_named_with_file_frame_and_field(tmp_path, fields, sentence):
    change(capture(tmp_path) / "train_meta.json", **fields)
    with pytest.raises(UserError, match=sentence) as caught:
        load_scene(tmp_path, PLAIN)
    assert "\n" not in str(caught.value)
    str(caught.value).encode("utf-8")


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def member(shape: str, data: bytes = b"") -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members.items():
            opened.writestr(f"{name}.npy", data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", r"cannot be read \(it is no \.npz file\)"),
        (b"PK\3\4 and no more", r"cannot be read \(File is not a zip file\)"),
        (archive(points=b""), r"cannot be read \(it has no array 'data'\)"),
        (archive(data=b"no array"), r"holds \|S8 of shape \[\], not 7 numbers"),
        (archive(data=member("(5, 6)", bytes(240))), r"holds float64 of shape \[5, 6\], not 7 numbers for each point"),
        (archive(data=member("(35,)", bytes(280))), r"holds float64 of shape \[35\], not 7 numbers"),
        (archive(data=member("(5, 7)", bytes(80))), r"cannot be read \("),
        (archive(data=member("(9000000000000, 7)")), r"cannot be read \("),
        (archive(data=member("(-5, 7)")), r"cannot be read \("),
        (archive(data=member("(5, 7)", bytes(280)))[:-60], r"cannot be read \("),
    ],
)
def test_points_that_are_none_are_named(tmp_path, data, sentence):
    (capture(tmp_path) / "init_pt_cld.npz").write_bytes(data)
    with pytest.raises(UserError, match=r"'data' in .*init_pt_cld\.npz " + sentence):
        load_scene(tmp_path, PLAIN)


def test_an_array_that_unpacks_to_too_much_is_refused_before_that(tmp_path, monkeypatch):
    monkeypatch.setattr(npy_file, "LARGEST_MEMBER", 1_000_000)
    data = archive(data=member("(1000000, 7)", bytes(56_000_000)))
    assert len(data) < 100_000
    (capture(tmp_path) / "init_pt_cld.npz").write_bytes(data)
    with pytest.raises(UserError, match=r"its array takes 0\.06 GB, more than 0\.00 GB"):
        load_scene(tmp_path, PLAIN)


def test_nothing_is_unpickled(tmp_path):
    trap = np.array([[Trap(tmp_path / "sprung")] * 7] * 9, dtype=object)
    np.savez(capture(tmp_path) / "init_pt_cld.npz", data=trap)
    with pytest.raises(UserError, match=r"init_pt_cld\.npz cannot be read \(Object arrays cannot be loaded"):
        load_scene(tmp_path, PLAIN)
    assert not (tmp_path / "sprung").exists()


def test_points_that_are_not_finite_are_left_out(tmp_path):
    data = points()
    data[3, 0], data[5, 2], data[7, 4] = np.nan, np.inf, np.nan
    np.savez(capture(tmp_path) / "init_pt_cld.npz", data=data)
    scene = load_scene(tmp_path, PLAIN)
    assert len(scene.points) == 38 and any("2 of 40 points are not finite" in text for text in scene.messages)


def test_a_missing_image_is_left_out_and_said(tmp_path):
    (capture(tmp_path) / "ims" / "1" / "000002.jpg").unlink()
    scene = load_scene(tmp_path, PLAIN)
    assert len(scene.views) == CAMERAS * FRAMES - 1
    assert any("1 of 24 images" in text and "1/000002.jpg" in text for text in scene.messages)


def test_a_folder_without_the_images_is_named(tmp_path):
    (capture(tmp_path) / "ims").rename(tmp_path / "frames")
    with pytest.raises(UserError, match=r"has train_meta\.json, but no folder ims with its images"):
        load_scene(tmp_path, PLAIN)


@pytest.mark.parametrize("name", ["train_meta.json", "test_meta.json"])
def test_broken_json_is_named(tmp_path, name):
    (capture(tmp_path) / name).write_text('{"w": [')
    with pytest.raises(UserError, match=rf"{name} is not valid JSON"):
        load_scene(tmp_path, PLAIN)


def test_a_folder_of_captures_names_them(tmp_path):
    capture(tmp_path / "data" / "boxes")
    with pytest.raises(UserError, match=r"is no capture, but .*boxes is; give that"):
        load_scene(tmp_path / "data", PLAIN)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return capture(tmp_path_factory.mktemp("panoptic"))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_in_any_field_raises_only_our_error(sound, data):
    whole = json.loads((sound / "train_meta.json").read_text())
    key = data.draw(st.sampled_from(["w", "h", "k", "w2c", "fn", "cam_id"]))
    junk, depth = data.draw(JUNK), data.draw(st.integers(0, 3))
    inner = whole
    for step in [key, 0, 1, 2][:depth]:
        if not isinstance(inner[step], list):
            break
        inner, key = inner[step], 1
    inner[key] = junk
    original = (sound / "train_meta.json").read_text()
    (sound / "train_meta.json").write_text(json.dumps(whole))
    try:
        loaded = panoptic.read_panoptic(sound)
    except UserError as error:
        str(error).encode("utf-8")
        assert "\n" not in str(error)
    else:
        assert all(np.isfinite(image.viewmat).all() for image in loaded.images)
        assert all((sound / "ims") in image.path.resolve().parents for image in loaded.images)
    finally:
        (sound / "train_meta.json").write_text(original)
