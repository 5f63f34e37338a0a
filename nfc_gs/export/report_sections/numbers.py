"""The headline numbers of the report."""

from __future__ import annotations

from nfc_gs.core.text import duration
from nfc_gs.export.report_files import RunFiles, as_number
from nfc_gs.export.report_sections.section import Section, empty
from nfc_gs.runs.names import METRICS_NAME


def section(run: RunFiles) -> Section:
    """A tile for each number that there is."""
    metrics, test = run.metrics, run.test
    steps, seconds = as_number(metrics.get("steps")), as_number(metrics.get("train_seconds"))
    rate = steps / seconds if steps and seconds else None
    kinds = [
        ("Test PSNR", as_number(test.get("psnr")), lambda v: f"{v:.2f} <small>dB</small>"),
        ("Foreground PSNR", as_number(test.get("foreground_psnr")), lambda v: f"{v:.2f} <small>dB</small>"),
        ("Moving PSNR", as_number(test.get("moving_psnr")), lambda v: f"{v:.2f} <small>dB</small>"),
        ("Test SSIM", as_number(test.get("ssim")), lambda v: f"{v:.4f}"),
        ("Test LPIPS", as_number(test.get("lpips")), lambda v: f"{v:.4f}"),
        ("Gaussians", as_number(metrics.get("gaussians")), lambda v: f"{v:,.0f}"),
        ("Steps", steps, lambda v: f"{v:,.0f}"),
        ("Training time", seconds, duration),
        ("Speed", rate, lambda v: f"{v:.1f} <small>steps/s</small>" if v < 100 else f"{v:.0f} <small>steps/s</small>"),
        ("Peak memory", as_number(metrics.get("peak_memory_mb")), lambda v: f"{v:,.0f} <small>MB</small>"),
    ]
    tiles = [
        f'<div class="tile card{" main" if label == "Test PSNR" else ""}"><dt>{label}</dt><dd>{form(value)}</dd></div>'
        for label, value, form in kinds
        if value is not None
    ]
    if tiles:
        return Section(f'<dl class="tiles">{"".join(tiles)}</dl>')
    state = "Training has not ended yet" if run.steps else "Nothing has been trained here yet"
    return Section(f"<section>{empty(f'{state}: there are no final numbers ({METRICS_NAME}).')}</section>")
