"""What lies in the run folder, and the commands that use it."""

from __future__ import annotations

import shlex
from html import escape
from pathlib import Path

from nfc_gs.export.report_files import RunFiles
from nfc_gs.export.report_sections.section import Section, section_of
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.runs.names import CHECKPOINT_NAME, CONFIG_NAME, HISTORY_NAME, METRICS_NAME, RENDERS, SPLAT_NAME

FILES = {
    SPLAT_NAME: "the splat, for any viewer of 3DGS files",
    RENDERS: "rendered views and videos",
    METRICS_NAME: "the numbers of this report",
    CONFIG_NAME: "every setting",
    HISTORY_NAME: "the curves as numbers",
}
"""What is linked if it is there."""


def section(run: RunFiles) -> Section:
    """Links to the files, and commands to copy."""
    links = "".join(
        f'<li><a href="{name}{"/" if (run.folder / name).is_dir() else ""}">{name}</a> <span>{words}</span></li>'
        for name, words in FILES.items()
        if _holds_something(run.folder / name)
    )
    commands = "".join(
        f"<li><span>{words}</span><div><code>{escape(command)}</code>"
        f'<button type="button" class="copy" data-copy="{escape(command)}">Copy</button></div></li>'
        for words, command in _commands(run)
    )
    columns = [
        f'<div class="card"><h3>{title}</h3><ul class="{name}">{items}</ul></div>'
        for title, name, items in (("Commands", "commands", commands), ("Files", "files", links))
        if items
    ]
    if not columns:
        return Section()
    return Section(section_of("use", "Use it", f'<div class="use">{"".join(columns)}</div>'))


def _commands(run: RunFiles) -> list[tuple[str, str]]:
    """(what for, command); none without a checkpoint, which all of them need."""
    if not (run.folder / CHECKPOINT_NAME).exists():
        return []
    where = shlex.quote(str(run.folder))
    done = run.progress is not None and run.progress >= 1.0
    commands = [
        ("Look at it in the browser", f"nfc-gs view {where}"),
        ("Render images or a video", f"nfc-gs render {where}"),
    ]
    if isinstance(run.model, GaussianModel):
        commands.append(("Write the splat as a PLY", f"nfc-gs export {where}"))
    if not run.given:  # else it can be resumed from Python alone
        commands.append(("Write results anew" if done else "Go on with the training", f"nfc-gs train --resume {where}"))
    return commands


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()
