"""The history of a run: what is written, what is read again, and what is done where it cannot be written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_scenes import tiny_config, tiny_scene

from nfc_gs.export.report import write_report
from nfc_gs.runs import history
from nfc_gs.runs.checkpoint import load_checkpoint, save_checkpoint
from nfc_gs.runs.history import History, read_history
from nfc_gs.training.trainer import Trainer


def test_an_evaluation_of_the_same_step_takes_the_place_of_the_earlier_one(tmp_path: Path) -> None:
    lines = History(tmp_path, 0, 0.0)
    lines.write(step=1, loss=0.5)
    for psnr in (9.0, 10.0):
        lines.write_evaluation(step=1, test_psnr=psnr)
    assert lines.has_evaluation(1) and not lines.has_evaluation(2)
    assert read_history(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 1, "test_psnr": 10.0}]


def test_lines_that_cannot_be_written_are_worth_one_warning_and_come_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def torn(path: Path, *args: object, **options: object) -> object:
        with open(path, "a") as file:
            file.write('{"step": 2, "lo')
        raise OSError(24, "Too many open files")

    lines = History(tmp_path, 0, 0.0)
    lines.write(step=1)
    with monkeypatch.context() as patch:
        patch.setattr(history, "open", torn, raising=False)
        patch.setattr(history, "write_text", torn)
        lines.write(step=2)
        lines.write(step=3)
    assert [line["step"] for line in read_history(tmp_path)] == [1]
    lines.write(step=4)
    lines.write(step=5)
    assert [line["step"] for line in read_history(tmp_path)] == [1, 2, 3, 4, 5]
    assert caplog.text.count("lacks lines for now, and training goes on. Cannot write") == 1


def test_half_of_a_surrogate_pair_in_a_setting_is_shown_as_a_question_mark(tmp_path: Path) -> None:
    Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny")
    checkpoint = load_checkpoint(tmp_path / "run")
    config = {**checkpoint.config, "hexplane": {"features": "\ud800"}}
    save_checkpoint(tmp_path / "run" / "checkpoint.safetensors", replace(checkpoint, config=config))
    assert "<dt>features</dt><dd>?</dd>" in write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_a_training_goes_on_without_its_history(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run").mkdir()
    trainer = Trainer(tiny_scene(), tiny_config(steps=4), tmp_path / "run", capture="tiny")
    (tmp_path / "run" / "history.jsonl").unlink()
    (tmp_path / "run" / "history.jsonl").mkdir()
    assert trainer.train().step == 4
    assert caplog.text.count("The history of the run lacks lines") == 1


@pytest.mark.parametrize(
    "line",
    [
        "[" * 200_000,
        '{"step": ' + "[" * 200_000,
        '{"step": ' + "9" * 400 + "}",
        '{"step": ' + "9" * 5000 + "}",
        '{"step": Infinity}',
        '{"step": NaN}',
        '{"step": true}',
        '{"step": -1}',
        '{"step": 2, "phases": 3}',
        '{"step": 2, "test_psnr": "high"}',
        '{"step": 2, "loss": null}',
        '{"step": 2, "seconds": ' + "9" * 400 + "}",
        '{"step": 2, "\\ud800": 1}',
        "3",
        "",
    ],
    ids=range(15),
)
def test_a_line_that_no_run_writes_is_left_out_with_a_warning(
    line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "history.jsonl").write_text('{"step": 1}\n' + line + '\n{"step": 3}\n')
    assert read_history(tmp_path) == [{"step": 1}, {"step": 3}]
    assert ("line 2 cannot be read, and is left out" in caplog.text) == bool(line)
    assert write_report(tmp_path).exists()


def test_an_unfinished_line_at_the_end_is_left_out_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "history.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_history(tmp_path) == [{"step": 1}]
    assert caplog.text == ""


@pytest.mark.parametrize("value", ["Infinity", "NaN", "1e999", "9" * 400, '"x"', "[]", "{}", "null", "true", "-1e308"])
@pytest.mark.parametrize("name", ["step", "seconds", "loss", "psnr", "width", "test_psnr", "phases"])
def test_a_report_takes_odd_values_of_the_history_for_unknown(name: str, value: str, tmp_path: Path) -> None:
    rows = [{"step": step, "seconds": step, "loss": 0.5, "psnr": 10.0} for step in (1, 2, 3)]
    lines = [json.dumps(row) for row in rows]
    lines[1] = lines[1][:-1] + f', "{name}": {value}}}'
    (tmp_path / "history.jsonl").write_text("\n".join(lines) + "\n")
    assert write_report(tmp_path).exists()
