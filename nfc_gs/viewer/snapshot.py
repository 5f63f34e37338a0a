"""A model at one state of its training, and what only Gaussians can do."""

from __future__ import annotations

from dataclasses import dataclass

from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RadianceModel
from nfc_gs.viewer.state import BIT_SHOWS, SHOWS, Show


@dataclass(frozen=True)
class Snapshot:
    """A state of a model; nobody changes its tensors.

    Attributes:
        step: of the training; None for a file.
        number: grows with every snapshot of a source.
    """

    model: RadianceModel
    step: int | None
    number: int

    @property
    def gaussians(self) -> GaussianModel | None:
        """The model if it consists of Gaussians, else None.

        All that only Gaussians can do is decided by this: edits, size of splats, points, SH degree, counting, bits,
        previews with fewer of them, splats for the browser, export as a PLY.
        """
        return self.model if isinstance(self.model, GaussianModel) else None

    @property
    def shows(self) -> tuple[Show, ...]:
        """What of `SHOWS` the model can show, in that order."""
        gaussians = self.gaussians
        if gaussians is None:
            return tuple(show for show in SHOWS if show not in (*BIT_SHOWS, "count", "normals"))
        return tuple(show for show in SHOWS if show not in BIT_SHOWS or gaussians.color_head.has_bits)

    @property
    def size_text(self) -> str:
        """How large the model is, for people: "12,345 Gaussians"."""
        name, value = next(iter(self.model.facts().items()))
        return f"{value} {name}"
