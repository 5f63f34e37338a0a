"""Multi-view captures of one color per frame, as images and as videos."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from capture_files import ring
from PIL import Image

from nfc_gs.data.config import DataConfig

WIDTH, HEIGHT, CAMERAS, FRAMES, FPS = 32, 24, 4, 5, 25
NAMES = [f"cam{k:02d}" for k in range(CAMERAS)]
PLAIN = DataConfig(normalize=False, random_points=20)


def color(camera: int, frame: int) -> tuple[int, int, int]:
    return 40 + 40 * camera, 20 + 12 * frame, 128


def write_frames(
    root: Path, folder: str = "images", name: str = "{:04d}.png", frames: int = FRAMES, size: tuple[int, int] = (32, 24)
) -> Path:
    for c, camera in enumerate(NAMES):
        (root / camera / folder).mkdir(parents=True)
        for frame in range(frames):
            Image.new("RGB", size, color(c, frame)).save(root / camera / folder / name.format(frame))
    return root


def write_video(
    file: Path,
    camera: int,
    frames: int,
    fps: float = FPS,
    size: tuple[int, int] = (32, 24),
    extra: tuple[str, ...] = (),
    codec: str = "libx264",
) -> None:
    file.write_bytes(encoded(file.suffix, camera, frames, fps, size, extra, codec))


@cache
def encoded(
    suffix: str, camera: int, frames: int, fps: float, size: tuple[int, int], extra: tuple[str, ...], codec: str
) -> bytes:
    """A file of a video; each is made once, since every one takes an encoder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"video{suffix}"
        writer = imageio_ffmpeg.write_frames(
            str(file),
            size,
            fps=fps,  # type: ignore[arg-type]
            pix_fmt_out="yuv444p" if codec == "libx264" else "yuv420p",
            codec=codec,
            quality=None,  # type: ignore[arg-type]
            macro_block_size=1,
            ffmpeg_log_level="error",
            output_params=[*(("-crf", "4", "-bf", "2") if codec == "libx264" else ()), *extra],
        )
        writer.send(None)
        for frame in range(frames):
            writer.send(np.full((size[1], size[0], 3), color(camera, frame), dtype=np.uint8))
        writer.close()
        return file.read_bytes()


def write_videos(root: Path, frames: int = FRAMES, **options) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for c, camera in enumerate(NAMES):
        write_video(root / f"{camera}.mp4", c, frames, **options)
    return root


def llff_row(viewmat: np.ndarray, size: tuple[int, int] = (WIDTH, HEIGHT), focal: float = 30.0) -> np.ndarray:
    """A row of poses_bounds.npy for a camera with that world-to-camera matrix."""
    right, down, forward = viewmat[:3, :3]
    centre = -viewmat[:3, :3].T @ viewmat[:3, 3]
    matrix = np.stack([down, right, -forward, centre, [size[1], size[0], focal]], axis=1)
    return np.append(matrix.ravel(), [2.0, 9.0])


def write_bounds(root: Path, rows: np.ndarray | None = None, **options) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    rows = np.stack([llff_row(viewmat, **options) for viewmat in ring(CAMERAS)]) if rows is None else rows
    np.save(root / "poses_bounds.npy", rows)
    return root


CODECS = {".avi": "mpeg4", ".webm": "libvpx"}


def decode(path: Path) -> tuple[dict, list[np.ndarray]]:
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, [np.frombuffer(data, np.uint8).reshape(height, width, 3) for data in reader]
