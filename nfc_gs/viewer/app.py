"""The viewer's server: sources, the browsers' pages, and one thread that draws for all of them."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import socket
import threading
from collections.abc import Sequence
from typing import Any

import viser

from nfc_gs.core.errors import UserError
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.rendering.backend import RasterBackend
from nfc_gs.viewer import HOST, PORT
from nfc_gs.viewer.connections import SOFTWARE_NOTE, address_of, hide_note
from nfc_gs.viewer.content import Content
from nfc_gs.viewer.live import LiveTraining
from nfc_gs.viewer.memory import Memory, PageMemory
from nfc_gs.viewer.panels import add_panels
from nfc_gs.viewer.panels.panel import Panel, log_failure
from nfc_gs.viewer.scheduler import Scheduler
from nfc_gs.viewer.server import Server
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.source import Source

logger = logging.getLogger("nfc_gs")

PORTS_TRIED = 100
"""Ports from the given one on that are tried before giving up."""

TICK = 0.25
"""Seconds between two updates of the pages' texts."""


class Viewer:
    """Shows sources in browsers until it is closed.

    Attributes:
        content: what is shown, the same for all pages.
        scheduler: draws for all pages.
        server: viser's.
        url: where the page is.
        port_was_taken: the given port was taken, and the page is at another one.
        sessions: the browsers that are connected, by client.
        panels: of their pages, by client.
        memory: of the last page; None where nothing is kept.
        closed: it has ended.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        host: str = HOST,
        port: int = PORT,
        share: bool = False,
        trusted_origins: Sequence[str] = (),
        backend: str | RasterBackend = "auto",
        live: LiveTraining | None = None,
        keeps_state: bool = False,
    ) -> None:
        """Start the server.

        Args:
            host: address to listen at; 127.0.0.1 is this machine alone.
            port: the first port to try; the next free one is taken.
            share: let viser make the page public through its relay.
            trusted_origins: where else the page may be from, as "https://host": addresses of reverse proxies.
            backend: rasterizer of Gaussians, as `render` takes it.
            live: the training behind the first source.
            keeps_state: new pages begin as the last one was left, for runs even after a restart (`viewer.memory`).

        Raises:
            UserError: there is nothing to show, or no port to show it at; or a trusted origin is none.
        """
        self.content = Content(sources, backend=backend, live=live)
        # one thread of torch: several would wait for each other while others compute
        self.scheduler = Scheduler(context=one_torch_thread, budget=None if live is None else live.budget)
        self.sessions: dict[int, Session] = {}
        self.panels: dict[int, list[Panel]] = {}
        self.memory = Memory(self.content.sources[0].folder) if keeps_state else None
        self._pages: dict[int, PageMemory] = {}
        self.closed = False
        self._lock = threading.Lock()
        self._end = threading.Event()
        free = free_port(host, port)
        self.server = Server(host, free, sharing=share, trusted_origins=trusted_origins)
        self.port_was_taken = free != port
        name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self.server.get_port()}"
        self._configure_page()
        if live is not None:
            live.on_snapshot = self._redraw
        self.scheduler.start()
        self.server.on_client_connect(self._connect)
        self.server.on_client_disconnect(self._disconnect)
        self._clock = threading.Thread(target=self._run_clock, name="nfc-gs viewer clock", daemon=True)
        self._clock.start()
        if share:
            self.server.request_share_url()

    def _configure_page(self) -> None:
        """Theme, up direction, and the camera of a new page."""
        self.server.gui.configure_theme(
            control_layout="floating", control_width="medium", dark_mode=True, show_logo=False,
            show_share_button=self.server.sharing, brand_color=(34, 139, 230),
        )  # fmt: skip
        home, camera = self.content.home, self.server.initial_camera
        self.server.scene.set_up_direction(home.up)
        camera.position, camera.look_at, camera.up, camera.fov = home.position, home.look_at, home.up, home.fov
        camera.near = 0.005

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
        live = self.content.live
        if live is not None:
            live.on_snapshot = lambda: None
            live.resume()
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()
        if threading.current_thread() is not self._clock:
            self._clock.join()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _connect(self, client: viser.ClientHandle) -> None:
        hide_note(client, SOFTWARE_NOTE)
        session = Session(client, self.content, self.scheduler)
        panels = add_panels(session)
        page = PageMemory(panels)
        if self.memory is not None:
            session.guarded(page.restore)(self.memory.state)
        with self._lock:
            if self.closed or client.client_id not in self.server.get_clients():
                session.close()
                return
            self.panels[client.client_id], self._pages[client.client_id] = panels, page
            self.sessions[client.client_id] = session

        @client.camera.on_update
        async def _(_: Any) -> None:
            session.request()

        session.request()

    async def _disconnect(self, client: viser.ClientHandle) -> None:  # async: it waits for none of viser's threads
        with self._lock:
            session = self.sessions.pop(client.client_id, None)
            self.panels.pop(client.client_id, None)
            self._pages.pop(client.client_id, None)
        if session is not None:
            session.close()

    def _redraw(self) -> None:
        """Draw all pages, as a source has changed."""
        for session in list(self.sessions.values()):
            session.source_changed()

    def _run_clock(self) -> None:
        """Load checkpoints that have changed, and bring the pages' texts up to date."""
        ticks = 0
        while not self._end.wait(TICK):
            ticks += 1
            try:
                changed = [source.refresh() for source in self.content.sources] if ticks % 4 == 0 else []
                if any(changed):
                    self._redraw()
                for client, session in list(self.sessions.items()):
                    self._tick(session, self.panels.get(client, []))
                if self.memory is not None and ticks % 2 == 0:
                    for page in list(self._pages.values()):
                        if (state := page.changed()) is not None:
                            self.memory.keep(state)
                if self.content.live is not None and self.sessions and ticks % 8 == 0:
                    self.content.live.request_snapshot()
            except Exception:
                logger.exception("The viewer's clock failed; it goes on.")

    def _tick(self, session: Session, panels: list[Panel]) -> None:
        """Bring a page's texts up to date; a panel that fails is left out from then on."""
        for panel in tuple(panels):
            try:
                panel.tick()
            except Exception:
                if not session.closed:
                    panels.remove(panel)
                    log_failure(type(panel))
                    session.notify(
                        "A part of this page failed", "It changes no more; the viewer's log says why.", "red"
                    )


def free_port(host: str, port: int) -> int:
    """The first free port from `port` on.

    Raises:
        UserError: there is none, or the host is no address of this machine.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"There is no port {port}; give one between 1 and 65535.")
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        try:
            family, address = address_of(host, candidate)
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            return candidate
        except socket.gaierror:
            raise UserError(f"There is no host {host}; leave out --host, or give an address of this machine.") from None
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(f"{host} is no address of this machine; leave out --host, or give one.") from None
    raise UserError(f"None of the {PORTS_TRIED} ports from {port} on is free; choose another one with --port.")
