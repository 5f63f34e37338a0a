"""The HTML report: what it says, that it asks nothing of the network, and that it works in a browser."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chromium import middle, opened, wait_for
from PIL import Image
from report_runs import EVIL, data_of, fake_run, picture, save_view
from tiny_scenes import ImagesInMemory, tiny_config, tiny_scene

from nfc_gs.core.errors import UserError
from nfc_gs.export.report import write_report
from nfc_gs.export.report_files import read_views
from nfc_gs.export.report_history import read_curves
from nfc_gs.export.report_pictures import color_error, picture_files
from nfc_gs.results import finish
from nfc_gs.runs.metrics import read_metrics
from nfc_gs.training.trainer import Trainer

KINDS = ("truth", "render", "error")


def test_the_report_shows_the_numbers_the_views_the_timings_and_the_config(tmp_path: Path) -> None:
    path = write_report(fake_run(tmp_path / "my run"))
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "my run" / "report.html"
    for words in ("<h1>my run</h1>", "21.12 <small>dB", "0.8123", "12,345", "1 min 23 s", "512 <small>MB"):
        assert words in text
    for words in ("a.png", "b.png", "22.00", "0.8200", "train", "rates: {means", "forward", "cpu &lt;fast&gt;"):
        assert words in text
    assert text.count("data:image/jpeg;base64,") == 9 + 2  # three of each view, and the two at the top


def test_the_report_asks_nothing_of_the_network(tmp_path: Path) -> None:
    text = write_report(fake_run(tmp_path, names=("a.png", "b.png"))).read_text(encoding="utf-8")
    bare = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?://|//[a-z0-9.-]+\.[a-z]{2,}/|@import|url\((?!#)|<script[^>]+src", bare)
    assert set(re.findall(r"\ssrc\s*=\s*[\"'][^\"']*[\"']", bare)) == {' src=""'}  # what was cut out above
    links = re.findall(r"href=\"([^\"]*)\"", bare)
    assert links == ["data:,", "#h-views", "renders/", "metrics.json", "config.yaml", "history.jsonl"]
    assert "default-src 'none'" in bare


def test_names_and_settings_cannot_inject_html(tmp_path: Path) -> None:
    text = write_report(fake_run(tmp_path)).read_text(encoding="utf-8")
    for piece in ("<img src=x", "<b>backward", "<i>fox", "<fast>"):
        assert piece not in text
    assert text.count("</script>") == 2  # the data's and the script's own
    block = text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    assert EVIL in [view["name"] for view in json.loads(block)["views"]]


def test_an_empty_run_and_a_run_of_garbage_still_give_a_report(tmp_path: Path, caplog) -> None:
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Nothing has been trained here yet" in text and "No view was held out" in text and "No history" in text
    (tmp_path / "metrics.json").write_text('{"test": {"psnr": NaN, "views": [3, {"name": 5}, {}]}, "steps": "many"')
    (tmp_path / "history.jsonl").write_bytes(
        b'\xff\x00\n[1]\n{"step": 1}\n{"step": 3, "seconds": 1, "loss": NaN}\n{"st'
    )
    (tmp_path / "config.yaml").write_text("a: !!python/object:os.system {x: <b>}\n")
    with caplog.at_level(logging.WARNING, "nfc_gs"):
        text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "metrics.json" in caplog.text and "x: &lt;b&gt;" in text
    (tmp_path / "metrics.json").write_text('{"test": {"psnr": null, "views": [{"name": 5}, {}]}, "steps": 3}')
    assert '<td data-value="5">5</td>' in write_report(tmp_path).read_text(encoding="utf-8")


def test_however_large_the_pictures_the_report_is_not(tmp_path: Path) -> None:
    names = tuple(f"{letter}.png" for letter in "abcdef")
    run = fake_run(tmp_path / "run", names)
    for i, name in enumerate(names):
        save_view(run, name, picture(i, 600, 700), picture(50 + i, 600, 700))  # noise: as large as pictures get
    report = write_report(run)
    shown = [view["name"] for view in data_of(report)["views"]]
    assert shown[:2] == ["a.png", "f.png"] and len(shown) < 6
    assert report.stat().st_size < 6_000_000 and f"Pictures of {len(shown)} of 6" in report.read_text()


def test_views_that_could_not_be_measured_do_not_take_the_place_of_the_best(tmp_path: Path) -> None:
    names = tuple(f"{i:02d}.png" for i in range(24))
    run = fake_run(tmp_path / "run", names)
    metrics = json.loads((run / "metrics.json").read_text())
    for row in metrics["test"]["views"][12:]:
        row["psnr"] = None
    (run / "metrics.json").write_text(json.dumps(metrics))
    shown = [view["name"] for view in data_of(write_report(run))["views"]]
    assert set(shown) >= set(names[:12])


def test_views_whose_names_clash_show_their_own_pictures(tmp_path: Path) -> None:
    scene = tiny_scene()
    names = ("a/b.png", "a_b.png", "d.png", "d_truth.png")
    views = tuple(replace(view, name=name) for view, name in zip(scene.views, names, strict=False))
    views = (*views, *scene.views[4:])
    photos = {view.name: scene.image(index) for index, view in enumerate(views)}
    scene = replace(scene, views=views, images=ImagesInMemory(photos)).with_split((4, 5, 6, 7), (0, 1, 2, 3))
    trainer = Trainer(scene, tiny_config(steps=2), tmp_path / "run", capture="tiny")
    trainer.train()
    finish(trainer)
    for index, view in enumerate(read_views(tmp_path / "run", read_metrics(tmp_path / "run")["test"])):
        files = picture_files(tmp_path / "run" / "renders" / "test", view.stem)
        assert view.name == names[index] and files is not None
        assert np.array_equal(np.asarray(Image.open(files[0])), scene.image(index).rgb)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"test": {"psnr": 1' + "0" * 400 + '}, "steps": 1' + "0" * 400 + "}",
        '{"timings": {"a": 1e308, "b": 1e308}}',
    ],
)
def test_odd_metrics_stop_no_report(content: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(content)
    assert write_report(tmp_path).is_file()


def test_a_missing_run_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        write_report(tmp_path / "none")


def test_pictures_without_metrics_are_shown_and_broken_ones_left_out(tmp_path: Path, caplog) -> None:
    save_view(tmp_path, "a.png", picture(0), picture(1))
    save_view(tmp_path, "b.png", picture(0), picture(1, height=31))
    save_view(tmp_path, "c.png", picture(0), picture(1))
    (tmp_path / "renders" / "test" / "c.png").write_bytes(b"not a picture")
    with caplog.at_level(logging.WARNING, "nfc_gs"):
        views = read_views(tmp_path, {})
    assert [(view.name, bool(view.pictures)) for view in views] == [("a", True), ("b", False), ("c", False)]
    assert "differ in size" in caplog.text and "c.png" in caplog.text


def test_a_large_capture_embeds_few_views_with_the_worst_and_the_best_among_them(tmp_path: Path) -> None:
    names = [f"{i:03d}.png" for i in range(60)]
    for name in names:
        save_view(tmp_path, name, picture(0, 6, 1000), picture(1, 6, 1000))
    psnrs = np.random.default_rng(0).permutation(60).astype(float)
    test = {"views": [{"name": name, "psnr": psnr} for name, psnr in zip(names, psnrs, strict=True)]}
    views = read_views(tmp_path, test)
    shown = [view for view in views if view.pictures]
    assert len(views) == 60 and len(shown) == 16
    assert {0.0, 1.0, 58.0, 59.0} <= {view.psnr for view in shown}
    sizes = {kind: {(view.pictures[kind].width, view.pictures[kind].height) for view in shown} for kind in KINDS}
    assert sizes == {"truth": {(960, 6)}, "render": {(960, 6)}, "error": {(480, 3)}}


def test_the_error_picture_shows_the_mean_absolute_error_on_the_stated_scale(tmp_path: Path) -> None:
    scale = color_error(np.array([[0.0, 0.125, 0.25, 0.9]]))
    assert scale[0, 0].tolist() == [0, 0, 4] and scale[0, 2].tolist() == [252, 255, 164]
    assert scale[0, 3].tolist() == scale[0, 2].tolist() and scale[0].sum(axis=1)[1] not in scale[0].sum(axis=1)[[0, 2]]
    truth = np.full((16, 16, 3), 100, np.uint8)
    save_view(tmp_path, "a.png", truth, truth + np.array([30, 0, 60], np.uint8))
    uri = read_views(tmp_path, {})[0].pictures["error"].uri
    got = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    expected = color_error(np.array([[30 / 255]]))[0, 0].astype(int)
    assert np.abs(got.astype(int) - expected).max() <= 4  # JPEG


def test_curves_are_thinned_smoothed_and_forget_what_a_resumed_run_did_again(tmp_path: Path) -> None:
    def row(step: int, loss: float) -> str:
        return json.dumps({"step": step, "seconds": step, "loss": loss, "psnr": 20, "gaussians": step})

    lines = [row(s, 9.0) for s in range(1, 2001)] + [row(s, 1.0 + (-1) ** s / 2) for s in range(501, 3001)]
    (tmp_path / "history.jsonl").write_text("\n".join(lines))
    train = read_curves(tmp_path / "history.jsonl")["train"]
    assert len(train["step"]) == 400 and train["step"][-1] == 3000 and train["step"] == sorted(train["step"])
    after = [loss for step, loss in zip(train["step"], train["loss_smooth"], strict=True) if step > 800]
    assert max(after) < 1.1 and min(after) > 0.9
    assert read_curves(tmp_path / "history.jsonl")["test"] is None


# ---- in a browser ----


@pytest.fixture
def page(browser, tmp_path: Path):
    """The fake run's report in a browser."""
    with opened(browser, write_report(fake_run(tmp_path / "run"))) as page:
        yield page


def test_the_slider_follows_the_mouse_and_the_keys(page) -> None:
    handle = page.locator("#slide-handle")
    x, y = middle(page, "#slide")
    width = page.locator("#slide").bounding_box()["width"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + width / 4, y)
    page.mouse.up()
    assert abs(int(handle.get_attribute("aria-valuenow")) - 75) <= 1
    assert page.locator("#slide-render").evaluate("e => getComputedStyle(e).clipPath").startswith("inset(0px 0px 0px 7")
    page.mouse.move(x, y)
    assert abs(int(handle.get_attribute("aria-valuenow")) - 75) <= 1  # let go
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert handle.get_attribute("aria-valuenow") == "2"


def test_the_curves_are_drawn_and_read_out_under_the_mouse(page) -> None:
    for name in ("loss", "psnr", "gaussians"):
        chart = page.locator(f"[data-chart={name}]")
        assert len(chart.locator("path:not(.raw)").first.get_attribute("d")) > 200
        assert chart.locator("text").count() >= 5
    assert "Step 600" in page.inner_text("#readout")
    page.mouse.move(*middle(page, "[data-chart=gaussians] svg"))
    step = int(re.search(r"Step (\d+)", page.inner_text("#readout")).group(1))  # type: ignore[union-attr]
    assert 240 < step < 400
    shown = page.inner_text("[data-chart=gaussians] .legend b")
    assert int(shown.replace(",", "")) == 5 * step
    assert page.locator("[data-chart=loss] .cross").get_attribute("visibility") == "visible"
    page.click("[data-axis=seconds]")
    labels = page.locator("[data-chart=psnr] svg text").all_text_contents()
    assert "0 s" in labels and "30 s" in labels


def test_a_click_in_the_table_chooses_the_view(page) -> None:
    assert page.inner_text("#view-name") == "b.png"  # the worst is shown first
    before = page.locator("#image-truth").get_attribute("src")
    page.click("tr:has-text('a.png')")
    assert page.inner_text("#view-name") == "a.png" and "PSNR 22.00 dB" in page.inner_text("#view-metrics")
    assert page.locator("#image-truth").get_attribute("src") != before
    assert page.locator("tr.chosen").inner_text().startswith("a.png")
    size = page.locator("#slide-render").evaluate("e => [e.naturalWidth, e.naturalHeight]")
    assert size == [40, 30]
    page.click("#next")
    assert page.inner_text("#view-name") == EVIL


def test_the_table_sorts_by_any_column(page) -> None:
    def first() -> str:
        return page.locator("#views tbody tr").first.inner_text()

    page.click("th button:has-text('PSNR')")
    assert first().startswith("b.png")
    page.click("th button:has-text('PSNR')")
    assert first().startswith("a.png")
    page.click("th button:has-text('View')")
    assert first().startswith("a.png")


def test_nothing_is_wider_than_a_phone(page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.click("summary")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    width = page.locator("[data-chart=loss] svg").bounding_box()["width"]
    assert 250 < width < 390
    wait_for(page, f"document.querySelector('svg').getAttribute('viewBox').startsWith('0 0 {width:g} ')")
