"""The commands on a moving scene, from end to end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from capture_files import write_capture as write_photos
from command_line import SMALL, nfc, read_metrics
from PIL import Image
from videos import decode, write_bounds, write_videos

from nfc_gs.commands import demo
from nfc_gs.commands.console import Output
from nfc_gs.data.builtin.captures import write_moving_capture
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import TimeAxis
from nfc_gs.export.loop_video import loop_camera, write_loop_video
from nfc_gs.formats.notes import up_of
from nfc_gs.formats.ply import read_ply
from nfc_gs.model.gate import gated
from nfc_gs.model.radiance import RenderOptions
from nfc_gs.rendering.pipeline import render
from nfc_gs.runs.checkpoint import load_checkpoint, save_checkpoint
from nfc_gs.runs.names import CHECKPOINT_NAME
from nfc_gs.runs.opening import load_model, open_run
from nfc_gs.training.config import TrainConfig
from nfc_gs.training.evaluation import baked_at, evaluate
from nfc_gs.viewer.source import open_source

QUICK = (
    "--hexplane.features",
    16,
    "--hexplane.resolution",
    8,
    "--hexplane.width",
    16,
    "--deformation.plane-rate",
    0.02,
)


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "clockwork"
    return write_moving_capture(folder, frames=6, width=48, height=36, ground_truth=True)


@pytest.fixture(scope="session")
def trained(capture: Path) -> Path:
    """A run of 30 steps; read it, do not change it."""
    run = capture.parent / "trained"
    assert nfc("train", capture, "--out", run, "--steps", 30, "--seed", 3, *QUICK, *SMALL) == 0
    return run


@pytest.fixture(scope="session")
def static(capture: Path) -> Path:
    run = capture.parent / "static"
    assert nfc("train", capture, "--out", run, "--steps", 3, "--motion", "none", *SMALL) == 0
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def read_image(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_a_capture_with_times_trains_a_moving_splat(trained: Path, static: Path) -> None:
    assert load_model(trained).model.deformation is not None
    assert load_model(static).model.deformation is None
    assert read_metrics(trained)["test"]["psnr"] > 5


def test_info_shows_times_and_deformation(
    capture: Path, trained: Path, static: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nfc("info", capture) == 0
    assert "0 to 1, 7 of them" in capsys.readouterr().out
    assert nfc("info", trained) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Times 0 to 1" in text and text.count("Deformation") == 1
    assert "Deformation hexplane, 16 cells along each axis, 8 along time" in text
    assert nfc("info", static) == 0
    assert "Deformation" not in capsys.readouterr().out


def test_eval_renders_held_out_views_at_their_own_times(run: Path) -> None:
    before = read_metrics(run)["test"]
    assert nfc("eval", run) == 0
    assert read_metrics(run)["test"] == before


def test_the_moving_parts_are_measured_on_their_own(
    trained: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = read_metrics(trained)["test"]
    (view,) = test["views"]
    assert test["moving_psnr"] == pytest.approx(view["moving_psnr"]) and view["moving_pixels"] > 20
    assert view["time"] == 0.5 and test["time_axis"] == {"start": 0.0, "end": 1.0, "unit": ""}
    capsys.readouterr()
    words = f"{test['moving_psnr']:.2f} dB"
    assert nfc("eval", run) == 0
    shown = capsys.readouterr().out
    assert "Moving PSNR" in shown and shown.count(words) == 2
    assert nfc("train", "--resume", run) == 0
    assert f"Moving PSNR {words}" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert nfc("info", run) == 0
    assert f"Moving PSNR {words}" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_a_moving_splat_leaves_a_short_video(trained: Path, static: Path) -> None:
    meta, frames = decode(trained / "renders" / "loop.mp4")
    assert meta["codec"] == "h264" and meta["size"] == (48, 36) and meta["duration"] == 4.0 and len(frames) == 96
    assert "data:video/mp4" in (trained / "report.html").read_text(encoding="utf-8")
    assert not (static / "renders" / "loop.mp4").exists()
    assert "data:video/mp4" not in (static / "report.html").read_text(encoding="utf-8")


def test_the_video_runs_evenly_there_and_back_seen_by_the_middle_held_out_view(trained: Path, tmp_path: Path) -> None:
    run = open_run(trained, capture=None, device="cpu", backend="cpu")
    scene = run.scene.with_split(run.scene.train[:3], run.scene.train[3:])
    write_loop_video(tmp_path / "loop", run.model, scene, RenderOptions(backend="cpu"))
    frames = [read_image(path) for path in sorted((tmp_path / "loop").iterdir())]
    assert len(frames) == 96
    assert all(np.array_equal(frames[k], frames[96 - k]) for k in range(1, 48))
    shown = gated(run.model)  # which leaves Gaussians that do not move where they are
    for k, time in ((0, 0.0), (12, 0.25), (48, 1.0)):
        out = render(shown, scene.camera(scene.test[1]), time, backend="cpu").rgb.detach()
        assert (
            np.abs(frames[k] - (out.clamp(0, 1) * 255).numpy()).max() < 0.6
        )  # rounded, by kernels or by the reference
    assert not np.array_equal(frames[0], frames[48])


@pytest.mark.parametrize(
    ("size", "test", "expected"), [((960, 540), True, (480, 270)), ((300, 1000), False, (144, 480))]
)
def test_the_video_is_small_and_needs_no_held_out_view(
    capture: Path, size: tuple[int, int], test: bool, expected: tuple[int, int]
) -> None:
    scene = load_scene(capture)
    views = tuple(replace(view, camera=view.camera.resized(*size)) for view in scene.views)
    scene = replace(scene, views=views, test=scene.test if test else ())
    camera = loop_camera(scene)
    assert (camera.width, camera.height) == expected
    assert torch.equal(camera.viewmat, views[(scene.test or scene.train)[0]].camera.viewmat)


def test_eval_writes_the_video_anew(run: Path) -> None:
    video = run / "renders" / "loop.mp4"
    video.unlink()
    assert nfc("eval", run) == 0
    assert video.stat().st_size > 1000


def test_a_video_that_cannot_be_written_stops_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = run / "renders" / "loop.mp4"
    video.unlink()
    video.mkdir()
    (run / "report.html").unlink()
    assert nfc("eval", run) == 0
    assert "The report gets no new video." in capsys.readouterr().err and (run / "report.html").exists()


def test_time_runs_while_the_camera_does_not_move(run: Path, tmp_path: Path) -> None:
    still = ("--what", "still", "--width", 32, "--frames", 3)
    for name, time in (
        ("all", ()),
        ("half", ("--time", 0, 0.5)),
        ("single", ("--time", 0.5)),
        ("back", ("--time", 1, 0)),
    ):
        assert nfc("render", run, *still, *time, "--out", tmp_path / name) == 0
    frames = {
        name: [read_image(p) for p in sorted((tmp_path / name).iterdir())] for name in ("all", "half", "single", "back")
    }
    assert all(len(images) == 3 for images in frames.values())
    assert np.array_equal(frames["all"][1], frames["half"][2])
    assert all(np.array_equal(p, frames["all"][1]) for p in frames["single"])
    assert np.array_equal(frames["back"][0], frames["all"][2])
    assert not np.array_equal(frames["all"][0], frames["all"][2])


@pytest.fixture(scope="session")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 steps on videos of 5 frames, 25 a second; read it, do not change it."""
    folder = tmp_path_factory.mktemp("filmed")
    videos = write_bounds(write_videos(folder / "videos"))
    assert nfc("train", videos, "--out", folder / "run", "--steps", 3, *QUICK, *SMALL) == 0
    return folder / "run"


def test_slow_motion_has_as_many_images_as_the_time_of_the_videos_takes(
    filmed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(filmed, tmp_path / "run"))
    assert load_checkpoint(run).time_axis == TimeAxis(0.0, 0.16, "seconds")
    still = ("--what", "still", "--fps", 100, "--time", 0.25, 0.75)
    for speed, count in ((1, 9), (0.5, 17)):
        folder = tmp_path / str(count)
        assert nfc("render", run, *still, "--speed", speed, "--out", folder) == 0
        assert len(list(folder.iterdir())) == count
    assert nfc("render", run, *still, "--speed", 1, "--frames", 5) == 2
    assert "leave out one of the two" in capsys.readouterr().err
    assert nfc("render", run, *still, "--speed", 1e-300) == 2
    assert "let time run faster" in capsys.readouterr().err


def test_a_run_does_not_take_longer_videos_for_its_own(
    filmed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = write_bounds(write_videos(tmp_path / "longer", 6))
    assert nfc("render", filmed, "--frames", 2, "--capture", longer, "--out", tmp_path / "out") == 2
    assert f"The times of the capture {longer} have changed" in " ".join(capsys.readouterr().err.split())


def test_there_is_no_slow_motion_where_times_are_not_seconds(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nfc("render", run, "--speed", 1) == 2
    assert "are not in seconds; say how many --frames" in " ".join(capsys.readouterr().err.split())


def words_of(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_info_shows_the_duration_where_it_is_known(
    filmed: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    videos = filmed.parent / "videos"
    for words, says in (
        ((videos,), "Times 0 to 0.16 seconds, 5 of them Duration 0.2 s"),
        ((videos, "--frame-rate", 0.5, "--frame-start", 2), "Times 4 to 8 seconds, 3 of them Duration 4.0 s"),
        ((filmed,), "Times 0 to 0.16 seconds Duration 0.2 s"),
    ):
        assert nfc("info", *words) == 0
        assert says in words_of(capsys)
    assert nfc("info", trained) == 0
    assert "Duration" not in words_of(capsys)


def test_info_reads_a_capture_with_the_options_on_its_frames_and_times(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = write_photos(tmp_path / "photos", 9)
    assert nfc("info", photos) == 0
    assert "Times" not in words_of(capsys)
    timing = ("--time-from-name", r"im(\d+)", "--frame-start", 1, "--frame-end", 8, "--frame-stride", 2)
    for rate, says in (((), "1 to 7 frames, 4 of them"), (("--frame-rate", 2), "0.5 to 3.5 seconds, 4 of them")):
        assert nfc("info", photos, *timing, *rate) == 0
        text = words_of(capsys)
        assert "Views 4:" in text and f"Times {says}" in text
    for path in (run, run / CHECKPOINT_NAME, run / "splat.ply"):
        assert nfc("info", path, "--frame-rate", 2) == 2
        assert "is no capture: leave out the options on its frames" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def swapped(capture: Path, tmp_path: Path) -> Path:
    """The capture with the times of two views to train on swapped."""
    return change_times(capture, tmp_path / "swapped", lambda time: {0.2: 0.6, 0.6: 0.2}.get(time, time))


def change_times(capture: Path, target: Path, change: Callable[[float], float]) -> Path:
    """A copy of a capture with other times."""
    file = Path(shutil.copytree(capture, target)) / "transforms.json"
    data = json.loads(file.read_text())
    for frame in data["frames"]:
        frame["time"] = change(frame["time"])
    file.write_text(json.dumps(data))
    return target


@pytest.mark.parametrize(
    "words", [("train", "--resume", "RUN"), ("render", "RUN", "--capture"), ("eval", "RUN", "--capture")]
)
def test_a_capture_whose_times_were_swapped_is_not_gone_on_with(
    words: tuple[str, ...], run: Path, swapped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_scene(swapped).time_axis == load_checkpoint(run).time_axis
    before = (run / CHECKPOINT_NAME).read_bytes()
    capsys.readouterr()
    assert nfc(*(run if word == "RUN" else word for word in words), swapped) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.count("error:") == 1 and "Traceback" not in error
    assert f"The times of the capture {swapped} have changed since the run began" in error
    assert (run / CHECKPOINT_NAME).read_bytes() == before


def test_an_orbit_plays(run: Path, tmp_path: Path) -> None:
    for name, time in (("plays", ()), ("frozen", ("--time", 0))):
        assert nfc("render", run, "--width", 32, "--frames", 3, *time, "--out", tmp_path / name) == 0
    plays, frozen = ([read_image(p) for p in sorted((tmp_path / name).iterdir())] for name in ("plays", "frozen"))
    assert np.array_equal(plays[0], frozen[0]) and not np.array_equal(plays[2], frozen[2])


def test_a_constant_time_gives_images_of_that_time(run: Path, tmp_path: Path) -> None:
    """And not of a gated splat, however many images there are."""
    opened = open_run(run, capture=None, device="cpu", backend="cpu")
    count = len(opened.model.deformation.key_times())
    words = ("--what", "still", "--time", 0.3, "--frames", count, "--out", tmp_path / "still")
    assert nfc("render", run, *words) == 0
    camera = opened.scene.camera((opened.scene.test or opened.scene.train)[0])
    out = render(opened.model.at(0.3), camera, backend="cpu", background=opened.checkpoint.background)
    shown = [read_image(path) for path in sorted((tmp_path / "still").iterdir())]
    assert len(shown) == count
    assert all(np.abs(p - (out.rgb.detach().clamp(0, 1) * 255).numpy()).max() < 0.6 for p in shown)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("render", "RUN", "--time", "1.5"), "--time 1.5 is not understood"),
        (("render", "RUN", "--time", "0", "0.5", "1"), "--time 0 0.5 1 is not understood"),
        (("render", "STATIC", "--time", "0.5"), "is a static splat, the same at all times; leave out --time"),
        (("export", "STATIC", "--frames", "3"), "is a static splat"),
        (("render", "RUN", "--speed", "0"), "--speed is 0, but must be a positive number"),
        (("export", "RUN", "--time", "2"), "--time is 2.0, but must be between 0 and 1"),
        (("export", "RUN", "--frames", "0"), "--frames must be at least 1"),
        (("export", "RUN", "--frames", "3", "--out", "x.ply"), "is the name of a file"),
        (("export", "RUN", "--out", "x.safetensors", "--time", "0.5"), "keeps all times and colors"),
        (("export", "RUN", "--out", "x.obj"), "ends neither in .ply nor in .safetensors"),
    ],
)
def test_what_cannot_be_rendered_or_written_gets_one_sentence(
    words: tuple[str, ...], says: str, run: Path, static: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"RUN": run, "STATIC": static}
    assert nfc(*(places.get(word, word) for word in words)) == 2
    error = capsys.readouterr().err
    assert says in " ".join(error.split()) and "Traceback" not in error


def test_plys_hold_the_times_that_are_named(run: Path, tmp_path: Path) -> None:
    assert nfc("export", run, "--frames", 3, "--out", tmp_path / "times") == 0
    times = [read_ply(path).means for path in sorted((tmp_path / "times").iterdir())]
    assert len(times) == 3 and not np.allclose(times[0].detach(), times[2].detach())
    for time, expected in ((None, times[0]), (0.5, times[1]), (1.0, times[2])):
        given = () if time is None else ("--time", time)
        assert nfc("export", run, *given, "--out", tmp_path / "one.ply") == 0
        assert np.array_equal(read_ply(tmp_path / "one.ply").means.detach(), expected.detach())
    assert np.array_equal(read_ply(run / "splat.ply").means.detach(), times[0].detach())


def test_frames_never_mix_with_earlier_ones(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nfc("export", run, "--frames", 2) == 0
    assert nfc("export", run, "--frames", 1) == 2
    assert "it is there already and not empty" in " ".join(capsys.readouterr().err.split())


def test_the_compact_form_never_replaces_a_checkpoint(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / CHECKPOINT_NAME).read_bytes()
    for path in (run, run / CHECKPOINT_NAME):
        assert nfc("export", path, "--out", run / CHECKPOINT_NAME) == 2
        assert "is the checkpoint itself" in " ".join(capsys.readouterr().err.split())
    assert nfc("export", run, "--out", tmp_path / "small.safetensors") == 0
    assert nfc("export", tmp_path / "small.safetensors", "--out", run / CHECKPOINT_NAME) == 2
    assert "is the checkpoint of a run" in " ".join(capsys.readouterr().err.split())
    assert (run / CHECKPOINT_NAME).read_bytes() == before


def test_baked_bits_are_measured_as_a_file_of_each_time_holds_them(capture: Path, tmp_path: Path) -> None:
    words = ("--steps", 20, "--method", "nfc-te", "--deformation.color", *QUICK, *SMALL)
    assert nfc("train", capture, "--out", tmp_path / "run", *words) == 0
    run = open_run(tmp_path / "run", capture=None, device="cpu", backend="cpu")
    baked = evaluate(run.model, run.scene, run.options, model_at=baked_at(run.model, 1))
    (index,) = run.scene.test
    still = run.model.at(run.scene.views[index].time).baked(1)
    assert evaluate(still, run.scene, run.options).psnr == baked.psnr


def test_the_compact_form_renders_the_same_and_is_small(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compact = tmp_path / "small.safetensors"
    assert nfc("export", run, "--out", compact) == 0
    assert compact.stat().st_size < 0.3 * (run / CHECKPOINT_NAME).stat().st_size
    still = ("--what", "still", "--width", 32, "--frames", 2)
    for path, name in ((run, "whole"), (compact, "compact")):
        assert nfc("render", path, *still, "--out", tmp_path / name) == 0
    assert nfc("eval", compact) == 0 and nfc("render", compact, *still) == 0
    made = ("metrics.json", "report.html", "renders/test", "renders/still.mp4")
    assert all((tmp_path / "small-results" / name).exists() for name in made)
    for a, b in zip(sorted((tmp_path / "whole").iterdir()), sorted((tmp_path / "compact").iterdir()), strict=True):
        assert np.abs(read_image(a) - read_image(b)).max() <= 2
    saved = load_checkpoint(compact)
    assert set(saved.parts) == set(saved.model_parts) == {"model", "deformation"}
    capsys.readouterr()
    assert nfc("train", "--resume", compact) == 2
    error = capsys.readouterr().err
    assert "is a compact file, which holds no training" in " ".join(error.split()) and "Traceback" not in error


@pytest.fixture
def compact_alone(run: Path, capture: Path, tmp_path: Path) -> tuple[Path, Callable[[], None]]:
    """The compact form of a run, and what takes the run and its capture away."""
    place, compact = tmp_path / "clockwork", tmp_path / "elsewhere" / "small.safetensors"
    shutil.copytree(capture, place)
    saved = load_checkpoint(run)
    saved = replace(saved, capture=str(place), scene=replace(saved.scene, root=place))
    save_checkpoint(run / CHECKPOINT_NAME, saved)
    assert nfc("export", run, "--out", compact) == 0

    def delete_both() -> None:
        shutil.rmtree(place)
        shutil.rmtree(run)

    return compact, delete_both


def test_the_compact_form_needs_neither_run_nor_capture(
    compact_alone: tuple[Path, Callable[[], None]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compact, delete_both = compact_alone
    commands = {
        "orbit": ("--frames", 3),
        "path": ("--frames", 3),
        "still": ("--frames", 1, "--time", 0.3, "--outputs", "rgb", "depth"),
        "test": (),
    }
    for place in ("there", "gone"):
        for what, words in commands.items():
            assert nfc("render", compact, "--what", what, *words, "--out", tmp_path / place / what) == 0
        assert nfc("export", compact, "--time", 0.5, "--out", tmp_path / place / "one.ply") == 0
        if place == "there":
            delete_both()
    there, gone = ({p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.p*")} for n in
                   ("there", "gone"))  # fmt: skip
    assert len(there) == 3 + 3 + 1 + 1 + 1 and there == gone
    capsys.readouterr()
    assert nfc("info", compact) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "7: 6 to train on, 1 held out Cameras 1 Image size 48 x 36" in shown
    assert (
        "Images are not known any more: the capture is not there any more" in shown and "Deformation hexplane" in shown
    )


def test_without_the_capture_nothing_is_measured(
    compact_alone: tuple[Path, Callable[[], None]], capsys: pytest.CaptureFixture[str]
) -> None:
    compact, delete_both = compact_alone
    delete_both()
    capsys.readouterr()
    assert nfc("eval", compact) == 2
    error = capsys.readouterr().err
    assert "is not there any more; say where it is with --capture." in " ".join(error.split())
    assert "Traceback" not in error and [path.name for path in compact.parent.iterdir()] == [compact.name]


def test_the_compact_form_is_looked_at_without_photos(compact_alone: tuple[Path, Callable[[], None]]) -> None:
    compact, delete_both = compact_alone
    before = open_source(compact, device="cpu")
    delete_both()
    source = open_source(compact, device="cpu")
    assert before.scene is not None and source.scene is not None and before.frame is not None
    assert before.scene.has_photos and not source.scene.has_photos
    assert [view.name for view in source.scene.views] == [view.name for view in before.scene.views]
    assert up_of(source.scene) == up_of(before.scene) and source.time_axis == before.time_axis
    assert source.frame is not None and source.frame.capture == before.frame.capture


@pytest.mark.parametrize("place", ["x" * 5000, "\udcff"], ids=["too long", "no text"])
def test_a_capture_at_an_impossible_place_is_gone(place: str, run: Path, tmp_path: Path) -> None:
    save_checkpoint(run / CHECKPOINT_NAME, replace(load_checkpoint(run), capture=place))
    assert nfc("render", run, "--frames", 1, "--width", 32, "--out", tmp_path / "orbit") == 0
    scene = open_source(run, device="cpu").scene
    assert scene is not None and not scene.has_photos


def test_the_dynamic_demo_ends_with_a_video_and_then_prints_its_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "DYNAMIC_FRAMES", 3)
    monkeypatch.setattr(demo, "DYNAMIC_VIEWS", 4)
    monkeypatch.setattr(demo, "DYNAMIC_TRAINING", TrainConfig(preset="fast", time_budget="120s", max_gaussians=300))
    video, real, seen = tmp_path / "run" / "renders" / "path.mp4", Output.result, []

    def result(self: Output, line: str, values: Mapping[str, Any] | None = None) -> None:
        seen.append(video.is_file())
        real(self, line, values)

    monkeypatch.setattr(Output, "result", result)
    assert nfc("demo", "--dynamic", "--steps", 4, "--out", tmp_path / "run", "--device", "cpu", "--json") == 0
    assert video.stat().st_size > 1000 and seen == [True]
    assert load_model(tmp_path / "run").model.deformation is not None
