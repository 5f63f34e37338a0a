"""viser's server, made silent and private: only its own page may connect, and what a page sends is checked."""

from __future__ import annotations

import contextlib
import http
import io
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import viser
import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from nfc_gs.core.errors import UserError
from nfc_gs.viewer.canvas import with_additions
from nfc_gs.viewer.connections import Connection, Gate, Listener, most_connections
from nfc_gs.viewer.messages import MAX_MESSAGE_BYTES

LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that no other one can take."""

ORIGIN = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]+))?/?")
"""Scheme, host and port of a page's address."""

DEFAULT_PORTS = {"http": "80", "https": "443"}
"""Which browsers leave out."""

POLICY = {
    "default-src": "'none'",
    "script-src": "'unsafe-inline' 'unsafe-eval' blob:",  # viser's page unpacks itself, its sorter of splats evaluates
    "worker-src": "blob:",
    "style-src": "'unsafe-inline'",
    "img-src": "'self' blob: data:",
    "font-src": "data:",
    "connect-src": "'self' blob: data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
"""What the page may load: nothing from elsewhere; and who may show it in a frame: nobody."""

HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Of every answer."""

REQUEST_SECONDS = 10.0
"""From the start of a connection until its request has come and is answered."""

_starting = threading.Lock()


class Server(viser.ViserServer):
    """viser's server, silent, made public only on request, and closed to pages of other servers.

    Any page that is open in a browser can try to connect to a server on this machine. Browsers say in the header
    `Origin` where a page is from, so the handshake of one from elsewhere is refused. Scripts send no such header.
    """

    def __init__(self, host: str, port: int, *, sharing: bool = False, trusted_origins: Sequence[str] = ()) -> None:
        """Start to listen.

        Args:
            sharing: viser may make the page public through its relay.
            trusted_origins: where else the page may be from, as "https://host": a reverse proxy's address.

        Raises:
            UserError: a trusted origin is none, or this version of viser cannot be checked.
        """
        self.sharing = sharing
        self._address = host
        self._trusted = {checked_origin(origin) for origin in trusted_origins}
        self._shared_at: str | None = None
        self._gate = Gate(self._client_of, sharing)
        checked = _checked_server(self._gate, self._refuses)
        with contextlib.redirect_stdout(io.StringIO()), checked as started:  # viser draws a table
            super().__init__(host, port, "nfc-gs", verbose=False)
        if not started:
            self.stop()
            raise UserError(
                f"The viewer does not know viser {viser.__version__}, whose server would answer every page that is "
                "open in a browser; install viser 1.1."
            )

    def request_share_url(self, verbose: bool = True) -> str | None:
        """The public address, as viser's method; None unless sharing was allowed."""
        if self.sharing:
            self._shared_at = super().request_share_url(verbose)
        return self._shared_at

    def _client_of(self, connection: ServerConnection) -> viser.ClientHandle | None:
        clients = self.get_clients()
        live = self._websock_server._live_connections
        return next((client for id, client in clients.items() if live.get(id) is connection), None)

    def _refuses(self, request: Request) -> bool:
        origin, host = request.headers.get("Origin"), request.headers.get("Host")
        if origin is not None and origin.lower() in self._trusted:
            return False
        if self._shared_at is not None and origin == self._shared_at.rstrip("/"):
            return False
        if is_own(origin, host, self._address):
            return False
        self._gate.notices.give(
            "The viewer refused a page whose Origin is %a and whose Host is %a, as only its own page may connect. If a "
            "reverse proxy of yours shows the viewer there, give --trusted-origin with that Origin (in Python "
            "trusted_origins).",
            str(origin)[:200], str(host)[:200],
        )  # fmt: skip
        return True


def checked_origin(origin: str) -> str:
    """An origin of pages as browsers write it: "https://host" or "http://host:port", in small letters.

    Raises:
        UserError: it is none.
    """
    match = ORIGIN.fullmatch(origin.strip().lower())
    if match is None or int(match["port"] or 0) > 65535:
        raise UserError(
            f"'{origin}' is no trusted origin; give the address of a page without a path, as https://splats.example.org."
        )
    scheme, name, port = match.groups()
    return f"{scheme}://{name}" if port in (None, DEFAULT_PORTS[scheme]) else f"{scheme}://{name}:{port}"


def is_own(origin: str | None, host: str | None, address: str) -> bool:
    """Whether a request comes from the page that the server itself delivered, or from no page at all.

    The server's own page has the origin that its websocket connects to. That alone would trust a foreign name that
    resolves to this machine (DNS rebinding), so a server that listens at this machine alone must also be called by one
    of `LOCAL_NAMES`; the port may differ, as that of an SSH tunnel does.

    Args:
        origin: header `Origin` as "http://host:port"; None for a script.
        host: header `Host` as "host:port".
        address: where the server listens.
    """
    if origin is None:
        return True
    try:
        page = urlsplit(origin.lower())
        name = page.hostname
    except ValueError:
        return False
    if name is None or host is None or page.netloc != host.lower():
        return False
    return address not in LOCAL_NAMES or name in LOCAL_NAMES


@contextlib.contextmanager
def _checked_server(gate: Gate, refuses: Callable[[Request], bool]) -> Iterator[list[str]]:
    """Let the one server that viser starts in the block check requests and messages; viser has no setting for that.

    Yields a list that is empty until the server has been started with these checks.
    """
    serve, started = websockets.asyncio.server.serve, []

    def serve_checked(
        handler: Any, host: str, port: int, *, process_request: Callable[..., Response | None], **settings: Any
    ) -> Any:
        def answer(connection: ServerConnection, request: Request) -> Response | None:
            if refuses(request):
                return connection.respond(http.HTTPStatus.FORBIDDEN, "This page is not the viewer's.\n")
            response = process_request(connection, request)
            return None if response is None else with_additions(response)

        started.append("with the checks")
        gate.listener = Listener(host, port, most_connections(), gate.notices)
        settings |= {
            "sock": gate.listener,
            "create_connection": partial(Connection, gate),
            "process_request": answer,
            "process_response": _add_headers,
            "open_timeout": REQUEST_SECONDS,
            "max_size": MAX_MESSAGE_BYTES,
            "logger": _log(),
        }
        return serve(handler, **settings)

    with _starting:
        websockets.asyncio.server.serve = serve_checked  # type: ignore[assignment, misc]
        try:
            yield started
        finally:
            websockets.asyncio.server.serve = serve  # type: ignore[misc]


def _add_headers(connection: ServerConnection, request: Request, response: Response) -> None:
    for name, value in HEADERS.items():
        response.headers[name] = value


def _log() -> logging.Logger:
    """The log of a server's connections: the first error of each kind, and no handshakes that fail."""
    log, known = logging.Logger("nfc_gs.viewer.server", logging.WARNING), {"opening handshake failed"}
    log.parent = logging.getLogger("nfc_gs")

    def is_new(record: logging.LogRecord) -> bool:
        new = record.msg not in known
        known.add(record.msg)
        return new

    log.addFilter(is_new)
    return log
