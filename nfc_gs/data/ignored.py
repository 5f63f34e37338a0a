"""How much of a capture its masks and alpha channels leave out; where that is everything, it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import ReaderMessages, some_names
from nfc_gs.data.image_source import ImageSource
from nfc_gs.data.images import read_alpha
from nfc_gs.data.masks import read_mask

LARGE_SHARE = 0.5
"""More than this share of the images is not ignored without a word."""

ALL_PIXELS = 32_000_000
"""Where the images have fewer pixels together, all are looked at."""

SAMPLE = 8
"""Else so many, spread over the capture."""


@dataclass(frozen=True)
class _LeftOut:
    """What an image lacks: shares of its pixels, of those that the mask and the alpha channel leave out each alone."""

    name: str
    share: float
    by_mask: float
    by_alpha: float


def check_ignored(sources: Sequence[ImageSource], messages: ReaderMessages) -> None:
    """Warn where much of the images is ignored, judged by some of them.

    Args:
        sources: of the images that are trained on.

    Raises:
        UserError: masks and alpha channels leave nothing of any of them.
    """
    images = list({(source.path, source.frame): source for source in sources}.values())
    masked = [source for source in images if source.mask is not None or _alpha_counts(source)]
    ignoring = [source for source in masked if not _is_laid_on_a_color(source)]
    sample = _spread(ignoring)
    found = [_left_out(source) for source in sample]
    if masked and len(masked) == len(images) and all(entry.share == 1.0 for entry in found):
        seen = {id(source) for source in sample}
        for source in (source for source in masked if id(source) not in seen):
            found.append(_left_out(source))
            if found[-1].share < 1.0:
                break
        else:
            raise _nothing_left(found, laid_on_a_color=not ignoring)
    _warn(found[: len(sample)], len(ignoring), len(images), messages)


def _alpha_counts(source: ImageSource) -> bool:
    return source.header.has_alpha and (source.background is not None or source.alpha_is_mask)


def _is_laid_on_a_color(source: ImageSource) -> bool:
    """Whether what is left out of the picture counts as pixels of a color."""
    by_mask = source.mask is not None and source.mask_background is None
    return not by_mask and (source.background is not None or not source.header.has_alpha)


def _spread(sources: Sequence[ImageSource]) -> list[ImageSource]:
    pixels = sum(source.header.width * source.header.height for source in sources)
    if pixels <= ALL_PIXELS or len(sources) <= SAMPLE:
        return list(sources)
    return [sources[i] for i in np.linspace(0, len(sources) - 1, SAMPLE).astype(int)]


def _left_out(source: ImageSource) -> _LeftOut:
    """Measured on the image as it is stored; a mask of another size is stretched to it."""
    alpha = read_alpha(source) if _alpha_counts(source) else None
    mask = None if source.mask is None else ~read_mask(source.mask)
    by_alpha = None
    if alpha is not None:
        by_alpha = alpha == 0 if source.background is not None else alpha < 128
    parts = [part for part in (mask, by_alpha) if part is not None]
    union = np.zeros((1, 1), dtype=bool)
    if len(parts) == 2:
        rows, columns = (
            np.arange(size) * of_mask // size for size, of_mask in zip(parts[1].shape, parts[0].shape, strict=True)
        )
        union = parts[0][rows[:, None], columns] | parts[1]
    elif parts:
        union = parts[0]
    shares = [0.0 if part is None else float(part.mean()) for part in (mask, by_alpha)]
    return _LeftOut(source.path.name, float(union.mean()), *shares)


def _nothing_left(found: Sequence[_LeftOut], *, laid_on_a_color: bool) -> UserError:
    count = f"all {len(found)} images that are trained on"
    if all(entry.by_mask == 1.0 for entry in found):
        help = "make them white where the images count, or use --no-masks to train without them"
        return UserError(f"The masks leave out every pixel of {count}; {help}.")
    if laid_on_a_color:
        return UserError(f"Every pixel of {count} is transparent; save the images without an alpha channel.")
    if all(entry.by_alpha == 1.0 for entry in found):
        what = "Every pixel is transparent (alpha 0) in"
        return UserError(f"{what} {count}, so that all would be ignored; use --no-masks to train on their colors.")
    return UserError(
        f"Masks and alpha channels leave out every pixel of {count}; mend the masks, or use --no-masks to train on all."
    )


def _warn(found: Sequence[_LeftOut], masked: int, images: int, messages: ReaderMessages) -> None:
    """Say that much is ignored, or some images whole."""
    share = sum(entry.share for entry in found) / len(found) * masked / images if found else 0.0
    whole = [entry.name for entry in found if entry.share == 1.0]
    of = "" if len(found) == masked else f" (of {len(found)} of {masked} that were looked at)"
    parts = []
    if share > LARGE_SHARE:
        parts.append(f"{share:.0%} of the pixels of the images are ignored")
    if whole:
        count = "1 image is" if len(whole) == 1 else f"{len(whole)} images are"
        parts.append(f"{count} ignored whole ({some_names(whole)}){of}")
    if parts:
        messages.warning(
            f"By masks and alpha channels, {', and '.join(parts)}; --no-masks trains on all pixels, "
            "--image-background R G B lays them on a color."
        )
