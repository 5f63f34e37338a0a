"""Fixtures that several files share. What is drawn or trained once for a session is read, never changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from chromium import launched
from command_line import SMALL, Cli, nfc

from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.ops import native
from nfc_gs.training import schedules


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in two processes where pytest-xdist is installed, and files that are named in this one."""
    if "PYTEST_XDIST_WORKER" in os.environ or not config.pluginmanager.hasplugin("xdist"):
        return
    options = config.option
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and options.numprocesses is None and not options.usepdb:
        options.numprocesses, options.dist = 2, "loadfile"


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Lets torch compute in one thread, before and after a test: many wait for each other in every small operation."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def same_core_afterwards() -> Iterator[None]:
    """Puts thread count and instruction set of the compiled core back after a test that changes them."""
    if not native.available():
        yield
        return
    threads, instruction_set = native.threads(), native.core().instruction_set()
    yield
    native.set_threads(threads)
    native.core().use_instruction_set(instruction_set)


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photos of the built-in still life, 64 x 48."""
    return write_capture(tmp_path_factory.mktemp("built-in") / "still life", views=8, width=64, height=48)


@pytest.fixture(scope="session")
def trained(capture: Path) -> Path:
    """A run of 12 steps on `capture`, two of whose photos are held out."""
    run = capture.parent / "trained"
    assert nfc("train", capture, "--out", run, "--steps", 12, "--test-every", 4, "--seed", 3, *SMALL) == 0
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    return Cli(capfd, tmp_path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium. Of a module, since Playwright leaves an event loop running in the thread of the tests."""
    with launched() as chromium:
        yield chromium


@pytest.fixture
def small_images_may_be_smaller_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the tiny scenes be trained on at half of their size at first, as large ones are."""
    monkeypatch.setattr(schedules, "MIN_SIDE", 12)
