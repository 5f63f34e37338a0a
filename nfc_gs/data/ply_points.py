"""Sparse points from a PLY file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nfc_gs.core.errors import UserError


def read_ply_points(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Positions and colors of the vertices of a PLY file.

    Returns:
        xyz [P, 3] float64; rgb [P, 3] uint8, middle grey where the file has no colors.

    Raises:
        UserError: it cannot be read, or has no x, y, z.
    """
    from plyfile import PlyData

    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(65536).split(b"end_header")[0].decode("latin-1")
        for line in head.splitlines():
            words = line.split()
            if words[:1] == ["element"] and int(words[2]) > size:  # a vertex takes more than a byte
                raise UserError(f"{path} claims {words[2]} entries, more than it has room for; export it again.")
        vertex = PlyData.read(str(path))["vertex"].data
        fields = vertex.dtype.names or ()
        lacking = [name for name in "xyz" if name not in fields]
        if lacking:
            raise UserError(f"{path} has no property {', '.join(lacking)} for its vertices; export it again.")
        xyz = np.stack([np.asarray(vertex[name], dtype=np.float64) for name in "xyz"], axis=1)
        rgb = np.full((len(xyz), 3), 128, dtype=np.uint8)
        if all(name in fields for name in ("red", "green", "blue")):
            colors = np.stack([np.asarray(vertex[name]) for name in ("red", "green", "blue")], axis=1)
            if np.issubdtype(colors.dtype, np.floating):
                colors = np.nan_to_num(colors) * (255.0 if np.nanmax(colors, initial=0.0) <= 1.0 else 1.0)
            rgb = np.clip(colors, 0, 255).astype(np.uint8)
    except UserError:
        raise
    except Exception as error:  # plyfile raises its own errors, ValueError, MemoryError, ...
        cause = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"The points in {path} cannot be read ({cause}); export them again.") from None
    return xyz, rgb
