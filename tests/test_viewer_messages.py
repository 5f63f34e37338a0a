"""What a page may send: every message and every value is checked before it changes anything."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from viewer_client import Client, controls, sources, until
from viser._messages import Message

from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.loading import load_scene
from nfc_gs.viewer import messages
from nfc_gs.viewer.app import Viewer
from nfc_gs.viewer.live import LiveTraining
from nfc_gs.viewer.messages import (
    MAX_UPLOAD_BYTES,
    FileTransferPart,
    FileTransferStartUpload,
    RefusedError,
    Uploads,
    decoded,
    encoded,
    value_for,
)
from nfc_gs.viewer.session import Session

CAMERA = {
    "type": "ViewerCameraMessage", "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [0, 0.0, -3.0], "fov": 1.0, "near": 0.01,
    "far": 1000, "image_height": 48, "image_width": 64, "look_at": [0.0, 0.0, 0.0], "up_direction": [0.0, -1.0, 0.0],
}  # fmt: skip

DRAG = {
    "type": "SceneNodeDragMessage", "phase": "start", "name": "/border", "instance_index": None,
    "start_position": [0.0, 0.0, 0.0], "start_screen_pos": [0.1, 0.2], "end_position": [1.0, 0.0, 0.0],
    "end_screen_pos": [0.5, 0.5], "button": "left", "modifier": None, "owner": "0",
}  # fmt: skip

NO_NUMBER, ENDLESS = float("nan"), float("inf")

ODD = [
    *(NO_NUMBER, ENDLESS, -ENDLESS, 1e300, -1e300, 10**18, "", "no such option", "x" * 30_000, None, [], {}, b"\x00"),
    *(
        [1.0, 2.0],
        [NO_NUMBER] * 3,
        [1e300] * 3,
        ["a", "b", "c"],
        [300, 0, -1e12],
        [0.5, 0.5, 0.5, 0.5],
        {"a": 1},
        [[1], 2, 3],
    ),
]
"""What hardly any control takes."""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A page with all tabs: two sources of Gaussians with bits, one of them moving and in training, and photos."""
    scene = load_scene(write_capture(tmp_path_factory.mktemp("page") / "capture", views=6, width=48, height=36))
    shown = sources(scene)
    training = SimpleNamespace(model=shown[0].snapshot().model, steps_done=0, stopping=False)
    live = LiveTraining(training, shown[0])  # type: ignore[arg-type]
    with Viewer(shown, port=8940, backend="cpu", live=live) as viewer:
        client = Client(viewer)
        client.move(0.0)
        until(lambda: len(viewer.sessions) == 1)
        yield next(iter(viewer.sessions.values()))
        client.close()


def packed(message: Any) -> bytes:
    return msgspec.msgpack.encode(message)


def is_refused(message: Any) -> bool:
    try:
        decoded(packed(message))
    except RefusedError:
        return True
    return False


# ---- values of controls ----


def test_no_control_of_any_tab_takes_a_value_that_its_own_page_could_not_set(session: Session) -> None:
    shown = controls(session)
    assert {type(control) for control in shown} - {messages.viser.GuiUploadButtonHandle} == set(messages.VALUES)
    for control in shown:
        for value in ODD:
            if type(control) is messages.viser.GuiTextHandle and isinstance(value, str) and len(value) < 20_000:
                assert value_for(control, value) == value
                continue
            with pytest.raises(RefusedError):
                value_for(control, value)


def test_every_control_takes_what_it_shows(session: Session) -> None:
    for control in controls(session):
        if type(control) is messages.viser.GuiUploadButtonHandle:
            continue
        value = True if type(control) is messages.viser.GuiButtonHandle else control.value
        assert value_for(control, list(value) if isinstance(value, tuple) else value) == value


def test_a_slider_takes_its_limits_and_no_more(session: Session) -> None:
    (share,) = (control for control in controls(session) if control.label == "Viewer's share")
    assert (value_for(share, 0.02), value_for(share, 1), value_for(share, 1.0000001)) == (0.02, 1, 1.0)
    for value in (5, 1.02, -0.5, True, "0.5"):
        with pytest.raises(RefusedError):
            value_for(share, value)


def test_a_color_is_three_bytes(session: Session) -> None:
    (background,) = (control for control in controls(session) if control.label == "Background")
    assert value_for(background, [0, 128, 255]) == (0, 128, 255)
    for value in ([0, 0, 256], [0, 0, -1], [0, 0], [0.0, 0.5, 1.0], [True, True, True]):
        with pytest.raises(RefusedError):
            value_for(background, value)


def test_a_control_that_is_disabled_takes_nothing(session: Session) -> None:
    (save,) = (control for control in controls(session) if control.label == "Save checkpoint now")
    assert value_for(save, True) is True
    save.disabled = True
    with pytest.raises(RefusedError):
        value_for(save, True)
    save.disabled = False


# ---- messages ----


def test_what_a_page_sends_comes_through_as_viser_reads_it() -> None:
    update = {"type": "GuiUpdateMessage", "uuid": "a", "updates": {"value": [1, 2, 3]}}
    part = {
        "type": "FileTransferPart",
        "source_component_uuid": "a",
        "transfer_uuid": "b",
        "part_index": 0,
        "content": b"c",
    }
    for message in (CAMERA, DRAG, update, part, {"type": "CommandTriggerMessage", "uuid": "a"}):
        read = Message.deserialize(encoded(decoded(packed(message))))
        expected = Message.deserialize(packed(message))
        assert type(read) is type(expected) and vars(read) == vars(expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"position": [NO_NUMBER, 0.0, 0.0]}, {"position": [1e30, 0.0, 0.0]}, {"position": [0.0]}, {"position": None},
        {"wxyz": [0.0] * 4}, {"wxyz": ["1"] * 4}, {"up_direction": [0.0] * 3}, {"look_at": "here"},
        {"fov": NO_NUMBER}, {"fov": 0.0}, {"fov": 4.0}, {"near": 0.0}, {"far": ENDLESS},
        {"image_width": -1}, {"image_width": 10**9}, {"image_height": 3.5}, {"excluded_self_client": 1}, {"extra": 0},
    ],
)  # fmt: skip
def test_a_camera_that_is_none_is_refused(changes: dict[str, Any]) -> None:
    assert not is_refused(CAMERA)
    assert is_refused(CAMERA | changes)
    name = next(iter(changes))
    assert name not in CAMERA or is_refused({key: value for key, value in CAMERA.items() if key != name})


@pytest.mark.parametrize(
    "message",
    [
        DRAG | {"phase": "again"}, DRAG | {"button": "fourth"}, DRAG | {"end_screen_pos": [NO_NUMBER, 0.0]},
        DRAG | {"name": "x" * 2000}, DRAG | {"instance_index": "1"}, DRAG | {"instance_index": -1},
        {"type": "GuiUpdateMessage", "uuid": "a", "updates": {"disabled": False}},
        {"type": "GuiUpdateMessage", "uuid": "a", "updates": {"value": 1, "visible": True}},
        {"type": "GuiUpdateMessage", "uuid": ["a"], "updates": {"value": 1}},
        {"type": "RunJavascriptMessage", "source": "alert(1)"}, {"type": "ResetSceneMessage"}, {"type": "Message"},
        {"type": "GuiFormDirtyMessage", "uuid": "a"}, {"type": "ScenePointerMessage"},
        {"type": 5}, {"type": None}, {}, [], 5, "text", None,
    ],
)  # fmt: skip
def test_a_message_that_no_page_of_the_viewer_sends_is_refused(message: Any) -> None:
    assert is_refused(message)


def test_bytes_at_random_are_refused_or_are_a_message_that_viser_reads() -> None:
    generator, taken = random.Random(0), 0
    bases = [packed(message) for message in (CAMERA, DRAG, {"type": "CommandTriggerMessage", "uuid": "some uuid"})]
    for _ in range(3000):
        data = bytearray(generator.choice(bases))
        for _ in range(generator.randrange(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        if generator.random() < 0.1:
            data = data[: generator.randrange(len(data))]
        try:
            message = decoded(bytes(data))
        except RefusedError:
            continue
        taken += 1
        Message.deserialize(encoded(message))
    assert 100 < taken < 2500


# ---- uploads ----


def start(name: str, size: int, parts: int) -> FileTransferStartUpload:
    return FileTransferStartUpload("button", name, "path.json", "application/json", parts, size)


def part(name: str, index: int, size: int) -> FileTransferPart:
    return FileTransferPart("button", name, index, bytes(size))


def test_a_file_may_come_in_any_order_and_its_place_is_free_afterwards() -> None:
    everyone: set[tuple[int, str]] = set()
    uploads = Uploads(everyone)
    for _ in range(20):
        uploads.start(start("a", 10, 3))
        uploads.start(start("b", 0, 0))  # whole at once
        for index, size in ((2, 2), (0, 4), (1, 4)):
            uploads.add(part("a", index, size))
        assert not everyone


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (start("a", MAX_UPLOAD_BYTES + 1, 17), "at most 4 MB are taken"),
        (start("a", 48 * 2**20, 96), "The file has 48 MB, and at most 4 MB are taken[.]"),
        (start("a", 10, 0), "^$"), (start("a", 10, 11), "^$"), (start("a", 0, 1), "^$"), (start("open", 10, 1), "^$"),
    ],
)  # fmt: skip
def test_a_file_that_is_too_large_or_counts_wrongly_is_refused(message: FileTransferStartUpload, says: str) -> None:
    uploads = Uploads(set())
    uploads.start(start("open", 10, 2))
    with pytest.raises(RefusedError, match=says):
        uploads.start(message)


@pytest.mark.parametrize("message", [part("a", 2, 1), part("a", 0, 1), part("a", 1, 7), part("b", 0, 1)])
def test_a_part_that_is_not_missing_or_makes_the_file_larger_is_refused(message: FileTransferPart) -> None:
    uploads = Uploads(set())
    uploads.start(start("a", 10, 2))
    uploads.add(part("a", 0, 4))
    with pytest.raises(RefusedError):
        uploads.add(message)
    uploads.add(part("a", 1, 6))


def test_unfinished_files_are_few_for_a_page_and_for_all_together() -> None:
    everyone: set[tuple[int, str]] = set()
    pages = [Uploads(everyone) for _ in range(5)]
    for uploads in pages[:4]:
        uploads.start(start("a", 10, 1))
        uploads.start(start("b", 10, 1))
        with pytest.raises(RefusedError, match="try again"):
            uploads.start(start("c", 10, 1))
    with pytest.raises(RefusedError, match="try again"):
        pages[4].start(start("a", 10, 1))
    pages[0].close()
    pages[4].start(start("a", 10, 1))
    assert len(everyone) == 7
