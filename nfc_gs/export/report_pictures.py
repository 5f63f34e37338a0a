"""Pictures of a run as a report embeds them."""

from __future__ import annotations

import base64
import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nfc_gs.core import colormap
from nfc_gs.runs.names import PHOTO_ENDING

log = logging.getLogger("nfc_gs")

QUALITY = 85
"""Of JPEG."""


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def picture_files(folder: Path, stem: str) -> tuple[Path, Path] | None:
    """The files with the ground truth and the render of a view (`runs.names.image_stems`); None unless both exist."""
    files = folder / f"{stem}{PHOTO_ENDING}.png", folder / f"{stem}.png"
    return files if all(file.exists() for file in files) else None


def read_pictures(folder: Path, stem: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Ground truth and render of a view, [H, W, 3] uint8 each; None (with a warning) if they are of no use."""
    images = [read_picture(path) for path in picture_files(folder, stem) or ()]
    found = [image for image in images if image is not None]
    if len(found) < 2:
        return None
    truth, render = found
    if truth.shape != render.shape:
        log.warning("The report leaves out the pictures of %s: render and ground truth differ in size.", stem)
        return None
    return truth, render


def read_picture(path: Path) -> np.ndarray | None:
    """[H, W, 3] uint8; None (with a warning) if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            return np.asarray(file.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        log.warning("The report leaves out %s, which cannot be read: %s.", path, error)
        return None


def fitted(image: np.ndarray, side: int) -> tuple[int, int]:
    """The width and height at which no side of an image [H, W, ...] is longer than `side` pixels."""
    height, width = image.shape[:2]
    factor = min(1.0, side / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def color_error(error: np.ndarray) -> np.ndarray:
    """Errors as colors from black over red to pale yellow: 0 is the first, `ERROR_FULL` and more the last.

    Args:
        error: [H, W] float, absolute error averaged over the channels, in [0, 1].

    Returns:
        [H, W, 3] uint8.
    """
    table = (255.0 * colormap.apply(torch.linspace(0.0, 1.0, 256), colormap.ERROR_MAP)).round().to(torch.uint8).numpy()
    return table[np.clip(np.rint(255.0 / colormap.ERROR_FULL * error), 0, 255).astype(np.uint8)]


def jpeg(image: np.ndarray, side: int, most: int) -> Picture:
    """An image [H, W, 3] uint8 as a JPEG.

    Args:
        side: the longest side has at most so many pixels ...
        most: ... and the data URI at most so many characters, for which it gets smaller if it must.
    """
    from PIL import Image

    size, picture = fitted(image, side), Image.fromarray(image)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=QUALITY, subsampling=0)
    uri = data_uri(buffer.getvalue(), "image/jpeg")
    return Picture(uri, *size) if len(uri) <= most else jpeg(image, max(size) * 2 // 3, most)


def png(image: np.ndarray) -> Picture:
    """An image [H, W, 4] uint8 with transparency as a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return Picture(data_uri(buffer.getvalue(), "image/png"), image.shape[1], image.shape[0])


def data_uri(content: bytes, kind: str) -> str:
    """The content of a file of this MIME type as a data URI."""
    return f"data:{kind};base64," + base64.b64encode(content).decode("ascii")
