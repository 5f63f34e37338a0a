"""Two sources side by side."""

from __future__ import annotations

from nfc_gs.viewer.session import Session
from nfc_gs.viewer.source import Source


def add_compare(session: Session) -> None:
    """Which source is looked at, and which it is compared with."""
    gui, sources = session.client.gui, session.viewer.sources
    names = [source.name for source in sources]
    mode = gui.add_dropdown(
        "Compare", ("off", "split", "flicker"), initial_value="off", hint="Left and right of a border, or in turn."
    )
    left = gui.add_dropdown("Left", names, initial_value=session.source.name, hint="What is looked at.")
    right = gui.add_dropdown("Right", names, initial_value=session.other.name, hint="What it is compared with.")
    split = gui.add_slider("Border", 0.0, 1.0, 0.005, 0.5, hint="Drag it over the picture.")

    def changed(_: object) -> None:
        session.change(
            compare=mode.value,
            source=_named(sources, left.value),
            other=_named(sources, right.value),
            split=float(split.value),
        )

    for control in (mode, left, right, split):
        control.on_update(session.guarded(changed))


def _named(sources: list[Source], name: str) -> Source:
    return next(source for source in sources if source.name == name)
