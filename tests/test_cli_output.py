"""What the commands print at the end, with --json and with --quiet."""

from __future__ import annotations

import json
import math
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture_files import write_transforms
from command_line import nfc
from PIL import Image

from nfc_gs.commands import demo, train
from nfc_gs.commands.console import Output
from nfc_gs.commands.runs import meaning
from nfc_gs.core.errors import UserError
from nfc_gs.core.events import Event, StepDone
from nfc_gs.data.builtin.captures import write_capture, write_moving_capture
from nfc_gs.runs.metrics import Metrics, ViewMetrics
from nfc_gs.runs.verdict import verdict

SMALL = ("--steps", "4", "--max-gaussians", "60", "--backend", "cpu", "--device", "cpu", "--eval-every", "0")


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("output") / "still life", views=6, width=48, height=36)


@pytest.fixture(scope="module")
def run(capture: Path) -> Path:
    folder = capture.parent / "a run"
    assert nfc("train", capture, "--out", folder, "--quiet", *SMALL) == 0
    return folder


def refuse(word: str) -> float:
    raise AssertionError(f"{word} is no JSON")


def printed_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The object on stdout, where nothing else may be."""
    value = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert isinstance(value, dict)
    for name in names_in(value):
        assert name == name.lower() and " " not in name and "-" not in name.replace("nfc-", "")
    return value


def names_in(value: dict[str, Any]) -> set[str]:
    inner = [names_in(part) for name, part in value.items() if isinstance(part, dict) and name != "compiled_kernels"]
    return set(value).union(*inner)


# ---- the end of a training ----


def test_a_training_ends_with_what_its_figure_means_and_where_to_look(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "my run"
    assert nfc("train", capture, "--out", run, *SMALL) == 0
    lines = capsys.readouterr().out.splitlines()
    metrics = json.loads((run / "metrics.json").read_text())
    psnr = metrics["test"]["psnr"]
    assert lines[-4:] == [
        f"{psnr:.1f} dB on the held-out views, {verdict(psnr, steps=4)}",
        f"Report: {run}/report.html (open it in a browser)",
        f"Splat: {run}/splat.ply, with everything else in {run}",
        f"Look at it: nfc-gs view {shlex.quote(str(run))}",
    ]


def test_without_held_out_views_the_end_says_how_to_get_some(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nfc("train", capture, "--out", tmp_path / "run", "--test-every", 0, *SMALL) == 0
    out = capsys.readouterr().out
    assert "No views are held out, so the quality is not measured; --test-every 8 holds out every 8th." in out
    assert "dB" not in out.split("Results")[1] and "Look at it: nfc-gs view" in out


def test_the_outlook_is_left_out_where_nothing_is_known_of_it() -> None:
    metrics = Metrics((ViewMetrics("a", 25.0, 0.9),))
    words = verdict(25.0, steps=1000)
    assert words.outlook is not None
    assert meaning(metrics, 1000, outlook=True) == f"25.0 dB on the held-out views, {words}"
    assert meaning(metrics, 1000, outlook=False) == f"25.0 dB on the held-out views, {words.quality}."


def test_a_moving_scene_and_an_interrupted_run_have_no_outlook(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[bool] = []
    real = meaning

    def spied(metrics: Metrics, steps: int, *, outlook: bool) -> str:
        asked.append(outlook)
        return real(metrics, steps, outlook=outlook)

    monkeypatch.setattr("nfc_gs.commands.runs.meaning", spied)
    moving = write_moving_capture(tmp_path / "moving", kind="monocular", frames=8, width=48, height=36)
    assert nfc("train", moving, "--out", tmp_path / "moving run", "--motion", "mlp", *SMALL) == 0

    class CtrlC(train.Progress):
        def __call__(self, event: Event) -> None:
            super().__call__(event)
            if isinstance(event, StepDone) and event.step == 2:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train, "Progress", CtrlC)
    capsys.readouterr()
    assert nfc("train", capture, "--out", tmp_path / "cut", "--json", *SMALL) == 130
    values = printed_json(capsys)
    assert values["interrupted"] is True and values["steps"] == 2
    assert asked == [False, False]


def test_a_view_that_is_masked_whole_has_no_figure() -> None:
    sentence = meaning(Metrics((ViewMetrics("a", math.nan, math.nan),)), 10, outlook=True)
    assert sentence == "The masks ignore the held-out views whole, so the quality is not measured."


# ---- --json ----


def test_train_prints_one_object_of_json(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert nfc("train", capture, "--out", run, "--json", *SMALL) == 0
    out, err = capsys.readouterr()
    values = json.loads(out, parse_constant=refuse)
    metrics = json.loads((run / "metrics.json").read_text())
    assert {name: values[name] for name in metrics if name != "test"} == {
        name: value for name, value in metrics.items() if name != "test"
    }
    assert values["test"] == {"lpips": None, "foreground_psnr": None, "moving_psnr": None, **metrics["test"]}
    assert isinstance(values["test"]["psnr"], float) and values["steps"] == 4 and values["gaussians"] == 60
    assert (values["run"], values["report"]) == (str(run), str(run / "report.html"))
    assert values["splat"] == str(run / "splat.ply") and values["interrupted"] is False
    assert "step 4/4" in err and "Results" in err, "progress and tables are on stderr"


def test_eval_prints_one_object_of_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((run / "metrics.json").read_text())
    assert nfc("eval", run, "--json") == 0
    values = printed_json(capsys)
    assert values["test"]["psnr"] == before["test"]["psnr"] and values["test"]["lpips"] is None
    assert values["run"] == str(run) and values["steps"] == 4 and len(values["test"]["views"]) == 1


def test_the_demo_prints_one_object_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("DEMO_VIEWS", 8), ("DEMO_WIDTH", 48), ("DEMO_HEIGHT", 36)):
        monkeypatch.setattr(demo, name, value)
    assert nfc("demo", "--steps", 3, "--device", "cpu", "--out", tmp_path / "run", "--json") == 0
    assert printed_json(capsys)["run"] == str(tmp_path / "run")


def test_info_prints_one_object_of_json_for_everything_it_knows(
    capture: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def info(*words: object) -> dict[str, Any]:
        assert nfc("info", *words, "--json") == 0
        return printed_json(capsys)

    here = info()
    assert here["kind"] == "installation" and here["path"] is None and isinstance(here["threads"], int)
    assert isinstance(here["torch"], str) and here["gpus"] == [] and here["device_here"] == "cpu"
    devices = info("--devices")
    assert devices["kind"] == "devices" and devices["gpus"] == [] and isinstance(devices["compiled_kernels"], dict)
    photos = info(capture)
    assert (photos["kind"], photos["views"], photos["train_views"], photos["test_views"]) == ("capture", 6, 5, 1)
    assert photos["image_bytes"] == 6 * 48 * 36 * 3
    assert photos["image_sizes"] == [{"width": 48, "height": 36, "views": 6}] and photos["time_axis"] is None
    trained = info(run)
    assert (trained["kind"], trained["path"], trained["capture"]) == ("run", str(run), str(capture))
    assert (trained["steps"], trained["total_steps"], trained["budget_seconds"]) == (4, 4, None)
    assert trained["objective"]["l1"] == 0.8 and trained["gaussians"] == 60 and trained["head"] == "sh"
    assert trained["psnr"] == json.loads((run / "metrics.json").read_text())["test"]["psnr"]
    assert trained["deformation"] is None and trained["moving_psnr"] is None and trained["bytes"] > 0
    checkpoint = info(run / "checkpoint.safetensors")
    assert checkpoint["kind"] == "checkpoint" and checkpoint["psnr"] is None
    splat = info(run / "splat.ply")
    assert (splat["kind"], splat["gaussians"]) == ("splat", 60)
    assert splat["bytes"] == (run / "splat.ply").stat().st_size


def test_the_fields_of_info_are_documented_in_its_help(
    capture: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nfc("info", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for path in (capture, run, run / "splat.ply"):
        assert nfc("info", path, "--json") == 0
        for name in printed_json(capsys):
            assert name in text


def test_errors_stay_a_sentence_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("train", tmp_path / "no"), ("eval", tmp_path / "no"), ("info", tmp_path / "no")):
        assert nfc(*words, "--json") == 2
        out, err = capsys.readouterr()
        assert out == "" and err.splitlines()[-1].startswith("error: ")


def test_numbers_that_json_does_not_have_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).result("", {"psnr": math.inf, "views": [{"psnr": math.nan}], "name": "ü\n"})
    assert printed_json(capsys) == {"psnr": None, "views": [{"psnr": None}], "name": "ü\n"}


def test_a_result_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        encoding = "utf-8"

        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            pass

    monkeypatch.setattr("sys.stdout", Full())
    with pytest.raises(UserError, match="No space left on device"):
        Output(as_json=True).result("", {})


# ---- --quiet ----


def test_quiet_commands_print_their_result_alone(
    capture: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def output_of(*words: object) -> str:
        assert nfc(*words, "--quiet") == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    assert output_of("train", capture, "--out", tmp_path / "run", *SMALL) == f"{tmp_path / 'run'}\n"
    assert output_of("export", run, "--out", tmp_path / "a.ply") == f"{tmp_path / 'a.ply'}\n"
    assert output_of("export", run, "--out", tmp_path / "a.safetensors") == f"{tmp_path / 'a.safetensors'}\n"
    assert output_of("render", run, "--what", "test", "--out", tmp_path / "out") == f"{tmp_path / 'out'}\n"
    test = json.loads((run / "metrics.json").read_text())["test"]
    assert output_of("eval", run) == f"PSNR {test['psnr']:.2f} dB, SSIM {test['ssim']:.4f}\n"


def test_quiet_and_json_together_print_json_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nfc("eval", run, "--quiet", "--json") == 0
    out, err = capsys.readouterr()
    assert err == "" and json.loads(out)["run"] == str(run)


def test_a_quiet_command_still_warns_and_names_the_viewer(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    output.line("a line")
    output.address("Viewer: http://127.0.0.1:8080")
    assert capsys.readouterr() == ("", "Viewer: http://127.0.0.1:8080\n")


def test_resuming_names_the_options_that_are_to_be_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nfc("train", "--resume", run, "--image-background", 1, 1, 1, "--objective.l1", 0.5) == 2
    assert "leave out --objective.l1, --image-background." in capsys.readouterr().err


# ---- the foreground ----


def test_the_foreground_is_measured_where_transparency_is_laid_on_a_color(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_transforms(tmp_path / "cut out", 8)
    for path in sorted((tmp_path / "cut out" / "images").iterdir()):
        pixels = np.array(Image.open(path).convert("RGBA"))
        pixels[:, : pixels.shape[1] // 2, 3] = 0
        Image.fromarray(pixels).save(path)
    run = tmp_path / "run"
    assert nfc("train", file, "--out", run, "--image-background", 1, 1, 1, *SMALL) == 0
    test = json.loads((run / "metrics.json").read_text())["test"]
    words = f"{test['foreground_psnr']:.2f} dB"
    assert test["foreground_psnr"] < test["psnr"] and test["views"][0]["foreground_pixels"] == 24 * 16
    assert f"Foreground PSNR {words}" in in_one_row(capsys)
    assert nfc("eval", run) == 0
    shown = capsys.readouterr().out
    assert "Foreground PSNR" in shown and "mean (foreground: all pixels)" in shown and shown.count(words) == 2
    assert nfc("info", run) == 0
    assert f"Foreground PSNR {words}" in in_one_row(capsys)
    assert "Foreground PSNR" in (run / "report.html").read_text(encoding="utf-8")


def in_one_row(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, without the borders of tables and in one line."""
    return " ".join(capsys.readouterr().out.replace("│", " ").split())
