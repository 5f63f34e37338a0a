"""What the GPU kernels of a training step are given in tests."""

from __future__ import annotations

import torch
from emulator import Emulator
from losses import photometric
from torch import Tensor

from nfc_gs.model.hexplane import HexPlaneConfig, add_plane_regulariser_gradient, plane_shapes
from nfc_gs.objective.objective import ObjectiveConfig
from nfc_gs.ops import gpu
from nfc_gs.ops.operations import gpu_operations
from nfc_gs.training import density_ops
from nfc_gs.training.optimizers import VisibleAdam


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


EVERYTHING = ObjectiveConfig(l1=0.7, mse=0.4, ssim=0.3, ce=0.5, bit_ce=0.6, ce_eps=0.05)


def pictures(height: int, width: int, masked: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """A rendering that passes 0 and 1, a photograph, a mask, and bit probabilities."""
    rendered = random(height, width, 3, seed=1) * 1.2 - 0.1
    target = (random(height, width, 3, seed=2) * 255).round().to(torch.uint8)
    mask = (random(height, width, seed=3) * 255).round().to(torch.uint8) if masked else None
    return rendered, target, mask, random(height, width, 24, seed=4)


def gaussians(count: int) -> dict[str, Tensor]:
    """Raw float32 tensors, many of them faint; the last has a quaternion of zero."""
    generator = torch.Generator().manual_seed(5)
    tensors = {
        "means": torch.randn(count, 3, generator=generator),
        "quats": torch.randn(count, 4, generator=generator),
        "log_scales": torch.randn(count, 3, generator=generator) - 1.0,
        "opacity_logits": 4.0 * torch.randn(count, generator=generator) - 4.0,
    }
    tensors["quats"][-1] = 0.0
    return tensors


def planes_of(config: HexPlaneConfig, time_resolution: int) -> list[Tensor]:
    return [random(*shape, seed=k) + 0.5 for k, shape in enumerate(plane_shapes(config, time_resolution))]


def launch_every_kernel(emulator: Emulator) -> None:
    """For the test that AddressSanitizer finds nothing: sizes that fill no block, gradients of everything."""
    rendered, target, mask, bits = pictures(19, 21, True)
    x, p = rendered.float().requires_grad_(), bits.float().requires_grad_()
    operations = gpu_operations(emulator)
    photometric(x, target, mask, EVERYTHING, p, operations).total.backward()
    tensors = gaussians(37)
    density_ops.mcmc_noise_(**tensors, strength=0.3, seed=1, step=2, operations=operations)
    density_ops.relocate_sources_(tensors, torch.tensor([3, 5, 5, 36]), 0.005, operations)
    ones = {name: torch.ones_like(tensor) for name, tensor in tensors.items()}
    VisibleAdam(tensors, operations).step(ones, torch.ones(37, dtype=torch.bool), dict.fromkeys(tensors, 0.1))
    planes = [plane.float().requires_grad_() for plane in planes_of(HexPlaneConfig(features=24, resolution=3), 3)]
    gpu.hexplane_features(emulator, planes, (2.0 * random(37, 3) - 1.0).float(), 1.0).sum().backward()
    for plane in planes:
        weights = (0.1, 0.2, 0.3, 0.4)
        add_plane_regulariser_gradient(plane.detach(), torch.zeros_like(plane), *weights, operations)
