"""Frames of video files, decoded by ffmpeg."""

from __future__ import annotations

import functools
import os
import re
import stat
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nfc_gs.core.errors import UserError, system_cause

VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"))

BLOCK_BYTES = 32_000_000
"""How much of a video is decoded at a time: starting ffmpeg and seeking take longer than decoding a few frames."""

KEPT_BLOCKS = 5
"""How many such blocks are kept, so that reading a video in order does not start ffmpeg for every frame: one for each
thread that decodes (`data.image_cache`)."""

UNSTEADY = 0.01
"""Videos whose average rate is lower by more than this share are refused: their frames could not be found by number."""

CUT_SHORT = ("partial file", "ended prematurely", "truncated")
"""Words of ffmpeg about files that end too early."""

_locks = tuple(threading.Lock() for _ in range(16))


@dataclass(frozen=True)
class VideoHeader:
    """Size in pixels (as shown), frames per second, and the number of frames."""

    width: int
    height: int
    fps: float
    frames: int


def read_video_header(path: Path) -> VideoHeader:
    """What a video file says of itself; its frames are counted without decoding them.

    Raises:
        UserError: it is no video that can be read, is cut short, or its frames do not come at a constant rate.
    """
    return _header(path, _stamp(path))


def read_video_frame(path: Path, number: int) -> np.ndarray:
    """The picture that is shown at `number` / fps, [H, W, 3] uint8.

    Raises:
        UserError: it cannot be read.
    """
    stamp = _stamp(path)
    beside = _frames_beside(_header(path, stamp), number)
    first, length = beside.start, len(beside)
    with _locks[hash(path) % len(_locks)]:  # two threads do not decode the same block
        block = _block(path, stamp, first, length)
    if number - first >= len(block):
        raise UserError(f"The video {path} has no frame {number} that can be decoded; replace or remove it.")
    return block[number - first].copy()  # a view would keep the whole block in memory


def frames_beside(path: Path, number: int) -> range:
    """The numbers of the frames that are decoded together with a frame, itself among them; the last ones need not be
    there.

    Raises:
        UserError: as `read_video_header`.
    """
    return _frames_beside(read_video_header(path), number)


def _frames_beside(header: VideoHeader, number: int) -> range:
    length = max(1, BLOCK_BYTES // (header.width * header.height * 3))
    first = number // length * length
    return range(first, first + length)


def _stamp(path: Path) -> tuple[int, int]:
    """Changes when the file does."""
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(status.st_mode):  # to open a named pipe may wait for ever
        raise UserError(f"{path} is no regular file, so it is not read as a video; remove it.")
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=1024)
def _header(path: Path, stamp: tuple[int, int]) -> VideoHeader:
    import imageio_ffmpeg

    try:
        reader = imageio_ffmpeg.read_frames(os.path.abspath(path), output_params=["-frames:v", "1"])
        meta = next(reader)
        reader.close()
        (width, height), fps = meta["size"], _exact_rate(float(meta["fps"]))
    except Exception as error:  # imageio-ffmpeg raises OSError, IndexError, AttributeError, ...
        raise _unreadable(path, error) from None
    frames = _count(path)
    grid = _grid(path)
    if grid is not None and abs(grid / fps - 1.0) > UNSTEADY:
        raise UserError(
            f"The frames of the video {path} do not follow each other at a constant rate: on average {fps:g} a second, "
            f"some {grid:g}. Convert it (ffmpeg -i IN -r {round(fps)} OUT), or give its frames as pictures."
        )
    if not (fps > 0.0 and frames > 0 and width > 0 and height > 0):
        raise UserError(f"The video {path} has no frames, or does not say how many a second; replace or remove it.")
    return VideoHeader(width, height, fps, frames)


def _exact_rate(fps: float) -> float:
    """ffmpeg rounds to two digits, which in the rates of television is a frame in an hour."""
    for nominal in (24, 30, 48, 60, 120):
        if abs(fps - nominal / 1.001) < 0.006:
            return nominal / 1.001
    return fps


def _grid(path: Path) -> float | None:
    """The rate at which ffmpeg decodes: the lowest at which no two frames of the file coincide."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-i", os.path.abspath(path)]
    done = _run(command, path)
    found = re.search(r"Video: .* (\d+(?:\.\d+)?) tbr", done.stderr)
    return float(found[1]) if found else None


def _count(path: Path) -> int:
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-i", os.path.abspath(path)]
    command += ["-map", "0:v:0", "-c", "copy", "-f", "null", "-progress", "pipe:1", "-"]
    done = _run(command, path)
    counts = [int(line[6:]) for line in done.stdout.splitlines() if line.startswith("frame=") and line[6:].isdigit()]
    cut = next((word for word in CUT_SHORT if word in done.stderr.lower()), None)
    cut = cut or ("truncated" if _is_cut_avi(path) else None)
    if done.returncode or not counts or cut:
        raise _unreadable(path, OSError(cut or done.stderr))
    return counts[-1]


def _run(command: list[str], path: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    except OSError as error:
        raise _unreadable(path, error) from None


def _is_cut_avi(path: Path) -> bool:
    """Whether a file ends before the RIFF chunks of an AVI do; ffmpeg reads what is left without a word."""
    unknown = 2**32 - 1  # the length before the file is closed, and always in a stream
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while (head := file.read(8))[:4] == b"RIFF":
            length = int.from_bytes(head[4:], "little")
            at += 8 + length
            if length != unknown and at > size:
                return True
            at += length % 2  # chunks begin at even places
            file.seek(at)
    return False


@functools.lru_cache(maxsize=KEPT_BLOCKS)
def _block(path: Path, stamp: tuple[int, int], first: int, length: int) -> np.ndarray:
    """The frames from `first` on, at most `length` of them, [F, H, W, 3] uint8."""
    import imageio_ffmpeg

    header = _header(path, stamp)
    # half a frame early: ffmpeg drops what comes before that time, and times in files are rounded
    seek = ["-ss", f"{(first - 0.5) / header.fps:.6f}"] if first else []
    length = min(length, header.frames - first)
    try:
        reader = imageio_ffmpeg.read_frames(
            os.path.abspath(path), input_params=seek, output_params=["-frames:v", str(max(length, 1))]
        )
        size = next(reader)["size"]
        if size != (header.width, header.height):
            raise ValueError(f"frames of {size[0]} x {size[1]} pixels")
        frames = np.empty((max(length, 1), header.height, header.width, 3), dtype=np.uint8)
        count = 0
        for count, data in enumerate(reader, start=1):
            frames[count - 1] = np.frombuffer(data, dtype=np.uint8).reshape(frames.shape[1:])
    except Exception as error:
        raise _unreadable(path, error) from None
    return frames[:count]


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, OSError) and error.errno is not None:
        return UserError(f"Cannot read the video {path}: {system_cause(error)}.")
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "===" not in line]
    cause = lines[-1].rstrip(".") if lines else type(error).__name__
    return UserError(f"The video {path} cannot be read, or is cut short ({cause}); replace or remove it.")
