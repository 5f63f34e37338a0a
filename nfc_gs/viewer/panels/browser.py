"""Splats that the browser draws itself."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
import viser
from torch import Tensor

from nfc_gs.core.errors import UserError
from nfc_gs.core.rotation import quat_to_matrix
from nfc_gs.core.sh import sh0_to_rgb
from nfc_gs.export.paths import middle_and_radius
from nfc_gs.viewer.panels.panel import Panel
from nfc_gs.viewer.session import Session

BROWSER_LIMIT = 1_000_000
"""Most Gaussians that are sent to a browser; of more, those that are seen best."""


REACH = 50.0
"""Farthest that splats are from the middle of all in the browser, in median distances from it."""

MAX_AXIS = 240.0
"""Longest axis, scene units: viser sends covariances as float16, whose largest number is 65,504."""


class BrowserPanel(Panel):
    """Whether the browser draws."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._sending = threading.Lock()  # held while splats are sent or removed

    def build(self, gui: viser.GuiApi) -> None:
        """Add the checkbox."""
        self.checkbox = gui.add_checkbox(
            "Browser draws", False,
            hint="Send the splats once and draw them with WebGL: smooth motion without load on the server, but colors "
            "without view dependence, at this time, and without what this panel shows otherwise.",
        )  # fmt: skip
        self.checkbox.on_update(self.session.in_background(self.on_change))

    def on_change(self, event: viser.GuiEvent[Any]) -> None:
        """Let the browser draw, or not; where that fails, the checkbox goes back."""
        if event.client is None:
            return  # it went back
        try:
            self.draw_in_browser(bool(self.checkbox.value))
        except Exception:
            if not self.session.closed:
                self.checkbox.value = False
            raise

    def draw_in_browser(self, on: bool) -> None:
        """Send the splats as they are now, or go back to pictures of the server, which an error does, too.

        Of calls that follow each other quickly each waits for the one before, and does nothing if a later one has
        undone it meanwhile.
        """
        session = self.session
        session.let_browser_draw(on)
        with self._sending:
            if session.state.browser_draws is not on:
                return
            try:
                if on:
                    self._send_splats()
                else:
                    session.client.scene.remove_by_name("/splats")
            except Exception:
                session.update(browser_draws=False)
                raise

    def _send_splats(self) -> None:
        """Replace the picture by splats on its background, unless `draw_in_browser` was called with False meanwhile."""
        session = self.session
        splats = browser_splats(session)

        def clear() -> None:  # after a picture that is just being sent
            if session.state.browser_draws:
                color = 255 * np.asarray(session.state.background) + 0.5
                session.client.scene.set_background_image(np.full((2, 2, 3), color, np.uint8), "png")

        session.run(clear)
        if session.state.browser_draws:
            session.client.scene.add_gaussian_splats("/splats", *splats)


@torch.no_grad()
def browser_splats(session: Session) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centres [N, 3], covariances [N, 3, 3], colors [N, 3] and opacities [N, 1] of what is shown, float32.

    All are in the frame that is shown.

    Raises:
        UserError: the source that is shown has no Gaussians.
    """
    state, gaussians = session.state, session.renderer.edited_gaussians(session.state)
    if gaussians is None:
        raise UserError(f"{session.source.name} has no Gaussians, which are all that the browser can draw.")
    model = gaussians.baked(0)
    if len(model) > BROWSER_LIMIT:
        weight = model.opacities * model.log_scales.sum(1).exp().pow(2 / 3)
        kept = weight.topk(BROWSER_LIMIT).indices
        model = type(model)({name: tensor[kept] for name, tensor in model.tensors().items()})
    axes = quat_to_matrix(model.quats).nan_to_num() * (model.scales * state.splat_scale)[:, None, :]
    known = model.means.isfinite().all(1) & axes.isfinite().flatten(1).all(1) & model.opacities.isfinite()
    colors = sh0_to_rgb(model.tensors()["sh_coeffs"][:, 0]).clamp(0, 1)
    means, placement = model.means, session.content.placement_of(session.content.source(state.source))
    if placement.matrix is not None:
        matrix = means.new_tensor(placement.matrix)
        means, axes = means @ matrix[:3, :3].T + matrix[:3, 3], matrix[:3, :3] @ axes
    means, axes, colors, opacities = (tensor[known] for tensor in (means, axes, colors, model.opacities[:, None]))
    means, axes = _drawn_near(means, axes)
    tensors = (means, axes @ axes.transpose(1, 2), colors.nan_to_num(), opacities)
    centers, covariances, rgbs, alphas = (tensor.float().cpu().numpy() for tensor in tensors)
    return centers, covariances, rgbs, alphas


def _drawn_near(means: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """What is far from the middle, brought to `REACH` and made smaller: from the middle it looks the same.

    The browser sorts by depth in as many steps as 16 bits have, from the nearest to the farthest: a single one that is
    far leaves one step for all that is near.

    Args:
        means: [N, 3], finite.
        axes: [N, 3, 3], whose columns are the axes of the Gaussians; finite.
    """
    if len(means) == 0:
        return means, axes
    middle, radius = middle_and_radius(means)
    middle = middle.to(means)
    offsets, reach = means - middle, REACH * radius
    nearer = (reach / offsets.norm(dim=1).clamp(min=1e-12)).clamp(max=1.0)
    axes = axes * nearer[:, None, None]
    longest = axes.norm(dim=1).amax(1)
    axes = axes * (min(reach, MAX_AXIS) / longest.clamp(min=1e-12)).clamp(max=1.0)[:, None, None]
    return middle + offsets * nearer[:, None], axes
