"""The reader of transforms.json: nerfstudio, instant-ngp, Blender, D-NeRF."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nfc_gs.core.errors import UserError
from nfc_gs.data.config import DataConfig
from nfc_gs.data.lens import RADIAL4
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import TimeAxis

WIDTH, HEIGHT, COUNT = 16, 12, 4
PLAIN = DataConfig(normalize=False, random_points=20, test_every=0)


def matrix(index: int) -> list[list[float]]:
    """OpenGL camera-to-world: at (index, 0, 5), looking along -z of the world, y up."""
    return [[1.0, 0.0, 0.0, float(index)], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 5.0], [0.0, 0.0, 0.0, 1.0]]


def capture(root: Path, folder: str = "images", suffix: str = ".png", mode: str = "RGB", **fields) -> dict:
    frames = []
    for index in range(COUNT):
        path = root / folder / f"f{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, len(mode)), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        frames.append({"file_path": f"{folder}/f{index}{suffix}", "transform_matrix": matrix(index)})
    return {"fl_x": 20.0, "w": WIDTH, "h": HEIGHT, **fields, "frames": frames}


def write(root: Path, data: dict | list | str, name: str = "transforms.json") -> Path:
    (root / name).write_text(data if isinstance(data, str) else json.dumps(data))
    return root / name


def test_opengl_poses_become_opencv_world_to_camera(tmp_path):
    write(tmp_path, capture(tmp_path))
    viewmat = load_scene(tmp_path, PLAIN).views[1].camera.viewmat.numpy()
    # a point right of, above and before the camera
    assert viewmat @ [1.0 + 0.5, 0.25, 5.0 - 2.0, 1.0] == pytest.approx([0.5, -0.25, 2.0, 1.0])


@pytest.mark.parametrize("suffix", ["", ".png", ".PNG", ".jpg"])
def test_the_extension_of_file_path_may_be_missing_or_wrong(tmp_path, suffix):
    write(tmp_path, capture(tmp_path, suffix=suffix))
    assert [view.name for view in load_scene(tmp_path).views] == [f"f{i}.png" for i in range(COUNT)]


def test_the_json_itself_may_be_given_under_any_name(tmp_path):
    file = write(tmp_path, capture(tmp_path), "my_poses.json")
    scene = load_scene(file)
    assert len(scene.views) == COUNT and scene.root == tmp_path


def test_intrinsics_of_a_frame_win_over_those_of_the_file(tmp_path):
    data = capture(tmp_path, fl_y=21.0, cx=7.5, cy=5.5)
    data["frames"][1] |= {"fl_x": 30.0, "cx": 8.5}
    write(tmp_path, data)
    scene = load_scene(tmp_path)
    cameras = [view.camera for view in scene.views]
    assert [(c.fx, c.fy, c.cx, c.cy) for c in cameras[:2]] == [(20.0, 21.0, 7.5, 5.5), (30.0, 21.0, 8.5, 5.5)]


def test_angles_give_the_focal_length_and_the_image_its_size(tmp_path):
    data = capture(tmp_path, camera_angle_x=math.pi / 2, camera_angle_y=2 * math.atan(0.5))
    for key in ("fl_x", "w", "h"):
        del data[key]
    write(tmp_path, data)
    camera = load_scene(tmp_path).views[0].camera
    assert (camera.fx, camera.fy) == pytest.approx((WIDTH / 2, HEIGHT))
    assert (camera.cx, camera.cy, camera.width, camera.height) == (WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("fields", "model", "params"),
    [
        ({}, None, None),
        ({"camera_model": "SIMPLE_PINHOLE"}, None, None),
        ({"camera_model": "OPENCV", "k1": 0.0}, None, None),
        ({"k1": 0.1, "k2": 0.2, "p1": 0.3, "p2": 0.4}, "OPENCV", (0.1, 0.2, 0.3, 0.4)),
        ({"k1": 0.1, "k3": 0.3}, RADIAL4, (0.1, 0.0, 0.3, 0.0, 0.0, 0.0)),
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k4": 0.4}, "OPENCV_FISHEYE", (0.1, 0.0, 0.0, 0.4)),
        ({"is_fisheye": True, "k2": 0.2}, "OPENCV_FISHEYE", (0.0, 0.2, 0.0, 0.0)),
        ({"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR", ()),
    ],
)
def test_lens_fields_mean_what_nerfstudio_and_instant_ngp_mean(tmp_path, fields, model, params):
    write(tmp_path, capture(tmp_path, **fields))
    lens = load_scene(tmp_path).views[0].source.lens
    if model is None:
        assert lens is None  # nothing to resample
    else:
        assert lens.model == model
        assert model == "EQUIRECTANGULAR" or lens.params == (20.0, 20.0, WIDTH / 2, HEIGHT / 2, *params)


def test_blender_captures_train_and_test_on_their_own_files(tmp_path):
    for split in ("train", "val", "test"):
        data = capture(tmp_path, f"./{split}", suffix="", mode="RGBA", camera_angle_x=0.7)
        for index, frame in enumerate(data["frames"]):
            frame["time"] = index / 2
        del data["fl_x"], data["w"], data["h"]
        write(tmp_path, data, f"transforms_{split}.json")
    for path in (tmp_path, tmp_path / "transforms_train.json", tmp_path / "transforms_test.json"):
        scene = load_scene(path)
        assert [scene.views[i].name for i in scene.train] == [f"train/f{i}.png" for i in range(COUNT)]
        assert [scene.views[i].name for i in scene.test] == [f"test/f{i}.png" for i in range(COUNT)]
        assert [scene.views[i].time for i in scene.test] == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])
        assert scene.time_axis == TimeAxis(0.0, 1.5)
    assert load_scene(tmp_path, DataConfig(test_every=4)).test == (0, 4)
    (tmp_path / "transforms_test.json").unlink()
    scene = load_scene(tmp_path)
    assert [scene.views[i].name for i in scene.test] == [f"val/f{i}.png" for i in range(COUNT)]


def test_smaller_copies_of_images_are_used_when_their_factor_is_asked_for(tmp_path):
    write(tmp_path, capture(tmp_path))
    capture(tmp_path, "images_2")
    for path in (tmp_path / "images_2").iterdir():
        Image.new("RGB", (WIDTH // 2, HEIGHT // 2), (9, 9, 9)).save(path)
    scene = load_scene(tmp_path, DataConfig(downscale="2"))
    assert (scene.image(0).rgb == 9).all() and scene.image(0).rgb.shape == (HEIGHT // 2, WIDTH // 2, 3)
    assert scene.views[0].camera.fx == 10.0


def test_the_scale_of_a_parent_object_in_the_matrix_is_taken_out(tmp_path):
    data = capture(tmp_path)
    for frame in data["frames"]:
        m = np.array(frame["transform_matrix"])
        m[:3, :3] *= 2.5
        frame["transform_matrix"] = m.tolist()
    write(tmp_path, data)
    viewmat = load_scene(tmp_path, PLAIN).views[1].camera.viewmat.numpy()
    assert viewmat[:3, :3] @ viewmat[:3, :3].T == pytest.approx(np.eye(3), abs=1e-6)
    assert load_scene(tmp_path, PLAIN).views[1].camera.center.numpy() == pytest.approx([1.0, 0.0, 5.0])


def test_a_frame_that_occurs_twice_is_used_once(tmp_path):
    data = capture(tmp_path)
    data["frames"].append(data["frames"][0])
    write(tmp_path, data)
    scene = load_scene(tmp_path)
    assert len(scene.views) == COUNT and any("more than once" in text for text in scene.messages)


def bad_frame(**fields):
    return lambda data: data["frames"][2].update(fields)


def without(key):
    return lambda data: [f.pop(key, None) for f in (data, data["frames"][2])]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without("frames"), "no list 'frames'"),
        (lambda data: data.update(frames=[]), "no list 'frames'"),
        (lambda data: data.update(frames=[1, 2]), "frame 0: 'file_path' is missing"),
        (without("file_path"), "frame 2: 'file_path' is missing"),
        (without("transform_matrix"), r"frame 2 \(images/f2.png\): 'transform_matrix' is missing"),
        (without("fl_x"), "neither 'fl_x' nor 'camera_angle_x' is given"),
        (bad_frame(fl_x="wide"), r"frame 2 .*: 'fl_x' is 'wide', not a finite number"),
        (bad_frame(fl_x=-5.0), "frame 2 .*focal length"),
        (bad_frame(cx=math.nan), "frame 2 .*: 'cx' is 'nan', not a finite number"),
        (bad_frame(k1=math.inf), "'k1' is 'inf', not a finite number"),
        (bad_frame(w=10**400), "'w' is '1000"),
        (bad_frame(w=0), "0 x 12 pixels is not possible"),
        (bad_frame(time="noon"), "'time' is 'noon', not a finite number"),
        (bad_frame(camera_model="PERISCOPE"), "'camera_model' PERISCOPE is not known"),
        (bad_frame(transform_matrix=[[1, 2], [3, 4]]), "frame 2 .*not a matrix of 4 x 4 numbers"),
        (bad_frame(transform_matrix="identity"), "frame 2 .*not a matrix of 4 x 4 numbers"),
        (bad_frame(transform_matrix=[[math.nan] * 4] * 4), "frame 2 .*'transform_matrix' is not finite"),
        (bad_frame(transform_matrix=[[0.0] * 4] * 4), "frame 2 .*holds no rotation"),
        (bad_frame(transform_matrix=np.diag([1.0, 1.0, -1.0, 1.0]).tolist()), "frame 2 .*holds no rotation"),
        (bad_frame(transform_matrix=np.diag([1.0, 2.0, 1.0, 1.0]).tolist()), "frame 2 .*holds no rotation"),
        (bad_frame(transform_matrix=[[1, 0, 0, 1e300], [0, 1, 0, 0], [0, 0, 1, 0]]), "frame 2 .*too far away"),
        (bad_frame(camera_angle_x=7.0, fl_x=None), "'camera_angle_x' is 7; it must lie between 0 and pi"),
        (lambda data: data.update(train_filenames="all"), "'train_filenames' is not a list of names"),
    ],
)
def test_what_is_wrong_is_named_with_file_frame_and_field(tmp_path, change, sentence):
    data = capture(tmp_path)
    change(data)
    write(tmp_path, data)
    with pytest.raises(UserError, match=rf"transforms\.json.*{sentence}"):
        load_scene(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"frames": [}', "[]", "null", "[" * 100_000, "\udcff", "1" * 5000])
def test_broken_json_is_named(tmp_path, text):
    (tmp_path / "transforms.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"transforms\.json (is not valid JSON|holds no JSON object)"):
        load_scene(tmp_path)


def test_half_a_surrogate_pair_is_no_file_name(tmp_path):
    data = capture(tmp_path)
    data["frames"][1]["file_path"] = "images/\ud800.png"
    write(tmp_path, data)
    with pytest.raises(UserError, match=r"frame 1: 'file_path' .* is no file name") as caught:
        load_scene(tmp_path)
    str(caught.value).encode("utf-8")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_in_any_field_raises_only_our_error(tmp_path, data):
    content = capture(tmp_path)
    keys = ["fl_x", "fl_y", "cx", "w", "h", "k1", "k4", "camera_model", "is_fisheye", "camera_angle_x"]
    keys += ["ply_file_path", "train_filenames", "test_filenames", "frames", "applied_transform"]
    frame_keys = [*keys, "file_path", "transform_matrix", "mask_path", "time"]
    for _ in range(data.draw(st.integers(1, 3))):
        if isinstance(content["frames"], list) and content["frames"] and data.draw(st.booleans()):
            frame = data.draw(st.integers(0, len(content["frames"]) - 1))
            if isinstance(content["frames"][frame], dict):
                content["frames"][frame][data.draw(st.sampled_from(frame_keys))] = data.draw(JUNK)
        else:
            content[data.draw(st.sampled_from(keys))] = data.draw(JUNK)
    write(tmp_path, content)
    try:
        scene = load_scene(tmp_path, DataConfig(random_points=20))
    except UserError as error:
        str(error).encode("utf-8")
    else:
        assert all(np.isfinite(view.camera.viewmat.numpy()).all() for view in scene.views)


def test_bytes_flipped_anywhere_raise_only_our_error(tmp_path):
    whole = json.dumps(capture(tmp_path)).encode()
    rng = np.random.default_rng(0)
    for attempt in range(100):
        broken = bytearray(whole if attempt % 4 else whole[: rng.integers(len(whole))])
        for position in rng.integers(0, max(1, len(broken)), 2):
            if len(broken):
                broken[position] = rng.integers(256) if attempt % 2 else rng.choice(list(b'0123456789-.eE"[]{},:'))
        (tmp_path / "transforms.json").write_bytes(broken)
        try:
            load_scene(tmp_path, DataConfig(random_points=20))
        except UserError as error:
            str(error).encode("utf-8")


@pytest.mark.parametrize("suffix", [".PNG", ".webp", ".JPG"])
def test_a_path_without_a_suffix_is_that_of_the_only_image_of_this_name(tmp_path, suffix):
    data = capture(tmp_path)
    for frame in data["frames"]:
        path = tmp_path / frame["file_path"]
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink()
        frame["file_path"] = str(Path(frame["file_path"]).with_suffix(""))
    write(tmp_path, data)
    assert len(load_scene(tmp_path).views) == len(data["frames"])
