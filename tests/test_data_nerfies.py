"""The reader of Nerfies and HyperNeRF captures."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from junk import JUNK
from PIL import Image

from nfc_gs.core.errors import UserError
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.readers.nerfies import read_nerfies
from nfc_gs.data.scene import TimeAxis

WIDTH, HEIGHT, COUNT = 48, 36, 6
PLAIN = DataConfig(normalize=False, random_points=20)

LENS = {"skew": 9.0, "pixel_aspect_ratio": 1.2, "radial_distortion": [0.05, -0.02, 0.03]}
LENS["tangential_distortion"] = [0.01, -0.02]


def orientation(index: int) -> np.ndarray:
    """World-to-camera rotation of a camera that looks at the origin from `position(index)`, up being -y."""
    forward = -position(index) / np.linalg.norm(position(index))
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    return np.array([right, np.cross(forward, right), forward])


def position(index: int) -> np.ndarray:
    angle = 0.9 * index / COUNT
    return np.array([3.0 * np.sin(angle), 0.5, -3.0 * np.cos(angle)])


def camera(index: int, **fields) -> dict:
    plain = {
        "orientation": orientation(index).tolist(),
        "position": position(index).tolist(),
        "focal_length": 40.0,
        "principal_point": [25.0, 17.0],
        "skew": 0.0,
        "pixel_aspect_ratio": 1.0,
        "radial_distortion": [0.0, 0.0, 0.0],
        "tangential_distortion": [0.0, 0.0],
        "image_size": [WIDTH, HEIGHT],
    }
    return {**plain, **fields}


def distorted(camera: dict, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of camera-frame points at (x, y, 1), as `Camera.project` of the original has it."""
    (k1, k2, k3), (p1, p2) = camera["radial_distortion"], camera["tangential_distortion"]
    r2 = x**2 + y**2
    radial = 1.0 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    xd = x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x**2)
    yd = y * radial + 2.0 * p2 * x * y + p1 * (r2 + 2.0 * y**2)
    f, (cx, cy) = camera["focal_length"], camera["principal_point"]
    return f * xd + camera["skew"] * yd + cx, f * camera["pixel_aspect_ratio"] * yd + cy


def project(camera: dict, points: np.ndarray) -> np.ndarray:
    x, y, z = np.array(camera["orientation"]) @ (points - camera["position"]).T
    return np.stack(distorted(camera, x / z, y / z), axis=1)


def capture(root: Path, sizes: tuple[int, ...] = (1,), **fields) -> Path:
    ids = [f"{k:06d}" for k in range(COUNT)]
    (root / "camera").mkdir(parents=True)
    for index, image in enumerate(ids):
        (root / "camera" / f"{image}.json").write_text(json.dumps(camera(index, **fields)))
    for size in sizes:
        paint(root / "rgb" / f"{size}x", ids, size)
    dataset = {"ids": ids, "train_ids": ids[::2], "val_ids": ids[1::2], "count": COUNT, "num_exemplars": 3}
    write(root / "dataset.json", dataset)
    write(
        root / "metadata.json", {k: {"warp_id": 3 + i, "appearance_id": i, "camera_id": 0} for i, k in enumerate(ids)}
    )
    write(root / "scene.json", {"scale": 0.02, "center": [1.0, 2.0, 3.0], "near": 0.04, "far": 0.1, "bbox": []})
    return root


def paint(folder: Path, ids: list[str], size: int) -> None:
    folder.mkdir(parents=True)
    for image in ids:
        Image.new("RGB", (WIDTH // size, HEIGHT // size), (10 * size, 0, 0)).save(folder / f"{image}.png")


def write(file: Path, data: object) -> None:
    file.write_text(json.dumps(data))


def change(file: Path, **fields) -> None:
    write(file, {**json.loads(file.read_text()), **fields})


def test_ids_are_split_and_timed_by_their_files(tmp_path):
    scene = load_scene(capture(tmp_path), PLAIN)
    assert [view.name for view in scene.views] == [f"{k:06d}.png" for k in range(COUNT)]
    assert (scene.train, scene.test) == ((0, 2, 4), (1, 3, 5))
    assert [view.time for view in scene.views] == pytest.approx([k / 5 for k in range(COUNT)])
    assert scene.time_axis == TimeAxis(3.0, 8.0, "frames")


def test_time_ids_go_before_warp_ids_where_all_images_have_one(tmp_path):
    capture(tmp_path)
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    for k, entry in enumerate(metadata.values()):
        entry["time_id"] = 10 * k
    write(tmp_path / "metadata.json", metadata)
    assert load_scene(tmp_path, PLAIN).time_axis == TimeAxis(0.0, 50.0, "frames")
    del metadata["000001"]["time_id"]
    write(tmp_path / "metadata.json", metadata)
    assert load_scene(tmp_path, PLAIN).time_axis == TimeAxis(3.0, 8.0, "frames")


def test_without_val_ids_every_eighth_image_is_held_out_and_unlisted_ones_are_left_out(tmp_path):
    capture(tmp_path)
    change(tmp_path / "dataset.json", val_ids=[])
    scene = load_scene(tmp_path, PLAIN)
    assert len(scene.views) == 3 and scene.test == (0,)
    assert any("3 of the images" in text and "are ignored" in text for text in scene.messages)


def test_an_undistorted_image_shows_each_direction_where_the_cameras_model_puts_it(tmp_path):
    capture(tmp_path, **LENS)
    for index in range(COUNT):  # each pixel gets the color of its direction, by the inverse of the model
        rays = np.stack([*undistorted(camera(index, **LENS)), np.ones((HEIGHT, WIDTH))], axis=-1) @ orientation(index)
        Image.fromarray(np.round(color_of(rays)).astype(np.uint8)).save(tmp_path / "rgb" / "1x" / f"{index:06d}.png")
    scene = load_scene(tmp_path, PLAIN)
    for index, view in enumerate(scene.views):
        x = (np.arange(WIDTH) + 0.5 - view.camera.cx) / view.camera.fx
        y = (np.arange(HEIGHT) + 0.5 - view.camera.cy) / view.camera.fy
        rays = np.stack([*np.meshgrid(x, y), np.ones((HEIGHT, WIDTH))], axis=-1)
        expected = color_of(rays @ view.camera.viewmat[:3, :3].numpy().astype(np.float64))
        frame = scene.image(index)
        counts = np.full((HEIGHT, WIDTH), True) if frame.mask is None else frame.mask == 255
        u, v = distorted(camera(index, **LENS), rays[..., 0], rays[..., 1])
        counts &= (np.abs(u - WIDTH / 2) < (WIDTH - 1) / 2) & (np.abs(v - HEIGHT / 2) < (HEIGHT - 1) / 2)
        assert counts.mean() > 0.75  # without the outermost half pixel of the photo, which repeats its neighbour
        assert np.abs(frame.rgb - expected)[counts].max() < 2.0


def undistorted(camera: dict) -> np.ndarray:
    """x and y [2, H, W] of the camera-frame points (x, y, 1) that appear at the pixels, by Newton's method."""
    centres = np.stack(np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5))
    xy = (centres - np.reshape(camera["principal_point"], (2, 1, 1))) / camera["focal_length"]
    step = 1e-6
    for _ in range(20):
        x, y = xy
        here = np.stack(distorted(camera, x, y))
        columns = [np.stack(distorted(camera, x + dx, y + dy)) - here for dx, dy in ((step, 0.0), (0.0, step))]
        jacobian = np.moveaxis(np.stack(columns, axis=1) / step, (0, 1), (2, 3))  # [H, W, 2, 2]
        xy = xy - np.moveaxis(np.linalg.solve(jacobian, np.moveaxis(here - centres, 0, -1)[..., None])[..., 0], -1, 0)
    assert np.abs(np.stack(distorted(camera, *xy)) - centres).max() < 1e-9
    return xy


def color_of(rays: np.ndarray) -> np.ndarray:
    """A smooth color for each direction, [.., 3] -> [.., 3], in 0..255."""
    d = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    phases = d @ np.array([[3.0, -1.0, 2.0], [1.0, 3.0, -2.0], [-1.0, 2.0, 3.0]])
    return 127.5 + 110.0 * np.sin(phases)


@pytest.mark.parametrize("fields", [{}, {"skew": 5.0}, LENS])
def test_points_appear_where_the_cameras_model_puts_them_and_no_distortion_is_a_pinhole(tmp_path, fields):
    lens = load_scene(capture(tmp_path, **fields), PLAIN).views[0].source.lens
    assert (lens is None) == (not fields)
    if lens is not None:
        x, y = np.random.default_rng(0).normal(size=(2, 20)) * 0.5
        expected = np.stack(distorted(camera(0, **fields), x, y), axis=1)
        assert lens.project(np.stack([x, y, np.ones(20)], axis=1)) == pytest.approx(expected)


@pytest.mark.parametrize("normalize", [False, True])
def test_points_and_cameras_stay_in_one_frame(tmp_path, normalize):
    points = np.random.default_rng(1).normal(size=(40, 3)) * 0.3
    np.save(capture(tmp_path) / "points.npy", points.astype(np.float32))
    scene = load_scene(tmp_path, DataConfig(normalize=normalize))
    for index, view in enumerate(scene.views):
        local = scene.points.xyz @ view.camera.viewmat[:3, :3].numpy().T + view.camera.viewmat[:3, 3].numpy()
        ours = local[:, :2] / local[:, 2:] * [view.camera.fx, view.camera.fy] + [view.camera.cx, view.camera.cy]
        assert ours == pytest.approx(project(camera(index), points), abs=1e-3)
    back = np.linalg.inv(scene.transform) @ np.append(scene.points.xyz[0], 1.0)
    assert back[:3] == pytest.approx(points[0], abs=1e-5)
    assert (scene.points.rgb == 128).all()


def test_without_points_random_ones_lie_between_near_and_far_of_the_scene_file(tmp_path):
    scene = load_scene(capture(tmp_path), DataConfig(normalize=True, random_points=200))
    assert any("no points" in text for text in scene.messages)
    world = (np.c_[scene.points.xyz, np.ones(200)] @ np.linalg.inv(scene.transform).T)[:, :3]
    depths = np.stack([(world - position(k)) @ orientation(k)[2] for k in range(COUNT)])
    assert depths.min() > 0.5 and depths.max() < 7.0  # 0.04 / 0.02 = 2 and 5 from one of the cameras
    assert ((depths > 1.999) & (depths < 5.001)).any(axis=0).all()


def test_the_largest_images_are_used_unless_another_size_is_asked_for(tmp_path):
    capture(tmp_path, sizes=(2, 4))
    for text, size, color in (("auto", 24, 20), ("1", 24, 20), ("2", 24, 20), ("3", 16, 20), ("4", 12, 40)):
        scene = load_scene(tmp_path, DataConfig(downscale=text))
        view = scene.views[0].camera
        assert (view.width, scene.image(0).rgb[0, 0, 0]) == (size, color)
        assert view.fx == pytest.approx(40.0 * size / WIDTH)


def test_old_files_call_the_tangential_distortion_tangential(tmp_path):
    capture(tmp_path, **LENS)
    expected = load_scene(tmp_path, PLAIN).views[0].source.lens
    for other in ({}, {"tangential_distortion": [0.5, 0.5]}):  # of two, that of older files counts in the method, too
        for index in range(COUNT):
            fields = {**camera(index, **LENS), "tangential": LENS["tangential_distortion"]}
            del fields["tangential_distortion"]
            write(tmp_path / "camera" / f"{index:06d}.json", {**fields, **other})
        assert load_scene(tmp_path, PLAIN).views[0].source.lens == expected


# testdata/camera.json of HyperNeRF, and what its camera.py (`Camera.pixels_to_points`, float64) gives for some pixels
PUBLISHED = {
    "orientation": [
        [0.9839451340309302, -0.09685694918727988, 0.14990231689666453],
        [-0.03503400050627939, -0.9284052253532321, -0.3699139850632039],
        [0.1749988343543504, 0.35872338776687934, -0.9168930903020656],
    ],
    "position": [-0.3236620944132945, -3.2642885887491806, 5.416047612682676],
    "focal_length": 2691.1703975975283,
    "principal_point": [1220.9973265580372, 1652.4811427847815],
    "skew": 0.0,
    "pixel_aspect_ratio": 1.0010612377729717,
    "radial_distortion": [0.10042443556128597, -0.20908508396511707, 0.0],
    "tangential": [0.001109850269091041, -2.5733278797779516e-05],
    "image_size": [2448, 3264],
}
POINTS = [
    [-0.47849268732326256, -0.5771545950827317, 2.0752465417194728],
    [0.7241806620974631, -1.1107378301618778, -0.08524788703283726],
    [1.878666157667403, -3.7315803273705748, 0.20036456841466954],
    [-1.5527536267594586, -3.7406913779055935, -2.6394025868252182],
    [1.4247415030293875, -1.01725130172133, 3.356956288029875],
]
PIXELS = [[600.5, 800.5], [1220.0, 1652.0], [2000.5, 2900.5], [300.25, 3000.75], [2300.0, 400.0]]


def test_the_published_camera_sees_points_where_the_method_does(tmp_path):
    capture(tmp_path, sizes=())
    (tmp_path / "rgb" / "8x").mkdir(parents=True)
    for index in range(COUNT):
        write(tmp_path / "camera" / f"{index:06d}.json", PUBLISHED)
        Image.new("RGB", (306, 408)).save(tmp_path / "rgb" / "8x" / f"{index:06d}.png")
    image = read_nerfies(tmp_path).images[0]
    local = np.array(POINTS) @ image.viewmat[:3, :3].T + image.viewmat[:3, 3]
    assert image.lens.project(local) == pytest.approx(np.array(PIXELS), abs=1e-3)
    assert (image.reduced, image.lens.width) == (8, 2448)


def test_two_cameras_of_a_validation_rig_share_their_times(tmp_path):
    """HyperNeRF's vrig captures: of each pair of images one is trained on, left and right in turn."""
    capture(tmp_path, sizes=())
    times = range(12)
    ids = [f"{side}1_{time:06d}" for side in ("left", "right") for time in times]
    train = [f"{'left' if time % 2 == 0 else 'right'}1_{time:06d}" for time in times]
    for index, image in enumerate(ids):
        write(tmp_path / "camera" / f"{image}.json", camera(index % 12 + (index >= 12)))
    paint(tmp_path / "rgb" / "2x", ids, 2)
    dataset = {"count": 24, "num_exemplars": 12, "ids": ids, "train_ids": train}
    write(tmp_path / "dataset.json", {**dataset, "val_ids": sorted(set(ids) - set(train))})
    numbers = {image: int(image[-6:]) for image in ids}
    metadata = {
        image: {"warp_id": number, "appearance_id": number, "camera_id": int(image[0] == "r")}
        for image, number in numbers.items()
    }
    write(tmp_path / "metadata.json", metadata)
    scene = load_scene(tmp_path, PLAIN)
    assert [scene.views[i].name for i in scene.train] == [f"{image}.png" for image in sorted(train)]
    assert len(scene.test) == 12 and scene.time_axis == TimeAxis(0.0, 11.0, "frames")
    for view in scene.views:
        assert view.time == pytest.approx(numbers[view.name.removesuffix(".png")] / 11)


def test_copies_of_odd_sizes_are_those_of_their_cameras(tmp_path):
    """`Camera.scale` of the method rounds the size of an image to whole pixels."""
    capture(tmp_path, sizes=(), image_size=[539, 959], principal_point=[270.0, 480.0], focal_length=500.0)
    for size, sides in ((2, (270, 480)), (4, (135, 240)), (8, (67, 120))):
        (tmp_path / "rgb" / f"{size}x").mkdir(parents=True)
        for index in range(COUNT):
            Image.new("RGB", sides).save(tmp_path / "rgb" / f"{size}x" / f"{index:06d}.png")
        scene = load_scene(tmp_path, DataConfig(downscale=str(size)))
        assert (scene.views[0].camera.width, scene.views[0].camera.height) == sides
        assert scene.views[0].camera.fx == pytest.approx(500.0 * sides[0] / 539)


def test_frames_can_be_chosen_by_their_numbers(tmp_path):
    capture(tmp_path)
    scene = load_scene(tmp_path, DataConfig(frame_start=4, frame_end=8, frame_stride=2, test_every=0))
    assert [view.name for view in scene.views] == ["000001.png", "000003.png"]


def test_the_files_of_nerfies_go_before_others(tmp_path):
    capture(tmp_path)
    write(tmp_path / "transforms.json", {})
    assert any("those of Nerfies are used" in text for text in load_scene(tmp_path, PLAIN).messages)


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "fields", "sentence"),
    [
        ("dataset.json", {"train_ids": "all"}, r"dataset\.json: 'train_ids' is not a list of image names"),
        ("dataset.json", {"val_ids": [1.5]}, r"dataset\.json: 'val_ids' is not a list of image names"),
        ("dataset.json", {"val_ids": ["\ud800"]}, r"dataset\.json: 'val_ids' is not a list of image names"),
        ("dataset.json", {"ids": [], "train_ids": [], "val_ids": []}, r"dataset\.json lists no image"),
        ("dataset.json", {"train_ids": ["000000", "000009"]}, r"metadata\.json has no entry for the image 000009"),
        ("metadata.json", {"000002": 7}, r"metadata\.json has no entry for the image 000002"),
        ("metadata.json", {"000002": {"camera_id": 0}}, r"image 000002: neither 'time_id' nor 'warp_id' is given"),
        ("metadata.json", {"000002": {"warp_id": "noon"}}, r"image 000002: 'warp_id' is 'noon', not a finite number"),
        ("camera/000002.json", {"orientation": None}, r"000002\.json: 'orientation' is missing"),
        ("camera/000002.json", {"orientation": [[1, 0], [0, 1]]}, r"'orientation' is not 3 x 3 finite numbers"),
        ("camera/000002.json", {"orientation": np.diag([1, 1, -1]).tolist()}, r"'orientation' holds no rotation"),
        ("camera/000002.json", {"position": [1, 2]}, r"000002\.json: 'position' is not 3 finite numbers"),
        ("camera/000002.json", {"position": [1, 2, float("nan")]}, r"'position' is not 3 finite numbers"),
        ("camera/000002.json", {"position": [1, 2, 1e300]}, r"'position' is too far away"),
        ("camera/000002.json", {"focal_length": "wide"}, r"'focal_length' is not a finite number"),
        ("camera/000002.json", {"focal_length": -40.0}, r"000002\.json: a focal length of -40"),
        ("camera/000002.json", {"principal_point": None}, r"'principal_point' is missing"),
        ("camera/000002.json", {"radial_distortion": [0.1, 0.2]}, r"'radial_distortion' is not 3 finite numbers"),
        ("camera/000002.json", {"tangential_distortion": [[0, 0]]}, r"'tangential_distortion' is not 2 finite"),
        ("camera/000002.json", {"image_size": [0, 36]}, r"000002\.json: an image of 0 x 36 pixels is not possible"),
        ("camera/000002.json", {"image_size": [48, 48]}, r"000002\.png is 48 x 36 pixels, but its camera is 48 x 48"),
        ("scene.json", {"near": "close"}, r"scene\.json: 'near' is 'close', not a finite number"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_field(tmp_path, file, fields, sentence):
    change(capture(tmp_path) / file, **fields)
    with pytest.raises(UserError, match=sentence) as caught:
        load_scene(tmp_path, PLAIN)
    str(caught.value).encode("utf-8")


def test_missing_files_are_named(tmp_path):
    for name, sentence in (
        ("camera/000003.json", r"Cannot read .*camera/000003\.json: No such file"),
        ("metadata.json", r"Cannot read .*metadata\.json: No such file"),
        ("rgb", r"There are no images in .*rgb/1x"),
    ):
        root = capture(tmp_path / name.replace("/", "_"))
        shutil.rmtree(root / name) if name == "rgb" else (root / name).unlink()
        with pytest.raises(UserError, match=sentence):
            load_scene(root, PLAIN)


@pytest.mark.parametrize("name", ["metadata.json", "camera/000003.json"])
def test_a_named_pipe_is_named_and_not_opened(tmp_path, name):
    path = capture(tmp_path) / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=rf"{name} is no regular file"):
        load_scene(tmp_path, PLAIN)


def test_a_missing_image_is_left_out_and_most_of_them_missing_stops(tmp_path):
    capture(tmp_path)
    (tmp_path / "rgb" / "1x" / "000001.png").unlink()
    scene = load_scene(tmp_path, PLAIN)
    assert len(scene.views) == 5 and any("1 of 6 images" in text for text in scene.messages)
    for image in ("000000", "000002", "000003"):
        (tmp_path / "rgb" / "1x" / f"{image}.png").unlink()
    with pytest.raises(UserError, match="4 of 6 images of the capture are not on disk"):
        load_scene(tmp_path, PLAIN)


@pytest.mark.parametrize("points", [np.zeros(6), np.zeros((4, 2)), np.array([["a", "b", "c"]]), b"no array", b""])
def test_points_that_are_none_are_named(tmp_path, points):
    file = capture(tmp_path) / "points.npy"
    file.write_bytes(points) if isinstance(points, bytes) else np.save(file, points)
    with pytest.raises(UserError, match=r"points\.npy (cannot be read \(it is no|holds .+, not 3 numbers for)"):
        load_scene(tmp_path, PLAIN)


def test_broken_json_is_named(tmp_path):
    (capture(tmp_path) / "camera" / "000004.json").write_text('{"position": [')
    with pytest.raises(UserError, match=r"camera/000004\.json is not valid JSON"):
        load_scene(tmp_path, PLAIN)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return capture(tmp_path_factory.mktemp("nerfies"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_in_any_field_raises_only_our_error(sound, data):
    file = sound / data.draw(st.sampled_from(["dataset.json", "metadata.json", "scene.json", "camera/000001.json"]))
    whole = file.read_text()
    key = data.draw(st.sampled_from(sorted(json.loads(whole))))
    change(file, **{key: data.draw(JUNK)})
    try:
        scene = load_scene(sound, PLAIN)
    except UserError as error:
        str(error).encode("utf-8")
    else:
        assert all(np.isfinite(view.camera.viewmat.numpy()).all() for view in scene.views)
    finally:
        file.write_text(whole)
