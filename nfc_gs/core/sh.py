"""Real spherical harmonics up to degree 3, with the signs of 3D Gaussian splatting.

The basis is orthonormal on the sphere and includes the Condon-Shortley phase, as in Kerbl et al. 2023; polynomials
as in Sloan, "Efficient Spherical Harmonic Evaluation", JCGT 2013. Bands follow each other: degree l takes the
2 l + 1 coefficients from l^2 on, by order m = -l .. l.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

MAX_DEGREE = 3

C0 = 0.5 / math.sqrt(math.pi)
_C1 = math.sqrt(3 / (4 * math.pi))
_C2_XY = math.sqrt(15 / (4 * math.pi))
_C2_ZZ = math.sqrt(5 / (16 * math.pi))
_C2_XX_YY = math.sqrt(15 / (16 * math.pi))
_C3_OUTER = math.sqrt(35 / (32 * math.pi))
_C3_XYZ = math.sqrt(105 / (4 * math.pi))
_C3_XZZ = math.sqrt(21 / (32 * math.pi))
_C3_ZZZ = math.sqrt(7 / (16 * math.pi))
_C3_Z_XX_YY = math.sqrt(105 / (16 * math.pi))


def sh_bases(degree: int) -> int:
    """How many coefficients per channel SH up to `degree` has."""
    return (degree + 1) ** 2


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """The values of the basis functions.

    Args:
        directions: [..., 3] unit vectors.
        degree: 0..3.

    Returns:
        [..., K], K = (degree + 1)^2.
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"SH degree is {degree}, expected 0..{MAX_DEGREE}")
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, C0)]
    if degree >= 1:
        basis += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree >= 2:
        basis += [
            _C2_XY * x * y,
            -_C2_XY * y * z,
            _C2_ZZ * (3 * z * z - 1),
            -_C2_XY * x * z,
            _C2_XX_YY * (x * x - y * y),
        ]
    if degree >= 3:
        basis += [
            -_C3_OUTER * y * (3 * x * x - y * y),
            _C3_XYZ * x * y * z,
            -_C3_XZZ * y * (5 * z * z - 1),
            _C3_ZZZ * z * (5 * z * z - 3),
            -_C3_XZZ * x * (5 * z * z - 1),
            _C3_Z_XX_YY * z * (x * x - y * y),
            -_C3_OUTER * x * (x * x - 3 * y * y),
        ]
    return torch.stack(basis, dim=-1)


def eval_sh(coeffs: Tensor, directions: Tensor, degree: int) -> Tensor:
    """Evaluate the functions with these coefficients: sum_k Y_k(d) coeffs[k].

    Args:
        coeffs: [..., K, 3], K >= (degree + 1)^2; what is beyond the degree is not used.
        directions: [..., 3] unit vectors.
        degree: 0..3.

    Returns:
        [..., 3]. A splat's color is `one_sided_clamp(0.5 + this)`.
    """
    basis = sh_basis(directions, degree)
    return (basis[..., None] * coeffs[..., : sh_bases(degree), :]).sum(-2)


def one_sided_clamp(raw: Tensor) -> Tensor:
    """max(0, raw), of any shape, whose gradient does not vanish where a descent step would raise the value.

    With v = d loss / d color, the gradient handed on is

        d loss / d raw = v if raw > 0 or v < 0, else 0.

    Where raw <= 0 the derivative of max(0, raw) is 0, so a Gaussian that is black in a channel would stay black in it
    for good. There v < 0 is not the derivative: it says that a brighter color would lower the loss, and the
    coefficients follow it until the color is above zero again. A gradient that would darken the color further is
    dropped, as before.
    """
    return _OneSidedClamp.apply(raw)


class _OneSidedClamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw: Tensor) -> Tensor:
        ctx.save_for_backward(raw > 0)
        return raw.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # pyright: ignore
        (positive,) = ctx.saved_tensors
        return torch.where(positive | (grads[0] < 0), grads[0], 0)


def rgb_to_sh0(rgb: Tensor) -> Tensor:
    """The coefficient of degree 0 that gives a color in [0, 1] from every side; any shape."""
    return (rgb - 0.5) / C0


def sh0_to_rgb(sh0: Tensor) -> Tensor:
    """The color that a coefficient of degree 0 alone gives, not clamped; any shape."""
    return sh0 * C0 + 0.5


def rotate_sh(coeffs: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the functions with these coefficients: f'(R d) = f(d).

    A band of SH is closed under rotation, so there is a matrix D with Y(R d) D c = Y(d) c for every d and c. Y is
    orthonormal, so D is the integral of Y(R d)^T Y(d) over the sphere, which a quadrature gives exactly. (A solver of
    least squares rounds differently from call to call.)

    Args:
        coeffs: [..., K, 3], K = 1, 4, 9 or 16.
        rotation: [3, 3], orthogonal with determinant 1.

    Returns:
        [..., K, 3] in the dtype of `coeffs`.
    """
    degree = math.isqrt(coeffs.shape[-2]) - 1
    directions, weights = (each.to(rotation.device) for each in sphere_quadrature())
    here = sh_basis(directions, degree)
    there = sh_basis(directions @ rotation.double().T, degree) * weights[:, None]
    bands = []
    for band in range(degree + 1):
        part = slice(band**2, (band + 1) ** 2)
        matrix = (there[:, part, None] * here[:, None, part]).sum(0)  # [2 l + 1, 2 l + 1]
        bands.append(torch.einsum("kj,...jc->...kc", matrix.to(coeffs), coeffs[..., part, :]))
    return torch.cat(bands, dim=-2)


def sphere_quadrature() -> tuple[Tensor, Tensor]:
    """Directions [32, 3] and weights [32], float64, that integrate the product of two SH up to degree 3 exactly.

    Four Gauss-Legendre nodes in z (Abramowitz and Stegun 1964, table 25.4), eight directions around z at each.
    """
    root = 2 / 7 * math.sqrt(6 / 5)
    inner, outer = math.sqrt(3 / 7 - root), math.sqrt(3 / 7 + root)
    z = torch.tensor([-outer, -inner, inner, outer], dtype=torch.float64).repeat_interleave(8)
    turn = (torch.arange(8, dtype=torch.float64) * (math.pi / 4)).repeat(4)
    radius = (1 - z * z).sqrt()
    shares = 18 + math.sqrt(30) * torch.tensor([-1, 1, 1, -1], dtype=torch.float64)  # of 72
    weights = (4 * math.pi / 8 / 72 * shares).repeat_interleave(8)
    return torch.stack([radius * turn.cos(), radius * turn.sin(), z], dim=-1), weights


def spread_directions(count: int) -> Tensor:
    """[count, 3] float64 unit vectors spread evenly over the sphere (Fibonacci spiral)."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * i / count
    turn = math.pi * (1 + math.sqrt(5)) * i
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * turn.cos(), radius * turn.sin(), z], dim=-1)
