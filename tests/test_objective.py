"""Losses against naive loops, metrics against scikit-image."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import HERE
from losses import photometric, photometric_reference
from torch import Tensor

from nfc_gs.core.errors import UserError
from nfc_gs.model.radiance import RenderOutput
from nfc_gs.model.target_encoding import encode_colors
from nfc_gs.objective import metrics
from nfc_gs.objective.objective import Objective, ObjectiveConfig
from nfc_gs.objective.terms import BUILT_IN, TERMS, Comparison, Term, terms_in_words
from nfc_gs.ops import native
from nfc_gs.ops.operations import REFERENCE, Operations, operations_for


def pictures(height: int = 19, width: int = 23, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A rendering (some values beyond [0, 1]), a photograph and a mask."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    rendered = target / 255 + 0.3 * rng.standard_normal(target.shape)
    mask = rng.choice(np.array([0, 127, 128, 255], dtype=np.uint8), (height, width))
    return torch.from_numpy(rendered), torch.from_numpy(target), torch.from_numpy(mask)


def naive_ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM window by window, in two dimensions, with zeros beyond the borders."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    window = (window / window.sum())[..., None]
    pad = ((5, 5), (5, 5), (0, 0))
    x, y = np.pad(x, pad), np.pad(y, pad)
    result = np.zeros((x.shape[0] - 10, x.shape[1] - 10, x.shape[2]))
    for row in range(result.shape[0]):
        for column in range(result.shape[1]):
            a, b = x[row : row + 11, column : column + 11], y[row : row + 11, column : column + 11]
            mean_a, mean_b = (window * a).sum((0, 1)), (window * b).sum((0, 1))
            var_a, var_b = (window * (a - mean_a) ** 2).sum((0, 1)), (window * (b - mean_b) ** 2).sum((0, 1))
            cov = (window * (a - mean_a) * (b - mean_b)).sum((0, 1))
            result[row, column] = ((2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)) / (
                (mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)
            )
    return result


def naive_values(rendered: Tensor, target: Tensor, mask: Tensor | None) -> dict[str, float]:
    x, y = rendered.numpy(), target.numpy() / 255
    counted = np.ones(x.shape[:2], bool) if mask is None else mask.numpy() / 255 >= 0.5
    similarity = naive_ssim_map(x * counted[..., None], y * counted[..., None])
    return {
        "l1": np.abs(x - y)[counted].mean(),
        "ssim": similarity[counted].mean(),
        "mse": ((x - y) ** 2)[counted].mean(),
    }


# ---- the loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [(19, 23), (11, 11), (4, 30), (1, 1)])
def test_every_value_equals_that_of_plain_loops(masked: bool, size: tuple[int, int]):
    rendered, target, mask = pictures(*size)
    mask = mask if masked and size != (1, 1) else None
    result = photometric(rendered, target, mask, ObjectiveConfig(l1=0.7, ssim=0.4))
    expected = naive_values(rendered, target, mask)
    assert result.values.keys() == expected.keys()
    for name, value in expected.items():
        assert float(result.values[name]) == pytest.approx(value, rel=1e-9, abs=1e-12), name
    assert float(result.total) == pytest.approx(0.7 * expected["l1"] + 0.4 * (1 - expected["ssim"]), rel=1e-9)


@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_of_the_loss_equals_finite_differences(masked: bool):
    rendered, target, mask = pictures(5, 4)
    mask = mask if masked else None

    def total(image: Tensor) -> Tensor:
        return photometric(image, target, mask, ObjectiveConfig()).total

    assert torch.autograd.gradcheck(total, rendered.requires_grad_())


def test_equal_pictures_cost_nothing():
    _, target, mask = pictures()
    result = photometric(target.double() / 255, target, mask, ObjectiveConfig())
    assert float(result.total) == pytest.approx(0, abs=1e-12)
    assert float(result.values["ssim"]) == pytest.approx(1)


def test_pixels_behind_the_mask_change_nothing_and_get_no_gradient():
    rendered, target, mask = pictures()
    ignored = mask < 128
    other = rendered.clone()
    other[ignored] = 0.123
    other.requires_grad_()
    result = photometric(other, target, mask, ObjectiveConfig())
    result.total.backward()
    torch.testing.assert_close(result.total, photometric(rendered, target, mask, ObjectiveConfig()).total)
    assert other.grad is not None and (other.grad[ignored] == 0).all() and (other.grad[~ignored] != 0).any()


def test_a_mask_that_ignores_everything_costs_nothing_and_gives_a_gradient_of_zero():
    rendered, target, mask = pictures()
    rendered.requires_grad_()
    result = photometric(rendered, target, torch.zeros_like(mask), ObjectiveConfig())
    result.total.backward()
    assert float(result.total.detach()) == 0 and all(math.isfinite(value) for value in result.values.values())
    assert rendered.grad is not None and (rendered.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # the reference, and the compiled loss
def test_a_term_of_weight_zero_is_measured_but_has_no_gradient(dtype: torch.dtype):
    rendered, target, _ = pictures()
    rendered = rendered.to(dtype).requires_grad_()
    result = photometric(rendered, target, None, ObjectiveConfig(l1=1.0, ssim=0.0))
    assert float(result.values["ssim"]) < 1 and not result.values["ssim"].requires_grad
    (gradient,) = torch.autograd.grad(result.total, rendered)
    difference = rendered.detach() - target / 255
    torch.testing.assert_close(gradient, difference.sign() / difference.numel())


def test_values_beyond_white_are_not_clamped_by_the_loss():
    _, target, _ = pictures()
    bright = torch.full(target.shape, 3.0, dtype=torch.float64)
    white = torch.full_like(target, 255)
    assert float(photometric(bright, white, None, ObjectiveConfig()).values["l1"]) == pytest.approx(2.0)


@pytest.mark.parametrize("size", [(37, 50), (16, 16), (64, 300), (5, 7), (1, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_of_float32_images_on_the_cpu_equals_the_reference(masked: bool, size: tuple[int, int]):
    """This is the path that compiled code may take."""
    rendered, target, mask = pictures(*size, seed=1)
    mask = mask if masked else None
    config = ObjectiveConfig()
    exact, fast = rendered.clone().requires_grad_(), rendered.float().requires_grad_()
    expected, actual = photometric_reference(exact, target, mask, config), photometric(fast, target, mask, config)
    (2 * expected.total).backward()
    (2 * actual.total).backward()
    assert float(actual.total.detach()) == pytest.approx(float(expected.total.detach()), rel=1e-5)
    for name, value in expected.values.items():
        assert float(actual.values[name]) == pytest.approx(float(value), rel=1e-5), name
    assert exact.grad is not None and fast.grad is not None
    limit = 1e-4 * float(exact.grad.abs().max())
    torch.testing.assert_close(fast.grad.double(), exact.grad, rtol=0, atol=limit)


def test_a_rendering_that_is_not_contiguous_gives_the_same_loss_and_gradient():
    rendered, target, mask = pictures()
    plain = rendered.float().requires_grad_()
    wide = torch.cat([rendered, rendered[..., :1]], dim=-1).float().requires_grad_()
    expected = photometric(plain, target, mask, ObjectiveConfig()).total
    actual = photometric(wide[..., :3], target.flip(0).flip(0), mask.T.contiguous().T, ObjectiveConfig()).total
    expected.backward(), actual.backward()
    assert torch.equal(actual, expected)
    assert plain.grad is not None and wide.grad is not None
    assert torch.equal(wide.grad[..., :3], plain.grad) and (wide.grad[..., 3] == 0).all()


def test_every_weight_of_the_config_names_a_term():
    settings = {"ce_eps", "ce_from", "ce_until", "extra"}
    assert {*BUILT_IN, *settings} == set(vars(ObjectiveConfig())) and settings.isdisjoint(TERMS)
    assert list(ObjectiveConfig().weights()) == list(BUILT_IN) and set(BUILT_IN) <= set(TERMS)


def test_pictures_of_different_sizes_are_refused_with_both_numbers():
    rendered, target, mask = pictures()
    with pytest.raises(ValueError, match=r"target.*W is 22 here but 23 in rendered"):
        photometric(rendered, target[:, 1:], None, ObjectiveConfig())
    with pytest.raises(ValueError, match=r"mask.*H is 18 here but 19 in rendered"):
        photometric(rendered, target, mask[1:], ObjectiveConfig())


# ---- classification -----------------------------------------------------------------------------------------------

DTYPES = [torch.float64, torch.float32]  # the reference, and the compiled loss
CE, BIT_CE = (replace(ObjectiveConfig(l1=0.0, ssim=0.0), **{name: 1.0}) for name in ("ce", "bit_ce"))
SIZES = [(1, 1), (7, 5), (3, 300), (2, 513)]  # the compiled losses work on 256 and 32 pixels at a time


def bit_pictures(height: int, width: int) -> Tensor:
    """Probabilities of bits, some of them clipped."""
    return torch.from_numpy(np.random.default_rng(5).uniform(-0.01, 1.01, (height, width, 24)))


def naive_cross_entropies(
    rendered: Tensor, bits: Tensor, target: Tensor, mask: Tensor | None, eps: float = 1e-3
) -> tuple[float, float]:
    """Channel-wise and bit-wise, number by number."""

    def cross_entropy(value: float, label: float) -> float:
        c = min(max(value, eps), 1 - eps)
        return -label * math.log(c) - (1 - label) * math.log(1 - c)

    of_channels, of_bits, count = 0.0, 0.0, 0
    for row in range(rendered.shape[0]):
        for column in range(rendered.shape[1]):
            if mask is not None and mask[row, column] < 128:
                continue
            for channel in range(3):
                value = int(target[row, column, channel])
                of_channels += cross_entropy(float(rendered[row, column, channel]), value / 255)
                for j, digit in enumerate(format(value, "08b")):
                    p = float(bits[row, column, 8 * channel + j])
                    of_bits += 2 ** (7 - j) / 255 * cross_entropy(p, float(digit))
                count += 1
    return of_channels / count, of_bits / count


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_cross_entropies_equal_those_of_plain_loops(dtype: torch.dtype, masked: bool, size: tuple[int, int]):
    rendered, target, mask = pictures(*size)
    mask[0, 0] = 200
    bits, used = bit_pictures(*size), mask if masked else None
    expected = naive_cross_entropies(rendered, bits, target, used)
    config = ObjectiveConfig(l1=0.0, ssim=0.0, ce=0.5, bit_ce=2.0)
    result = photometric(rendered.to(dtype), target, used, config, bits.to(dtype))
    assert list(result.values) == ["l1", "mse", "ssim", "ce", "bit_ce"]
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert float(result.values["ce"]) == pytest.approx(expected[0], rel=tolerance)
    assert float(result.values["bit_ce"]) == pytest.approx(expected[1], rel=tolerance)
    assert float(result.total) == pytest.approx(0.5 * expected[0] + 2.0 * expected[1], rel=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_terms_without_a_weight_are_not_measured_unless_they_are_cheap(dtype: torch.dtype):
    rendered, target, _ = pictures()
    result = photometric(rendered.to(dtype), target, None, ObjectiveConfig(), bit_pictures(19, 23).to(dtype))
    assert list(result.values) == ["l1", "mse", "ssim"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_squared_error_is_minimised_by_its_weight(dtype: torch.dtype):
    rendered, target, mask = pictures()
    rendered = rendered.to(dtype).requires_grad_()
    counted = (mask >= 128)[..., None]
    result = photometric(rendered, target, mask, ObjectiveConfig(l1=0.0, ssim=0.0, mse=1.5))
    (gradient,) = torch.autograd.grad(result.total, rendered)
    difference = counted * (rendered.detach().double() - target / 255)
    count = 3 * int(counted.sum())
    assert float(result.total.detach()) == pytest.approx(1.5 * float(difference.square().sum()) / count, rel=1e-5)
    torch.testing.assert_close(gradient.double(), 1.5 * 2 * difference / count, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_all_terms_together_equal_finite_differences(masked: bool):
    rendered, target, mask = pictures(3, 2)
    mask[0, 0] = 255
    config = ObjectiveConfig(l1=0.8, mse=0.3, ssim=0.2, ce=0.1, bit_ce=0.4, ce_eps=0.02)

    def total(image: Tensor, bits: Tensor) -> Tensor:
        return photometric(image, target, mask if masked else None, config, bits).total

    inputs = (rendered.requires_grad_(), bit_pictures(3, 2).requires_grad_())
    assert torch.autograd.gradcheck(total, inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_least_cross_entropy_is_the_entropy_of_the_photograph(dtype: torch.dtype):
    target = torch.randint(1, 255, (6, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    truth = (target.double() / 255).to(dtype).requires_grad_()
    result = photometric(truth, target, None, CE)
    y = target.double() / 255
    entropy = -(y * y.log() + (1 - y) * (1 - y).log()).mean()
    assert float(result.total.detach()) == pytest.approx(float(entropy), rel=1e-6)
    (gradient,) = torch.autograd.grad(result.total, truth)
    assert gradient.abs().max() < 1e-6
    result = photometric(truth, target, None, BIT_CE, encode_colors(target, dtype))
    # Bits can be known, up to eps; 1 - eps itself is rounded to 6e-8.
    assert float(result.total.detach()) == pytest.approx(-math.log(1 - 1e-3), abs=3e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 1.0, 1.7, -0.2, 1e-4, 0.9995])
def test_what_is_clipped_is_left_to_the_other_terms(dtype: torch.dtype, value: float):
    target = torch.full((4, 5, 3), 128, dtype=torch.uint8)
    rendered = torch.full((4, 5, 3), value, dtype=dtype, requires_grad=True)
    bits = torch.full((4, 5, 24), value, dtype=dtype, requires_grad=True)
    both = photometric(rendered, target, None, ObjectiveConfig(l1=0.5, ssim=0.0, ce=3.0, bit_ce=2.0), bits)
    of_colors, of_bits = torch.autograd.grad(both.total, [rendered, bits], allow_unused=True)
    expected = math.copysign(0.5 / 60, value - 0.5)
    torch.testing.assert_close(of_colors, torch.full_like(of_colors, expected), rtol=1e-6, atol=0)
    assert (of_bits == 0).all() and both.values["ce"].isfinite() and both.values["bit_ce"].isfinite()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [1e-3, 0.1])
def test_no_gradient_of_cross_entropy_exceeds_its_weight_over_eps(dtype: torch.dtype, eps: float):
    values = torch.cat([torch.linspace(-0.2, 1.2, 997), torch.tensor([eps, 1 - eps, eps * 1.0001])]).to(dtype)
    for target_value in (0, 255):
        target = torch.full((1, 1000, 3), target_value, dtype=torch.uint8)
        rendered = values[None, :, None].expand(1, 1000, 3).contiguous().requires_grad_()
        bits = values[None, :, None].expand(1, 1000, 24).contiguous().requires_grad_()
        config = replace(ObjectiveConfig(l1=0.0, ssim=0.0, ce=0.7, bit_ce=0.3), ce_eps=eps)
        loss = photometric(rendered, target, None, config, bits)
        of_colors, of_bits = (3000 * g for g in torch.autograd.grad(loss.total, [rendered, bits]))
        assert 0.9 * 0.7 / eps < of_colors.abs().max() <= 0.7 / eps * (1 + 1e-4)
        assert 0.9 * 0.3 / eps * 128 / 255 < of_bits.abs().max() <= 0.3 / eps * 128 / 255 * (1 + 1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_color_that_is_no_number_makes_the_total_none(dtype: torch.dtype):
    rendered, target, _ = pictures()
    rendered[3, 4, 1] = math.nan
    for config in (CE, ObjectiveConfig(ce=0.1), ObjectiveConfig(l1=0.0, ssim=1.0), ObjectiveConfig()):
        assert math.isnan(photometric(rendered.to(dtype), target, None, config).total)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mask_that_ignores_everything_leaves_no_cross_entropy_and_no_gradient(dtype: torch.dtype):
    rendered, target, mask = pictures()
    rendered, bits = rendered.to(dtype).requires_grad_(), bit_pictures(19, 23).to(dtype).requires_grad_()
    config = ObjectiveConfig(ce=1.0, bit_ce=1.0)
    result = photometric(rendered, target, torch.zeros_like(mask), config, bits)
    assert float(result.total.detach()) == 0 and float(result.values["ce"]) == float(result.values["bit_ce"]) == 0
    for gradient in torch.autograd.grad(result.total, [rendered, bits], allow_unused=True):
        assert gradient is None or (gradient == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_are_needed_for_their_cross_entropy_and_must_fit(dtype: torch.dtype):
    rendered, target, _ = pictures()
    rendered = rendered.to(dtype)
    with pytest.raises(ValueError, match="the output 'bits' was not rendered for this term"):
        photometric(rendered, target, None, BIT_CE)
    with pytest.raises(ValueError, match=r"bits.*8 is not 24"):
        photometric(rendered, target, None, BIT_CE, torch.zeros(19, 23, 8, dtype=dtype))
    with pytest.raises(ValueError, match=r"bits.*W is 22 here but 23 in rendered"):
        photometric(rendered, target, None, BIT_CE, torch.zeros(19, 22, 24, dtype=dtype))


def test_cross_entropy_acts_in_its_part_of_the_run_alone():
    config = ObjectiveConfig(ce=0.3, bit_ce=0.4, ce_from=0.25, ce_until=0.5)
    without = replace(config, ce=0.0, bit_ce=0.0)
    acts = [config.at(progress) == config for progress in (0.0, 0.2499, 0.25, 0.4999, 0.5, 1.0)]
    assert acts == [False, False, True, True, False, False]
    assert config.at(0.1) == config.at(0.9) == without
    always = ObjectiveConfig(ce=0.3)
    assert always.at(0.0) == always.at(1.0) == always, "until the end means the last step as well"


# ---- terms of one's own ------------------------------------------------------------------------------------------

either = pytest.mark.parametrize("operations", [REFERENCE, operations_for("cpu")], ids=["reference", "fast"])


def brightness(pair: Comparison) -> Tensor:
    return pair.mean(pair.rendered)


def comparison(masked: bool = False, **outputs: Tensor) -> Comparison:
    """A rendering in float32, which wants a gradient, beside a photograph."""
    rendered, target, mask = pictures()
    rendered = rendered.float().requires_grad_()
    output = RenderOutput(rendered, alpha=torch.ones_like(rendered[..., :1]), **outputs)  # type: ignore[arg-type]
    return Comparison(output, target, mask if masked else None)


@either
@pytest.mark.parametrize("masked", [False, True])
def test_a_registered_term_is_minimised_by_its_weight_whatever_computes_the_others(
    operations: Operations, masked: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(TERMS, "brightness", Term(brightness))
    pair, plain = comparison(masked), Objective(operations=operations)
    objective = Objective(ObjectiveConfig(extra={"brightness": 5.0}), operations=operations)
    (without,) = torch.autograd.grad(plain(pair).total, pair.rendered)
    result = objective(pair)
    (gradient,) = torch.autograd.grad(result.total, pair.rendered)
    assert list(result.values) == ["l1", "mse", "ssim", "brightness"]
    expected = float(plain(pair).total.detach()) + 5.0 * float(brightness(pair).detach())
    assert float(result.total.detach()) == pytest.approx(expected, rel=1e-6)
    share = pair.weights / (3 * pair.weights.sum())
    torch.testing.assert_close(gradient, without + 5.0 * share.expand(-1, -1, 3), rtol=1e-4, atol=1e-8)
    silent = objective(pair, replace(objective.config, extra={}))
    assert "brightness" not in silent.values and torch.equal(silent.total, plain(pair).total)


@either
def test_a_term_given_as_a_function_is_minimised_too(operations: Operations):
    pair = comparison()
    own = {"brightness": (5.0, brightness), "darkness": (2.0, Term(brightness, loss=lambda value: 1 - value))}
    objective = Objective(terms=own, operations=operations)
    result = objective(pair)
    value = float(result.values["brightness"])
    assert value == pytest.approx(float(pair.rendered.detach().mean()), rel=1e-5)
    expected = float(Objective(operations=operations)(pair).total.detach()) + 5.0 * value + 2.0 * (1 - value)
    assert float(result.total.detach()) == pytest.approx(expected, rel=1e-6)
    assert result.total.requires_grad and not result.values["darkness"].requires_grad


@either
def test_a_term_put_in_place_of_a_built_in_one_counts(operations: Operations, monkeypatch: pytest.MonkeyPatch):
    for name in ("l1", "bit_ce"):
        monkeypatch.setitem(TERMS, name, Term(brightness, always=True))
    pair = comparison(bits=torch.rand(19, 23, 24))
    config = ObjectiveConfig(l1=3.0, ssim=0.0, bit_ce=4.0)
    result = Objective(config, operations=operations)(pair)
    assert float(result.total.detach()) == pytest.approx(7.0 * float(pair.rendered.detach().mean()), rel=1e-5)


@either
def test_where_no_pixel_counts_terms_of_ones_own_are_not_called(operations: Operations):
    def never(pair: Comparison) -> Tensor:
        raise AssertionError("there is nothing to compare")

    pair = replace(comparison(), mask=torch.zeros(19, 23, dtype=torch.uint8))
    result = Objective(terms={"never": (1.0, never)}, operations=operations)(pair)
    (gradient,) = torch.autograd.grad(result.total, pair.rendered)
    assert float(result.total.detach()) == float(result.values["never"]) == 0 and not gradient.any()


@either
def test_a_term_says_which_outputs_it_needs_and_gets_them(operations: Operations):
    far = Term(lambda pair: pair.depth.mean() + pair.normals.mean(), needs=("depth", "normals"))
    objective = Objective(ObjectiveConfig(bit_ce=1.0, ce_until=0.5), {"far": (2.0, far)}, operations)
    assert objective.outputs(objective.config.at(0.0)) == ("rgb", "bits", "depth", "normals")
    assert objective.outputs(objective.config.at(0.5)) == ("rgb", "depth", "normals")
    assert Objective(operations=operations).outputs(ObjectiveConfig()) == ("rgb",)
    images = {"depth": torch.full((19, 23, 1), 4.0), "normals": torch.full((19, 23, 3), 0.5)}
    result = objective(comparison(False, bits=torch.rand(19, 23, 24), **images))
    assert float(result.values["far"]) == 4.5


@either
@pytest.mark.parametrize("name", ["depth", "normals", "bits"])
def test_reading_an_output_that_was_not_rendered_says_how_to_get_it(operations: Operations, name: str):
    objective = Objective(terms={"own": (1.0, lambda pair: getattr(pair, name).mean())}, operations=operations)
    with pytest.raises(ValueError, match=rf"'{name}' was not rendered for this term; .* needs=\('{name}',\)"):
        objective(comparison())
    everything = {"depth": torch.ones(19, 23, 1), "normals": torch.ones(19, 23, 3), "bits": torch.rand(19, 23, 24)}
    with pytest.raises(ValueError, match=f"the output '{name}' was not rendered"):
        objective(comparison(False, **everything))  # another term asked for it, but this one did not


@either
def test_a_term_that_returns_no_scalar_is_named(operations: Operations):
    with pytest.raises(UserError, match=r"The term 'map' .* tensor of shape \(19, 23, 3\), not a scalar"):
        Objective(terms={"map": (1.0, lambda pair: pair.rendered)}, operations=operations)(comparison())
    with pytest.raises(UserError, match="The term 'number' of the objective returned float, not a scalar tensor"):
        Objective(terms={"number": (1.0, lambda pair: 2.0)}, operations=operations)(comparison())  # type: ignore


def test_unknown_and_repeated_names_of_terms_are_refused():
    with pytest.raises(UserError, match="There is no term 'tv' of the objective, only l1, mse, ssim, ce, bit_ce"):
        Objective(ObjectiveConfig(extra={"tv": 1.0}))
    with pytest.raises(UserError, match=r"The term 'bit_ce' has an option of its own; write --objective\.bit-ce"):
        Objective(ObjectiveConfig(extra={"bit_ce": 1.0}))
    with pytest.raises(UserError, match="There is already a term 'l1' of the objective; give yours another name"):
        Objective(terms={"l1": (1.0, brightness)})
    with pytest.raises(UserError, match="There is no term 'tv'"):
        Objective()(comparison(), ObjectiveConfig(extra={"tv": 1.0}))


def test_an_objective_in_words_names_all_terms_with_a_weight():
    config = ObjectiveConfig(ce=0.3, extra={"brightness": 2.0, "none": 0.0})
    assert terms_in_words(config.weights()) == "0.8 l1 + 0.2 ssim + 0.3 ce + 2 brightness"


# ---- metrics ------------------------------------------------------------------------------------------------------


def unit_pictures(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 10
    truth = np.stack([np.sin(x) * 0.4 + 0.5, np.cos(y) * 0.4 + 0.5, np.sin(x * y) * 0.4 + 0.5], axis=-1)
    return np.clip(truth + 0.1 * rng.standard_normal(truth.shape), 0, 1), truth


@pytest.mark.parametrize("size", [(40, 52), (11, 11), (12, 64)])
def test_ssim_equals_that_of_scikit_image(size: tuple[int, int]):
    from skimage.metrics import structural_similarity

    image, truth = unit_pictures(*size)
    expected = structural_similarity(
        image,
        truth,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=-1,
    )
    assert metrics.ssim(image, truth) == pytest.approx(expected, abs=1e-9)
    assert metrics.ssim(torch.from_numpy(image), torch.from_numpy(truth)) == pytest.approx(expected, abs=1e-9)


def test_psnr_equals_that_of_scikit_image():
    from skimage.metrics import peak_signal_noise_ratio

    image, truth = unit_pictures(40, 52)
    expected = peak_signal_noise_ratio(truth, image, data_range=1)
    assert metrics.psnr(image, truth) == pytest.approx(expected, abs=1e-9)


def test_metrics_clamp_what_is_beyond_black_and_white():
    image, truth = unit_pictures(20, 20)
    wild = np.where(image > 0.9, 7.0, np.where(image < 0.1, -3.0, image))
    tame = np.clip(wild, 0, 1)
    assert metrics.psnr(wild, truth) == metrics.psnr(tame, truth)
    assert metrics.ssim(wild, truth) == metrics.ssim(tame, truth)


def test_metrics_take_bytes_as_well():
    image, truth = (np.round(picture * 255).astype(np.uint8) for picture in unit_pictures(20, 20))
    assert metrics.psnr(image, truth) == pytest.approx(metrics.psnr(image / 255, truth / 255), abs=1e-9)
    assert metrics.ssim(image, truth) == pytest.approx(metrics.ssim(image / 255, truth / 255), abs=1e-9)


def test_metrics_look_only_at_what_the_mask_shows():
    image, truth = unit_pictures(30, 40)
    mask = np.zeros((30, 40), np.uint8)
    mask[:, :25] = 255
    hidden = image.copy()
    hidden[:, 25:] = 0.77
    assert metrics.psnr(hidden, truth, mask) == pytest.approx(metrics.psnr(image[:, :25], truth[:, :25]))
    assert metrics.ssim(hidden, truth, mask) == pytest.approx(metrics.ssim(image, truth, mask > 127))
    assert metrics.ssim(hidden, truth, mask) != pytest.approx(metrics.ssim(hidden, truth))


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (10, 10)])
def test_pictures_smaller_than_the_window_are_measured_too(size: tuple[int, int]):
    image, truth = unit_pictures(*size)
    assert metrics.ssim(truth, truth) == pytest.approx(1)
    assert metrics.ssim(image, truth) == pytest.approx(naive_ssim_map(image, truth).mean())
    assert math.isfinite(metrics.psnr(image, truth))


def test_equal_pictures_are_infinitely_good_and_hidden_ones_are_not_a_number():
    _, truth = unit_pictures(20, 20)
    assert metrics.psnr(truth, truth) == math.inf
    nothing = np.zeros((20, 20), np.uint8)
    assert math.isnan(metrics.psnr(truth, truth, nothing)) and math.isnan(metrics.ssim(truth, truth, nothing))


@pytest.mark.parametrize("kind", ["float32", "float64", "bytes"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [(11, 11), (11, 300), (300, 11), (150, 271), (4, 30)])
def test_the_compiled_metrics_are_those_of_the_reference(
    size: tuple[int, int], masked: bool, kind: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(metrics, "BAND_PIXELS", 1000)  # so that there are several bands
    given, truth = unit_pictures(*size)
    wild = torch.from_numpy(1.2 * given - 0.1)
    image = {"float32": wild.float(), "float64": wild, "bytes": torch.from_numpy(np.round(given * 255)).byte()}[kind]
    mask = np.random.default_rng(7).integers(0, 256, size, dtype=np.uint8) if masked else None
    photo = np.round(truth * 255).astype(np.uint8)
    for measure in (metrics.psnr, metrics.ssim):
        expected = measure(image, photo, mask, operations=REFERENCE)
        assert measure(image, photo, mask) == pytest.approx(expected, abs=1e-10)


@pytest.mark.skipif(not native.available(), reason="the compiled core is not built")
@pytest.mark.usefixtures("same_core_afterwards")
def test_the_compiled_metrics_are_the_same_bits_for_any_number_of_threads():
    image, truth = unit_pictures(300, 270)
    found = set()
    for threads in (1, 2, 5):
        native.set_threads(threads)
        found.add((metrics.psnr(image, truth), metrics.ssim(image, truth)))
    assert len(found) == 1


@pytest.mark.skipif(not native.available(), reason="the compiled core is not built")
@pytest.mark.usefixtures("same_core_afterwards")
@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_measures_pictures_alike(name: str):
    if not native.core().use_instruction_set(name):
        pytest.skip(f"this machine does not have {name}")
    image, truth = unit_pictures(70, 300)
    for measure in (metrics.psnr, metrics.ssim):
        assert measure(image, truth) == pytest.approx(measure(image, truth, operations=REFERENCE), abs=1e-12)


MEASURE_IN_BOUNDED_MEMORY = """
import resource
import sys
import torch
from nfc_gs.objective import metrics
from nfc_gs.ops.operations import CPU, REFERENCE

operations = {"cpu": CPU, "reference": REFERENCE}[sys.argv[1]]
torch.set_num_threads(1)
image, truth = torch.rand(1080, 1920, 3), torch.zeros(1080, 1920, 3, dtype=torch.uint8)
mask = torch.ones(1080, 1920, dtype=torch.uint8)
metrics.ssim(image[:32], truth[:32], operations=operations)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
metrics.ssim(image, truth, mask, operations=operations), metrics.psnr(image, truth, mask, operations=operations)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is in other units elsewhere")
@pytest.mark.parametrize(
    "operations",
    [pytest.param("cpu", marks=pytest.mark.skipif(not native.available(), reason="no compiled core")), "reference"],
)
def test_a_view_of_two_megapixels_is_measured_in_bounded_memory(operations: str):
    command = [sys.executable, "-c", MEASURE_IN_BOUNDED_MEMORY, operations]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE)
    assert int(result.stdout) < 400 * 1024, "KiB; whole pictures take 2.8 GB"


def test_metrics_refuse_pictures_and_masks_that_they_would_misread():
    image, truth = unit_pictures(20, 20)
    with pytest.raises(ValueError, match=r"mask has dtype torch.float64, expected uint8 or bool"):
        metrics.psnr(image, truth, np.ones((20, 20)))
    with pytest.raises(ValueError, match=r"image has dtype torch.int64, expected uint8 or floats"):
        metrics.ssim((image * 255).astype(np.int64), truth)
    with pytest.raises(ValueError, match=r"mask has shape \(19, 20\)"):
        metrics.ssim(image, truth, np.ones((19, 20), bool))


def test_lpips_without_its_package_says_so_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setitem(sys.modules, "lpips", None)
    metrics._lpips_network.cache_clear()
    image, truth = unit_pictures(20, 20)
    with caplog.at_level(logging.WARNING, logger="nfc_gs"):
        assert metrics.lpips(image, truth) is None
        assert metrics.lpips(image, truth) is None
    assert len(caplog.messages) == 1 and "pip install 'nfc-gs[metrics]'" in caplog.messages[0]
    metrics._lpips_network.cache_clear()


def test_lpips_without_its_weights_says_where_they_belong_and_downloads_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path
):
    class Package:
        @staticmethod
        def LPIPS(*args, **kwargs):  # noqa: N802
            raise AssertionError("the network must not be built, for that would download its weights")

    monkeypatch.setitem(sys.modules, "lpips", Package)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    metrics._lpips_network.cache_clear()
    image, truth = unit_pictures(20, 20)
    with caplog.at_level(logging.WARNING, logger="nfc_gs"):
        assert metrics.lpips(image, truth) is None
    assert str(tmp_path) in caplog.text and "vgg16-397923af.pth" in caplog.text
    metrics._lpips_network.cache_clear()


def test_the_needs_of_a_term_are_a_tuple() -> None:
    with pytest.raises(ValueError, match=r"must be a tuple: needs=\('depth',\)"):
        Term(lambda pair: pair.mean(pair.depth), needs="depth")  # type: ignore[arg-type]
