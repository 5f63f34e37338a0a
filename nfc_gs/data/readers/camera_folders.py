"""The cameras of multi-view video as they lie in a folder: cam00, cam01, ..., each with its frames or its video."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import ReaderMessages, folder_entries, has_image_suffix, is_file, some_names
from nfc_gs.data.video import VIDEO_SUFFIXES


@dataclass(frozen=True)
class RigCamera:
    """One camera of a capture: its name, its folder of frames and its video; it has at least one of the two."""

    name: str
    folder: Path | None
    video: Path | None


def find_cameras(root: Path) -> list[RigCamera]:
    """Folders with images and videos in `root` whose names begin with "cam", sorted by name."""
    entries = [Path(entry.path) for entry in folder_entries(root) if entry.name.lower().startswith("cam")]
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
    return [path for path in _named_as_images(folder) if is_file(path)]


def _named_as_images(folder: Path) -> list[Path]:
    entries = folder_entries(folder)
    return [Path(entry.path) for entry in entries if has_image_suffix(entry.name) and not entry.name.startswith(".")]


def numbered_frames(folders: dict[str, Path], messages: ReaderMessages) -> dict[str, dict[int, Path]]:
    """The frames of each camera by their numbers.

    A name may hold several numbers, as in frame_0012_cam03.png. That of the frame is one that differs from frame to
    frame of a camera, and of several such the one that the cameras have in common most; else the last.

    Args:
        folders: the folder of frames of each camera.

    Raises:
        UserError: a name has no number, or no number tells all frames of a camera apart.
    """
    columns: dict[str, dict[int, dict[int, Path]]] = {}  # camera, place of the number counted from the end, number
    for camera, folder in folders.items():
        odd = [path.name for path in _named_as_images(folder) if not (is_file(path) or path.is_dir())]
        if odd:
            messages.warning(f"{some_names(odd)} in {folder} is no regular file and is left out.")
        columns[camera] = _columns(images_in(folder))
    shared = set.intersection(*(set(found) for found in columns.values()))
    if not shared:
        raise UserError(
            f"The frames of {some_names(list(folders))} are not numbered alike; name them as in 0000.png, 0001.png."
        )
    common = {place: len(set.intersection(*(set(found[place]) for found in columns.values()))) for place in shared}
    best = [place for place in sorted(shared) if common[place] == max(common.values())]
    place = best[-1]
    first = next(iter(folders))
    if len(best) > 1 and len(columns[first][place]) > 1:
        names = [path.name for path in columns[first][place].values()]
        messages.warning(
            f"The names of the frames of {first} ({some_names(names, 2)}) have several numbers that differ; the last "
            "is taken for that of the frame, and --time-from-name gives another."
        )
    return {camera: found[place] for camera, found in columns.items()}


def _columns(images: Sequence[Path]) -> dict[int, dict[int, Path]]:
    """The images by number, for each place in their names whose number tells all of them apart."""
    numbers = {path: [int(number) for number in re.findall(r"[0-9]+", path.stem)] for path in images}
    for path, found in numbers.items():
        if not found:
            raise UserError(f"The name of {path} does not say which frame it is; number it as in 0000.png.")
    tables = {
        place: {found[place]: path for path, found in numbers.items()}
        for place in range(-1, -1 - min(len(found) for found in numbers.values()), -1)
    }
    telling = {place: table for place, table in tables.items() if len(table) == len(images)}
    if not telling:
        place = max(tables, key=lambda place: (len(tables[place]), place))
        number, path, other = next(
            (found[place], path, tables[place][found[place]])
            for path, found in numbers.items()
            if tables[place][found[place]] != path
        )
        raise UserError(f"{path.name} and {other.name} in {path.parent} are both frame {number}; remove one.")
    return telling
