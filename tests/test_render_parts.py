"""Parts of a picture (`Camera.crop`): every backend draws them as it draws them in the whole picture."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

import pytest
import torch
from splat_scenes import (
    ENGINES,
    Engine,
    cast,
    leaves,
    make_splats,
    naive_render,
    open_engine,
    rounded,
)
from torch import Tensor

from nfc_gs.core.camera import Camera, look_at
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.heads.bits import start_bits
from nfc_gs.model.radiance import Output
from nfc_gs.ops import native
from nfc_gs.rendering.backend import RasterOutput, RasterSettings, Splats
from nfc_gs.rendering.cpu_backend import CpuBackend
from nfc_gs.rendering.pipeline import render

WIDTH, HEIGHT = 133, 97

PARTS = {
    "left half": (0, 0, 66, 97),
    "right half": (66, 0, 67, 97),
    "at odd places": (17, 5, 33, 64),
    "tiles of the whole": (16, 32, 64, 32),
    "within a tile": (51, 34, 9, 11),
    "low and wide": (3, 90, 100, 7),
    "last pixel": (132, 96, 1, 1),
}
"""left, top, width, height."""

SOME_PARTS = ("right half", "at odd places")

EXACT = ("cpu", "emulated", "gpu")
"""Engines whose parts are equal bit for bit."""

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}
"""Of the specification, whose sums over the splats of a tile round as the number of these splats makes them."""


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return open_engine(request.param)


def tilted(degrees: float, width: int = WIDTH, height: int = HEIGHT) -> Camera:
    """A camera that looks up by so many degrees: at 35 most of what it sees is below or beside its picture."""
    angle = math.radians(degrees)
    eye = torch.tensor([0.0, -3.0, 0.1], dtype=torch.float64)
    target = eye + torch.tensor([0.02, math.cos(angle), math.sin(angle)], dtype=torch.float64)
    camera = look_at(eye, target, width=width, height=height, fov=70.0)
    return replace(camera, cy=camera.cy + 3.7)


def wide_splats(count: int = 150, **options: object) -> Splats:
    """Splats of which many are as wide as the picture, all around the camera's axis."""
    generator = torch.Generator().manual_seed(4)
    splats = make_splats(count, seed=2, **options)  # type: ignore[arg-type]
    spread = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return replace(splats, scales=rounded(splats.scales * (1.3 * spread).exp()))


def part_of(image: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    left, top, width, height = box
    return image[top : top + height, left : left + width]


def assert_part(engine: Engine, whole: RasterOutput, part: RasterOutput, box: tuple[int, int, int, int]) -> None:
    for name in ("features", "alpha", "depth"):
        expected, actual = part_of(getattr(whole, name), box), getattr(part, name)
        if engine.name in EXACT:
            assert torch.equal(actual, expected), f"{name}: {float((actual - expected).abs().max())}"
        else:
            torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE[engine.dtype])


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("tilt", [0.0, 35.0])
def test_a_part_is_that_part_of_the_whole_picture(engine: Engine, tilt: float, antialiased: bool):
    splats, camera = wide_splats(channels=2), tilted(tilt)
    settings, background = RasterSettings(depth=True, antialiased=antialiased), torch.linspace(0.1, 0.9, 5)
    whole = engine.render(splats, camera, settings, background)
    assert whole.features.std() > 0.1 and whole.alpha.mean() > 0.5
    for box in PARTS.values():
        assert_part(engine, whole, engine.render(splats, camera.crop(*box), settings, background), box)


@pytest.mark.parametrize("engine", ["torch-float64"], indirect=True)
def test_drawn_as_a_picture_of_its_own_a_part_would_be_another(engine: Engine):
    splats, camera, settings = wide_splats(), tilted(35.0), RasterSettings(depth=True)
    whole = engine.render(splats, camera, settings)
    own = replace(camera.crop(*PARTS["right half"]), part_of=None)
    difference = engine.render(splats, own, settings).features - part_of(whole.features, PARTS["right half"])
    assert difference.abs().max() > 0.05, "the scene does not test the limits of the frustum"


@pytest.mark.parametrize("bits", [False, True], ids=["decoded", "bits"])
def test_a_part_of_bits_is_that_part_of_the_whole_picture(engine: Engine, bits: bool):
    splats, camera, settings = wide_splats(40, bit_view="full"), tilted(35.0), RasterSettings(depth=True, bits=bits)
    whole = engine.render(splats, camera, settings)
    for box in (PARTS[name] for name in SOME_PARTS):
        assert_part(engine, whole, engine.render(splats, camera.crop(*box), settings), box)


def test_a_part_is_that_part_of_the_picture_of_plain_loops(engine: Engine):
    splats, camera, settings = wide_splats(40), tilted(35.0, 45, 33), RasterSettings(depth=True)
    naive, box = naive_render(splats, camera, settings), (13, 7, 22, 19)
    out = engine.render(splats, camera.crop(*box), settings)
    sure = part_of(torch.from_numpy(naive.sure), box)
    assert sure.float().mean() > 0.9
    for name in ("features", "alpha", "depth"):
        expected = part_of(torch.from_numpy(getattr(naive, name)), box)[sure]
        scale = 1 + float(expected.abs().max())
        actual = getattr(out, name).double()[sure]
        torch.testing.assert_close(actual, expected, rtol=0, atol=scale * engine.tolerance)


@pytest.mark.parametrize("tilt", [0.0, 35.0])
def test_gradients_through_a_part_are_those_of_the_whole_picture(engine: Engine, tilt: float):
    splats, camera, settings = wide_splats(60), tilted(tilt), RasterSettings(depth=True, absgrad=True)
    for box in (PARTS[name] for name in SOME_PARTS):
        left, top, width, height = box
        generator = torch.Generator().manual_seed(1)
        weights = torch.rand(height, width, 5, generator=generator, dtype=torch.float64).to(engine.dtype) - 0.3

        def found(view: Camera, place: tuple[slice, slice], weights: Tensor = weights) -> dict[str, Tensor | None]:
            inputs = leaves(splats, engine.dtype)
            background = torch.tensor([0.2, 0.5, 0.7], dtype=engine.dtype, requires_grad=True)
            viewmat = view.viewmat.to(engine.dtype).requires_grad_()
            out = engine.render(inputs, replace(view, viewmat=viewmat), settings, background)
            images = torch.cat([out.features, out.alpha, out.depth], dim=-1)  # type: ignore[list-item]
            (images[place] * weights).sum().backward()
            tensors = {f.name: getattr(inputs, f.name) for f in dataclasses.fields(inputs)}
            tensors |= {"viewmat": viewmat, "background": background}
            grads = {name: tensor.grad for name, tensor in tensors.items() if tensor is not None}
            return grads | {"means2d": out.info.means2d_grad, "means2d_abs": out.info.means2d_absgrad}

        whole = found(camera, (slice(top, top + height), slice(left, left + width)))
        part = found(camera.crop(*box), (slice(None), slice(None)))
        for name, expected in whole.items():
            actual = part[name]
            assert expected is not None and actual is not None and expected.abs().max() > 0, name
            if engine.name == "cpu" and name not in ("viewmat", "background"):  # summed in another order
                assert torch.equal(actual, expected), f"{name}: {float((actual - expected).abs().max())}"
            atol = (1e-4 if engine.dtype == torch.float32 else 1e-12) * float(expected.abs().max())
            torch.testing.assert_close(actual, expected, rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def test_facts_of_splats_are_given_in_pixels_of_the_part_and_of_what_is_seen_in_it(engine: Engine):
    splats, camera, settings = wide_splats(), tilted(0.0), RasterSettings()
    whole = engine.render(splats, camera, settings).info
    box = PARTS["at odd places"]
    part = engine.render(splats, camera.crop(*box), settings).info
    shown, size = part.visible, torch.tensor([33, 64])
    assert 10 < int(shown.sum()) < int(whole.visible.sum())
    assert torch.equal(part.radii[shown], whole.radii[shown])
    places = whole.means2d - torch.tensor([17, 5])
    torch.testing.assert_close(part.means2d[shown], places[shown], rtol=0, atol=1e-4)
    reached = ((places + whole.radii > 1) & (places - whole.radii < size - 1)).all(1) & whole.visible
    assert (shown | ~reached).all(), "what reaches a pixel of the part is visible in it"


def test_splats_beyond_the_part_cost_no_work():
    backend, camera, splats = CpuBackend(), tilted(0.0, 256, 256), make_splats(2000)
    small = cast(replace(splats, scales=0.02 * splats.scales), torch.float32)
    work = []
    for view in (camera, camera.crop(64, 64, 128, 64)):
        backend.render(small, view.to(dtype=torch.float32), RasterSettings())
        scratch = backend.take_scratch()
        work.append((scratch.entries, scratch.evaluated_pairs()))
        backend.return_scratch(scratch)
    (entries, pairs), (part_entries, part_pairs) = work
    assert 0 < part_entries < 0.6 * entries and 0 < part_pairs < 0.5 * pairs  # most splats are in the middle


@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512"])
@pytest.mark.usefixtures("same_core_afterwards")
def test_parts_are_exact_with_every_instruction_set_and_any_number_of_threads(name: str):
    if not native.core().use_instruction_set(name):
        pytest.skip(f"this machine has no {name}")
    engine, splats, camera, settings = (
        open_engine("cpu-float32"),
        wide_splats(),
        tilted(35.0),
        RasterSettings(depth=True),
    )
    for threads in (1, 3):
        native.set_threads(threads)
        whole = engine.render(splats, camera, settings)
        for box in PARTS.values():
            assert_part(engine, whole, engine.render(splats, camera.crop(*box), settings), box)


OUTPUTS: tuple[Output, ...] = ("rgb", "depth", "normals", "bits", "bit_entropy")


@pytest.mark.parametrize("tilt", [0.0, 35.0])
@pytest.mark.parametrize("outputs", [OUTPUTS[:3], OUTPUTS], ids=["without bits", "with bits"])
def test_every_output_of_a_model_in_parts_is_that_of_the_whole_picture(outputs: tuple[Output, ...], tilt: float):
    generator = torch.Generator().manual_seed(0)
    model, camera = wide_model(generator), tilted(tilt)
    options = {"outputs": outputs, "background": (0.2, 0.3, 0.4), "backend": "cpu"}
    with torch.no_grad():
        whole = render(model, camera, **options)
        for box in PARTS.values():
            part = render(model, camera.crop(*box), **options)
            for name in ("alpha", *outputs):
                expected, actual = part_of(getattr(whole, name), box), getattr(part, name)
                if name in ("rgb", "bit_entropy") and "bits" in outputs:  # torch computes them from the bits: its
                    torch.testing.assert_close(actual, expected, rtol=0, atol=3e-7)  # products round by their sizes
                else:
                    assert torch.equal(actual, expected), name


def wide_model(generator: torch.Generator) -> GaussianModel:
    count = 200
    return GaussianModel(
        {
            "means": 0.8 * torch.randn(count, 3, generator=generator),
            "log_scales": 1.2 * torch.randn(count, 3, generator=generator) - 2.0,
            "quats": torch.randn(count, 4, generator=generator),
            "opacity_logits": torch.randn(count, generator=generator),
            **start_bits(torch.rand(count, 3, generator=generator), 1, hardness=0.7),
        }
    )
