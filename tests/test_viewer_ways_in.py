"""The ways to the viewer: `view`, `train --view`, the end of `demo`, and Python."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_scenes import tiny_config, tiny_scene
from viewer_client import Client, until
from viewer_models import model

import nfc_gs
from nfc_gs import cli
from nfc_gs.commands import demo
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.formats.ply import write_ply
from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.server import Server


class Waits:
    """What happened at the end of a command, where a browser connects, and the user then presses Ctrl-C.

    Attributes:
        shown: names of what was shown.
        urls: where.
        opened: pages that were opened in a browser.
        shared: viewers that were made public.
    """

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.urls: list[str] = []
        self.opened: list[str] = []
        self.shared = 0


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    found = Waits()

    def wait(viewer: Viewer) -> None:
        client = Client(viewer)
        client.move(0.0)
        until(lambda: len(viewer.sessions) == 1)
        found.shown.append(next(iter(viewer.sessions.values())).source.name)
        found.urls.append(viewer.url)
        client.close()
        raise KeyboardInterrupt

    def share(server: Server, verbose: bool = True) -> None:
        found.shared += server.sharing

    monkeypatch.setattr(Viewer, "wait", wait)
    monkeypatch.setattr("webbrowser.open", found.opened.append)
    monkeypatch.setattr(Server, "request_share_url", share)
    return found


@pytest.fixture
def port() -> Iterator[int]:
    """A port that something else listens at."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


@pytest.fixture(scope="module")
def splat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ways in") / "vase.ply"
    write_ply(file, model())
    return file


def urls_in(text: str) -> set[str]:
    return set(re.findall(r"http\S+", text))


def nfc(*words: object) -> int:
    return cli.main([str(word) for word in words])


def test_view_prints_one_url_says_that_its_port_is_taken_and_opens_nothing(
    waits: Waits, splat: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nfc("view", splat, "--device", "cpu", "--port", port) == 0
    out = capsys.readouterr().out
    assert out.count("http") == 1 and urls_in(out) == set(waits.urls) and not waits.urls[0].endswith(f":{port}")
    assert f"Port {port} is taken" in out
    assert (waits.shown, waits.opened, waits.shared) == (["vase"], [], 0)


def test_view_opens_a_browser_and_is_shared_on_request(
    waits: Waits, splat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nfc("view", splat, "--device", "cpu", "--port", 8640, "--open", "--share", "--host", "localhost") == 0
    assert waits.opened == waits.urls and waits.urls[0].startswith("http://localhost:86") and waits.shared == 1
    assert "is taken" not in capsys.readouterr().out


def test_a_proxy_is_trusted_by_an_option_of_view_and_of_train_and_in_python(
    waits: Waits, splat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trusted: list[set[str]] = []
    monkeypatch.setattr("webbrowser.open", lambda url: None)
    begin = Server.__init__

    def note(self: Server, host: str, port: int, **options: Any) -> None:
        begin(self, host, port, **options)
        trusted.append(set(options["trusted_origins"]))

    monkeypatch.setattr(Server, "__init__", note)
    both = ("--trusted-origin", "https://a.org", "--trusted-origin", "http://b.org:81")
    assert nfc("view", splat, "--device", "cpu", "--port", 8680, *both) == 0
    capture = write_capture(tmp_path / "capture", views=6, width=48, height=36)
    small = ("--steps", 3, "--max-gaussians", 60, "--device", "cpu", "--backend", "cpu", "--out", tmp_path / "run")
    assert nfc("train", capture, *small, "--view", "--port", 8680, *both) == 0
    nfc_gs.view(splat, port=8680, trusted_origins=["https://a.org", "http://b.org:81"])
    assert trusted == [{"https://a.org", "http://b.org:81"}] * 3
    assert nfc("view", splat, "--device", "cpu", "--port", 8680, "--trusted-origin", "a.org") == 2
    assert "'a.org' is no trusted origin" in capsys.readouterr().err


def test_a_training_is_shown_at_the_given_address(
    waits: Waits, port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture = write_capture(tmp_path / "capture", views=6, width=48, height=36)
    small = ("--steps", 3, "--max-gaussians", 60, "--device", "cpu", "--backend", "cpu", "--out", tmp_path / "run")
    assert nfc("train", capture, *small, "--view", "--port", port, "--host", "localhost", "--open", "--share") == 0
    out = capsys.readouterr().out
    assert waits.opened == waits.urls and urls_in(out) == set(waits.urls) and waits.shown == ["run"]
    assert waits.urls[0].startswith("http://localhost:") and waits.shared == 1
    assert f"Port {port} is taken" in out and "The viewer stays open" in out


def test_the_demo_ends_with_its_splat_in_the_viewer(
    waits: Waits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("DEMO_VIEWS", 8), ("DEMO_WIDTH", 48), ("DEMO_HEIGHT", 36)):
        monkeypatch.setattr(demo, name, value)
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(demo, "sys", SimpleNamespace(stdin=terminal, stdout=terminal))
    words = ("demo", "--steps", 3, "--device", "cpu", "--out", tmp_path / "shown", "--port", 8650, "--open")
    assert nfc(*words) == 0
    assert waits.shown == ["shown"] and waits.opened == waits.urls and ":865" in waits.urls[0]
    assert urls_in(capsys.readouterr().out) == set(waits.urls)


def test_python_looks_at_a_model_and_closes_what_it_waited_for(
    waits: Waits, splat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with nfc_gs.view([model(), splat], port=8660, wait=False, open_browser=True) as viewer:
        assert capsys.readouterr().out == f"Viewer: {viewer.url}\n" and waits.opened == [viewer.url]
        assert [source.name for source in viewer.content.sources] == ["model", "vase"] and not viewer.closed
    assert nfc_gs.view(splat, port=8660).closed and waits.shown == ["vase"]


def test_python_looks_at_what_training_and_opening_return(waits: Waits, splat: Path, tmp_path: Path) -> None:
    trainer = nfc_gs.Trainer(tiny_scene(), tiny_config(), tmp_path / "blobs", capture="tiny")
    trained = nfc_gs.TrainedRun(tmp_path / "blobs", None, trainer)
    opened = nfc_gs.load_model(splat)
    with nfc_gs.view([trained, opened, nfc_gs.load_model(tmp_path / "blobs")], port=8660, wait=False) as viewer:
        assert [source.name for source in viewer.content.sources] == ["blobs", "vase", "blobs (2)"]
    with pytest.raises(nfc_gs.UserError, match="A int is no model; give a GaussianModel"):
        nfc_gs.view(3, port=8660)  # type: ignore[arg-type]
