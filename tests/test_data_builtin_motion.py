"""The built-in moving scene and its captures: motion, ground truth, and what the reader makes of them."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from geometry import center_of, outside, pixel_rays
from PIL import Image

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.data.builtin.cameras import camera_on_walk, half_circle, still_life_cameras, turns_of
from nfc_gs.data.builtin.captures import Kind, write_moving_capture
from nfc_gs.data.builtin.draw import DrawnView, draw
from nfc_gs.data.builtin.materials import bands, mixed, stretched, wedges
from nfc_gs.data.builtin.moving_scene import (
    ball_motion,
    globe_weights,
    jelly_radii,
    lamp_joints,
    moving_mask,
    moving_scene,
)
from nfc_gs.data.builtin.ray_caster import RayCaster, sun_directions
from nfc_gs.data.builtin.shapes import Ellipsoid, Frustum, Shape
from nfc_gs.data.builtin.solids import Solid, label_ids, moving_ids
from nfc_gs.data.builtin.still_life import TABLE, still_life
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData

SCENE = moving_scene()
IDS = label_ids(SCENE)
TIMES = np.linspace(0.0, 1.0, 21).tolist()
FRAMES, VIEWS, WIDTH, HEIGHT = 6, 3, 48, 36


def of(label: str) -> list[Solid]:
    return [solid for solid in SCENE if solid.label == label]


def surface(shape: Shape, count: int = 300) -> np.ndarray:
    """Points [3, P] on a solid, in its own frame."""
    random = np.random.default_rng(2)
    half = np.array(shape.half)[:, None]
    origin = random.normal(size=(3, count))
    origin *= 3.0 * np.linalg.norm(half) / np.linalg.norm(origin, axis=0)
    direction = random.uniform(-1, 1, (3, count)) * half - origin
    with np.errstate(all="ignore"):
        t = shape.hit(origin.astype(np.float32), direction.astype(np.float32), np.zeros(count, np.float32))
    return (origin + direction * t)[:, np.isfinite(t)]


def moved(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    return pose[:3, :3] @ points + pose[:3, 3:]


def gap(solid: Solid, points: np.ndarray) -> np.ndarray:
    """How far world points [3, P] are outside a solid that stands still, roughly in metres."""
    return outside(solid.shape, solid.rest[:3, :3].T @ (points - solid.rest[:3, 3:]))


# Motion


def test_what_moves_and_what_stands_still() -> None:
    assert {label for label, number in IDS.items() if number in moving_ids(SCENE)} == {"ball", "lamp", "jelly", "globe"}
    assert moving_ids(still_life()) == ()
    for solid in SCENE:
        changed = solid.frozen(0.3)
        assert (changed == solid.frozen(0.8)) if not solid.moves else True
        assert not changed.moves


def test_poses_are_rigid_at_all_times() -> None:
    for solid in SCENE:
        for time in TIMES:
            turn = solid.pose(time)[:3, :3]
            np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
            assert np.linalg.det(turn) > 0


def test_everything_moves_smoothly() -> None:
    step = 1e-3
    for solid in SCENE:
        if solid.moves:
            for time in TIMES[:-1]:
                before, between, after = (solid.frozen(time + k * step) for k in range(3))
                ends = [moved(t.rest, np.diag(t.shape.half)) for t in (before, between, after)]
                assert np.abs(ends[1] - ends[0]).max() < 15 * step, solid.label
                assert np.abs(ends[2] - 2 * ends[1] + ends[0]).max() < 300 * step**2, solid.label


def test_the_ball_travels_turns_and_rolls_without_slipping() -> None:
    (ball,) = of("ball")
    centers = np.array([ball.pose(time)[:3, 3] for time in TIMES])
    assert np.linalg.norm(centers[-1] - centers[0]) > 1.5 and np.ptp(centers[:, 2]) > 0.3
    turn = ball.pose(0.0)[:3, :3].T @ ball.pose(0.2)[:3, :3]
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) > 45
    for time in (0.0, 0.5, 1.0):  # between its hops it touches the floor with a point that stands still
        contact = ball_motion(time)[:3, 3] * [1, 1, 0]
        assert abs(ball.pose(time)[2, 3] - ball.shape.half[2]) < 1e-12
        held = np.linalg.inv(ball_motion(time)) @ [*contact, 1.0]
        later = ball_motion(time + 1e-4) @ held
        assert np.linalg.norm(later[:3] - contact) < 1e-6


def test_the_hinges_of_the_lamp_hold() -> None:
    arms = [solid for solid in of("lamp") if isinstance(solid.shape, Frustum) and solid.shape.height > 0.5]
    joints = [solid for solid in of("lamp") if isinstance(solid.shape, Ellipsoid) and len(set(solid.shape.radii)) == 1]
    assert len(arms) == 2 and len(joints) == 3
    feet, swings = [], []
    for time in TIMES:
        ends = []
        for arm in arms:
            half = np.array([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]]).T * arm.shape.half[2]
            ends += list(moved(arm.pose(time), half).T)
        hinges = [joint.pose(time)[:3, 3] for joint in joints]
        np.testing.assert_allclose(ends[0], hinges[0], atol=1e-12)
        np.testing.assert_allclose(ends[1], hinges[1], atol=1e-12)
        np.testing.assert_allclose(ends[2], hinges[1], atol=1e-12)
        np.testing.assert_allclose(ends[3], hinges[2], atol=1e-12)
        feet.append(ends[0])
        swings.append([np.degrees(np.arccos(frame[2, 2])) for frame in lamp_joints(time)])
    np.testing.assert_allclose(feet, np.broadcast_to(feet[0], (len(feet), 3)), atol=1e-12)
    assert (np.ptp(swings, axis=0) > 20).all()


def test_the_jelly_changes_shape_keeps_its_volume_and_stays_on_the_table() -> None:
    (jelly,) = of("jelly")
    heights = []
    for time in TIMES:
        shape = jelly.frozen(time).shape
        assert isinstance(shape, Ellipsoid)
        np.testing.assert_allclose(shape.radii, jelly_radii(time))
        np.testing.assert_allclose(np.prod(shape.radii), 0.24**3)
        assert abs(jelly.pose(time)[2, 3] - shape.radii[2] - TABLE) < 1e-12
        heights.append(2 * shape.radii[2])
    assert max(heights) > 1.8 * min(heights)


def test_the_texture_goes_with_the_stretched_surface() -> None:
    (jelly,) = of("jelly")
    points = surface(jelly.frozen(0.0).shape, 200).astype(np.float32)
    footprint = np.full(points.shape[1], 0.01, np.float32)
    colors = []
    for time in (0.0, 0.11, 0.36):
        now = jelly.frozen(time)
        place = points * (jelly_radii(time) / jelly_radii(0.0))[:, None].astype(np.float32)
        colors.append(now.material.pattern(place, now.shape.normal(place), footprint))
    np.testing.assert_allclose(colors[1], colors[0], atol=1e-3)
    np.testing.assert_allclose(colors[2], colors[0], atol=1e-3)
    assert np.ptp(colors[0], axis=1).max() > 0.3


def test_a_stretched_pattern_sees_the_normal_of_the_solid_at_rest() -> None:
    rest, scale = Ellipsoid((0.2, 0.3, 0.4)), np.array([1.5, 0.8, 1.2])
    points = surface(rest).astype(np.float32)
    now = Ellipsoid((0.3, 0.24, 0.48))
    seen = []
    pattern = stretched(lambda p, n, f: seen.append((p, n)) or p, scale)
    place = points * scale[:, None].astype(np.float32)
    pattern(place, now.normal(place), np.full(points.shape[1], 0.01, np.float32))
    np.testing.assert_allclose(seen[0][0], points, atol=1e-6)
    np.testing.assert_allclose(seen[0][1], rest.normal(points), atol=1e-5)


def test_the_globe_changes_its_color_smoothly_and_nothing_else() -> None:
    (globe,) = of("globe")
    points = surface(globe.shape, 200).astype(np.float32)
    footprint = np.full(points.shape[1], 0.01, np.float32)
    colors = []
    for time in np.linspace(0, 1, 41):
        now = globe.frozen(float(time))
        np.testing.assert_array_equal(now.rest, globe.rest)
        assert now.shape == globe.shape
        weights = globe_weights(float(time))
        assert (weights >= 0).all() and abs(weights.sum() - 1) < 1e-12
        colors.append(now.material.pattern(points, points, footprint))
    steps = np.abs(np.diff(colors, axis=0)).max(axis=(1, 2))
    assert steps.max() < 0.08 and np.abs(colors[-1] - colors[0]).max() > 0.5
    assert np.abs(colors[20] - (colors[0] + colors[-1]) / 2).max() > 0.15  # by way of a third color


def test_nothing_passes_through_anything() -> None:
    for time in TIMES:
        scene = [solid.frozen(time) for solid in SCENE]
        for mover in (now for now, solid in zip(scene, SCENE, strict=True) if solid.motion is not None):
            skin = moved(mover.rest, surface(mover.shape, 150))
            middle = mover.rest[:3, 3:]
            for other in scene:
                far = np.linalg.norm(other.rest[:3, 3:] - middle) > np.linalg.norm(
                    [*mover.shape.half, *other.shape.half]
                )
                if other.label == mover.label or far:
                    continue
                assert gap(other, skin).min() > -1e-4, (mover.label, other.label, time)
                if np.isfinite(other.shape.half).all():
                    entered = gap(mover, moved(other.rest, surface(other.shape, 150)))
                    assert entered.min() > -1e-4, (mover.label, other.label, time)


def test_mixed_patterns_and_the_sectors_of_a_ball() -> None:
    angles = np.array([0.3, 1.9, 3.4, -0.3, 0.0])
    points = np.stack([0.2 * np.cos(angles), 0.2 * np.sin(angles), np.zeros(5)]).astype(np.float32)
    points[:, 4] = 0.0, 0.0, 0.3
    footprint = np.full(5, 1e-3, np.float32)
    sectors = wedges(("ff0000", "0000ff"), "ffffff", 4, 0.27)(points, points, footprint)
    assert np.argmax(sectors[:, :4], axis=0).tolist() == [0, 2, 0, 2]
    assert sectors[:, 4].min() > 0.8  # the cap
    first, second = bands("000000", "ffffff", 0.2, 0.1), bands("ffffff", "000000", 0.2, 0.1)
    both = mixed([first, second], np.array([0.25, 0.75]))(points, points, footprint)
    expected = 0.25 * first(points, points, footprint) + 0.75 * second(points, points, footprint)
    np.testing.assert_allclose(both, expected, rtol=1e-6)


# Pictures and their ground truth


@pytest.fixture(scope="module")
def pair() -> tuple[DrawnView, DrawnView]:
    camera = camera_on_walk(0.83, 1, 96, 72)
    return draw(camera, 0.1, scene=SCENE), draw(camera, 0.3, scene=SCENE)


def widened(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask [H, W] with all pixels within this many rows and columns."""
    for _ in range(pixels):
        padded = np.pad(mask, 1)
        mask = np.any(
            [padded[i : i + mask.shape[0], j : j + mask.shape[1]] for i in range(3) for j in range(3)], axis=0
        )
    return mask


def test_the_default_scene_is_the_still_life() -> None:
    camera = still_life_cameras(5, 48, 36)[1]
    whole, given = draw(camera), draw(camera, 0.6, scene=still_life())
    np.testing.assert_array_equal(whole.rgb, given.rgb)
    np.testing.assert_array_equal(whole.mask, given.mask)


def test_enough_of_the_picture_moves(pair: tuple[DrawnView, DrawnView]) -> None:
    for drawn in pair:
        assert set(moving_ids(SCENE)) <= set(np.unique(drawn.mask).tolist())
        assert 0.05 < moving_mask(drawn, SCENE).mean() < 0.3
    assert (np.abs(pair[0].rgb.astype(int) - pair[1].rgb) > 20).any(axis=2).mean() > 0.05


def test_depth_and_labels_change_only_where_something_moves(pair: tuple[DrawnView, DrawnView]) -> None:
    one, two = pair
    touched = moving_mask(one, SCENE) | moving_mask(two, SCENE)
    np.testing.assert_array_equal(one.mask[~touched], two.mask[~touched])
    np.testing.assert_allclose(one.depth[~touched], two.depth[~touched], rtol=1e-6)
    for label in ("ball", "lamp", "jelly"):
        here = (one.mask == IDS[label]) | (two.mask == IDS[label])
        near = [np.minimum(drawn.depth[here], 1e3) for drawn in pair]  # the sky counts as far
        assert (np.abs(near[0] - near[1]) > 1e-3).mean() > 0.9, label


def test_the_globe_changes_color_in_the_picture_and_not_its_place(pair: tuple[DrawnView, DrawnView]) -> None:
    one, two = pair
    here = (one.mask == IDS["globe"]) & (two.mask == IDS["globe"])
    assert here.sum() > 50
    np.testing.assert_allclose(one.depth[here], two.depth[here], rtol=1e-6)
    assert np.abs(one.rgb[here].astype(int) - two.rgb[here]).max(axis=1).mean() > 20


def test_colors_change_only_on_and_near_what_moves_and_in_its_shadow(pair: tuple[DrawnView, DrawnView]) -> None:
    camera = camera_on_walk(0.83, 1, 96, 72)
    solid = np.where(np.isfinite(pair[0].depth), pair[0].depth, 0.0)
    points = (center_of(camera) + (pixel_rays(camera) * solid).reshape(3, -1)).astype(np.float32)
    sun = sun_directions(1)[:, 0]
    order = np.argsort(np.array([sun[1], -sun[0], 0.0], np.float32) @ points)
    touched = np.zeros(solid.size, bool)
    for drawn, time in zip(pair, (0.1, 0.3), strict=True):
        movers = RayCaster([solid for solid in SCENE if solid.motion is not None], time)
        touched |= moving_mask(drawn, SCENE).ravel()
        touched[order] |= movers.shadowed(points[:, order], sun)
        for center, core in zip(
            movers.centers, movers.cores, strict=True
        ):  # they keep some of the sky from what is near
            touched |= np.linalg.norm(points - center[:, None], axis=0) < 5.0 * core
    elsewhere = ~widened(touched.reshape(solid.shape), 3)  # soft shadows, and the lens blurs
    change = np.abs(pair[0].rgb.astype(int) - pair[1].rgb).max(axis=2)
    assert elsewhere.mean() > 0.3
    assert change[elsewhere].max() <= 1 and (change[elsewhere] > 0).mean() < 0.01  # of rounding


# Captures


def positions(scene: SceneData, indices: tuple[int, ...]) -> np.ndarray:
    """Where the cameras stand in the capture's world, [C, 3]."""
    centers = np.stack([scene.views[i].camera.center.double().numpy() for i in indices])
    inverse = np.linalg.inv(scene.transform)
    return centers @ inverse[:3, :3].T + inverse[:3, 3]


@pytest.fixture(scope="module", params=["monocular", "multiview"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory, kind: Kind) -> Path:
    return write_moving_capture(
        tmp_path_factory.mktemp(kind) / "capture",
        kind=kind,
        frames=FRAMES,
        views=VIEWS,
        width=WIDTH,
        height=HEIGHT,
        ground_truth=True,
    )


@pytest.fixture(scope="module")
def scene(capture: Path) -> SceneData:
    return load_scene(capture)


def expected(kind: Kind) -> dict[str, tuple[Camera, float, bool]]:
    """Camera, time and whether it is for testing, for every picture."""
    if kind == "multiview":
        return {
            f"cam{v:02d}/{k:03d}.png": (camera, k / 5, v == 1)
            for v, camera in enumerate(half_circle(VIEWS, WIDTH, HEIGHT))
            for k in range(FRAMES)
        }
    turns = turns_of(FRAMES)
    planned = {f"train_{k:03d}.png": (camera_on_walk(k / 6, turns, WIDTH, HEIGHT), k / 5, False) for k in range(FRAMES)}
    return {**planned, "test_000.png": (camera_on_walk(2.5 / 6, turns, WIDTH, HEIGHT), 0.5, True)}


def test_the_reader_finds_the_same_cameras_times_and_split(kind: Kind, scene: SceneData) -> None:
    planned = expected(kind)
    assert {view.name for view in scene.views} == set(planned)
    scale = np.cbrt(np.linalg.det(scene.transform[:3, :3]))
    for i, view in enumerate(scene.views):
        camera, time, test = planned[view.name]
        assert view.time == pytest.approx(time, abs=1e-12)
        assert (i in scene.test) == test and (i in scene.train) == (not test)
        found = view.camera
        np.testing.assert_allclose([found.fx, found.fy], [camera.fx, camera.fy], rtol=1e-9)
        assert (found.cx, found.cy, found.width, found.height) == (WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT)
        # a point of the world, seen by both: the same but for the scale
        seen = camera.viewmat.double().numpy()
        np.testing.assert_allclose(
            found.viewmat.double().numpy() @ scene.transform, np.diag([scale] * 3 + [1.0]) @ seen, atol=2e-6
        )
    axis = scene.time_axis
    assert axis is not None and (axis.start, axis.end) == (0.0, 1.0)


def test_pictures_and_ground_truth_are_what_draw_gives(kind: Kind, capture: Path, scene: SceneData) -> None:
    planned = expected(kind)
    for i in (scene.train[0], scene.train[-1], scene.test[0]):
        name = scene.views[i].name
        camera, time, _ = planned[name]
        drawn = draw(camera, time, scene=SCENE)
        np.testing.assert_array_equal(scene.image(i).rgb, drawn.rgb)
        assert scene.image(i).mask is None
        np.testing.assert_array_equal(np.asarray(Image.open(capture / "labels" / name)), drawn.mask)
        np.testing.assert_array_equal(np.load((capture / "depth" / name).with_suffix(".npy")), drawn.depth)
        changing = np.asarray(Image.open(capture / "moving" / name))
        np.testing.assert_array_equal(changing == 255, moving_mask(drawn, SCENE))
        assert set(np.unique(changing).tolist()) == {0, 255}
        found = scene.moving(i)
        assert found is not None and np.array_equal(found, changing == 255)
    for folder in ("labels", "moving", "depth"):
        assert len([p for p in (capture / folder).rglob("*") if p.is_file()]) == len(planned)


def test_test_pictures_are_from_places_that_training_never_saw(kind: Kind, scene: SceneData) -> None:
    train, test = positions(scene, scene.train), positions(scene, scene.test)
    assert np.linalg.norm(train[:, None] - test, axis=2).min() > 0.2
    seen, held_out = ({scene.views[i].time for i in part} for part in (scene.train, scene.test))
    assert seen.isdisjoint(held_out) if kind == "monocular" else seen == held_out
    assert min(seen) == 0.0 and max(seen) == 1.0  # motion is never extrapolated


def test_by_default_no_test_camera_meets_a_training_camera() -> None:
    turns = turns_of(100)
    train = np.stack([center_of(camera_on_walk(k / 100, turns))[:, 0] for k in range(100)])
    test = np.stack([center_of(camera_on_walk((k + 0.5) / 100, turns))[:, 0] for k in range(100)])
    assert np.linalg.norm(train[:, None] - test, axis=2).min() > 0.1
    for camera in [camera_on_walk(k / 50, turns) for k in range(50)] + half_circle(9):
        center = center_of(camera)
        for time in (0.0, 0.4, 0.7):
            assert min(gap(solid.frozen(time), center)[0] for solid in SCENE) > 0.2
        assert camera.viewmat[2, :3].double().numpy() @ -center[:, 0] > 0.8 * np.linalg.norm(center)


def test_points_lie_on_the_scene_at_time_0(scene: SceneData) -> None:
    inverse = np.linalg.inv(scene.transform)
    world = (scene.points.xyz.astype(np.float64) @ inverse[:3, :3].T + inverse[:3, 3]).T
    gaps = np.abs([gap(solid.frozen(0.0), world) for solid in SCENE])
    allowed = 3e-3 * (np.linalg.norm(world, axis=0) + 4.0)
    assert len(scene.points) > 300 and (gaps.min(axis=0) < allowed).all()
    names = {SCENE[k].label for k in np.argmin(gaps, axis=0)}
    assert {"ball", "jelly", "lamp", "table", "terrace"} <= names
    assert np.ptp(scene.points.rgb, axis=0).min() > 100


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path, kind: Kind, capture: Path) -> None:
    sizes = {"frames": FRAMES, "views": VIEWS, "width": WIDTH, "height": HEIGHT}
    again = write_moving_capture(tmp_path / "again", kind=kind, ground_truth=True, **sizes)
    files = sorted(p.relative_to(capture) for p in capture.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for file in files:
        assert (capture / file).read_bytes() == (again / file).read_bytes(), file


def test_another_seed_gives_other_points_alone(tmp_path: Path) -> None:
    one, two = (
        write_moving_capture(tmp_path / str(seed), frames=2, width=24, height=18, seed=seed) for seed in range(2)
    )
    assert (one / "points3d.ply").read_bytes() != (two / "points3d.ply").read_bytes()
    for name in ("transforms.json", "images/train_001.png", "images/test_000.png"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert sorted(p.name for p in one.iterdir()) == ["images", "points3d.ply", "transforms.json"]
    assert len(json.loads((one / "transforms.json").read_text())["frames"]) == 3


def test_an_existing_capture_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="kept: it is not an empty folder; choose another name"):
        write_moving_capture(tmp_path / "kept", frames=2, width=16, height=12)
    assert (tmp_path / "kept" / "note.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("wrong", [{"frames": 1}, {"views": 2}, {"width": 7}, {"height": 0}])
def test_sizes_that_make_no_sense_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="ask for at least 2 times, 3 views and 8 x 8 pixels"):
        write_moving_capture(tmp_path / "capture", kind="multiview", **wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["write_ply_points", "_transforms"])
def test_a_disk_that_fills_up_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"nfc_gs.data.builtin.captures.{part}", full)
    with pytest.raises(UserError, match="the disk is full"):
        write_moving_capture(tmp_path / "capture", frames=2, width=16, height=12)
    assert list(tmp_path.iterdir()) == []
