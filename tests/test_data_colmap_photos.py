"""The reader of COLMAP models: which files are the photos, and which of them are held out."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from colmap_models import HEIGHT, NAMES, WIDTH, files_of, text_model, write_images, write_model
from PIL import Image

from nfc_gs.core.errors import UserError
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene


@pytest.fixture
def capture(tmp_path) -> Path:
    write_model(tmp_path / "sparse" / "0", NAMES)
    write_images(tmp_path / "images", NAMES)
    return tmp_path


# --- which files are the photos ----------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["images_8", "input", "images_2"])
def test_a_photo_missing_from_images_is_named_and_no_other_folder_is_used(capture, other):
    shutil.copytree(capture / "images", capture / other)
    (capture / "images" / "im2.png").unlink()
    scene = load_scene(capture)
    assert files_of(scene) == {name: capture / "images" / name for name in NAMES if name != "im2.png"}
    assert any("1 of 4 images" in text and "left out: im2.png" in text for text in scene.messages)
    assert not any(other in text for text in scene.messages)


def test_smaller_copies_are_used_and_named_where_images_has_not_most(capture):
    for name in NAMES:
        (capture / "images_8").mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH // 8, HEIGHT // 8)).save(capture / "images_8" / name)
    for name in NAMES[:2]:
        (capture / "images" / name).unlink()
    scene = load_scene(capture)
    assert files_of(scene) == {name: capture / "images_8" / name for name in NAMES}
    assert (scene.views[0].camera.width, scene.views[0].camera.fx) == (WIDTH // 8, 30 / 8)
    sentences = [text for text in scene.messages if "images_8" in text]
    assert len(sentences) == 1
    assert "images has only 2 of the 4" in sentences[0] and "images_8 at 1/8 of the size are used" in sentences[0]
    camera = load_scene(capture, DataConfig(downscale="8")).views[0].camera  # which the copies are already
    assert (camera.width, camera.height) == (WIDTH // 8, HEIGHT // 8)
    shutil.rmtree(capture / "images")
    assert any("There is no folder" in text for text in load_scene(capture).messages)


def test_half_of_the_photos_in_images_alone_are_trained_on_and_less_stops(capture):
    for name in NAMES[:2]:
        (capture / "images" / name).unlink()
    assert len(load_scene(capture).views) == 2
    (capture / "images" / NAMES[2]).unlink()
    with pytest.raises(
        UserError, match=r"3 of 4 images .* below .*images \(im0.*\); put them there, under these names"
    ):
        load_scene(capture)


def test_a_depth_map_is_not_taken_for_a_missing_photo(tmp_path):
    names = [f"im{i}.jpg" for i in range(6)]
    write_model(tmp_path / "sparse", names)
    write_images(tmp_path / "images", names)
    (tmp_path / "images" / "im3.jpg").unlink()
    write_images(tmp_path / "images", ["im3.png"])
    scene = load_scene(tmp_path)
    assert [view.name for view in scene.views] == [name for name in names if name != "im3.jpg"]
    assert any("im3.png: most photos have the suffix" in text for text in scene.messages)


def test_a_set_of_photos_in_another_format_is_used_and_said(tmp_path):
    names = [f"im{i}.jpg" for i in range(6)]
    write_model(tmp_path / "sparse", names)
    write_images(tmp_path / "images", [f"im{i}.png" for i in range(6)])
    scene = load_scene(tmp_path)
    assert files_of(scene) == {name: (tmp_path / "images" / name).with_suffix(".png") for name in names}
    assert any("those with another are used (im0.png for im0.jpg)" in text for text in scene.messages)
    Image.fromarray(np.full((HEIGHT, WIDTH), 4000, dtype=np.uint16)).save(tmp_path / "images" / "im1.png")
    scene = load_scene(tmp_path)
    assert len(scene.views) == 5 and any("im1.png: it has more than 8 bits" in text for text in scene.messages)


def test_images_that_lie_beside_photos_are_not_photos_where_most_of_these_are_missing(tmp_path):
    names = [f"im{i}.jpg" for i in range(6)]
    write_model(tmp_path / "sparse", names)
    write_images(tmp_path / "images", [*names[:2], *(f"im{i}.png" for i in range(6))])
    with pytest.raises(UserError, match="4 of 6 images of the capture are not on disk"):
        load_scene(tmp_path)


def test_one_file_is_never_the_photo_of_two_images(tmp_path):
    write_model(tmp_path / "sparse", ["a.png", "A.PNG", "b.png", "b.jpg", "c.png", "d.png", "e.png"])
    write_images(tmp_path / "images", ["a.png", "b.png", "c.png", "d.png", "e.png"])
    scene = load_scene(tmp_path)
    assert [view.name for view in scene.views] == ["a.png", "b.png", "c.png", "d.png", "e.png"]


@pytest.mark.parametrize(("form", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("text", [False, True])
def test_names_match_in_either_normal_form_of_unicode(tmp_path, form, on_disk, text):
    names = [f"Küche/Größe {i} é.png" for i in range(4)]
    write_model(tmp_path / "sparse", [unicodedata.normalize(form, name) for name in names], text)
    if text:
        (tmp_path / "sparse" / "images.txt").write_bytes(text_model([unicodedata.normalize(form, n) for n in names]))
    write_images(tmp_path / "images", [unicodedata.normalize(on_disk, name) for name in names])
    assert len(load_scene(tmp_path).views) == 4


@pytest.mark.parametrize(
    ("code_page", "name"),
    [
        ("gbk", "微信截图_{}.png"),
        ("cp932", "写真 表{}.png"),
        ("cp949", "사진{}.png"),
        ("cp1251", "фото{}.png"),
        ("cp1257", "šūš{}.png"),
    ],
)
@pytest.mark.parametrize("text", [False, True])
def test_names_in_a_code_page_are_decoded_to_names_of_files(tmp_path, code_page, name, text):
    names = [name.format(i) for i in range(4)]
    write_model(tmp_path / "sparse", NAMES, text)
    write_images(tmp_path / "images", names)
    file = tmp_path / "sparse" / ("images.txt" if text else "images.bin")
    content = file.read_bytes()
    for old, new in zip(NAMES, names, strict=True):
        content = content.replace(old.encode(), new.encode(code_page))
    file.write_bytes(content)
    scene = load_scene(tmp_path)
    assert [view.name for view in scene.views] == sorted(names)
    assert any("names of 4 images" in text and "code page" in text for text in scene.messages)


def test_names_in_no_known_code_page_are_told_as_bytes(tmp_path):
    folder = write_model(tmp_path / "sparse", NAMES)
    write_images(tmp_path / "images", NAMES)
    file = folder / "images.bin"
    file.write_bytes(file.read_bytes().replace(b"im1.png", b"\xff\xfe1.png"))
    scene = load_scene(tmp_path)
    assert len(scene.views) == 3 and any(r"left out: \xff\xfe1.png" in text for text in scene.messages)


@pytest.mark.parametrize("absolute", [False, True])
def test_names_that_lead_out_of_the_folder_are_read_as_they_are(tmp_path, absolute):
    away = tmp_path / "away"
    names = [f"{away}/{name}" if absolute else f"../../away/{name}" for name in NAMES]
    write_model(tmp_path / "capture" / "sparse", names)
    write_images(tmp_path / "capture" / "images", ["other.png"])
    write_images(away, NAMES)
    assert [view.name for view in load_scene(tmp_path / "capture").views] == names


def test_folders_that_are_links_are_followed_and_cycles_are_not(tmp_path):
    write_model(tmp_path / "sparse", [f"left/{name.upper()}" for name in NAMES])
    write_images(tmp_path / "elsewhere", NAMES)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "left").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "itself").symlink_to("itself")
    scene = load_scene(tmp_path)
    assert sorted(files_of(scene).values()) == [tmp_path / "images" / "left" / name for name in NAMES]


def test_a_named_pipe_is_never_opened_and_is_named(capture):
    (capture / "images" / "im1.png").unlink()
    for path in ("images/im1.png", "images/extra.jpg", "test.txt", "sparse/0/points3D.ply", "sparse/0/points3D.txt"):
        os.mkfifo(capture / path)
    scene = load_scene(capture)
    assert len(scene.views) == 3
    assert any("left out: im1.png (im1.png: no regular file)" in text for text in scene.messages)
    (capture / "sparse" / "0" / "images.bin").unlink()
    os.mkfifo(capture / "sparse" / "0" / "images.bin")
    with pytest.raises(UserError, match=r"images\.bin is missing"):
        load_scene(capture)


def test_many_entries_of_one_name_get_one_warning(tmp_path):
    write_model(tmp_path / "sparse", NAMES)
    write_images(tmp_path / "images", NAMES)
    file = tmp_path / "sparse" / "images.txt"
    entries = "".join(f"{i} 1 0 0 0 {i % 9} 0 4 1 im{i % 4}.png\n\n" for i in range(1, 20001))
    file.write_text(entries)
    (tmp_path / "sparse" / "images.bin").unlink()
    scene = load_scene(tmp_path)
    assert len(scene.views) == 4
    sentences = [text for text in scene.messages if "more than once" in text]
    assert len(sentences) == 1 and "4 images occur" in sentences[0] and "19996 are left out" in sentences[0]


# --- test.txt ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"im1\nim3\n",
        b"\xef\xbb\xbfim1.png\nim3.png",
        b"im1.png\r\n\r\n  im3\r\n",
        b"images/im1.png\nIM3.PNG\n",
        "im1.png\nim3.png\n".encode("utf-16"),
    ],
)
def test_test_txt_may_leave_out_suffixes_and_begin_with_a_byte_order_mark(capture, content):
    (capture / "test.txt").write_bytes(content)
    scene = load_scene(capture)
    assert [scene.views[i].name for i in scene.test] == ["im1.png", "im3.png"]
    assert not any("test.txt" in text for text in scene.messages)


def test_names_in_test_txt_of_no_image_are_said(capture):
    (capture / "test.txt").write_text("im1\nnone\nim9.png\n")
    scene = load_scene(capture)
    assert [scene.views[i].name for i in scene.test] == ["im1.png"]
    assert any("2 of the 3 names in" in t and "(none, im9.png); they are ignored" in t for t in scene.messages)
    (capture / "test.txt").write_text("none\n")
    scene = load_scene(capture)
    assert scene.test == (0,) and any("test.txt" in t and "the file is not used" in t for t in scene.messages)


def test_a_name_in_test_txt_that_fits_several_images_is_not_guessed(tmp_path):
    names = ["a/1.png", "b/1.png", "b/2.png", "b/3.png"]
    write_model(tmp_path / "sparse", names)
    write_images(tmp_path / "images", names)
    (tmp_path / "test.txt").write_text("1\n2\n")
    scene = load_scene(tmp_path)
    assert [scene.views[i].name for i in scene.test] == ["b/2.png"]
    assert any("of no image, or of several (1)" in text for text in scene.messages)
