"""How much memory the images of a capture may take, and when decoded copies of them are kept on disk."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from lenses import lens_of
from photos import noise, save, view_of

from nfc_gs.core.errors import UserError
from nfc_gs.data import image_plan
from nfc_gs.data.config import DataConfig
from nfc_gs.data.image_copies import SUFFIX
from nfc_gs.data.image_plan import UNKNOWN, decoding_work, image_memory
from nfc_gs.data.loading import load_scene

IMAGE = 64 * 48 * 3
"""Bytes of an image of the capture."""


def look_at_all(capture: Path, folder: Path | None, **options) -> list[np.ndarray]:
    scene = load_scene(capture, DataConfig(**options), copies=folder)
    return [scene.image(i).rgb for i in range(len(scene.views))]


def messages(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.message for record in caplog.records if "image" in record.message.lower())


@pytest.fixture(autouse=True)
def all_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "nfc_gs")


def test_a_small_capture_leaves_no_copies_and_no_word(
    capture: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    look_at_all(capture, tmp_path / "copies")
    assert not (tmp_path / "copies").exists() and messages(caplog) == ""


def test_what_does_not_fit_into_memory_is_kept_on_disk_and_that_is_said(
    capture: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected, folder = look_at_all(capture, None), tmp_path / "copies"
    for round, there in ((0, ""), (1, ", 0.00 GB are there already")):
        caplog.clear()
        found = look_at_all(capture, folder, cache_gb=2.5e-9 * IMAGE, copies_gb=0.5)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
        assert len(list(folder.glob(f"*{SUFFIX}"))) == 8, round
        said = messages(caplog)
        assert "Decoded, the 8 images take 0.00 GB, and 0.00 GB of memory are used for them (--cache-gb)." in said
        assert f"are kept in {folder} (at most 0.5 GB, --copies-gb{there}); the folder may be removed" in said


@pytest.mark.parametrize("wanted", [True, False])
def test_without_copies_images_that_do_not_fit_are_decoded_again(
    capture: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, wanted: bool
) -> None:
    folder = None if wanted else tmp_path / "copies"
    look_at_all(capture, folder, cache_gb=2.5e-9 * IMAGE, copies_gb=20.0 if wanted else 0.0)
    assert not (tmp_path / "copies").exists() and "are decoded again as they are needed" in messages(caplog)


def test_images_that_are_slow_to_decode_are_copied_though_they_fit_into_memory(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, pixels = tmp_path / "copies", 8 * 64 * 48
    monkeypatch.setattr(image_plan, "SLOW_PIXELS", pixels)
    look_at_all(capture, folder)
    assert not folder.exists()
    monkeypatch.setattr(image_plan, "SLOW_PIXELS", pixels - 1)
    look_at_all(capture, folder)
    assert len(list(folder.glob(f"*{SUFFIX}"))) == 8
    assert "Decoded copies" in messages(caplog) and "of memory" not in messages(caplog)


def test_undistorting_is_work_too(tmp_path: Path) -> None:
    path, lens = save(tmp_path / "a.png", noise(20, 30)), lens_of("OPENCV")
    plain = decoding_work([view_of(path)])
    assert plain == 600 and decoding_work([view_of(path, lens=lens)]) > plain


def test_a_place_that_cannot_be_written_is_said_and_costs_nothing_else(
    capture: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    look_at_all(capture, tmp_path / "file" / "copies", cache_gb=2.5e-9 * IMAGE)
    said = messages(caplog)
    assert "No decoded copies of the images are kept. Cannot write" in said and "decoded again" in said


def test_images_take_a_quarter_of_the_memory_that_is_available(
    capture: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert image_memory(DataConfig(), 8_000) == 2_000
    assert image_memory(DataConfig(), None) == UNKNOWN
    assert image_memory(DataConfig(cache_gb=3e-6), 8_000) == 3_000
    monkeypatch.setattr(image_plan, "available_memory", lambda: 10 * 64 * 48 + 100)
    look_at_all(capture, None)
    assert "a quarter of what is available, or --cache-gb" in messages(caplog)


def test_more_memory_than_there_is_is_not_taken_at_its_word(
    capture: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(image_plan, "available_memory", lambda: 10**9)
    scene = load_scene(capture, DataConfig(cache_gb=64.0))
    assert "--cache-gb 64 is more than half of the 1.0 GB of memory that are available" in messages(caplog)
    assert scene.images is not None


def test_an_image_too_large_for_the_memory_is_named_before_it_is_decoded(
    capture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_plan, "available_memory", lambda: 9 * 64 * 48)
    with pytest.raises(UserError, match=r"Decoding the image .*0001\.png of 64 x 48 pixels takes .* GB of memory"):
        load_scene(capture)


def test_a_disk_that_is_full_costs_nothing_but_time(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args, **kwargs) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    expected = look_at_all(capture, None)
    monkeypatch.setattr(os, "replace", full)
    found = look_at_all(capture, tmp_path / "copies", cache_gb=2.5e-9 * IMAGE)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert sum("the disk is full" in record.message for record in caplog.records) == 1
