"""Curves of the training, with marks where something changed in its course."""

from __future__ import annotations

from html import escape

from nfc_gs.export.report_files import RunFiles
from nfc_gs.export.report_history import read_curves
from nfc_gs.export.report_sections.section import Section, empty, section_of
from nfc_gs.runs.names import HISTORY_NAME

CHARTS = {
    "loss": ("Loss", "Loss over training"),
    "psnr": ("PSNR", "PSNR in decibels over training"),
    "gaussians": ("Number of Gaussians", "Number of Gaussians over training"),
}

SWITCH = (
    '<span class="readout" id="readout"></span>'
    '<span class="switch push" role="group" aria-label="Horizontal axis">'
    '<button type="button" data-axis="step" aria-pressed="true">Steps</button>'
    '<button type="button" data-axis="seconds" aria-pressed="false">Time</button></span>'
)

MARKS = "abcdefghijklmnopqrstuvwxyz"


def section(run: RunFiles) -> Section:
    """Loss, PSNR and number of Gaussians over steps or time; the data are drawn by the script."""
    curves = read_curves(run.folder / HISTORY_NAME)
    if not (curves["train"] or curves["test"]):
        body = empty(f"No history was recorded ({HISTORY_NAME}).")
        return Section(section_of("curves", "Training", body), curves)
    figures = "".join(
        f'<figure class="chart card" data-chart="{key}"><h3>{title}</h3><div class="legend"></div>'
        f'<svg role="img" tabindex="0" aria-label="{label}; arrow keys read values"></svg></figure>'
        for key, (title, label) in CHARTS.items()
    )
    curves["changes"] = [
        {**change, "mark": mark} for mark, change in zip(MARKS, curves["changes"], strict=False)
    ]  # more would not be told apart
    items = "".join(
        f"<li><b>{change['mark']}</b> {escape(change['label'])} <span>step {change['step']:,}</span></li>"
        for change in curves["changes"]
    )
    changes = (
        f'<ul class="changes" aria-label="What changed in the course of the training">{items}</ul>' if items else ""
    )
    return Section(
        section_of("curves", "Training", f'<div class="charts" id="curves">{figures}</div>{changes}', SWITCH), curves
    )
