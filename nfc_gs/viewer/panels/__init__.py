"""The controls of the page: one file for each panel, each a function that adds it to a browser's page."""

from __future__ import annotations

from nfc_gs.viewer.panels.cameras import add_cameras
from nfc_gs.viewer.panels.compare import add_compare
from nfc_gs.viewer.panels.edit import add_edit
from nfc_gs.viewer.panels.keys import add_keys
from nfc_gs.viewer.panels.path import add_path
from nfc_gs.viewer.panels.screenshot import add_screenshot
from nfc_gs.viewer.panels.show import add_show, add_status
from nfc_gs.viewer.panels.time import add_time
from nfc_gs.viewer.panels.training import add_training
from nfc_gs.viewer.session import Session


def add_panels(session: Session) -> None:
    """Add all controls that make sense for what is looked at."""
    gui = session.client.gui
    add_status(session)
    tabs = gui.add_tab_group()
    if session.viewer.live is not None:
        with tabs.add_tab("Training"):
            add_training(session)
    with tabs.add_tab("Show"):
        add_show(session)
        if session.moves:
            add_time(session)
        add_screenshot(session)
    with tabs.add_tab("Cameras"):
        add_cameras(session)
    if len(session.viewer.sources) > 1:
        with tabs.add_tab("Compare"):
            add_compare(session)
    with tabs.add_tab("Path"):
        add_path(session)
    with tabs.add_tab("Edit"):
        add_edit(session)
    with tabs.add_tab("Help"):
        add_keys(session)
