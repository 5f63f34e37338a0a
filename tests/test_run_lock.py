"""The lock of a run folder, in one process and in several."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock
import pytest
from command_line import HERE, SMALL, nfc
from tiny_scenes import tiny_config, tiny_scene

import nfc_gs
from nfc_gs.core.errors import UserError
from nfc_gs.core.events import Event, StepDone, TrainFinished
from nfc_gs.runs.lock import RunLock
from nfc_gs.runs.names import LOCK_NAME
from nfc_gs.runs.run_folder import claim_free_folder, claim_run_folder, lock_run_folder
from nfc_gs.training.trainer import Trainer

HOLDS = """
import sys
from nfc_gs.runs.lock import RunLock
lock = RunLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def new_trainer(run: Path, **options: object) -> Trainer:
    return Trainer(tiny_scene(), tiny_config(steps=4), run, capture="tiny", **options)  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a process that is ended keeps its files")
def test_a_folder_in_which_another_process_works_is_refused_until_that_ends_by_whatever_means(
    run: Path, capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held_elsewhere(run) as child:
        before = (run / "history.jsonl").read_bytes()
        for words in (("train", "--resume", run), ("train", capture, "--out", run), ("demo", "--out", run)):
            assert nfc(*words) == 2
            err = capsys.readouterr().err
            assert err.splitlines()[-1].startswith(f"error: Another process, pid {child.pid}, works in {run}; wait")
        for refused in (lambda: Trainer.resume(run), lambda: nfc_gs.train(capture, out=run)):
            with pytest.raises(UserError, match=f"pid {child.pid}"):
                refused()
        assert nfc("info", run) == 0 and nfc("export", run, "--out", tmp_path / "a.ply") == 0
        assert (run / "history.jsonl").read_bytes() == before
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert (run / LOCK_NAME).exists()  # left by the process that was killed
    assert nfc("train", "--resume", run) == 0
    assert LOCK_NAME not in names(run)


def test_a_run_that_is_being_trained_is_measured_without_a_trace(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with held_elsewhere(run):
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != LOCK_NAME}
        assert nfc("eval", run, "--json") == 0
        out, err = capsys.readouterr()
        assert "nothing is written. Another process" in err and '"psnr":' in out
        after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != LOCK_NAME}
        assert after == before


def test_a_new_run_is_claimed_when_its_folder_is_made_before_the_capture_is_read(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def unreadable(*args: object, **options: object) -> None:
        seen.append(names(tmp_path / "a" / "run"))
        raise UserError("The capture is damaged.")

    monkeypatch.setattr("nfc_gs.commands.train.load_scene", unreadable)
    monkeypatch.setattr("nfc_gs.api.load_scene", unreadable)
    assert nfc("train", capture, "--out", tmp_path / "a" / "run", *SMALL) == 2
    with pytest.raises(UserError, match="damaged"):
        nfc_gs.train(capture, out=tmp_path / "a" / "run")
    assert seen == [[LOCK_NAME]] * 2
    assert names(tmp_path) == []  # neither the folder stays nor those that were made above it


@pytest.mark.parametrize("mine", [False, True])
def test_a_run_that_fails_in_its_first_step_leaves_what_was_there_before(
    mine: bool, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mine:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "notes.txt").write_text("mine")

    def unreadable(self: Trainer) -> None:
        assert (tmp_path / "run" / "checkpoint.safetensors").exists()
        raise UserError("A photo cannot be read.")

    monkeypatch.setattr(Trainer, "_one_step", unreadable)
    assert nfc("train", capture, "--out", tmp_path / "run", *SMALL) == 2
    assert names(tmp_path) == (["run"] if mine else [])
    if mine:
        assert names(tmp_path / "run") == ["notes.txt"]


def test_default_names_of_the_same_second_are_different_runs(capture: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nfc_gs.api.strftime", lambda form: "20260101-000000")
    first = claim_free_folder(Path("runs") / f"{capture.name}-20260101-000000")
    trained = nfc_gs.train(capture, nfc_gs.TrainConfig(steps=1, max_gaussians=60, device="cpu"))
    assert trained.folder == Path("runs") / f"{capture.name}-20260101-000000-2"
    first.abandon()
    assert names(Path("runs")) == [trained.folder.name]


def test_a_trainer_gives_its_folder_up_to_one_that_resumes_the_run_in_the_same_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = new_trainer(run)
    first.step()
    first.save()
    second = Trainer.resume(run, scene=tiny_scene())
    for write in (first.step, first.save, first.train, lambda: nfc_gs.finish(first)):
        with pytest.raises(UserError, match="Another training of this process works in"):
            write()
    second.train()
    nfc_gs.finish(second)
    assert LOCK_NAME not in names(run)
    with pytest.raises(UserError, match="has been gone on with elsewhere"):  # its result is not lost either
        first.save()
    second.save()  # who wrote last may go on
    assert LOCK_NAME in names(run)
    second.run.release()


def test_a_training_at_work_gives_nothing_up(tmp_path: Path) -> None:
    run, refused = tmp_path / "run", []

    def resume(event: object) -> None:
        if isinstance(event, TrainFinished):
            return
        with pytest.raises(UserError, match="Another training of this process works in") as error:
            Trainer.resume(run, scene=tiny_scene())
        refused.append(error)

    trainer = new_trainer(run)
    trainer.run.add_listener(resume)
    trainer.train()
    assert len(refused) > 4


def test_two_new_runs_of_one_process_do_not_share_a_folder(tmp_path: Path) -> None:
    claimed = claim_run_folder(tmp_path / "run")
    with pytest.raises(UserError, match="Another training of this process works in"):
        new_trainer(tmp_path / "run")
    assert names(tmp_path / "run") == [LOCK_NAME]
    trainer = new_trainer(claimed)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="holds a run already"):
        new_trainer(tmp_path / "run")
    assert trainer.train().reason == "done"


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a folder in which a file is open stays")
def test_a_run_whose_folder_is_removed_ends_without_a_trace(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def remove(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            shutil.rmtree(run)

    with pytest.raises(UserError, match="was removed while it was at work"):
        new_trainer(run, listeners=[remove]).train()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a folder in which a file is open stays")
def test_a_run_whose_folder_is_removed_writes_nothing_into_that_of_another_process(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def remove(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            shutil.rmtree(run)
            others.enter_context(held_elsewhere(run))

    with ExitStack() as others:
        with pytest.raises(UserError, match=r"Another process, pid \d+, works in"):
            new_trainer(run, listeners=[remove]).train()
        assert names(run) == [LOCK_NAME]
        with pytest.raises(UserError, match="Another process"):
            RunLock(run).acquire()


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a file that is open stays")
def test_a_run_whose_lock_is_removed_takes_it_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    seen: list[bool] = []

    def remove(event: Event) -> None:
        if isinstance(event, StepDone):
            seen.append((run / LOCK_NAME).exists())
            (run / LOCK_NAME).unlink(missing_ok=True)

    trainer = new_trainer(run, listeners=[remove])
    trainer.train()
    assert trainer.steps_done == 4 and seen == [True] * 4


def test_a_trainer_that_is_forgotten_leaves_its_folder_to_others(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    assert lock.held and names(tmp_path) == [LOCK_NAME]
    del lock
    with held_elsewhere(tmp_path), pytest.raises(UserError, match="Another process"):
        RunLock(tmp_path).acquire()


def test_the_file_of_a_lock_ends_with_its_process(run: Path) -> None:
    script = (
        "import sys; from nfc_gs.runs.run_folder import lock_run_folder as f; kept = f(sys.argv[1]); print(kept.path)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(run)], capture_output=True, text=True, cwd=HERE)
    assert done.returncode == 0 and done.stdout.strip() == str(run), done.stderr
    assert LOCK_NAME not in names(run)


def test_a_file_system_without_locks_is_worth_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_here(self: object, *args: object, **options: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", none_here)
    trainer = new_trainer(tmp_path / "run")
    assert trainer.train().reason == "done"
    nfc_gs.finish(trainer)
    assert caplog.text.count("has no locks: take care that no other process works in this run") == 1
    assert LOCK_NAME not in names(tmp_path / "run")


def test_a_compact_file_is_not_gone_on_with(run: Path, tmp_path: Path) -> None:
    assert nfc("export", run, "--out", tmp_path / "small.safetensors") == 0
    with pytest.raises(UserError, match="is a compact file, which holds no training"):
        lock_run_folder(tmp_path / "small.safetensors")
