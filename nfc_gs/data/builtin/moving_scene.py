"""The built-in moving scene: four kinds of motion around the table of the still life.

A ball rolls and hops along a path (rigid), a lamp swings in its three joints (articulated), a jelly on the table is
squashed and stretched (deforming), and a globe changes its color (recoloring). Everything else stands still. All of
it is a smooth function of a time from 0 to 1.
"""

from __future__ import annotations

import numpy as np

from nfc_gs.data.builtin.draw import DrawnView
from nfc_gs.data.builtin.materials import (
    Material,
    bands,
    checker,
    mixed,
    plain,
    stretched,
    wedges,
)
from nfc_gs.data.builtin.shapes import Box, Ellipsoid, Frustum, Shape, sphere
from nfc_gs.data.builtin.solids import Solid, at, moving_ids
from nfc_gs.data.builtin.still_life import BRASS, IRON, TABLE, furniture, surroundings, table, table_objects

_BALL, _PATH = 0.3, 1.45  # radii of the ball and of its path around the table
_START, _SWEEP = np.radians(-102.0), np.radians(85.0)  # of the path, angles around the table
_HOP = 0.42  # metres
_LAMP = (-0.92, 0.78)  # where the lamp stands
_STAND, _LOWER, _UPPER = 0.62, 0.8, 0.72  # metres: height of the lamp's shoulder, lengths of its two arms
_JELLY = 0.24  # radius at rest
_GLOBE = ("1f5fd0", "d8316f", "f0a81e")


def moving_scene() -> list[Solid]:
    """Every solid of the moving scene."""
    kept = [solid for solid in table_objects() if solid.label in ("books", "ring")]
    kept += [solid for solid in furniture() if solid.label in ("planter", "bush")]
    kept += [solid for solid in surroundings() if solid.label != "fence"]
    return [_ball(), *_lamp(), _jelly(), *_globe(), *table(), *kept]


def moving_mask(drawn: DrawnView, scene: list[Solid]) -> np.ndarray:
    """Which pixels [H, W] of a view of the scene show something that moves or changes; shadows do not count."""
    return np.isin(drawn.mask, moving_ids(scene))


def _turned(axis: int, angle: float) -> np.ndarray:
    """Rotation [4, 4] about x, y or z (0, 1, 2), radians."""
    turn = np.eye(4)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turn[i, i] = turn[j, j] = np.cos(angle)
    turn[j, i] = np.sin(angle)
    turn[i, j] = -turn[j, i]
    return turn


def ball_motion(time: float) -> np.ndarray:
    """The ball's own frame to the world, [4, 4]: it rolls on a circle around the table without slipping and hops twice.

    It turns like a wheel on an axle that points to the middle of the table.
    """
    angle = _START + _SWEEP * time
    hop = _HOP * np.sin(2 * np.pi * time) ** 2
    place = at(_PATH * np.cos(angle), _PATH * np.sin(angle), _BALL + hop)
    return place @ _turned(2, angle) @ _turned(0, -_SWEEP * time * _PATH / _BALL)


def _ball() -> Solid:
    skin = Material(wedges(("e8412f", "f4efe2", "2b6cc4", "f4c430"), "f4efe2", 8, 0.27), 0.05, 50)
    return Solid("ball", sphere(_BALL), skin, at(0, 0, 0, 0, 60), ball_motion)


def lamp_joints(time: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Own frames to the world, [4, 4], of the lamp's lower arm, upper arm and head: hinge at the origin, along z."""
    phase = 2 * np.pi * time
    yaw = np.arctan2(-_LAMP[1], -_LAMP[0]) + np.radians(24.0) * np.sin(phase + 0.5)
    lower, upper, head = (
        np.radians(4.0 + 20.0 * np.sin(phase)),
        np.radians(66.0 + 26.0 * np.sin(phase + 1.3)),
        np.radians(158.0 + 24.0 * np.sin(2 * phase)),
    )  # from the vertical
    shoulder = at(*_LAMP, _STAND) @ _turned(2, float(yaw)) @ _turned(1, lower)
    elbow = shoulder @ at(0, 0, _LOWER) @ _turned(1, upper - lower)
    wrist = elbow @ at(0, 0, _UPPER) @ _turned(1, head - upper)
    return shoulder, elbow, wrist


def _lamp() -> list[Solid]:
    """The label `stand` stands still, `lamp` moves."""
    stripes = Material(bands("f0b323", "2e3338", 0.16, 0.05), specular=0.04, shininess=40)
    shade = Material(bands("c8372d", "f3e3c3", 0.11, 0.035), specular=0.08, shininess=50)
    glow = Material(plain("fff6d8"))
    marble = Material(checker("e9dcc3", "6f8f86", 0.155), specular=0.04, shininess=40)

    def part(joint: int, shape: Shape, material: Material, along: float) -> Solid:
        return Solid("lamp", shape, material, at(0, 0, along), lambda time: lamp_joints(time)[joint])

    return [
        Solid("stand", Box((0.42, 0.42, _STAND - 0.1)), marble, at(*_LAMP, (_STAND - 0.1) / 2, 50)),
        part(0, sphere(0.1), IRON, 0.0),
        part(0, Frustum(0.06, 0.05, _LOWER), stripes, _LOWER / 2),
        part(1, sphere(0.085), IRON, 0.0),
        part(1, Frustum(0.05, 0.042, _UPPER), stripes, _UPPER / 2),
        part(2, sphere(0.07), IRON, 0.0),
        part(2, Frustum(0.07, 0.21, 0.26), shade, 0.15),
        part(2, Ellipsoid((0.13, 0.13, 0.1)), glow, 0.28),
    ]


def jelly_radii(time: float) -> np.ndarray:
    """Half axes [3] of the jelly: stretched and squashed twice, its volume kept."""
    stretch = np.exp(0.36 * np.sin(4 * np.pi * time))
    return _JELLY * np.array([stretch**-0.5, stretch**-0.5, stretch])


def _jelly() -> Solid:
    spiral = bands("1f8f58", "d9ef7e", 0.12, 0.05, twist=2.0)

    def form(time: float) -> tuple[Shape, Material]:
        radii = jelly_radii(time)
        shape = Ellipsoid((float(radii[0]), float(radii[1]), float(radii[2])))
        return shape, Material(stretched(spiral, radii / _JELLY), specular=0.1, shininess=60)

    def motion(time: float) -> np.ndarray:
        return at(0, 0, float(jelly_radii(time)[2]))  # it never leaves the table

    shape, material = form(0.0)
    return Solid("jelly", shape, material, at(0.3, -0.14, TABLE), motion, form=form)


def globe_weights(time: float) -> np.ndarray:
    """How much of each of its three colors the globe shows, [3]; they sum to 1."""
    first = np.cos(0.5 * np.pi * time) ** 6
    last = np.sin(0.5 * np.pi * time) ** 6
    return np.array([first, 1.0 - first - last, last])


def _globe() -> list[Solid]:
    tiles = Material(checker("f0e4cb", "2a6f7a", 0.14), specular=0.04, shininess=50)
    patterns = [bands(code, "f1e6d0", 0.13, 0.035, twist=1.0) for code in _GLOBE]

    def form(time: float) -> tuple[Shape, Material]:
        return sphere(0.27), Material(mixed(patterns, globe_weights(time)), specular=0.05, shininess=50)

    shape, material = form(0.0)
    return [
        Solid("globe", shape, material, at(0.98, 0.86, 0.74, 0, 35), form=form),
        Solid("cube", Box((0.42, 0.42, 0.42)), tiles, at(0.98, 0.86, 0.21, 28)),
        Solid("cube", Frustum(0.16, 0.14, 0.07), BRASS, at(0.98, 0.86, 0.455)),
    ]
