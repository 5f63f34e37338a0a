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
from nfc_gs.data.capture import Capture, CaptureImage, FileIndex, ReaderMessages, check_missing, is_file
from nfc_gs.data.lens import Lens, check_lens
from nfc_gs.data.masks import with_masks
from nfc_gs.data.poses import FARTHEST, nearest_rotation, viewmat_at
from nfc_gs.data.readers.camera_folders import RigCamera, find_cameras, images_in
from nfc_gs.data.readers.colmap import Model, PosedImage, find_models, read_model
from nfc_gs.data.readers.reader import Reader
from nfc_gs.data.video import read_video_header

BOUNDS = "poses_bounds.npy"


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
        seen = _by_camera(model, cameras)
        if seen and all(len(images) == 1 for images in seen.values()):
            messages += model_messages
            if is_file(bounds):
                messages.info(f"{root} has a COLMAP model and {BOUNDS}; the model is used.")
            return _colmap_rig(root, model, {name: images[0] for name, images in seen.items()}, cameras, messages)
        if is_file(bounds):
            messages.info(f"The COLMAP model of {root} does not have one image for each camera; {BOUNDS} is used.")
    return _llff_rig(bounds, cameras, messages) if is_file(bounds) else None


def _by_camera(model: Model, cameras: Sequence[RigCamera]) -> dict[str, list[PosedImage]]:
    """The images of a model whose names contain those of cameras, as words of their own (cam1 is not in cam10)."""
    seen: dict[str, list[PosedImage]] = {}
    for camera in cameras:
        word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(camera.name)}(?![A-Za-z0-9])")
        images = [image for image in model.images if word.search(image.name)]
        if images:
            seen[camera.name] = images
    return seen


def _colmap_rig(
    root: Path, model: Model, seen: dict[str, PosedImage], cameras: Sequence[RigCamera], messages: ReaderMessages
) -> _Rig:
    """Cameras without a pose, and poses without a camera, are left out with a warning, or refused if they are many."""
    used = {image.name for image in seen.values()}
    without_camera = sorted(image.name for image in model.images if image.name not in used)
    check_missing(without_camera, len(model.images), f"{root} as frames of a camera", messages)
    lacking = [camera.name for camera in cameras if camera.name not in seen]
    if 2 * len(lacking) > len(cameras):
        raise UserError(
            f"{len(lacking)} of {len(cameras)} cameras of {root} have no image in the COLMAP model in {model.folder} "
            f"({_some(lacking)}); the model needs one image for each camera, named after it as in {lacking[0]}.png."
        )
    if lacking:
        messages.warning(
            f"{len(lacking)} of {len(cameras)} cameras of {root} have no image in the COLMAP model and are left out: "
            f"{_some(lacking)}."
        )
    poses = {name: (image.lens, image.viewmat) for name, image in seen.items()}
    return _Rig(poses, model.xyz, model.rgb)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _llff_rig(file: Path, cameras: list[RigCamera], messages: ReaderMessages) -> _Rig:
    """`poses_bounds.npy`, [C, 17]: a row for each camera in the order of their names.

    A row holds a matrix [3, 5] and the nearest and farthest depth. The columns of the matrix are the camera's down,
    right and backward directions in the world, its position, and (height, width, focal length) in pixels.
    """
    try:
        rows = np.load(file, allow_pickle=False)
    except Exception as error:  # numpy raises ValueError, EOFError, OSError, MemoryError, SyntaxError, ...
        cause = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{file} cannot be read ({cause}); export the poses again.") from None
    if rows.ndim != 2 or rows.shape[1] != 17 or rows.dtype.kind not in "iuf":
        raise UserError(f"{file} holds {rows.dtype} of shape {list(rows.shape)}, not 17 numbers for each camera.")
    if len(rows) != len(cameras):
        raise UserError(
            f"{file} has the poses of {len(rows)} cameras, but {len(cameras)} are there "
            f"({_some([camera.name for camera in cameras])}); give one row for each, in the order of their names."
        )
    names = [camera.name for camera in cameras]
    if sorted(names, key=_by_number) != names:
        messages.warning(
            f"The rows of {file} are taken for the cameras in the order of the alphabet ({_some(names)}), which is not "
            "the order of their numbers; name them as in cam00, cam01, ... to be sure."
        )
    poses = {}
    for name, row in zip(names, rows.astype(np.float64), strict=True):
        poses[name] = _llff_pose(row[:15].reshape(3, 5), f"{file}, camera {name}")
    near, far = float(rows[:, 15].min()), float(rows[:, 16].max())
    depths = (near, far) if 0.0 < near < far < FARTHEST else None  # NaN compares false
    return _Rig(poses, np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8), depths)


def _by_number(name: str) -> list[str | int]:
    """A key that sorts cam2 before cam10: letters and numbers in turns, letters first."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


def _llff_pose(matrix: np.ndarray, where: str) -> tuple[Lens, np.ndarray]:
    if not np.isfinite(matrix).all():
        raise UserError(f"{where}: the pose is not finite; export the poses again.")
    down, right, backward, centre, (height, width, focal) = matrix.T
    axes = nearest_rotation(np.stack([right, down, -backward]))
    if axes is None:
        raise UserError(f"{where}: the pose holds no rotation; export the poses again.")
    if np.abs(centre).max() > FARTHEST:
        raise UserError(f"{where}: the pose is too far away to be true; export the poses again.")
    lens = Lens("PINHOLE", round(width), round(height), (focal, focal, width / 2.0, height / 2.0))
    check_lens(lens, where)
    return lens, viewmat_at(axes, centre)


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
    frames = {camera.name: _numbered(camera.folder) for camera in cameras if camera.folder is not None}
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


def _numbered(folder: Path) -> dict[int, Path]:
    """The images of a folder by the last number in their names."""
    images: dict[int, Path] = {}
    for path in images_in(folder):
        numbers = re.findall(r"[0-9]+", path.stem)
        if not numbers:
            raise UserError(f"The name of {path} does not say which frame it is; number it as in 0000.png.")
        number = int(numbers[-1])
        if number in images:
            raise UserError(f"{images[number].name} and {path.name} in {folder} are both frame {number}; remove one.")
        images[number] = path
    return images


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
