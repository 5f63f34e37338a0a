"""Small captures with a transforms.json, whose cameras look along the z axis of the world."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from nfc_gs.data.config import DataConfig

WIDTH, HEIGHT, COUNT = 16, 12, 4
PLAIN = DataConfig(normalize=False, random_points=20, test_every=0)


def matrix(index: int) -> list[list[float]]:
    """OpenGL camera-to-world: at (index, 0, 5), looking along -z of the world, y up."""
    return [[1.0, 0.0, 0.0, float(index)], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 5.0], [0.0, 0.0, 0.0, 1.0]]


def capture(root: Path, folder: str = "images", suffix: str = ".png", mode: str = "RGB", **fields) -> dict:
    frames = []
    for index in range(COUNT):
        path = root / folder / f"f{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, len(mode)), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        frames.append({"file_path": f"{folder}/f{index}{suffix}", "transform_matrix": matrix(index)})
    return {"fl_x": 20.0, "w": WIDTH, "h": HEIGHT, **fields, "frames": frames}


def write(root: Path, data: dict | list | str, name: str = "transforms.json") -> Path:
    (root / name).write_text(data if isinstance(data, str) else json.dumps(data))
    return root / name
