"""The specification renderer: its projection against gsplat's PyTorch code, its gradients against finite differences;
and the wiring of the gsplat backend against a stand-in for the GPU."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from nfc_gs.core.camera import Camera, look_at_viewmat
from nfc_gs.core.checks import check_alike, check_shapes
from nfc_gs.core.constants import ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN
from nfc_gs.core.errors import UserError
from nfc_gs.rendering import gsplat_backend
from nfc_gs.rendering.backend import RasterSettings, Splats
from nfc_gs.rendering.projection import project, view_colors, visible_splats
from nfc_gs.rendering.registry import get_backend
from nfc_gs.rendering.torch_backend import TorchBackend

NAMES = ("means", "quats", "scales", "opacities", "sh_coeffs", "features")


def make_camera(width: int = 64, height: int = 48, focal: float = 50.0) -> Camera:
    eye, target, up = torch.tensor([[0.4, -0.3, -3.0], [0.0, 0.1, 0.2], [0.1, -1.0, 0.0]], dtype=torch.float64)
    return Camera(
        look_at_viewmat(eye, target, up), focal, 1.1 * focal, width / 2 + 3.5, height / 2 - 2.5, width, height
    )


def make_splats(count: int, seed: int = 0, spread: float = 1.0, channels: int = 2) -> Splats:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return Splats(
        means=spread * normal(count, 3),
        quats=normal(count, 4),
        scales=0.1 + 0.3 * uniform(count, 3),
        opacities=0.2 + 0.6 * uniform(count),
        sh_coeffs=0.3 * normal(count, 16, 3),
        features=uniform(count, channels),
    )


# ---- against gsplat's own PyTorch code ----------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.5, 3.0])  # 3: many splats lie where slopes are clamped
def test_projection_equals_that_of_gsplat(spread: float):
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    splats, camera = make_splats(300, spread=spread), make_camera()
    covars, _ = _quat_scale_to_covar_preci(splats.quats, splats.scales, compute_preci=False)
    _, means2d, depths, conics, compensations = _fully_fused_projection(
        splats.means,
        covars,
        camera.viewmat[None],
        camera.K[None],
        camera.width,
        camera.height,
        calc_compensations=True,
    )
    assert compensations is not None
    plain, faded = project(splats, camera), project(splats, camera, antialiased=True)
    front = depths[0] > 0.01
    assert front.sum() > 150
    for actual, expected in [
        (plain.means2d, means2d[0]),
        (plain.depths, depths[0]),
        (plain.conics, conics[0]),
        (faded.conics, conics[0]),
        (faded.opacities, splats.opacities * compensations[0]),
    ]:
        torch.testing.assert_close(actual[front], expected[front], rtol=1e-9, atol=1e-11)
    assert torch.equal(plain.opacities, splats.opacities)


def test_what_gsplat_culls_is_culled_and_little_more():
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    splats, camera = make_splats(400, spread=3.0), make_camera()
    covars, _ = _quat_scale_to_covar_preci(splats.quats, splats.scales, compute_preci=False)
    theirs = _fully_fused_projection(
        splats.means, covars, camera.viewmat[None], camera.K[None], camera.width, camera.height
    )[0][0]
    ids, radii = visible_splats(splats, camera, RasterSettings())
    # gsplat's PyTorch code bounds splats at 3.33 sigma whatever their opacity: at least as far out as we do.
    assert (theirs[ids] >= radii[ids]).all()
    lost = (theirs > 0).all(-1) & (radii == 0).all(-1)
    assert 0 < len(ids) < 300 and lost.sum() < 0.1 * len(ids)


def test_colors_equal_those_of_gsplat():
    from gsplat.cuda._torch_impl import _spherical_harmonics

    splats, camera = make_splats(100), make_camera()
    assert splats.sh_coeffs is not None
    center = torch.linalg.inv(camera.viewmat)[:3, 3]
    for degree in range(4):
        expected = (_spherical_harmonics(degree, splats.means - center, splats.sh_coeffs) + 0.5).clamp(min=0)
        torch.testing.assert_close(view_colors(splats, camera, RasterSettings(degree)), expected, rtol=0, atol=1e-13)


# ---- against finite differences -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "viewmat", "background"])
@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_equal_finite_differences(name: str, antialiased: bool):
    splats, camera = make_splats(4, seed=3, spread=0.4), make_camera(7, 6, focal=7.0)
    settings = RasterSettings(sh_degree=3, depth=True, antialiased=antialiased)
    background = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)

    def loss(value: Tensor) -> Tensor:
        s, c, b = splats, camera, background
        if name == "viewmat":
            c = dataclasses.replace(camera, viewmat=value)
        elif name == "background":
            b = value
        else:
            s = dataclasses.replace(splats, **{name: value})
        out = TorchBackend().render(s, c, settings, b)
        assert out.depth is not None
        image = torch.cat([out.features, out.alpha, out.depth], dim=-1)
        return (image * torch.rand(image.shape, dtype=image.dtype, generator=torch.Generator().manual_seed(2))).sum()

    start = {"viewmat": camera.viewmat, "background": background}.get(name, getattr(splats, name, None))
    assert start is not None
    assert torch.autograd.gradcheck(
        loss, start.clone().requires_grad_(), atol=1e-6, rtol=1e-5, check_undefined_grad=False
    )


def test_gradients_equal_finite_differences_where_slopes_are_clamped():
    camera = make_camera(7, 6, focal=7.0)
    splats = make_splats(3, seed=1, spread=0.3)
    sideways = camera.viewmat[:3, :3].T @ torch.tensor([1.5, -1.2, 0.0], dtype=torch.float64)
    splats = dataclasses.replace(splats, means=splats.means + sideways, scales=splats.scales + 0.8)
    slopes = (splats.means @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]).T
    assert (slopes[0] / slopes[2] > (7 - camera.cx) / camera.fx + 0.3 * 0.5 * 7 / camera.fx).all()
    assert (slopes[1] / slopes[2] < -camera.cy / camera.fy - 0.3 * 0.5 * 6 / camera.fy).all()

    def draw(means: Tensor, viewmat: Tensor) -> Tensor:
        moved = dataclasses.replace(splats, means=means)
        out = TorchBackend().render(moved, dataclasses.replace(camera, viewmat=viewmat), RasterSettings())
        return out.features.square().sum(dim=(0, 1))

    inputs = (splats.means.clone().requires_grad_(), camera.viewmat.clone().requires_grad_())
    assert draw(*inputs).max() > 0.01
    assert torch.autograd.gradcheck(draw, inputs, atol=1e-6, rtol=1e-5, check_undefined_grad=False)


def test_means2d_gradients_add_up_to_that_of_the_principal_point():
    # Moving the principal point moves every projected centre, and nothing else while no slope is clamped.
    splats, camera = make_splats(5, spread=0.3), make_camera(16, 12, focal=14.0)

    def loss(cx: float, cy: float, collect: bool = False):
        inputs = dataclasses.replace(splats, means=splats.means.clone().requires_grad_(collect))
        out = TorchBackend().render(inputs, dataclasses.replace(camera, cx=cx, cy=cy), RasterSettings())
        weights = torch.linspace(-1, 1, out.features.numel(), dtype=torch.float64).reshape(out.features.shape)
        return (out.features * weights).sum(), out.info

    total, info = loss(camera.cx, camera.cy, collect=True)
    total.backward()
    assert info.means2d_grad is not None
    step = 1e-6
    for axis, (dx, dy) in enumerate([(step, 0.0), (0.0, step)]):
        ahead, _ = loss(camera.cx + dx, camera.cy + dy)
        back, _ = loss(camera.cx - dx, camera.cy - dy)
        numeric = float(ahead - back) / (2 * step)
        assert float(info.means2d_grad[:, axis].sum()) == pytest.approx(numeric, rel=1e-6)


def test_a_second_backward_pass_gives_the_same_facts():
    splats = make_splats(5, spread=0.3)
    inputs = dataclasses.replace(splats, means=splats.means.clone().requires_grad_())
    out = TorchBackend().render(inputs, make_camera(16, 12, 14.0), RasterSettings(absgrad=True))
    out.features.square().sum().backward(retain_graph=True)
    first, first_abs = out.info.means2d_grad, out.info.means2d_absgrad
    out.features.square().sum().backward()
    assert first is not None and first_abs is not None and (first_abs > 0).any()
    torch.testing.assert_close(out.info.means2d_grad, first)
    torch.testing.assert_close(out.info.means2d_absgrad, first_abs)


def test_depth_alone_can_be_drawn():
    splats = dataclasses.replace(make_splats(5, spread=0.3), sh_coeffs=None, features=None)
    out = TorchBackend().render(splats, make_camera(), RasterSettings(depth=True))
    assert out.features.shape == (48, 64, 0)
    assert out.depth is not None and 2 < float(out.depth.max()) < 5


# ---- checks -------------------------------------------------------------------------------------------------------


def test_named_dimensions_are_returned():
    assert check_shapes(a=(torch.zeros(2, 3), "N 3"), b=(None, "N"), c=(torch.zeros(2, 5), "N K")) == {"N": 2, "K": 5}


@pytest.mark.parametrize(
    ("shape", "spec", "words"),
    [
        ((4, 3), "N 3", "N is 4 here but 2 in first"),
        ((2, 4), "N 3", "4 is not 3"),
        ((2,), "N 3", r"shape \(2,\), expected \[N, 3\]: 2 dimensions"),
    ],
)
def test_a_wrong_shape_is_named_with_both_numbers(shape: tuple[int, ...], spec: str, words: str):
    with pytest.raises(ValueError, match=words):
        check_shapes(first=(torch.zeros(2), "N"), second=(torch.zeros(shape), spec))


def test_mixed_dtypes_and_whole_numbers_are_refused():
    check_alike({"a": torch.zeros(1), "b": None, "c": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"b has dtype torch\.float64 but a has torch\.float32"):
        check_alike({"a": torch.zeros(1), "b": torch.zeros(1, dtype=torch.float64)})
    with pytest.raises(ValueError, match=r"a has dtype torch\.int64, expected a floating dtype"):
        check_alike({"a": torch.zeros(1, dtype=torch.int64)})


# ---- the gsplat backend -------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gsplat_backend_without_a_gpu_says_what_is_missing_and_what_to_do():
    with pytest.raises(UserError, match=r"backend 'gsplat' needs an NVIDIA GPU.*use the backend 'cpu'"):
        get_backend("gsplat")


def test_the_gsplat_backend_refuses_splats_in_main_memory():
    backend = object.__new__(gsplat_backend.GsplatBackend)
    with pytest.raises(UserError, match=r"the splats are on 'cpu'; move the model"):
        backend.render(make_splats(3), make_camera(), RasterSettings())


def stand_in_for_gsplat(means, quats, scales, opacities, colors, viewmats, Ks, width, height, **options):
    """What `gsplat.rasterization` returns, in its shapes, from the specification's own functions."""
    assert viewmats.shape == (1, 4, 4) and Ks.shape == (1, 3, 3) and colors.ndim == 2 and not options["packed"]
    K = Ks[0]
    camera = Camera(viewmats[0], *(float(v) for v in (K[0, 0], K[1, 1], K[0, 2], K[1, 2])), width, height)
    splats = Splats(means, quats, scales, opacities, features=None if options["render_mode"] == "ED" else colors)
    settings = RasterSettings(
        depth="ED" in options["render_mode"],
        antialiased=options["rasterize_mode"] == "antialiased",
        absgrad=options["absgrad"],
    )
    backgrounds = options["backgrounds"]
    out = TorchBackend().render(splats, camera, settings, None if backgrounds is None else backgrounds[0])
    image = out.features if out.depth is None else torch.cat([out.features, out.depth], dim=-1)
    means2d = (out.info.means2d[None] + 0 * means[None, :, :2]).requires_grad_()

    class Facts(dict):
        """Passes the inner rendering's gradients on as gsplat does: by `means2d`'s hook and its `absgrad`."""

        def publish(self) -> None:
            means2d.absgrad = None if out.info.means2d_absgrad is None else out.info.means2d_absgrad[None]
            for hook in list((means2d._backward_hooks or {}).values()):
                hook(out.info.means2d_grad[None])

    meta = Facts(means2d=means2d, radii=out.info.radii[None])
    stand_in_for_gsplat.last = meta
    return image[None], out.alpha[None], meta


@pytest.fixture
def gsplat_stand_in(monkeypatch: pytest.MonkeyPatch) -> gsplat_backend.GsplatBackend:
    from gsplat.cuda import _torch_impl

    monkeypatch.setattr(gsplat_backend, "_require_gpu", lambda splats: None)
    backend = object.__new__(gsplat_backend.GsplatBackend)
    backend._gsplat = SimpleNamespace(
        rasterization=stand_in_for_gsplat,
        fully_fused_projection=projection_of_gsplat,
        isect_tiles=_torch_impl._isect_tiles,
        isect_offset_encode=_torch_impl._isect_offset_encode,
        rasterize_to_pixels=tiles_of_gsplat,
    )
    return backend


def projection_of_gsplat(means, covars, quats, scales, viewmats, Ks, width, height, *, opacities, **options):
    """gsplat's own projection in PyTorch, which takes covariances and returns radii as floats."""
    from gsplat.cuda import _torch_impl

    assert covars is None and opacities.shape == (len(means),) and options["far_plane"] == math.inf
    covars, _ = _torch_impl._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    radii, *rest = _torch_impl._fully_fused_projection(means, covars, viewmats, Ks, width, height, **options)
    return radii.int(), *rest


def tiles_of_gsplat(means2d, conics, colors, opacities, width, height, tile_size, offsets, flatten_ids, **options):
    """What `gsplat.rasterize_to_pixels` makes of the splats of the tiles, but for its larger limit of alpha."""
    ends = torch.cat([offsets.flatten(), torch.tensor([len(flatten_ids)])])
    rows = []
    for y in range(offsets.shape[1]):
        row = []
        for x in range(offsets.shape[2]):
            tile = y * offsets.shape[2] + x
            ids = flatten_ids[ends[tile] : ends[tile + 1]].long()
            places = torch.stack(
                torch.meshgrid(
                    torch.arange(tile_size * x, min(tile_size * (x + 1), width)) + 0.5,
                    torch.arange(tile_size * y, min(tile_size * (y + 1), height)) + 0.5,
                    indexing="xy",
                ),
                -1,
            ).to(means2d)
            dx, dy = (places[:, :, None] - means2d[0, ids]).unbind(-1)
            a, b, c = conics[0, ids].unbind(-1)
            alpha = opacities[0, ids] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)
            alpha = torch.where(alpha >= ALPHA_MIN, alpha.clamp(max=ALPHA_MAX), 0)
            alpha = torch.where(torch.cumprod(1 - alpha, -1) >= TRANSMITTANCE_MIN, alpha, 0)
            left = torch.cumprod(torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha], -1), -1)
            image, rest = (alpha * left[..., :-1]) @ colors[0, ids], left[..., -1:]
            if options["backgrounds"] is not None:
                image = image + rest * options["backgrounds"][0]
            row.append(torch.cat([image, 1 - rest], -1))
        rows.append(torch.cat(row, 1))
    whole = torch.cat(rows)[None]
    return whole[..., :-1], whole[..., -1:]


@pytest.mark.parametrize("with_color", [True, False])
@pytest.mark.parametrize("channels", [0, 2])
@pytest.mark.parametrize("depth", [True, False])
def test_the_gsplat_backend_hands_everything_over_in_gsplats_shapes(gsplat_stand_in, with_color, channels, depth):
    splats = make_splats(30, spread=1.5)
    splats = dataclasses.replace(
        splats,
        sh_coeffs=splats.sh_coeffs if with_color else None,
        features=splats.features if channels else None,
    )
    means = splats.means.clone()
    means[4] = math.nan
    total = 3 * with_color + channels
    background = torch.linspace(0, 1, total, dtype=torch.float64) if total else None
    settings = RasterSettings(depth=depth, absgrad=True, antialiased=True)
    results = []
    for backend in (TorchBackend(), gsplat_stand_in):
        inputs = dataclasses.replace(splats, means=means.clone().requires_grad_())
        camera = dataclasses.replace(make_camera(), viewmat=make_camera().viewmat.requires_grad_())
        out = backend.render(inputs, camera, settings, background)
        loss = out.features.square().sum() + out.alpha.sum() + (0 if out.depth is None else out.depth.sum())
        loss.backward()
        if backend is gsplat_stand_in and (total or depth):
            stand_in_for_gsplat.last.publish()
        assert out.features.shape == (48, 64, total) and (out.depth is not None) == depth
        info = out.info
        facts = [out.features, out.alpha, info.radii, info.means2d, info.means2d_grad, info.means2d_absgrad]
        results.append([*facts, inputs.means.grad, camera.viewmat.grad, out.depth])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("planes", [False, True])
def test_the_gsplat_backend_draws_bits_as_colors_and_as_planes(gsplat_stand_in, planes):
    generator = torch.Generator().manual_seed(7)
    logits, shifts = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((30, 24), (30, 8, 3)))
    splats = dataclasses.replace(make_splats(30), sh_coeffs=None)
    settings = RasterSettings(sh_degree=2, depth=True, bits=planes)
    results = []
    for backend in (TorchBackend(), gsplat_stand_in):
        bits = {"bit_logits": logits.clone().requires_grad_(), "bit_shifts": shifts.clone().requires_grad_()}
        out = backend.render(dataclasses.replace(splats, **bits), make_camera(), settings)
        out.features.square().sum().backward()
        assert out.features.shape == (48, 64, 26 if planes else 5)
        results.append([out.features, out.alpha, out.depth, *(tensor.grad for tensor in bits.values())])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("with_color", [True, False])
@pytest.mark.parametrize("depth", [True, False])
@pytest.mark.parametrize("antialiased", [True, False])
def test_the_gsplat_backend_draws_a_part_as_it_is_in_the_whole_picture(gsplat_stand_in, with_color, depth, antialiased):
    splats = make_splats(30, spread=2.0)
    if not with_color:
        splats = dataclasses.replace(splats, sh_coeffs=None)
    background = torch.linspace(0, 1, 3 * with_color + 2, dtype=torch.float64)
    settings = RasterSettings(depth=depth, antialiased=antialiased)
    results = []
    for backend in (TorchBackend(), gsplat_stand_in):
        inputs = dataclasses.replace(splats, means=splats.means.clone().requires_grad_())
        camera = dataclasses.replace(make_camera(), viewmat=make_camera().viewmat.requires_grad_())
        out = backend.render(inputs, camera.crop(21, 7, 37, 30), settings, background)
        loss = out.features.square().sum() + out.alpha.sum() + (0 if out.depth is None else out.depth.sum())
        loss.backward()
        assert out.features.shape == (30, 37, len(background)) and (out.depth is not None) == depth
        shown = out.info.visible
        assert 5 < int(shown.sum()) <= 30 and out.info.means2d_grad is not None
        facts = [out.info.means2d * shown[:, None], out.info.means2d_grad, inputs.means.grad, camera.viewmat.grad]
        results.append([out.features, out.alpha, out.depth, *facts])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


def test_the_gsplat_backend_draws_an_empty_picture_without_asking_gsplat(gsplat_stand_in):
    splats = make_splats(3)
    behind = dataclasses.replace(splats, means=splats.means * 0 + make_camera().center)
    background = torch.ones(5, dtype=torch.float64)
    out = gsplat_stand_in.render(behind, make_camera(), RasterSettings(), background)
    assert (out.features == 1).all() and not out.info.visible.any()
