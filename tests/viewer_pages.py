"""A page of the viewer without a browser: its end of the connection, and the session behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import viser
from viewer_client import Client, commands, controls, panel_of, scene_nodes, until

from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.cameras import Pose
from nfc_gs.viewer.panels.path import PathPanel
from nfc_gs.viewer.panels.tabs import Tabs
from nfc_gs.viewer.session import Session


class Page:
    """A page that is only its end of the connection, the session behind it, and the files and notes that it got."""

    def __init__(self, viewer: Viewer, **camera: Any) -> None:
        """Connect; `camera` are fields of viser's message of the browser's camera."""
        self.viewer, self.client = viewer, Client(viewer)
        self.files: dict[str, bytes] = {}
        self.said: list[str] = []
        self.titles: list[str] = []
        before = set(viewer.sessions)
        self.client.move(0.0, **camera)
        until(lambda: len(viewer.sessions) > len(before))
        self.session: Session = next(session for id, session in viewer.sessions.items() if id not in before)
        self.session.client.send_file_download = lambda name, content, **_: self.files.update({name: content})  # type: ignore
        self.session.notify = lambda title, body, color=None: (self.titles.append(title), self.said.append(body))  # type: ignore

    def controls(self, label: str) -> list[Any]:
        """Those of a name, in their order."""
        return [handle for handle in controls(self.session) if handle.label == label]

    def control(self, label: str, last: bool = False) -> Any:
        """The first or the last of a name."""
        return self.controls(label)[-1 if last else 0]

    def set(self, label: str, value: Any, last: bool = False) -> None:
        self.client.set(self.control(label, last), value)

    def open(self, tab: str) -> None:
        """Open a tab."""
        self.set("Tab", tab)
        until(lambda: panel_of(self.viewer, self.session, Tabs).opened == tab)

    def press(self, label: str) -> None:
        self.client.set(self.control(label))

    def key(self, key: str) -> None:
        self.client.send("CommandTriggerMessage", uuid=commands(self.session)[key])

    def folders(self) -> list[viser.GuiFolderHandle]:
        """All folders; viser has no public list of them."""
        containers = self.session.client.gui._container_handle_from_uuid.values()
        return [container for container in containers if isinstance(container, viser.GuiFolderHandle)]

    def node(self, name: str) -> Any:
        return scene_nodes(self.session)[name]

    @property
    def path_panel(self) -> PathPanel:
        return panel_of(self.viewer, self.session, PathPanel)

    def add_keys(self, *places: float) -> None:
        """Keyframes of a path at places along x."""
        panel = self.path_panel
        for x in places:
            before = len(panel.path.keys)
            self.session.move_camera_to(Pose((x, 0.0, -3.0), (1.0, 0.0, 0.0, 0.0), 0.9))
            self.key("K")
            until(lambda before=before: len(panel.path.keys) == before + 1)

    def places(self) -> list[float]:
        """Where along x the keyframes of the path are."""
        return [round(key.pose.position[0], 6) for key in self.path_panel.path.keys]


def opened(viewer: Viewer) -> Iterator[Page]:
    page = Page(viewer)
    yield page
    page.client.close()
    until(lambda: not viewer.sessions)
