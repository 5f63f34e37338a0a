"""A lens of every model that pycolmap knows."""

from __future__ import annotations

import numpy as np

from nfc_gs.data.lens import Lens

WIDTH, HEIGHT = 160, 120


# every model with noticeable, plausible distortion
PARAMS = {
    "SIMPLE_PINHOLE": [140, 82, 57],
    "PINHOLE": [140, 150, 82, 57],
    "SIMPLE_RADIAL": [140, 82, 57, -0.15],
    "RADIAL": [140, 82, 57, -0.15, 0.04],
    "OPENCV": [140, 150, 82, 57, 0.12, -0.05, 0.004, -0.006],
    "FULL_OPENCV": [140, 150, 82, 57, -0.1, 0.02, 0.002, -0.003, 0.01, 0.05, 0.01, 0.002],
    "SIMPLE_RADIAL_FISHEYE": [90, 82, 57, -0.02],
    "RADIAL_FISHEYE": [90, 82, 57, -0.02, 0.003],
    "OPENCV_FISHEYE": [90, 95, 82, 57, -0.02, 0.004, 0.001, -0.0005],
    "SIMPLE_FISHEYE": [90, 82, 57],
    "FISHEYE": [90, 95, 82, 57],
    "THIN_PRISM_FISHEYE": [90, 95, 82, 57, -0.02, 0.004, 0.002, -0.001, 0.001, 0.0, 0.002, -0.001],
    "RAD_TAN_THIN_PRISM_FISHEYE": [90, 95, 82, 57, -0.02, 0.004, 0, 0, 0, 0, 0.001, -0.001, 0.001, 0, -0.001, 0],
    "FOV": [140, 150, 82, 57, 0.6],
    "SIMPLE_DIVISION": [140, 82, 57, -0.1],
    "DIVISION": [140, 150, 82, 57, -0.1],
    "EUCM": [140, 150, 82, 57, 0.5, 1.1],
    "EQUIRECTANGULAR": [WIDTH, HEIGHT],
}


def lens_of(model: str) -> Lens:
    return Lens(model, WIDTH, HEIGHT, tuple(float(v) for v in PARAMS[model]))


def pixel_grid(width: int, height: int) -> np.ndarray:
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([x, y], axis=-1).reshape(-1, 2)
