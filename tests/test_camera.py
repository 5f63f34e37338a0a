"""Cameras: made of a point to look at, of NumPy arrays, and what they say of themselves."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nfc_gs.core.camera import Camera, Frame, look_at, look_at_viewmat
from nfc_gs.core.errors import UserError


def test_a_camera_that_looks_at_a_point_has_it_in_the_middle_of_its_picture() -> None:
    camera = look_at((1.0, -2.0, 0.5), np.array([0.0, 0.25, 1.0]), width=64, height=48, fov=50)
    torch.testing.assert_close(camera.center, torch.tensor([1.0, -2.0, 0.5]), rtol=0, atol=1e-6)
    x, y, z = (camera.viewmat @ torch.tensor([0.0, 0.25, 1.0, 1.0]))[:3].tolist()
    assert (x, y) == pytest.approx((0.0, 0.0), abs=1e-6) and z > 0
    assert (camera.cx, camera.cy, camera.fx) == (32, 24, camera.fy)
    edge = torch.tensor([math.tan(math.radians(25)), 0.0, 1.0])  # half the field of view to the right
    assert camera.fx * float(edge[0]) + camera.cx == pytest.approx(64)
    up = camera.viewmat[:3, :3] @ torch.tensor([0.0, 0.0, 1.0])
    assert abs(float(up[0])) < 1e-6 and float(up[1]) < 0, "+z is up in the picture"


def test_up_may_be_another_direction_and_straight_down_any_will_do() -> None:
    camera = look_at((0, 0, -3), (0, 0, 0), up=(0, -1, 0), width=8, height=8)
    torch.testing.assert_close(camera.viewmat[:3, :3], torch.eye(3), rtol=0, atol=1e-6)
    down = look_at((0, 0, 3), (0, 0, 0), width=8, height=8).viewmat[:3, :3]
    torch.testing.assert_close(down @ down.T, torch.eye(3), rtol=0, atol=1e-6)
    assert down[2].tolist() == pytest.approx([0, 0, -1])


def test_tensors_keep_their_dtype_and_their_gradient() -> None:
    eye = torch.tensor([0.3, -2.0, 0.1], dtype=torch.float64, requires_grad=True)
    camera = look_at(eye, (0, 0, 0), width=8, height=8)
    assert camera.viewmat.dtype == torch.float64
    camera.viewmat.square().sum().backward()
    assert eye.grad is not None and eye.grad.abs().max() > 0
    assert look_at(torch.tensor([0, 1, 2]), (0, 0, 0), width=8, height=8).viewmat.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"eye": (0, 0, 0)}, r"stands at \(0, 0, 0\) and looks at the same point; move one\."),
        ({"eye": (0, 0)}, r"eye of the camera is \[0\.0, 0\.0\], but must be three finite numbers\."),
        ({"target": (0, math.nan, 0)}, "target of the camera is .*nan.*, but must be three finite numbers"),
        ({"up": (0, 0, 0)}, "up of the camera is .* no direction"),
        ({"fov": 180}, "field of view of a camera is 180 degrees, but must lie between 0 and 180"),
        ({"fov": math.nan}, "field of view of a camera is nan degrees"),
        ({"width": 0}, "0 x 48 pixels cannot be; give positive whole numbers"),
    ],
)
def test_what_makes_no_camera_is_refused(changes: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        look_at(**({"eye": (0, -1, 0), "target": (0, 0, 0), "width": 64, "height": 48} | changes))


def test_a_pose_may_be_a_numpy_array_and_a_tensor_stays_what_it_is() -> None:
    pose = np.eye(4)
    camera = Camera(pose, 10, 10, 4, 3, 8, 6)  # type: ignore[arg-type]
    pose[0, 3] = 9.0
    assert camera.viewmat.dtype == torch.float32 and torch.equal(camera.viewmat, torch.eye(4))
    double = torch.eye(4, dtype=torch.float64)
    assert Camera(double, 10, 10, 4, 3, 8, 6).viewmat is double


def test_a_camera_says_what_it_is_in_one_line() -> None:
    viewmat = look_at_viewmat(torch.tensor([0.0, -3.0, 1.0]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    camera = Camera(viewmat.requires_grad_(), 50.0, 50.0, 50.0, 25.0, 100, 50)
    assert repr(camera) == (
        "Camera(100 x 50 pixels, 90.0 x 53.1 degrees, at (0, -3, 1), looking along (0, 0.949, -0.316))"
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"viewmat": np.eye(3)}, r"viewmat of a camera is \(3, 3\), but must be a \[4, 4\]"),
        ({"viewmat": [[1.0]]}, r"viewmat of a camera is list"),
        ({"fx": -10.0}, r"focal lengths -10\.0 and 10\.0, but all must be positive"),
        ({"fy": float("nan")}, r"focal lengths 10\.0 and nan"),
        ({"width": 0}, r"0 x 8 pixels"),
    ],
)
def test_a_camera_that_cannot_be_is_refused(changes: dict[str, Any], sentence: str) -> None:
    values = {"viewmat": np.eye(4), "fx": 10.0, "fy": 10.0, "cx": 4.0, "cy": 4.0, "width": 8, "height": 8}
    with pytest.raises(UserError, match=sentence):
        Camera(**{**values, **changes})


# ---- parts of a picture ----


def camera_of(width: int = 64, height: int = 48) -> Camera:
    return Camera(torch.eye(4), fx=50.3, fy=51.7, cx=31.1, cy=24.9, width=width, height=height)


def test_a_part_has_the_size_and_the_principal_point_of_the_part_and_keeps_its_picture() -> None:
    camera = camera_of()
    part = camera.crop(20, 5, 30, 40)
    assert (part.width, part.height, part.fx, part.fy) == (30, 40, 50.3, 51.7)
    assert (part.cx, part.cy) == (31.1 - 20, 24.9 - 5) and float(part.K[0, 2]) == pytest.approx(11.1)
    assert part.part_of == part.frame == Frame(20, 5, 31.1, 24.9, 64, 48)
    assert camera.part_of is None and camera.frame == Frame(0, 0, 31.1, 24.9, 64, 48)
    moved = part.to(dtype=torch.float64)
    assert moved.part_of == part.part_of and moved.viewmat.dtype == torch.float64


def test_a_part_of_a_part_is_a_part_of_the_whole_and_all_of_a_picture_is_no_part() -> None:
    camera = camera_of()
    assert camera.crop(20, 5, 30, 40).crop(3, 0, 7, 11) == camera.crop(23, 5, 7, 11)
    assert camera.crop(0, 0, 64, 48) == camera and camera.crop(20, 5, 30, 40) != camera.crop(20, 6, 30, 40)


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_a_part_that_is_resized_by_a_whole_factor_is_that_part_of_the_resized_picture(factor: int) -> None:
    camera = camera_of()
    part = camera.crop(7, 5, 31, 17).resized(31 * factor, 17 * factor)
    assert part == camera.resized(64 * factor, 48 * factor).crop(7 * factor, 5 * factor, 31 * factor, 17 * factor)


@pytest.mark.parametrize("box", [(7, 5, 31, 17), (0, 0, 63, 48), (33, 1, 31, 47), (63, 47, 1, 1)])
@pytest.mark.parametrize("size", [(10, 5), (1, 1), (47, 90)])
def test_a_part_of_any_size_sees_the_same_and_its_picture_is_right_to_a_pixel(
    box: tuple[int, int, int, int], size: tuple[int, int]
) -> None:
    part = camera_of().crop(*box)
    small = part.resized(*size)
    sx, sy = size[0] / part.width, size[1] / part.height
    assert (small.width, small.height) == size and (small.fx, small.fy) == (50.3 * sx, 51.7 * sy)
    assert (small.cx, small.cy) == pytest.approx((part.cx * sx, part.cy * sy), abs=1e-9)
    assert abs(small.frame.left - box[0] * sx) < 1 and abs(small.frame.top - box[1] * sy) < 1
    assert abs(small.frame.width - 64 * sx) <= 1 and abs(small.frame.height - 48 * sy) <= 1


def test_a_part_says_where_it_is() -> None:
    part = look_at((0, -3, 1), (0, 0, 0), width=100, height=50, fov=90).crop(50, 0, 50, 50)
    assert repr(part) == (
        "Camera(50 x 50 from (50, 0) of 100 x 50 pixels, 45.0 x 53.1 degrees, at (0, -3, 1), "
        "looking along (0, 0.949, -0.316))"
    )


@pytest.mark.parametrize(
    "box", [(-1, 0, 4, 4), (0, -1, 4, 4), (61, 0, 4, 4), (0, 45, 4, 4), (0, 0, 65, 4), (70, 0, -6, 4), (3, 3, 0, 4)]
)
def test_what_is_no_part_is_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(UserError, match=r"part of -?\d+ x 4 pixels at .* does not fit into a picture of 64 x 48"):
        camera_of().crop(*box)


def test_a_camera_that_is_not_made_by_crop_is_no_part() -> None:
    part = camera_of().crop(20, 5, 30, 40)
    with pytest.raises(UserError, match=r"principal point \(3\.0, 19\.9\d*\).* make parts with Camera\.crop"):
        replace(part, cx=3.0)
    with pytest.raises(UserError, match=r"30 x 44 pixels at \(20, 5\) does not fit into a picture of 64 x 48"):
        replace(part, height=44)
