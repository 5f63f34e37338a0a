"""The list of the images that a capture holds out for testing, `test.txt`, as Inria's 3DGS reads it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from nfc_gs.data.capture import ReaderMessages, has_image_suffix, is_file, some_names
from nfc_gs.data.readers.colmap_text import read_text


def read_test_list(files: Sequence[Path], names: Sequence[str], messages: ReaderMessages) -> frozenset[str] | None:
    """The names of images that the first of these files lists that lists any; None where none does.

    A line may leave out the suffix of its image, or the folders, where what is left is the name of one image alone.

    Args:
        names: of all images of the capture.
    """
    for file in files:
        if not is_file(file):
            continue
        listed = [line.strip() for line in read_text(file).splitlines() if line.strip()]
        found = {entry: _find(entry, names_by) for names_by in [_names_by(names)] for entry in listed}
        unknown = [entry for entry, name in found.items() if name is None]
        held_out = frozenset(name for name in found.values() if name is not None)
        if unknown:
            messages.warning(
                f"{len(unknown)} of the {len(found)} names in {file} are of no image, or of several "
                f"({some_names(unknown)}); " + ("they are ignored." if held_out else "the file is not used.")
            )
        if held_out:
            return held_out
    return None


Spelling = Callable[[str], str]


def _whole(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/")).removeprefix("./").casefold()


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if has_image_suffix(name) else name


_SPELLINGS: tuple[Spelling, ...] = (
    lambda name: name,
    _whole,
    lambda name: _without_suffix(_whole(name)),
    lambda name: PurePosixPath(_whole(name)).name,
    lambda name: PurePosixPath(_without_suffix(_whole(name))).name,
)
"""What of two names may be alike for them to mean one image, the strictest first."""


def _names_by(names: Sequence[str]) -> list[dict[str, str | None]]:
    """For each spelling the image of it; None where several have it."""
    tables: list[dict[str, str | None]] = []
    for spelling in _SPELLINGS:
        table: dict[str, str | None] = {}
        for name in names:
            spelt = spelling(name)
            table[spelt] = None if spelt in table else name
        tables.append(table)
    return tables


def _find(entry: str, names_by: list[dict[str, str | None]]) -> str | None:
    for spelling, table in zip(_SPELLINGS, names_by, strict=True):
        spelt = spelling(entry)
        if spelt in table:
            return table[spelt]
    return None
