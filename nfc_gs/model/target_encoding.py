"""Binary target encoding of colors (Neural Field Classifiers, Yang et al. 2024, arXiv 2403.01058, section 3.1).

An 8-bit value is its binary number, most significant bit first. A vector of bit probabilities p stands for the value
sum_j 2^j p_j / 255, which is linear in p: compositing the probabilities of many splats and decoding once gives the
same as decoding each splat and compositing colors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nfc_gs.core.constants import BITS

MAX_VALUE = 2**BITS - 1
"""The largest value that `BITS` bits hold: 255."""

COLOR_BITS = 3 * BITS
"""Bits of a color: eight for red, eight for green, eight for blue."""


def place_values(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """[8] what each bit is worth, most significant first: 128/255, 64/255, ..., 1/255; the sum is 1.

    The compiled kernels have the same numbers (`cuda/include/nfc_gs/bits.h`).
    """
    powers = 2 ** torch.arange(BITS - 1, -1, -1, device=device)
    return (powers.to(torch.float64) / MAX_VALUE).to(dtype)


def encode(values: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The binary numbers of 8-bit values.

    Args:
        values: [...] whole numbers 0..255 of any integer dtype; of others the lowest eight bits are taken.
        dtype: a floating one.

    Returns:
        [..., 8] zeros and ones of `dtype`, most significant bit first.

    Raises:
        ValueError: the values are not of an integer dtype, or `dtype` is not a floating one.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"bits are probabilities and need a floating dtype, not {dtype}")
    if values.dtype.is_floating_point or values.dtype.is_complex or values.dtype == torch.bool:
        raise ValueError(f"values have dtype {values.dtype}, expected whole numbers 0..{MAX_VALUE}")
    shifts = torch.arange(BITS - 1, -1, -1, device=values.device)
    return ((values.to(torch.int64)[..., None] >> shifts) & 1).to(dtype)


def decode(probabilities: Tensor) -> Tensor:
    """The value that bit probabilities stand for, sum_j 2^j p_j / 255 (the soft decoding); differentiable.

    Args:
        probabilities: [..., 8] in [0, 1], most significant bit first.

    Returns:
        [...] in [0, 1].

    Raises:
        ValueError: there are not 8 bits, or their dtype is not a floating one.
    """
    if not probabilities.dtype.is_floating_point:
        raise ValueError(f"probabilities have dtype {probabilities.dtype}, expected a floating dtype")
    if probabilities.shape[-1] != BITS:
        raise ValueError(f"probabilities has {probabilities.shape[-1]} bits in its last dimension, expected {BITS}")
    return probabilities @ place_values(probabilities.dtype, probabilities.device)


def decode_colors(probabilities: Tensor) -> Tensor:
    """[..., 24] bit probabilities, eight for each of red, green and blue -> [..., 3] colors in [0, 1]."""
    return decode(probabilities.unflatten(-1, (3, BITS)))


def encode_colors(colors: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[..., 3] whole numbers 0..255 -> [..., 24] zeros and ones."""
    return encode(colors, dtype).flatten(-2)


def even_bits(colors: Tensor) -> Tensor:
    """[..., 3] colors in [0, 1] -> [..., 24]: the probability of all eight bits is the value, and decodes to it."""
    return colors.repeat_interleave(BITS, dim=-1)


@torch.no_grad()
def entropy(probabilities: Tensor) -> Tensor:
    """How undecided bits are: the mean of their binary entropies, each weighted by what its bit is worth.

    For display, without a gradient: at 0 and 1, where decided bits and uncovered pixels are, it has none.

    Args:
        probabilities: [..., 24] in [0, 1].

    Returns:
        [..., 1] in [0, 1] bits: 0 where every bit is decided, 1 where every bit is a coin toss. The weights keep the
        low bits, which are noise in every photograph, from drowning the rest.
    """
    p = probabilities.clamp(0, 1)
    each = (torch.special.entr(p) + torch.special.entr(1 - p)) / torch.log(p.new_tensor(2.0))
    return decode_colors(each).mean(-1, keepdim=True)
