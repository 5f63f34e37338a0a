"""Text PLY files: read in blocks of lines, and every damage noticed wherever it is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import nfc_gs.core.ply as ply
from nfc_gs.core.errors import UserError

pytestmark = pytest.mark.filterwarnings("error")

ROWS = [f"{x} {x / 3:.9g} {x % 256}" for x in range(23)]


def write(path: Path, rows: list[str], *, before: list[str] | None = None, newline: str = "\n") -> Path:
    """x, y and a small integer for each vertex; perhaps an element before it, and always one behind it."""
    head = ["ply", "format ascii 1.0"]
    if before is not None:
        head += [f"element camera {len(before)}", "property float f", "property float g"]
    head += [f"element vertex {len(ROWS)}", "property float x", "property double y", "property uchar red"]
    head += ["element material 2", "property float x", "end_header"]
    path.write_bytes(newline.join([*head, *(before or []), *rows, "1", "2", ""]).encode())
    return path


def read(path: Path) -> dict[str, np.ndarray]:
    header = ply.read_header(path)
    vertex = header.element("vertex")
    assert vertex is not None
    return ply.read_columns(header, vertex, ("y", "red", "x"), "points")


@pytest.fixture(autouse=True, params=[1, 4, 23, 100])
def lines_at_a_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ply, "TEXT_LINES", request.param)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("before", [None, ["1 2"], ["1 2"] * 9])
def test_text_is_read_whole_in_the_types_of_its_header(tmp_path, before, newline):
    columns = read(write(tmp_path / "a.ply", ROWS, before=before, newline=newline))
    assert {name: str(column.dtype) for name, column in columns.items()} == {
        "x": "float32",
        "y": "float64",
        "red": "uint8",
    }
    assert columns["x"].tolist() == columns["red"].tolist() == list(range(23))
    assert columns["y"].tolist() == [float(f"{x / 3:.9g}") for x in range(23)]


def test_numbers_that_are_not_finite_are_numbers(tmp_path):
    columns = read(write(tmp_path / "a.ply", [*ROWS[:-3], "nan -inf 1", "NaN inf 2", "1e400 -nan 3"]))
    assert np.isnan(columns["x"][-3:-1]).all() and columns["x"][-1] == np.inf
    assert columns["y"][-3:-1].tolist() == [-np.inf, np.inf] and np.isnan(columns["y"][-1])


def test_numbers_may_stand_apart_by_tabs_and_several_blanks(tmp_path):
    columns = read(write(tmp_path / "a.ply", [*ROWS[:-1], "  7\t 8   9 "]))
    assert (columns["x"][-1], columns["y"][-1], columns["red"][-1]) == (7, 8, 9)


@pytest.mark.parametrize("at", [0, 3, 4, 11, 22])
@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("1 2", "not every one of 23 lines has 3 numbers"),
        ("1 2 3 4", "not every one of 23 lines has 3 numbers"),
        ("", "not every one of 23 lines has 3 numbers"),
        ("# 1 2", "is damaged: could not convert"),
        ("1 two 3", "is damaged: could not convert"),
        ("1,2 3 4", "is damaged: could not convert"),
        ("1 2 3.5", "property red of its points is no integer of its type"),
        ("1 2 256", "property red of its points is no integer of its type"),
        ("1 2 -1", "property red of its points is no integer of its type"),
        ("1 2 nan", "property red of its points is no integer of its type"),
    ],
)
def test_one_bad_line_is_noticed_wherever_it_is(tmp_path, at, row, sentence):
    with pytest.raises(UserError, match=rf"a\.ply .*{sentence}") as caught:
        read(write(tmp_path / "a.ply", [*ROWS[:at], row, *ROWS[at + 1 :]]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 1, 4, 22])
def test_lines_that_are_lacking_are_noticed_though_others_follow(tmp_path, kept):
    path = write(tmp_path / "a.ply", ROWS[:kept])
    with pytest.raises(UserError, match=r"a\.ply is cut short or damaged"):
        read(path)
    path.write_bytes(path.read_bytes() + b" " * 1000)  # no longer too small for what the header claims
    with pytest.raises(UserError, match=r"a\.ply is cut short or damaged"):
        read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "a.ply")
    with pytest.raises(UserError, match=r"a\.ply is a named pipe"):
        ply.read_header(tmp_path / "a.ply")
