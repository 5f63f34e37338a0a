"""What Python users call: a capture becomes a finished run, with terms of one's own, and goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import nfc
from tiny_scenes import HEIGHT, WIDTH, ImagesInMemory, assert_same_bits, tiny_config, tiny_scene

import nfc_gs
from nfc_gs.core.events import Event, StepDone, TrainFinished, TrainStarted
from nfc_gs.data.scene import ViewImage
from nfc_gs.objective.presets import ObjectiveOptions
from nfc_gs.runs.names import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    HISTORY_NAME,
    METRICS_NAME,
    REPORT_NAME,
    SPLAT_NAME,
    TEST_RENDERS,
)

CONFIG = nfc_gs.TrainConfig(steps=6, device="cpu", max_gaussians=60, eval_every=0.0, seed=3)
DATA = nfc_gs.DataConfig(test_every=4)


def brightness(comparison: nfc_gs.Comparison) -> torch.Tensor:
    """A term: the mean of the rendered image."""
    return comparison.rendered.mean()


TERMS = {"brightness": (0.5, brightness)}


def test_a_capture_becomes_a_finished_run_with_a_term_of_one_s_own(capture: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def watched(comparison: nfc_gs.Comparison) -> torch.Tensor:
        seen.append((comparison.name, comparison.step))
        return brightness(comparison)

    run = tmp_path / "run"
    trained = nfc_gs.train(capture, CONFIG, out=run, data=DATA, terms={"brightness": (0.5, watched)})
    assert isinstance(trained, nfc_gs.TrainedRun) and trained.folder == run
    assert [step for _, step in seen] == list(range(6))
    assert {name for name, _ in seen} <= {f"{k:04d}.png" for k in range(1, 9)} - {"0001.png", "0005.png"}
    names = (CHECKPOINT_NAME, CONFIG_NAME, HISTORY_NAME, METRICS_NAME, REPORT_NAME, SPLAT_NAME)
    for name in (*names, f"{TEST_RENDERS}/0001.png", f"{TEST_RENDERS}/0005_truth.png"):
        assert (run / name).is_file(), name
    assert trained.metrics is not None and [view.name for view in trained.metrics.views] == ["0001.png", "0005.png"]
    written = json.loads((run / METRICS_NAME).read_text())
    assert written["test"]["psnr"] == trained.metrics.psnr and written["steps"] == 6
    assert trained.trainer.progress == 1.0
    assert_same_bits(trained.model.tensors(), trained.trainer.model.tensors())
    assert_same_bits(nfc_gs.load_model(run).model.tensors(), trained.model.tensors())


def test_a_term_of_one_s_own_is_minimised_by_its_weight(capture: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=30)
    models, means = {}, {}
    for name, weight in (("none", None), ("zero", 0.0), ("heavy", 9.0)):
        terms = None if weight is None else {"brightness": (weight, brightness)}
        trained = nfc_gs.train(capture, config, out=tmp_path / name, data=DATA, terms=terms)
        camera = trained.trainer.scene.views[0].camera
        with torch.no_grad():
            means[name] = float(nfc_gs.render(trained.model, camera).rgb.mean())
        models[name] = trained.model.tensors()
    assert_same_bits(models["none"], models["zero"])
    assert means["heavy"] < 0.9 * means["none"]


def stop_after(steps: int) -> tuple[list[nfc_gs.Trainer], Callable[[Event], None]]:
    trainers: list[nfc_gs.Trainer] = []

    def listener(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == steps:
            trainers[0].stop()

    return trainers, listener


def test_a_run_with_terms_of_its_own_goes_on_with_the_same_ones_alone(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = nfc_gs.train(capture, CONFIG, out=tmp_path / "whole", data=DATA, terms=TERMS)
    run, scene = tmp_path / "run", nfc_gs.load_scene(capture, DATA, seed=CONFIG.seed)
    trainers, listener = stop_after(3)
    first = nfc_gs.Trainer(scene, CONFIG, run, [listener], capture=capture, data=DATA, terms=TERMS)
    trainers.append(first)
    assert first.train().reason == "interrupted" and first.steps_done == 3
    sentence = r"began with the terms \{'brightness': 0\.5\} of its own, and is resumed with .*; give the same terms"
    weighted, renamed = {"brightness": (0.25, brightness)}, {"other": (0.5, brightness)}
    for terms in (None, {}, weighted, renamed, {**TERMS, **renamed}):
        with pytest.raises(nfc_gs.UserError, match=sentence):
            nfc_gs.Trainer.resume(run, terms=terms)
    assert nfc("train", "--resume", run) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "began with the terms" in error and "Traceback" not in error
    second = nfc_gs.Trainer.resume(run, terms=TERMS)
    assert second.steps_done == 3
    assert second.train().reason == "done"
    assert_same_bits(second.model.tensors(), whole.model.tensors())


def test_a_run_without_terms_of_its_own_does_not_go_on_with_some(tmp_path: Path) -> None:
    nfc_gs.Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny")
    sentence = r"began with no terms of its own, and is resumed with the terms \{'brightness': 0\.5\}"
    with pytest.raises(nfc_gs.UserError, match=sentence):
        nfc_gs.Trainer.resume(tmp_path / "run", scene=tiny_scene(), terms=TERMS)


def test_a_term_cannot_take_the_name_of_a_built_in_one(tmp_path: Path) -> None:
    with pytest.raises(nfc_gs.UserError, match="There is already a term 'l1'"):
        nfc_gs.Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny", terms={"l1": (1.0, brightness)})
    assert not (tmp_path / "run").exists()


NOTHING_BUILT_IN = ObjectiveOptions(l1=0.0, ssim=0.0)


def test_a_term_of_one_s_own_can_be_the_only_one(tmp_path: Path) -> None:
    config = tiny_config(steps=20, objective=NOTHING_BUILT_IN)
    with pytest.raises(nfc_gs.UserError, match=r"Every weight of the objective is 0, .*; give one a positive number"):
        nfc_gs.Trainer(tiny_scene(), config, tmp_path / "run", capture="tiny")
    trainer = nfc_gs.Trainer(tiny_scene(), config, tmp_path / "run", capture="tiny", terms=TERMS)
    scene, black = trainer.scene, torch.zeros(3)

    def mean() -> float:
        with torch.no_grad():
            return float(nfc_gs.render(trainer.model, scene.views[0].camera, background=black).rgb.mean())

    before = mean()
    trainer.train()
    assert mean() < 0.9 * before


def test_gradients_that_are_not_finite_end_a_run_and_keep_its_last_good_state(tmp_path: Path) -> None:
    """The loss itself is finite: sqrt(0) has no finite slope."""
    terms = {"root": (1.0, lambda comparison: (comparison.rendered.clamp(min=0.0) * 0.0).sqrt().sum())}
    trainer = nfc_gs.Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny", terms=terms)
    with pytest.raises(nfc_gs.UserError, match=r"Parameters of the model are not finite after step .*; the last good"):
        trainer.train()
    model = nfc_gs.load_model(tmp_path / "run").model
    assert all(tensor.isfinite().all() for tensor in model.tensors().values())


@pytest.mark.parametrize(
    ("changes", "needs", "sentence"),
    [
        ({}, "bits", "compares bits, and only the bit head has them; add --head bits"),
        ({"head": "bits", "density": "adc"}, "bits", "draws 24; choose --density mcmc"),
    ],
)
def test_a_term_that_needs_what_cannot_be_rendered_is_refused_before_the_run_begins(
    changes: dict[str, str], needs: str, sentence: str, tmp_path: Path
) -> None:
    terms = {"undecided": (1.0, nfc_gs.Term(lambda comparison: comparison.bits.mean(), needs=(needs,)))}
    with pytest.raises(nfc_gs.UserError, match=sentence):
        nfc_gs.Trainer(tiny_scene(), tiny_config(**changes), tmp_path / "run", capture="tiny", terms=terms)
    assert not (tmp_path / "run").exists()


def test_a_family_and_an_output_that_there_are_not_are_refused(tmp_path: Path) -> None:
    with pytest.raises(nfc_gs.UserError, match="There is no family of models 'meshes', only gaussians"):
        nfc_gs.Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny", family="meshes")
    trainer = nfc_gs.Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny")
    with pytest.raises(nfc_gs.UserError, match="There is no output 'albedo' of a rendering; choose from rgb, depth"):
        nfc_gs.render(trainer.model, trainer.scene.views[0].camera, outputs=("albedo",))


def test_finish_leaves_a_whole_run_folder_at_any_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer = nfc_gs.Trainer(tiny_scene(), tiny_config(), run, capture="tiny")
    for steps in (0, 2):
        while trainer.steps_done < steps:
            trainer.step()
        metrics = nfc_gs.finish(trainer)
        assert isinstance(metrics, nfc_gs.Metrics) and len(metrics.views) == 2
        written = json.loads((run / METRICS_NAME).read_text())
        assert written["steps"] == steps and written["gaussians"] == 30
        assert written["test"]["psnr"] == metrics.psnr
        assert torch.allclose(nfc_gs.read_splats(run / SPLAT_NAME).opacity_logits, trainer.model.opacity_logits)
        for name in (REPORT_NAME, f"{TEST_RENDERS}/view_00.png"):
            assert (run / name).is_file(), name
            (run / name).unlink()


@pytest.mark.usefixtures("small_images_may_be_smaller_still")
@pytest.mark.parametrize("photos", ["of the scene", "of noise"])
def test_a_training_whose_views_show_nothing_says_so_once(
    photos: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = tiny_scene()
    if photos == "of noise":  # no photo says anything of another: as with poses of other photos
        rng = np.random.default_rng(0)
        noise = {
            view.name: ViewImage(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), None) for view in scene.views
        }
        scene = replace(scene, images=ImagesInMemory(noise))
    trainer = nfc_gs.Trainer(scene, tiny_config(steps=60), tmp_path / "run", capture="tiny")
    trainer.train()
    with caplog.at_level(logging.WARNING, "nfc_gs"):
        metrics = nfc_gs.finish(trainer)
    assert metrics is not None and metrics.better_than_flat is (photos == "of the scene")
    said = [line for line in caplog.messages if "no better than one flat color after 60 steps" in line]
    assert len(said) == (photos == "of noise")
    report = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert ("no better than one flat color for each photo" in report) == (photos == "of noise")


def test_finish_interrupted_while_views_are_measured_leaves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(self: nfc_gs.Trainer, save_to: Path | None = None, **options: object) -> None:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    trainer = nfc_gs.Trainer(tiny_scene(), tiny_config(), run, capture="tiny")
    monkeypatch.setattr(nfc_gs.Trainer, "evaluate", interrupted)
    assert nfc_gs.finish(trainer) is None
    assert "Interrupted while held-out views were measured" in caplog.text
    assert json.loads((run / METRICS_NAME).read_text())["test"] == {"psnr": None, "ssim": None, "views": []}
    assert (run / REPORT_NAME).is_file() and (run / SPLAT_NAME).is_file()


def test_listeners_and_companions_are_passed_on(capture: Path, tmp_path: Path) -> None:
    class Counter(nfc_gs.Companion):
        name = "counter"
        steps = 0

        def step(self, step: int, progress: float) -> None:
            self.steps += 1

    events: list[Event] = []
    counter = Counter()
    nfc_gs.train(capture, CONFIG, out=tmp_path / "run", data=DATA, listeners=[events.append], companions=[counter])
    assert counter.steps == 6
    (started,) = (event for event in events if isinstance(event, TrainStarted))
    assert started.sizes == {"gaussians": 60} and started.total_steps == 6
    steps = [event for event in events if isinstance(event, StepDone)]
    assert len(steps) == 6 and all(event.sizes == {"gaussians": 60} for event in steps)
    (finished,) = (event for event in events if isinstance(event, TrainFinished))
    assert finished.reason == "done"


def test_without_a_folder_a_run_goes_to_runs(capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained = nfc_gs.train(capture, replace(CONFIG, steps=1), data=DATA)
    assert trained.folder.parent == Path("runs") and trained.folder.name.startswith("still life-")
    assert (tmp_path / trained.folder / SPLAT_NAME).is_file()


def test_mistakes_show_before_the_capture_is_read(capture: Path, tmp_path: Path) -> None:
    with pytest.raises(nfc_gs.UserError, match="--steps is 0"):
        nfc_gs.train(tmp_path / "nowhere", replace(CONFIG, steps=0), out=tmp_path / "run")
    nfc_gs.Trainer(tiny_scene(), tiny_config(), tmp_path / "taken", capture="tiny")
    with pytest.raises(nfc_gs.UserError, match="taken holds a run already"):
        nfc_gs.train(tmp_path / "nowhere", CONFIG, out=tmp_path / "taken")
    assert not (tmp_path / "run").exists()
