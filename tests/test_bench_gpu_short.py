"""tools/bench/bench.py gpu --short without a GPU: limits of time, results, and the commands that it would run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from emulator import Emulator
from rich.console import Console
from splat_scenes import open_engine
from tool_modules import TOOLS, load

from nfc_gs.core.errors import UserError
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.rendering.registry import get_backend

parts, short, gpu = load("bench/parts"), load("bench/gpu_short"), load("bench/gpu")
bench, bounds, variants = load("bench/bench"), load("bench/gpu_bounds"), load("bench/gpu_variants")

HANG = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
child.wait()
"""
CRASH = "import os, signal; print('before', flush=True); os.kill(os.getpid(), signal.SIGSEGV)"


@pytest.fixture(autouse=True)
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is printed."""
    console = Console(width=200, file=io.StringIO())
    for module in (parts, gpu, variants):
        monkeypatch.setattr(module, "console", console)
    return console.file


def python(code: str) -> Callable[[float], list[str]]:
    return lambda seconds: [sys.executable, "-c", code]


def fake(name: str, code: str, **fields: Any) -> Any:
    """A part that runs this code, and whose figures are the last line that it printed."""
    fields = {"limit": 60.0, "read": lambda output, measured: parts.Reading(output.split("\n")[-2])} | fields
    return parts.Part(name, python(code), **fields)


def run(folder: Path, *fakes: Any, budget: float = 100.0) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, the outcomes of the JSON file, and the text."""
    results = parts.Results(folder / "out" / "gpu.json", {"GPU": "none"})
    code = parts.run_parts(fakes, results, budget)
    content = json.loads((folder / "out" / "gpu.json").read_text("utf-8"))
    assert content["GPU"] == "none"
    return code, content["parts"], (folder / "out" / "gpu.txt").read_text("utf-8")


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(condition: Callable[[], bool]) -> bool:
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.05)
    return False


# ---- limits and results -------------------------------------------------------------------------------------------


def test_a_part_that_passes_is_shown_with_its_figures(tmp_path: Path, printed: io.StringIO):
    code, outcomes, text = run(tmp_path, fake("adding", "print('sums:'); print(1 + 1)"))
    assert code == 0
    assert (outcomes[0]["part"], outcomes[0]["verdict"], outcomes[0]["figures"]) == ("adding", "passed", "2")
    assert outcomes[0]["command"][1:] == ["-c", "print('sums:'); print(1 + 1)"] and outcomes[0]["seconds"] > 0
    assert "==== adding (at most 60 s): " in text and "\nsums:\n2\n" in text
    for shown in (text, printed.getvalue()):
        assert any(line.startswith("│ adding │ passed  │") and "│ 2 " in line for line in shown.splitlines())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_a_part_that_hangs_is_killed_with_its_children_and_the_next_one_runs(tmp_path: Path):
    code, outcomes, text = run(tmp_path, fake("hanging", HANG, limit=3.0), fake("next", "print('went on')"))
    assert code == 1
    assert [outcome["verdict"] for outcome in outcomes] == ["timed out", "passed"]
    assert outcomes[0]["reason"] == "It was killed after 3 s." and outcomes[1]["figures"] == "went on"
    pid = int(outcomes[0]["figures"].removeprefix("child "))
    assert f"\nchild {pid}\n" in text  # what was printed before is kept
    assert wait_until(lambda: not is_running(pid))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_children_that_outlive_a_part_are_killed(tmp_path: Path):
    _, outcomes, _ = run(tmp_path, fake("leaving", HANG.replace("child.wait()", "")))
    assert outcomes[0]["verdict"] == "passed"
    assert wait_until(lambda: not is_running(int(outcomes[0]["figures"].removeprefix("child "))))


def test_a_crash_costs_its_own_part_alone(tmp_path: Path, printed: io.StringIO):
    code, outcomes, _ = run(
        tmp_path,
        fake("crashing", CRASH),
        fake("refusing", "import sys; sys.exit('no such thing')"),
        parts.Part("nowhere", lambda seconds: [str(tmp_path / "no program")], lambda *_: parts.Reading(""), 5.0),
        fake("unnamed", "import os; print(1, flush=True); os.kill(os.getpid(), 45)"),
        fake("last", "print('still here')"),
    )
    assert code == 1
    assert [outcome["verdict"] for outcome in outcomes] == ["failed", "failed", "failed", "failed", "passed"]
    assert outcomes[3]["reason"] == "It crashed by signal 45."
    assert outcomes[0]["reason"] == "It crashed by SIGSEGV." and outcomes[0]["figures"] == "before"
    assert "It ended with exit code 1: no such thing" in outcomes[1]["reason"]
    assert "It ended with exit code 127: " in outcomes[2]["reason"] and "cannot be started" in outcomes[2]["reason"]
    assert "---- refusing: failed. It" in printed.getvalue()


def test_results_that_are_wrong_or_cannot_be_read_make_a_part_fail(tmp_path: Path):
    half = tmp_path / "half.json"

    def broken(output: str, measured: Any) -> Any:
        return parts.Reading(measured["psnr"])

    code, outcomes, _ = run(
        tmp_path,
        fake("wrong", "print(3)", read=lambda output, measured: parts.Reading(output.strip(), "It is not 2.")),
        fake("unreadable", "print(3)", read=broken),
        fake("half written", f"open({str(half)!r}, 'w').write('{{'); print(4)", measured=half),
    )
    assert code == 1
    found = [(outcome["verdict"], outcome["figures"]) for outcome in outcomes]
    assert found == [("failed", "3"), ("failed", ""), ("passed", "4")] and outcomes[2]["measured"] == {}
    assert outcomes[0]["reason"] == "It is not 2."
    assert outcomes[1]["reason"] == "Its results cannot be read (KeyError: 'psnr')."


def test_the_budget_shortens_a_part_and_skips_those_after_it(tmp_path: Path, printed: io.StringIO):
    asked = []

    def command(seconds: float) -> list[str]:
        asked.append(seconds)
        return [sys.executable, "-c", HANG]

    filling = parts.Part("filling", command, lambda *_: parts.Reading(""), limit=50.0, least=1.0)
    code, outcomes, text = run(tmp_path, filling, fake("late", "print('never')", least=2.0), budget=3.0)
    assert code == 1 and len(asked) == 1 and asked[0] <= 3.0
    assert [outcome["verdict"] for outcome in outcomes] == ["timed out", "not run"]
    assert outcomes[0]["reason"].endswith("Its limit was 3 s instead of 50 s.")
    assert outcomes[1]["reason"] == "0 s are left of the budget of 3 s, and it takes at least 2 s."
    assert outcomes[1]["command"] == [] and "never" not in text
    for shown in (text, printed.getvalue()):
        assert "Not run: late: 0 s are left of the budget of 3 s" in shown


def test_what_cannot_run_is_said_and_is_no_failure(tmp_path: Path):
    code, outcomes, text = run(
        tmp_path,
        fake("present", "print(1)"),
        fake("checked", "print(1)", missing="There is no checker."),
        fake("dependent", "print(1)", after="checked"),
        fake("content", "print(1)", after="present"),
    )
    assert code == 0
    assert [outcome["verdict"] for outcome in outcomes] == ["passed", "not run", "not run", "passed"]
    assert "Not run: checked: There is no checker." in text
    assert "Not run: dependent: It needs 'checked' to pass first." in text


def test_nothing_that_ran_is_no_success(tmp_path: Path):
    assert run(tmp_path, fake("checked", "print(1)", missing="There is no checker."))[0] == 1


def test_results_are_written_after_each_part_and_hold_what_it_measured(tmp_path: Path):
    path, measured = tmp_path / "out" / "gpu.json", tmp_path / "out" / "gpu-first.json"
    write = f"open({str(measured)!r}, 'w').write('{{\"psnr\": 30}}'); print('wrote')"
    read = f"import json; print([p['measured'] for p in json.load(open({str(path)!r}))['parts']])"
    _, outcomes, _ = run(tmp_path, fake("first", write, measured=measured), fake("second", read))
    assert outcomes[0]["measured"] == {"psnr": 30} and outcomes[1]["figures"] == "[{'psnr': 30}]"
    assert sorted(file.name for file in path.parent.iterdir()) == ["gpu.json", "gpu.txt"]


DRIVER = """
import sys
sys.path.insert(0, {bench!r})
from pathlib import Path
from parts import Part, Reading, Results, run_parts
def part(name, code):
    return Part(name, lambda seconds: [sys.executable, "-c", code], lambda output, _: Reading(output.strip()), 100.0)
results = Results(Path({json!r}), {{}})
run_parts([part("quick", "print(1)"), part("hanging", {hang!r}), part("never", "print(2)")], results, 500.0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_benchmark_that_is_ended_keeps_what_it_knows_and_leaves_no_process(number: signal.Signals, tmp_path: Path):
    json_file, started = tmp_path / "gpu.json", re.compile(r"^child (\d+)$", re.M)
    code = DRIVER.format(bench=str(TOOLS / "bench"), json=str(json_file), hang=HANG)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **quiet) as driver:
        text = tmp_path / "gpu.txt"
        assert wait_until(lambda: text.exists() and started.search(text.read_text("utf-8")) is not None)
        driver.send_signal(number)
        assert driver.communicate(timeout=60) == (None, b"") and driver.returncode == 128 + number
    outcomes = json.loads(json_file.read_text("utf-8"))["parts"]
    assert [(outcome["part"], outcome["verdict"]) for outcome in outcomes] == [
        ("quick", "passed"),
        ("hanging", "failed"),
    ]
    assert outcomes[1]["reason"] == "The benchmark was ended from outside."
    pid = int(started.findall(text.read_text("utf-8"))[0])
    assert wait_until(lambda: not is_running(pid))


def test_a_part_finds_the_modules_that_the_benchmark_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "only_here.py").write_text("WHERE = 'found'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", os.environ.get("PYTHONPATH", "")]))
    code, outcomes, _ = run(tmp_path, fake("importing", "import only_here, measuring; print(only_here.WHERE)"))
    assert code == 0 and outcomes[0]["figures"] == "found"


def test_a_name_that_leaves_none_for_the_text_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"gpu.txt, but must end in .json"):
        parts.Results(tmp_path / "gpu.txt", {})


# ---- the parts ----------------------------------------------------------------------------------------------------


def plan(folder: Path, **fields: Any) -> Any:
    return short.Plan(folder / "gpu.json", **fields)


def tiny(folder: Path) -> Any:
    capture = write_capture(folder / "capture", views=4, width=32, height=24)
    return plan(folder, capture=capture, gaussians=(10, 20), bits=10, size=(20, 12), rounds=1, views=1, training=1.0)


def test_the_parts_come_in_this_order_and_fit_the_budget_without_gsplat(tmp_path: Path):
    found = short.gpu_parts(plan(tmp_path))
    assert [part.name for part in found] == [
        "self-test", "tests on the GPU", "memcheck", "ours", "training", "bits", "compiling gsplat",
        "ours and gsplat in turn", "tests beside gsplat",
    ]  # fmt: skip
    assert sum(part.limit for part in found[:6]) <= gpu.Options().budget == 480
    assert all(part.after == "compiling gsplat" for part in found[7:])


def test_the_tests_are_those_of_the_longer_list():
    assert set(short.TEST_FILES) == set(re.findall(r"tests/test_\w+\.py", gpu.__doc__))


@pytest.mark.slow
def test_each_test_on_a_gpu_is_in_one_part(tmp_path: Path):
    by_name = {part.name: part.command(100.0) for part in short.gpu_parts(plan(tmp_path))}
    collected = {}
    for name in ("tests on the GPU", "tests beside gsplat"):
        words = [*by_name[name], "--collect-only", "-qq"]
        ended = subprocess.run(words, capture_output=True, text=True, cwd=parts.HERE)
        collected[name] = {line for line in ended.stdout.splitlines() if "::" in line}
    first, second = collected.values()
    assert len(first) > 250 and not first & second
    assert len(second) == 4 and all("gsplat" in name for name in second)


class FakeTimer:
    """A second passes between two events."""

    def __init__(self) -> None:
        self.events = 0

    def event(self) -> int:
        self.events += 1
        return self.events

    def seconds(self, start: int, end: int) -> float:
        return float(end - start)

    def peak_bytes(self, function: Any) -> int:
        function()
        return 100


@pytest.fixture
def gpu_in_software(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `bench.py gpu` measure on the emulator, train on the CPU, and find the CPU core in gsplat's place."""
    open_engine("emulated-float32")  # skips where it does not work
    train = gpu.measure_training
    on_cpu = {"device": "cpu", "backend": "cpu"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "CudaRuntime", lambda *_: Emulator())
    monkeypatch.setattr(gpu, "CudaTimer", FakeTimer)
    monkeypatch.setattr(gpu, "measure_rates", lambda timer: bounds.Rates(1e9, 1e9))
    monkeypatch.setattr(gpu, "device_facts", lambda rates: {"device": "emulator"})
    monkeypatch.setattr(gpu, "measure_training", lambda *args, **settings: train(*args, **settings | on_cpu))
    monkeypatch.setattr(
        gpu, "gsplat_variant", lambda name, model, packed: variants.our_variant(name, model, get_backend("cpu"))
    )


def reading_of(part: Any, printed: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command of a part that is a call of bench.py in this process, and read its results."""
    words = part.command(part.least)
    assert words[:2] == [sys.executable, str(TOOLS / "bench" / "bench.py")]
    monkeypatch.setattr(sys, "argv", words[1:])
    assert bench.main() == 0, printed.getvalue()
    return part.read(printed.getvalue(), json.loads(part.measured.read_text("utf-8")))


@pytest.mark.slow
def test_the_measuring_parts_measure_what_they_say(
    tmp_path: Path, printed: io.StringIO, monkeypatch: pytest.MonkeyPatch, gpu_in_software: None
):
    by_name = {part.name: part for part in short.gpu_parts(tiny(tmp_path))}
    stages = "rendering {0}, forward {0}, backward {0}, step {0}"
    ours = reading_of(by_name["ours"], printed, monkeypatch)
    expected = [f"{count}: {stages.format('1000.00')}" for count in ("1e-05 M", "2e-05 M")]
    assert ours == parts.Reading("\n".join([*expected, "(ms)"]))
    assert printed.getvalue().count("Kernels: synthetic, ") == 2
    both = reading_of(by_name["ours and gsplat in turn"], printed, monkeypatch)
    expected = [f"{count}: {stages.format('1.00')}" for count in ("1e-05 M", "2e-05 M")]
    assert both == parts.Reading("\n".join(["gsplat / ours", *expected]))
    bits = reading_of(by_name["bits"], printed, monkeypatch)
    assert bits.wrong == "" and bits.figures.startswith(f"nfc-te, shared view / nfr (SH): {stages.format('1.00')}")
    assert bits.figures.count("\n") == 1


def test_the_part_that_trains_ends_with_a_psnr(
    tmp_path: Path, printed: io.StringIO, monkeypatch: pytest.MonkeyPatch, gpu_in_software: None
):
    part = next(part for part in short.gpu_parts(tiny(tmp_path)) if part.name == "training")
    reading = reading_of(part, printed, monkeypatch)
    assert reading.wrong == "" and reading.figures.startswith("capture: ") and reading.figures.endswith(" steps/s")
    assert " dB after " in reading.figures and " s, " in reading.figures


def test_without_a_capture_the_built_in_one_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    part = next(part for part in short.gpu_parts(plan(tmp_path)) if part.name == "training")
    assert part.command(100.0)[2:7] == ["gpu", "--train", "built-in", "--train-time", "60s"]
    assert part.command(70.0)[6] == "30s"
    monkeypatch.setattr(gpu, "write_capture", lambda folder: write_capture(folder, views=4, width=32, height=24))
    scene = gpu.capture_scene(Path("built-in"), tmp_path)
    assert scene.root == tmp_path / "built-in" and len(scene.views) == 4


def test_a_scene_that_was_not_measured_is_a_failure_with_its_reason():
    stages = {"rendering": [0.25], "step": [0.25]}
    measured = {"measured": [{"part": "compare", "gaussians": 100_000, "found": {"ours": {"seconds": stages}}}]}
    output = "gsplat is skipped: it needs more memory than there is\n"
    ours = short.read_ours((100_000, 4_000_000))(output, measured)
    assert ours.figures == "0.1 M: rendering 250.00, step 250.00\n(ms)"
    assert ours.wrong == "Not measured: 4 M Gaussians. gsplat is skipped: it needs more memory than there is"
    both = short.read_peer((100_000,))(output, measured)
    assert both == parts.Reading("", f"Not measured: 0.1 M Gaussians. {output.strip()}")
    assert short.read_bits("", {}) == parts.Reading("", "Nothing was measured.")
    assert short.read_training("", {}) == parts.Reading("", "It did not get to its end.")


@pytest.mark.parametrize(
    ("output", "wrong"),
    [
        ("", "It printed no verdict."),
        ('{"passed": true, "reason": ""}\n', ""),
        ('A warning\n{"passed": false, "reason": "the loss differs"}\n', "the loss differs"),
    ],
)
def test_the_verdict_of_the_self_test_is_read(output: str, wrong: str):
    assert short.read_self_test(output, {}) == parts.Reading("", wrong)


def test_tests_are_counted_as_pytest_prints_them(tmp_path: Path):
    code = """
import pytest
@pytest.mark.parametrize("word", ["a b", "c"])
def test_good(word): pass
def test_bad(): assert 0
def test_left_out(): pytest.skip("for a reason that is as long as it is uninteresting to those who read it")
"""
    file = tmp_path / "tests" / "test_these.py"
    file.parent.mkdir()
    file.write_text(code, "utf-8")
    words = short.tests_part("tests", "not nothing", (str(file),), limit=1.0).command(1.0)
    words[words.index("gpu and not slow")] = ""
    ended = subprocess.run([*words, "--rootdir", str(tmp_path)], capture_output=True, text=True, cwd=parts.HERE)
    assert short.read_tests(ended.stdout, {}) == parts.Reading("2 passed, 1 failed, 1 skipped"), ended.stdout
    killed = ended.stdout.partition("test_bad")[0]
    assert short.read_tests(killed, {}) == parts.Reading("2 passed")
    assert short.read_tests("no tests ran", {}).wrong == "No test passed."


def test_the_errors_of_memcheck_are_counted():
    checks = "========= COMPUTE-SANITIZER\ndirect colors: 9 results\nantialiased: 9 results\n"
    good, bad = (short.read_memcheck(f"{checks}========= ERROR SUMMARY: {count} errors\n", {}) for count in (0, 3))
    assert good == parts.Reading("2 checks, 0 errors")
    assert bad.figures == "2 checks, 3 errors" and bad.wrong
    assert short.read_memcheck("========= ERROR SUMMARY: 0 errors\n", {}).wrong  # nothing ran
    assert short.read_memcheck(checks, {}).wrong == "compute-sanitizer printed no summary."


def test_compute_sanitizer_is_found_in_a_toolkit_and_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(short.shutil, "which", lambda name, path=None: None)
    part = short.memcheck_part()
    if not part.missing:
        pytest.skip("a package of NVIDIA's brings one")
    assert part.missing == "compute-sanitizer is not found; it is a program of the CUDA toolkit."
    monkeypatch.undo()
    program = tmp_path / "bin" / "compute-sanitizer"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert short.find_sanitizer() == str(program)
    assert short.memcheck_part().command(1.0)[0] == str(program) and not short.memcheck_part().missing


def test_gsplat_is_compiled_for_this_gpu_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setenv("MAX_JOBS", "3")
    monkeypatch.setattr(short, "ask_driver", lambda what: {"compute_cap": "9.0"}[what])
    assert short.compiling_environment() == {"MAX_JOBS": "3", "TORCH_CUDA_ARCH_LIST": "9.0"}
    monkeypatch.setattr(short, "ask_driver", lambda what: "")
    assert short.compiling_environment() == {"MAX_JOBS": "3"}


def test_what_gsplat_lacks_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(short, "has", lambda package: package != "gsplat")
    assert short.compiling_part().missing == "gsplat is not installed."


def test_without_a_gpu_there_is_one_sentence_and_nothing_is_written(tmp_path: Path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    words = [sys.executable, str(TOOLS / "bench" / "bench.py"), "gpu", "--short", "--json", str(tmp_path / "gpu.json")]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stdout == "" and list(tmp_path.iterdir()) == []
    assert ended.stderr.startswith("error: bench.py gpu needs an NVIDIA GPU") and ended.stderr.count("\n") == 1


def test_the_short_form_runs_all_parts_and_its_exit_code_is_theirs(
    tmp_path: Path, printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(short, "gpu_parts", lambda plan: [fake("one", "print(7)"), fake(plan.capture.name, CRASH)])
    (tmp_path / "fox").mkdir()
    json_file = tmp_path / "gpu.json"
    words = ["bench.py", "gpu", "--short", "--train", str(tmp_path / "fox"), "--json", str(json_file)]
    monkeypatch.setattr(sys, "argv", words)
    assert bench.main() == 1
    content = json.loads(json_file.read_text("utf-8"))
    assert [part["part"] for part in content["parts"]] == ["one", "fox"] and content["parts"][0]["figures"] == "7"
    assert content["torch"].startswith(torch.__version__) and "GPU: " in printed.getvalue()


# ---- what is carried along ----------------------------------------------------------------------------------------


def test_wheels_are_fetched_for_the_machine_and_counted_with_what_else_is_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked = []

    def pip(command: list[str]) -> Any:
        asked.append(command)
        Path(command[command.index("-d") + 1], "some.whl").write_bytes(bytes(3 * 2**20))
        return subprocess.CompletedProcess(command, 0)

    wheels = load("bench/gpu_wheels")
    monkeypatch.setattr(wheels.subprocess, "run", pip)
    (tmp_path / "fox" / "images").mkdir(parents=True)
    (tmp_path / "fox" / "images" / "1.png").write_bytes(bytes(2**20))
    words = [str(tmp_path), "--python", "3.13", "--cuda", "12", "--there", "pycolmap", "gsplat"]
    assert wheels.main(words) == 0
    assert asked[0][asked[0].index("--python-version") + 1] == "3.13"
    assert {"tyro", "cuda-bindings==12.*"} <= set(asked[0])
    assert not [word for word in asked[0] if word.startswith(("pycolmap", "gsplat"))]
    assert capsys.readouterr().out.split("\n")[:3] == ["   3.0 MiB  some.whl", "   1.0 MiB  fox", "   4.0 MiB in all"]
    assert wheels.main([*words, "--limit", "3.5"]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path} is over the limit of 3.5 MiB; leave something out.\n"
    monkeypatch.setattr(wheels.subprocess, "run", lambda command: subprocess.CompletedProcess(command, 7))
    assert wheels.main(words) == 7
    assert wheels.main([str(tmp_path), "--there", *(name.partition("==")[0] for name in wheels.NEEDED)]) == 0
    file = tmp_path / "some.whl"
    for wrong, sentence in (
        ([str(tmp_path), "--there", "cuda_core"], "--there: 'cuda_core' is none of tyro, "),
        ([str(file)], f"{file} is a file; give a folder"),
    ):
        with pytest.raises(SystemExit):
            wheels.main(wrong)
        assert sentence in capsys.readouterr().err
