"""Two sources side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import viser

from nfc_gs.viewer.border import FACES, LEAST, strip
from nfc_gs.viewer.panels.cameras import psnr_in_words
from nfc_gs.viewer.session import Session

STEP = 0.005
"""Of the slider, as a share of the picture's width."""


def add_compare(session: Session) -> None:
    """Which two sources are looked at, how, where the border is, and how well each shows the capture."""
    gui, sources = session.client.gui, {source.name: source for source in session.viewer.sources}
    mode = gui.add_dropdown(
        "Compare", ("off", "split", "flicker"), initial_value="off",
        hint="Split: left and right of a border, which you drag on the picture. Flicker: in turn. Key: V",
    )  # fmt: skip
    names = tuple(sources)
    left = gui.add_dropdown("Left", names, initial_value=session.source.name, hint="What is looked at.")
    right = gui.add_dropdown("Right", names, initial_value=session.other.name, hint="What it is compared with.")
    split = gui.add_slider("Border", 0.0, 1.0, STEP, 0.5, hint="The same border as on the picture, 0 at its left.")
    notes = gui.add_markdown("", visible=False)
    result = gui.add_markdown("", visible=False)
    if session.has_photos:
        measure = gui.add_button("PSNR of both", hint="On the training view nearest to your camera.")

        def measured(_: object) -> None:
            result.content, result.visible = psnr_in_words(session, session.source, session.other), True

        measure.on_click(session.guarded(measured))
    session.compare_control = mode
    follow = _add_handle(session, split)

    def changed(event: viser.GuiEvent) -> None:
        if event.target is split and event.client is None:
            return  # the slider follows the border
        session.change(
            compare=mode.value,
            source=sources[left.value],
            other=sources[right.value],
            split=float(split.value),
        )
        places = [session.place_of(source).note for source in dict.fromkeys((session.source, session.other))]
        notes.content = "  \n".join(note for note in places if note)
        notes.visible = bool(notes.content) and session.compare != "off"
        if event.target in (left, right):
            result.visible = False  # it was of others
        follow()

    for control in (mode, left, right, split):
        control.on_update(session.guarded(changed))


def _add_handle(session: Session, slider: viser.GuiSliderHandle[Any]) -> Callable[[], None]:
    """Let the border be dragged on the picture; returns what brings its handle to where the border is."""
    client = session.client
    handle = client.scene.add_mesh_simple(
        "/border", np.zeros((4, 3)), FACES, side="double", cast_shadow=False, receive_shadow=False, visible=False
    )

    def follow() -> None:
        handle.visible = session.splits and session.window[0] > 0
        if handle.visible:
            depth = 0.5 * float(client.camera.near)  # nearer than what is drawn
            handle.vertices = strip(session.pose, *session.window, session.split, depth)

    def drag(event: viser.SceneNodeDragEvent[Any]) -> None:
        split = min(max(event.end_screen_pos[0], LEAST), 1.0 - LEAST)
        session.change(split=split)
        slider.value = round(split / STEP) * STEP
        follow()

    @handle.on_drag("left")
    async def _(event: viser.SceneNodeDragEvent[Any]) -> None:  # async keeps the order of the events
        session.guarded(drag)(event)

    @client.camera.on_update
    async def _(_: object) -> None:
        session.guarded(follow)()

    return follow
