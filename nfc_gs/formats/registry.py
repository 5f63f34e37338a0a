"""The table of splat file formats, by the suffix of the file.

To add a format, write a module that makes a `SplatFormat`, and add it to the tuple below.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.formats import offset, ply, splat
from nfc_gs.formats.notes import Notes
from nfc_gs.formats.splat_format import SplatFormat
from nfc_gs.formats.writing import write_model
from nfc_gs.model.gaussians import GaussianModel

FORMATS: dict[str, SplatFormat] = {
    each.suffix: each
    for each in (
        ply.FORMAT,
        splat.FORMAT,
    )
}
"""All formats by suffix."""


def format_of(path: Path | str) -> SplatFormat | None:
    """The format that a file has by its suffix; None for other files, and for folders whatever their names."""
    path = Path(path)
    return None if path.is_dir() else FORMATS.get(path.suffix.lower())


def splat_suffixes(*, written: bool = False) -> str:
    """The suffixes of all formats in words, for sentences: ".ply or .splat".

    Args:
        written: only those that can be written.
    """
    return " or ".join(suffix for suffix, each in FORMATS.items() if each.write is not None or not written)


def read_splats(path: Path | str) -> GaussianModel:
    """Read a model from a splat file; float32 on the CPU, without gradients.

    Raises:
        UserError: another suffix than those in `FORMATS`, no such file, or a damaged one.

    >>> nfc_gs.read_splats("runs/garden/splat.ply")
    GaussianModel(300 Gaussians, SH degree 3, float32 on cpu)
    """
    path = Path(path)
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise UserError(f"{path} is no splat file by its name; give one that ends in {splat_suffixes()}.")
    return found.read(path).requires_grad_(False)


def read_notes(path: Path | str) -> Notes:
    """What a splat file says beside its Gaussians, in the frame of the file: offset, up, a first camera, background.

    The offset is the file's own, or that of a file beside it (`formats.offset`); it is None where the frame of the file
    is that of the capture.

    Raises:
        UserError: no such file, or a damaged one.
    """
    path = Path(path)
    found = FORMATS.get(path.suffix.lower())
    notes = Notes() if found is None or found.read_notes is None else found.read_notes(path)
    return notes if notes.offset is not None else replace(notes, offset=offset.read_offset(path))


def write_splats(
    path: Path | str,
    model: GaussianModel,
    transform: np.ndarray | None = None,
    *,
    sh_degree: int | None = None,
    notes: Notes | None = None,
    warn: bool = True,
) -> None:
    """Write a model in the format that the suffix names.

    Args:
        transform: [4, 4] similarity from the world to the model's frame (`SceneData.transform`); the file
            holds the Gaussians in the world, or where float32 is too coarse for its coordinates in a local frame:
            the world minus an offset, which is written beside it (`read_notes`). None where the two frames are one.
        sh_degree: SH degree of the file; None for that of the model, or the highest that the format holds.
        notes: what else is known, in the frame of the model (`LoadedModel.notes`): up, a first camera, background.
        warn: log a warning where there is an offset.

    Raises:
        UserError: no format of that suffix is written, the format does not hold that degree, or the file cannot be
            written.

    >>> garden = nfc_gs.load_model("runs/garden")
    >>> nfc_gs.write_splats("small.ply", garden.model, garden.transform, sh_degree=1)
    >>> nfc_gs.read_splats("small.ply").sh_degree
    1
    """
    if not isinstance(model, GaussianModel):
        raise UserError(f"Splats are written of a GaussianModel, not of a {type(model).__name__}; give its .model.")
    path = Path(path)
    found = FORMATS.get(path.suffix.lower())
    if found is None or found.write is None:
        raise UserError(f"Splats are not written to {path}; give a name that ends in {splat_suffixes(written=True)}.")
    highest = found.holds.sh_degree
    if sh_degree is None:
        sh_degree = highest if model.sh_degree > highest else None
    elif not 0 <= sh_degree <= highest:
        raise UserError(f"{path} cannot hold SH of degree {sh_degree}; a {found.name} holds 0 to {highest}.")
    write_model(path, found, model, transform, sh_degree=sh_degree, notes=notes, warn=warn)
