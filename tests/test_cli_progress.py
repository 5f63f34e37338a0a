"""What a training prints while it runs, from its events alone."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfc_gs.commands import progress as module
from nfc_gs.commands.console import Output, clock, sentences_to_stderr, size_on_disk
from nfc_gs.commands.progress import Progress, tensorboard_listener
from nfc_gs.core.events import CheckpointSaved, Evaluated, StepDone, TrainFinished, TrainStarted
from nfc_gs.core.text import duration


def started(total: int | None = 100) -> TrainStarted:
    return TrainStarted(Path("run"), 0, total, "cpu", {"gaussians": 50}, 7, 1)


def step(number: int, total: int = 100, **changes: float) -> StepDone:
    values = {"loss": 0.25, "psnr": 20.0, "seconds": 0.1 * number, "remaining_seconds": 0.1 * (total - number)}
    values |= changes
    return StepDone(step=number, progress=number / total, sizes={"gaussians": 1234}, width=64, height=48, **values)


class Clock:
    """Time that passes as a test sets it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(module, "perf_counter", clock)
    yield clock


def test_without_a_terminal_lines_come_now_and_then(capsys: pytest.CaptureFixture[str], time: Clock) -> None:
    progress = Progress(Output())
    with progress.shown():
        progress(started())
        for number in range(1, 101):
            time.now += 1.0
            progress(step(number))
        progress(TrainFinished(100, 10.0, "done"))
    lines = capsys.readouterr().out.splitlines()
    assert 15 <= len(lines) <= 21, "one for each twentieth of the run"
    assert lines[-1].startswith("step 100/100  100%")
    for word in ("10.0 it/s", "0:00 left", "loss 0.2500", "PSNR 20.00 dB", "1,234 Gaussians", "64 x 48"):
        assert word in lines[-1]


def test_a_quick_run_has_few_lines(capsys: pytest.CaptureFixture[str], time: Clock) -> None:
    progress = Progress(Output())
    for number in range(1, 101):
        progress(step(number))
    progress(TrainFinished(100, 10.0, "done"))
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_slow_run_speaks_every_half_minute(capsys: pytest.CaptureFixture[str], time: Clock) -> None:
    progress = Progress(Output())
    for number in range(1, 11):
        time.now += 10.0
        progress(step(number, total=100_000))
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_loss_and_psnr_are_means_over_views(capsys: pytest.CaptureFixture[str], time: Clock) -> None:
    progress = Progress(Output())
    progress(step(1, loss=1.0, psnr=10.0))
    progress(step(2, loss=0.0, psnr=30.0))
    progress(TrainFinished(2, 1.0, "interrupted"))
    out = capsys.readouterr().out
    assert "loss 0.9500" in out and "PSNR 11.00 dB" in out


def test_a_time_budget_shows_no_number_of_steps(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(Output())
    progress(started(total=None))
    progress(step(50, remaining_seconds=65.0))
    progress(TrainFinished(50, 1.0, "interrupted"))
    out = capsys.readouterr().out
    assert out.startswith("step 50   50%") and "1:05 left" in out


def test_evaluations_are_printed_while_training_and_not_after(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(Output())
    progress(Evaluated(25, 21.5, 0.75, 3.0))
    progress(CheckpointSaved(25, Path("checkpoint")))
    progress(TrainFinished(30, 4.0, "done"))
    progress(Evaluated(30, 23.5, 0.85, 4.0))
    assert capsys.readouterr().out == "step 25: held-out PSNR 21.50 dB, SSIM 0.7500, after 0:03 of training\n"


def test_on_a_terminal_a_bar_is_shown_and_taken_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    output = Output()
    output._force_terminal = True
    progress = Progress(output)
    with progress.shown(), sentences_to_stderr():
        progress(started())
        progress(step(40))
        logging.getLogger("nfc_gs").warning("[red]careful[/red]")
    out, err = capsys.readouterr()
    assert "step 40/100" in out and "━" in out and "1,234 Gaussians" in out
    assert "[red]careful[/red]" in out + err, "what is logged is printed as it is, above the bar"


def test_what_the_library_logs_is_said_once_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("nfc_gs")
    with sentences_to_stderr():
        logger.info("A decision [1/2].")
        logger.warning("A %s.", "worry")
    logger.info("This is printed nowhere.")
    out, err = capsys.readouterr()
    assert err == "A decision [1/2].\nwarning: A worry.\n" and out == ""


def test_lines_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = "/a/[bold]path[/bold]/:smile:/" + "long/" * 60
    Output().line(text)
    assert capsys.readouterr().out == text + "\n"


def test_tensorboard_gets_curves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scalars: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, at: int) -> None:
            scalars.append((name, value, at))

        def flush(self) -> None:
            scalars.append(("flushed", 0, 0))

    stand_in = types.ModuleType("torch.utils.tensorboard")
    stand_in.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    listener = tensorboard_listener(tmp_path)
    for event in (started(), step(9), step(10), Evaluated(10, 21.5, 0.75, 3.0), TrainFinished(10, 1.0, "done")):
        listener(event)
    assert ("train/loss", 0.25, 10) in scalars and ("test/psnr", 21.5, 10) in scalars
    assert ("train/gaussians", 1234, 10) in scalars and scalars[-1][0] == "flushed"
    assert not [at for _, _, at in scalars if at == 9]


def test_durations_and_sizes_read_well(tmp_path: Path) -> None:
    assert [duration(s) for s in (8.44, 65.2, 7384.0)] == ["8.4 s", "1 min 5 s", "2 h 3 min"]
    assert [clock(s) for s in (5.4, 65.2, 7384.0)] == ["0:05", "1:05", "2:03:04"]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(bytes(1500))
    (tmp_path / "b").write_bytes(bytes(20))
    assert size_on_disk(tmp_path) == "1.5 kB" and size_on_disk(tmp_path / "b") == "20 bytes"


def test_the_final_measurement_says_now_and_then_how_far_it_is(capsys: pytest.CaptureFixture[str], time: Clock) -> None:
    with Progress(Output()).measuring() as measured:
        for count in range(1, 201):
            time.now += 0.25
            measured(count, 200)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{count} of 200 held-out views are measured" for count in (40, 80, 120, 160)]


def test_on_a_terminal_the_final_measurement_has_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress(Output()).measuring() as measured:
        measured(150, 200)
    assert "150 of 200 held-out views are measured" in capsys.readouterr().out
