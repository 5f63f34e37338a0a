"""The self-test of our kernels: what it finds, and what becomes of its verdict."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import emulator
import pytest
import torch
from emulator import CUDA, Emulator

from nfc_gs.core.errors import UserError
from nfc_gs.ops import native, nvrtc
from nfc_gs.rendering import self_test as module
from nfc_gs.rendering.kernel_comparison import DifferenceError, compare
from nfc_gs.rendering.self_test import Verdict, compared, self_test

# ---- the comparison -----------------------------------------------------------------------------------------------

needs_core = pytest.mark.skipif(not native.available(), reason="the compiled core is not built")


def emulated() -> Emulator:
    try:
        return Emulator()
    except UserError as error:
        pytest.skip(str(error))


class Watched(Emulator):
    """An emulator that knows what was launched, and runs only half of the blocks of one kernel, none of one."""

    def __init__(self, lame: str = "") -> None:
        super().__init__()
        self.lame, self.launched = lame, set[str]()

    def launch(
        self, source: str, kernel: str, args: ctypes.Structure, blocks: int, threads: int, channels: int = 0
    ) -> None:
        self.launched.add(kernel)
        super().launch(source, kernel, args, blocks // 2 if kernel == self.lame else blocks, threads, channels)


STAGES = (
    *("project_splats", "write_entries", "find_tiles", "raster", "pixel_gradients", "raster_backward"),
    *("project_splats_backward", "loss", "loss_values", "loss_gradient", "bit_loss", "bit_loss_gradient", "adam"),
)
"""With what the names of the kernels of a training step begin."""


@needs_core
def test_kernels_that_work_pass_and_all_of_a_training_step_are_launched() -> None:
    emulated()
    runtime = Watched()
    compare(runtime)
    for stage in STAGES:
        assert any(kernel.startswith(stage) for kernel in runtime.launched), stage


@pytest.mark.slow
@needs_core
def test_each_kernel_fails_if_half_of_its_blocks_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that nobody writes to holds NaN or 0 here, so that it cannot be right by chance."""
    emulated()
    empty, empty_like, new_empty = torch.empty, torch.empty_like, torch.Tensor.new_empty

    def filled(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.fill_(float("nan") if tensor.is_floating_point() else 0)

    whole = Watched()
    compare(whole)
    monkeypatch.setattr(torch, "empty", lambda *args, **options: filled(empty(*args, **options)))
    monkeypatch.setattr(torch, "empty_like", lambda *args, **options: filled(empty_like(*args, **options)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **options: filled(new_empty(*args, **options)))
    for kernel in sorted(whole.launched):
        with pytest.raises((DifferenceError, emulator.KernelError)):
            compare(Watched(lame=kernel))
            print(f"{kernel} was not missed")  # shown if nothing was raised


BREAKS = {
    "opacities capped": (
        "raster", "include/nfc_gs/constants.h", "NFC_ALPHA_MAX 0.99f", "NFC_ALPHA_MAX 0.6f",
        "the image of colored splats differs from the reference by ",
    ),
    "decoded bits": (
        "project", "gpu/color.h", "+= place_value(index % kBits) * p;", "+= place_value(index % kBits) * 0.9f * p;",
        "the image of decoded bits differs from the reference by ",
    ),
    "last value of Adam": (
        "optimize", "gpu/optimize.cu", "if (k >= size) continue;", "if (k + 1 >= size) continue;",
        "the step of Adam for quats differs from the reference by ",
    ),
}  # fmt: skip
"""Source whose kernels are broken, file, what is replaced by what, and how the reason begins."""


@needs_core
@pytest.mark.parametrize("name", BREAKS)
def test_a_kernel_that_computes_something_else_fails_and_the_reason_names_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated()
    broken_source, file, before, after, reason_begins = BREAKS[name]
    broken = tmp_path / "cuda"
    for folder in ("gpu", "include"):
        shutil.copytree(CUDA / folder, broken / folder)
    changed = (broken / file).read_text().replace(before, after)
    assert changed != (broken / file).read_text()
    (broken / file).write_text(changed)

    class Broken(Emulator):
        def launch(
            self, source: str, kernel: str, args: ctypes.Structure, blocks: int, threads: int, channels: int = 0
        ) -> None:
            if source != broken_source:
                return super().launch(source, kernel, args, blocks, threads, channels)
            path = broken / "gpu" / f"{source}.cu"
            return emulator.run(emulator.compiled(path, channels), kernel, args, blocks, threads)

    monkeypatch.setattr(module, "gpu_problem", lambda device: "")
    monkeypatch.setattr(nvrtc, "runtime_for", lambda device: Broken())
    reason, lasting = compared(torch.device("cuda", 0))
    assert lasting and reason.startswith(f"its self-test failed: {reason_begins}") and reason.endswith(" of its norm")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UserError("There is no compiler; install it."), ("There is no compiler; install it", True)),
        (torch.OutOfMemoryError("80 GiB"), ("its self-test found too little free memory on the GPU", False)),
        (RuntimeError("illegal\naccess"), ("its self-test failed: illegal access", True)),
    ],
)
def test_what_goes_wrong_beside_the_comparison_is_a_reason(
    error: Exception, expected: tuple[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(device: torch.device) -> None:
        raise error

    monkeypatch.setattr(module, "gpu_problem", lambda device: "")
    monkeypatch.setattr(nvrtc, "runtime_for", fail)
    assert compared(torch.device("cuda", 0)) == expected


def test_a_gpu_that_the_process_cannot_use_now_says_nothing_of_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where another process has it for itself."""
    monkeypatch.setattr(module, "gpu_problem", lambda device: "all devices are busy")
    assert compared(torch.device("cuda", 0)) == ("all devices are busy", False)


def test_the_program_prints_its_verdict_and_its_exit_code_is_the_same() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    ended = subprocess.run([sys.executable, "-m", module.PROGRAM, "cuda:0"], capture_output=True, text=True)
    verdict = json.loads(ended.stdout)
    assert ended.returncode == 1 and verdict["passed"] is False and "torch sees no GPU here" in verdict["reason"]


# ---- the process, and the verdict that is kept ----------------------------------------------------------------------

Answers = Callable[[str], None]


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Takes the body of a program that is run in the place of the comparison, on what seems to be a GPU."""
    count = tmp_path / "runs"
    count.touch()
    found = SimpleNamespace(name="Tesla", uuid="GPU-1", major=9, minor=0)
    monkeypatch.setenv(nvrtc.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(module, "gpu_problem", lambda device: "")
    monkeypatch.setattr(nvrtc, "with_index", lambda device: torch.device("cuda", device.index or 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    monkeypatch.setattr(nvrtc, "target_for", lambda major, minor: ("sm_90", "cubin"))
    monkeypatch.setattr(nvrtc, "compiler_name", lambda: "NVRTC 13.0.88")
    monkeypatch.setattr(nvrtc, "driver_version", lambda: "580.65.06, CUDA 13.0")
    monkeypatch.setattr(module, "PROGRAM", "stand_in_for_the_comparison")
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(body: str) -> None:
        text = f"import os, signal, sys, time\nopen({str(count)!r}, 'a').write(sys.argv[1] + ' ')\n{body}\n"
        (tmp_path / "stand_in_for_the_comparison.py").write_text(text)

    write(saying(True, ""))
    return write


def saying(passed: bool, reason: str, lasting: bool = True) -> str:
    return f"print({json.dumps({'passed': passed, 'reason': reason, 'lasting': lasting})!r})"


def runs(tmp_path: Path) -> str:
    return (tmp_path / "runs").read_text()


def kept_file() -> Path:
    (file,) = nvrtc.cache_folder().glob("self-test-*.json")
    return file


def test_a_verdict_is_kept_and_repeated_when_asked(answers: Answers, tmp_path: Path) -> None:
    verdict = self_test("cuda:1")
    assert verdict.passed and not verdict.reason and verdict.driver == "580.65.06, CUDA 13.0"
    assert verdict.gpu == "Tesla, GPU-1" and len(verdict.kernels) == 16
    answers(saying(False, "its self-test failed: the image differs"))
    assert self_test("cuda:1") == verdict and runs(tmp_path) == "cuda:1 "
    again = self_test("cuda:1", retest=True)
    assert not again.passed and again.reason == "its self-test failed: the image differs"
    assert self_test(torch.device("cuda", 1)) == again and runs(tmp_path) == "cuda:1 cuda:1 "


@pytest.mark.parametrize("what", ["driver", "compiler", "torch", "gpu"])
def test_another_driver_compiler_torch_or_gpu_is_tested_anew(
    what: str, answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = self_test("cuda")
    if what == "driver":
        monkeypatch.setattr(nvrtc, "driver_version", lambda: "590.1, CUDA 13.1")
    elif what == "compiler":
        monkeypatch.setattr(nvrtc, "compiler_name", lambda: "NVRTC 13.0.89")
    elif what == "torch":
        monkeypatch.setattr(torch, "__version__", "3.0")
    else:
        other = SimpleNamespace(name="Tesla", uuid="GPU-2", major=9, minor=0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: other)
    assert self_test("cuda") != first and runs(tmp_path) == "cuda:0 cuda:0 "


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"passed": true}',
        b'{"passed": 1, "reason": "", "gpu": "", "driver": "", "kernels": ""}',
        b"[" * 100_000,
    ],
    ids=range(7),
)
def test_a_damaged_verdict_is_found_anew(content: bytes, answers: Answers, tmp_path: Path) -> None:
    verdict = self_test("cuda")
    kept_file().write_bytes(content)
    assert self_test("cuda") == verdict and runs(tmp_path) == "cuda:0 cuda:0 "
    assert self_test("cuda") == verdict and runs(tmp_path) == "cuda:0 cuda:0 "


def test_a_verdict_that_contradicts_itself_is_found_anew(answers: Answers, tmp_path: Path) -> None:
    verdict = self_test("cuda")
    file = kept_file()
    file.write_text(json.dumps({**json.loads(file.read_text()), "reason": "it failed"}))
    assert self_test("cuda") == verdict and runs(tmp_path) == "cuda:0 cuda:0 "


@pytest.mark.parametrize(
    ("body", "reason", "lasts"),
    [
        (saying(False, "its self-test failed: X"), "its self-test failed: X", True),
        (saying(False, "too little memory", lasting=False), "too little memory", False),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "its self-test crashed (SIGSEGV)", True),
        ("os.kill(os.getpid(), signal.SIGKILL)", "its self-test crashed (SIGKILL)", False),
        ("sys.exit('no torch')", "its self-test crashed (exit code 1: no torch)", True),
        ("os.kill(os.getpid(), 45)", "its self-test crashed (signal 45)", True),
        ("sys.stderr.buffer.write(b'caf\\xe9'); sys.exit(3)", "its self-test crashed (exit code 3: caf\ufffd)", True),
        ("print('{}')", "its self-test crashed (exit code 0)", True),
        (saying(False, ""), "its self-test crashed (exit code 0)", True),
        (saying(True, "it failed"), "its self-test crashed (exit code 0)", True),
        ("time.sleep(60)", "its self-test did not end within 3 seconds", False),
    ],
    ids=["failed", "memory", "crashed", "killed", "broken", "unnamed", "no text", "mute", "no reason", "both", "slow"],
)
def test_a_failure_is_kept_unless_it_may_pass_by_itself(
    body: str,
    reason: str,
    lasts: bool,
    answers: Answers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "os.kill" in body and sys.platform == "win32":
        pytest.skip("Windows has no such signals")
    monkeypatch.setattr(module, "TIME_LIMIT", 3 if "sleep" in body else 60)
    answers(body)
    for _ in range(2):
        verdict = self_test("cuda")
        assert not verdict.passed and verdict.reason == reason
    assert runs(tmp_path) == ("cuda:0 " if lasts else "cuda:0 cuda:0 ")


def test_a_verdict_of_a_test_that_may_pass_another_time_does_not_stay(answers: Answers, tmp_path: Path) -> None:
    assert self_test("cuda").passed
    answers(saying(False, "too little memory", lasting=False))
    assert not self_test("cuda", retest=True).passed
    answers(saying(True, ""))
    assert self_test("cuda").passed and runs(tmp_path) == "cuda:0 " * 3


def test_a_cache_that_cannot_be_written_is_named_and_the_verdict_stands(
    answers: Answers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert self_test("cuda").passed and str(tmp_path / "cache") in caplog.text
    answers(saying(False, "too little memory", lasting=False))
    assert self_test("cuda").reason == "too little memory"


def test_a_gpu_or_a_compiler_that_does_not_work_is_a_verdict_without_a_process(
    answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise UserError("NVRTC does not load; install it.")

    monkeypatch.setattr(nvrtc, "compiler_name", missing)
    assert self_test("cuda") == Verdict(False, "NVRTC does not load; install it", "", "", "")
    monkeypatch.setattr(module, "gpu_problem", lambda device: "it is broken")
    assert self_test("cuda").reason == "it is broken" and runs(tmp_path) == ""
