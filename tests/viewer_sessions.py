"""A session of the viewer whose client is none, and a clock that the tests set."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nfc_gs.viewer import session as sessions
from nfc_gs.viewer.content import Content
from nfc_gs.viewer.scheduler import Scheduler
from nfc_gs.viewer.session import AT_REST, REFINED, Session
from nfc_gs.viewer.source import Source

WINDOW = (64, 48)


class Clock:
    """Seconds that pass only when a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class ClientId:
    """The identity of a client, which weak references show to be forgotten."""


def is_forgotten(session: Session) -> bool:
    """Whether the scheduler keeps nothing of a session's client any more; the session cannot be used after this."""
    kept = weakref.ref(session.client.client_id)
    session.client.client_id = 0  # type: ignore[misc]
    gc.collect()
    return kept() is None


def looking(*sources: Source) -> tuple[Session, Scheduler, Clock, list[np.ndarray]]:
    """A session whose client keeps the pictures that it gets; nothing is drawn before the test says so."""
    clock, pictures = Clock(), []
    scheduler = Scheduler(clock)
    width, height = WINDOW
    client = SimpleNamespace(
        client_id=ClientId(), flush=lambda: None,
        camera=SimpleNamespace(position=(0.0, 0.0, -3.0), wxyz=(1.0, 0.0, 0.0, 0.0), fov=1.0, image_width=width,
                               image_height=height),
        scene=SimpleNamespace(
            set_background_image=lambda rgb, *_, **__: pictures.append(rgb), remove_by_name=lambda name: None,
            add_gaussian_splats=lambda *_: None,
        ),
    )  # fmt: skip
    session = Session(client, Content(sources, backend="cpu"), scheduler)  # type: ignore[arg-type]
    return session, scheduler, clock, pictures


def use_tiles(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    """Draw pictures at rest in tiles of this size, and refined ones in tiles of half of it."""
    monkeypatch.setattr(sessions, "AT_REST", replace(AT_REST, tile=tile))
    monkeypatch.setattr(sessions, "REFINED", replace(REFINED, tile=tile // 2))
