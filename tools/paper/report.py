"""Tables, plots and report of `tables.py`, from its files OUT/plan.json and OUT/jobs.

A module of `tables.py`, not a command.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stats import ALL, METRICS, Difference, Result, Summary, mean_and_deviation, summarise, unique, verdict

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write, make_folder, write_text

PLAN_NAME = "plan.json"
REPORT_NAME = "report.html"
TITLES = {"psnr": "test PSNR", "ssim": "SSIM", "lpips": "LPIPS", "train_psnr": "train PSNR", "gap": "gap"}
DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4, "train_psnr": 2, "gap": 2}
LOWER_IS_BETTER = ("lpips",)

METHOD = (
    "Means and standard deviations are over seeds (over captures and seeds where captures are pooled). A difference is "
    "the mean over pairs of the same capture, condition and seed, with the 95 % interval of Student's t; it is called "
    "better or worse where the interval excludes 0. Pooled pairs count as independent, though those of one capture "
    "resemble each other: see the captures one by one, too."
)


# ---- tables -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Title, heads and rows of a table, as text."""

    title: str
    heads: list[str]
    rows: list[list[str]]


@dataclass
class Section:
    """Tables, notes and plot of an experiment."""

    name: str
    about: Mapping[str, Any]
    tables: list[Table]
    notes: list[str]
    plot: bytes | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)
    """The numbers, for the CSV."""


def show(value: float | None, digits: int, deviation: float | None = None) -> str:
    """A number and its deviation."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def show_difference(difference: Difference | None, digits: int, word: str = "") -> str:
    """A difference, its interval, the number of pairs, and a word on it."""
    if difference is None:
        return "-"
    interval = ""
    if difference.low is not None and difference.high is not None:
        interval = f" [{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]"
    return f"{difference.mean:+.{digits}f}{interval} n={difference.pairs} {word}".rstrip()


def quality_tables(summaries: Sequence[Summary], baseline: str) -> list[Table]:
    """One table for each capture, and one for all."""
    metrics = [m for m in METRICS if any(s.mean[m] is not None for s in summaries)]
    compared = [m for m in ("psnr", "ssim", "lpips", "gap") if m in metrics]
    partners = any(s.to_partner for s in summaries)
    tables = []
    for capture in unique(s.capture for s in summaries):
        here = [s for s in summaries if s.capture == capture]
        several = len({s.condition for s in here}) > 1
        heads = [*(["condition"] if several else []), "variant", "n", *(TITLES[m] for m in metrics)]
        heads += [f"{TITLES[m]} to {baseline}" for m in compared]
        heads += ["partner", "test PSNR to partner"] if partners else []
        rows = []
        for s in here:
            row = [*([s.condition] if several else []), s.variant, str(len(s.results))]
            row += [show(s.mean[m], DIGITS[m], s.deviation[m]) for m in metrics]
            for m in compared:
                row.append(_compared(s, s.to_baseline, m))
            if partners:
                row += [s.use["partner"] or "-", _compared(s, s.to_partner, "psnr")]
            rows.append(row)
        tables.append(Table(capture, heads, rows))
    return tables


def _compared(summary: Summary, differences: Mapping[str, Difference | None] | None, metric: str) -> str:
    """The cell of a difference. No verdict on the gap, which is neither good nor bad, nor over all captures, whose
    pairs are not independent of each other."""
    difference = None if differences is None else differences[metric]
    if difference is None or metric == "gap" or summary.capture == ALL:
        return show_difference(difference, DIGITS[metric])
    return show_difference(difference, DIGITS[metric], verdict(difference, metric in LOWER_IS_BETTER))


def cost_tables(summaries: Sequence[Summary], baseline: str) -> list[Table]:
    """Training time, rendering time and size of each variant on each capture."""
    tables = []
    for capture in unique(s.capture for s in summaries if s.capture != ALL):
        here = [s for s in summaries if s.capture == capture]
        base = next((s for s in here if s.variant == baseline), None)
        rows = []
        for s in here:
            row = [s.variant, str(len(s.results))]
            for name, scale in (("train_seconds", 1 / 60), ("render_ms", 1.0)):
                mean, deviation = _moments(s, name, scale)
                reference = None if base is None else _moments(base, name, scale)[0]
                row += [show(mean, 2, deviation), f"{mean / reference:.2f} x" if mean and reference else "-"]
            row.append(show(_moments(s, "gaussians", 1.0)[0], 0))
            row.append("/".join(unique(str(r.record.get("threads") or "GPU") for r in s.results)))
            rows.append(row)
        heads = ["variant", "n", "training, min", f"of {baseline}", "rendering, ms", f"of {baseline}"]
        heads += ["Gaussians", "threads"]
        tables.append(Table(capture, heads, rows))
    return tables


def _moments(summary: Summary, name: str, scale: float) -> tuple[float | None, float | None]:
    return mean_and_deviation([scale * r.record[name] for r in summary.results if r.record.get(name) is not None])


def curve_points(results: Iterable[Result], name: str) -> list[tuple[float, float]]:
    """(progress, mean over results) of a number along the curves."""
    values: dict[float, list[float]] = {}
    for result in results:
        for point in result.record.get("curve") or []:
            if point.get(name) is not None:
                values.setdefault(round(point["progress"], 3), []).append(point[name])
    return [(progress, statistics.fmean(values[progress])) for progress in sorted(values)]


def curve_tables(summaries: Sequence[Summary]) -> list[Table]:
    """Training and test PSNR of all variants over the course of training, for each capture."""
    tables = []
    for capture in unique(s.capture for s in summaries if s.capture != ALL):
        here = [s for s in summaries if s.capture == capture]
        columns = [dict(curve_points(s.results, name)) for s in here for name in ("test_psnr", "train_psnr")]
        heads = ["progress", *(f"{s.variant}, {which}" for s in here for which in ("test", "train"))]
        steps = sorted({progress for column in columns for progress in column})
        rows = [[f"{progress:.1%}", *(show(column.get(progress), 2) for column in columns)] for progress in steps]
        tables.append(Table(f"{capture}: PSNR over the course of training", heads, rows))
    return tables


def csv_lines(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """All numbers of the summaries, one dictionary each."""
    lines = []
    for s in summaries:
        line: dict[str, Any] = {
            "capture": s.capture,
            "condition": s.condition,
            "variant": s.variant,
            "n": len(s.results),
        }
        for m in METRICS:
            line[m], line[f"{m}_std"] = s.mean[m], s.deviation[m]
        for name, differences in (("baseline", s.to_baseline), ("partner", s.to_partner)):
            for m in METRICS:
                difference = None if differences is None else differences[m]
                line[f"{m}_to_{name}"] = None if difference is None else difference.mean
                line[f"{m}_to_{name}_low"] = None if difference is None else difference.low
                line[f"{m}_to_{name}_high"] = None if difference is None else difference.high
                line[f"{m}_to_{name}_pairs"] = 0 if difference is None else difference.pairs
        for name in ("train_seconds", "render_ms", "gaussians"):
            line[name] = _moments(s, name, 1.0)[0]
        lines.append(line)
    return lines


def markdown(section: Section) -> str:
    """A section as Markdown."""
    parts = [f"# {section.name}", section.about["question"], *section.notes]
    for table in section.tables:
        rows = [table.heads, ["---"] * len(table.heads), *table.rows]
        parts.append(f"## {table.title}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows))
    return "\n\n".join(parts) + "\n"


# ---- plots ------------------------------------------------------------------------------------------------------


def pyplot(quiet: bool) -> Any | None:
    """matplotlib's figures without a display, or None, with a sentence, where it is not installed."""
    try:
        import matplotlib  # pyright: ignore[reportMissingImports]

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt  # pyright: ignore[reportMissingImports]
    except ImportError:
        if not quiet:
            print("The plots are left out: matplotlib is not installed; pip install '.[paper]'.", file=sys.stderr)
        return None
    return plt


def draw(plt: Any, about: Mapping[str, Any], summaries: Sequence[Summary]) -> bytes | None:
    """The plot of an experiment as PNG, or None if there is nothing to draw."""
    kind = about["kind"]
    captures = unique(s.capture for s in summaries if s.capture != ALL)
    others = [s for s in summaries if s.to_baseline is not None]
    if kind == "cost" or not summaries or (kind == "differences" and not others):
        return None
    if kind == "differences":
        count = len(unique(s.variant for s in others)) * len(unique(s.capture for s in others))
        figure, axes = plt.subplots(figsize=(7.0, 1.2 + 0.28 * count), layout="constrained")
        _draw_differences(axes, about["baseline"], others)
    else:
        rows = 2 if kind == "lines" else 1
        size = (3.8 * len(captures) + 0.6, 2.6 * rows + 0.8)
        figure, grid = plt.subplots(rows, len(captures), figsize=size, layout="constrained", squeeze=False)
        for column, capture in enumerate(captures):
            here = [s for s in summaries if s.capture == capture]
            if kind == "curves":
                _draw_curves(grid[0][column], here)
            else:
                _draw_lines(grid[0][column], grid[1][column], about, here)
            grid[0][column].set_title(capture)
            if grid[0][column].get_legend_handles_labels()[0]:  # a curve may have no points yet
                grid[0][column].legend(fontsize=8)
            for axes in grid[:, column]:
                axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return buffer.getvalue()


def _draw_differences(axes: Any, baseline: str, others: Sequence[Summary]) -> None:
    """For each variant its difference to the baseline with the interval, one color for each capture."""
    captures, names = unique(s.capture for s in others), unique(s.variant for s in others)
    for number, capture in enumerate(captures):
        places, means, errors = [], [], []
        for s in others:
            difference = s.to_baseline["psnr"] if s.capture == capture and s.to_baseline else None
            if difference is not None:
                places.append(names.index(s.variant) + 0.7 * ((number + 0.5) / len(captures) - 0.5))
                means.append(difference.mean)
                errors.append(0.0 if difference.high is None else difference.high - difference.mean)
        axes.errorbar(means, places, xerr=errors, fmt="o", ms=4, capsize=2, label=capture)
    axes.axvline(0.0, color="0.5", lw=1)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"test PSNR minus that of {baseline}, dB (95 % interval)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)


def _draw_lines(upper: Any, lower: Any, about: Mapping[str, Any], here: Sequence[Summary]) -> None:
    """Test PSNR, and its difference to the baseline, over the axis of the experiment.

    A variant without a place on the axis is a horizontal line.
    """
    for number, series in enumerate(unique(s.use["series"] for s in here)):
        own = [s for s in here if s.use["series"] == series and s.mean["psnr"] is not None]
        placed = sorted((s for s in own if s.use["x"] is not None), key=lambda s: s.use["x"])
        style = {"marker": "o", "ms": 4, "color": f"C{number}"}
        if placed:
            upper.plot([s.use["x"] for s in placed], [s.mean["psnr"] for s in placed], label=series, **style)
        for s in own:
            if s.use["x"] is None:
                upper.axhline(s.mean["psnr"], color=style["color"], ls="--", lw=1, label=series)
        others = [(s.use["x"], d) for s in placed if s.to_baseline and (d := s.to_baseline["psnr"]) is not None]
        if others:
            errors = [0.0 if d.high is None else d.high - d.mean for _, d in others]
            lower.errorbar([x for x, _ in others], [d.mean for _, d in others], yerr=errors, capsize=2, **style)
    lower.axhline(0.0, color="0.5", lw=1)
    for axes in (upper, lower):
        if about["logarithmic"]:
            axes.set_xscale("log")
    lower.set_xlabel(about["axis"])
    upper.set_ylabel("test PSNR, dB")
    lower.set_ylabel(f"minus that of {about['baseline']}, dB")


def _draw_curves(axes: Any, here: Sequence[Summary]) -> None:
    """Test (solid) and training PSNR (dashed) over the course of training."""
    for number, s in enumerate(here):
        for name, style in (("test_psnr", "-"), ("train_psnr", "--")):
            points = curve_points(s.results, name)
            label = f"{s.variant}, {name.partition('_')[0]}"
            axes.plot(*zip(*points, strict=True), style, color=f"C{number}", label=label) if points else None
    axes.set_xlabel("share of the training")
    axes.set_ylabel("PSNR, dB")


# ---- files ------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
.better { color: light-dark(#0a6b2d, #6fd08c); } .worse { color: light-dark(#a3261b, #f0897f); }
.scroll { overflow-x: auto; } .note { opacity: .75; } nav a { margin-right: 1rem; }
img { max-width: 100%; background: #fff; border-radius: 4px; }
"""


def report_html(sections: Sequence[Section]) -> str:
    """All sections as one self-contained page."""
    links = "".join(f'<a href="#{html.escape(s.name)}">{html.escape(s.name)}</a>' for s in sections)
    parts = [f"<nav>{links}</nav>", f'<p class="note">{html.escape(METHOD)}</p>']
    for section in sections:
        name = html.escape(section.name)
        parts.append(f'<h2 id="{name}">{name}: {html.escape(section.about["question"])}</h2>')
        parts += [f'<p class="note">{html.escape(note)}</p>' for note in section.notes]
        if section.plot is not None:
            picture = base64.b64encode(section.plot).decode()
            parts.append(f'<img alt="plot of {name}" src="data:image/png;base64,{picture}">')
        for table in section.tables:
            heads = "".join(f"<th>{html.escape(head)}</th>" for head in table.heads)
            rows = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in table.rows)
            parts.append(f"<h3>{html.escape(table.title)}</h3>")
            parts.append(f'<div class="scroll"><table><tr>{heads}</tr>{rows}</table></div>')
    title = "Regression or classification?"
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title><style>{_STYLE}</style>\n'
        f"<h1>{title}</h1>\n" + "\n".join(parts) + "\n</html>\n"
    )


def _cell(text: str) -> str:
    word = text.rpartition(" ")[2]
    kind = f' class="{word}"' if word in ("better", "worse") else ""
    return f"<td{kind}>{html.escape(text)}</td>"


def read_plan(out: Path) -> dict[str, Any]:
    """OUT/plan.json; an empty plan if there is none. Raises UserError if it is damaged or too old."""
    path = out / PLAN_NAME
    if not path.is_file():
        return {"experiments": {}, "uses": []}
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(plan["experiments"], dict) and all("variant" in use for use in plan["uses"])
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise UserError(
            f"{path} is damaged or of an older version; delete it and run again: finished jobs are kept."
        ) from None
    return plan


def read_results(out: Path, plan: Mapping[str, Any]) -> dict[str, list[Result]]:
    """The finished jobs by experiment, in the order of the plan."""
    records: dict[str, Any] = {}
    results: dict[str, list[Result]] = {name: [] for name in plan["experiments"]}
    for use in plan["uses"]:
        key = use["key"]
        if key not in records:
            try:
                records[key] = json.loads((out / "jobs" / f"{key}.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                records[key] = None
        if records[key] is not None:
            results[use["experiment"]].append(Result(use, records[key]))
    return results


def make_section(name: str, about: Mapping[str, Any], results: Sequence[Result], planned: int) -> Section:
    """Tables and numbers of an experiment."""
    baseline = about["baseline"]
    summaries = summarise(results, baseline)
    settings = unique((r.use["capture"], r.use["common"]) for r in results)
    notes = [*about["notes"], "; ".join(f"{capture}: {common}" for capture, common in settings) + "."]
    if len(results) < planned:
        notes.append(f"{len(results)} of {planned} jobs are done.")
    if about["kind"] == "cost":
        tables = cost_tables(summaries, baseline)
    else:
        tables = quality_tables(summaries, baseline)
        tables += curve_tables(summaries) if about["kind"] == "curves" else []
    return Section(name, about, tables, notes, lines=csv_lines(summaries))


def build_report(out: Path, quiet: bool = False) -> Path:
    """Write tables, plots and report of all finished jobs; returns the path of the report.

    Args:
        quiet: do not print that matplotlib is missing.

    Raises:
        UserError: something cannot be written, or OUT/plan.json is damaged.
    """
    plan = read_plan(out)
    sections, plt = [], pyplot(quiet)
    for name, results in read_results(out, plan).items():
        if not results:
            continue
        about = plan["experiments"][name]
        section = make_section(name, about, results, sum(use["experiment"] == name for use in plan["uses"]))
        write_text(make_folder(out / "tables") / f"{name}.md", markdown(section) + f"\n{METHOD}\n")
        table = io.StringIO()
        writer = csv.DictWriter(table, list(section.lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(section.lines)
        write_text(out / "tables" / f"{name}.csv", table.getvalue())
        section.plot = None if plt is None else draw(plt, about, summarise(results, about["baseline"]))
        if section.plot is not None:
            with atomic_write(make_folder(out / "plots") / f"{name}.png") as temporary:
                temporary.write_bytes(section.plot)
        sections.append(section)
    write_text(out / REPORT_NAME, report_html(sections))
    return out / REPORT_NAME
