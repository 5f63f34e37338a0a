"""Sparse points from and to PLY files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.core.ply import read_columns, read_header, write_vertices

_COLORS = ("red", "green", "blue")


def read_ply_points(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Positions and colors of the vertices of a PLY file.

    Returns:
        xyz [P, 3] float64; rgb [P, 3] uint8, middle grey where the file has no colors.

    Raises:
        UserError: it cannot be read, or has no x, y, z.
    """
    header = read_header(path)
    vertex = header.element("vertex")
    if vertex is None:
        raise UserError(f"{path} has no element 'vertex', so it holds no points; export it again.")
    numbers = {name for name, kind in vertex.types.items() if kind is not None}
    lacking = [name for name in "xyz" if name not in numbers]
    if lacking:
        raise UserError(f"{path} has no property {', '.join(lacking)} for its vertices; export it again.")
    colored = numbers.issuperset(_COLORS)
    columns = read_columns(header, vertex, (*"xyz", *_COLORS) if colored else "xyz", "points")
    with np.errstate(invalid="ignore"):  # of a NaN that signals
        xyz = np.stack([columns[name].astype(np.float64) for name in "xyz"], axis=1)
    if not colored:
        return xyz, np.full((len(xyz), 3), 128, dtype=np.uint8)
    rgb = np.stack([columns[name] for name in _COLORS], axis=1)
    return xyz, colors_in_bytes(rgb)


def colors_in_bytes(rgb: np.ndarray) -> np.ndarray:
    """Colors [P, 3] as uint8: floating-point ones are in 0..1 where none is above 1, all others in 0..255."""
    if np.issubdtype(rgb.dtype, np.floating):
        rgb = np.nan_to_num(rgb) * (255.0 if np.nanmax(rgb, initial=0.0) <= 1.0 else 1.0)
    return np.clip(rgb, 0, 255).astype(np.uint8)


def write_ply_points(path: Path, xyz: np.ndarray, rgb: np.ndarray) -> None:
    """Write points [P, 3] (stored as float32) and their colors [P, 3] uint8.

    Raises:
        OSError: the file cannot be written.
    """
    vertices = np.empty(len(xyz), [*((axis, "f4") for axis in "xyz"), *((color, "u1") for color in _COLORS)])
    for k in range(3):
        vertices["xyz"[k]], vertices[_COLORS[k]] = xyz[:, k], rgb[:, k]
    write_vertices(path, vertices)
