"""One browser that looks: what it wants to see, and the pictures it gets."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.viewer.cameras import Pose, nearest, pose_of
from nfc_gs.viewer.draw import FAR, Look, draw_tiled, prepared
from nfc_gs.viewer.pictures import Drawing, Pictures
from nfc_gs.viewer.scheduler import at_once
from nfc_gs.viewer.source import Source

if TYPE_CHECKING:
    import viser

    from nfc_gs.viewer.app import Viewer

logger = logging.getLogger("nfc_gs")

REST = 0.15
"""Seconds without a message of the camera after which it rests."""

FLICKER = 0.6
"""Seconds between the two pictures that flicker, if they are drawn that quickly."""

MAX_SIDE = 2048
"""Longest side in pixels of the picture of a window."""

DEPTH_SIDE = 400
"""Longest side in pixels of the depth that is sent along."""

TILE = 1024
"""Longest side in pixels of what is drawn of a picture at rest in one turn, so that a camera that moves on soon has its
own pictures, and others have theirs."""

QUALITY = {"moving": 70, "rest": 85, "refined": 95}
"""JPEG qualities."""


class Session(Pictures):
    """A client of the viewer. Callbacks of the page change it; the scheduler's thread draws what it is then.

    Attributes:
        speed, loop: how time runs: lengths of the capture per second, and whether it begins again at the end.
        browser: the browser draws splats itself; no pictures are drawn for it or sent.
        handing_over: held by whoever gives the browser splats, or takes them away.
        closed: it has gone.
        reset, stand, show_control, way_control, compare_control, frustums_control, path: what panels give to the keys.
        drawn: size of the last moving picture, seconds it took, share of the Gaussians in it, for the status line.
        pictures: how many were sent.
    """

    def __init__(self, viewer: Viewer, client: viser.ClientHandle) -> None:
        super().__init__(viewer)
        self.client = client
        self.speed, self.loop = 0.2, True
        self.browser = self.closed = False
        self.handing_over = threading.Lock()
        self.drawn = (0, 0, 0.0, 1.0)
        self.pictures = 0
        self.on_tick: list[Callable[[], None]] = []
        self.reset: Callable[[Any], None] = lambda _: None
        self.stand: Callable[[int], None] = lambda _: None
        self.show_control = self.way_control = self.compare_control = cast(Any, None)
        self.frustums_control = self.path = cast(Any, None)
        self._played_at = self._turned_at = 0.0

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
    def moves(self) -> bool:
        """Whether anything changes with time."""
        return self.viewer.moves

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
        if on and self.browser:
            raise UserError("The browser draws one moment; let the server draw to see time run.")
        if on:
            self.time = 0.0 if self.time >= 1.0 else self.time
            self._played_at = perf_counter()
        self.playing = on
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

    def left(self) -> int:
        """How many Gaussians of the source the edit leaves at this time; counted through the scheduler."""
        return len(self.run(lambda: self._still(self.source, self._look(self.source), self.time)))

    def run(self, job: Callable[[], Any]) -> Any:
        """Run a job in the scheduler's turn and wait for what it returns; raises what it raises."""

        def once() -> Generator[None, None, Any]:
            yield from ()
            return job()

        return self.run_in_turns(once())

    def run_in_turns(self, work: Generator[None, None, Any]) -> Any:
        """`run` a generator, of which each turn does what comes before the next `yield`."""
        asker = (self.id, threading.get_ident())
        return self.viewer.scheduler.result(asker, work, lambda: self.closed or self.viewer.closed)

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

    def apart(self, function: Callable[..., None]) -> Callable[..., None]:
        """`guarded`, in a thread of its own: viser has few for all pages, and what takes long would use them up."""

        def begin(*args: Any) -> None:
            threading.Thread(target=self.guarded(function), args=args, name="nfc-gs viewer page", daemon=True).start()

        return begin

    def aside(self, function: Callable[..., None], already: str) -> Callable[..., None]:
        """`apart`; while it goes on, another call does nothing but say `already`."""
        alone = threading.Lock()

        def work(*args: Any) -> None:
            if not alone.acquire(blocking=False):
                raise UserError(already)
            try:
                function(*args)
            finally:
                alone.release()

        return self.apart(work)

    def say(self, title: str, body: str, color: Any = None) -> None:
        """Show a notification in the browser."""
        if not self.closed:
            self.client.add_notification(title, body, auto_close_seconds=8.0, color=color)

    def depth_ahead(self) -> float | None:
        """How far away what stands in the middle of the picture is, scene units; None if nothing does."""
        picture = self.run(lambda: at_once(self._one(self.source, self.pose.camera(9, 9))))
        assert picture.depth is not None
        depth = float(picture.depth[4, 4])
        return depth if depth < FAR else None

    def shots(self) -> Callable[[Camera, float | None], np.ndarray]:
        """What draws the source as it is now and as it is looked at now, whatever changes later.

        It takes any camera and a time (None for that of now) and returns a picture [H, W, 3] uint8, drawn in turns.
        """
        source, now = self.source, self.time
        look, style, place = self._look(source), self._style(source), self.place_of(source)
        model = source.snapshot().model
        still = lru_cache(maxsize=1)(lambda moment: prepared(model, moment, look))

        def work(camera: Camera, time: float | None) -> Drawing:
            moment = self._moment(source, now if time is None else time)
            return (yield from draw_tiled(still(moment), place.camera(camera), look, style, depth=False))

        return lambda camera, time: self.run_in_turns(work(camera, time)).rgb

    def large(self, camera: Camera) -> np.ndarray:
        """What is seen, without a photo, at any size, [H, W, 3] uint8; drawn in turns, so that nobody waits long."""
        return self.run_in_turns(self._side_by_side(camera, depth=False, photo=None, tile=1024)).rgb

    # ---- in the scheduler's thread ----

    def _draw_moving(self) -> None:
        if self._is_over():
            return
        self._advance()
        width, height = self.window
        if width == 0:
            return
        sources = [source for source, _ in self._sides(self.pose.camera(width, height))]
        for source in sources:
            self._model(source, self.look, quick=True)  # made now if it must be, which is no time of the picture
        begun = perf_counter()
        size = self._frame_rate.size(width, height)
        try:
            at_once(self._send(size, "moving"))
        finally:  # whatever became of this one, the next one is drawn
            spent = perf_counter() - begun
            self._draw_next(spent)
        if self.pictures > 1:  # the first one also prepares the model
            self._frame_rate.measured(size[0] * size[1], spent, sum(len(s.snapshot().model) for s in sources))
        self.drawn = (*size, spent, self.share)

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
        if self._is_over() or self.window[0] == 0:
            return
        size, shown = self.window, self._snapshots()
        yield from self._send(size, "rest", tile=TILE)
        self.viewer.drew()
        if self.compare == "flicker":
            self.viewer.scheduler.submit_steps(self.id, self._draw_rest(), FLICKER, replace=False)
            return
        if not self.viewer.trains:  # which shows its next state rather than this one again
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
        if self._is_over():  # while it was drawn
            return
        self.client.scene.set_background_image(picture.rgb, "jpeg", jpeg_quality=QUALITY[kind], depth=depth)
        self.client.flush()
        self.pictures += 1
        if kind == "rest" or perf_counter() - self._turned_at >= FLICKER:  # moving ones follow each other quickly
            self.others_turn, self._turned_at = not self.others_turn, perf_counter()

    def _advance(self) -> None:
        """Put time where it is now, while it runs."""
        if not self.playing:
            return
        now = perf_counter()
        time, self._played_at = self.time + (now - self._played_at) * self.speed, now
        if time > 1.0 and not self.loop:
            self.playing, time = False, 1.0
        self.time = time % 1.0 if time > 1.0 else time

    def _is_over(self) -> bool:
        """Whether nothing is drawn for this browser any more; then nothing is kept for it, either."""
        over = self.closed or self.browser
        if over:
            self.viewer.scheduler.forget(self.id)
            self._cache.clear()
        return over
