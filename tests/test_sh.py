"""Spherical harmonics: against scipy, gsplat's PyTorch reference and their own defining properties."""

import numpy as np
import pytest
import torch

from nfc_gs.core.rotation import quat_to_matrix
from nfc_gs.core.sh import eval_sh, one_sided_clamp, rgb_to_sh0, rotate_sh, sh0_to_rgb, sh_bases, sh_basis

DEGREES = [0, 1, 2, 3]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_directions(count: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(random(count, 3, seed=seed), dim=-1)


def complex_harmonic(degree: int, order: int, theta: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Y_l^m with the Condon-Shortley phase; theta from the pole, phi around it."""
    from scipy.special import factorial, lpmv

    scale = np.sqrt((2 * degree + 1) / (4 * np.pi) * factorial(degree - order) / factorial(degree + order))
    return scale * lpmv(order, degree, np.cos(theta)) * np.exp(1j * order * phi)


def test_the_basis_is_the_real_part_of_the_textbook_harmonics():
    directions = random_directions(50)
    basis = sh_basis(directions, 3).numpy()
    x, y, z = directions.numpy().T
    theta, phi = np.arccos(z), np.arctan2(y, x)
    for degree in DEGREES:
        for order in range(-degree, degree + 1):
            harmonic = complex_harmonic(degree, abs(order), theta, phi)
            part = harmonic.real if order >= 0 else harmonic.imag
            expected = part * (np.sqrt(2) if order else 1)
            np.testing.assert_allclose(basis[:, degree * (degree + 1) + order], expected, atol=1e-12)


@pytest.mark.parametrize("degree", DEGREES)
def test_values_equal_those_of_gsplat(degree):
    from gsplat.cuda._torch_impl import _spherical_harmonics

    directions, coeffs = random_directions(200), random(200, 16, 3, seed=1)
    expected = _spherical_harmonics(degree, directions, coeffs)
    # gsplat's constants are rounded: its z polynomial of degree 3 is good to about 1e-15 all the same.
    torch.testing.assert_close(eval_sh(coeffs, directions, degree), expected, rtol=0, atol=1e-13)


def test_the_basis_is_orthonormal_on_the_sphere():
    z, weights = np.polynomial.legendre.leggauss(8)  # exact for polynomials up to degree 15
    phi = np.arange(16) * 2 * np.pi / 16
    zz, pp = np.meshgrid(z, phi, indexing="ij")
    radius = np.sqrt(1 - zz**2)
    directions = torch.from_numpy(np.stack([radius * np.cos(pp), radius * np.sin(pp), zz], axis=-1))
    basis = sh_basis(directions, 3)
    area = torch.from_numpy(np.broadcast_to(weights[:, None], zz.shape) * 2 * np.pi / 16)
    gram = torch.einsum("ij,ijk,ijl->kl", area, basis, basis)
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("degree", DEGREES)
def test_rotated_coefficients_give_the_old_values_in_rotated_directions(degree):
    coeffs, directions = random(7, sh_bases(degree), 3), random_directions(7)
    rotation = quat_to_matrix(random(4, seed=3))
    turned = rotate_sh(coeffs, rotation)
    torch.testing.assert_close(
        eval_sh(turned, directions @ rotation.T, degree), eval_sh(coeffs, directions, degree), rtol=0, atol=1e-13
    )


def test_two_rotations_after_each_other_are_one():
    coeffs = random(5, 16, 3)
    first, second = quat_to_matrix(random(2, 4, seed=4))
    torch.testing.assert_close(
        rotate_sh(rotate_sh(coeffs, first), second), rotate_sh(coeffs, second @ first), rtol=0, atol=1e-13
    )


def test_a_rotation_is_rounded_the_same_in_every_call():
    coeffs, rotation = random(5, 16, 3), quat_to_matrix(random(4))
    turned, kept = rotate_sh(coeffs, rotation), []
    for size in range(1, 100):  # memory that moves what a call allocates next
        kept.append(torch.empty(37 * size))
        assert torch.equal(rotate_sh(coeffs, rotation), turned)


def test_rotation_keeps_the_dtype_and_leaves_degree_0_alone():
    coeffs = random(5, 16, 3).float()
    turned = rotate_sh(coeffs, quat_to_matrix(random(4)).float())
    assert turned.dtype == torch.float32
    torch.testing.assert_close(turned[:, 0], coeffs[:, 0])


def test_a_color_survives_the_way_to_degree_0_and_back():
    rgb = torch.rand(10, 3, dtype=torch.float64)
    torch.testing.assert_close(sh0_to_rgb(rgb_to_sh0(rgb)), rgb)
    seen = 0.5 + eval_sh(rgb_to_sh0(rgb)[:, None, :], random_directions(10), 0)
    torch.testing.assert_close(seen, rgb)


def test_coefficients_beyond_the_degree_are_not_used():
    coeffs, directions = random(4, 16, 3), random_directions(4)
    broken = coeffs.clone()
    broken[:, 4:] = float("nan")
    assert torch.equal(eval_sh(broken, directions, 1), eval_sh(coeffs, directions, 1))


@pytest.mark.parametrize("degree", [-1, 4])
def test_a_degree_that_does_not_exist_is_refused(degree):
    with pytest.raises(ValueError, match=r"expected 0\.\.3"):
        sh_basis(random_directions(1), degree)


@pytest.mark.parametrize("degree", DEGREES)
def test_gradients_reach_directions_and_coefficients(degree):
    inputs = (random(3, sh_bases(degree), 3).requires_grad_(), random_directions(3).requires_grad_())
    assert torch.autograd.gradcheck(lambda c, d: eval_sh(c, d, degree), inputs)


def test_a_clamp_that_is_one_sided_hands_on_what_would_raise_a_value_at_zero():
    raw = torch.tensor([[-1.0, -1.0, 0.0], [0.0, 2.0, 2.0]], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([[3.0, -3.0, 3.0], [-3.0, 3.0, -3.0]], dtype=torch.float64)
    color = one_sided_clamp(raw)
    assert torch.equal(color.detach(), raw.detach().clamp(min=0))
    color.backward(v)
    assert raw.grad is not None
    assert raw.grad.tolist() == [[0, -3, 0], [-3, 3, -3]]


def test_a_clamp_that_is_one_sided_has_the_derivative_above_zero():
    above = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    assert torch.autograd.gradcheck(one_sided_clamp, above.requires_grad_())
