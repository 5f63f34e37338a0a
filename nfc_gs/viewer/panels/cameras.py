"""The capture's cameras, and the browser's own."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import torch
import viser

from nfc_gs.core.rotation import matrix_to_quat, quat_to_matrix
from nfc_gs.viewer.cameras import pose_from_json, pose_to_json
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.source import Source, up_of

THUMBNAIL = 64
"""Longest side of the picture in a frustum, pixels."""

COLORS = {"train": (51, 154, 240), "test": (255, 146, 43)}

FLYING = 0.01
"""How far ahead, scene units, the point is that one turns around while flying: turning then is looking around."""

FARTHEST = 1e4
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


def add_cameras(session: Session) -> None:
    """Views to stand at, frustums, their photos if there are any; reset, up, field of view, a camera as JSON."""
    if session.scene is not None and session.scene.views:
        _add_views(session)
    _add_own(session)


def _add_views(session: Session) -> None:
    gui, scene = session.client.gui, session.scene
    assert scene is not None
    test = set(scene.test)
    names = [f"{i}: {view.name}{' (test)' if i in test else ''}" for i, view in enumerate(scene.views)]
    first = (scene.test or scene.train)[0]
    session.view = first
    with gui.add_folder("Views of the capture"):
        chosen = gui.add_dropdown("View", names, initial_value=names[first], hint="Stand where this photo was taken.")
        buttons = gui.add_button_group("Stand at", ("previous", "this", "next"), hint="Keys: B and N")
        frustums = gui.add_checkbox(
            "Frustums", False, hint="The cameras in the scene: blue to train on, orange held out. Click one. Key: F"
        )
        size = gui.add_slider(
            "Size of frustums", 0.01, 1.0, 0.01, round(min(max(0.06 * scene.extent, 0.01), 1.0), 2), hint="Scene units."
        )
        if session.has_photos:
            _add_photo(session)
    session.frustums_control = frustums
    shown: list[Any] = []
    drawing = threading.Lock()

    def stand(index: int) -> None:
        session.stand_at_view(index % len(names))
        if chosen.value != names[session.view]:
            chosen.value = names[session.view]

    def draw_frustums(_: object) -> None:
        with drawing:
            while shown:
                shown.pop().remove()
            for index in range(len(names)):
                if session.closed or not frustums.value:  # photos take time to read, and minds change
                    break
                shown.append(_frustum(session, index, float(size.value), stand))
            session.put_in_scene("frustums", bool(shown))

    def resize(_: object) -> None:
        for handle in tuple(shown):
            handle.scale = float(size.value)

    def move(_: object) -> None:
        stand(session.view + {"previous": -1, "this": 0, "next": 1}[buttons.value])

    session.stand = stand
    chosen.on_update(session.guarded(
        lambda _: stand(names.index(chosen.value)) if names.index(chosen.value) != session.view else None
    ))  # fmt: skip
    buttons.on_click(session.guarded(move))
    frustums.on_update(session.guarded(draw_frustums))
    size.on_update(session.guarded(resize))


def _add_photo(session: Session) -> None:
    """The chosen view's photo over the picture, and how near the two are."""
    gui = session.client.gui
    overlay = gui.add_slider("Photo", 0.0, 1.0, 0.05, 0.0, hint="Opacity of the view's photo over the picture.")
    measure = gui.add_button("PSNR here", hint="On the training view nearest to your camera; of both, if compared.")
    result = gui.add_markdown("", visible=False)

    def measured(_: object) -> None:
        sources = [session.source] if session.compare == "off" else [session.source, session.other]
        result.content, result.visible = psnr_in_words(session, *sources), True

    overlay.on_update(session.guarded(lambda _: session.change(overlay=float(overlay.value))))
    measure.on_click(session.guarded(measured))


def psnr_in_words(session: Session, *sources: Source) -> str:
    """PSNR of sources on the training view nearest to the camera, in lines."""
    index = session.nearest_view()
    assert session.scene is not None
    lines = [f"{source.name}: {session.psnr(source, index):.2f} dB" for source in dict.fromkeys(sources)]
    return "  \n".join([*lines, f"on the view {session.scene.views[index].name}"])


def _frustum(session: Session, index: int, scale: float, stand: Any) -> Any:
    """A camera of the capture in the scene, with its photo if there is one; a click stands there."""
    scene = session.scene
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
    handle.on_click(session.guarded(lambda _: stand(index)))
    return handle


def turn_around(session: Session, *, fly: bool) -> None:
    """Let a drag turn the camera around what is in the middle of the picture, or around itself.

    viser's controls only know orbits: around a point just before the camera, an orbit is a look around, and the wheel,
    which would go through that point, has no way left.
    """
    camera, pose = session.client.camera, session.pose
    position = np.asarray(pose.position)
    forward = quat_to_matrix(torch.tensor(pose.wxyz, dtype=torch.float64))[:, 2].numpy()
    if fly:
        distance = max(FLYING, 1e-4 * float(np.abs(position).max()))  # viser overlooks changes of 1e-5
    else:
        middle, radius = session.viewer.middle_and_radius()
        distance = session.depth_ahead() or max(float((np.asarray(middle) - position) @ forward), 0.1 * radius)
    with session.client.atomic():
        camera.max_orbit_distance = FARTHEST
        camera.look_at = position + distance * forward
        camera.max_orbit_distance = distance if fly else FARTHEST


def _add_own(session: Session) -> None:
    gui, client = session.client.gui, session.client
    home = session.viewer.server.initial_camera
    with gui.add_folder("Your camera"):
        reset = gui.add_button("Reset", hint="Back to where you began. Key: R")
        way = gui.add_dropdown(
            "Move", ("orbit", "fly"), initial_value="orbit",
            hint="Orbit: a drag turns you around what is in the middle, and the wheel goes nearer. Fly: a drag looks "
            "around. W A S D and Q E go in both. Key: O",
        )  # fmt: skip
        up = gui.add_dropdown("Up", tuple(UPS), initial_value="as captured", hint="The axis that a drag turns around.")
        fov = gui.add_slider("Field of view", 5, 150, 1, round(math.degrees(home.fov)), hint="Vertical, in degrees.")
        copy = gui.add_button("Show as JSON", hint="Write this camera into the field below, to copy it.")
        text = gui.add_text("JSON", "", multiline=True, hint="A camera: position, wxyz (OpenCV axes), fov, time.")
        paste = gui.add_button("Go to JSON", hint="Stand where the field above says.")
    captured, last_seen = up_of(session.scene), [0]

    def set_way(event: viser.GuiEvent) -> None:
        if event.client is not None:  # else a reset has changed it already
            turn_around(session, fly=way.value == "fly")

    def set_up(_: object) -> None:
        client.camera.up_direction = UPS[up.value] or captured
        session.request()

    def set_fov(event: viser.GuiEvent) -> None:
        if event.client is not None:  # else the slider follows the camera
            client.camera.fov = math.radians(float(fov.value))
            session.request()

    def follow() -> None:
        degrees = min(max(round(math.degrees(session.pose.fov)), 5), 150)
        if degrees == last_seen[0] != fov.value:  # it rests: not the echo of a slider that is dragged
            fov.value = degrees
        last_seen[0] = degrees

    def go(_: object) -> None:
        pose, time = pose_from_json(text.value)
        session.stand_at(pose)
        if time is not None and session.moves:
            session.change(time=time)

    def show(_: object) -> None:
        text.value = pose_to_json(session.pose, session.time if session.moves else None)

    def back(_: object) -> None:
        camera, way.value, up.value = client.camera, "orbit", "as captured"
        with client.atomic():
            camera.max_orbit_distance = FARTHEST
            camera.fov, camera.up_direction = home.fov, captured
            camera.position = home.position
            camera.look_at = home.look_at
        session.request()

    session.reset, session.way_control = back, way
    session.on_tick.append(follow)
    reset.on_click(session.guarded(back))
    way.on_update(session.guarded(set_way))
    up.on_update(session.guarded(set_up))
    fov.on_update(session.guarded(set_fov))
    copy.on_click(session.guarded(show))
    paste.on_click(session.guarded(go))
