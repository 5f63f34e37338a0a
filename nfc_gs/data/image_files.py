"""Opening image files: their headers, and one sentence for each reason why one cannot be read."""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nfc_gs.core.errors import UserError, system_cause
from nfc_gs.data.image_source import MAX_PIXELS, ImageHeader
from nfc_gs.data.video import read_video_header

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION = 0x0112
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PIXEL_CHUNKS = (b"IDAT", b"acTL", b"fcTL", b"fdAT")
_LONGEST_CHUNK = 1 << 24
"""Longer chunks of a PNG than this many bytes hold no orientation."""


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """The image of a file, its header read and not yet decoded.

    Raises:
        UserError: it is no image that can be read; or its pixels are not, when they are decoded inside of the block.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # Pillow refuses what phones take; the limit is ours, below
    try:
        check_regular_file(path, "image")
        with open(path, "rb") as file, Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"The image {path} has {image.width} x {image.height} pixels, more than the "
                    f"{MAX_PIXELS / 1e6:.0f} million that are read; make it smaller."
                )
            yield image
    except UserError:
        raise
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise unreadable(path, error) from None


def read_header(path: Path, frame: int | None = None) -> ImageHeader:
    """Size, orientation and alpha of an image file, without decoding it; with a `frame`, of a video file.

    Raises:
        UserError: it is not an image (or video) that can be read.
    """
    if frame is not None:
        video = read_video_header(path)
        return ImageHeader(video.width, video.height, swaps_sides=False, has_alpha=False)
    with opened_image(path) as image:
        try:
            orientation = _exif(image, path).get(_ORIENTATION, 1)
        except Exception:  # broken EXIF: PIL raises whatever its parser meets
            orientation = 1
        return ImageHeader(image.width, image.height, orientation in (5, 6, 7, 8), has_alpha(image))


def has_alpha(image: Image.Image) -> bool:
    """Whether some of its pixels may be transparent."""
    return "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")


def is_deep(path: Path) -> bool:
    """Whether an image file holds numbers of more than 8 bits in one channel, as depth maps do."""
    try:
        with opened_image(path) as image:
            return image.mode == "F" or image.mode.startswith("I")
    except UserError:  # who reads the image says what is wrong with it
        return False


def check_regular_file(path: Path, what: str) -> None:
    """Refuse what must not be opened, since opening it may wait for ever.

    Raises:
        UserError: it is a named pipe, a socket, a device or a folder.
        OSError: it is not there, or may not be looked at.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise UserError(f"{path} is {kind}, not an {what} file; remove it or put the {what} there.")


def unreadable(path: Path, error: Exception) -> UserError:
    """What an error of the system or of a decoder means for the user."""
    from PIL import UnidentifiedImageError

    if isinstance(error, FileNotFoundError):
        return UserError(f"The image {path} is not there (any more); put it back or start again without it.")
    if isinstance(error, PermissionError):
        return UserError(f"The image {path} may not be read: permission is denied; change its permissions.")
    if isinstance(error, OSError) and error.errno is not None:
        return UserError(f"The image {path} cannot be read: {system_cause(error)}.")
    if isinstance(error, MemoryError):
        return UserError(f"There is not enough memory to read the image {path}; make it smaller.")
    if isinstance(error, UnidentifiedImageError):
        return UserError(f"The file {path} is not an image that can be read; replace or remove it.")
    cause = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"The image {path} is damaged or cut short ({cause}); replace or remove it.")


def _exif(image: Image.Image, path: Path) -> Image.Exif:
    """The EXIF of an image; PIL decodes a PNG for it, since there it may lie behind the pixels."""
    from PIL import Image

    if image.format != "PNG" or "exif" in image.info:
        return image.getexif()
    with Image.open(io.BytesIO(_png_without_pixels(path))) as notes:
        return Image.Image.getexif(notes)


def _png_without_pixels(path: Path) -> bytes:
    """The chunks of a PNG file but for its pixels, which are not read."""
    parts = [_PNG_START]
    at = len(_PNG_START)
    with open(path, "rb", buffering=0) as file:
        file.seek(at)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"IEND":
                break
            if kind not in _PIXEL_CHUNKS and length <= _LONGEST_CHUNK:
                parts += [head, file.read(length + 4)]
            at += 12 + length
            file.seek(at)
    return b"".join([*parts, _PNG_END])
