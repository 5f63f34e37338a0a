"""What is shown, and how quickly it is drawn."""

from __future__ import annotations

import viser

from nfc_gs.viewer.panels.panel import Panel


class StatusPanel(Panel):
    """A line on the source and on the pictures, always in sight."""

    def build(self, gui: viser.GuiApi) -> None:
        """Add an empty line."""
        self.line = gui.add_markdown("")

    def tick(self) -> None:
        """Name the source, its step and size, and the picture that is seen; short, as another line moves all below."""
        source, picture = self.session.source, self.session.picture
        snapshot = source.snapshot()
        step = "" if snapshot.step is None else f" · step {snapshot.step:,}"
        how = "waiting for the first picture"
        if picture is not None:
            how = f"{picture.width} x {picture.height} in {1000 * picture.seconds:.0f} ms"
            if picture.samples > 1:
                how += f", {picture.samples} samples/pixel"
            if picture.share < 1.0:
                how += f", {100 * picture.share:.3g} % of Gaussians"
        if self.session.state.browser_draws:
            how = "drawn by the browser"
        text = f"**{source.name}**{step} · {snapshot.size_text}  \n{how}"
        if text != self.line.content:
            self.line.content = text
