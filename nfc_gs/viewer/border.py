"""The border between two pictures that are compared, and how it is dragged.

viser has no control that lies on the picture, but lets objects in its scene be dragged and reports where on the screen
the pointer is meanwhile. So the border is a strip in the scene, nearer to the camera than anything that is drawn: the
page shows nothing of it, and the pointer hits nothing before it.
"""

from __future__ import annotations

import numpy as np

from nfc_gs.viewer.cameras import Pose

FACES = np.array([[0, 1, 2], [2, 1, 3]])
"""The two triangles of the strip."""

REACH = 0.02
"""How far from the border, as a share of the width, it can still be dragged; `REACH_PIXELS` at least."""

REACH_PIXELS = 12.0

ARROWS = (34, 139, 230)
"""Color of the arrows on the border's knob."""

MIN_SPLIT = 0.01
"""How near to the picture's edge the border goes, as a share of the width; nearer it could not be dragged."""


def strip(pose: Pose, width: int, height: int, split: float, depth: float) -> np.ndarray:
    """Corners [4, 3] float32, scene frame, of the strip that is dragged: over the border, as high as the picture.

    Args:
        width, height: of the window in pixels.
        split: where the border is, 0..1 from the left.
        depth: of the strip, along the camera's z axis, > 0.
    """
    camera = pose.camera(width, height)
    reach = max(REACH * width, REACH_PIXELS)
    columns = np.array([split * width - reach, split * width + reach])
    x, y = np.meshgrid((columns - camera.cx) / camera.fx, (np.array([0.0, height]) - camera.cy) / camera.fy)
    rays = np.stack([x.ravel(), y.ravel(), np.ones(4)], axis=1)  # camera frame
    rotation = camera.viewmat[:3, :3].double().numpy()
    return (np.asarray(pose.position) + depth * rays @ rotation).astype(np.float32)


def paint_knob(rgb: np.ndarray, split: float) -> None:
    """Paint a knob on the border of a picture [H, W, 3] uint8: a disc with two arrows that say it can be dragged."""
    height, width = rgb.shape[:2]
    radius, x, y = max(5.0, 0.022 * height), split * width, 0.5 * height
    left, top = max(0, int(x - radius)), max(0, int(y - radius))
    part = rgb[top : int(y + radius) + 2, left : int(x + radius) + 2]
    rows, columns = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
    down, right = (rows + 0.5 - y) / radius, (columns + 0.5 - x) / radius
    disc = right * right + down * down <= 1.0
    part[disc] = 255
    part[disc & (np.abs(right) >= 0.2) & (np.abs(right) + np.abs(down) <= 0.75)] = ARROWS
