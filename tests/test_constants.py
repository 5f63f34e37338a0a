"""The thresholds of the compiled backends are those of Python."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest

from nfc_gs.core import constants

HEADER = Path(__file__).resolve().parents[1] / "cuda" / "include" / "nfc_gs" / "constants.h"
PYTHON = {name: value for name, value in vars(constants).items() if name.isupper()}


def parse_defines(header: str) -> dict[str, float]:
    """Names and values of the lines `#define NFC_NAME value`; values are numbers and quotients of numbers."""
    values = {}
    for name, text in re.findall(r"^#define\s+NFC_(\w+)\s+([^/\n].*?)\s*(?://.*)?$", header, re.MULTILINE):
        numerator, *denominator = (float(part.strip(" fF")) for part in text.strip("()").split("/"))
        values[name] = numerator / denominator[0] if denominator else numerator
    return values


@pytest.fixture(scope="module")
def defines() -> dict[str, float]:
    if not HEADER.is_file():
        pytest.skip("the sources of the compiled backends (cuda/) are not beside the tests")
    return parse_defines(HEADER.read_text("utf-8"))


def test_the_parser_reads_numbers_and_quotients() -> None:
    header = "#pragma once\n#define NFC_A 0.3f\n#define NFC_B (1.0f / 255.0f)  // why\n#define NFC_C 16\n"
    assert parse_defines(header) == {"A": 0.3, "B": 1.0 / 255.0, "C": 16.0}


def test_every_constant_has_its_twin(defines: dict[str, float]) -> None:
    assert set(defines) == set(PYTHON)


@pytest.mark.parametrize("name", sorted(PYTHON))
def test_a_constant_has_the_same_value_in_cpp_and_python(name: str, defines: dict[str, float]) -> None:
    assert defines[name] == pytest.approx(PYTHON[name], rel=1e-12)


@pytest.mark.parametrize("name", sorted(PYTHON))
def test_a_constant_says_why(name: str) -> None:
    source = ast.parse(Path(constants.__file__).read_text("utf-8")).body
    for statement, after in itertools.pairwise(source):
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            return
    pytest.fail(f"{name} is not assigned in core/constants.py")
