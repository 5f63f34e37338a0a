"""A browser's page: its connection, the state that it shows, and when its pictures are drawn."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import viser

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.viewer.cameras import Pose, nearest, pose_of, three
from nfc_gs.viewer.connections import has_download_waiting
from nfc_gs.viewer.content import Content
from nfc_gs.viewer.draw import FAR
from nfc_gs.viewer.renderer import Quality, ViewRenderer
from nfc_gs.viewer.scheduler import Scheduler, run_to_end
from nfc_gs.viewer.source import Source
from nfc_gs.viewer.state import ViewState

logger = logging.getLogger("nfc_gs")

T = TypeVar("T")

REST = 0.15
"""Seconds without a message of the camera after which it is at rest."""

FLICKER = 0.6
"""Seconds between the two pictures that flicker, if they are drawn that quickly."""

MAX_SIDE = 2048
"""Longest side in pixels of the picture of a window."""

DEPTH_SIDE = 400
"""Longest side in pixels of the depth that is sent along."""

MOVING = Quality(jpeg=70, preview=True)
"""While the camera moves or time runs."""

AT_REST = Quality(jpeg=85, tile=1024)
"""In tiles, so that a camera that moves on soon has its own pictures, and other pages have theirs."""

REFINED = Quality(jpeg=95, samples=2, tile=512)
"""After the picture at rest."""

LARGE = Quality(tile=1024)
"""Of pictures that are saved."""


@dataclass(frozen=True)
class SentPicture:
    """A picture that was sent to the browser.

    Attributes:
        width, height: in pixels.
        seconds: from when it was begun until it was sent.
        share: of the Gaussians, those in it, 0..1.
        samples: of each pixel.
    """

    width: int = 0
    height: int = 0
    seconds: float = 0.0
    share: float = 1.0
    samples: int = 1


class Session:
    """A client of the viewer. Callbacks of the page change its state; the scheduler's thread draws what that is then.

    Attributes:
        client: viser's end of the connection.
        content: what can be shown.
        scheduler: draws for all sessions.
        renderer: draws this page's pictures.
        state: what is shown; changed by `update` alone.
        closed: the browser has gone.
        pictures_sent: how many.
        picture: the last one that was sent; None before the first.
        moving_picture: the last one of a moving camera.
        depth_range: depths (scene units) with the first and the last color of the last picture; None if it has none.
    """

    def __init__(self, client: viser.ClientHandle, content: Content, scheduler: Scheduler) -> None:
        """A session that shows the first source, with the second one beside it if there are two."""
        self.client, self.content, self.scheduler = client, content, scheduler
        self.renderer = ViewRenderer(content)
        first, second = content.sources[0], content.sources[min(1, len(content.sources) - 1)]
        self.state = ViewState(
            source=first.name,
            other=second.name,
            compare="split" if len(content.sources) == 2 else "off",
            background=first.options.background,
            view=content.first_view,
        )
        self.closed = False
        self.pictures_sent = 0
        self.picture: SentPicture | None = None
        self.moving_picture = SentPicture()
        self.depth_range: tuple[float, float] | None = None
        self._state_lock = threading.RLock()
        self._played_at = self._flickered_at = 0.0

    @property
    def id(self) -> int:
        """Of the client, for the scheduler."""
        return self.client.client_id

    @property
    def source(self) -> Source:
        """The source that is shown."""
        return self.content.source(self.state.source)

    @property
    def other(self) -> Source:
        """The source that it is compared with."""
        return self.content.source(self.state.other)

    @property
    def pose(self) -> Pose:
        """Where the browser's camera is."""
        camera = self.client.camera
        qw, qx, qy, qz = (float(value) for value in camera.wxyz)
        return Pose(three(camera.position), (qw, qx, qy, qz), float(camera.fov))

    @property
    def window(self) -> tuple[int, int]:
        """Width and height in pixels of the picture that fills the window; (0, 0) for a window without a size."""
        width, height = int(self.client.camera.image_width or 0), int(self.client.camera.image_height or 0)
        if width < 2 or height < 2 or not 0.0 < float(self.client.camera.fov) < 3.1:
            return 0, 0
        shrink = min(1.0, MAX_SIDE / max(width, height))
        return max(1, round(width * shrink)), max(1, round(height * shrink))

    # ---- the state, and requests to draw it ----

    def update(self, **changes: Any) -> None:
        """Change fields of the state, and draw.

        Raises:
            TypeError: the state has no field of that name.
        """
        self._replace(**changes)
        self.request()

    def set_in_scene(self, kind: str, present: bool) -> None:
        """Note whether objects of a kind are in the browser's scene, and draw if that is new."""
        with self._state_lock:
            kinds = self.state.in_scene | {kind} if present else self.state.in_scene - {kind}
            if kinds != self.state.in_scene:
                self.update(in_scene=kinds)

    def _replace(self, **changes: Any) -> None:
        with self._state_lock:
            self.state = replace(self.state, **changes)

    def request(self) -> None:
        """Draw anew: soon, small if it must be, and then in full."""
        if not self.closed and not self.state.browser_draws:
            self.scheduler.submit(self.id, self._draw_moving)

    def source_changed(self) -> None:
        """Draw a source that has changed, in full; a request that waits is newer and stays."""
        if not self.closed and not self.state.browser_draws and not self.state.playing:
            self.scheduler.submit_steps(self.id, self._draw_at_rest(), replace=False)

    def let_browser_draw(self, on: bool) -> None:
        """Send no more pictures, as the browser draws splats itself, or send them again."""
        self._replace(browser_draws=on, playing=self.state.playing and not on)
        self.scheduler.forget(self.id)  # whatever is left to draw
        self.request()  # ignored while the browser draws

    def play(self, on: bool) -> None:
        """Let time run, or stop it."""
        if on and self.state.browser_draws:
            raise UserError("The browser draws one time; let the server draw to see time run.")
        with self._state_lock:
            if on:
                self._replace(time=0.0 if self.state.time >= 1.0 else self.state.time)
                self._played_at = perf_counter()
            self._replace(playing=on)
        self.request()

    def close(self) -> None:
        """End all drawing: the browser has gone."""
        self.closed = True
        self._replace(playing=False)
        self.scheduler.forget(self.id)
        self.renderer.clear()

    # ---- the camera ----

    def move_camera_to(self, pose: Pose, time: float | None = None, *, orbit_distance: float | None = None) -> None:
        """Put the browser's camera somewhere, at a time if one is given, and draw.

        Args:
            orbit_distance: of the point that drags turn the camera around; None for that of now.
        """
        if time is not None:
            self._replace(time=time)
        with self.client.atomic():
            self.client.camera.fov = pose.fov
            self.client.camera.position = pose.position
            if orbit_distance is not None:  # viser keeps the distance when the rotation changes
                self.client.camera.look_at = np.add(pose.position, orbit_distance * pose.forward)
            self.client.camera.wxyz = pose.wxyz
        self.request()

    def move_camera_to_view(self, index: int) -> None:
        """Put the browser's camera where a view of the capture was taken, at its time, and choose that view."""
        scene = self.content.scene
        if scene is None:
            raise UserError("There is no capture here, so there are no views to go to.")
        self._replace(view=index)
        width, height = self.window
        view = scene.views[index]
        self.move_camera_to(pose_of(view.camera, width / height if height else 1.0), view.time)

    def nearest_view(self) -> int:
        """Index of the training view nearest to the camera. Raises UserError without a capture."""
        scene = self.content.scene
        if scene is None or not scene.train:
            raise UserError("There is no capture here, so there is no view to compare with.")
        return scene.train[nearest(self.pose, [scene.views[i].camera for i in scene.train])]

    # ---- work of the scheduler's thread that others wait for ----

    def run(self, job: Callable[[], T]) -> T:
        """Run a job in the scheduler's thread and wait for what it returns; raises what it raises."""

        def one_step() -> Generator[None, None, T]:
            yield from ()
            return job()

        return self.run_steps(one_step())

    def run_steps(self, work: Generator[object, None, T]) -> T:
        """`run` a generator step by step; jobs of other pages run in between."""
        client = (self.id, threading.get_ident())
        return self.scheduler.result(client, work, lambda: self.closed)

    def psnr(self, source: Source, view: int) -> float:
        """PSNR of a source on a view of the capture, dB."""
        photo = self.content.photo(view)
        assert photo is not None
        picture = self.run_steps(self.renderer.render_like_photo(source, view, photo.camera, LARGE))
        mse = float(((picture.rgb.astype(np.float32) - photo.rgb) ** 2).mean()) / 255.0**2
        return -10.0 * float(np.log10(max(mse, 1e-10)))

    def count_kept(self) -> int:
        """How many Gaussians of the shown source the edit keeps now."""
        return self.run(lambda: self.renderer.count_kept(self.state))

    def depth_ahead(self) -> float | None:
        """Depth in the middle of the picture, scene units; None if nothing is there."""
        camera = self.pose.camera(9, 9)
        picture = self.run(lambda: run_to_end(self.renderer.render_source(self.state, self.source, camera)))
        assert picture.depth is not None
        depth = float(picture.depth[4, 4])
        return depth if depth < FAR else None

    def value_at(self, x: float, y: float) -> float | None:
        """The number behind the color at a place of the picture, from (0, 0) at the upper left to (1, 1).

        Depth in scene units, splats per pixel, error (0..1) or entropy (bits); None where there is none.
        """
        width, height = self.window
        if width == 0:
            return None
        column, row = min(max(int(x * width), 0), width - 1), min(max(int(y * height), 0), height - 1)
        camera = self.pose.camera(width, height)
        return self.run(lambda: self.renderer.value_at(self.state, camera, column, row))

    def frame_drawer(self) -> Callable[[Camera, float | None], np.ndarray]:
        """A function that draws the shown source as it is now, whatever changes later.

        It takes any camera and a time (None for that of now) and returns a picture [H, W, 3] uint8.
        """
        steps = self.renderer.frame_steps(self.state)
        return lambda camera, time: self.run_steps(steps(camera, time)).rgb

    def screenshot(self, camera: Camera) -> np.ndarray:
        """What is shown, without a photo, at any size, [H, W, 3] uint8."""
        shown = _with_points_of(self.state, camera.height, self.window[1])
        return self.run_steps(self.renderer.render_sources(shown, camera, LARGE)).rgb

    # ---- callbacks of the page ----

    def guarded(self, function: Callable[..., None]) -> Callable[..., None]:
        """A callback of the page whose errors are shown in the browser and stop nothing."""

        def call(*args: Any) -> None:
            try:
                function(*args)
            except UserError as error:
                self.notify("That did not work", str(error), "red")
            except Exception:
                if not self.closed:
                    logger.exception("A control of the viewer failed; the viewer goes on.")
                    self.notify("That did not work", "The viewer's log says why.", "red")

        return call

    def in_background(self, function: Callable[..., None], *, busy: str | None = None) -> Callable[..., None]:
        """`guarded`, in a thread of its own: viser has few for all pages, and what takes long would occupy them.

        Args:
            busy: given, the function runs once at a time: a call while it runs only shows this sentence.
        """
        running = threading.Lock()

        def work(*args: Any) -> None:
            if busy is None:
                return function(*args)
            if not running.acquire(blocking=False):
                raise UserError(busy)
            try:
                function(*args)
            finally:
                running.release()

        def start(*args: Any) -> None:
            threading.Thread(target=self.guarded(work), args=args, name="nfc-gs viewer page", daemon=True).start()

        return start

    def send_file(self, name: str, content: bytes) -> None:
        """Let the browser download a file.

        Raises:
            UserError: it has not taken the last one yet; a browser that takes none must not fill the memory.
        """
        if has_download_waiting(self.client):
            raise UserError("The last download is still on its way to your browser; try again when it is there.")
        if not self.closed:
            self.client.send_file_download(name, content, save_immediately=True)

    def notify(self, title: str, body: str, color: Any = None) -> None:
        """Show a notification in the browser."""
        if not self.closed:
            self.client.add_notification(title, body, auto_close_seconds=8.0, color=color)

    # ---- in the scheduler's thread ----

    def _draw_moving(self) -> None:
        """Draw and send a picture that is small enough to come quickly; then request the next one."""
        if self._has_ended():
            return
        self._advance_time()
        width, height = self.window
        if width == 0:
            return
        gaussians = self.renderer.prepare_previews(self.state, self.pose.camera(width, height))  # not timed
        start = perf_counter()
        size = self.renderer.frame_rate.size(width, height)
        try:
            run_to_end(self._send_picture(size, MOVING))
        finally:  # whatever became of this one, the next one is drawn
            seconds = perf_counter() - start
            self._request_next(seconds)
        if self.pictures_sent > 1:  # the first one also prepares the model
            self.renderer.frame_rate.measured(size[0] * size[1], seconds, gaussians)

    def _request_next(self, seconds: float) -> None:
        """Request what follows a picture that took so long."""
        if self.state.playing and self.content.changes_with_time:
            delay = max(0.0, 1.0 / self.content.target_fps - seconds)
            self.scheduler.submit(self.id, self._draw_moving, delay, replace=False)
        else:
            self.scheduler.submit_steps(self.id, self._draw_at_rest(), REST, replace=False)

    def _draw_at_rest(self) -> Generator[None, None, None]:
        """Draw and send the window in full and then refined; any newer request replaces what is left to draw."""
        if self._has_ended() or self.window[0] == 0:
            return
        size, shown = self.window, self._snapshot_numbers()
        yield from self._send_picture(size, AT_REST)
        if self.content.live is not None:
            self.content.live.request_snapshot()
        if self.state.compare == "flicker":
            self.scheduler.submit_steps(self.id, self._draw_at_rest(), FLICKER, replace=False)
            return
        if not self.content.is_training:  # else the next snapshot is shown rather than this one again
            yield
            yield from self._send_picture(size, REFINED)
        if self._snapshot_numbers() != shown:  # new ones came, and their request was dropped as this was not done
            self.source_changed()

    def _snapshot_numbers(self) -> tuple[int, int]:
        return self.source.snapshot().number, self.other.snapshot().number

    def _send_picture(self, size: tuple[int, int], quality: Quality) -> Generator[None, None, None]:
        """Draw the window at a size and send it to the browser."""
        start = perf_counter()
        shown = _with_points_of(self.state, size[1], self.window[1])
        picture = yield from self.renderer.render(shown, self.pose.camera(*size), quality)
        self.depth_range = picture.depth_range
        depth = picture.depth
        if depth is not None:
            stride = max(1, -(-max(size) // DEPTH_SIDE))
            depth = depth[::stride, ::stride]
        if self._has_ended():  # while it was drawn
            return
        self.client.scene.set_background_image(picture.rgb, "jpeg", jpeg_quality=quality.jpeg, depth=depth)
        self.client.flush()
        self.pictures_sent += 1
        share = self.renderer.preview_share if quality.preview else 1.0
        self.picture = SentPicture(*size, perf_counter() - start, share, quality.samples**2)
        if quality.preview:
            self.moving_picture = self.picture
        if (
            quality == AT_REST or perf_counter() - self._flickered_at >= FLICKER
        ):  # moving ones follow each other quickly
            self._flickered_at = perf_counter()
            with self._state_lock:
                self._replace(flicker_to_other=not self.state.flicker_to_other)

    def _advance_time(self) -> None:
        """Set the time to what it is now, while it runs."""
        with self._state_lock:
            state = self.state
            if not state.playing:
                return
            now = perf_counter()
            time, self._played_at = state.time + (now - self._played_at) * state.speed, now
            ends = time > 1.0 and not state.loop
            self._replace(time=1.0 if ends else time % 1.0 if time > 1.0 else time, playing=not ends)

    def _has_ended(self) -> bool:
        """Whether no pictures are drawn for this browser any more; then nothing is kept for it, either."""
        ended = self.closed or self.state.browser_draws
        if ended:
            self.scheduler.forget(self.id)
            self.renderer.clear()
        return ended


def _with_points_of(state: ViewState, height: int, window_height: int) -> ViewState:
    """The state for a picture of another height than the window, whose points look as large as in the window."""
    return replace(state, point_size=state.point_size * height / window_height) if window_height else state
