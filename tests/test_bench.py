"""tools/bench/bench.py: its benchmarks, and that one needs no package of another."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tool_modules import TOOLS, load

BENCH = TOOLS / "bench"

TESTS = Path(__file__).parent

WITHOUT = """
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}")

sys.meta_path.insert(0, Missing())
sys.path.insert(0, {bench!r})
sys.argv = ["bench.py", "gpu", "--views", "0"]
runpy.run_path({bench!r} + "/bench.py", run_name="__main__")
"""


def test_the_benchmark_of_a_gpu_runs_without_what_only_others_need():
    names = {"viser", "msgspec", "zstandard", "websockets", "pycolmap", "plyfile", "PIL", "scipy", "safetensors",
             "imageio", "imageio_ffmpeg", "gsplat", "matplotlib"}  # fmt: skip
    code = WITHOUT.format(names=names, bench=str(BENCH))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    expected = "--views is 0" if torch.cuda.is_available() else "bench.py gpu needs an NVIDIA GPU"
    assert ended.returncode == 2 and ended.stdout == "", ended.stderr
    assert ended.stderr.startswith(f"error: {expected}") and ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value"), [("gaussians", "0"), ("against", "nowhere"), ("sizes", "abc"), ("rounds", "0")]
)
def test_wrong_options_of_the_benchmark_of_large_models_are_one_sentence(option: str, value: str):
    command = [sys.executable, str(BENCH / "bench.py"), "scale", f"--{option}", value]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stdout == "", ended.stderr
    assert ended.stderr.startswith(f"error: --{option} ") and ended.stderr.count("\n") == 1


def test_every_benchmark_is_offered():
    bench = load("bench/bench")
    assert list(bench.benchmarks("--help")) == ["cpu", "scale", "nfc", "motion", "gpu", "pairs", "viewer", "quality"]
    assert list(bench.benchmarks("gpu")) == ["cpu", "scale", "nfc", "gpu"]
    assert all(f"bench.py {name} " in bench.__doc__ for name in bench.benchmarks(""))


def test_everything_is_measured_in_each_round_in_another_order():
    in_turn = load("bench/measuring").in_turn
    assert list(in_turn("ab", 2)) == [(-1, "b"), (-1, "a"), (0, "a"), (0, "b"), (1, "b"), (1, "a")]


def test_every_test_on_a_gpu_is_among_the_commands_for_a_machine_with_one():
    marked = r"mark\.gpu$|marks=pytest\.mark\.gpu|from splat_scenes import[^.]*\b(COMPILED|ENGINES)\b"
    files = [path.name for path in TESTS.glob("test_*.py") if re.search(marked, path.read_text("utf-8"), re.M)]
    commands = (BENCH / "gpu.py").read_text("utf-8")
    assert "test_gpu.py" in files and [name for name in files if f"tests/{name}" not in commands] == []
