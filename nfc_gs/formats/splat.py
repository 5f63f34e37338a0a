"""Reading `.splat` files (antimatter15's WebGL viewer): 32 bytes per Gaussian, no header, colors without a view.

Three float32 of the centre, three float32 of the scales, four bytes red, green, blue, opacity, and four bytes of the
rotation wxyz, each (byte - 128) / 128.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from nfc_gs.core.errors import UserError
from nfc_gs.core.sh import rgb_to_sh0
from nfc_gs.formats.splat_format import Holds, SplatFormat
from nfc_gs.model.gaussians import GaussianModel

log = logging.getLogger("nfc_gs")

_RECORD = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])
_LEAST = 1e-9  # in place of a scale of 0, which has no logarithm


def read_splat(path: Path | str) -> GaussianModel:
    """Read a model of SH degree 0; float32 on the CPU. Gaussians with values that are not finite are left out.

    Raises:
        UserError: no such file, or its size is not that of whole records, or nothing in it is finite.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"There is no file {path}; check the path.") from None
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from None
    if not data or len(data) % _RECORD.itemsize:
        raise UserError(
            f"{path} is not a whole .splat file: its {len(data):,} bytes are no multiple of {_RECORD.itemsize}; "
            "copy it again."
        )
    table = np.frombuffer(data, _RECORD)
    finite = np.isfinite(table["means"]).all(1) & np.isfinite(table["scales"]).all(1) & (table["scales"] >= 0).all(1)
    if not finite.any():
        raise UserError(f"{path} is damaged: none of its {len(table):,} splats has finite values.")
    if not finite.all():
        log.warning("%s: %d of %d splats have values that are not finite; they are left out.", path, (~finite).sum(),
                    len(table))  # fmt: skip
        table = table[finite]
    rgba = torch.from_numpy(table["rgba"].astype(np.float32)) / 255.0
    return GaussianModel(
        {
            "means": torch.from_numpy(table["means"].copy()),
            "log_scales": torch.from_numpy(table["scales"].copy()).clamp(min=_LEAST).log(),
            "quats": (torch.from_numpy(table["quats"].astype(np.float32)) - 128.0) / 128.0,
            "opacity_logits": rgba[:, 3].clamp(1e-6, 1 - 1e-6).logit(),
            "sh_coeffs": rgb_to_sh0(rgba[:, :3])[:, None],
        }
    )


FORMAT = SplatFormat(name=".splat file", suffix=".splat", read=read_splat, write=None, holds=Holds(sh_degree=0))
