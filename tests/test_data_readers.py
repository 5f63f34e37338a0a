"""The table of capture readers: which one reads a folder, and what a new reader has to bring."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from capture_files import ring, write_capture, write_images, write_transforms

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import Capture, CaptureImage
from nfc_gs.data.lens import Lens
from nfc_gs.data.loading import load_scene
from nfc_gs.data.readers import colmap, nerfies, registry, transforms
from nfc_gs.data.readers.reader import Reader


def reader_of(path: Path) -> Reader:
    return next(reader for reader in registry.READERS if reader.recognises(path))


def test_readers_of_rarer_files_come_first(tmp_path: Path) -> None:
    write_capture(tmp_path)
    assert reader_of(tmp_path) is colmap.READER
    file = write_transforms(tmp_path)
    assert reader_of(tmp_path) is colmap.READER and reader_of(file) is transforms.READER
    (tmp_path / "sparse").rename(tmp_path / "elsewhere")
    assert reader_of(tmp_path) is transforms.READER
    file.rename(tmp_path / "transforms_train.json")
    assert reader_of(tmp_path) is transforms.BLENDER_READER
    (tmp_path / "camera").mkdir()
    (tmp_path / "dataset.json").write_text("{}")
    assert reader_of(tmp_path) is nerfies.READER


def test_no_reader_recognises_what_is_no_capture(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    for path in (tmp_path, tmp_path / "a.png", tmp_path / "nowhere"):
        assert not any(reader.recognises(path) for reader in registry.READERS)


def read_list(path: Path, /, *, factor: int | None, masks: bool) -> Capture | None:
    """A capture whose cameras stand in a ring, in the order of a list; none of its own where the list is empty."""
    names = json.loads((path / "list.json").read_text())
    if not names:
        return None
    lens = Lens("PINHOLE", 32, 24, (30.0, 30.0, 16.0, 12.0))
    cameras = zip(names, ring(len(names)), strict=True)
    images = [CaptureImage(name, path / name, lens, viewmat) for name, viewmat in cameras]
    return Capture(path, images, np.zeros((0, 3)), np.zeros((0, 3), np.uint8), None, "mask")


def test_a_reader_that_is_added_to_the_table_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added = Reader("a list of images", lambda path: (path / "list.json").is_file(), read_list)
    monkeypatch.setattr(registry, "READERS", (added, *registry.READERS))
    names = [f"images/im{k:02d}.png" for k in range(9)]
    write_capture(tmp_path)
    (tmp_path / "list.json").write_text(json.dumps(names))
    assert [view.name for view in load_scene(tmp_path).views] == names
    (tmp_path / "list.json").write_text("[]")  # then the next reader gets it
    assert load_scene(tmp_path).views[0].name == "im00.png"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "note.txt").write_text("no capture")
    with pytest.raises(UserError, match=r"is no capture.*\(a list of images, .*a Nerfies capture"):
        load_scene(tmp_path / "empty")
