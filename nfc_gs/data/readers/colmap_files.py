"""Where the files of COLMAP models are below a capture, and the model that they make together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import ReaderMessages, folder_entries, is_file
from nfc_gs.data.lens import Lens
from nfc_gs.data.readers import colmap_binary, colmap_text
from nfc_gs.data.readers.colmap_model import (
    Cameras,
    ModelImage,
    ModelPoints,
    damage,
    stray_observations,
)
from nfc_gs.data.readers.colmap_rigs import check_rigs_and_frames

Place = Literal["plain", "dense", "distorted"]
"""Where models lie: in the usual folders of a capture; in a workspace of COLMAP's automatic reconstruction, with their
undistorted images; or where Inria's convert.py leaves the model of the photos in `input`, before it undistorts them."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model; of points there may be none."""

    folder: Path
    cameras: Path
    images: Path
    points: Path | None


@dataclass(frozen=True)
class Layout:
    """Models at one place of a capture, and sentences on those there that lack a file."""

    place: Place
    models: list[Path]
    lacking: list[str]


@dataclass(frozen=True)
class ModelData:
    """A model as its files have it, with the lens of each camera that an image has."""

    files: ModelFiles
    images: list[ModelImage]
    lenses: dict[int, Lens]
    points: ModelPoints | None


def find_layouts(root: Path) -> list[Layout]:
    """The places below `root`, or `root` itself, that have models; the usual ones first."""
    layouts = []
    for place, bases in _places(root):
        folders = _folders(bases)
        models = [folder for folder in folders if model_files(folder) is not None]
        if models:
            lacking = [sentence for folder in folders if (sentence := _lacking(folder)) is not None]
            layouts.append(Layout(place, models, lacking))
    return layouts


def _places(root: Path) -> list[tuple[Place, list[Path]]]:
    """Where below a capture models lie, or folders 0, 1, 2, ... with one model each."""
    workspace = root if root.name == "dense" else root / "dense"
    return [
        ("plain", [root / "sparse"]),
        ("plain", [root]),
        ("plain", [root / "colmap" / "sparse"]),
        ("dense", [folder / "sparse" for folder in (*_numbered(workspace), workspace)]),
        ("distorted", [root / "distorted" / "sparse"]),
    ]


def find_models(root: Path) -> list[Path]:
    """Model folders of a capture, or of a model folder itself; those of the first layout that has any."""
    layouts = find_layouts(root)
    return layouts[0].models if layouts else []


def _folders(bases: list[Path]) -> list[Path]:
    """Where models may be in these folders: they themselves, or else folders 0, 1, 2, ... in them."""
    return [folder for base in bases for folder in ([base] if model_files(base) else [base, *_numbered(base)])]


def _numbered(base: Path) -> list[Path]:
    paths = [Path(entry.path) for entry in folder_entries(base) if entry.name.isdecimal()]
    return sorted((path for path in paths if path.is_dir()), key=lambda path: int(path.name))


def model_files(folder: Path) -> ModelFiles | None:
    """The files of the model in a folder: the binary ones, else the text ones, else some of each.

    RealityCapture begins their names with capitals: letters may be of either case.
    """
    found = _files_by_kind(folder)
    for kinds in (("bin", "bin"), ("txt", "txt"), ("bin", "txt"), ("txt", "bin")):
        cameras, images = found.get(f"cameras.{kinds[0]}"), found.get(f"images.{kinds[1]}")
        if cameras is not None and images is not None:
            other = "txt" if kinds[1] == "bin" else "bin"
            points = found.get(f"points3d.{kinds[1]}", found.get(f"points3d.{other}"))
            return ModelFiles(folder, cameras, images, points)
    return None


_NAMES = tuple(f"{stem}.{suffix}" for stem in ("cameras", "images", "points3D") for suffix in ("bin", "txt"))


def _files_by_kind(folder: Path) -> dict[str, Path]:
    """The files of a model in a folder by their names in small letters."""
    exact = {name.casefold(): folder / name for name in _NAMES if is_file(folder / name)}
    if "cameras.bin" in exact and "images.bin" in exact:
        return exact
    known = {name.casefold() for name in _NAMES}
    entries = [Path(entry.path) for entry in folder_entries(folder) if entry.name.casefold() in known]
    return {**{path.name.casefold(): path for path in entries if is_file(path)}, **exact}


def lacking_files(root: Path) -> str | None:
    """What a model below `root` lacks to be one, as a sentence; None where there is none, or a whole one."""
    sentences = (_lacking(folder) for _, bases in _places(root) for folder in _folders(bases))
    return next((sentence for sentence in sentences if sentence is not None), None)


def _lacking(folder: Path) -> str | None:
    found = _files_by_kind(folder)
    kind = "txt" if found and all(name.endswith(".txt") for name in found) else "bin"
    lacking = [f"{stem}.{kind}" for stem in ("cameras", "images") if not found.keys() & {f"{stem}.bin", f"{stem}.txt"}]
    if not found or not lacking:
        return None
    return (
        f"The COLMAP model in {folder} is not whole: {' and '.join(lacking)} "
        f"{'is' if len(lacking) == 1 else 'are'} missing; export it again with all its files."
    )


def read_files(files: ModelFiles) -> ModelData:
    """Read a model.

    Raises:
        UserError: naming the file and what is wrong.
    """
    cameras = (colmap_binary if _is_binary(files.cameras) else colmap_text).read_cameras(files.cameras)
    images = (colmap_binary if _is_binary(files.images) else colmap_text).read_images(files.images)
    lenses = _lenses(files, cameras, images)
    if _is_binary(files.images):
        check_rigs_and_frames(files.folder, cameras, {image.number for image in images})
    points = None
    if files.points is not None:
        points = (colmap_binary if _is_binary(files.points) else colmap_text).read_points(files.points)
    return ModelData(files, images, lenses, points)


def _is_binary(path: Path) -> bool:
    return path.suffix.lower() == ".bin"


def _lenses(files: ModelFiles, cameras: Cameras, images: list[ModelImage]) -> dict[int, Lens]:
    """The lenses of the cameras that images have; others may be bad."""
    lenses: dict[int, Lens] = {}
    for image in images:
        camera = cameras.get(image.camera)
        if camera is None:
            raise damage(
                files.images,
                f"image {image.name[:200]} refers to camera {image.camera}, which is not in {files.cameras.name}",
            )
        if isinstance(camera, UserError):
            raise camera
        lenses[image.camera] = camera
    return lenses


def point_cloud(data: ModelData, messages: ReaderMessages) -> tuple[np.ndarray, np.ndarray]:
    """The points xyz [P, 3] and rgb [P, 3] of a model, whose tracks need not fit its images."""
    points = data.points
    if points is None or not len(points.ids):
        return np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8)
    stray = stray_observations(data.images, points)
    used = f"its {len(points.ids)} points are used all the same"
    if stray and not any(len(image.point_ids) for image in data.images):
        messages.info(
            f"The points of the COLMAP model in {data.files.folder} refer to 2D points that its images do not hold, "
            f"as in a model stripped of them; {used}."
        )
    elif stray:
        messages.warning(
            f"The COLMAP model in {data.files.folder} disagrees with itself: {stray} of the {len(points.tracks)} "
            f"observations of its points lead to no 2D point of theirs in {data.files.images.name}; {used}."
        )
    order = _order(points.ids)
    return points.xyz[order], points.rgb[order]


def _order(ids: np.ndarray) -> np.ndarray:
    """The order of the points in pycolmap's own map, on which the result of a training depends to the last bit."""
    from nfc_gs.data.colmap_library import pycolmap

    places = pycolmap.Point3DMap()
    point = pycolmap.Point3D()
    listed = ids.tolist()
    for number in listed:
        places[number] = point
    if len(places) < len(listed):  # some points have the same number
        return np.arange(len(listed))
    place_of = dict(zip(listed, range(len(listed)), strict=True))
    return np.fromiter((place_of[number] for number in places), np.int64, len(listed))
