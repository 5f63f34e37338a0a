"""The built-in captures, drawn by a ray caster: a still life as a COLMAP project, a moving scene as `transforms.json`.

Everything here is exact up to rounding: cameras, depths, masks and which point is seen from where. Nothing
is drawn by a splat renderer, so the captures can judge one.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.core.files import write_error
from nfc_gs.data.builtin.cameras import camera_angle, camera_on_walk, half_circle, still_life_cameras, turns_of
from nfc_gs.data.builtin.draw import DrawnView, draw
from nfc_gs.data.builtin.moving_scene import moving_mask, moving_scene
from nfc_gs.data.builtin.solids import Solid
from nfc_gs.data.builtin.tracks import Tracks, track_points
from nfc_gs.data.ply_points import write_ply_points

Kind = Literal["monocular", "multiview"]

_FRAMES: dict[Kind, int] = {"monocular": 100, "multiview": 24}
_TRACKING_VIEWS = 12  # at most so many cameras find the points of a moving capture


def write_demo_capture(
    folder: Path | str, *, moving: bool = False, views: int = 48, width: int = 320, height: int = 240
) -> Path:
    """Draw the small built-in capture, to try things without photos of your own.

    Args:
        folder: where to write it; there must be nothing yet.
        moving: a scene that moves, one picture at each time (a fifth more are for testing), instead of a still life.
        views: number of pictures, at least 2.
        width, height: of the pictures, pixels.

    Returns:
        The folder; `nfc_gs.train` and `nfc_gs.load_scene` read it.

    Raises:
        UserError: the folder is there and not empty, or cannot be written; or the sizes make no sense.

    >>> folder = nfc_gs.write_demo_capture("captures/still", views=4, width=48, height=36)
    >>> len(nfc_gs.load_scene(folder).views)
    4
    >>> folder = nfc_gs.write_demo_capture("captures/dancer", moving=True, views=4, width=48, height=36)
    >>> nfc_gs.load_scene(folder)
    SceneData('captures/dancer': 5 views, 4 to train on and 1 held out, times 0 to 1, ... points)
    """
    if moving:
        return write_moving_capture(folder, frames=views, width=width, height=height)
    return write_capture(folder, views, width, height)


def write_capture(
    folder: Path | str,
    views: int = 48,
    width: int = 320,
    height: int = 240,
    seed: int = 0,
    time: float = 0.0,
    ground_truth: bool = False,
) -> Path:
    """Draw the built-in capture and write it as a COLMAP project.

    `images/0001.png`, ...; `sparse/0/*.bin` with one PINHOLE camera, exact poses and a sparse cloud with tracks;
    with `ground_truth` also `depth/0001.npy` ([H, W] float32, camera z, infinity for the sky) and
    `labels/0001.png` (what each pixel shows, 0 for the sky). The folder appears only when it is complete.
    The same arguments give the same bytes (on one machine: processors round differently).

    Args:
        views: at least 2.
        seed: of the sparse points' choice and noise; the pictures do not depend on it.
        time: 0..1.

    Returns:
        The folder.

    Raises:
        UserError: the folder is there and not empty, or cannot be written; or the sizes make no sense.
    """
    target = Path(folder)
    if views < 2 or width < 8 or height < 8:
        raise UserError(
            f"Cannot draw {views} views of {width} x {height}; ask for at least 2 views of at least 8 x 8 pixels."
        )
    with _new_folder(target) as partial:
        cameras = still_life_cameras(views, width, height)
        drawn_views = [draw(camera, time) for camera in cameras]
        names = [f"{k + 1:04d}.png" for k in range(views)]
        for name, drawn in zip(names, drawn_views, strict=True):
            _write_picture(partial, name, drawn, ground_truth)
        if not _write_model(partial / "sparse" / "0", names, cameras, track_points(cameras, drawn_views, seed, time)):
            raise UserError(f"Cannot write {target}: the COLMAP model came out incomplete; is the disk full?")
    return target


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill; it becomes `target` when the block ends, and is removed if that raises.

    Raises:
        UserError: `target` is there and not empty, or something cannot be written.
    """
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(f"Cannot write the capture to {target}: it is not an empty folder; choose another name.")
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rmdir()  # empty, or this fails
        partial.rename(target)
    except OSError as error:
        raise write_error(target, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_picture(
    folder: Path, name: str, drawn: DrawnView, ground_truth: bool, scene: list[Solid] | None = None
) -> None:
    """Write a picture to `images`, its ground truth beside that, and with a `scene` the mask of what moves in it."""
    from PIL import Image

    pictures = {"images": drawn.rgb}
    if ground_truth:
        pictures["labels"] = drawn.mask
        if scene is not None:
            pictures["moving"] = np.where(moving_mask(drawn, scene), 255, 0).astype(np.uint8)
        depth = (folder / "depth" / name).with_suffix(".npy")
        depth.parent.mkdir(parents=True, exist_ok=True)
        np.save(depth, drawn.depth)
    for kind, pixels in pictures.items():
        file = folder / kind / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)


def _write_model(folder: Path, names: list[str], cameras: list[Camera], tracks: Tracks) -> bool:
    """Write the COLMAP model; returns whether it is complete (COLMAP's writer does not report a full disk)."""
    from nfc_gs.data.colmap_library import pycolmap

    folder.mkdir(parents=True)
    model = pycolmap.Reconstruction()
    first = cameras[0]
    camera = pycolmap.Camera(
        model="PINHOLE",
        width=first.width,
        height=first.height,
        params=[first.fx, first.fy, first.cx, first.cy],
        camera_id=1,
    )
    model.add_camera_with_trivial_rig(camera)
    for k, (name, view) in enumerate(zip(names, cameras, strict=True)):
        image = pycolmap.Image(name=name, keypoints=tracks.keypoints[tracks.views == k], camera_id=1, image_id=k + 1)
        pose = pycolmap.Rigid3d(view.viewmat.double().numpy()[:3])
        model.add_image_with_trivial_frame(image, pose)
    slot = np.empty(len(tracks.views), np.int64)  # each observation's place among its image's keypoints
    for k in range(len(cameras)):
        here = tracks.views == k
        slot[here] = np.arange(here.sum())
    for p, (xyz, rgb) in enumerate(zip(tracks.xyz, tracks.rgb, strict=True)):
        track = pycolmap.Track()
        for observation in range(tracks.starts[p], tracks.starts[p + 1]):
            track.add_element(int(tracks.views[observation]) + 1, int(slot[observation]))
        model.add_point3D(xyz, track, rgb)
    model.update_point_3d_errors()
    # The large files must have the sizes that COLMAP's format gives them, and all of them must be readable.
    observations = len(tracks.views)
    images = 8 + sum(73 + len(name.encode()) for name in names) + 24 * observations
    points = 8 + 51 * len(tracks.xyz) + 8 * observations
    try:
        model.write_binary(folder)
        if (folder / "images.bin").stat().st_size != images or (folder / "points3D.bin").stat().st_size != points:
            return False
        again = pycolmap.Reconstruction(folder)
    except (RuntimeError, ValueError, LookupError):
        return False
    return again.num_images() == len(names) and again.num_points3D() == len(tracks.xyz)


def write_moving_capture(
    folder: Path | str,
    *,
    kind: Kind = "monocular",
    frames: int | None = None,
    views: int = 8,
    width: int = 160,
    height: int = 120,
    seed: int = 0,
    ground_truth: bool = False,
) -> Path:
    """Draw the built-in moving scene and write it as a nerfstudio capture with times from 0 to 1.

    Monocular: one camera takes a picture at each time, neighbours in time from far apart, as in D-NeRF's captures;
    the test pictures (a fifth more) lie between those in time and on the camera's walk. Multiview: cameras along
    half a circle all take a picture at each time; the middle one is for testing.

    `transforms.json` with exact poses, times and split; `images/train_000.png`, ..., `images/test_000.png`, ... or
    `images/cam00/000.png`, ...; `points3d.ply`, surface points at time 0 as structure from motion of the training
    cameras would find them then. With `ground_truth` also `depth`, `labels` (as `write_capture` does; the ids are those
    of `builtin.solids.label_ids` for `moving_scene()`) and `moving` (255 where something that moves or changes is seen,
    else 0), with the names of the images. The folder appears only when it is complete. The same arguments give the
    same bytes (on one machine: processors round differently).

    Args:
        kind: "monocular" or "multiview".
        frames: how many times there are to train on, at least 2; by default 100 (monocular) or 24.
        views: cameras of a multiview capture, at least 3.
        seed: of the points' choice and noise; the pictures do not depend on it.

    Returns:
        The folder.

    Raises:
        UserError: the folder is there and not empty, or cannot be written; or the sizes make no sense.
    """
    target = Path(folder)
    frames = _FRAMES[kind] if frames is None else frames
    if frames < 2 or views < 3 or width < 8 or height < 8:
        raise UserError(
            f"Cannot draw {frames} times in {views} views of {width} x {height}; ask for at least 2 times, "
            "3 views and 8 x 8 pixels."
        )
    scene = moving_scene()
    if kind == "monocular":
        planned = _monocular_views(frames, width, height)
    else:
        planned = _multiview_views(frames, views, width, height)
    with _new_folder(target) as partial:
        for view in planned:
            _write_picture(partial, view.name, draw(view.camera, view.time, scene=scene), ground_truth, scene)
        trackers = list({view.place: view.camera for view in planned if view.split == "train"}.values())
        trackers = trackers[:: -(-len(trackers) // _TRACKING_VIEWS)]
        drawn_views = [draw(camera, 0.0, scene=scene) for camera in trackers]
        points = track_points(trackers, drawn_views, seed, 0.0, scene=scene)
        write_ply_points(partial / "points3d.ply", points.xyz, points.rgb)
        (partial / "transforms.json").write_text(json.dumps(_transforms(planned), indent=1) + "\n", encoding="utf-8")
    return target


@dataclass(frozen=True)
class _PlannedView:
    """One picture of a moving capture; `place` is the same for all pictures of a static camera."""

    name: str
    place: int
    camera: Camera
    time: float
    split: Literal["train", "test"]


def _monocular_views(frames: int, width: int, height: int) -> list[_PlannedView]:
    """One camera on a walk, a picture at each time; the test pictures halfway between some of them."""
    turns, tests = turns_of(frames), max(1, frames // 5)
    planned = []
    for k in range(frames):
        camera = camera_on_walk(k / frames, turns, width, height)
        planned.append(_PlannedView(f"train_{k:03d}.png", k, camera, k / (frames - 1), "train"))
    for k in range(tests):
        between = int((k + 0.5) * (frames - 1) / tests) + 0.5
        camera = camera_on_walk(between / frames, turns, width, height)
        planned.append(_PlannedView(f"test_{k:03d}.png", frames + k, camera, between / (frames - 1), "test"))
    return planned


def _multiview_views(frames: int, views: int, width: int, height: int) -> list[_PlannedView]:
    """Static cameras, a picture of each at each time; the middle one is for testing."""
    return [
        _PlannedView(f"cam{v:02d}/{k:03d}.png", v, camera, k / (frames - 1), "test" if v == views // 2 else "train")
        for v, camera in enumerate(half_circle(views, width, height))
        for k in range(frames)
    ]


def _transforms(views: list[_PlannedView]) -> dict[str, Any]:
    """The content of `transforms.json`: camera-to-world matrices with OpenGL axes (x right, y up, z backward)."""
    camera = views[0].camera
    frames = []
    for view in views:
        pose = np.linalg.inv(view.camera.viewmat.double().numpy()) @ np.diag([1.0, -1.0, -1.0, 1.0])
        frames.append({"file_path": f"images/{view.name}", "time": view.time, "transform_matrix": pose.tolist()})
    result: dict[str, Any] = {
        "camera_model": "PINHOLE",
        "camera_angle_x": camera_angle(),
        "fl_x": camera.fx,
        "fl_y": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
        "w": camera.width,
        "h": camera.height,
        "ply_file_path": "points3d.ply",
    }
    for split in ("train", "test"):
        result[f"{split}_filenames"] = [f"images/{view.name}" for view in views if view.split == split]
    return {**result, "frames": frames}
