"""Decoded copies of photos on disk: they are exact, are made again when something changed, and stay within a bound."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lenses import HEIGHT, WIDTH, lens_of
from photos import noise, save, source_of

from nfc_gs.core.errors import UserError
from nfc_gs.data import image_copies
from nfc_gs.data.image_copies import SUFFIX, ImageCopies
from nfc_gs.data.image_source import ImageSource, MaskFile, MaskReading
from nfc_gs.data.images import decode
from nfc_gs.data.lens import pinholes
from nfc_gs.data.scene import ViewImage

MEGABYTE = 1_000_000
ONE = 10 * 10 * 3 + 80
"""Bytes of a copy of 10 x 10 pixels: colors and header."""


class Decoder:
    """`decode`, and which files it was called with."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def __call__(self, source: ImageSource) -> ViewImage:
        self.paths.append(source.path.name)
        return decode(source)


def photos(folder: Path, count: int) -> list[ImageSource]:
    return [source_of(save(folder / f"{i}.png", noise(10, 10, seed=i))) for i in range(count)]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def same(a: ViewImage, b: ViewImage) -> bool:
    masks = (a.mask is None) == (b.mask is None) and (a.mask is None or np.array_equal(a.mask, b.mask))
    return masks and a.rgb.dtype == b.rgb.dtype and np.array_equal(a.rgb, b.rgb)


def plain(folder: Path) -> ImageSource:
    return source_of(save(folder / "a.png", noise(21, 17)))


def with_alpha(folder: Path) -> ImageSource:
    return source_of(save(folder / "a.png", noise(21, 17, 4)), width=8, height=10)


def undistorted(folder: Path) -> ImageSource:
    lens = lens_of("OPENCV")
    return source_of(save(folder / "a.jpg", noise(HEIGHT, WIDTH)), lens=lens, pinhole=pinholes(lens)[0])


def ignored_whole(folder: Path) -> ImageSource:
    return source_of(save(folder / "a.png", np.zeros((5, 3, 4), np.uint8)))


@pytest.mark.parametrize("kind", [plain, with_alpha, undistorted, ignored_whole])
def test_a_copy_is_the_decoded_picture_bit_for_bit(tmp_path: Path, kind: Callable[[Path], ImageSource]) -> None:
    source, decoder = kind(tmp_path), Decoder()
    copies = ImageCopies(tmp_path / "copies", MEGABYTE)
    first, second = copies.image(source, decoder), copies.image(source, decoder)
    third = ImageCopies(tmp_path / "copies", MEGABYTE).image(source, decoder)
    assert len(decoder.paths) == 1
    assert (kind is plain) == (first.mask is None)
    assert all(same(image, decode(source)) for image in (first, second, third))


def test_every_setting_has_a_copy_of_its_own(tmp_path: Path) -> None:
    lens = lens_of("OPENCV")
    source = source_of(save(tmp_path / "a.png", noise(HEIGHT, WIDTH, 4)), lens=lens, pinhole=pinholes(lens)[0])
    mask = save(tmp_path / "mask.png", noise(HEIGHT, WIDTH, 1)[..., 0])
    assert source.pinhole is not None
    others = [
        replace(source, width=80, height=60),
        replace(source, turn=True),
        replace(source, background=(0.0, 0.5, 1.0)),
        replace(source, background=(0.0, 0.5, 0.9)),
        replace(source, alpha_is_mask=False),
        replace(source, mask=MaskFile(mask)),
        replace(source, mask=MaskFile(mask, MaskReading(soft=True))),
        replace(source, mask=MaskFile(mask), mask_background=(1.0, 1.0, 1.0)),
        replace(source, lens=replace(lens, params=(*lens.params[:-1], lens.params[-1] + 1e-9))),
        replace(source, pinhole=replace(source.pinhole, fx=source.pinhole.fx + 1e-9)),
        replace(source, path=save(tmp_path / "b.png", noise(HEIGHT, WIDTH, 4))),
    ]
    copies = ImageCopies(tmp_path / "copies", 10 * MEGABYTE)
    for each in (source, *others):
        assert same(copies.image(each), decode(each))
    assert len(files(copies.folder)) == 1 + len(others)
    copies.image(replace(source, moving=MaskFile(mask)))  # which is no part of the picture
    assert len(files(copies.folder)) == 1 + len(others)


@pytest.mark.parametrize("what", ["photo", "mask"])
def test_a_file_that_has_changed_is_decoded_again(tmp_path: Path, what: str) -> None:
    photo = save(tmp_path / "photo.png", noise(10, 10))
    mask = save(tmp_path / "mask.png", np.full((10, 10), 255, np.uint8))
    source = source_of(photo, mask=MaskFile(mask))
    copies = ImageCopies(tmp_path / "copies", MEGABYTE)
    before = copies.image(source)
    changed, stat = (photo, photo.stat()) if what == "photo" else (mask, mask.stat())
    save(changed, noise(10, 10, seed=9) if what == "photo" else np.eye(10, dtype=np.uint8) * 255)
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    after = copies.image(source)
    assert same(after, decode(source)) and not same(after, before)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip_a_pixel(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def turn_its_sides(path: Path) -> None:
    """Width for height, which leaves the number of pixels as it is."""
    content = path.read_bytes()
    path.write_bytes(content[:64] + content[68:72] + content[64:68] + content[72:])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def take_that_of_another(path: Path) -> None:
    other = ImageCopies(path.parent.parent / "others", MEGABYTE)
    other.image(source_of(save(path.parent.parent / "other.png", noise(12, 10, seed=5))))
    shutil.copy(files(other.folder)[0], path)


@pytest.mark.parametrize("damage", [cut, lengthen, flip_a_pixel, turn_its_sides, empty, take_that_of_another])
def test_a_damaged_copy_is_noticed_and_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    source, decoder = source_of(save(tmp_path / "a.png", noise(12, 10))), Decoder()
    copies = ImageCopies(tmp_path / "copies", 12 * 10 * 3 + 80)
    copies.image(source)
    damage(files(copies.folder)[0])
    for _ in range(2):
        assert same(copies.image(source, decoder), decode(source))
    assert len(decoder.paths) == 1, "the first time alone"


def test_copies_stay_within_the_limit_and_those_of_the_capture_stay(tmp_path: Path) -> None:
    sources, decoder = photos(tmp_path, 5), Decoder()
    copies = ImageCopies(tmp_path / "copies", 3 * ONE + 10, sources)
    for _ in range(2):
        for source in sources:
            assert same(copies.image(source, decoder), decode(source))
        assert sum(path.stat().st_size for path in files(copies.folder)) == 3 * ONE
    assert decoder.paths == ["0.png", "1.png", "2.png", "3.png", "4.png", "3.png", "4.png"]


def test_the_longest_unused_copies_of_other_captures_go_first(tmp_path: Path) -> None:
    sources = photos(tmp_path, 6)
    folder = tmp_path / "copies"
    copies = ImageCopies(folder, 4 * ONE)
    for age, source in enumerate(sources[:4]):
        copies.image(source)
        os.utime(max(files(folder), key=lambda path: path.stat().st_mtime_ns), (1000 + age, 1000 + age))
    copies = ImageCopies(folder, 4 * ONE, [sources[0], *sources[4:]])  # 0 is the oldest, and used again
    copies.image(sources[4])
    decoder = Decoder()
    again = ImageCopies(folder, 4 * ONE, sources)
    for source in (sources[0], sources[4], sources[2], sources[3]):
        again.image(source, decoder)
    assert decoder.paths == []
    again.image(sources[1], decoder)
    assert decoder.paths == ["1.png"]


def test_a_lower_limit_holds_from_the_beginning(tmp_path: Path) -> None:
    sources, folder = photos(tmp_path, 4), tmp_path / "copies"
    copies = ImageCopies(folder, MEGABYTE)
    for source in sources:
        copies.image(source)
    assert ImageCopies(folder, 2 * ONE, sources[:3]).own_bytes == 2 * ONE
    assert len(files(folder)) == 2


def test_other_files_in_the_folder_are_left_alone_and_half_written_copies_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / f".{'0' * 64}.1-00.partial{SUFFIX}").write_bytes(b"half")
    os.utime(folder / f".{'0' * 64}.1-00.partial{SUFFIX}", (1000, 1000))
    copies = ImageCopies(folder, 0)
    copies.image(photos(tmp_path, 1)[0])
    assert sorted(path.name for path in folder.iterdir()) == ["CACHEDIR.TAG", "notes.txt"]


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_full_disk_is_said_once_and_pictures_are_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    sources, decoder = photos(tmp_path, 3), Decoder()
    copies = ImageCopies(tmp_path / "copies", MEGABYTE, sources)
    copies.image(sources[0])
    if when == "before":
        monkeypatch.setattr(image_copies, "LEAST_FREE", 10**18)
    else:

        def full(source: Path, target: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(image_copies.os, "replace", full)
    for _ in range(2):
        for source in sources:
            assert same(copies.image(source, decoder), decode(source))
    assert decoder.paths == ["1.png", "2.png"] * 2
    assert [path for path in copies.folder.iterdir() if path.name != "CACHEDIR.TAG"] == files(copies.folder)
    assert len(files(copies.folder)) == 1
    (record,) = caplog.records
    assert "decoded again" in record.message and "the disk is full; free some space" in record.message


def test_a_folder_that_is_removed_meanwhile_costs_nothing_but_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (source,) = photos(tmp_path, 1)
    copies = ImageCopies(tmp_path / "copies", MEGABYTE, [source])
    copies.image(source)
    shutil.rmtree(copies.folder)
    assert same(copies.image(source), decode(source)) and same(copies.image(source), decode(source))
    assert len(caplog.records) == 1 and not copies.folder.exists()


@pytest.mark.parametrize("what", ["photo", "mask"])
def test_a_photo_that_vanished_is_named_though_there_is_a_copy(tmp_path: Path, what: str) -> None:
    photo, mask = save(tmp_path / "photo.png", noise(10, 10)), save(tmp_path / "mask.png", noise(10, 10, 1)[..., 0])
    source = source_of(photo, mask=MaskFile(mask))
    copies = ImageCopies(tmp_path / "copies", MEGABYTE, [source])
    copies.image(source)
    (tmp_path / f"{what}.png").unlink()
    with pytest.raises(UserError, match=rf"{what}\.png is not there"):
        copies.image(source)
    ImageCopies(tmp_path / "copies", MEGABYTE, [source])  # who opens a capture is told when the photo is needed


def test_threads_that_want_the_same_pictures_all_get_them(tmp_path: Path) -> None:
    sources = photos(tmp_path, 4)
    expected = [decode(source) for source in sources]
    copies = ImageCopies(tmp_path / "copies", 2 * ONE, sources)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for i in np.random.default_rng(seed).integers(0, 4, 50):
            if not same(copies.image(sources[i]), expected[i]):
                wrong.append(int(i))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not wrong and len(files(copies.folder)) <= 2


def test_a_copy_of_another_version_of_a_library_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = photos(tmp_path, 1)
    decoder = Decoder()
    copies = ImageCopies(tmp_path / "copies", MEGABYTE)
    copies.image(source, decoder)
    monkeypatch.setattr(image_copies, "_versions", lambda: ("1.0",))
    copies.image(source, decoder)
    assert len(decoder.paths) == 2
