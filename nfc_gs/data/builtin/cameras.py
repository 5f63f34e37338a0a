"""The cameras of the built-in captures."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import numpy as np
import torch

from nfc_gs.core.camera import Camera, look_at_viewmat

_FIELD_OF_VIEW = 55.0  # degrees across the width of a picture


def camera_angle() -> float:
    """The angle that the width of every picture covers, radians."""
    return float(np.radians(_FIELD_OF_VIEW))


def camera_at(eye: Sequence[float], target: Sequence[float], width: int, height: int) -> Camera:
    """A level camera at `eye` that looks at `target`; its centre is that of the picture."""
    focal = float(0.5 * width / np.tan(np.radians(_FIELD_OF_VIEW / 2)))
    position, aim, up = (torch.tensor(v, dtype=torch.float64) for v in (eye, target, [0.0, 0.0, 1.0]))
    return Camera(look_at_viewmat(position, aim, up).float(), focal, focal, width / 2, height / 2, width, height)


def turns_of(count: int) -> int:
    """How often `count` cameras go around, so that neighbours in order are far apart in angle and none meet."""
    return min((k for k in range(1, count + 1) if gcd(k, count) == 1), key=lambda k: abs(k - count / 9.6))


def still_life_cameras(count: int = 48, width: int = 320, height: int = 240) -> list[Camera]:
    """Cameras on a closed walk around the still life, at changing heights and distances, all looking inwards.

    Neighbours in angle are far apart in order, so that every k-th view is a fair sample of all directions.
    """
    turns = turns_of(count)
    result = []
    for k in range(count):
        phase = 2 * np.pi * k / count
        angle, distance = turns * phase, 4.85 + 0.4 * np.cos(2 * phase + 0.4)
        eye = [distance * np.cos(angle), distance * np.sin(angle), 2.15 + 0.95 * np.sin(3 * phase + 0.7)]
        target = [0.15 * np.cos(2 * phase), 0.15 * np.sin(phase), 0.62]
        result.append(camera_at(eye, target, width, height))
    return result


def camera_on_walk(place: float, turns: int, width: int = 320, height: int = 240) -> Camera:
    """A camera on a closed walk around the moving scene.

    Args:
        place: 0..1, how far along the walk; 0 and 1 are the same camera.
        turns: how often the walk goes around.
    """
    phase = 2 * np.pi * place
    angle, distance = turns * phase, 3.75 + 0.25 * np.cos(2 * phase + 0.4)
    eye = [distance * np.cos(angle), distance * np.sin(angle), 1.85 + 0.7 * np.sin(3 * phase + 0.7)]
    return camera_at(eye, [0.1 * np.cos(2 * phase), 0.1 * np.sin(phase) - 0.05, 0.72], width, height)


def half_circle(count: int = 8, width: int = 320, height: int = 240) -> list[Camera]:
    """Cameras along half a circle around the moving scene, at two heights in turn, all looking inwards."""
    result = []
    for k in range(count):
        angle = np.radians(-52.0 + 144.0 * (k / max(count - 1, 1) - 0.5))
        eye = [3.8 * np.cos(angle), 3.8 * np.sin(angle), (1.45, 2.15)[k % 2]]
        result.append(camera_at(eye, [0.0, -0.05, 0.72], width, height))
    return result
