"""The examples in the docstrings of what is public: each name has one, and all run."""

from __future__ import annotations

import doctest
import os
import shutil
from pathlib import Path

import pytest

import nfc_gs

FINDER = doctest.DocTestFinder(exclude_empty=True)
NAMES = ("nfc_gs", *nfc_gs.__all__)


def examples_of(name: str) -> list[doctest.DocTest]:
    """The examples of a public name, those of its methods included."""
    shown = nfc_gs if name == "nfc_gs" else getattr(nfc_gs, name)
    if name == "nfc_gs":  # its own docstring alone
        return [doctest.DocTestParser().get_doctest(nfc_gs.__doc__ or "", {}, name, nfc_gs.__file__, 0)]
    return [test for test in FINDER.find(shown, name) if test.examples]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny capture and a short run of it."""
    folder = tmp_path_factory.mktemp("examples")
    before = Path.cwd()
    os.chdir(folder)
    try:
        nfc_gs.write_demo_capture("captures/garden", views=8, width=48, height=36)
        config = nfc_gs.TrainConfig(steps=20, max_gaussians=300, device="cpu", eval_every=0.0)
        nfc_gs.train("captures/garden", config, out="runs/garden")
    finally:
        os.chdir(before)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_public_name_run(
    name: str, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    tests = examples_of(name)
    assert any(test.examples for test in tests), f"nfc_gs.{name} has no example in its docstring"
    for test in tests:
        test.globs = {"nfc_gs": nfc_gs}
        report: list[str] = []
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.REPORT_UDIFF).run(test, out=report.append)
        assert not report, "".join(report)
