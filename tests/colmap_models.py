"""COLMAP models of cameras in a row, their photos, and changes to their files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image

WIDTH, HEIGHT, POINTS = 32, 24, 12


def pose(number: int) -> pycolmap.Rigid3d:
    """Cameras in a row, turned a little towards the origin's far side."""
    half = 0.05 * (number - 2)
    rotation = pycolmap.Rotation3d(np.array([0.0, np.sin(half), 0.0, np.cos(half)]))
    return pycolmap.Rigid3d(rotation, np.array([0.3 * number, 0.0, 4.0]))


def write_model(
    folder: Path, names: list[str], text: bool = False, camera: str = "PINHOLE 30 30 16 12", points: int = POINTS
) -> Path:
    model, *params = camera.split()
    reconstruction = pycolmap.Reconstruction()
    reconstruction.add_camera_with_trivial_rig(
        pycolmap.Camera(camera_id=1, model=model, width=WIDTH, height=HEIGHT, params=[float(p) for p in params])
    )
    for number, name in enumerate(names, start=1):
        image = pycolmap.Image(image_id=number, name=name, camera_id=1)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(np.array([k, 1.0])) for k in range(points)])
        reconstruction.add_image_with_trivial_frame(image, pose(number))
    for k in range(points):
        track = pycolmap.Track()
        for number in range(1, len(names) + 1):
            track.add_element(number, k)
        reconstruction.add_point3D(np.array([0.1 * k, 0.2, 0.0]), track, np.array([k, 2, 3], dtype=np.uint8))
    folder.mkdir(parents=True, exist_ok=True)
    (reconstruction.write_text if text else reconstruction.write)(str(folder))
    return folder


def write_images(folder: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


NAMES = [f"im{i}.png" for i in range(4)]


def poke(path: Path, offset: int, layout: str, *values) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, offset, *values)
    path.write_bytes(data)


def text_model(names: list[str]) -> bytes:
    """images.txt of cameras as in `pose`, without 2D points."""
    lines = []
    for number, name in enumerate(names, start=1):
        x, y, z, w = pose(number).rotation.quat
        lines += [f"{number} {w} {x} {y} {z} {0.3 * number} 0 4 1 {name}", ""]
    return "\n".join([*lines, ""]).encode()


def files_of(scene) -> dict[str, Path]:
    return {view.name: view.source.path for view in scene.views}
