"""How Gaussians are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import viser

from nfc_gs.viewer.panels.panel import Panel


class SplatsPanel(Panel):
    """View dependence, size, points."""

    def build(self, gui: viser.GuiApi) -> None:
        """Add the controls, for the highest SH degree of all sources."""
        snapshots = [source.snapshot() for source in self.session.content.sources]
        degree = max(shown.gaussians.sh_degree for shown in snapshots if shown.gaussians is not None)
        self.sh_degree = gui.add_slider(
            "SH degree", 0, max(1, degree), 1, degree, hint="View dependence of the colors: 0 has none."
        )
        self.scale = gui.add_slider(
            "Splat size (×)", 0.05, 2.0, 0.05, 1.0, hint="Factor of the size of every Gaussian."
        )
        self.points = gui.add_checkbox("Points", False, hint="A dot at the center of each Gaussian instead of splats.")
        self.point_size = gui.add_slider(
            "Point size (px)",
            1.0,
            12.0,
            0.5,
            self.session.state.point_size,
            visible=False,
            hint="Diameter of a dot.",
        )
        self.watch(self.sh_degree, self.scale, self.points, self.point_size)

    def settings(self) -> Mapping[str, Any]:
        """What outlasts the page."""
        return {"sh_degree": self.sh_degree, "scale": self.scale, "points": self.points, "point_size": self.point_size}

    def on_change(self, event: viser.GuiEvent[Any]) -> None:
        """Draw them as the controls say."""
        self.scale.visible, self.point_size.visible = not self.points.value, bool(self.points.value)
        self.session.update(
            sh_degree=int(self.sh_degree.value),
            splat_scale=float(self.scale.value),
            points=bool(self.points.value),
            point_size=float(self.point_size.value),
        )
