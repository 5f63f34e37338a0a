"""The reader of transforms.json: nerfstudio, instant-ngp, Blender, D-NeRF."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from junk import JUNK
from PIL import Image
from transforms_files import COUNT, HEIGHT, PLAIN, WIDTH, capture, write

from nfc_gs.core.errors import UserError
from nfc_gs.data.config import DataConfig
from nfc_gs.data.lens import RADIAL4
from nfc_gs.data.loading import load_scene
from nfc_gs.data.ply_points import write_ply_points
from nfc_gs.data.scene import TimeAxis


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
        (bad_frame(fl_x=0), "frame 2 .*neither 'fl_x' nor 'camera_angle_x' is given, or not above 0"),
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


# --- matrices ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "shown"), [([2.5, 0, 1, 1], "2.5 0 1 1"), ([0, 0, 0, 2], "0 0 0 2"), ([0] * 4, "0 0 0 0")]
)
def test_a_last_row_that_no_pose_has_is_refused(tmp_path, row, shown):
    data = capture(tmp_path)
    data["frames"][2]["transform_matrix"][3] = row
    write(tmp_path, data)
    with pytest.raises(UserError, match=rf"frame 2 .*last row of 'transform_matrix' is {shown}, not 0 0 0 1"):
        load_scene(tmp_path)


def test_matrices_stored_by_columns_are_refused(tmp_path):
    data = capture(tmp_path)
    for frame in data["frames"]:
        frame["transform_matrix"] = np.array(frame["transform_matrix"]).T.tolist()
    write(tmp_path, data)
    with pytest.raises(UserError, match="stored by columns"):
        load_scene(tmp_path)


def test_a_last_row_that_is_rounded_or_left_out_is_none_of_these(tmp_path):
    data = capture(tmp_path)
    data["frames"][0]["transform_matrix"][3] = [1e-7, 0.0, -1e-6, 0.99999994]
    del data["frames"][1]["transform_matrix"][3]
    write(tmp_path, data)
    assert len(load_scene(tmp_path).views) == COUNT


# --- splits ------------------------------------------------------------------------------------------------------


def split_of(root: Path, **lists) -> tuple[list[str], list[str], tuple[str, ...]]:
    write(root, capture(root, **{f"{key}_filenames": names for key, names in lists.items()}))
    scene = load_scene(root, DataConfig(normalize=False, random_points=20))
    return [scene.views[i].name for i in scene.train], [scene.views[i].name for i in scene.test], scene.messages


@pytest.mark.parametrize("spelling", ["images/f1.png", "f1.png", "f1", "images/f1", "./images\\f1.jpg", "other/f1.png"])
def test_names_in_a_list_may_lack_their_suffix_or_folder(tmp_path, spelling):
    train, test, _ = split_of(tmp_path, train=["images/f0.png", "f2", "f3"], test=[spelling])
    assert (train, test) == (["f0.png", "f2.png", "f3.png"], ["f1.png"])


def test_a_list_of_test_images_alone_is_enough(tmp_path):
    assert split_of(tmp_path, test=["f1", "f3"])[:2] == (["f0.png", "f2.png"], ["f1.png", "f3.png"])


def test_lists_of_other_names_are_not_used_and_it_is_said(tmp_path):
    train, test, messages = split_of(tmp_path, train=["a.png", "b.png"], test=["c.png"])
    assert (train, test) == (["f1.png", "f2.png", "f3.png"], ["f0.png"])
    assert any("2 of 2 names in 'train_filenames'" in text and "(a.png, b.png)" in text for text in messages)
    assert any("1 of 1 names in 'test_filenames'" in text for text in messages)


def test_names_that_are_those_of_no_frame_are_counted(tmp_path):
    train, test, messages = split_of(tmp_path, train=["f0", "f1", "x"], val=["f2"])
    assert (train, test) == (["f0.png", "f1.png"], ["f2.png"])
    assert any("1 of 3 names in 'train_filenames'" in text for text in messages)
    assert any("1 images are in no list" in text for text in messages)


def test_a_name_that_fits_several_images_is_none_of_them(tmp_path):
    data = capture(tmp_path, "left", test_filenames=["f1"])
    data["frames"] += capture(tmp_path, "right")["frames"]
    write(tmp_path, data)
    scene = load_scene(tmp_path, PLAIN)
    assert scene.test == () and any("1 of 1 names in 'test_filenames'" in text for text in scene.messages)


def test_images_in_both_lists_are_trained_on_and_it_is_said(tmp_path):
    train, test, messages = split_of(tmp_path, train=["f0", "f1", "f2"], test=["f2", "f3"])
    assert (train, test) == (["f0.png", "f1.png", "f2.png"], ["f3.png"])
    assert any("1 images (f2.png) are both in" in text for text in messages)


def test_images_that_are_not_on_disk_are_no_unknown_names(tmp_path):
    data = capture(tmp_path, train_filenames=["images/f0.png", "images/f1.png", "images/f2.png"])
    (tmp_path / "images" / "f2.png").unlink()
    write(tmp_path, data)
    assert not any("no frame" in text for text in load_scene(tmp_path, PLAIN).messages)


def blender(root: Path, *splits: str) -> None:
    for split in splits:
        write(root, capture(root, f"./{split}", suffix=""), f"transforms_{split}.json")


def test_of_transforms_train_alone_every_eighth_view_is_held_out(tmp_path):
    blender(tmp_path, "train")
    assert load_scene(tmp_path).test == (0,)


def test_a_test_file_without_frames_or_with_those_of_training_is_no_split(tmp_path):
    blender(tmp_path, "train")
    write(tmp_path, {"fl_x": 20.0, "frames": []}, "transforms_test.json")
    scene = load_scene(tmp_path)
    assert scene.test == (0,) and any("transforms_test.json has no frames" in text for text in scene.messages)
    write(tmp_path, (tmp_path / "transforms_train.json").read_text(), "transforms_test.json")
    scene = load_scene(tmp_path)
    assert len(scene.views) == COUNT and scene.test == (0,)
    assert any("All images of transforms_test.json" in text for text in scene.messages)
    blender(tmp_path, "val")
    write(tmp_path, {"fl_x": 20.0, "frames": []}, "transforms_test.json")
    assert len(load_scene(tmp_path).test) == COUNT


# --- points ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["transforms.json", "transforms_train.json", "transforms_test.json"])
@pytest.mark.parametrize("spelling", ["p/points.ply", "p\\points.ply", "./p/points.ply"])
def test_points_are_read_from_the_file_that_is_named(tmp_path, kind, spelling):
    (tmp_path / "p").mkdir()
    xyz = np.random.default_rng(0).normal(size=(30, 3))
    write_ply_points(tmp_path / "p" / "points.ply", xyz, np.full((30, 3), 7, np.uint8))
    if kind == "transforms_test.json":
        blender(tmp_path, "train")
    write(tmp_path, capture(tmp_path, ply_file_path=spelling), kind)
    scene = load_scene(tmp_path, PLAIN)
    assert (scene.points.rgb == 7).all() and scene.points.xyz == pytest.approx(xyz.astype(np.float32))


@pytest.mark.parametrize("kind", ["transforms.json", "transforms_train.json"])
def test_points_that_are_named_but_missing_are_pointed_out(tmp_path, kind):
    write(tmp_path, capture(tmp_path, ply_file_path="none.ply"), kind)
    scene = load_scene(tmp_path, PLAIN)
    assert sum("none.ply" in text for text in scene.messages) == 1 and len(scene.points) == 20


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, encoding):
    (tmp_path / "transforms.json").write_text(json.dumps(capture(tmp_path)), encoding=encoding)
    assert len(load_scene(tmp_path).views) == COUNT


def test_names_are_found_in_either_unicode_form(tmp_path):
    data = capture(tmp_path, train_filenames=["images/n\u00e4her.png", "f1", "f2"], test_filenames=["f3"])
    (tmp_path / "images" / "f0.png").rename(tmp_path / "images" / "na\u0308her.png")
    data["frames"][0]["file_path"] = "images/n\u00e4her.png"
    write(tmp_path, data)
    scene = load_scene(tmp_path)
    assert len(scene.train) == 3 and len(scene.test) == 1


def test_many_frames_of_one_image_end_in_one_warning(tmp_path):
    data = capture(tmp_path)
    data["frames"] += [data["frames"][0], data["frames"][1]] * 2000
    write(tmp_path, data)
    scene = load_scene(tmp_path, PLAIN)
    texts = [text for text in scene.messages if "occurs more than once" in text]
    assert len(scene.views) == COUNT and len(texts) == 1 and "4000 frames" in texts[0]


@pytest.mark.parametrize("deep", [False, True])
def test_a_depth_map_is_not_taken_for_a_missing_photo(tmp_path, deep):
    data = capture(tmp_path)
    for index, frame in enumerate(data["frames"]):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / f"f{index}.jpg")
        frame["file_path"] = f"images/f{index}.jpg"
        pixels = np.zeros((HEIGHT, WIDTH), np.uint16 if deep else np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"f{index}.png")
    (tmp_path / "images" / "f1.jpg").unlink()
    write(tmp_path, data)
    scene = load_scene(tmp_path, PLAIN)
    assert [view.name for view in scene.views] == ["f0.jpg", "f2.jpg", "f3.jpg"]
    assert any("f1.png for images/f1.jpg" in text and "depth maps" in text for text in scene.messages)
    if deep:
        for index in (0, 2, 3):
            (tmp_path / "images" / f"f{index}.jpg").unlink()
        with pytest.raises(UserError, match="4 of 4 images of the capture are not on disk"):
            load_scene(tmp_path)


def test_a_photo_with_another_suffix_of_the_same_type_is_the_photo(tmp_path):
    data = capture(tmp_path)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "f1.jpeg")
    (tmp_path / "images" / "f1.png").unlink()
    data["frames"][1]["file_path"] = "images/f1.JPG"
    write(tmp_path, data)
    assert len(load_scene(tmp_path, PLAIN).views) == COUNT


@pytest.mark.parametrize(("key", "value"), [("mask_path", 5), ("mask_path", ["a"]), ("ply_file_path", {"a": 1})])
def test_paths_that_are_no_text_are_refused(tmp_path, key, value):
    data = capture(tmp_path)
    (data if key == "ply_file_path" else data["frames"][0])[key] = value
    write(tmp_path, data)
    with pytest.raises(UserError, match=f"'{key}' is .*no file name"):
        load_scene(tmp_path)


def test_of_files_that_fit_a_name_without_suffix_a_depth_map_is_not_the_photo(tmp_path):
    write(tmp_path, capture(tmp_path, suffix=""))
    for index in range(COUNT):
        file = tmp_path / "images" / f"f{index}.png"
        Image.open(file).save(file.with_suffix(".jpg"))
        Image.fromarray(np.full((HEIGHT, WIDTH), 900, np.uint16)).save(file)
    scene = load_scene(tmp_path, PLAIN)
    assert [view.name for view in scene.views] == [f"f{index}.jpg" for index in range(COUNT)]
    (sentence,) = [text for text in scene.messages if "have no suffix" in text]
    assert sentence.startswith(f"{COUNT} names") and "f0.jpg, not f0.png" in sentence


def test_a_name_without_end_does_not_fill_the_sentence(tmp_path):
    data = capture(tmp_path)
    data["frames"][1]["mask_path"] = 5000 * "a"
    write(tmp_path, data)
    with pytest.raises(UserError, match=r"the mask a+ is not on disk") as error:
        load_scene(tmp_path)
    assert len(str(error.value)) < 700
