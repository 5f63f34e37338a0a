"""A browser's end of the viewer's connection, for tests that need no page."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import viser
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from nfc_gs.viewer.app import Viewer


def until(condition: Callable[[], bool], page: Any = None, seconds: float = 40.0) -> None:
    """Wait until something holds, and let a browser's page, if one is given, go on meanwhile."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        if page is None:
            time.sleep(0.02)
        else:
            getattr(page, "page", page).wait_for_timeout(20)


class Client:
    """A browser's end of the connection, scripted."""

    def __init__(self, viewer: Viewer, origin: Any = None) -> None:
        self.socket = connect(
            viewer.url.replace("http", "ws"),
            origin=origin,
            subprotocols=[f"viser-v{viser.__version__}"],
            max_size=None,
            compression=None,
        )
        self.received = 0
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        try:
            while True:
                self.received += len(self.socket.recv())
        except ConnectionClosed:
            pass

    def look(self, x: float, **changes: Any) -> None:
        camera = {
            "type": "ViewerCameraMessage", "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [x, 0.0, -3.0], "fov": 1.0,
            "near": 0.01, "far": 100.0, "image_height": 48, "image_width": 64, "look_at": [x, 0.0, 0.0],
            "up_direction": [0.0, -1.0, 0.0],
        }  # fmt: skip
        self.socket.send(msgspec.msgpack.encode(camera | changes))

    def close(self) -> None:
        self.socket.close()
        self.thread.join()
