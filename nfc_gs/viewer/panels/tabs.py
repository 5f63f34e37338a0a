"""The tabs of the page.

viser's own tab groups do not say which tab is open. Here the server opens them, so that what belongs to a tab in the
scene is seen with it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import viser

from nfc_gs.core.errors import UserError
from nfc_gs.viewer.panels.panel import Panel, log_failure
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.style import tab_mark


class Tabs(Panel):
    """A row of tabs, of which one is open.

    Attributes:
        names: of the tabs, in their order.
        opened: the name of the open one.
    """

    def __init__(self, session: Session, names: Sequence[str]) -> None:
        super().__init__(session)
        self.names, self.opened = tuple(names), names[0]
        self._folders: dict[str, viser.GuiFolderHandle] = {}
        self._panels: dict[str, list[Panel]] = {name: [] for name in names}
        self._opening = threading.Lock()  # held while a tab is opened: callbacks of the page run in several threads

    def build(self, gui: viser.GuiApi) -> None:
        """Add the row."""
        self.mark = gui.add_html(tab_mark(self.names, self.opened))
        self.row = gui.add_button_group("Tab", self.names)
        self.row.on_click(self.session.guarded(self._on_click))

    def kept(self) -> Any:
        """The open tab, unless it is the first."""
        return None if self.opened == self.names[0] else self.opened

    def restore(self, kept: Any) -> None:
        """Open a tab again."""
        if kept not in self.names:
            raise UserError("The last tab is none of this page.")
        self.open(kept)

    def add(self, name: str) -> viser.GuiFolderHandle:
        """The container for the controls of a tab."""
        self._folders[name] = self.session.client.gui.add_folder(None, visible=name == self.opened)
        return self._folders[name]

    def add_panels(self, name: str, panels: Iterable[Panel]) -> None:
        """Let panels know when their tab is opened or closed."""
        self._panels[name] += panels

    def open(self, name: str) -> None:
        """Open a tab and close the other ones."""
        if name not in self._folders:
            return
        with self._opening:
            closed, self.opened = self.opened, name
            with self.session.client.atomic():
                self.mark.content = tab_mark(self.names, name)
                for other, folder in self._folders.items():
                    if folder.visible != (other == name):
                        folder.visible = other == name
            if closed != name:
                self._tell(closed, is_open=False)
            self._tell(name, is_open=True)

    def _tell(self, name: str, *, is_open: bool) -> None:
        """Call the panels of a tab; one that fails costs itself alone."""
        for panel in self._panels[name]:
            try:
                panel.on_tab(is_open)
            except Exception:
                log_failure(type(panel))

    def _on_click(self, _: viser.GuiEvent[Any]) -> None:
        self.open(self.row.value)
