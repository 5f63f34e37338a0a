"""Color as the logits of 24 bits ("target encoding"): eight for each of red, green and blue, most significant first.

For bit j of channel c seen in the direction d:

- shared: l_cj(d) = b_cj + sum_{k>=1} Y_k(d) s_kc, one view-dependent shift for the eight logits of a channel:
  24 + 3 (K - 1) numbers per Gaussian, where SH has 3 K;
- full: l_cj(d) = b_cj + sum_{k>=1} Y_k(d) s_kcj: 24 K numbers. The constant Y_0 is left out of b, which changes its
  unit but not what can be represented.

Degree 0 has b alone. A bit's probability is p = sigmoid(l), and the color is decoded from the probabilities before
compositing (`target_encoding.decode`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nfc_gs.core.constants import BITS
from nfc_gs.core.sh import sh_bases, sh_basis, spread_directions
from nfc_gs.model.heads.color_head import BitView, ColorHead, HeadOptions, SplatColors, check_dimensions
from nfc_gs.model.target_encoding import COLOR_BITS, decode_colors, encode_colors, even_bits

MIN_PROBABILITY = 1.0 / 510.0
"""Half an 8-bit step: probabilities at the start keep this distance from 0 and 1, where logits are infinite."""

BAKE_DIRECTIONS = 128
"""Directions over the sphere to which baked SH is fitted; the highest degree has 16 unknowns per channel."""


class BitHead(ColorHead):
    """The head "bits": bit_logits [N, 24] and bit_shifts [N, K - 1, 3] (shared) or [N, K - 1, 24] (full)."""

    name = "bits"
    parameters = ("bit_logits", "bit_shifts")
    has_bits = True

    def start(self, rgb: Tensor, degree: int, options: HeadOptions) -> dict[str, Tensor]:
        return start_bits(rgb, degree, options.bit_view, options.bit_hardness)

    def shapes(self, count: int, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        check_dimensions("bit_shifts", tensors["bit_shifts"], 3)
        _, bases, columns = tensors["bit_shifts"].shape
        columns = COLOR_BITS if columns == COLOR_BITS else 3
        return {"bit_logits": (count, COLOR_BITS), "bit_shifts": (count, bases, columns)}

    def degree(self, tensors: Mapping[str, Tensor]) -> int:
        return _degree(tensors["bit_shifts"])

    def recolored(self, tensors: Mapping[str, Tensor], change: Tensor) -> dict[str, Tensor]:
        """In first order: the color of an undecided bit moves by a quarter of its logit."""
        return {"bit_logits": tensors["bit_logits"] + (4.0 * change).repeat_interleave(BITS, dim=1)}

    def splat_colors(self, tensors: Mapping[str, Tensor]) -> SplatColors:
        return {"bit_logits": tensors["bit_logits"], "bit_shifts": tensors["bit_shifts"]}

    def baked(self, tensors: Mapping[str, Tensor], degree: int) -> Tensor:
        """By least squares (`bake_bits`)."""
        return bake_bits(tensors["bit_logits"], tensors["bit_shifts"], degree)

    def describe(self, tensors: Mapping[str, Tensor]) -> str:
        shared = tensors["bit_shifts"].shape[2] == 3
        return f"{COLOR_BITS} bits, one shift a {'channel' if shared else 'bit'} for the view"


def start_bits(rgb: Tensor, degree: int, view: BitView = "shared", hardness: float = 0.0) -> dict[str, Tensor]:
    """A bit head that shows `rgb` from every side, to within half an 8-bit step.

    Bit j of a channel of value c starts at the probability (1 - h) c + h b_j, where b_j is the true bit of c. Both ends
    decode to c, and so does everything between: h = 0 has all eight bits at c, h near 1 has them decided. (Where that
    would be closer to 0 or 1 than `MIN_PROBABILITY`, it keeps that distance.)

    Args:
        rgb: [N, 3] in [0, 1].
        hardness: h, 0..1.

    Returns:
        "bit_logits" [N, 24] and "bit_shifts" [N, K - 1, 3] (shared) or [N, K - 1, 24] (full), the latter zero.
    """
    bits = encode_colors((rgb * 255).round().to(torch.int64), rgb.dtype)
    probabilities = (1 - hardness) * even_bits(rgb) + hardness * bits
    logits = probabilities.clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY).logit()
    columns = 3 if view == "shared" else COLOR_BITS
    return {"bit_logits": logits, "bit_shifts": rgb.new_zeros(len(rgb), sh_bases(degree) - 1, columns)}


def bit_probabilities(bit_logits: Tensor, bit_shifts: Tensor, directions: Tensor, degree: int) -> Tensor:
    """Probabilities of the bits as seen in the given directions: the readable reference of the compiled kernels.

    Args:
        bit_logits: [N, 24].
        bit_shifts: [N, K - 1, 3] or [N, K - 1, 24], K >= (degree + 1)^2; what is beyond the degree is not used.
        directions: [N, 3] unit vectors from the camera to the Gaussians.
        degree: 0..3.

    Returns:
        [N, 24] in (0, 1).
    """
    basis = sh_basis(directions, degree)[:, 1:]  # [N, k]
    shifts = (basis[..., None] * bit_shifts[:, : basis.shape[1]]).sum(1)  # [N, 3] or [N, 24]
    if shifts.shape[-1] == 3:
        shifts = even_bits(shifts)
    return (bit_logits + shifts).sigmoid()


@torch.no_grad()
def bake_bits(bit_logits: Tensor, bit_shifts: Tensor, degree: int) -> Tensor:
    """Direct SH that comes closest to a bit head: least squares over directions spread evenly over the sphere.

    The decoded color is a sigmoid of the harmonics, so the fit is not exact unless the color does not depend on the
    direction.

    Args:
        bit_logits: [N, 24].
        bit_shifts: [N, K - 1, 3 or 24].
        degree: of the result, 0..3; may differ from that of the head.

    Returns:
        sh_coeffs [N, (degree + 1)^2, 3].
    """
    count, own_degree = len(bit_logits), _degree(bit_shifts)
    directions = spread_directions(BAKE_DIRECTIONS).to(bit_logits.device)
    solve = torch.linalg.pinv(sh_basis(directions, degree)).to(bit_logits)  # [K', D]
    coeffs = bit_logits.new_zeros(count, sh_bases(degree), 3)
    for direction, weights in zip(directions.to(bit_logits), solve.T, strict=True):
        seen = bit_probabilities(bit_logits, bit_shifts, direction[None], own_degree)
        coeffs += weights[:, None] * (decode_colors(seen) - 0.5)[:, None, :]
    return coeffs


def _degree(bit_shifts: Tensor) -> int:
    """The SH degree of shifts [N, K - 1, 3 or 24]."""
    return round((bit_shifts.shape[1] + 1) ** 0.5) - 1
