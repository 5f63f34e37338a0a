"""What every section of the report is, and what several of them write alike."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from nfc_gs.export.report_pictures import Picture


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        html: every string of the run in it has gone through `escape`.
        data: what the page's scripts need for it, as JSON holds it.
    """

    html: str = ""
    data: Any = None


def heading(title: str, name: str, after: str = "") -> str:
    """The heading of a section; `name` is unique on the page, `after` follows on the same line."""
    return f'<div class="heading"><h2 id="h-{name}">{title}</h2>{after}</div>'


def section_of(name: str, title: str, body: str, after: str = "") -> str:
    """A whole section under a heading."""
    return f'<section aria-labelledby="h-{name}">{heading(title, name, after)}{body}</section>'


def empty(words: str) -> str:
    """What stands where there is nothing to show."""
    return f'<p class="card empty">{words}</p>'


def fixed(value: float | None, digits: int) -> str:
    """A number with so many digits after the point; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def image(picture: Picture, words: str) -> str:
    """A picture with its text alternative."""
    return (
        f'<img alt="{escape(words)}" width="{picture.width}" height="{picture.height}" '
        f'src="{picture.uri}" draggable="false">'
    )
