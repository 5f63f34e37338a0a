"""Connections of the viewer: how many there may be, how long they may wait, and what they may cost."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace

import msgspec
import pytest
import viser
from viewer_client import Client, controls, sources, texts, until
from viser import _messages as viser_messages
from websockets.exceptions import ConnectionClosed

from nfc_gs.core.errors import UserError
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData
from nfc_gs.viewer import connections, server
from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.connections import Listener, Notices, most_connections
from nfc_gs.viewer.live import LiveTraining
from nfc_gs.viewer.panels import panel
from nfc_gs.viewer.panels.help import HelpPanel
from nfc_gs.viewer.panels.path import PathPanel
from nfc_gs.viewer.panels.status import StatusPanel
from nfc_gs.viewer.session import Session

LIMIT = 8


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> SceneData:
    return load_scene(write_capture(tmp_path_factory.mktemp("page") / "capture", views=6, width=48, height=36))


@pytest.fixture
def viewer(scene: SceneData, monkeypatch: pytest.MonkeyPatch) -> Iterator[Viewer]:
    """A viewer of a training with few connections."""
    monkeypatch.setattr(server, "most_connections", lambda: LIMIT)
    shown = sources(scene)
    training = SimpleNamespace(model=shown[0].snapshot().model, steps_done=0, stopping=False)
    with Viewer(shown, port=8960, backend="cpu", live=LiveTraining(training, shown[0])) as viewer:  # type: ignore[arg-type]
        yield viewer


@pytest.fixture
def hasty(scene: SceneData, monkeypatch: pytest.MonkeyPatch) -> Iterator[Viewer]:
    """A viewer that does not wait long for a request."""
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.3)
    with Viewer(sources(scene), port=8970, backend="cpu") as viewer:
        yield viewer


def port_of(viewer: Viewer) -> int:
    return int(viewer.url.rsplit(":", 1)[1])


def raw(viewer: Viewer, request: bytes = b"") -> socket.socket:
    """A connection that has sent `request`."""
    connection = socket.create_connection(("127.0.0.1", port_of(viewer)), timeout=20.0)
    connection.sendall(request)
    return connection


def websocket(viewer: Viewer) -> socket.socket:
    """A connection after the handshake of a websocket, from which nothing else has been read."""
    lines = [
        "GET / HTTP/1.1", f"Host: 127.0.0.1:{port_of(viewer)}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: viser-v{viser.__version__}", "", "",
    ]  # fmt: skip
    connection = raw(viewer, "\r\n".join(lines).encode())
    assert b" 101 " in connection.recv(40)
    return connection


def is_open(connection: socket.socket) -> bool:
    """The other side has not closed a connection."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def ends(connection: socket.socket) -> bool:
    """Waits until the other side closes a connection; whatever comes before is read."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(65536):
            pass
    connection.close()
    return True


@contextlib.contextmanager
def opened(viewer: Viewer) -> Iterator[tuple[Client, Session]]:
    """A page and its session."""
    known = set(viewer.sessions)
    client = Client(viewer)
    client.move(0.0)
    until(lambda: len(set(viewer.sessions) - known) == 1)
    yield client, viewer.sessions[max(viewer.sessions)]
    client.close()
    until(lambda: set(viewer.sessions) <= known)


def control(session: Session, label: str) -> object:
    return next(control for control in controls(session) if control.label == label)


# ---- one page against the others ----


def test_a_value_out_of_range_changes_nothing_for_its_page_or_a_later_one(viewer: Viewer) -> None:
    live = viewer.content.live
    assert live is not None
    with opened(viewer) as (client, session):
        count = len(controls(session))
        share = control(session, "Viewer's share")
        for value in (5, -1, float("nan"), "much", None, [1.0], 10**18):
            client.set(share, value)
        client.set(share, 0.5)  # comes after them
        until(lambda: live.budget.share == 0.5)
    with opened(viewer) as (_, session):
        assert len(controls(session)) == count and "failed" not in "".join(texts(session))
        assert control(session, "Viewer's share").value == 0.5  # type: ignore[attr-defined]


def test_messages_that_are_none_leave_the_connection_open_and_the_log_empty(
    viewer: Viewer, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(viewer) as (client, session), caplog.at_level(logging.WARNING):
        client.socket.send("text")
        client.socket.send(b"\xff\x00")
        for kind in ("ResetGuiMessage", "RunJavascriptMessage", "GuiUpdateMessage", "no such", "ShareUrlRequest"):
            client.send(kind, uuid="x")
        client.move(float("nan"))
        client.move(0.7)
        until(lambda: session.pose.position[0] == 0.7)
    assert caplog.text == ""


def test_a_panel_that_fails_costs_itself_alone_and_is_logged_once(
    viewer: Viewer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: PathPanel, gui: viser.GuiApi) -> None:
        raise RuntimeError("no path today")

    monkeypatch.setattr(panel, "_failed", set())
    with opened(viewer) as (_, session):
        before = {control.label for control in controls(session)}
    monkeypatch.setattr(PathPanel, "build", broken)
    for _ in range(2):
        with opened(viewer) as (_, session):
            left = {control.label for control in controls(session)}
            assert "Export what is left as PLY" in left and "Add keyframe here" in before - left
            assert sum("This panel failed" in text for text in texts(session)) == 1
            kinds = {type(panel) for panel in viewer.panels[session.id]}
            assert PathPanel not in kinds and HelpPanel in kinds
    assert caplog.text.count("RuntimeError: no path today") == caplog.text.count("PathPanel failed") == 1


def test_a_panel_that_cannot_follow_is_left_out_and_the_others_go_on(
    viewer: Viewer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ticks: list[HelpPanel] = []

    def broken(self: StatusPanel) -> None:
        raise RuntimeError("no status today")

    monkeypatch.setattr(panel, "_failed", set())
    monkeypatch.setattr(StatusPanel, "tick", broken)
    monkeypatch.setattr(HelpPanel, "tick", lambda self: ticks.append(self))
    with opened(viewer):
        until(lambda: len(ticks) > 2)
    assert caplog.text.count("RuntimeError: no status today") == 1


# ---- connections ----


def test_idle_connections_make_way_for_a_page_and_hold_few_descriptors(
    viewer: Viewer, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(viewer) as (client, session):
        idle = [raw(viewer) for _ in range(5 * LIMIT)]
        with opened(viewer) as (_, other):
            assert other.id != session.id and len(controls(other)) == len(controls(session))
        client.move(0.5)
        until(lambda: session.pose.position[0] == 0.5)  # who shows a page stays
        until(lambda: sum(is_open(connection) for connection in idle) < LIMIT)
        for connection in idle:
            connection.close()
    assert caplog.text.count("connections to the viewer are open") == 1


def test_a_connection_beyond_the_limit_is_closed_at_once_while_all_show_pages() -> None:
    with Listener("127.0.0.1", 0, 2, Notices()) as listener:
        listener.listen()
        outer = [socket.create_connection(listener.getsockname()[:2]) for _ in range(3)]
        inner = []
        listener.setblocking(True)
        for _ in range(2):
            inner.append(listener.accept()[0])
            listener.keep(inner[-1].fileno())
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert outer[2].recv(1) == b""  # closed
        inner[0].close()
        outer.append(socket.create_connection(listener.getsockname()[:2]))
        inner.append(listener.accept()[0])
        for connection in (*outer, *inner):
            connection.close()


def test_an_address_elsewhere_may_have_half_of_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    accept = socket.socket.accept
    where = iter([("10.0.0.1", 1)] * 3 + [("10.0.0.2", 1)])
    monkeypatch.setattr(socket.socket, "accept", lambda self: (accept(self)[0], next(where)))
    with Listener("127.0.0.1", 0, 4, Notices()) as listener:
        listener.listen()
        outer = [socket.create_connection(listener.getsockname()[:2]) for _ in range(4)]
        listener.setblocking(True)
        inner = []
        for _ in range(2):
            inner.append(listener.accept()[0])
            listener.keep(inner[-1].fileno())
        with pytest.raises(BlockingIOError):
            listener.accept()
        inner.append(listener.accept()[0])
        for connection in (*outer, *inner):
            connection.close()


@pytest.mark.parametrize(("allowed", "most"), [(64, 16), (128, 32), (1024, 200), (16, 8), (-1, 200)])
def test_connections_leave_most_file_descriptors_to_a_training(
    allowed: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = SimpleNamespace(getrlimit=lambda kind: (allowed, allowed), RLIMIT_NOFILE=7)
    monkeypatch.setattr(connections, "resource", limits)
    assert most_connections() == most
    monkeypatch.setattr(connections, "resource", None)
    assert most_connections() == 200


@pytest.mark.parametrize("request_", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000])
def test_a_request_that_does_not_end_is_cut_off(hasty: Viewer, request_: bytes) -> None:
    assert ends(raw(hasty, request_))


def test_a_request_of_a_byte_at_a_time_is_cut_off(hasty: Viewer) -> None:
    connection = raw(hasty, b"GET / HTTP/1.1\r\nHost: a\r\nX: ")

    def is_cut_off() -> bool:
        try:
            connection.sendall(b"x")
        except OSError:
            return True
        time.sleep(0.05)
        return False

    until(is_cut_off)
    connection.close()


def test_a_websocket_without_a_camera_is_closed(
    viewer: Viewer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "FIRST_CAMERA_SECONDS", 0.5)
    client = Client(viewer)
    client.send("CommandTriggerMessage", uuid="x")
    client.thread.join(20.0)
    assert not client.thread.is_alive() and "sent no camera" in caplog.text
    monkeypatch.setattr(connections, "FIRST_CAMERA_SECONDS", 1.5)
    with opened(viewer) as (client, session):
        time.sleep(2.0)  # longer than a camera may take to come
        client.move(0.4)
        until(lambda: session.pose.position[0] == 0.4)


def test_a_message_in_countless_fragments_ends_its_connection(viewer: Viewer) -> None:
    connection = websocket(viewer)
    first, more = b"\x02\x81\x00\x00\x00\x00x", b"\x00\x81\x00\x00\x00\x00x"  # masked by zeros
    with contextlib.suppress(OSError):
        connection.sendall(first + more * 5000)
    assert ends(connection)


def test_a_message_that_is_too_large_ends_its_connection(viewer: Viewer) -> None:
    client = Client(viewer)
    with contextlib.suppress(ConnectionClosed):
        client.socket.send(bytes(2**20 + 1))
    client.thread.join(20.0)
    assert not client.thread.is_alive()


def test_a_browser_that_takes_nothing_is_disconnected(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALLED_SECONDS", 0.2)
    connection = websocket(viewer)
    camera = {
        "type": "ViewerCameraMessage", "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [0.0, 0.0, -3.0], "fov": 1.0,
        "near": 0.01, "far": 100.0, "image_height": 36, "image_width": 48, "look_at": [0.0, 0.0, 0.0],
        "up_direction": [0.0, -1.0, 0.0],
    }  # fmt: skip
    data = msgspec.msgpack.encode(camera)
    connection.sendall(b"\x82\xfe" + len(data).to_bytes(2, "big") + bytes(4) + data)
    until(lambda: len(viewer.sessions) == 1)
    session = next(iter(viewer.sessions.values()))
    session.send_file("large.bin", os.urandom(40_000_000))  # more than the network holds
    until(lambda: not viewer.sessions and session.closed)
    connection.close()


def test_a_second_download_waits_for_the_first(viewer: Viewer) -> None:
    with opened(viewer) as (_, session):
        session.client._websock_connection.get_message_buffer().atomic_start()  # nothing is sent
        session.send_file("a.bin", b"a")
        with pytest.raises(UserError, match="still on its way"):
            session.send_file("b.bin", b"b")
        session.client._websock_connection.get_message_buffer().atomic_end()
        until(lambda: not connections.has_download_waiting(session.client))
        session.send_file("b.bin", b"b")


def test_messages_that_come_too_quickly_wait_and_none_is_lost(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MESSAGES_AT_ONCE", 5.0)
    with opened(viewer) as (client, session):
        start, box = time.monotonic(), control(session, "Points")
        for turn in range(100):
            client.set(box, turn % 2 == 0)
        client.move(0.9)
        until(lambda: session.pose.position[0] == 0.9)
        assert time.monotonic() - start > 0.3 and not session.state.points


# ---- uploads ----


def test_large_and_unfinished_uploads_are_refused_with_a_sentence_and_kept_nowhere(
    viewer: Viewer, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(viewer) as (client, session):
        button, said = control(session, "Load path"), []
        session.client.add_notification = lambda title, body, **_: said.append(body)  # type: ignore[method-assign]
        fields = {"source_component_uuid": button._impl.uuid, "filename": "a", "mime_type": "b"}  # type: ignore[attr-defined]
        for number in range(24):
            size = {"part_count": 96, "size_bytes": 48 * 2**20}
            client.send("FileTransferStartUpload", transfer_uuid=f"{number}", **fields, **size)
        until(lambda: len(said) == 24)
        for number in range(3):
            size = {"part_count": 2, "size_bytes": 2000}
            client.send("FileTransferStartUpload", transfer_uuid=f"small {number}", **fields, **size)
        until(lambda: len(said) == 25)
        unfinished = session.client.gui._current_file_upload_states
        assert "at most 4 MB" in said[0] and "try again" in said[24] and len(unfinished) == 2
        assert caplog.text.count("An upload to the viewer was refused") == 1
    assert not unfinished and not viewer.server._gate.uploads


def test_visers_own_notes_on_uploads_and_on_webgl_are_removed(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    remove = viser_messages.RemoveNotificationMessage

    def removing(name: str) -> viser_messages.Message:
        removed.append(name)
        return remove(name)

    monkeypatch.setattr(viser_messages, "RemoveNotificationMessage", removing)
    with opened(viewer) as (client, session):
        until(lambda: removed == ["webgl-software-rendering"])
        button = control(session, "Load path")._impl.uuid  # type: ignore[attr-defined]
        fields = {"source_component_uuid": button, "filename": "a", "mime_type": "b"}
        for name, parts, size in (("large", 9, 2**24), ("empty", 0, 0), ("whole", 2, 8)):
            client.send("FileTransferStartUpload", transfer_uuid=name, part_count=parts, size_bytes=size, **fields)
        until(lambda: removed[1:] == ["upload-large", "upload-empty"])
        for index in (0, 1):
            part = {"source_component_uuid": button, "transfer_uuid": "whole", "part_index": index, "content": b"1234"}
            client.send("FileTransferPart", **part)
        until(lambda: removed[3:] == ["upload-whole"])
