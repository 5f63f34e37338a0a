"""Trained state beside the model that changes how single views are rendered, such as camera poses or exposures.

It lives here, below rendering and training, so that evaluation, export and the viewer apply it to a run that was
opened; only its optimisation is a companion (`training.companion`). `runs.families.render` applies corrections to what
it renders.
"""

from __future__ import annotations

from collections.abc import Callable

from nfc_gs.core.camera import Camera
from nfc_gs.model.radiance import Part, RenderOutput


class ViewCorrection:
    """A correction that changes nothing; what a kind of correction changes it overrides.

    `view` is the index of a view of the capture (`SceneData.views`); None for a camera that is none of the capture's,
    in the viewer or along a camera path.
    """

    def camera(self, camera: Camera, view: int | None) -> Camera:
        """The camera that is rendered in place of `camera`."""
        return camera

    def output(self, output: RenderOutput, view: int | None) -> RenderOutput:
        """The rendered view, corrected."""
        return output

    def part(self) -> Part:
        """Its state, sharing memory, as checkpoints keep it under the correction's name."""
        return Part()


CORRECTIONS: dict[str, Callable[[Part], ViewCorrection]] = {}
"""How a correction is made of its saved state, by the name of its part in a checkpoint."""
