"""Time, for what moves."""

from __future__ import annotations

import viser

from nfc_gs.viewer.session import Session

FRAME = 1.0 / 60.0
"""A step of time where the capture does not say."""


def add_time(session: Session) -> None:
    """Slider, play and pause, speed, loop, frame stepping."""
    gui = session.client.gui
    axis = session.viewer.time_axis
    step = _frame(session)
    with gui.add_folder("Time"):
        slider = gui.add_slider("Time", 0.0, 1.0, 0.001, 0.0, hint="0 is the first moment of the capture, 1 its last.")
        own = gui.add_markdown("", visible=axis is not None)
        buttons = gui.add_button_group("Frame", ("◀ back", "next ▶"), hint="One frame of the capture back or on.")
        play = gui.add_checkbox("Play", False, hint="Let time run; frames are skipped, never queued. Key: P")
        speed = gui.add_slider("Speed", 0.02, 2.0, 0.02, session.speed, hint="Lengths of the capture per second.")
        loop = gui.add_checkbox("Loop", True, hint="Begin again at the end.")

    # What the page shows. A tick may come between what the browser sends and its callback, and must not undo that.
    told = {"time": session.time, "playing": session.playing}

    def moved(event: viser.GuiEvent) -> None:
        if event.client is None:
            return  # the slider follows time
        told["time"] = float(slider.value)
        session.playing = False
        session.change(time=told["time"])

    def played(event: viser.GuiEvent) -> None:
        if event.client is None:
            return
        told["playing"] = bool(play.value)
        session.play(told["playing"])

    def stepped(_: object) -> None:
        by = step if buttons.value.startswith("next") else -step
        session.playing = False
        session.change(time=min(1.0, max(0.0, session.time + by)))

    def tick() -> None:
        if abs(told["time"] - session.time) > 5e-4:
            told["time"] = session.time
            slider.value = round(session.time, 3)
        if told["playing"] != session.playing:
            told["playing"] = session.playing
            play.value = session.playing
        if axis is not None:
            text = f"{axis.own(session.time):.2f} {axis.unit}".strip()
            if own.content != text:
                own.content = text

    slider.on_update(session.guarded(moved))
    buttons.on_click(session.guarded(stepped))
    play.on_update(session.guarded(played))
    speed.on_update(session.guarded(lambda _: session.change(speed=float(speed.value))))
    loop.on_update(session.guarded(lambda _: session.change(loop=bool(loop.value))))
    session.on_tick.append(tick)


def _frame(session: Session) -> float:
    """The time between two frames of the capture."""
    scene = session.scene
    times = sorted({view.time for view in scene.views if view.time is not None}) if scene is not None else []
    return 1.0 / (len(times) - 1) if len(times) > 1 else FRAME
