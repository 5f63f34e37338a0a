"""What trains beside a model: the protocol, on the example of an exposure for each view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tiny_scenes import ImagesInMemory, assert_same_bits, tiny_config, tiny_scene
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.core.events import StepDone
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.loading import load_scene
from nfc_gs.data.sampler import Window
from nfc_gs.data.scene import SceneData, ViewImage
from nfc_gs.model.correction_kinds import CORRECTIONS
from nfc_gs.model.corrections import ViewCorrection
from nfc_gs.model.radiance import Part, RenderOutput
from nfc_gs.objective.objective import ObjectiveConfig
from nfc_gs.runs.checkpoint import load_checkpoint, save_compact
from nfc_gs.runs.families import render
from nfc_gs.runs.opening import open_run
from nfc_gs.training.companion import Companion
from nfc_gs.training.config import DensityName
from nfc_gs.training.optimizers import DenseAdam
from nfc_gs.training.samples import Sample
from nfc_gs.training.trainer import Trainer


class Nameless(Companion):
    """A companion whose author forgot its name."""


@pytest.mark.parametrize(
    ("companions", "sentence"),
    [
        (Nameless(), r"companions is a Nameless, but must be a list"),
        ([Nameless], r"The companion Nameless is a class; give an object of it: Nameless\(\.\.\.\)\."),
        ([Nameless()], "cannot have the name ''"),
        ([print], r"A builtin_function_or_method is no companion"),
    ],
)
def test_what_is_no_companion_is_refused_in_a_sentence(companions: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny", companions=companions)


class Exposure(ViewCorrection):
    """A factor for the colors of each view; those of no view, or of one held out, stay as they are."""

    def __init__(self, logarithms: Tensor) -> None:
        self.logarithms = logarithms  # [views]

    def output(self, output: RenderOutput, view: int | None) -> RenderOutput:
        return output if view is None else replace(output, rgb=output.rgb * self.logarithms[view].exp())

    def part(self) -> Part:
        return Part({"logarithms": self.logarithms.detach()})


class ExposureCompanion(Companion):
    """Learns the exposures, whose squares are kept small."""

    name: ClassVar[str] = "exposure"

    def __init__(self, views: int) -> None:
        self.logarithms = torch.zeros(views, requires_grad=True)
        self.correction = Exposure(self.logarithms)
        self.optimizer = DenseAdam({"logarithms": self.logarithms.detach()})

    def loss(self, step: int, progress: float) -> Tensor | None:
        return 1e-3 * self.logarithms.square().mean()

    def parameters(self) -> Mapping[str, Tensor]:
        return {"logarithms": self.logarithms}

    def step(self, step: int, progress: float) -> None:
        assert self.logarithms.grad is not None
        self.optimizer.step({"logarithms": self.logarithms.grad}, {"logarithms": 0.02})

    def parts(self) -> dict[str, Part]:
        moments = Part(self.optimizer.state(), {"steps": self.optimizer.steps})
        return {**super().parts(), f"{self.name}_optimizer": moments}

    def load(self, parts: Mapping[str, Part]) -> None:
        super().load(parts)
        moments = parts[f"{self.name}_optimizer"]
        self.optimizer.load_state(moments.tensors, int(moments.values["steps"]))


@pytest.fixture(autouse=True)
def known_correction() -> Iterator[None]:
    CORRECTIONS["exposure"] = lambda part: Exposure(part.tensors["logarithms"])
    yield
    del CORRECTIONS["exposure"]


class GradientReader(Companion):
    """Notes how large the gradients of the centres are."""

    name: ClassVar[str] = "reader"

    def __init__(self) -> None:
        self.largest: list[float] = []

    def gradients(self, gradients: dict[str, Tensor]) -> None:
        self.largest.append(float(gradients["means"].abs().max()))


@pytest.mark.parametrize("density", ["none", "adc", "mcmc"])
def test_a_companion_that_reads_gradients_gets_them_and_the_training_stays_the_same(
    density: DensityName, tmp_path: Path
) -> None:
    reader, trained = GradientReader(), {}
    for name, companions in (("alone", []), ("read", [reader])):
        config = tiny_config(density=density, steps=6)
        trainer = Trainer(tiny_scene(), config, tmp_path / name, capture="tiny", companions=companions)
        for _ in range(6):
            trainer.step()
        trained[name] = trainer.model.tensors()
    assert len(reader.largest) == 6 and min(reader.largest) > 0.0
    for name, tensor in trained["alone"].items():
        if density == "mcmc":  # its regularisers are rounded otherwise
            torch.testing.assert_close(trained["read"][name], tensor, rtol=1e-3, atol=1e-4)
        else:
            assert torch.equal(trained["read"][name], tensor), name


def uneven_scene() -> SceneData:
    """A scene whose every second view is darker by half."""
    scene = tiny_scene()
    images = {}
    for index, view in enumerate(scene.views):
        rgb = scene.image(index).rgb * (0.5 if index % 2 else 1.0)
        images[view.name] = ViewImage(rgb.round().astype(np.uint8), None)
    return replace(scene, images=ImagesInMemory(images))


def trainer_of(folder: Path, steps: int, backend: str = "cpu") -> Trainer:
    config = tiny_config(steps=steps, backend=backend)
    return Trainer(uneven_scene(), config, folder, capture="tiny", companions=[ExposureCompanion(8)])


def state(trainer: Trainer) -> dict[str, Tensor]:
    companion = trainer.companions[-1]
    assert isinstance(companion, ExposureCompanion)
    moments = {f"exposure.{name}": tensor for name, tensor in companion.optimizer.state().items()}
    return {**trainer.model.parts()["model"].tensors, "logarithms": companion.logarithms.detach(), **moments}


def test_it_learns_what_the_views_differ_in(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path / "run", 300)
    trainer.train()
    learnt = state(trainer)["logarithms"]
    bright, dark = ([learnt[i].item() for i in trainer.scene.train if i % 2 == parity] for parity in (0, 1))
    assert min(bright) - max(dark) > 0.4  # log 2 is 0.69
    assert learnt[list(trainer.scene.test)].abs().max() == 0.0


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(tmp_path: Path, backend: str) -> None:
    whole = trainer_of(tmp_path / "whole", 16, backend)
    whole.train()
    first = trainer_of(tmp_path / "broken", 16, backend)
    first.run.add_listener(lambda event: first.stop() if isinstance(event, StepDone) and event.step == 7 else None)
    first.train()
    second = Trainer.resume(tmp_path / "broken", scene=uneven_scene(), companions=[ExposureCompanion(8)])
    second.train()
    assert_same_bits(state(whole), state(second))


def test_a_run_is_not_resumed_where_its_checkpoint_has_nothing_of_a_companion(tmp_path: Path) -> None:
    Trainer(uneven_scene(), tiny_config(), tmp_path / "run", capture="tiny")
    with pytest.raises(UserError, match=r"began with no companions of its own, .* the companions \['exposure'\]"):
        Trainer.resume(tmp_path / "run", scene=uneven_scene(), companions=[ExposureCompanion(8)])


def test_a_run_is_not_resumed_without_its_companion(tmp_path: Path) -> None:
    trainer_of(tmp_path / "run", 3)
    with pytest.raises(UserError, match=r"resumed with no companions; give the same companions"):
        Trainer.resume(tmp_path / "run", scene=uneven_scene())


@pytest.mark.parametrize("name", ["", "optimizer", "model", "run", "scene", "poses/left"])
def test_a_companion_whose_name_is_taken_is_refused(tmp_path: Path, name: str) -> None:
    companion = type("Named", (Companion,), {"name": name})()
    with pytest.raises(UserError, match=f"cannot have the name '{name}'"):
        Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny", companions=[companion])
    assert not (tmp_path / "run").exists()


def test_a_correction_that_is_not_known_any_more_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer_of(tmp_path / "run", 3)
    del CORRECTIONS["exposure"]
    assert load_checkpoint(tmp_path / "run").render_options().corrections == ()
    assert "trained with the correction 'exposure', which is not known here" in caplog.text
    CORRECTIONS["exposure"] = lambda part: Exposure(part.tensors["logarithms"])


def test_an_opened_run_wants_the_views_that_its_corrections_are_of(tmp_path: Path) -> None:
    write_capture(tmp_path / "capture", 9, 24, 18)
    scene = load_scene(tmp_path / "capture")
    companions = [ExposureCompanion(9)]
    Trainer(scene, tiny_config(), tmp_path / "run", capture=tmp_path / "capture", companions=companions)
    assert len(open_run(tmp_path / "run", capture=None, device="cpu", backend="cpu").options.corrections) == 1
    write_capture(tmp_path / "other", 10, 24, 18)
    with pytest.raises(UserError, match="has other views than when the run began, which learnt corrections"):
        open_run(tmp_path / "run", capture=tmp_path / "other", device="cpu", backend="cpu")


def test_an_opened_run_renders_views_as_they_were_learnt(tmp_path: Path) -> None:
    """What is measured while training, and what the run folder or its small file renders later, are the same."""
    trainer = trainer_of(tmp_path / "run", 40)
    trainer.train()
    view = trainer.scene.train[1]
    camera = trainer.scene.camera(view)
    with torch.no_grad():
        trained = render(trainer.model, camera, options=trainer.render_options, view=view).rgb
        plain = render(trainer.model, camera, options=trainer.render_options).rgb
    assert not torch.equal(trained, plain)
    save_compact(tmp_path / "small.safetensors", load_checkpoint(tmp_path / "run"))
    for path, tolerance in (
        (tmp_path / "run", 0.0),
        (tmp_path / "small.safetensors", 2e-3),
    ):  # colors of half precision
        checkpoint = load_checkpoint(path)
        with torch.no_grad():
            options = checkpoint.render_options("cpu")
            again = render(checkpoint.make_model(), camera, options=options, view=view).rgb
        torch.testing.assert_close(again, trained, rtol=0.0, atol=tolerance)


class Recorder(Companion):
    """Notes which of its methods a step calls."""

    name: ClassVar[str] = "recorder"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.frozen = torch.zeros(1, requires_grad=True)
        self.correction = self._Correction(self.calls)

    class _Correction(ViewCorrection):
        def __init__(self, calls: list[str]) -> None:
            self.calls = calls

        def camera(self, camera: Camera, view: int | None) -> Camera:
            self.calls.append("camera")
            return camera

        def output(self, output: RenderOutput, view: int | None) -> RenderOutput:
            self.calls.append("output")
            return output

    def prepare(self, step: int, progress: float) -> None:
        self.calls.append("prepare")

    def time_window(self, progress: float) -> Window | None:
        self.calls.append("time_window")
        return None

    def sample(self, sample: Sample, step: int, progress: float) -> Sample:
        self.calls.append("sample")
        return super().sample(sample, step, progress)

    def objective(self, config: ObjectiveConfig, progress: float) -> ObjectiveConfig:
        self.calls.append("objective")
        return config

    def loss(self, step: int, progress: float) -> Tensor | None:
        self.calls.append("loss")
        return None

    def gradients(self, gradients: dict[str, Tensor]) -> None:
        self.calls.append("gradients")
        for gradient in gradients.values():
            gradient.zero_()

    def step(self, step: int, progress: float) -> None:
        self.calls.append("step")


def test_a_step_calls_the_methods_in_order_and_uses_the_gradients_it_is_left(tmp_path: Path) -> None:
    recorder = Recorder()
    config = tiny_config(density="none")
    trainer = Trainer(tiny_scene(), config, tmp_path / "run", capture="tiny", companions=[recorder])
    before = {name: tensor.clone() for name, tensor in trainer.model.parts()["model"].tensors.items()}
    trainer.step()
    assert recorder.calls == [
        "prepare",
        "time_window",
        "sample",
        "camera",
        "objective",
        "output",
        "loss",
        "gradients",
        "step",
    ]
    assert_same_bits(before, dict(trainer.model.parts()["model"].tensors))


def test_held_out_views_are_measured_with_what_companions_correct(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny", companions=[recorder])
    trainer.evaluate()
    assert recorder.calls == ["camera", "output"] * len(trainer.scene.test)
