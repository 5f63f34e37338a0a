"""viser's server, made silent and private: only its own page may connect."""

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

from nfc_gs.core.errors import UserError

LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that no other one can take."""

_starting = threading.Lock()


class Server(viser.ViserServer):
    """viser's server, silent, made public only on request, and closed to pages of other servers.

    Any page that is open in a browser can try to connect to a server on this machine. Browsers say in the header
    `Origin` where a page is from, so the handshake of one from elsewhere is refused. Scripts send no such header.
    """

    def __init__(self, host: str, port: int, *, sharing: bool = False) -> None:
        """Start to listen.

        Args:
            sharing: viser may make the page public through its relay.
        """
        self.sharing = sharing
        self._address = host
        self._shared_at: str | None = None
        with contextlib.redirect_stdout(io.StringIO()), _refusing(self._refuses) as started:  # viser draws a table
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

    def _refuses(self, request: Request) -> bool:
        origin = request.headers.get("Origin")
        if self._shared_at is not None and origin == self._shared_at.rstrip("/"):
            return False
        return not is_own(origin, request.headers.get("Host"), self._address)


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
def _refusing(refuses: Callable[[Request], bool]) -> Iterator[list[str]]:
    """Let the one server that viser starts in the block refuse requests; viser itself has no setting for that.

    Yields a list that is empty until the server has been started with this check.
    """
    serve, started = websockets.asyncio.server.serve, []

    def serve_checked(*args: Any, process_request: Callable[..., Response | None], **settings: Any) -> Any:
        def answer(connection: ServerConnection, request: Request) -> Response | None:
            if refuses(request):
                return connection.respond(http.HTTPStatus.FORBIDDEN, "This page is not the viewer's.\n")
            return process_request(connection, request)

        started.append("with the check")
        return serve(*args, process_request=answer, **settings)

    with _starting:
        websockets.asyncio.server.serve = serve_checked  # type: ignore[assignment, misc]
        try:
            yield started
        finally:
            websockets.asyncio.server.serve = serve  # type: ignore[misc]
