"""What a splat file format offers to the table of formats (`formats.registry`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from nfc_gs.model.gaussians import GaussianModel


class ReadSplats(Protocol):
    """Reads a model in float32 on the CPU; raises UserError where the file is not there or damaged."""

    def __call__(self, path: Path, /) -> GaussianModel: ...


class WriteSplats(Protocol):
    """Writes a model, whole or not at all; raises UserError where the file cannot be written.

    `transform` is the [4, 4] similarity from the world to the model's frame, which the file undoes, or None;
    `sh_degree` is that of the file, None for that of the model.
    """

    def __call__(
        self, path: Path, model: GaussianModel, transform: np.ndarray | None, /, *, sh_degree: int | None
    ) -> None: ...


@dataclass(frozen=True)
class Holds:
    """How much of a model a format can hold.

    Attributes:
        sh_degree: the highest degree of spherical harmonics; 0 is color without view dependence.
        deformation: motion; a format without it holds a moving model at one time.
    """

    sh_degree: int
    deformation: bool = False


@dataclass(frozen=True)
class SplatFormat:
    """One splat file format.

    Attributes:
        name: for people, in sentences such as "give a PLY".
        suffix: of its files, lower case with the dot.
        write: None where the format is only read.
    """

    name: str
    suffix: str
    read: ReadSplats
    write: WriteSplats | None
    holds: Holds
