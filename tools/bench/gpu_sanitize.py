"""Runs every GPU kernel on small scenes and checks that the results are finite, alone or under compute-sanitizer.

    python tools/bench/gpu_sanitize.py
    export PYTORCH_NO_CUDA_MEMORY_CACHING=1     # or torch's pool hides accesses beyond an array
    compute-sanitizer --tool memcheck --error-exitcode 1 python tools/bench/gpu_sanitize.py
    compute-sanitizer --tool racecheck --error-exitcode 1 python tools/bench/gpu_sanitize.py
    compute-sanitizer --tool synccheck --error-exitcode 1 python tools/bench/gpu_sanitize.py

`--smallest` takes scenes of 40 Gaussians at 40 x 24, which a sanitizer gets through in less time. The exit code is 0 if
all results are finite, 1 if one is not, and 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from gpu_scenes import BenchScene, tiled_scene
from torch import Tensor

from nfc_gs.core.camera import Camera, look_at_viewmat
from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import PointCloud
from nfc_gs.model.deformation_kinds import make_deformation
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.hexplane import HexPlane, HexPlaneConfig
from nfc_gs.objective.objective import Objective, ObjectiveConfig
from nfc_gs.objective.terms import Comparison
from nfc_gs.ops.operations import operations_for
from nfc_gs.rendering import cuda_backend, entry_memory
from nfc_gs.rendering.backend import RasterBackend, RasterSettings, Splats
from nfc_gs.rendering.cuda_backend import WIDTHS, CudaBackend
from nfc_gs.rendering.pipeline import render
from nfc_gs.training.deformation import add_regulariser_gradients_
from nfc_gs.training.density_ops import mcmc_noise_, relocate_sources_
from nfc_gs.training.optimizers import DenseAdam, VisibleAdam

RENDERINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "direct colors": ("sh", {}),
    "lower degree, depth, background, absolute gradients": (
        "sh",
        {"outputs": ("rgb", "depth"), "background": (0.2, 0.5, 0.9), "absgrad": True, "sh_degree": 1},
    ),
    "antialiased": ("sh", {"antialiased": True}),
    "shared bits, decoded": ("shared", {"outputs": ("rgb", "depth")}),
    "full bits, decoded": ("full", {}),
    "full bits, antialiased": ("full", {"antialiased": True}),
    "full bits, composited": ("full", {"outputs": ("rgb", "bits", "depth"), "background": (0.2, 0.5, 0.9)}),
}
"""Head and options of `render`."""

TOO_FEW = 10
"""Entries, of which every scene here has more."""

SMALLEST = {"count": 40, "width": 40, "height": 24}
"""Arguments of `run` for the smallest scenes."""


def small_scene(count: int, width: int, height: int) -> BenchScene:
    """Gaussians around the origin, of some pixels each, and a camera in front of them."""
    generator = np.random.default_rng(0)
    cloud = PointCloud(
        generator.uniform(-1, 1, (count, 3)).astype(np.float32), generator.integers(0, 256, (count, 3)).astype(np.uint8)
    )
    eye, target, up = torch.tensor([[0.3, -0.2, -3.0], [0.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    camera = Camera(look_at_viewmat(eye, target, up), width, width, width / 2, height / 2, width, height)
    scene = tiled_scene("random", cloud, (camera,), count)
    with torch.no_grad():
        scene.model.log_scales.add_(2.5)
    return scene


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    """By the name of the parameter."""
    return {f"gradient of {name}": param.grad for name, param in model.named_parameters() if param.grad is not None}


def rendered(
    model: GaussianModel, camera: Camera, backend: RasterBackend, options: dict[str, Any]
) -> dict[str, Tensor]:
    """All results of a rendering and its backward pass."""
    with torch.no_grad():
        render(model, camera, backend=backend, **options)
    out = render(model, camera, backend=backend, **options)
    images = {name: image for name, image in vars(out).items() if isinstance(image, Tensor)}
    torch.stack([image.square().sum() for image in images.values()]).sum().backward()
    assert out.info.means2d_grad is not None
    return images | gradients(model) | {"gradient of means2d": out.info.means2d_grad}


def any_channels(model: GaussianModel, camera: Camera, backend: RasterBackend, channels: int) -> dict[str, Tensor]:
    """A rendering of this number of features, and its gradients."""
    tensors = model.tensors()
    inputs = {
        "means": tensors["means"],
        "quats": tensors["quats"],
        "scales": tensors["log_scales"].exp(),
        "opacities": tensors["opacity_logits"].sigmoid(),
        "features": torch.rand(len(model), channels, device=model.device),
    }
    leaves = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    out = backend.render(Splats(**leaves), camera.to(model.device), RasterSettings(0))
    out.features.sum().backward()
    grads = {f"gradient of {name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {"features": out.features} | grads


def trained(model: GaussianModel, camera: Camera, backend: RasterBackend) -> dict[str, Tensor]:
    """A training step with all terms of the loss, exploration noise, and some relocated Gaussians."""
    bits = model.head == "bits"
    out = render(model, camera, backend=backend, outputs=("rgb", "bits") if bits else ("rgb",))
    generator = torch.Generator().manual_seed(2)
    target = torch.randint(0, 256, out.rgb.shape, generator=generator, dtype=torch.uint8).to(model.device)
    mask = 255 * torch.randint(0, 2, out.rgb.shape[:2], generator=generator, dtype=torch.uint8).to(model.device)
    operations = operations_for(model.device)
    objective = Objective(ObjectiveConfig(mse=0.1, ce=0.3, bit_ce=0.3 if bits else 0.0), operations=operations)
    for masked in (None, mask):
        objective(Comparison(out, target, masked)).total.backward(retain_graph=masked is None)
    rates = {name: (0.01, 0.001, 3) if name == "sh_coeffs" else 0.01 for name in model.parameter_names}
    VisibleAdam(model.tensors(), operations).step(
        {name: getattr(model, name).grad for name in model.parameter_names}, out.info.visible, rates
    )
    geometry = [model.tensors()[name] for name in ("means", "quats", "log_scales", "opacity_logits")]
    mcmc_noise_(*geometry, strength=0.1, seed=0, step=1, operations=operations)
    relocate_sources_(model.tensors(), torch.tensor([0, 1, 1], device=model.device), 0.005, operations)
    return model.tensors() | gradients(model)


def stepped(model: GaussianModel, camera: Camera, backend: RasterBackend, options: dict[str, Any]) -> dict[str, Tensor]:
    """A step of Adam that the backward pass takes, in memory that is sized by a rendering before it."""
    optimizer = VisibleAdam(model.tensors(), operations_for(model.device))
    rates = {name: (0.01, 0.001, 3) if name == "sh_coeffs" else 0.01 for name in model.parameter_names}
    options = {"backend": backend, "may_be_incomplete": True, **options}
    render(model, camera, **options)
    out = render(model, camera, consumer=optimizer.consumer(rates, 0.01, 0.01), **options)
    out.rgb.sum().backward()
    return model.tensors() | optimizer.state()


def incomplete(model: GaussianModel, camera: Camera, backend: RasterBackend) -> dict[str, Tensor]:
    """A rendering in too little memory, between two in enough."""
    options = {"backend": backend, "may_be_incomplete": True}
    outs = [render(model, camera, **options)]
    outs[0].complete()  # by which the size of the next one is known
    with patch.object(entry_memory, "rounded_up", lambda size: TOO_FEW):
        outs.append(render(model, camera, **options))
    outs.append(render(model, camera, **options))
    return {f"{what} rgb": out.rgb for what, out in zip(("first", "incomplete", "complete"), outs, strict=True)}


def deformed(model: GaussianModel, camera: Camera, backend: RasterBackend) -> dict[str, Tensor]:
    """A rendering of Gaussians that a HexPlane deforms, and an optimizer step of the HexPlane."""
    settings = {
        "kind": "hexplane",
        "quantities": ["means", "quats", "opacity_logits"],
        "config": asdict(HexPlaneConfig()),
        "unit": 0.25,
        "time_resolution": 8,
    }
    bounds = torch.tensor([[-2.0] * 3, [2.0] * 3])
    deformation = make_deformation(settings, bounds, torch.Generator().manual_seed(3)).to(model.device)
    assert isinstance(deformation, HexPlane)
    model.deformation = deformation
    out = render(model, camera, 0.3, backend=backend)
    out.rgb.square().sum().backward()
    params = {name: param.detach() for name, param in deformation.named_parameters()}
    grads = {name: param.grad for name, param in deformation.named_parameters() if param.grad is not None}
    add_regulariser_gradients_(deformation, grads, operations_for(model.device))
    DenseAdam(params, operations_for(model.device)).step(grads, dict.fromkeys(params, 0.01))
    return {"rgb": out.rgb} | gradients(model) | params


Check = tuple[str, Callable[[], dict[str, Tensor]]]


def checks(backend: RasterBackend, device: torch.device, count: int, width: int, height: int) -> Iterator[Check]:
    """All checks: names, and functions that return tensors by name."""
    scene = small_scene(count, width, height)
    camera = scene.cameras[0]

    def model(head: str) -> GaussianModel:
        with_head = scene.bits(head) if head in ("shared", "full") else scene.model  # type: ignore[arg-type]
        return GaussianModel({name: tensor.clone() for name, tensor in with_head.tensors().items()}).to(device)

    for name, (head, options) in RENDERINGS.items():
        yield name, lambda head=head, options=options: rendered(model(head), camera, backend, options)
    for channels in WIDTHS:
        yield f"{channels} channels", lambda channels=channels: any_channels(model("sh"), camera, backend, channels)
    empty = {name: tensor[:0] for name, tensor in scene.model.tensors().items()}
    yield "no Gaussians", lambda: rendered(GaussianModel(empty).to(device), camera, backend, {})
    for head in ("sh", "shared", "full"):
        yield f"a training step, {head}", lambda head=head: trained(model(head), camera, backend)
    for head in ("sh", "shared"):
        for options in ({}, {"antialiased": True, "absgrad": True}):
            name = f"a step in the backward pass, {head}{', antialiased' if options else ''}"
            yield name, lambda head=head, options=options: stepped(model(head), camera, backend, options)
    yield "too little memory", lambda: incomplete(model("sh"), camera, backend)
    yield "a moving scene", lambda: deformed(model("sh"), camera, backend)


def run(backend: RasterBackend, device: torch.device, count: int = 400, width: int = 100, height: int = 70) -> int:
    """Run everything, with tile numbers of 16 and of 32 bits; returns the number of results that are not finite."""
    broken = 0
    for wide in (False, True):
        with patch.object(cuda_backend, "MAX_NARROW_TILES", 1) if wide else nullcontext():
            for name, check in checks(backend, device, count, width, height):
                found = {what: bool(tensor.isfinite().all()) for what, tensor in check().items()}
                wrong = [what for what, finite in found.items() if not finite]
                broken += len(wrong)
                words = f"NOT FINITE: {', '.join(wrong)}" if wrong else f"{len(found)} results"
                print(f"{name}{', many tiles' if wide else ''}: {words}", flush=True)
    return broken


def main(words: Sequence[str] = ()) -> int:
    """Run everything on the GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smallest", action="store_true", help="scenes of 40 Gaussians at 40 x 24")
    smallest = parser.parse_args(words).smallest
    try:
        backend = CudaBackend()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = SMALLEST if smallest else {}
    return 1 if run(backend, torch.device("cuda"), **size) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
