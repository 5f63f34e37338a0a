"""Reader of COLMAP models: .bin and .txt, every camera model, any of the usual folder layouts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import (
    Capture,
    CaptureImage,
    FileIndex,
    ReaderMessages,
    check_missing,
    image_files,
    is_file,
    some_names,
    unique_images,
)
from nfc_gs.data.lens import Lens, check_lens
from nfc_gs.data.masks import with_masks
from nfc_gs.data.ply_points import read_ply_points
from nfc_gs.data.poses import FARTHEST
from nfc_gs.data.readers.camera_folders import find_cameras
from nfc_gs.data.readers.colmap_files import (
    Layout,
    ModelData,
    find_layouts,
    find_models,
    model_files,
    point_cloud,
    read_files,
)
from nfc_gs.data.readers.colmap_model import ModelImage, readable
from nfc_gs.data.readers.colmap_photos import Photos, find_photos, with_slashes
from nfc_gs.data.readers.reader import Reader
from nfc_gs.data.readers.split_list import read_test_list


def is_colmap(path: Path) -> bool:
    """Whether there is a model in a folder, or it is one."""
    return bool(find_models(path))


def read_colmap(root: Path, *, factor: int | None = None, masks: bool = True) -> Capture:
    """Read the capture in `root`, which `find_models` finds a model in.

    Args:
        factor: use the images in `images_<factor>` where the capture has such copies.
        masks: look for a folder of masks.

    Raises:
        UserError: the model is damaged, or most of its images are not on disk.
    """
    messages = ReaderMessages()
    model, photos = _model_with_photos(root, messages)
    for note in photos.notes:
        messages.warning(note)
    missing = [name for name, path in zip(photos.names, photos.paths, strict=True) if path is None]
    cameras = find_cameras(root)
    if len(cameras) > 1 and 2 * len(missing) > len(photos.names):
        raise UserError(
            f"{root} has {len(cameras)} cameras ({some_names([camera.name for camera in cameras])}), but its COLMAP "
            f"model does not have one image for each ({some_names(missing)}), nor are these images there; name one "
            f"image of the model after each camera, as in {cameras[0].name}.png."
        )
    check_missing(sorted(missing), len(photos.names), photos.folder, messages)

    home = root if photos.folder == root else photos.folder.parent
    copies = FileIndex(home / f"{photos.folder.name}_{factor}") if factor else None
    images = []
    for image, name, path in zip(model.images, photos.names, photos.paths, strict=True):
        if path is None:
            continue
        copy = copies.find(name) if copies is not None else None
        images.append(
            CaptureImage(
                name=name,
                path=copy or path,
                lens=image.lens,
                viewmat=image.viewmat,
                reduced=factor if copy and factor else photos.reduced,
            )
        )
    images = unique_images(images, messages)
    if masks:
        images = with_masks(images, home / "masks", messages)
    _mention_extra_images(photos.folder, images, messages)
    if len(cameras) > 1:
        messages.info(
            f"{root} is read as photos, not as multi-view video: its model does not have one image for each camera."
        )
    if is_file(root / "transforms.json"):
        messages.info(f"{root} has a COLMAP model and transforms.json; the model is used.")
    held_out = read_test_list(
        (root / "test.txt", model.folder / "test.txt"), [image.name for image in images], messages
    )
    return Capture(root, images, model.xyz, model.rgb, held_out, "mask", messages)


@dataclass(frozen=True)
class PosedImage:
    """An image of a model: its name with forward slashes, its lens, and its world-to-camera matrix [4, 4].

    Bytes of the name that are not UTF-8 are surrogate escapes.
    """

    name: str
    lens: Lens
    viewmat: np.ndarray


@dataclass(frozen=True)
class Model:
    """A COLMAP model: its folder, its images, and its points xyz [P, 3], rgb [P, 3] uint8."""

    folder: Path
    images: list[PosedImage]
    xyz: np.ndarray
    rgb: np.ndarray


def read_model(root: Path, messages: ReaderMessages) -> Model:
    """The model that `find_models` finds in `root`; of several the one with the most images.

    Raises:
        UserError: it is damaged, or has no image with a pose.
    """
    return _model(_largest(find_layouts(root)[0], messages), messages)


def _model_with_photos(root: Path, messages: ReaderMessages) -> tuple[Model, Photos]:
    """The model of the first layout whose photos are there, and these; else that of the first layout."""
    tried: list[tuple[ModelData, Photos]] = []
    for layout in find_layouts(root):
        data = _largest(layout, messages)
        photos = find_photos(root, layout.place, data.files.folder, [image.name for image in data.images])
        tried.append((data, photos))
        if 2 * photos.found > len(photos.names):
            if len(tried) > 1:
                messages.warning(
                    f"Most photos of the COLMAP model in {tried[0][0].files.folder} are not there; the model in "
                    f"{data.files.folder} is used, whose photos are in {photos.folder}."
                )
            elif layout.place != "plain":
                messages.info(f"The COLMAP model in {data.files.folder} is used, with the photos in {photos.folder}.")
            return _model(data, messages), photos
    data, photos = tried[0]
    return _model(data, messages), photos


def _model(data: ModelData, messages: ReaderMessages) -> Model:
    folder = data.files.folder
    kinds = {path.suffix.lower() for path in (data.files.cameras, data.files.images)}
    if len(kinds) > 1:
        messages.info(
            f"The COLMAP model in {folder} is read from {data.files.cameras.name} and {data.files.images.name}."
        )
    for number, lens in data.lenses.items():
        check_lens(lens, f"Camera {number} of {folder}")
    images = [
        PosedImage(with_slashes(image.name), data.lenses[image.camera], _viewmat(image, folder))
        for image in data.images
    ]
    xyz, rgb = point_cloud(data, messages)
    ply = folder / "points3D.ply"  # as other splat trainers leave behind
    if not len(xyz) and is_file(ply):
        messages.info(f"The points are read from {ply}.")
        xyz, rgb = read_ply_points(ply)
    return Model(folder, images, xyz, rgb)


def _largest(layout: Layout, messages: ReaderMessages) -> ModelData:
    """The model with the most images; a damaged one is passed over for another.

    Raises:
        UserError: all are damaged, or have no images.
    """
    models: list[ModelData] = []
    damage: list[UserError] = []
    for folder in layout.models:
        files = model_files(folder)
        try:
            if files is None:
                raise UserError(f"The COLMAP model in {folder} is gone; put it back.")
            models.append(read_files(files))
        except UserError as error:
            damage.append(error)
    if not models:
        raise damage[0]
    for sentence in (*layout.lacking, *damage):
        messages.warning(f"A model is passed over: {sentence}")
    largest = max(models, key=lambda model: len(model.images))  # the first of equals
    if not largest.images:
        raise UserError(f"The COLMAP model in {largest.files.folder} has no registered image; run the mapper again.")
    if len(layout.models) > 1:
        sizes = ", ".join(f"{_name(model, layout)}: {len(model.images)}" for model in models)
        messages.info(
            f"The capture has {len(layout.models)} COLMAP models (images in each: {sizes}); "
            f"{_name(largest, layout)} is used."
        )
    return largest


def _name(model: ModelData, layout: Layout) -> str:
    """What tells a model from the others of its layout: 0, 1, ... or dense/0, dense/1, ..."""
    folder = model.files.folder
    return folder.name if folder.name.isdecimal() or layout.place != "dense" else folder.parent.name


def _viewmat(image: ModelImage, folder: Path) -> np.ndarray:
    w, x, y, z = image.pose[:4]
    translation = np.array(image.pose[4:])
    if np.abs(translation).max() > FARTHEST:
        raise UserError(
            f"The pose of image {readable(image.name)} in {folder} is too far away to be true; run SfM again."
        )
    x, y, z, w = np.array([x, y, z, w]) / float(np.linalg.norm([x, y, z, w]))
    viewmat = np.eye(4)
    viewmat[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    viewmat[:3, 3] = translation
    return viewmat


def _mention_extra_images(image_folder: Path, images: list[CaptureImage], messages: ReaderMessages) -> None:
    if image_folder.name.lower() not in ("images", "input"):
        return
    used = {image.path for image in images}
    if any(image.reduced > 1 for image in images):
        return
    extra = sum(1 for file in image_files(image_folder) if file not in used)
    if extra:
        messages.info(f"{extra} images in {image_folder} are not in the COLMAP model and are ignored.")


READER = Reader("a COLMAP project", is_colmap, read_colmap)
