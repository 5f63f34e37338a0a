"""Which device a name means, and what is said of a GPU that torch sees and cannot compute on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nfc_gs.cli import main
from nfc_gs.core.errors import UserError
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.ops import device as devices
from nfc_gs.ops.device import gpu_problem, resolve_device

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def claimed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch says that there are two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    caches = (devices._start_problem, devices._trial_problem, devices._log_once)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def usable(claimed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that it computes on them; on the CPU, in truth."""
    properties = SimpleNamespace(name="Tesla", major=9, minor=0)
    arange = torch.arange
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90a", "compute_90"])
    monkeypatch.setattr(torch, "arange", lambda end, device: arange(end))


def refusal(device: str) -> str:
    with pytest.raises(UserError) as error:
        resolve_device(device)
    return str(error.value)


def test_devices_are_named_as_in_torch(usable: None) -> None:
    names = ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "cuda:01")
    assert [resolve_device(name) for name in names] == ["cuda", "cpu", "cuda", "cuda:0", "cuda:1", "cuda:1"]


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:x", "cuda:-1", "cuda:0:1", "gpu", ""])
def test_a_device_of_another_name_is_refused(name: str) -> None:
    assert refusal(name) == (f"There is no device '{name}'; choose auto, cpu, cuda or cuda:N with the number of a GPU.")


def test_a_number_that_no_gpu_has_is_refused_with_those_that_there_are(
    usable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal("cuda:2") == "--device cuda:2: torch sees cuda:0 to cuda:1; choose one of these."
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5ebe9f43")
    assert refusal("cuda:1") == (
        "--device cuda:1: torch sees only cuda:0 (CUDA_VISIBLE_DEVICES is 'GPU-5ebe9f43'); choose one of these."
    )


@needs_no_gpu
def test_without_a_gpu_auto_is_the_cpu_and_another_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert resolve_device() == resolve_device("auto") == "cpu"
    remedy = "use --device cpu, or install a torch build with CUDA."
    assert refusal("cuda:1") == f"--device cuda:1: torch sees no GPU here; {remedy}"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert refusal("cuda") == f"--device cuda: torch sees no GPU here (CUDA_VISIBLE_DEVICES is ''); {remedy}"


@needs_no_gpu
def test_of_a_gpu_that_cannot_be_used_auto_says_so_once_and_takes_the_cpu(
    claimed: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The build of torch that is tested here has no CUDA, or no driver."""
    why = gpu_problem("cuda")
    assert why.startswith("torch sees a GPU but cannot use it (") and why.endswith(")") and "\n" not in why
    assert resolve_device("auto") == resolve_device("auto") == "cpu"
    assert [record.getMessage() for record in caplog.records] == [f"Computing on the CPU, because {why}."]
    assert refusal("cuda") == f"--device cuda: {why}; use --device cpu, or install a torch build for this GPU."


def test_a_gpu_older_than_the_build_of_torch_is_named(usable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(name="GTX 1080", major=6, minor=1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: old)
    assert gpu_problem("cuda:1") == (
        f"the GPU 1 (GTX 1080) has compute capability 6.1, and torch {torch.__version__} is built for 7.5 and newer"
    )


def test_a_gpu_on_which_the_smallest_computation_fails_is_found_out(
    usable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(end: float, device: torch.device) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr(torch, "arange", fail)
    assert gpu_problem("cuda:0") == (
        "torch sees the GPU 0 but cannot compute on it (CUDA error: no kernel image is available for execution on the "
        "device)"
    )
    monkeypatch.setattr(torch, "arange", lambda end, device: torch.zeros(4))
    devices._trial_problem.cache_clear()
    assert gpu_problem("cuda:0") == "torch sees the GPU 0 but it computes 2 * (1 + 2 + 3) = 0"


def test_cuda_that_breaks_while_it_starts_is_a_reason_too(claimed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise torch.cuda.DeferredCudaCallError("CUDA call failed lazily\n\nCUDA call was originally invoked at: ...")

    monkeypatch.setattr(torch.cuda, "init", fail)
    assert gpu_problem("cuda:1") == ("torch sees a GPU but cannot use it (CUDA call failed lazily)")


# ---- from the command line ----------------------------------------------------------------------------------------


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "capture", views=4, width=32, height=24)


@needs_no_gpu
def test_a_training_on_a_gpu_that_cannot_be_used_ends_with_one_sentence_that_names_every_backend(
    claimed: None, capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    why = gpu_problem("cuda")
    for device in ("cuda", "cuda:1"):
        assert main(["train", str(capture), "--out", str(tmp_path / "run"), "--device", device]) == 2
        assert capsys.readouterr().err == (
            f"error: No backend works on the device '{device}': 'cuda', 'gsplat' and 'torch' ({why}); "
            "use --device cpu.\n"
        )
    assert not (tmp_path / "run").exists()
    assert main(["train", str(capture), "--out", str(tmp_path / "run"), "--device", "cuda", "--backend", "cuda"]) == 2
    assert capsys.readouterr().err == (
        f"error: --device cuda: {why}; use --device cpu, or install a torch build for this GPU.\n"
    )


@needs_no_gpu
def test_by_default_such_a_training_runs_on_the_cpu_and_says_why(
    claimed: None, capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", str(capture), "--out", str(run), "--steps", "2", "--max-gaussians", "40"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count(f"warning: Computing on the CPU, because {gpu_problem('cuda')}.\n") == 1
    assert "on cpu (" in captured.out


@needs_no_gpu
@pytest.mark.parametrize("words", [(), ("--devices",), ("--devices", "--retest")], ids=" ".join)
def test_info_describes_a_machine_whose_gpus_cannot_be_used(
    words: tuple[str, ...], claimed: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["info", *words]) == 0
    assert "torch cannot say which one" in capsys.readouterr().out
    assert main(["info", *words, "--json"]) == 0
    gpus = json.loads(capsys.readouterr().out)["gpus"]
    if words:
        outcome = {"passed": False, "reason": gpu_problem("cuda"), "driver": ""}
        assert gpus == [{"name": None, "architecture": None, "bytes": None, "self_test": outcome}] * 2
    else:
        assert gpus == [None, None]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # CUDA does not start, but the driver counts two
    assert main(["info", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpus"] == []


IMPORTED = """
import sys
import torch
before = {name for name in sys.modules if name.split('.')[0] == 'cuda'}
from nfc_gs.cli import main
code = main(sys.argv[1:])
print(sorted({name for name in sys.modules if name.split('.')[0] == 'cuda'} - before), code)
"""


@needs_no_gpu
@pytest.mark.parametrize(
    "words", [("info",), ("info", "--devices"), ("train", "capture", "--steps", "2")], ids=" ".join
)
def test_without_a_gpu_nothing_of_nvidias_is_imported(words: tuple[str, ...], capture: Path, tmp_path: Path) -> None:
    """But for what torch imports itself."""
    program = [sys.executable, "-c", IMPORTED, *words]
    ended = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1:] == ["[] 0"], ended.stderr
