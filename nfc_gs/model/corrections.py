"""Trained state beside the model that changes how single views are rendered, such as camera poses or exposures.

It lives here, below rendering and training, so that evaluation and `nfc-gs render` apply it to a run that was opened;
only its optimisation is a companion (`training.companion`). `runs.families.render` applies corrections to what it
renders of a view of the capture.

To add a kind of correction, write a subclass in a file of its own and list it in `model.correction_kinds`.
"""

from __future__ import annotations

import torch

from nfc_gs.core.camera import Camera
from nfc_gs.core.checks import check_same_shapes
from nfc_gs.model.radiance import Part, RenderOutput


class ViewCorrection:
    """A correction that changes nothing; what a kind of correction changes it overrides.

    `view` is the index of a view of the capture (`SceneData.views`); None for a camera that is none of the capture's,
    in the viewer or along a camera path. Tensors may be on another device than what is corrected.
    """

    def camera(self, camera: Camera, view: int | None) -> Camera:
        """The camera that is rendered in place of `camera`."""
        return camera

    def output(self, output: RenderOutput, view: int | None) -> RenderOutput:
        """The rendered view, corrected."""
        return output

    def part(self) -> Part:
        """Its state, sharing memory; a companion saves it under its name."""
        return Part()

    @torch.no_grad()
    def load(self, part: Part) -> None:
        """Take over the state of a part of the same shapes. Raises ValueError where something is missing or odd."""
        own = self.part().tensors
        check_same_shapes(part.tensors, own)
        for name, tensor in own.items():
            tensor.copy_(part.tensors[name])


NO_CORRECTION = ViewCorrection()
