"""Many clients of the viewer at once, and hostile ones."""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from viewer_client import Client, sources, until, watch_models

from nfc_gs.core.errors import UserError
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.heads.sh import start_sh
from nfc_gs.viewer import server
from nfc_gs.viewer.app import Viewer, free_port
from nfc_gs.viewer.server import is_own
from nfc_gs.viewer.source import Source


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> SceneData:
    return load_scene(write_capture(tmp_path_factory.mktemp("page") / "capture", views=6, width=48, height=36))


@pytest.fixture(scope="module")
def viewer(scene: SceneData) -> Iterator[Viewer]:
    with Viewer(sources(scene), port=8700, backend="cpu") as shown:
        yield shown


def test_twenty_clients_come_move_and_go_and_leave_nothing_behind(
    scene: SceneData, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = watch_models(monkeypatch)
    before = threading.active_count()
    with Viewer(sources(scene), port=8720, backend="cpu") as viewer:
        for _ in range(2):
            clients = [Client(viewer) for _ in range(20)]
            for client in clients:
                client.move(0.0)
            until(lambda: len(viewer.sessions) == 20)
            shown = list(viewer.sessions.values())
            for turn in range(5):
                for client in clients:
                    client.move(0.1 * turn)
            until(lambda shown=shown: all(session.pictures_sent >= 3 for session in shown))
            assert len(models) >= 20
            for client in clients:
                client.move(9.0)
                client.close()  # in the middle of a render, for most
            until(lambda: not viewer.sessions)
            until(lambda: viewer.scheduler.wait_time() is None)
            until(lambda shown=shown: all(session.closed for session in shown) and len(models) == 0)
    until(lambda: threading.active_count() <= before)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_width": 0, "image_height": 0}, {"fov": float("nan")}, {"fov": 0.0}, {"image_width": 10**9},
        {"position": [float("nan")] * 3}, {"wxyz": [0.0] * 4}, {"position": [1e30, 0.0, 0.0]},
    ],
)  # fmt: skip
def test_a_window_of_nothing_and_a_camera_nowhere_stop_nobody(viewer: Viewer, changes: dict[str, Any]) -> None:
    odd, good = Client(viewer), Client(viewer)
    odd.move(0.0)
    good.move(0.0)
    until(lambda: len(viewer.sessions) == 2)
    odd.move(0.1, **changes)
    odd.socket.send(b"not a message")
    session = max(viewer.sessions.values(), key=lambda session: session.id)
    pictures = session.pictures_sent
    good.move(0.2)
    until(lambda: session.pictures_sent > pictures)
    odd.close()
    good.close()
    until(lambda: not viewer.sessions)


def test_a_foreign_page_gets_no_connection(viewer: Viewer) -> None:
    from websockets.exceptions import InvalidStatus

    port = viewer.url.rsplit(":", 1)[1]
    for origin in ("https://stranger.example", f"http://stranger.example:{port}", "http://localhost:1", "null"):
        with pytest.raises(InvalidStatus) as refused:
            Client(viewer, origin)
        assert refused.value.response.status_code == 403
    assert not viewer.server.get_clients()
    own = Client(viewer, viewer.url)
    own.move(0.0)
    until(lambda: len(viewer.sessions) == 1)
    own.close()
    until(lambda: not viewer.sessions)


@pytest.mark.parametrize(
    ("origin", "host", "address", "own"),
    [
        (None, "127.0.0.1:8080", "127.0.0.1", True),
        ("http://localhost:8080", "localhost:8080", "127.0.0.1", True),
        ("http://LOCALHOST:9000", "localhost:9000", "127.0.0.1", True),  # through a tunnel
        ("http://[::1]:8080", "[::1]:8080", "::1", True),
        ("http://localhost:3000", "localhost:8080", "127.0.0.1", False),  # another server on this machine
        ("http://stranger.example:8080", "stranger.example:8080", "127.0.0.1", False),  # a name that leads here
        ("http://box.lan:8080", "box.lan:8080", "0.0.0.0", True),
        ("http://stranger.example", "box.lan:8080", "0.0.0.0", False),
        ("null", "localhost:8080", "127.0.0.1", False),
        ("http://[", "localhost:8080", "127.0.0.1", False),
        ("http://localhost:8080", None, "127.0.0.1", False),
    ],
)
def test_only_the_servers_own_page_and_scripts_may_connect(
    origin: str | None, host: str | None, address: str, own: bool
) -> None:
    assert is_own(origin, host, address) == own


def test_the_server_gives_no_file_and_shares_nothing_by_default(viewer: Viewer) -> None:
    host, port = viewer.url.removeprefix("http://").split(":")
    assert host == "127.0.0.1"
    for path in ("/../../../../../../etc/passwd", "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd"):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert b"root:" not in connection.recv(4096)
    assert viewer.server.request_share_url() is None


def test_a_port_in_use_is_passed_over_and_a_wrong_one_gets_a_sentence(scene: SceneData) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port("127.0.0.1", port) == port + 1 or free_port("127.0.0.1", port) > port
        with Viewer(sources(scene), port=port, backend="cpu") as viewer:
            assert viewer.port_was_taken and not viewer.url.endswith(f":{port}")
    for host, wrong in (("127.0.0.1", 0), ("127.0.0.1", 70_000), ("no.such.host.invalid", 8080), ("203.0.113.7", 8080)):
        with pytest.raises(UserError, match=r"[.]$"):
            free_port(host, wrong)


def test_a_viser_that_starts_its_server_without_the_check_serves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_refusing", lambda refuses: contextlib.nullcontext([]))
    port = free_port("127.0.0.1", 8780)
    with pytest.raises(UserError, match=r"does not know viser .*install viser 1[.]1[.]$"):
        server.Server("127.0.0.1", port)
    until(lambda: free_port("127.0.0.1", port) == port)  # nothing listens there any more


def test_an_address_of_ipv6_is_one_that_a_browser_takes(scene: SceneData) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with Viewer(sources(scene), host="::1", port=8760, backend="cpu") as viewer:
        assert viewer.url.startswith("http://[::1]:87")
        client = Client(viewer, viewer.url)
        client.move(0.0)
        until(lambda: len(viewer.sessions) == 1)
        client.close()


def test_a_browser_that_leaves_is_noticed_while_all_of_visers_threads_wait(viewer: Viewer) -> None:
    client, go_on = Client(viewer), threading.Event()
    client.move(0.0)
    until(lambda: len(viewer.sessions) == 1)
    session = next(iter(viewer.sessions.values()))
    pool = viewer.server._thread_executor
    try:
        for _ in range(2 * pool._max_workers):
            pool.submit(go_on.wait)
        client.close()
        until(lambda: not viewer.sessions and session.closed, seconds=10.0)
    finally:
        go_on.set()


def test_what_takes_long_holds_no_thread_of_visers_and_runs_once_at_a_time(viewer: Viewer) -> None:
    client, go_on = Client(viewer), threading.Event()
    client.move(0.0)
    until(lambda: len(viewer.sessions) == 1)
    session = next(iter(viewer.sessions.values()))
    said: list[str] = []
    session.notify = lambda title, body, color=None: said.append(body)  # type: ignore[method-assign]
    started: list[int] = []

    def long(number: int) -> None:
        started.append(number)
        assert go_on.wait(20.0)

    call = session.in_background(long, busy="It goes on already.")
    call(1)  # returns at once
    until(lambda: started == [1])
    call(2)
    until(lambda: said == ["It goes on already."])
    go_on.set()

    def again() -> bool:
        call(3)
        return started[-1] == 3

    until(again)
    client.close()
    until(lambda: not viewer.sessions)


def test_hundreds_of_pictures_leave_no_memory_and_no_thread(viewer: Viewer) -> None:
    client = Client(viewer)
    client.move(0.0, image_width=160, image_height=90)
    until(lambda: len(viewer.sessions) == 1)
    session = next(iter(viewer.sessions.values()))
    until(lambda: session.pictures_sent >= 3)  # also at rest and refined

    def draw_many(count: int) -> None:
        for _ in range(count):
            before = session.pictures_sent
            session.request()
            while session.pictures_sent == before:
                session.run(lambda: None)  # takes turns with the pictures

    draw_many(100)
    threads, start = threading.active_count(), resident()
    draw_many(400)
    assert resident() - start < 8_000_000  # four hundred of the arrays drawn would be tens of megabytes
    assert threading.active_count() <= threads + 1
    tracemalloc.start()
    try:
        draw_many(20)
        start = traced(viewer)
        draw_many(200)
        grew = traced(viewer) - start
        assert grew < 150_000  # two hundred JPEGs would be 300 kB
    finally:
        tracemalloc.stop()
    client.close()
    until(lambda: not viewer.sessions)


def traced(viewer: Viewer) -> int:
    """Bytes that Python holds once nothing is left to draw."""
    until(lambda: viewer.scheduler.wait_time() is None)
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def resident() -> int:
    """Bytes of memory of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        pytest.skip("the memory of a process is read from /proc")
    return pages * 4096


@pytest.mark.slow
def test_two_million_gaussians_are_shown_in_two_browsers() -> None:
    count, generator = 2_000_000, torch.Generator().manual_seed(0)
    cloud = GaussianModel(
        {
            "means": torch.randn(count, 3, generator=generator),
            "log_scales": torch.full((count, 3), -5.0),
            "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
            "opacity_logits": torch.zeros(count),
            **start_sh(torch.rand(count, 3, generator=generator), 0),
        }
    )
    with Viewer([Source("cloud", cloud)], port=8710, backend="cpu") as viewer:
        clients = [Client(viewer), Client(viewer)]
        for client in clients:
            client.move(0.0)
        until(lambda: len(viewer.sessions) == 2)
        shown = list(viewer.sessions.values())
        for turn in range(6):
            for client in clients:
                client.move(0.1 * turn)
            until(lambda turn=turn: all(session.pictures_sent > turn for session in shown), seconds=120.0)
        until(lambda: all(session.pictures_sent >= 8 for session in shown), seconds=120.0)  # also at rest and refined
        for client in clients:
            client.close()
        until(lambda: not viewer.sessions)


def test_an_error_in_a_control_is_logged_and_the_page_goes_on(viewer: Viewer, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(viewer)
    client.move(0.0)
    until(lambda: len(viewer.sessions) == 1)
    session = next(iter(viewer.sessions.values()))

    def broken(_: object) -> None:
        raise RuntimeError("a broken control")

    with caplog.at_level(logging.ERROR):
        session.guarded(broken)(None)
    assert "a broken control" in caplog.text
    pictures = session.pictures_sent
    client.move(0.5)
    until(lambda: session.pictures_sent > pictures)
    client.close()
    until(lambda: not viewer.sessions)
