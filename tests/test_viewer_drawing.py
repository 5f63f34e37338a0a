"""What the viewer draws, edits, and takes from a browser."""

from __future__ import annotations

import json
import math
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_scenes import tiny_scene
from viewer_models import CPU, POSE, model, one

from nfc_gs.core.camera import Camera, look_at
from nfc_gs.core.colormap import MAP_NAMES, apply
from nfc_gs.core.errors import UserError
from nfc_gs.data.stored import without_photos
from nfc_gs.formats.ply import write_ply
from nfc_gs.formats.splat import read_splat
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RenderOptions, RenderOutput
from nfc_gs.rendering.pipeline import render
from nfc_gs.runs.checkpoint import Checkpoint, save_checkpoint
from nfc_gs.runs.names import CHECKPOINT_NAME
from nfc_gs.viewer.cameras import Pose, nearest, pose_from_json, pose_of, pose_to_json
from nfc_gs.viewer.content import with_unique_names
from nfc_gs.viewer.draw import (
    FAR,
    Photo,
    _colored,
    count_gaussians,
    depth_range_of,
    draw,
    draw_tiled,
    normal_colors,
    prepared,
    reproject,
)
from nfc_gs.viewer.edit import Edit
from nfc_gs.viewer.path import FPS, MAX_FRAMES, SECONDS, CameraPath, Key, path_from_json
from nfc_gs.viewer.source import Source, middle_and_radius, open_source
from nfc_gs.viewer.state import SHOWS, DisplaySettings


def finished(work: Generator[None, None, np.ndarray]) -> tuple[np.ndarray, int]:
    """What a generator returns, and how often it has yielded."""
    steps = 0
    while True:
        try:
            next(work)
            steps += 1
        except StopIteration as end:
            return end.value, steps


# ---- pictures ----


def test_the_color_is_what_the_renderer_draws() -> None:
    splats, camera, settings = model(), POSE.camera(50, 30), DisplaySettings(background=(0.2, 0.4, 0.6))
    with torch.no_grad():
        out = render(splats, camera, background=settings.background, outputs=("rgb", "depth"), backend="cpu")
    picture = draw(splats, camera, settings, CPU)
    expected = (out.rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    np.testing.assert_array_equal(picture.rgb, expected)
    covered = out.alpha[..., 0].numpy() > 0.5
    np.testing.assert_array_equal(picture.depth[covered], out.depth[..., 0].numpy()[covered])
    assert (picture.depth[~covered] == FAR).all() and covered.any() and not covered.all()
    flat = draw(splats, camera, settings, CPU, depth=False)
    np.testing.assert_array_equal(flat.rgb, expected)
    assert flat.depth is None


@pytest.mark.parametrize("show", SHOWS)
@pytest.mark.parametrize("size", [(40, 30), (1, 1), (2, 7)])
def test_everything_can_be_shown_at_any_size(show: str, size: tuple[int, int]) -> None:
    settings = DisplaySettings(show=show)  # type: ignore[arg-type]
    splats, camera = prepared(model(head="bits"), None, settings), POSE.camera(*size)
    photo = Photo(camera, np.zeros((size[1], size[0], 3), np.uint8))
    for samples in (1, 2):
        picture = draw(splats, camera, settings, CPU, photo=photo, samples=samples)
        assert picture.rgb.shape == (size[1], size[0], 3) and picture.rgb.dtype == np.uint8
        assert picture.depth.shape == (size[1], size[0])


def test_pictures_of_different_things_differ() -> None:
    splats, camera = model(head="bits"), POSE.camera(40, 30)
    photo = Photo(camera, np.zeros((30, 40, 3), np.uint8))
    bits = [DisplaySettings("bit", channel=1), DisplaySettings("bit", bit=3)]
    sizes = [DisplaySettings(points=True), DisplaySettings(splat_scale=0.5)]
    all_settings = [*(DisplaySettings(show=show) for show in SHOWS), *bits, *sizes]
    pictures = [
        draw(prepared(splats, None, settings), camera, settings, CPU, photo=photo).rgb.tobytes()
        for settings in all_settings
    ]
    assert len(set(pictures)) == len(all_settings)


def test_a_bit_plane_is_the_probability_of_that_bit() -> None:
    splats, camera = model(head="bits"), POSE.camera(40, 30)
    with torch.no_grad():
        bits = render(splats, camera, outputs=("bits",), backend="cpu").bits
    assert bits is not None
    picture = draw(splats, camera, DisplaySettings("bit", channel=2, bit=5), CPU)
    np.testing.assert_array_equal(picture.rgb[..., 1], (bits[..., 2 * 8 + 5] * 255).round().numpy().astype(np.uint8))


def test_gaussians_are_counted() -> None:
    settings = DisplaySettings(show="count")
    for copies in (1, 7, 100):
        still = prepared(one(copies=copies), None, settings)
        with torch.no_grad():
            alpha = render(still, POSE.camera(31, 31), backend="cpu").alpha
        middle = count_gaussians(alpha[15, 15, 0])
        assert float(middle) == pytest.approx(copies, rel=0.02)  # beside the Gaussian's middle by rounding


def test_normals_have_the_colors_of_the_directions_that_the_camera_sees() -> None:
    camera = replace(POSE, wxyz=(0.5, 0.5, -0.5, 0.5)).camera(24, 20)
    right, down, forward = camera.viewmat[:3, :3]
    for normal, color in ((-forward, (0.5, 0.5, 1.0)), (right, (1.0, 0.5, 0.5)), (-down, (0.5, 1.0, 0.5))):
        colors = normal_colors(normal.expand(20, 24, 3), camera)
        np.testing.assert_allclose(colors, torch.tensor(color).expand(20, 24, 3), atol=1e-6)


def test_the_normals_of_a_model_are_shown_as_it_renders_them_and_fade_with_coverage() -> None:
    splats, camera = model(), POSE.camera(40, 30)
    with torch.no_grad():
        out = render(splats, camera, outputs=("rgb", "normals"), backend="cpu")
    assert out.normals is not None
    expected = (normal_colors(out.normals, camera) * out.alpha * 255).round().to(torch.uint8)
    shown = draw(splats, camera, DisplaySettings(show="normals"), RenderOptions(backend="cpu")).rgb
    np.testing.assert_array_equal(shown, expected.numpy())
    assert shown.std() > 5


def test_a_photo_is_seen_unchanged_by_its_own_camera_and_turned_by_another() -> None:
    camera = POSE.camera(32, 24)
    photo = Photo(camera, np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    colors, inside = reproject(photo, camera)
    np.testing.assert_allclose(colors.numpy() * 255, photo.rgb, atol=0.02)  # of 255: the place is rounded in float32
    assert inside.all()
    wide, seen = reproject(photo, replace(POSE, fov=2.0).camera(32, 24))
    assert not seen.all() and seen[12, 16] and (wide[~seen] == 0).all()
    behind, nothing = reproject(photo, replace(POSE, wxyz=(0.0, 0.0, 1.0, 0.0)).camera(32, 24))
    assert not nothing.any() and (behind == 0).all()


def test_the_error_is_black_where_the_photo_is_met_and_bright_where_not() -> None:
    splats, camera = model(), POSE.camera(40, 30)
    rgb = draw(splats, camera, DisplaySettings(), CPU).rgb
    right = draw(splats, camera, DisplaySettings("error"), CPU, photo=Photo(camera, rgb)).rgb
    wrong = draw(splats, camera, DisplaySettings("error"), CPU, photo=Photo(camera, 255 - rgb)).rgb
    assert right.max() <= 10 < 60 < wrong.mean()


def test_the_error_is_measured_on_the_device_that_draws() -> None:
    camera, drawn = POSE.camera(8, 6), {"device": "meta"}  # a device that is not the CPU, and is everywhere
    out = RenderOutput(torch.zeros(6, 8, 3, **drawn), torch.zeros(6, 8, 1, **drawn), None, None)  # type: ignore
    photo = Photo(camera, np.zeros((6, 8, 3), np.uint8))
    assert _colored(out, camera, DisplaySettings("error"), photo).device.type == "meta"


def wide_model(head: str = "sh") -> GaussianModel:
    """Gaussians of which many are as wide as the picture."""
    splats = model(200, head=head)
    with torch.no_grad():
        splats.log_scales += 1.2 * torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    return splats


def camera_up(degrees: float, width: int, height: int) -> Camera:
    """A camera of the frame of `POSE` that looks up by so many degrees."""
    angle = math.radians(degrees)
    target = (0.0, -math.sin(angle), -3.0 + math.cos(angle))
    return look_at(POSE.position, target, up=(0.0, -1.0, 0.0), width=width, height=height, fov=70.0)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("tilt", [0.0, 35.0])
@pytest.mark.parametrize("show", sorted(set(SHOWS) - {"bits"}))
def test_a_picture_in_tiles_is_the_picture_bit_for_bit(show: str, tilt: float, samples: int) -> None:
    settings = DisplaySettings(show=show, depth_range=(2.0, 4.0))  # type: ignore[arg-type]
    splats, camera = prepared(wide_model("bits"), None, settings), camera_up(tilt, 230, 170)
    photo = Photo(camera_up(tilt - 3.0, 91, 60), np.random.default_rng(0).integers(0, 256, (60, 91, 3), dtype=np.uint8))
    whole = draw(splats, camera, settings, CPU, photo=photo, samples=samples)
    assert whole.rgb.std() > 2 and whole.depth is not None
    assert (whole.depth < FAR).mean() > 0.3 or show == "count"  # whose Gaussians are faint
    for tile, tiles in ((64, 4 * 3), (77, 3 * 3)):
        tiled, steps = finished(draw_tiled(splats, camera, settings, CPU, photo=photo, samples=samples, tile=tile))
        assert steps == tiles
        np.testing.assert_array_equal(tiled.rgb, whole.rgb)
        np.testing.assert_array_equal(tiled.depth, whole.depth)


@pytest.mark.parametrize(("samples", "tile"), [(1, 1024), (1, 513), (2, 512), (2, 999)])
def test_a_window_of_1280_by_720_has_no_seams(samples: int, tile: int) -> None:
    splats, camera, settings = wide_model(), camera_up(35.0, 1280, 720), DisplaySettings()
    whole = draw(splats, camera, settings, CPU, samples=samples)
    tiled, steps = finished(draw_tiled(splats, camera, settings, CPU, samples=samples, tile=tile))
    assert steps > 1 and whole.rgb.std() > 20
    np.testing.assert_array_equal(tiled.rgb, whole.rgb)
    np.testing.assert_array_equal(tiled.depth, whole.depth)


def test_tiles_share_the_range_of_depths_of_their_picture() -> None:
    splats, camera, settings = model(200), POSE.camera(230, 170), DisplaySettings(show="depth")
    tiled, _ = finished(draw_tiled(splats, camera, settings, CPU, tile=64))
    ranged = replace(settings, depth_range=depth_range_of(splats, camera, settings, CPU, side=512))
    np.testing.assert_array_equal(tiled.rgb, draw(splats, camera, ranged, CPU).rgb)


@pytest.mark.parametrize("size", [(230, 170), (231, 172), (232, 171)])
def test_a_large_sheet_of_bits_is_drawn_plane_by_plane_in_tiles(size: tuple[int, int]) -> None:
    splats, camera, settings = wide_model("bits"), POSE.camera(*size), DisplaySettings("bits", channel=1)
    whole = draw(splats, camera, settings, CPU)
    tiled, steps = finished(draw_tiled(splats, camera, settings, CPU, tile=32))
    assert steps == 9 * 3 * 2 and tiled.rgb.shape == whole.rgb.shape  # each plane is about 77 x 57
    assert tiled.depth is not None and (tiled.depth == FAR).all()
    difference = np.abs(whole.rgb.astype(int) - tiled.rgb)  # the color is decoded before instead of after blending
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3 and whole.rgb.std() > 20
    in_one_step, steps = finished(draw_tiled(splats, camera, settings, CPU, tile=100))
    assert steps == 0 and np.array_equal(in_one_step.rgb, whole.rgb)


def test_without_a_tile_a_picture_of_any_size_is_drawn_in_one_step() -> None:
    splats, camera = model(200), POSE.camera(230, 170)
    picture, steps = finished(draw_tiled(splats, camera, DisplaySettings(), CPU, tile=None))
    assert steps == 0 and np.array_equal(picture.rgb, draw(splats, camera, DisplaySettings(), CPU).rgb)


def test_a_photo_is_seen_by_a_part_as_in_the_whole_picture() -> None:
    photo = Photo(POSE.camera(32, 24), np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    camera = camera_up(5.0, 131, 97)
    whole, part = reproject(photo, camera), reproject(photo, camera.crop(17, 30, 90, 51))
    for all_of_it, seen in zip(whole, part, strict=True):
        assert torch.equal(all_of_it[30:81, 17:107], seen)


def test_color_maps_begin_and_end_with_their_colors_and_take_nonsense() -> None:
    for name in MAP_NAMES:
        colors = apply(torch.tensor([-1.0, 0.0, 1.0, 9.0, math.nan]), name)
        assert torch.equal(colors[0], colors[1]) and torch.equal(colors[2], colors[3])
        assert torch.equal(colors[4], colors[0]) and not torch.equal(colors[0], colors[2])


# ---- editing ----


def test_crop_and_thresholds_keep_what_they_say() -> None:
    splats = model(300)
    means, largest = splats.means.detach(), splats.scales.detach().amax(1)
    box = Edit(box=((-0.5, -0.5, -9.0), (0.5, 0.5, 0.2)))
    inside = (means[:, :2].abs() <= 0.5).all(1) & (means[:, 2] <= 0.2)
    assert torch.equal(box.kept(splats), inside)
    ball = Edit(sphere=((0.1, 0.0, 0.0), 0.7))
    near = (means - torch.tensor([0.1, 0.0, 0.0])).norm(dim=1) <= 0.7
    assert torch.equal(ball.kept(splats), near)
    assert torch.equal(Edit(min_opacity=0.6).kept(splats), splats.opacities.detach() >= 0.6)
    assert torch.equal(Edit(max_scale=0.1).kept(splats), largest <= 0.1)
    both = replace(box, sphere=ball.sphere)
    left = both.applied(splats)
    assert len(left) == int((inside & near).sum()) and torch.equal(left.means, means[inside & near])
    assert Edit().applied(splats) is splats


def test_a_model_with_nothing_left_is_drawn() -> None:
    settings = DisplaySettings(edit=Edit(sphere=((99.0, 0.0, 0.0), 0.1)))
    still = prepared(model(), None, settings)
    assert len(still) == 0 and draw(still, POSE.camera(16, 12), settings, CPU).rgb.max() == 0


# ---- cameras and paths from a browser ----


def test_a_pose_and_its_camera_are_the_same() -> None:
    pose = Pose((0.3, -1.0, 2.0), (0.5, -0.5, 0.5, 0.5), 0.9)
    back = pose_of(pose.camera(64, 48), 64 / 48)
    np.testing.assert_allclose(back.position, pose.position, atol=1e-6)
    np.testing.assert_allclose(back.wxyz, pose.wxyz, atol=1e-6)
    assert back.fov == pytest.approx(pose.fov, abs=1e-6)


@pytest.mark.parametrize("aspect", [0.4, 1.0, 2.5])
def test_a_window_of_any_shape_shows_all_of_a_view(aspect: float) -> None:
    view = Camera(torch.eye(4), 50.0, 50.0, 30.0, 26.0, 64, 48)
    window = pose_of(view, aspect).camera(round(100 * aspect), 100)
    for x, y in ((0, 0), (64, 0), (0, 48), (64, 48)):
        u = (x - view.cx) / view.fx * window.fx + window.cx
        v = (y - view.cy) / view.fy * window.fy + window.cy
        assert -1 <= u <= window.width + 1 and -1 <= v <= window.height + 1


def test_a_camera_survives_being_copied_as_json() -> None:
    assert pose_from_json(pose_to_json(POSE, 0.25)) == (POSE, 0.25)
    assert pose_from_json(pose_to_json(POSE)) == (POSE, None)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", "null", "__import__('os').system('true')", '{"position": [1, 2, 3]}',
        '{"position": [1, 2], "wxyz": [1, 0, 0, 0], "fov": 1}',
        '{"position": [1, 2, 3], "wxyz": [0, 0, 0, 0], "fov": 1}',
        '{"position": [1, 2, NaN], "wxyz": [1, 0, 0, 0], "fov": 1}',
        '{"position": [1, 2, 3], "wxyz": [1, 0, 0, 0], "fov": 9}',
        '{"position": [1, 2, 3], "wxyz": [1, 0, 0, 0], "fov": 1, "time": 2}',
        '{"position": [1, 2, 1e999], "wxyz": [1, 0, 0, 0], "fov": true}',
        '{"position": [1, 2, ' + "9" * 400 + '], "wxyz": [1, 0, 0, 0], "fov": 1}', "[" * 100_000, " " * 2_000_000,
    ],
)  # fmt: skip
def test_json_that_is_no_camera_gets_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match=r"\.$"):
        pose_from_json(text)
    with pytest.raises(UserError, match=r"\.$"):
        path_from_json(text)


def test_a_path_goes_through_its_keys_and_back_to_the_first_in_a_loop() -> None:
    keys = tuple(
        Key(replace(POSE, position=(float(x), 0.0, -3.0), fov=fov), time)
        for x, fov, time in ((0, 0.8, 0.0), (1, 1.0, 0.5), (3, 1.2, 1.0))
    )
    path = CameraPath(keys, seconds=2.0, fps=20.0)
    frames = path.camera_frames(64, 48)
    assert len(frames) == path.frame_count == 40
    for frame, key in ((frames[0], keys[0]), (frames[-1], keys[-1])):
        np.testing.assert_allclose(frame[0].center, key.pose.position, atol=1e-5)
        assert frame[1] == pytest.approx(key.time, abs=1e-5)
        assert frame[0].fy == pytest.approx(key.pose.camera(64, 48).fy, rel=1e-4)
    times = [time for _, time in frames]
    assert times == sorted(times)
    loop = replace(path, loop=True).camera_frames(64, 48)
    np.testing.assert_allclose(loop[0][0].center, keys[0].pose.position, atol=1e-4)
    assert np.linalg.norm(loop[-1][0].center - loop[0][0].center) < 0.4
    assert path.moved(0, 1).keys == (keys[1], keys[0], keys[2]) and path.moved(2, 1) == path
    assert path.without(1).keys == (keys[0], keys[2])


def test_time_on_a_path_follows_its_keys_where_one_place_is_visited_twice() -> None:
    places, times = ((0.0, 0.0), (2.0, 0.0), (1.0, 1.0), (2.0, 0.0)), (0.0, 0.2, 0.5, 1.0)
    keys = [Key(replace(POSE, position=(x, y, -3.0)), time) for (x, y), time in zip(places, times, strict=True)]
    frames = CameraPath(tuple(keys), seconds=10.0, fps=20.0).camera_frames(64, 48)
    moments = [time for camera, time in frames if np.linalg.norm(camera.center - np.array([2.0, 0.0, -3.0])) < 0.02]
    assert min(abs(time - 0.2) for time in moments) < 0.02 and moments[-1] == pytest.approx(1.0)
    assert not any(0.25 < time < 0.95 for time in moments)


def test_a_path_of_one_key_rests_and_one_of_none_gets_a_sentence() -> None:
    assert len(CameraPath((Key(POSE),), 1.0, 10.0).camera_frames(16, 12)) == 10
    with pytest.raises(UserError, match="no keyframe"):
        CameraPath().camera_frames(16, 12)


def test_a_path_survives_being_saved_as_json() -> None:
    path = CameraPath((Key(POSE, 0.5), Key(replace(POSE, fov=0.7))), 3.5, 24.0, True)
    assert path_from_json(path.to_json()) == path
    for change in ({"seconds": 0}, {"fps": "fast"}, {"keys": [1]}, {"format": "x"}, {"keys": [None] * 2000}):
        with pytest.raises(UserError):
            path_from_json(json.dumps(json.loads(path.to_json()) | change))


@pytest.mark.parametrize(("name", "limits"), [("seconds", SECONDS), ("fps", FPS)])
def test_a_path_from_a_file_has_the_limits_of_one_from_the_page(name: str, limits: tuple[float, float]) -> None:
    text = json.loads(CameraPath((Key(POSE),)).to_json())
    for value in limits:
        assert getattr(path_from_json(json.dumps(text | {name: value})), name) == value
    for value in (0.9 * limits[0], 1.1 * limits[1]):
        with pytest.raises(UserError, match=rf"of {limits[0]:g} to {limits[1]:g} as '{name}'"):
            path_from_json(json.dumps(text | {name: value}))


def test_a_path_of_too_many_pictures_gets_a_sentence() -> None:
    path = CameraPath((Key(POSE),), 1000.0, 100.0)
    assert path.frame_count == MAX_FRAMES
    with pytest.raises(UserError, match=r"of 1001 seconds with 100 .* has 100,100, more than the 100,000"):
        replace(path, seconds=1001.0).camera_frames(16, 12)


def test_the_nearest_camera_is_found() -> None:
    cameras = [replace(POSE, position=(float(x), 0.0, -3.0)).camera(8, 8) for x in range(5)]
    assert nearest(replace(POSE, position=(2.9, 0.0, -3.0)), cameras) == 3


# ---- sources ----


def test_sources_of_one_name_get_names_that_no_other_has() -> None:
    sources = [Source(name, one()) for name in ("a", "a", "a (2)", "b", "a")]
    names = [source.name for source in with_unique_names(sources)]
    assert len(set(names)) == 5 and names[:2] == ["a", "a (2)"] and names[3:] == ["b", "a (3)"]


def test_a_splat_file_is_read_and_a_broken_one_gets_a_sentence(tmp_path: Path) -> None:
    record = np.zeros(3, [("m", "<f4", 3), ("s", "<f4", 3), ("c", "u1", 4), ("q", "u1", 4)])
    record["m"], record["s"] = [[1, 2, 3], [4, 5, 6], [np.nan, 0, 0]], 0.5
    record["c"], record["q"] = [255, 0, 51, 204], [255, 128, 128, 128]
    file = tmp_path / "a.splat"
    file.write_bytes(record.tobytes())
    splats = read_splat(file)
    np.testing.assert_allclose(splats.means.detach(), [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_allclose(splats.scales.detach(), 0.5, rtol=1e-6)
    np.testing.assert_allclose(splats.opacities.detach(), 0.8, rtol=1e-6)
    assert open_source(file).name == "a"
    for broken in (b"", b"x" * 33):
        file.write_bytes(broken)
        with pytest.raises(UserError, match="no multiple"):
            open_source(file)


@pytest.mark.parametrize("name", ["missing", "missing.ply", "text.txt", "broken.ply", "folder"])
def test_what_cannot_be_shown_gets_a_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "broken.ply").write_bytes(b"ply\nformat binary_little_endian 1.0\nelement vertex 9\nend_header\n")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"[.]$"):
        open_source(tmp_path / name)


def test_a_run_that_is_still_written_shows_its_last_whole_checkpoint(tmp_path: Path) -> None:
    def save(splats: GaussianModel, step: int) -> None:
        checkpoint = Checkpoint(
            family="gaussians", model_parts=("model",), parts=splats.parts(), step=step, seconds=1.0,
            config={"seed": 5}, capture="gone", scene=without_photos(tiny_scene()), background=(1.0, 1.0, 1.0),
        )  # fmt: skip
        save_checkpoint(tmp_path / CHECKPOINT_NAME, checkpoint)

    save(model(10), 1)
    source = open_source(tmp_path, device="cpu")
    assert source.scene is not None and not source.scene.has_photos
    assert (source.options.background, source.snapshot().step) == ((1.0, 1.0, 1.0), 1)
    assert source.facts["Seed"] == "5" and not source.refresh()
    save(model(20), 2)
    assert source.refresh() and (len(source.snapshot().model), source.snapshot().step) == (20, 2)
    whole = (tmp_path / CHECKPOINT_NAME).read_bytes()
    (tmp_path / CHECKPOINT_NAME).write_bytes(whole[: len(whole) // 2])
    assert not source.refresh() and source.snapshot().step == 2
    (tmp_path / CHECKPOINT_NAME).unlink()
    assert not source.refresh()


def test_a_ply_is_named_after_its_file_and_its_middle_is_found(tmp_path: Path) -> None:
    write_ply(tmp_path / "vase.ply", one(z=2.0))
    source = open_source(tmp_path / "vase.ply")
    assert isinstance(source, Source) and source.name == "vase"
    assert middle_and_radius(source) == ((0.0, 0.0, 2.0), 1.0)
