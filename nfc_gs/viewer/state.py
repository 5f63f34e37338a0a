"""What a page of the viewer shows, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nfc_gs.core.colormap import MapName
from nfc_gs.viewer.edit import EVERYTHING, Edit

Show = Literal["color", "alpha", "depth", "normals", "count", "error", "bit", "bits", "entropy"]

SHOWS: tuple[Show, ...] = ("color", "alpha", "depth", "normals", "count", "error", "bit", "bits", "entropy")

BIT_SHOWS: tuple[Show, ...] = ("bit", "bits", "entropy")
"""What only Gaussians with a bit head can show."""

Compare = Literal["off", "split", "flicker"]


@dataclass(frozen=True)
class DisplaySettings:
    """How a model is displayed.

    Attributes:
        show: color; alpha; depth; normals (as the camera sees them); count (Gaussians over a pixel, each by
            its falloff); error (against a photo); bit (one plane), bits (all planes of a channel and the picture) and
            entropy (how undecided the bits are).
        background: color in [0, 1] behind the model.
        sh_degree: view dependence of Gaussians up to this degree, 0..3.
        splat_scale: factor of the size of all Gaussians.
        points: a dot in the place of each Gaussian.
        point_size: diameter of the dots in pixels of the picture, at least about 1.
        colormap: of depth, count and entropy.
        depth_range: depths (scene units) with the first and the last color; None for the range in the picture.
        channel, bit: of the planes: 0..2 for red, green, blue; 0..7, most significant first.
        edit: which Gaussians are kept.
    """

    show: Show = "color"
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sh_degree: int = 3
    splat_scale: float = 1.0
    points: bool = False
    point_size: float = 2.0
    colormap: MapName = "turbo"
    depth_range: tuple[float, float] | None = None
    channel: int = 0
    bit: int = 0
    edit: Edit = EVERYTHING


@dataclass(frozen=True)
class ViewState(DisplaySettings):
    """All that decides what a page shows, but for its camera, which the browser holds.

    Attributes:
        source, other: names of the source that is shown and of the one it is compared with.
        compare: "split" shows both, left and right of a border; "flicker" in turn.
        split: where the border is, 0..1 from the left.
        flicker_to_other: while two flicker, the next picture shows `other`.
        time: 0..1, of what changes with time.
        playing: time runs.
        speed: lengths of the capture per second.
        loop: time begins again at the end.
        view: index of the chosen view of the capture.
        overlay: opacity of the chosen view's photo over the picture, 0..1.
        in_scene: kinds of objects in the browser's scene that splats can hide; while there are any, depth is sent.
        browser_draws: the browser draws splats itself; no pictures are drawn for it or sent.
    """

    source: str = ""
    other: str = ""
    compare: Compare = "off"
    split: float = 0.5
    flicker_to_other: bool = False
    time: float = 0.0
    playing: bool = False
    speed: float = 0.2
    loop: bool = True
    view: int = 0
    overlay: float = 0.0
    in_scene: frozenset[str] = frozenset()
    browser_draws: bool = False

    @property
    def is_split(self) -> bool:
        """Whether the picture has a border with a source on either side."""
        return self.compare == "split" and self.other != self.source
