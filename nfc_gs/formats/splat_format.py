"""What a splat file format offers to the table of formats (`formats.registry`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from nfc_gs.formats.notes import Notes
from nfc_gs.model.gaussians import GaussianModel


class ReadSplats(Protocol):
    """Reads a model in float32 on the CPU; raises UserError where the file is not there or damaged.

    Splats with values that are not finite are left out, with a warning.
    """

    def __call__(self, path: Path, /) -> GaussianModel: ...


class WriteSplats(Protocol):
    """Writes Gaussians, whole or not at all (`core.files.atomic_write`); raises UserError where that cannot be done.

    `tensors` are those of `GaussianModel.tensors()` in the frame of the file, in float32 on the CPU: means,
    log_scales, quats (normalised), opacity_logits, and sh_coeffs of the degree of the file. That frame is the
    capture's, or the capture's minus the offset of the `notes`. A format writes down those that it can; the offset is
    written beside the file in any case (`formats.offset`).
    """

    def __call__(self, path: Path, tensors: Mapping[str, Tensor], notes: Notes, /) -> None: ...


class ReadNotes(Protocol):
    """Reads what `WriteSplats` wrote down of the notes."""

    def __call__(self, path: Path, /) -> Notes: ...


@dataclass(frozen=True)
class Holds:
    """How much of a model a format can hold.

    Attributes:
        sh_degree: the highest degree of spherical harmonics; 0 is color without view dependence.
    """

    sh_degree: int


@dataclass(frozen=True)
class SplatFormat:
    """One splat file format.

    Attributes:
        name: for people, in sentences such as "give a PLY".
        suffix: of its files, lower case with the dot.
        write: None where the format is only read.
        read_notes: None where the format has no place for notes.
    """

    name: str
    suffix: str
    read: ReadSplats
    write: WriteSplats | None
    holds: Holds
    read_notes: ReadNotes | None = None
