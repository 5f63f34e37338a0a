"""What the HTML report adds for a scene that moves: its video, PSNR over time, a film strip and the views' times."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from chromium import middle, opened, wait_for
from PIL import Image
from report_runs import fake_run, save_view

from nfc_gs.export.report import write_report
from nfc_gs.export.video import write_video

COUNT = 20
FRAMES = {"start": 100.0, "end": 138.0, "unit": "frames"}
SHADES = np.linspace(20, 220, COUNT).astype(int).tolist()  # of the ground truth, in the order of time


def name_of(k: int) -> str:
    """The name of the k-th view in time; by name they are in the opposite order."""
    return f"v{COUNT - k:02d}.png"


def moving_run(run: Path, axis: dict | None = None) -> Path:
    """A run on a scene that moves: 20 held-out views, evenly in time, the k-th with a PSNR of 20 + k dB."""
    fake_run(run, names=tuple(name_of(k) for k in range(COUNT)))
    views = []
    for k in range(COUNT):
        view = {"name": name_of(k), "psnr": 20.0 + k, "ssim": 0.9, "time": k / (COUNT - 1)}
        views.append(view if k % 2 else {**view, "moving_psnr": 10.0 + k, "moving_pixels": 50})
        truth = np.full((30, 40, 3), SHADES[k], np.uint8)
        save_view(run, name_of(k), truth, 255 - truth)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["test"] = {"psnr": 29.5, "ssim": 0.9, "moving_psnr": 16.25, "time_axis": axis or FRAMES, "views": views}
    (run / "metrics.json").write_text(json.dumps(metrics))
    write_video(run / "renders" / "loop.mp4", (np.full((48, 64, 3), 5 * k, np.uint8) for k in range(24)), 24.0)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read it, do not change it."""
    return moving_run(tmp_path_factory.mktemp("report") / "moving")


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def strip_of(text: str) -> list[tuple[str, list[np.ndarray]]]:
    """Label and pictures of each frame of the film strip."""
    film = text.split('<div class="film"')[1].split("</div>")[0]
    frames = []
    for figure in film.split("<figure>")[1:]:
        uris = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', figure)
        pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) for uri in uris]
        frames.append((re.findall(r"<figcaption>(.*?)</figcaption>", figure)[0], pictures))
    return frames


def test_times_and_moving_parts_are_among_the_numbers(text: str) -> None:
    assert "<dt>Moving PSNR</dt><dd>16.25 <small>dB" in text
    assert "Frame</button>" in text and "Moving (dB)</button>" in text
    row = text.split(f'<td data-value="{name_of(2)}">')[1].split("</tr>")[0]
    assert re.findall(r">([\d.–]+)</td>", row) == ["104", "22.00", "12.00", "0.9000"]
    assert "moving parts 12.00 dB" in text


def test_the_foreground_is_among_the_numbers(tmp_path: Path) -> None:
    folder = moving_run(tmp_path / "run")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["test"]["foreground_psnr"] = 23.5
    for view in metrics["test"]["views"]:
        view["foreground_psnr"] = view["psnr"] - 6.0
    (folder / "metrics.json").write_text(json.dumps(metrics))
    shown = write_report(folder).read_text(encoding="utf-8")
    assert "<dt>Foreground PSNR</dt><dd>23.50 <small>dB" in shown
    row = shown.split(f'<td data-value="{name_of(2)}">')[1].split("</tr>")[0]
    assert re.findall(r">([\d.–]+)</td>", row) == ["104", "22.00", "16.00", "12.00", "0.9000"]
    assert "foreground 16.00 dB" in shown


def test_the_film_strip_goes_evenly_through_time_with_the_truth_above_the_render(text: str) -> None:
    frames = strip_of(text)
    chosen = [0, 3, 5, 8, 11, 14, 16, 19]  # the nearest to eight even steps
    assert [label for label, _ in frames] == [f"frame {100 + 2 * k}" for k in chosen]
    for k, (_, (truth, render)) in zip(chosen, frames, strict=True):
        assert truth.shape == render.shape == (30, 40, 3)
        assert np.abs(truth.astype(int) - SHADES[k]).max() <= 3  # JPEG
        assert np.abs(render.astype(int) - (255 - SHADES[k])).max() <= 3


@pytest.mark.parametrize(
    ("axis", "labels", "column"),
    [
        ({"start": 0.0, "end": 12.5, "unit": "seconds"}, ("0 s", "12.5 s"), "Time (s)"),
        ({"start": 0.0, "end": 1.0, "unit": ""}, ("time 0", "time 1"), "Time"),
        ({"start": 3, "end": 3, "unit": "seconds"}, ("time 0", "time 1"), "Time"),
        ({"start": "<b>", "end": 1.0, "unit": "<b>"}, ("time 0", "time 1"), "Time"),
        ({"start": 0, "end": 2, "unit": "<b>"}, ("time 0", "time 2"), "Time"),
    ],
)
def test_times_are_given_in_the_units_of_the_capture(
    tmp_path: Path, axis: dict, labels: tuple[str, str], column: str
) -> None:
    text = write_report(moving_run(tmp_path / "run", axis)).read_text(encoding="utf-8")
    frames = strip_of(text)
    assert (frames[0][0], frames[-1][0]) == labels
    assert f">{column}</button>" in text and "<b>" not in text.replace("<b>backward", "")


def test_the_strip_is_made_of_the_views_that_have_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = moving_run(tmp_path / "run")
    folder = run / "renders" / "test"
    for k in range(3, COUNT):
        (folder / name_of(k)).unlink()
    (folder / name_of(1)).write_bytes(b"not a picture")
    with caplog.at_level(logging.WARNING, "nfc_gs"):
        frames = strip_of(write_report(run).read_text(encoding="utf-8"))
    assert [label for label, _ in frames] == ["frame 100", "frame 104"]
    assert name_of(1) in caplog.text


def test_what_is_missing_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = moving_run(tmp_path / "run")
    video = run / "renders" / "loop.mp4"
    video.write_bytes(b"no video, but long enough to be looked at")
    with caplog.at_level(logging.WARNING, "nfc_gs"):
        text = write_report(run).read_text(encoding="utf-8")
    assert "<video" not in text and 'data-chart="time"' in text and "loop.mp4" in caplog.text
    video.unlink()
    for path in (run / "renders" / "test").iterdir():
        path.unlink()
    text = write_report(run).read_text(encoding="utf-8")
    assert "<video" not in text and 'class="film"' not in text and 'data-chart="time"' in text
    (run / "metrics.json").unlink()
    assert ">Motion</h2>" not in write_report(run).read_text(encoding="utf-8")


def test_a_video_alone_is_shown(tmp_path: Path) -> None:
    run = moving_run(tmp_path / "run")
    (run / "metrics.json").unlink()
    text = write_report(run).read_text(encoding="utf-8")
    assert "<video" in text and 'data-chart="time"' not in text and 'class="film"' not in text


def test_the_report_of_a_static_scene_has_nothing_of_it(tmp_path: Path) -> None:
    text = write_report(fake_run(tmp_path / "run")).read_text(encoding="utf-8")
    page = text.split("<body>")[1].split('<script type="application/json"')[0]
    assert "Motion" not in page and "<video" not in page and "Moving" not in page and "Time</button></th>" not in page
    assert "motion" not in json.loads(text.split('id="data">')[1].split("</script>")[0])


def test_everything_is_inside_the_file(text: str) -> None:
    sources = re.findall(r"\ssrc=\"([^\"]*)\"", text)
    assert len(sources) == 17 + 2 and all(re.match(r"data:(image/jpeg|video/mp4);base64,", uri) for uri in sources)
    assert "media-src data:" in text and "default-src 'none'" in text


# ---- in a browser ----


@pytest.fixture
def page(browser, run: Path, text: str):
    with opened(browser, run / "report.html") as page:
        yield page


def test_the_curve_is_read_out_under_the_mouse_in_the_order_of_time(page) -> None:
    values = page.locator("[data-chart=time] .legend b")
    assert values.all_text_contents() == ["29.50 dB on average", "16.25 dB together"]
    assert page.locator("[data-chart=time] svg circle").count() == COUNT + COUNT // 2 + 2  # two follow the mouse
    labels = page.locator("[data-chart=time] svg text").all_text_contents()
    assert "110" in labels and "130" in labels
    page.mouse.move(*middle(page, "[data-chart=time] svg"))
    frame = int(re.search(r"frame (\d+)", page.inner_text("#time-readout")).group(1))  # type: ignore[union-attr]
    assert 114 <= frame <= 124
    k = (frame - 100) // 2
    assert name_of(k) in page.inner_text("#time-readout")
    assert values.all_text_contents() == [f"{20 + k}.00 dB", "" if k % 2 else f"{10 + k}.00 dB"]
    assert page.inner_text("#readout").startswith("Step 600")


def needs_h264(page) -> None:
    if not page.evaluate("document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.42E01E\"')"):
        pytest.skip("this Chromium plays no H.264")


def test_the_video_plays_by_itself_without_sound_and_over_and_over(page) -> None:
    needs_h264(page)
    wait_for(page, "document.getElementById('loop').currentTime > 0")
    assert page.locator("#loop").evaluate("v => [v.paused, v.muted, v.loop, v.controls]") == [False, True, True, True]
    assert page.locator("#loop").evaluate("v => [v.videoWidth, v.videoHeight, v.duration]") == [64, 48, 1]


def test_the_video_waits_for_whoever_wants_less_motion(browser, run: Path, text: str) -> None:
    with opened(browser, run / "report.html", reduced_motion="reduce") as page:
        needs_h264(page)
        wait_for(page, "document.getElementById('loop').readyState >= 2")
        assert page.locator("#loop").evaluate("v => [v.paused, v.currentTime]") == [True, 0]


def test_motion_is_no_wider_than_a_phone_and_the_strip_scrolls_inside(page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    inside, shown = page.locator(".film").evaluate("e => [e.scrollWidth, e.clientWidth]")
    assert inside > 2 * shown and shown < 390
    assert page.locator(".film img").first.bounding_box()["width"] >= 110
