"""What a browser may send: the check that every message of a page passes before viser sees it.

A message that is not in `PageMessage`, has another shape, or sets a control to what the control does not take, is
dropped. What is added to the page and sends messages of its own needs an entry here: a new kind of message in
`PageMessage`, a new kind of control in `VALUES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
import viser

MAX_MESSAGE_BYTES = 2**20
"""Of a message; the page sends files in parts of half of that."""

MAX_UPLOAD_BYTES = 4 * 2**20
"""Of a file. The viewer takes camera paths, whose JSON has a million characters at most."""

MAX_UPLOADS = 2
"""Unfinished ones of a page."""

MAX_UPLOADS_IN_ALL = 8
"""Unfinished ones of all pages together."""

MAX_TEXT = 20_000
"""Characters in a text field."""

LARGEST = 1e9
"""Largest coordinate or number."""

MAX_WINDOW = 32_768
"""Pixels along a side of a browser's window."""

Number = Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
Vector = tuple[Number, Number, Number]
Name = Annotated[str, msgspec.Meta(max_length=1000)]
Pixels = Annotated[int, msgspec.Meta(ge=0, le=MAX_WINDOW)]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Modifier = Annotated[str, msgspec.Meta(max_length=40)] | None


class _Message(msgspec.Struct, tag_field="type", forbid_unknown_fields=True):
    """A message as viser names and shapes it; numbers are finite."""


class ViewerCameraMessage(_Message):
    """The page's camera; the first one opens the page."""

    wxyz: tuple[Number, Number, Number, Number]
    position: Vector
    fov: Annotated[float, msgspec.Meta(gt=0.0, lt=3.15)]
    near: Annotated[float, msgspec.Meta(gt=0.0, le=LARGEST)]
    far: Annotated[float, msgspec.Meta(gt=0.0, le=LARGEST)]
    image_height: Pixels
    image_width: Pixels
    look_at: Vector
    up_direction: Vector


class Updates(msgspec.Struct, forbid_unknown_fields=True):
    """What changes of a control: its value alone."""

    value: Any


class GuiUpdateMessage(_Message):
    """A control has another value, or a button was pressed."""

    uuid: Name
    updates: Updates


class CommandTriggerMessage(_Message):
    """A key was pressed, or a command was chosen from the page's list."""

    uuid: Name


class SceneNodeClickMessage(_Message):
    """Something in the scene was clicked."""

    name: Name
    instance_index: Size | None
    ray_origin: Vector
    ray_direction: Vector
    screen_pos: tuple[Number, Number]
    modifier: Modifier
    owner: Name


class SceneNodeDragMessage(_Message):
    """Something in the scene is dragged."""

    phase: Literal["start", "update", "end"]
    name: Name
    instance_index: Size | None
    start_position: Vector
    start_screen_pos: tuple[Number, Number]
    end_position: Vector
    end_screen_pos: tuple[Number, Number]
    button: Literal["left", "middle", "right"]
    modifier: Modifier
    owner: Name


class ScenePointerMessage(_Message):
    """The picture was clicked."""

    event_type: Literal["click"]
    ray_origin: Vector
    ray_direction: Vector
    screen_pos: tuple[tuple[Number, Number]]
    modifier: Modifier


class TransformControlsUpdateMessage(_Message):
    """A handle in the scene is dragged."""

    name: Name
    wxyz: tuple[Number, Number, Number, Number]
    position: Vector
    owner: Name


class TransformControlsDragStartMessage(_Message):
    """The drag of a handle begins."""

    name: Name
    owner: Name


class TransformControlsDragEndMessage(_Message):
    """The drag of a handle ends."""

    name: Name
    owner: Name


class FileTransferStartUpload(_Message):
    """A file is about to be uploaded."""

    source_component_uuid: Name
    transfer_uuid: Name
    filename: Name
    mime_type: Name
    part_count: Size
    size_bytes: Size


class FileTransferPart(_Message):
    """A part of a file that is uploaded."""

    source_component_uuid: Name
    transfer_uuid: Name
    part_index: Size
    content: bytes


class ShareUrlRequest(_Message):
    """The page is to be made public."""


class ShareUrlDisconnect(_Message):
    """The page is to be public no more."""


PageMessage = (
    ViewerCameraMessage | GuiUpdateMessage | CommandTriggerMessage | SceneNodeClickMessage | SceneNodeDragMessage
    | ScenePointerMessage | TransformControlsUpdateMessage | TransformControlsDragStartMessage
    | TransformControlsDragEndMessage | FileTransferStartUpload | FileTransferPart | ShareUrlRequest
    | ShareUrlDisconnect
)  # fmt: skip
"""All that a page of the viewer sends."""


class RefusedError(ValueError):
    """A message is not passed on. Its text is a sentence for the user where the user may have caused it, else empty."""


def decoded(data: bytes) -> PageMessage:
    """The message in MessagePack.

    Raises:
        RefusedError: it is none of a page, or a field of it is missing, unknown, too long, out of range or not finite.
    """
    try:
        message = _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise RefusedError from None
    directions = [message.wxyz] if isinstance(message, (ViewerCameraMessage, TransformControlsUpdateMessage)) else []
    directions += [message.up_direction] if isinstance(message, ViewerCameraMessage) else []
    if not all(sum(value * value for value in direction) > 1e-6 for direction in directions):
        raise RefusedError
    return message


def encoded(message: PageMessage) -> bytes:
    """The inverse of `decoded`."""
    return _ENCODER.encode(message)


_DECODER = msgspec.msgpack.Decoder(PageMessage)
_ENCODER = msgspec.msgpack.Encoder()


# ---- values of controls ----


def _number(control: Any, value: Any) -> float:
    """A number within the limits of its field."""
    return _within(value, control.min, control.max)


def _slider(control: Any, value: Any) -> float:
    """A number within a slider's limits; the page rounds to steps, which may lead over the end by less than one."""
    number = _within(value, control.min - control.step, control.max + control.step)
    return min(max(number, control.min), control.max)


def _vector(control: Any, value: Any) -> tuple[float, ...]:
    """Three numbers within limits."""
    _demand(isinstance(value, list) and len(value) == 3)
    lows, highs = control.min or (None,) * 3, control.max or (None,) * 3
    return tuple(_within(part, low, high) for part, low, high in zip(value, lows, highs, strict=True))


def _color(_: Any, value: Any) -> tuple[int, ...]:
    """Three bytes."""
    _demand(isinstance(value, list) and len(value) == 3)
    _demand(all(type(part) is int and 0 <= part <= 255 for part in value))
    return tuple(value)


def _text(_: Any, value: Any) -> str:
    """A text that is not too long."""
    _demand(isinstance(value, str) and len(value) <= MAX_TEXT)
    return value


def _option(control: Any, value: Any) -> str:
    """One of the options."""
    _demand(isinstance(value, str) and value in control.options)
    return value


def _checked(_: Any, value: Any) -> bool:
    """Ticked or not."""
    _demand(isinstance(value, bool))
    return value


def _pressed(_: Any, value: Any) -> bool:
    """A button is pressed, and nothing else."""
    _demand(value is True)
    return True


VALUES: dict[type, Callable[[Any, Any], Any]] = {
    viser.GuiButtonHandle: _pressed,
    viser.GuiButtonGroupHandle: _option,
    viser.GuiCheckboxHandle: _checked,
    viser.GuiDropdownHandle: _option,
    viser.GuiNumberHandle: _number,
    viser.GuiRgbHandle: _color,
    viser.GuiSliderHandle: _slider,
    viser.GuiTextHandle: _text,
    viser.GuiVector3Handle: _vector,
}
"""What a control is set to if a page sends a value, by the kind of control."""


def value_for(control: Any, value: Any) -> Any:
    """What a control of viser's may be set to when a page sends `value`.

    Raises:
        RefusedError: it is not of the control's type, outside its limits, or not among its options; or the control is
            disabled, or of a kind that no page sets.
    """
    check = VALUES.get(type(control))
    if check is None or control.disabled:
        raise RefusedError
    return check(control, value)


def _within(value: Any, low: float | None, high: float | None) -> float:
    low, high = -LARGEST if low is None else low, LARGEST if high is None else high
    _demand(type(value) in (int, float) and low <= value <= high)  # what is not a number is in no range
    return value


def _demand(holds: bool) -> None:
    if not holds:
        raise RefusedError


# ---- uploads ----


@dataclass
class _Upload:
    part_count: int
    bytes_left: int
    parts: set[int] = field(default_factory=set)


class Uploads:
    """The unfinished uploads of a page.

    viser keeps the parts that have come until a file is whole or its page is gone, so what may come is limited here.
    """

    def __init__(self, everyone: set[tuple[int, str]]) -> None:
        """None so far; `everyone` has those of all pages, this one's too."""
        self._everyone, self._unfinished = everyone, dict[str, _Upload]()

    def start(self, message: FileTransferStartUpload) -> None:
        """Let a file come.

        Raises:
            RefusedError: it is too large, there are too many, or its numbers do not fit each other.
        """
        if message.size_bytes > MAX_UPLOAD_BYTES:
            size, most = message.size_bytes / 2**20, MAX_UPLOAD_BYTES // 2**20
            raise RefusedError(f"The file has {size:,.0f} MB, and at most {most} MB are taken.")
        if message.transfer_uuid in self._unfinished or not message.part_count <= message.size_bytes:
            raise RefusedError
        if message.size_bytes == 0:
            return  # it is whole already
        if message.part_count == 0:
            raise RefusedError
        if len(self._unfinished) >= MAX_UPLOADS or len(self._everyone) >= MAX_UPLOADS_IN_ALL:
            raise RefusedError("Other files are being uploaded; try again when they are.")
        self._unfinished[message.transfer_uuid] = _Upload(message.part_count, message.size_bytes)
        self._everyone.add((id(self), message.transfer_uuid))

    def add(self, message: FileTransferPart) -> bool:
        """Let a part of a file come; whether it is the last one.

        Raises:
            RefusedError: no such part is missing, or the file gets larger than it said.
        """
        upload = self._unfinished.get(message.transfer_uuid)
        if upload is None or message.part_index >= upload.part_count or message.part_index in upload.parts:
            raise RefusedError
        if len(message.content) > upload.bytes_left:
            raise RefusedError
        upload.parts.add(message.part_index)
        upload.bytes_left -= len(message.content)
        is_whole = len(upload.parts) == upload.part_count
        if is_whole:
            self._forget(message.transfer_uuid)
        return is_whole

    def close(self) -> None:
        """Forget all uploads: the page has gone."""
        for name in tuple(self._unfinished):
            self._forget(name)

    def _forget(self, name: str) -> None:
        del self._unfinished[name]
        self._everyone.discard((id(self), name))
