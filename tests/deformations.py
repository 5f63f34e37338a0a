"""Deformation fields, and Gaussians that they move."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from nfc_gs.model.deformation import WIDTHS, Deformation
from nfc_gs.model.deformation_kinds import make_deformation
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.hexplane import HexPlane, HexPlaneConfig
from nfc_gs.model.mlp import MlpConfig
from nfc_gs.ops.operations import Operations

SMALL = HexPlaneConfig(features=16, resolution=5, levels=(1, 2), width=32)
BOX = torch.tensor([[-1.0, -2.0, -3.0], [1.0, 2.0, 3.0]])
EVERYTHING = tuple(WIDTHS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_field(kind: str, quantities: tuple[str, ...] = EVERYTHING, seed: int | None = 0):
    config = dataclasses.asdict(SMALL if kind == "hexplane" else MlpConfig(depth=4, width=24))
    settings = {"kind": kind, "quantities": quantities, "config": config, "time_resolution": 4}
    return make_deformation(settings, BOX, None if seed is None else generator(seed))


def last_layers(field) -> list[torch.nn.Linear]:
    """Those that give the changes."""
    if isinstance(field, HexPlane):
        return [layers[-1] for layers in field.networks.values()]
    return [field.layers[-1]]


def stirred(kind: str, **changes):
    """A field whose last layer is not zero."""
    field = some_field(kind, **changes)
    with torch.no_grad():
        for layer in last_layers(field):
            layer.weight.normal_(0.0, 0.3, generator=generator(2))
            layer.bias.normal_(0.0, 0.3, generator=generator(2))
    return field


def moving(kind: str, **changes):
    """A field whose changes depend on time."""
    field = stirred(kind, **changes)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator(9)) * 0.1)
    return field


def some_model(head: str, count: int = 20) -> GaussianModel:
    g = generator(3)
    tensors = {
        "means": torch.randn(count, 3, generator=g),
        "log_scales": torch.randn(count, 3, generator=g),
        "quats": torch.randn(count, 4, generator=g),
        "opacity_logits": torch.randn(count, generator=g),
    }
    if head == "sh":
        tensors["sh_coeffs"] = torch.randn(count, 4, 3, generator=g)
    else:
        tensors |= {"bit_logits": torch.randn(count, 24, generator=g), "bit_shifts": torch.zeros(count, 3, 3)}
    return GaussianModel(tensors)


class Pusher(Deformation):
    """Pushes Gaussians along x as far as their y says, there and back, and all of them by 0.25."""

    asked: int

    def __init__(self) -> None:
        super().__init__("hexplane", ("means",), torch.tensor([[-9.0] * 3, [9.0] * 3]))
        self.settings = {}

    def changes(self, means: Tensor, time: float, operations: Operations) -> Tensor:
        self.asked = len(means)
        return torch.stack([means[:, 1] * (2.0 * time - 1.0) + 0.25, 0.0 * means[:, 0], 0.0 * means[:, 0]], dim=1)


def pushed(ways: list[float], scales: tuple[float, float, float] = (0.1, 0.1, 0.1)) -> GaussianModel:
    """Gaussians that go so far from the middle of their ways."""
    count = len(ways)
    means = torch.tensor([[0.0, way, 2.0] for way in ways])
    model = GaussianModel(
        {
            "means": means,
            "log_scales": torch.tensor(scales).log().expand(count, 3),
            "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(count, 4),
            "opacity_logits": torch.full((count,), 9.0),
            "sh_coeffs": torch.zeros(count, 1, 3),
        }
    )
    model.deformation = Pusher()
    return model
