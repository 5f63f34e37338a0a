"""Models and sources for tests of the viewer, and a browser's end of its connection for those that need no page."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import pytest
import torch
import viser
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from nfc_gs.data.scene import SceneData, TimeAxis
from nfc_gs.model.deformation import Deformation
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.heads.bits import start_bits
from nfc_gs.viewer import renderer
from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.panels.panel import Panel
from nfc_gs.viewer.session import Session
from nfc_gs.viewer.source import Source

P = TypeVar("P", bound=Panel)


class Sway(Deformation):
    """Moves everything to the side in the course of time."""

    def __init__(self) -> None:
        super().__init__("mlp", ("means",), torch.tensor([[-9.0] * 3, [9.0] * 3]))

    def changes(self, means: torch.Tensor, time: float, operations: object = None) -> torch.Tensor:
        return torch.tensor([0.5 * time, 0.0, 0.0]).expand_as(means)


def bits_model(scene: SceneData, hue: float, count: int = 300) -> GaussianModel:
    """Splats with bits around the points of the scene."""
    generator = torch.Generator().manual_seed(0)
    pick = torch.randint(len(scene.points), (count,), generator=generator)
    rgb = torch.rand(count, 3, generator=generator) * torch.tensor([1.0, hue, 1.0 - hue])
    return GaussianModel(
        {
            "means": torch.from_numpy(scene.points.xyz)[pick],
            "log_scales": torch.full((count, 3), -2.0),
            "quats": torch.randn(count, 4, generator=generator),
            "opacity_logits": torch.full((count,), 2.0),
            **start_bits(rgb, 1, hardness=0.7),
        }
    )


def sources(scene: SceneData) -> list[Source]:
    """Two sources, both with bits, of which the first moves."""
    moving = bits_model(scene, 0.2)
    moving.deformation = Sway()
    return [
        Source("one", moving, scene=scene, time_axis=TimeAxis(0.0, 12.0, "seconds")),
        Source("two", bits_model(scene, 0.9), scene=scene),
    ]


def until(condition: Callable[[], bool], page: Any = None, seconds: float = 40.0) -> None:
    """Wait until something holds, and let a browser's page, if one is given, go on meanwhile."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        if page is None:
            time.sleep(0.005)
        else:
            getattr(page, "page", page).wait_for_timeout(20)


def panel_of(viewer: Viewer, session: Session, kind: type[P]) -> P:
    """The panel of a kind on a session's page."""
    (panel,) = (panel for panel in viewer.panels[session.id] if isinstance(panel, kind))
    return panel


def show_first_alone(session: Session) -> None:
    """Show the first source on a page that begins with two beside each other."""
    (mode,) = (handle for handle in controls(session) if handle.label == "Compare")
    mode.value = "off"
    until(lambda: session.state.compare == "off")


def controls(session: Session) -> list[Any]:
    """What can be used on a page, in its order; viser has no public list of it. Progress bars are not among it."""
    handles = session.client.gui._gui_input_handle_from_uuid.values()
    return [handle for handle in handles if hasattr(handle, "hint")]


def commands(session: Session) -> dict[str, str]:
    """Identifiers of all commands of a page, by their keys; viser has no public list of them, either."""
    handles = session.client.gui._command_handle_from_uuid.items()
    return {command.hotkey: uuid for uuid, command in handles}


def texts(session: Session) -> list[str]:
    """All texts of a page, in their order."""
    containers = session.client.gui._container_handle_from_uuid.values()
    children = [child for container in containers for child in container._children.values()]
    return [child.content for child in children if hasattr(child, "content")]


def scene_nodes(session: Session) -> dict[str, Any]:
    """What is in the browser's scene, by name."""
    return session.client.scene._handle_from_node_name


def watch_models(monkeypatch: pytest.MonkeyPatch) -> weakref.WeakSet[GaussianModel]:
    """Those of the models made from now on to be drawn that something still holds, other than their sources' own."""
    held: weakref.WeakSet[GaussianModel] = weakref.WeakSet()
    prepare = renderer.prepared

    def prepared(model: GaussianModel, *args: Any) -> GaussianModel:
        made = prepare(model, *args)
        if made is not model:
            held.add(made)
        return made

    monkeypatch.setattr(renderer, "prepared", prepared)
    return held


class Client:
    """A browser's end of the connection, scripted."""

    def __init__(self, viewer: Viewer, origin: Any = None) -> None:
        self.socket = connect(
            viewer.url.replace("http", "ws"),
            origin=origin,
            subprotocols=[Subprotocol(f"viser-v{viser.__version__}")],
            max_size=None,
            compression=None,
        )
        self.received = 0
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        try:
            while True:
                self.received += len(self.socket.recv())
        except ConnectionClosed:
            pass

    def move(self, x: float, **changes: Any) -> None:
        camera = {
            "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [x, 0.0, -3.0], "fov": 1.0,
            "near": 0.01, "far": 100.0, "image_height": 48, "image_width": 64, "look_at": [x, 0.0, 0.0],
            "up_direction": [0.0, -1.0, 0.0],
        }  # fmt: skip
        self.send("ViewerCameraMessage", **camera | changes)

    def send(self, kind: str, **fields: Any) -> None:
        """Send a message of viser's."""
        self.socket.send(msgspec.msgpack.encode({"type": kind} | fields))

    def set(self, control: Any, value: Any = True) -> None:
        """Set a control to a value, or press a button."""
        self.send("GuiUpdateMessage", uuid=control._impl.uuid, updates={"value": value})

    def click(self, node: Any) -> None:
        """Click something in the scene."""
        place = {"ray_origin": (0.0, 0.0, 0.0), "ray_direction": (0.0, 0.0, 1.0), "screen_pos": (0.5, 0.5)}
        owner = str(node._impl.api._owner.client_id)
        self.send("SceneNodeClickMessage", name=node.name, instance_index=None, modifier=None, owner=owner, **place)

    def upload(self, control: Any, content: bytes) -> None:
        """Upload a file by a button."""
        uuid, button = "upload", control._impl.uuid
        fields = {"filename": "file.json", "mime_type": "application/json", "part_count": 1, "size_bytes": len(content)}
        self.send("FileTransferStartUpload", source_component_uuid=button, transfer_uuid=uuid, **fields)
        self.send("FileTransferPart", source_component_uuid=button, transfer_uuid=uuid, part_index=0, content=content)

    def close(self) -> None:
        self.socket.close()
        self.thread.join()
