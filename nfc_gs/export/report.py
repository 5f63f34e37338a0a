"""A run as one HTML file that loads nothing else: pictures, numbers, curves, cameras, settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import write_text
from nfc_gs.export.report_files import RunFiles
from nfc_gs.export.report_sections import (
    camera_map,
    curves,
    files,
    hero,
    model,
    motion,
    numbers,
    settings,
    timelapse,
    times,
    views,
)
from nfc_gs.export.report_sections.section import Section
from nfc_gs.runs.names import REPORT_NAME

SECTIONS: dict[str, Callable[[RunFiles], Section]] = {
    "hero": hero.section,
    "numbers": numbers.section,
    "files": files.section,
    "timelapse": timelapse.section,
    "curves": curves.section,
    "motion": motion.section,
    "map": camera_map.section,
    "views": views.section,
    "model": model.section,
    "times": times.section,
    "settings": settings.section,
}
"""By their names in `report_page/page.html`; the scripts find a section's data under its name."""

SCRIPTS = ("charts.js", "curves.js", "views.js", "map.js", "timelapse.js", "start.js")

FOOTER = "Written by nfc-gs. Pictures are JPEGs for display; the numbers were measured on the full images."


def write_report(run: Path | str) -> Path:
    """Write the report of a run into its folder, from the files that are there (`runs.names`).

    What is missing or unreadable is left out. In large captures only some views get pictures, the best and the worst
    among them.

    Returns:
        The path of the report.

    Raises:
        UserError: there is no such folder, or the report cannot be written.
    """
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"There is no run folder {run}; check the path.")
    found = RunFiles.read(run)
    sections = {name: section(found) for name, section in SECTIONS.items()}
    page = Path(__file__).with_name("report_page")
    data = {name: section.data for name, section in sections.items() if section.data is not None}
    parts = {
        "title": escape(run.resolve().name),
        **{name: section.html for name, section in sections.items()},
        "footer": FOOTER,
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "style": (page / "style.css").read_text(encoding="utf-8"),
        "script": "".join((page / name).read_text(encoding="utf-8") for name in SCRIPTS),
    }
    text = _fill((page / "page.html").read_text(encoding="utf-8"), parts)
    text = text.encode("utf-8", "replace").decode()  # JSON can spell half of a surrogate pair
    write_text(run / REPORT_NAME, text)
    return run / REPORT_NAME


def _fill(template: str, parts: Mapping[str, str]) -> str:
    """The template with each {{name}} replaced, once: what is put in is not searched for further names."""
    pieces = template.split("{{")
    out = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        out += [parts[name], rest]
    return "".join(out)
