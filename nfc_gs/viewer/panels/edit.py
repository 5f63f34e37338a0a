"""Light editing: crop, thresholds, and what is left as a PLY."""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import viser

from nfc_gs.formats.ply import write_ply
from nfc_gs.viewer.cameras import three
from nfc_gs.viewer.edit import EVERYTHING, Edit
from nfc_gs.viewer.session import Session


def add_edit(session: Session) -> None:
    """Crop box and sphere, opacity and scale thresholds, export."""
    gui = session.client.gui
    (x, y, z), radius = session.viewer.middle_and_radius()
    reach, step = 10 * radius, max(radius / 100, 1e-4)
    shape = gui.add_dropdown("Crop", ("none", "box", "sphere"), initial_value="none", hint="What lies outside goes.")
    centre = gui.add_vector3("Centre", (x, y, z), step=step, visible=False, hint="Of box or sphere, scene units.")
    size = gui.add_vector3(
        "Size", (4 * radius, 4 * radius, 4 * radius), step=step, visible=False, hint="Sides of the box."
    )
    ball = gui.add_slider("Radius", step, reach, step, 2 * radius, visible=False, hint="Of the sphere.")
    opacity = gui.add_slider("Least opacity", 0.0, 1.0, 0.01, 0.0, hint="Fainter Gaussians go.")
    # The slider is logarithmic: large Gaussians are few and spread over many orders of magnitude.
    largest = gui.add_slider("Largest size (log10)", -4.0, 3.0, 0.05, 3.0, hint="Larger Gaussians go; 3 keeps all.")
    left = gui.add_markdown("")
    export = gui.add_button("Export what is left as PLY", color="green", hint="Downloads it, in the capture's frame.")
    outline: list = []
    drawing = threading.Lock()

    def wanted() -> Edit:
        middle = three(centre.value)
        half = [abs(float(value)) / 2 for value in size.value]
        box = None
        if shape.value == "box":
            low, high = zip(*((m - h, m + h) for m, h in zip(middle, half, strict=True)), strict=True)
            box = (three(low), three(high))
        sphere = (middle, float(ball.value)) if shape.value == "sphere" else None
        scale = math.inf if largest.value >= 3.0 else 10.0 ** float(largest.value)
        return Edit(box, sphere, float(opacity.value), scale)

    def changed(_: object) -> None:
        with drawing:
            centre.visible = shape.value != "none"
            size.visible, ball.visible = shape.value == "box", shape.value == "sphere"
            edit = wanted()
            _outline(session, outline, edit)
            session.look = replace(session.look, edit=edit)
            session.put_in_scene("crop", bool(outline))

    def write(_: object) -> None:
        model, frame = session.still(), session.source.frame
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "splat.ply"
            write_ply(file, model, None if frame is None else frame.transform)
            session.client.send_file_download(f"{session.source.name}.ply", file.read_bytes(), save_immediately=True)

    for control in (shape, centre, size, ball, opacity, largest):
        control.on_update(session.guarded(changed))
    export.on_click(session.aside(write, "An export is being written already."))
    session.on_tick.append(_counting(session, left))


def _counting(session: Session, line: viser.GuiMarkdownHandle) -> Callable[[], None]:
    """For the viewer's clock: what tells in a line how many Gaussians are left of what is shown, unless time runs."""
    told: list[object] = [None]  # what it is of; None where nothing is taken away
    at_work = threading.Lock()

    def count() -> None:
        try:
            total = len(session.source.snapshot().model)
            line.content = f"{session.left():,} of {total:,} Gaussians are left." if told[0] else ""
        finally:
            at_work.release()

    def tick() -> None:
        edit, source = session.look.edit, session.source
        now = None if edit == EVERYTHING else (edit, source.name, source.snapshot().number, session.time)
        if now != told[0] and not session.playing and at_work.acquire(blocking=False):
            told[0] = now
            session.apart(count)()

    return tick


def _outline(session: Session, shown: list, edit: Edit) -> None:
    """Draw the crop shape in the scene."""
    while shown:
        shown.pop().remove()
    scene = session.client.scene
    if edit.box is not None:
        low, high = edit.box
        sides = tuple(b - a for a, b in zip(low, high, strict=True))
        middle = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
        shown.append(scene.add_box("/crop", (255, 212, 59), sides, wireframe=True, position=middle))  # type: ignore
    if edit.sphere is not None:
        middle, radius = edit.sphere
        shown.append(scene.add_icosphere("/crop", radius, (255, 212, 59), wireframe=True, position=middle))
