"""Every backend against an independent renderer in plain loops, and in the places where renderers break.

Gradients of the float32 backends are held to those of the float64 specification, which `test_render_reference.py`
holds to finite differences.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from splat_scenes import (
    ENGINES,
    Engine,
    assert_equals_naive,
    assert_gradients_equal_those_of_the_specification,
    cast,
    front_camera,
    gradients,
    leaves,
    make_camera,
    make_splats,
    map_splats,
    one_splat,
    open_engine,
    rounded,
    stack,
)
from torch import Tensor

from nfc_gs.rendering.backend import RasterSettings, RawSplats, Splats
from nfc_gs.rendering.registry import get_backend


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return open_engine(request.param)


# ---- ordinary pictures --------------------------------------------------------------------------------------------

PICTURES = {
    "colors of degree 3": ({}, {}, RasterSettings(depth=True)),
    "degree 0 of 3": ({}, {}, RasterSettings(sh_degree=0)),
    "degree 1 of 1": ({"sh_degree": 1}, {}, RasterSettings(sh_degree=1)),
    "degree 2 of 3": ({}, {}, RasterSettings(sh_degree=2)),
    "antialiased": ({}, {}, RasterSettings(antialiased=True, depth=True)),
    "one feature and no color": ({"sh_degree": None, "channels": 1}, {}, RasterSettings()),
    "four features and no color": ({"sh_degree": None, "channels": 4}, {}, RasterSettings(depth=True)),
    "24 features and no color": ({"sh_degree": None, "channels": 24}, {}, RasterSettings(depth=True)),
    "color and features": ({"channels": 5}, {}, RasterSettings(depth=True)),
    "principal point far from the middle": ({}, {"cx": -4.0, "cy": 29.0}, RasterSettings()),
    "size a multiple of the tile": ({}, {"width": 32, "height": 16}, RasterSettings()),
    "narrower than a tile": ({}, {"width": 5, "height": 40}, RasterSettings(depth=True)),
    "one pixel": ({}, {"width": 1, "height": 1}, RasterSettings(depth=True)),
}


@pytest.mark.parametrize("case", PICTURES)
def test_a_picture_equals_that_of_plain_loops(engine: Engine, case: str):
    splat_args, camera_args, settings = PICTURES[case]
    assert_equals_naive(engine, make_splats(**splat_args), make_camera(**camera_args), settings)


@pytest.mark.parametrize("case", ["colors of degree 3", "24 features and no color", "color and features"])
def test_a_background_shows_through(engine: Engine, case: str):
    splat_args, camera_args, settings = PICTURES[case]
    splats = make_splats(count=12, **splat_args)
    channels = (0 if splats.sh_coeffs is None else 3) + splat_args.get("channels", 0)
    background = rounded(torch.linspace(0.1, 1.0, channels))
    assert_equals_naive(engine, splats, make_camera(**camera_args), settings, background)


@pytest.mark.parametrize("engine", ENGINES[1:], indirect=True)  # the first one is the specification itself
@pytest.mark.parametrize("case", PICTURES)
def test_gradients_equal_those_of_the_specification(engine: Engine, case: str):
    splat_args, camera_args, settings = PICTURES[case]
    channels = splat_args.get("channels", 0) + (3 if splat_args.get("sh_degree", 3) is not None else 0)
    settings = replace(settings, absgrad=channels + settings.depth <= 4)  # the most that `cpu` gives absgrad for
    assert_gradients_equal_those_of_the_specification(
        engine, make_splats(**splat_args), make_camera(**camera_args), settings
    )


def test_drawing_without_gradients_gives_the_same_picture(engine: Engine):
    splats, camera, settings = make_splats(), make_camera(), RasterSettings(depth=True)
    with torch.no_grad():
        plain = engine.render(splats, camera, settings)
    tracked = engine.render(leaves(splats, engine.dtype), camera, settings)
    assert not plain.features.requires_grad and tracked.features.requires_grad
    for name in ("features", "alpha", "depth"):
        assert torch.equal(getattr(plain, name), getattr(tracked, name).detach())
    assert torch.equal(plain.info.radii, tracked.info.radii)


def test_two_runs_are_equal_bit_for_bit(engine: Engine):
    arguments = (make_splats(count=150), make_camera(64, 48), RasterSettings(depth=True, absgrad=True))
    first = gradients(engine.name, engine.dtype, *arguments)
    second = gradients(engine.name, engine.dtype, *arguments)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_inputs_that_are_not_contiguous_give_the_same(engine: Engine):
    splats, camera, settings = cast(make_splats(channels=4), engine.dtype), make_camera(), RasterSettings()

    def scattered(tensor: Tensor) -> Tensor:
        wide = torch.zeros(*tensor.shape, 2, dtype=tensor.dtype)
        wide[..., 0] = tensor
        return wide[..., 0]

    strided = map_splats(splats, scattered)
    assert not strided.means.is_contiguous()
    turned = replace(camera, viewmat=camera.viewmat.T.contiguous().T)
    expected, actual = engine.render(splats, camera, settings), engine.render(strided, turned, settings)
    torch.testing.assert_close(actual.features, expected.features, rtol=0, atol=engine.tolerance / 10)

    opacities = torch.tensor(0.5, dtype=engine.dtype, requires_grad=True)
    out = engine.render(replace(strided, opacities=opacities.expand(40)), camera, settings)
    torch.autograd.backward(out.features, torch.ones(1, dtype=engine.dtype).expand(out.features.shape))
    assert opacities.grad is not None and opacities.grad.isfinite()


def raw_splats(splats: Splats, dtype: torch.dtype) -> RawSplats:
    """The splats before activation, as leaves."""
    values = [splats.means, splats.quats, splats.scales.log(), splats.opacities.logit(), splats.sh_coeffs]
    return RawSplats(*(value.to(dtype).clone().requires_grad_() for value in values if value is not None))


def test_splats_before_activation_give_the_same_picture_and_gradients(engine: Engine):
    raw = raw_splats(make_splats(), engine.dtype)
    camera, settings = make_camera().to(dtype=engine.dtype), RasterSettings(depth=True)
    backend = get_backend(engine.name)
    results = []
    for splats in (raw, raw.activated()):
        out = backend.render(splats, camera, settings)
        loss = out.features.square().sum() + out.alpha.sum()
        results.append(
            [out.features, out.depth, *torch.autograd.grad(loss, [v for v in vars(raw).values() if v is not None])]
        )
    for actual, expected in zip(*results, strict=True):
        limit = engine.tolerance * float(expected.detach().abs().max())
        torch.testing.assert_close(actual, expected, rtol=0, atol=limit)
    with pytest.raises(ValueError, match=r"log_scales has shape \(40, 2\).*2 is not 3"):
        backend.render(replace(raw, log_scales=raw.log_scales[:, :2]), camera, settings)


# ---- per-splat facts ----------------------------------------------------------------------------------------------


def test_radii_bound_what_a_splat_touches_and_no_more_than_a_pixel_beyond(engine: Engine):
    camera, settings = front_camera(64, 64, 60.0), RasterSettings()
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        splat = one_splat(
            scales=torch.rand(1, 3, generator=generator) * 0.15 + 0.005,
            quats=torch.randn(1, 4, generator=generator),
            opacity=float(torch.rand(1, generator=generator)) * 0.9 + 0.05,
        )
        out = engine.render(splat, camera, settings)
        rows, columns = torch.nonzero(out.alpha[..., 0] > 0, as_tuple=True)
        radius_x, radius_y = out.info.radii[0].tolist()
        center_x, center_y = out.info.means2d[0].tolist()
        reach_x = float((columns + 0.5 - center_x).abs().max())
        reach_y = float((rows + 0.5 - center_y).abs().max())
        assert out.info.radii.dtype == torch.int32
        assert reach_x <= radius_x <= reach_x + 2.5  # rounded up, and the last pixel centre is up to 1.5 inside
        assert reach_y <= radius_y <= reach_y + 2.5


def test_a_splat_is_visible_only_if_its_box_meets_the_image(engine: Engine):
    camera = front_camera()
    offsets = torch.tensor([0.0, 0.9, 1.0, 1.6, 2.5, -0.9, -1.6, -2.5])
    means = torch.stack([offsets, torch.zeros(8), torch.full((8,), 2.0)], dim=-1)
    parts = [one_splat(scale=0.05, means=mean[None]) for mean in means]
    radii = engine.render(stack(*parts), camera, RasterSettings()).info.radii
    covariance = (16 * 0.05 / 2) ** 2 + 0.3  # about: slopes widen it a little
    extent = math.sqrt(2 * math.log(255 * 0.8) * covariance)
    expected = [abs(8 * float(offset)) < 8 + extent for offset in offsets]
    assert (radii > 0).all(dim=-1).tolist() == expected
    assert (radii[~torch.tensor(expected)] == 0).all()


def test_projected_centres_are_those_of_a_pinhole_camera(engine: Engine):
    splats, camera = make_splats(), make_camera()
    info = engine.render(splats, camera, RasterSettings()).info
    points = splats.means @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    pixels = points @ camera.K.T
    expected = pixels[:, :2] / pixels[:, 2:]
    assert info.visible.sum() > 20
    torch.testing.assert_close(
        info.means2d[info.visible].double(), expected[info.visible], rtol=0, atol=100 * engine.tolerance
    )
    assert not info.means2d.requires_grad


def test_absolute_gradients_are_sums_of_each_pixels_own(engine: Engine):
    splats, camera = make_splats(count=6, channels=1, sh_degree=None), make_camera(7, 5, fx=6.0, fy=6.0)
    settings = RasterSettings(absgrad=True)
    inputs = leaves(splats, engine.dtype)
    out = engine.render(inputs, camera, settings)
    assert out.info.means2d_grad is None and out.info.means2d_absgrad is None
    weights = torch.linspace(-1, 1, 35, dtype=engine.dtype).reshape(5, 7, 1)
    (out.features * weights).sum().backward()
    total, total_abs = torch.zeros(6, 2, dtype=engine.dtype), torch.zeros(6, 2, dtype=engine.dtype)
    for pixel in range(35):
        single = engine.render(inputs, camera, settings)
        (single.features * weights).flatten()[pixel].backward()
        assert single.info.means2d_grad is not None
        total += single.info.means2d_grad
        total_abs += single.info.means2d_grad.abs()
    assert out.info.means2d_grad is not None and out.info.means2d_absgrad is not None
    limit = engine.tolerance * float(total_abs.max())
    torch.testing.assert_close(out.info.means2d_grad, total, rtol=0, atol=limit)
    torch.testing.assert_close(out.info.means2d_absgrad, total_abs, rtol=0, atol=limit)
    assert (total_abs > total.abs() + 10 * limit).any()


def test_the_view_directions_gradient_reaches_means_and_viewmat(engine: Engine):
    # The pixel at the very centre of the splat: moving the splat sideways changes its alpha only to second order,
    # so all that is left is the color, which turns with the direction: d color / d x = -sqrt(3 / 4 pi) c / z.
    camera = replace(front_camera(17, 17), cx=8.5, cy=8.5)
    sh_coeffs = torch.zeros(1, 4, 3, dtype=torch.float64)
    sh_coeffs[0, 3, 0] = 0.7
    splat = replace(one_splat(z=2.0, opacity=0.5), features=None, sh_coeffs=sh_coeffs)
    inputs = leaves(splat, engine.dtype)
    viewmat = camera.viewmat.to(engine.dtype).requires_grad_()
    out = engine.render(inputs, replace(camera, viewmat=viewmat), RasterSettings(sh_degree=1))
    out.features[8, 8, 0].backward()
    slope = -math.sqrt(3 / (4 * math.pi)) * 0.7 / 2 * 0.5
    assert inputs.means.grad is not None and viewmat.grad is not None
    assert float(inputs.means.grad[0, 0]) == pytest.approx(slope, rel=1e-5)
    assert float(viewmat.grad[0, 3]) == pytest.approx(slope, rel=1e-5)


# ---- thresholds ---------------------------------------------------------------------------------------------------


def test_no_splats_leave_the_background_and_its_gradient(engine: Engine):
    empty = make_splats(count=0)
    inputs = leaves(empty, engine.dtype)
    background = torch.tensor([0.1, 0.2, 0.3], dtype=engine.dtype, requires_grad=True)
    out = engine.render(inputs, make_camera(9, 7), RasterSettings(depth=True, absgrad=True), background)
    assert torch.equal(out.features, background.detach().expand(7, 9, 3))
    assert (out.alpha == 0).all() and out.depth is not None and (out.depth == 0).all()
    assert out.info.radii.shape == (0, 2) and out.info.means2d.shape == (0, 2)
    out.features.sum().backward()
    assert background.grad is not None and torch.equal(background.grad, torch.full_like(background, 63.0))


def test_no_splats_and_no_background_leave_black(engine: Engine):
    out = engine.render(make_splats(count=0), make_camera(9, 7), RasterSettings())
    assert torch.equal(out.features, torch.zeros(7, 9, 3, dtype=engine.dtype))


def test_a_splat_just_under_one_255th_is_invisible_and_one_just_over_is_not(engine: Engine):
    camera = replace(front_camera(17, 17), cx=8.5, cy=8.5)
    under = engine.render(one_splat(opacity=0.9999 / 255), camera, RasterSettings())
    over = engine.render(one_splat(opacity=1.0001 / 255), camera, RasterSettings())
    assert under.info.radii.tolist() == [[0, 0]] and (under.alpha == 0).all()
    assert over.info.radii.tolist() == [[1, 1]] and float(over.alpha[8, 8]) == pytest.approx(1.0001 / 255, rel=1e-4)
    assert int((over.alpha > 0).sum()) == 1


def test_opacity_one_is_capped_and_opacity_zero_is_nothing(engine: Engine):
    camera = replace(front_camera(17, 17), cx=8.5, cy=8.5)
    splats = stack(one_splat(opacity=1.0, z=2.0), one_splat(opacity=0.0, z=1.0))
    inputs = leaves(splats, engine.dtype)
    out = engine.render(inputs, camera, RasterSettings())
    assert float(out.alpha[8, 8].detach()) == pytest.approx(0.99, rel=1e-6)
    assert out.info.visible.tolist() == [True, False]
    out.features[8, 8, 0].backward()
    assert inputs.opacities.grad is not None and inputs.opacities.grad.tolist() == [0, 0]  # where alpha is capped
    assert inputs.features is not None and inputs.features.grad is not None
    assert inputs.features.grad[0].item() == pytest.approx(0.99, rel=1e-6)


def test_antialiasing_makes_a_tiny_splat_fainter_by_its_share_of_the_pixel(engine: Engine):
    camera = replace(front_camera(17, 17), cx=8.5, cy=8.5)
    splat = one_splat(z=2.0, scale=0.05, opacity=0.9)
    variance = (16 * 0.05 / 2) ** 2  # on the axis the covariance is round
    out = engine.render(splat, camera, RasterSettings(antialiased=True))
    assert float(out.alpha[8, 8]) == pytest.approx(0.9 * variance / (variance + 0.3), rel=1e-5)


def test_a_splat_without_any_size_has_finite_gradients_when_antialiased(engine: Engine):
    splats = stack(one_splat(scale=0.0), one_splat(scale=0.1, z=3.0))
    found = gradients(engine.name, engine.dtype, splats, front_camera(), RasterSettings(antialiased=True, absgrad=True))
    for name, value in found.items():
        assert value.isfinite().all(), name


def black_splat(*sh0: float) -> Splats:
    sh_coeffs = torch.zeros(1, 4, 3, dtype=torch.float64)
    sh_coeffs[0, 0] = torch.tensor(sh0)
    return replace(one_splat(), features=None, sh_coeffs=sh_coeffs)


def test_a_color_clamped_at_zero_passes_no_gradient_that_would_darken_it(engine: Engine):
    inputs = leaves(black_splat(-3.0, 0.0, 6.0), engine.dtype)
    out = engine.render(inputs, front_camera(), RasterSettings(sh_degree=0))
    assert (out.features[..., 0] == 0).all() and (out.features > 1).any()
    out.features.sum().backward()
    assert inputs.sh_coeffs is not None and inputs.sh_coeffs.grad is not None
    gradient = inputs.sh_coeffs.grad[0, 0]
    assert gradient[0] == 0 and gradient[1] > 0 and gradient[2] > 0


def test_a_color_clamped_at_zero_passes_a_gradient_that_would_raise_it(engine: Engine):
    # Here the gradient is not the derivative, which is zero: it is that of the same splat with a color above zero.
    found = []
    for sh0 in ((-3.0, -3.0, -3.0), (1.0, -3.0, 1.0)):
        inputs = leaves(black_splat(*sh0), engine.dtype)
        out = engine.render(inputs, front_camera(), RasterSettings(sh_degree=1))
        weights = torch.tensor([-1.0, 2.0, -0.5], dtype=engine.dtype)
        (out.features * weights).sum().backward()
        assert inputs.sh_coeffs is not None and inputs.sh_coeffs.grad is not None
        found.append(inputs.sh_coeffs.grad[0])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=engine.tolerance)
    assert (found[0][0, [0, 2]] < 0).all() and (found[0][:, 1] == 0).all() and (found[0][1:, 0] != 0).any()


def test_a_color_clamped_in_every_pixel_follows_the_sum_over_pixels(engine: Engine):
    # Half of the picture wants it brighter, less of it darker: the sum of both decides, not each pixel.
    for right, passes in ((0.5, True), (1.5, False)):
        inputs = leaves(black_splat(-3.0, -3.0, -3.0), engine.dtype)
        features = engine.render(inputs, front_camera(), RasterSettings(sh_degree=0)).features
        half = features.shape[1] // 2
        (right * features[:, half:].sum() - features[:, :half].sum()).backward()
        assert inputs.sh_coeffs is not None and inputs.sh_coeffs.grad is not None
        assert bool((inputs.sh_coeffs.grad[0, 0] < 0).all()) == passes
        assert passes or (inputs.sh_coeffs.grad == 0).all()


def test_gradient_descent_turns_a_black_splat_into_the_color_of_a_photo(engine: Engine):
    splat, wanted = black_splat(-3.0, -2.5, -2.0), black_splat(0.8, -0.5, 0.0)
    settings, camera = RasterSettings(sh_degree=0), front_camera()
    target = engine.render(wanted, camera, settings).features
    sh_coeffs = cast(splat, engine.dtype).sh_coeffs
    assert sh_coeffs is not None
    sh_coeffs = sh_coeffs.clone().requires_grad_()
    optimizer = torch.optim.Adam([sh_coeffs], lr=0.1)
    for _ in range(150):
        out = engine.render(replace(splat, sh_coeffs=sh_coeffs), camera, settings)
        loss = (out.features - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert wanted.sh_coeffs is not None
    torch.testing.assert_close(sh_coeffs[0, 0].detach().double(), wanted.sh_coeffs[0, 0], rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("z", "seen"), [(0.0, False), (-1.0, False), (0.00999, False), (0.01, True), (0.0101, True), (1e-30, False)]
)
def test_only_what_lies_at_or_beyond_the_near_plane_is_drawn(engine: Engine, z: float, seen: bool):
    splats = stack(one_splat(z=z, scale=0.001), one_splat(z=3.0, scale=0.3))
    out = engine.render(splats, front_camera(), RasterSettings())
    assert out.info.visible.tolist() == [seen, True]
    found = gradients(engine.name, engine.dtype, splats, front_camera(), RasterSettings(absgrad=True))
    for name, value in found.items():
        assert value.isfinite().all(), name
        if name not in ("viewmat", "background") and not seen:
            assert (value[0] == 0).all(), name


def test_equal_depths_are_drawn_in_the_order_of_their_indices(engine: Engine):
    first, second = one_splat(color=1.0, opacity=0.9), one_splat(color=0.0, opacity=0.9)
    camera = replace(front_camera(17, 17), cx=8.5, cy=8.5)
    ahead = engine.render(stack(first, second), camera, RasterSettings()).features[8, 8, 0]
    behind = engine.render(stack(second, first), camera, RasterSettings()).features[8, 8, 0]
    assert float(ahead) == pytest.approx(0.9, rel=1e-5)
    assert float(behind) == pytest.approx(0.09, rel=1e-5)


def test_many_equal_depths_keep_their_order(engine: Engine):
    count = 70
    parts = [one_splat(color=float(i % 7), opacity=0.2, scale=0.5) for i in range(count)]
    assert_equals_naive(engine, stack(*parts), front_camera(), RasterSettings())


def test_hundreds_of_opaque_layers_end_at_the_transmittance_limit(engine: Engine):
    count = 400
    generator = torch.Generator().manual_seed(1)
    layers = Splats(
        means=torch.cat([torch.zeros(count, 2), torch.linspace(2, 40, count)[:, None]], dim=1),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        scales=torch.full((count, 3), 30.0),
        opacities=torch.full((count,), 0.63),
        features=torch.rand(count, 2, generator=generator),
    )
    layers = map_splats(layers, rounded)
    camera, settings = front_camera(8, 8), RasterSettings(depth=True)
    out = assert_equals_naive(engine, layers, camera, settings)
    assert (out.alpha < 1 - 1e-4 + 1e-6).all() and (out.alpha > 0.999).all()
    found = gradients(engine.name, engine.dtype, layers, camera, RasterSettings(absgrad=True))
    used = (found["features"] != 0).any(dim=1)
    assert used[:8].all() and not used[12:].any()
    for name, value in found.items():
        assert value.isfinite().all(), name
        if name not in ("viewmat", "background"):
            assert (value[12:] == 0).all(), name


# ---- extreme sizes and broken numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [5.0, 100.0, 3000.0])
def test_a_huge_splat_covers_the_image(engine: Engine, scale: float):
    splats = stack(one_splat(z=2.0, scale=scale, opacity=0.7), one_splat(z=3.0, scale=0.2, color=0.25))
    out = assert_equals_naive(engine, splats, front_camera(40, 24), RasterSettings(depth=True))
    assert (out.alpha > 0.5).all()


@pytest.mark.parametrize("turn", [0.0, 0.3, math.pi / 4, 1.3, math.pi / 2])
def test_a_needle_is_a_line_one_pixel_wide(engine: Engine, turn: float):
    needle = one_splat(
        z=2.0,
        opacity=0.9,
        scales=rounded(torch.tensor([[0.8, 1e-6, 1e-6]])),
        quats=rounded(torch.tensor([[math.cos(turn / 2), 0.0, 0.0, math.sin(turn / 2)]])),
    )
    camera = front_camera(33, 33, 32.0)
    out = assert_equals_naive(engine, needle, camera, RasterSettings(depth=True))
    assert 20 < int((out.alpha > 0.1).sum()) < 200
    # From the gradient of the conic C to that of the covariance, -C V C, digits cancel by the ratio of the needle's
    # width to its length, squared: 1 / 550. So 1e-3 is just missed in float32.
    assert_gradients_equal_those_of_the_specification(
        engine, stack(needle, one_splat(z=3.0)), camera, RasterSettings(absgrad=True), tolerance=4e-3
    )


@pytest.mark.parametrize("length", [30.0, 1000.0])
def test_a_needle_much_longer_than_the_image_is_still_drawn(engine: Engine, length: float):
    # The difference of products xx yy - xy^2 has lost all its digits here in float32.
    turn = torch.tensor([[math.cos(math.pi / 8), 0.0, 0.0, math.sin(math.pi / 8)]])
    needle = one_splat(z=2.0, opacity=0.9, scales=torch.tensor([[length, 1e-3, 1e-3]]), quats=rounded(turn))
    out = engine.render(needle, front_camera(33, 33, 32.0), RasterSettings())
    along = out.alpha[..., 0].diagonal()
    torch.testing.assert_close(along, torch.full_like(along, 0.9), rtol=0, atol=0.02)
    assert (out.alpha[..., 0].triu(4) == 0).all() and (out.alpha[..., 0].tril(-4) == 0).all()


@pytest.mark.parametrize("turn", [0.3, math.pi / 4, 1.2])
@pytest.mark.parametrize("length", [100.0, 800.0])
def test_a_needle_across_many_tiles_misses_none(engine: Engine, turn: float, length: float):
    # sigma is 5 000 and 40 000 pixels: the determinant of the conic has cancelled to nothing in float32.
    quats = rounded(torch.tensor([[math.cos(turn / 2), 0.0, 0.0, math.sin(turn / 2)]]))
    needle = one_splat(z=2.0, opacity=0.9, scales=torch.tensor([[length, 1e-3, 1e-3]]), quats=quats)
    alpha = engine.render(needle, front_camera(100, 100, 100.0), RasterSettings()).alpha[..., 0]
    rows, columns = torch.meshgrid(torch.arange(100) - 49.5, torch.arange(100) - 49.5, indexing="ij")
    distance = (rows * math.cos(turn) - columns * math.sin(turn)).double()
    # A needle this thin is the blur alone: a variance of 0.3 square pixels (and 0.0025 of its own) across the line.
    expected = 0.9 * torch.exp(-0.5 * distance.square() / 0.3025)
    torch.testing.assert_close(alpha.double(), torch.where(expected < 1 / 255, 0.0, expected), rtol=0, atol=0.02)


def test_splats_far_outside_the_image_do_not_smear_over_it(engine: Engine):
    means = torch.tensor([[30.0, 0.0, 1.0], [-50.0, 40.0, 0.5], [4.0, -3.0, 0.3], [0.0, 0.0, 4.0]])
    parts = [one_splat(scale=0.8, means=mean[None]) for mean in means]
    assert_equals_naive(engine, stack(*parts), front_camera(24, 24), RasterSettings(depth=True))


HUGE = "huge"
"""A number whose square overflows."""

BROKEN = [
    (name, value)
    for name in ("means", "quats", "scales", "opacities")
    for value in (math.nan, math.inf, -math.inf)
] + [("quats", 0.0), ("opacities", -1.0), ("scales", HUGE), ("means", HUGE), ("means", -3e38)]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), BROKEN)
def test_a_broken_splat_is_not_drawn_and_harms_no_other(engine: Engine, field: str, value: float | str):
    settings, camera = RasterSettings(depth=True, antialiased=True, absgrad=True), make_camera(18, 11)
    whole = cast(make_splats(count=20), engine.dtype)
    broken_row = getattr(whole, field)[5].clone()
    if field == "quats" and value == 0.0:
        broken_row.zero_()
    else:
        broken_row.view(-1)[-1] = torch.finfo(engine.dtype).max ** 0.75 if value == HUGE else value
    column = getattr(whole, field).clone()
    column[5] = broken_row
    broken = replace(whole, **{field: column})
    others = [i for i in range(20) if i != 5]
    without = map_splats(whole, lambda tensor: tensor[others])

    expected, actual = engine.render(without, camera, settings), engine.render(broken, camera, settings)
    assert not actual.info.visible[5] and actual.info.radii[5].tolist() == [0, 0]
    for name in ("features", "alpha", "depth"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=0, atol=engine.tolerance / 10)
    expected_gradients = gradients(engine.name, engine.dtype, without, camera, settings)
    for name, found in gradients(engine.name, engine.dtype, broken, camera, settings).items():
        assert found.isfinite().all(), name
        if name not in ("viewmat", "background"):
            assert (found[5] == 0).all(), name
            found = found[others]
        limit = engine.tolerance * float(expected_gradients[name].abs().max())
        torch.testing.assert_close(found, expected_gradients[name], rtol=0, atol=limit)


def test_only_broken_splats_are_a_black_picture(engine: Engine):
    splats = make_splats(count=3)
    splats = replace(splats, means=torch.full_like(splats.means, math.nan))
    found = gradients(engine.name, engine.dtype, splats, make_camera(), RasterSettings(depth=True))
    out = engine.render(splats, make_camera(), RasterSettings(depth=True))
    assert (out.features == 0).all() and (out.alpha == 0).all() and out.depth is not None and (out.depth == 0).all()
    assert all(value.isfinite().all() for value in found.values())


@pytest.mark.parametrize("seed", range(5))
def test_wild_numbers_never_make_a_picture_or_a_gradient_that_is_not_finite(engine: Engine, seed: int):
    generator = torch.Generator().manual_seed(seed)
    count = 200

    def wild(*shape: int, low: float, high: float) -> Tensor:
        exponents = low + (high - low) * torch.rand(*shape, generator=generator)
        return 10**exponents * torch.where(torch.rand(*shape, generator=generator) < 0.5, -1, 1)

    splats = Splats(
        means=wild(count, 3, low=-6, high=6),
        quats=wild(count, 4, low=-20, high=18),
        scales=wild(count, 3, low=-12, high=12).abs(),
        opacities=torch.rand(count, generator=generator) ** 4,
        sh_coeffs=wild(count, 16, 3, low=-3, high=1),
    )
    camera = replace(make_camera(33, 18), viewmat=torch.eye(4, dtype=torch.float64))
    settings = RasterSettings(depth=True, antialiased=seed % 2 == 0, absgrad=True)
    out = engine.render(splats, camera, settings)
    assert out.info.visible.sum() > 5
    for name in ("features", "alpha", "depth"):
        assert getattr(out, name).isfinite().all(), name
    for name, value in gradients(engine.name, engine.dtype, splats, camera, settings).items():
        assert value.isfinite().all(), name


# ---- misuse -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quats": torch.zeros(40, 3)}, r"quats has shape \(40, 3\).*3 is not 4"),
        ({"opacities": torch.zeros(39)}, r"opacities has shape \(39,\).*N is 39 here but 40 in means"),
        ({"sh_coeffs": torch.zeros(40, 4, 3)}, "sh_degree 3 needs 16 sh_coeffs, got 4"),
        ({"scales": torch.zeros(40, 3, dtype=torch.float16)}, "scales has dtype torch.float16"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused_with_both_numbers(engine: Engine, changes: dict, words: str):
    splats = replace(cast(make_splats(), engine.dtype), **{
        name: value if value.dtype == torch.float16 else value.to(engine.dtype) for name, value in changes.items()
    })  # fmt: skip
    with pytest.raises(ValueError, match=words):
        get_backend(engine.name).render(splats, make_camera().to(dtype=engine.dtype), RasterSettings())


def test_a_background_of_another_width_is_refused(engine: Engine):
    with pytest.raises(ValueError, match="background has 4 channels but the splats have 3"):
        engine.render(make_splats(), make_camera(), RasterSettings(), torch.zeros(4))
