"""How a capture is read: the options, and the checks of what the user gives for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from nfc_gs.core.checks import CheckedFields
from nfc_gs.core.errors import UserError

AUTO_SIDE = 1600
"""Longest side in pixels that `--downscale auto` leaves, as 3DGS does."""

FEW_POINTS = 8
"""With fewer points than this they are replaced by random ones: nearest neighbours would mean nothing."""


@dataclass(frozen=True)
class FrameOptions(CheckedFields):
    """Which frames of a capture are used, and at which times they are."""

    time_from_name: str | None = None
    """Find the number of each image's frame in its name by this regular expression, and take it as the time of a
    moving scene: its one group, or all that it matches, as in "frame_(\\d+)"."""

    frame_start: int = 0
    """The number of the first frame to use, where the capture numbers its frames (multi-view video, Nerfies,
    PanopticSports, --time-from-name)."""

    frame_end: int | None = None
    """The number of the first frame not to use; by default all are used."""

    frame_stride: int = 1
    """Use every K-th of these frames."""

    frame_rate: float | None = None
    """Frames per second, as they are numbered: their times are then in seconds. By default that of the
    files of multi-view video."""


@dataclass(frozen=True)
class DataConfig(FrameOptions):
    """How a capture is read.

    Raises:
        UserError: a value is not of the type of its field.

    >>> scene = nfc_gs.load_scene("captures/garden", nfc_gs.DataConfig(downscale="2", test_every=4))
    >>> scene.camera(0).width, len(scene.test)
    (24, 2)
    """

    downscale: str = "auto"
    """Make the images smaller: by a factor (2, 4; the capture's own images_2, images_4, ... are used where they are
    there) or to a longest side (800px); 1 leaves them, auto makes them 1600px at most."""

    test_every: int | None = None
    """Hold out every K-th image by name for testing, the first included; 0 for none. By default the capture's own
    split where it has one, else 8."""

    background: tuple[float, float, float] | None = None
    """Lay what masks/ and an alpha channel mask out on this color, three numbers in 0..1, so that it counts. By default
    it is ignored, but for Blender captures (transforms_train.json), whose transparent pixels are laid on white."""

    masks: bool = True
    """Ignore what the capture masks out: an alpha channel, the images in masks/ (black is ignored, all other values
    count; of masks with soft edges what is brighter than half counts)."""

    normalize: bool = True
    """Move, turn and scale the scene: centre at the origin, up along +z, cameras about 1 from their mean. Exports
    are in the capture's own frame either way. Without it, coordinates too large for float32 are moved all the same."""

    random_points: int = 20_000
    """How many points to start from where the capture has none: random ones, in a moving scene whose images have an
    alpha channel inside their silhouettes."""

    cache_gb: float | None = None
    """Memory for decoded images in gigabytes; by default a quarter of what is available. What does not fit is read
    from decoded copies on disk, or decoded again."""

    copies_gb: float = 20.0
    """Disk for decoded copies of the images in gigabytes, in a folder image-cache beside the run folder, which runs
    share; 0 for none. Copies are made of captures that do not fit into --cache-gb or are slow to decode."""

    def __post_init__(self) -> None:
        if isinstance(self.downscale, Real) and not isinstance(self.downscale, bool):  # 2 for "2"
            object.__setattr__(self, "downscale", f"{float(self.downscale):g}")
        super().__post_init__()


@dataclass(frozen=True)
class Downscale:
    """How much smaller images are made.

    Attributes:
        factor: 1 or more; 1 leaves them as they are.
        side: the longest side in pixels after that; None for any.
    """

    factor: float
    side: int | None

    @property
    def copies(self) -> int | None:
        """The factor of the smaller copies of its images that a capture may hold; None where none is of use."""
        return int(self.factor) if self.factor > 1 and self.factor == int(self.factor) else None


def check_config(config: DataConfig) -> None:
    """Raise `UserError` for values that make no sense, but for `downscale` (see `parse_downscale`)."""
    if config.test_every is not None and config.test_every < 0:
        raise UserError(f"--test-every {config.test_every} is negative; give 0 for no test images, or 2 or more.")
    if config.test_every == 1:
        raise UserError("--test-every 1 leaves no image to train on; give 0 for no test images, or 2 or more.")
    if config.random_points < FEW_POINTS:
        raise UserError(f"--random-points {config.random_points} is too few to start from; give at least {FEW_POINTS}.")
    if config.cache_gb is not None and not (math.isfinite(config.cache_gb) and config.cache_gb >= 0):
        raise UserError(f"--cache-gb {config.cache_gb} is no amount of memory; give a number of gigabytes.")
    if not (math.isfinite(config.copies_gb) and config.copies_gb >= 0):
        raise UserError(f"--copies-gb {config.copies_gb} is no amount of disk; give a number of gigabytes.")
    if config.frame_start < 0:
        raise UserError(f"--frame-start {config.frame_start} is negative; frames are counted from 0.")
    if config.frame_end is not None and config.frame_end <= config.frame_start:
        raise UserError(f"--frame-end {config.frame_end} is not after --frame-start {config.frame_start}.")
    if config.frame_stride < 1:
        raise UserError(f"--frame-stride {config.frame_stride} is less than 1; give 1 for every frame.")
    if config.frame_rate is not None and not 0.0 < config.frame_rate < math.inf:
        raise UserError(f"--frame-rate {config.frame_rate:g} is no rate; give the number of frames per second.")
    if config.background is not None and not all(0.0 <= value <= 1.0 for value in config.background):
        raise UserError(f"background {config.background} is no color; give red, green and blue between 0 and 1.")


def parse_downscale(text: str) -> Downscale:
    """What `DataConfig.downscale` says.

    Raises:
        UserError: it is none of the forms that are understood.
    """
    word = text.strip().lower()
    if word == "auto":
        return Downscale(1.0, AUTO_SIDE)
    try:
        value = float(word.removesuffix("px"))
    except ValueError:
        value = math.nan
    if not 1.0 <= value <= 1e6 or (word.endswith("px") and value != int(value)):
        raise UserError(
            f"--downscale {text!r} is not understood; give auto, a factor of 1 or more, or a side as in 800px."
        )
    return Downscale(1.0, int(value)) if word.endswith("px") else Downscale(value, None)
