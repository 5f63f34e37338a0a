"""A run as one HTML file that loads nothing else: numbers, curves, pictures, settings."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nfc_gs.core import colormap
from nfc_gs.core.errors import UserError
from nfc_gs.core.files import write_text
from nfc_gs.core.text import duration
from nfc_gs.data.scene import TimeAxis
from nfc_gs.export.report_data import (
    ViewResult,
    as_mapping,
    as_number,
    middle_view,
    read_curves,
    read_json,
    read_time_axis,
    read_views,
    read_yaml,
)
from nfc_gs.export.report_motion import motion_data, motion_section
from nfc_gs.runs.names import CONFIG_NAME, HISTORY_NAME, METRICS_NAME, REPORT_NAME

log = logging.getLogger("nfc_gs")


def write_report(run: Path | str) -> Path:
    """Write the report of a run into its folder, from the files that are there (`runs.names`).

    Read are the settings, the metrics, the history, of each held-out view `<view>.png` with `<view>_truth.png`, and the
    loop video; what is missing or unreadable is left out of the report. In large captures only some views get pictures,
    the best and the worst among them.

    Returns:
        The path of the report.

    Raises:
        UserError: there is no such folder, or the report cannot be written.
    """
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"There is no run folder {run}; check the path.")
    metrics = read_json(run / METRICS_NAME)
    test = as_mapping(metrics.get("test"))
    views, axis = read_views(run, test), read_time_axis(test)
    shown = [view for view in views if view.pictures]
    curves = read_curves(run / HISTORY_NAME)
    motion = motion_data(views, axis, test)
    data = {
        "curves": curves,
        "motion": motion,
        "views": [{"name": v.name, "metrics": _sentence(v), **v.pictures} for v in shown],
        "first": middle_view(shown),
    }
    folder = Path(__file__).with_name("report_page")
    parts = {
        "title": escape(run.resolve().name),
        "subtitle": _subtitle(run, metrics),
        "tiles": _tiles(metrics, test, curves),
        "curves": _curves_section(curves),
        "motion": motion_section(run, views, axis, has_curve=motion is not None),
        "views": _views_section(views, shown, axis),
        "timings": _timings_section(metrics.get("timings")),
        "config": _config_section(run / CONFIG_NAME),
        "footer": "Written by nfc-gs. Pictures are JPEGs for display; the numbers were measured on the full images.",
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "style": (folder / "style.css").read_text(encoding="utf-8"),
        "script": "".join((folder / name).read_text(encoding="utf-8") for name in ("charts.js", "script.js")),
    }
    write_text(run / REPORT_NAME, _fill((folder / "page.html").read_text(encoding="utf-8"), parts))
    return run / REPORT_NAME


def _fill(template: str, parts: Mapping[str, str]) -> str:
    """The template with each {{name}} replaced, once: what is put in is not searched for further names."""
    pieces = template.split("{{")
    out = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        out += [parts[name], rest]
    return "".join(out)


# ---- writing; every string from the run goes through `escape` ----


def _fixed(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _sentence(view: ViewResult) -> str:
    """The numbers of a view in one line."""
    numbers = [(view.psnr, "PSNR {:.2f} dB"), (view.ssim, "SSIM {:.4f}"), (view.lpips, "LPIPS {:.4f}")]
    numbers.append((view.moving_psnr, "moving parts {:.2f} dB"))
    return " · ".join(form.format(value) for value, form in numbers if value is not None)


def _subtitle(run: Path, metrics: Mapping[str, Any]) -> str:
    config = as_mapping(read_yaml(run / CONFIG_NAME))
    words = [config.get("capture"), metrics.get("device")]
    text = " · ".join(escape(str(word)) for word in words if isinstance(word, (str, int, float)))
    return f'<p class="muted">{text}</p>' if text else ""


def _tiles(metrics: Mapping[str, Any], test: Mapping[str, Any], curves: Mapping[str, Any]) -> str:
    """The headline numbers."""
    rate = None
    steps, seconds = as_number(metrics.get("steps")), as_number(metrics.get("train_seconds"))
    if steps and seconds:
        rate = steps / seconds
    kinds = [
        ("Test PSNR", as_number(test.get("psnr")), lambda v: f"{v:.2f} <small>dB</small>"),
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
        return f'<dl class="tiles">{"".join(tiles)}</dl>'
    state = "Training has not ended yet" if curves["train"] else "Nothing has been trained here yet"
    return f'<section class="card empty">{state}: there are no final numbers ({METRICS_NAME}).</section>'


def _curves_section(curves: Mapping[str, Any]) -> str:
    head = '<section aria-labelledby="h-curves"><div class="heading"><h2 id="h-curves">Training</h2>'
    if not (curves["train"] or curves["test"]):
        return head + f'</div><p class="card empty">No history was recorded ({HISTORY_NAME}).</p></section>'
    titles = {
        "loss": ("Loss", "Loss over training"),
        "psnr": ("PSNR", "PSNR in decibels over training"),
        "gaussians": ("Number of Gaussians", "Number of Gaussians over training"),
    }
    figures = "".join(
        f'<figure class="chart card" data-chart="{key}"><h3>{title}</h3><div class="legend"></div>'
        f'<svg role="img" tabindex="0" aria-label="{label}; arrow keys read values"></svg></figure>'
        for key, (title, label) in titles.items()
    )
    return (
        f'{head}<span class="readout" id="readout"></span>'
        '<span class="switch push" role="group" aria-label="Horizontal axis">'
        '<button type="button" data-axis="step" aria-pressed="true">Steps</button>'
        '<button type="button" data-axis="seconds" aria-pressed="false">Time</button></span></div>'
        f'<div class="charts" id="curves">{figures}</div></section>'
    )


_STAGE = """
<div class="stage card">
  <div class="heading">
    <h3 id="view-name"></h3><span class="muted" id="view-metrics" aria-live="polite"></span>
    <span class="pager push">
      <span class="muted" id="view-count"></span>
      <button type="button" id="previous" aria-label="Previous view">&#8592;</button>
      <button type="button" id="next" aria-label="Next view">&#8594;</button>
    </span>
  </div>
  <div class="pictures wide" id="pictures">
    <figure class="compare">
      <div class="slider" id="slider">
        <img id="slide-truth" alt="" draggable="false"><img id="slide-render" alt="" draggable="false">
        <span class="tag left">Ground truth</span><span class="tag right">Render</span>
        <div class="handle" id="handle" role="slider" tabindex="0" aria-label="Divide ground truth and render"
             aria-valuemin="0" aria-valuemax="100" aria-valuenow="50"></div>
      </div>
      <figcaption>Drag to compare</figcaption>
    </figure>
    <figure><img id="image-truth" alt=""><figcaption>Ground truth</figcaption></figure>
    <figure><img id="image-render" alt=""><figcaption>Render</figcaption></figure>
    <figure><img id="image-error" alt=""><figcaption>Absolute error, mean of the channels
      <span class="scale">0<i style="background:GRADIENT"></i>SCALE</span></figcaption></figure>
  </div>
</div>
"""


def _views_section(views: Sequence[ViewResult], shown: Sequence[ViewResult], axis: TimeAxis) -> str:
    head = '<section aria-labelledby="h-views"><div class="heading"><h2 id="h-views">Held-out views</h2></div>'
    if not views:
        return head + '<p class="card empty">No view was held out, so there is nothing to compare.</p></section>'
    gradient = f"linear-gradient(90deg, {', '.join(colormap.gradient(colormap.ERROR_MAP))})"
    stage = (
        _STAGE.replace("GRADIENT", gradient).replace("SCALE", f"&#8805;&nbsp;{colormap.ERROR_FULL}") if shown else ""
    )
    note = ""
    if len(shown) < len(views):
        which = "the worst and the best among them" if shown else "their files are missing"
        note = f'<p class="note">Pictures of {len(shown)} of {len(views)} views are shown, {which}.</p>'
    return head + stage + _views_table(views, shown, axis) + note + "</section>"


def _views_table(views: Sequence[ViewResult], shown: Sequence[ViewResult], axis: TimeAxis) -> str:
    when, digits = {"frames": ("Frame", 0), "seconds": ("Time (s)", 3)}.get(axis.unit, ("Time", 3))
    kinds = [(when, "time", digits), ("PSNR (dB)", "psnr", 2), ("Moving (dB)", "moving_psnr", 2)]
    kinds += [("SSIM", "ssim", 4), ("LPIPS", "lpips", 4)]
    kinds = [kind for kind in kinds if any(getattr(view, kind[1]) is not None for view in views)]
    heads = "".join(f'<th scope="col"><button type="button">{label}</button></th>' for label, _, _ in kinds)
    psnrs = [view.psnr for view in views if view.psnr is not None]
    worst, best = (min(psnrs), max(psnrs)) if len(psnrs) > 1 else (None, None)
    rows = []
    for view in views:
        badge = "worst" if view.psnr == worst else "best" if view.psnr == best else ""
        badge = f'<span class="badge">{badge}</span>' if badge and view.psnr is not None else ""
        name = escape(view.name)
        place = next((i for i, other in enumerate(shown) if other is view), None)
        label = name if place is None else f'<button type="button" aria-pressed="false">{name}</button>'
        cells = "".join(
            f'<td data-value="{"" if value is None else value}">{_fixed(value, digits)}</td>'
            for value, digits in ((getattr(view, key), digits) for _, key, digits in kinds)
        )
        attribute = "" if place is None else f' data-view="{place}"'
        rows.append(f'<tr{attribute}><td data-value="{name}">{label}{badge}</td>{cells}</tr>')
    return (
        '<div class="scroll card" tabindex="0" role="region" aria-label="Numbers of each view">'
        '<table id="views"><thead><tr>'
        f'<th scope="col" aria-sort="ascending"><button type="button">View</button></th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _timings_section(timings: Any) -> str:
    """Seconds by stage as bars, the longest first."""
    seconds = {
        str(name): number for name, value in as_mapping(timings).items() if (number := as_number(value)) is not None
    }
    total = sum(seconds.values())
    if total <= 0:
        return ""
    longest = max(seconds.values())
    bars = "".join(
        f"<span>{escape(name)}</span>"
        f'<span class="track"><i style="width:{100 * max(value, 0) / longest:.1f}%"></i></span>'
        f'<span class="value">{duration(value)} · {100 * value / total:.0f} %</span>'
        for name, value in sorted(seconds.items(), key=lambda item: -item[1])
    )
    return (
        '<section aria-labelledby="h-time"><div class="heading"><h2 id="h-time">Where the time went</h2></div>'
        f'<div class="bars card">{bars}</div></section>'
    )


def _config_section(path: Path) -> str:
    config = read_yaml(path)
    if not config:
        return ""
    if isinstance(config, dict):
        plain = {key: value for key, value in config.items() if not (isinstance(value, dict) and value)}
        groups = {"General": plain} if plain else {}
        groups |= {str(key): value for key, value in config.items() if key not in plain}
        body = f'<div class="groups">{"".join(_config_group(name, group) for name, group in groups.items())}</div>'
    else:
        body = f"<pre>{escape(str(config))}</pre>"
    return f'<section><details class="card"><summary>Configuration</summary>{body}</details></section>'


def _config_group(name: str, group: Mapping[Any, Any]) -> str:
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in _flatten("", group, depth=0))
    return f'<div class="group"><h3>{escape(name)}</h3><dl>{rows}</dl></div>'


def _flatten(prefix: str, group: Mapping[Any, Any], depth: int) -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value) pairs."""
    rows = []
    for key, value in group.items():
        if isinstance(value, dict) and value and depth < 8:
            rows += _flatten(f"{prefix}{key}.", value, depth + 1)
        else:
            words = {None: "none", True: "yes", False: "no"}
            text = words.get(value) if value is None or isinstance(value, bool) else None
            rows.append((f"{prefix}{key}", text or str(value)))
    return rows
