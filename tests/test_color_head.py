"""The color heads: where they start, what they show from where, and how well SH takes the place of bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from splat_scenes import naive_bits
from torch import Tensor

from nfc_gs.core.sh import eval_sh, rgb_to_sh0
from nfc_gs.data.scene import PointCloud
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.heads.bits import MIN_PROBABILITY, bake_bits, bit_probabilities, start_bits
from nfc_gs.model.target_encoding import decode_colors, encode_colors

DEGREES = [0, 1, 2, 3]
VIEWS = {"shared": 3, "full": 24}
GREYS = (torch.arange(256, dtype=torch.float64) / 255)[:, None].expand(-1, 3)
HALF_STEP = 0.5 / 255


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def directions(count: int, seed: int = 9) -> Tensor:
    return torch.nn.functional.normalize(normal(count, 3, seed=seed), dim=-1)


def some_bits(count: int, degree: int, view: str, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    return normal(count, 24), strength * normal(count, (degree + 1) ** 2 - 1, VIEWS[view], seed=1)


def seen(logits: Tensor, shifts: Tensor, along: Tensor, degree: int) -> Tensor:
    """[D, N, 3] decoded colors from many directions."""
    return torch.stack(
        [decode_colors(bit_probabilities(logits, shifts, d.expand(len(logits), 3), degree)) for d in along]
    )


def some_model(head: str, degree: int = 2, view: str = "shared", count: int = 5) -> GaussianModel:
    logits, shifts = some_bits(count, degree, view)
    colors = {"bit_logits": logits, "bit_shifts": shifts}
    if head == "sh":
        colors = {"sh_coeffs": normal(count, (degree + 1) ** 2, 3)}
    geometry = {"means": normal(count, 3), "log_scales": normal(count, 3), "quats": normal(count, 4)}
    return GaussianModel(geometry | {"opacity_logits": normal(count)} | colors)


# ---- the start ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hardness", [0.0, 0.5, 0.9, 1.0])
def test_every_grey_starts_as_itself(hardness: float):
    start = start_bits(GREYS, 0, hardness=hardness)
    shown = decode_colors(start["bit_logits"].sigmoid())
    assert (shown - GREYS).abs().max() <= HALF_STEP * (1 + 1e-9)  # every bit is held half a step off 0 and 1
    if hardness < 1:  # at 0.9 a bit of value c keeps 0.1 c or 1 - 0.1 (1 - c), which is farther from 0 and 1 than that
        free = ((1 - hardness) * torch.minimum(GREYS, 1 - GREYS) >= MIN_PROBABILITY).all(1)
        assert free.sum() > 200
        torch.testing.assert_close(shown[free], GREYS[free], rtol=0, atol=1e-12)


def test_hardness_goes_from_the_value_itself_to_its_binary_number():
    rgb = torch.tensor([[0.2, 0.6, 180 / 255]], dtype=torch.float64)
    soft, half, hard = (start_bits(rgb, 0, hardness=h)["bit_logits"].sigmoid() for h in (0.0, 0.5, 1.0))
    torch.testing.assert_close(soft, rgb.repeat_interleave(8, dim=1), rtol=0, atol=1e-12)
    digits = encode_colors(torch.tensor([[51, 153, 180]]), torch.float64)
    torch.testing.assert_close(hard, digits.clamp(1 / 510, 1 - 1 / 510), rtol=0, atol=1e-12)
    torch.testing.assert_close(half, (soft + digits) / 2, rtol=0, atol=1e-12)


def test_logits_at_the_start_are_finite_whatever_the_color():
    rgb = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 1e-9]])
    for hardness in (0.0, 1.0):
        logits = start_bits(rgb, 3, hardness=hardness)["bit_logits"]
        assert logits.isfinite().all() and logits.abs().max() < math.log(510)


@pytest.mark.parametrize("degree", DEGREES)
def test_a_gaussian_has_as_many_numbers_as_the_head_says(degree: int):
    bases = (degree + 1) ** 2
    shared, full = (start_bits(GREYS, degree, view) for view in ("shared", "full"))
    assert [tuple(tensor.shape) for tensor in shared.values()] == [(256, 24), (256, bases - 1, 3)]
    assert [tuple(tensor.shape) for tensor in full.values()] == [(256, 24), (256, bases - 1, 24)]
    for head, numbers in ((shared, 24 + 3 * (bases - 1)), (full, 24 * bases)):
        assert sum(tensor.numel() for tensor in head.values()) == 256 * numbers
        assert (head["bit_shifts"] == 0).all()


@pytest.mark.parametrize("view", VIEWS)
def test_points_become_a_bit_head_in_their_colors(view: str):
    rng = np.random.default_rng(0)
    points = PointCloud(rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 256, (40, 3)).astype(np.uint8))
    model = GaussianModel.from_points(points, 2, head="bits", bit_view=view, bit_hardness=0.5)  # type: ignore[arg-type]
    assert model.head == "bits" and model.sh_coeffs is None and model.sh_degree == 2 and len(model) == 40
    assert model.bit_logits is not None and model.bit_shifts is not None
    assert model.bit_shifts.shape == (40, 8, VIEWS[view])
    shown = decode_colors(model.bit_logits.detach().sigmoid())
    assert (shown - torch.from_numpy(points.rgb) / 255).abs().max() < HALF_STEP + 1e-6
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert torch.equal(model.means, GaussianModel.from_points(points, 2).means), (
        "the geometry is that of the other head"
    )


# ---- what is seen from where --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stored", "degree"), [(s, d) for s in DEGREES for d in DEGREES if d <= s])
@pytest.mark.parametrize("view", VIEWS)
def test_probabilities_equal_those_of_plain_loops(view: str, stored: int, degree: int):
    logits, shifts = some_bits(6, stored, view)
    along = directions(6)
    expected = [naive_bits(logits[i].numpy(), shifts[i].numpy(), along[i].numpy(), degree) for i in range(6)]
    actual = bit_probabilities(logits, shifts, along, degree)
    np.testing.assert_allclose(actual.numpy(), np.array(expected), rtol=0, atol=1e-13)


@pytest.mark.parametrize("degree", DEGREES)
def test_a_full_head_with_equal_columns_is_a_shared_one(degree: int):
    logits, shifts = some_bits(6, degree, "shared")
    along = directions(6)
    full = bit_probabilities(logits, shifts.repeat_interleave(8, dim=-1), along, degree)
    torch.testing.assert_close(full, bit_probabilities(logits, shifts, along, degree), rtol=0, atol=1e-15)


# ---- baking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("view", VIEWS)
def test_baking_a_head_without_view_dependence_is_exact(view: str, degree: int):
    logits, shifts = some_bits(6, 2, view, strength=0.0)
    baked = bake_bits(logits, shifts, degree)
    assert baked.shape == (6, (degree + 1) ** 2, 3)
    torch.testing.assert_close(baked[:, 0], rgb_to_sh0(decode_colors(logits.sigmoid())), rtol=0, atol=1e-12)
    assert (baked[:, 1:].abs() < 1e-12).all()


@pytest.mark.parametrize("view", VIEWS)
def test_baking_comes_the_closer_the_higher_the_degree(view: str):
    logits, shifts = some_bits(20, 2, view, strength=0.2)
    along = directions(300)
    truth = seen(logits, shifts, along, 2)
    errors = []
    for degree in DEGREES:
        baked = bake_bits(logits, shifts, degree)
        shown = torch.stack([0.5 + eval_sh(baked, d.expand(20, 3), degree) for d in along])
        errors.append(float((shown - truth).square().mean().sqrt()))
    assert errors == sorted(errors, reverse=True) and errors[3] < errors[2] < 0.1 * errors[1]
    assert errors[2] < 1e-3, "a quarter of an 8-bit step"


def test_baking_is_the_closest_of_all_coefficients():
    """The mean over the sphere is the constant term of the best fit, here by a quadrature exact to degree 15."""
    logits, shifts = some_bits(4, 1, "full", strength=0.5)
    z, weights = np.polynomial.legendre.leggauss(8)
    phi = np.arange(16) * 2 * np.pi / 16
    zz, pp = np.meshgrid(z, phi, indexing="ij")
    radius = np.sqrt(1 - zz**2)
    along = torch.from_numpy(np.stack([radius * np.cos(pp), radius * np.sin(pp), zz], axis=-1).reshape(-1, 3))
    area = torch.from_numpy((np.broadcast_to(weights[:, None], zz.shape) / 32).reshape(-1).copy())
    mean = torch.einsum("d,dnc->nc", area, seen(logits, shifts, along, 1))
    shown = 0.5 + 0.28209479177387814 * bake_bits(logits, shifts, 3)[:, 0]
    torch.testing.assert_close(shown, mean, rtol=0, atol=1e-4)  # 128 directions stand for the sphere


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("own", DEGREES)
def test_a_model_bakes_to_any_degree(own: int, degree: int):
    model = some_model("bits", own)
    baked = model.baked(degree)
    assert baked.head == "sh" and baked.sh_degree == degree and baked.bit_logits is None
    assert baked.sh_coeffs is not None and model.bit_logits is not None and model.bit_shifts is not None
    assert torch.equal(baked.sh_coeffs, bake_bits(model.bit_logits, model.bit_shifts, degree))
    for name in ("means", "log_scales", "quats", "opacity_logits"):
        assert torch.equal(getattr(baked, name), getattr(model, name))
    assert model.baked().sh_degree == own


def test_baking_a_model_of_direct_sh_leaves_it_cuts_it_short_or_fills_it_up_with_zeros():
    model = some_model("sh", 2)
    assert model.baked() is model and model.baked(2) is model
    short, long = model.baked(1), model.baked(3)
    assert model.sh_coeffs is not None and short.sh_coeffs is not None and long.sh_coeffs is not None
    assert short.sh_degree == 1 and torch.equal(short.sh_coeffs, model.sh_coeffs[:, :4])
    assert long.sh_degree == 3 and torch.equal(long.sh_coeffs[:, :9], model.sh_coeffs)
    assert (long.sh_coeffs[:, 9:] == 0).all()


# ---- the model ----------------------------------------------------------------------------------------------------


def test_a_model_knows_its_head_and_its_parameters():
    geometry = ("means", "log_scales", "quats", "opacity_logits")
    sh, bits = some_model("sh"), some_model("bits", view="full")
    assert (sh.head, bits.head) == ("sh", "bits")
    assert sh.parameter_names == (*geometry, "sh_coeffs") and bits.parameter_names == (
        *geometry,
        "bit_logits",
        "bit_shifts",
    )
    for model in (sh, bits):
        assert set(dict(model.named_parameters())) == set(model.parameter_names) == set(model.tensors())
        assert model.sh_degree == 2
    assert some_model("bits", 0).sh_degree == 0 and sh.bit_shifts is None and bits.sh_coeffs is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bit_shifts": None}, "there is no tensor 'bit_shifts'"),
        ({"bit_logits": None}, "there is no tensor 'sh_coeffs'"),  # without logits it is a model of SH
        ({"bit_logits": torch.zeros(5, 8)}, r"bit_logits has shape \(5, 8\), expected \(5, 24\)"),
        ({"bit_shifts": torch.zeros(5, 8, 8)}, r"bit_shifts has shape \(5, 8, 8\), expected \(5, 8, 3\)"),
        ({"bit_shifts": torch.zeros(4, 8, 24)}, r"bit_shifts has shape \(4, 8, 24\), expected \(5, 8, 24\)"),
        ({"bit_shifts": torch.zeros(5, 24)}, r"bit_shifts has shape \(5, 24\), expected three dimensions"),
    ],
)
def test_tensors_of_bits_that_do_not_fit_are_named(changes: dict[str, Tensor | None], words: str):
    tensors = {name: tensor for name, tensor in (some_model("bits").tensors() | changes).items() if tensor is not None}
    with pytest.raises(ValueError, match=words):
        GaussianModel(tensors)
