"""Pictures and videos on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from videos import decode

from nfc_gs.core.errors import UserError
from nfc_gs.export import video
from nfc_gs.export.video import write_png, write_video


def frames(count: int = 6, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Smooth colored frames that change with time."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    return [
        (np.stack([x, y, np.full_like(x, i / count)], axis=-1) * 255).astype(np.uint8)  # [H, W, 3]
        for i in range(count)
    ]


def test_an_mp4_holds_the_frames_at_their_size_and_rate(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", iter(frames()), fps=12)
    meta, got = decode(tmp_path / "a.mp4")
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p") and meta["fps"] == 12
    assert meta["size"] == (64, 48) and len(got) == 6
    error = np.abs(np.stack(got).astype(int) - np.stack(frames()).astype(int)).mean()
    assert error < 3  # of 255: lossy, but the colors are right


def test_an_mp4_of_odd_size_repeats_the_last_row_and_column(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames(height=47, width=63), fps=30)
    meta, got = decode(tmp_path / "a.mp4")
    assert meta["size"] == (64, 48) and len(got) == 6


def test_a_gif_holds_the_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "a.gif", iter(frames()), fps=10)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 6 and gif.size == (64, 48) and gif.info["duration"] == 100  # type: ignore[attr-defined]


def test_a_name_without_suffix_makes_a_folder_of_pngs(tmp_path: Path) -> None:
    write_video(tmp_path / "frames", iter(frames(3)))
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == [f"frame_0000{i}.png" for i in range(3)]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "frames" / "frame_00002.png")), frames(3)[2])
    with pytest.raises(UserError, match="not empty"):
        write_video(tmp_path / "frames", frames(3))


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a"])
def test_no_frames_or_frames_of_two_sizes_leave_nothing_behind(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no frames"):
        write_video(tmp_path / name, [])
    with pytest.raises(UserError, match="frame 2 has 10 x 8"):
        write_video(tmp_path / name, [*frames(2), np.zeros((8, 10, 3), np.uint8)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a"])
def test_a_renderer_that_fails_in_the_middle_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    def broken():
        yield from frames(3)
        raise RuntimeError("out of splats")

    with pytest.raises(RuntimeError, match="out of splats"):
        write_video(tmp_path / name, broken())
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_suffix_or_rate_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'\.avi'"):
        write_video(tmp_path / "a.avi", frames())
    with pytest.raises(UserError, match="0 frames per second"):
        write_video(tmp_path / "a.mp4", frames(), fps=0)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_a_folder_that_is_not_there_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="Cannot write"):
        write_video(tmp_path / "none" / name, frames())


def test_a_png_holds_bytes_exactly_and_floats_rounded(tmp_path: Path) -> None:
    image = frames(1)[0]
    write_png(tmp_path / "a.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), image)
    write_png(tmp_path / "b.png", np.array([[[-1.0, 0.5, 2.0], [np.nan, 1 / 255, 0.999]]]))
    assert np.asarray(Image.open(tmp_path / "b.png")).tolist() == [[[0, 128, 255], [0, 1, 255]]]
    write_png(tmp_path / "c.png", np.full((4, 5, 1), 0.2))
    assert Image.open(tmp_path / "c.png").mode == "L"
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "b.png", "c.png"}


def test_a_machine_without_ffmpeg_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise RuntimeError("No ffmpeg exe could be found. Install ffmpeg on your system, or ...")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none)
    with pytest.raises(UserError, match=r"no ffmpeg is found; install it, or name the file \.gif"):
        write_video(tmp_path / "a.mp4", frames(), 10)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the size of files")
@pytest.mark.parametrize("limit", [60, 5000, 20_000])
def test_an_mp4_that_the_disk_does_not_take_whole_is_an_error(tmp_path: Path, limit: int) -> None:
    code = (
        "import resource, sys\nimport numpy as np\nfrom nfc_gs.export.video import write_video\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "noise = np.random.default_rng(0)\n"
        "write_video(sys.argv[1], (noise.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(20)))"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "a.mp4")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert "UserError: Cannot write" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_rate_of_frames_is_written_whole(tmp_path: Path) -> None:
    for fps in (0.5, 23.976, 240.0, 1000.0):
        write_video(tmp_path / "a.mp4", [np.full((16, 16, 3), 40 * k, np.uint8) for k in range(5)], fps)
        assert len(decode(tmp_path / "a.mp4")[1]) == 5


def test_a_folder_of_frames_that_is_interrupted_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, image: np.ndarray) -> None:
        write_png(path, image)
        raise KeyboardInterrupt

    monkeypatch.setattr(video, "write_png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "frames", [np.zeros((4, 4, 3), np.uint8)] * 3)
    assert list(tmp_path.iterdir()) == []
