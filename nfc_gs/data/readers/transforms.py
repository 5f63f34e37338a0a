"""Reader of `transforms.json`: nerfstudio and instant-ngp (one file), Blender and D-NeRF (one file per split).

Poses are camera-to-world with OpenGL axes (x right, y up, z backward) in these files; they become OpenCV
world-to-camera matrices here and nowhere else. `applied_transform` says how the file's world was made and is
not needed: the file's own world is the capture's world, in which its points are given too.
"""

from __future__ import annotations

import os
import unicodedata
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
    has_image_suffix,
    is_file,
    some_names,
    unique_images,
)
from nfc_gs.data.image_files import is_deep, read_header
from nfc_gs.data.json_file import is_text, load_json, number_of
from nfc_gs.data.lens import Lens, check_lens
from nfc_gs.data.masks import with_masks
from nfc_gs.data.ply_points import read_ply_points
from nfc_gs.data.poses import FARTHEST, nearest_rotation, viewmat_at
from nfc_gs.data.readers.colmap_files import find_models
from nfc_gs.data.readers.reader import Reader
from nfc_gs.data.readers.transforms_lens import frame_fields, lens_of

_BLENDER = {split: f"transforms_{split}.json" for split in ("train", "val", "test")}

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
    test_names = reader.split(images)
    if masks:
        images = with_masks(images, file.parent / "masks", messages)
    return Capture(file.parent, images, *reader.points(), test_names, "mask", messages)


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
    if is_file(root / "transforms.json"):
        messages.info(f"{root} has {_BLENDER['train']} and transforms.json; {_BLENDER['train']} is used.")
    files = [_TransformsFile(root / _BLENDER["train"], None, masks, messages)]
    train, test = files[0].images(), []
    for split in ("test", "val"):
        if not is_file(root / _BLENDER[split]):
            continue
        if test:
            messages.info("The views of transforms_val.json are not used: transforms_test.json is there.")
            continue
        files.append(_TransformsFile(root / _BLENDER[split], None, masks, messages))
        if files[-1].data.get("frames") == []:
            messages.warning(f"{_BLENDER[split]} has no frames; it is not used.")
        else:
            test = files[-1].images()
    images = unique_images([*train, *test], messages)
    held_out = frozenset(image.name for image in test) - {image.name for image in train}
    if test and not held_out:
        messages.warning(f"All images of {files[-1].file.name} are those of {_BLENDER['train']}; it is not used.")
    if masks:
        images = with_masks(images, root / "masks", messages)
    with_points = next((file for file in files if file.data.get("ply_file_path")), files[0])
    return Capture(root, images, *with_points.points(), held_out or None, "white", messages)


class _TransformsFile:
    """One JSON file."""

    def __init__(self, file: Path, factor: int | None, masks: bool, messages: ReaderMessages) -> None:
        self.file, self.root, self.factor, self.masks, self.messages = file, file.parent, factor, masks, messages
        self.data = load_json(file)
        self.files = FileIndex(self.root)
        self.copies: dict[Path, FileIndex] = {}
        self.names: dict[str, str] = {}  # file_path -> name of its image
        self.missing: set[str] = set()  # file_path of frames whose image is not there
        self.stems: dict[str, set[str]] = {}  # file_path without its suffix -> names of images
        self.sizes: dict[Path, tuple[int, int]] = {}
        self.lenses: set[Lens] = set()  # those that are checked
        self.ambiguous: list[str] = []  # files that are used, of several that fit a name without suffix
        self.half_given: list[str] = []  # images whose frames give the focal length along one axis only

    def images(self) -> list[CaptureImage]:
        frames = self.data.get("frames")
        if not isinstance(frames, list) or not frames:
            raise UserError(f"{self.file} has no list 'frames' with at least one frame; export the capture again.")
        paths = self._image_files(frames)
        missing = [frame["file_path"] for frame, path in zip(frames, paths, strict=True) if path is None]
        self.missing = {_normal(name) for name in missing}
        check_missing(missing, len(frames), self.root, self.messages)
        base = os.path.commonpath([os.path.abspath(path.parent) for path in set(paths) if path is not None])
        if is_blender(self.file):  # the splits share names like r_000; their folders make them unique
            base = str(self.root)
        images: dict[Path, CaptureImage] = {}
        again = []
        for i, (frame, path) in enumerate(zip(frames, paths, strict=True)):
            if path in images:
                again.append(images[path].name)
            elif path is not None:
                name = os.path.relpath(path, base).replace(os.sep, "/")
                images[path] = self._capture_image(frame, i, path, name)
            if path is not None:
                self.names[_normal(frame["file_path"])] = images[path].name
        if again:
            self.messages.warning(
                f"{len(again)} frames of {self.file.name} give an image that occurs more than once "
                f"({some_names(list(dict.fromkeys(again)))}); only the first frame of each image is used."
            )
        if self.ambiguous:
            self.messages.warning(
                f"{len(self.ambiguous)} names of images in {self.file.name} have no suffix and fit several files; used "
                f"are {some_names(self.ambiguous, 1)}."
            )
        if self.half_given:
            self.messages.warning(
                f"{len(self.half_given)} frames of {self.file.name} give only one of 'fl_x' and 'fl_y' "
                f"({some_names(self.half_given)}); the other is that of the file."
            )
        return list(images.values())

    def _image_files(self, frames: list[Any]) -> list[Path | None]:
        """The file of each frame; None where there is none.

        A file that differs from a name by its suffix is that of the frame where most are so, in a converted capture.
        Else it is something else that lies beside a missing photo, such as a depth map.
        """
        names = [self._file_path(frame, index) for index, frame in enumerate(frames)]
        paths = {name: self._exact(name) for name in dict.fromkeys(names)}
        others = {name: path for name in paths if paths[name] is None and (path := self.files.find(name)) is not None}
        same = {name: path for name, path in others.items() if _same_type(path.name, name)}
        others = {name: path for name, path in others.items() if name not in same}
        if 2 * len(others) <= len(paths):
            skipped = list(others)
        else:
            skipped = [name for name, path in others.items() if is_deep(path)]
        if skipped:
            self.messages.warning(
                f"{len(skipped)} images that {self.file.name} names are not there, only files of another type, which "
                f"are not used: they may be depth maps ({others[skipped[0]].name} for {some_names(skipped[:1])})."
            )
        for name in skipped:
            del others[name]
        found = {**paths, **same, **others}
        return [found[name] for name in names]

    def _file_path(self, frame: Any, index: int) -> str:
        """The name of a frame's image, with forward slashes."""
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str) or not frame["file_path"]:
            raise UserError(f"{self.file}, frame {index}: 'file_path' is missing; name the frame's image there.")
        name = frame["file_path"].replace("\\", "/")
        if not is_text(name):
            raise UserError(f"{self.file}, frame {index}: 'file_path' {ascii(name)[:40]} is no file name; mend it.")
        return name

    def _exact(self, name: str) -> Path | None:
        """The file of that name, which may be given without its suffix."""
        path = Path(os.path.normpath(self.root / name))
        if is_file(path):
            return path
        found = [file for suffix in (".png", ".jpg", ".jpeg") if is_file(file := Path(f"{path}{suffix}"))]
        if len(found) > 1:
            found.sort(key=is_deep)  # a depth map may lie beside the photo
            self.ambiguous.append(f"{found[0].name}, not {found[1].name}")
        if found:
            return found[0]
        return None if has_image_suffix(name) else self.files.find(f"{name}.png")

    def _capture_image(self, frame: dict[str, Any], index: int, path: Path, name: str) -> CaptureImage:
        where = f"{self.file}, frame {index} ({frame['file_path'][:200]})"
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
            mask=self._mask(frame, where),
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

    def _mask(self, frame: dict[str, Any], where: str) -> Path | None:
        """The file of 'mask_path'; those of other frames are found by name."""
        given = frame.get("mask_path") if self.masks else None
        if not given:
            return None
        if not isinstance(given, str) or not is_text(given):
            raise UserError(f"{where}: 'mask_path' is {ascii(given)[:40]}, no file name; mend or remove it.")
        path = self.files.find(given.replace("\\", "/"))
        if path is None:
            raise UserError(f"{where}: the mask {given[:200]} is not on disk; put it there or remove 'mask_path'.")
        return path

    def _lens(self, frame: dict[str, Any], where: str, path: Path) -> Lens:
        fields = frame_fields(self.data, frame, where)
        if ("fl_x" in frame) != ("fl_y" in frame) and {"fl_x", "fl_y"} <= fields.keys() & self.data.keys():
            self.half_given.append(frame["file_path"])
        if "w" in fields and "h" in fields:
            size = round(number_of(fields, "w", where)), round(number_of(fields, "h", where))
        else:
            if path not in self.sizes:
                header = read_header(path)
                self.sizes[path] = header.width, header.height
            size = self.sizes[path]
        lens = lens_of(fields, size, where)
        if lens not in self.lenses:
            check_lens(lens, where)
            self.lenses.add(lens)
        return lens

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """The points of 'ply_file_path', which may be none."""
        name = self.data.get("ply_file_path")
        none = np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8)
        if not name:
            return none
        if not isinstance(name, str) or not is_text(name):
            raise UserError(f"{self.file}: 'ply_file_path' is {ascii(name)[:40]}, no file name; mend or remove it.")
        path = self.root / name.replace("\\", "/")
        if not is_file(path):
            self.messages.warning(f"The points {str(path)[:400]} that {self.file.name} names are not on disk.")
            return none
        return read_ply_points(path)

    def split(self, images: list[CaptureImage]) -> frozenset[str] | None:
        """The held-out names by `test_filenames`, or else `val_filenames`; removes images that no list has.

        None where the file has no such lists, or none of their names is that of a frame.
        """
        lists = {key: self._listed(f"{key}_filenames") for key in ("train", "val", "test")}
        held_out = lists["test"] or lists["val"]
        both = held_out & lists["train"]
        if both:
            self.messages.warning(
                f"{len(both)} images ({some_names(sorted(both))}) are both in 'train_filenames' and in the list to "
                f"test on of {self.file.name}; they are trained on."
            )
        held_out -= both
        if not lists["train"]:
            return frozenset(held_out) or None
        unlisted = [image.name for image in images if image.name not in lists["train"] | held_out]
        if unlisted:
            self.messages.info(f"{len(unlisted)} images are in no list of {self.file.name} that is used: left out.")
        images[:] = [image for image in images if image.name in lists["train"] | held_out]
        return frozenset(held_out)

    def _listed(self, key: str) -> set[str]:
        """The names of the images in a list of file names; a name with another suffix, or none, will do."""
        listed = self.data.get(key) or []
        if not (isinstance(listed, list) and all(isinstance(name, str) for name in listed)):
            raise UserError(f"{self.file}: '{key}' is not a list of names; mend or remove it.")
        found, unknown = set(), []
        for name in map(_normal, listed):
            image = self.names.get(name) or self._by_stem(name)
            if image is not None:
                found.add(image)
            elif name not in self.missing:
                unknown.append(name)
        if unknown:
            self.messages.warning(
                f"{len(unknown)} of {len(listed)} names in '{key}' of {self.file.name} are those of no frame "
                f"({some_names(unknown)}); they are not used."
            )
        return found

    def _by_stem(self, name: str) -> str | None:
        """The one image whose path, or else whose bare name, is that name but for the suffix."""
        if not self.stems:
            for path, image in self.names.items():
                for stem in {_stem(path), _stem(os.path.basename(path))}:
                    self.stems.setdefault(stem, set()).add(image)
        for stem in (_stem(name), _stem(os.path.basename(name))):
            if len(images := self.stems.get(stem, set())) == 1:
                return next(iter(images))
        return None


def _same_type(a: str, b: str) -> bool:
    """Whether two file names have suffixes of one kind of image."""
    types = [os.path.splitext(name)[1].lower() for name in (a, b)]
    jpeg = (".jpg", ".jpeg", ".jpe", ".jfif")
    return types[0] == types[1] or all(kind in jpeg for kind in types) or set(types) == {".tif", ".tiff"}


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", os.path.normpath(name.replace("\\", "/")))


def _stem(name: str) -> str:
    return os.path.splitext(name)[0] if has_image_suffix(name) else name


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
    if c2w.shape == (4, 4) and np.abs(c2w[3] - [0.0, 0.0, 0.0, 1.0]).max() > 1e-3:
        row = " ".join(f"{value:.4g}" for value in c2w[3])
        raise UserError(
            f"{where}: the last row of 'transform_matrix' is {row}, not 0 0 0 1; give camera-to-world matrices by rows "
            "(this one may be stored by columns)."
        )
    return viewmat_at((rotation @ _OPENGL_TO_OPENCV).T, c2w[:3, 3])


READER = Reader("a nerfstudio or instant-ngp capture", is_transforms, read_transforms)
BLENDER_READER = Reader("a Blender or D-NeRF capture", is_blender, read_blender)
