"""The viewer's page in a real browser, and many scripted clients at once."""

from __future__ import annotations

import gc
import io
import logging
import shutil
import socket
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nfc_gs.core.errors import UserError
from nfc_gs.data.open import load_scene
from nfc_gs.data.scene import SceneData, TimeAxis
from nfc_gs.data.synthetic import write_capture
from nfc_gs.model.color_head import start_bits
from nfc_gs.model.deformation import Deformation
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.viewer.app import Viewer, free_port
from nfc_gs.viewer.draw import Look, Style, draw
from nfc_gs.viewer.panels.show import browser_splats
from nfc_gs.viewer.server import is_own
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.source import Source

SIZE = (720, 440)

PICTURE = (slice(180, None), slice(0, 380))
"""Rows and columns of the window that no control covers."""

CHROMIUM = [
    *("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
    "--disable-background-networking",
]


class Sway(Deformation):
    """Moves everything to the side in the course of time."""

    def __init__(self) -> None:
        super().__init__("mlp", ("means",), torch.tensor([[-9.0] * 3, [9.0] * 3]))

    def changes(self, means: torch.Tensor, time: float, kernels: object = None) -> torch.Tensor:
        return torch.tensor([0.5 * time, 0.0, 0.0]).expand_as(means)


def bits_model(scene: SceneData, hue: float, count: int = 300) -> GaussianModel:
    """Splats with bits around the points of the scene."""
    generator = torch.Generator().manual_seed(0)
    pick = torch.randint(len(scene.points), (count,), generator=generator)
    rgb = torch.rand(count, 3, generator=generator) * torch.tensor([1.0, hue, 1.0 - hue])
    return GaussianModel(
        {
            "means": torch.from_numpy(scene.points.xyz)[pick],
            "log_scales": torch.full((count, 3), -2.0),
            "quats": torch.randn(count, 4, generator=generator),
            "opacity_logits": torch.full((count,), 2.0),
            **start_bits(rgb, 1, hardness=0.7),
        }
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> SceneData:
    return load_scene(write_capture(tmp_path_factory.mktemp("page") / "capture", views=6, width=48, height=36))


def sources(scene: SceneData) -> list[Source]:
    moving = bits_model(scene, 0.2)
    moving.deformation = Sway()
    return [
        Source("one", moving, scene=scene, time_axis=TimeAxis(0.0, 12.0, "seconds")),
        Source("two", bits_model(scene, 0.9), scene=scene),
    ]


@pytest.fixture(scope="module")
def viewer(scene: SceneData) -> Iterator[Viewer]:
    with Viewer(sources(scene), port=8700, backend="cpu") as shown:
        yield shown


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=CHROMIUM)
        yield started
        started.close()


@pytest.fixture(scope="module")
def tab(browser: Any) -> Iterator[tuple[Any, list[str]]]:
    """A tab of the browser, and what its pages complain of."""
    context = browser.new_context(accept_downloads=True)
    opened, problems = context.new_page(), []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    yield opened, problems
    context.close()


class Page:
    """The page of a viewer in a browser, and the session behind it."""

    def __init__(self, page: Any, viewer: Viewer, problems: list[str]) -> None:
        self.page, self.problems = page, problems
        until(lambda: len(viewer.sessions) == 1, page)
        self.session: Session = next(iter(viewer.sessions.values()))
        self.settle()

    def settle(self) -> np.ndarray:
        """What the window shows once it has its refined picture, [H, W, 3], without the panel on its right."""
        scheduler = self.session.viewer.scheduler
        quiet = [self.session.pictures, time.monotonic()]

        def is_quiet() -> bool:
            now = self.session.pictures
            if now != quiet[0] or now == 0 or scheduler.wait_time() is not None:
                quiet[:] = [now, time.monotonic()]
            return time.monotonic() - quiet[1] > 0.25

        until(is_quiet, self.page)
        shots: list[np.ndarray] = []

        def is_still() -> bool:  # the page fades what is new in, and may be late
            self.page.wait_for_timeout(100)
            shots.append(self.shot())
            return len(shots) > 2 and all(np.abs(shots[-1] - shot).mean() < 0.2 for shot in shots[-3:-1])

        until(is_still, self.page)
        return shots[-1]

    def shot(self) -> np.ndarray:
        """What the window shows now, [H, W, 3], where no control covers it."""
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))[PICTURE].astype(int)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def choose(self, label: str, value: str) -> None:
        self.page.get_by_label(label, exact=True).first.click()
        self.page.get_by_role("option", name=value, exact=True).click()

    def number(self, label: str, value: float) -> None:
        """Type into the number of a control, or beside its slider."""
        field = self._field(label)
        field.fill(str(value))
        field.press("Enter")
        field.blur()

    def shown(self, label: str) -> str:
        """The number that a control shows."""
        return self._field(label).input_value()

    def _field(self, label: str) -> Any:
        row = self.page.locator(f"xpath=//label[normalize-space()='{label}']/ancestor::*[.//input[@type='text']][1]")
        return row.locator("input[type=text]").last

    def check(self, label: str) -> None:
        self.page.get_by_label(label, exact=True).click()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def download(self, name: str) -> bytes:
        with self.page.expect_download(timeout=60_000) as found:
            self.press(name)
        return Path(found.value.path()).read_bytes()


def until(condition: Callable[[], bool], page: Any = None, seconds: float = 40.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        if page is None:
            time.sleep(0.02)
        else:
            getattr(page, "page", page).wait_for_timeout(20)


@pytest.fixture
def page(tab: tuple[Any, list[str]], viewer: Viewer) -> Iterator[Page]:
    opened, problems = tab
    problems.clear()
    opened.set_viewport_size({"width": SIZE[0], "height": SIZE[1]})
    opened.goto(viewer.url)
    yield Page(opened, viewer, problems)
    opened.goto("about:blank")
    until(lambda: not viewer.sessions, opened)
    assert problems == []


def differs(a: np.ndarray, b: np.ndarray) -> bool:
    """Two screenshots show different things: more than JPEG makes of one picture."""
    return float(np.abs(a - b).mean()) > 1.0


# ---- the page ----


def test_the_picture_is_that_of_our_renderer_and_changes_with_the_camera(page: Page) -> None:
    before, session = page.settle(), page.session
    camera = session.pose.camera(*SIZE)
    model = session.still()
    expected = draw(model, camera, Look(), Style("cpu"), samples=2).rgb[PICTURE]
    assert np.abs(before - expected).mean() < 2.0  # of 255, JPEG and the browser's scaling
    assert expected.std() > 10
    place = session.pose
    page.page.mouse.move(200, 320)
    page.page.mouse.down()
    page.page.mouse.move(280, 340, steps=6)
    page.page.mouse.up()
    after = page.settle()
    assert session.pose != place and differs(before, after)
    page.page.keyboard.press("r")
    assert np.abs(page.settle() - before).mean() < 1.5


@pytest.mark.slow
def test_each_control_of_showing_does_what_it_says(page: Page) -> None:
    seen = {"colour": page.settle()}
    for show in ("depth", "alpha", "normals", "count", "bits", "entropy", "error", "bit"):
        page.choose("Show", show)
        seen[show] = page.settle()
        assert page.session.look.show == show
    page.number("Bit plane", 6)
    seen["plane"] = page.settle()
    page.choose("Channel", "blue")
    seen["channel"] = page.settle()
    assert (page.session.look.bit, page.session.look.channel) == (6, 2)
    page.choose("Show", "colour")
    page.check("Points")
    seen["points"] = page.settle()
    page.check("Points")
    page.number("Scale of splats", 0.3)
    seen["small"] = page.settle()
    page.number("SH degree", 0)
    page.settle()
    assert (page.session.look.splat_scale, page.session.look.sh_degree) == (0.3, 0)
    names = list(seen)
    same = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if np.abs(seen[a] - seen[b]).mean() < 0.2]
    assert same == []


def test_the_browser_draws_splats_itself(page: Page) -> None:
    page.number("Scale of splats", 0.3)  # small ones are quickly drawn without a GPU
    before = page.settle()
    page.check("Draw in the browser")
    until(lambda: page.session.browser, page)
    pictures = page.session.pictures

    def is_drawn() -> bool:
        shot = page.shot()
        return shot.std() > 10 and np.corrcoef(shot.ravel(), before.ravel())[0, 1] > 0.9  # without view dependence

    until(is_drawn, page, 90.0)
    assert page.session.pictures == pictures
    page.check("Draw in the browser")
    until(lambda: not page.session.browser, page)
    assert all(np.isfinite(values).all() for values in browser_splats(page.session))
    page.problems[:] = [text for text in page.problems if "computeBoundingSphere" not in text]  # viser's own, harmless
    assert np.abs(page.settle() - before).mean() < 1.5


def test_time_moves_the_scene_and_plays(page: Page) -> None:
    before = page.settle()
    page.number("Time", 0.8)
    until(lambda: page.session.time == 0.8, page)
    assert differs(before, page.settle())
    assert page.page.get_by_text("9.60 seconds").is_visible()
    page.press("◀ back")
    until(lambda: page.session.time == pytest.approx(0.8 - 1 / 60), page)
    page.page.keyboard.press("p")
    until(lambda: page.session.playing and page.session.time < 0.5, page)  # it has begun again at its end
    page.page.keyboard.press("p")
    until(lambda: not page.session.playing, page)


@pytest.mark.slow
def test_two_sources_are_compared(page: Page) -> None:
    before = page.settle()
    page.tab("Compare")
    page.choose("Compare", "split")
    page.number("Border", 0.3)
    until(lambda: page.session.split == 0.3, page)
    split = page.settle()
    border = round(0.3 * SIZE[0])
    assert differs(before[:, border + 5 :], split[:, border + 5 :])
    assert not differs(before[:, : border - 5], split[:, : border - 5])
    page.tab("Show")
    page.page.get_by_text("Screenshot", exact=True).click()
    page.number("Width", SIZE[0] / 2)
    page.number("Height", SIZE[1] / 2)
    shot = np.asarray(Image.open(io.BytesIO(page.download("Download screenshot"))).convert("RGB")).astype(int)
    seen = split[::2, ::2]
    assert np.abs(shot[PICTURE[0].start // 2 :, : seen.shape[1]] - seen).mean() < 2.5  # it was drawn half as large
    page.tab("Compare")
    page.choose("Compare", "flicker")
    pictures = page.session.pictures
    until(lambda: page.session.pictures >= pictures + 4, page)
    page.choose("Compare", "off")
    until(lambda: not differs(before, page.settle()), page)


@pytest.mark.slow
def test_cameras_are_stood_at_measured_and_gone_to(page: Page, scene: SceneData) -> None:
    page.tab("Cameras")
    page.check("Frustums")
    page.settle()
    assert page.session.in_scene == {"frustums"}
    page.check("Frustums")
    until(lambda: not page.session.in_scene, page)
    page.choose("View", f"3: {scene.views[3].name}")
    page.settle()
    np.testing.assert_allclose(page.session.pose.position, scene.views[3].camera.center, atol=1e-4)
    page.number("Photo", 1.0)
    shown = page.settle()
    photo = scene.frame(3).rgb
    top, left = SIZE[1] // 2 - PICTURE[0].start, SIZE[0] // 2
    middle = shown[top - 40 : top + 40, left - 40 : left + 20].mean((0, 1))
    assert np.abs(middle - photo[14:22, 20:26].mean((0, 1))).max() < 25  # a rough place, of a small photo
    page.press("PSNR here")
    page.page.get_by_text("dB").first.wait_for()
    page.page.locator("textarea").first.fill('{"position": [0, 0, -2], "wxyz": [1, 0, 0, 0], "fov": 0.8}')
    page.page.locator("textarea").first.blur()
    page.page.wait_for_timeout(500)
    page.press("Go to JSON")
    until(lambda: np.allclose(page.session.pose.position, (0, 0, -2), atol=1e-6), page)
    until(lambda: page.shown("Field of view") == "46", page)  # degrees of 0.8
    assert page.session.pose.fov == pytest.approx(0.8, abs=1e-6)
    page.page.locator("textarea").first.fill("__import__('os').abort()")
    page.page.locator("textarea").first.blur()
    page.page.wait_for_timeout(500)
    page.press("Go to JSON")
    page.page.get_by_text("not valid JSON").first.wait_for()


@pytest.mark.slow
def test_a_path_becomes_a_video_that_plays_and_pictures(page: Page, tmp_path: Path) -> None:
    import imageio.v3 as iio

    page.tab("Path")
    page.press("Add keyframe here")
    page.session.stand_at(page.session.pose.__class__((0.5, 0.0, -2.0), (1.0, 0.0, 0.0, 0.0), 0.9))
    page.settle()
    page.press("Add keyframe here")
    until(lambda: len(page.session.path.path.keys) == 2 and page.session.in_scene == {"path"}, page)
    for label, value in (("Seconds", 1.0), ("Pictures per second", 8), ("Width", 64), ("Height", 48)):
        page.number(label, value)
    until(lambda: page.session.path.path.frames == 8, page)
    video = tmp_path / "path.mp4"
    video.write_bytes(page.download("Render and download"))
    frames = iio.imread(video)
    assert frames.shape == (8, 48, 64, 3) and np.abs(frames[0].astype(int) - frames[-1]).mean() > 2
    page.choose("File", "PNGs (zip)")
    with zipfile.ZipFile(io.BytesIO(page.download("Render and download"))) as archive:
        assert len(archive.namelist()) == 8
    page.session.stand_at(page.session.pose.__class__((0.0, 0.0, -3.0), (1.0, 0.0, 0.0, 0.0), 0.9))
    page.press("Preview")
    until(lambda: np.allclose(page.session.pose.position, (0.5, 0.0, -2.0), atol=1e-4), page)
    page.press("remove")
    until(lambda: len(page.session.path.path.keys) == 1 and not page.session.in_scene, page)


@pytest.mark.slow
def test_screenshot_and_edited_splat_are_downloaded(page: Page, tmp_path: Path) -> None:
    from nfc_gs.export.ply import read_ply

    before = page.settle()
    page.page.get_by_text("Screenshot", exact=True).click()
    page.number("Width", 200)
    page.number("Height", 100)
    picture = Image.open(io.BytesIO(page.download("Download screenshot")))
    assert picture.size == (200, 100) and np.asarray(picture).std() > 10
    page.tab("Edit")
    page.choose("Crop", "sphere")
    page.page.get_by_text("of 300 Gaussians are left").wait_for()
    assert differs(before, page.settle())
    left = int(page.session.look.edit.kept(page.session.source.snapshot().model).sum())
    file = tmp_path / "left.ply"
    file.write_bytes(page.download("Export what is left as PLY"))
    assert 0 < len(read_ply(file)) == left < 300 and page.session.in_scene == {"crop"}
    page.choose("Crop", "none")
    until(lambda: not page.session.in_scene, page)
    assert not differs(before[:, 285:], page.settle()[:, 285:])  # beside the browser's notes on downloads


def test_the_window_may_become_a_phone_or_nothing(page: Page) -> None:
    page.page.set_viewport_size({"width": 390, "height": 780})
    page.settle()
    assert page.session.window[0] <= 390
    page.page.set_viewport_size({"width": 1, "height": 1})
    page.page.wait_for_timeout(500)
    page.page.set_viewport_size({"width": SIZE[0], "height": SIZE[1]})
    assert page.settle().std() > 10


# ---- many clients, and those who wish no good ----


class Client:
    """A browser's end of the connection, scripted."""

    def __init__(self, viewer: Viewer, origin: Any = None) -> None:
        import viser
        from websockets.sync.client import connect

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
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                self.received += len(self.socket.recv())
        except ConnectionClosed:
            pass

    def look(self, x: float, **changes: Any) -> None:
        import msgspec

        camera = {
            "type": "ViewerCameraMessage", "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [x, 0.0, -3.0], "fov": 1.0,
            "near": 0.01, "far": 100.0, "image_height": 48, "image_width": 64, "look_at": [x, 0.0, 0.0],
            "up_direction": [0.0, -1.0, 0.0],
        }  # fmt: skip
        self.socket.send(msgspec.msgpack.encode(camera | changes))

    def close(self) -> None:
        self.socket.close()
        self.thread.join()


def test_twenty_clients_come_move_and_go_and_leave_nothing_behind(scene: SceneData) -> None:
    before = threading.active_count()
    with Viewer(sources(scene), port=8720, backend="cpu") as viewer:
        for _ in range(2):
            clients = [Client(viewer) for _ in range(20)]
            for client in clients:
                client.look(0.0)
            until(lambda: len(viewer.sessions) == 20)
            shown = list(viewer.sessions.values())
            for turn in range(5):
                for client in clients:
                    client.look(0.1 * turn)
            until(lambda shown=shown: all(session.pictures >= 3 for session in shown))
            for client in clients:
                client.look(9.0)
                client.close()  # in the middle of a render, for most
            until(lambda: not viewer.sessions)
            until(lambda: viewer.scheduler.wait_time() is None)
            until(lambda shown=shown: all(session.closed and not session._cache for session in shown))
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
    odd.look(0.0)
    good.look(0.0)
    until(lambda: len(viewer.sessions) == 2)
    odd.look(0.1, **changes)
    odd.socket.send(b"not a message")
    session = max(viewer.sessions.values(), key=lambda session: session.id)
    pictures = session.pictures
    good.look(0.2)
    until(lambda: session.pictures > pictures)
    odd.close()
    good.close()
    until(lambda: not viewer.sessions)


def test_the_page_of_a_stranger_gets_no_connection(viewer: Viewer) -> None:
    from websockets.exceptions import InvalidStatus

    port = viewer.url.rsplit(":", 1)[1]
    for origin in ("https://stranger.example", f"http://stranger.example:{port}", "http://localhost:1", "null"):
        with pytest.raises(InvalidStatus) as refused:
            Client(viewer, origin)
        assert refused.value.response.status_code == 403
    assert not viewer.server.get_clients()
    own = Client(viewer, viewer.url)
    own.look(0.0)
    until(lambda: len(viewer.sessions) == 1)
    own.close()
    until(lambda: not viewer.sessions)


@pytest.mark.parametrize(
    ("origin", "asked", "listens_at", "own"),
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
    origin: str | None, asked: str | None, listens_at: str, own: bool
) -> None:
    assert is_own(origin, asked, listens_at) == own


def test_the_server_gives_no_file_and_shares_nothing_unasked(viewer: Viewer) -> None:
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


def test_a_thousand_pictures_leave_no_memory_and_no_thread(viewer: Viewer) -> None:
    client = Client(viewer)
    client.look(0.0)
    until(lambda: len(viewer.sessions) == 1)
    session = next(iter(viewer.sessions.values()))
    until(lambda: viewer.scheduler.wait_time() is None)

    def draw_many(count: int) -> None:
        for _ in range(count):
            session._send((160, 90), "moving")

    draw_many(200)
    threads, start = threading.active_count(), resident()
    draw_many(1000)
    assert resident() - start < 8_000_000  # a thousand of the arrays drawn would be 170 MB
    assert threading.active_count() <= threads + 1
    tracemalloc.start()
    try:
        draw_many(20)
        start = tracemalloc.get_traced_memory()[0]
        draw_many(200)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - start < 100_000  # two hundred JPEGs would be 300 kB
    finally:
        tracemalloc.stop()
    client.close()
    until(lambda: not viewer.sessions)


def resident() -> int:
    """Bytes of memory of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        pytest.skip("the memory of a process is read from /proc")
    return pages * 4096


def test_a_fault_in_a_control_is_told_and_the_page_lives(viewer: Viewer, caplog: pytest.LogCaptureFixture) -> None:
    client = Client(viewer)
    client.look(0.0)
    until(lambda: len(viewer.sessions) == 1)
    session = next(iter(viewer.sessions.values()))

    def broken(_: object) -> None:
        raise RuntimeError("a broken control")

    with caplog.at_level(logging.ERROR):
        session.guarded(broken)(None)
    assert "a broken control" in caplog.text
    pictures = session.pictures
    client.look(0.5)
    until(lambda: session.pictures > pictures)
    client.close()
    until(lambda: not viewer.sessions)
