"""Captures on disk of cameras on a ring, in the forms of COLMAP and nerfstudio."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_captures = pytest.mark.skipif(not SHARED.is_dir(), reason="the real captures are not here")
WIDTH, HEIGHT = 32, 24


def look_at_origin(position: np.ndarray) -> np.ndarray:
    """OpenCV world-to-camera [4, 4] of a camera that looks at the origin, with +z up."""
    forward = -position / np.linalg.norm(position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    viewmat = np.eye(4)
    viewmat[:3, :3] = [right, np.cross(forward, right), forward]
    viewmat[:3, 3] = -viewmat[:3, :3] @ position
    return viewmat


def ring(count: int, radius: float = 4.0) -> list[np.ndarray]:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return [look_at_origin(np.array([radius * np.cos(a), radius * np.sin(a), 1.0])) for a in angles]


def project(scene, index: int, points: np.ndarray) -> np.ndarray:
    camera = scene.views[index].camera
    local = points @ camera.viewmat[:3, :3].numpy().T.astype(np.float64) + camera.viewmat[:3, 3].numpy()
    return local[:, :2] / local[:, 2:] * [camera.fx, camera.fy] + [camera.cx, camera.cy]


def write_images(folder: Path, names: list[str], size: tuple[int, int] = (WIDTH, HEIGHT), mode: str = "RGB") -> None:
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0] if mode == "L" else pixels).save(path)


def write_colmap(
    folder: Path,
    names: list[str],
    *,
    model: str = "PINHOLE",
    params: tuple[float, ...] = (30.0, 30.0, 16.0, 12.0),
    viewmats: list[np.ndarray] | None = None,
    points: int = 20,
    text: bool = False,
) -> Path:
    """A COLMAP model of cameras on a ring, with points at random that all of them observe."""
    reconstruction = pycolmap.Reconstruction()
    camera = pycolmap.Camera(camera_id=1, model=model, width=WIDTH, height=HEIGHT, params=list(params))
    reconstruction.add_camera_with_trivial_rig(camera)
    for number, (name, viewmat) in enumerate(zip(names, viewmats or ring(len(names)), strict=True), start=1):
        image = pycolmap.Image(image_id=number, name=name, camera_id=1)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(np.array([k, 1.0])) for k in range(points)])
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(viewmat[:3, :3]), viewmat[:3, 3])
        reconstruction.add_image_with_trivial_frame(image, pose)
    rng = np.random.default_rng(0)
    for k in range(points):
        track = pycolmap.Track()
        for number in range(1, len(names) + 1):
            track.add_element(number, k)
        reconstruction.add_point3D(rng.normal(size=3), track, rng.integers(0, 256, 3).astype(np.uint8))
    folder.mkdir(parents=True, exist_ok=True)
    (reconstruction.write_text if text else reconstruction.write)(str(folder))
    return folder


def write_capture(root: Path, count: int = 9, suffix: str = ".png", **options) -> Path:
    names = [f"im{i:02d}{suffix}" for i in range(count)]
    write_colmap(root / "sparse" / "0", names, **options)
    write_images(root / "images", names)
    return root


def write_transforms(root: Path, count: int = 9, mode: str = "RGB", name: str = "transforms.json", **fields) -> Path:
    """A nerfstudio capture; returns the JSON file."""
    names = [f"images/im{i:02d}.png" for i in range(count)]
    write_images(root, names, mode=mode)
    frames = []
    for image, viewmat in zip(names, ring(count), strict=True):
        matrix = np.linalg.inv(viewmat) @ np.diag([1.0, -1.0, -1.0, 1.0])
        frames.append({"file_path": image, "transform_matrix": matrix.tolist()})
    data = {"fl_x": 30.0, "fl_y": 31.0, "cx": 15.0, "cy": 12.5, "w": WIDTH, "h": HEIGHT, "frames": frames, **fields}
    (root / name).write_text(json.dumps(data))
    return root / name
