"""The shape of a panel: a few controls of a page that belong together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import viser

from nfc_gs.viewer.session import Session

logger = logging.getLogger("nfc_gs")


@dataclass(frozen=True)
class Command:
    """Something a key does. `label` names it in the page's list of commands (Ctrl-K)."""

    key: str
    label: str
    run: Callable[[], None]


class Panel:
    """Controls on the page of one session. Each kind of panel overrides what it needs.

    Attributes:
        title: of the folder around the controls; "" for none.
        expanded: the folder is open at first.
        session: whose page it is on.
    """

    title: ClassVar[str] = ""
    expanded: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        self.session = session

    def build(self, gui: viser.GuiApi) -> None:
        """Add the controls to the page; a panel without any leaves this out."""

    def on_change(self, event: viser.GuiEvent[Any]) -> None:
        """A control that `watch` was given has another value; `event.client` is None if the viewer itself set it."""

    def on_tab(self, is_open: bool) -> None:
        """The tab that it is in is opened, or another one."""

    def tick(self) -> None:
        """Bring texts and values up to date; called a few times a second."""

    def commands(self) -> Sequence[Command]:
        """What keys do here; called after `build`."""
        return ()

    def settings(self) -> Mapping[str, Any]:
        """Controls whose values outlast the page, by names; called after `build`."""
        return {}

    def kept(self) -> Any:
        """What else outlasts the page, as JSON has it; None for nothing."""
        return None

    def restore(self, kept: Any) -> None:
        """Bring back what `kept` returned, or what else may be in its place.

        Raises:
            UserError: it is something else.
        """

    def watch(self, *controls: Any) -> None:
        """Call `on_change` with each change of these controls; its errors are shown on the page."""
        for control in controls:
            control.on_update(self.session.guarded(self.on_change))


_failed: set[type[Panel]] = set()
"""Kinds whose failure is in the log: each page has its own, and a word on one is enough."""


def log_failure(kind: type[Panel]) -> None:
    """Log the exception that is being handled, once for each kind of panel."""
    if kind not in _failed:
        _failed.add(kind)
        logger.exception("The viewer's %s failed; the rest of the page goes on.", kind.__name__)
