"""What the HTML report shows of a run that was really trained: map, time-lapse, verdict, histograms, times, changes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_family
from chromium import opened
from report_runs import data_of
from tiny_scenes import stop_after, tiny_config, tiny_scene

from nfc_gs.core.colormap import apply
from nfc_gs.core.events import CheckpointSaved
from nfc_gs.data.scene import SceneData
from nfc_gs.export.report import write_report
from nfc_gs.export.report_sections.times import percentages
from nfc_gs.results import finish
from nfc_gs.runs.families import FAMILIES
from nfc_gs.runs.names import CHECKPOINT_NAME, METRICS_NAME
from nfc_gs.training.registry import TRAINABLE_FAMILIES
from nfc_gs.training.trainer import Trainer

STEPS = 40


def train(run: Path, scene: SceneData | None = None, *, family: str = "gaussians", stop_at: int | None = None) -> Path:
    """A run on the tiny scene, of which views 0 and 4 are held out, with all that a run leaves; its folder."""
    holder: list[Trainer] = []
    listeners = [] if stop_at is None else [stop_after(stop_at, holder)]
    config = tiny_config(steps=STEPS, sh_degree=2)
    trainer = Trainer(scene or tiny_scene(), config, run, listeners, capture="tiny", family=family)
    holder.append(trainer)
    trainer.train()
    finish(trainer)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read it, do not change it."""
    return train(tmp_path_factory.mktemp("report") / "my run")


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """The run, to be changed."""
    return shutil.copytree(run, tmp_path / "my run")


def sections_of(text: str) -> list[str]:
    return re.findall(r'<h2 id="h-(\w+)"', text)


# ---- head, commands ----


def test_the_head_says_what_the_result_is_worth_and_what_to_do_next(text: str, run: Path) -> None:
    head = text.split('<header class="hero"')[1].split("</header>")[0]
    metrics = json.loads((run / METRICS_NAME).read_text())
    assert f"<strong>{metrics['test']['psnr']:.1f} dB</strong>" in head and "6 dB more is half the error" in head
    best = max(metrics["test"]["views"], key=lambda view: view["psnr"])
    assert f"The best held-out view, {best['name']}" in head
    worst = min(view["psnr"] for view in metrics["test"]["views"])
    assert f"the worst held-out view</a> has {worst:.1f} dB" in head
    assert head.count('src="data:image/jpeg;base64,') == 2
    assert f"nfc-gs view '{run}'" in head.replace("&#x27;", "'")


def with_metrics(run: Path, change: Callable[[dict], object]) -> str:
    """The head of the report after a change of the run's metrics."""
    metrics = json.loads((run / METRICS_NAME).read_text())
    change(metrics)
    (run / METRICS_NAME).write_text(json.dumps(metrics))
    return write_report(run).read_text(encoding="utf-8").split('<header class="hero"')[1].split("</header>")[0]


def test_longer_training_is_advised_for_static_scenes_alone(copied: Path) -> None:
    def long(metrics: dict) -> None:
        metrics |= {"steps": 1000, "train_seconds": 60.0}
        metrics["test"]["psnr"] = 24.0

    assert "twice as many steps (2,000)" in with_metrics(copied, long)
    axis = {"start": 0.0, "end": 1.0, "unit": "seconds"}
    moving = with_metrics(copied, lambda metrics: metrics["test"].update(time_axis=axis))
    assert "twice as many" not in moving and "<strong>24.0 dB</strong>" in moving


def test_a_run_that_was_ended_early_or_is_not_over_says_how_to_go_on(tmp_path: Path) -> None:
    early = train(tmp_path / "early", stop_at=10)
    head = write_report(early).read_text(encoding="utf-8").split('<header class="hero"')[1].split("</header>")[0]
    assert "It was ended early: 25% of the run is done, 10 steps" in head and "train --resume" in head
    (early / METRICS_NAME).unlink()
    shutil.rmtree(early / "renders" / "test")
    text = write_report(early).read_text(encoding="utf-8")
    assert "Training has not ended yet: 25% of the run is done" in text and "Nothing has been measured yet" in text
    assert "The view view_04.png as the model shows it" in text
    assert {"lapse", "curves", "map", "model", "time", "use"} <= set(sections_of(text))


def test_without_held_out_views_a_training_view_is_shown_large(tmp_path: Path) -> None:
    run = train(tmp_path / "run", tiny_scene().with_split(tuple(range(8)), ()))
    text = write_report(run).read_text(encoding="utf-8")
    assert "The view view_00.png as the model shows it" in text and "No photo was held out" in text
    assert 'class="camera train"' in text and 'class="camera test"' not in text


def test_links_lead_to_what_is_there_and_commands_name_the_run(copied: Path) -> None:
    (copied / "config.yaml").unlink()
    text = write_report(copied).read_text(encoding="utf-8")
    links = re.findall(r'<li><a href="([^"]+)"', text)
    assert links == ["splat.ply", "renders/", "metrics.json", "history.jsonl"]
    assert all((copied / link).exists() for link in links)
    commands = re.findall(r'data-copy="([^"]+)"', text)
    quoted = f"&#x27;{copied}&#x27;"
    verbs = ("view", "render", "export", "train --resume")
    assert commands == [f"nfc-gs {verb} {quoted}" for verb in verbs] and "Write results anew" in text


def test_a_run_with_terms_from_python_is_not_said_to_go_on_from_the_command_line(tmp_path: Path) -> None:
    terms = {"white": (0.1, lambda pair: pair.mean((1.0 - pair.rendered).square()))}
    trainer = Trainer(tiny_scene(), tiny_config(steps=4), tmp_path / "run", capture="tiny", terms=terms)
    trainer.step()
    trainer.save()
    text = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "train --resume" not in text and "<code>Trainer.resume</code>" in text and "nfc-gs view" in text


# ---- map ----


def test_the_map_has_every_camera_where_it_is_seen_from_above(text: str, run: Path) -> None:
    scene = tiny_scene()
    drawing = text.split('<svg id="map"')[1].split("</svg>")[0]
    pattern = r'class="camera (\w+)" data-camera="(\d+)".*?aria-label="(\S+), .*?cx="([\d.]+)" cy="([\d.]+)"'
    marks = re.findall(pattern, drawing)
    assert len(marks) == 8 and [kind for kind, *_ in marks] == ["train"] * 6 + ["test"] * 2
    assert [name for _, _, name, *_ in marks] == [scene.views[i].name for i in (*scene.train, *scene.test)]
    drawn = np.array([[float(x), float(y)] for *_, x, y in marks])
    eyes = np.stack([scene.views[i].camera.center.numpy() for i in (*scene.train, *scene.test)])
    # In this scene -y is up. Seen from above, z is to the left of x: (x, z) has the handedness of the drawing.
    ground = eyes[:, [0, 2]] - eyes[:, [0, 2]].mean(axis=0)
    drawn = drawn - drawn.mean(axis=0)
    u, sizes, v = np.linalg.svd(ground.T @ drawn)
    assert np.linalg.det(u @ v) < 0  # a turn of (x, -z) onto (right, down): no mirror image
    assert np.allclose(ground @ (u @ v) * sizes.sum() / (ground**2).sum(), drawn, atol=0.2)
    views = json.loads((run / METRICS_NAME).read_text())["test"]["views"]
    for view in views:
        assert f"{view['name']}, held out, {view['psnr']:.2f} dB" in drawing
    assert re.search(r"view_01.png, trained on, \d+\.\d\d dB", drawing) and "<image" in drawing


def test_the_marks_of_the_map_are_colored_by_psnr_and_point_where_the_cameras_look(text: str) -> None:
    drawing = text.split('<svg id="map"')[1].split("</svg>")[0]
    marks = re.findall(r'style="--color:(#\w+)"><title>[^<]*?([\d.]+) dB</title><path d="([^"]+)"', drawing)
    assert len(marks) == 8
    ordered = [color for _, color in sorted((float(psnr), color) for color, psnr, _ in marks)]
    expected = [
        "#" + "".join(f"{round(255 * channel):02x}" for channel in apply(torch.tensor(end), "viridis").tolist())
        for end in (0.0, 1.0)
    ]
    assert [ordered[0], ordered[-1]] == expected
    wedges = np.array([re.findall(r"[\d.]+ [\d.]+", path) for *_, path in marks])
    points = np.array([[point.split() for point in wedge] for wedge in wedges], dtype=float)  # [8, 3, 2]
    ahead = points[:, 1:].mean(axis=1) - points[:, 0]
    inwards = points[:, 0].mean(axis=0) - points[:, 0]  # the cameras stand around what they look at
    assert ((ahead * inwards).sum(axis=1) > 0.5 * np.linalg.norm(ahead, axis=1) * np.linalg.norm(inwards, axis=1)).all()


def test_views_from_one_place_are_one_mark_of_the_map(tmp_path: Path) -> None:
    scene = tiny_scene()
    views = tuple(replace(view, camera=scene.views[i % 4].camera) for i, view in enumerate(scene.views))
    run = train(tmp_path / "run", replace(scene, views=views))
    cameras = data_of(write_report(run))["map"]
    assert len(cameras) == 4
    assert cameras[-1]["words"].startswith("view_00.png and 1 more, held out")
    assert sorted(cameras[-1]["views"]) == [0, 1]


# ---- time-lapse, curves ----


def test_the_time_lapse_holds_the_pictures_in_order_and_leaves_out_broken_ones(copied: Path) -> None:
    frames = data_of(write_report(copied))["timelapse"]
    steps = [frame["step"] for frame in frames]
    assert steps[0] == 0 and steps[-1] == STEPS and steps == sorted(set(steps)) and len(steps) >= 10
    folder = copied / "renders" / "timelapse"
    (folder / f"{steps[1]:07d}.jpg").write_bytes(b"half of a picture")
    (folder / "notes.jpg").write_bytes(b"")
    assert [frame["step"] for frame in data_of(write_report(copied))["timelapse"]] == [steps[0], *steps[2:]]
    shutil.rmtree(folder)
    report = write_report(copied)
    assert "timelapse" not in data_of(report) and "lapse" not in sections_of(report.read_text())


def test_changes_of_the_training_are_marked_in_the_curves(text: str, run: Path) -> None:
    changes = data_of(run / "report.html")["curves"]["changes"]
    labels = {change["label"]: change["step"] for change in changes}
    assert labels["SH degree 1"] == 3 and labels["SH degree 2"] == 5 and labels["density control ends"] == 38
    assert [change["mark"] for change in changes] == list("abc")[: len(changes)]
    assert all(f"<b>{change['mark']}</b> {change['label']}" in text for change in changes)


def test_what_a_history_notes_is_said_in_words(tmp_path: Path) -> None:
    start = {"terms": ["mse"], "image_divisor": 4, "density_control": False, "motion": False, "<b>": 1}
    steps = [
        (1, start),
        (10, {**start, "image_divisor": 2, "density_control": True}),
        (20, {**start, "image_divisor": 1, "density_control": True, "motion": True, "<b>": 2}),
        (30, {**start, "terms": ["l1", "ssim", "white"]}),
        (31, "odd"),
        (40, {**start, "terms": ["l1", "ce", "ssim", "white"]}),
    ]
    rows = [{"step": s, "seconds": s, "loss": 1.0, "psnr": 20.0, "phases": phases} for s, phases in steps]
    (tmp_path / "history.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    report = write_report(tmp_path)
    assert [(change["step"], change["label"]) for change in data_of(report)["curves"]["changes"]] == [
        (10, "images at 1/2 of their size, density control begins"),
        (20, "images at full size, motion begins, <b>: 2"),
        (30, "L1 and SSIM and white in place of squared error, images at 1/4 of their size, density control ends, "
             "motion ends, <b>: 1"),
        (40, "cross entropy from here on"),
    ]  # fmt: skip
    assert "<b>:" not in report.read_text()


# ---- model, times ----


def test_the_histograms_count_every_gaussian(text: str, run: Path) -> None:
    part = text.split('<h2 id="h-model"')[1].split("</section>")[0]
    opacities, sizes = re.findall(r'<path d="([^"]+)"', part)
    for path in (opacities, sizes):
        heights = [float(height) for height in re.findall(r"v([\d.]+)z", path)]
        assert len(heights) == 40 and max(heights) == 140.0
    assert re.search(r"Median 0\.\d\d; \d+ % are fainter than 0\.1", part)
    assert re.match(rf">{json.loads((run / METRICS_NAME).read_text())['gaussians']} Gaussians<", part)


def test_percentages_add_up_to_a_hundred() -> None:
    assert percentages([1.0, 1.0, 1.0]) == [33.4, 33.3, 33.3]
    values = np.random.default_rng(0).uniform(0.01, 5.0, 13).tolist()
    shares = percentages(values)
    assert sum(round(10 * share) for share in shares) == 1000
    assert all(abs(share - 100 * v / sum(values)) < 0.1 for share, v in zip(shares, values, strict=True))


def test_the_times_are_those_of_the_whole_run(text: str, run: Path) -> None:
    part = text.split('<h2 id="h-time"')[1].split("</section>")[0]
    shares = [float(share) for share in re.findall(r">([\d.]+) %</span>", part)]
    assert round(10 * sum(shares)) == 1000 and shares == sorted(shares, reverse=True)
    timings = json.loads((run / METRICS_NAME).read_text())["timings"]
    for words, stage in (("Gradients", "backward"), ("Measuring held-out views", "evaluation")):
        share = float(re.search(rf">{words}</span>.*?([\d.]+) %</span>", part).group(1))  # type: ignore[union-attr]
        assert share == pytest.approx(100 * timings[stage] / sum(timings.values()), abs=0.2)


def test_before_there_are_metrics_the_times_are_those_of_the_checkpoint(copied: Path) -> None:
    (copied / METRICS_NAME).unlink()
    part = write_report(copied).read_text(encoding="utf-8").split('<h2 id="h-time"')[1].split("</section>")[0]
    assert "Gradients" in part and "Splat and video" not in part


# ---- what may be missing ----


def test_a_damaged_checkpoint_takes_its_sections_along_and_no_others(copied: Path, caplog) -> None:
    file = copied / CHECKPOINT_NAME
    file.write_bytes(file.read_bytes()[:5000])
    text = write_report(copied).read_text(encoding="utf-8")
    assert "cut short" in caplog.text
    assert sections_of(text) == ["lapse", "use", "curves", "views", "time"]


def test_a_model_of_another_family_has_no_histograms(tmp_path: Path) -> None:
    toy_family.register()
    try:
        run = train(tmp_path / "run", family="toy")
        (run / METRICS_NAME).unlink()
        shutil.rmtree(run / "renders" / "test")
        text = write_report(run).read_text(encoding="utf-8")
    finally:
        del FAMILIES["toy"], TRAINABLE_FAMILIES["toy"]
    assert "nfc-gs view" in text and "nfc-gs export" not in text, "only Gaussians can be exported"
    assert "model" not in sections_of(text) and {"lapse", "map", "curves"} <= set(sections_of(text))
    assert "The view view_04.png as the model shows it" in text and "<image" not in text.split("</svg>")[0]


def test_a_report_can_be_written_while_the_run_is_trained(tmp_path: Path) -> None:
    heard = []

    def report(event: object) -> None:
        if isinstance(event, CheckpointSaved):
            heard.append(write_report(tmp_path / "run").read_text(encoding="utf-8"))

    Trainer(tiny_scene(), tiny_config(steps=8), tmp_path / "run", [report], capture="tiny").train()
    assert "Nothing has been measured yet" in heard[0] and "Training has not ended yet" in heard[1]


# ---- in a browser ----


@pytest.fixture
def page(browser, run: Path, text: str):
    with opened(browser, run / "report.html") as page:
        yield page


def test_a_camera_is_named_under_the_mouse_and_a_click_shows_its_view(page) -> None:
    worst = page.inner_text("#view-name")
    assert page.inner_text("#map-readout").startswith(worst)
    other = page.locator(f".camera.test:not([aria-label^='{worst}'])")
    name = other.get_attribute("aria-label").split(",")[0]
    other.locator("circle").hover()
    assert (
        page.inner_text("#map-readout") == other.get_attribute("aria-label") and page.inner_text("#view-name") == worst
    )
    other.locator("circle").click()
    assert page.inner_text("#view-name") == name and "chosen" in other.get_attribute("class")
    page.click(f"tr:has-text('{worst}')")
    assert page.locator(".camera.chosen").get_attribute("aria-label").startswith(worst)
    page.locator(".camera.train circle").first.click()
    assert page.inner_text("#view-name") == worst and "trained on" in page.inner_text("#map-readout")


def test_the_map_works_by_keyboard(page) -> None:
    last = page.locator(".camera[tabindex='0']")
    assert last.count() == 1 and last.get_attribute("data-camera") == "7"
    last.focus()
    page.keyboard.press("ArrowLeft")
    name = page.inner_text("#map-readout").split(",")[0]
    assert page.evaluate("document.activeElement.dataset.camera") == "6" and name == "view_00.png"
    page.keyboard.press("Enter")
    assert page.inner_text("#view-name") == name


def test_the_time_lapse_is_moved_and_played(page) -> None:
    from playwright.sync_api import expect

    frames = data_of_page(page)["timelapse"]
    assert page.inner_text("#lapse-step") == f"Step {STEPS}"
    page.locator("#lapse-at").fill("2")
    assert page.inner_text("#lapse-step") == f"Step {frames[2]['step']}"
    assert page.locator("#lapse").get_attribute("src") == frames[2]["uri"]
    assert page.inner_text("#readout").startswith(f"Step {frames[2]['step']} ")  # the curves follow
    page.locator("#lapse-at").fill(str(len(frames) - 1))
    page.evaluate("window.seen = []; document.addEventListener('lapse', event => window.seen.push(event.detail))")
    page.click("#lapse-play")
    expect(page.locator("#lapse-play")).to_have_attribute("aria-label", "Play the time-lapse", timeout=20_000)
    assert page.inner_text("#lapse-step") == f"Step {STEPS}"
    assert page.evaluate("window.seen") == [*(frame["step"] for frame in frames[:-1]), None]


def data_of_page(page) -> dict:
    return json.loads(page.locator("#data").text_content())


def test_the_large_picture_has_a_slider_of_its_own(page) -> None:
    handle, box = page.locator("#hero-handle"), page.locator("#hero").bounding_box()
    page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + 20)
    assert abs(int(handle.get_attribute("aria-valuenow")) - 80) <= 1
    assert page.locator("#slide-handle").get_attribute("aria-valuenow") == "50"


def test_a_command_is_copied(browser, run: Path, text: str) -> None:
    from playwright.sync_api import expect

    with opened(browser, run / "report.html", permissions=["clipboard-read", "clipboard-write"]) as page:
        page.click(".copy >> nth=0")
        expect(page.locator(".copy").first).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == f"nfc-gs view '{run}'"


def test_marks_stand_where_something_changed(page) -> None:
    changes = data_of_page(page)["curves"]["changes"]
    chart = page.locator("[data-chart=loss]")
    assert chart.locator("text.change").all_text_contents() == [change["mark"] for change in changes]
    first, last = (float(chart.locator("line.change").nth(k).get_attribute("x1")) for k in (0, len(changes) - 1))
    left, right = (float(chart.locator("line.grid").first.get_attribute(name)) for name in ("x1", "x2"))
    for x, change in ((first, changes[0]), (last, changes[-1])):
        assert (x - left) / (right - left) == pytest.approx(change["step"] / STEPS, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone_in_either_scheme(browser, run: Path, text: str, scheme: str) -> None:
    with opened(browser, run / "report.html", color_scheme=scheme) as page:
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 18, 23)"
        assert dark == (scheme == "dark")


def test_without_scripts_the_page_stands(browser, run: Path, text: str) -> None:
    with opened(browser, run / "report.html", java_script_enabled=False) as page:
        assert page.locator("#hero-render").is_visible() and page.locator(".camera.test circle").first.is_visible()
        assert page.locator("#views tbody tr").count() == 2 and not page.locator("#stage").is_visible()
        assert "need JavaScript" in page.inner_text("main")
