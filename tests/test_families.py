"""A second family of models goes through everything that Gaussians go through: the seams are real."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_scenes import assert_same_bits, tiny_config, tiny_scene
from toy_family import ToyField, ToyTraining, register

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.core.events import StepDone
from nfc_gs.objective.presets import ObjectiveOptions
from nfc_gs.results import finish
from nfc_gs.runs.checkpoint import load_checkpoint, save_compact
from nfc_gs.runs.families import FAMILIES, render
from nfc_gs.runs.history import read_history
from nfc_gs.runs.opening import load_model
from nfc_gs.training.config import TrainConfig
from nfc_gs.training.registry import TRAINABLE_FAMILIES
from nfc_gs.training.trainer import Trainer


@pytest.fixture(autouse=True)
def toy_family() -> Iterator[None]:
    register()
    yield
    del FAMILIES["toy"], TRAINABLE_FAMILIES["toy"]


def toy_config(**changes: object) -> TrainConfig:
    return replace(tiny_config(objective=ObjectiveOptions(l1=0.0, mse=1.0, ssim=0.0)), **changes)  # type: ignore[arg-type]


def toy_trainer(folder: Path, **changes: object) -> Trainer:
    return Trainer(tiny_scene(), toy_config(**changes), folder, capture="tiny", family="toy")


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    assert isinstance(trainer.training, ToyTraining) and isinstance(trainer.model, ToyField)
    return {"grid": trainer.model.grid.detach(), **trainer.training.optimizer.state()}


def test_it_trains_on_batches_of_rays(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path / "run", steps=120)
    before = trainer.evaluate().psnr
    assert trainer.train().reason == "done"
    after = trainer.evaluate().psnr
    assert before is not None and after is not None and after > before + 3.0
    lines = read_history(tmp_path / "run")
    assert {line["cells"] for line in lines if "cells" in line} == {125} and "gaussians" not in lines[0]


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(tmp_path: Path, backend: str) -> None:
    whole = toy_trainer(tmp_path / "whole", steps=20, backend=backend)
    whole.train()
    first = toy_trainer(tmp_path / "broken", steps=20, backend=backend)
    first.run.add_listener(lambda event: first.stop() if isinstance(event, StepDone) and event.step == 9 else None)
    assert first.train().step == 9
    second = Trainer.resume(tmp_path / "broken", scene=tiny_scene())
    assert second.train().step == 20
    assert_same_bits(state(whole), state(second))
    assert second.training.steps_seen == whole.training.steps_seen == 20  # type: ignore[attr-defined]


def test_it_is_measured_and_reported(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path / "run", steps=4)
    trainer.train()
    metrics = finish(trainer)
    assert metrics is not None and len(metrics.views) == 2
    content = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert content["cells"] == 125 and content["steps"] == 4 and len(content["test"]["views"]) == 2
    assert not (tmp_path / "run" / "splat.ply").exists()
    assert "view_00.png" in (tmp_path / "run" / "report.html").read_text()
    assert (tmp_path / "run" / "renders" / "test" / "view_00.png").exists()


def test_it_is_opened_and_saved_in_a_small_file(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "run", steps=2).train()
    checkpoint = load_checkpoint(tmp_path / "run")
    save_compact(tmp_path / "small.safetensors", checkpoint)
    camera = Camera(checkpoint.scene.views[0].camera.viewmat, 20.0, 20.0, 8.0, 6.0, 16, 12)
    images = []
    for path in (tmp_path / "run", tmp_path / "small.safetensors"):
        model = load_model(path).model
        with torch.no_grad():
            images.append(render(model, camera, options=checkpoint.render_options(), outputs=("rgb", "depth")))
    assert torch.equal(images[0].rgb, images[1].rgb) and images[0].depth is not None
    with pytest.raises(UserError, match="is a compact file, which holds no training"):
        Trainer.resume(tmp_path / "small.safetensors", scene=tiny_scene())


def test_a_broken_part_is_refused_with_a_sentence(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "run", steps=1)
    checkpoint = load_checkpoint(tmp_path / "run")
    parts = dict(checkpoint.parts)
    parts["grid"] = replace(parts["grid"], tensors={"values": torch.zeros(2, 2)})
    save_compact(tmp_path / "broken.safetensors", replace(checkpoint, parts=parts))
    with pytest.raises(UserError, match=r"do not fit together: the grid has shape \(2, 2\)"):
        load_checkpoint(tmp_path / "broken.safetensors")


def test_a_checkpoint_of_an_unknown_family_says_which(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "run", steps=1)
    del FAMILIES["toy"]
    with pytest.raises(UserError, match="family 'toy', which this nfc-gs does not have"):
        load_checkpoint(tmp_path / "run")
    register()


def test_steps_of_several_samples_minimise_their_mean(tmp_path: Path) -> None:
    """Two samples in a step have the mean of the gradients that each has alone."""
    trainers = [toy_trainer(tmp_path / str(i)) for i in range(3)]
    batches = [trainers[0].training.samples(step, 0.0, None)[0] for step in (0, 1)]
    gradients: list[torch.Tensor] = []
    for trainer, samples in zip(trainers, ([batches[0]], [batches[1]], batches), strict=True):
        trainer.training.samples = lambda *_, samples=samples: samples  # type: ignore[method-assign]
        trainer.training.update = lambda found, *_: gradients.append(found["grid"].clone())  # type: ignore[method-assign]
        trainer.step()
    torch.testing.assert_close(gradients[2], (gradients[0] + gradients[1]) / 2, rtol=1e-5, atol=1e-9)
    assert float(gradients[2].abs().sum()) > 0.0


def test_several_equal_samples_give_the_statistics_of_one(tmp_path: Path) -> None:
    """Density control of Gaussians compares the gradient of one sample's loss with a threshold."""
    gradients = []
    for count in (1, 2):
        config = tiny_config(density="adc")
        trainer = Trainer(tiny_scene(), config, tmp_path / str(count), capture="tiny")
        (sample,) = trainer.training.samples(0, 0.0, None)
        trainer.training.samples = lambda *_, batch=[sample] * count: batch  # type: ignore[method-assign]
        trainer.step()
        statistics = trainer.training.parts()["density"].tensors
        gradients.append(statistics["grad2d"] / statistics["count"].clamp_min(1.0))
    assert gradients[0].max() > 0.0
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_toy_cannot_be_rendered_with_bits(tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path / "run")
    with pytest.raises(UserError, match="Models of the family 'toy' cannot be rendered with the output 'bits'"):
        render(trainer.model, trainer.scene.views[0].camera, outputs=("rgb", "bits"))
