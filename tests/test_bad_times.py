"""Captures whose times are not as they should be, through the whole of a training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from capture_files import write_capture, write_transforms
from command_line import SMALL, nfc
from videos import CODECS, write_bounds, write_frames, write_video, write_videos

from nfc_gs.data.scene import TimeAxis
from nfc_gs.runs.opening import load_model

TINY = ("--steps", 2, "--random-points", 60, "--hexplane.features", 16, "--hexplane.resolution", 8, *SMALL)
"""Options of a training that takes no time."""


@pytest.fixture(scope="session")
def sound_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bounds(write_videos(tmp_path_factory.mktemp("bad_times") / "videos"))


@pytest.fixture
def videos(sound_videos: Path, tmp_path: Path) -> Path:
    """Videos of four cameras, to be damaged."""
    return Path(shutil.copytree(sound_videos, tmp_path / "videos"))


def timed(root: Path, times: Sequence[float | None]) -> Path:
    """A nerfstudio capture whose frames have these times."""
    file = write_transforms(root, len(times))
    data = json.loads(file.read_text())
    for frame, time in zip(data["frames"], times, strict=True):
        if time is not None:
            frame["time"] = time
    file.write_text(json.dumps(data))
    return root


def split(root: Path, held_out: int) -> Path:
    """The same capture with a file for each split, as D-NeRF has them; the last frames are held out."""
    data = json.loads((root / "transforms.json").read_text())
    parts = {"train": data["frames"][:-held_out], "test": data["frames"][-held_out:]}
    for name, frames in parts.items():
        (root / f"transforms_{name}.json").write_text(json.dumps({**data, "frames": frames}))
    (root / "transforms.json").unlink()
    return root


def one_moment(root: Path, kind: str) -> tuple[object, ...]:
    """A capture of one moment, and the options to read it so."""
    if kind == "transforms":
        return (timed(root, [0.25] * 6),)
    if kind == "names":
        return write_capture(root, 6), "--time-from-name", "^im(0)"
    return write_bounds(write_frames(root)), "--frame-start", 3, "--frame-end", 4


@pytest.mark.parametrize("kind", ["transforms", "names", "multiview"])
def test_a_capture_of_one_moment_trains_a_static_splat_and_says_so(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nfc("train", *one_moment(tmp_path / "capture", kind), "--out", tmp_path / "run", *TINY) == 0
    assert "the scene is taken as static" in " ".join("".join(capsys.readouterr()).split())
    loaded = load_model(tmp_path / "run")
    assert loaded.model.deformation is None and loaded.checkpoint.time_axis is None


@pytest.mark.parametrize(
    ("held_out", "missing", "says"),
    [
        (0, (4,), "1 of 9 frames of {} have no time (the first is im04.png)"),
        (0, (2, 7), "2 of 9 frames of {} have no time (the first is im02.png)"),
        (3, (1,), "1 of 9 frames of {} have no time (the first is images/im01.png)"),
        (3, (6, 7, 8), "3 of 9 frames of {} have no time (the first is images/im06.png)"),
    ],
)
def test_a_frame_without_a_time_is_named_with_its_capture(
    held_out: int, missing: tuple[int, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture = timed(tmp_path / "capture", [None if k in missing else k / 8 for k in range(9)])
    capture = split(capture, held_out) if held_out else capture
    assert nfc("train", capture, "--out", tmp_path / "run", *TINY) == 2
    assert_one_sentence(capsys, says.format(capture))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("times", "axis", "scaled"),
    [
        ((0.5, 0.0, 1.0, 0.25, 0.75, 0.1), TimeAxis(0.0, 1.0), False),
        ((1.5, -0.5, 0.0, 1.0, 0.5, 0.25), TimeAxis(-0.5, 1.5), True),
        ((40, 10, 30, 60, 20, 50), TimeAxis(10.0, 60.0), True),
        ((0.3, 0.1, 0.0, 0.2, 0.25, 0.15), TimeAxis(0.0, 0.3), True),
    ],
)
def test_times_in_no_order_or_out_of_0_to_1_train_a_moving_splat(
    times: tuple[float, ...], axis: TimeAxis, scaled: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture = timed(tmp_path / "capture", times)
    assert nfc("train", capture, "--out", tmp_path / "run", *TINY) == 0
    says = f"run from {axis.start:g} to {axis.end:g}, not from 0 to 1: they are scaled to that"
    assert (says in " ".join("".join(capsys.readouterr()).split())) == scaled
    loaded = load_model(tmp_path / "run")
    assert loaded.model.deformation is not None and loaded.checkpoint.time_axis == axis
    trained = [(time - axis.start) / (axis.end - axis.start) for time in times[1:]]  # the first is held out
    scene = loaded.checkpoint.scene
    assert [scene.views[i].time for i in scene.train] == pytest.approx(trained)


def test_a_video_of_another_size_is_named_with_both(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(videos / "cam02.mp4", 2, 5, size=(24, 24))
    assert nfc("train", videos, "--out", tmp_path / "run", *TINY) == 2
    assert_one_sentence(capsys, f"{videos / 'cam02.mp4'} is 24 x 24 pixels, but its camera is 32 x 24")


def test_a_video_without_a_constant_rate_stops_the_training(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slower = ("-vf", "setpts=if(lt(N\\,10)\\,N\\,2*N-10)/25/TB", "-fps_mode", "vfr")
    write_video(videos / "cam02.mp4", 2, 20, extra=slower)
    assert nfc("train", videos, "--out", tmp_path / "run", *TINY) == 2
    assert_one_sentence(
        capsys, f"The frames of the video {videos / 'cam02.mp4'} do not follow each other at a constant"
    )


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".webm", ".mov"])
def test_a_video_that_is_cut_short_stops_the_training(
    suffix: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (videos / "cam02.mp4").unlink()
    file = videos / f"cam02{suffix}"
    write_video(file, 2, 40, codec=CODECS.get(suffix, "libx264"), extra=("-g", "5"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    assert nfc("train", videos, "--out", tmp_path / "run", *TINY) == 2
    assert_one_sentence(capsys, f"The video {file} cannot be read, or is cut short (")


def assert_one_sentence(capsys: pytest.CaptureFixture[str], says: str) -> None:
    """A sentence on one line, without a traceback, that says this."""
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0] == error.splitlines()[-1] and "Traceback" not in error
    assert says in lines[0]
