"""Reading and writing PLY files: a header that names elements and their properties, then a table for each element.

Every kind of file that is a PLY (sparse points, splats) is read and written through this module. Files are taken as
they come from anywhere: each count is checked against the size of the file before memory is taken for it.

Format: https://paulbourke.net/dataformats/ply/
"""

from __future__ import annotations

import contextlib
import itertools
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from nfc_gs.core.errors import UserError, system_cause

MAX_HEADER = 1 << 16
"""Longest header in bytes; that of a splat has about 1 500."""

TEXT_LINES = 1 << 16
"""Lines of a text file that are turned into numbers at a time."""

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip

ByteOrder = Literal["<", ">"]

_FORMATS: dict[str, ByteOrder | None] = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True)
class PlyElement:
    """What a header says of one element.

    Attributes:
        count: number of its entries.
        types: for each property by name numpy's word for its type, such as "f4"; None for a list.
    """

    name: str
    count: int
    types: dict[str, str | None]

    @property
    def has_lists(self) -> bool:
        """Whether entries have different sizes."""
        return None in self.types.values()

    @property
    def entry_bytes(self) -> int:
        """Bytes of an entry in a binary file, lists not counted."""
        return sum(int(kind[1]) for kind in self.types.values() if kind is not None)


@dataclass(frozen=True)
class PlyHeader:
    """The header of a file.

    Attributes:
        order: of the bytes of a number; None where the tables are text.
        size: bytes of the header.
        elements: in the order of the file.
        comments: the lines of that kind, without the word itself.
    """

    path: Path
    order: ByteOrder | None
    size: int
    elements: tuple[PlyElement, ...]
    comments: tuple[str, ...] = ()

    def element(self, name: str) -> PlyElement | None:
        """The first element of that name."""
        return next((element for element in self.elements if element.name == name), None)

    def before(self, element: PlyElement) -> Sequence[PlyElement]:
        """The elements that precede this one in the file."""
        return self.elements[: self.elements.index(element)]


def read_header(path: Path | str) -> PlyHeader:
    """Read the header of a PLY file.

    Raises:
        UserError: no such file, not a PLY, or a header that is damaged.
    """
    path = Path(path)
    with _opened(path) as file:
        head = file.read(MAX_HEADER)
    if not re.match(rb"ply\r?\n", head):
        raise UserError(f"{path} is not a PLY file: it does not begin with the word 'ply'.")
    end = re.search(rb"\nend_header\r?\n", head)
    if end is None:
        raise UserError(f"The header of {path} has no end: the file is cut short or is not a PLY file.")
    order: ByteOrder | None = None
    known_format = False
    elements: list[PlyElement] = []
    comments: list[str] = []
    for line in head[: end.start()].decode("latin-1").splitlines()[1:]:
        match line.split():
            case ["comment", *words]:
                comments.append(" ".join(words))
            case [] | ["obj_info", *_]:
                continue
            case ["format", name, _] if name in _FORMATS:
                order, known_format = _FORMATS[name], True
            case ["element", name, count] if count.isascii() and count.isdigit():
                elements.append(PlyElement(name, int(count[:18]), {}))
            case ["property", "list", _, _, name] | ["property", _, name] if elements and name in elements[-1].types:
                raise UserError(f"The header of {path} names a property twice; the file is damaged.")
            case ["property", "list", _, _, name] if elements:
                elements[-1].types[name] = None
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1].types[name] = _TYPES[kind]
            case _:
                raise UserError(f"The header of {path} has a line that is not PLY: {line[:80]!r}; the file is damaged.")
    if not known_format:
        raise UserError(f"The header of {path} does not say its format (ascii, binary_little_endian, ...).")
    return PlyHeader(path, order, end.end(), tuple(elements), tuple(comments))


def read_columns(header: PlyHeader, element: PlyElement, names: Collection[str], plural: str) -> dict[str, np.ndarray]:
    """Read properties of an element.

    Args:
        header: of the file; `element` is one of its elements.
        names: properties to read, none of them a list.
        plural: what the entries are called in errors: "points", "splats".

    Returns:
        By name [N] in the type that the header gives.

    Raises:
        UserError: the file is cut short or damaged, or has changed since its header was read.
    """
    if element.has_lists or any(other.has_lists for other in header.before(element)):
        return _read_beside_lists(header, element, names, plural)
    with _opened(header.path) as file:
        _check_room(header, element, file.seek(0, 2), plural)
        if header.order is None:
            return _read_text(file, header, element, names, plural)
        file.seek(header.size + sum(other.count * other.entry_bytes for other in header.before(element)))
        dtype = np.dtype([(name, f"{header.order}{kind}") for name, kind in element.types.items()])
        table = np.frombuffer(file.read(element.count * dtype.itemsize), dtype=dtype)
    if len(table) < element.count:
        raise UserError(f"{header.path} is cut short: {len(table):,} of {element.count:,} {plural} are there.")
    return {name: table[name] for name in names}


def write_vertices(path: Path | str, vertices: np.ndarray, comments: Sequence[str] = ()) -> None:
    """Write a binary little-endian file with one element, "vertex".

    Args:
        vertices: [N], a structured array of numbers: its fields are the properties, in their order.
        comments: lines of the header.

    Raises:
        OSError: the file cannot be written.
    """
    import plyfile

    element = plyfile.PlyElement.describe(vertices, "vertex")
    plyfile.PlyData([element], text=False, byte_order="<", comments=list(comments)).write(str(path))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, for reading; what the system cannot open or read is a `UserError`."""
    try:
        if stat.S_ISFIFO(path.stat().st_mode):  # to open it may wait for ever
            raise UserError(f"{path} is a named pipe, not a PLY file; give the path of a file.")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"There is no file {path}; check the path.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a PLY file; give the path of the file.") from None
    except OSError as error:
        raise UserError(f"Cannot read {path}: {system_cause(error)}.") from None


def _check_room(header: PlyHeader, element: PlyElement, size: int, plural: str) -> None:
    """Raise unless a file of `size` bytes has room for the entries that its header claims."""
    text = header.order is None
    least = 2 * len(element.types) if text else element.entry_bytes  # bytes of an entry; as text a digit and a blank
    room = max(0, size - header.size + text) // max(1, least)  # the last blank of a text may be missing
    if element.count > room:
        raise UserError(
            f"{header.path} is cut short or damaged: its header claims {element.count:,} {plural}, "
            f"the file has room for {room:,}."
        )


def _read_text(
    file: BinaryIO, header: PlyHeader, element: PlyElement, names: Collection[str], plural: str
) -> dict[str, np.ndarray]:
    """`read_columns` of a file whose tables are text: a line for each entry."""
    file.seek(header.size)
    first = sum(other.count for other in header.before(element))
    lines = (line.decode("latin-1") for line in itertools.islice(file, first, first + element.count))
    kinds = {name: kind for name, kind in element.types.items() if name in names and kind is not None}
    parts: dict[str, list[np.ndarray]] = {name: [np.empty(0, kind)] for name, kind in kinds.items()}
    places = {name: index for index, name in enumerate(element.types)}
    there = 0
    while block := list(itertools.islice(lines, TEXT_LINES)):
        there += len(block)
        numbers = _numbers(block, header.path, len(element.types), element.count)
        for name, kind in kinds.items():
            column = numbers[:, places[name]]
            with np.errstate(over="ignore", invalid="ignore"):
                parts[name].append(column.astype(kind))
            if kind[0] in "iu" and not np.array_equal(parts[name][-1], column):
                raise UserError(f"{header.path} is damaged: property {name} of its {plural} is no integer of its type.")
    if there < element.count:
        raise _uneven(header.path, element.count, len(element.types))
    return {name: np.concatenate(part) for name, part in parts.items()}


def _numbers(lines: list[str], path: Path, width: int, count: int) -> np.ndarray:
    """Lines of `width` numbers each as [lines, width] float64; `count` is the number of such lines in the file."""
    try:
        if lines[0].strip():  # numpy warns of lines without a number
            numbers = np.loadtxt(lines, dtype=np.float64, comments=None, ndmin=2)
            if numbers.shape == (len(lines), width):
                return numbers
    except ValueError as error:
        if all(len(line.split()) == width for line in lines):
            raise UserError(f"{path} is damaged: {error}.") from None
    raise _uneven(path, count, width)


def _uneven(path: Path, count: int, width: int) -> UserError:
    return UserError(f"{path} is cut short or damaged: not every one of {count:,} lines has {width} numbers.")


def _read_beside_lists(
    header: PlyHeader, element: PlyElement, names: Collection[str], plural: str
) -> dict[str, np.ndarray]:
    """`read_columns` where entries differ in size, so that all that precedes must be walked through."""
    import plyfile

    with _opened(header.path) as file:
        size = file.seek(0, 2)
    for other in header.elements:
        _check_room(header, other, size, plural if other is element else f"entries of {other.name}")
    try:
        table = plyfile.PlyData.read(str(header.path))[element.name].data
        return {name: np.asarray(table[name]) for name in names}
    except Exception as error:  # plyfile raises its own errors, ValueError, MemoryError, ...
        cause = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{header.path} is damaged ({cause}); export it again.") from None
