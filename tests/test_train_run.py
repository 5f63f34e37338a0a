"""What a run notes beside the training: where the time goes, what changes, each view's PSNR, and a time-lapse."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_scenes import HEIGHT, WIDTH, assert_same_bits, blobs, stop_after, tiny_config, tiny_scene

from nfc_gs.core.errors import UserError
from nfc_gs.core.events import CheckpointSaved, Evaluated, StepDone, TrainStarted
from nfc_gs.data.sampler import ViewSampler
from nfc_gs.model.radiance import RenderOptions
from nfc_gs.objective.presets import ObjectiveOptions
from nfc_gs.runs import history, timelapse
from nfc_gs.runs.checkpoint import load_checkpoint, save_checkpoint
from nfc_gs.runs.history import read_history
from nfc_gs.runs.timelapse import timelapse_files, timelapse_picture, timelapse_view
from nfc_gs.training import clock as clock_module
from nfc_gs.training import run as run_module
from nfc_gs.training.clock import RUN_STAGES, STAGES, StageClock
from nfc_gs.training.config import RefineConfig
from nfc_gs.training.trainer import Trainer


class Time:
    """Time that passes when a listener says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(clock_module, "perf_counter", lambda: self.now)

    def __call__(self, event: object) -> None:
        seconds = {StepDone: 1.0, Evaluated: 10.0, CheckpointSaved: 100.0, TrainStarted: 1000.0}
        self.now += seconds.get(type(event), 0.0)


def test_the_time_of_a_run_is_counted_whole_and_once_also_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passing, clock, holder = Time(monkeypatch), StageClock(), []
    with clock.counting("capture"):
        passing.now += 7.0
    config, listeners = tiny_config(steps=12, eval_every=0.25), [passing, stop_after(5, holder)]
    trainer = Trainer(tiny_scene(), config, tmp_path / "run", listeners, capture="tiny", clock=clock)
    holder.append(trainer)
    trainer.train()
    counted = {stage: seconds for stage, seconds in trainer.timings.items() if seconds}
    assert counted == {"capture": 7.0, "events": 5.0, "evaluation": 10.0, "saving": 300.0, "other": 1000.0}
    assert sum(counted.values()) == passing.now - 100.0
    trainer.write_metrics(trainer.evaluate())
    passing.now += 50.0  # nothing happens
    resumed = Trainer.resume(tmp_path / "run", [passing], scene=tiny_scene())
    assert resumed.timings == trainer.timings and resumed.timings["evaluation"] == 20.0  # with what followed the save
    resumed.train()
    counted = {stage: seconds for stage, seconds in resumed.timings.items() if seconds}
    assert counted == {"capture": 7.0, "events": 12.0, "evaluation": 40.0, "saving": 600.0, "other": 2000.0}
    assert set(resumed.timings) == {*STAGES, *RUN_STAGES}


def test_a_stage_gets_what_is_not_counted_to_another_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    passing, clock = Time(monkeypatch), StageClock()
    with pytest.raises(KeyError), clock.counting("other"):
        passing.now += 1.0
        clock.start()
        passing.now += 2.0
        clock.lap("view")
        with clock.counting("evaluation"):
            passing.now += 4.0
            with clock.counting("saving"):
                passing.now += 8.0
        passing.now += 16.0
        raise KeyError
    counted = {stage: seconds for stage, seconds in clock.seconds.items() if seconds}
    assert counted == {"view": 2.0, "evaluation": 4.0, "saving": 8.0, "other": 17.0}


def test_the_history_says_when_something_of_the_training_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "POINTS", 5)  # a line is written when something changes, due or not
    objective = ObjectiveOptions(ce=0.3, ce_from=0.25, ce_until=0.75)
    config = tiny_config(steps=100, objective=objective, max_gaussians=30, refine=RefineConfig(start=0.1, stop=0.5))
    holder: list[Trainer] = []
    trainer = Trainer(tiny_scene(), config, tmp_path / "run", [stop_after(31, holder)], capture="tiny")
    holder.append(trainer)
    trainer.train()
    Trainer.resume(tmp_path / "run", scene=tiny_scene()).train()
    found = {line["step"]: line["phases"] for line in read_history(tmp_path / "run") if "phases" in line}
    changes = []
    for before, after in pairwise(found.values()):
        changes.append({name: value for name, value in after.items() if before[name] != value})
    assert found[1]["terms"] == ["l1", "ssim"] and found[1]["image_divisor"] == 1  # so small an image stays whole
    assert list(found)[1:] == [11, 26, 52, 76]
    assert changes[0] == {"sh_degree": 1, "density_control": True} and changes[1] == {"terms": ["l1", "ssim", "ce"]}
    assert changes[2:] == [{"density_control": False}, {"terms": ["l1", "ssim"]}]


def test_the_last_psnr_of_each_training_view_is_kept_with_the_run(tmp_path: Path) -> None:
    events: list[object] = []
    trainer = Trainer(tiny_scene(), tiny_config(steps=8), tmp_path / "run", [events.append], capture="tiny")
    trainer.train()
    order = [trainer.scene.views[ViewSampler(trainer.scene.train, 0).index(step)].name for step in range(8)]
    psnrs = [event.psnr for event in events if isinstance(event, StepDone)]
    assert trainer.run.view_psnr == dict(zip(order, psnrs, strict=True))  # the later of two counts
    assert Trainer.resume(tmp_path / "run", scene=tiny_scene()).run.view_psnr == trainer.run.view_psnr


# ---- saving ----


def saves_of(trainer: Trainer, seconds: float, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps after which a training is saved, each of which takes so long."""
    saved: list[int] = []
    now = [0.0]

    def listener(event: object) -> None:
        if isinstance(event, StepDone):
            now[0] += seconds
        elif isinstance(event, CheckpointSaved):
            saved.append(event.step)

    monkeypatch.setattr(run_module, "perf_counter", lambda: now[0])
    trainer.run.add_listener(listener)
    trainer.train()
    return saved


def test_a_training_is_saved_early_and_then_each_half_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(steps=60, eval_every=0.0)
    trainer = Trainer(tiny_scene(), config, tmp_path / "run", capture="tiny")
    assert saves_of(trainer, 1.0, monkeypatch) == [5, 35, 60]


def test_an_early_save_takes_no_more_than_its_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(steps=60, eval_every=0.0, checkpoint_every=10.0)
    trainer = Trainer(tiny_scene(), config, tmp_path / "run", capture="tiny")
    trainer.run._save_seconds = 1.0  # as a large model takes
    assert saves_of(trainer, 1.0, monkeypatch) == [20, 30, 40, 50, 60]


def test_a_save_that_fails_between_steps_is_worth_a_warning_and_the_last_one_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = {3, 4}
    save = run_module.save_checkpoint

    def full(path: Path, checkpoint: object) -> None:
        if checkpoint.step in failing:  # type: ignore[attr-defined]
            raise UserError("Cannot write it: the disk is full.")
        save(path, checkpoint)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module, "save_checkpoint", full)
    monkeypatch.setattr(run_module, "SAVE_SHARE", 0)
    config = tiny_config(steps=6, eval_every=0.0, checkpoint_every=0.0)
    assert Trainer(tiny_scene(), config, tmp_path / "a", capture="tiny").train().reason == "done"
    assert caplog.text.count("The run is not saved for now, and training goes on.") == 1
    assert load_checkpoint(tmp_path / "a").step == 6
    failing.add(6)
    with pytest.raises(UserError, match="the disk is full"):
        Trainer(tiny_scene(), config, tmp_path / "b", capture="tiny").train()
    assert load_checkpoint(tmp_path / "b").step == 5


# ---- a run that was killed ----


def killed_runs(folder: Path, first: int, step: int) -> list[str]:
    """What `killed_runs.py` prints."""
    here = Path(__file__).resolve().parent
    command = [sys.executable, str(here / "killed_runs.py"), str(folder), str(first), str(step)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=here, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(os.name != "posix", reason="needs fork")
def test_a_run_that_is_killed_at_a_write_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    (kills,) = killed_runs(tmp_path, 5, 23)
    assert int(kills.split()[0]) >= 2


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs fork")
def test_a_run_that_is_killed_at_any_write_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    (kills,) = killed_runs(tmp_path, 0, 1)
    assert int(kills.split()[0]) > 40


def test_a_run_killed_before_its_first_settings_were_written_gets_them(tmp_path: Path) -> None:
    Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny")
    settings = (tmp_path / "run" / "config.yaml").read_bytes()
    (tmp_path / "run" / "config.yaml").unlink()
    Trainer.resume(tmp_path / "run", scene=tiny_scene())
    assert (tmp_path / "run" / "config.yaml").read_bytes() == settings


def test_temporary_files_of_a_killed_run_are_removed_in_all_of_its_folders(tmp_path: Path) -> None:
    run = tmp_path / "run"
    Trainer(tiny_scene(), tiny_config(steps=2), run, capture="tiny").train()
    left = [run / ".tmpAb12Xy", *(run / place / ".a.0123abcd.partial.png" for place in (".", "renders/test", "frames"))]
    kept = [run / "capture" / ".a.0123abcd.partial.png", run / ".tmp"]
    for path in (*left, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    Trainer.resume(run, scene=tiny_scene())
    assert not any(path.exists() for path in left) and all(path.exists() for path in kept)


@pytest.mark.parametrize("is_in_history", [False, True])
def test_an_evaluation_that_a_killed_run_saved_for_is_done_once(is_in_history: bool, tmp_path: Path) -> None:
    run, config = tmp_path / "run", tiny_config(steps=8, eval_every=0.5)
    holder: list[Trainer] = []
    trainer = Trainer(tiny_scene(), config, run, [stop_after(4, holder)], capture="tiny")
    holder.append(trainer)
    trainer.train()
    checkpoint = load_checkpoint(run)
    values = {**checkpoint.parts["run"].values, "evaluation_due": 1}
    parts = {**checkpoint.parts, "run": replace(checkpoint.parts["run"], values=values)}
    lines = (run / "history.jsonl").read_text().splitlines(keepends=True)
    if not is_in_history:
        (run / "history.jsonl").write_text("".join(line for line in lines if "test_psnr" not in line))
    trainer.run.release()
    save_checkpoint(run / "checkpoint.safetensors", replace(checkpoint, parts=parts))
    Trainer.resume(run, scene=tiny_scene()).train()
    assert [line["step"] for line in read_history(run) if "test_psnr" in line] == [4]


# ---- the time-lapse ----


def pictures_of(run: Path) -> dict[int, bytes]:
    """The pictures of a run by step."""
    return {step: path.read_bytes() for step, path in timelapse_files(run / "renders" / "timelapse")}


def trained(run: Path, steps: int = 60, **changes: object) -> Trainer:
    trainer = Trainer(tiny_scene(), tiny_config(steps=steps, **changes), run, capture="tiny")
    trainer.train()
    return trainer


def test_the_time_lapse_begins_with_the_first_model_is_dense_at_first_and_ends_with_the_last(tmp_path: Path) -> None:
    trainer = trained(tmp_path / "run", steps=120, density="none")
    pictures = pictures_of(tmp_path / "run")
    steps = list(pictures)
    assert steps[:4] == [0, 1, 2, 4] and steps[-1] == 120 and 16 <= len(steps) <= timelapse.PICTURES + 1
    gaps = [later - earlier for earlier, later in pairwise(steps)]
    assert gaps == sorted(gaps) and gaps[-1] > 12
    last = timelapse_picture(trainer.model, trainer.scene, trainer.render_options).numpy().astype(int)
    with Image.open(tmp_path / "run" / "renders" / "timelapse" / "0000120.jpg") as picture:
        assert np.abs(np.asarray(picture).astype(int) - last).mean() < 4  # JPEG
    assert last.shape == (HEIGHT, WIDTH, 3) and pictures[0] != pictures[120]


def test_a_large_view_is_shown_small_and_one_without_held_out_views_is_a_training_view(monkeypatch) -> None:
    scene = tiny_scene()
    monkeypatch.setattr(timelapse, "SIDE", 16)
    model = blobs(5)
    assert timelapse_picture(model, scene, RenderOptions(backend="torch")).shape == (12, 16, 3)
    assert timelapse_view(scene) == scene.test[1] and timelapse_view(scene.with_split((3, 5), ())) == 3


def test_a_picture_that_cannot_be_removed_ends_the_time_lapse_and_not_the_resuming(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = Trainer(tiny_scene(), tiny_config(steps=9), tmp_path / "run", capture="tiny")
    trainer.step()
    trainer.save()
    (tmp_path / "run" / "renders" / "timelapse" / "0000007.jpg").mkdir(parents=True)
    assert Trainer.resume(tmp_path / "run", scene=tiny_scene()).train().step == 9
    assert "The time-lapse of the training does not go on" in caplog.text


def test_a_resumed_run_leaves_the_same_time_lapse(tmp_path: Path) -> None:
    trained(tmp_path / "whole")
    holder: list[Trainer] = []
    listeners = [stop_after(23, holder)]
    broken = Trainer(tiny_scene(), tiny_config(steps=60), tmp_path / "broken", listeners, capture="tiny")
    holder.append(broken)
    broken.train()
    folder = tmp_path / "broken" / "renders" / "timelapse"
    (folder / "0000031.jpg").write_bytes(b"of a run that was killed at step 40, say")
    resumed = Trainer.resume(tmp_path / "broken", scene=tiny_scene())
    assert max(pictures_of(tmp_path / "broken")) <= 23
    resumed.train()
    assert pictures_of(tmp_path / "broken") == pictures_of(tmp_path / "whole")


def test_pictures_change_nothing_of_the_training_and_their_failure_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trained(tmp_path / "whole")
    run = tmp_path / "run"
    (run / "renders").mkdir(parents=True)
    (run / "renders" / "timelapse").write_text("no folder")
    with caplog.at_level(logging.WARNING, "nfc_gs"):
        without = trained(run)
    assert without.steps_done == 60 and caplog.text.count("time-lapse") == 1
    assert_same_bits(without.model.tensors(), whole.model.tensors())


def test_pictures_are_no_training_time_and_need_no_photo_of_their_view(tmp_path: Path) -> None:
    scene = tiny_scene()
    del scene.images.images[scene.views[timelapse_view(scene)].name]
    trainer = Trainer(scene, tiny_config(steps=20, eval_every=0.0), tmp_path / "run", capture="tiny")
    trainer.train()
    assert len(pictures_of(tmp_path / "run")) > 10
    assert trainer.timings["timelapse"] > 0.0
    assert trainer.seconds == pytest.approx(sum(trainer.timings[stage] for stage in STAGES), rel=1e-6)


def test_a_moving_scene_is_shown_at_the_time_of_the_view() -> None:
    seen = []

    class Model:
        family = "gaussians"

    def render(model, camera, time, options, **further):
        seen.append((time, further["view"]))
        raise RuntimeError("seen enough")

    scene = tiny_scene()
    index = timelapse_view(scene)
    views = tuple(replace(view, time=0.25 if i == index else 0.5) for i, view in enumerate(scene.views))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timelapse, "render", render)
        with pytest.raises(RuntimeError, match="seen enough"):
            timelapse_picture(Model(), replace(scene, views=views), RenderOptions(backend="torch"))
    assert seen == [(0.25, index)]
