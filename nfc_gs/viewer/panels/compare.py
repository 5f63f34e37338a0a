"""Two sources side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import viser

from nfc_gs.viewer.border import FACES, MIN_SPLIT, strip
from nfc_gs.viewer.panels.panel import Command, Panel
from nfc_gs.viewer.panels.views import psnr_text

STEP = 0.005
"""Of the slider, as a share of the picture's width."""


class ComparePanel(Panel):
    """Which two sources are shown, how, where the border is, and how well each shows the capture."""

    def build(self, gui: viser.GuiApi) -> None:
        """Add the controls, and the border to the browser's scene."""
        session, names = self.session, tuple(source.name for source in self.session.content.sources)
        self.mode = gui.add_dropdown(
            "Compare", ("off", "split", "flicker"), initial_value=session.state.compare,
            hint="Split: left and right of a border, which you drag on the picture. Flicker: in turn. Key: V",
        )  # fmt: skip
        self.left = gui.add_dropdown(
            "Left", names, initial_value=session.state.source, hint="The source that is shown."
        )
        self.right = gui.add_dropdown(
            "Right", names, initial_value=session.state.other, hint="The one it is compared with."
        )
        self.split = gui.add_slider(
            "Border", 0.0, 1.0, STEP, 0.5, hint="The same border as on the picture, 0 at its left."
        )
        self.notes = gui.add_markdown("", visible=False)
        self.result = gui.add_markdown("", visible=False)
        if session.content.has_photos:
            measure = gui.add_button("PSNR of both", hint="On the training view nearest to your camera.")
            measure.on_click(session.guarded(lambda _: self._show_psnr()))
        self.watch(self.mode, self.left, self.right, self.split)
        self._add_border()
        self._show_notes()

    def settings(self) -> Mapping[str, Any]:
        """What outlasts the page."""
        return {"mode": self.mode, "left": self.left, "right": self.right, "split": self.split}

    def on_change(self, event: viser.GuiEvent[Any]) -> None:
        """Compare as the controls say."""
        if event.target is self.split and event.client is None:
            return  # the slider follows the border
        session = self.session
        session.update(
            compare=self.mode.value,
            source=self.left.value,
            other=self.right.value,
            split=float(self.split.value),
        )
        self._show_notes()
        if event.target in (self.left, self.right):
            self.result.visible = False  # it was of others
        self._move_border()

    def _show_notes(self) -> None:
        """Say what is not known of how the two lie beside each other."""
        session = self.session
        placements = [session.content.placement_of(source) for source in dict.fromkeys((session.source, session.other))]
        self.notes.content = "  \n".join(placement.note for placement in placements if placement.note)
        self.notes.visible = bool(self.notes.content) and session.state.compare != "off"

    def commands(self) -> Sequence[Command]:
        """A key to compare."""
        return (Command("V", "Compare on or off", self._toggle),)

    def _toggle(self) -> None:
        self.mode.value = "split" if self.mode.value == "off" else "off"

    def _show_psnr(self) -> None:
        self.result.content = psnr_text(self.session, self.session.source, self.session.other)
        self.result.visible = True

    def _add_border(self) -> None:
        """Let the border be dragged on the picture."""
        client = self.session.client
        self.border = client.scene.add_mesh_simple(
            "/border", np.zeros((4, 3)), FACES, side="double", cast_shadow=False, receive_shadow=False, visible=False
        )

        @self.border.on_drag("left")
        async def _(event: viser.SceneNodeDragEvent[Any]) -> None:  # async keeps the order of the events
            self.session.guarded(self._drag_border)(event)

        @client.camera.on_update
        async def _(_: object) -> None:
            self.session.guarded(self._move_border)()

    def _move_border(self) -> None:
        """Bring what is dragged to where the border is."""
        session = self.session
        self.border.visible = session.state.is_split and session.window[0] > 0
        if self.border.visible:
            depth = 0.5 * float(session.client.camera.near)  # nearer than what is drawn
            self.border.vertices = strip(session.pose, *session.window, session.state.split, depth)

    def _drag_border(self, event: viser.SceneNodeDragEvent[Any]) -> None:
        split = min(max(event.end_screen_pos[0], MIN_SPLIT), 1.0 - MIN_SPLIT)
        self.session.update(split=split)
        self.split.value = round(split / STEP) * STEP
        self._move_border()
