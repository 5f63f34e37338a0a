"""The lens of a frame of transforms.json: its own fields before those of the file, and terms that no lens here has."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image
from transforms_files import COUNT, PLAIN, capture, write

from nfc_gs.core.errors import UserError
from nfc_gs.data.loading import load_scene

# --- what is nearer to the frame wins ----------------------------------------------------------------------------


def cameras_of(root: Path, data: dict) -> list:
    write(root, data)
    return [view.camera for view in load_scene(root, PLAIN).views]


WIDE = 2 * math.atan(0.5)
"""The angle under which the focal length is the side."""


def test_an_angle_of_a_frame_wins_over_the_focal_lengths_of_the_file(tmp_path):
    data = capture(tmp_path, fl_y=21.0)
    data["frames"][1] |= {"camera_angle_x": WIDE}
    data["frames"][2] |= {"camera_angle_x": WIDE, "camera_angle_y": WIDE}
    cameras = cameras_of(tmp_path, data)
    assert [(c.fx, c.fy) for c in cameras[:3]] == [(20.0, 21.0), pytest.approx((16, 16)), pytest.approx((16, 12))]


def test_an_angle_of_a_frame_wins_over_the_angles_of_the_file(tmp_path):
    data = capture(tmp_path, camera_angle_x=1.0, camera_angle_y=1.0)
    del data["fl_x"]
    data["frames"][1] |= {"camera_angle_x": WIDE}
    camera = cameras_of(tmp_path, data)[1]
    assert (camera.fx, camera.fy) == pytest.approx((16.0, 16.0))


def test_a_frame_and_its_file_may_give_an_axis_each(tmp_path):
    data = capture(tmp_path, camera_angle_y=WIDE)
    del data["fl_x"]
    for frame in data["frames"]:
        frame["camera_angle_x"] = WIDE
    data["frames"][1] |= {"camera_angle_x": None, "fl_x": 18.0}
    cameras = cameras_of(tmp_path, data)
    assert (cameras[0].fx, cameras[0].fy) == pytest.approx((16.0, 12.0))
    assert (cameras[1].fx, cameras[1].fy) == (18.0, 18.0), "an angle along y has no meaning beside fl_x"


def test_it_is_said_when_a_frame_gives_its_focal_length_along_one_axis_only(tmp_path):
    data = capture(tmp_path, fl_y=21.0)
    data["frames"][1] |= {"fl_x": 30.0}
    write(tmp_path, data)
    messages = load_scene(tmp_path, PLAIN).messages
    assert any("1 frames" in text and "only one of 'fl_x' and 'fl_y' (images/f1.png)" in text for text in messages)


def test_the_kind_of_lens_of_a_frame_wins_over_that_of_the_file(tmp_path):
    data = capture(tmp_path, camera_model="OPENCV", k1=0.1, is_fisheye=False)
    data["frames"][1] |= {"is_fisheye": True}
    data["frames"][2] |= {"camera_model": "OPENCV_FISHEYE", "k1": 0.2}
    write(tmp_path, data)
    lenses = [view.source.lens for view in load_scene(tmp_path).views]
    assert [lens.model for lens in lenses[:3]] == ["OPENCV", "OPENCV_FISHEYE", "OPENCV_FISHEYE"]
    assert [lens.params[4] for lens in lenses[:3]] == [0.1, 0.1, 0.2]


def test_the_size_of_a_frame_wins_over_that_of_the_file(tmp_path):
    data = capture(tmp_path)
    Image.new("RGB", (8, 6)).save(tmp_path / "images" / "f1.png")
    data["frames"][1] |= {"w": 8, "h": 6, "fl_x": 10.0}
    assert (cameras_of(tmp_path, data)[1].width, cameras_of(tmp_path, data)[0].width) == (8, 16)


def test_nerfstudios_list_of_distortion_terms_is_read(tmp_path):
    data = capture(tmp_path, k1=0.5)
    data["frames"][1]["distortion_params"] = [0.1, 0.2, 0.0, 0.0, 0.3, 0.4]
    write(tmp_path, data)
    lens = load_scene(tmp_path).views[1].source.lens
    assert (lens.model, lens.params[4:]) == ("OPENCV", (0.1, 0.2, 0.3, 0.4))
    data["frames"][1]["distortion_params"] = [0.1, 0.2]
    write(tmp_path, data)
    with pytest.raises(UserError, match=r"frame 1 .*'distortion_params' is not the list of k1, k2, k3, k4, p1, p2"):
        load_scene(tmp_path)


@pytest.mark.parametrize("where", ["file", "frame"])
@pytest.mark.parametrize(
    "fields",
    [
        {"k5": 0.1},
        {"k6": -1},
        {"K5": 0.1},
        {"p3": 0.1},
        {"s1": 0.1},
        {"s4": 0.1},
        {"tau_x": 0.1},
        {"b1": 0.1},
        {"skew": 0.1},
        {"is_fisheye": True, "p1": 0.1},
        {"is_fisheye": True, "k5": 0.1},
        {"camera_model": "EQUIRECTANGULAR", "k1": 0.1},
    ],
)
def test_terms_that_no_lens_here_has_are_refused_unless_they_are_zero(tmp_path, fields, where):
    data = capture(tmp_path)
    place = data if where == "file" else data["frames"][0]
    term = list(fields)[-1]
    place |= fields
    write(tmp_path, data)
    with pytest.raises(UserError, match=rf"frame 0 .*: '{term}' is -?[01].*undistort"):
        load_scene(tmp_path)
    place |= {term: 0}
    write(tmp_path, data)
    assert len(load_scene(tmp_path).views) >= COUNT


@pytest.mark.parametrize("value", ["false", 2, [True], {}])
def test_is_fisheye_is_true_or_false(tmp_path, value):
    write(tmp_path, capture(tmp_path, is_fisheye=value))
    with pytest.raises(UserError, match=r"'is_fisheye' is .* neither true nor false"):
        load_scene(tmp_path)
