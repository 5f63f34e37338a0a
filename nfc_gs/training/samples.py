"""What a step compares a model with: views of the capture, or batches of rays."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nfc_gs.core.camera import Camera


@dataclass(frozen=True)
class Sample:
    """Pixels of the capture that a model is compared with in one step; a family of models may add to it.

    Attributes:
        target: [H, W, 3] uint8 on the device that trains. A batch of R rays is a row of pixels: H is 1 and W is R.
        mask: [H, W] uint8, a pixel counts from 128 on; None if all count.
        name: for error messages, that of the image for example.
        view: index of the view in the scene; None where the pixels are of several.
        time: of the view, 0..1; None in a static scene.
    """

    target: Tensor
    mask: Tensor | None
    name: str
    view: int | None
    time: float | None


@dataclass(frozen=True)
class ViewSample(Sample):
    """A whole view of the capture, at the resolution of its step.

    Attributes:
        camera: of the view, on the device that trains.
    """

    camera: Camera
