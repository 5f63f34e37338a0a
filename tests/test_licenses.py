"""The list of licences that NOTICE is, and the tool that writes it."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
from tool_modules import load

ROOT = Path(__file__).resolve().parents[1]

licenses = load("licenses")


class Package(importlib.metadata.Distribution):
    """A package of which only the metadata is known."""

    def __init__(self, fields: dict[str, str]) -> None:
        self.fields = fields

    def read_text(self, filename: str) -> str | None:
        lines = [f"{name}: {value}" for name, value in {"Name": "a-package", **self.fields}.items()]
        return "\n".join(lines) + "\n" if filename == "METADATA" else None

    def locate_file(self, path: object) -> Path:
        return Path(str(path))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"License-Expression": "MIT AND PSF-2.0"}, "MIT AND PSF-2.0"),
        ({"License": "MIT"}, "MIT"),
        ({"License": "BSD"}, "BSD-3-Clause"),
        (
            {"License": "The MIT License (MIT), as follows", "Classifier": "License :: OSI Approved :: MIT License"},
            "MIT",
        ),
        (
            {"Classifier": "License :: OSI Approved :: GNU General Public License v3 or later (GPLv3+)"},
            "GPL-3.0-or-later",
        ),
        ({}, ""),
    ],
)
def test_the_licence_of_a_package_is_read_from_its_metadata(fields: dict[str, str], expected: str) -> None:
    assert licenses.license_of(Package(fields)) == expected


def test_a_package_that_is_missing_in_notice_or_has_another_licence_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    there = licenses.notice({"one": "MIT", **licenses.ELSEWHERE}, {"one": ""})
    expected = licenses.notice({"one": "GPL-3.0-or-later", "two": "MIT", **licenses.ELSEWHERE}, {"one": "", "two": ""})
    assert licenses.compare(there, there) == 0
    assert licenses.compare(there, expected) == 1
    errors = capsys.readouterr().err
    assert "one is MIT, but should be GPL-3.0-or-later" in errors
    assert "two is not listed, but should be MIT" in errors


def test_notice_lists_every_package_that_the_project_names() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r'"([A-Za-z0-9_-]+)(?:\[[a-z]+\])?(?:>=|==)[^"]*"', project.partition("[project.scripts]")[0])
    listed = re.findall(r"^  ([a-z0-9-]+)  ", (ROOT / "NOTICE").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(named) > 20
    missing = {licenses.canonical(name) for name in named} - set(listed)
    assert {name for name in missing if not licenses.is_nvidia(name)} == set()


def test_notice_says_what_is_under_the_gpl() -> None:
    text = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert re.search(r"^  plyfile +GPL-3\.0-or-later$", text, re.MULTILINE)
    assert "ffmpeg, which is GPL-3.0-or-later" in text
