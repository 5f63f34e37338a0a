"""The cameras of the capture, and its photos."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import viser

from nfc_gs.data.scene import SceneData
from nfc_gs.viewer.cameras import pose_of
from nfc_gs.viewer.frustums import Frustums, frustum_size
from nfc_gs.viewer.panels.panel import Command, Panel
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.source import Source

THUMBNAIL = 64
"""Longest side of the picture in a frustum, pixels."""

STEPS = {"previous": -1, "this": 0, "next": 1}

HERE, ALWAYS, NEVER = "in this tab", "always", "never"
"""When the cameras are shown in the scene."""

COLORS = {"train": (51, 154, 240), "test": (255, 146, 43)}


class ViewsPanel(Panel):
    """Views to go to, frustums, and the photo of the chosen view if there are photos."""

    title = "Views of the capture"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        assert session.content.scene is not None
        self.scene = session.content.scene
        test = set(self.scene.test)
        self._names = [f"{i}: {view.name}{' (test)' if i in test else ''}" for i, view in enumerate(self.scene.views)]
        self._frustums = Frustums(session, "/cameras", frustum_size(session.content))
        self._tab_is_open = False
        self._drawing = threading.Lock()  # held while frustums are added
        self._going = threading.RLock()  # held while the camera goes to a view: callbacks run in several threads

    def build(self, gui: viser.GuiApi) -> None:
        """Add the controls."""
        session = self.session
        self.chosen = gui.add_dropdown(
            "View", self._names, initial_value=self._names[session.state.view],
            hint="Move your camera to where this photo was taken.",
        )  # fmt: skip
        self.step = gui.add_button_group("Go to view", tuple(STEPS), hint="Keys: B and N")
        self.when = gui.add_dropdown(
            "Cameras", (HERE, ALWAYS, NEVER), initial_value=HERE,
            hint="In the scene: blue to train on, orange held out. Click one to go there; the nearest hide. Key: F",
        )  # fmt: skip
        self.size = gui.add_slider(
            "Size (×)", 0.2, 5.0, 0.1, 1.0, hint="Of the cameras in the scene; at 1 neighbours stay apart."
        )
        if session.content.has_photos:
            self._build_photo(gui)
        self.watch(self.chosen)
        self.step.on_click(session.guarded(lambda _: self._step(STEPS[self.step.value])))
        self.when.on_update(session.guarded(lambda _: self._show_frustums()))
        size = self._frustums.size
        self.size.on_update(session.guarded(lambda _: self._frustums.resize(size * float(self.size.value))))

    def _build_photo(self, gui: viser.GuiApi) -> None:
        """The chosen view's photo over the picture, and how well the sources match the photos."""
        session = self.session
        overlay = gui.add_slider("Photo", 0.0, 1.0, 0.05, 0.0, hint="Opacity of the view's photo over the picture.")
        measure = gui.add_button("PSNR here", hint="On the training view nearest to your camera; of both, if compared.")
        result = gui.add_markdown("", visible=False)

        def show_psnr(_: object) -> None:
            sources = [session.source] if session.state.compare == "off" else [session.source, session.other]
            result.content, result.visible = psnr_text(session, *sources), True

        overlay.on_update(session.guarded(lambda _: session.update(overlay=float(overlay.value))))
        measure.on_click(session.guarded(show_psnr))

    def settings(self) -> Mapping[str, Any]:
        """What outlasts the page."""
        return {"when": self.when, "size": self.size}

    def on_change(self, event: viser.GuiEvent[Any]) -> None:
        """Go to the view that is chosen, unless it was chosen by going there."""
        if event.client is not None:
            self.go_to(self._names.index(self.chosen.value))

    def commands(self) -> Sequence[Command]:
        """Keys to go through the views and to show frustums."""
        return (
            Command("N", "Next view", lambda: self._step(1)),
            Command("B", "Previous view", lambda: self._step(-1)),
            Command("F", "Show or hide the cameras", self._toggle_frustums),
        )

    def on_tab(self, is_open: bool) -> None:
        """Show the cameras with the tab."""
        self._tab_is_open = is_open
        self._show_frustums()

    def go_to(self, index: int) -> None:
        """Move the camera to a view, counted on from the first one after the last."""
        index %= len(self._names)
        with self._going:
            self.session.move_camera_to_view(index)
            if self.chosen.value != self._names[index]:
                self.chosen.value = self._names[index]

    def _step(self, by: int) -> None:
        with self._going:
            self.go_to(self.session.state.view + by)

    def _toggle_frustums(self) -> None:
        self.when.value = NEVER if self._are_wanted() else ALWAYS

    def _are_wanted(self) -> bool:
        """Whether the cameras are to be seen now."""
        return self.when.value == ALWAYS or (self.when.value == HERE and self._tab_is_open)

    def _show_frustums(self) -> None:
        """Show the cameras or hide them; they are added when they are shown for the first time."""
        self._frustums.visible = self._are_wanted()
        self.session.set_in_scene("cameras", self._frustums.visible)
        if self._frustums.visible and len(self._frustums) < len(self.scene.views):
            self.session.in_background(self._add_frustums)()

    def _add_frustums(self) -> None:
        """Add the cameras that are not in the scene yet, with their photos, which take time to read."""
        with self._drawing:
            for index in range(len(self._frustums), len(self.scene.views)):
                if self.session.closed or not self._are_wanted():
                    break
                camera = self.scene.views[index].camera
                aspect = camera.width / camera.height
                color = COLORS["test" if index in self.scene.test else "train"]
                go_to = self.session.guarded(lambda _, index=index: self.go_to(index))
                self._frustums.add(pose_of(camera, aspect), aspect, color, go_to, _thumbnail(self.scene, index))


def _thumbnail(scene: SceneData, index: int) -> np.ndarray | None:
    """The photo of a view, small; None without photos."""
    if not scene.has_photos:
        return None
    camera, divisor = scene.views[index].camera, 1
    while max(camera.width, camera.height) / (2 * divisor) >= THUMBNAIL:
        divisor *= 2
    return scene.image(index, divisor).rgb


def psnr_text(session: Session, *sources: Source) -> str:
    """PSNR of sources on the training view nearest to the camera, in lines."""
    index = session.nearest_view()
    assert session.content.scene is not None
    lines = [f"{source.name}: {session.psnr(source, index):.2f} dB" for source in dict.fromkeys(sources)]
    return "  \n".join([*lines, f"on the view {session.content.scene.views[index].name}"])
