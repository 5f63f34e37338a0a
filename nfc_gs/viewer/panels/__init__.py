"""The controls of the page: one file for each panel, and the table of all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import viser

from nfc_gs.viewer.content import Content
from nfc_gs.viewer.panels.browser import BrowserPanel
from nfc_gs.viewer.panels.camera import CameraPanel
from nfc_gs.viewer.panels.compare import ComparePanel
from nfc_gs.viewer.panels.display import DisplayPanel
from nfc_gs.viewer.panels.edit import EditPanel
from nfc_gs.viewer.panels.halves import HalvesPanel
from nfc_gs.viewer.panels.help import HelpPanel
from nfc_gs.viewer.panels.legend import LegendPanel
from nfc_gs.viewer.panels.panel import Panel, log_failure
from nfc_gs.viewer.panels.path import PathPanel
from nfc_gs.viewer.panels.screenshot import ScreenshotPanel
from nfc_gs.viewer.panels.splats import SplatsPanel
from nfc_gs.viewer.panels.status import StatusPanel
from nfc_gs.viewer.panels.tabs import Tabs
from nfc_gs.viewer.panels.time import TimePanel
from nfc_gs.viewer.panels.timeline import TimelinePanel
from nfc_gs.viewer.panels.training import TrainingPanel
from nfc_gs.viewer.panels.views import ViewsPanel
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.style import OVERLAY_MARK, button_hints


@dataclass(frozen=True)
class Entry:
    """A panel, the tab it is in ("" for above the tabs, `OVER` for over the picture), and when a page has it."""

    tab: str
    panel: type[Panel]
    is_shown: Callable[[Content], bool] = lambda _: True


OVER = "Over the picture"
"""Where a panel is seen even while viser's window with the tabs is minimized, which removes what it has."""

PANELS = (
    Entry("", StatusPanel),
    Entry("", LegendPanel),
    Entry(OVER, HalvesPanel, lambda content: len(content.sources) > 1),
    Entry(OVER, TimelinePanel, lambda content: content.changes_with_time),
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
"""All panels in the order of the page, and of its tabs."""

NARROW = 577
"""A window that is narrower, in pixels, is a phone's: viser puts the panel over the lower part of the picture."""

PHONE_WIDTH, PHONE_ASPECT = 1440, 0.7
"""Most pixels across, and most width / height, of a phone's window: phones have two to four pixels for each of CSS."""


def add_panels(session: Session) -> list[Panel]:
    """Add the panels that suit what is shown to the page, and their keys; returns them in their order.

    A panel that fails costs itself alone: it is left out of what is returned, and the page and the log say so.
    """
    gui = session.client.gui
    shown = [entry for entry in PANELS if entry.is_shown(session.content)]
    panels = [_built(session, entry.panel) for entry in shown if not entry.tab]
    panels += _over_the_picture(session, [entry for entry in shown if entry.tab == OVER])
    tabs = Tabs(session, list(dict.fromkeys(entry.tab for entry in shown if entry.tab not in ("", OVER))))
    panels.append(tabs)
    folded = is_phone(*session.window)
    with gui.add_folder("Controls", expand_by_default=False) if folded else contextlib.nullcontext():
        tabs.build(gui)
        for tab in tabs.names:
            with tabs.add(tab):
                inside = [_built(session, entry.panel) for entry in shown if entry.tab == tab]
                tabs.add_panels(tab, filter(None, inside))
                panels += inside
    tabs.open(tabs.names[0])
    gui.add_html(button_hints(_hints_of_buttons(gui)))
    return list(filter(None, panels))


def is_phone(width: int, height: int) -> bool:
    """Whether a window of so many pixels of the screen is a phone's; (0, 0), a window without a size, is none."""
    return 0 < width < NARROW or 0 < width <= min(PHONE_WIDTH, PHONE_ASPECT * height)


def _over_the_picture(session: Session, entries: Sequence[Entry]) -> list[Panel | None]:
    """Panels in a window of viser's of their own, which the style sheet makes invisible."""
    if not entries:
        return []
    window = session.client.gui.add_panel()
    with window.add_tab(OVER):
        session.client.gui.add_html(OVERLAY_MARK)
        panels = [_built(session, entry.panel) for entry in entries]
    window.float(x=15, y=60, width=300)
    window.expand()  # on a phone it begins collapsed
    return panels


def _hints_of_buttons(gui: viser.GuiApi) -> dict[str, str]:
    """What the buttons of a page do, by their ids in the page; viser has no public list of its controls."""
    buttons = (viser.GuiButtonHandle, viser.GuiUploadButtonHandle)
    controls = gui._gui_input_handle_from_uuid.items()
    return {id: control.hint for id, control in controls if isinstance(control, buttons) and control.hint}


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
