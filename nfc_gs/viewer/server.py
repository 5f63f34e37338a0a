"""viser's server, as the viewer wants it: silent, private, and for its own page alone."""

from __future__ import annotations

import contextlib
import http
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import viser
import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that no other one can take."""

_starting = threading.Lock()


class Server(viser.ViserServer):
    """viser's server, silent, shared with the world only if that was asked for, and closed to pages of others.

    Any page that is open in a browser can try to connect to a server on this machine. Browsers say in the header
    `Origin` where a page is from, so the handshake of one from elsewhere is refused. Scripts send no such header.
    """

    def __init__(self, host: str, port: int, *, sharing: bool = False) -> None:
        """Start to listen.

        Args:
            sharing: viser may make the page public through its relay.
        """
        self.sharing = sharing
        self._listens_at = host
        self._shared_at: str | None = None
        with contextlib.redirect_stdout(io.StringIO()), _asked_first(self._refuses):  # viser draws a table of its own
            super().__init__(host, port, "nfc-gs", verbose=False)

    def request_share_url(self, verbose: bool = True) -> str | None:
        """As viser has it; a page that asks for it unbidden gets none."""
        if self.sharing:
            self._shared_at = super().request_share_url(verbose)
        return self._shared_at

    def _refuses(self, request: Request) -> bool:
        origin = request.headers.get("Origin")
        if self._shared_at is not None and origin == self._shared_at.rstrip("/"):
            return False
        return not is_own(origin, request.headers.get("Host"), self._listens_at)


def is_own(origin: str | None, asked: str | None, listens_at: str) -> bool:
    """Whether a request comes from the page that the server itself gave, or from no page at all.

    A page of the server's is from where its websocket goes to. That alone would trust a name of a stranger that leads
    to this machine, so a server that listens at this machine alone also wants to be called by one of `LOCAL_NAMES`;
    the port may be another one, as that of an SSH tunnel is.

    Args:
        origin: header `Origin` as "http://host:port"; None where a script asks.
        asked: header `Host` as "host:port".
        listens_at: address of the server.
    """
    if origin is None:
        return True
    try:
        page = urlsplit(origin.lower())
        name = page.hostname
    except ValueError:
        return False
    if name is None or asked is None or page.netloc != asked.lower():
        return False
    return listens_at not in LOCAL_NAMES or name in LOCAL_NAMES


@contextlib.contextmanager
def _asked_first(refuses: Callable[[Request], bool]) -> Iterator[None]:
    """Let the one server that viser starts within refuse requests; viser itself has no setting for that."""
    serve, started = websockets.asyncio.server.serve, []

    def serve_checked(*args: Any, process_request: Callable[..., Response | None], **settings: Any) -> Any:
        def answer(connection: ServerConnection, request: Request) -> Response | None:
            if refuses(request):
                return connection.respond(http.HTTPStatus.FORBIDDEN, "This page is not the viewer's.\n")
            return process_request(connection, request)

        started.append(True)
        return serve(*args, process_request=answer, **settings)

    with _starting:
        websockets.asyncio.server.serve = serve_checked  # type: ignore[assignment, misc]
        try:
            yield
        finally:
            websockets.asyncio.server.serve = serve  # type: ignore[misc]
    assert started, "viser has started its server in another way, and nothing would be refused"
