"""Quaternions and rotation matrices, against each other and against scipy."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from nfc_gs.core.rotation import matrix_to_quat, quat_multiply, quat_to_matrix


def random_quats(count: int = 64) -> torch.Tensor:
    return torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def scipy_matrices(quats: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(Rotation.from_quat(quats.numpy()[:, [1, 2, 3, 0]]).as_matrix())


def test_matrices_of_quaternions_equal_those_of_scipy():
    quats = random_quats()
    torch.testing.assert_close(quat_to_matrix(quats), scipy_matrices(quats), rtol=0, atol=1e-14)


def test_the_length_and_the_sign_of_a_quaternion_do_not_matter():
    quats = random_quats()
    torch.testing.assert_close(quat_to_matrix(-7.5 * quats), quat_to_matrix(quats), rtol=0, atol=1e-14)


def test_the_identity_quaternion_is_the_identity():
    assert torch.equal(quat_to_matrix(torch.tensor([1.0, 0, 0, 0])), torch.eye(3))


def test_matrix_to_quat_undoes_quat_to_matrix():
    quats = random_quats()
    unit = quats / quats.norm(dim=-1, keepdim=True)
    unit = torch.where(unit[:, :1] < 0, -unit, unit)
    torch.testing.assert_close(matrix_to_quat(quat_to_matrix(quats)), unit, rtol=0, atol=1e-14)


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("angle", [0.0, 1e-6, np.pi / 2, np.pi - 1e-6, np.pi])
def test_matrix_to_quat_is_exact_at_no_turn_and_at_half_turns(axis, angle):
    vector = torch.tensor(axis, dtype=torch.float64)
    quat = torch.cat([torch.tensor([np.cos(angle / 2)]), np.sin(angle / 2) * vector / vector.norm()])
    matrix = quat_to_matrix(quat)
    torch.testing.assert_close(quat_to_matrix(matrix_to_quat(matrix)), matrix, rtol=0, atol=1e-14)


def test_a_product_of_quaternions_is_the_product_of_their_matrices():
    a, b = random_quats().chunk(2)
    product = quat_to_matrix(quat_multiply(a, b))
    torch.testing.assert_close(product, quat_to_matrix(a) @ quat_to_matrix(b), rtol=0, atol=1e-14)


def test_batch_dimensions_are_kept():
    quats = random_quats(24).reshape(2, 3, 4, 4)
    matrices = quat_to_matrix(quats)
    assert matrices.shape == (2, 3, 4, 3, 3)
    assert matrix_to_quat(matrices).shape == (2, 3, 4, 4)
    assert quat_multiply(quats, quats[0, 0, 0]).shape == (2, 3, 4, 4)


def test_the_gradient_of_quat_to_matrix_is_right():
    assert torch.autograd.gradcheck(quat_to_matrix, random_quats(5).requires_grad_())
