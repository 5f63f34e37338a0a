"""What colors the Gaussians: direct spherical harmonics, or 24 bit logits ("target encoding").

The bit head holds the logits of the eight bits of red, green and blue, most significant first. For bit j of channel c
seen in the direction d:

- shared: l_cj(d) = b_cj + sum_{k>=1} Y_k(d) s_kc, one view-dependent shift for the eight logits of a channel:
  24 + 3 (K - 1) numbers per Gaussian, where SH has 3 K;
- full: l_cj(d) = b_cj + sum_{k>=1} Y_k(d) s_kcj: 24 K numbers. The constant Y_0 is left out of b, which changes its
  unit but not what can be represented.

Degree 0 has b alone. A bit's probability is p = sigmoid(l), and the color is decoded from the probabilities before
compositing (`target_encoding.decode`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from nfc_gs.core.sh import rgb_to_sh0, sh_bases, sh_basis, spread_directions
from nfc_gs.model.target_encoding import COLOR_BITS, decode_colors, encode_colors, even_bits

HeadName = Literal["sh", "bits"]
BitView = Literal["shared", "full"]

HEAD_PARAMETERS: dict[str, tuple[str, ...]] = {"sh": ("sh_coeffs",), "bits": ("bit_logits", "bit_shifts")}
"""Names of the tensors of each head, in the order in which they are saved."""

MIN_PROBABILITY = 1.0 / 510.0
"""Half an 8-bit step: probabilities at the start keep this distance from 0 and 1, where logits are infinite."""

BAKE_DIRECTIONS = 128
"""Directions over the sphere to which baked SH is fitted; the highest degree has 16 unknowns per channel."""


def start_sh(rgb: Tensor, degree: int) -> dict[str, Tensor]:
    """Direct SH that shows `rgb` [N, 3] in [0, 1] from every side: {"sh_coeffs": [N, K, 3]}."""
    coeffs = rgb.new_zeros(len(rgb), sh_bases(degree), 3)
    coeffs[:, 0] = rgb_to_sh0(rgb)
    return {"sh_coeffs": coeffs}


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
    count, own_degree = len(bit_logits), round((bit_shifts.shape[1] + 1) ** 0.5) - 1
    directions = spread_directions(BAKE_DIRECTIONS).to(bit_logits.device)
    solve = torch.linalg.pinv(sh_basis(directions, degree)).to(bit_logits)  # [K', D]
    coeffs = bit_logits.new_zeros(count, sh_bases(degree), 3)
    for direction, weights in zip(directions.to(bit_logits), solve.T, strict=True):
        seen = bit_probabilities(bit_logits, bit_shifts, direction[None], own_degree)
        coeffs += weights[:, None] * (decode_colors(seen) - 0.5)[:, None, :]
    return coeffs
