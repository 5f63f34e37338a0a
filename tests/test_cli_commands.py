"""The commands from end to end, on a capture small enough to train in a moment."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import HERE, SMALL, nfc, read_metrics
from PIL import Image
from plyfile import PlyData

import nfc_gs
from nfc_gs import api, cli, results
from nfc_gs.commands import demo, evaluate, info, train
from nfc_gs.commands import runs as commands_runs
from nfc_gs.commands.render import sized
from nfc_gs.core.events import Event, StepDone
from nfc_gs.export.report import write_report
from nfc_gs.ops import nvrtc
from nfc_gs.rendering.self_test import Verdict
from nfc_gs.runs import verdict
from nfc_gs.runs.checkpoint import load_checkpoint, save_checkpoint
from nfc_gs.runs.history import read_history
from nfc_gs.training import trainer
from nfc_gs.training.trainer import Trainer


def in_one_line(text: str) -> str:
    return " ".join(text.split())


# ---- the whole ----


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "nfc-gs demo" in capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"nfc-gs {nfc_gs.__version__}\n"


def test_a_terminal_that_knows_ascii_alone_is_no_problem() -> None:
    command = [sys.executable, "-m", "nfc_gs", "--help"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, check=True, cwd=HERE)
    assert b"NFC_GS_THREADS" in done.stdout and done.stderr == b""


# ---- train ----


def test_a_run_holds_everything(trained: Path) -> None:
    names = "splat.ply checkpoint.safetensors metrics.json config.yaml history.jsonl report.html renders/test/0001.png"
    for name in names.split():
        assert (trained / name).is_file(), name
    metrics = read_metrics(trained)
    assert metrics["gaussians"] == 60 and metrics["steps"] == 12 and metrics["train_seconds"] > 0
    assert [view["name"] for view in metrics["test"]["views"]] == ["0001.png", "0005.png"]
    assert 0 < metrics["test"]["psnr"] < 60 and -1 < metrics["test"]["ssim"] <= 1
    assert load_checkpoint(trained).config["seed"] == 3


def test_the_results_and_places_are_printed(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nfc("train", capture, "--out", tmp_path / "run", "--steps", 4, *SMALL) == 0
    out, err = capsys.readouterr()
    for text in ("Test PSNR", "Gaussians", "preset fast", str(tmp_path / "run" / "report.html"), "step 4/4"):
        assert text in out
    assert err.count("chosen at random") == 1, "what the library says is printed once"


def test_without_out_a_run_gets_a_folder_of_its_own(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "strftime", lambda form: "20260101-120000")
    for _ in range(2):
        assert nfc("train", capture, "--steps", 1, "--eval-every", 0, *SMALL) == 0
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["still life-20260101-120000", "still life-20260101-120000-2"]


def test_no_held_out_views_are_no_failure(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nfc("train", capture, "--out", tmp_path / "run", "--steps", 2, "--test-every", 0, *SMALL) == 0
    out = capsys.readouterr().out
    assert "none held out" in out and "the quality is not measured; --test-every 8 holds out" in out
    assert not (tmp_path / "run" / "renders" / "test").exists()
    assert read_metrics(tmp_path / "run")["test"] == {"psnr": None, "ssim": None, "views": []}
    assert nfc("eval", tmp_path / "run") == 2
    assert "--test-every" in capsys.readouterr().err


class CtrlC(train.Progress):
    """Progress that presses Ctrl-C after the seventh step."""

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, StepDone) and event.step == 7:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_saves_everything_and_the_run_goes_on_to_the_same_end(
    capture: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "a run"
    with monkeypatch.context() as patch:
        patch.setattr(train, "Progress", CtrlC)
        options = ("--steps", 12, "--test-every", 4, "--seed", 3)
        assert nfc("train", capture, "--out", run, *options, *SMALL) == 130
    assert f"nfc-gs train --resume {shlex.quote(str(run))}" in capsys.readouterr().out
    assert read_metrics(run)["steps"] == 7
    for name in ("splat.ply", "report.html", "renders/test/0001.png"):
        assert (run / name).is_file()
    assert nfc("train", "--resume", run, "--no-view") == 0
    assert read_metrics(run)["steps"] == 12
    assert (run / "splat.ply").read_bytes() == (trained / "splat.ply").read_bytes()


def test_ctrl_c_while_views_are_measured_still_leaves_the_rest(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Trainer, save_to: Path | None = None, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "evaluate", interrupted)
    assert nfc("train", capture, "--out", tmp_path / "run", "--steps", 2, "--eval-every", 0, *SMALL) == 130
    assert read_metrics(tmp_path / "run")["test"]["views"] == []
    assert (tmp_path / "run" / "report.html").is_file() and (tmp_path / "run" / "splat.ply").is_file()


def test_resume_refuses_other_settings_and_folders(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nfc("train", "--resume", run, "--steps", 50, "--masks", "--rates.means", 1) == 2
    said = capsys.readouterr().err
    assert "--steps, --rates" in said and "begin a new run: leave out --resume" in said
    assert nfc("train", "--resume", run, "--out", run.parent / "other") == 2
    assert "--out" in capsys.readouterr().err
    assert nfc("train", "--resume", run, "--out", run) == 0


def test_a_finished_run_can_be_resumed_without_harm(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "splat.ply").read_bytes()
    assert nfc("train", "--resume", run) == 0
    said = in_one_line(capsys.readouterr().out)
    assert "complete and is not trained any further (for that, begin a new one without --resume)" in said
    assert (run / "splat.ply").read_bytes() == before and read_metrics(run)["steps"] == 12


def test_a_reader_that_goes_away_does_not_stop_the_training(capture: Path, tmp_path: Path) -> None:
    words = ["train", str(capture), "--out", str(tmp_path / "run"), "--steps", "3", *SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "nfc_gs", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=HERE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait(timeout=120) == 0, err
    assert "Traceback" not in err and "BrokenPipe" not in err
    assert (tmp_path / "run" / "report.html").is_file()


def test_tensorboard_without_its_package_is_reported_before_anything_is_done(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert nfc("train", capture, "--out", tmp_path / "run", "--tensorboard", *SMALL) == 2
    assert "nfc-gs[tensorboard]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ---- demo ----


def test_the_demo_goes_from_a_capture_to_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("DEMO_VIEWS", 8), ("DEMO_WIDTH", 48), ("DEMO_HEIGHT", 36)):
        monkeypatch.setattr(demo, name, value)
    assert nfc("demo", "--no-view", "--steps", 3, "--device", "cpu") == 0
    assert nfc("demo", "--out", tmp_path / "mine", "--steps", 3, "--device", "cpu") == 0
    assert nfc("demo", "--no-view", "--steps", 1, "--device", "cpu") == 0
    out = capsys.readouterr().out
    assert (Path("runs") / "demo-2" / "report.html").is_file()
    for run in (Path("runs/demo"), tmp_path / "mine"):
        assert f"{run / 'capture'}" in out and f"{run / 'report.html'}" in out
        assert (run / "capture" / "sparse" / "0" / "cameras.bin").is_file()
        assert read_metrics(run)["steps"] == 3


# ---- eval, render, export, info ----


def test_eval_gives_the_numbers_of_the_training_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_metrics(run)
    for name in ("metrics.json", "report.html"):
        (run / name).unlink()
    shutil.rmtree(run / "renders")
    assert nfc("eval", run) == 0
    after = read_metrics(run)
    assert after["test"] == before["test"] and after["steps"] == 12 and after["gaussians"] == 60
    assert after["timings"] and (run / "report.html").is_file() and (run / "renders" / "test" / "0005.png").is_file()
    assert "0005.png" in capsys.readouterr().out


def test_eval_measures_a_sample_of_many_views_and_says_so_and_all_if_asked(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "MEASURED_AT_THE_END", 1)
    whole = read_metrics(run)["test"]
    shutil.rmtree(run / "renders")
    assert nfc("eval", run) == 0
    (view,), out = read_metrics(run)["test"]["views"], capsys.readouterr().out
    assert view in whole["views"] and len(list((run / "renders" / "test").glob("*_truth.png"))) == 1
    assert "1 of 2, chosen at random; nfc-gs eval --all measures all" in " ".join(out.split())
    assert "1 of 2 held-out views were measured, chosen at random" in (run / "report.html").read_text()
    assert nfc("eval", "--all", run) == 0
    assert read_metrics(run)["test"] == whole and "chosen at random" not in capsys.readouterr().out
    assert "chosen at random" not in (run / "report.html").read_text()


def test_of_many_held_out_views_a_training_measures_few_and_its_end_more(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (trainer, commands_runs, verdict):
        monkeypatch.setattr(module, "MEASURED_WHILE_TRAINING", 1)
    for module in (results, commands_runs):
        monkeypatch.setattr(module, "MEASURED_AT_THE_END", 2)
    words = ("--steps", 4, "--eval-every", 0.5, "--test-every", 2, "--head", "bits", *SMALL)
    assert nfc("train", capture, "--out", tmp_path / "run", *words) == 0
    out, test = " ".join(capsys.readouterr().out.split()), read_metrics(tmp_path / "run")["test"]
    assert "(4 held out, of which 1 are measured while training)" in out and "2 of 4, chosen at random" in out
    assert (test["measured"], test["held_out"], len(test["views"])) == (2, 4, 2)
    logged = [line["test_psnr"] for line in read_history(tmp_path / "run") if "test_psnr" in line]
    assert len(logged) == 2 and logged[-1] in [view["psnr"] for view in test["views"]], "one view, at the end, too"


def test_eval_keeps_what_the_metrics_say_of_training(run: Path) -> None:
    before = read_metrics(run)
    assert nfc("eval", run / "checkpoint.safetensors") == 0
    assert read_metrics(run) == before


def test_render_writes_held_out_views_as_the_evaluation_did(run: Path) -> None:
    assert nfc("render", run, "--what", "test") == 0
    for name in ("0001.png", "0005.png"):
        assert (run / "renders" / "views" / name).read_bytes() == (run / "renders" / "test" / name).read_bytes()


def test_render_writes_sizes_depth_and_both(run: Path, tmp_path: Path) -> None:
    words = ("render", run, "--what", "test", "--out", tmp_path / "out", "--width", 32)
    assert nfc(*words, "--outputs", "rgb", "depth", "normals") == 0
    image = np.asarray(Image.open(tmp_path / "out" / "0001.png"))
    assert image.shape == (24, 96, 3)
    assert image[:, :32].std() > 0
    depth = image[:, 32:64].astype(int)
    assert (depth[..., 0] == depth[..., 2]).all() and depth.max() > depth.min()
    towards_camera = image[:, 64:, 2].astype(int)  # of unit normals half of blue and more
    assert np.median(towards_camera) > 127


@pytest.mark.parametrize("what", ["orbit", "path"])
def test_render_writes_a_folder_of_frames(what: str, run: Path, tmp_path: Path) -> None:
    words = ("--what", what, "--frames", 3, "--height", 24, "--out", tmp_path / "frames")
    assert nfc("render", run, *words) == 0
    images = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "frames").iterdir())]
    assert [image.shape for image in images] == [(24, 32, 3)] * 3
    assert (images[0] != images[1]).any()


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_render_writes_videos(name: str, run: Path, tmp_path: Path) -> None:
    assert nfc("render", run, "--frames", 4, "--width", 32, "--height", 32, "--out", tmp_path / "new" / name) == 0
    assert (tmp_path / "new" / name).stat().st_size > 500


def test_render_and_export_say_that_they_replace_a_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rendering = ("render", run, "--frames", 2, "--width", 32)
    for words, replaces in (
        ((*rendering, "--out", tmp_path / "film.gif"), "replaces the earlier file"),
        (
            ("render", run, "--what", "test", "--out", tmp_path / "views"),
            "earlier images of the same names",
        ),
        (("export", run, "--out", tmp_path / "a.ply"), "replaces the earlier file"),
        (("export", run, "--out", tmp_path / "a.safetensors"), "replaces the earlier file"),
    ):
        said = []
        for _ in range(2):
            assert nfc(*words) == 0
            said.append(in_one_line(capsys.readouterr().out))
        assert "replace" not in said[0] and replaces in said[1]


def test_an_image_of_another_shape_is_cut_out_of_the_middle() -> None:
    camera = nfc_gs.Camera(torch.eye(4), fx=60.0, fy=62.0, cx=30.0, cy=25.0, width=64, height=48)
    assert sized(camera, 48, 48) == replace(camera, cx=22.0, width=48)
    assert sized(camera, 128, 48) == replace(camera, fx=120.0, fy=124.0, cx=60.0, cy=26.0, width=128)
    assert sized(camera, None, 24) == camera.resized(32, 24)


def test_export_writes_the_same_splat_from_run_checkpoint_and_ply(run: Path, tmp_path: Path) -> None:
    whole = (run / "splat.ply").read_bytes()
    assert len(PlyData.read(str(run / "splat.ply"))["vertex"]) == 60
    assert nfc("export", run, "--out", tmp_path / "new" / "a.ply") == 0
    assert nfc("export", run / "checkpoint.safetensors", "--out", tmp_path / "b.ply") == 0
    assert nfc("export", run / "splat.ply", "--out", tmp_path / "c.ply") == 0
    assert (tmp_path / "new" / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes() == whole
    a, c = (PlyData.read(str(path))["vertex"] for path in (tmp_path / "b.ply", tmp_path / "c.ply"))
    for name in ("x", "opacity", "scale_1", "f_dc_2"):
        np.testing.assert_array_equal(a[name], c[name])


def test_info_says_what_things_are(
    capture: Path, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    of_a_run = ("8: 6 to train on, 2 held out", "64 x 48", "Points at start", "Training time", "0.8 l1 + 0.2 ssim")
    expected = {
        capture: ("8: 7 to train on, 1 held out", "64 x 48", "Points", "taken as they are"),
        run: ("12 of 12", "60", "Test PSNR", "seed 3", *of_a_run),
        run / "checkpoint.safetensors": ("12 of 12", "60", *of_a_run),
        run / "splat.ply": ("Gaussians", "60", "kB"),
    }
    for path, texts in expected.items():
        assert nfc("info", path) == 0
        out = capsys.readouterr().out
        for text in (*texts, "Device here", "cpu"):
            assert text in out
    assert nfc("info") == 0
    out = capsys.readouterr().out
    assert nfc_gs.__version__ in out and importlib.metadata.version("torch") in out and "threads" in out


def test_info_lists_the_gpus_their_compiler_and_what_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NFC_GS_CACHE", str(tmp_path))
    for name in ("raster-sm_90-0.cubin", "binning-sm_90-0.cubin", "raster-sm_75-0.cubin"):
        (tmp_path / name).touch()
    assert nfc("info", "--devices") == 0
    out = capsys.readouterr().out
    assert "GPU" in out and "Compiler" in out and "1 for sm_75, 2 for sm_90" in out


def test_info_tells_the_verdict_of_the_self_test_of_each_gpu_and_repeats_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[int | None, bool]] = []

    def self_test(device: torch.device, *, retest: bool) -> Verdict:
        asked.append((device.index, retest))
        if device.index == 0:
            return Verdict(True, "", "Tesla", "580.65.06, CUDA 13.0", "0")
        return Verdict(False, "its self-test failed: the image differs", "Tesla", "580.65.06, CUDA 13.0", "0")

    found = SimpleNamespace(name="Tesla", major=9, minor=0, total_memory=2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)
    monkeypatch.setattr(info, "self_test", self_test)
    monkeypatch.setattr(nvrtc, "compiler_name", lambda: "NVRTC 13.0.88")
    assert nfc("info", "--devices") == 0
    out = capsys.readouterr().out
    assert "passed (driver 580.65.06, CUDA 13.0)" in out and "NVRTC 13.0.88" in out
    assert "not passed: its self-test failed: the image differs" in out
    assert nfc("info", "--devices", "--retest", "--json") == 0
    gpus = json.loads(capsys.readouterr().out)["gpus"]
    assert [gpu["self_test"]["passed"] for gpu in gpus] == [True, False]
    assert asked == [(0, False), (1, False), (0, True), (1, True)]
    assert nfc("info", "--retest") == 2
    assert capsys.readouterr().err == ("error: --retest goes with --devices; write nfc-gs info --devices --retest.\n")


def test_info_knows_a_run_whose_capture_is_gone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(run / "checkpoint.safetensors", replace(load_checkpoint(run), capture=str(run / "gone")))
    assert nfc("info", run) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "8: 6 to train on, 2 held out" in out and "the capture is not there any more" in out


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "Expecting"),
        ("[]", "its content is [], not an object"),
        ('{"test": 3}', "test is 3, not an object"),
        ('{"timings": []}', "timings is [], not an object"),
        ('{"timings": {"view": "long"}}', "timings.view is 'long', not a finite number"),
        ("[" * 200_000, "nested too deep"),
        ('{"steps": -1}', "steps is -1, not a whole number"),
        ('{"train_seconds": Infinity}', "train_seconds is inf, not a finite number"),
        ('{"peak_memory_mb": NaN}', "peak_memory_mb is nan, not a finite number"),
        (f'{{"test": {{"psnr": {"9" * 400}}}}}', "test.psnr is a huge number, not a finite number"),
        ('{"test": {"views": [{"name": "a", "psnr": true}]}}', "test.views[0].psnr is True, not a finite number"),
        ('{"test": {"views": ["a"]}}', "test.views[0] is 'a', not an object"),
        ('{"test": {"time_axis": 3}}', "test.time_axis is 3, not an object"),
    ],
    ids=range(13),
)
def test_damaged_metrics_are_refused_and_not_written_over(
    content: str, why: str, run: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "metrics.json").write_text(content)
    for words in (("info", run), ("eval", run), ("train", "--resume", run)):
        assert nfc(*words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "metrics.json is damaged: " in err and why in err and "remove it" in err
    assert (run / "metrics.json").read_text() == content
    assert write_report(run).exists() and "metrics.json cannot be read and is left out" in caplog.text
    (run / "metrics.json").unlink()
    assert nfc("eval", run) == 0 and read_metrics(run)["steps"] == 12


def test_a_damaged_history_is_refused_and_not_written_over(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = run / "history.jsonl"
    whole = history.read_text()
    history.write_text(whole + "[" * 200_000 + '\n{"step": 12}\n')
    damaged = history.read_text()
    for words in (("info", run), ("eval", run), ("train", "--resume", run)):
        assert nfc(*words) == 2
        number = whole.count("\n") + 1
        assert f"history.jsonl is damaged: line {number} of it cannot be read; remove" in capsys.readouterr().err
    assert history.read_text() == damaged
    history.write_text(whole + '{"step": 12, "lo')  # as a run that is killed leaves it
    assert nfc("info", run) == 0


def test_settings_for_people_are_not_read_again(run: Path) -> None:
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for one, other in zip("bcdefghi", "abcdefgh", strict=True):
        laughs += f"{one}: &{one} [" + ", ".join([f"*{other}"] * 9) + "]\n"
    (run / "config.yaml").write_text(laughs)
    assert nfc("info", run) == 0 and nfc("eval", run) == 0 and nfc("train", "--resume", run) == 0
    page = (run / "report.html").read_text()
    assert "<h3>rates</h3>" in page and "b: &amp;b" not in page
    (run / "checkpoint.safetensors").unlink()
    assert "b: &amp;b [*a" in write_report(run).read_text()  # without a checkpoint: as it is written


# ---- what else can happen ----


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("words", ["--help", "--version", "train --help", "--completion bash", "info --json"])
def test_output_that_cannot_be_written_is_reported(words: str) -> None:
    command = [sys.executable, "-m", "nfc_gs", *words.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=HERE)
    assert done.returncode == 2
    assert done.stderr.startswith("error: The ") and "cannot be written to stdout" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_warnings_of_reading_a_capture_are_repeated_once_by_info(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Path(shutil.copytree(capture, tmp_path / "capture"))
    (copied / "images" / "0003.png").unlink()
    assert nfc("train", copied, "--out", tmp_path / "run", "--steps", 1, *SMALL) == 0
    assert capsys.readouterr().err.count("0003.png") == 1
    for path in (copied, tmp_path / "run"):
        assert nfc("info", path) == 0
        assert capsys.readouterr().err.count("0003.png") == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("can't start new thread"),
    ],
)
def test_used_up_memory_is_reported(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raises(self: object) -> int:
        raise error

    monkeypatch.setattr(train.Train, "run", raises)
    assert nfc("train", "x") == 2
    assert "--max-gaussians" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(self: object) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(train.Train, "run", raises)
    with pytest.raises(RuntimeError, match="a bug"):
        nfc("train", "x")


def test_ctrl_c_elsewhere_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def raises(self: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(train.Train, "run", raises)
    assert nfc("train", "x") == 130
    assert "Interrupted" in capsys.readouterr().err


def test_every_public_name_is_there() -> None:
    for name in nfc_gs.__all__:
        assert getattr(nfc_gs, name).__doc__
    with pytest.raises(AttributeError, match="nothing_like_that"):
        _ = nfc_gs.nothing_like_that  # type: ignore[attr-defined]
