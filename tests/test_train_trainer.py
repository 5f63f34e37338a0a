from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_scenes import (
    HEIGHT,
    WIDTH,
    all_tensors,
    assert_same_bits,
    available_backends,
    stop_after,
    tiny_config,
    tiny_scene,
)

from nfc_gs.core.camera import look_at_viewmat
from nfc_gs.core.errors import UserError
from nfc_gs.core.events import CheckpointSaved, Evaluated, StepDone, TrainFinished, TrainStarted
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import ViewImage
from nfc_gs.objective.terms import Comparison
from nfc_gs.runs import checkpoint as checkpoints
from nfc_gs.runs.history import read_history
from nfc_gs.training.clock import STAGES
from nfc_gs.training.config import AdcConfig, LearningRates
from nfc_gs.training.trainer import Trainer
from nfc_gs.training.views import TrainingViews

pytestmark = pytest.mark.usefixtures("small_images_may_be_smaller_still")


@pytest.fixture(params=available_backends())
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def test_training_brings_the_rendering_nearer_to_the_pictures(tmp_path: Path, backend: str) -> None:
    rates = LearningRates(sh0=0.05, means=1e-2, means_final=1e-4, scales=2e-2)  # for a run as short as this
    config = tiny_config(steps=80, backend=backend, rates=rates)
    trainer = Trainer(tiny_scene(), config, tmp_path / "run", capture="tiny")
    before = trainer.evaluate().psnr
    finished = trainer.train()
    after = trainer.evaluate().psnr
    assert finished.reason == "done" and finished.step == 80
    assert before is not None and after is not None
    assert after > before + 3.0
    assert len(trainer.model) > 30


@pytest.mark.parametrize(
    ("density", "moments"), [("mcmc", "float32"), ("mcmc", "bfloat16"), ("adc", "float32"), ("none", "float32")]
)
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(
    tmp_path: Path, backend: str, density: str, moments: str
) -> None:
    adc = AdcConfig(grow_grad2d=1e-6, reset_every=0.2, reset_at_least=4, stop=0.9)
    config = tiny_config(density=density, backend=backend, adc=adc, background="random", adam_moments=moments)
    whole = Trainer(tiny_scene(), config, tmp_path / "whole", capture="tiny")
    whole.train()

    holder: list[Trainer] = []
    first = Trainer(tiny_scene(), config, tmp_path / "broken", [stop_after(15, holder)], capture="tiny")
    holder.append(first)
    assert first.train().reason == "interrupted"
    assert first.steps_done == 15
    second = Trainer.resume(tmp_path / "broken", scene=tiny_scene())
    assert second.steps_done == 15
    assert second.train().reason == "done"

    assert_same_bits(all_tensors(whole), all_tensors(second))
    assert whole.training.density.state() == second.training.density.state()
    if density != "none":
        assert len(whole.model) != 30


def test_the_number_of_torch_threads_changes_nothing_and_is_restored(tmp_path: Path, backend: str) -> None:
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            trainer = Trainer(
                tiny_scene(), tiny_config(backend=backend, steps=12), tmp_path / f"run{threads}", capture="tiny"
            )
            trainer.train()
            assert torch.get_num_threads() == threads
            results.append(all_tensors(trainer))
    finally:
        torch.set_num_threads(before)
    assert_same_bits(*results)


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    models = []
    for seed in (0, 1):
        trainer = Trainer(tiny_scene(), tiny_config(seed=seed, steps=5), tmp_path / str(seed), capture="tiny")
        trainer.train()
        models.append(trainer.model.means.detach())
    assert not torch.equal(*models)


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny")
    with pytest.raises(UserError, match=r"holds a run already.*--resume"):
        Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny")


def test_a_new_run_can_be_resumed_at_once_and_says_how_it_was_configured(tmp_path: Path) -> None:
    Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture=tmp_path, data=DataConfig(test_every=4))
    resumed = Trainer.resume(tmp_path / "run", scene=tiny_scene())
    assert resumed.steps_done == 0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["capture"] == str(tmp_path)
    assert saved["data"]["test_every"] == 4
    assert saved["steps"] == 30 and saved["rates"]["means"] == 1.6e-4


def test_resume_reads_the_capture_again_as_it_was_read_before(tmp_path: Path) -> None:
    """A capture on disk, read with options of its own, half trained, and gone on with from the run folder alone."""
    scene, capture = tiny_scene(), tmp_path / "capture"
    (capture / "images").mkdir(parents=True)
    frames = []
    for view in scene.views:
        Image.fromarray(scene.image(scene.views.index(view)).rgb).save(capture / "images" / view.name)
        pose = np.linalg.inv(view.camera.viewmat.double().numpy()) @ np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL axes
        frames.append({"file_path": f"images/{view.name}", "transform_matrix": pose.tolist()})
    lens = {"fl_x": 30.0, "fl_y": 30.0, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT}
    (capture / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    options = DataConfig(test_every=3, random_points=25, background=(0.1, 0.2, 0.3))

    whole = Trainer(load_scene(capture, options), tiny_config(steps=6), tmp_path / "a", capture=capture, data=options)
    whole.train()
    holder: list[Trainer] = []
    first = Trainer(
        load_scene(capture, options),
        tiny_config(steps=6),
        tmp_path / "b",
        [stop_after(3, holder)],
        capture=capture,
        data=options,
    )
    holder.append(first)
    first.train()
    second = Trainer.resume(tmp_path / "b")
    second.train()
    assert len(second.scene.test) == 3
    assert_same_bits(all_tensors(whole), all_tensors(second))


def test_resume_of_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    Trainer(tiny_scene(), tiny_config(steps=3), tmp_path / "run", capture="tiny").train()
    assert Trainer.resume(tmp_path / "run", scene=tiny_scene()).train().step == 3


def test_resume_refuses_a_capture_that_has_changed(tmp_path: Path) -> None:
    Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny")
    scene = tiny_scene()
    with pytest.raises(UserError, match="other training views"):
        Trainer.resume(tmp_path / "run", scene=scene.with_split(scene.train[1:], scene.test))
    with pytest.raises(UserError, match="cameras of the capture"):
        Trainer.resume(tmp_path / "run", scene=replace(scene, transform=np.eye(4)))


def test_resume_of_a_folder_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        Trainer.resume(tmp_path)
    with pytest.raises(UserError, match="There is no run"):
        Trainer.resume(tmp_path / "nowhere")


def test_a_scene_whose_views_are_all_held_out_is_refused(tmp_path: Path) -> None:
    scene = tiny_scene()
    with pytest.raises(UserError, match="no view left to train on"):
        Trainer(scene.with_split((), (0,)), tiny_config(), tmp_path / "run", capture="tiny")


def test_a_single_view_trains_without_evaluation(tmp_path: Path) -> None:
    scene = tiny_scene()
    trainer = Trainer(scene.with_split((0,), ()), tiny_config(steps=4), tmp_path / "run", capture="tiny")
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics.psnr is None and metrics.views == ()
    content = json.loads(trainer.write_metrics(metrics).read_text())
    assert content["test"] == {"psnr": None, "ssim": None, "views": []}


def test_listeners_hear_the_run_in_order(tmp_path: Path) -> None:
    events = []
    Trainer(tiny_scene(), tiny_config(steps=8), tmp_path / "run", [events.append], capture="tiny").train()
    kinds = [type(event) for event in events]
    assert kinds[:2] == [CheckpointSaved, TrainStarted]
    assert kinds[-2:] == [CheckpointSaved, TrainFinished]
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [event.step for event in steps] == list(range(1, 9))
    assert [event.width for event in steps] == [16] * 4 + [32] * 4
    assert steps[-1].progress == 1.0 and steps[-1].remaining_seconds == 0.0
    assert [event.step for event in events if isinstance(event, Evaluated)] == [2, 4, 6]
    finished = events[-1]
    assert sum(finished.timings[stage] for stage in STAGES) == pytest.approx(finished.seconds, rel=1e-6)


def test_a_listener_that_raises_is_dropped_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard = []

    def bad(event: object) -> None:
        heard.append(event)
        raise RuntimeError("no good")

    others = []
    finished = Trainer(
        tiny_scene(), tiny_config(steps=4), tmp_path / "run", [bad, others.append], capture="tiny"
    ).train()
    assert finished.reason == "done"
    assert len(heard) == 1 and len(others) > 4
    assert "is dropped; training goes on" in caplog.text


def test_the_history_has_a_line_per_step_of_a_short_run_and_is_cut_to_the_checkpoint(tmp_path: Path) -> None:
    holder: list[Trainer] = []
    config = tiny_config(steps=12, eval_every=0.5)
    trainer = Trainer(tiny_scene(), config, tmp_path / "run", [stop_after(8, holder)], capture="tiny")
    holder.append(trainer)
    trainer.train()
    lines = read_history(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 6, 7, 8]
    assert set(lines[1]) == {"step", "seconds", "loss", "psnr", "gaussians", "width", "height"}
    assert set(lines[6]) == {"step", "seconds", "test_psnr", "test_ssim"}

    with open(tmp_path / "run" / "history.jsonl", "a") as handle:
        handle.write('{"step": 9, "loss": 1.0}\n{"step": 10, "lo')  # as a killed run leaves it
    resumed = Trainer.resume(tmp_path / "run", scene=tiny_scene())
    assert [line["step"] for line in read_history(tmp_path / "run")] == [1, 2, 3, 4, 5, 6, 6, 7, 8]
    resumed.train()
    assert [line["step"] for line in read_history(tmp_path / "run")] == [1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12]


def test_a_time_budget_ends_the_run_and_goes_through_the_whole_schedule(tmp_path: Path) -> None:
    events = []
    config = tiny_config(steps=None, time_budget="1.5s", eval_every=0.0)
    trainer = Trainer(tiny_scene(), config, tmp_path / "run", [events.append], capture="tiny")
    finished = trainer.train()
    assert finished.reason == "done" and finished.seconds >= 1.5
    steps = [event for event in events if isinstance(event, StepDone)]
    assert steps[0].width == 16 and steps[-1].width == 32
    assert [event.progress for event in steps] == sorted(event.progress for event in steps)


def test_a_non_finite_loss_stops_saves_and_names_step_and_view(tmp_path: Path) -> None:
    calls = []

    def poisoned(comparison: Comparison) -> torch.Tensor:
        calls.append(1)
        return comparison.rendered.mean() * (math.nan if len(calls) == 5 else 1.0)

    events = []
    terms = {"poisoned": (1.0, poisoned)}
    trainer = Trainer(tiny_scene(), tiny_config(), tmp_path / "run", [events.append], capture="tiny", terms=terms)
    with pytest.raises(UserError, match=r"nan at step 5, on the view view_0\d\.png"):
        trainer.train()
    assert events[-1].reason == "non-finite loss"
    saved = checkpoints.load_checkpoint(tmp_path / "run")
    assert saved.step == 4
    assert all(bool(tensor.isfinite().all()) for tensor in saved.parts["model"].tensors.values())


def test_a_model_that_broke_before_its_loss_does_not_replace_the_last_good_checkpoint(tmp_path: Path) -> None:
    trainer = Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny")
    trainer.step()
    trainer.model.sh_coeffs.data.fill_(math.nan)
    with pytest.raises(UserError, match="The loss became"):
        trainer.train()
    assert checkpoints.load_checkpoint(tmp_path / "run").step == 0


def test_a_view_that_shows_nothing_of_the_model_does_no_harm(tmp_path: Path, backend: str) -> None:
    scene = tiny_scene()
    away = look_at_viewmat(
        torch.tensor([9.0, 0.0, 0.0]), torch.tensor([20.0, 0.0, 0.0]), torch.tensor([0.0, -1.0, 0.0])
    )
    views = tuple(replace(view, camera=replace(view.camera, viewmat=away)) for view in scene.views)
    trainer = Trainer(
        replace(scene, views=views), tiny_config(steps=3, backend=backend), tmp_path / "run", capture="tiny"
    )
    before = {name: tensor.clone() for name, tensor in trainer.model.tensors().items()}
    trainer.step()
    for name in ("quats", "sh_coeffs", "log_scales"):
        assert torch.equal(before[name], trainer.model.tensors()[name])


def test_a_masked_picture_trains_on_what_counts_alone(tmp_path: Path) -> None:
    """What a mask leaves out cannot change a single bit of the model."""
    models = []
    for ignored in (0, 200):
        scene = tiny_scene()
        for name, image in scene.images.images.items():
            mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
            mask[: HEIGHT // 2] = 0
            rgb = image.rgb.copy()
            rgb[: HEIGHT // 2] = ignored
            scene.images.images[name] = ViewImage(rgb, mask)
        trainer = Trainer(scene, tiny_config(steps=6), tmp_path / str(ignored), capture="tiny")
        trainer.train()
        models.append(trainer.model.tensors())
    assert_same_bits(*models)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread")
def test_ctrl_c_ends_after_the_step_with_everything_saved_and_restores_the_handler(tmp_path: Path) -> None:
    def interrupt(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    trainer = Trainer(tiny_scene(), tiny_config(), tmp_path / "run", [interrupt], capture="tiny")
    finished = trainer.train()
    assert (finished.reason, finished.step) == ("interrupted", 3)
    assert checkpoints.load_checkpoint(tmp_path / "run").step == 3
    assert signal.getsignal(signal.SIGINT) == before


def test_a_second_ctrl_c_aborts_at_once(tmp_path: Path) -> None:
    def interrupt(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    trainer = Trainer(tiny_scene(), tiny_config(), tmp_path / "run", [interrupt], capture="tiny")
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert checkpoints.load_checkpoint(tmp_path / "run").step == 0


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    trainer = Trainer(tiny_scene(), tiny_config(steps=3), tmp_path / "run", capture="tiny")
    reasons: list[str] = []
    worker = threading.Thread(target=lambda: reasons.append(trainer.train().reason))
    worker.start()
    worker.join()
    assert reasons == ["done"]


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_the_unbroken_one_bit_for_bit(tmp_path: Path) -> None:
    """A child trains, saving after each step, and is killed without warning while it does; the next one goes on."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from nfc_gs.training import run as run_module, schedules\n"
        "from nfc_gs.training.trainer import Trainer\n"
        "from tiny_scenes import tiny_config, tiny_scene\n"
        "schedules.MIN_SIDE, run_module.SAVE_SHARE, run = 12, 0, Path(sys.argv[1])\n"
        "trainer = (\n"
        "    Trainer.resume(run, scene=tiny_scene()) if run.exists()\n"
        "    else Trainer(tiny_scene(), tiny_config(steps=200, checkpoint_every=0.0), run, capture='tiny')\n"
        ")\n"
        "trainer.train()\n"
    )
    run, here = tmp_path / "run", Path(__file__).resolve().parent
    for step, delay in ((2, 0.0), (25, 0.007), (50, 0.018)):  # killed once it has done that step, that much later
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(run), str(here)],
            cwd=here,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and child.poll() is None:
            if any(line["step"] >= step for line in read_history(run)):
                break
            time.sleep(0.002)
        time.sleep(delay)
        assert child.poll() is None, "the child ended by itself"
        child.kill()
        child.wait()
        assert checkpoints.load_checkpoint(run).step >= step - 1
    (run / ".checkpoint.0123abcd.partial.safetensors").touch()  # as one killed in the middle of a write leaves it
    resumed = Trainer.resume(run, scene=tiny_scene())
    assert not list(run.glob(".*partial*"))
    assert resumed.steps_done < 200
    resumed.train()
    whole = Trainer(tiny_scene(), tiny_config(steps=200), tmp_path / "whole", capture="tiny")
    whole.train()
    assert_same_bits(all_tensors(whole), all_tensors(resumed))


def test_a_learning_rate_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="learning rate"):
        Trainer(tiny_scene(), tiny_config(rates=LearningRates(means=-1.0)), tmp_path / "run", capture="tiny")
    assert not (tmp_path / "run").exists()


def test_a_picture_that_cannot_be_read_loses_nothing_learnt_so_far(tmp_path: Path) -> None:
    scene = tiny_scene()
    trainer = Trainer(scene, tiny_config(eval_every=0.0), tmp_path / "run", capture="tiny")
    for _ in range(4):
        trainer.step()
    learnt = trainer.model.means.detach().clone()
    scene.images.image = lambda view, divisor=1: (_ for _ in ()).throw(UserError(f"{view.name} cannot be read."))
    with pytest.raises(UserError, match="cannot be read"):
        trainer.train()
    saved = checkpoints.load_checkpoint(tmp_path / "run")
    assert saved.step == 4
    assert torch.equal(saved.parts["model"].tensors["means"], learnt)


def test_pictures_go_to_a_gpu_by_copies_that_nothing_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(tiny_scene(), tiny_config(background="random"), tmp_path / "run", capture="tiny")
    config = copy(trainer.config)
    object.__setattr__(config, "device", "meta")  # which no configuration can have: it stands for a GPU
    views = TrainingViews(trainer.scene, config)
    trainer.training._config = config
    pinned, copied, to = [], [], torch.Tensor.to

    def watched(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        copied.append((tensor.data_ptr() in pinned, kwargs.get("non_blocking", False)))
        return to(tensor, *args, **kwargs)

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.data_ptr())
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    views.sample(0, 1.0, None)  # its camera stays there
    monkeypatch.setattr(torch.Tensor, "to", watched)
    target, background = views.sample(0, 1.0, None).target, trainer.training.background(0)
    assert target.device.type == background.device.type == "meta" and copied == [(True, True)] * 2
