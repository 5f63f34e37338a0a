"""Gaussians as a PLY file in the form of Inria's 3DGS, which every splat viewer opens.

One vertex per Gaussian, little-endian float32: x y z, nx ny nz (zeros), f_dc_0..2, f_rest_0..3(K-1)-1
(all of red's coefficients, then green's, then blue's), opacity (logit), scale_0..2 (log), rot_0..3 (wxyz).
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write
from nfc_gs.core.rotation import matrix_to_quat, quat_multiply
from nfc_gs.core.sh import rotate_sh
from nfc_gs.model.gaussians import GaussianModel

log = logging.getLogger("nfc_gs")

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_FORMATS = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER = 1 << 16  # bytes; a 3DGS header has about 1 500
_REQUIRED = (
    *("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
_MAX_LOGIT = 16.0  # stands for the infinite logit of an opacity of 0 or 1: sigmoid(16) = 1 - 1e-7
_MIN_LOG_SCALE = -20.0  # stands for the infinite logarithm of a scale of 0


def write_ply(
    path: Path | str, model: GaussianModel, transform: np.ndarray | None = None, *, sh_degree: int | None = None
) -> None:
    """Write a model in the standard 3DGS form; the colors of a bit head are baked (`GaussianModel.baked`).

    Args:
        transform: [4, 4] similarity from the world to the model's frame (`SceneData.transform`); the file
            holds the Gaussians in the world. None where the two frames are one.
        sh_degree: SH degree of the file, 0..3; None for that of the model.

    Raises:
        UserError: the file cannot be written.
    """
    from plyfile import PlyData, PlyElement

    tensors = {name: value.double().cpu() for name, value in model.baked(sh_degree).tensors().items()}
    if transform is not None:
        tensors = _undo_similarity(tensors, np.asarray(transform, dtype=np.float64))
    quats = torch.nn.functional.normalize(tensors["quats"], dim=1)
    sh = tensors["sh_coeffs"]  # [N, K, 3]
    rest = sh[:, 1:].transpose(1, 2).flatten(1)  # [N, 3 (K - 1)]
    columns = [
        *(tensors["means"], torch.zeros_like(tensors["means"]), sh[:, 0], rest),
        *(tensors["opacity_logits"][:, None], tensors["log_scales"], quats),
    ]
    table = torch.cat(columns, dim=1).numpy().astype("<f4")
    names = [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(rest.shape[1])),
        *_REQUIRED[6:],
    ]
    vertices = table.view([(name, "<f4") for name in names])[:, 0]
    with atomic_write(path) as temporary:
        PlyData([PlyElement.describe(vertices, "vertex")], text=False, byte_order="<").write(str(temporary))


def read_ply(path: Path | str) -> GaussianModel:
    """Read a model from a PLY in the 3DGS form, whoever wrote it; float32 on the CPU.

    Normals and unknown properties are ignored, any scalar type and ASCII are taken. Splats with values that
    are not finite are dropped with a warning.

    Raises:
        UserError: no such file, not a PLY, not the 3DGS form, cut short, empty.
    """
    path = Path(path)
    try:
        with open(path, "rb") as handle:
            header = _read_header(path, handle.read(_MAX_HEADER))
            size = path.stat().st_size
            columns = _read_vertices(path, handle, header, size)
    except FileNotFoundError:
        raise UserError(f"There is no file {path}; check the path.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a PLY file; give the path of the file.") from None
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from None
    return _model(path, columns)


@dataclass(frozen=True)
class _Header:
    """What is needed of a PLY header.

    Attributes:
        order: "<" or ">", None for ASCII.
        start: byte at which the vertices begin (ASCII: the elements).
        lines_before: ASCII lines of elements that stand before the vertices.
        count: number of vertices.
        dtype: of one vertex.
    """

    order: str | None
    start: int
    lines_before: int
    count: int
    dtype: np.dtype


def _read_header(path: Path, head: bytes) -> _Header:
    """Parse and check the header that `head` begins with."""
    if not re.match(rb"ply\r?\n", head):
        raise UserError(f"{path} is not a PLY file: it does not begin with the word 'ply'.")
    end = re.search(rb"\nend_header\r?\n", head)
    if end is None:
        raise UserError(f"The header of {path} has no end: the file is cut short or is not a PLY file.")
    order: str | None = None
    known_format = False
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []  # (name, count, [(property, type)])
    for line in head[: end.start()].decode("latin-1").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) == 3 and words[1] in _FORMATS:
            order, known_format = _FORMATS[words[1]], True
        elif words[0] == "element" and len(words) == 3 and words[2].isascii() and words[2].isdigit():
            elements.append((words[1], int(words[2][:18]), []))
        elif words[0] == "property" and elements and len(words) == 3 and words[1] in _TYPES:
            elements[-1][2].append((words[2], _TYPES[words[1]]))
        elif words[0] == "property" and elements and len(words) == 5 and words[1] == "list":
            elements[-1][2].append((words[4], "list"))
        else:
            raise UserError(f"The header of {path} has a line that is not PLY: {line[:80]!r}; the file is damaged.")
    if not known_format:
        raise UserError(f"The header of {path} does not say its format (ascii, binary_little_endian, ...).")
    return _locate_vertices(path, order, end.end(), elements)


def _locate_vertices(
    path: Path, order: str | None, start: int, elements: list[tuple[str, int, list[tuple[str, str]]]]
) -> _Header:
    """Find the vertex element and check that it is a splat's."""
    names = [name for name, _, _ in elements]
    if "vertex" not in names:
        raise UserError(f"{path} has no element 'vertex', so it holds no splats.")
    at = names.index("vertex")
    _, count, properties = elements[at]
    found = [name for name, _ in properties]
    if "packed_position" in found:
        raise UserError(
            f"{path} is a compressed PLY (SuperSplat), which is not supported yet; export it as a plain PLY first."
        )
    missing = [name for name in _REQUIRED if name not in found]
    if missing:
        raise UserError(
            f"{path} is not a 3DGS splat: its vertices lack {', '.join(missing)}"
            f"{'; it seems to be a plain point cloud or mesh' if 'f_dc_0' in missing else ''}."
        )
    if len(set(found)) != len(found):
        raise UserError(f"The header of {path} names a property twice; the file is damaged.")
    if any(kind == "list" for _, _, before in elements[: at + 1] for _, kind in before):
        raise UserError(f"{path} has list properties in or before its vertices, which 3DGS splats have not.")
    if count == 0:
        raise UserError(f"{path} holds no splats: its header says 'element vertex 0'.")
    before = sum(n for _, n, _ in elements[:at])
    if order is not None:
        start += sum(n * sum(int(kind[1]) for _, kind in kinds) for _, n, kinds in elements[:at])
    dtype = np.dtype([(name, (order or "<") + kind) for name, kind in properties])
    return _Header(order, start, before, count, dtype)


def _read_vertices(path: Path, handle, header: _Header, size: int) -> dict[str, np.ndarray]:
    """The needed properties by name, each [N] float32."""
    width = len(header.dtype.names or ())
    least = 2 * width if header.order is None else header.dtype.itemsize  # bytes; ASCII: a digit and a blank
    room = max(0, size - header.start + (header.order is None)) // least  # ASCII: the last blank may be missing
    if header.count > room:
        raise UserError(
            f"{path} is cut short or damaged: its header claims {header.count:,} splats, "
            f"the file has room for {room:,}."
        )
    wanted = [name for name in header.dtype.names or () if name in _REQUIRED or name.startswith("f_rest_")]
    handle.seek(header.start)
    if header.order is not None:
        table = np.frombuffer(handle.read(header.count * header.dtype.itemsize), dtype=header.dtype)
        if len(table) < header.count:
            raise UserError(f"{path} is cut short: {len(table):,} of {header.count:,} splats are there.")
        with np.errstate(over="ignore", invalid="ignore"):
            return {name: table[name].astype(np.float32) for name in wanted}
    lines = handle.read().splitlines()[header.lines_before :][: header.count]
    rows = [line.split() for line in lines]
    if len(rows) < header.count or any(len(row) != width for row in rows):
        raise UserError(f"{path} is cut short or damaged: not every one of {header.count:,} lines has {width} numbers.")
    try:
        numbers = np.array([[float(word) for word in row] for row in rows])  # [N, width]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from None
    with np.errstate(over="ignore"):
        return {name: numbers[:, i].astype(np.float32) for i, name in enumerate(header.dtype.names or ())}


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


def _undo_similarity(tensors: dict[str, Tensor], transform: np.ndarray) -> dict[str, Tensor]:
    """Take Gaussians from the normalised frame y = s R x + t back to the world x = R^T (y - t) / s."""
    linear = torch.from_numpy(transform[:3, :3].copy())
    scale = torch.linalg.det(linear).item() ** (1 / 3)
    assert scale > 0, "a scene transform neither mirrors nor collapses"
    rotation = linear / scale
    shift = torch.from_numpy(transform[:3, 3].copy())
    return {
        "means": (tensors["means"] - shift) @ rotation / scale,
        "log_scales": tensors["log_scales"] - math.log(scale),
        "quats": quat_multiply(matrix_to_quat(rotation.T), tensors["quats"]),
        "opacity_logits": tensors["opacity_logits"],
        "sh_coeffs": rotate_sh(tensors["sh_coeffs"], rotation.T),
    }
