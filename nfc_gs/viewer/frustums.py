"""Cameras in a browser's scene, drawn as small frustums that hide where they would cover the picture."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import viser

from nfc_gs.viewer.cameras import Pose
from nfc_gs.viewer.content import Content
from nfc_gs.viewer.session import Session

SPACING_SHARE = 0.3
"""Size of a frustum as a share of the distance to the next camera, half of the cameras being nearer to theirs."""

EXTENT_SHARES = (0.005, 0.03)
"""Limits of that size, as shares of the extent of all cameras."""

RADIUS_SHARE = 0.04
"""Size of a frustum where there is no capture, as a share of the radius of what is shown."""

NEAR = 6.0
"""Frustums nearer to the eye than this many of their sizes are hidden."""


class Frustums:
    """The frustums of one kind in the scene of one page; its eye alone decides which of them are hidden.

    Attributes:
        size: of the frustums, scene units.
    """

    def __init__(self, session: Session, root: str, size: float) -> None:
        """Without any frustum; `root` is the name of all in the scene, as "/cameras"."""
        self.session, self.size = session, size
        self._root = session.client.scene.add_frame(root, show_axes=False, visible=False)
        self._handles: list[viser.CameraFrustumHandle] = []
        self._lock = threading.RLock()  # callbacks of the page run in several threads

        @session.client.camera.on_update
        async def _(_: object) -> None:
            session.guarded(self.hide_near_eye)()

    def __len__(self) -> int:
        return len(self._handles)

    @property
    def visible(self) -> bool:
        """Whether those that are not near the eye are seen."""
        return bool(self._root.visible)

    @visible.setter
    def visible(self, visible: bool) -> None:
        if self._root.visible != visible:
            self._root.visible = visible
            self.hide_near_eye()

    def add(
        self,
        pose: Pose,
        aspect: float,
        color: tuple[int, int, int],
        on_click: Callable[[Any], None],
        image: np.ndarray | None = None,
    ) -> None:
        """Add a frustum after the others.

        Args:
            pose: of the camera.
            aspect: width / height of its picture.
            color: RGB, 0..255.
            on_click: called with viser's event.
            image: [H, W, 3] uint8, shown on its front.
        """
        with self._lock:
            handle = self.session.client.scene.add_camera_frustum(
                f"{self._root.name}/{len(self._handles)}",
                fov=pose.fov,
                aspect=aspect,
                scale=self.size,
                thickness=1.5,
                thickness_units="screen",
                color=color,
                image=None if image is None else np.ascontiguousarray(image),
                format="jpeg",
                cast_shadow=False,
                receive_shadow=False,
                wxyz=pose.wxyz,
                position=pose.position,
                visible=not self._is_near(np.asarray(pose.position)),
            )
            handle.on_click(on_click)
            self._handles.append(handle)

    def clear(self) -> None:
        """Remove all frustums."""
        with self._lock:
            while self._handles:
                self._handles.pop().remove()

    def resize(self, size: float) -> None:
        """Give all frustums another size, scene units."""
        with self._lock:
            self.size = size
            for handle in self._handles:
                handle.scale = size
        self.hide_near_eye()

    def hide_near_eye(self) -> None:
        """Hide the frustums near the eye, which would cover the picture, and show the others."""
        if not self.visible or self.session.closed:
            return
        with self._lock:
            if not self._handles:
                return
            near = self._is_near(np.stack([handle.position for handle in self._handles]))
            for handle, is_near in zip(self._handles, near, strict=True):
                if handle.visible == bool(is_near):
                    handle.visible = not is_near

    def _is_near(self, places: np.ndarray) -> np.ndarray:
        """Whether places [..., 3] are near the eye, bool [...]."""
        eye = np.asarray(self.session.client.camera.position)
        return np.linalg.norm(places - eye, axis=-1) < NEAR * self.size


def frustum_size(content: Content) -> float:
    """A size of frustums, scene units, at which those of neighbouring cameras stay well apart."""
    if content.scene is None or len(content.scene.views) < 2:
        return RADIUS_SHARE * content.middle_and_radius()[1]
    centers = torch.stack([view.camera.center.double() for view in content.scene.views])
    extent = float((centers - centers.mean(0)).norm(dim=1).max())
    distances = torch.cdist(centers, centers).fill_diagonal_(math.inf)
    spacing = float(distances.amin(1).median())
    low, high = (share * extent for share in EXTENT_SHARES)
    return min(max(SPACING_SHARE * spacing, low), high) or RADIUS_SHARE * content.middle_and_radius()[1]
