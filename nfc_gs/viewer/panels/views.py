"""The cameras of the capture, and its photos."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import viser

from nfc_gs.core.rotation import matrix_to_quat
from nfc_gs.viewer.panels.panel import Command, Panel
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.source import Source

THUMBNAIL = 64
"""Longest side of the picture in a frustum, pixels."""

STEPS = {"previous": -1, "this": 0, "next": 1}

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
        self._shown: list[viser.CameraFrustumHandle] = []
        self._drawing = threading.Lock()  # held while frustums are added or removed
        self._going = threading.RLock()  # held while the camera goes to a view: callbacks run in several threads

    def build(self, gui: viser.GuiApi) -> None:
        """Add the controls."""
        session = self.session
        self.chosen = gui.add_dropdown(
            "View", self._names, initial_value=self._names[session.state.view],
            hint="Move your camera to where this photo was taken.",
        )  # fmt: skip
        self.step = gui.add_button_group("Go to view", ("previous", "this", "next"), hint="Keys: B and N")
        self.frustums = gui.add_checkbox(
            "Frustums", False, hint="The cameras in the scene: blue to train on, orange held out. Click one. Key: F"
        )
        size = round(min(max(0.06 * self.scene.extent, 0.01), 1.0), 2)
        self.size = gui.add_slider("Size of frustums", 0.01, 1.0, 0.01, size, hint="Scene units.")
        if session.content.has_photos:
            self._build_photo(gui)
        self.watch(self.chosen)
        self.step.on_click(
            session.guarded(lambda _: self._step({"previous": -1, "this": 0, "next": 1}[self.step.value]))
        )
        self.frustums.on_update(session.guarded(lambda _: self._draw_frustums()))
        self.size.on_update(session.guarded(lambda _: self._resize_frustums()))

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

    def on_change(self, event: viser.GuiEvent[Any]) -> None:
        """Go to the view that is chosen, unless it was chosen by going there."""
        if event.client is not None:
            self.go_to(self._names.index(self.chosen.value))

    def commands(self) -> Sequence[Command]:
        """Keys to go through the views and to show frustums."""
        return (
            Command("N", "Next view", lambda: self._step(1)),
            Command("B", "Previous view", lambda: self._step(-1)),
            Command("F", "Frustums", self._toggle_frustums),
        )

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
        self.frustums.value = not self.frustums.value

    def _draw_frustums(self) -> None:
        with self._drawing:
            while self._shown:
                self._shown.pop().remove()
            for index in range(len(self._names)):
                if self.session.closed or not self.frustums.value:  # photos take time to read; it may be unticked
                    break
                go_to = self.session.guarded(lambda _, index=index: self.go_to(index))
                self._shown.append(_add_frustum(self.session, index, float(self.size.value), go_to))
            self.session.set_in_scene("frustums", bool(self._shown))

    def _resize_frustums(self) -> None:
        for handle in tuple(self._shown):
            handle.scale = float(self.size.value)


def _add_frustum(
    session: Session, index: int, scale: float, on_click: Callable[[Any], None]
) -> viser.CameraFrustumHandle:
    """A camera of the capture in the browser's scene, with its photo if there is one."""
    scene = session.content.scene
    assert scene is not None
    camera = scene.views[index].camera
    divisor = 1
    while max(camera.width, camera.height) / (2 * divisor) >= THUMBNAIL:
        divisor *= 2
    handle = session.client.scene.add_camera_frustum(
        f"/cameras/{index}",
        fov=2 * math.atan(camera.height / 2 / camera.fy),
        aspect=camera.width / camera.height,
        scale=scale,
        thickness=1.5,
        thickness_units="screen",
        color=COLORS["test" if index in scene.test else "train"],
        image=np.ascontiguousarray(scene.image(index, divisor).rgb) if scene.has_photos else None,
        format="jpeg",
        wxyz=matrix_to_quat(camera.viewmat[:3, :3].T).numpy(),
        position=camera.center.numpy(),
    )
    handle.on_click(on_click)
    return handle


def psnr_text(session: Session, *sources: Source) -> str:
    """PSNR of sources on the training view nearest to the camera, in lines."""
    index = session.nearest_view()
    assert session.content.scene is not None
    lines = [f"{source.name}: {session.psnr(source, index):.2f} dB" for source in dict.fromkeys(sources)]
    return "  \n".join([*lines, f"on the view {session.content.scene.views[index].name}"])
