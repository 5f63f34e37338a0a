"""Run folders that nobody has trained, for tests of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

EVIL = "sub/<img src=x onerror=alert(1)>&\"'</script>{{data}}.png"


def data_of(report: Path) -> dict[str, Any]:
    """What the scripts of a report read, by section."""
    text = report.read_text(encoding="utf-8")
    return json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])


def picture(seed: int, height: int = 30, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save_view(run: Path, name: str, truth: np.ndarray, render: np.ndarray) -> None:
    folder = run / "renders" / "test"
    folder.mkdir(parents=True, exist_ok=True)
    stem = name.replace("/", "_").rsplit(".", 1)[0]
    Image.fromarray(truth).save(folder / f"{stem}_truth.png")
    Image.fromarray(render).save(folder / f"{stem}.png")


def fake_run(run: Path, names: tuple[str, ...] = ("b.png", EVIL, "a.png")) -> Path:
    """A run folder with everything in it; the first view is the worst."""
    run.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        truth = picture(i)
        save_view(run, name, truth, (truth // 2 + 40 * i % 90).astype(np.uint8))
    views = [{"name": name, "psnr": 20.0 + i, "ssim": 0.8 + i / 100} for i, name in enumerate(names)]
    metrics = {
        "test": {"psnr": 21.123, "ssim": 0.8123, "views": views},
        "gaussians": 12345,
        "steps": 600,
        "train_seconds": 83.0,
        "device": "cpu <fast>",
        "peak_memory_mb": 512,
        "timings": {"forward": 40.0, "<b>backward": 30.0},
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    rows = [
        {
            "step": s,
            "seconds": s / 10,
            "loss": 1 / s,
            "psnr": 10 + s / 100,
            "gaussians": 5 * s,
            "width": 40,
            "height": 30,
        }
        for s in range(1, 601)
    ]
    tests = [{"step": s, "seconds": s / 10, "test_psnr": 9 + s / 100, "test_ssim": 0.5} for s in (200, 400, 600)]
    (run / "history.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows, *tests]) + "\n")
    (run / "config.yaml").write_text("capture: /x/<i>fox\nseed: 0\ntrain:\n  rates: {means: 1.6e-4, sh: null}\n")
    return run
