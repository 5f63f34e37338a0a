"""From the state of a page and a camera to a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from nfc_gs.core.camera import Camera
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RadianceModel
from nfc_gs.viewer.border import paint_knob
from nfc_gs.viewer.content import Content
from nfc_gs.viewer.draw import (
    FAR,
    Photo,
    Picture,
    PictureSteps,
    depth_range_of,
    draw_tiled,
    prepared,
    reproject,
    side_by_side,
    value_at,
)
from nfc_gs.viewer.edit import EVERYTHING
from nfc_gs.viewer.frame_rate import FrameRate
from nfc_gs.viewer.preview import thinned
from nfc_gs.viewer.snapshot import Snapshot
from nfc_gs.viewer.source import Source
from nfc_gs.viewer.state import DisplaySettings, ViewState

DEPTH_RANGE_SIDE = 128
"""Longest side in pixels of the picture from which both sides of a border take their range of depths."""


@dataclass(frozen=True)
class Quality:
    """How well a picture is drawn.

    Attributes:
        jpeg: quality of the JPEG that is sent.
        preview: draw preview models, which may have fewer Gaussians.
        samples: draw this many times as wide and high and average.
        tile: side in pixels of the tiles that are drawn one at a time; None for the whole picture in one step.
    """

    jpeg: int = 85
    preview: bool = False
    samples: int = 1
    tile: int | None = None


@dataclass(frozen=True)
class StillModel:
    """A model at one time, as it is drawn; `time` is None where the model has been made static."""

    model: RadianceModel
    time: float | None


class ViewRenderer:
    """Draws pictures for one page, in the thread of the scheduler alone.

    Attributes:
        frame_rate: chooses the size of pictures while the camera moves, and how many Gaussians they show.
        preview_share: of the Gaussians that the last preview had to show, those in it, 0..1.
    """

    def __init__(self, content: Content) -> None:
        """A renderer of what `content` holds, without anything kept."""
        self.content = content
        self.frame_rate = FrameRate(content.target_fps)
        self.preview_share = 1.0
        self._still_models: dict[tuple[str, bool], tuple[Any, StillModel, float]] = {}

    def clear(self) -> None:
        """Drop all models that are kept between pictures."""
        self._still_models.clear()

    def render(self, state: ViewState, camera: Camera, quality: Quality) -> PictureSteps:
        """What the window shows: one source or two, and a photo over them; with depth if objects are in the scene."""
        depth = bool(state.in_scene)
        photo = self.content.photo(state.view) if state.show == "error" else None
        picture = yield from self.render_sources(state, camera, quality, depth=depth, photo=photo)
        photo = self.content.photo(state.view) if state.overlay > 0.0 else None
        if photo is not None:
            colors, inside = reproject(photo, camera)
            share = state.overlay * inside[..., None].numpy()
            blended = picture.rgb * (1 - share) + colors.numpy() * 255.0 * share
            picture = replace(picture, rgb=blended.round().astype(np.uint8))
        if state.is_split:
            paint_knob(picture.rgb, state.split)
        return picture

    def render_sources(
        self, state: ViewState, camera: Camera, quality: Quality, *, depth: bool = False, photo: Photo | None = None
    ) -> PictureSteps:
        """The sources that are shown, side by side, as they are when this starts."""
        depth_range = self._depth_range(state, camera)
        parts_steps = [
            self.render_source(state, source, part, quality, depth_range, depth=depth, photo=photo)
            for source, part in self.layout(state, camera)
        ]
        parts: list[Picture] = []
        for steps in parts_steps:
            parts.append((yield from steps))
        depths = [part.depth for part in parts if part.depth is not None]
        return Picture(
            side_by_side([part.rgb for part in parts]),
            np.concatenate(depths, axis=1) if depths else None,
            parts[0].depth_range,
        )

    def value_at(self, state: ViewState, camera: Camera, column: int, row: int) -> float | None:
        """The number behind the color of a pixel of the picture, as `draw.value_at`; depths in the frame shown."""
        for source, part in self.layout(state, camera):
            if column < part.width:
                return self._value_of(state, source, part, column, row)
            column -= part.width
        return None

    def _value_of(self, state: ViewState, source: Source, camera: Camera, column: int, row: int) -> float | None:
        """`value_at` for one source."""
        settings, placement = self.settings_of(state, source), self.content.placement_of(source)
        still = self._still_model(source, settings, state.time)
        photo = self.content.photo(state.view) if state.show == "error" else None
        if photo is not None:
            photo = replace(photo, camera=placement.camera(photo.camera))
        pixel = placement.camera(camera.crop(column, row, 1, 1))
        value = value_at(still.model, pixel, settings, self.content.options_of(source), time=still.time, photo=photo)
        return value * placement.scale if value is not None and settings.show == "depth" else value

    def render_source(
        self,
        state: ViewState,
        source: Source,
        camera: Camera,
        quality: Quality = Quality(),
        depth_range: tuple[float, float] | None = None,
        *,
        depth: bool = True,
        photo: Photo | None = None,
    ) -> PictureSteps:
        """A source as a camera of the frame shown sees it, the depth in the units of that frame."""
        settings, placement = self.settings_of(state, source, depth_range), self.content.placement_of(source)
        still = self._still_model(source, settings, state.time, preview=quality.preview, playing=state.playing)
        if photo is not None:
            photo = replace(photo, camera=placement.camera(photo.camera))
        steps = draw_tiled(
            still.model,
            placement.camera(camera),
            settings,
            self.content.options_of(source),
            time=still.time,
            photo=photo,
            samples=quality.samples,
            depth=depth,
            tile=quality.tile,
        )
        return steps if placement.matrix is None else _with_depth_scaled(placement.scale, steps)

    def render_like_photo(self, source: Source, view: int, camera: Camera, quality: Quality) -> PictureSteps:
        """A source, unedited, as a view's camera (of the frame shown) sees it at the view's time."""
        assert self.content.scene is not None
        settings = DisplaySettings(background=source.options.background)
        still = self._still_model(source, settings, self.content.scene.views[view].time)
        yield
        camera, options = self.content.placement_of(source).camera(camera), self.content.options_of(source)
        return (
            yield from draw_tiled(
                still.model, camera, settings, options, time=still.time, depth=False, tile=quality.tile
            )
        )

    def frame_steps(self, state: ViewState) -> Callable[[Camera, float | None], PictureSteps]:
        """A function that draws the shown source as it is now, whatever changes later.

        It takes any camera of the frame shown, and a time (None for that of the state).
        """
        source = self.content.source(state.source)
        settings, placement = self.settings_of(state, source), self.content.placement_of(source)
        snapshot, options = source.snapshot(), self.content.options_of(source)

        @lru_cache(maxsize=1)
        def still_at(time: float | None) -> StillModel:
            gaussians = snapshot.gaussians
            if gaussians is None:
                return StillModel(snapshot.model, time)
            return StillModel(prepared(gaussians, time, settings), None)

        def steps(camera: Camera, time: float | None) -> PictureSteps:
            still = still_at(self.content.time_of(source, state.time if time is None else time))
            return (
                yield from draw_tiled(
                    still.model, placement.camera(camera), settings, options, time=still.time, depth=False
                )
            )

        return steps

    def prepare_previews(self, state: ViewState, camera: Camera) -> int:
        """Make the preview models of the next picture, if there are none; returns how many Gaussians there are in all,
        of which the previews show a share."""
        count = 0
        for source, _ in self.layout(state, camera):
            snapshot = source.snapshot()
            if snapshot.gaussians is not None:
                self._preview_model(source, snapshot, state, state.playing)
                count += len(snapshot.gaussians)
        return count

    def edited_gaussians(self, state: ViewState) -> GaussianModel | None:
        """The shown source's Gaussians at the time of the state, in their own frame, edited and else unchanged; None if
        it has none."""
        source = self.content.source(state.source)
        gaussians = source.snapshot().gaussians
        if gaussians is None:
            return None
        settings = DisplaySettings(edit=self.settings_of(state, source).edit)
        return prepared(gaussians, self.content.time_of(source, state.time), settings)

    def count_kept(self, state: ViewState) -> int:
        """How many Gaussians of the shown source the edit keeps at the time of the state; 0 if it has none."""
        source = self.content.source(state.source)
        model = self._still_model(source, self.settings_of(state, source), state.time).model
        return len(model) if isinstance(model, GaussianModel) else 0

    def layout(self, state: ViewState, camera: Camera) -> list[tuple[Source, Camera]]:
        """The sources that are drawn from left to right, and the camera of each part of the picture."""
        source, other = self.content.source(state.source), self.content.source(state.other)
        if state.compare == "flicker" and state.flicker_to_other:
            return [(other, camera)]
        if not state.is_split:
            return [(source, camera)]
        border = min(max(round(state.split * camera.width), 0), camera.width)
        parts = [(source, 0, border), (other, border, camera.width)]
        return [(shown, camera.crop(a, 0, b - a, camera.height)) for shown, a, b in parts if b > a]

    def settings_of(
        self, state: ViewState, source: Source, depth_range: tuple[float, float] | None = None
    ) -> DisplaySettings:
        """The display settings for a source: what it can show, and in its own frame; `depth_range` in the frame shown
        goes before that of the state."""
        settings: DisplaySettings = state
        placement = self.content.placement_of(source)
        if state.show not in source.snapshot().shows:
            settings = replace(settings, show="color")
        near_far = depth_range or state.depth_range
        if near_far is not None:
            settings = replace(settings, depth_range=(near_far[0] / placement.scale, near_far[1] / placement.scale))
        return replace(settings, edit=placement.edit(state.edit))

    def _depth_range(self, state: ViewState, camera: Camera) -> tuple[float, float] | None:
        """The depths, in the frame shown, with the first and the last color; None if each picture has its own.

        Both sides of a border get the same colors for the same depth.
        """
        if not state.is_split or state.show != "depth" or state.depth_range is not None:
            return state.depth_range
        source = self.content.source(state.source)
        settings, placement = self.settings_of(state, source), self.content.placement_of(source)
        still, options = self._still_model(source, settings, state.time), self.content.options_of(source)
        near, far = depth_range_of(
            still.model, placement.camera(camera), settings, options, time=still.time, side=DEPTH_RANGE_SIDE
        )
        return near * placement.scale, far * placement.scale

    def _still_model(
        self,
        source: Source,
        settings: DisplaySettings,
        time: float | None,
        *,
        preview: bool = False,
        playing: bool = False,
    ) -> StillModel:
        """What is drawn of a source at a time (of the axis shown).

        Of Gaussians it is kept until something of it changes: at most one preview and one other model per source.
        """
        time, snapshot = self.content.time_of(source, time), source.snapshot()
        gaussians = snapshot.gaussians
        if gaussians is None:
            return StillModel(snapshot.model, time)
        model, share = gaussians, 1.0
        if preview:
            model, share = self._preview_model(source, snapshot, settings, playing)
        key = (model, share, time, settings.edit, settings.points, settings.splat_scale, settings.show == "count")
        known = self._still_models.get((source.name, preview))
        if known is None or known[0] != key:
            with torch.no_grad():
                kept = prepared(model, time, DisplaySettings(edit=settings.edit))
                few = thinned(kept, share * len(model) / max(1, len(kept)))
                shown = _share(model, gaussians) * _share(few, kept)
                known = (key, StillModel(prepared(few, None, replace(settings, edit=EVERYTHING)), None), shown)
            self._still_models[source.name, preview] = known
        if preview:
            self.preview_share = known[2]
        return known[1]

    def _preview_model(
        self, source: Source, snapshot: Snapshot, settings: DisplaySettings, playing: bool
    ) -> tuple[GaussianModel, float]:
        """Gaussians that look nearly like those of a snapshot, and the share of them to draw.

        Where something is edited, only what is kept is thinned, when that is known: what covers most may be what is
        removed, and thinning makes Gaussians larger.
        """
        if settings.show == "count":
            return source.previews.model(snapshot), 1.0
        share = self.frame_rate.share
        playing = playing and not self.content.is_training  # a model in training is replaced within a second
        if settings.edit != EVERYTHING:
            return source.previews.model(snapshot, playing=playing), share
        return source.previews.model(snapshot, share, playing=playing), 1.0


def _share(few: GaussianModel, many: GaussianModel) -> float:
    """How many of a model's Gaussians another one has, 0..1."""
    return len(few) / len(many) if len(many) else 1.0


def _with_depth_scaled(scale: float, steps: PictureSteps) -> PictureSteps:
    """The same picture with its depths in other units."""
    picture = yield from steps
    if picture.depth_range is not None:
        near, far = picture.depth_range
        picture = replace(picture, depth_range=(near * scale, far * scale))
    if picture.depth is None:
        return picture
    return replace(picture, depth=np.where(picture.depth < FAR, picture.depth * np.float32(scale), FAR))
