"""What a page leaves to those after it: camera, keyframes and settings, across reloads and restarts of the server.

Only what differs from the start of a page is kept, so opening a page leaves nothing. For a run it is a small file in
its folder, `viewer.json`, else it lasts as long as the server. All pages share it: of several, the one that was changed
last counts. What the file holds is checked like what a browser sends; what does not fit is left out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import atomic_write
from nfc_gs.runs.names import VIEWER_NAME
from nfc_gs.viewer.messages import RefusedError, value_for
from nfc_gs.viewer.panels.panel import Panel

logger = logging.getLogger("nfc_gs")

MAX_BYTES = 2**20
"""Of the file."""

Kept = dict[str, dict[str, Any]]
"""By the names of panels: values of controls by their names, and "kept", what the panel itself keeps."""


class Memory:
    """What the last page left.

    Attributes:
        state: as JSON; nobody has checked it.
    """

    def __init__(self, folder: Path | None) -> None:
        """Read what is in a run folder; None for a memory without a file."""
        self._file = None if folder is None else folder / VIEWER_NAME
        self.state: Mapping[str, Any] = {} if self._file is None else _read(self._file)

    def keep(self, state: Kept) -> None:
        """Keep the state of a page in place of the one before; where it cannot be written, that is logged once."""
        if state == self.state:
            return
        self.state = state
        if self._file is None:
            return
        try:
            with atomic_write(self._file) as temporary:
                temporary.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        except UserError as error:
            logger.warning("The state of the viewer lasts only as long as it runs. %s", error)
            self._file = None


class PageMemory:
    """The state of one page."""

    def __init__(self, panels: Sequence[Panel]) -> None:
        """`panels` as they are at the start."""
        self._panels = tuple(panels)
        self._start = {type(panel).__name__: _values(panel) for panel in panels}
        self._last: Kept = self._state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Bring back a state, as far as it fits this page."""
        for panel in self._panels:
            saved = state.get(type(panel).__name__)
            if isinstance(saved, dict):
                _restore(panel, saved)
        self._last = self._state()

    def changed(self) -> Kept | None:
        """The state, if it is another one than at the last call; else None."""
        state = self._state()
        if state == self._last:
            return None
        self._last = state
        return state

    def _state(self) -> Kept:
        """What differs from the start of the page, as it will be read again."""
        kept: Kept = {}
        for panel in self._panels:
            name = type(panel).__name__
            start = self._start[name]
            differs = {key: value for key, value in _values(panel).items() if value != start[key]}
            own = panel.kept()
            if differs or own is not None:
                kept[name] = differs | ({} if own is None else {"kept": own})
        return json.loads(json.dumps(kept))


def _values(panel: Panel) -> dict[str, Any]:
    """The values of a panel's settings."""
    return {name: control.value for name, control in panel.settings().items()}


def _restore(panel: Panel, saved: dict[str, Any]) -> None:
    for name, control in panel.settings().items():
        if name in saved:
            try:
                value = value_for(control, saved[name])
            except RefusedError:
                continue
            if control.value != value:
                control.value = value
    if "kept" in saved:
        try:
            panel.restore(saved["kept"])
        except UserError as error:
            logger.info("A part of the last state of the viewer is left out. %s", error)


def _read(file: Path) -> dict[str, Any]:
    """The state in a file; an empty one where there is none, or something else."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError("it is too large")
        state = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(state, dict):
            return state
        raise ValueError("it is no JSON object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s is left out: %s.", file, error)
        return {}
