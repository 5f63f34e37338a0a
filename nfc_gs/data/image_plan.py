"""How much memory the pictures of a capture may take, and whether decoded copies of them pay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nfc_gs.core.errors import UserError
from nfc_gs.core.memory import available_memory
from nfc_gs.core.text import gigabytes
from nfc_gs.data.capture import ReaderMessages
from nfc_gs.data.config import DataConfig
from nfc_gs.data.image_cache import ImageCache, decoding_bytes, picture_bytes
from nfc_gs.data.image_copies import ImageCopies
from nfc_gs.data.scene import View

SHARE = 4
"""Decoded images take at most one part in this many of the memory that is available, where the user does not say."""

LARGEST_SHARE = 2
"""The same where the user says: a model and its renderings need memory, too."""

UNKNOWN = 2_000_000_000
"""Bytes for decoded images where the system does not say how much memory is available."""

SLOW_PIXELS = 4_000_000_000
"""Copies pay where decoding a capture is work for so many pixels, which is about a minute for one core."""

RESAMPLED, FRAME = 4, 10
"""What a pixel that is undistorted, and one of a video, is in pixels of a photo by the time it takes."""


def plan_images(views: Sequence[View], config: DataConfig, copies: Path | None, messages: ReaderMessages) -> ImageCache:
    """What decodes and keeps the pictures of these views; it is said where not all are kept in memory.

    Args:
        copies: folder for decoded copies where these pay; None for none.

    Raises:
        UserError: there is not enough memory to decode an image.
    """
    available = available_memory()
    _check_largest(views, available)
    limit = image_memory(config, available, messages)
    whole = sum(picture_bytes(view) for view in views)
    small = whole > limit
    if small:
        why = "--cache-gb" if config.cache_gb is not None else "a quarter of what is available, or --cache-gb"
        messages.info(
            f"Decoded, the {len(views):,} images take {gigabytes(whole)}, and {gigabytes(limit)} of memory are used "
            f"for them ({why})."
        )
    pays = small or decoding_work(views) > SLOW_PIXELS
    kept = _open_copies(views, config, copies, messages) if pays and copies is not None else None
    if small and kept is None:
        messages.info("Images that do not fit into it are decoded again as they are needed.")
    return ImageCache(limit / 1e9, copies=kept, views=views)


def image_memory(config: DataConfig, available: int | None, messages: ReaderMessages | None = None) -> int:
    """Bytes for decoded images: those of the configuration as far as there is so much, else a share of what is
    available."""
    if config.cache_gb is None:
        return UNKNOWN if available is None else available // SHARE
    limit = int(config.cache_gb * 1e9)
    if available is None or limit <= available // LARGEST_SHARE:
        return limit
    if messages is not None:
        messages.warning(
            f"--cache-gb {config.cache_gb:g} is more than half of the {gigabytes(available)} of memory that are "
            "available: half is used for images."
        )
    return available // LARGEST_SHARE


def decoding_work(views: Sequence[View]) -> int:
    """What it takes to decode the images of these views, in pixels of photos."""
    work = 0
    for view in views:
        source = view.source
        assert source is not None, "the views of a capture have sources"
        work += source.header.width * source.header.height * (FRAME if source.frame is not None else 1)
        work += RESAMPLED * view.camera.width * view.camera.height * (source.lens is not None)
    return work


def _check_largest(views: Sequence[View], available: int | None) -> None:
    """Raise UserError where decoding the largest image alone would use up the memory."""
    sources = [view.source for view in views if view.source is not None]
    largest = max(sources, key=decoding_bytes)
    if available is not None and decoding_bytes(largest) > available:
        header = largest.header
        raise UserError(
            f"Decoding the image {largest.path} of {header.width} x {header.height} pixels takes "
            f"{gigabytes(decoding_bytes(largest))} of memory, and {gigabytes(available)} are available; make the image "
            "smaller, or close other programs."
        )


def _open_copies(
    views: Sequence[View], config: DataConfig, folder: Path, messages: ReaderMessages
) -> ImageCopies | None:
    """Decoded copies in a folder; None where the user wants none, or the folder cannot be made."""
    if config.copies_gb == 0:
        return None
    try:
        copies = ImageCopies(folder, int(config.copies_gb * 1e9), [view.source for view in views if view.source])
    except UserError as error:
        messages.warning(f"No decoded copies of the images are kept. {error}")
        return None
    there = f", {gigabytes(copies.own_bytes)} are there already" if copies.own_bytes else ""
    messages.info(
        f"Decoded copies of the images are kept in {folder} (at most {config.copies_gb:g} GB, --copies-gb{there}); the "
        "folder may be removed at any time."
    )
    return copies
