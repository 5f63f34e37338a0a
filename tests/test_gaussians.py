"""The model of Gaussians as a `RadianceModel`: its state as parts and back, its copy, and what it says of itself."""

from __future__ import annotations

import pytest
import torch
from deformations import moving, some_model

from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import Part, RadianceModel


def a_model(head: str, kind: str | None) -> GaussianModel:
    model = some_model(head)
    model.deformation = None if kind is None else moving(kind)
    return model


@pytest.mark.parametrize("head", ["sh", "bits"])
@pytest.mark.parametrize("kind", [None, "hexplane", "mlp"])
def test_a_model_made_of_its_parts_is_the_same(head: str, kind: str | None) -> None:
    model: RadianceModel = a_model(head, kind)
    parts = model.parts()
    assert list(parts) == (["model"] if kind is None else ["model", "deformation"])
    assert model.family == "gaussians" and model.changes_with_time == (kind is not None)
    again = GaussianModel.from_parts({**parts, "optimizer": Part()})
    assert again.head == head and again.means.data_ptr() == parts["model"].tensors["means"].data_ptr()
    for time in (None, 0.3):
        expected, found = a_model(head, kind).at(time).tensors(), again.at(time).tensors()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_copy_shares_no_memory() -> None:
    model = a_model("sh", "hexplane")
    copy, before = model.copy(), a_model("sh", "hexplane")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert len(list(model.parameters())) == len(list(copy.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(copy.parameters(), before.parameters(), strict=True))


def test_a_model_says_how_large_it_is() -> None:
    assert a_model("sh", None).facts() == {"Gaussians": "20", "SH degree": "1", "Color head": "spherical harmonics"}
    assert a_model("bits", "mlp").facts() == {
        "Gaussians": "20",
        "SH degree": "1",
        "Color head": "24 bits, one shift a channel for the view",
        "Deformation": "mlp",
    }


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("means", (20,), r"means has shape \(20,\), expected two dimensions"),
        ("means", (), r"means has shape \(\), expected two dimensions"),
        ("sh_coeffs", (20,), r"sh_coeffs has shape \(20,\), expected three dimensions"),
        ("quats", (19, 4), r"quats has shape \(19, 4\), expected \(20, 4\)"),
    ],
)
def test_tensors_that_make_no_model_are_named(name: str, shape: tuple[int, ...], message: str) -> None:
    tensors = {**a_model("sh", None).tensors(), name: torch.zeros(shape)}
    with pytest.raises(ValueError, match=message):
        GaussianModel.from_parts({"model": Part(tensors)})


def test_parts_that_lack_something_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no model"):
        GaussianModel.from_parts({})
    with pytest.raises(ValueError, match="there is no tensor 'log_scales'"):
        GaussianModel.from_parts({"model": Part({"means": torch.zeros(2, 3)})})


@pytest.mark.parametrize(
    ("tensors", "settings", "message"),
    [
        ({"bounds": torch.zeros(2, 3)}, {}, "the bounds of the deformation are no box"),
        ({"bounds": torch.full((2, 3), torch.nan)}, {}, "the bounds of the deformation are no box"),
        (
            {"planes.0": torch.zeros(2, 2, 16)},
            {},
            r"the deformation's planes\.0 is not as this version",
        ),
        ({"unknown": torch.zeros(1)}, {}, "the deformation's unknown is not as this version of nfc-gs has it"),
        ({}, {"kind": "voxels"}, "the settings of the deformation make none: kind voxels"),
        ({}, {"quantities": 3}, "the settings of the deformation make none"),
        ({}, {"config": {"levels": None}}, "the settings of the deformation make none"),
        ({}, {"max_bounds": [1.0]}, "the settings of the deformation make none: max_bounds"),
    ],
)
def test_a_deformation_that_cannot_be_made_again_is_refused(tensors: dict, settings: dict, message: str) -> None:
    parts = a_model("sh", "hexplane").parts()
    saved = parts["deformation"]
    broken = Part({**saved.tensors, **tensors}, {**saved.values, **settings})
    with pytest.raises(ValueError, match=message):
        GaussianModel.from_parts({**parts, "deformation": broken})
    with pytest.raises(ValueError, match="the bounds of the deformation are no box"):
        GaussianModel.from_parts({**parts, "deformation": Part({}, saved.values)})


@pytest.mark.parametrize("kind", [None, "hexplane", "mlp"])
def test_a_detached_model_is_the_same_without_gradients_and_shares_memory(kind: str | None) -> None:
    model = a_model("sh", kind)
    detached = model.detached()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(tensor.requires_grad for tensor in (*detached.parameters(), *detached.posed(0.3).values()))
    pairs = [*zip(model.parameters(), detached.parameters(), strict=True)]
    pairs += [*zip(model.buffers(), detached.buffers(), strict=True)]
    assert pairs and all(a.data_ptr() == b.data_ptr() for a, b in pairs)
    expected, found = model.at(0.3).tensors(), detached.at(0.3).tensors()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_model_is_made_of_numpy_arrays_as_of_tensors() -> None:
    tensors = a_model("sh", None).tensors()
    arrays = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    model = GaussianModel(arrays)
    assert all(torch.equal(model.tensors()[name], tensors[name]) for name in tensors)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    arrays["means"][:] = 0.0
    assert (model.means != 0).any(), "the array was copied"
    assert GaussianModel({name: t.double() for name, t in tensors.items()}).means.dtype == torch.float64


def test_a_model_says_what_it_is_in_one_line() -> None:
    assert repr(a_model("sh", None)) == "GaussianModel(20 Gaussians, SH degree 1, float32 on cpu)"
    assert repr(a_model("bits", "mlp")) == "GaussianModel(20 Gaussians, SH degree 1, moving (mlp), float32 on cpu)"
