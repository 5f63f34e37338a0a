"""A session of the viewer whose client is none, and a clock that the tests set."""

from __future__ import annotations

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


def looking(*sources: Source) -> tuple[Session, Scheduler, Clock, list[np.ndarray]]:
    """A session whose client keeps the pictures that it gets; nothing is drawn before the test says so."""
    clock, pictures = Clock(), []
    scheduler = Scheduler(clock)
    width, height = WINDOW
    client = SimpleNamespace(
        client_id=1, flush=lambda: None,
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
