"""Where the time of a run went: one bar that is the whole, and a list whose percentages add up to 100."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from nfc_gs.core.text import duration
from nfc_gs.export.report_files import RunFiles, as_mapping, as_number
from nfc_gs.export.report_sections.section import Section, section_of

STAGES = {
    "capture": ("Reading the capture", "#8a6d3b"),
    "start": ("Making the first model", "#b08d4f"),
    "view": ("Waiting for photos", "#9dc3f7"),
    "render": ("Rendering", "#5a9cf0"),
    "loss": ("Loss", "#3f7fdb"),
    "backward": ("Gradients", "#1f5fc4"),
    "optimizer": ("Optimizer", "#17479a"),
    "density": ("Density control", "#0f7a5c"),
    "events": ("Progress display and viewer", "#7a5cc9"),
    "evaluation": ("Measuring held-out views", "#d9772b"),
    "timelapse": ("Time-lapse", "#e0a63c"),
    "saving": ("Checkpoints", "#b54a68"),
    "export": ("Splat and video", "#d47f9a"),
    "other": ("Other", "#8c97a5"),
}
"""Words and color of each stage (`training.clock`), in the order of the bar."""

LEAST = 0.0005
"""A stage with a smaller share is counted to "other"."""


def section(run: RunFiles) -> Section:
    """The stages of `metrics.json`, or, before there is one, of the checkpoint."""
    timings = as_mapping(run.metrics.get("timings")) or as_mapping(run.state.get("timings"))
    stages = _stages(timings)
    if not stages:
        return Section()
    total = sum(seconds for _, _, seconds in stages)
    shares = percentages([seconds for _, _, seconds in stages])
    bar = "".join(
        f'<i style="flex-grow:{seconds / total:.5f};background:{color}" title="{escape(words)}, {share:.1f} %"></i>'
        for (words, color, seconds), share in zip(stages, shares, strict=True)
    )
    ranked = sorted(zip(stages, shares, strict=True), key=lambda entry: -entry[0][2])
    rows = "".join(
        f'<li><i style="background:{color}"></i><span>{escape(words)}</span>'
        f'<span class="value">{duration(seconds)}</span><span class="value">{share:.1f} %</span></li>'
        for (words, color, seconds), share in ranked
    )
    body = (
        '<div class="card times"><div class="whole" role="img" '
        f'aria-label="Shares of the time, listed below">{bar}</div>'
        f"<ul>{rows}</ul>"
        f'<p class="note">Together {duration(total)}, from the beginning of the run to its last measurement; '
        "pauses between interrupted parts do not count.</p></div>"
    )
    return Section(section_of("time", "Where the time went", body))


def _stages(timings: Mapping[str, object]) -> list[tuple[str, str, float]]:
    """(words, color, seconds) of each stage that took any time."""
    given = {str(name): as_number(value) or 0.0 for name, value in timings.items()}
    seconds = {name: value for name, value in given.items() if value > 0.0}
    least = LEAST * sum(seconds.values())
    small = {name for name, value in seconds.items() if value < least}
    kept = {name: value for name, value in seconds.items() if name not in small}
    if small:
        kept["other"] = kept.get("other", 0.0) + sum(seconds[name] for name in small)
    if kept.get("other", 0.0) < least:
        kept.pop("other", None)
    order = [*(name for name in STAGES if name in kept), *(name for name in kept if name not in STAGES)]
    return [(*STAGES.get(name, (name, "#8c97a5")), kept[name]) for name in order]


def percentages(values: Sequence[float]) -> list[float]:
    """Shares of their sum in percent, with one digit after the point, that add up to 100.0 (largest remainders)."""
    exact = [1000.0 * value / sum(values) for value in values]
    whole = [math.floor(value) for value in exact]
    by_rest = sorted(range(len(values)), key=lambda i: whole[i] - exact[i])
    for i in by_rest[: 1000 - sum(whole)]:
        whole[i] += 1
    return [value / 10.0 for value in whole]
