"""The gate: Gaussians that hardly move skip the field, and the picture stays the same."""

from __future__ import annotations

import math

import pytest
import torch
from deformations import Pusher, last_layers, moving, pushed, some_model, stirred
from splat_scenes import make_camera
from torch import Tensor

from nfc_gs.model.deformation import Deformation
from nfc_gs.model.gate import GatedDeformation, gated
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.hexplane import HexPlane, is_time_plane
from nfc_gs.ops.operations import Operations
from nfc_gs.rendering.pipeline import render


def asked(model: GaussianModel) -> list[int]:
    """Which Gaussians pass through the field of a gated model."""
    assert isinstance(model.deformation, GatedDeformation)
    return model.deformation.moving.tolist()


def test_only_what_moves_passes_through_the_field() -> None:
    model = gated(pushed([0.0, 0.5, 0.005, 0.02]), tolerance=0.1)  # of a size of 0.1
    assert asked(model) == [1, 3]
    assert isinstance(model.deformation, GatedDeformation) and isinstance(model.deformation.inner, Pusher)
    model.posed(0.3)
    assert model.deformation.inner.asked == 2


def test_what_is_still_rests_in_the_middle_of_its_way_and_the_rest_is_where_it_was() -> None:
    original = pushed([0.0, 0.5, 0.005])
    model = gated(original, tolerance=0.1)
    for time in (0.0, 0.3, 1.0):
        before, after = original.at(time).means.detach(), model.at(time).means.detach()
        assert torch.equal(after[1], before[1])
        assert after[:, 0].tolist() == pytest.approx([0.25, float(before[1, 0]), 0.25])


def test_size_is_that_along_the_way() -> None:
    """0.01 is little along an axis of 0.4, and much along one of 0.1; no axis counts as thinner than a tenth."""
    assert gated(pushed([0.01], scales=(0.4, 0.1, 0.1))).deformation is None
    assert asked(gated(pushed([0.01], scales=(0.1, 0.4, 0.1)))) == [0]
    assert gated(pushed([0.001], scales=(1e-4, 0.4, 0.4))).deformation is None
    turned = pushed([0.01], scales=(0.1, 0.4, 0.1))
    with torch.no_grad():
        turned.quats.copy_(torch.tensor([[math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)]]))  # its long axis along x
    assert gated(turned).deformation is None


def test_faint_gaussians_may_go_farther_and_those_never_drawn_anywhere() -> None:
    """By their opacity: 1, 1/100 and, below 1/255, 1/500."""
    model = pushed([0.02, 0.02, 9.0])
    with torch.no_grad():
        model.opacity_logits.copy_(torch.tensor([9.0, math.log(1 / 99), math.log(1 / 499)]))
    assert asked(gated(model)) == [0]
    with torch.no_grad():
        model.means[1, 1] = 2.0
    assert asked(gated(model)) == [0, 1]


class Fader(Deformation):
    """Adds a logit to opacities in the course of time."""

    def __init__(self, logit: float) -> None:
        super().__init__("hexplane", ("opacity_logits",), torch.tensor([[-9.0] * 3, [9.0] * 3]))
        self.settings, self.logit = {}, logit

    def changes(self, means: Tensor, time: float, operations: Operations) -> Tensor:
        return means.new_full((len(means), 1), self.logit * time)


@pytest.mark.parametrize(
    ("first", "last", "moves"),
    [(0.0, 0.01, False), (0.0, 0.1, True), (-25.0, 2.0, True), (1.0, 25.0, True), (-25.0, -5.6, False)],
)
def test_what_comes_and_goes_passes_and_what_is_never_drawn_does_not(first: float, last: float, moves: bool) -> None:
    """Also where it is nearly clear or opaque most of the time; an alpha below 1/255, logit -5.54, is not drawn."""
    model = pushed([0.0])
    with torch.no_grad():
        model.opacity_logits.fill_(first)
    model.deformation = Fader(last - first)
    assert (gated(model).deformation is not None) == moves


def test_a_gaussian_that_is_not_a_number_is_left_to_the_field() -> None:
    model = pushed([0.0, math.nan])
    assert asked(gated(model)) == [1]


def test_a_part_of_a_gated_model_moves_as_the_whole_does() -> None:
    model = gated(pushed([0.0, 0.5, 0.005, 0.9]))
    part = model.subset(torch.tensor([True, False, True, True]))
    assert asked(part) == [2]
    assert torch.equal(part.at(0.7).means, model.at(0.7).means[[0, 2, 3]])
    assert model.subset(torch.tensor([True, False, True, False])).deformation is None


def test_a_static_model_needs_no_gate() -> None:
    model = some_model("sh")
    assert gated(model) is model


@torch.no_grad()
@pytest.mark.parametrize("head", ["sh", "bits"])
@pytest.mark.parametrize("kind", ["hexplane", "mlp"])
def test_with_some_gaussians_still_pictures_hardly_differ(head: str, kind: str) -> None:
    model, camera = some_model(head, count=60), make_camera()
    model.deformation = field = moving(kind)
    for _ in range(20):  # ever less motion, until a good part of the Gaussians is still
        shown = gated(model)
        if isinstance(shown.deformation, GatedDeformation) and 10 <= len(shown.deformation.moving) <= 40:
            break
        for layer in last_layers(field):
            layer.weight.mul_(0.7)
            layer.bias.mul_(0.7)
    assert isinstance(shown.deformation, GatedDeformation) and 10 <= len(shown.deformation.moving) <= 40
    for time in (0.0, 0.2, 0.55, 1.0):
        wanted, found = (render(m, camera, time, backend="torch").rgb for m in (model, shown))
        assert 0.0 < float((wanted - found).square().mean()) < 1e-5  # 50 dB; so few Gaussians, all near, show more


def test_what_moves_between_two_cells_of_time_moves() -> None:
    """Of features that are lower at both ends of a cell than in its middle."""
    field = stirred("hexplane")
    assert isinstance(field, HexPlane)
    with torch.no_grad():
        for index, plane in enumerate(field.planes):
            if is_time_plane(index):
                plane.copy_(torch.ones_like(plane))
        at_cells = torch.arange(field.time_resolution) % 2
        for index in (3, 9):  # xt of each level up and down, yt down and up: their product is 0.75 at all cells
            field.planes[index].copy_((0.5 + at_cells).view(-1, 1, 1).expand_as(field.planes[index]))
            field.planes[index + 1].copy_((1.5 - at_cells).view(-1, 1, 1).expand_as(field.planes[index + 1]))
    model = some_model("sh")
    model.deformation = field
    shown = gated(model, tolerance=1e-3)
    assert isinstance(shown.deformation, GatedDeformation) and len(shown.deformation.moving) == len(model)


@pytest.mark.parametrize("head", ["sh", "bits"])
@pytest.mark.parametrize("kind", ["hexplane", "mlp"])
def test_pictures_differ_by_as_much_as_the_tolerance_says(head: str, kind: str) -> None:
    """With none they are the same, but for rounding; a large one freezes everything."""
    model = some_model(head, count=60)
    field = moving(kind)
    model.deformation = field
    camera = make_camera()
    with torch.no_grad():
        for layer in last_layers(field):
            layer.weight.mul_(0.3)
            layer.bias.mul_(0.3)
        differences = {}
        for tolerance in (0.0, 0.1, 100.0):
            shown = gated(model, tolerance)
            pictures = [render(m, camera, time, backend="torch").rgb for m in (model, shown) for time in (0.2, 0.9)]
            differences[tolerance] = max(float((pictures[k] - pictures[k + 2]).abs().max()) for k in (0, 1))
            assert differences[tolerance] < 0.1 * tolerance + 1e-5
    assert shown.deformation is None and differences[100.0] > 0.005
