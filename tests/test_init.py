"""The Gaussians that training starts from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nfc_gs.core.errors import UserError
from nfc_gs.core.sh import sh0_to_rgb
from nfc_gs.data.scene import PointCloud
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.init import MAX_SCALE, MIN_SCALE, neighbour_distances


def cloud(count: int = 200, seed: int = 0) -> PointCloud:
    rng = np.random.default_rng(seed)
    return PointCloud(
        rng.standard_normal((count, 3)).astype(np.float32), rng.integers(0, 256, (count, 3), dtype=np.uint8)
    )


def test_scales_are_the_mean_distance_to_three_neighbours():
    points = cloud()
    apart = np.linalg.norm(points.xyz[:, None].astype(float) - points.xyz[None], axis=-1)
    expected = np.sort(apart, axis=1)[:, 1:4].mean(axis=1)
    np.testing.assert_allclose(neighbour_distances(points.xyz), np.minimum(expected, 0.1 * size(points)), rtol=1e-9)
    model = GaussianModel.from_points(points, scale_factor=0.5)
    np.testing.assert_allclose(
        model.scales.detach().numpy(), 0.5 * np.minimum(expected, 0.1 * size(points))[:, None].repeat(3, 1), rtol=1e-5
    )


def size(points: PointCloud) -> float:
    middle = np.median(points.xyz.astype(float), axis=0)
    return float(np.quantile(np.linalg.norm(points.xyz - middle, axis=1), 0.9))


def test_positions_colors_opacities_and_rotations_are_those_asked_for():
    points = cloud()
    model = GaussianModel.from_points(points, sh_degree=2, opacity=0.25)
    assert len(model) == 200 and model.sh_degree == 2
    np.testing.assert_array_equal(model.means.detach().numpy(), points.xyz)
    torch.testing.assert_close(sh0_to_rgb(model.sh_coeffs[:, 0]), torch.from_numpy(points.rgb) / 255)
    assert (model.sh_coeffs[:, 1:] == 0).all()
    torch.testing.assert_close(model.opacities, torch.full((200,), 0.25))
    torch.testing.assert_close(model.quats, torch.tensor([[1.0, 0, 0, 0]]).repeat(200, 1))
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in model.parameters())


def test_black_and_white_survive():
    points = PointCloud(np.eye(3, dtype=np.float32), np.array([[0, 0, 0], [255, 255, 255], [255, 0, 128]], np.uint8))
    colors = sh0_to_rgb(GaussianModel.from_points(points).sh_coeffs[:, 0])
    torch.testing.assert_close(colors, torch.from_numpy(points.rgb) / 255, rtol=0, atol=1e-6)


def test_the_choice_of_points_is_seeded_and_keeps_their_order():
    points = cloud()
    first, again = (GaussianModel.from_points(points, max_gaussians=50, seed=3) for _ in range(2))
    other = GaussianModel.from_points(points, max_gaussians=50, seed=4)
    assert len(first) == 50 and torch.equal(first.means, again.means) and not torch.equal(first.means, other.means)
    rows = [int(np.flatnonzero((points.xyz == mean).all(axis=1))[0]) for mean in first.means.detach().numpy()]
    assert rows == sorted(set(rows))
    assert len(GaussianModel.from_points(points, max_gaussians=1000)) == 200


def test_scales_are_those_among_the_chosen_points():
    points = cloud()
    model = GaussianModel.from_points(points, max_gaussians=20)
    expected = neighbour_distances(model.means.detach().numpy())
    np.testing.assert_allclose(model.scales[:, 0].detach().numpy(), expected, rtol=1e-5)


def test_duplicates_get_a_small_but_finite_size():
    points = cloud(60)
    xyz = np.concatenate([points.xyz, np.repeat(points.xyz[:1], 10, axis=0)])
    scales = neighbour_distances(xyz)
    assert (scales > 0).all() and scales[-1] < 1e-4
    assert scales.min() == pytest.approx(MIN_SCALE * size(PointCloud(xyz, xyz)), rel=1e-6)


def test_an_outlier_does_not_cover_the_picture():
    points = cloud(100)
    xyz = np.concatenate([points.xyz, [[1e6, 0, 0]]]).astype(np.float32)
    scales = neighbour_distances(xyz)
    assert scales[-1] < 1 and scales[-1] == scales.max()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_handful_of_points_is_enough(count: int):
    points = cloud(count)
    model = GaussianModel.from_points(points)
    assert len(model) == count and model.scales.isfinite().all() and (model.scales > 0).all()


def test_points_that_all_coincide_get_a_size():
    points = PointCloud(np.ones((5, 3), np.float32), np.zeros((5, 3), np.uint8))
    assert GaussianModel.from_points(points).scales.detach().numpy() == pytest.approx(MAX_SCALE)


def test_points_that_are_not_finite_are_left_out_aloud(caplog: pytest.LogCaptureFixture):
    points = cloud(10)
    points.xyz[3, 1] = math.nan
    points.xyz[7, 2] = math.inf
    with caplog.at_level("WARNING", logger="nfc_gs"):
        model = GaussianModel.from_points(points)
    assert len(model) == 8 and "2 of 10 points" in caplog.text
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("xyz", [np.zeros((0, 3), np.float32), np.full((4, 3), np.nan, np.float32)])
def test_a_cloud_without_a_usable_point_is_refused_with_a_remedy(xyz: np.ndarray):
    with pytest.raises(UserError, match=r"no usable point \(\d given, none finite\)"):
        GaussianModel.from_points(PointCloud(xyz, np.zeros((len(xyz), 3), np.uint8)))


@pytest.mark.parametrize("wrong", [{"opacity": 0.0}, {"opacity": 1.0}, {"scale_factor": 0.0}, {"max_gaussians": 0}])
def test_arguments_out_of_range_are_refused(wrong: dict):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GaussianModel.from_points(cloud(5), **wrong)


def test_another_dtype_can_be_asked_for():
    model = GaussianModel.from_points(cloud(5), dtype=torch.float64)
    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())
