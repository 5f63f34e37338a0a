"""Reader of `transforms.json`: nerfstudio and instant-ngp (one file), Blender and D-NeRF (one file per split).

Poses are camera-to-world with OpenGL axes (x right, y up, z backward) in these files; they become OpenCV
world-to-camera matrices here and nowhere else. `applied_transform` says how the file's world was made and is
not needed: the file's own world is the capture's world, in which its points are given too.
"""

from __future__ import annotations

import math
import os
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
    has_image_suffix,
    is_file,
    unique_images,
)
from nfc_gs.data.images import read_header
from nfc_gs.data.json_file import is_text, load_json, number_of
from nfc_gs.data.lens import RADIAL4, SPHERICAL, Lens, check_lens
from nfc_gs.data.ply_points import read_ply_points
from nfc_gs.data.poses import FARTHEST, nearest_rotation, viewmat_at
from nfc_gs.data.readers.colmap_files import find_models
from nfc_gs.data.readers.reader import Reader

_BLENDER = {split: f"transforms_{split}.json" for split in ("train", "val", "test")}

_PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_FISHEYE = ("OPENCV_FISHEYE", "FISHEYE")

_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0])


def is_blender(path: Path) -> bool:
    """Whether `path` is a folder with `transforms_train.json`, or one of the files of such a set."""
    if path.suffix.lower() == ".json":
        return path.name in _BLENDER.values() and is_file(path.with_name(_BLENDER["train"]))
    return is_file(path / _BLENDER["train"])


def is_transforms(path: Path) -> bool:
    """Whether `path` is a JSON file, or a folder with `transforms.json` that has no COLMAP model in `sparse`."""
    if path.suffix.lower() == ".json" and is_file(path):
        return True
    if not is_file(path / "transforms.json"):
        return False
    return not any(path / "sparse" in (model, model.parent) for model in find_models(path))


def read_transforms(path: Path, *, factor: int | None = None, masks: bool = True) -> Capture:
    """Read one `transforms.json` (nerfstudio, instant-ngp).

    Args:
        path: the file, or the folder of that file.
        factor: use the images in `images_<factor>` where the capture has such copies of `images`.
        masks: use `mask_path` and a folder of masks.

    Raises:
        UserError: naming file, frame and field of what is wrong.
    """
    messages = ReaderMessages()
    file = path / "transforms.json" if path.is_dir() else path
    reader = _TransformsFile(file, factor, masks, messages)
    images = unique_images(reader.images(), messages)
    xyz, rgb = reader.points()
    return Capture(file.parent, images, xyz, rgb, reader.split(images), "mask", messages)


def read_blender(path: Path, *, factor: int | None = None, masks: bool = True) -> Capture:
    """Read `transforms_train.json` and, for testing, `transforms_test.json` or else `transforms_val.json`.

    Args:
        path: the folder, or one of the files.
        factor: not used; such captures hold no smaller copies.
        masks: use `mask_path` and a folder of masks.

    Raises:
        UserError: naming file, frame and field of what is wrong.
    """
    root = path.parent if path.suffix.lower() == ".json" else path
    messages = ReaderMessages()
    train = list(_TransformsFile(root / _BLENDER["train"], None, masks, messages).images())
    test: list[CaptureImage] = []
    for split in ("test", "val"):
        if not test and is_file(root / _BLENDER[split]):
            test = list(_TransformsFile(root / _BLENDER[split], None, masks, messages).images())
            if split == "test" and is_file(root / _BLENDER["val"]):
                messages.info("The views of transforms_val.json are not used: transforms_test.json is there.")
    images = unique_images([*train, *test], messages)
    held_out = frozenset(image.name for image in test) - {image.name for image in train}
    empty = np.zeros((0, 3))
    return Capture(root, images, empty, empty.astype(np.uint8), held_out, "white", messages)


class _TransformsFile:
    """One JSON file."""

    def __init__(self, file: Path, factor: int | None, masks: bool, messages: ReaderMessages) -> None:
        self.file, self.root, self.factor, self.masks, self.messages = file, file.parent, factor, masks, messages
        self.data = load_json(file)
        self.files = FileIndex(self.root)
        self.mask_files = FileIndex(self.root / "masks")
        self.copies: dict[Path, FileIndex] = {}
        self.names: dict[str, str] = {}  # file_path -> name of its image

    def images(self) -> list[CaptureImage]:
        frames = self.data.get("frames")
        if not isinstance(frames, list) or not frames:
            raise UserError(f"{self.file} has no list 'frames' with at least one frame; export the capture again.")
        paths = [self._image_file(frame, i) for i, frame in enumerate(frames)]
        missing = [str(frame["file_path"]) for frame, path in zip(frames, paths, strict=True) if path is None]
        check_missing(missing, len(frames), self.root, self.messages)
        base = os.path.commonpath([os.path.abspath(path.parent) for path in paths if path is not None])
        if is_blender(self.file):  # the splits share names like r_000; their folders make them unique
            base = str(self.root)
        images = []
        for i, (frame, path) in enumerate(zip(frames, paths, strict=True)):
            if path is not None:
                name = os.path.relpath(path, base).replace(os.sep, "/")
                self.names[_normal(frame["file_path"])] = name
                images.append(self._capture_image(frame, i, path, name))
        return images

    def _image_file(self, frame: Any, index: int) -> Path | None:
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str) or not frame["file_path"]:
            raise UserError(f"{self.file}, frame {index}: 'file_path' is missing; name the frame's image there.")
        name = frame["file_path"].replace("\\", "/")
        if not is_text(name):
            raise UserError(f"{self.file}, frame {index}: 'file_path' {ascii(name)[:40]} is no file name; mend it.")
        path = self.root / name
        if is_file(path):
            return Path(os.path.normpath(path))
        for suffix in (".png", ".jpg", ".jpeg"):
            if is_file(Path(f"{path}{suffix}")):
                return Path(os.path.normpath(f"{path}{suffix}"))
        return self.files.find(name if has_image_suffix(name) else f"{name}.png")

    def _capture_image(self, frame: dict[str, Any], index: int, path: Path, name: str) -> CaptureImage:
        where = f"{self.file}, frame {index} ({frame['file_path']})"
        reduced = 1
        copy = self._copy(path)
        lens = self._lens(frame, where, path)
        if copy is not None and self.factor:
            path, reduced = copy, self.factor
        return CaptureImage(
            name=name,
            path=path,
            lens=lens,
            viewmat=_viewmat(frame.get("transform_matrix"), where),
            mask=self._mask(frame, name, where),
            time=number_of(frame, "time", where) if frame.get("time") is not None else None,
            reduced=reduced,
        )

    def _copy(self, path: Path) -> Path | None:
        """The copy of images/x in images_<factor>/x."""
        for folder in path.parents if self.factor else ():
            if folder.name == "images":
                copies = self.copies.setdefault(folder, FileIndex(folder.with_name(f"images_{self.factor}")))
                return copies.find(path.relative_to(folder).as_posix())
        return None

    def _mask(self, frame: dict[str, Any], name: str, where: str) -> Path | None:
        if not self.masks:
            return None
        given = frame.get("mask_path")
        if given:
            path = self.files.find(str(given).replace("\\", "/"))
            if path is None:
                raise UserError(f"{where}: the mask {given} is not on disk; put it there or remove 'mask_path'.")
            return path
        return find_mask(self.mask_files, name) if self.mask_files.folder.is_dir() else None

    def _lens(self, frame: dict[str, Any], where: str, path: Path) -> Lens:
        """Intrinsics of a frame; its own fields before those of the file."""
        fields = {**self.data, **frame}

        def value(key: str, default: float = 0.0) -> float:
            return number_of(fields, key, where) if fields.get(key) is not None else default

        if fields.get("w") is not None and fields.get("h") is not None:
            width, height = round(value("w")), round(value("h"))
        else:
            header = read_header(path)
            width, height = header.width, header.height
        model = str(fields.get("camera_model") or ("OPENCV_FISHEYE" if fields.get("is_fisheye") else "OPENCV")).upper()
        if model == SPHERICAL:
            lens = Lens(SPHERICAL, width, height, (float(width), float(height)))
            check_lens(lens, where)
            return lens
        if model not in _PERSPECTIVE + _FISHEYE:
            known = ", ".join((*_PERSPECTIVE, *_FISHEYE, SPHERICAL))
            raise UserError(f"{where}: 'camera_model' {model} is not known; it may be {known}.")
        fx = _focal(fields, "fl_x", "camera_angle_x", width, where)
        fy = _focal(fields, "fl_y", "camera_angle_y", height, where) or fx
        fx = fx or fy
        if not fx or not fy:
            raise UserError(f"{where}: neither 'fl_x' nor 'camera_angle_x' is given; add the focal length.")
        centre = (value("cx", width / 2), value("cy", height / 2))
        k1, k2, k3, k4, p1, p2 = (value(key) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
        if model in _FISHEYE:
            lens = Lens("OPENCV_FISHEYE", width, height, (fx, fy, *centre, k1, k2, k3, k4))
        elif k3 or k4:
            lens = Lens(RADIAL4, width, height, (fx, fy, *centre, k1, k2, k3, k4, p1, p2))
        elif k1 or k2 or p1 or p2:
            lens = Lens("OPENCV", width, height, (fx, fy, *centre, k1, k2, p1, p2))
        else:
            lens = Lens("PINHOLE", width, height, (fx, fy, *centre))
        check_lens(lens, where)
        return lens

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        name = self.data.get("ply_file_path")
        if not name:
            return np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8)
        path = self.root / str(name)
        if not is_file(path):
            self.messages.warning(f"The points {path} that {self.file.name} names are not on disk.")
            return np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8)
        return read_ply_points(path)

    def split(self, images: list[CaptureImage]) -> frozenset[str] | None:
        """The held-out names by `test_filenames`, or else `val_filenames`; removes images that no list has."""
        lists: dict[str, set[str]] = {}
        for key in ("train", "val", "test"):
            listed = self.data.get(f"{key}_filenames") or []
            if not (isinstance(listed, list) and all(isinstance(name, str) for name in listed)):
                raise UserError(f"{self.file}: '{key}_filenames' is not a list of names; mend or remove it.")
            lists[key] = {self.names[name] for name in map(_normal, listed) if name in self.names}
        if not lists["train"]:
            return None
        held_out = (lists["test"] or lists["val"]) - lists["train"]
        images[:] = [image for image in images if image.name in lists["train"] | held_out]
        return frozenset(held_out)


def _normal(name: str) -> str:
    return os.path.normpath(name.replace("\\", "/"))


def _focal(fields: dict[str, Any], key: str, angle_key: str, side: int, where: str) -> float | None:
    if fields.get(key) is not None:
        return number_of(fields, key, where)
    # one angle is enough, and files that give fl_x give no meaning to the other
    if fields.get(angle_key) is None or (angle_key == "camera_angle_y" and fields.get("fl_x") is not None):
        return None
    angle = number_of(fields, angle_key, where)
    if not 0.0 < angle < math.pi:
        raise UserError(f"{where}: '{angle_key}' is {angle:.4g}; it must lie between 0 and pi (radians).")
    return 0.5 * side / math.tan(0.5 * angle)


def _viewmat(matrix: Any, where: str) -> np.ndarray:
    """OpenGL camera-to-world, [4][4] or [3][4] numbers -> OpenCV world-to-camera, [4, 4], rigid."""
    if matrix is None:
        raise UserError(f"{where}: 'transform_matrix' is missing; add the camera-to-world matrix.")
    try:
        c2w = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        c2w = np.zeros(0)
    if c2w.shape not in ((4, 4), (3, 4)):
        raise UserError(f"{where}: 'transform_matrix' is not a matrix of 4 x 4 numbers; mend it.")
    if not np.isfinite(c2w).all():
        raise UserError(f"{where}: 'transform_matrix' is not finite; mend it or remove the frame.")
    if np.abs(c2w).max() > FARTHEST:
        raise UserError(f"{where}: 'transform_matrix' is too far away to be true; mend it or remove the frame.")
    rotation = nearest_rotation(c2w[:3, :3])
    if rotation is None:
        raise UserError(f"{where}: 'transform_matrix' holds no rotation; mend it or remove the frame.")
    return viewmat_at((rotation @ _OPENGL_TO_OPENCV).T, c2w[:3, 3])


READER = Reader("a nerfstudio or instant-ngp capture", is_transforms, read_transforms)
BLENDER_READER = Reader("a Blender or D-NeRF capture", is_blender, read_blender)
