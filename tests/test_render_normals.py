"""Normals from depth: of planes, against plain loops, where there is no depth, their gradient, and in the pipeline."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.rendering.normals import normals_from_depth
from nfc_gs.rendering.pipeline import render


def camera_of(width: int = 9, height: int = 7) -> Camera:
    return Camera(torch.eye(4, dtype=torch.float64), 11.0, 13.0, 3.7, 2.9, width, height)


def rays_of(camera: Camera) -> Tensor:
    """[H, W, 3] points at depth 1 on the pixels' rays."""
    rays = torch.ones(camera.height, camera.width, 3, dtype=torch.float64)
    rays[..., 0] = (torch.arange(camera.width, dtype=torch.float64) + 0.5 - camera.cx) / camera.fx
    rays[..., 1] = ((torch.arange(camera.height, dtype=torch.float64) + 0.5 - camera.cy) / camera.fy)[:, None]
    return rays


def wavy_depth(camera: Camera) -> Tensor:
    noise = torch.rand(camera.height, camera.width, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return 2.0 + 0.2 * noise


@pytest.mark.parametrize("normal", [(0.0, 0.0, -1.0), (0.3, -0.2, -0.9), (-0.7, 0.1, -0.5)])
def test_the_normals_of_a_plane_are_its_own(normal: tuple[float, float, float]):
    camera = camera_of()
    expected = torch.nn.functional.normalize(torch.tensor(normal, dtype=torch.float64), dim=0)
    depth = -2.0 / (rays_of(camera) @ expected)[..., None]  # the plane expected . point = -2
    assert depth.min() > 0
    torch.testing.assert_close(normals_from_depth(depth, camera), expected.expand(7, 9, 3), rtol=0, atol=1e-12)


def test_normals_are_those_of_the_differences_of_neighbouring_points():
    camera = camera_of()
    depth = wavy_depth(camera)
    points = rays_of(camera) * depth
    normals = normals_from_depth(depth, camera)
    for row in range(7):
        for column in range(9):
            y, x = min(max(row, 1), 5), min(max(column, 1), 7)
            across, down = points[y, x + 1] - points[y, x - 1], points[y + 1, x] - points[y - 1, x]
            expected = torch.linalg.cross(down, across)
            torch.testing.assert_close(normals[row, column], expected / expected.norm(), rtol=0, atol=1e-12)
    assert normals.std() > 0.1 and ((normals * rays_of(camera)).sum(-1)[1:-1, 1:-1] < 0).all()


def test_where_a_neighbour_has_no_depth_there_is_no_normal():
    camera = camera_of()
    depth = wavy_depth(camera)
    depth[3, 4] = 0.0
    missing = {(2, 4), (4, 4), (3, 3), (3, 5)}  # the pixel itself has four neighbours
    found = (normals_from_depth(depth, camera) == 0).all(-1).nonzero().tolist()
    assert {tuple(pixel) for pixel in found} == missing
    assert (normals_from_depth(torch.zeros(7, 9, 1), camera) == 0).all()


@pytest.mark.parametrize(("width", "height"), [(2, 7), (9, 2), (1, 1), (3, 3)])
def test_an_image_of_less_than_three_rows_or_columns_has_no_normals(width: int, height: int):
    normals = normals_from_depth(torch.ones(height, width, 1), camera_of(width, height))
    assert normals.shape == (height, width, 3)
    assert (normals[..., 2] == (-1.0 if (width, height) == (3, 3) else 0.0)).all()


def test_the_gradient_equals_finite_differences_and_is_finite_without_depth():
    camera = camera_of(5, 4)
    depth = wavy_depth(camera).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: normals_from_depth(z, camera), depth, atol=1e-7)
    holes = wavy_depth(camera)
    holes[1, 1] = holes[2, 3] = 0.0
    holes.requires_grad_()
    weights = torch.arange(60, dtype=torch.float64).reshape(4, 5, 3)
    (normals_from_depth(holes, camera) * weights).sum().backward()
    assert holes.grad is not None and holes.grad.isfinite().all()
    assert (normals_from_depth(torch.zeros(4, 5, 1), camera) == 0).all()


def wall() -> GaussianModel:
    """Flat Gaussians side by side in a plane before the camera, which is turned by 0.5 about the vertical axis."""
    angle = 0.5
    u, v = torch.meshgrid(torch.linspace(-2, 2, 41), torch.linspace(-2, 2, 41), indexing="ij")
    u, v = u.flatten().double(), v.flatten().double()
    means = torch.stack([u * math.cos(angle), v, 4.0 + u * math.sin(angle)], dim=-1)
    turned = torch.tensor([math.cos(-angle / 2), 0.0, math.sin(-angle / 2), 0.0], dtype=torch.float64)
    return GaussianModel(
        {
            "means": means,
            "quats": turned.expand(len(u), 4),
            "log_scales": torch.tensor([0.08, 0.08, 1e-3], dtype=torch.float64).log().expand(len(u), 3),
            "opacity_logits": torch.full((len(u),), 3.0, dtype=torch.float64),
            "sh_coeffs": torch.zeros(len(u), 1, 3, dtype=torch.float64),
        }
    )


def test_the_normals_of_a_wall_of_gaussians_are_its_own_and_move_it():
    model, camera = wall(), Camera(torch.eye(4, dtype=torch.float64), 40.0, 40.0, 12.0, 10.0, 24, 20)
    out = render(model, camera, outputs=("rgb", "normals"), backend="torch")
    assert out.depth is None and out.normals is not None and out.normals.shape == (20, 24, 3)
    expected = torch.tensor([math.sin(0.5), 0.0, -math.cos(0.5)], dtype=torch.float64)
    assert out.alpha.min() > 0.9
    assert ((out.normals @ expected) > math.cos(0.1)).double().mean() > 0.95
    (1 - out.normals @ expected).mean().backward()
    assert model.means.grad is not None and model.means.grad.isfinite().all() and (model.means.grad != 0).any()
    both = render(model, camera, outputs=("rgb", "depth", "normals"), backend="torch")
    assert both.depth is not None and both.normals is not None
    torch.testing.assert_close(both.normals, normals_from_depth(both.depth, camera), rtol=0, atol=0)
    assert render(model, camera, backend="torch").normals is None
