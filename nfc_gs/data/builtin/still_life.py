"""The built-in static scene: a still life on a round terrace among hills and cypresses.

World frame: metres, z up, the middle of the terrace at the origin.
"""

from __future__ import annotations

import numpy as np

from nfc_gs.data.builtin.materials import Material, bands, blend, bricks, checker, paving, plain, planks
from nfc_gs.data.builtin.shapes import Box, Ellipsoid, Frustum, Plane, Torus, sphere
from nfc_gs.data.builtin.solids import Solid, above, at, rod

IRON = Material(plain("3c4249"), specular=0.05, shininess=30)
BRASS = Material(plain("b8842a"), specular=0.22, shininess=45)
TABLE = 0.74  # height of the table top


def table() -> list[Solid]:
    """The round table in the middle."""
    wood = Material(planks("6b4022", "c08a52", 0.14, 0.006), specular=0.03, shininess=25)
    solids = [Solid("table", Frustum(0.78, 0.78, 0.05), wood, at(0, 0, TABLE - 0.025, 20))]
    solids.append(Solid("table", Frustum(0.79, 0.79, 0.036), BRASS, at(0, 0, TABLE - 0.027)))
    for k in range(4):
        a = np.radians(45 + 90 * k)
        out = np.array([np.cos(a), np.sin(a), 0])
        solids.append(rod("table", 0.62 * out, above(0.42 * out, TABLE - 0.05), 0.022, IRON))
    return solids


def table_objects() -> list[Solid]:
    """The objects on the table."""
    glaze = Material(plain("147a80", 0.25, 5), specular=0.13, shininess=60)
    vase = Material(bands("f1e6d0", "27508f", 0.085, 0.035), specular=0.1, shininess=50)
    orange = Material(plain("e07a2c", 0.25, 9), specular=0.1, shininess=40)
    cone = Material(bands("f3e3c3", "c2402f", 0.13, 0.06, twist=1.0))
    solids = [
        Solid("ball", sphere(0.2), glaze, at(0.3, -0.3, TABLE + 0.2)),
        Solid("vase", Ellipsoid((0.17, 0.17, 0.21)), vase, at(-0.28, 0.25, TABLE + 0.19)),
        Solid("vase", Frustum(0.075, 0.055, 0.2), vase, at(-0.28, 0.25, TABLE + 0.44)),
        Solid("vase", Frustum(0.055, 0.1, 0.07), vase, at(-0.28, 0.25, TABLE + 0.57)),
        Solid("vase", Frustum(0.12, 0.12, 0.03), vase, at(-0.28, 0.25, TABLE + 0.015)),
        Solid("cone", Frustum(0.17, 0.0, 0.46), cone, at(0.36, 0.34, TABLE + 0.23)),
    ]
    for k, (sides, code, turn) in enumerate(
        [((0.4, 0.28, 0.07), "8f2f35", 8), ((0.36, 0.25, 0.055), "2f5d50", -9), ((0.3, 0.22, 0.06), "d9a441", 20)]
    ):
        cover = Material(bricks((code, code), "efe3c8", (2.0, 0.02), 0.004) if k == 1 else plain(code, 0.3, 14))
        solids.append(Solid("books", Box(sides), cover, at(-0.33, -0.32, TABLE + (0.035, 0.0975, 0.155)[k], turn)))
    solids.append(Solid("ring", Torus(0.1, 0.042), orange, at(-0.33, -0.32, TABLE + 0.185 + 0.042, 0, 0)))
    for k, (lean, height) in enumerate([((0.16, 0.05), 0.62), ((-0.1, 0.14), 0.72), ((-0.06, -0.13), 0.56)]):
        foot = np.array([-0.28, 0.25, TABLE + 0.5])
        tip = above(foot, height - 0.2) + np.array([*lean, 0.0])
        solids.append(rod("flowers", foot, tip, 0.008, Material(plain("4d7a3a"))))
        code = ("f2c230", "e5575f", "f4efe6")[k]
        solids.append(Solid("flowers", Ellipsoid((0.06, 0.06, 0.045)), Material(plain(code, 0.6, 30)), _pose(tip)))
    return solids


def _pose(position: np.ndarray) -> np.ndarray:
    return at(float(position[0]), float(position[1]), float(position[2]))


def furniture() -> list[Solid]:
    """The objects on the terrace around the table."""
    brick = Material(bricks(("a8482c", "cc7a50"), "cdb79c", (0.26, 0.09), 0.014))
    leaves = Material(blend("1f4a22", "86ab4e", 7.0, 15.0, contrast=1.1))
    marble = Material(blend("b7ab98", "f2ecdf", 5.0, 13.0), specular=0.04, shininess=40)
    tiles = Material(checker("f0e4cb", "2a6f7a", 0.147), specular=0.04, shininess=50)
    seat = Material(plain("b8392f", 0.25, 8), specular=0.04, shininess=40)
    solids = [
        Solid("planter", Box((0.8, 0.5, 0.45)), brick, at(-1.25, -1.05, 0.225, 40)),
        Solid("column", Frustum(0.3, 0.3, 0.1), marble, at(-1.15, 1.25, 0.05)),
        Solid("column", Frustum(0.2, 0.165, 0.95), marble, at(-1.15, 1.25, 0.575)),
        Solid("column", Box((0.46, 0.46, 0.08)), marble, at(-1.15, 1.25, 1.09, 15)),
        Solid("golden ball", sphere(0.2), BRASS, at(-1.15, 1.25, 1.33)),
        Solid("cube", Box((0.44, 0.44, 0.44)), tiles, at(1.3, 1.05, 0.22, 28)),
        Solid("cube", Box((0.26, 0.26, 0.26)), brick, at(1.27, 1.02, 0.57, 62)),
        Solid("stool", Frustum(0.22, 0.22, 0.05), seat, at(1.3, -0.95, 0.555)),
        Solid("hoop", Torus(0.3, 0.085), Material(bands("c9653b", "e8b07a", 0.05, 0.02)), at(0.25, -1.75, 0.3, 25, 74)),
    ]
    for dx, dy, r in [(-0.22, 0.0, 0.25), (0.02, 0.04, 0.3), (0.24, -0.02, 0.24)]:
        a = np.radians(40)
        x, y = -1.25 + dx * np.cos(a) - dy * np.sin(a), -1.05 + dx * np.sin(a) + dy * np.cos(a)
        solids.append(Solid("bush", Ellipsoid((r, r, 0.85 * r)), leaves, at(x, y, 0.5 + 0.4 * r)))
    for k in range(3):
        a = np.radians(30 + 120 * k)
        out = np.array([np.cos(a), np.sin(a), 0])
        middle = np.array([1.3, -0.95, 0])
        solids.append(rod("stool", middle + 0.24 * out, middle + above(0.13 * out, 0.54), 0.016, IRON))
    lamp = np.array([0.15, 1.95, 0])
    solids.append(rod("lamp", lamp, above(lamp, 1.75), 0.02, IRON))
    solids.append(Solid("lamp", Frustum(0.14, 0.1, 0.06), IRON, _pose(above(lamp, 0.03))))
    solids.append(Solid("lamp", sphere(0.13), Material(plain("f8ecc8"), 0.05, 60), _pose(above(lamp, 1.86))))
    return solids


def surroundings() -> list[Solid]:
    """Terrace, wall, fence, lawn, cypresses and hills."""
    stones = paving(("b99a72", "e0c9a0", "a8553a"), "8a735a", 0.3, 0.02)
    lawn = Material(blend("3f6428", "93a64c", 0.35, 1.3, 4.5, contrast=0.5))
    rock = Material(bricks(("9c8f7c", "c9bda6"), "786d5e", (0.38, 0.165), 0.02))
    cap = Material(plain("d9cdb6", 0.3, 6))
    solids = [
        Solid("terrace", Frustum(2.62, 2.55, 0.12), Material(stones, 0.02, 20), at(0, 0, -0.06)),
        Solid("lawn", Plane(), lawn, at(0, 0, -0.1), casts_shadow=False),
    ]
    for k in range(6):  # the wall, along a third of the terrace
        a = 100 + 18.0 * k
        x, y = 3.05 * np.cos(np.radians(a)), 3.05 * np.sin(np.radians(a))
        solids.append(Solid("wall", Box((0.97, 0.26, 0.38)), rock, at(x, y, 0.09, a + 90)))
        solids.append(Solid("wall", Box((1.02, 0.32, 0.06)), cap, at(x, y, 0.31, a + 90)))
    paint = Material(plain("b89d74"), 0.03, 30)
    angles = np.radians(np.arange(-62, 30, 13.5))
    posts = np.stack([3.0 * np.cos(angles), 3.0 * np.sin(angles), np.full_like(angles, -0.1)], axis=1)
    for k, foot in enumerate(posts):
        solids.append(rod("fence", foot, above(foot, 0.68), 0.026, paint))
        if k:
            for height in (0.3, 0.56):
                up = np.array([0, 0, height])
                solids.append(rod("fence", posts[k - 1] + up, foot + up, 0.017, paint))
    trunk = Material(plain("6a4a32", 0.4, 5))
    needles = Material(blend("2f5a30", "7a9a52", 1.8, 4.0, contrast=1.0))
    trees = [(12.5, 4.0, 4.3), (9.5, 8.5, 3.7), (-4.0, 12.5, 4.4), (-13.0, -1.5, 4.5), (-8.0, -10.5, 3.9)]
    trees.append((3.5, -12.8, 4.2))
    for x, y, height in trees:
        solids.append(Solid("trees", Frustum(0.13, 0.09, 0.9), trunk, at(x, y, 0.3)))
        size = (0.15 * height, 0.15 * height, 0.47 * height)
        solids.append(Solid("trees", Ellipsoid(size), needles, at(x, y, 0.5 + 0.47 * height)))
    for angle, distance, wide, high in [
        (10, 75, 42, 9), (65, 90, 50, 12), (118, 70, 38, 8), (170, 95, 55, 13),
        (222, 78, 40, 8), (268, 88, 48, 11), (318, 72, 40, 8.5), (345, 110, 60, 15),
    ]:  # fmt: skip
        a = np.radians(angle)
        slope = Material(blend("35602f", "7f9a4d", 0.05, 0.13, contrast=0.9))
        pose = at(distance * np.cos(a), distance * np.sin(a), -1.0, angle)
        solids.append(Solid("hills", Ellipsoid((0.6 * wide, wide, high)), slope, pose, casts_shadow=False))
    return solids


def still_life() -> list[Solid]:
    """Every solid of the still life; `solids.label_ids` gives the meaning of mask ids."""
    return table() + table_objects() + furniture() + surroundings()
