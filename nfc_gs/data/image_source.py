"""How the picture of a view is made from an image file: the plan that `data.images.decode` follows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nfc_gs.data.lens import Lens, Pinhole

MAX_PIXELS = 2**28
"""Of an image file, and of a view's picture; larger ones are refused."""

Color = tuple[float, float, float]
"""Red, green and blue in 0..1."""


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image file says, before the file is decoded; sizes in pixels as stored."""

    width: int
    height: int
    swaps_sides: bool
    """Its EXIF orientation turns it by 90 or 270 degrees."""
    has_alpha: bool


@dataclass(frozen=True)
class MaskReading:
    """What the pixels of the masks of a capture mean; the same for all of them (`data.masks.judge_masks`)."""

    from_alpha: bool = False
    """The mask is the alpha channel, not the colors."""
    soft: bool = False
    """What is brighter than half of the brightest pixel is kept; else all that is not black."""


@dataclass(frozen=True)
class MaskFile:
    """A mask image and how it is read."""

    path: Path
    reading: MaskReading = MaskReading()


@dataclass(frozen=True)
class ImageSource:
    """How the picture of a view (`ViewImage`) is made from its file."""

    path: Path
    header: ImageHeader
    turn: bool
    """Apply the EXIF orientation."""
    width: int
    height: int
    """Size the file is brought to before anything else is done."""
    background: Color | None = None
    """Color that transparent pixels are composited on; None: they are ignored (or, with `alpha_is_mask` false, kept as
    stored)."""
    alpha_is_mask: bool = True
    mask: MaskFile | None = None
    """What of the picture is kept; the rest is ignored, or laid on `mask_background`."""
    mask_background: Color | None = None
    lens: Lens | None = None
    pinhole: Pinhole | None = None
    """With a `lens`: the picture is resampled to this pinhole."""
    frame: int | None = None
    """The number of the frame, counted from 0, where the file is a video."""
    moving: MaskFile | None = None
    """An image that is white where the picture shows something that moves."""
