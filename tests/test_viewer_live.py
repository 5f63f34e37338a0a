"""A training that is shown: pause, save, stop, snapshots, and that no error of the viewer reaches it."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from viewer_client import Client, until

from nfc_gs.core.errors import UserError
from nfc_gs.core.events import StepDone
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData
from nfc_gs.training.clock import STAGES
from nfc_gs.training.config import TrainConfig
from nfc_gs.training.trainer import Trainer
from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.draw import Picture, draw
from nfc_gs.viewer.live import MAX_POINTS, Curve, LiveTraining
from nfc_gs.viewer.scheduler import Scheduler
from nfc_gs.viewer.source import Source
from nfc_gs.viewer.state import DisplaySettings

CONFIG = TrainConfig(steps=30, max_gaussians=80, device="cpu", backend="cpu")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> SceneData:
    return load_scene(write_capture(tmp_path_factory.mktemp("live") / "capture", views=6, width=48, height=36))


def started(scene: SceneData, run: Path) -> Trainer:
    return Trainer(scene, CONFIG, run, capture=scene.root)


def watched(trainer: Trainer) -> LiveTraining:
    live = LiveTraining(trainer, Source("run", trainer.model.copy(), scene=trainer.scene))
    trainer.run.add_listener(live)
    return live


def alone(scene: SceneData, run: Path) -> dict[str, torch.Tensor]:
    """What a training gives that nobody watches."""
    trainer = started(scene, run)
    trainer.train()
    return trainer.model.tensors()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_training_that_is_drawn_all_the_time_gives_the_same_bits(scene: SceneData, tmp_path: Path) -> None:
    trainer = started(scene, tmp_path / "watched")
    live = watched(trainer)
    live.budget.share = 1.0
    seen: list[int] = []
    live.on_snapshot = lambda: seen.append(live.source.snapshot().step or 0)
    live.request_snapshot()
    camera, ended, drawn = scene.camera(0), threading.Event(), []

    def look() -> None:
        while not ended.is_set():
            drawn.append(draw(live.source.snapshot().model, camera, DisplaySettings(), samples=2))
            live.request_snapshot()

    thread = threading.Thread(target=look)
    thread.start()
    trainer.train()
    ended.set()
    thread.join()
    assert same(trainer.model.tensors(), alone(scene, tmp_path / "alone"))
    assert len(drawn) > 1 and seen == sorted(seen) and seen[-1] == 30
    assert same(live.source.snapshot().model.tensors(), trainer.model.tensors())


def test_what_fails_in_the_viewer_does_not_reach_the_training(
    scene: SceneData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = started(scene, tmp_path / "watched")
    live = watched(trainer)
    live.budget.share = 1.0

    def broken() -> None:
        live.request_snapshot()
        raise RuntimeError("a broken page")

    live.on_snapshot = broken
    live.request_snapshot()
    with caplog.at_level(logging.ERROR):
        finished = trainer.train()
    assert finished.reason == "done" and caplog.text.count("a broken page") > 2
    assert same(trainer.model.tensors(), alone(scene, tmp_path / "alone"))


def test_a_render_that_fails_stops_neither_the_training_nor_the_viewer(
    scene: SceneData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = started(scene, tmp_path / "watched")
    live = watched(trainer)
    with Viewer([live.source], port=8900, live=live) as viewer, caplog.at_level(logging.ERROR):
        drawn = threading.Event()

        def broken() -> None:
            raise RuntimeError("a broken render")

        viewer.scheduler.submit("a", broken)
        trainer.train()
        viewer.scheduler.submit("a", drawn.set)
        assert drawn.wait(20.0) and "a broken render" in caplog.text
    assert same(trainer.model.tensors(), alone(scene, tmp_path / "alone"))


def test_drawing_that_fails_for_a_browser_does_not_reach_the_training(
    scene: SceneData, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = started(scene, tmp_path / "watched")
    live = watched(trainer)
    live.budget.share = 1.0
    fails, steps = threading.Event(), []

    def breaks(*args: object, **options: object) -> Picture:
        if fails.is_set():
            steps.append(trainer.steps_done)
            raise RuntimeError("a broken renderer")
        return draw(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("nfc_gs.viewer.draw.draw", breaks)
    with Viewer([live.source], port=8900, live=live, backend="cpu") as viewer, caplog.at_level(logging.ERROR):
        client, ended = Client(viewer), threading.Event()

        def look() -> None:
            while not ended.is_set():
                client.move(0.1 * time.monotonic() % 1.0)
                time.sleep(0.002)

        hand = threading.Thread(target=look)
        hand.start()
        until(lambda: any(session.pictures_sent for session in viewer.sessions.values()))
        fails.set()
        finished = trainer.train()
        fails.clear()
        (session,) = viewer.sessions.values()
        pictures = session.pictures_sent
        until(lambda: session.pictures_sent > pictures)
        ended.set()
        hand.join()
        client.close()
    assert finished.reason == "done" and any(0 < step < 30 for step in steps) and "a broken renderer" in caplog.text
    assert same(trainer.model.tensors(), alone(scene, tmp_path / "alone"))


def test_a_pause_waits_saves_on_request_and_is_no_training_time(scene: SceneData, tmp_path: Path) -> None:
    trainer = started(scene, tmp_path / "run")
    live = watched(trainer)
    live.pause()
    thread = threading.Thread(target=trainer.train)
    thread.start()
    until(lambda: live.source.snapshot().step == 1)
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    before = checkpoint.stat().st_mtime_ns
    time.sleep(0.5)
    assert trainer.steps_done == 1
    live.save()
    until(lambda: checkpoint.stat().st_mtime_ns != before and live.saved_step == 1)
    live.resume()
    thread.join()
    assert trainer.steps_done == 30 and live.finished and not live.ended_early
    assert trainer.timings["events"] >= 0.5
    assert trainer.seconds == pytest.approx(sum(trainer.timings[stage] for stage in STAGES), rel=1e-6)


def test_a_checkpoint_that_cannot_be_written_is_reported_and_a_pause_goes_on(
    scene: SceneData, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = started(scene, tmp_path / "run")
    live, save = watched(trainer), trainer.save
    full = UserError("Cannot write the checkpoint: the disk is full.")
    live.pause()
    thread = threading.Thread(target=trainer.train, daemon=True)
    thread.start()
    until(lambda: trainer.steps_done == 1)

    def fails() -> Path:
        raise full

    monkeypatch.setattr(trainer, "save", fails)
    live.save()
    until(lambda: live.save_error == str(full))
    time.sleep(0.3)  # steps take much less
    assert trainer.steps_done == 1 and live.paused
    (logged,) = [record for record in caplog.records if "is full" in record.getMessage()]
    assert logged.levelno == logging.WARNING and logged.exc_info is None
    monkeypatch.setattr(trainer, "save", save)
    live.save()
    until(lambda: live.save_error == "")
    live.resume()
    thread.join()
    assert trainer.steps_done == 30


def test_stopping_from_the_viewer_ends_a_paused_training_and_saves_it(scene: SceneData, tmp_path: Path) -> None:
    trainer = started(scene, tmp_path / "run")
    live = watched(trainer)
    live.pause()
    reasons = []
    thread = threading.Thread(target=lambda: reasons.append(trainer.train().reason))
    thread.start()
    until(lambda: trainer.steps_done == 1)
    live.stop()
    thread.join()
    assert reasons == ["interrupted"] and trainer.steps_done == 1 and live.stop_pressed and live.ended_early
    assert Trainer.resume(tmp_path / "run", scene=scene).steps_done == 1


def test_ctrl_c_ends_a_paused_training(scene: SceneData, tmp_path: Path) -> None:
    trainer = started(scene, tmp_path / "run")
    live = watched(trainer)
    live.pause()
    thread = threading.Thread(target=trainer.train)
    thread.start()
    until(lambda: trainer.steps_done == 1)
    trainer.stop()  # what the first Ctrl-C calls
    thread.join(5.0)
    assert not thread.is_alive()


def test_copies_are_made_on_request_and_take_their_share_of_the_time_at_most() -> None:
    now = [0.0]

    def slow() -> None:
        now[0] += 1.0

    training = SimpleNamespace(model=SimpleNamespace(copy=slow))
    live = LiveTraining(training, Source("run", None), clock=lambda: now[0])  # type: ignore[arg-type]
    live.budget.share = 0.1

    def step(number: int) -> None:
        live(StepDone(number, 0.1, 0.5, 20.0, {"gaussians": 80}, 48, 36, 1.0, 1.0))
        now[0] += 0.5

    step(1)
    assert live.source.snapshot().number == 0, "no copy was requested"
    for number in range(2, 202):
        live.request_snapshot()
        step(number)
    assert live.source.snapshot().number == pytest.approx(0.1 * now[0], rel=0.15)


def test_copies_and_pictures_together_take_their_share_of_the_time_at_most() -> None:
    now = [0.0]

    def spend(seconds: float) -> None:
        now[0] += seconds
        spent.append(seconds)

    spent: list[float] = []
    training = SimpleNamespace(model=SimpleNamespace(copy=lambda: spend(0.3)))
    live = LiveTraining(training, Source("run", None), clock=lambda: now[0])  # type: ignore[arg-type]
    scheduler = Scheduler(lambda: now[0], budget=live.budget)
    live.budget.share = 0.2

    def draw_and_request() -> None:
        spend(0.5)
        live.request_snapshot()  # as a viewer does when a browser has its picture

    for number in range(4000):
        live(StepDone(number, 0.1, 0.5, 20.0, {"gaussians": 80}, 48, 36, 1.0, 1.0))
        scheduler.submit(1, draw_and_request)
        scheduler.run_due()
        now[0] += 0.1
    assert spent.count(0.3) == pytest.approx(spent.count(0.5), abs=1) and spent.count(0.5) > 100
    assert sum(spent) / now[0] == pytest.approx(0.2, rel=0.02)


def test_a_curve_keeps_its_ends_and_stays_short() -> None:
    curve = Curve()
    for step in range(100_000):
        curve.add(step, float(step))
    assert len(curve.steps) == len(curve.values) <= MAX_POINTS and curve.steps == curve.values
    assert curve.steps[0] == 0 and curve.steps[-1] > 99_000
