"""Pictures and videos on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write, make_folder, write_error


def to_uint8(image: np.ndarray) -> np.ndarray:
    """An image as bytes: floats in [0, 1] are clamped (NaN becomes 0) and rounded, uint8 stays; any shape."""
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    values = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)


def write_png(path: Path | str, image: np.ndarray) -> None:
    """Write one picture as a PNG, whole or not at all.

    Args:
        image: [H, W] or [H, W, 1] grey, [H, W, 3] RGB or [H, W, 4] RGBA; uint8, or float in [0, 1].

    Raises:
        UserError: the file cannot be written.
    """
    from PIL import Image

    pixels = to_uint8(image)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    with atomic_write(path) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, format="PNG")


def write_video(path: Path | str, frames: Iterable[np.ndarray], fps: float = 30.0) -> None:
    """Write frames as a video, whole or not at all; they are taken one by one, never all in memory.

    The name decides the form: .mp4 (H.264, yuv420p, plays everywhere; odd sizes get a last row or column twice),
    .gif, or a folder of PNGs (frame_00000.png, ...) if it has no suffix.

    Args:
        frames: [H, W, 3] each, all of one size; uint8, or float in [0, 1].
        fps: frames per second, > 0; a GIF rounds the time of a frame to 10 ms, a folder ignores it.

    Raises:
        UserError: another suffix, no frames, frames of different sizes, a folder that is not empty, a full disk.
    """
    path = Path(path)
    writers = {".mp4": _write_mp4, ".gif": _write_gif, "": _write_folder}
    if path.suffix.lower() not in writers:
        raise UserError(
            f"Videos are not written as '{path.suffix}' ({path}); name the file .mp4 or .gif, "
            "or give a name without a suffix for a folder of PNGs."
        )
    if not fps > 0 or not np.isfinite(fps):
        raise UserError(f"A video cannot have {fps} frames per second; give a number above 0.")
    writers[path.suffix.lower()](path, _checked(path, frames), fps)


def _checked(path: Path, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames as uint8 [H, W, 3]; at least one, all of one size."""
    shape = None
    for index, frame in enumerate(frames):
        pixels = np.ascontiguousarray(to_uint8(frame))
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(f"frame {index} has shape {pixels.shape}, expected [H, W, 3]")
        shape = shape or pixels.shape
        if pixels.shape != shape:
            raise UserError(
                f"The frames of {path} differ in size: frame 0 has {shape[1]} x {shape[0]} pixels, "
                f"frame {index} has {pixels.shape[1]} x {pixels.shape[0]}; draw them all at one size."
            )
        yield pixels
    if shape is None:
        raise UserError(f"There are no frames to write to {path}.")


def _write_mp4(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    import imageio_ffmpeg

    try:
        imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise UserError(f"Cannot write {path}: no ffmpeg is found; install it, or name the file .gif.") from None
    first = _even(next(frames))
    height, width = first.shape[:2]
    color = ["-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p", "-colorspace", "bt709"]
    color += ["-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    with atomic_write(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary),
            (width, height),
            fps=fps,  # type: ignore[arg-type]
            codec="libx264",
            pix_fmt_in="rgb24",
            pix_fmt_out="yuv420p",
            quality=None,  # type: ignore[arg-type]
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=["-crf", "17", "-preset", "medium", "-movflags", "+faststart", *color],
        )
        count = 0
        try:
            writer.send(None)
            for count, frame in enumerate(chain([first], map(_even, frames)), start=1):  # noqa: B007
                writer.send(frame)
        except OSError as error:  # a pipe to a dead ffmpeg: it wrote why, at length
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"Cannot write {path}: ffmpeg stopped ({reason}).") from None
        finally:
            writer.close()
        if _frames_in(temporary) != count:  # ffmpeg's exit code is not to be had
            raise UserError(f"Cannot write {path}: ffmpeg did not write it whole; the disk may be full.")


def _frames_in(file: Path) -> int | None:
    """How many frames a video holds; None of a file that is none."""
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.count_frames_and_secs(str(file))[0]
    except (RuntimeError, OSError):
        return None


def _even(frame: np.ndarray) -> np.ndarray:
    """The frame with an even number of rows and columns, the last ones repeated where needed (yuv420p halves both)."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") if height % 2 or width % 2 else frame


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    from PIL import Image

    pictures = (Image.fromarray(frame) for frame in frames)
    first = next(pictures)
    with atomic_write(path) as temporary:
        duration = max(20, round(100 / fps) * 10)  # viewers play anything shorter than 20 ms slowly
        first.save(temporary, format="GIF", save_all=True, append_images=pictures, duration=duration, loop=0)


def _write_folder(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"Cannot write frames to {path}: it is there already and not empty; choose another name.")
    first = next(frames)
    make_folder(path)
    written: list[Path] = []
    try:
        for index, frame in enumerate(chain([first], frames)):
            written.append(path / f"frame_{index:05d}.png")
            write_png(written[-1], frame)
    except BaseException:
        for name in written:
            name.unlink(missing_ok=True)
        try:
            path.rmdir()
        except OSError as error:
            raise write_error(path, error) from None
        raise
