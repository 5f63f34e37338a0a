"""Keys, and a page that explains them."""

from __future__ import annotations

from nfc_gs.viewer.panels.cameras import turn_around
from nfc_gs.viewer.session import Session

HELP = """
**Mouse**: drag to orbit, right drag (or Shift) to pan, wheel to zoom. **Touch**: one finger orbits, two pan and zoom.

| key | does |
|---|---|
| W A S D, Q E | go level; down and up |
| arrows | turn |
| O | orbit or fly |
| R | back to the start |
| N, B | next, previous view of the capture |
| F | frustums on, off |
| P | play, pause |
| K | add a keyframe |
| C | color or depth |
| V | compare on, off |
| Ctrl-K | all commands |

Every control has a tooltip: rest the mouse on it, beside its name.

The picture is drawn by the server: small while you move, in full and then refined when you rest.
"""


def add_keys(session: Session) -> None:
    """Help, and the hotkeys it lists."""
    gui = session.client.gui
    gui.add_markdown(HELP)

    def depth(_: object) -> None:
        session.show_control.value = "color" if session.look.show == "depth" else "depth"

    def fly(_: object) -> None:
        control = session.way_control
        control.value = "orbit" if control.value == "fly" else "fly"
        turn_around(session, fly=control.value == "fly")

    def compare(_: object) -> None:
        control = session.compare_control
        control.value = "split" if control.value == "off" else "off"

    commands = {
        "R": ("Reset the camera", session.reset),
        "K": ("Add a keyframe", lambda _: session.path.add()),
        "C": ("Color or depth", depth),
        "O": ("Orbit or fly", fly),
    }
    if session.compare_control is not None:
        commands["V"] = ("Compare on or off", compare)
    if session.scene is not None and session.scene.views:
        commands |= {
            "N": ("Next view", lambda _: session.stand(session.view + 1)),
            "B": ("Previous view", lambda _: session.stand(session.view - 1)),
            "F": ("Frustums", lambda _: _toggle(session.frustums_control)),
        }
    if session.moves:
        commands["P"] = ("Play or pause", lambda _: session.play(not session.playing))
    for key, (label, call) in commands.items():
        gui.add_command(label, hotkey=key).on_trigger(session.guarded(call))  # type: ignore[arg-type]


def _toggle(control: object) -> None:
    control.value = not control.value  # type: ignore[attr-defined]
