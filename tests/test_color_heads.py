"""The table of color heads: its entries keep the contract, and one that is added here goes through everything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from tiny_scenes import all_tensors, assert_same_bits, available_backends, stop_after, tiny_config, tiny_scene
from torch import Tensor

from nfc_gs.core import checks
from nfc_gs.core.errors import UserError
from nfc_gs.core.sh import rgb_to_sh0, sh0_to_rgb
from nfc_gs.formats.registry import read_splats, write_splats
from nfc_gs.model.gaussians import GEOMETRY, GaussianModel
from nfc_gs.model.heads.color_head import ColorHead, HeadOptions, SplatColors
from nfc_gs.model.heads.registry import HEADS, HeadName, get_head, head_of
from nfc_gs.rendering.pipeline import render
from nfc_gs.runs.opening import load_model
from nfc_gs.training import config, gaussians, schedules
from nfc_gs.training.trainer import Trainer

BACKENDS = available_backends()


class RgbHead(ColorHead):
    """Three logits of the color, the same from every side."""

    name = "rgb"
    parameters = ("rgb_logits",)

    def start(self, rgb: Tensor, degree: int, options: HeadOptions) -> dict[str, Tensor]:
        return {"rgb_logits": rgb.clamp(0.01, 0.99).logit()}

    def shapes(self, count: int, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        return {"rgb_logits": (count, 3)}

    def degree(self, tensors: Mapping[str, Tensor]) -> int:
        return 0

    def recolored(self, tensors: Mapping[str, Tensor], change: Tensor) -> dict[str, Tensor]:
        return {"rgb_logits": tensors["rgb_logits"] + 4.0 * change}

    def splat_colors(self, tensors: Mapping[str, Tensor]) -> SplatColors:
        return {"sh_coeffs": self.baked(tensors, 0)}

    def baked(self, tensors: Mapping[str, Tensor], degree: int) -> Tensor:
        constant = rgb_to_sh0(tensors["rgb_logits"].sigmoid())[:, None]
        return torch.cat([constant, constant.new_zeros(len(constant), (degree + 1) ** 2 - 1, 3)], dim=1)

    def describe(self, tensors: Mapping[str, Tensor]) -> str:
        return "three logits"


class FeaturesHead(RgbHead):
    """The same colors, given to the backends as features."""

    def splat_colors(self, tensors: Mapping[str, Tensor]) -> SplatColors:
        return {"features": tensors["rgb_logits"].sigmoid()}


@pytest.fixture
def rgb_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """What someone who adds a head writes: the table, the names, a learning rate."""
    monkeypatch.setitem(HEADS, "rgb", RgbHead())
    monkeypatch.setattr(config, "HeadName", Literal["sh", "bits", "rgb"])
    monkeypatch.setattr(checks, "_hints", checks._hints.__wrapped__)  # the types as they are now, not from the cache

    def rates(*args: object) -> dict:
        return {**schedules.learning_rates(*args), "rgb_logits": 0.05}  # type: ignore[arg-type]

    monkeypatch.setattr(gaussians, "learning_rates", rates)


def rgb_trainer(folder: Path, backend: str = BACKENDS[-1], **changes: object) -> Trainer:
    tiny = tiny_config(**{"steps": 16, "backend": backend, "head": "rgb", **changes})
    return Trainer(tiny_scene(), tiny, folder, capture="tiny")


def start(name: str, degree: int = 1) -> tuple[GaussianModel, Tensor]:
    """A model of the tiny scene's points, and their colors in [0, 1]."""
    points = tiny_scene().points
    return GaussianModel.from_points(points, degree, head=name), torch.from_numpy(points.rgb) / 255  # type: ignore[arg-type]


# ---- the table ----------------------------------------------------------------------------------------------------


def test_the_names_in_the_table_are_those_that_an_option_takes() -> None:
    assert tuple(HEADS) == get_args(HeadName)
    assert all(name == head.name for name, head in HEADS.items())


def test_no_two_heads_and_no_head_and_the_geometry_share_a_tensor() -> None:
    names = [*GEOMETRY, *(name for head in HEADS.values() for name in head.parameters)]
    assert len(names) == len(set(names)) and all(head.parameters for head in HEADS.values())


def test_a_head_is_found_by_its_name_and_by_its_tensors() -> None:
    for name, head in HEADS.items():
        assert get_head(name) is head and head_of([*GEOMETRY, *head.parameters]) is head


def test_an_unknown_head_is_refused_with_the_names_there_are() -> None:
    names = ", ".join(HEADS)
    with pytest.raises(ValueError, match=f"there is no color head 'nn', only {names}$"):
        get_head("nn")
    with pytest.raises(ValueError, match="there is no color head 'nn'"):
        GaussianModel.from_points(tiny_scene().points, head="nn")  # type: ignore[arg-type]


def test_tensors_of_no_head_or_of_several_are_refused() -> None:
    tensors = start("sh")[0].tensors()
    firsts = " or ".join(f"'{head.parameters[0]}'" for head in HEADS.values())
    with pytest.raises(ValueError, match=f"there is no tensor {firsts}, and so no color head"):
        GaussianModel({name: tensors[name] for name in GEOMETRY})
    with pytest.raises(ValueError, match="the tensors 'sh_coeffs' and 'bit_logits', but a model has one color head"):
        GaussianModel(tensors | start("bits")[0].tensors())


@pytest.mark.parametrize("name", [*HEADS, "rgb"])
@pytest.mark.parametrize("degree", [0, 2])
def test_every_head_starts_in_the_colors_of_the_points(rgb_head: None, name: str, degree: int) -> None:
    model, rgb = start(name, degree)
    head = HEADS[name]
    assert model.head == name and model.color_head is head and model.parameter_names == (*GEOMETRY, *head.parameters)
    assert model.sh_degree in ({degree} if name in ("sh", "bits") else {0, degree})
    assert head.shapes(len(model), model.tensors()) == {x: tuple(model.tensors()[x].shape) for x in head.parameters}
    assert model.facts()["Color head"] == head.describe(model.tensors()) != ""
    for wanted in (0, 3):
        sh_coeffs = model.baked(wanted).tensors()["sh_coeffs"]
        assert sh_coeffs.shape == (len(model), (wanted + 1) ** 2, 3)
        torch.testing.assert_close(sh0_to_rgb(sh_coeffs[:, 0]), rgb, rtol=0, atol=0.011)
        assert (sh_coeffs[:, 1:].abs() < 1e-5).all(), "the same from every side"


@pytest.mark.parametrize("name", [*HEADS, "rgb"])
def test_a_change_of_the_constant_color_is_seen_in_every_head(rgb_head: None, name: str) -> None:
    rgb = start(name)[1]
    grey = HEADS[name].start(torch.full_like(rgb, 0.5), 1, HeadOptions())
    change = torch.linspace(-0.02, 0.02, rgb.numel()).reshape(rgb.shape)
    recolored = HEADS[name].recolored(grey, change)
    assert recolored.keys() <= set(HEADS[name].parameters)
    shown = sh0_to_rgb(HEADS[name].baked(grey | recolored, 0)[:, 0])
    torch.testing.assert_close(shown, 0.5 + change, rtol=0, atol=1e-4)


# ---- a head that is added -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_added_head_learns(rgb_head: None, tmp_path: Path, backend: str) -> None:
    trainer = rgb_trainer(tmp_path / "run", backend, steps=30)
    model, before = trainer.model, trainer.evaluate().psnr
    assert isinstance(model, GaussianModel)
    first = model.tensors()["rgb_logits"].clone()
    trainer.train()
    after, last = trainer.evaluate().psnr, model.tensors()["rgb_logits"]
    assert before is not None and after is not None and after > before + 0.5
    assert len(last) != len(first) and not torch.equal(last[: len(first)], first)
    assert model.facts()["Color head"] == "three logits" and model.sh_coeffs is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_resumed_run_of_an_added_head_equals_the_unbroken_one(rgb_head: None, tmp_path: Path, backend: str) -> None:
    whole = rgb_trainer(tmp_path / "whole", backend)
    whole.train()
    first = rgb_trainer(tmp_path / "broken", backend)
    first.run.add_listener(stop_after(7, [first]))
    assert first.train().step == 7
    second = Trainer.resume(tmp_path / "broken", scene=tiny_scene())
    assert second.train().step == 16
    assert all_tensors(second).keys() >= {"rgb_logits", "m.rgb_logits", "v.rgb_logits"}
    assert_same_bits(all_tensors(whole), all_tensors(second))


def test_an_added_head_is_opened_and_exported(rgb_head: None, tmp_path: Path) -> None:
    trainer = rgb_trainer(tmp_path / "run", steps=3)
    trainer.train()
    model = load_model(tmp_path / "run").model
    assert isinstance(model, GaussianModel) and isinstance(trainer.model, GaussianModel) and model.head == "rgb"
    assert_same_bits(model.tensors(), trainer.model.tensors())
    assert_same_bits(model.copy().tensors(), model.tensors())
    write_splats(tmp_path / "splat.ply", model, sh_degree=1)
    read = read_splats(tmp_path / "splat.ply")
    assert read.head == "sh" and read.sh_degree == 1
    torch.testing.assert_close(sh0_to_rgb(read.tensors()["sh_coeffs"][:, 0]), model.tensors()["rgb_logits"].sigmoid())
    camera = trainer.scene.camera(0)
    with torch.no_grad():
        images = [render(each, camera, backend=BACKENDS[-1]).rgb for each in (model, read)]
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="The color head of this model is 'rgb', which has no bits"):
        render(model, camera, outputs=("bits",))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_head_may_give_its_colors_as_features(rgb_head: None, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    gradients, images = [], []
    for head in (RgbHead(), FeaturesHead()):
        monkeypatch.setitem(HEADS, "rgb", head)
        model = start("rgb")[0]
        image = render(model, tiny_scene().camera(0), backend=backend, background=(0.2, 0.4, 0.6)).rgb
        image.square().sum().backward()
        images.append(image.detach())
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_an_added_head_in_a_moving_scene_changes_its_colors(rgb_head: None) -> None:
    model, _ = start("rgb")
    changed = model.changed({"colors": torch.full((len(model), 3), 0.1)})
    torch.testing.assert_close(changed["rgb_logits"], model.tensors()["rgb_logits"] + 0.4)


def test_a_parameter_without_a_learning_rate_is_named(
    rgb_head: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gaussians, "learning_rates", schedules.learning_rates)
    with pytest.raises(ValueError, match=r"no learning rate for rgb_logits in training\.schedules\.learning_rates"):
        rgb_trainer(tmp_path / "run")


def test_terms_of_bits_are_refused_for_a_head_without_them(rgb_head: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only the bit head has them; add --head bits"):
        rgb_trainer(tmp_path / "run", method="nfc-bitwise")
