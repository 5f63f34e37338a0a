"""Connections of the viewer: how many there may be, how long they may wait, and that what they send is checked.

Whoever can reach the page can open connections, send anything, and read nothing. None of that may cost the others their
page, or a training that is watched its memory and its file descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import viser
from viser import _messages as viser_messages
from websockets.asyncio.server import ServerConnection

from nfc_gs.viewer.messages import (
    FileTransferPart,
    FileTransferStartUpload,
    GuiUpdateMessage,
    PageMessage,
    RefusedError,
    ShareUrlDisconnect,
    ShareUrlRequest,
    Uploads,
    ViewerCameraMessage,
    decoded,
    encoded,
    value_for,
)

try:
    import resource
except ImportError:  # Windows, where a process has no such limit
    resource = None

logger = logging.getLogger("nfc_gs")

MAX_CONNECTIONS = 200
"""Open at the same time; a page has one, and some more while it loads."""

DESCRIPTORS_SHARE = 4
"""Connections use at most one of so many file descriptors that the process may have."""

CLOSING = 8
"""Connections beyond the limit that may be open for a moment while others are closed for them."""

FIRST_CAMERA_SECONDS = 30.0
"""From the start of a connection until the page has sent its camera."""

STALLED_SECONDS = 20.0
"""In which a browser has to take some of what is sent to it."""

MESSAGES_PER_SECOND, MESSAGES_AT_ONCE = 200.0, 400.0
"""From a page, on average and in a burst; further ones wait. A page sends 20 a second of each kind."""

MAX_FRAGMENTS = 1000
"""Of a message."""

SOFTWARE_NOTE = "webgl-software-rendering"
"""viser's name for its note that the browser draws without a GPU. The note never closes and covers the picture, which
the server draws."""

MAX_WAITING = 20_000
"""Messages that wait to be sent to a page; while there are more, nothing that it sends is passed on."""


def most_connections() -> int:
    """How many connections may be open, so that most file descriptors are left for a training."""
    if resource is None:
        return MAX_CONNECTIONS
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if allowed < 0 else min(MAX_CONNECTIONS, max(8, allowed // DESCRIPTORS_SHARE))


class Notices:
    """Sentences for the log, each of which is given once: what a hostile client does, it does often."""

    def __init__(self) -> None:
        """Nothing has been said."""
        self._given: set[str] = set()

    def give(self, sentence: str, *values: object) -> None:
        """Log a sentence, with its values as `logging` has them, unless it was given before."""
        if sentence not in self._given:
            self._given.add(sentence)
            logger.warning(sentence, *values)


def address_of(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Where to listen: family and address; of a name with several addresses an IPv4 one.

    Raises:
        OSError: there is no such host.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


@dataclass
class _Open:
    """An open connection; `is_page` once a page has sent its camera through it."""

    address: str
    socket: socket.socket
    is_page: bool = False


class Listener(socket.socket):
    """A listening socket that limits how many of its connections are open.

    Beyond the limit the oldest connection that shows no page is closed for a new one; while all show pages, a new one
    is closed at once and holds no file descriptor. An address that is not of this machine may have half of the
    connections; those of a reverse proxy or a tunnel all come from this machine.
    """

    def __init__(self, host: str, port: int, limit: int, notices: Notices) -> None:
        """Bind to an address; a server then listens.

        Raises:
            OSError: the port is taken, or the host is none of this machine.
        """
        family, address = address_of(host, port)
        super().__init__(family, socket.SOCK_STREAM)
        self._limit, self._notices = limit, notices
        self._open: list[_Open] = []
        if os.name == "posix":  # elsewhere it would share the port with others
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.setblocking(False)
        try:
            self.bind(address)
        except OSError:
            self.close()
            raise

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises:
            BlockingIOError: there is none, or it was closed.
        """
        connection, address = super().accept()
        self._open = [entry for entry in self._open if entry.socket.fileno() >= 0]
        if not self._has_place(address[0]):
            connection.close()
            raise BlockingIOError
        self._open.append(_Open(address[0], connection))
        return connection, address

    def keep(self, descriptor: int) -> None:
        """Note that the connection with this file descriptor shows a page."""
        for entry in self._open:
            entry.is_page |= entry.socket.fileno() == descriptor

    def _has_place(self, address: str) -> bool:
        """Whether one more connection may come from an address; closes another one for it if need be."""
        is_local = address.startswith(("127.", "::1", "::ffff:127."))
        same = [entry for entry in self._open if entry.address == address]
        is_greedy = not is_local and len(same) >= self._limit // 2
        if not is_greedy and len(self._open) < self._limit:
            return True
        self._notices.give("%d connections to the viewer are open, the most that it takes.", len(self._open))
        idle = next((entry for entry in (same if is_greedy else self._open) if not entry.is_page), None)
        if idle is None or len(self._open) >= self._limit + CLOSING:
            return False
        idle.is_page = True  # not chosen again; it is gone as soon as the server sees its end
        with contextlib.suppress(OSError):  # the other side was quicker
            idle.socket.shutdown(socket.SHUT_RDWR)
        return True


class Gate:
    """What the connections of a server have in common.

    Attributes:
        client_of: the client of a connection; None until its page has sent a camera.
        sharing: pages may ask to be made public.
        listener: from which they come; None before the server is started.
        uploads: the unfinished ones of all pages.
        notices: of all connections.
    """

    def __init__(self, client_of: Callable[[ServerConnection], viser.ClientHandle | None], sharing: bool) -> None:
        self.client_of, self.sharing = client_of, sharing
        self.listener: Listener | None = None
        self.uploads: set[tuple[int, str]] = set()
        self.notices = Notices()


class Connection(ServerConnection):
    """A connection that passes checked messages on to viser; it ends if the browser is silent or reads nothing."""

    def __init__(self, gate: Gate, *args: Any, **settings: Any) -> None:
        """A connection of websockets', as its `serve` makes it."""
        super().__init__(*args, **settings)
        self._gate, self._uploads = gate, Uploads(gate.uploads)
        self._silence: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._allowance, self._counted_at = MESSAGES_AT_ONCE, self.loop.time()

    async def recv(self, decode: bool | None = None) -> bytes:
        """The next message that may be passed on; others are dropped.

        Raises:
            ConnectionClosed: there is none any more.
        """
        if self._silence is None:
            self._silence = self.loop.call_later(FIRST_CAMERA_SECONDS, self._drop_silent)
        while True:
            data = await self._receive()
            await self._keep_pace()
            try:
                message = decoded(data)
                self._check(message)
            except RefusedError:
                continue
            if isinstance(message, ViewerCameraMessage) and not self._silence.cancelled():
                self._silence.cancel()
                if self._gate.listener is not None:
                    self._gate.listener.keep(self.transport.get_extra_info("socket").fileno())
            return encoded(message)

    async def _receive(self) -> bytes:
        """A whole message; one in too many fragments ends the connection."""
        fragments: list[bytes] = []
        async for fragment in self.recv_streaming(decode=False):
            if len(fragments) < MAX_FRAGMENTS:
                fragments.append(fragment)
            else:
                self.transport.abort()
        return b"".join(fragments)

    async def _keep_pace(self) -> None:
        """Wait if messages come too quickly; meanwhile the others wait in the network."""
        now = self.loop.time()
        earned = (now - self._counted_at) * MESSAGES_PER_SECOND
        self._allowance, self._counted_at = min(MESSAGES_AT_ONCE, self._allowance + earned) - 1.0, now
        if self._allowance < 0.0:
            await asyncio.sleep(-self._allowance / MESSAGES_PER_SECOND)

    def _check(self, message: PageMessage) -> None:
        """Check a message against the page it comes from; a value for a control becomes one that the control takes.

        Raises:
            RefusedError: it is not passed on.
        """
        if isinstance(message, ViewerCameraMessage):
            return
        client = self._gate.client_of(self)
        if client is None or waiting(client) > MAX_WAITING:
            raise RefusedError
        if isinstance(message, (ShareUrlRequest, ShareUrlDisconnect)) and not self._gate.sharing:
            raise RefusedError
        if isinstance(message, GuiUpdateMessage):
            control = client.gui._gui_input_handle_from_uuid.get(message.uuid)
            message.updates.value = value_for(control, message.updates.value)
        elif isinstance(message, FileTransferStartUpload):
            self._start_upload(client, message)
        elif isinstance(message, FileTransferPart) and self._uploads.add(message):
            hide_note(client, upload_note(message.transfer_uuid))  # what became of the file, its panel says

    def _start_upload(self, client: viser.ClientHandle, message: FileTransferStartUpload) -> None:
        """Let a file come, or tell the user why not.

        Raises:
            RefusedError: it may not.
        """
        button = client.gui._gui_input_handle_from_uuid.get(message.source_component_uuid)
        if not isinstance(button, viser.GuiUploadButtonHandle) or button.disabled:
            raise RefusedError
        try:
            self._uploads.start(message)
            if message.size_bytes == 0:  # it is whole already
                hide_note(client, upload_note(message.transfer_uuid))
        except RefusedError as refused:
            if str(refused):
                self._gate.notices.give("An upload to the viewer was refused. %s", refused)
                end_upload(client, message, str(refused))
            raise

    def _drop_silent(self) -> None:
        self._gate.notices.give(
            "A connection to the viewer sent no camera within %.0f s and was closed; a tab that nobody looks at "
            "connects again when somebody does.",
            FIRST_CAMERA_SECONDS,
        )
        self.transport.abort()

    # ---- callbacks of the transport ----

    def pause_writing(self) -> None:
        """The browser does not take what is sent to it as quickly as it comes."""
        super().pause_writing()
        self._watch_for_stall(math.inf)

    def resume_writing(self) -> None:
        """The browser has taken what was sent to it."""
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()

    def _watch_for_stall(self, before: float) -> None:
        """Close a connection that has taken nothing since `before` bytes waited in it."""
        left = self.transport.get_write_buffer_size()
        if left >= before:
            self._gate.notices.give(
                "A browser took nothing from the viewer for %.0f s and was disconnected.", STALLED_SECONDS
            )
            self.transport.abort()
        else:
            self._stall = self.loop.call_later(STALLED_SECONDS, self._watch_for_stall, left)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        for timer in (self._silence, self._stall):
            if timer is not None:
                timer.cancel()
        self._uploads.close()
        super().connection_lost(exc)


def waiting(client: viser.ClientHandle) -> int:
    """How many messages wait to be sent to a page."""
    return len(client._websock_connection.get_message_buffer().message_from_id)


def has_download_waiting(client: viser.ClientHandle) -> bool:
    """Whether parts of a file wait to be sent to a page."""
    messages = list(client._websock_connection.get_message_buffer().message_from_id.values())
    return any(isinstance(message, viser_messages.FileTransferPart) for message in messages)


def end_upload(client: viser.ClientHandle, message: FileTransferStartUpload, reason: str) -> None:
    """Tell the user why a file is not taken, and the page that there is nothing more to wait for."""
    hide_note(client, upload_note(message.transfer_uuid))
    client._websock_connection.queue_message(
        viser_messages.FileTransferPartAck(
            source_component_uuid=message.source_component_uuid,
            transfer_uuid=message.transfer_uuid,
            transferred_bytes=message.size_bytes,
            total_bytes=message.size_bytes,
        )
    )
    client.add_notification(f"{message.filename} is not loaded", reason, auto_close_seconds=8.0, color="red")


def upload_note(transfer: str) -> str:
    """viser's name for its note on an upload. Once every byte is there, it says "uploaded successfully", even of a file
    that is refused."""
    return f"upload-{transfer}"


def hide_note(client: viser.ClientHandle, name: str) -> None:
    """Remove one of viser's own notes from a page."""
    client._websock_connection.queue_message(viser_messages.RemoveNotificationMessage(name))
