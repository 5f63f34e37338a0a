"""Compares our GPU kernels with the reference on a small scene: what a training step computes, once.

Renderings and their gradients are compared with those of `TorchBackend` in float64, losses and Adam, after the backward
pass and in it, with the compiled core's, whose tests hold it to the references; those are in layers above this one.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera, look_at_viewmat
from nfc_gs.core.sh import sh_bases
from nfc_gs.model.target_encoding import COLOR_BITS
from nfc_gs.ops import native
from nfc_gs.ops.arguments import AdamConstants, LossWeights, SplatStep
from nfc_gs.ops.nvrtc import Runtime
from nfc_gs.ops.operations import CPU, Operations, gpu_operations
from nfc_gs.rendering.backend import RasterBackend, RasterOutput, RasterSettings, RawSplats
from nfc_gs.rendering.cpu_backend import CpuBackend
from nfc_gs.rendering.cuda_backend import CudaBackend
from nfc_gs.rendering.torch_backend import TorchBackend

COUNT, WIDTH, HEIGHT = 200, 48, 40
"""Gaussians and pixels: 3 x 3 tiles, the last of which are not whole, and more than one block of every kernel."""

TOLERANCE = 2e-3
"""How large a difference may be, as a fraction of what the reference computes, both as norms. In the emulator rounding
makes 1e-5 of it at most; a pixel whose alpha falls on the other side of a threshold could make about 1e-4."""

Tensors = dict[str, Tensor]

_GRADIENT = "the gradient of "


class DifferenceError(Exception):
    """What the kernels computed is not what the reference computes; the message says what, without a full stop."""


def compare(runtime: Runtime) -> None:
    """Draw, compare with a photograph and take one step of Adam, by the kernels and by the reference.

    Raises:
        DifferenceError: for the first tensor that differs.
        UserError: the compiled core does not load.
    """
    native.core()
    operations = gpu_operations(runtime)
    generator = torch.Generator().manual_seed(7)
    colors = RasterSettings(depth=True, antialiased=True, absgrad=True)
    gradients = _compare_renderings("colored splats", _splats(generator, bits=False), colors, runtime, generator)
    bits = RasterSettings(depth=True, bits=True)
    _compare_renderings("splats with bits", _splats(generator, bits=True), bits, runtime, generator)
    _compare_renderings("decoded bits", _splats(generator, bits=True), RasterSettings(depth=True), runtime, generator)
    _compare_losses(operations, runtime, generator)
    _compare_adam(_splats(generator, bits=False), gradients, operations, runtime, generator)
    for bits in (False, True):
        _compare_step(_splats(generator, bits=bits), runtime, generator)


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
    found = _rendered(CudaBackend(runtime), splats, settings, background, weights, runtime.device, torch.float32)
    for name, value in expected.items():
        _check(f"{name} of {what}", found[name], value)
    return {name.removeprefix(_GRADIENT): value for name, value in expected.items() if name.startswith(_GRADIENT)}


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
    results: dict[str, Tensor | None] = {**images, "the radii": out.info.radii, "means2d": out.info.means2d}
    results |= {f"{_GRADIENT}{name}": tensor.grad for name, tensor in inputs.items()}
    results["means2d_grad"] = out.info.means2d_grad
    if settings.absgrad:
        results["means2d_absgrad"] = out.info.means2d_absgrad
    missing = [name for name, tensor in results.items() if tensor is None]
    if missing:
        raise DifferenceError(f"there is no {missing[0]}")
    return {name: tensor.detach() for name, tensor in results.items() if tensor is not None}


def _images(out: RasterOutput) -> Tensors:
    assert out.depth is not None
    return {"the image": out.features, "alpha": out.alpha, "the depth": out.depth}


# ---- losses and Adam ----------------------------------------------------------------------------------------------


def _compare_losses(operations: Operations, runtime: Runtime, generator: torch.Generator) -> None:
    """All terms of the objective that kernels compute, of random images with a mask."""
    target = torch.randint(256, (HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)
    mask = torch.randint(256, (HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    images = [torch.rand(HEIGHT, WIDTH, n, generator=generator) for n in (3, COLOR_BITS)]
    expected = _losses(CPU, images, target, mask, torch.device("cpu"))
    found = _losses(operations, images, target, mask, runtime.device)
    for name, value in expected.items():
        _check(name, found[name], value)


def _losses(
    operations: Operations, images: list[Tensor], target: Tensor, mask: Tensor, device: torch.device
) -> Tensors:
    """The terms of the objective and the gradients of their sum, by name."""
    assert operations.photometric_loss is not None and operations.bit_cross_entropy is not None
    rgb, bits = (image.to(device, copy=True).requires_grad_() for image in images)
    weights = LossWeights(l1=0.5, mse=0.3, ssim=0.2, ce=0.1, ce_eps=1e-3)
    target, mask = target.to(device), mask.to(device)
    total, values = operations.photometric_loss(rgb, target, mask, weights)
    bit_ce = operations.bit_cross_entropy(bits, target, mask, weights.ce_eps)
    (total + bit_ce).backward()
    assert rgb.grad is not None and bits.grad is not None
    terms = {f"the term {name}": value for name, value in {**values, "bit_ce": bit_ce.detach()}.items()}
    return {**terms, "the gradient of the loss": rgb.grad, "the gradient of the loss of bits": bits.grad}


def _compare_adam(
    splats: RawSplats, gradients: Tensors, operations: Operations, runtime: Runtime, generator: torch.Generator
) -> None:
    """One step from moments that are not zero, for the Gaussians that are visible."""
    names = [f.name for f in fields(splats) if getattr(splats, f.name) is not None]
    params = {name: getattr(splats, name) for name in names}
    moments = {name: torch.rand(params[name].shape, generator=generator) for name in names}
    visible = torch.rand(COUNT, generator=generator) < 0.7
    visible[[0, -1]] = True  # what a kernel gets wrong first
    rates = {**dict.fromkeys(names, 0.01), "sh_coeffs": (0.02, 0.001, 3)}
    constants = AdamConstants(0.9, 0.999, 1e-15, 0.2, 0.01)
    stepped = []
    for bundle, device in ((CPU, torch.device("cpu")), (operations, runtime.device)):
        assert bundle.adam_step is not None
        values, grads, first, second = (
            {name: tensors[name].to(device, torch.float32, copy=True).contiguous() for name in names}
            for tensors in (params, gradients, moments, moments)
        )
        bundle.adam_step(values, grads, first, second, visible.to(device), rates, constants)
        stepped.append((values, first, second))
    kinds = ("the step of Adam", "the first moment of Adam", "the second moment of Adam")
    for kind, expected, found, before in zip(kinds, *stepped, (params, moments, moments), strict=True):
        for name in names:
            change = found[name].detach().cpu().double() - before[name]
            _check(f"{kind} for {name}", change, expected[name].double() - before[name])


class _Step:
    """A step of Adam for a backward pass to take, of copies of parameters and of moments that are not zero."""

    def __init__(self, params: Tensors, moments: Tensors, device: torch.device) -> None:
        def copies(tensors: Tensors) -> Tensors:
            return {name: tensor.to(device, torch.float32, copy=True) for name, tensor in tensors.items()}

        self.params, self.m, self.v = copies(params), copies(moments), copies(moments)

    def take(self) -> SplatStep:
        rates = {**dict.fromkeys(self.params, 0.01), "sh_coeffs": (0.02, 0.001, 3)}
        constants = AdamConstants(0.9, 0.999, 1e-15, 0.2, 0.01)
        return SplatStep(self.params, self.m, self.v, rates, constants, opacity_weight=0.1, scale_weight=0.2)


def _compare_step(splats: RawSplats, runtime: Runtime, generator: torch.Generator) -> None:
    """A step of Adam in the backward pass, by our kernels and by the compiled core."""
    params = {f.name: getattr(splats, f.name) for f in fields(splats) if getattr(splats, f.name) is not None}
    moments = {name: torch.rand(tensor.shape, generator=generator) for name, tensor in params.items()}
    weight = torch.rand(HEIGHT, WIDTH, 3, generator=generator)
    steps = []
    for backend, device in ((CpuBackend(), torch.device("cpu")), (CudaBackend(runtime), runtime.device)):
        step = _Step(params, moments, device)
        leaves = {name: tensor.requires_grad_() for name, tensor in step.params.items()}
        camera = _camera().to(device, torch.float32)
        settings = RasterSettings(may_be_incomplete=True)
        backend.render(RawSplats(**leaves), camera, settings)  # by which the memory of the next one is sized
        out = backend.render(RawSplats(**leaves), camera, settings, consumer=step)
        if not out.complete():
            raise DifferenceError("a rendering lacks memory for as much as the one before")
        (out.features * weight.to(device)).sum().backward()
        steps.append(step)
    expected, found = steps
    for name, before in params.items():
        what = f"of the step in the backward pass for {name}"
        change = found.params[name].detach().cpu().double() - before
        _check(f"the change {what}", change, expected.params[name].double() - before)
        _check(f"the first moment {what}", found.m[name], expected.m[name])
        _check(f"the second moment {what}", found.v[name], expected.v[name])


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
