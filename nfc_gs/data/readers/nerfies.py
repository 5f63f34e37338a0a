"""Reader of the captures of Nerfies and HyperNeRF: `dataset.json`, `metadata.json`, `camera/`, `rgb/`.

Orientations are world-to-camera with OpenCV axes in these files. The method itself trains in the frame of
(position - center) * scale, which `scene.json` gives; cameras and `points.npy` are both stored before that, in the
capture's own frame, and are kept there: `loading.load_scene` normalises them alike.
"""

from __future__ import annotations

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
    image_files,
    is_file,
    unique_images,
)
from nfc_gs.data.json_file import array_of, is_text, load_json, number_of
from nfc_gs.data.lens import RADIAL4, Lens, check_lens
from nfc_gs.data.masks import with_masks
from nfc_gs.data.npy_file import load_numbers
from nfc_gs.data.ply_points import read_ply_points
from nfc_gs.data.poses import FARTHEST, nearest_rotation, viewmat_at
from nfc_gs.data.readers.colmap_files import find_models
from nfc_gs.data.readers.reader import Reader

SIZES = (1, 2, 4, 8)
"""The images in rgb/<size>x are smaller than their cameras by this factor."""

Fields = dict[str, Any]


def is_nerfies(path: Path) -> bool:
    """Whether a folder has `dataset.json` and the folder `camera`."""
    return is_file(path / "dataset.json") and (path / "camera").is_dir()


def read_nerfies(root: Path, *, factor: int | None = None, masks: bool = True) -> Capture:
    """Read the capture in `root`.

    The ids in `val_ids` are held out; ids in neither list are left out. The time of an image is its `time_id`, or
    its `warp_id` where not all have one.

    Args:
        factor: use the images in rgb/<factor>x where they are there; else the largest.
        masks: look for a folder of masks.

    Raises:
        UserError: naming the file and field of what is wrong.
    """
    messages = ReaderMessages()
    train, val = _ids(root / "dataset.json", messages)
    ids = list(dict.fromkeys([*train, *val]))
    times = _times(root / "metadata.json", ids)
    own = _largest_folder(root)
    files = FileIndex(root / "rgb" / f"{own}x")
    copies = FileIndex(root / "rgb" / f"{factor}x") if factor else None
    images, missing = [], []
    for image_id in ids:
        name = f"{image_id}.png"
        lens, viewmat = _camera(root / "camera" / f"{image_id}.json")
        copy = copies.find(name) if copies is not None else None
        path = copy or files.find(name)
        if path is None:
            missing.append(name)
            continue
        reduced = factor if copy and factor else own
        images.append(CaptureImage(name, path, lens, viewmat, None, times[image_id], reduced))
    check_missing(missing, len(ids), files.folder, messages)
    if masks:
        images = with_masks(images, root / "masks", messages)
    xyz, rgb = _points(root)
    held_out = frozenset(f"{image_id}.png" for image_id in val) - {f"{image_id}.png" for image_id in train}
    images = unique_images(images, messages)
    if is_file(root / "transforms.json") or find_models(root):
        messages.info(f"{root} has the files of Nerfies and others with poses; those of Nerfies are used.")
    return Capture(root, images, xyz, rgb, held_out or None, "mask", messages, "frames", _depths(root / "scene.json"))


def _ids(file: Path, messages: ReaderMessages) -> tuple[list[str], list[str]]:
    """The ids to train on and those to test on."""
    data = load_json(file)
    lists = {}
    for key in ("ids", "train_ids", "val_ids"):
        listed = data.get(key, [])
        numbers = isinstance(listed, list) and all(type(entry) in (str, int) for entry in listed)
        lists[key] = [str(entry) for entry in listed] if numbers else []
        if not numbers or not all(entry and is_text(entry) for entry in lists[key]):
            raise UserError(f"{file}: '{key}' is not a list of image names; export the capture again.")
    train, val = lists["train_ids"], lists["val_ids"]
    if not train and not val:
        train = lists["ids"]
    if not train and not val:
        raise UserError(f"{file} lists no image in 'train_ids' or 'ids'; export the capture again.")
    unlisted = len(set(lists["ids"]) - {*train, *val})
    if unlisted:
        messages.info(
            f"{unlisted} of the images in {file} are neither in 'train_ids' nor in 'val_ids' and are ignored."
        )
    return train, val


def _times(file: Path, ids: list[str]) -> dict[str, float]:
    data = load_json(file)
    for image_id in ids:
        if not isinstance(data.get(image_id), dict):
            raise UserError(f"{file} has no entry for the image {image_id}; export the capture again.")
    key = "time_id" if all("time_id" in data[image_id] for image_id in ids) else "warp_id"
    for image_id in ids:
        if key not in data[image_id]:
            raise UserError(f"{file}, image {image_id}: neither 'time_id' nor 'warp_id' is given; add its time.")
    return {image_id: number_of(data[image_id], key, f"{file}, image {image_id}") for image_id in ids}


def _largest_folder(root: Path) -> int:
    """The smallest factor whose folder has images."""
    for size in SIZES:
        if next(image_files(root / "rgb" / f"{size}x"), None) is not None:
            return size
    raise UserError(f"There are no images in {root / 'rgb' / '1x'}, nor in 2x, 4x or 8x beside it; add them.")


def _camera(file: Path) -> tuple[Lens, np.ndarray]:
    """Lens and world-to-camera matrix [4, 4] of one image.

    A camera-frame point at x, y, z = 1 appears, distorted to x', y', at
    (focal_length x' + skew y' + cx, focal_length pixel_aspect_ratio y' + cy), pixel centres at +0.5.
    """
    fields = load_json(file)
    where = str(file)

    def numbers(key: str, *shape: int, default: float | None = None) -> np.ndarray:
        return _numbers(fields, key, shape, where, default)

    width, height = (round(float(side)) for side in numbers("image_size", 2))
    focal = float(numbers("focal_length"))
    cx, cy = (float(value) for value in numbers("principal_point", 2))
    skew, aspect = float(numbers("skew", default=0.0)), float(numbers("pixel_aspect_ratio", default=1.0))
    k1, k2, k3 = (float(value) for value in numbers("radial_distortion", 3, default=0.0))
    key = "tangential" if "tangential" in fields else "tangential_distortion"  # the name in older files goes first
    p1, p2 = (float(value) for value in numbers(key, 2, default=0.0))
    pinhole = (focal, focal * aspect, cx, cy)
    if any((skew, k1, k2, k3, p1, p2)):
        lens = Lens(RADIAL4, width, height, (*pinhole, k1, k2, k3, 0.0, p1, p2, skew))
    else:
        lens = Lens("PINHOLE", width, height, pinhole)
    check_lens(lens, where)

    rotation, position = nearest_rotation(numbers("orientation", 3, 3)), numbers("position", 3)
    if rotation is None:
        raise UserError(f"{where}: 'orientation' holds no rotation; mend it or remove the image from dataset.json.")
    if np.abs(position).max() > FARTHEST:
        raise UserError(f"{where}: 'position' is too far away to be true; mend it.")
    return lens, viewmat_at(rotation, position)


def _numbers(fields: Fields, key: str, shape: tuple[int, ...], where: str, default: float | None) -> np.ndarray:
    """A field of finite numbers of that shape; missing, it is filled with the default where there is one."""
    if fields.get(key) is None:
        if default is None:
            raise UserError(f"{where}: '{key}' is missing; export the capture again.")
        return np.full(shape, default)
    return array_of(fields[key], shape, f"{where}: '{key}'")


def _points(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """`points.npy` (middle grey) or else `points3D.ply`."""
    file = root / "points.npy"
    if is_file(file):
        xyz = load_numbers(file, 3, "for each point")
        return xyz, np.full(xyz.shape, 128, dtype=np.uint8)
    if is_file(root / "points3D.ply"):
        return read_ply_points(root / "points3D.ply")
    return np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8)


def _depths(file: Path) -> tuple[float, float] | None:
    """Near and far in the capture's own frame, where `scene.json` gives them; in the file they are scaled."""
    if not is_file(file):
        return None
    fields = load_json(file)
    if any(fields.get(key) is None for key in ("near", "far", "scale")):
        return None
    near, far, scale = (number_of(fields, key, str(file)) for key in ("near", "far", "scale"))
    if not 0.0 < near < far < FARTHEST or not scale > 1.0 / FARTHEST:
        return None
    return near / scale, far / scale


READER = Reader("a Nerfies capture", is_nerfies, read_nerfies)
