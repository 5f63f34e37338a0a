"""Training with classification: it learns, it resumes exactly, and it gives the same bits for any number of threads."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from losses import photometric
from tiny_scenes import all_tensors, assert_same_bits, available_backends, stop_after, tiny_config, tiny_scene

from nfc_gs.core.errors import UserError
from nfc_gs.objective.objective import LossResult, Objective, ObjectiveConfig
from nfc_gs.objective.presets import ObjectiveOptions
from nfc_gs.objective.terms import Comparison
from nfc_gs.ops import native
from nfc_gs.rendering.pipeline import render
from nfc_gs.runs.checkpoint import load_checkpoint
from nfc_gs.runs.opening import load_model
from nfc_gs.training.config import AdcConfig, LearningRates
from nfc_gs.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("small_images_may_be_smaller_still")

FAST = available_backends()[-1]
RATES = LearningRates(sh0=0.05, bits=0.06, bit_shifts=0.01, means=1e-2, means_final=1e-4, scales=2e-2)
"""For runs as short as these."""


def objective_of(trainer: Trainer) -> dict[str, float]:
    """The objective of the whole run and its parts, over all training views."""
    sums: dict[str, float] = {}
    for index in trainer.scene.train:
        with torch.no_grad():
            outputs = ("rgb", "bits") if trainer.model.head == "bits" else ("rgb",)
            out = render(trainer.model, trainer.scene.camera(index), backend=FAST, outputs=outputs)
        target = torch.from_numpy(trainer.scene.image(index).rgb)
        loss = photometric(out.rgb, target, None, trainer.config.objective, out.bits)
        for name, value in {**loss.values, "total": loss.total}.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


@pytest.mark.parametrize(
    ("method", "bit_view", "term"),
    [
        ("nfc", "shared", "ce"),
        ("nfc-te", "shared", "ce"),
        ("nfc-te", "full", "ce"),
        ("nfc-bitwise", "shared", "bit_ce"),
    ],
)
def test_training_lowers_what_it_minimises(tmp_path: Path, method: str, bit_view: str, term: str) -> None:
    config = tiny_config(method=method, bit_view=bit_view, backend=FAST, rates=RATES, eval_every=0.0)
    trainer = Trainer(tiny_scene(), config, tmp_path / "run", capture="tiny")
    before, psnr = objective_of(trainer), trainer.evaluate().psnr
    trainer.train()
    after = objective_of(trainer)
    for name in ("total", term, "l1"):
        assert after[name] < 0.9 * before[name], name
    better = trainer.evaluate().psnr
    assert psnr is not None and better is not None and better > psnr + 1.0
    if trainer.model.bit_shifts is not None:
        assert (trainer.model.bit_shifts != 0).any(), "view dependence is learnt"


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "nfc-te"},
        {"method": "nfc-te", "sh_degree": 0},  # shifts of no size
        {"method": "nfc-te", "sh_degree": 0, "density": "adc"},
        {"method": "nfc-bitwise", "bit_view": "full", "objective": ObjectiveOptions(ce_from=0.4)},
        {"method": "nfc", "objective": ObjectiveOptions(ce_until=0.6)},
    ],
    ids=lambda changes: " ".join(str(value) for value in changes.values() if not isinstance(value, ObjectiveOptions)),
)
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(tmp_path: Path, backend: str, changes: dict) -> None:
    adc = AdcConfig(grow_grad2d=1e-6, reset_every=0.2, reset_at_least=4, stop=0.9)
    config = tiny_config(steps=16, backend=backend, adc=adc, background="random", **changes)
    whole = Trainer(tiny_scene(), config, tmp_path / "whole", capture="tiny")
    whole.train()

    holder: list[Trainer] = []
    first = Trainer(tiny_scene(), config, tmp_path / "broken", [stop_after(7, holder)], capture="tiny")
    holder.append(first)
    assert first.train().reason == "interrupted"
    second = Trainer.resume(tmp_path / "broken", scene=tiny_scene())
    assert second.steps_done == 7 and second.config == whole.config
    second.train()
    assert_same_bits(all_tensors(whole), all_tensors(second))
    assert len(whole.model) != 30, "density control has acted"
    if whole.model.head == "bits":
        columns = 24 if config.bit_view == "full" else 3
        assert whole.model.bit_shifts is not None
        assert whole.model.bit_shifts.shape == (len(whole.model), (config.sh_degree or 0) * 3, columns)
        assert all_tensors(second).keys() >= {"bit_logits", "bit_shifts", "m.bit_shifts", "v.bit_logits"}


@pytest.mark.parametrize("method", ["nfc-te", "nfc-bitwise"])
@pytest.mark.skipif(not native.available(), reason="the compiled core is not built")
def test_the_number_of_threads_changes_nothing(tmp_path: Path, method: str) -> None:
    results, before = [], native.threads()
    try:
        for threads in (1, 3):
            native.set_threads(threads)
            config = tiny_config(method=method, backend="cpu", steps=20)
            trainer = Trainer(tiny_scene(), config, tmp_path / f"run{threads}", capture="tiny")
            trainer.train()
            results.append(all_tensors(trainer))
    finally:
        native.set_threads(before)
    assert_same_bits(*results)


def test_cross_entropy_acts_from_its_step_on_and_not_before(tmp_path: Path) -> None:
    regression = Trainer(tiny_scene(), tiny_config(steps=8, backend=FAST), tmp_path / "nfr", capture="tiny")
    config = tiny_config(steps=8, backend=FAST, method="nfc", objective=ObjectiveOptions(ce_from=0.5))
    late = Trainer(tiny_scene(), config, tmp_path / "nfc", capture="tiny")
    for step in range(8):
        assert torch.equal(regression.model.means, late.model.means) == (step <= 4), f"before step {step}"
        regression.step()
        late.step()


def test_cross_entropy_acts_until_its_step_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    compare = Objective.__call__

    def watched(self: Objective, comparison: Comparison, config: ObjectiveConfig) -> LossResult:
        loss = compare(self, comparison, config)
        measured.append("bit_ce" in loss.values)
        return loss

    monkeypatch.setattr(Objective, "__call__", watched)
    config = tiny_config(steps=8, backend=FAST, method="nfc-bitwise", objective=ObjectiveOptions(ce_until=0.5))
    Trainer(tiny_scene(), config, tmp_path / "run", capture="tiny").train()
    assert measured == [True] * 4 + [False] * 4


def test_a_run_says_its_method_and_its_checkpoint_loads_as_it_was(tmp_path: Path) -> None:
    config = tiny_config(steps=3, backend=FAST, method="nfc-te", bit_view="full", bit_hardness=0.5)
    trainer = Trainer(tiny_scene(), config, tmp_path / "run", capture="tiny")
    trainer.train()
    assert json.loads(trainer.write_metrics(trainer.evaluate()).read_text())["method"] == "nfc-te"
    loaded = load_model(tmp_path / "run")
    assert loaded.model.head == "bits" and loaded.checkpoint.config["head"] == "bits"
    assert_same_bits(loaded.model.tensors(), trainer.model.tensors())


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("method", ["nfc-te", "nfc-bitwise"])
def test_bits_that_are_no_numbers_stop_the_run_even_if_only_cross_entropy_is_minimised(
    tmp_path: Path, method: str, backend: str
) -> None:
    objective = ObjectiveOptions(l1=0.0, ssim=0.0)
    config = tiny_config(method=method, backend=backend, objective=objective)
    trainer = Trainer(tiny_scene(), config, tmp_path / "run", capture="tiny")
    trainer.step()
    trainer.model.bit_logits.data.fill_(math.nan)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="The loss became nan at step 2"):
        trainer.train()
    assert load_checkpoint(tmp_path / "run").step == 0


@pytest.mark.parametrize(("hardness", "equal"), [(0.0, True), (0.7, False)])
def test_bits_that_start_equal_stay_equal_under_a_loss_on_colors(tmp_path: Path, hardness: float, equal: bool) -> None:
    """The gradients of a channel's eight logits differ by their place values, and Adam divides these out."""
    config = tiny_config(method="nfc-te", bit_hardness=hardness, backend=FAST, rates=RATES, eval_every=0.0)
    trainer = Trainer(tiny_scene(), config, tmp_path / "run", capture="tiny")
    start = trainer.model.tensors()["bit_logits"].clone()
    trainer.train()
    logits = trainer.model.tensors()["bit_logits"].unflatten(-1, (3, 8))  # [N, 3, 8]
    assert len(logits) != len(start) or not torch.equal(logits.flatten(1), start), "they are learnt"
    spread = logits.amax(-1) - logits.amin(-1)
    assert bool((spread < 1e-3).all()) == equal
