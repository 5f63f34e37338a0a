"""Lenses: every model of pycolmap to a pinhole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from capture_files import write_transforms
from lenses import HEIGHT, PARAMS, WIDTH, lens_of, pixel_grid
from PIL import Image

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import CaptureImage, ReaderMessages
from nfc_gs.data.image_files import read_header
from nfc_gs.data.image_source import ImageSource
from nfc_gs.data.images import decode
from nfc_gs.data.lens import RADIAL4, Lens, check_lens, is_pinhole, pinholes, sampling_map, unseen_share
from nfc_gs.data.loading import load_scene
from nfc_gs.data.views import check_lenses


def color_of(rays: np.ndarray) -> np.ndarray:
    """A smooth color for each direction, [.., 3] -> [.., 3], in 0..255."""
    d = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    phases = d @ np.array([[3.0, -1.0, 2.0], [1.0, 3.0, -2.0], [-1.0, 2.0, 3.0]])
    return 127.5 + 110.0 * np.sin(phases)


def photo(path: Path, rays: np.ndarray) -> Path:
    pixels = np.where(np.isfinite(rays).all(axis=1, keepdims=True), np.nan_to_num(color_of(rays)), 0)
    Image.fromarray(np.round(pixels).astype(np.uint8).reshape(HEIGHT, WIDTH, 3)).save(path)
    return path


def test_the_table_covers_every_model_that_pycolmap_knows():
    assert PARAMS.keys() == pycolmap.CameraModelId.__members__.keys() - {"INVALID"}


@pytest.mark.parametrize("model", sorted(PARAMS))
def test_an_undistorted_photo_shows_each_direction_where_the_pinhole_sees_it(tmp_path, model):
    lens = lens_of(model)
    camera = pycolmap.Camera(model=model, width=WIDTH, height=HEIGHT, params=list(lens.params))
    # the photo is drawn through the inverse of the model, which the code under test never calls
    rays = np.asarray(camera.cam_ray_from_img(pixel_grid(WIDTH, HEIGHT)))
    path = photo(tmp_path / "photo.png", rays)
    for target in pinholes(lens):
        resample = not is_pinhole(lens)
        source = ImageSource(
            path, read_header(path), False, WIDTH, HEIGHT, lens=lens if resample else None, pinhole=target
        )
        frame = decode(source)
        assert frame.rgb.shape == (target.height, target.width, 3)
        positions = pixel_grid(target.width, target.height)
        rays = np.column_stack([(positions - [target.cx, target.cy]) / [target.fx, target.fy], np.ones(len(positions))])
        expected = color_of(rays @ np.array(target.rotation)).reshape(frame.rgb.shape)
        counts = np.full(frame.rgb.shape[:2], True) if frame.mask is None else frame.mask == 255
        counts[[0, -1]] = counts[:, [0, -1]] = False  # the outermost half pixel repeats its neighbour
        assert counts.mean() > 0.6
        # two roundings to eight bits, and the curvature that bilinear interpolation cuts off; within half a pixel
        # (0.75 degrees) of a panorama's poles the nearest row is repeated
        assert np.abs(frame.rgb - expected)[counts].max() < (4.0 if target.label in ("up", "down") else 2.0)


@pytest.mark.parametrize("model", sorted(PARAMS))
def test_a_pinhole_keeps_size_scale_and_principal_point(model):
    lens = lens_of(model)
    for target in pinholes(lens):
        if target.label:
            assert target.width == target.height == round(WIDTH / np.pi)
            continue
        near_axis = np.array([[1e-3, -2e-3, 1.0]])
        pixel = lens.project(near_axis)[0]
        ours = np.array([target.fx * 1e-3 + target.cx, -target.fy * 2e-3 + target.cy])
        assert np.abs(pixel - ours).max() < 1e-3
        assert (target.width, target.height) == (WIDTH, HEIGHT)


def test_only_lenses_that_move_no_pixel_are_pinholes():
    undistorted = {m: lens_of(m) for m in ("OPENCV", "SIMPLE_RADIAL", "FULL_OPENCV")}
    for model, lens in undistorted.items():
        plain = Lens(model, WIDTH, HEIGHT, lens.params[: 3 if model == "SIMPLE_RADIAL" else 4] + (0.0,) * 8)
        plain = Lens(model, WIDTH, HEIGHT, plain.params[: len(lens.params)])
        assert is_pinhole(plain) and not is_pinhole(lens)
    assert not is_pinhole(lens_of("SIMPLE_FISHEYE"))  # no distortion parameters, yet no pinhole


def test_a_very_wide_fisheye_is_narrowed_to_120_degrees():
    lens = Lens("SIMPLE_FISHEYE", 400, 400, (400 / np.radians(220), 200.0, 200.0))
    (target,) = pinholes(lens)
    assert np.degrees(2 * np.arctan(target.width / 2 / target.fx)) == pytest.approx(120.0)
    assert sampling_map(lens, target)[1].all()


def test_pixels_that_the_lens_never_saw_are_masked(tmp_path):
    lens = Lens("SIMPLE_RADIAL", WIDTH, HEIGHT, (140.0, 80.0, 60.0, 0.3))  # pincushion: the border has no source
    path = tmp_path / "white.png"
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 255, np.uint8)).save(path)
    (target,) = pinholes(lens)
    frame = decode(ImageSource(path, read_header(path), False, WIDTH, HEIGHT, lens=lens, pinhole=target))
    assert frame.mask is not None
    assert frame.mask[0, 0] == 0 and frame.mask[HEIGHT // 2, WIDTH // 2] == 255
    assert (frame.rgb[frame.mask == 255] == 255).all()


def test_a_polynomial_that_folds_back_shows_nothing_twice():
    # radius r (1 - 0.5 r^2) turns back at r = 0.816, well inside this image
    lens = Lens("SIMPLE_RADIAL", 400, 400, (150.0, 200.0, 200.0, -0.5))
    (target,) = pinholes(lens)
    inside = sampling_map(lens, target)[1]
    radius = np.linalg.norm(pixel_grid(400, 400) - 200, axis=1).reshape(400, 400) / 150
    assert not inside[radius > 0.8165].any()
    assert inside[radius < 0.80].all()


def test_the_r8_term_of_nerfstudio_agrees_with_opencv_where_it_is_zero():
    opencv = lens_of("OPENCV")
    fx, fy, cx, cy, k1, k2, p1, p2 = opencv.params
    ours = Lens(RADIAL4, WIDTH, HEIGHT, (fx, fy, cx, cy, k1, k2, 0.0, 0.0, p1, p2))
    rays = np.random.default_rng(0).normal(size=(50, 3)) * [0.3, 0.3, 0.1] + [0, 0, 1]
    assert np.abs(ours.project(rays) - opencv.project(rays)).max() < 1e-9
    ours = Lens(RADIAL4, WIDTH, HEIGHT, (fx, fy, cx, cy, 0.0, 0.0, 0.1, 0.2, 0.0, 0.0))
    assert ours.project(np.array([[1.0, 0.0, 1.0]]))[0] == pytest.approx([fx * 1.3 + cx, cy])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"width": 0}, "not possible"),
        ({"params": (float("nan"), 80.0, 60.0)}, "not finite"),
        ({"params": (0.0, 80.0, 60.0)}, "focal length"),
        ({"params": (-140.0, 80.0, 60.0)}, "focal length"),
        ({"params": (1e9, 80.0, 60.0)}, "focal length"),
        ({"params": (140.0, 1e7, 60.0)}, "principal point"),
    ],
)
def test_calibrations_that_no_lens_has_are_refused(change, sentence):
    fields = {"model": "SIMPLE_PINHOLE", "width": 160, "height": 120, "params": (140.0, 80.0, 60.0), **change}
    with pytest.raises(UserError, match=f"here: .*{sentence}"):
        check_lens(Lens(**fields), "here")


# --- calibrations that failed ------------------------------------------------------------------------------------


def test_a_lens_that_sees_little_of_its_picture_is_named_with_the_share_that_is_lost(tmp_path):
    file = write_transforms(tmp_path, k1=-45.0, k2=1017.0)
    scene = load_scene(file)
    lost = np.mean([(scene.image(i).mask == 0).mean() for i in range(len(scene.views))])
    (sentence,) = (text for text in scene.messages if "sees only part" in text)
    assert lost > 0.5 and int(sentence.split("% of each")[0][-2:]) == pytest.approx(100 * lost, abs=4)
    assert "9 images (im00.png, ...)" in sentence and "-45, 1017" in sentence


def test_the_share_that_is_lost_is_that_of_the_whole_picture():
    for lens in (Lens("OPENCV", 640, 480, (500.0, 500.0, 320.0, 240.0, -45.0, 1017.0, 0.0, 0.0)), lens_of("OPENCV")):
        (target,) = pinholes(lens)
        assert unseen_share(lens) == pytest.approx(1.0 - sampling_map(lens, target)[1].mean(), abs=0.02)


def test_ordinary_lenses_need_no_word(tmp_path):
    messages = ReaderMessages()
    lenses = [lens_of(model) for model in PARAMS]
    lenses += [Lens("SIMPLE_FISHEYE", 400, 400, (400 / np.radians(220), 200.0, 200.0))]
    images = [CaptureImage(str(i), tmp_path, lens, np.eye(4)) for i, lens in enumerate(lenses)]
    check_lenses(images, messages)
    assert messages == []


def test_of_several_failed_calibrations_the_worst_is_named_and_the_rest_counted(tmp_path):
    messages = ReaderMessages()
    params = [(-45.0 * 3**i, 1017.0, 0.0, 0.0) for i in range(3)] + [(0.01, 0.0, 0.0, 0.0)]
    lenses = [Lens("OPENCV", 67, 120, (86.6, 87.2, 33.5, 60.0, *terms)) for terms in params]
    check_lenses([CaptureImage(f"{i}.png", tmp_path, lens, np.eye(4)) for i, lens in enumerate(lenses)], messages)
    assert len(messages) == 1 and "2.png" in messages[0] and "the worst of 3 such lenses" in messages[0]


@pytest.mark.parametrize("model", ["OPENCV", RADIAL4, "OPENCV_FISHEYE", "FULL_OPENCV", "SIMPLE_RADIAL"])
@pytest.mark.parametrize("term", [1e3, -1e3, 1e30, -1e30, 1e200])
@pytest.mark.filterwarnings("error")
def test_terms_beyond_reason_give_a_sentence_or_a_picture_but_no_overflow(tmp_path, model, term):
    plain = Lens(model, WIDTH, HEIGHT, (0.0,) * 6) if model == RADIAL4 else lens_of(model)
    places = 3 if model == "SIMPLE_RADIAL" else 4
    focal = (140.0, 80.0, 60.0) if model == "SIMPLE_RADIAL" else (140.0, 140.0, 80.0, 60.0)
    rest = 6 if model == RADIAL4 else len(plain.params) - places
    lens = Lens(model, WIDTH, HEIGHT, (*focal, *(0.0,) * (rest - 1), term))
    messages = ReaderMessages()
    try:
        check_lens(lens, "here")
        check_lenses([CaptureImage("a.png", tmp_path, lens, np.eye(4))], messages)
        for target in pinholes(lens):
            assert np.isfinite(sampling_map(lens, target)[0]).all()
    except UserError as error:
        assert "calibrate" in str(error)
