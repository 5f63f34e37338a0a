"""What is installed, what a missing compiler says, and the two commands of the README."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nfc_gs
from nfc_gs.cli import COMMANDS, main
from nfc_gs.core.errors import UserError
from nfc_gs.ops import nvrtc

ROOT = Path(__file__).resolve().parents[1]
CUDA = ROOT / "cuda"

QUICK_START = ["pip install . && nfc-gs demo", 'pip install ".[test]" && pytest']


@pytest.fixture(scope="module")
def installed() -> importlib.metadata.Distribution:
    """The installed package, if the tests run on one."""
    try:
        distribution = importlib.metadata.distribution("nfc-gs")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("nfc-gs is not installed here: the tests run on its sources")
    if "nfc_gs/__init__.py" not in installed_files(distribution):
        pytest.skip("nfc-gs is installed in editable form: its files are those of the sources")
    return distribution


def installed_files(distribution: importlib.metadata.Distribution) -> set[str]:
    return {path.as_posix() for path in distribution.files or [] if "__pycache__" not in path.parts}


def test_the_installed_package_holds_the_compiled_core(installed: importlib.metadata.Distribution) -> None:
    compiled = [name for name in installed_files(installed) if re.fullmatch(r"nfc_gs/_core\..*(so|pyd)", name)]
    assert len(compiled) == 1


def test_the_installed_package_holds_every_file_of_the_sources(installed: importlib.metadata.Distribution) -> None:
    if not (ROOT / "nfc_gs").is_dir():
        pytest.skip("the sources are not beside the tests")
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "nfc_gs").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".so", ".pyd")
    }
    assert sources - installed_files(installed) == set()


def test_the_installed_package_holds_the_sources_of_the_gpu_kernels(
    installed: importlib.metadata.Distribution,
) -> None:
    if not CUDA.is_dir():
        pytest.skip("the sources of the compiled backends (cuda/) are not beside the tests")
    sources = {
        f"nfc_gs/cuda/{path.relative_to(CUDA).as_posix()}"
        for folder in ("gpu", "include")
        for path in (CUDA / folder).rglob("*")
        if path.is_file()
    }
    assert sources and sources - installed_files(installed) == set()
    assert nvrtc.source_folder() == Path(nfc_gs.__file__).parent / "cuda"


def test_the_sources_of_the_gpu_kernels_are_found_in_the_package_or_else_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "nfc_gs"
    monkeypatch.setattr(nvrtc, "__file__", str(package / "ops" / "nvrtc.py"))
    with pytest.raises(UserError, match=r"sources of the GPU kernels \(cuda/gpu\) are missing; reinstall nfc-gs"):
        nvrtc.source_folder()
    for folder in (tmp_path / "cuda", package / "cuda"):  # a checkout, then a wheel
        (folder / "gpu").mkdir(parents=True)
        (folder / "gpu" / "raster.cu").touch()
        assert nvrtc.source_folder() == folder


def test_nothing_but_the_package_is_installed(installed: importlib.metadata.Distribution) -> None:
    tops = {name.split("/")[0] for name in installed_files(installed)} - {".."}  # ..: the script nfc-gs
    assert tops == {"nfc_gs", f"nfc_gs-{installed.version}.dist-info"}
    assert not [name for name in installed_files(installed) if re.search(r"(^|/)(tests?/|test_|conftest)", name)]


def test_the_version_of_the_package_is_that_of_its_metadata(installed: importlib.metadata.Distribution) -> None:
    assert installed.version == nfc_gs.__version__


def configure(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Configure cuda/ with nothing on the path but ninja and a Python; skips where that cannot be done."""
    cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
    if not CUDA.is_dir():
        pytest.skip("the sources of the compiled backends (cuda/) are not beside the tests")
    if cmake is None or ninja is None:
        pytest.skip("cmake and ninja are not both on the path")
    if sys.platform != "linux":
        pytest.skip("compilers are found without the path on this system")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ninja").symlink_to(ninja)
    kept = {name: value for name, value in os.environ.items() if name not in ("CXX", "CXXFLAGS")}
    return subprocess.run(
        [cmake, "-G", "Ninja", "-S", str(CUDA), "-B", str(tmp_path / "build"), f"-DPython_EXECUTABLE={sys.executable}"],
        env={**kept, "PATH": str(tools), **environment},
        capture_output=True,
        text=True,
    )


def sentence(run: subprocess.CompletedProcess[str]) -> str:
    """The message of the one error that CMake stopped with, on one line."""
    errors = run.stderr.split("CMake Error at ")[1:]
    assert run.returncode != 0 and len(errors) == 1, run.stderr
    return " ".join(errors[0].split("\n", 1)[1].split())


def test_a_missing_compiler_says_what_to_install(tmp_path: Path) -> None:
    said = sentence(configure(tmp_path))
    assert said.startswith("nfc-gs needs a C++17 compiler and found none that works; install one (")
    for remedy in ("sudo apt install g++", "xcode-select --install", "Visual Studio Build Tools"):
        assert remedy in said
    assert said.endswith("and run pip install again.")


def test_a_compiler_that_does_not_run_says_what_to_install(tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert sentence(configure(tmp_path, CXX=str(broken))).startswith("nfc-gs needs a C++17 compiler and found none")


def test_a_compiler_without_cpp17_is_named(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++ to stand in for an old compiler")
    old = tmp_path / "old-c++"
    old.write_text(
        f'#!/bin/sh\nfor word in "$@"; do case "$word" in -std=*17) exit 1;; esac; done\nexec {compiler} "$@"\n'
    )
    old.chmod(0o755)
    said = sentence(configure(tmp_path, CXX=str(old), PATH=os.environ["PATH"]))
    assert said.startswith("nfc-gs needs a C++17 compiler, and ")
    assert f"{old} (GNU " in said
    assert "is too old for that; install one (" in said


def readme() -> str:
    if not (ROOT / "README.md").is_file():
        pytest.skip("the README is not beside the tests")
    return (ROOT / "README.md").read_text("utf-8")


def test_the_quick_start_of_the_readme_is_its_two_commands() -> None:
    block = re.search(r"^## Quick start\n.*?^```\w*\n(.*?)^```", readme(), re.MULTILINE | re.DOTALL)
    assert block is not None
    assert block[1].splitlines() == QUICK_START


def test_the_readme_explains_every_command_and_no_other() -> None:
    assert set(re.findall(r"^\| `nfc-gs (\w+)", readme(), re.MULTILINE)) == set(COMMANDS)


def test_every_option_in_the_readme_exists(capsys: pytest.CaptureFixture[str]) -> None:
    lines = re.findall(r"nfc-gs (\w+)([^`\n&]*)", readme())
    options = {(command, option) for command, rest in lines for option in re.findall(r"--[\w-]+", rest)}
    assert ("train", "--out") in options
    unknown = set()
    for command, option in options:
        main([command, "--help-all"])
        if not re.search(rf"{option}\b", capsys.readouterr().out):
            unknown.add((command, option))
    assert unknown == set()


def test_every_public_name_in_the_readme_exists() -> None:
    names = set(re.findall(r"nfc_gs\.(\w+)\(", readme()))
    assert names
    assert names <= set(nfc_gs.__all__)
