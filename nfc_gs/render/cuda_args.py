"""What the kernels of `cuda/gpu` are given: the structs of its headers, field by field."""

from __future__ import annotations

import ctypes
from typing import Any

from torch import Tensor

POINTERS = [
    "means",
    "quats",
    "scales",
    "opacities",
    "sh",
    "bit_logits",
    "bit_shifts",
    "features",
    "background",
    "viewmat",
    "records",
    "colors",
    "depths",
    "touched",
    "radii",
    "means2d",
    "order",
    "entry_end",
    "entry_begin",
    "entry_splat",
    "entry_tile",
    "slot_tile",
    "slot_entry",
    "slot_splat",
    "tile_begin",
    "bucket_tile",
    "bucket_transmittance",
    "bucket_sum",
    "out",
    "out_alpha",
    "out_depth",
    "v_out",
    "v_alpha",
    "v_depth",
    "v_pixel",
    "behind",
    "partial",
    "camera_partial",
    "v_means",
    "v_quats",
    "v_scales",
    "v_opacities",
    "v_sh",
    "v_bit_logits",
    "v_bit_shifts",
    "v_features",
    "v_means2d",
    "v_means2d_abs",
]

INTEGERS = [
    "count",
    "entries",
    "buckets",
    "sh_bases",
    "sh_degree",
    "shift_columns",
    "colour_channels",
    "feature_channels",
    "channels",
    "first_channel",
    "antialiased",
    "depth",
    "absgrad",
    "keep",
    "wide_tiles",
    "width",
    "height",
    "tiles_x",
    "tiles_y",
]

FLOATS = ["fx", "fy", "cx", "cy"]


class RenderArgs(ctypes.Structure):
    """`nfc::RenderArgs` of cuda/gpu/render.h, where each field is explained; all zero at first."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in POINTERS]
        + [(name, ctypes.c_int) for name in INTEGERS]
        + [(name, ctypes.c_float) for name in FLOATS]
    )

    def set(self, **values: Any) -> None:
        """Fill in fields; a tensor stands for its memory and must be contiguous and outlive the launches."""
        for name, value in values.items():
            if isinstance(value, Tensor):
                assert value.is_contiguous()
                value = value.data_ptr()
            setattr(self, name, value)
