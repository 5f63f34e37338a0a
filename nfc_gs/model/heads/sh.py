"""Color as direct spherical harmonics: color = max(0, 0.5 + sum_k Y_k(d) sh_coeffs[k]), as in 3D Gaussian splatting."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nfc_gs.core.sh import C0, rgb_to_sh0, sh_bases
from nfc_gs.model.heads.color_head import ColorHead, HeadOptions, SplatColors, check_dimensions


class ShHead(ColorHead):
    """The head "sh": sh_coeffs [N, K, 3], K = (degree + 1)^2."""

    name = "sh"
    parameters = ("sh_coeffs",)

    def start(self, rgb: Tensor, degree: int, options: HeadOptions) -> dict[str, Tensor]:
        return start_sh(rgb, degree)

    def shapes(self, count: int, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        check_dimensions("sh_coeffs", tensors["sh_coeffs"], 3)
        return {"sh_coeffs": (count, tensors["sh_coeffs"].shape[1], 3)}

    def degree(self, tensors: Mapping[str, Tensor]) -> int:
        return round(tensors["sh_coeffs"].shape[1] ** 0.5) - 1

    def recolored(self, tensors: Mapping[str, Tensor], change: Tensor) -> dict[str, Tensor]:
        first = torch.zeros(1, dtype=torch.int64, device=change.device)
        return {"sh_coeffs": tensors["sh_coeffs"].index_add(1, first, change[:, None] / C0)}

    def splat_colors(self, tensors: Mapping[str, Tensor]) -> SplatColors:
        return {"sh_coeffs": tensors["sh_coeffs"]}

    def baked(self, tensors: Mapping[str, Tensor], degree: int) -> Tensor:
        """Cut off at the degree, or filled up with zeros."""
        own, bases = tensors["sh_coeffs"], sh_bases(degree)
        coeffs = own.new_zeros(len(own), bases, 3)
        coeffs[:, : own.shape[1]] = own[:, :bases]
        return coeffs

    def describe(self, tensors: Mapping[str, Tensor]) -> str:
        return "spherical harmonics"


def start_sh(rgb: Tensor, degree: int) -> dict[str, Tensor]:
    """Direct SH that shows `rgb` [N, 3] in [0, 1] from every side: {"sh_coeffs": [N, K, 3]}."""
    coeffs = rgb.new_zeros(len(rgb), sh_bases(degree), 3)
    coeffs[:, 0] = rgb_to_sh0(rgb)
    return {"sh_coeffs": coeffs}
