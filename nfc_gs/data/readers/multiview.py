"""Reader of multi-view video: cameras that do not move, cam00, cam01, ..., and take a video each.

The frames are images in folders (`cam00/images/0000.png` or `cam00/0000.png`), or the videos themselves
(`cam00.mp4`). The poses are those of a COLMAP model with one image for each camera, or of `poses_bounds.npy`, the
file of LLFF and of Neural 3D Video.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import Capture, CaptureImage, FileIndex, ReaderMessages, is_file, some_names
from nfc_gs.data.lens import Lens
from nfc_gs.data.masks import with_masks
from nfc_gs.data.readers.camera_folders import RigCamera, find_cameras, numbered_frames
from nfc_gs.data.readers.colmap import Model, PosedImage, read_model
from nfc_gs.data.readers.colmap_files import find_models
from nfc_gs.data.readers.llff import BOUNDS, read_bounds
from nfc_gs.data.readers.reader import Reader
from nfc_gs.data.video import read_video_header


@dataclass(frozen=True)
class _Rig:
    """What is known of the cameras: lens and world-to-camera matrix by name, points, and the range of depths."""

    poses: dict[str, tuple[Lens, np.ndarray]]
    xyz: np.ndarray
    rgb: np.ndarray
    depths: tuple[float, float] | None = None


def is_multiview(path: Path) -> bool:
    """Whether a folder has several cameras, and something that may hold their poses."""
    return len(find_cameras(path)) > 1 and (is_file(path / BOUNDS) or bool(find_models(path)))


def read_multiview(root: Path, *, factor: int | None = None, masks: bool = True) -> Capture | None:
    """Read the capture in `root`, which has several cameras and their poses.

    The first camera by name is held out. The time of an image is the number of its frame: the last number in its
    name, or its place in the video, counted from 0. Frames that not all cameras have are left out. Videos say how many
    frames are a second.

    Args:
        factor: use the images in cam*/images_<factor> where the capture has such copies of cam*/images.
        masks: look for a folder of masks, masks/cam00/0000.png and so on.

    Returns:
        None where the only poses are those of a COLMAP model whose images are not one for each camera: that is a
        capture of photos which happens to have such folders or videos.

    Raises:
        UserError: cameras and poses do not match, or the frames of a camera have no numbers or cannot be read.
    """
    messages = ReaderMessages()
    cameras = find_cameras(root)
    rig = _rig(root, cameras, messages)
    if rig is None:
        return None
    cameras = [camera for camera in cameras if camera.name in rig.poses]
    rate = None
    if _use_folders(cameras, messages):
        images = _frames_in_folders(cameras, rig, factor, messages)
    else:
        images, rate = _frames_in_videos(cameras, rig, messages)
    if masks:
        images = with_masks(images, root / "masks", messages)
    held_out = frozenset(image.name for image in images if image.name.startswith(f"{cameras[0].name}/"))
    return Capture(root, images, rig.xyz, rig.rgb, held_out, "mask", messages, "frames", rig.depths, rate)


def _rig(root: Path, cameras: list[RigCamera], messages: ReaderMessages) -> _Rig | None:
    bounds = root / BOUNDS
    if find_models(root):
        model_messages = ReaderMessages()
        model = read_model(root, model_messages)
        seen = _by_camera(model, cameras, model_messages)
        if seen and all(len(images) == 1 for images in seen.values()):
            messages += model_messages
            if is_file(bounds):
                messages.info(f"{root} has a COLMAP model and {BOUNDS}; the model is used.")
            return _colmap_rig(root, model, {name: images[0] for name, images in seen.items()}, cameras, messages)
        if is_file(bounds):
            messages.info(f"The COLMAP model of {root} does not have one image for each camera; {BOUNDS} is used.")
    return _llff_rig(bounds, cameras, messages) if is_file(bounds) else None


def _by_camera(model: Model, cameras: Sequence[RigCamera], messages: ReaderMessages) -> dict[str, list[PosedImage]]:
    """The images of a model for each camera by name: that hold its name, or else its number after "cam"."""
    named = {camera.name: _holding(model, camera.name) for camera in cameras}
    used = {image.name for images in named.values() for image in images}
    whole = all(named.values()) and len(used) == len(model.images)
    return (None if whole else _by_numbers(model, cameras, messages)) or {k: v for k, v in named.items() if v}


def _holding(model: Model, name: str) -> list[PosedImage]:
    """The images whose names contain that of a camera as a word of its own (cam1 is not in cam10)."""
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])")
    return [image for image in model.images if word.search(image.name)]


def _by_numbers(
    model: Model, cameras: Sequence[RigCamera], messages: ReaderMessages
) -> dict[str, list[PosedImage]] | None:
    """Cameras and images with the same numbers, whatever the zeros before these (cam1 is cam01).

    Where one side is numbered from 0, the other from 1, and both have as many, they belong together in order. None
    where the numbers do not fit.
    """
    names = {_number_of_camera(camera.name): camera.name for camera in cameras}
    images = {_number_of_camera(image.name): image for image in model.images}
    numbers, seen = (sorted(number for number in side if number is not None) for side in (names, images))
    if not len(numbers) == len(cameras) == len(seen) == len(model.images):
        return None
    if numbers == seen:
        return {names[number]: [images[number]] for number in numbers}
    first, last = numbers[0], seen[0]
    if {first, last} != {0, 1} or [n - first for n in numbers] != [n - last for n in seen]:
        return None
    pairs = {names[number]: [images[other]] for number, other in zip(numbers, seen, strict=True)}
    low, high = names[numbers[0]], names[numbers[-1]]
    lowest, highest = (some_names([pairs[name][0].name]) for name in (low, high))
    messages.warning(
        f"The cameras are numbered from {first} ({low} to {high}) and the images of the COLMAP model from {last} "
        f"({lowest} to {highest}): they are paired in order, {low} with {lowest}; number them alike if that is wrong."
    )
    return pairs


def _number_of_camera(name: str) -> int | None:
    match = re.search(r"(?<![a-z0-9])cam[a-z]*[ _.-]?([0-9]+)(?![a-z0-9])", name.lower())
    return int(match[1]) if match else None


def _colmap_rig(
    root: Path, model: Model, seen: dict[str, PosedImage], cameras: Sequence[RigCamera], messages: ReaderMessages
) -> _Rig:
    """Cameras without a pose, and poses without a camera, are left out with a warning, or refused if they are many."""
    used = {image.name for image in seen.values()}
    without_camera = sorted(image.name for image in model.images if image.name not in used)
    if without_camera:
        what = f"{len(without_camera)} of {len(model.images)} images of the COLMAP model in {model.folder}"
        if 2 * len(without_camera) > len(model.images):
            raise UserError(
                f"{what} are of no camera in {root} ({some_names(without_camera)}); name them after the cameras, as in "
                f"{cameras[0].name}.png, or add the frames of these cameras."
            )
        messages.warning(f"{what} are of no camera in {root} and are left out: {some_names(without_camera)}.")
    lacking = [camera.name for camera in cameras if camera.name not in seen]
    if 2 * len(lacking) > len(cameras):
        raise UserError(
            f"{len(lacking)} of {len(cameras)} cameras of {root} have no image in the COLMAP model in {model.folder} "
            f"({some_names(lacking)}); it needs one image for each camera, named after it as in {lacking[0]}.png."
        )
    if lacking:
        messages.warning(
            f"{len(lacking)} of {len(cameras)} cameras of {root} have no image in the COLMAP model and are left out: "
            f"{some_names(lacking)}."
        )
    poses = {name: (image.lens, image.viewmat) for name, image in seen.items()}
    return _Rig(poses, model.xyz, model.rgb)


def _llff_rig(file: Path, cameras: list[RigCamera], messages: ReaderMessages) -> _Rig:
    """The poses in `poses_bounds.npy`, in the order of the cameras' names."""
    names = [camera.name for camera in cameras]
    if sorted(names, key=_by_number) != names:
        messages.warning(
            f"The rows of {file} are taken for the cameras in the order of the alphabet ({some_names(names)}), which "
            "is not the order of their numbers; name them as in cam00, cam01, ... to be sure."
        )
    bounds = read_bounds(file, names, "camera")
    empty = np.zeros((0, 3))
    return _Rig(dict(zip(names, bounds.poses, strict=True)), empty, empty.astype(np.uint8), bounds.depths)


def _by_number(name: str) -> list[str | int]:
    """A key that sorts cam2 before cam10: letters and numbers in turns, letters first."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


def _use_folders(cameras: Sequence[RigCamera], messages: ReaderMessages) -> bool:
    """Whether the frames are in folders, for all cameras; else they are in videos, for all cameras."""
    without_folder = [camera.name for camera in cameras if camera.folder is None]
    without_video = [camera.name for camera in cameras if camera.video is None]
    if not without_folder:
        if len(without_video) < len(cameras):
            messages.info("The cameras have folders of frames and videos; the frames are used.")
        return True
    if without_video:
        raise UserError(
            f"The camera {without_folder[0]} has only a video and {without_video[0]} only a folder of frames; "
            "give the frames of all cameras in folders, or all as videos."
        )
    if len(without_folder) < len(cameras):
        messages.info(f"Not all cameras have a folder of frames ({without_folder[0]} has none); the videos are used.")
    return False


def _frames_in_folders(
    cameras: Sequence[RigCamera], rig: _Rig, factor: int | None, messages: ReaderMessages
) -> list[CaptureImage]:
    folders = {camera.name: camera.folder for camera in cameras if camera.folder is not None}
    frames = numbered_frames(folders, messages)
    common = _common({name: set(files) for name, files in frames.items()}, messages)
    images = []
    for name, files in frames.items():
        lens, viewmat = rig.poses[name]
        copy_of = _copies(files[common[0]].parent, factor)
        for number in common:
            file = files[number]
            name_in_capture = f"{name}/{file.name}"
            copy = copy_of(file.name)
            reduced = factor if copy and factor else 1
            images.append(CaptureImage(name_in_capture, copy or file, lens, viewmat, None, float(number), reduced))
    return sorted(images, key=lambda image: image.name)


def _copies(folder: Path, factor: int | None) -> Callable[[str], Path | None]:
    """Finds the copy of an image in images_<factor>, if `folder` is called images."""
    if not factor or folder.name != "images":
        return lambda name: None
    return FileIndex(folder.with_name(f"images_{factor}")).find


def _frames_in_videos(
    cameras: Sequence[RigCamera], rig: _Rig, messages: ReaderMessages
) -> tuple[list[CaptureImage], float | None]:
    """The images and the frames per second; None for these where the videos do not agree."""
    videos = {camera.name: camera.video for camera in cameras if camera.video is not None}
    headers = {name: read_video_header(path) for name, path in videos.items()}
    rates = {header.fps: name for name, header in headers.items()}
    if len(rates) > 1:
        messages.warning(
            "The videos have different frame rates ("
            + ", ".join(f"{rate:.5g} in {name}" for rate, name in rates.items())
            + "): frames of the same number are taken to be of the same time all the same, and only "
            "--frame-rate gives their times in seconds."
        )
    images = []
    for number in _common({name: set(range(header.frames)) for name, header in headers.items()}, messages):
        for name, path in videos.items():
            lens, viewmat = rig.poses[name]
            images.append(CaptureImage(f"{name}/{number:06d}", path, lens, viewmat, time=float(number), frame=number))
    return sorted(images, key=lambda image: image.name), next(iter(rates)) if len(rates) == 1 else None


def _common(frames: dict[str, set[int]], messages: ReaderMessages) -> list[int]:
    """The numbers of the frames that all cameras have, in order."""
    common = set.intersection(*frames.values())
    everything = set.union(*frames.values())
    fewest = min(frames, key=lambda name: len(frames[name]))
    if not common:
        raise UserError(
            f"No frame is there of all cameras ({fewest} has {len(frames[fewest])} frames); number the frames alike."
        )
    if common != everything:
        most = max(frames, key=lambda name: len(frames[name]))
        messages.warning(
            f"The cameras do not have the same frames ({fewest} has {len(frames[fewest])}, {most} has "
            f"{len(frames[most])}): only the {len(common)} that all have are used."
        )
    return sorted(common)


READER = Reader("multi-view video", is_multiview, read_multiview)
