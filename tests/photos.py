"""Image files of noise, and what the readers of images want to know of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nfc_gs.core.camera import Camera
from nfc_gs.data.image_files import read_header
from nfc_gs.data.image_source import ImageSource
from nfc_gs.data.scene import View


def source_of(path: Path, **changes) -> ImageSource:
    header = read_header(path)
    plain = {"turn": False, "width": header.width, "height": header.height}
    return ImageSource(path=path, header=header, **{**plain, **changes})


def view_of(path: Path, **changes) -> View:
    source = source_of(path, **changes)
    return View(path.name, Camera(torch.eye(4), 1.0, 1.0, 0.0, 0.0, source.width, source.height), source)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path
