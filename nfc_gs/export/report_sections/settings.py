"""Every setting of the run."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from nfc_gs.export.report_files import RunFiles
from nfc_gs.export.report_sections.section import Section


def section(run: RunFiles) -> Section:
    """Every setting, folded."""
    config = run.config
    if not config:
        return Section()
    if isinstance(config, dict):
        plain = {key: value for key, value in config.items() if not (isinstance(value, dict) and value)}
        groups = {"General": plain} if plain else {}
        groups |= {str(key): value for key, value in config.items() if key not in plain}
        body = f'<div class="groups">{"".join(_group(name, group) for name, group in groups.items())}</div>'
    else:
        body = f"<pre>{escape(str(config))}</pre>"
    return Section(f'<section><details class="card"><summary>Configuration</summary>{body}</details></section>')


def _group(name: str, group: Mapping[Any, Any]) -> str:
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
