"""Decoding, masks, resizing and the image cache."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import noise, save, source_of, view_of
from PIL import Image

from nfc_gs.core.errors import UserError
from nfc_gs.data import image_cache
from nfc_gs.data.image_cache import ImageCache, Throttle
from nfc_gs.data.image_copies import ImageCopies
from nfc_gs.data.image_files import read_header
from nfc_gs.data.image_source import ImageSource, MaskFile
from nfc_gs.data.images import area_average, decode, decode_foreground, shrink
from nfc_gs.data.scene import ViewImage


def naive_area_average(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The definition, pixel by pixel: overlap of intervals times value."""
    width, height = size
    old_height, old_width = image.shape[:2]
    overlap = lambda n, old: np.array(  # noqa: E731
        [[max(0.0, min((i + 1) * old / n, j + 1) - max(i * old / n, j)) for j in range(old)] for i in range(n)]
    )
    rows, columns = overlap(height, old_height), overlap(width, old_width)
    total = np.einsum("ij,jkc,lk->ilc", rows, image.astype(np.float64), columns)
    return total * (width * height / (old_width * old_height))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_area_averages_are_means_over_the_area_each_pixel_covers(height, width, data):
    size = data.draw(st.integers(1, width)), data.draw(st.integers(1, height))
    image = noise(height, width)
    # rounding to eight bits is half a step; float32 sums may fall on the other side of it
    assert np.abs(area_average(image, size) - naive_area_average(image, size)).max() <= 0.501


def test_tall_images_are_averaged_block_by_block_without_seams():
    image = noise(413, 3)
    assert np.abs(area_average(image, (3, 301)) - naive_area_average(image, (3, 301))).max() <= 0.501


def test_a_pixel_counts_only_where_all_it_covers_counts():
    mask = np.full((6, 9), 255, dtype=np.uint8)
    mask[4, 0] = 0
    small = shrink(ViewImage(noise(6, 9), mask), 4, 3)
    assert small.mask is not None
    assert (small.mask == 0).tolist() == [[False] * 4, [False] * 4, [True, False, False, False]]


def test_a_mask_that_ignores_nothing_is_none(tmp_path):
    path = save(tmp_path / "a.png", np.dstack([noise(4, 4), np.full((4, 4), 255, np.uint8)]))
    assert decode(source_of(path)).mask is None


def test_grey_images_have_three_equal_channels(tmp_path):
    grey = noise(5, 7)[..., 0]
    frame = decode(source_of(save(tmp_path / "grey.png", grey)))
    assert np.array_equal(frame.rgb, np.repeat(grey[..., None], 3, axis=2))


def test_sixteen_bits_of_grey_become_the_nearest_eight(tmp_path):
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    frame = decode(source_of(save(tmp_path / "deep.png", deep)))
    assert frame.rgb[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_one_bit_images_are_black_and_white(tmp_path):
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1").save(tmp_path / "bit.png")
    assert decode(source_of(tmp_path / "bit.png")).rgb[0, :, 0].tolist() == [0, 255]


def test_palette_images_show_their_colors_and_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=0)
    assert read_header(tmp_path / "palette.png").has_alpha
    frame = decode(source_of(tmp_path / "palette.png"))
    assert frame.rgb[0, 1].tolist() == [200, 100, 50]
    assert frame.mask is not None and frame.mask.tolist() == [[0, 255]]


def test_cmyk_photos_become_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "ink.jpg", quality=95)
    red = decode(source_of(tmp_path / "ink.jpg")).rgb[4, 4].astype(int)
    assert red[0] > 240 and red[1] < 15 and red[2] < 15


def test_floating_point_images_are_refused_by_name(tmp_path):
    Image.fromarray(np.zeros((2, 2), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"float\.tif.*floating-point"):
        decode(source_of(tmp_path / "float.tif"))


def test_an_alpha_channel_is_a_mask_without_a_background(tmp_path):
    alpha = np.array([[0, 127, 128, 255]], dtype=np.uint8)
    path = save(tmp_path / "a.png", np.dstack([noise(1, 4), alpha]))
    mask = decode(source_of(path)).mask
    assert mask is not None and mask.tolist() == [[0, 0, 255, 255]]
    assert decode(source_of(path, alpha_is_mask=False)).mask is None


def test_foreground_is_what_is_mostly_opaque_where_transparency_is_laid_on_a_color(tmp_path):
    rgba = np.dstack([noise(2, 4), np.array([[0, 127, 128, 255], [255, 255, 0, 254]], np.uint8)])
    path, white = save(tmp_path / "a.png", rgba), (1.0, 1.0, 1.0)
    foreground = decode_foreground(source_of(path, background=white))
    assert foreground is not None and foreground.tolist() == [[False, False, True, True], [True, True, False, True]]
    half_size = decode_foreground(source_of(path, background=white, width=2, height=1))
    assert half_size is not None and half_size.tolist() == [[True, True]]  # means of 159 and 159
    assert decode_foreground(source_of(path)) is None, "what is transparent is masked out"
    opaque = save(tmp_path / "b.png", noise(2, 4))
    assert decode_foreground(source_of(opaque, background=white)) is None


def test_foreground_is_what_masks_keep_where_they_are_laid_on_a_color(tmp_path):
    path = save(tmp_path / "a.png", noise(1, 4))
    mask = MaskFile(save(tmp_path / "m.png", np.array([[0, 255, 255, 0]], np.uint8)))
    foreground = decode_foreground(source_of(path, mask=mask, mask_background=(0.0, 0.0, 0.0)))
    assert foreground is not None and foreground.tolist() == [[False, True, True, False]]
    assert decode_foreground(source_of(path, mask=mask)) is None
    both = np.dstack([noise(1, 4), np.array([[255, 255, 0, 255]], np.uint8)])
    source = source_of(
        save(tmp_path / "b.png", both), mask=mask, mask_background=(0.0, 0.0, 0.0), background=(0.0, 0.0, 0.0)
    )
    foreground = decode_foreground(source)
    assert foreground is not None and foreground.tolist() == [[False, True, False, False]]


def test_transparent_pixels_are_laid_on_the_background(tmp_path):
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], dtype=np.uint8)
    frame = decode(source_of(save(tmp_path / "a.png", rgba), background=(0.0, 1.0, 0.5)))
    assert frame.mask is None
    # 0.2 * color + 0.8 * (0, 255, 127.5), rounded
    assert frame.rgb[0].tolist() == [[200, 100, 0], [0, 255, 128], [40, 224, 102]]


@pytest.mark.parametrize("white", [1, 255])
def test_black_in_a_mask_is_ignored_whether_it_is_stored_as_ones_or_as_255(tmp_path, white):
    path = save(tmp_path / "a.png", noise(2, 2))
    mask = save(tmp_path / "mask.png", np.array([[0, white], [white, white]], dtype=np.uint8))
    found = decode(source_of(path, mask=MaskFile(mask))).mask
    assert found is not None and found.tolist() == [[0, 255], [255, 255]]


def test_an_all_black_mask_ignores_everything(tmp_path):
    path, mask = save(tmp_path / "a.png", noise(2, 2)), save(tmp_path / "m.png", np.zeros((2, 2), np.uint8))
    found = decode(source_of(path, mask=MaskFile(mask))).mask
    assert found is not None and not found.any()


def test_mask_and_alpha_both_count(tmp_path):
    rgba = np.dstack([noise(1, 3), np.array([[0, 255, 255]], np.uint8)])
    mask = save(tmp_path / "m.png", np.array([[255, 255, 0]], np.uint8))
    found = decode(source_of(save(tmp_path / "a.png", rgba), mask=MaskFile(mask))).mask
    assert found is not None and found.tolist() == [[0, 255, 0]]


def test_a_truncated_jpeg_names_the_file(tmp_path):
    path = save(tmp_path / "photo.jpg", noise(64, 64))
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(UserError, match=r"photo\.jpg is damaged or cut short"):
        decode(source_of(path))


def test_a_file_that_is_no_image_names_the_file(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(UserError, match=r"a\.png is not an image"):
        read_header(tmp_path / "a.png")


def test_a_file_that_vanished_names_the_file(tmp_path):
    source = source_of(save(tmp_path / "a.png", noise(2, 2)))
    source.path.unlink()
    with pytest.raises(UserError, match=r"a\.png is not there"):
        decode(source)


def test_a_file_that_changed_size_is_refused(tmp_path):
    source = source_of(save(tmp_path / "a.png", noise(2, 2)))
    save(source.path, noise(3, 2))
    with pytest.raises(UserError, match="has changed"):
        decode(source)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL's, on what it met in the file
@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif", "bmp", "tif", "ppm"])
def test_broken_image_files_of_every_kind_raise_only_our_error(tmp_path, kind):
    rng = np.random.default_rng(1)
    path = save(tmp_path / f"a.{kind}", noise(24, 24))
    whole = path.read_bytes()
    for _ in range(40):
        broken = bytearray(whole[: rng.integers(len(whole) + 1)] if rng.random() < 0.5 else whole)
        for position in rng.integers(0, max(1, len(broken)), 4):
            if len(broken):
                broken[position] = rng.integers(256)
        path.write_bytes(broken)
        try:
            decode(source_of(path))
        except UserError as error:
            assert path.name in str(error)


# --- the cache ---------------------------------------------------------------------------------------------------


def test_a_cached_picture_is_the_same_object_until_it_is_evicted(tmp_path):
    views = [view_of(save(tmp_path / f"{i}.png", noise(10, 10, seed=i))) for i in range(3)]
    cache = ImageCache(cache_gb=650e-9)  # room for two of 300 bytes
    first = cache.image(views[0])
    assert cache.image(views[0]) is first
    cache.image(views[1])
    cache.image(views[0])  # used again, so 1 is the one to go
    cache.image(views[2])
    assert cache.nbytes == 600
    assert cache.image(views[0]) is first


def test_the_cache_never_holds_more_than_its_bound(tmp_path):
    views = [view_of(save(tmp_path / f"{i}.png", noise(10, 10, seed=i))) for i in range(8)]
    cache = ImageCache(cache_gb=1000e-9, threads=3)
    for step in range(40):
        cache.prefetch([views[(step + k) % 8] for k in range(4)], 1 + step % 3)
        cache.image(views[step % 8], 1 + step % 3)
        assert cache.nbytes <= 1000


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
def test_pictures_do_not_depend_on_cache_size_threads_or_order(tmp_path, cache_gb):
    views = [view_of(save(tmp_path / f"{i}.png", noise(21, 17, seed=i))) for i in range(4)]
    expected = {
        (i, d): shrink(decode(v.source), max(1, round(17 / d)), max(1, round(21 / d)))
        for i, v in enumerate(views)
        for d in (1, 2, 4)
    }
    cache = ImageCache(cache_gb, threads=3)
    failures: list[object] = []

    def worker(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(30):
            i, d = int(rng.integers(4)), int(2 ** rng.integers(3))
            cache.prefetch([views[int(rng.integers(4))]], d)
            if not np.array_equal(cache.image(views[i], d).rgb, expected[i, d].rgb):
                failures.append((i, d))

    threads = [threading.Thread(target=worker, args=(s,)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not failures and not any(thread.is_alive() for thread in threads)


def test_divisors_round_sizes_as_the_camera_does(tmp_path):
    view = view_of(save(tmp_path / "a.png", noise(11, 9)))
    assert ImageCache().image(view, 2).rgb.shape == (round(11 / 2), round(9 / 2), 3)
    assert ImageCache().image(view, 64).rgb.shape == (1, 1, 3)


def test_an_error_in_the_background_shows_when_the_picture_is_asked_for(tmp_path):
    path = save(tmp_path / "a.jpg", noise(64, 64))
    view = view_of(path)
    path.write_bytes(path.read_bytes()[:1500])
    cache = ImageCache(threads=1)
    cache.prefetch([view])
    for _ in range(2):
        with pytest.raises(UserError, match=r"a\.jpg"):
            cache.image(view)


def decoded_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that a cache decodes from now on."""
    names: list[str] = []

    def counting(source: ImageSource) -> ViewImage:
        names.append(source.path.name)
        return decode(source)

    monkeypatch.setattr(image_cache, "decode", counting)
    return names


def test_pictures_that_are_decoded_ahead_are_still_there_when_they_are_needed(tmp_path, monkeypatch):
    views = [view_of(save(tmp_path / f"{i}.png", noise(10, 10, seed=i))) for i in range(8)]
    names = decoded_names(monkeypatch)
    cache = ImageCache(cache_gb=4 * 300e-9, threads=3)
    for step in range(8):
        cache.prefetch(views[step : step + 8])
        cache.image(views[step])
    assert sorted(names) == [f"{i}.png" for i in range(8)], "each once"


def test_what_was_decoded_before_is_not_pushed_out_by_what_is_decoded_ahead(tmp_path, monkeypatch):
    views = [view_of(save(tmp_path / f"{i}.png", noise(10, 10, seed=i))) for i in range(5)]
    cache = ImageCache(cache_gb=4 * 300e-9, threads=1)
    for view in views[:4]:
        cache.image(view)
    names = decoded_names(monkeypatch)
    cache.prefetch([views[0], views[4]])  # of the four, 0 was used the longest ago
    cache.image(views[4])
    cache.image(views[0])
    assert names == ["4.png"]


def test_a_cache_with_copies_decodes_each_photo_once_however_small_it_is(tmp_path, monkeypatch):
    views = [view_of(save(tmp_path / f"{i}.png", noise(21, 17, seed=i))) for i in range(4)]
    expected = [shrink(decode(view.source), round(17 / 2), round(21 / 2)) for view in views if view.source]
    names = decoded_names(monkeypatch)
    for _ in range(2):
        cache = ImageCache(0.0, threads=2, copies=ImageCopies(tmp_path / "copies", 10**6))
        for _ in range(2):
            for view, picture in zip(views, expected, strict=True):
                assert np.array_equal(cache.image(view, 2).rgb, picture.rgb)
    assert sorted(names) == [f"{i}.png" for i in range(4)]


def test_a_photo_that_vanished_is_named_though_there_is_a_copy_of_it(tmp_path):
    view = view_of(save(tmp_path / "a.png", noise(10, 10)))
    cache = ImageCache(0.0, copies=ImageCopies(tmp_path / "copies", 10**6))
    cache.image(view)
    other = view_of(save(tmp_path / "b.png", noise(10, 10)))
    cache.image(other)  # pushes it out of memory
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"a\.png is not there"):
        cache.image(view)


def test_a_throttle_lets_in_what_fits_together_and_anything_alone():
    throttle, held, most, lock = Throttle(10), [0], [0], threading.Lock()
    reached = threading.Barrier(2, timeout=60)

    def work(size: int, together: bool) -> None:
        for _ in range(30):
            with throttle.holding(size):
                with lock:
                    held[0] += size
                    most[0] = max(most[0], held[0])
                if together:
                    reached.wait()  # two of five are in it at once
                with lock:
                    held[0] -= size

    for sizes, together in (((5, 5), True), ((7, 4, 25, 2), False)):
        threads = [threading.Thread(target=work, args=(size, together)) for size in sizes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert not any(thread.is_alive() for thread in threads)
        assert most[0] == (10 if together else 25)


# --- headers -----------------------------------------------------------------------------------------------------


def test_the_header_of_a_png_is_read_though_its_pixels_are_gone(tmp_path):
    path = save(tmp_path / "a.png", np.dstack([noise(60, 40), noise(60, 40)[..., :1]]))
    whole = path.read_bytes()
    path.write_bytes(whole[:41] + bytes(len(whole) - 41))  # all after the head of the pixels is zero
    header = read_header(path)
    assert (header.width, header.height, header.has_alpha) == (40, 60, True)
    with pytest.raises(UserError, match=r"a\.png is damaged or cut short"):
        decode(source_of(path))


def png_with(path: Path, kind: bytes, data: bytes, *, before: bool) -> Path:
    """A PNG with one chunk more, before or behind its pixels."""
    whole = save(path, noise(6, 4)).read_bytes()
    at = whole.index(b"IDAT") - 4 if before else whole.rindex(b"IEND") - 4
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(whole[:at] + chunk + whole[at:])
    return path


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("kind", ["eXIf", "XMP"])
def test_the_orientation_of_a_png_is_found_on_either_side_of_its_pixels(tmp_path, kind, before):
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    data = (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) if kind == "eXIf" else (b"iTXt", xmp)
    path = png_with(tmp_path / "a.png", *data, before=before)
    assert read_header(path).swaps_sides
    frame = decode(source_of(path, turn=True, width=6, height=4))
    assert np.array_equal(frame.rgb, np.rot90(noise(6, 4), -1))


@pytest.mark.parametrize("kind", [b"eXIf", b"iTXt", b"tEXt", b"zTXt", b"acTL"])
def test_junk_in_a_chunk_of_a_png_is_no_orientation(tmp_path, kind):
    path = png_with(tmp_path / "a.png", kind, b"\xff" * 30, before=False)
    assert not read_header(path).swaps_sides


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_photos_of_two_hundred_megapixels_are_read(tmp_path, suffix):
    """Half of each is dark; a width that no small number divides, as of a phone."""
    path = tmp_path / f"phone{suffix}"
    image = Image.new("L", (16322, 12242), 200)
    image.paste(40, (0, 0, 8161, 12242))
    image.save(path, **({"compress_level": 1} if suffix == ".png" else {}))
    rgb = decode(source_of(path, width=40, height=30)).rgb
    assert rgb.shape == (30, 40, 3)
    assert np.abs(rgb[:, :19].astype(int) - 40).max() <= 1 and np.abs(rgb[:, 21:].astype(int) - 200).max() <= 1


@pytest.mark.parametrize(
    ("mode", "turn"), [("RGB", True), ("1", False), ("P", False), ("RGBA", False), ("I;16", False)]
)
def test_huge_images_of_every_kind_are_read_as_small_ones_are(tmp_path, monkeypatch, mode, turn):
    pixels = noise(48, 64)
    if mode == "RGBA":
        image = Image.fromarray(np.dstack([pixels, np.full((48, 64), 255, np.uint8)]))
    elif mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6 if turn else 1
    image.save(tmp_path / "a.png", exif=exif)
    size = {"turn": turn, "width": 12 if turn else 16, "height": 16 if turn else 12}
    expected = decode(source_of(tmp_path / "a.png", **size)).rgb
    monkeypatch.setattr("nfc_gs.data.images.HUGE_PIXELS", 100)
    found = decode(source_of(tmp_path / "a.png", **size)).rgb
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_images_beyond_the_limit_are_refused_with_their_size(tmp_path):
    path = save(tmp_path / "a.png", noise(2, 2))
    data = path.read_bytes()
    head = b"IHDR" + struct.pack(">II", 30000, 20000) + data[24:29]
    path.write_bytes(data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:])
    with pytest.raises(UserError, match=r"a\.png has 30000 x 20000 pixels, more than the 268 million"):
        read_header(path)


# --- what the system says ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
def test_what_is_no_regular_file_is_never_opened(tmp_path, kind):
    path = tmp_path / "a.png"
    with contextlib.ExitStack() as stack:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(os.path.relpath(path))  # the paths of sockets are short
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero")
        with pytest.raises(UserError, match=rf"a\.png is a (named )?{kind}, not an image file"):
            read_header(path)


def test_an_image_that_became_a_pipe_is_not_waited_for(tmp_path):
    source = source_of(save(tmp_path / "a.png", noise(2, 2)))
    source.path.unlink()
    os.mkfifo(source.path)
    with pytest.raises(UserError, match="named pipe"):
        decode(source)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.EMFILE, "cannot be read: too many files are open at once; .*ulimit -n"),
        (errno.ENFILE, "cannot be read: too many files are open at once"),
        (errno.EIO, "cannot be read: Input/output error"),
        (errno.ESTALE, "cannot be read: Stale file handle"),
        (errno.EACCES, "permission is denied"),
        (errno.ENOENT, "is not there"),
    ],
)
def test_an_error_of_the_system_is_not_called_damage(tmp_path, monkeypatch, number, sentence):
    source = source_of(save(tmp_path / "a.png", noise(2, 2)))

    def refuse(*_args, **_options):
        raise OSError(number, os.strerror(number), str(source.path))

    monkeypatch.setattr("builtins.open", refuse)
    for read in (lambda: read_header(source.path), lambda: decode(source)):
        with pytest.raises(UserError, match=sentence) as caught:
            read()
        assert "damaged" not in str(caught.value) and "a.png" in str(caught.value)


def test_memory_that_is_lacking_is_not_called_damage(tmp_path, monkeypatch):
    source = source_of(save(tmp_path / "a.png", noise(2, 2)))

    def refuse(*_args):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    with pytest.raises(UserError, match="not enough memory to read the image"):
        decode(source)
