"""What a browser looks at, and pictures of it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from nfc_gs.core.camera import Camera
from nfc_gs.data.scene import SceneData
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.viewer.border import add_grip
from nfc_gs.viewer.controller import FrameRate
from nfc_gs.viewer.draw import (
    BIT_SHOWS,
    FAR,
    Look,
    Photo,
    Picture,
    Style,
    beside,
    cut,
    depths_seen,
    draw_tiled,
    prepared,
    seen_from,
)
from nfc_gs.viewer.edit import EVERYTHING
from nfc_gs.viewer.frames import Placement
from nfc_gs.viewer.light import thinned
from nfc_gs.viewer.source import Source

if TYPE_CHECKING:
    from nfc_gs.viewer.app import Viewer

Compare = Literal["off", "split", "flicker"]

Drawing = Generator[None, None, Picture]
"""A picture that is drawn in turns."""

DEPTHS_SIDE = 128
"""Longest side in pixels of the picture from which both sides of a border take their range of depths."""


class Pictures:
    """What is looked at, and how; and its pictures, which are drawn by the scheduler's thread alone.

    Attributes:
        look: what is shown, without the parts that follow from the source.
        source, other: what is looked at, and what it is compared with.
        compare, split: how, and where the border is, 0..1 from the left.
        time: 0..1, of a moving source.
        playing: time runs.
        others_turn: of two that flicker, the other one is shown next.
        share: of the Gaussians that the last moving picture had to show, those in it; for the status line.
        view: index of the chosen view of the capture.
        overlay: opacity of the chosen view's photo over the picture, 0..1.
        in_scene: kinds of things shown in the scene that must hide behind splats; while there are any, depth is sent.
    """

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self.source: Source = viewer.sources[0]
        self.other: Source = viewer.sources[min(1, len(viewer.sources) - 1)]
        self.look = Look(background=self.source.background)
        self.compare: Compare = "off"
        self.split, self.time, self.overlay = 0.5, 0.0, 0.0
        self.view = 0
        self.playing = self.others_turn = False
        self.share = 1.0
        self.in_scene: frozenset[str] = frozenset()
        self._frame_rate = FrameRate(viewer.target_fps)
        self._cache: dict[tuple[str, bool], tuple[Any, GaussianModel, float]] = {}

    @property
    def scene(self) -> SceneData | None:
        """The capture whose cameras and photos are shown."""
        return self.viewer.scene

    @property
    def splits(self) -> bool:
        """Whether the picture has a border, with a source on either side."""
        return self.compare == "split" and self.other is not self.source

    def place_of(self, source: Source) -> Placement:
        """Where a source lies in the frame that is shown."""
        return self.viewer.places[source.name]

    @property
    def has_photos(self) -> bool:
        """Whether there are photos to compare with."""
        return self.scene is not None and self.scene.has_photos

    def photo(self, index: int | None = None) -> Photo | None:
        """A view's picture; of the chosen one by default; None without photos."""
        scene = self.scene
        if scene is None or not scene.has_photos:
            return None
        index = self.view if index is None else index
        return Photo(scene.views[index].camera, scene.image(index).rgb)

    def still(self) -> GaussianModel:
        """The source's model as it is now, in its own frame, edited; without what a look changes beside that."""
        look = Look(edit=self._look(self.source).edit)
        return prepared(self.source.snapshot().model, self._moment(self.source, self.time), look)

    def _picture(self, camera: Camera, samples: int = 1, *, quick: bool = False, tile: int | None = None) -> Drawing:
        """What the window shows: one source or two, and a photo over it."""
        depth = bool(self.in_scene)  # what is in the scene hides behind splats
        photo = self.photo() if self.look.show == "error" else None
        picture = yield from self._side_by_side(camera, samples, quick=quick, depth=depth, photo=photo, tile=tile)
        photo = self.photo() if self.overlay > 0.0 else None
        if photo is not None:
            colors, inside = seen_from(photo, camera)
            share = self.overlay * inside[..., None].numpy()
            blended = picture.rgb * (1 - share) + colors.numpy() * 255.0 * share
            picture = replace(picture, rgb=blended.round().astype(np.uint8))
        if self.splits:
            add_grip(picture.rgb, self.split)
        return picture

    def _side_by_side(
        self,
        camera: Camera,
        samples: int = 1,
        *,
        quick: bool = False,
        depth: bool,
        photo: Photo | None,
        tile: int | None,
    ) -> Drawing:
        """The sources that are shown, of what is shown when this begins, whatever the page does meanwhile."""
        depths = self._depths(camera)
        drawings = [
            self._one(source, part, samples, depths, quick=quick, depth=depth, photo=photo, tile=tile)
            for source, part in self._sides(camera)
        ]
        parts: list[Picture] = []
        for drawing in drawings:
            parts.append((yield from drawing))
        seen = [part.depth for part in parts if part.depth is not None]
        return Picture(beside([part.rgb for part in parts]), np.concatenate(seen, axis=1) if seen else None)

    def _sides(self, camera: Camera) -> list[tuple[Source, Camera]]:
        """What is drawn from left to right, and the camera of each part of the picture."""
        if self.compare == "flicker" and self.others_turn:
            return [(self.other, camera)]
        if not self.splits:
            return [(self.source, camera)]
        border = min(max(round(self.split * camera.width), 0), camera.width)
        parts = [(self.source, 0, border), (self.other, border, camera.width)]
        return [(source, cut(camera, a, 0, b - a, camera.height)) for source, a, b in parts if b > a]

    def _depths(self, camera: Camera) -> tuple[float, float] | None:
        """The depths, in the frame shown, of the first and the last color; None for what each picture has itself.

        Both sides of a border get the same colors for the same depth.
        """
        if not self.splits or self.look.show != "depth" or self.look.depth_range is not None:
            return self.look.depth_range
        look, place, style = self._look(self.source), self.place_of(self.source), self._style(self.source)
        model = self._still(self.source, look, self.time)
        near, far = depths_seen(model, place.camera(camera), look, style, side=DEPTHS_SIDE)
        return near * place.scale, far * place.scale

    def _one(
        self,
        source: Source,
        camera: Camera,
        samples: int = 1,
        depths: tuple[float, float] | None = None,
        *,
        quick: bool = False,
        depth: bool = True,
        photo: Photo | None = None,
        tile: int | None = None,
    ) -> Drawing:
        """A source as a camera of the frame shown sees it, the depth in the units of that frame."""
        look, place = self._look(source, depths), self.place_of(source)
        model = self._still(source, look, self.time, quick=quick)
        if photo is not None:
            photo = replace(photo, camera=place.camera(photo.camera))
        style, view = self._style(source), place.camera(camera)
        drawing = draw_tiled(model, view, look, style, photo=photo, samples=samples, depth=depth, tile=tile)
        return drawing if place.matrix is None else _with_depth_times(place.scale, drawing)

    def _look(self, source: Source, depths: tuple[float, float] | None = None) -> Look:
        """The look, of what the source can show and in its own frame; `depths` as `_depths` has them."""
        look, place = self.look, self.place_of(source)
        if look.show in BIT_SHOWS and source.snapshot().model.head != "bits":
            look = replace(look, show="color")
        near_far = depths or look.depth_range
        if near_far is not None:
            look = replace(look, depth_range=(near_far[0] / place.scale, near_far[1] / place.scale))
        return replace(look, edit=place.edit(look.edit))

    def _moment(self, source: Source, time: float | None) -> float | None:
        """A time of the axis shown on that of a source; None for one that does not move."""
        if time is None or source.snapshot().model.deformation is None:
            return None
        shown, own = self.viewer.time_axis, source.time_axis
        if shown is None or own is None or shown == own or shown.unit != own.unit:
            return time
        return min(max(own.normalised(shown.own(time)), 0.0), 1.0)

    def _style(self, source: Source) -> Style:
        return Style(self.viewer.backend, source.antialiased)

    def _model(self, source: Source, look: Look, *, quick: bool) -> tuple[GaussianModel, float]:
        """A source's model, or where it must be quick one that looks nearly like it; and the share of it to draw.

        Where something is edited, only what is left of it is thinned, when that is known: what covers most may be what
        is taken away, and thinning makes Gaussians larger.
        """
        snapshot, share = source.snapshot(), self._frame_rate.share
        if not quick or look.show == "count":
            return snapshot.model, 1.0
        plays = self.playing and not self.viewer.trains  # a model that is trained is another one in a second
        if look.edit != EVERYTHING:
            return source.light.model(snapshot, plays=plays), share
        return source.light.model(snapshot, share, plays=plays), 1.0

    def _still(self, source: Source, look: Look, time: float | None, *, quick: bool = False) -> GaussianModel:
        """`prepared`, kept until something of it changes; at most one quick model and one other per source."""
        model, share = self._model(source, look, quick=quick)
        moment = self._moment(source, time)
        key = (model, share, moment, look.edit, look.points, look.splat_scale, look.show == "count")
        known = self._cache.get((source.name, quick))
        if known is None or known[0] != key:
            with torch.no_grad():
                left = prepared(model, moment, Look(edit=look.edit))
                few = thinned(left, share * len(model) / max(1, len(left)))
                shown = _share(model, source.snapshot().model) * _share(few, left)
                known = (key, prepared(few, None, replace(look, edit=EVERYTHING)), shown)
            self._cache[source.name, quick] = known
        if quick:
            self.share = known[2]
        return known[1]


def _share(few: GaussianModel, many: GaussianModel) -> float:
    """How many of a model's Gaussians another one has, 0..1."""
    return len(few) / len(many) if len(many) else 1.0


def _with_depth_times(scale: float, drawing: Drawing) -> Drawing:
    """What is drawn, its depths in other units."""
    picture = yield from drawing
    if picture.depth is None:
        return picture
    return replace(picture, depth=np.where(picture.depth < FAR, picture.depth * np.float32(scale), FAR))
