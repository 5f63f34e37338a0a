"""The built-in capture: pictures of a small still life, drawn by a ray caster and written as a COLMAP project.

Everything here is exact up to rounding: cameras, depths, masks and which point is seen from where. Nothing
is drawn by a splat renderer, so the capture can judge one.
"""

from __future__ import annotations

import shutil
import uuid
from math import gcd
from pathlib import Path

import numpy as np
import torch

from nfc_gs.core.camera import Camera, look_at
from nfc_gs.core.errors import UserError
from nfc_gs.core.files import write_error
from nfc_gs.data.synthetic_draw import Drawing, draw
from nfc_gs.data.synthetic_tracks import Tracks, track_points

__all__ = ["Drawing", "cameras", "draw", "write_capture"]

_FIELD_OF_VIEW = 55.0  # degrees across the width of a picture


def cameras(count: int = 48, width: int = 320, height: int = 240) -> list[Camera]:
    """Cameras on a closed walk around the scene, at changing heights and distances, all looking inwards.

    Neighbours in angle are far apart in order, so that every k-th view is a fair sample of all directions.
    """
    turns = min((k for k in range(1, count + 1) if gcd(k, count) == 1), key=lambda k: abs(k - count / 9.6))
    focal = float(0.5 * width / np.tan(np.radians(_FIELD_OF_VIEW / 2)))
    result = []
    for k in range(count):
        phase = 2 * np.pi * k / count
        angle, distance = turns * phase, 4.85 + 0.4 * np.cos(2 * phase + 0.4)
        eye = [distance * np.cos(angle), distance * np.sin(angle), 2.15 + 0.95 * np.sin(3 * phase + 0.7)]
        target = [0.15 * np.cos(2 * phase), 0.15 * np.sin(phase), 0.62]
        position, aim, up = (torch.tensor(v, dtype=torch.float64) for v in (eye, target, [0.0, 0.0, 1.0]))
        viewmat = look_at(position, aim, up).float()
        result.append(Camera(viewmat, focal, focal, width / 2, height / 2, width, height))
    return result


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
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(f"Cannot write the capture to {target}: it is not an empty folder; choose another name.")
        partial.mkdir(parents=True)
        shots = cameras(views, width, height)
        drawings = [draw(camera, time) for camera in shots]
        names = [f"{k + 1:04d}.png" for k in range(views)]
        _write_pictures(partial, names, drawings, ground_truth)
        if not _write_model(partial / "sparse" / "0", names, shots, track_points(shots, drawings, seed, time)):
            raise UserError(f"Cannot write {target}: the COLMAP model came out incomplete; is the disk full?")
        if target.exists():
            target.rmdir()  # empty, or this fails
        partial.rename(target)
    except OSError as error:
        raise write_error(target, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _write_pictures(folder: Path, names: list[str], drawings: list[Drawing], ground_truth: bool) -> None:
    from PIL import Image

    for name in ("images", "depth", "labels") if ground_truth else ("images",):
        (folder / name).mkdir()
    for name, drawing in zip(names, drawings, strict=True):
        Image.fromarray(drawing.rgb).save(folder / "images" / name)
        if ground_truth:
            np.save((folder / "depth" / name).with_suffix(".npy"), drawing.depth)
            Image.fromarray(drawing.mask).save(folder / "labels" / name)


def _write_model(folder: Path, names: list[str], shots: list[Camera], tracks: Tracks) -> bool:
    """Write the COLMAP model; whether it came out whole (COLMAP's writer does not say when the disk is full)."""
    import pycolmap

    folder.mkdir(parents=True)
    model = pycolmap.Reconstruction()
    first = shots[0]
    camera = pycolmap.Camera(
        model="PINHOLE",
        width=first.width,
        height=first.height,
        params=[first.fx, first.fy, first.cx, first.cy],
        camera_id=1,
    )
    model.add_camera_with_trivial_rig(camera)
    for k, (name, shot) in enumerate(zip(names, shots, strict=True)):
        image = pycolmap.Image(name=name, keypoints=tracks.keypoints[tracks.views == k], camera_id=1, image_id=k + 1)
        pose = pycolmap.Rigid3d(shot.viewmat.double().numpy()[:3])
        model.add_image_with_trivial_frame(image, pose)
    slot = np.empty(len(tracks.views), np.int64)  # each observation's place among its image's keypoints
    for k in range(len(shots)):
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
