"""Normals: the Gaussians' shortest axes, composited; against plain loops, their gradient, and on every backend."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from splat_scenes import COMPILED, front_camera, make_camera, make_splats, naive_render, naive_rotation, open_engine
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.rendering.backend import RasterSettings, RawSplats, Splats
from nfc_gs.rendering.normals import composited_normals, gaussian_normals
from nfc_gs.rendering.pipeline import render
from nfc_gs.rendering.registry import get_backend


def model_of(splats: Splats, dtype: torch.dtype = torch.float64) -> GaussianModel:
    assert splats.sh_coeffs is not None
    tensors = {
        "means": splats.means,
        "quats": splats.quats,
        "log_scales": splats.scales.log(),
        "opacity_logits": splats.opacities.logit(),
        "sh_coeffs": splats.sh_coeffs,
    }
    return GaussianModel({name: tensor.to(dtype) for name, tensor in tensors.items()})


def naive_normals(splats: Splats, camera: Camera) -> np.ndarray:
    """[N, 3] the shortest axes, turned to the camera, one Gaussian after the other."""
    eye = np.linalg.inv(camera.viewmat.numpy())[:3, 3]
    found = []
    for mean, quat, scales in zip(splats.means.numpy(), splats.quats.numpy(), splats.scales.numpy(), strict=True):
        axis = naive_rotation(quat)[:, int(np.argmin(scales))]
        found.append(axis if axis @ (eye - mean) >= 0 else -axis)
    return np.stack(found)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("name", ["torch-float64", *COMPILED])
def test_normals_equal_those_of_plain_loops(name: str, antialiased: bool) -> None:
    engine = open_engine(name)
    splats, camera = make_splats(30), make_camera()
    bare = replace(splats, sh_coeffs=None, features=torch.from_numpy(naive_normals(splats, camera)))
    naive = naive_render(bare, camera, RasterSettings(antialiased=antialiased))
    lengths = np.linalg.norm(naive.features, axis=-1, keepdims=True)
    expected = np.divide(naive.features, lengths, out=np.zeros_like(naive.features), where=lengths > 0)
    model = model_of(splats, engine.dtype)
    with torch.no_grad():
        out = render(model, camera, outputs=("rgb", "normals"), backend=engine.name, antialiased=antialiased)
    assert out.normals is not None and out.normals.dtype == engine.dtype and out.depth is None
    compared = naive.sure & (lengths[..., 0] > 0.05)  # shorter ones magnify the rounding
    assert compared.mean() > 0.4 and (lengths[naive.sure] == 0).any(), "the scene has covered and empty pixels"
    actual = out.normals.double().numpy()
    np.testing.assert_allclose(actual[compared], expected[compared], rtol=0, atol=40 * engine.tolerance)
    assert (actual[naive.sure & (lengths[..., 0] == 0)] == 0).all(), "nothing is seen there"
    np.testing.assert_allclose(np.linalg.norm(actual[compared], axis=-1), 1.0, atol=1e-5)


def test_normals_are_in_the_world_frame_whatever_way_the_camera_is_turned() -> None:
    splats = make_splats(30)
    model, camera = model_of(splats), make_camera()
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # a quarter turn about its axis
    # pixel (x, y) becomes (-y, x): the same picture on its side, with the intrinsics changed to match
    turned = Camera(
        turn @ camera.viewmat, camera.fy, camera.fx, camera.height - camera.cy, camera.cx, camera.height, camera.width
    )
    plain, aside = (render(model, each, outputs=("rgb", "normals"), backend="torch") for each in (camera, turned))
    assert plain.normals is not None and aside.normals is not None
    torch.testing.assert_close(aside.rgb, torch.rot90(plain.rgb, -1), rtol=0, atol=1e-9)
    torch.testing.assert_close(aside.normals, torch.rot90(plain.normals, -1), rtol=0, atol=1e-7)


def test_the_gradient_equals_finite_differences() -> None:
    splats, camera = make_splats(6, seed=3, sh_degree=0), front_camera(5, 4, focal=6.0)
    splats = replace(splats, means=splats.means * 0.3 + torch.tensor([0.0, 0.0, 2.5]))
    tensors = [splats.means, splats.quats, splats.scales.log(), splats.opacities.logit()]
    weights = torch.linspace(-1, 1, 60, dtype=torch.float64).reshape(4, 5, 3)

    def loss(means: Tensor, quats: Tensor, log_scales: Tensor, opacity_logits: Tensor) -> Tensor:
        raw = RawSplats(means, quats, log_scales, opacity_logits)
        return (composited_normals(raw, camera, get_backend("torch"), False) * weights).sum()

    inputs = tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-5, check_undefined_grad=False)
    gradients = torch.autograd.grad(loss(*inputs), inputs)
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients)


@pytest.mark.parametrize("name", COMPILED)
def test_gradients_are_those_of_the_specification(name: str) -> None:
    engine, camera = open_engine(name), make_camera()

    def gradients(backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
        model = model_of(make_splats(30), dtype)
        out = render(model, camera, outputs=("rgb", "normals"), backend=backend)
        assert out.normals is not None
        weights = torch.linspace(-1, 1, out.normals.numel(), dtype=torch.float64).reshape(out.normals.shape).to(dtype)
        covered = (out.alpha > 0.3).to(dtype)  # thin normals magnify the rounding
        (covered * weights * out.normals).sum().backward()
        found = {n: getattr(model, n).grad for n in ("means", "quats", "log_scales", "opacity_logits")}
        return {n: gradient.double() for n, gradient in found.items()}

    expected = gradients("torch", torch.float64)
    for key, actual in gradients(engine.name, engine.dtype).items():
        limit = 1e-3 * float(expected[key].abs().max())
        assert limit > 0
        torch.testing.assert_close(actual, expected[key], rtol=0, atol=limit)


@pytest.mark.parametrize("absgrad", [False, True])
@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_colors_and_what_density_control_sees_are_the_same_with_normals(backend: str, absgrad: bool) -> None:
    camera, found = make_camera().to(dtype=torch.float32), []
    for outputs in (("rgb", "depth"), ("rgb", "depth", "normals")):
        model = model_of(make_splats(30), torch.float32)
        out = render(model, camera, outputs=outputs, backend=backend, absgrad=absgrad)  # type: ignore[arg-type]
        out.rgb.square().sum().backward()
        found.append((out.rgb, out.alpha, out.depth, out.info.means2d_grad, out.info.means2d_absgrad, model.means.grad))
    for plain, beside in zip(*found, strict=True):
        assert (plain is None) == (beside is None)
        assert plain is None or torch.equal(plain, beside)
    assert (found[0][4] is not None) == absgrad


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_gaussian_without_a_rotation_harms_no_other(backend: str) -> None:
    splats = make_splats(30)
    quats = splats.quats.clone()
    quats[3], quats[7], quats[11] = 0.0, torch.nan, torch.inf
    model, camera = model_of(replace(splats, quats=quats), torch.float32), make_camera()
    others = torch.ones(30, dtype=torch.bool)
    others[[3, 7, 11]] = False
    alone = model.subset(others)
    images = [
        render(each, camera, outputs=("rgb", "normals"), backend=backend, absgrad=False).normals
        for each in (model, alone)
    ]
    assert images[0] is not None and images[1] is not None
    assert torch.equal(images[0], images[1]) and images[0].isfinite().all()
    images[0].sum().backward()
    assert model.quats.grad is not None and model.quats.grad.isfinite().all()
    assert (model.quats.grad[~others] == 0).all() and (model.quats.grad[others] != 0).any()


def test_normals_are_turned_to_the_camera_and_of_ties_one_axis_is_taken() -> None:
    center = torch.tensor([0.0, 0.0, -5.0])
    means = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -9.0], [1.0, 0.0, 0.0]])  # before and behind the camera
    quats = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(3, 1)
    thin = torch.tensor([[0.0, 0.0, -3.0], [0.0, 0.0, -3.0], [0.0, 0.0, 0.0]])
    normals = gaussian_normals(means, quats, thin, center)
    torch.testing.assert_close(normals[:2], torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]]), rtol=0, atol=0)
    assert sorted(normals[2].abs().tolist()) == [0.0, 0.0, 1.0]
    assert (normals * (center - means)).sum(-1).min() >= 0


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


def test_the_normals_of_a_wall_of_gaussians_are_its_own_and_turn_it() -> None:
    model, camera = wall(), Camera(torch.eye(4, dtype=torch.float64), 40.0, 40.0, 12.0, 10.0, 24, 20)
    out = render(model, camera, outputs=("rgb", "normals"), backend="torch")
    assert out.normals is not None and out.normals.shape == (20, 24, 3)
    expected = torch.tensor([math.sin(0.5), 0.0, -math.cos(0.5)], dtype=torch.float64)
    torch.testing.assert_close(out.normals, expected.expand(20, 24, 3), rtol=0, atol=1e-9)
    (out.normals @ torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)).sum().backward()
    assert model.quats.grad is not None and (model.quats.grad != 0).any()
    assert render(model, camera, backend="torch").normals is None
