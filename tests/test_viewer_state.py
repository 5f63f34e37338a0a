"""Two sources beside each other, the results of a training that ended, and its curves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from random_models import random_model
from viewer_client import bits_model, panel_of, sources, texts, until
from viewer_pages import Page, opened

from nfc_gs.core.events import CheckpointSaved, Evaluated, StepDone, TrainFinished
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData
from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.live import Curve, LiveTraining
from nfc_gs.viewer.panels.halves import halves_html
from nfc_gs.viewer.panels.timeline import TimelinePanel
from nfc_gs.viewer.panels.training import TrainingPanel, psnr_data
from nfc_gs.viewer.source import Source


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> SceneData:
    return load_scene(write_capture(tmp_path_factory.mktemp("state") / "capture", views=6, width=48, height=36))


def shown(page: Page) -> str:
    """The names that are on the picture."""
    return " ".join(text for text in texts(page.session) if "nfc-half" in text)


# ---- two sources ----


def test_two_sources_open_beside_each_other_with_their_names_on_the_halves(scene: SceneData) -> None:
    with Viewer(sources(scene), port=8860, backend="cpu") as viewer:
        for page in opened(viewer):
            assert page.session.state.is_split and page.control("Compare").value == "split"
            until(lambda page=page: "one" in shown(page) and "two" in shown(page))
            page.set("Border", 0.25)
            until(lambda page=page: "25.0vw" in shown(page) and "75.0vw" in shown(page))
            page.set("Compare", "off")
            until(lambda page=page: shown(page) == "")


@pytest.mark.parametrize("count", [1, 3])
def test_one_source_or_several_open_as_a_whole_picture(count: int) -> None:
    others = [Source(f"{k}", random_model(5)) for k in range(count)]
    with Viewer(others, port=8860, backend="cpu") as viewer:
        for page in opened(viewer):
            assert page.session.state.compare == "off" and shown(page) == ""


def test_a_name_is_text_and_no_html() -> None:
    assert "<script>" not in halves_html("<script>", "b", 0.5) and "&lt;script&gt;" in halves_html("<script>", "b", 0.5)


# ---- time ----


def test_the_timeline_is_there_whatever_tab_is_open(scene: SceneData) -> None:
    with Viewer(sources(scene), port=8860, backend="cpu") as viewer:
        for page in opened(viewer):
            page.set("Tab", "Help")
            timeline = panel_of(viewer, page.session, TimelinePanel)
            page.set("Time", 0.5)
            until(lambda page=page: page.session.state.time == 0.5)
            until(lambda timeline=timeline: "6.00 seconds" in timeline.bar.content)
            page.press("Play")
            until(lambda page=page: page.session.state.playing and page.session.state.time > 0.5)
            until(lambda page=page: page.controls("Pause") and not page.controls("Play"))
            page.press("Pause")
            until(lambda page=page: not page.session.state.playing and page.controls("Play"))
            page.key("P")
            until(lambda page=page: page.controls("Pause"))
    with Viewer([Source("still", random_model(5))], port=8860, backend="cpu") as viewer:
        for page in opened(viewer):
            assert not page.controls("Play") and not page.controls("Time")


# ---- a training ----


@pytest.fixture
def live(scene: SceneData, tmp_path: Path) -> Iterator[LiveTraining]:
    model = bits_model(scene, 0.2)
    training: Any = SimpleNamespace(model=model, stopping=False, stop=lambda: None, save=lambda: None)
    yield LiveTraining(training, Source("run", model, scene=scene, folder=tmp_path))


def finished(step: int) -> TrainFinished:
    values: dict[str, Any] = dict.fromkeys(TrainFinished.__dataclass_fields__, step)
    return TrainFinished(**values)


def test_results_are_there_once_the_report_of_this_training_is_written(live: LiveTraining, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("of an earlier one")
    os.utime(tmp_path / "report.html", (1.0, 1.0))
    (tmp_path / "splat.ply").write_text("splat")
    assert live.results() == []
    live(finished(3))
    assert live.finished and live.results() == [], "the report is older than the training"
    (tmp_path / "report.html").write_text("new")
    assert live.results() == [tmp_path / "report.html", tmp_path / "splat.ply"]
    (tmp_path / "splat.ply").unlink()
    assert live.results() == [tmp_path / "report.html"]


def test_the_page_says_where_the_results_are_and_sends_them(live: LiveTraining, tmp_path: Path) -> None:
    sent: list[tuple[str, bytes]] = []
    with Viewer([live.source], port=8860, backend="cpu", live=live) as viewer:
        for page in opened(viewer):
            panel = panel_of(viewer, page.session, TrainingPanel)
            page.session.send_file = lambda name, content: sent.append((name, content))  # type: ignore[method-assign]
            live(finished(3))
            until(lambda panel=panel: panel.results.visible and "written" in panel.results.content)
            assert "report.html" not in panel.results.content and not panel.downloads[0].visible
            (tmp_path / "splat.ply").write_bytes(b"splat")
            (tmp_path / "report.html").write_bytes(b"report")
            until(lambda panel=panel: panel.downloads[0].visible)
            assert str(tmp_path / "report.html") in panel.results.content
            assert str(tmp_path / "splat.ply") in panel.results.content
            page.press("Download the report")
            until(lambda: sent == [("run-report.html", b"report")])
            page.press("Download the splat")
            until(lambda: sent[1:] == [("run-splat.ply", b"splat")])


def test_the_page_says_that_a_checkpoint_is_saved_and_how_the_training_ended(
    live: LiveTraining, tmp_path: Path
) -> None:
    def step(number: int) -> StepDone:
        return StepDone(number, 0.1, 0.5, 20.0, {"gaussians": 80}, 48, 36, 1.0, 1.0)

    with Viewer([live.source], port=8860, backend="cpu", live=live) as viewer:
        for page in opened(viewer):
            status = panel_of(viewer, page.session, TrainingPanel).status
            live(step(1))
            until(lambda status=status: "Step 1 " in status.content)
            assert "saved" not in status.content
            live(CheckpointSaved(1, tmp_path))
            until(lambda status=status: "The checkpoint of step 1 is saved." in status.content)
            live(replace(finished(2), reason="interrupted"))
            until(lambda status=status: "stopped early" in status.content and "is saved" not in status.content)
            live(replace(finished(2), reason="done"))
            until(lambda status=status: "finished" in status.content)


def test_the_curve_is_that_of_held_out_views_before_the_smoothed_one_of_training_views() -> None:
    training, held_out = Curve(), Curve()
    generator = np.random.default_rng(0)
    for step in range(1, 201):
        training.add(step, 20.0 + float(generator.normal()))
    for step, value in ((50, 18.0), (150, 20.0)):
        held_out.add(step, value)
    steps, smooth, measured = psnr_data(training, held_out)
    assert steps.shape == smooth.shape == measured.shape and (np.diff(steps) > 0).all()
    assert np.isfinite(smooth).all() and smooth[50:].std() < 0.4, "views differ more than the curve"
    assert np.isnan(measured[steps < 50]).all() and np.isnan(measured[steps > 150]).all()
    assert measured[steps == 50] == 18.0 and measured[steps == 100] == pytest.approx(19.0)
    assert np.isnan(psnr_data(training, Curve())[2]).all() and len(psnr_data(Curve(), Curve())[0]) == 2


def test_measured_steps_reach_the_curve_of_held_out_views(live: LiveTraining) -> None:
    values: dict[str, Any] = dict.fromkeys(Evaluated.__dataclass_fields__, 1.0)
    live(StepDone(5, 0.1, 0.5, 20.0, {"gaussians": 80}, 48, 36, 1.0, 1.0))
    live(Evaluated(**(values | {"step": 5, "psnr": 23.0})))
    assert psnr_data(live.psnr, live.test_psnr)[2].tolist() == [23.0]
