"""One browser that looks: what it wants to see, and the pictures it gets."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import SceneData
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.viewer.border import add_grip
from nfc_gs.viewer.cameras import Pose, nearest, pose_of
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
from nfc_gs.viewer.frames import Placement
from nfc_gs.viewer.scheduler import at_once
from nfc_gs.viewer.source import Source

if TYPE_CHECKING:
    import viser

    from nfc_gs.viewer.app import Viewer

logger = logging.getLogger("nfc_gs")

Compare = Literal["off", "split", "flicker"]

Drawing = Generator[None, None, Picture]
"""A picture that is drawn in turns."""

REST = 0.15
"""Seconds without a message of the camera after which it rests."""

MAX_SIDE = 2048
"""Longest side in pixels of the picture of a window."""

REFINED_WITHIN = 0.7
"""A picture at rest is refined if it took at most so many seconds."""

BESIDE_TRAINING = 0.25
"""Seconds that a picture at rest may take while a training runs, which pays for each with a longer pause."""

FLICKER = 0.6
"""Seconds between the two pictures that flicker."""

DEPTH_SIDE = 400
"""Longest side in pixels of the depth that is sent along."""

DEPTHS_SIDE = 128
"""Longest side in pixels of the picture from which both sides of a border take their range of depths."""

TILE = 1024
"""Longest side in pixels of what is drawn of a picture at rest in one turn, so that a camera that moves on soon has its
own pictures, and others have theirs."""

QUALITY = {"moving": 70, "rest": 85, "refined": 95}
"""JPEG qualities."""


class Session:
    """A client of the viewer. Callbacks of the page change it; the scheduler's thread draws what it is then.

    Attributes:
        look: what is shown, without the parts that follow from the source.
        source, other: what is looked at, and what it is compared with.
        compare, split: how, and where the border is, 0..1 from the left.
        time: 0..1, of a moving source.
        view: index of the chosen view of the capture.
        overlay: opacity of the chosen view's photo over the picture, 0..1.
        browser: the browser draws splats itself; no pictures are sent.
        in_scene: kinds of things shown in the scene that must hide behind splats; while there are any, depth is sent.
        reset, stand, show_control, way_control, compare_control, frustums_control, path: what panels give to the keys.
        drawn: size of the last moving picture, seconds it took, share of the Gaussians in it, for the status line.
    """

    def __init__(self, viewer: Viewer, client: viser.ClientHandle) -> None:
        self.viewer, self.client = viewer, client
        self.source: Source = viewer.sources[0]
        self.other: Source = viewer.sources[min(1, len(viewer.sources) - 1)]
        self.look = Look(background=self.source.background)
        self.compare: Compare = "off"
        self.split, self.time, self.overlay = 0.5, 0.0, 0.0
        self.view = 0
        self.playing, self.speed, self.loop = False, 0.2, True
        self.browser = self.closed = False
        self.in_scene: frozenset[str] = frozenset()
        self.drawn = (0, 0, 0.0, 1.0)
        self.pictures = 0
        self.on_tick: list[Callable[[], None]] = []
        self.reset: Callable[[Any], None] = lambda _: None
        self.stand: Callable[[int], None] = lambda _: None
        self.show_control = self.way_control = self.compare_control = cast(Any, None)
        self.play_control = self.frustums_control = self.path = cast(Any, None)
        self._frame_rate, self._rest_rate = FrameRate(viewer.target_fps), FrameRate(1.0 / BESIDE_TRAINING)
        self._play_from = (0.0, 0.0)
        self._cache: dict[tuple[str, bool], tuple[Any, GaussianModel]] = {}
        self._moving = False

    @property
    def id(self) -> int:
        """Of the client, for the scheduler."""
        return self.client.client_id

    @property
    def pose(self) -> Pose:
        """Where the browser's camera is."""
        camera = self.client.camera
        x, y, z = (float(value) for value in camera.position)
        qw, qx, qy, qz = (float(value) for value in camera.wxyz)
        return Pose((x, y, z), (qw, qx, qy, qz), float(camera.fov))

    @property
    def window(self) -> tuple[int, int]:
        """Width and height in pixels of the picture that fills the window; (0, 0) for a window without a size."""
        width, height = int(self.client.camera.image_width or 0), int(self.client.camera.image_height or 0)
        if width < 2 or height < 2 or not 0.0 < float(self.client.camera.fov) < 3.1:
            return 0, 0
        shrink = min(1.0, MAX_SIDE / max(width, height))
        return max(1, round(width * shrink)), max(1, round(height * shrink))

    @property
    def scene(self) -> SceneData | None:
        """The capture whose cameras and photos are shown."""
        return self.viewer.scene

    @property
    def moves(self) -> bool:
        """Whether anything changes with time."""
        return self.viewer.moves

    @property
    def splits(self) -> bool:
        """Whether the picture has a border, with a source on either side."""
        return self.compare == "split" and self.other is not self.source

    def place_of(self, source: Source) -> Placement:
        """Where a source lies in the frame that is shown."""
        return self.viewer.places[source.name]

    def change(self, **fields: Any) -> None:
        """Change what is shown: fields of the look, or of this session; then draw."""
        own = {name: value for name, value in fields.items() if hasattr(self, name)}
        for name, value in own.items():
            setattr(self, name, value)
        rest = {name: value for name, value in fields.items() if name not in own}
        if rest:
            self.look = replace(self.look, **rest)
        self.request()

    def put_in_scene(self, kind: str, shown: bool) -> None:
        """Note that things of a kind are shown in the scene, or are so no more; then draw."""
        self.change(in_scene=self.in_scene | {kind} if shown else self.in_scene - {kind})

    def request(self) -> None:
        """Draw anew: soon, small if it must be, and then in full."""
        if not self.closed and not self.browser:
            self.viewer.scheduler.submit(self.id, self._draw_moving)

    def refresh(self) -> None:
        """Draw a source that has changed, in full at once; a wish that waits is newer and stays."""
        if not self.closed and not self.browser and not self.playing:
            self.viewer.scheduler.submit_steps(self.id, self._draw_rest(), replace=False)

    def close(self) -> None:
        """The browser has gone."""
        self.closed = True
        self.playing = False
        self.viewer.scheduler.forget(self.id)
        self._cache.clear()

    def play(self, on: bool) -> None:
        """Let time run, or stop it."""
        self.playing = on
        if on:
            start = 0.0 if self.time >= 1.0 else self.time
            self._play_from = (perf_counter(), start)
        self.request()

    def stand_at(self, pose: Pose) -> None:
        """Put the browser's camera somewhere."""
        with self.client.atomic():
            self.client.camera.fov = pose.fov
            self.client.camera.position = pose.position
            self.client.camera.wxyz = pose.wxyz
        self.request()

    def stand_at_view(self, index: int) -> None:
        """Put the browser's camera where a view of the capture was taken."""
        scene = self.scene
        if scene is None:
            raise UserError("There is no capture here, so there are no cameras to stand at.")
        self.view = index
        width, height = self.window
        view = scene.views[index]
        self.stand_at(pose_of(view.camera, width / height if height else 1.0))
        if view.time is not None:
            self.time = view.time

    def nearest_view(self) -> int:
        """Index of the training view nearest to the camera. Raises UserError without a capture."""
        scene = self.scene
        if scene is None or not scene.train:
            raise UserError("There is no capture here, so there is no view to compare with.")
        return scene.train[nearest(self.pose, [scene.views[i].camera for i in scene.train])]

    @property
    def has_photos(self) -> bool:
        """Whether there are photos to compare with."""
        return self.scene is not None and self.scene.has_photos

    def photo(self, index: int | None = None) -> Photo | None:
        """A view's picture; of the chosen one by default; None without photos."""
        scene = self.scene
        if scene is None or not self.has_photos:
            return None
        index = self.view if index is None else index
        return Photo(scene.views[index].camera, scene.frame(index).rgb)

    def psnr(self, source: Source, index: int) -> float:
        """Of a source on a view of the capture, dB; drawn through the scheduler."""
        photo = self.photo(index)
        assert photo is not None and self.scene is not None
        time, camera = self.scene.views[index].time, self.place_of(source).camera(photo.camera)
        look = Look(background=source.background)
        model = self.run(lambda: self._still(source, look, time))
        picture = self.run_in_turns(draw_tiled(model, camera, look, self._style(source), depth=False))
        mse = float(((picture.rgb.astype(np.float32) - photo.rgb) ** 2).mean()) / 255.0**2
        return -10.0 * float(np.log10(max(mse, 1e-10)))

    def run(self, job: Callable[[], Any]) -> Any:
        """Run a job in the scheduler's turn and wait for what it returns; raises what it raises."""

        def once() -> Generator[None, None, Any]:
            yield from ()
            return job()

        return self.run_in_turns(once())

    def run_in_turns(self, work: Generator[None, None, Any]) -> Any:
        """`run` a generator, of which each turn does what comes before the next `yield`."""
        done, result = threading.Event(), []

        def steps() -> Iterator[None]:
            try:
                result.append((True, (yield from work)))
            except Exception as error:
                result.append((False, error))
            done.set()

        asker = (self.id, threading.get_ident())
        self.viewer.scheduler.submit_steps(asker, steps())
        while not done.wait(0.2):
            if self.closed or self.viewer.closed:
                self.viewer.scheduler.forget(asker)
                raise UserError("The page was closed before its picture was drawn.")
        good, value = result[0]
        if not good:
            raise value
        return value

    def guarded(self, function: Callable[..., None]) -> Callable[..., None]:
        """A callback of the page that tells its faults to the browser and stops nothing."""

        def call(*args: Any) -> None:
            try:
                function(*args)
            except UserError as error:
                self.say("That did not work", str(error), "red")
            except Exception:
                if not self.closed:
                    logger.exception("A control of the viewer failed; the viewer goes on.")
                    self.say("That did not work", "The viewer's log says why.", "red")

        return call

    def say(self, title: str, body: str, color: Any = None) -> None:
        """Show a notification in the browser."""
        if not self.closed:
            self.client.add_notification(title, body, auto_close_seconds=8.0, color=color)

    def still(self) -> GaussianModel:
        """The source's model as it is now, in its own frame, edited; without what a look changes beside that."""
        look = Look(edit=self._look(self.source).edit)
        return prepared(self.source.snapshot().model, self._moment(self.source, self.time), look)

    def depth_ahead(self) -> float | None:
        """How far away what stands in the middle of the picture is, scene units; None if nothing does."""
        picture = self.run(lambda: at_once(self._one(self.source, self.pose.camera(9, 9))))
        assert picture.depth is not None
        depth = float(picture.depth[4, 4])
        return depth if depth < FAR else None

    def shot(self, camera: Camera, time: float | None) -> np.ndarray:
        """A picture [H, W, 3] uint8 of the source as this session looks at it, from any camera; drawn in turns."""

        def work() -> Drawing:
            look, view = self._look(self.source), self.place_of(self.source).camera(camera)
            model = self._still(self.source, look, time)
            return (yield from draw_tiled(model, view, look, self._style(self.source), depth=False))

        return self.run_in_turns(work()).rgb

    def large(self, camera: Camera) -> np.ndarray:
        """What is seen, without a photo, at any size, [H, W, 3] uint8; drawn in turns, so that nobody waits long."""
        return self.run_in_turns(self._side_by_side(camera, depth=False, photo=None, tile=1024)).rgb

    # ---- in the scheduler's thread ----

    def _draw_moving(self) -> None:
        self._advance()
        width, height = self.window
        if width == 0 or self.closed:
            return
        sources = [source for source, _ in self._sides(self.pose.camera(width, height))]
        for source in sources:
            self._model(source, quick=True)  # made now if it must be, which is no time of the picture
        begun = perf_counter()
        size = self._frame_rate.size(width, height)
        try:
            at_once(self._send(size, "moving"))
        finally:  # whatever became of this one, the next one is drawn
            spent = perf_counter() - begun
            self._draw_next(spent)
        if self.pictures > 1:  # the first one also prepares the model
            self._frame_rate.measured(size[0] * size[1], spent, sum(len(s.snapshot().model) for s in sources))
        share = 1.0 if self.look.show == "count" else self._frame_rate.share
        self.drawn = (*size, spent, share)

    def _draw_next(self, spent: float) -> None:
        """Wish for what follows a picture that took so long."""
        scheduler = self.viewer.scheduler
        if self.playing and self.moves:
            delay = max(0.0, 1.0 / self.viewer.target_fps - spent)
            scheduler.submit(self.id, self._draw_moving, delay, replace=False)
        else:
            scheduler.submit_steps(self.id, self._draw_rest(), REST, replace=False)

    def _draw_rest(self) -> Generator[None, None, None]:
        """The window in full and then refined; whatever changes meanwhile takes the place of what is left to draw."""
        if self.window[0] == 0 or self.closed or self.browser:
            return
        begun, trains, shown = perf_counter(), self.viewer.trains, self._snapshots()
        size = self._rest_rate.size(*self.window) if trains else self.window
        yield from self._send(size, "rest", tile=None if trains else TILE)
        if trains:
            self._rest_rate.measured(size[0] * size[1], perf_counter() - begun)
        self.viewer.drew()
        if self.compare == "flicker":
            self.viewer.scheduler.submit_steps(self.id, self._draw_rest(), FLICKER, replace=False)
            return
        if not trains and perf_counter() - begun <= REFINED_WITHIN:
            yield
            yield from self._send(size, "refined", samples=2, tile=TILE // 2)
        if self._snapshots() != shown:  # a wish to show the new ones came while this one had not ended
            self.refresh()

    def _snapshots(self) -> tuple[int, int]:
        """Which states of the two sources are shown."""
        return self.source.snapshot().number, self.other.snapshot().number

    def _send(
        self, size: tuple[int, int], kind: str, samples: int = 1, tile: int | None = None
    ) -> Generator[None, None, None]:
        picture = yield from self._picture(self.pose.camera(*size), samples, quick=kind == "moving", tile=tile)
        depth = picture.depth
        if depth is not None:
            stride = max(1, -(-max(size) // DEPTH_SIDE))
            depth = depth[::stride, ::stride]
        if self.closed:  # while it was drawn
            self._cache.clear()
            return
        self.client.scene.set_background_image(picture.rgb, "jpeg", jpeg_quality=QUALITY[kind], depth=depth)
        self.client.flush()
        self.pictures += 1

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
        if self.compare == "flicker" and int(perf_counter() / FLICKER) % 2:
            return [(self.other, camera)]
        if not self.splits:
            return [(self.source, camera)]
        border = min(max(round(self.split * camera.width), 0), camera.width)
        parts = [(self.source, 0, border), (self.other, border, camera.width)]
        return [(source, cut(camera, a, 0, b - a, camera.height)) for source, a, b in parts if b > a]

    def _depths(self, camera: Camera) -> tuple[float, float] | None:
        """The depths, in the frame shown, of the first and the last colour; None for what each picture has itself.

        Both sides of a border get the same colours for the same depth.
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
            look = replace(look, show="colour")
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

    def _model(self, source: Source, *, quick: bool) -> GaussianModel:
        """A source's model, or where it must be quick one that looks nearly like it."""
        snapshot = source.snapshot()
        if not quick or self.look.show == "count":
            return snapshot.model
        plays = self.playing and not self.viewer.trains  # a model that is trained is another one in a second
        return source.light.model(snapshot, self._frame_rate.share, plays=plays)

    def _still(self, source: Source, look: Look, time: float | None, *, quick: bool = False) -> GaussianModel:
        """`prepared`, kept until something of it changes; at most one quick model and one other per source."""
        model = self._model(source, quick=quick)
        moment = self._moment(source, time)
        key = (model, moment, look.edit, look.points, look.splat_scale, look.show == "count")
        known = self._cache.get((source.name, quick))
        if known is None or known[0] != key:
            with torch.no_grad():
                known = (key, prepared(model, moment, look))
            self._cache[source.name, quick] = known
        return known[1]

    def _advance(self) -> None:
        """Put time where it is now, while it runs."""
        if not self.playing:
            return
        begun, start = self._play_from
        time = start + (perf_counter() - begun) * self.speed
        if time > 1.0 and not self.loop:
            self.playing, time = False, 1.0
        self.time = time % 1.0 if time > 1.0 else time


def _with_depth_times(scale: float, drawing: Drawing) -> Drawing:
    """What is drawn, its depths in other units."""
    picture = yield from drawing
    if picture.depth is None:
        return picture
    return replace(picture, depth=np.where(picture.depth < FAR, picture.depth * np.float32(scale), FAR))
