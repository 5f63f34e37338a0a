"""Binary target encoding: against Python's own binary numbers, and the properties that compositing relies on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nfc_gs.model.target_encoding import (
    BITS,
    COLOR_BITS,
    decode,
    decode_colors,
    encode,
    encode_colors,
    entropy,
    even_bits,
    place_values,
)
from nfc_gs.ops import native

EVERY_VALUE = torch.arange(256)
INTEGERS = [torch.uint8, torch.int16, torch.int32, torch.int64]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_bits_are_those_of_the_binary_number_most_significant_first(dtype: torch.dtype):
    expected = [[float(digit) for digit in format(value, "08b")] for value in range(256)]
    assert encode(EVERY_VALUE.to(dtype)).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_value_comes_back_exactly(dtype: torch.dtype):
    bits = encode(EVERY_VALUE, dtype)
    assert bits.dtype == dtype
    assert (decode(bits) * 255).round().to(torch.int64).tolist() == list(range(256))
    np.testing.assert_allclose(decode(bits).numpy(), np.arange(256) / 255, rtol=0, atol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)])
def test_any_leading_shape_is_taken(shape: tuple[int, ...]):
    values = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1))
    bits = encode(values)
    assert bits.shape == (*shape, BITS)
    assert torch.equal((decode(bits) * 255).round().to(torch.int64), values)
    colors = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    bits = encode_colors(colors)
    assert bits.shape == (*shape, COLOR_BITS)
    assert torch.equal((decode_colors(bits) * 255).round().to(torch.uint8), colors)


def test_a_color_is_the_bits_of_red_then_green_then_blue():
    digits = format(200, "08b") + format(7, "08b") + format(129, "08b")
    assert encode_colors(torch.tensor([200, 7, 129])).tolist() == [float(digit) for digit in digits]


def test_place_values_are_powers_of_two_over_255_and_add_up_to_one():
    assert place_values(torch.float64).tolist() == [2**j / 255 for j in (7, 6, 5, 4, 3, 2, 1, 0)]
    assert float(place_values(torch.float64).sum()) == pytest.approx(1, abs=1e-15)


@pytest.mark.skipif(not native.available(), reason="the compiled core is not built")
def test_the_kernels_have_the_same_place_values():
    assert native.core().place_values() == place_values().tolist()


def test_decoding_is_linear_so_it_commutes_with_compositing():
    first, second, weights = random(5, 24), random(5, 24, seed=1), random(5, 1, seed=2)
    mixed = decode_colors(weights * first + (1 - weights) * second)
    expected = weights * decode_colors(first) + (1 - weights) * decode_colors(second)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-15)


def test_the_gradient_of_decoding_is_the_place_values():
    assert torch.autograd.gradcheck(decode, random(2, 3, 8).requires_grad_())
    bits = random(4, 24).requires_grad_()
    (gradient,) = torch.autograd.grad(decode_colors(bits).sum(), bits)
    assert torch.equal(gradient, place_values(torch.float64).repeat(4, 3))


def test_equal_probabilities_of_all_bits_decode_to_themselves():
    colors = torch.cat([random(50, 3), torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)])
    bits = even_bits(colors)
    assert bits.shape == (51, 24) and (bits[:, :8] == colors[:, :1]).all() and (bits[:, 16:] == colors[:, 2:]).all()
    torch.testing.assert_close(decode_colors(bits), colors, rtol=0, atol=1e-15)


def test_decided_bits_have_no_entropy_and_tossed_coins_have_one():
    assert (entropy(encode_colors(EVERY_VALUE[:, None].expand(-1, 3))) == 0).all()
    coins = entropy(torch.full((2, 5, 24), 0.5, dtype=torch.float64))
    assert coins.shape == (2, 5, 1)
    torch.testing.assert_close(coins, torch.ones_like(coins), rtol=0, atol=1e-15)


def test_the_entropy_of_one_bit_counts_by_its_place_in_its_channel():
    bits = torch.zeros(24, dtype=torch.float64)
    bits[8] = 0.25  # green's most significant
    of_the_bit = -0.25 * math.log2(0.25) - 0.75 * math.log2(0.75)
    assert float(entropy(bits)) == pytest.approx(128 / 255 / 3 * of_the_bit, rel=1e-14)


def test_the_entropy_takes_probabilities_that_rounding_put_outside():
    bits = torch.tensor([-1e-7, 1 + 1e-7]).repeat(12)
    assert float(entropy(bits)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bool, torch.complex64])
def test_what_is_not_whole_numbers_has_no_bits(dtype: torch.dtype):
    with pytest.raises(ValueError, match=f"values have dtype {dtype}, expected whole numbers"):
        encode(torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize("count", [0, 7, 9, 24])
def test_another_number_of_bits_is_refused(count: int):
    with pytest.raises(ValueError, match=f"probabilities has {count} bits in its last dimension, expected 8"):
        decode(torch.zeros(4, count))


@pytest.mark.parametrize("count", [8, 23, 25])
def test_another_number_of_bits_of_a_color_is_refused(count: int):
    with pytest.raises((ValueError, RuntimeError)):
        decode_colors(torch.zeros(4, count))
