"""tools/bench/gpu_sanitize.py, on the emulator."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from emulator import CUDA, Emulator
from splat_scenes import open_engine
from tool_modules import load

from nfc_gs.ops import operations
from nfc_gs.rendering.backend import RasterOutput
from nfc_gs.rendering.cuda_backend import CudaBackend
from nfc_gs.rendering.registry import get_backend

sanitize = load("bench/gpu_sanitize")


@pytest.mark.slow
def test_the_script_for_the_sanitizer_runs_every_kernel(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    open_engine("emulated-float32")  # skips where it does not work
    launched, rooms = set(), set()

    class RecordingEmulator(Emulator):
        def launch(self, source: str, kernel: str, args: Any, *rest: Any) -> None:
            launched.add(kernel)
            if kernel == "write_entries":
                rooms.add(args.entries)
            super().launch(source, kernel, args, *rest)

    monkeypatch.setattr(operations, "_fastest", lambda device: operations.gpu_operations(RecordingEmulator()))
    assert sanitize.run(CudaBackend(RecordingEmulator()), torch.device("cpu"), count=12, width=18, height=10) == 0
    kernels = {
        name for path in (CUDA / "gpu").glob("*.cu") for name in re.findall(r"NFC_KERNEL\((\w+)", path.read_text())
    }
    assert launched == kernels and min(rooms - {0}) == sanitize.TOO_FEW
    printed = capsys.readouterr().out.splitlines()
    assert "a moving scene, many tiles: " in printed[-1] and not [line for line in printed if "NOT FINITE" in line]


def test_the_script_for_the_sanitizer_prints_what_is_not_finite(capsys: pytest.CaptureFixture[str]):
    class Broken:
        name = "broken"
        reference = False

        def render(self, *args: Any) -> RasterOutput:
            out = get_backend("cpu").render(*args)
            return replace(out, features=out.features * float("nan"))

    assert sanitize.run(Broken(), torch.device("cpu"), count=12, width=18, height=10) > 10
    assert "direct colors: NOT FINITE: rgb, " in capsys.readouterr().out


def test_without_a_gpu_the_script_says_so_in_one_sentence(capsys: pytest.CaptureFixture[str]):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert sanitize.main() == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(
        "error: Backend 'cuda' is not available: it needs an NVIDIA GPU"
    )


def test_the_smallest_scenes_are_asked_for_by_an_option(monkeypatch: pytest.MonkeyPatch):
    sizes = []
    monkeypatch.setattr(sanitize, "CudaBackend", lambda: get_backend("cpu"))
    monkeypatch.setattr(sanitize, "run", lambda backend, device, **size: sizes.append(size) or 0)
    assert sanitize.main(["--smallest"]) == sanitize.main() == 0
    assert sizes == [{"count": 40, "width": 40, "height": 24}, {}]
