"""The controls of the page: one file for each panel, and the table of all of them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import viser

from nfc_gs.viewer.content import Content
from nfc_gs.viewer.panels.browser import BrowserPanel
from nfc_gs.viewer.panels.camera import CameraPanel
from nfc_gs.viewer.panels.compare import ComparePanel
from nfc_gs.viewer.panels.display import DisplayPanel
from nfc_gs.viewer.panels.edit import EditPanel
from nfc_gs.viewer.panels.help import HelpPanel
from nfc_gs.viewer.panels.panel import Panel
from nfc_gs.viewer.panels.path import PathPanel
from nfc_gs.viewer.panels.screenshot import ScreenshotPanel
from nfc_gs.viewer.panels.splats import SplatsPanel
from nfc_gs.viewer.panels.status import StatusPanel
from nfc_gs.viewer.panels.time import TimePanel
from nfc_gs.viewer.panels.training import TrainingPanel
from nfc_gs.viewer.panels.views import ViewsPanel
from nfc_gs.viewer.session import Session

logger = logging.getLogger("nfc_gs")


@dataclass(frozen=True)
class Entry:
    """A panel, the tab it is in ("" for above the tabs), and when a page has it."""

    tab: str
    panel: type[Panel]
    is_shown: Callable[[Content], bool] = lambda _: True


PANELS = (
    Entry("", StatusPanel),
    Entry("Training", TrainingPanel, lambda content: content.live is not None),
    Entry("Show", DisplayPanel),
    Entry("Show", SplatsPanel, lambda content: content.has_gaussians),
    Entry("Show", BrowserPanel, lambda content: content.has_gaussians),
    Entry("Show", TimePanel, lambda content: content.changes_with_time),
    Entry("Show", ScreenshotPanel),
    Entry("Cameras", ViewsPanel, lambda content: content.has_views),
    Entry("Cameras", CameraPanel),
    Entry("Compare", ComparePanel, lambda content: len(content.sources) > 1),
    Entry("Path", PathPanel),
    Entry("Edit", EditPanel, lambda content: content.has_gaussians),
    Entry("Help", HelpPanel),
)
"""All panels in the order of the page; those of a tab follow each other."""

_failed: set[type[Panel]] = set()
"""Kinds whose failure is in the log: each page has its own, and a word on one is enough."""


def add_panels(session: Session) -> list[Panel]:
    """Add the panels that suit what is shown to the page, and their keys; returns them in their order.

    A panel that fails costs itself alone: it is left out of what is returned, and the page and the log say so.
    """
    gui = session.client.gui
    panels: list[Panel] = []
    tabs: viser.GuiTabGroupHandle | None = None
    shown = (entry for entry in PANELS if entry.is_shown(session.content))
    for tab, entries in groupby(shown, lambda entry: entry.tab):
        if tab and tabs is None:
            tabs = gui.add_tab_group()
        with tabs.add_tab(tab) if tabs is not None else contextlib.nullcontext():
            panels += filter(None, [_built(session, entry.panel) for entry in entries])
    return panels


def _built(session: Session, kind: type[Panel]) -> Panel | None:
    """A panel on the page, in a folder if it has a title, with its keys; None if it failed."""
    gui = session.client.gui
    folder = gui.add_folder(kind.title, expand_by_default=kind.expanded) if kind.title else contextlib.nullcontext()
    with folder:
        try:
            panel = kind(session)
            panel.build(gui)
            for command in panel.commands():
                handle = gui.add_command(command.label, hotkey=command.key)  # type: ignore[arg-type]
                handle.on_trigger(session.guarded(lambda _, run=command.run: run()))
        except Exception:
            log_failure(kind)
            gui.add_markdown("**This panel failed.** The viewer's log says why.")
            return None
    return panel


def log_failure(kind: type[Panel]) -> None:
    """Log the exception that is being handled, once for each kind of panel."""
    if kind not in _failed:
        _failed.add(kind)
        logger.exception("The viewer's %s failed; the rest of the page goes on.", kind.__name__)
