"""Compares our GPU kernels with the reference on a small scene: what a training step computes, once.

    python -m nfc_gs.training.self_test cuda:0

prints {"passed": true, "reason": "", "lasting": true} and exits with 0, or with 1 if the kernels failed. It is run by
`rendering.self_test`, which keeps the verdict.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields, replace

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera, look_at_viewmat
from nfc_gs.core.errors import UserError
from nfc_gs.core.sh import sh_bases
from nfc_gs.core.text import in_one_line
from nfc_gs.model.radiance import RenderOutput
from nfc_gs.model.target_encoding import COLOR_BITS
from nfc_gs.objective.objective import Objective, ObjectiveConfig
from nfc_gs.objective.terms import Comparison
from nfc_gs.ops.arguments import AdamConstants
from nfc_gs.ops.nvrtc import Runtime, runtime_for
from nfc_gs.ops.operations import REFERENCE, Operations, gpu_operations
from nfc_gs.rendering.backend import RasterBackend, RasterOutput, RasterSettings, RawSplats
from nfc_gs.rendering.cuda_backend import CudaBackend
from nfc_gs.rendering.torch_backend import TorchBackend
from nfc_gs.training.optimizers import adam_step_reference

COUNT, WIDTH, HEIGHT = 200, 48, 40
"""Gaussians and pixels: 3 x 3 tiles, the last of which are not whole, and more than one block of every kernel."""

TOLERANCE = 2e-3
"""How large a difference may be, as a fraction of what the reference computes in float64, both as norms. Rounding makes
about 1e-6 to 1e-4 of it; a pixel whose alpha falls on the other side of a threshold 1e-4."""

Tensors = dict[str, Tensor]


class DifferenceError(Exception):
    """What the kernels computed is not what the reference computes; the message says what, without a full stop."""


def compare(runtime: Runtime) -> None:
    """Draw, compare with a photograph and take one step of Adam, by the kernels and by the reference.

    Raises:
        DifferenceError: for the first tensor that differs.
    """
    backend, operations = CudaBackend(runtime), gpu_operations(runtime)
    generator = torch.Generator().manual_seed(7)
    colors = RasterSettings(depth=True, antialiased=True, absgrad=True)
    gradients = _compare_renderings("colors", _splats(generator, bits=False), colors, backend, runtime, generator)
    bits = RasterSettings(depth=True, bits=True)
    _compare_renderings("bits", _splats(generator, bits=True), bits, backend, runtime, generator)
    _compare_losses(operations, runtime, generator)
    _compare_adam(_splats(generator, bits=False), gradients, operations, runtime, generator)


# ---- rendering ----------------------------------------------------------------------------------------------------


def _splats(generator: torch.Generator, *, bits: bool) -> RawSplats:
    """Gaussians around the origin, float64, of values that float32 holds exactly."""

    def normal(*shape: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        values = mean + scale * torch.randn(COUNT, *shape, generator=generator, dtype=torch.float64)
        return values.float().double()

    higher = sh_bases(3) - 1
    colors = (
        {"bit_logits": normal(COLOR_BITS), "bit_shifts": normal(higher, 3, scale=0.3)}
        if bits
        else {"sh_coeffs": normal(higher + 1, 3, scale=0.3)}
    )
    return RawSplats(
        means=normal(3, scale=0.6),
        quats=normal(4),
        log_scales=normal(3, scale=0.4, mean=-2.0),
        opacity_logits=normal(),
        **colors,
    )


def _camera() -> Camera:
    eye, target, up = torch.tensor([[0.4, -0.3, -3.0], [0.0, 0.05, 0.0], [0.1, -1.0, 0.0]], dtype=torch.float64)
    viewmat = look_at_viewmat(eye, target, up).float().double()
    return Camera(viewmat, fx=46.0, fy=44.0, cx=23.0, cy=21.5, width=WIDTH, height=HEIGHT)


def _compare_renderings(
    what: str,
    splats: RawSplats,
    settings: RasterSettings,
    backend: RasterBackend,
    runtime: Runtime,
    generator: torch.Generator,
) -> Tensors:
    """Compare images and gradients; returns the reference's gradients of the splats."""
    channels = COLOR_BITS if settings.bits else 3
    background = torch.rand(channels, generator=generator, dtype=torch.float64).float().double()
    weights = [torch.rand(HEIGHT, WIDTH, n, generator=generator, dtype=torch.float64) for n in (channels, 1, 1)]
    weights = [weight.float().double() for weight in weights]
    cpu = torch.device("cpu")
    expected = _rendered(TorchBackend(), splats, settings, background, weights, cpu, torch.float64)
    found = _rendered(backend, splats, settings, background, weights, runtime.device, torch.float32)
    for name, value in expected.items():
        _check(f"{name} of {what}", found[name], value)
    return {name.removeprefix("gradient of "): value for name, value in expected.items() if name.startswith("gradient")}


def _rendered(
    backend: RasterBackend,
    splats: RawSplats,
    settings: RasterSettings,
    background: Tensor,
    weights: list[Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> Tensors:
    """Everything that a backend computes, by name, for the weighted sum of its images as the loss."""

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype, copy=True).requires_grad_()

    given = {f.name: getattr(splats, f.name) for f in fields(splats)}
    leaves = {name: leaf(tensor) for name, tensor in given.items() if tensor is not None}
    inputs = {**leaves, "background": leaf(background), "viewmat": leaf(_camera().viewmat)}
    camera = replace(_camera(), viewmat=inputs["viewmat"])
    out = backend.render(replace(splats, **leaves), camera, settings, inputs["background"])
    images = _images(out)
    torch.stack(
        [(image * w.to(device, dtype)).sum() for image, w in zip(images.values(), weights, strict=True)]
    ).sum().backward()
    results: dict[str, Tensor | None] = {**images, "radii": out.info.radii, "centers": out.info.means2d}
    results |= {f"gradient of {name}": tensor.grad for name, tensor in inputs.items()}
    results["gradient of centers"] = out.info.means2d_grad
    if settings.absgrad:
        results["absolute gradient of centers"] = out.info.means2d_absgrad
    missing = [name for name, tensor in results.items() if tensor is None]
    if missing:
        raise DifferenceError(f"there is no {missing[0]}")
    return {name: tensor.detach() for name, tensor in results.items() if tensor is not None}


def _images(out: RasterOutput) -> Tensors:
    assert out.depth is not None
    return {"image": out.features, "alpha": out.alpha, "depth": out.depth}


# ---- losses and Adam ----------------------------------------------------------------------------------------------


def _compare_losses(operations: Operations, runtime: Runtime, generator: torch.Generator) -> None:
    """All terms of the objective that kernels compute, of random images with a mask."""
    config = ObjectiveConfig(l1=0.5, mse=0.3, ssim=0.2, ce=0.1, bit_ce=0.1)
    target = torch.randint(256, (HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)
    mask = torch.randint(256, (HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    images = [torch.rand(HEIGHT, WIDTH, n, generator=generator) for n in (3, COLOR_BITS)]
    expected = _loss(REFERENCE, config, images, target, mask, torch.device("cpu"), torch.float64)
    found = _loss(operations, config, images, target, mask, runtime.device, torch.float32)
    for name, value in expected.items():
        _check(name, found[name], value)


def _loss(
    operations: Operations,
    config: ObjectiveConfig,
    images: list[Tensor],
    target: Tensor,
    mask: Tensor,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensors:
    rgb, bits = (image.to(device, dtype, copy=True).requires_grad_() for image in images)
    output = RenderOutput(rgb, alpha=rgb[..., :1], bits=bits)
    result = Objective(config, operations=operations)(Comparison(output, target.to(device), mask.to(device)))
    result.total.backward()
    assert rgb.grad is not None and bits.grad is not None
    values = {f"term {name}": value for name, value in result.values.items()}
    return {**values, "gradient of the loss": rgb.grad, "gradient of the loss of bits": bits.grad}


def _compare_adam(
    splats: RawSplats, gradients: Tensors, operations: Operations, runtime: Runtime, generator: torch.Generator
) -> None:
    """One step from moments that are not zero, for the Gaussians that are visible."""
    names = [f.name for f in fields(splats) if getattr(splats, f.name) is not None]
    params = {name: getattr(splats, name) for name in names}
    moments = {name: torch.rand(params[name].shape, generator=generator).double() for name in names}
    visible = torch.rand(COUNT, generator=generator) < 0.7
    rates = {**dict.fromkeys(names, 0.01), "sh_coeffs": (0.02, 0.001, 3)}
    constants = AdamConstants(0.9, 0.999, 1e-15, 0.2, 0.01)
    stepped = []
    assert operations.adam_step is not None
    for step, device, dtype in (
        (adam_step_reference, torch.device("cpu"), torch.float64),
        (operations.adam_step, runtime.device, torch.float32),
    ):
        moved = [
            {name: tensor.to(device, dtype, copy=True).contiguous() for name, tensor in tensors.items()}
            for tensors in (params, {name: gradients[name] for name in names}, moments, moments)
        ]
        values, grads, first, second = moved
        step(values, grads, first, second, visible.to(device), rates, constants)
        stepped.append((values, first, second))
    kinds = ("step of Adam", "first moment of Adam", "second moment of Adam")
    for kind, expected, found, before in zip(kinds, *stepped, (params, moments, moments), strict=True):
        for name in names:
            change = found[name].detach().cpu().double() - before[name]
            _check(f"{kind} for {name}", change, expected[name] - before[name])


# ---- the verdict --------------------------------------------------------------------------------------------------


def _check(name: str, found: Tensor, expected: Tensor) -> None:
    """Raise `DifferenceError` unless a tensor is what it should be."""
    found, expected = found.detach().cpu().double(), expected.detach().double()
    if found.shape != expected.shape:
        raise DifferenceError(f"{name} has shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
    if not found.isfinite().all():
        raise DifferenceError(f"{name} is not finite")
    error = float((found - expected).norm()) / max(float(expected.norm()), 1e-30)
    if error > TOLERANCE:
        raise DifferenceError(f"{name} differs from the reference by {error:.2g} of its norm")


def verdict_of(device: str) -> dict[str, bool | str]:
    """Whether the kernels passed on a GPU, why not, and whether that will be so the next time, too."""
    lasting, reason = True, ""
    try:
        compare(runtime_for(torch.device(device)))
    except DifferenceError as difference:
        reason = f"its self-test failed: {difference}"
    except torch.OutOfMemoryError:
        lasting, reason = False, "its self-test found too little free memory on the GPU"
    except UserError as error:
        reason = str(error).removesuffix(".")
    except Exception as error:  # whatever torch, the driver or the loader says of kernels that do wrong
        reason = f"its self-test failed: {in_one_line(error)}"
    return {"passed": not reason, "reason": reason, "lasting": lasting}


def main(device: str) -> int:
    """Print the verdict; returns the exit code."""
    verdict = verdict_of(device)
    print(json.dumps(verdict), flush=True)
    return 0 if verdict["passed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
