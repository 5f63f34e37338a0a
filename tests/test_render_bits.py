"""The bit head in the renderer: every backend against plain loops, gradients, broken numbers, and the pipeline."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from splat_scenes import (
    COMPILED,
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
)
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.target_encoding import decode_colors, even_bits
from nfc_gs.rendering.backend import RasterSettings, Splats
from nfc_gs.rendering.pipeline import render
from nfc_gs.rendering.registry import get_backend


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return open_engine(request.param)


def small_camera(width: int = 21, height: int = 17) -> Camera:
    """Of four tiles, three of them cut short."""
    return make_camera(width, height, fx=18.0, fy=20.0)


def some_splats(count: int = 24, bit_view: str = "shared", **options: Any) -> Splats:
    return make_splats(count, bit_view=bit_view, **options)


PICTURES = {
    "shared, degree 3": ({"bit_view": "shared"}, {}, RasterSettings(3, depth=True)),
    "full, degree 3": ({"bit_view": "full"}, {}, RasterSettings(3, depth=True)),
    "shared, degree 2 of 3": ({"bit_view": "shared"}, {}, RasterSettings(2)),
    "full, degree 1 of 2": ({"bit_view": "full", "sh_degree": 2}, {}, RasterSettings(1)),
    "shared, degree 0 of 3": ({"bit_view": "shared"}, {}, RasterSettings(0)),
    "shared, degree 0 of 0": ({"bit_view": "shared", "sh_degree": 0}, {}, RasterSettings(0, depth=True)),
    "full, degree 0 of 0": ({"bit_view": "full", "sh_degree": 0}, {}, RasterSettings(0)),
    "full, degree 1 of 1": ({"bit_view": "full", "sh_degree": 1}, {}, RasterSettings(1)),
    "shared, degree 1 of 1": ({"bit_view": "shared", "sh_degree": 1}, {}, RasterSettings(1)),
    "antialiased": ({"bit_view": "shared"}, {}, RasterSettings(3, antialiased=True)),
    "with features": ({"bit_view": "full", "channels": 5}, {}, RasterSettings(3, depth=True)),
    "narrower than a tile": ({"bit_view": "full"}, {"width": 5, "height": 33}, RasterSettings(3)),
    "one pixel": ({"bit_view": "shared"}, {"width": 1, "height": 1}, RasterSettings(3, depth=True)),
    "21 splats, no multiple of a vector": ({"bit_view": "full", "count": 21}, {}, RasterSettings(3)),
}


@pytest.mark.parametrize("bits", [False, True], ids=["decoded", "bits"])
@pytest.mark.parametrize("case", PICTURES)
def test_a_picture_equals_that_of_plain_loops(engine: Engine, case: str, bits: bool):
    splat_args, camera_args, settings = PICTURES[case]
    out = assert_equals_naive(
        engine, some_splats(**splat_args), small_camera(**camera_args), replace(settings, bits=bits)
    )
    assert out.features.shape[-1] == (24 if bits else 3) + splat_args.get("channels", 0)


@pytest.mark.parametrize("bits", [False, True], ids=["decoded", "bits"])
def test_a_background_shows_through(engine: Engine, bits: bool):
    splats = some_splats(12, channels=2)
    background = rounded(torch.linspace(0.1, 1.0, (24 if bits else 3) + 2))
    assert_equals_naive(engine, splats, small_camera(), RasterSettings(3, bits=bits), background)


@pytest.mark.parametrize("engine", COMPILED, indirect=True)  # the others are the specification itself
@pytest.mark.parametrize("bits", [False, True], ids=["decoded", "bits"])
@pytest.mark.parametrize("case", PICTURES)
def test_gradients_equal_those_of_the_specification(engine: Engine, case: str, bits: bool):
    splat_args, camera_args, settings = PICTURES[case]
    settings = replace(settings, bits=bits)
    assert_gradients_equal_those_of_the_specification(
        engine, some_splats(**splat_args), small_camera(**camera_args), settings
    )


@pytest.mark.parametrize("engine", COMPILED, indirect=True)
def test_absolute_gradients_of_decoded_bits_are_those_of_the_specification(engine: Engine):
    settings = RasterSettings(3, depth=True, absgrad=True)
    assert_gradients_equal_those_of_the_specification(engine, some_splats(), small_camera(), settings)


@pytest.mark.parametrize("name", ["means", "opacities", "bit_logits", "bit_shifts", "viewmat", "background"])
@pytest.mark.parametrize(("bit_view", "bits"), [("shared", False), ("full", False), ("shared", True), ("full", True)])
def test_gradients_of_the_specification_equal_finite_differences(name: str, bit_view: str, bits: bool):
    splats, camera = (
        make_splats(count=2, seed=5, sh_degree=1, bit_view=bit_view),
        make_camera(3, 2, fx=3.0, fy=3.0, cx=1.4, cy=1.1),
    )
    background = torch.linspace(0.1, 0.9, 24 if bits else 3, dtype=torch.float64)

    def draw(value: Tensor) -> Tensor:
        s, c, b = splats, camera, background
        if name == "viewmat":
            c = replace(camera, viewmat=value)
        elif name == "background":
            b = value
        else:
            s = replace(splats, **{name: value})
        out = get_backend("torch").render(s, c, RasterSettings(1, bits=bits), b)
        weights = torch.rand(out.features.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        return (out.features * weights).sum()

    start = {"viewmat": camera.viewmat, "background": background}.get(name, getattr(splats, name, None))
    assert start is not None
    start = start.clone().requires_grad_()
    assert torch.autograd.gradcheck(draw, start, check_undefined_grad=False, fast_mode=True)
    assert torch.autograd.grad(draw(start), start)[0].abs().max() > 1e-4


def test_the_view_directions_gradient_reaches_means_and_viewmat(engine: Engine):
    # At the very centre of the splat moving it sideways changes alpha to second order only, so what is left is the
    # color: of red's top bit p = sigmoid(l + Y_3(d) s) with d Y_3 / dx = -sqrt(3 / 4 pi) / z, worth 128 / 255.
    camera = replace(front_camera(17, 17), cx=8.5, cy=8.5)
    logits = torch.full((1, 24), -40.0)
    logits[0, 0] = 0.3
    shifts = torch.zeros(1, 3, 3)
    shifts[0, 2, 0] = 0.7
    splat = one_splat(z=2.0, opacity=0.5, features=None, bit_logits=logits, bit_shifts=shifts)
    inputs = leaves(splat, engine.dtype)
    viewmat = camera.viewmat.to(engine.dtype).requires_grad_()
    out = engine.render(inputs, replace(camera, viewmat=viewmat), RasterSettings(1))
    out.features[8, 8, 0].backward()
    p = 1 / (1 + math.exp(-0.3))
    slope = -math.sqrt(3 / (4 * math.pi)) * 0.7 / 2 * p * (1 - p) * 128 / 255 * 0.5
    assert inputs.means.grad is not None and viewmat.grad is not None
    assert float(inputs.means.grad[0, 0]) == pytest.approx(slope, rel=1e-5)
    assert float(viewmat.grad[0, 3]) == pytest.approx(slope, rel=1e-5)


def test_columns_beyond_the_degree_in_use_get_a_gradient_of_exactly_zero(engine: Engine):
    for bit_view in ("shared", "full"):
        found = gradients(
            engine.name, engine.dtype, some_splats(bit_view=bit_view), small_camera(), RasterSettings(1, depth=True)
        )
        assert (found["bit_shifts"][:, 3:] == 0).all() and (found["bit_shifts"][:, :3] != 0).any()


def test_without_gradients_and_again_the_picture_is_the_same(engine: Engine):
    splats, camera, settings = some_splats(bit_view="full"), small_camera(), RasterSettings(bits=True, depth=True)
    with torch.no_grad():
        plain = engine.render(splats, camera, settings)
    tracked = engine.render(leaves(splats, engine.dtype), camera, settings)
    assert torch.equal(plain.features, tracked.features.detach())
    first, second = (gradients(engine.name, engine.dtype, splats, camera, settings) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


# ---- broken and extreme numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("bit_view", "bits"), [("shared", False), ("full", False), ("full", True)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bits_of_a_culled_splat_may_be_broken_and_harm_no_other(
    engine: Engine, value: float, bit_view: str, bits: bool
):
    settings, camera = RasterSettings(3, depth=True, bits=bits), make_camera(18, 11)
    whole = cast(make_splats(count=20, bit_view=bit_view), engine.dtype)
    culled = [0, 5, 19]
    means, logits, shifts = whole.means.clone(), whole.bit_logits.clone(), whole.bit_shifts.clone()  # type: ignore
    means[culled] = camera.center.to(engine.dtype) - (means[culled] - camera.center.to(engine.dtype))  # behind
    logits[culled], shifts[culled] = value, value
    broken = replace(whole, means=means, bit_logits=logits, bit_shifts=shifts)
    others = [i for i in range(20) if i not in culled]
    without = map_splats(whole, lambda tensor: tensor[others])

    expected, actual = engine.render(without, camera, settings), engine.render(broken, camera, settings)
    assert not actual.info.visible[culled].any() and actual.info.visible.sum() > 10
    for name in ("features", "alpha", "depth"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=0, atol=engine.tolerance / 10)
    expected_gradients = gradients(engine.name, engine.dtype, without, camera, settings)
    for name, found in gradients(engine.name, engine.dtype, broken, camera, settings).items():
        assert found.isfinite().all(), name
        if name not in ("viewmat", "background"):
            assert (found[culled] == 0).all(), name
            found = found[others]
        limit = engine.tolerance * float(expected_gradients[name].abs().max())
        torch.testing.assert_close(found, expected_gradients[name], rtol=0, atol=limit)


@pytest.mark.parametrize("bits", [False, True], ids=["decoded", "bits"])
def test_huge_logits_are_decided_bits_without_a_gradient(engine: Engine, bits: bool):
    logits = torch.tensor([[1e30, -1e30, 200.0, -200.0, math.inf, -math.inf, 1e30, -1e30]]).repeat(1, 3)
    splat = one_splat(z=2.0, opacity=0.5, features=None, bit_logits=logits, bit_shifts=torch.ones(1, 3, 24))
    inputs = leaves(splat, engine.dtype)
    camera = replace(front_camera(5, 5), cx=2.5, cy=2.5)
    out = engine.render(inputs, camera, RasterSettings(1, bits=bits))
    digits = torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0]).repeat(3)
    expected = 0.5 * (digits if bits else torch.full((3,), 0b10101010 / 255))
    torch.testing.assert_close(out.features[2, 2].detach().float(), expected, rtol=0, atol=1e-6)
    out.features.sum().backward()
    assert inputs.bit_logits is not None and inputs.bit_logits.grad is not None
    assert inputs.bit_logits.grad.abs().max() < 1e-30 and inputs.means.grad is not None
    assert inputs.means.grad.isfinite().all()


def test_no_splats_leave_the_background(engine: Engine):
    empty = leaves(make_splats(count=0, bit_view="shared"), engine.dtype)
    background = torch.linspace(0, 1, 24, dtype=engine.dtype).requires_grad_()
    out = engine.render(empty, make_camera(9, 7), RasterSettings(bits=True), background)
    assert torch.equal(out.features, background.detach().expand(7, 9, 24))
    out.features.sum().backward()
    assert background.grad is not None and torch.equal(background.grad, torch.full_like(background, 63.0))


# ---- the pipeline -------------------------------------------------------------------------------------------------


def some_model(dtype: torch.dtype, bit_view: str = "shared", sh_degree: int = 2) -> GaussianModel:
    splats = cast(make_splats(bit_view=bit_view, sh_degree=sh_degree), dtype)
    assert splats.bit_logits is not None and splats.bit_shifts is not None
    return GaussianModel(
        {
            "means": splats.means,
            "log_scales": splats.scales.log(),
            "quats": splats.quats,
            "opacity_logits": splats.opacities.logit(),
            "bit_logits": splats.bit_logits,
            "bit_shifts": splats.bit_shifts,
        }
    )


@pytest.mark.parametrize("antialiased", [False, True])
def test_the_gradients_of_a_models_parameters_are_those_of_the_specification(engine: Engine, antialiased: bool):
    found = []
    for name, dtype in (("torch", torch.float64), (engine.name, engine.dtype)):
        model = some_model(dtype)
        out = render(model, make_camera(), backend=name, outputs=("rgb", "depth"), antialiased=antialiased)
        assert out.depth is not None
        (out.rgb.square().sum() + 0.1 * out.depth.square().sum()).backward()
        found.append({"rgb": out.rgb.detach()} | {key: param.grad for key, param in model.named_parameters()})
    assert set(found[0]) > {"log_scales", "opacity_logits"}
    for key, expected in found[0].items():
        limit = (1e-3 if engine.dtype == torch.float32 else 1e-11) * float(expected.abs().max())
        torch.testing.assert_close(
            found[1][key].double(), expected, rtol=0, atol=limit, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize("background", [None, (0.0, 0.0, 0.0), (0.2, 0.55, 1.0)])
def test_decoding_commutes_with_compositing(engine: Engine, background: tuple[float, float, float] | None):
    model, camera = some_model(engine.dtype), make_camera()
    decoded = render(model, camera, background=background, backend=engine.name)
    planes = render(model, camera, background=background, backend=engine.name, outputs=("rgb", "bits"))
    assert decoded.bits is None and planes.bits is not None and planes.bits.shape == (21, 37, 24)
    torch.testing.assert_close(planes.rgb, decoded.rgb, rtol=0, atol=engine.tolerance / 10)
    assert torch.equal(decode_colors(planes.bits), planes.rgb)
    assert torch.equal(planes.alpha, decoded.alpha)


def test_the_gradient_of_a_picture_is_the_same_through_its_bits(engine: Engine):
    model, camera = some_model(engine.dtype, "full"), make_camera()
    found = []
    for outputs in (("rgb",), ("rgb", "bits")):
        background = torch.tensor([0.2, 0.55, 1.0], dtype=engine.dtype, requires_grad=True)
        rgb = render(model, camera, background=background, backend=engine.name, outputs=outputs).rgb  # type: ignore
        weights = torch.linspace(-1, 1, rgb.numel(), dtype=engine.dtype).view_as(rgb)
        found.append(torch.autograd.grad((weights * rgb).sum(), [*model.parameters(), background]))
    for decoded, planes in zip(*found, strict=True):
        assert decoded.abs().max() > 0
        torch.testing.assert_close(planes, decoded, rtol=0, atol=engine.tolerance * float(decoded.abs().max()))


def test_uncertainty_is_one_number_a_pixel_between_nought_and_one(engine: Engine):
    model, camera = some_model(engine.dtype), make_camera()
    out = render(model, camera, background=(0.0, 1.0, 0.0), backend=engine.name, outputs=("bit_entropy", "depth"))
    assert out.bits is None and out.depth is not None and out.bit_entropy is not None
    assert out.bit_entropy.shape == (21, 37, 1)
    assert out.bit_entropy.min() >= 0 and out.bit_entropy.max() <= 1 + 1e-6 and out.bit_entropy.std() > 0.05
    uncovered = out.alpha == 0
    assert uncovered.any() and (out.bit_entropy[uncovered] == 0).all(), "black and white are decided bits"
    model.bit_logits.data.zero_(), model.bit_shifts.data.zero_()  # type: ignore[union-attr]
    undecided = render(model, camera, background=(0.5, 0.5, 0.5), backend=engine.name, outputs=("bit_entropy",))
    assert undecided.bit_entropy is not None
    torch.testing.assert_close(undecided.bit_entropy, torch.ones_like(undecided.bit_entropy), rtol=0, atol=1e-6)


def test_a_lower_degree_can_be_asked_for(engine: Engine):
    model, camera = some_model(engine.dtype), make_camera()
    flat = model.tensors() | {"bit_shifts": model.tensors()["bit_shifts"][:, :0]}
    expected = render(GaussianModel(flat), camera, backend=engine.name).rgb
    assert torch.equal(render(model, camera, backend=engine.name, sh_degree=0).rgb, expected)
    assert not torch.equal(render(model, camera, backend=engine.name).rgb, expected)
    assert torch.equal(
        render(model, camera, backend=engine.name, sh_degree=3).rgb, render(model, camera, backend=engine.name).rgb
    )


@pytest.mark.parametrize("output", ["bits", "bit_entropy"])
def test_direct_sh_has_no_bits_to_show(output: str):
    model = some_model(torch.float32).baked()
    with pytest.raises(UserError, match=r"color head .*'sh'.* no bits.*--head bits"):
        render(model, make_camera(), backend="torch", outputs=("rgb", output))  # type: ignore[arg-type]


# ---- misuse -------------------------------------------------------------------------------------------------------

BITS = make_splats(bit_view="shared")


@pytest.mark.parametrize(
    ("splats", "settings", "words"),
    [
        (replace(BITS, sh_coeffs=make_splats().sh_coeffs), RasterSettings(), "both sh_coeffs and bit_logits"),
        (replace(BITS, bit_logits=None), RasterSettings(), "go together, but only one of them is given"),
        (replace(BITS, bit_shifts=None), RasterSettings(0), "go together, but only one of them is given"),
        (replace(BITS, bit_shifts=torch.zeros(40, 15, 8)), RasterSettings(), "has 8 columns, expected 3 or 24"),
        (
            replace(BITS, bit_logits=torch.zeros(40, 8)),
            RasterSettings(),
            r"bit_logits has shape \(40, 8\).*8 is not 24",
        ),
        (
            replace(BITS, bit_shifts=torch.zeros(39, 15, 3)),
            RasterSettings(),
            "bit_shifts.*N is 39 here but 40 in means",
        ),
        (replace(BITS, bit_shifts=torch.zeros(40, 8, 3)), RasterSettings(3), "sh_degree 3 needs 15 bit_shifts, got 8"),
        (make_splats(bit_view="full", sh_degree=0), RasterSettings(1), "sh_degree 1 needs 3 bit_shifts, got 0"),
        (make_splats(), RasterSettings(bits=True), "bits are asked for, but the splats have no bit_logits"),
    ],
)
def test_bits_that_do_not_fit_are_refused(engine: Engine, splats: Splats, settings: RasterSettings, words: str):
    with pytest.raises(ValueError, match=words):
        engine.render(splats, make_camera(), settings)


def test_a_background_of_three_colors_does_not_fit_24_bits(engine: Engine):
    with pytest.raises(ValueError, match="background has 3 channels but the splats have 24"):
        engine.render(BITS, make_camera(), RasterSettings(bits=True), torch.zeros(3))
    out = engine.render(BITS, make_camera(), RasterSettings(bits=True), even_bits(torch.zeros(3)))
    assert out.features.shape == (21, 37, 24)


def test_more_channels_than_the_core_composites_are_refused():
    engine = open_engine("cpu-float32")
    splats, camera = make_splats(bit_view="shared", channels=40), make_camera(9, 7)
    assert engine.render(splats, camera, RasterSettings(bits=True)).features.shape == (7, 9, 64)
    with pytest.raises(ValueError, match="cannot composite 65 channels in one call, only 1 to 64"):
        engine.render(splats, camera, RasterSettings(bits=True, depth=True))
    with pytest.raises(ValueError, match="cannot composite 24 channels in one call, only 1 to 4"):
        engine.render(make_splats(bit_view="full"), camera, RasterSettings(bits=True, absgrad=True))
