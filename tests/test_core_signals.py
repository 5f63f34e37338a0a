"""Signals that end a program: of a process, and while a context lasts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import HERE, SMALL, nfc

import nfc_gs
from nfc_gs.core.events import StepDone
from nfc_gs.core.signals import (
    ENDING,
    Interrupted,
    exit_code,
    first_signal_calls,
    signal_of,
    signals_call,
    signals_held,
)

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")


@pytest.fixture(autouse=True)
def same_handlers_afterwards() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    after = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


@posix
@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_calls_and_the_second_does_what_it_did_before(number: signal.Signals) -> None:
    calls: list[int] = []
    with signals_call(lambda received: calls.append(-received)):
        with first_signal_calls(calls.append):
            signal.raise_signal(number)
            signal.raise_signal(number)
        signal.raise_signal(number)
    assert calls == [number, -number, -number]


@posix
def test_an_ignored_signal_stays_ignored() -> None:
    for number in ENDING:
        before = signal.signal(number, signal.SIG_IGN)
        with (
            signals_call(lambda received: pytest.fail("it was not ignored")),
            first_signal_calls(lambda received: None),
        ):
            assert signal.getsignal(number) == signal.SIG_IGN
            signal.raise_signal(number)
        signal.signal(number, before)


def test_other_threads_leave_signals_alone() -> None:
    seen = []

    def work() -> None:
        with signals_call(lambda received: None), signals_held():
            seen.append(signal.getsignal(signal.SIGINT))

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_exit_codes_are_those_of_shells() -> None:
    assert (exit_code(), exit_code(15), exit_code(signal_of(Interrupted(1)))) == (130, 143, 129)
    assert signal_of(KeyboardInterrupt()) == signal.SIGINT


@posix
def test_reading_a_colmap_model_leaves_the_handlers_of_the_program(capture: Path) -> None:
    """glog, a part of pycolmap, sets one for SIGTERM in C, which prints a stack trace and ends the process."""
    script = (
        "import os, signal, sys, nfc_gs\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('ours', flush=True))\n"
        "nfc_gs.load_scene(sys.argv[1])\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(capture)], capture_output=True, text=True, cwd=HERE)
    assert (done.returncode, done.stdout, "SIGTERM" in done.stderr) == (0, "ours\n", False), done.stderr


def test_pycolmap_is_imported_where_the_handlers_are_kept_and_nowhere_else() -> None:
    package = Path(nfc_gs.__file__).parent
    importing = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any(line.strip().startswith(("import pycolmap", "from pycolmap")) for line in path.read_text().splitlines())
    ]
    assert importing == ["data/colmap_library.py"]


# ---- of the program ----


def started(*words: object, ignore: int | None = None) -> subprocess.Popen[str]:
    """The program in a process of its own, where Ctrl-C is not ignored unless it should be."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if ignore is not None:
            signal.signal(ignore, signal.SIG_IGN)

    command = [sys.executable, "-m", "nfc_gs", *(str(word) for word in words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=HERE, preexec_fn=prepare)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 120
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert path.exists()


@posix
def test_sigterm_saves_and_finishes_a_training_and_what_is_ignored_stays_so(capture: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--out", run, "--steps", 1_000_000, "--eval-every", 0)
    process = started("train", capture, *options, *SMALL, ignore=signal.SIGINT)
    wait_for(run / "renders" / "timelapse" / "0000000.jpg")
    process.send_signal(signal.SIGINT)  # as of a job in the background, where nobody may press Ctrl-C
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, out + err
    assert "SIGTERM: saving and ending" in err and "everything is saved" in out
    assert "***" not in out + err and "Traceback" not in out + err  # glog's trace, Python's
    names = {"checkpoint.safetensors", "config.yaml", "history.jsonl", "metrics.json", "renders", "report.html"}
    assert {path.name for path in run.iterdir()} == {*names, "splat.ply"}


@posix
@pytest.mark.slow
@pytest.mark.parametrize("number", ENDING)
def test_a_signal_in_the_first_moments_is_quiet_and_leaves_nothing(number: int, capture: Path, tmp_path: Path) -> None:
    for delay in (0.3, 0.6, 1.2, 2.0):
        process = started("train", capture, "--out", tmp_path / "run", "--steps", 1_000_000, *SMALL)
        time.sleep(delay)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 128 + number, out + err
        assert "Traceback" not in err and "***" not in err
        if "Training on" not in out:
            assert err.splitlines()[-1] == "Interrupted." and not (tmp_path / "run").exists()
        else:
            break


@posix
def test_a_signal_while_modules_are_imported_is_quiet() -> None:
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'nfc_gs.cli':\n"
        "            os.kill(os.getpid(), int(sys.argv[1]))\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from nfc_gs.__main__ import main\n"
        "main()\n"
    )
    for number in ENDING:
        command = [sys.executable, "-c", script, str(int(number))]
        done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
        assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "Interrupted.\n")


@posix
@pytest.mark.parametrize("number", ENDING)
def test_a_signal_while_options_are_parsed_is_said(number: signal.Signals) -> None:
    """The parser redirects stdout and stderr meanwhile."""
    script = (
        "import contextlib, io, os, signal, sys, tyro\n"
        "from nfc_gs.__main__ import main\n"
        "number = int(sys.argv[1])\n"
        "signal.signal(number, signal.default_int_handler)\n"
        "def interrupted(*words, **options):\n"
        "    with contextlib.redirect_stderr(io.StringIO()):\n"
        "        os.kill(os.getpid(), number)\n"
        "tyro.cli = interrupted\n"
        "sys.argv[1:] = ['info']\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "Interrupted.\n")


@posix
@pytest.mark.parametrize("number", ENDING)
def test_a_signal_while_a_library_is_imported_acts_afterwards(number: signal.Signals) -> None:
    seen: list[object] = []
    with signals_call(seen.append):
        with signals_held():
            signal.raise_signal(number)
            signal.raise_signal(number)
            signal.signal(number, signal.SIG_DFL)  # as a library may
            seen.append("imported")
        signal.raise_signal(number)
    assert seen == ["imported", number, number]


@posix
def test_a_signal_while_a_capture_is_read_leaves_no_folder(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nfc_gs.commands.train.load_scene", lambda *_, **__: signal.raise_signal(signal.SIGHUP))
    assert nfc("train", capture, "--out", tmp_path / "run", *SMALL) == 129
    assert capsys.readouterr().err == "Interrupted.\n" and not (tmp_path / "run").exists()


@posix
@pytest.mark.parametrize("number", ENDING)
def test_the_first_signal_while_views_are_measured_leaves_the_rest_and_the_second_ends_at_once(
    number: signal.Signals, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = nfc_gs.Trainer.evaluate
    monkeypatch.setattr(nfc_gs.Trainer, "evaluate", lambda *_, **__: signal.raise_signal(number))
    assert nfc("train", capture, "--out", tmp_path / "a", "--steps", 2, "--eval-every", 0, *SMALL) == 128 + number
    assert {path.name for path in (tmp_path / "a").iterdir()} > {"report.html", "splat.ply", "metrics.json"}

    class Ended:
        def __init__(self, *_: object) -> None: ...

        def __call__(self, event: object) -> None:
            if isinstance(event, StepDone):
                signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr("nfc_gs.commands.train.tensorboard_listener", Ended)
        options = ("--steps", 9, "--eval-every", 0, "--tensorboard")
        assert nfc("train", capture, "--out", tmp_path / "b", *options, *SMALL) == 128 + number
    assert not (tmp_path / "b" / "report.html").exists()
    monkeypatch.setattr(nfc_gs.Trainer, "evaluate", evaluate)
    assert nfc("train", "--resume", tmp_path / "b") == 0  # the first had saved everything
    assert (tmp_path / "b" / "report.html").exists()


@posix
def test_a_script_that_trains_ends_by_sigterm_with_everything_written(capture: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, nfc_gs\n"
        "from nfc_gs.core.events import StepDone\n"
        "def listener(event):\n"
        "    if isinstance(event, StepDone) and event.step == 3: os.kill(os.getpid(), signal.SIGTERM)\n"
        "config = nfc_gs.TrainConfig(steps=1000, max_gaussians=60, device='cpu', eval_every=0.0)\n"
        "nfc_gs.train(sys.argv[1], config, out=sys.argv[2], listeners=[listener])\n"
        "print('not reached')\n"
    )
    command = [sys.executable, "-c", script, str(capture), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, ""), done.stderr
    assert nfc_gs.load_model(tmp_path / "run").checkpoint.step == 3
    assert (tmp_path / "run" / "report.html").exists() and not (tmp_path / "run" / ".lock").exists()
