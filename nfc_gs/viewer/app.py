"""The viewer's server: sources, browsers that look at them, and one worker that draws."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import viser

from nfc_gs.core.errors import UserError
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.rendering.backend import RasterBackend
from nfc_gs.viewer import HOST, PORT
from nfc_gs.viewer.cameras import pose_of
from nfc_gs.viewer.controller import TARGET_FPS
from nfc_gs.viewer.frames import Placement, place
from nfc_gs.viewer.live import LiveTraining, copy_of
from nfc_gs.viewer.panels import add_panels
from nfc_gs.viewer.scheduler import Scheduler
from nfc_gs.viewer.server import Server
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.source import Source, Vector, frame_of, middle_and_radius, open_source, up_of

logger = logging.getLogger("nfc_gs")

PORTS_TRIED = 100
"""Ports after the wanted one that are tried before giving up."""

TICK = 0.25
"""Seconds between two looks at what has changed."""


class Viewer:
    """Shows sources in browsers until it is closed.

    Attributes:
        sources: what can be looked at, the first one at the start.
        scene: the capture whose cameras and photos are shown, that of the first source that has one, if possible with
            photos; None without.
        places: where the sources lie in the frame that is shown: that of the capture, or of the first source; by name.
        time_axis: what the times 0 and 1 mean; None where nothing moves, or nobody knows.
        scheduler: draws for all browsers.
        live: the training that is shown; None where none runs.
        url: where the page is.
        sessions: the browsers that look, by client.
        closed: it has ended.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        host: str = HOST,
        port: int = PORT,
        share: bool = False,
        backend: str | RasterBackend = "auto",
        live: LiveTraining | None = None,
    ) -> None:
        """Start the server.

        Args:
            host: address to listen at; 127.0.0.1 is this machine alone.
            port: the first port to try; the next free one is taken.
            share: let viser make the page public through its relay.
            backend: what draws, as `render` takes it.
            live: the training behind the first source.

        Raises:
            UserError: there is nothing to show, or no port to show it at.
        """
        if not sources:
            raise UserError("There is nothing to look at; give a run folder, a PLY or a .splat.")
        self.sources, self.backend, self.live = _named_apart(sources), backend, live
        scenes = [source.scene for source in self.sources if source.scene is not None]
        self.scene = next((scene for scene in scenes if scene.has_photos), scenes[0] if scenes else None)
        shown = self.sources[0].frame if self.scene is None else frame_of(self.scene)
        self.places = {source.name: place(source.name, source.frame, shown) for source in self.sources}
        if self.scene is None:
            self.places[self.sources[0].name] = Placement()
        axes = [None if self.scene is None else self.scene.time_axis, *(source.time_axis for source in self.sources)]
        self.time_axis = next((axis for axis in axes if axis is not None), None)
        device = self.sources[0].snapshot().model.device.type
        self.target_fps = TARGET_FPS.get(device, TARGET_FPS["cpu"])
        # several threads of torch would wait for each other where others compute
        self.scheduler = Scheduler(within=one_torch_thread, budget=None if live is None else live.budget)
        self.sessions: dict[int, Session] = {}
        self.closed = False
        self._lock = threading.Lock()
        self._end = threading.Event()
        free = free_port(host, port)
        self.server = Server(host, free, sharing=share)
        self.port_was_taken = free != port
        name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self.server.get_port()}"
        self._set_stage()
        if live is not None:
            live.on_news = self._news
        self.scheduler.start()
        self.server.on_client_connect(self._joined)
        self.server.on_client_disconnect(self._left)
        self._ticker = threading.Thread(target=self._tick, name="nfc-gs viewer clock", daemon=True)
        self._ticker.start()
        if share:
            self.server.request_share_url()

    def _set_stage(self) -> None:
        """Theme, up direction, and where a new browser stands."""
        self.server.gui.configure_theme(
            control_layout="floating", control_width="medium", dark_mode=True, show_logo=False,
            show_share_button=self.server.sharing, brand_color=(34, 139, 230),
        )  # fmt: skip
        camera, up = self.server.initial_camera, up_of(self.scene)
        self.server.scene.set_up_direction(up)
        middle, radius = self.middle_and_radius()
        if self.scene is not None and self.scene.views:
            view = self.scene.views[(self.scene.test or self.scene.train)[0]].camera
            pose = pose_of(view, 16 / 9)
            forward = view.viewmat[2, :3].double()
            away = float((view.center.double() - view.center.new_tensor(middle).double()).norm()) or radius
            camera.position = pose.position
            camera.look_at = tuple((view.center.double() + forward * away).tolist())
            camera.fov = pose.fov
        else:
            x, y, z = middle
            camera.position = (x, y - 0.5 * radius, z - 4.0 * radius)
            camera.look_at = middle
        camera.up = up
        camera.near = 0.005

    @property
    def trains(self) -> bool:
        """Whether a training runs that pictures take time from."""
        return self.live is not None and not self.live.paused and not self.live.finished

    @property
    def moves(self) -> bool:
        """Whether anything that can be looked at changes with time."""
        return any(source.snapshot().model.deformation is not None for source in self.sources)

    def middle_and_radius(self) -> tuple[Vector, float]:
        """Where the Gaussians of the first source are, in the frame that is shown, and how far around it."""
        middle, radius = middle_and_radius(self.sources[0].snapshot().model)
        placement = self.places[self.sources[0].name]
        return placement.point(middle), radius * placement.scale

    def drew(self) -> None:
        """A browser has the newest picture: a training may hand over its next state."""
        if self.live is not None:
            self.live.want()

    def wait(self) -> None:
        """Wait until the viewer is closed; Ctrl-C raises KeyboardInterrupt as always."""
        while not self._end.wait(0.5):
            pass

    def close(self) -> None:
        """End all threads and the server; may be called twice."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
        self._end.set()
        for session in list(self.sessions.values()):
            session.close()
        self.scheduler.close()
        if self.live is not None:
            self.live.on_news = lambda: None
            self.live.resume()
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()
        if threading.current_thread() is not self._ticker:
            self._ticker.join()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _joined(self, client: viser.ClientHandle) -> None:
        session = Session(self, client)
        add_panels(session)
        with self._lock:
            if self.closed or client.client_id not in self.server.get_clients():
                session.close()
                return
            self.sessions[client.client_id] = session

        @client.camera.on_update
        async def _(_: Any) -> None:
            session.request()

        session.request()

    async def _left(self, client: viser.ClientHandle) -> None:  # async: it waits for none of viser's threads
        with self._lock:
            session = self.sessions.pop(client.client_id, None)
        if session is not None:
            session.close()

    def _news(self) -> None:
        for session in list(self.sessions.values()):
            session.refresh()

    def _tick(self) -> None:
        """Look for checkpoints that have changed, and bring the pages' lines up to date."""
        ticks = 0
        while not self._end.wait(TICK):
            ticks += 1
            try:
                newer = [source.refresh() for source in self.sources] if ticks % 4 == 0 else []
                if any(newer):
                    self._news()
                for session in list(self.sessions.values()):
                    for call in session.on_tick:
                        session.guarded(call)()
                if self.live is not None and self.sessions and ticks % 8 == 0:
                    self.live.want()
            except Exception:
                logger.exception("The viewer's clock failed; it goes on.")


def free_port(host: str, port: int) -> int:
    """The first port from `port` on that nobody listens at.

    Raises:
        UserError: there is none, or the host is no address of this machine.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"There is no port {port}; give one between 1 and 65535.")
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        try:
            found = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0]
            with socket.socket(found[0], socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(found[4])
            return candidate
        except socket.gaierror:
            raise UserError(f"There is no host {host}; leave out --host, or give an address of this machine.") from None
        except OSError as error:
            import errno

            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(f"{host} is no address of this machine; leave out --host, or give one.") from None
    raise UserError(f"None of the {PORTS_TRIED} ports from {port} on is free; choose another one with --port.")


def _named_apart(sources: Sequence[Source]) -> list[Source]:
    """The sources, with names that differ."""
    taken: set[str] = set()
    for source in sources:
        name, number = source.name, 1
        while source.name in taken:
            number += 1
            source.name = f"{name} ({number})"
        taken.add(source.name)
    return list(sources)


def view(
    what: GaussianModel | Path | str | Sequence[GaussianModel | Path | str],
    *,
    host: str = HOST,
    port: int = PORT,
    open_browser: bool = False,
    wait: bool = True,
) -> Viewer:
    """Look at models, run folders, PLYs or .splat files in the browser.

    Args:
        what: one of them, or several to compare.
        wait: return only after Ctrl-C; else at once, and the viewer runs until `close`.

    Returns:
        The viewer, closed if it was waited for.

    Raises:
        UserError: something cannot be opened, or there is no port.
    """
    things = [what] if isinstance(what, (GaussianModel, Path, str)) else list(what)
    sources = [
        Source("model", copy_of(thing)) if isinstance(thing, GaussianModel) else open_source(thing) for thing in things
    ]
    viewer = Viewer(sources, host=host, port=port)
    print(f"Viewer: {viewer.url}", flush=True)
    if open_browser:
        webbrowser.open(viewer.url)
    if wait:
        with contextlib.suppress(KeyboardInterrupt), viewer:
            viewer.wait()
    return viewer
