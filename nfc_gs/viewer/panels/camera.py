"""The browser's own camera."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import viser

from nfc_gs.viewer.cameras import numbers, pose_from, pose_from_json, pose_to_json, rounded
from nfc_gs.viewer.content import HOME_ASPECT, HomeCamera
from nfc_gs.viewer.panels.panel import Command, Panel
from nfc_gs.viewer.session import Session

FLY_DISTANCE = 0.01
"""Distance in scene units of the point that a drag turns around while flying: turning then is looking around."""

MAX_DISTANCE = 1e4
"""viser's own limit for that distance."""

UPS: dict[str, tuple[float, float, float] | None] = {
    "as captured": None,
    "+x": (1.0, 0.0, 0.0),
    "-x": (-1.0, 0.0, 0.0),
    "+y": (0.0, 1.0, 0.0),
    "-y": (0.0, -1.0, 0.0),
    "+z": (0.0, 0.0, 1.0),
    "-z": (0.0, 0.0, -1.0),
}
"""Directions that can be up."""


class CameraPanel(Panel):
    """Reset, orbit or fly, up, field of view, the camera as JSON."""

    title = "Your camera"

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._last_degrees = 0
        if self.home != session.content.home:
            self._go_home()

    @property
    def home(self) -> HomeCamera:
        """The camera at the start, in the window as it is now."""
        width, height = self.session.window
        return self.session.content.home_in(width / height if height else HOME_ASPECT)

    def build(self, gui: viser.GuiApi) -> None:
        """Add the controls."""
        guarded = self.session.guarded
        reset = gui.add_button("Reset", hint="Back to where you began. Key: R")
        self.mode = gui.add_dropdown(
            "Move", ("orbit", "fly"), initial_value="orbit",
            hint="Orbit: a drag turns you around what is in the middle, and the wheel goes nearer. Fly: a drag looks "
            "around. W A S D and Q E go in both. Key: O",
        )  # fmt: skip
        self.up = gui.add_dropdown(
            "Up", tuple(UPS), initial_value="as captured", hint="The axis that a drag turns around."
        )
        self.fov = gui.add_slider(
            "FOV (°)", 5, 150, 1, round(math.degrees(self.home.fov)), hint="Field of view from the bottom to the top."
        )
        show = gui.add_button("Show as JSON", hint="Write this camera into the field below, to copy it.")
        self.text = gui.add_text("JSON", "", multiline=True, hint="A camera: position, wxyz (OpenCV axes), fov, time.")
        go = gui.add_button("Go to JSON", hint="Move to the camera in the field above.")
        self.watch(self.mode, self.up, self.fov)
        reset.on_click(guarded(lambda _: self.reset()))
        show.on_click(guarded(lambda _: self._show_json()))
        go.on_click(guarded(lambda _: self._go_to_json()))

    def settings(self) -> Mapping[str, Any]:
        """What outlasts the page."""
        return {"up": self.up}

    def on_change(self, event: viser.GuiEvent[Any]) -> None:
        """Move as the controls say; the viewer itself sets them where they follow the camera."""
        session, camera = self.session, self.session.client.camera
        if event.target is self.up:
            camera.up_direction = UPS[self.up.value] or self.home.up
            session.request()
        elif event.client is None:
            return
        elif event.target is self.mode:
            set_turning_point(session, fly=self.mode.value == "fly")
        else:
            camera.fov = math.radians(float(self.fov.value))
            session.request()

    def kept(self) -> Any:
        """Where the camera is, unless it is where it was at first."""
        pose, home = self.session.pose, self.home
        ahead = np.asarray(home.look_at) - home.position
        distance = float(np.linalg.norm(ahead))
        is_there = math.dist(pose.position, home.position) < 1e-3 * distance
        if is_there and pose.forward @ ahead > 0.9999 * distance:
            return None
        if self.mode.value == "orbit":
            camera = self.session.client.camera
            distance = float(np.linalg.norm(camera.look_at - camera.position))
        return {**asdict(rounded(pose)), "orbit_distance": float(f"{distance:.6g}")}

    def restore(self, kept: Any) -> None:
        """Move the camera to where it was, and let drags turn it around the same point."""
        pose, _ = pose_from(kept, "The last camera")
        (distance,) = numbers(kept, "orbit_distance", 1, "The last camera")
        self.session.move_camera_to(pose, orbit_distance=min(max(distance, 1e-6), MAX_DISTANCE))

    def tick(self) -> None:
        """Let the slider follow the field of view of a camera at rest: not the echo of a slider that is dragged."""
        degrees = min(max(round(math.degrees(self.session.pose.fov)), 5), 150)
        if degrees == self._last_degrees != self.fov.value:
            self.fov.value = degrees
        self._last_degrees = degrees

    def commands(self) -> Sequence[Command]:
        """Keys to reset and to fly."""
        return Command("R", "Reset the camera", self.reset), Command("O", "Orbit or fly", self._toggle_mode)

    def reset(self) -> None:
        """Bring the camera and its controls back to where they were at first."""
        self.mode.value, self.up.value = "orbit", "as captured"
        self._go_home()
        self.session.request()

    def _go_home(self) -> None:
        camera, home = self.session.client.camera, self.home
        with self.session.client.atomic():
            camera.max_orbit_distance = MAX_DISTANCE
            camera.fov, camera.up_direction = home.fov, home.up
            camera.position = home.position
            camera.look_at = home.look_at

    def _toggle_mode(self) -> None:
        self.mode.value = "orbit" if self.mode.value == "fly" else "fly"
        set_turning_point(self.session, fly=self.mode.value == "fly")

    def _show_json(self) -> None:
        changes = self.session.content.changes_with_time
        self.text.value = pose_to_json(self.session.pose, self.session.state.time if changes else None)

    def _go_to_json(self) -> None:
        pose, time = pose_from_json(self.text.value)
        self.session.move_camera_to(pose, time if self.session.content.changes_with_time else None)


def set_turning_point(session: Session, *, fly: bool) -> None:
    """Let a drag turn the camera around what is in the middle of the picture, or around itself.

    viser's controls only know orbits: around a point just before the camera an orbit is a look around; the distance is
    limited to that of the point, so that the wheel, which would go through it, does nothing.
    """
    camera, pose = session.client.camera, session.pose
    position = np.asarray(pose.position)
    forward = pose.forward
    if fly:
        distance = max(FLY_DISTANCE, 1e-4 * float(np.abs(position).max()))  # viser overlooks changes of 1e-5
    else:
        middle, radius = session.content.middle_and_radius()
        distance = session.depth_ahead() or max(float((np.asarray(middle) - position) @ forward), 0.1 * radius)
    with session.client.atomic():
        camera.max_orbit_distance = MAX_DISTANCE
        camera.look_at = position + distance * forward
        camera.max_orbit_distance = distance if fly else MAX_DISTANCE
