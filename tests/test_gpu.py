"""The backend `cuda` on a GPU, against the specification in float64: `pytest -m gpu`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from splat_scenes import cast, leaves, make_camera, make_splats, map_splats, naive_render
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.render.backend import RasterSettings, Splats, get_backend

pytestmark = pytest.mark.gpu

SCENES = {
    "colours": (make_splats(), RasterSettings(3, depth=True, absgrad=True)),
    "antialiased": (make_splats(), RasterSettings(3, antialiased=True)),
    "shared bits": (make_splats(bit_view="shared"), RasterSettings(3, depth=True)),
    "full bits, composited": (make_splats(bit_view="full", channels=5), RasterSettings(3, depth=True, bits=True)),
    "300 splats": (make_splats(300), RasterSettings(2)),
}


@pytest.fixture(autouse=True)
def gpu() -> None:
    try:
        get_backend("cuda")
    except UserError as error:
        pytest.skip(str(error))


def results(
    backend: str, device: str, dtype: torch.dtype, splats: Splats, camera: Camera, settings: RasterSettings
) -> dict[str, Tensor]:
    """The pictures, and the gradients of a fixed weighting of the pixels that are sure, on the CPU in float64."""
    inputs = leaves(map_splats(cast(splats, dtype), lambda tensor: tensor.to(device)), dtype)
    viewmat = camera.viewmat.detach().clone().to(device, dtype).requires_grad_()
    out = get_backend(backend).render(inputs, replace(camera, viewmat=viewmat), settings)
    sure = torch.from_numpy(naive_render(splats, camera, settings).sure).double()[..., None]
    images = {"features": out.features, "alpha": out.alpha, "depth": out.depth}
    found = {name: image.detach().cpu().double() * sure for name, image in images.items() if image is not None}
    generator = torch.Generator().manual_seed(4)
    loss = torch.zeros((), dtype=dtype, device=device)
    for image in images.values():
        if image is not None:
            weights = (torch.rand(image.shape, generator=generator, dtype=torch.float64) - 0.3) * sure
            loss = loss + (image * weights.to(device, dtype)).sum()
    loss.backward()
    for name, tensor in {**vars(inputs), "viewmat": viewmat}.items():
        if tensor is not None:
            found[f"gradient of {name}"] = tensor.grad.cpu().double()
    return found


@pytest.mark.parametrize("scene", SCENES)
def test_pictures_and_gradients_are_those_of_the_specification(scene: str):
    splats, settings = SCENES[scene]
    expected = results("torch", "cpu", torch.float64, splats, make_camera(), settings)
    actual = results("cuda", "cuda", torch.float32, splats, make_camera(), settings)
    for name, value in expected.items():
        limit = 1e-3 * float(value.abs().max())
        torch.testing.assert_close(actual[name], value, rtol=0, atol=limit, msg=lambda m, name=name: f"{name}: {m}")


def test_two_runs_give_the_same_bits():
    splats, settings = SCENES["300 splats"]
    first, second = (results("cuda", "cuda", torch.float32, splats, make_camera(), settings) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
