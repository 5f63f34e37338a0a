"""Writing a model to a splat file of any format: baked, in the frame of the capture or a local one."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.data.normalize import translation
from nfc_gs.formats.notes import Notes
from nfc_gs.formats.offset import file_offset, offset_file, write_offset
from nfc_gs.formats.splat_format import SplatFormat
from nfc_gs.formats.world import in_world_frame
from nfc_gs.model.gaussians import GaussianModel

log = logging.getLogger("nfc_gs")


def write_model(
    path: Path,
    splat_format: SplatFormat,
    model: GaussianModel,
    transform: np.ndarray | None,
    *,
    sh_degree: int | None = None,
    notes: Notes | None = None,
    warn: bool = True,
) -> None:
    """Write a model in a format; arguments as those of `registry.write_splats`.

    Raises:
        UserError: the file cannot be written, or the format is only read.
    """
    if splat_format.write is None:
        raise UserError(f"{splat_format.name}s are only read, not written.")
    offset = file_offset(model.means, transform)
    if transform is not None and offset is not None:
        transform = transform @ translation(offset)
    noted = replace(notes or Notes(), offset=offset)
    if transform is not None:
        noted = noted.moved(np.linalg.inv(transform))
    splat_format.write(path, in_world_frame(model.baked(sh_degree).tensors(), transform), noted)
    write_offset(path, offset)
    if offset is not None and warn:
        x, y, z = offset.tolist()
        log.warning(
            "%s is in a local frame, since float32 is too coarse for the coordinates of the capture: add "
            "(%.12g, %.12g, %.12g) for those (%s holds it).", path.name, x, y, z, offset_file(path).name,
        )  # fmt: skip
