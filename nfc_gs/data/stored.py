"""A scene without its images, as a checkpoint keeps it: enough to render from where the capture itself is gone."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.checks import check_shapes
from nfc_gs.data.image_source import MAX_PIXELS
from nfc_gs.data.normalize import camera_centers
from nfc_gs.data.scene import PointCloud, SceneData, TimeAxis, View

FOCAL_LENGTHS = (1e-6, 1e9)
"""Shortest and longest, pixels; those that `data.lens` lets through lie well between."""

MAX_OFFSET = 1e8
"""Largest coordinate of a principal point, pixels."""


def without_photos(scene: SceneData) -> SceneData:
    """A scene reduced to what needs no image files: cameras, names, times, the split, the transform.

    Of the points those one or two stay whose depth before the training cameras is the median: a camera path around
    the middle of the scene (`export.paths.orbit`) needs no more.
    """
    return replace(
        scene,
        root=scene.root.resolve(),
        views=tuple(replace(view, source=None) for view in scene.views),
        points=_cloud(_middle_points(scene)),
        background=None,
        messages=(),
        images=None,
    )


def to_parts(scene: SceneData) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Plain values and tensors from which `from_parts` makes the scene again, but for its pictures."""
    cameras = [view.camera for view in scene.views]
    values = {"root": str(scene.root), "names": [view.name for view in scene.views], "extent": float(scene.extent)}
    tensors = {
        "viewmats": torch.stack([camera.viewmat.detach().cpu().float() for camera in cameras]),
        "intrinsics": torch.tensor([[c.fx, c.fy, c.cx, c.cy] for c in cameras], dtype=torch.float64),
        "sizes": torch.tensor([[c.width, c.height] for c in cameras]),
        "train": torch.tensor(scene.train, dtype=torch.int64),
        "test": torch.tensor(scene.test, dtype=torch.int64),
        "points": torch.from_numpy(scene.points.xyz),
    }
    if scene.time_axis is not None:
        tensors["times"] = torch.tensor([view.time for view in scene.views], dtype=torch.float64)
    return values, tensors


def from_parts(
    values: Mapping[str, Any], tensors: Mapping[str, Tensor], transform: np.ndarray, time_axis: TimeAxis | None
) -> SceneData:
    """The scene of `to_parts`; the values may come from anywhere and are checked.

    Args:
        transform, time_axis: of the scene; a checkpoint has its own.

    Raises:
        ValueError, TypeError, KeyError: something is missing, or out of range.
    """
    times = tensors["times"].double() if "times" in tensors else None
    viewmats, intrinsics, sizes = tensors["viewmats"].float(), tensors["intrinsics"].double(), tensors["sizes"].long()
    train, test, points = tensors["train"].long(), tensors["test"].long(), tensors["points"].float()
    count = check_shapes(
        viewmats=(viewmats, "N 4 4"),
        intrinsics=(intrinsics, "N 4"),
        sizes=(sizes, "N 2"),
        times=(times, "N"),
        train=(train, "T"),
        test=(test, "H"),
        points=(points, "P 3"),
    )["N"]
    if (times is None) != (time_axis is None):
        raise ValueError("there are times of the views, or a time axis, but not both")
    if times is not None and not bool(((times >= 0.0) & (times <= 1.0)).all()):
        raise ValueError("the time of a view is not between 0 and 1")
    _check_cameras(viewmats, intrinsics, sizes)
    _check_split(train.tolist(), test.tolist(), count)
    if not bool(points.isfinite().all()):
        raise ValueError("a point of the scene is not finite")
    names = values["names"]
    if not isinstance(names, list) or len(names) != count or len({file_name(name) for name in names}) != count:
        raise ValueError(f"there are not {count} different names of views")
    if not all(PurePosixPath(name).name for name in names):
        raise ValueError("a view has no name")
    extent = float(values["extent"])
    if not 0.0 < extent < math.inf:
        raise ValueError(f"the extent of the scene is {extent}")
    cameras = [
        Camera(viewmat, *lens, *size)
        for viewmat, lens, size in zip(viewmats, intrinsics.tolist(), sizes.tolist(), strict=True)
    ]
    view_times = [None] * count if times is None else times.tolist()
    return SceneData(
        root=Path(file_name(values["root"])),
        views=tuple(
            View(name, camera, None, time) for name, camera, time in zip(names, cameras, view_times, strict=True)
        ),
        train=tuple(train.tolist()),
        test=tuple(test.tolist()),
        points=_cloud(points.numpy()),
        transform=transform,
        extent=extent,
        time_axis=time_axis,
    )


def file_name(value: object) -> str:
    """`value`, if the system would take it for the name of a file; raises ValueError or TypeError otherwise."""
    if not isinstance(value, str):
        raise TypeError(f"the name of a file is a {type(value).__name__}")
    if "\0" in value:
        raise ValueError("the name of a file holds a zero byte")
    os.fsencode(value)  # half a surrogate pair is a UnicodeEncodeError, which is a ValueError
    return value


def _check_cameras(viewmats: Tensor, intrinsics: Tensor, sizes: Tensor) -> None:
    """Raise ValueError unless N >= 1 cameras [N, 4, 4], [N, 4] and [N, 2] can be rendered from."""
    if len(viewmats) == 0:
        raise ValueError("there are no views")
    if not bool(viewmats.isfinite().all()) or not bool(intrinsics.isfinite().all()):
        raise ValueError("a camera is not finite")
    rotations = viewmats[:, :3, :3].double()
    skew = (rotations @ rotations.mT - torch.eye(3, dtype=torch.float64)).abs().amax()
    last = viewmats[:, 3] - torch.tensor([0.0, 0.0, 0.0, 1.0])
    if float(skew) > 1e-3 or bool(last.any()) or not bool((torch.linalg.det(rotations) > 0.0).all()):
        raise ValueError("a camera's pose is not rigid")
    focal, centre = intrinsics[:, :2], intrinsics[:, 2:].abs()
    if not FOCAL_LENGTHS[0] <= float(focal.min()) <= float(focal.max()) <= FOCAL_LENGTHS[1]:
        raise ValueError("a camera's focal length is beyond reason")
    if float(centre.max()) > MAX_OFFSET:
        raise ValueError("a camera's principal point is beyond reason")
    if int(sizes.min()) < 1 or int(sizes.max()) > MAX_PIXELS or int(sizes.prod(1).max()) > MAX_PIXELS:
        raise ValueError("a view's picture has no possible size")


def _check_split(train: list[int], test: list[int], count: int) -> None:
    """Raise ValueError unless the indices are those of different views among `count`, some of them to train on."""
    indices = train + test
    if not train or len(set(indices)) != len(indices) or not all(0 <= index < count for index in indices):
        raise ValueError("the indices of train and test views overlap, or are out of range")


def _middle_points(scene: SceneData) -> np.ndarray:
    """Of the points before the training cameras the middle one by depth, or the middle two; [0..2, 3] float32."""
    cameras = [scene.views[i].camera for i in scene.train or range(len(scene.views))]
    viewmats = np.stack([camera.viewmat.detach().cpu().double().numpy() for camera in cameras])
    forward, centre = viewmats[:, 2, :3].mean(0), camera_centers(viewmats).mean(0)
    depths = (scene.points.xyz - centre) @ forward
    order = np.argsort(depths)
    order = order[depths[order] > 0]
    return scene.points.xyz[order[(len(order) - 1) // 2 : len(order) // 2 + 1]]


def _cloud(xyz: np.ndarray) -> PointCloud:
    """Points without colors of their own."""
    return PointCloud(xyz, np.zeros(xyz.shape, dtype=np.uint8))
