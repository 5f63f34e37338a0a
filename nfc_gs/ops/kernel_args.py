"""The arguments of the kernels of `cuda/gpu`: the structs of its headers, field by field."""

from __future__ import annotations

import ctypes
from typing import Any

from torch import Tensor

from nfc_gs.core.constants import SSIM_WINDOW
from nfc_gs.ops.arguments import AdamConstants

_RENDER_POINTERS = [
    "means",
    "quats",
    "scales",
    "opacities",
    "log_scales",
    "opacity_logits",
    "sh_coeffs",
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
    "bucket_splats",
    "tile_reached",
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
    "v_log_scales",
    "v_opacity_logits",
    "v_sh_coeffs",
    "v_bit_logits",
    "v_bit_shifts",
    "v_features",
    "v_means2d",
    "v_means2d_abs",
]

_RENDER_INTEGERS = [
    "count",
    "entries",
    "buckets",
    "smallest_bucket",
    "largest_bucket",
    "backward_warps",
    "sh_bases",
    "sh_degree",
    "shift_columns",
    "color_channels",
    "feature_channels",
    "channels",
    "first_channel",
    "antialiased",
    "depth",
    "absgrad",
    "keep",
    "wide_tiles",
    "tile_left",
    "tile_top",
    "tiles_x",
    "tiles_y",
    "left",
    "top",
    "width",
    "height",
    "whole_width",
    "whole_height",
]


class KernelArgs(ctypes.Structure):
    """The argument of a kernel; all zero at first."""

    def set(self, **values: Any) -> None:
        """Set fields by name. A tensor sets a pointer to its memory, and must outlive the launches.

        Raises:
            ValueError: a tensor is not contiguous, or a whole number does not fit its field.
        """
        for name, value in values.items():
            if isinstance(value, Tensor):
                if not value.is_contiguous():
                    raise ValueError(f"{name} is not contiguous")
                setattr(self, name, value.data_ptr())
            else:
                setattr(self, name, value)
                if isinstance(value, int) and getattr(self, name) != value:  # ctypes drops the bits that do not fit
                    raise ValueError(f"{name} is {value}, which is more than the kernels count to")


def _pointers(*names: str) -> list[tuple[str, Any]]:
    return [(name, ctypes.c_void_p) for name in names]


def _integers(*names: str) -> list[tuple[str, Any]]:
    return [(name, ctypes.c_int) for name in names]


def _floats(*names: str) -> list[tuple[str, Any]]:
    return [(name, ctypes.c_float) for name in names]


class SplatParameter(KernelArgs):
    """`nfc::SplatParameter` of cuda/gpu/render.h."""

    _fields_ = [*_pointers("value", "first", "second"), *_integers("first_columns"), *_floats("first_rate", "rate")]


SPLAT_PARAMETERS = ("means", "quats", "log_scales", "opacity_logits", "sh_coeffs", "bit_logits", "bit_shifts")
"""Tensors of raw Gaussians that the backward pass can move."""

_ADAM_CONSTANTS = ("beta1", "beta2", "gain1", "gain2", "epsilon", "correction1", "correction2")


def adam_constants(constants: AdamConstants) -> dict[str, float | int]:
    """The fields of `nfc::AdamConstants` of cuda/include/nfc_gs/adam.h."""
    return {
        "beta1": constants.beta1,
        "beta2": constants.beta2,
        "gain1": 1.0 - constants.beta1,
        "gain2": 1.0 - constants.beta2,
        "epsilon": constants.eps,
        "correction1": 1.0 / constants.correction1,
        "correction2": 1.0 / constants.correction2,
        "step": constants.step,
    }


class SplatAdam(KernelArgs):
    """`nfc::SplatAdam` of cuda/gpu/render.h, with its constants in place."""

    _fields_ = [
        *[(name, SplatParameter) for name in SPLAT_PARAMETERS],
        *_floats(*_ADAM_CONSTANTS),
        *_integers("step", "bfloat16_moments"),
        *_floats("opacity_weight", "scale_weight"),
    ]


class RenderArgs(KernelArgs):
    """`nfc::RenderArgs` of cuda/gpu/render.h, where each field is explained."""

    _fields_ = [
        *_pointers(*_RENDER_POINTERS),
        *_integers(*_RENDER_INTEGERS),
        *_floats("fx", "fy", "cx", "cy"),
        ("adam", SplatAdam),
    ]


class LossArgs(KernelArgs):
    """`nfc::LossArgs` of cuda/gpu/train.h."""

    _fields_ = [
        *_pointers("rendered", "target", "mask", "inv_count", "derivative", "sums", "values", "v_loss", "gradient"),
        *_integers("width", "height", "tiles_x", "tiles"),
        *_floats("l1_weight", "mse_weight", "ssim_weight", "ce_weight", "ce_eps"),
        ("window", ctypes.c_float * SSIM_WINDOW),
    ]


class BitLossArgs(KernelArgs):
    """`nfc::BitLossArgs` of cuda/gpu/train.h."""

    _fields_ = [
        *_pointers("probabilities", "target", "mask", "inv_count", "sums", "v_loss", "gradient"),
        *_integers("count"),
        *_floats("eps"),
    ]


class AdamParameter(KernelArgs):
    """`nfc::AdamParameter` of cuda/gpu/train.h."""

    _fields_ = [
        *_pointers("value", "gradient", "first", "second"),
        *_integers("rows", "columns", "first_columns", "first_block"),
        *_floats("first_rate", "rate"),
    ]


MAX_PARAMETERS = 24
"""Tensors that one launch of Adam updates."""


class AdamArgs(KernelArgs):
    """`nfc::AdamArgs` of cuda/gpu/train.h, with its constants in place."""

    _fields_ = [
        ("parameters", AdamParameter * MAX_PARAMETERS),
        *_pointers("visible"),
        *_integers("count"),
        *_floats(*_ADAM_CONSTANTS),
        *_integers("step", "bfloat16_moments"),
    ]


class NoiseArgs(KernelArgs):
    """`nfc::NoiseArgs` of cuda/gpu/train.h."""

    _fields_ = [
        *_pointers("means", "quats", "log_scales", "opacity_logits"),
        ("seed", ctypes.c_uint64),
        ("step", ctypes.c_uint64),
        *_integers("count"),
        *_floats("strength", "sharpness", "threshold"),
    ]


class RelocateArgs(KernelArgs):
    """`nfc::RelocateArgs` of cuda/gpu/train.h."""

    _fields_ = [
        *_pointers("opacity_logits", "log_scales", "copies"),
        *_integers("count", "max_copies"),
        *_floats("min_opacity"),
    ]


MAX_PLANES = 48
"""Planes of a HexPlane that its kernels take: eight levels."""


class HexPlaneArgs(KernelArgs):
    """`nfc::HexPlaneArgs` of cuda/gpu/hexplane.cu."""

    _fields_ = [
        ("planes", ctypes.c_void_p * MAX_PLANES),
        ("v_planes", ctypes.c_void_p * MAX_PLANES),
        ("rows", ctypes.c_int * MAX_PLANES),
        ("columns", ctypes.c_int * MAX_PLANES),
        ("first_cell", ctypes.c_int * (MAX_PLANES + 1)),
        *_pointers("coords", "out", "v_out", "v_coords", "v_samples", "cell", "order", "cell_begin", "corners"),
        *_integers("count", "levels", "features"),
        *_floats("time"),
    ]


class PlaneArgs(KernelArgs):
    """`nfc::PlaneArgs` of cuda/gpu/hexplane.cu."""

    _fields_ = [
        *_pointers("plane", "v_plane"),
        *_integers("rows", "width", "features"),
        *_floats("tv_columns", "tv_rows", "smoothness", "sparsity"),
    ]
