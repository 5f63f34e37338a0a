"""Deformation fields: what they compute, compiled kernels against the reference, and that nothing moves at first."""

from __future__ import annotations

import math

import pytest
import torch
from deformations import BOX, SMALL, generator, last_layers, moving, some_field, some_model, stirred
from torch import Tensor

from nfc_gs.core.sh import C0
from nfc_gs.model.deformation import WIDTHS, robust_bounds
from nfc_gs.model.deformation_kinds import make_deformation
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.hexplane import (
    PLANE_AXES,
    TIME_AXIS,
    HexPlane,
    HexPlaneConfig,
    add_plane_regulariser_gradient,
    choose_time_resolution,
    hexplane_features,
    hexplane_features_reference,
    mlp,
    mlp_reference,
    plane_shapes,
)
from nfc_gs.model.mlp import encode
from nfc_gs.ops import native
from nfc_gs.ops.operations import CPU, REFERENCE, operations_for

pytestmark = pytest.mark.usefixtures("same_core_afterwards")

needs_core = pytest.mark.skipif(not native.available(), reason="the compiled core is not built")

INSTRUCTION_SETS = ("baseline", "avx2", "avx512")


def some_planes(config: HexPlaneConfig = SMALL, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    g = generator()
    shapes = plane_shapes(config, 4)
    return [torch.empty(s).uniform_(0.2, 1.2, generator=g).to(dtype).requires_grad_() for s in shapes]


def some_points(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Most inside the box, some beyond it."""
    return torch.empty(count, 3).uniform_(-1.2, 1.2, generator=generator(1)).to(dtype).requires_grad_()


# What a look-up is


def bilinear(plane: Tensor, x: float, y: float) -> Tensor:
    """By the formula, one point at a time: the centres of the outermost cells are at -1 and 1."""
    rows, columns, _ = plane.shape
    place = [min(max((v + 1) / 2 * (n - 1), 0.0), n - 1.0) for v, n in ((x, columns), (y, rows))]
    (i, a), (j, b) = ((min(int(p), n - 2), p - min(int(p), n - 2)) for p, n in zip(place, (columns, rows), strict=True))
    low = (1 - a) * plane[j, i] + a * plane[j, i + 1]
    high = (1 - a) * plane[j + 1, i] + a * plane[j + 1, i + 1]
    return (1 - b) * low + b * high


def test_a_look_up_is_the_product_over_the_six_planes_level_beside_level() -> None:
    planes, points, time = some_planes(dtype=torch.float64), some_points(40, torch.float64), 0.37
    found = hexplane_features_reference(planes, points, time)
    assert found.shape == (40, 32)
    for n, point in enumerate(points.tolist()):
        place = [*point, time]
        for level in range(2):
            product = torch.ones(16, dtype=torch.float64)
            for plane, (column, row) in zip(planes[6 * level : 6 * level + 6], PLANE_AXES, strict=True):
                product = product * bilinear(plane, place[column], place[row])
            assert torch.allclose(found[n, 16 * level : 16 * level + 16], product, rtol=1e-12)


def test_gradients_of_the_reference_are_finite_differences() -> None:
    config = HexPlaneConfig(features=2, resolution=3, levels=(1, 2))
    shapes = plane_shapes(config, 3)
    planes = [torch.rand(s, generator=generator(), dtype=torch.float64).requires_grad_() for s in shapes]
    points = torch.tensor([[0.3, -0.7, 0.11], [-0.45, 0.62, -0.83]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p, *q: hexplane_features_reference(q, p, 0.21), (points, *planes))


def test_the_whole_time_axis_is_used() -> None:
    field = stirred("hexplane", quantities=("means",))
    with torch.no_grad():
        for index, plane in enumerate(field.planes):
            if PLANE_AXES[index % 6][1] == TIME_AXIS:
                plane[:] = torch.arange(len(plane), dtype=torch.float32)[:, None, None]
    for time, row in ((0.0, 0.0), (1.0, 3.0), (0.5, 1.5)):
        points = torch.zeros(1, 3)
        features = hexplane_features_reference(list(field.planes), field.normalized(points), 2 * time - 1)
        still = hexplane_features_reference(
            [p if PLANE_AXES[i % 6][1] != TIME_AXIS else torch.ones_like(p) for i, p in enumerate(field.planes)],
            field.normalized(points),
            2 * time - 1,
        )
        assert torch.allclose(features, row**3 * still, rtol=1e-5)


# Compiled


@needs_core
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("time", [-1.0, 0.13, 1.0])
@pytest.mark.parametrize("count", [1, 333, 5000])
def test_the_compiled_look_up_is_the_reference(name: str, time: float, count: int) -> None:
    if not native.core().use_instruction_set(name):
        pytest.skip(f"this machine has no {name}")
    exact = some_planes(dtype=torch.float64), some_points(count, torch.float64)
    single = some_planes(), some_points(count)
    v = torch.randn(count, 32, generator=generator(4))
    wanted, found = (
        hexplane_features_reference(exact[0], exact[1], time),
        hexplane_features(single[0], single[1], time, CPU),
    )
    assert torch.allclose(found.double(), wanted, rtol=1e-5, atol=1e-6)
    wanted.backward(v.double())
    found.backward(v)
    for a, b in zip((*exact[0], exact[1]), (*single[0], single[1]), strict=True):
        assert a.grad is not None and b.grad is not None
        assert (a.grad - b.grad).abs().max() < 1e-5 * a.grad.abs().max() + 1e-6


@needs_core
def test_features_that_fit_no_vector_are_left_to_the_reference() -> None:
    config = HexPlaneConfig(features=6, resolution=4, levels=(1,))
    planes = [torch.rand(s, generator=generator()) for s in plane_shapes(config, 4)]
    points = some_points(10)
    assert torch.equal(hexplane_features(planes, points, 0.2, CPU), hexplane_features_reference(planes, points, 0.2))
    weights = some_weights(inputs=20, width=16, outputs=3, dtype=torch.float32)
    x = torch.rand(7, 20, generator=generator())
    assert torch.equal(mlp(x, weights, CPU), mlp_reference(x, weights))


def some_weights(inputs: int, width: int, outputs: int, dtype: torch.dtype) -> list[Tensor]:
    g = generator(5)
    shapes = [(width, inputs), (width,), (width, width), (width,), (outputs, width), (outputs,)]
    return [(torch.randn(s, generator=g) * 0.3).to(dtype).requires_grad_() for s in shapes]


def away_from_kinks(x: Tensor, inputs: int, width: int, outputs: int) -> Tensor:
    """[N, 1] 1 for points whose hidden values are not so near 0 that rounding decides whether ReLU lets them pass."""
    w1, b1, w2, b2, *_ = some_weights(inputs, width, outputs, torch.float64)
    first = x.double() @ w1.T + b1
    second = first.relu() @ w2.T + b2
    return (torch.cat([first, second], dim=1).abs().amin(1, keepdim=True) > 1e-4).float().detach()


@needs_core
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("count", [0, 1, 32, 1000])
@pytest.mark.parametrize(("inputs", "width", "outputs"), [(64, 64, 10), (16, 48, 1), (32, 16, 14), (256, 256, 8)])
def test_the_compiled_network_is_the_reference(name: str, count: int, inputs: int, width: int, outputs: int) -> None:
    if not native.core().use_instruction_set(name):
        pytest.skip(f"this machine has no {name}")
    start = torch.randn(count, inputs, generator=generator(6))
    v = torch.randn(count, outputs, generator=generator(7)) * away_from_kinks(start, inputs, width, outputs)
    results = []
    for dtype, operations in ((torch.float64, REFERENCE), (torch.float32, CPU)):
        x, weights = start.clone().to(dtype).requires_grad_(), some_weights(inputs, width, outputs, dtype)
        out = mlp(x, weights, operations)
        out.backward(v.to(dtype))
        results.append([out.detach(), x.grad, *(w.grad for w in weights)])
    for wanted, found in zip(*results, strict=True):
        assert found.shape == wanted.shape
        if wanted.numel():
            assert (found - wanted).abs().max() <= 2e-5 * wanted.abs().max() + 1e-6


@needs_core
def test_what_is_not_a_number_is_not_hidden_by_the_compiled_network() -> None:
    x = torch.zeros(3, 16)
    x[1, 4] = math.nan
    out = mlp(x, some_weights(16, 16, 3, torch.float32), CPU)
    assert out[1].isnan().all() and out[[0, 2]].isfinite().all()


@needs_core
def test_compiled_fields_give_the_same_bits_for_any_number_of_threads() -> None:
    results = []
    for threads in (1, 2, 5):
        native.set_threads(threads)
        planes, points = some_planes(), some_points(5000)
        x = hexplane_features(planes, points, 0.3, CPU)
        weights = some_weights(32, 16, 10, torch.float32)
        out = mlp(x, weights, CPU)
        out.backward(torch.randn(out.shape, generator=generator(8)))
        results.append([out.detach(), points.grad, *(t.grad for t in (*planes, *weights))])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_core
def test_the_compiled_operations_are_used_for_float32_on_the_cpu_alone() -> None:
    assert operations_for("cpu") is operations_for(torch.device("cpu")) is CPU
    assert operations_for("cpu", torch.float64) is REFERENCE
    assert operations_for("cpu", reference=True) is REFERENCE


# Regularisers


def regularisers(plane: Tensor, column_tv: float, row_tv: float, smoothness: float, sparsity: float) -> Tensor:
    total = 0.5 * column_tv * (plane[:, 1:] - plane[:, :-1]).square().sum()
    total = total + 0.5 * row_tv * (plane[1:] - plane[:-1]).square().sum()
    total = total + 0.5 * smoothness * (plane[:-2] - 2 * plane[1:-1] + plane[2:]).square().sum()
    return total + sparsity * (plane - 1).abs().sum()


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_core)])
@pytest.mark.parametrize("weights", [(0.7, 0.4, 0, 0), (0, 0, 0.9, 0.3), (0.1, 0.2, 0.3, 0.4)])
@pytest.mark.parametrize("rows", [2, 3, 9])
def test_regularisers_of_planes_have_the_gradients_that_autograd_finds(
    compiled: bool, weights: tuple[float, ...], rows: int
) -> None:
    plane = torch.empty(rows, 7, 16).uniform_(0.0, 2.0, generator=generator()).double().requires_grad_()
    plane.data[0, 0, 0] = 1.0  # the kink
    regularisers(plane, *weights).backward()
    assert plane.grad is not None
    before = torch.randn(plane.shape, generator=generator(1))
    found = before.clone()
    operations = CPU if compiled else REFERENCE
    add_plane_regulariser_gradient(plane.detach().float(), found, *weights, operations)
    assert torch.allclose(found.double(), before.double() + plane.grad, atol=1e-5)


# Fields


@pytest.mark.parametrize("kind", ["hexplane", "mlp"])
def test_at_the_start_nothing_moves_and_everything_can_be_learnt(kind: str) -> None:
    field = some_field(kind)
    means = some_points(30)
    for time in (0.0, 0.4, 1.0):
        changes = field(means, time)
        assert list(changes) == list(WIDTHS)
        assert all((change == 0).all() for change in changes.values())
    sum(change.sum() for change in field(means, 0.4).values()).backward()
    assert all((layer.weight.grad != 0).any() for layer in last_layers(field))


@pytest.mark.parametrize("kind", ["hexplane", "mlp"])
def test_changes_have_the_shapes_of_what_they_are_added_to_and_depend_on_time(kind: str) -> None:
    field = moving(kind)
    means = some_points(30)
    early, late = field(means, 0.1), field(means, 0.9)
    for name, change in early.items():
        assert change.shape == ((30,) if name == "opacity_logits" else (30, WIDTHS[name]))
        assert not torch.allclose(change, late[name], atol=1e-4)


def test_only_the_quantities_that_are_asked_for_change() -> None:
    field = some_field("hexplane", ("log_scales", "means"))
    assert list(field(some_points(3), 0.5)) == ["means", "log_scales"]


@pytest.mark.parametrize("kind", ["hexplane", "mlp"])
def test_a_field_is_made_again_from_its_settings_and_tensors(kind: str) -> None:
    field = stirred(kind)
    again = make_deformation(field.settings, torch.zeros(2, 3), None)
    again.load_state_dict(field.state_dict())
    means = some_points(10)
    for a, b in zip(field(means, 0.3).values(), again(means, 0.3).values(), strict=True):
        assert torch.equal(a, b)
    same, other = stirred(kind), stirred(kind, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(field.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(field.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    "changes", [{"kind": "voxels"}, {"quantities": ()}, {"quantities": ("means", "mood")}, {"config": {"size": 3}}]
)
def test_settings_that_make_no_sense_are_refused(changes: dict) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        make_deformation({**some_field("hexplane").settings, **changes}, BOX, None)


def test_what_is_beyond_a_window_is_as_at_its_edge() -> None:
    field, before = moving("hexplane"), moving("hexplane")
    means = some_points(20)
    assert not torch.allclose(field(means, 0.1)["means"], field(means, 0.3)["means"], atol=1e-3)
    field.extrapolate_constant(0.35, 0.6)  # the cells lie at 0, 1/3, 2/3 and 1
    for time in (1 / 3, 0.35, 0.6, 2 / 3):
        assert torch.allclose(field(means, time)["means"], before(means, time)["means"], atol=1e-5)
    for edge, *beyond in ((1 / 3, 0.2, 0.0), (2 / 3, 0.8, 1.0)):
        for time in beyond:
            assert torch.allclose(field(means, time)["means"], field(means, edge)["means"], atol=1e-5)


def test_means_change_in_the_unit_of_the_scene() -> None:
    plain = moving("hexplane")
    scaled = make_deformation({**plain.settings, "unit": 2.5}, BOX, None)
    scaled.load_state_dict(plain.state_dict())
    means = some_points(20)
    one, other = plain(means, 0.4), scaled(means, 0.4)
    assert torch.equal(other["means"], 2.5 * one["means"])
    assert torch.equal(other["quats"], one["quats"])


def linear_planes(field: HexPlane, seed: int = 0) -> None:
    """Give a field planes that are linear along both axes."""
    g = generator(seed)
    with torch.no_grad():
        for plane in field.planes:
            rows, columns, features = plane.shape
            across = torch.linspace(0.0, 1.0, columns)[None, :, None] * torch.rand(features, generator=g)
            down = torch.linspace(0.0, 1.0, rows)[:, None, None] * torch.rand(features, generator=g)
            plane.copy_(0.3 + across + down)


def test_a_grown_box_keeps_what_its_planes_say() -> None:
    """Planes that are linear in space lose nothing, but for the cells that the old border cuts."""
    field, old = stirred("hexplane"), stirred("hexplane")
    assert isinstance(field, HexPlane) and isinstance(old, HexPlane)
    linear_planes(field)
    linear_planes(old)
    inside = torch.empty(50, 3).uniform_(-0.6, 0.6, generator=generator()) * BOX[1]
    field.grow_bounds(inside)
    assert torch.equal(field.bounds, BOX)
    field.grow_bounds(torch.cat([inside, torch.tensor([[1.3, 0.0, 0.0]]).expand(10, 3)]))
    assert field.bounds[1, 0] == pytest.approx(1.5)  # where they are, and a tenth of the old box
    assert torch.equal(field.bounds[0], BOX[0]) and torch.equal(field.bounds[1, 1:], BOX[1, 1:])
    wanted, found = (f.changes(inside, 0.4, REFERENCE) for f in (old, field))
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not torch.equal(field.planes[0], old.planes[0])


def test_the_box_of_points_leaves_strays_out_and_some_room() -> None:
    points = torch.cat([torch.rand(1000, 3, generator=generator()), torch.full((3, 3), 1e6)])
    low, high = robust_bounds(points)
    assert (low < 0.02).all() and (low > -0.2).all() and (high > 0.98).all() and (high < 1.2).all()


@pytest.mark.parametrize(
    "points", [torch.full((10, 3), 5.0), torch.rand(50, 3, generator=generator()) * torch.tensor([1.0, 1.0, 0.0]) + 4.0]
)
def test_the_box_of_flat_clouds_has_room_on_every_side(points: Tensor) -> None:
    low, high = robust_bounds(points)
    assert (high - low > 1e-4).all() and (points > low).all() and (points < high).all()


def test_a_box_is_put_around_very_many_points() -> None:
    assert robust_bounds(torch.zeros(1, 3).expand(2**24 + 8, 3)).isfinite().all()


@pytest.mark.parametrize("operations", [REFERENCE, pytest.param(CPU, marks=needs_core)])
@pytest.mark.parametrize("kind", ["hexplane", "mlp"])
def test_one_mean_that_is_not_a_number_spoils_nothing_else(kind: str, operations) -> None:
    field = stirred(kind)
    means = some_points(20).detach()
    means[3] = math.nan
    means.requires_grad_()
    changes = field(means, 0.4, operations)
    others = torch.arange(20) != 3
    sum(change[others].square().sum() for change in changes.values()).backward()
    assert means.grad is None or means.grad[others].isfinite().all()  # an MLP gives means no gradient
    assert all(p.grad is None or p.grad.isfinite().all() for p in field.parameters())


def test_cells_along_time_follow_the_number_of_times_and_of_views() -> None:
    assert [choose_time_resolution(HexPlaneConfig(), n, 20 * n) for n in (2, 40, 100, 1000)] == [8, 20, 50, 75]
    assert [choose_time_resolution(HexPlaneConfig(), n, n) for n in (2, 40, 100, 1000)] == [8, 8, 16, 75]
    assert choose_time_resolution(HexPlaneConfig(time_resolution=12), 100, 100) == 12


def test_the_encoding_is_that_of_nerf() -> None:
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    wanted = [0.3, -0.2]
    for wave in (math.sin, math.cos):
        for octave in range(3):
            wanted += [wave(2**octave * math.pi * 0.3), wave(2**octave * math.pi * -0.2)]
    assert torch.allclose(encode(x, 3), torch.tensor([wanted], dtype=torch.float64))


# The model


@pytest.mark.parametrize("head", ["sh", "bits"])
def test_a_posed_model_is_the_canonical_one_plus_the_changes(head: str) -> None:
    model = some_model(head)
    still = {name: tensor.clone() for name, tensor in model.tensors().items()}
    model.deformation = stirred("hexplane")
    changes = model.deformation(model.means, 0.7)
    posed = model.at(0.7, REFERENCE).tensors()
    for name in ("means", "log_scales", "quats", "opacity_logits"):
        assert torch.allclose(posed[name], still[name] + changes[name])
    if head == "sh":
        assert torch.allclose(posed["sh_coeffs"][:, 0], still["sh_coeffs"][:, 0] + changes["colors"] / C0)
        assert torch.equal(posed["sh_coeffs"][:, 1:], still["sh_coeffs"][:, 1:])
    else:
        moved = posed["bit_logits"].view(-1, 3, 8) - still["bit_logits"].view(-1, 3, 8)
        assert torch.allclose(moved, 4 * changes["colors"][:, :, None].expand_as(moved), atol=1e-5)
    assert model.at(0.7).deformation is None
    assert all(torch.equal(tensor, still[name]) for name, tensor in model.at(None).tensors().items())


def test_a_small_change_of_color_is_that_change_in_either_head() -> None:
    """Grey Gaussians, whose bits are undecided: the decoded color moves by what is asked for."""
    bits = GaussianModel(
        {**some_model("bits").tensors(), "bit_logits": torch.zeros(20, 24), "bit_shifts": torch.zeros(20, 0, 3)}
    )
    change = torch.full((20, 3), 0.01)
    recolored = bits.color_head.recolored(dict(bits.named_parameters()), change)["bit_logits"]
    weights = 2.0 ** torch.arange(7, -1, -1) / 255
    assert torch.allclose((recolored.view(20, 3, 8).sigmoid() * weights).sum(-1), 0.5 + change, atol=1e-5)


def test_baking_keeps_the_motion() -> None:
    model = some_model("bits")
    model.deformation = stirred("hexplane")
    assert model.baked(1).deformation is model.deformation
    assert model.baked(1).baked(0).deformation is model.deformation
