"""Writing files whole or not at all."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write, remove_leftovers, write_text


def test_a_name_that_no_file_system_takes_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^Cannot write .*too long"):
        write_text(tmp_path / ("n" * 300), "text")


def test_a_failed_write_leaves_the_file_as_it_was_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "before")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "\ud800")
    assert (tmp_path / "a.txt").read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no handles of folders")
def test_a_file_and_the_folder_that_names_it_are_on_disk_when_the_write_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, bool]] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(("rename", False)), replace(a, b)))
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(("fsync", Path(f"/proc/self/fd/{handle}").is_dir())))
    write_text(tmp_path / "a.txt", "text")
    assert done == [("fsync", False), ("rename", False), ("fsync", True)]


def test_a_folder_that_cannot_be_flushed_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refused(path: object, *args: int) -> int:
        if Path(str(path)).is_dir():
            raise PermissionError
        return opened(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refused)
    write_text(tmp_path / "a.txt", "text")
    assert (tmp_path / "a.txt").read_text() == "text"


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_stays(tmp_path: Path) -> None:
    dead = 2**22 + 1  # beyond the largest id of a process
    left = [".a.0123abcd.partial.png", f".b.{dead}-0123abcd.partial.txt", f".c.{os.getpid()}-0123abcd.partial"]
    old = tmp_path / f".d.{os.getppid()}-0123abcd.partial.txt"
    kept = [f".e.{os.getppid()}-0123abcd.partial.txt", "partial.txt", ".partial-of-mine"]
    for name in (*left, old.name, *kept):
        (tmp_path / name).touch()
    os.utime(old, (time.time() - 1e5,) * 2)
    with atomic_write(tmp_path / "f.txt") as temporary:
        remove_leftovers(tmp_path)
        temporary.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "f.txt"}
    assert (tmp_path / "f.txt").read_text() == "whole"
