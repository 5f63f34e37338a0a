"""What a notebook shows of a run: pictures, figures, links; all escaped, and nothing fails for want of a photo."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_scenes import blobs, tiny_scene

from nfc_gs.export.notebook import run_card, view_pictures
from nfc_gs.model.radiance import RenderOptions
from nfc_gs.runs.names import REPORT_NAME, SPLAT_NAME

OPTIONS = RenderOptions(backend="torch")


def test_a_held_out_view_is_shown_beside_its_photo() -> None:
    scene = tiny_scene()
    (drawn, picture), (photo, truth) = view_pictures(blobs(12), scene, OPTIONS)
    assert (drawn, photo) == ("view_00.png, rendered", "view_00.png, photo")
    np.testing.assert_array_equal(truth, scene.image(scene.test[0]).rgb)
    np.testing.assert_array_equal(picture, truth)  # these Gaussians are what the photos were drawn from


def test_without_photos_and_without_held_out_views_there_is_still_a_picture() -> None:
    scene = tiny_scene()
    assert [name for name, _ in view_pictures(blobs(12), replace(scene, images=None), OPTIONS)] == [
        "view_00.png, rendered"
    ]
    all_train = scene.with_split(range(len(scene.views)), ())
    assert len(view_pictures(blobs(12), all_train, OPTIONS)) == 2


def test_the_card_holds_pictures_figures_the_sentence_and_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("runs") / "my <b>& run"
    folder.mkdir(parents=True)
    (folder / REPORT_NAME).write_text("")
    picture = np.zeros((600, 900, 3), np.uint8)
    html = run_card(folder, [("<i>a.png", picture)], [("Test PSNR", "28.9 dB & more")], "good: <fine>")
    (encoded,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (480, 320)
    assert ">Test PSNR</th><td>28.9 dB &amp; more</td>" in html and "<p>Good: &lt;fine&gt;</p>" in html
    assert "<i>" not in html and "<b>" not in html and "my &lt;b&gt;&amp; run" in html
    assert re.findall(r'href="([^"]+)"', html) == ["runs/my%20%3Cb%3E%26%20run/report.html"], "no splat, no link"


def test_links_to_a_run_elsewhere_are_addresses_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / SPLAT_NAME).write_text("")
    assert f'href="{(tmp_path / SPLAT_NAME).resolve().as_uri()}"' in run_card(tmp_path, [], [], "")
