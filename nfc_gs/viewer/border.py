"""The border between two pictures that are compared, and how it is taken hold of.

viser has no control that lies on the picture. What it lets one drag are things in the scene, and it says where on the
screen the pointer is meanwhile. So the border is a strip in the scene, nearer to the camera than anything that is
drawn: the page shows nothing of it, and the pointer hits nothing before it.
"""

from __future__ import annotations

import numpy as np

from nfc_gs.viewer.cameras import Pose

FACES = np.array([[0, 1, 2], [2, 1, 3]])
"""The two triangles of the strip."""

REACH = 0.02
"""How far from the border, as a share of the width, one still takes hold of it; `REACH_PIXELS` at least."""

REACH_PIXELS = 12.0

LEAST = 0.01
"""How near to the picture's edge the border goes, as a share of the width; beyond, nobody could take hold of it."""


def strip(pose: Pose, width: int, height: int, split: float, depth: float) -> np.ndarray:
    """Corners [4, 3] float32, scene frame, of what is dragged: a strip over the border, as high as the picture.

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


def with_grip(rgb: np.ndarray, split: float) -> np.ndarray:
    """A picture [H, W, 3] uint8 with a knob on its border: a white disc with two arrows that say it can be dragged."""
    height, width = rgb.shape[:2]
    radius = max(5.0, 0.022 * height)
    x = (np.arange(width) + 0.5 - split * width)[None] / radius
    y = (np.arange(height) + 0.5 - 0.5 * height)[:, None] / radius
    disc = x * x + y * y <= 1.0
    arrows = (np.abs(x) >= 0.2) & (np.abs(x) + np.abs(y) <= 0.75)
    marked = rgb.copy()
    marked[disc] = 255
    marked[disc & arrows] = (34, 139, 230)
    return marked
