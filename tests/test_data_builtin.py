"""The built-in capture against independent geometry: implicit functions in float64, sampled naively."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from geometry import center_of, outside, pixel_rays
from PIL import Image

from nfc_gs.core.errors import UserError
from nfc_gs.data.builtin.cameras import still_life_cameras
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.builtin.draw import Rays, draw
from nfc_gs.data.builtin.materials import Material, plain, pulses
from nfc_gs.data.builtin.ray_caster import RayCaster, sun_directions
from nfc_gs.data.builtin.shapes import Box, Ellipsoid, Frustum, Shape, Torus, sphere
from nfc_gs.data.builtin.solids import Solid, at, label_ids, rod
from nfc_gs.data.builtin.still_life import still_life

GREY = Material(plain("808080"))
SHAPES = [
    sphere(0.7),
    Ellipsoid((0.3, 0.6, 0.9)),
    Box((0.8, 1.2, 0.5)),
    Frustum(0.5, 0.5, 1.4),
    Frustum(0.6, 0.25, 1.0),
    Frustum(0.5, 0.0, 1.2),
    Torus(0.6, 0.2),
]


def outside_solid(solid: Solid, points: np.ndarray) -> np.ndarray:
    """`outside` of a solid for world points [3, P]."""
    pose = solid.pose(0.0)
    return outside(solid.shape, pose[:3, :3].T @ (points - pose[:3, 3:]))


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("builtin") / "capture", 6, 96, 72, ground_truth=True)


@pytest.fixture(scope="module")
def model(capture: Path) -> pycolmap.Reconstruction:
    return pycolmap.Reconstruction(capture / "sparse" / "0")


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_hits_are_where_marching_along_the_ray_first_enters_the_solid(shape: Shape) -> None:
    random = np.random.default_rng(3)
    origin = random.normal(size=(3, 400))
    origin *= 3.0 / np.linalg.norm(origin, axis=0)
    direction = random.uniform(-0.8, 0.8, (3, 400)) - origin
    direction /= np.linalg.norm(direction, axis=0)
    steps = np.linspace(0, 6, 6001)
    inside = outside(shape, origin[..., None] + direction[..., None] * steps)  # [R, T]
    marched = np.where((inside < 0).any(axis=1), steps[np.argmax(inside < 0, axis=1)], np.inf)
    with np.errstate(all="ignore"):
        t = shape.hit(origin.astype(np.float32), direction.astype(np.float32), np.zeros(400, np.float32))
    clear = np.abs(inside.min(axis=1)) > 2e-3  # rays that only graze may go either way
    assert clear.sum() > 300
    np.testing.assert_array_equal(np.isfinite(t)[clear], np.isfinite(marched)[clear])
    hit = np.isfinite(t) & np.isfinite(marched)
    assert hit.sum() > 50
    np.testing.assert_allclose(t[hit & clear], marched[hit & clear], atol=1.1e-3)  # one step of the march
    residual = outside(shape, (origin + direction * np.where(hit, t, 0))[:, hit])
    np.testing.assert_allclose(residual, 0, atol=3e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_a_ray_from_inside_hits_the_far_wall(shape: Shape) -> None:
    start = np.array([[0.6], [0.0], [0.0]] if isinstance(shape, Torus) else [[0.0], [0.0], [0.0]], np.float32)
    direction = np.array([[0.3], [0.2], [0.9]], np.float32)
    with np.errstate(all="ignore"):
        t = shape.hit(start, direction, np.zeros(1, np.float32))
    assert np.isfinite(t).all() and t[0] > 0
    np.testing.assert_allclose(outside(shape, (start + t * direction).astype(np.float64)), 0, atol=3e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_normals_are_the_slope_of_the_implicit_function(shape: Shape) -> None:
    random = np.random.default_rng(5)
    origin = random.normal(size=(3, 200))
    origin *= 3.0 / np.linalg.norm(origin, axis=0)
    direction = random.uniform(-0.3, 0.3, (3, 200)) - origin
    with np.errstate(all="ignore"):
        t = shape.hit(origin.astype(np.float32), direction.astype(np.float32), np.zeros(200, np.float32))
    points = (origin + direction * t)[:, np.isfinite(t)]
    step = 1e-4
    slope = np.stack(
        [outside(shape, points + step * e[:, None]) - outside(shape, points - step * e[:, None]) for e in np.eye(3)]
    )
    slope /= np.linalg.norm(slope, axis=0)
    agree = (slope * shape.normal(points.astype(np.float32))).sum(axis=0)
    smooth = agree > 0.999
    assert smooth.mean() > 0.98  # the rest lies on edges, where no normal is right
    assert np.median(agree) > 1 - 1e-5


def test_a_sphere_covers_exactly_the_pixels_whose_centres_see_it() -> None:
    camera = still_life_cameras(5, 120, 90)[2]
    ball = Solid("ball", sphere(0.6), GREY, at(0.2, -0.1, 0.5))
    rays = Rays(camera)
    y, x = np.indices((90, 120)).reshape(2, -1)
    directions, _ = rays.through(x + 0.5, y + 0.5)
    hit = RayCaster([ball]).cast(rays.origin, directions)[1].reshape(90, 120) == 0

    towards = np.array([[0.2], [-0.1], [0.5]]) - center_of(camera)
    distance = np.linalg.norm(towards)
    exact = pixel_rays(camera)
    cosine = np.tensordot(towards[:, 0], exact, 1) / np.linalg.norm(exact, axis=0) / distance
    margin = np.arccos(np.clip(cosine, -1, 1)) - np.arcsin(0.6 / distance)
    clear = np.abs(margin) > 1e-5  # radians: a thousandth of a pixel
    assert hit.sum() > 300
    np.testing.assert_array_equal(hit[clear], (margin < 0)[clear])


def test_every_depth_lies_on_a_surface_of_what_the_mask_names_with_nothing_before_it() -> None:
    scene, names = still_life(), label_ids(still_life())
    for camera in still_life_cameras(12, 64, 48)[1:9:3]:
        drawn = draw(camera, supersample=1)
        rays, origin = pixel_rays(camera), center_of(camera)
        assert np.isinf(drawn.depth[drawn.mask == 0]).all() and np.isfinite(drawn.depth[drawn.mask > 0]).all()
        for label, number in names.items():
            here = drawn.mask == number
            depth = drawn.depth[here].astype(np.float64)
            points = origin + rays[:, here] * depth
            own = np.min([np.abs(outside_solid(t, points)) for t in scene if t.label == label], axis=0)
            assert (own <= 2e-5 * np.maximum(depth, 5.0)).all(), label  # a few float32 steps at that distance
        near = drawn.mask > 0
        for share in np.linspace(0.02, 0.995, 60):
            points = origin + rays[:, near] * drawn.depth[near] * share
            assert min(outside_solid(t, points).min() for t in scene) > -1e-4


def test_the_picture_shows_all_kinds_of_things_and_the_sky() -> None:
    names = label_ids(still_life())
    seen = set()
    for camera in still_life_cameras(8, 120, 90):
        seen |= set(np.unique(draw(camera, supersample=1).mask).tolist())
    assert seen == {0, *names.values()}


def test_supersampling_changes_edges_and_leaves_the_mean_picture() -> None:
    camera = still_life_cameras(7, 90, 61)[4]
    once, twice, thrice = (draw(camera, supersample=s).rgb.astype(float) for s in (1, 2, 3))
    assert np.abs(twice - once).max() > 20
    assert np.abs(thrice - twice).mean() < np.abs(thrice - once).mean()
    assert np.abs(twice.mean(axis=(0, 1)) - once.mean(axis=(0, 1))).max() < 1.5  # of 255


def test_large_pictures_are_drawn_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = still_life_cameras(5, 64, 48)[0]
    whole = draw(camera)
    monkeypatch.setattr("nfc_gs.data.builtin.draw._RAYS_AT_ONCE", 777)
    parts = draw(camera)
    np.testing.assert_array_equal(whole.mask, parts.mask)
    np.testing.assert_allclose(whole.depth, parts.depth, rtol=1e-5)
    assert np.abs(whole.rgb.astype(int) - parts.rgb.astype(int)).max() <= 1


@pytest.mark.parametrize("count", [1, 2, 3, 10, 48])
def test_cameras_differ_stand_level_and_look_inwards(count: int) -> None:
    cameras = still_life_cameras(count, 64, 48)
    assert len(cameras) == count
    centers = np.concatenate([center_of(camera) for camera in cameras], axis=1)
    if count > 1:
        apart = np.linalg.norm(centers[:, :, None] - centers[:, None], axis=0)[~np.eye(count, dtype=bool)]
        assert apart.min() > 0.1
    for camera, center in zip(cameras, centers.T, strict=True):
        rotation = camera.viewmat.double().numpy()[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
        assert abs(rotation[0, 2]) < 1e-6 and rotation[1, 2] < 0  # x is level, y points down
        assert rotation[2] @ -center > 0.9 * np.linalg.norm(center)
        assert all(outside_solid(solid, center[:, None])[0] > 0.05 for solid in still_life())


def test_glossy_things_look_different_from_elsewhere_and_matt_ones_do_not() -> None:
    caster = RayCaster(still_life())
    sun = sun_directions(1)[:, 0]

    def colors(point: list[float], eyes: list[list[float]]) -> np.ndarray:
        result = []
        for eye in eyes:
            origin, target = (np.array(v, np.float32)[:, None] for v in (eye, point))
            direction = target - origin
            distance = np.linalg.norm(direction)
            light, t, _ = caster.radiance(origin, direction / distance, sun, 1e-4)
            np.testing.assert_allclose(t[0], distance, rtol=1e-3)  # it is this point that is seen
            result.append(light[:, 0])
        return np.array(result)

    normal = np.array([0.0, -0.6, 0.8])
    on_ball = np.array([0.3, -0.3, 0.94]) + 0.2 * normal
    eyes = [[0.3, -2.5, 2.5], [2.0, -2.0, 3.0], [-1.0, -2.5, 3.0]]
    ball = colors(on_ball.tolist(), eyes)
    assert np.abs(ball - ball[0]).max() > 0.05
    terrace = colors([0.6, -2.2, 0.0], eyes)
    bush = colors([-1.25 + 0.02, -1.05 + 0.04, 0.5 + 0.4 * 0.3 + 0.85 * 0.3 - 0.002], [[-1.2, -3, 2.5], [-3, -1, 2.5]])
    assert np.abs(terrace - terrace[0]).max() < np.abs(ball - ball[0]).max()
    np.testing.assert_allclose(bush[0], bush[1], atol=1e-3)


def test_the_sun_casts_shadows_through_what_is_solid_and_not_beside_it() -> None:
    caster = RayCaster(
        [Solid("ball", sphere(0.5), GREY, at(0, 0, 2.0)), rod("rod", np.zeros(3), np.eye(3)[0], 0.02, GREY)]
    )
    sun = sun_directions(1)[:, 0]
    down = np.array([0, 0, 2.0]) - 3.0 * sun
    aside = np.cross(sun, [0.0, 0.0, 1.0])
    aside /= np.linalg.norm(aside)
    points = np.stack([down, down + 0.49 * aside, down + 0.51 * aside, down - 0.49 * aside, down - 0.51 * aside], 1)
    order = np.argsort(np.array([sun[1], -sun[0], 0]) @ points)
    dark = caster.shadowed(points[:, order].astype(np.float32), sun)
    expected = np.array([True, True, False, True, False])[order]
    np.testing.assert_array_equal(dark, expected)


def test_patterns_are_averaged_over_the_footprint() -> None:
    random = np.random.default_rng(1)
    u, size = random.uniform(-3, 3, 50), random.uniform(0.01, 2.0, 50)
    filtered = pulses(u, 0.5, 0.2, size)
    for k in range(50):
        samples = u[k] + size[k] * (np.arange(20000) + 0.5 - 10000) / 20000
        np.testing.assert_allclose(filtered[k], np.mean(samples % 0.5 < 0.2), atol=5e-4)


def test_things_move_with_time_and_the_built_in_scene_stands_still() -> None:
    def up(time: float) -> np.ndarray:
        return at(0, 0, time)

    caster = [RayCaster([Solid("ball", sphere(0.5), GREY, at(0, 0, 0), up)], time) for time in (0.0, 0.25)]
    origin = np.array([[0.0], [0.0], [3.0]], np.float32)
    down = np.array([[0.0], [0.0], [-1.0]], np.float32)
    np.testing.assert_allclose([c.cast(origin, down)[0][0] for c in caster], [2.5, 2.25], atol=1e-6)
    camera = still_life_cameras(3, 48, 36)[0]
    np.testing.assert_array_equal(draw(camera, 0.0).rgb, draw(camera, 0.7).rgb)


def test_the_written_project_has_the_same_cameras_and_pictures(capture: Path, model: pycolmap.Reconstruction) -> None:
    cameras = still_life_cameras(6, 96, 72)
    assert model.num_cameras() == 1 and model.num_images() == 6
    camera = model.cameras[1]
    assert camera.model.name == "PINHOLE" and (camera.width, camera.height) == (96, 72)
    np.testing.assert_array_equal(camera.params, [cameras[0].fx, cameras[0].fy, cameras[0].cx, cameras[0].cy])
    for k, camera in enumerate(cameras):
        image = model.images[k + 1]
        assert image.name == f"{k + 1:04d}.png"
        np.testing.assert_allclose(image.cam_from_world().matrix(), camera.viewmat[:3].numpy(), atol=1e-6)
        drawn = draw(camera)
        np.testing.assert_array_equal(np.asarray(Image.open(capture / "images" / image.name)), drawn.rgb)
        np.testing.assert_array_equal(np.asarray(Image.open(capture / "labels" / image.name)), drawn.mask)
        np.testing.assert_array_equal(np.load(capture / "depth" / f"{k + 1:04d}.npy"), drawn.depth)


def test_points_reproject_to_where_they_were_observed(model: pycolmap.Reconstruction) -> None:
    errors = []
    for point in model.points3D.values():
        assert point.track.length() >= 2
        for element in point.track.elements:
            image = model.images[element.image_id]
            place = image.project_point(point.xyz)
            errors.append(np.linalg.norm(place - image.points2D[element.point2D_idx].xy))
    assert len(errors) > 3000
    assert 0.2 < np.mean(errors) < 0.6  # 0.3 pixels along each axis give 0.38
    assert np.max(errors) < 2.0


def test_tracks_hold_only_views_that_see_the_point(model: pycolmap.Reconstruction) -> None:
    scene = still_life()
    centers, points = [], []
    for point in model.points3D.values():
        for element in point.track.elements:
            centers.append(model.images[element.image_id].projection_center())
            points.append(point.xyz)
    eyes, ends = np.array(centers).T, np.array(points).T
    for share in np.linspace(0.05, 0.97, 40):
        between = eyes + share * (ends - eyes)
        for solid in scene:
            assert outside_solid(solid, between).min() > -0.02, solid.label  # points are off the surface by millimetres


def test_points_lie_near_surfaces_and_reach_the_background(model: pycolmap.Reconstruction) -> None:
    xyz = np.array([point.xyz for point in model.points3D.values()]).T
    gap = np.min([np.abs(outside_solid(solid, xyz)) for solid in still_life()], axis=0)
    distance = np.linalg.norm(xyz, axis=0) + 4.0
    assert (gap < 3e-3 * distance).all()
    assert (distance > 12).sum() > 100 and (distance > 40).any()
    assert len(xyz.T) > 1000


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_points(tmp_path: Path, capture: Path) -> None:
    again = write_capture(tmp_path / "again", 6, 96, 72, ground_truth=True)
    files = sorted(p.relative_to(capture) for p in capture.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for file in files:
        assert (capture / file).read_bytes() == (again / file).read_bytes(), file
    other = write_capture(tmp_path / "other", 6, 96, 72, seed=1)
    assert (other / "images" / "0003.png").read_bytes() == (capture / "images" / "0003.png").read_bytes()
    points = Path("sparse") / "0" / "points3D.bin"
    assert (other / points).read_bytes() != (capture / points).read_bytes()
    assert not (other / "depth").exists() and not (other / "labels").exists()


def test_pictures_have_enough_detail_for_feature_matching() -> None:
    grey = draw(still_life_cameras()[8]).rgb.astype(np.float64).mean(axis=2)
    detail = np.hypot(*np.gradient(grey))
    assert (detail > 8).mean() > 0.2  # a fifth of the picture has visible texture or edges
    assert (detail > 60).mean() < 0.02  # and little of it is aliased


def test_an_existing_capture_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "note.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("kept", "file"):
        with pytest.raises(UserError, match=rf"{name}: it is not an empty folder; choose another name"):
            write_capture(tmp_path / name, 2, 16, 12)
    assert (tmp_path / "kept" / "note.txt").read_text() == "mine" and (tmp_path / "file").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "empty").mkdir()
    assert (write_capture(tmp_path / "empty", 2, 16, 12) / "images" / "0002.png").exists()


def test_sizes_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 2 views of at least 8 x 8"):
        write_capture(tmp_path / "a", 1, 96, 72)
    with pytest.raises(UserError, match="at least 2 views of at least 8 x 8"):
        write_capture(tmp_path / "a", 4, 96, 0)


def test_a_folder_that_cannot_be_made_gives_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="Cannot write"):
        write_capture(tmp_path / "file" / "capture", 2, 16, 12)


@pytest.mark.parametrize("limit", [300, 1500])
def test_a_full_disk_gives_one_sentence_and_leaves_nothing_behind(tmp_path: Path, limit: int) -> None:
    """300 bytes stop the pictures, 1500 the model."""
    resource = pytest.importorskip("resource", reason="file size limits need a Unix system")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(UserError, match="Cannot write"):
            write_capture(tmp_path / "capture", 2, 16, 12)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="the disk is full"):
        write_capture(tmp_path / "capture", 2, 16, 12)
    assert list(tmp_path.iterdir()) == []


def test_cameras_may_have_any_dtype() -> None:
    camera = still_life_cameras(3, 24, 18)[1]
    np.testing.assert_array_equal(draw(camera.to(dtype=torch.float64)).rgb, draw(camera).rgb)
