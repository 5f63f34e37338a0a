"""The cameras of multi-view video as they lie in a folder: cam00, cam01, ..., each with its frames or its video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nfc_gs.data.capture import IMAGE_SUFFIXES, is_file
from nfc_gs.data.video import VIDEO_SUFFIXES


@dataclass(frozen=True)
class RigCamera:
    """One camera of a capture: its name, its folder of frames and its video; it has at least one of the two."""

    name: str
    folder: Path | None
    video: Path | None


def find_cameras(root: Path) -> list[RigCamera]:
    """Folders with images and videos in `root` whose names begin with "cam", sorted by name."""
    try:
        entries = sorted(path for path in root.iterdir() if path.name.lower().startswith("cam"))
    except OSError:
        return []
    folders = {path.name: frames for path in entries if (frames := _frame_folder(path)) is not None}
    videos = {path.stem: path for path in entries if path.suffix.lower() in VIDEO_SUFFIXES and is_file(path)}
    return [RigCamera(name, folders.get(name), videos.get(name)) for name in sorted({*folders, *videos})]


def _frame_folder(camera: Path) -> Path | None:
    for folder in (camera / "images", camera):
        if images_in(folder):
            return folder
    return None


def images_in(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted by name; none where there is no folder."""
    try:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    except OSError:  # no folder
        return []
