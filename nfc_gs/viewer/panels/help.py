"""The page that explains mouse and keys."""

from __future__ import annotations

import viser

from nfc_gs.viewer.panels.panel import Panel

HELP = """
**Mouse**: drag to orbit, right drag (or Shift) to pan, wheel to zoom. **Touch**: one finger orbits, two pan and zoom.

| key | does |
|---|---|
| W A S D, Q E | go level; down and up |
| arrows | turn |
| O | orbit or fly |
| R | back to the start |
| N, B | next, previous view of the capture |
| F | cameras in the scene: show, hide |
| P | play, pause |
| K | add a keyframe |
| C | color or depth |
| V | compare on, off |
| Ctrl-K | all commands |

Every control has a tooltip: rest the mouse on it, beside its name. Where colors stand for numbers (depth, splats per
pixel, error), click the picture to read one.

The picture is drawn by the server: small while you move, in full and then refined when you rest.
"""


class HelpPanel(Panel):
    """A text; the keys that it lists are those of the other panels' `commands`."""

    def build(self, gui: viser.GuiApi) -> None:
        """Add the text."""
        gui.add_markdown(HELP)
