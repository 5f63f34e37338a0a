"""The solids that scenes of the built-in captures are made of, and how they are placed.

World frame: metres, z up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nfc_gs.data.builtin.materials import Material
from nfc_gs.data.builtin.shapes import Frustum, Shape


@dataclass(frozen=True)
class Solid:
    """One solid of the scene.

    Attributes:
        label: what it belongs to; solids of one label share an id in masks.
        shape: in its own frame.
        material: its surface.
        rest: [4, 4] float64, own frame to world, rigid.
        motion: maps time to a rigid [4, 4] world-to-world motion applied after `rest`; None stands still.
        casts_shadow: False for solids so far off that their shadows are never seen.
        form: maps time to the shape and the material of that time, in place of the two above; None keeps those.
    """

    label: str
    shape: Shape
    material: Material
    rest: np.ndarray
    motion: Callable[[float], np.ndarray] | None = None
    casts_shadow: bool = True
    form: Callable[[float], tuple[Shape, Material]] | None = None

    @property
    def moves(self) -> bool:
        """Whether its place, shape or color depends on time."""
        return self.motion is not None or self.form is not None

    def pose(self, time: float) -> np.ndarray:
        """Own frame to world at this time, [4, 4] float64."""
        return self.rest if self.motion is None else self.motion(time) @ self.rest

    def frozen(self, time: float) -> Solid:
        """The solid as it is at this time, standing still."""
        shape, material = (self.shape, self.material) if self.form is None else self.form(time)
        return replace(self, shape=shape, material=material, rest=self.pose(time), motion=None, form=None)


def at(x: float, y: float, z: float, turn: float = 0.0, tilt: float = 0.0) -> np.ndarray:
    """Pose at (x, y, z): tilted around x, then turned around z (degrees)."""
    a, b = np.radians(turn), np.radians(tilt)
    around_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1.0]])
    around_x = np.array([[1.0, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    pose = np.eye(4)
    pose[:3, :3] = around_z @ around_x
    pose[:3, 3] = x, y, z
    return pose


def above(point: np.ndarray, height: float) -> np.ndarray:
    """The point [3] moved up."""
    return point + np.array([0.0, 0.0, height])


def rod(label: str, start: np.ndarray, end: np.ndarray, radius: float, material: Material) -> Solid:
    """A round bar from `start` to `end`, both [3]."""
    along = end - start
    length = float(np.linalg.norm(along))
    z = along / length
    x = np.cross([0.0, 1.0, 0.0] if abs(z[1]) < 0.9 else [1.0, 0.0, 0.0], z)
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1)
    pose[:3, 3] = (start + end) / 2
    return Solid(label, Frustum(radius, radius, length), material, pose)


def label_ids(scene: list[Solid]) -> dict[str, int]:
    """Mask id of each label, from 1 in order of first appearance; 0 is the sky."""
    return {label: k + 1 for k, label in enumerate(dict.fromkeys(solid.label for solid in scene))}


def moving_ids(scene: list[Solid]) -> tuple[int, ...]:
    """Mask ids of what changes its place, shape or color with time, ascending."""
    ids = label_ids(scene)
    return tuple(sorted({ids[solid.label] for solid in scene if solid.moves}))
