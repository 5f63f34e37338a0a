"""Gaussians as a PLY file in the form of Inria's 3DGS, which every splat viewer opens.

One vertex per Gaussian, little-endian float32: x y z, nx ny nz (zeros), f_dc_0..2, f_rest_0..3(K-1)-1
(all of red's coefficients, then green's, then blue's), opacity (logit), scale_0..2 (log), rot_0..3 (wxyz).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write
from nfc_gs.core.ply import PlyElement, PlyHeader, read_columns, read_header, write_vertices
from nfc_gs.core.sh import MAX_DEGREE
from nfc_gs.formats.notes import Notes, notes_in
from nfc_gs.formats.splat_format import Holds, SplatFormat
from nfc_gs.formats.writing import write_model
from nfc_gs.model.gaussians import GaussianModel

log = logging.getLogger("nfc_gs")

_REQUIRED = (
    *("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
_MAX_LOGIT = 16.0  # in place of the infinite logit of an opacity of 0 or 1: sigmoid(16) = 1 - 1e-7
_MIN_LOG_SCALE = -20.0  # in place of the infinite logarithm of a scale of 0


def write_ply(
    path: Path | str,
    model: GaussianModel,
    transform: np.ndarray | None = None,
    *,
    sh_degree: int | None = None,
    notes: Notes | None = None,
) -> None:
    """Write a model in the standard 3DGS form; the colors of a bit head are baked (`GaussianModel.baked`).

    Args:
        transform: [4, 4] similarity from the world to the model's frame (`SceneData.transform`); the file
            holds the Gaussians in the world, or in a local frame (`formats.offset`). None where the two are one.
        sh_degree: SH degree of the file, 0..3; None for that of the model.
        notes: what else is known, in the frame of the model: up, a first camera, the background.

    Raises:
        UserError: the file cannot be written.
    """
    write_model(Path(path), FORMAT, model, transform, sh_degree=sh_degree, notes=notes)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Notes) -> None:
    """Write Gaussians in the standard 3DGS form; see `splat_format.WriteSplats`. Comments hold the notes."""
    sh = tensors["sh_coeffs"].numpy()  # [N, K, 3]
    count, rest = len(sh), 3 * (sh.shape[1] - 1)
    names = [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(rest)),
        *_REQUIRED[6:],
    ]
    table = np.zeros((count, len(names)), "<f4")
    table[:, 0:3], table[:, 6:9] = tensors["means"], sh[:, 0]
    table[:, 9 : 9 + rest].reshape(count, 3, rest // 3)[:] = sh[:, 1:].transpose(0, 2, 1)
    table[:, 9 + rest] = tensors["opacity_logits"]
    table[:, 10 + rest : 13 + rest], table[:, 13 + rest :] = tensors["log_scales"], tensors["quats"]
    vertices = table.view([(name, "<f4") for name in names])[:, 0]
    with atomic_write(path) as temporary:
        write_vertices(temporary, vertices, notes.comments())


def read_ply(path: Path | str) -> GaussianModel:
    """Read a model from a PLY in the 3DGS form; float32 on the CPU.

    Normals and unknown properties are ignored, any scalar type and ASCII are taken. Splats with values that
    are not finite are dropped with a warning.

    Raises:
        UserError: no such file, not a PLY, not the 3DGS form, cut short, empty.
    """
    path = Path(path)
    header = read_header(path)
    vertex = _splat_element(header)
    names = [name for name in vertex.types if name in _REQUIRED or name.startswith("f_rest_")]
    columns = read_columns(header, vertex, names, "splats")
    with np.errstate(over="ignore", invalid="ignore"):
        return _model(path, {name: column.astype(np.float32) for name, column in columns.items()})


def read_ply_notes(path: Path) -> Notes:
    """What the comments of a PLY hold; see `splat_format.ReadNotes`."""
    return notes_in(read_header(path).comments)


def _splat_element(header: PlyHeader) -> PlyElement:
    """The element that holds the splats.

    Raises:
        UserError: there is none, or it is not in the 3DGS form.
    """
    path, vertex = header.path, header.element("vertex")
    if vertex is None:
        raise UserError(f"{path} has no element 'vertex', so it holds no splats.")
    if "packed_position" in vertex.types:
        raise UserError(
            f"{path} is a compressed PLY (SuperSplat), which is not supported yet; export it as a plain PLY first."
        )
    missing = [name for name in _REQUIRED if name not in vertex.types]
    if missing:
        raise UserError(
            f"{path} is not a 3DGS splat: its vertices lack {', '.join(missing)}"
            f"{'; it seems to be a plain point cloud or mesh' if 'f_dc_0' in missing else ''}."
        )
    if any(element.has_lists for element in (vertex, *header.before(vertex))):
        raise UserError(f"{path} has list properties in or before its vertices, which 3DGS splats have not.")
    if vertex.count == 0:
        raise UserError(f"{path} holds no splats: its header says 'element vertex 0'.")
    return vertex


def _model(path: Path, columns: dict[str, np.ndarray]) -> GaussianModel:
    """Assemble the tensors of a model from its properties and drop what is not finite."""
    rest = sum(name.startswith("f_rest_") for name in columns)
    if rest not in (0, 9, 24, 45) or any(f"f_rest_{i}" not in columns for i in range(rest)):
        raise UserError(
            f"{path} has {rest} properties f_rest_*; a splat of SH degree 0, 1, 2 or 3 has 0, 9, 24 or 45, "
            "numbered from 0."
        )

    def stack(*names: str) -> Tensor:
        return torch.from_numpy(np.stack([columns[name] for name in names], axis=1))

    dc = stack("f_dc_0", "f_dc_1", "f_dc_2")[:, None]  # [N, 1, 3]
    sh = dc
    if rest:
        higher = stack(*(f"f_rest_{i}" for i in range(rest)))  # [N, 3 (K - 1)]
        sh = torch.cat([dc, higher.reshape(len(higher), 3, -1).transpose(1, 2)], dim=1)
    log_scales = stack("scale_0", "scale_1", "scale_2")
    logits = stack("opacity")[:, 0]
    tensors = {
        "means": stack("x", "y", "z"),
        "log_scales": torch.where(log_scales == -math.inf, torch.tensor(_MIN_LOG_SCALE), log_scales),
        "quats": stack("rot_0", "rot_1", "rot_2", "rot_3"),
        "opacity_logits": torch.where(logits.isinf(), logits.sign() * _MAX_LOGIT, logits),
        "sh_coeffs": sh,
    }
    finite = torch.cat([value.reshape(len(sh), -1) for value in tensors.values()], dim=1).isfinite().all(1)
    dropped = int((~finite).sum())
    if dropped == len(sh):
        raise UserError(f"{path} is damaged: every one of its {dropped:,} splats has values that are not finite.")
    if dropped:
        log.warning("%s: %d of %d splats have values that are not finite; they are left out.", path, dropped, len(sh))
        tensors = {name: value[finite] for name, value in tensors.items()}
    return GaussianModel(tensors)


FORMAT = SplatFormat(
    name="PLY",
    suffix=".ply",
    read=read_ply,
    write=write_tensors,
    holds=Holds(sh_degree=MAX_DEGREE),
    read_notes=read_ply_notes,
)
