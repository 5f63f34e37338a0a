"""Reader of COLMAP models (through pycolmap): .bin and .txt, every camera model, any of the usual folder layouts."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import (
    Capture,
    CaptureImage,
    FileIndex,
    ReaderMessages,
    check_missing,
    find_mask,
    image_files,
    is_file,
    log,
    unique_images,
)
from nfc_gs.data.lens import Lens, check_lens
from nfc_gs.data.ply_points import read_ply_points
from nfc_gs.data.poses import FARTHEST
from nfc_gs.data.readers.camera_folders import find_cameras
from nfc_gs.data.readers.colmap_check import Points, check_binary_model, check_text_model
from nfc_gs.data.readers.reader import Reader

_LAYOUTS = ("sparse", "", "colmap/sparse")
"""Where below a capture models lie, or folders 0, 1, 2, ... with one model each."""


def find_models(root: Path) -> list[Path]:
    """Model folders of a capture, or of a model folder itself; those of the first layout that has any."""
    for layout in _LAYOUTS:
        base = root / layout
        if _is_model(base):
            return [base]
        numbered = sorted((p for p in _folders(base) if p.name.isdigit() and _is_model(p)), key=lambda p: int(p.name))
        if numbered:
            return numbered
    return []


def is_colmap(path: Path) -> bool:
    """Whether there is a model in a folder, or it is one."""
    return bool(find_models(path))


def _folders(base: Path) -> list[Path]:
    try:
        return [p for p in base.iterdir() if p.is_dir()] if base.is_dir() else []
    except OSError:
        return []


def _is_model(folder: Path) -> bool:
    return any(is_file(folder / f"cameras.{kind}") and is_file(folder / f"images.{kind}") for kind in ("bin", "txt"))


def read_colmap(root: Path, *, factor: int | None = None, masks: bool = True) -> Capture:
    """Read the capture in `root`, which `find_models` finds a model in.

    Args:
        factor: use the images in `images_<factor>` where the capture has such copies.
        masks: look for a folder of masks.

    Raises:
        UserError: the model is damaged, or most of its images are not on disk.
    """
    messages = ReaderMessages()
    model = read_model(root, messages)
    names = [image.name for image in model.images]
    files, image_folder = _locate(root, model.folder, names)
    missing = [name for name in names if name not in files]
    check_missing(sorted(missing), len(names), image_folder, messages)

    home = root if image_folder == root else image_folder.parent
    mask_files = FileIndex(home / "masks")
    use_masks = masks and mask_files.folder.is_dir()
    copies = FileIndex(home / f"{image_folder.name}_{factor}") if factor else None
    images = []
    for image in model.images:
        if image.name not in files:
            continue
        copy = copies.find(image.name) if copies is not None else None
        images.append(
            CaptureImage(
                name=image.name,
                path=copy or files[image.name],
                lens=image.lens,
                viewmat=image.viewmat,
                mask=find_mask(mask_files, image.name) if use_masks else None,
                reduced=factor if copy and factor else 1,
            )
        )
    images = unique_images(images, messages)
    _mention_extra_images(image_folder, images, messages)
    if len(find_cameras(root)) > 1:
        messages.info(
            f"{root} is read as photos, not as multi-view video: its model does not have one image for each camera."
        )
    if is_file(root / "transforms.json"):
        messages.info(f"{root} has a COLMAP model and transforms.json; the model is used.")
    return Capture(root, images, model.xyz, model.rgb, _own_split(root, model.folder, images), "mask", messages)


@dataclass(frozen=True)
class PosedImage:
    """An image of a model: its name with forward slashes, its lens, and its world-to-camera matrix [4, 4]."""

    name: str
    lens: Lens
    viewmat: np.ndarray


@dataclass(frozen=True)
class Model:
    """A COLMAP model: its folder, its images that have a pose, and its points xyz [P, 3], rgb [P, 3] uint8."""

    folder: Path
    images: list[PosedImage]
    xyz: np.ndarray
    rgb: np.ndarray


def read_model(root: Path, messages: ReaderMessages) -> Model:
    """The model that `find_models` finds in `root`; of several the one with the most images.

    Raises:
        UserError: it is damaged, or has no image with a pose.
    """
    folder, model, stripped = _largest(find_models(root), messages)
    posed = [image for image in model.images.values() if image.has_pose]
    if not posed:
        raise UserError(f"The COLMAP model in {folder} has no registered image; run the mapper again.")
    lenses = {camera_id: _lens(camera, folder) for camera_id, camera in model.cameras.items()}
    images = [
        PosedImage(image.name.replace("\\", "/"), lenses[image.camera_id], _viewmat(image, folder)) for image in posed
    ]
    return Model(folder, images, *(_points(model, folder, messages) if stripped is None else stripped))


def _largest(folders: list[Path], messages: ReaderMessages) -> tuple[Path, Any, Points | None]:
    """The folder of the model with the most images, and `_load` of it; a damaged one is passed over for another."""
    models, damage = [], []
    for folder in folders:
        try:
            models.append((folder, *_load(folder)))
        except UserError as error:
            damage.append(error)
    if not models:
        raise damage[0]
    for error in damage:
        messages.warning(f"A model is passed over: {error}")
    folder, model, stripped = max(models, key=lambda entry: entry[1].num_reg_images())  # the first of equals
    if len(folders) > 1:
        sizes = ", ".join(f"{f.name}: {m.num_reg_images()}" for f, m, _ in models)
        messages.info(f"The capture has {len(folders)} COLMAP models (images in each: {sizes}); {folder.name} is used.")
    if stripped is not None:
        messages.info(
            f"The points of the COLMAP model in {folder} refer to 2D points that its images do not hold, as in a "
            f"model stripped of them; its {len(stripped[0])} points are used all the same."
        )
    return folder, model, stripped


def _load(folder: Path) -> tuple[Any, Points | None]:
    """The model of a folder; without its points where only these files' own reader can have them, given beside it."""
    from nfc_gs.data.colmap_library import pycolmap

    kind = "bin" if is_file(folder / "cameras.bin") and is_file(folder / "images.bin") else "txt"
    stripped = (check_binary_model if kind == "bin" else check_text_model)(folder)
    try:
        if stripped is None and is_file(folder / f"points3D.{kind}"):
            model = pycolmap.Reconstruction(str(folder))
        else:
            model = _load_without_points(folder, kind)
        for image in model.images.values():
            _ = image.name  # raises where it is not UTF-8
        return model, stripped
    except Exception as error:  # pycolmap raises ValueError, RuntimeError, IndexError, ... in the words of its C++
        log.debug("pycolmap: %s", error)
        raise UserError(
            f"The COLMAP model in {folder} is damaged: pycolmap cannot read its .{kind} files; export it again."
        ) from None


def _load_without_points(folder: Path, kind: str) -> Any:
    """The model with an empty file of points, for one whose points are missing or lead to missing 2D points.

    pycolmap requires all files of a model.
    """
    from nfc_gs.data.colmap_library import pycolmap

    with tempfile.TemporaryDirectory() as temporary:
        for file in folder.glob(f"*.{kind}"):
            shutil.copy(file, temporary)
        (Path(temporary) / f"points3D.{kind}").write_bytes(bytes(8) if kind == "bin" else b"")
        return pycolmap.Reconstruction(temporary)


def _locate(root: Path, model: Path, names: list[str]) -> tuple[dict[str, Path], Path]:
    """The file of each image name, and the folder they are relative to: the one where most are found."""
    usual = ("images", "Images", "input", "images_2", "images_4", "images_8")
    candidates = [root / name for name in usual]
    if not candidates[0].is_dir():  # the path given may be that of the model, with the images above it
        candidates += [home / name for home in (model.parent, model.parent.parent) for name in usual]
    candidates.append(root)
    best: tuple[dict[str, Path], Path] = ({}, candidates[0])
    for folder in candidates:
        if not folder.is_dir() or (folder == root and best[0]):
            continue
        index = FileIndex(folder)
        found = {name: path for name in names if (path := index.find(name)) is not None}
        if len(found) > len(best[0]):
            best = (found, folder)
        if len(found) == len(names):
            break
    return best


def _lens(camera: Any, folder: Path) -> Lens:
    model = camera.model_name if isinstance(camera.model_name, str) else camera.model.name
    lens = Lens(model, int(camera.width), int(camera.height), tuple(float(v) for v in camera.params))
    check_lens(lens, f"Camera {camera.camera_id} of {folder}")
    return lens


def _viewmat(image: Any, folder: Path) -> np.ndarray:
    pose: Any = image.cam_from_world
    pose = pose() if callable(pose) else pose  # a method since pycolmap 3.12
    x, y, z, w = quat = np.asarray(pose.rotation.quat, dtype=np.float64)
    translation = np.asarray(pose.translation, dtype=np.float64)
    norm = float(np.linalg.norm(quat))
    if not (np.isfinite(translation).all() and 1e-6 < norm < 1e6):
        raise UserError(f"The pose of image {image.name} in {folder} is not finite or no rotation; run SfM again.")
    if np.abs(translation).max() > FARTHEST:
        raise UserError(f"The pose of image {image.name} in {folder} is too far away to be true; run SfM again.")
    x, y, z, w = quat / norm
    viewmat = np.eye(4)
    viewmat[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    viewmat[:3, 3] = translation
    return viewmat


def _points(model: Any, folder: Path, messages: ReaderMessages) -> tuple[np.ndarray, np.ndarray]:
    points = list(model.points3D.values())
    if not points and is_file(folder / "points3D.ply"):  # as other splat trainers leave behind
        messages.info(f"The points are read from {folder / 'points3D.ply'}.")
        return read_ply_points(folder / "points3D.ply")
    xyz = np.array([point.xyz for point in points], dtype=np.float64).reshape(-1, 3)
    rgb = np.array([point.color for point in points], dtype=np.uint8).reshape(-1, 3)
    return xyz, rgb


def _mention_extra_images(image_folder: Path, images: list[CaptureImage], messages: ReaderMessages) -> None:
    if image_folder.name.lower() not in ("images", "input"):
        return
    used = {image.path for image in images}
    if any(image.reduced > 1 for image in images):
        return
    extra = sum(1 for file in image_files(image_folder) if file not in used)
    if extra:
        messages.info(f"{extra} images in {image_folder} are not in the COLMAP model and are ignored.")


def _own_split(root: Path, folder: Path, images: list[CaptureImage]) -> frozenset[str] | None:
    """The names listed in `test.txt` beside the images or the model (as Inria's 3DGS reads it), if it fits."""
    names = {image.name for image in images}
    for path in (root / "test.txt", folder / "test.txt"):
        if is_file(path):
            try:
                listed = {line.strip() for line in path.read_text(encoding="utf-8").splitlines()}
            except (OSError, UnicodeDecodeError):
                continue
            if listed & names:
                return frozenset(listed & names)
    return None


READER = Reader("a COLMAP project", is_colmap, read_colmap)
