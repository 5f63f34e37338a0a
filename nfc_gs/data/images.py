"""Pictures of a capture: decoding, masks, resizing and undistortion."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.data.image_files import has_alpha, opened_image
from nfc_gs.data.image_source import Color, ImageSource
from nfc_gs.data.lens import SPHERICAL, Lens, Pinhole, sampling_map
from nfc_gs.data.masks import read_mask, read_matte
from nfc_gs.data.scene import View, ViewImage
from nfc_gs.data.video import read_video_frame

if TYPE_CHECKING:
    from PIL import Image

IGNORED_SHARE = 1e-3
"""A pixel is ignored when more than this share of its area is ignored, since its color is mixed with what should not be
seen. The share is above zero to allow for rounding."""

HUGE_PIXELS = 2**27
"""Images of more pixels are made smaller while they are decoded, and one at a time: three bytes for each pixel of
several at once would not fit into memory."""

_huge = threading.Lock()


def describe_processing(views: Sequence[View]) -> list[str]:
    """What is done to the images of these views, in words, with the number of views where it is not all of them."""
    sources = [view.source for view in views if view.source is not None]
    with_alpha = [source for source in sources if source.header.has_alpha]
    counts = {
        "undistorted": sum(source.lens is not None for source in sources),
        "masked by images": sum(source.mask is not None and source.mask_background is None for source in sources),
        "masked by their transparency": sum(
            source.background is None and source.alpha_is_mask for source in with_alpha
        ),
        "transparency laid on a color": sum(source.background is not None for source in with_alpha),
        "what masks leave out laid on a color": sum(
            source.mask is not None and source.mask_background is not None for source in sources
        ),
    }
    return [what if n == len(sources) else f"{what} ({n} of {len(sources)})" for what, n in counts.items() if n]


def decode(source: ImageSource) -> ViewImage:
    """The picture at full working size.

    Raises:
        UserError: the file is gone, cut short, or not what it was when the capture was opened.
    """
    rgb, alpha = _stored(source)
    size = (source.width, source.height)
    ignored = np.zeros((source.height, source.width), dtype=bool)
    if alpha is not None and source.background is not None:
        rgb = _composite(rgb, alpha, source.background)
    elif alpha is not None and source.alpha_is_mask:
        ignored |= _shrink_ignored(alpha < 128, size)
    if source.mask is not None and source.mask_background is not None:
        kept = area_average(read_matte(source.mask), (rgb.shape[1], rgb.shape[0]))
        rgb = _composite(rgb, kept, source.mask_background)
    elif source.mask is not None:
        ignored |= _shrink_ignored(~read_mask(source.mask), size)
    rgb = area_average(rgb, size)
    if source.lens is not None and source.pinhole is not None:
        rgb, ignored = _undistort(rgb, ignored, source.lens, source.pinhole)
    return _view_image(rgb, ignored)


def decode_moving(source: ImageSource) -> np.ndarray | None:
    """Which pixels of the picture show something that moves: those of which half or more does.

    Returns:
        [H, W] bool, of the size of `decode`'s picture; None where the capture has no such mask.

    Raises:
        UserError: the mask is gone or cannot be read.
    """
    if source.moving is None:
        return None
    share = area_average(read_mask(source.moving).astype(np.uint8) * 255, (source.width, source.height))
    if source.lens is not None and source.pinhole is not None:
        nothing_ignored = np.zeros(share.shape, dtype=bool)
        share = _undistort(share[..., None], nothing_ignored, source.lens, source.pinhole)[0][..., 0]
    return share >= 128


def decode_foreground(source: ImageSource) -> np.ndarray | None:
    """Which pixels of the picture are foreground where transparency, or what a mask leaves out, is laid on a color:
    those whose alpha is above one half.

    Returns:
        [H, W] bool, of the size of `decode`'s picture; None where nothing is laid on a color.

    Raises:
        UserError: as `decode`.
    """
    size, alpha = (source.width, source.height), None
    if source.background is not None and source.header.has_alpha:
        stored = read_alpha(source)
        alpha = None if stored is None else area_average(stored, size)
    if source.mask is not None and source.mask_background is not None:
        kept = area_average(read_matte(source.mask), size)
        alpha = kept if alpha is None else np.minimum(alpha, kept)
    if alpha is None:
        return None
    if source.lens is not None and source.pinhole is not None:
        nothing_ignored = np.zeros(alpha.shape, dtype=bool)
        alpha = _undistort(alpha[..., None], nothing_ignored, source.lens, source.pinhole)[0][..., 0]
    return alpha >= 128


def read_alpha(source: ImageSource) -> np.ndarray | None:
    """The alpha channel of an image as it is in the file, upright, [H, W] uint8; None where all is opaque.

    Raises:
        UserError: as `decode`.
    """
    return _stored(source)[1]


def _stored(source: ImageSource) -> tuple[np.ndarray, np.ndarray | None]:
    """RGB [H, W, 3] and alpha [H, W] (or None), uint8, upright, as they are in the file."""
    size, changed = (source.header.width, source.header.height), f"{source.path} has changed since the capture was"
    if source.frame is not None:
        rgb = read_video_frame(source.path, source.frame)
        if (rgb.shape[1], rgb.shape[0]) != size:
            raise UserError(f"The video {changed} opened; start again.")
        return rgb, None
    with opened_image(source.path) as image:
        if (image.width, image.height) != size:
            raise UserError(f"The image {changed} opened; start again.")
        if size[0] * size[1] > HUGE_PIXELS:
            return _huge_pixels(image, source)
        return _pixels(_turned(image) if source.turn else image)


def _huge_pixels(image: Image.Image, source: ImageSource) -> tuple[np.ndarray, np.ndarray | None]:
    """`_stored` of a huge image, made smaller to the working size where its kind of pixels allows it."""
    from PIL import Image

    size = (source.width, source.height)
    with _huge:
        image.draft(None, (source.height, source.width) if source.turn else size)  # a JPEG at 1/2, 1/4 or 1/8
        if source.turn:
            image = _turned(image)
        if image.mode in ("1", "L", "P", "RGB") and not has_alpha(image):
            image = image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
            image = image.resize(size, Image.Resampling.BOX)
        return _pixels(image)


def shrink(image: ViewImage, width: int, height: int) -> ViewImage:
    """A smaller picture by averaging over area; a pixel counts only where all that it covers counts."""
    if image.rgb.shape[:2] == (height, width):
        return image
    rgb = area_average(image.rgb, (width, height))
    if image.mask is None:
        return ViewImage(rgb, None)
    return _view_image(rgb, _shrink_ignored(image.mask == 0, (width, height)))


def area_average(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (width, height), each output pixel the mean over the area it covers, pixels being squares.

    Args:
        image: [H, W] or [H, W, C], uint8.

    Returns:
        uint8, rounded, of the new size; the array itself where the size is the same.
    """
    from PIL import Image

    width, height = size
    old_height, old_width = image.shape[:2]
    if (old_width, old_height) == size:
        return image
    factors = (old_width // width, old_height // height)
    if (factors[0] * width, factors[1] * height) == (old_width, old_height) and all(f in (1, 2, 4, 8) for f in factors):
        return np.array(Image.fromarray(image).reduce(factors))  # faster; it rounds other factors downwards
    result = np.empty((height, width, *image.shape[2:]), dtype=np.uint8)
    for first, mean in _mean_blocks(image, size):
        result[first : first + len(mean)] = np.clip(mean + 0.5, 0, 255).reshape(len(mean), *result.shape[1:])
    return result


def _mean_blocks(image: np.ndarray, size: tuple[int, int], rows: int = 64) -> Iterator[tuple[int, np.ndarray]]:
    """The area averages of [H, W] or [H, W, C] by blocks of rows, so that photos need no floating-point copy.

    Yields:
        the first row of a block and the block, [rows, W', C] float32.
    """
    width, height = size
    down, across = _area_weights(image.shape[0], height), _area_weights(image.shape[1], width)
    for first in range(0, height, rows):
        last = min(first + rows, height)
        low, high = first * image.shape[0] // height, -(-last * image.shape[0] // height)
        source = image[low:high].reshape(high - low, -1).astype(np.float32)
        part = (down[first:last, low:high] @ source).reshape(last - first, image.shape[1], -1)
        part = across @ part.transpose(1, 0, 2).reshape(image.shape[1], -1)
        yield first, part.reshape(width, last - first, -1).transpose(1, 0, 2)


def _area_weights(old: int, new: int) -> Any:
    """Sparse [new, old] matrix: which share of each new pixel each old one covers, along one axis."""
    from scipy.sparse import csr_matrix

    edges = np.arange(new + 1) * (old / new)
    edges[-1] = old
    cuts = np.union1d(edges, np.arange(old + 1))  # between two cuts lies one piece of one old and one new pixel
    middles = (cuts[:-1] + cuts[1:]) / 2
    rows = np.minimum(np.searchsorted(edges, middles, side="right") - 1, new - 1)
    weights = np.diff(cuts) * (new / old)
    return csr_matrix((weights.astype(np.float32), (rows, middles.astype(np.int64))), shape=(new, old))


def _shrink_ignored(ignored: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which pixels of the new size cover an ignored one, [H, W] bool."""
    width, height = size
    if ignored.shape == (height, width) or not ignored.any():
        return ignored if ignored.shape == (height, width) else np.zeros((height, width), dtype=bool)
    return np.concatenate([share[..., 0] > IGNORED_SHARE for _, share in _mean_blocks(ignored, size)])


def _view_image(rgb: np.ndarray, ignored: np.ndarray) -> ViewImage:
    """A picture of which these pixels [H, W] bool do not count."""
    mask = np.where(ignored, np.uint8(0), np.uint8(255)) if ignored.any() else None
    return ViewImage(np.ascontiguousarray(rgb), mask)


def _undistort(rgb: np.ndarray, ignored: np.ndarray, lens: Lens, pinhole: Pinhole) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear resampling to the pinhole; a pixel counts only where all four pixels it is mixed of count."""
    import torch
    from torch.nn.functional import grid_sample

    positions, inside = sampling_map(lens, pinhole)
    around = lens.model == SPHERICAL  # its left and right border are neighbours
    if around:
        positions = positions * np.array([rgb.shape[1] / (rgb.shape[1] + 2), 1.0], dtype=np.float32)
    grid = torch.from_numpy(positions)[None]

    def sample(planes: np.ndarray) -> np.ndarray:  # [H, W, C] -> [H', W', C]
        if around:
            planes = np.concatenate([planes[:, -1:], planes, planes[:, :1]], axis=1)
        values = torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32)).permute(2, 0, 1)[None]
        result = grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return result[0].permute(1, 2, 0).numpy()

    picture = np.clip(sample(rgb) + 0.5, 0, 255).astype(np.uint8)
    picture[~inside] = 0
    lost = ~inside
    if ignored.any():
        lost |= sample(ignored[..., None])[..., 0] > IGNORED_SHARE
    return picture, lost


def _composite(rgb: np.ndarray, alpha: np.ndarray, background: Color) -> np.ndarray:
    """Composite over a color; the values are blended as stored (sRGB), as viewers of images do."""
    a = alpha[..., None].astype(np.float32) / 255.0
    behind = np.array(background, dtype=np.float32) * 255.0
    return np.clip(rgb * a + behind * (1.0 - a) + 0.5, 0, 255).astype(np.uint8)


def _turned(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _pixels(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """RGB [H, W, 3] and alpha [H, W] (or None), uint8, of any image PIL reads."""
    if has_alpha(image):
        if image.mode == "La":
            image = image.convert("LA")
        rgba = np.array(image.convert("RGBA"))
        alpha = np.ascontiguousarray(rgba[..., 3])
        return np.ascontiguousarray(rgba[..., :3]), None if (alpha == 255).all() else alpha
    if image.mode.startswith("I"):  # 16 bits of grey; older PIL calls it "I"
        grey = np.array(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("it has more than 16 bits per channel")
        grey = ((grey + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2), None
    if image.mode == "F":
        raise ValueError("it holds floating-point numbers, not colors")
    return np.array(image if image.mode == "RGB" else image.convert("RGB")), None
