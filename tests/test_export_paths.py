"""Camera paths: around what the cameras look at, and through them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nfc_gs.core.camera import Camera, look_at_viewmat
from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import PointCloud, SceneData, View
from nfc_gs.export.paths import interpolate, orbit, travel

UP = np.array([0.2, -0.9, 0.3]) / np.linalg.norm([0.2, -0.9, 0.3])
EAST = np.cross(UP, [0.0, 0.0, 1.0]) / np.linalg.norm(np.cross(UP, [0.0, 0.0, 1.0]))
NORTH = np.cross(UP, EAST)
TARGET = np.array([3.0, -1.0, 2.0])


def camera(eye: np.ndarray, target: np.ndarray, fx: float = 60.0) -> Camera:
    tensors = [torch.tensor(v, dtype=torch.float32) for v in (eye, target, UP)]
    return Camera(look_at_viewmat(*tensors), fx, fx, 33.0, 23.0, 64, 48)


def around(azimuths: np.ndarray, distance: float = 4.0, height: float = 1.5) -> list[Camera]:
    """Cameras that look at TARGET from these azimuths (radians)."""
    return [camera(TARGET + distance * (np.cos(a) * EAST + np.sin(a) * NORTH) + height * UP, TARGET) for a in azimuths]


def scene(cameras: list[Camera], points: np.ndarray | None = None) -> SceneData:
    views = tuple(View(f"{i:03d}.png", c, None) for i, c in enumerate(cameras))
    xyz = np.zeros((0, 3), np.float32) if points is None else points.astype(np.float32)
    cloud = PointCloud(xyz, np.zeros(xyz.shape, np.uint8))
    return SceneData(Path("."), views, tuple(range(len(views))), (), cloud, np.eye(4), 1.0)


def centres(path: list[Camera]) -> np.ndarray:
    return np.stack([c.center.double().numpy() for c in path])


def turns(path: list[Camera]) -> np.ndarray:
    """Angle in radians from each camera to the next."""
    r = torch.stack([c.viewmat[:3, :3].double() for c in path])
    trace = (r[:-1] * r[1:]).sum((1, 2))
    return torch.arccos(((trace - 1) / 2).clamp(-1, 1)).numpy()


def test_cameras_in_a_circle_give_an_orbit_along_that_circle() -> None:
    path = orbit(scene(around(np.linspace(0, 2 * np.pi, 12, endpoint=False))), 36)
    assert len(path) == 36
    local = centres(path) - TARGET
    np.testing.assert_allclose(local @ UP, 1.5, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(local - np.outer(local @ UP, UP), axis=1), 4.0, atol=1e-3)
    for c in path:  # the target is in the middle of the picture, and up is up
        seen = c.viewmat[:3, :3].double().numpy() @ TARGET + c.viewmat[:3, 3].double().numpy()
        np.testing.assert_allclose(seen[:2], 0, atol=1e-3)
        assert seen[2] > 0 and c.viewmat[1, :3].double().numpy() @ UP < -0.8


def test_an_orbit_closes_without_a_jump() -> None:
    rng = np.random.default_rng(0)
    cameras = [
        camera(c.center.numpy() + rng.normal(0, 0.3, 3), TARGET + rng.normal(0, 0.2, 3))
        for c in around(rng.uniform(0, 2 * np.pi, 40))
    ]
    path = orbit(scene(cameras), 50)
    steps = np.linalg.norm(np.diff(centres([*path, path[0]]), axis=0), axis=1)
    assert steps.max() < 1.6 * steps.min()


@pytest.mark.parametrize("middle", [0.0, np.pi])
def test_cameras_in_an_arc_give_a_path_that_stays_in_the_arc(middle: float) -> None:
    path = orbit(scene(around(middle + np.linspace(-1.0, 1.0, 15))), 40)
    local = centres(path) - TARGET
    azimuths = np.arctan2(local @ NORTH, local @ EAST) - middle
    azimuths = (azimuths + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(azimuths).max() < 1.0
    assert np.ptp(azimuths) > 1.2
    steps = np.linalg.norm(np.diff(centres([*path, path[0]]), axis=0), axis=1)
    assert steps.max() < 0.1 * 2 * np.pi


def test_a_forward_facing_capture_gets_a_small_ellipse_that_looks_at_the_points() -> None:
    eyes = [x * EAST + y * UP for x in (-0.4, 0.0, 0.4) for y in (-0.2, 0.0, 0.2)]
    points = 5 * NORTH + np.random.default_rng(0).normal(0, 0.5, (200, 3))
    path = orbit(scene([camera(eye, eye + NORTH) for eye in eyes], points), 24)
    local = centres(path)
    assert np.abs(local @ EAST).max() < 0.6 and np.ptp(local @ EAST) > 0.4
    assert np.abs(local @ NORTH).max() < 0.3
    for c in path:
        assert c.viewmat[2, :3].double().numpy() @ NORTH > 0.98


def test_cameras_that_look_outwards_are_passed_one_after_the_other() -> None:
    cameras = [
        camera(0.2 * out, 5 * out)
        for out in (np.cos(a) * EAST + np.sin(a) * NORTH for a in np.linspace(0, 2 * np.pi, 16, endpoint=False))
    ]
    path = orbit(scene(cameras), 64)
    assert np.linalg.norm(centres(path), axis=1).max() < 0.3
    pace = turns([*path, path[0]])
    assert pace.min() > 0.05 and pace.max() < 0.2


def test_one_view_alone_still_gives_an_orbit() -> None:
    path = orbit(scene(around(np.array([0.3]))), 10)
    assert len(path) == 10 and all(c.viewmat.isfinite().all() for c in path)


def test_the_size_can_be_chosen_and_never_shows_more_than_the_capture() -> None:
    path = orbit(scene(around(np.linspace(0, 6, 9))), 3, width=128, height=128)
    assert (path[0].width, path[0].height, path[0].cx, path[0].cy) == (128, 128, 64, 64)
    assert path[0].fx == pytest.approx(60 * 128 / 48)


def test_an_interpolated_path_goes_from_the_first_camera_to_the_last_through_all() -> None:
    keys = around(np.array([0.0, 0.3, 0.9, 1.1, 2.0]))
    path = interpolate(keys, 401)
    torch.testing.assert_close(path[0].viewmat, keys[0].viewmat, rtol=0, atol=1e-5)
    torch.testing.assert_close(path[-1].viewmat, keys[-1].viewmat, rtol=0, atol=1e-5)
    for key in keys:
        nearest = np.linalg.norm(centres(path) - key.center.numpy(), axis=1).argmin()
        assert np.linalg.norm(centres(path)[nearest] - key.center.numpy()) < 0.02
        assert turns([path[nearest], key])[0] < 0.01


def test_an_interpolated_path_moves_at_an_even_pace_without_corners() -> None:
    path = interpolate(around(np.array([0.0, 0.1, 0.9, 1.0, 2.0])), 200)
    steps = np.diff(centres(path), axis=0)
    length = np.linalg.norm(steps, axis=1)
    assert length.max() < 1.7 * length.min()  # where it turns faster, it moves slower
    bend = np.arccos(np.clip((steps[1:] * steps[:-1]).sum(1) / (length[1:] * length[:-1]), -1, 1))
    assert bend.max() < 0.15


def test_a_closed_path_comes_back_as_smoothly_as_it_went() -> None:
    keys = around(np.linspace(0, 2 * np.pi, 7, endpoint=False))
    for cameras in (keys, [*keys, keys[0]]):
        path = interpolate(cameras, 100, closed=True)
        steps = np.linalg.norm(np.diff(centres([*path, path[0]]), axis=0), axis=1)
        assert steps.max() < 1.1 * steps.min()


@pytest.mark.parametrize("closed", [False, True])
def test_each_picture_of_a_path_knows_its_place_even_where_the_way_comes_back(closed: bool) -> None:
    keys = [around(np.array([0.0, 0.8, 0.2, 1.5]))[i] for i in (0, 1, 2, 1, 1, 3)]  # one place twice, and once more
    path, places = travel(keys, 601, closed=closed)
    assert (np.diff(places) >= 0).all() and places[0] == 0.0
    assert 5.9 < places[-1] < 6 if closed else places[-1] == 5  # a closed way ends one picture before it begins
    for i in (0, 1, 2, 3, 5):  # the fifth stands where the fourth does
        at = int(np.abs(places - i).argmin())
        assert np.linalg.norm(centres(path)[at] - keys[i].center.numpy()) < 0.02
        assert abs(places[at] - i) < 0.05  # where the way turns back, one picture is far along from the next


def test_a_path_that_stands_still_passes_its_keys_evenly() -> None:
    (one,) = around(np.array([0.0]))
    assert travel([one, one, one], 5)[1].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert travel([one, one], 4, closed=True)[1].tolist() == [0.0, 0.5, 1.0, 1.5]


def test_nearest_order_makes_the_way_short() -> None:
    shuffled = around(np.random.default_rng(1).permutation(np.linspace(0, 5, 30)))
    path = interpolate(shuffled, 300, order="nearest")
    way = np.linalg.norm(np.diff(centres(path), axis=0), axis=1).sum()
    assert way < 2 * 5 * 4.0 + 1  # at most from where it begins to one end, and from there to the other
    closed = interpolate(
        around(np.random.default_rng(1).permutation(np.linspace(0, 6, 30))), 300, order="nearest", closed=True
    )
    assert np.linalg.norm(np.diff(centres(closed), axis=0), axis=1).sum() < 2 * np.pi * 4.0 + 0.1


def test_equal_cameras_do_not_break_a_path() -> None:
    one, two = around(np.array([0.0, 1.0]))
    assert len(interpolate([one], 5)) == 5
    assert len(interpolate([one, one], 5)) == 5
    path = interpolate([one, one, two, two, two], 9)
    assert all(c.viewmat.isfinite().all() for c in path)
    turned = camera(one.center.numpy(), TARGET + EAST)  # same place, other direction
    assert turns(interpolate([one, turned], 9)).min() > 0.01


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(UserError, match="0 frames"):
        orbit(scene(around(np.array([0.0]))), 0)
    with pytest.raises(UserError, match="at least one camera"):
        interpolate([], 5)
    with pytest.raises(UserError, match="-4 x 48"):
        orbit(scene(around(np.array([0.0]))), 1, width=-4)
