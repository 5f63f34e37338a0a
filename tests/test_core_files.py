"""Writing files whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import write_text


def test_a_name_that_no_file_system_takes_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^Cannot write .*too long"):
        write_text(tmp_path / ("n" * 300), "text")


def test_a_failed_write_leaves_the_file_as_it_was_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "before")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "\ud800")
    assert (tmp_path / "a.txt").read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
