"""Masks: whose they are, what their pixels mean, and captures of which they leave little."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from capture_files import HEIGHT, WIDTH, write_capture, write_colmap, write_images, write_transforms
from photos import noise, save, source_of
from PIL import Image
from videos import write_bounds, write_frames, write_videos

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import ReaderMessages
from nfc_gs.data.config import DataConfig
from nfc_gs.data.image_source import MaskFile, MaskReading
from nfc_gs.data.images import decode, describe_processing
from nfc_gs.data.loading import load_scene
from nfc_gs.data.masks import judge_masks, read_mask, read_matte
from nfc_gs.data.scene import SceneData

PLAIN = DataConfig(normalize=False, random_points=20)


def half(left: int = 0, right: int = 255) -> np.ndarray:
    """A mask with one value on the left, another on the right, [HEIGHT, WIDTH] uint8."""
    pixels = np.full((HEIGHT, WIDTH), right, dtype=np.uint8)
    pixels[:, : WIDTH // 2] = left
    return pixels


def put(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(path, pixels, **options)


def masked(scene: SceneData) -> dict[str, bool]:
    """For each view whether just its left half is ignored; those of which nothing is, are left out."""
    found = {view.name: scene.image(index).mask for index, view in enumerate(scene.views)}
    return {name: np.array_equal(mask, half()) for name, mask in found.items() if mask is not None}


def said(scene: SceneData, *words: str) -> list[str]:
    return [text for text in scene.messages if all(word in text for word in words)]


# --- whose they are ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["colmap", "transforms", "blender", "multiview"])
def test_a_folder_without_any_name_of_an_image_is_pointed_out_by_every_reader(tmp_path: Path, kind: str) -> None:
    if kind == "colmap":
        write_capture(tmp_path)
    elif kind == "multiview":
        write_bounds(write_frames(tmp_path))
    else:
        write_transforms(tmp_path, name="transforms.json" if kind == "transforms" else "transforms_train.json")
    put(tmp_path / "masks" / "im00_mask.png", half())
    scene = load_scene(tmp_path, PLAIN)
    (sentence,) = said(scene, "no file in it", "masks")
    assert "im00_mask.png" in sentence and scene.views[0].name in sentence
    assert not said(load_scene(tmp_path, DataConfig(masks=False)), "masks")


def test_an_empty_folder_and_one_of_another_name_are_pointed_out(tmp_path: Path) -> None:
    write_capture(tmp_path)
    put(tmp_path / "mask" / "im00.png", half())
    assert said(load_scene(tmp_path, PLAIN), "mask is not used: masks are looked for in a folder masks")
    assert not said(load_scene(tmp_path, DataConfig(masks=False)), "mask")
    (tmp_path / "masks").mkdir()
    assert said(load_scene(tmp_path, PLAIN), "masks holds no images; nothing is masked by it")


def test_it_is_said_when_only_some_images_have_a_mask(tmp_path: Path) -> None:
    names = [f"{camera}/im{i}.jpg" for camera in ("left", "right") for i in range(3)]
    write_colmap(tmp_path / "sparse", names)
    write_images(tmp_path / "images", names)
    for i in range(3):
        put(tmp_path / "masks" / "left" / f"im{i}.png", half())
    scene = load_scene(tmp_path)
    assert masked(scene) == {f"left/im{i}.jpg": True for i in range(3)}
    (sentence,) = said(scene, "3 of 6 images have a mask")
    assert "right/im0.jpg" in sentence


def test_masks_of_one_name_in_two_folders_each_belong_to_their_own_image(tmp_path: Path) -> None:
    names = [f"{camera}/im{i}.jpg" for camera in ("left", "right") for i in range(3)]
    write_colmap(tmp_path / "sparse", names)
    write_images(tmp_path / "images", names)
    put(tmp_path / "masks" / "left" / "im1.png", half())
    put(tmp_path / "masks" / "right" / "im1.png", half(255, 0))
    assert masked(load_scene(tmp_path)) == {"left/im1.jpg": True, "right/im1.jpg": False}


def test_a_bare_name_is_no_mask_of_images_in_several_folders(tmp_path: Path) -> None:
    names = [f"{camera}/im{i}.jpg" for camera in ("left", "right") for i in range(3)]
    write_colmap(tmp_path / "sparse", names)
    write_images(tmp_path / "images", names)
    put(tmp_path / "masks" / "im1.png", half())
    scene = load_scene(tmp_path)
    assert masked(scene) == {} and said(scene, "no file in it", "im1.png", "left/im0.jpg")


def test_a_bare_name_that_only_one_image_has_is_its_mask(tmp_path: Path) -> None:
    names = [f"cam/im{i}.jpg" for i in range(3)]
    write_colmap(tmp_path / "sparse", names)
    write_images(tmp_path / "images", names)
    put(tmp_path / "masks" / "im1.png", half())
    assert masked(load_scene(tmp_path)) == {"cam/im1.jpg": True}


def test_masks_in_the_folder_of_their_images_are_found_though_names_leave_it_out(tmp_path: Path) -> None:
    names = [f"images/cam/im{i}.png" for i in range(4)]
    write_images(tmp_path, names)
    file = write_transforms(tmp_path, 4)
    data = json.loads(file.read_text())
    for frame, name in zip(data["frames"], names, strict=True):
        frame["file_path"] = name
    file.write_text(json.dumps(data))
    put(tmp_path / "masks" / "cam" / "im2.png", half())
    assert masked(load_scene(tmp_path)) == {"im2.png": True}


def test_the_folder_of_masks_may_begin_with_a_capital(tmp_path: Path) -> None:
    write_capture(tmp_path, 3)
    put(tmp_path / "Masks" / "IM01.PNG", half())
    assert masked(load_scene(tmp_path)) == {"im01.png": True}


def test_links_to_folders_of_masks_are_followed(tmp_path: Path) -> None:
    names = [f"cam/im{i}.jpg" for i in range(3)]
    write_colmap(tmp_path / "sparse", names)
    write_images(tmp_path / "images", names)
    put(tmp_path / "elsewhere" / "im1.png", half())
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "cam").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert masked(load_scene(tmp_path)) == {"cam/im1.jpg": True}


def test_frames_of_videos_have_masks_too(tmp_path: Path) -> None:
    write_bounds(write_videos(tmp_path))
    put(tmp_path / "masks" / "cam01" / "000002.png", half())
    assert masked(load_scene(tmp_path, PLAIN)) == {"cam01/000002": True}


# --- what the pixels mean ----------------------------------------------------------------------------------------


def judged(*pixels: np.ndarray, folder: Path, suffix: str = ".png", **options) -> tuple[list[MaskFile], list[str]]:
    """Masks of these pixels as a capture of them is read, and what is said of them."""
    paths = [put(folder / f"{i:03d}{suffix}", array, **options) for i, array in enumerate(pixels)]
    messages = ReaderMessages()
    reading = judge_masks(paths, "The masks", messages)
    return [MaskFile(path, reading) for path in paths], list(messages)


@pytest.mark.parametrize("white", [1, 7, 255])
def test_black_and_one_other_value_need_no_word(tmp_path: Path, white: int) -> None:
    (mask, _), messages = judged(half(0, white), half(0, white), folder=tmp_path)
    assert messages == [] and np.array_equal(read_mask(mask), half() > 0)


@pytest.mark.parametrize("kind", ["one bit", "sixteen bits", "sixteen bits of ones", "float", "palette"])
def test_masks_of_every_depth_keep_what_is_not_black(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("mask.tif" if kind == "float" else "mask.png")
    if kind == "one bit":
        Image.fromarray(half()).convert("1").save(path)
    elif kind == "palette":
        image = Image.fromarray(half(1, 0)).convert("P")
        image.putpalette([128, 0, 0, 0, 0, 0])  # the value 0 is a color here, 1 is black
        image.save(path)
    elif kind == "float":
        Image.fromarray((half() > 0).astype(np.float32)).save(path)
    else:
        Image.fromarray((half() > 0).astype(np.uint16) * (65535 if kind == "sixteen bits" else 1)).save(path)
    messages = ReaderMessages()
    mask = MaskFile(path, judge_masks([path], "The masks", messages))
    assert messages == [] and np.array_equal(read_mask(mask), half() > 0)


def test_labels_are_kept_but_for_black_and_it_is_said(tmp_path: Path) -> None:
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    labels[:, 8:16], labels[:, 16:24], labels[:, 24:] = 1, 2, 4
    (mask,), messages = judged(labels, folder=tmp_path)
    assert np.array_equal(read_mask(mask), labels > 0)
    assert len(messages) == 1 and "labels" in messages[0] and "0, 1, 2, 4" in messages[0]


@pytest.mark.parametrize("void", [False, True])
def test_labels_of_a_palette_are_kept_in_whatever_color(tmp_path: Path, void: bool) -> None:
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    labels[:, 8:16], labels[:, 16:24], labels[:, 24:] = 1, 2, 3
    if void:  # as in Pascal VOC: a border of 255
        labels[:, 8] = 255
    image = Image.fromarray(labels).convert("P")
    image.putpalette([0, 0, 0, 0, 0, 1, 128, 0, 0, 0, 64, 0] + [0] * 753 + [224, 224, 192])
    (tmp_path / "m").mkdir()
    image.save(tmp_path / "m" / "0.png")
    messages = ReaderMessages()
    mask = MaskFile(tmp_path / "m" / "0.png", judge_masks([tmp_path / "m" / "0.png"], "The masks", messages))
    assert np.array_equal(read_mask(mask), labels > 0)
    assert "labels" in messages[0]


def soft_half() -> np.ndarray:
    pixels = half()
    pixels[:, 14:18] = np.linspace(30, 220, 4 * HEIGHT).reshape(HEIGHT, 4)
    return pixels


def test_soft_edges_are_cut_at_half_and_it_is_said(tmp_path: Path) -> None:
    (mask,), messages = judged(soft_half(), folder=tmp_path)
    assert mask.reading.soft and np.array_equal(read_mask(mask), soft_half() > 127.5)
    assert len(messages) == 1 and "between black and white" in messages[0]


def test_the_noise_of_jpeg_is_no_label(tmp_path: Path) -> None:
    pixels = half(3, 250)
    pixels[::3, ::2] = np.where(pixels[::3, ::2] < 100, 0, 255)
    (mask, black), _ = judged(pixels, np.full((HEIGHT, WIDTH), 4, np.uint8), folder=tmp_path, suffix=".jpg", quality=95)
    assert mask.reading.soft and np.array_equal(read_mask(mask), half() > 0)
    assert not read_mask(black).any(), "a mask that is black but for noise keeps nothing"


def test_all_masks_of_a_capture_are_read_alike(tmp_path: Path) -> None:
    """One mask alone would pass for labels; those it lies among say what it is."""
    single = half(0, 255)
    single[:, 10:14] = 40
    alone, _ = judged(single, folder=tmp_path / "alone")
    among, messages = judged(single, *[soft_half()] * 7, folder=tmp_path / "among")
    assert (read_mask(alone[0])[:, 10:14]).all() and not read_mask(among[0])[:, 10:14].any()
    assert len(messages) == 1


@pytest.mark.parametrize("color", [0, 255, "photo"])
def test_a_mask_in_the_alpha_channel_is_used_and_it_is_said(tmp_path: Path, color: int | str) -> None:
    if color == "photo":  # a cut-out photo, as programs that remove backgrounds write
        colors = noise(HEIGHT, WIDTH)
    else:
        colors = np.full((HEIGHT, WIDTH, 3), color, dtype=np.uint8)
    whole = np.dstack([colors, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    (mask, of_all), messages = judged(np.dstack([colors, half()]), whole, folder=tmp_path)
    assert np.array_equal(read_mask(mask), half() > 0) and read_mask(of_all).all()
    assert len(messages) == 1 and "alpha channel" in messages[0]


def test_an_alpha_channel_beside_a_mask_in_colors_is_not_used(tmp_path: Path) -> None:
    for alpha in (np.full((HEIGHT, WIDTH), 255, np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8), half(255, 10)):
        (mask,), messages = judged(np.dstack([half()] * 3 + [alpha]), folder=tmp_path)
        assert messages == [] and np.array_equal(read_mask(mask), half() > 0)


def test_masks_of_one_color_do_not_decide(tmp_path: Path) -> None:
    white = np.full((HEIGHT, WIDTH, 4), 255, dtype=np.uint8)
    shaped = np.dstack([white[..., :3], half()])
    masks, messages = judged(*[white] * 12, shaped, folder=tmp_path)
    assert np.array_equal(read_mask(masks[-1]), half() > 0) and len(messages) == 1


def test_what_is_said_is_kept_with_the_scene_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_capture(tmp_path)
    for i in range(9):
        put(tmp_path / "masks" / f"im{i:02d}.png", half(1, 2))
    with caplog.at_level(logging.WARNING, logger="nfc_gs"):
        scene = load_scene(tmp_path)
    assert len(said(scene, "labels")) == 1 and caplog.text.count("labels") == 1
    assert masked(scene) == {}


def test_images_of_what_moves_are_read_by_the_same_rules(tmp_path: Path) -> None:
    write_capture(tmp_path)
    for i in range(9):
        put(tmp_path / "moving" / f"im{i:02d}.png", np.dstack([np.zeros((HEIGHT, WIDTH, 3), np.uint8), half()]))
    scene = load_scene(tmp_path)
    moving = scene.moving(0)
    assert moving is not None and np.array_equal(moving, half() > 0)
    assert said(scene, "moving/", "alpha channel")


# --- laid on a color ---------------------------------------------------------------------------------------------


def test_what_a_mask_leaves_out_is_laid_on_the_background_that_is_asked_for(tmp_path: Path) -> None:
    write_capture(tmp_path)
    for i in range(9):
        put(tmp_path / "masks" / f"im{i:02d}.png", half())
    before, scene = load_scene(tmp_path), load_scene(tmp_path, DataConfig(background=(1.0, 0.0, 0.5)))
    image = scene.image(0)
    assert image.mask is None and scene.background == (1.0, 0.0, 0.5)
    assert (image.rgb[:, : WIDTH // 2] == [255, 0, 128]).all()
    assert np.array_equal(image.rgb[:, WIDTH // 2 :], before.image(0).rgb[:, WIDTH // 2 :])
    assert describe_processing(before.views) == ["masked by images"]
    assert describe_processing(scene.views) == ["what masks leave out laid on a color"]


def test_a_background_that_nothing_is_laid_on_is_pointed_out(tmp_path: Path) -> None:
    write_capture(tmp_path)
    assert said(load_scene(tmp_path, DataConfig(background=(0.0, 0.0, 0.0))), "--image-background has no effect")
    put(tmp_path / "masks" / "im01.png", half())
    options = DataConfig(background=(0.0, 0.0, 0.0), masks=False)
    assert said(load_scene(tmp_path, options), "--image-background has no effect")
    assert not said(load_scene(tmp_path, DataConfig(background=(0.0, 0.0, 0.0))), "no effect")


def test_a_soft_mask_blends_and_labels_do_not(tmp_path: Path) -> None:
    path = put(tmp_path / "a.png", np.full((1, 3, 3), 200, np.uint8))
    mask = put(tmp_path / "m.png", np.array([[0, 51, 255]], np.uint8))
    color = (0.0, 0.0, 0.0)
    soft = decode(source_of(path, mask=MaskFile(mask, MaskReading(soft=True)), mask_background=color))
    hard = decode(source_of(path, mask=MaskFile(mask), mask_background=color))
    assert soft.rgb[0, :, 0].tolist() == [0, 40, 200] and hard.rgb[0, :, 0].tolist() == [0, 200, 200]
    deep = put(tmp_path / "deep.png", np.array([[0, 257 * 51, 65535]], np.uint16))
    assert read_matte(MaskFile(deep, MaskReading(soft=True))).tolist() == [[0, 51, 255]]


def test_a_mask_of_another_size_is_stretched_over_its_image(tmp_path: Path) -> None:
    path = put(tmp_path / "a.png", np.full((4, 8, 3), 200, np.uint8))
    mask = put(tmp_path / "m.png", np.array([[0, 255]], np.uint8))
    found = decode(source_of(path, mask=MaskFile(mask), mask_background=(0.0, 0.0, 0.0))).rgb[..., 0]
    assert found.tolist() == [[0] * 4 + [200] * 4] * 4


def test_masks_of_blender_captures_are_ignored_though_transparency_is_white(tmp_path: Path) -> None:
    write_transforms(tmp_path, mode="RGBA", name="transforms_train.json")
    put(tmp_path / "masks" / "images" / "im01.png", half())
    scene = load_scene(tmp_path)
    assert scene.background == (1.0, 1.0, 1.0) and masked(scene) == {"images/im01.png": True}


# --- captures of which little is left ----------------------------------------------------------------------------


def transparent(root: Path, alpha: int | np.ndarray, count: int = 9) -> None:
    """Give the first images of a capture an alpha channel."""
    for i in range(count):
        path = root / "images" / f"im{i:02d}.png"
        colors = np.array(Image.open(path).convert("RGB"))
        save(path, np.dstack([colors, np.broadcast_to(np.uint8(alpha), colors.shape[:2])]))


def test_a_capture_that_is_transparent_everywhere_is_refused(tmp_path: Path) -> None:
    transparent(write_capture(tmp_path), 0)
    with pytest.raises(UserError, match=r"transparent .*all 7 images.*--no-masks"):
        load_scene(tmp_path)
    assert load_scene(tmp_path, DataConfig(masks=False)).image(0).mask is None
    with pytest.raises(UserError, match=r"Every pixel .* is transparent"):
        load_scene(tmp_path, DataConfig(background=(0.0, 0.0, 0.0)))


def test_renders_that_are_transparent_everywhere_are_refused(tmp_path: Path) -> None:
    write_transforms(tmp_path, name="transforms_train.json")
    transparent(tmp_path, 0)
    with pytest.raises(UserError, match=r"Every pixel .* is transparent; save the images without an alpha"):
        load_scene(tmp_path)
    transparent(tmp_path, 1, count=2)
    assert load_scene(tmp_path).image(0).mask is None


@pytest.mark.parametrize("background", [None, (0.0, 0.0, 0.0)])
def test_masks_that_are_black_everywhere_are_refused(tmp_path: Path, background: tuple | None) -> None:
    write_capture(tmp_path)
    for i in range(9):
        put(tmp_path / "masks" / f"im{i:02d}.png", half(0, 0))
    with pytest.raises(UserError, match=r"masks leave out every pixel of all 7 images.*--no-masks"):
        load_scene(tmp_path, DataConfig(background=background))
    (tmp_path / "masks" / "im03.png").unlink()
    scene = load_scene(tmp_path, DataConfig(background=background))
    assert bool(said(scene, "6 images are ignored whole")) == (background is None)


def test_a_mask_and_an_alpha_channel_may_leave_nothing_together(tmp_path: Path) -> None:
    transparent(write_capture(tmp_path), half())
    for i in range(9):
        put(tmp_path / "masks" / f"im{i:02d}.png", half(255, 0))
    with pytest.raises(UserError, match="Masks and alpha channels leave out every pixel"):
        load_scene(tmp_path)


def test_a_large_ignored_share_is_said_with_the_images_that_are_ignored_whole(tmp_path: Path) -> None:
    write_capture(tmp_path)
    mostly = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mostly[:, :8] = 255
    for i in range(9):
        put(tmp_path / "masks" / f"im{i:02d}.png", half(0, 0) if i == 4 else mostly)
    (sentence,) = said(load_scene(tmp_path), "--no-masks")
    assert "79% of the pixels" in sentence and "1 image is ignored whole (im04.png)" in sentence  # (6 * 3/4 + 1) / 7


def test_a_small_ignored_share_needs_no_word(tmp_path: Path) -> None:
    write_capture(tmp_path)
    for i in range(9):
        put(tmp_path / "masks" / f"im{i:02d}.png", half())
    assert load_scene(tmp_path).messages == ()


def test_in_a_large_capture_one_image_that_counts_is_found_beyond_the_sample(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("nfc_gs.data.ignored.ALL_PIXELS", 100)
    monkeypatch.setattr("nfc_gs.data.ignored.SAMPLE", 2)
    write_capture(tmp_path, 12)
    for i in range(12):
        put(tmp_path / "masks" / f"im{i:02d}.png", half(0, 255 if i == 6 else 0))
    scene = load_scene(tmp_path)
    assert said(scene, "100% of the pixels", "2 of 10 that were looked at")
    put(tmp_path / "masks" / "im06.png", half(0, 0))
    with pytest.raises(UserError, match="all 10 images"):
        load_scene(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_among_the_masks_is_never_opened(tmp_path: Path) -> None:
    write_transforms(tmp_path)
    (tmp_path / "masks").mkdir()
    os.mkfifo(tmp_path / "masks" / "im02.png")
    put(tmp_path / "masks" / "im03.png", half())
    assert masked(load_scene(tmp_path)) == {"im03.png": True}
