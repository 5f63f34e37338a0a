"""Which files are the photos of a COLMAP model: the folder they are in, and how their names are spelt there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nfc_gs.data.capture import FileIndex, has_image_suffix, some_names
from nfc_gs.data.image_files import is_deep
from nfc_gs.data.readers.colmap_files import Place
from nfc_gs.data.readers.colmap_model import readable

_COPIES = (2, 4, 8)

_CODE_PAGES = (
    *("gb18030", "cp932", "cp949", "big5hkscs"),  # Chinese, Japanese, Korean, Chinese with the old characters
    *("cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874"),
    *("cp437", "cp850", "cp866"),  # of the console
)
"""What programs for Windows write instead of UTF-8."""


@dataclass(frozen=True)
class Photos:
    """The files of the photos of a model.

    Attributes:
        folder: what the names are relative to.
        names: of all photos of the model, in its order, as text.
        paths: their files, or None where there is none.
        reduced: the files are copies at 1 / `reduced` of the size.
        notes: sentences on what was assumed to find them.
    """

    folder: Path
    names: list[str]
    paths: list[Path | None]
    reduced: int = 1
    notes: list[str] = field(default_factory=list)

    @property
    def found(self) -> int:
        return sum(path is not None for path in self.paths)


def find_photos(root: Path, place: Place, model: Path, names: Sequence[str]) -> Photos:
    """The photos of the model in the folder `model` of a capture, with these names in its file.

    Folders in names may be parted by backslashes. Names that are not UTF-8 are decoded with the code page that gives
    the names of most files.
    """
    indexes: dict[Path, FileIndex] = {}
    best = _in_folders(root, place, model, [with_slashes(name) for name in names], indexes)
    lost = [name for name, path in zip(names, best.paths, strict=True) if path is None]
    for code_page in () if all(name.isascii() for name in lost) else _CODE_PAGES:
        decoded = [_decoded(name, code_page) for name in names]
        photos = _in_folders(root, place, model, [with_slashes(name) for name in decoded], indexes)
        if photos.found > best.found:
            changed = [new for old, new in zip(names, decoded, strict=True) if old != new]
            note = (
                f"The names of {len(changed)} images of the COLMAP model in {model} are taken to be in the code page "
                f"{code_page}, which gives names of files in {photos.folder} ({some_names(changed)})."
            )
            best = replace(photos, notes=[note, *photos.notes])
    return replace(best, names=[readable(name) for name in best.names])


def with_slashes(name: str) -> str:
    return name.replace("\\", "/")


def _decoded(name: str, code_page: str) -> str:
    """The name whose bytes are in that code page; the name itself where they are not."""
    try:
        return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode(code_page)
    except UnicodeDecodeError:
        return name


def _in_folders(root: Path, place: Place, model: Path, names: Sequence[str], indexes: dict[Path, FileIndex]) -> Photos:
    """The photos in the first folder meant for them that has most; else in the one that has most of all."""
    best: Photos | None = None
    own_folders, other_folders = _folders(root, place, model)
    for folder in own_folders:
        if folder.is_dir():
            photos = _in_folder(indexes.setdefault(folder, FileIndex(folder)), names)
            if 2 * photos.found > len(names):
                return photos
            best = photos if best is None or photos.found > best.found else best
    own = best or Photos(own_folders[0], list(names), [None] * len(names))
    best = own
    for folder, reduced in other_folders:
        if folder.is_dir():
            photos = _in_folder(indexes.setdefault(folder, FileIndex(folder)), names)
            if photos.found > best.found and 2 * photos.found > len(names):
                best = replace(
                    photos, reduced=reduced, notes=[*photos.notes, _why(own_folders[0], own, photos, reduced)]
                )
    return best


def _why(usual: Path, own: Photos, used: Photos, reduced: int) -> str:
    size = f" at 1/{reduced} of the size" if reduced > 1 else ""
    if usual.is_dir():
        return (
            f"{usual} has only {own.found} of the {len(own.names)} images of the COLMAP model, and {used.folder} has "
            f"{used.found}: those in {used.folder.name}{size} are used."
        )
    return f"There is no folder {usual}: the images in {used.folder}{size} are used."


def _folders(root: Path, place: Place, model: Path) -> tuple[list[Path], list[tuple[Path, int]]]:
    """The folders meant for the photos of a model; and others that may hold them, with how much smaller they are.

    The path given may be that of the model, with the photos above it.
    """
    parents = Path(os.path.abspath(model)).parents
    distorted = next((folder for folder in (model, *parents[:2]) if folder.name == "distorted"), None)
    if distorted is not None:
        return [distorted.parent / "input"], [(distorted.parent / "images", 1)]
    if place == "dense":
        return [(model.parent if model.name == "sparse" else model.parent.parent) / "images"], []
    homes = [root] if (root / "images").is_dir() else [root, *parents[:2]]
    own = [home / name for home in homes for name in ("images", "Images")]
    others = [(home / "input", 1) for home in homes]
    others += [(home / f"images_{factor}", factor) for home in homes for factor in _COPIES]
    return [*own, root], others


def _in_folder(files: FileIndex, names: Sequence[str]) -> Photos:
    """The photos of these names in a folder; no file is taken for two names."""
    folder = files.folder
    unique = list(dict.fromkeys(names))
    found = {name: path for name in unique if (path := files.exact(name)) is not None}
    found |= _claimed(files.respelled, (name for name in unique if name not in found), found)
    others = _claimed(files.other_suffix, (name for name in unique if name not in found), found)
    notes = []
    if others:
        skipped = _not_the_photos(others, found, files, len(unique))
        kept = {name: path for name, path in others.items() if name not in skipped}
        if kept:
            example = next(iter(kept))
            notes.append(
                f"{len(kept)} of {len(unique)} photos in {folder} do not have the suffix that the COLMAP model names; "
                f"those with another are used ({kept[example].name} for {readable(example)})."
            )
        if skipped:
            path, why = next((others[name], why) for name, why in skipped.items())
            notes.append(
                f"{len(skipped)} of {len(unique)} photos are missing in {folder}, where an image has their name but "
                f"for the suffix, which is not taken for the photo ({path.name}: {why}); rename it if it is."
            )
        found |= kept
    return Photos(folder, list(names), [found.get(name) for name in names], notes=notes)


def _claimed(find: Callable[[str], Path | None], names: Iterable[str], taken: dict[str, Path]) -> dict[str, Path]:
    """What `find` finds for these names, but for files that are taken or found for several of them."""
    found = {name: path for name in names if (path := find(name)) is not None}
    used, claims = set(taken.values()), Counter(found.values())
    return {name: path for name, path in found.items() if path not in used and claims[path] == 1}


def _not_the_photos(others: dict[str, Path], found: dict[str, Path], files: FileIndex, total: int) -> dict[str, str]:
    """Of files that differ from names of photos by the suffix those that are not these photos, and why.

    They are the photos where a whole set was converted: then most names lack their file, and those that have it have
    no second one. Depth maps and masks are kept beside the photos of which they are.
    """
    if 2 * len(others) <= total:
        return dict.fromkeys(others, "most photos have the suffix that the model names")
    beside = sum(files.other_suffix(name) is not None for name in found if has_image_suffix(name))
    if found and 2 * beside > len(found):
        return dict.fromkeys(others, "such images lie beside photos, too")
    return {name: "it has more than 8 bits" for name, path in others.items() if is_deep(path)}
