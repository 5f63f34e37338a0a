"""What a reader of captures offers to the table of readers (`readers.registry`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nfc_gs.data.capture import Capture


class ReadCapture(Protocol):
    """Reads the capture at a path that its reader recognises.

    `factor` asks for smaller copies of the images where the capture holds such, `masks` for its masks. None where a
    closer look shows that the capture is none for this reader. Raises UserError where the capture is damaged.
    """

    def __call__(self, path: Path, /, *, factor: int | None, masks: bool) -> Capture | None: ...


@dataclass(frozen=True)
class Reader:
    """One format of captures.

    Attributes:
        reads: what it reads, for sentences: "a COLMAP project".
        recognises: whether a folder or file looks like one for this reader; opens no more than it must;
            UserError only where a folder cannot be read.
    """

    reads: str
    recognises: Callable[[Path], bool]
    read: ReadCapture
