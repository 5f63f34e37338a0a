"""A capture without its photos: what a checkpoint keeps of it, and what it does not believe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nfc_gs.core.camera import Camera, look_at_viewmat
from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import PointCloud, SceneData, TimeAxis, View
from nfc_gs.data.stored import from_parts, to_parts, without_photos
from nfc_gs.export.paths import orbit

Parts = tuple[dict[str, Any], dict[str, Tensor]]


def scene(points: int = 41, *, moves: bool = True, converging: bool = False) -> SceneData:
    """Nine cameras before a cloud; they look the same way, or at one point."""
    rng = np.random.default_rng(0)
    views = []
    for i, (x, y) in enumerate((x, y) for x in (-0.4, 0.0, 0.4) for y in (-0.2, 0.0, 0.2)):
        eye = torch.tensor([x, y, -5.0])
        target = torch.zeros(3) if converging else eye + torch.tensor([0.0, 0.0, 1.0])
        viewmat = look_at_viewmat(eye, target, torch.tensor([0.0, -1.0, 0.0]))
        camera = Camera(viewmat, 60.1 + i, 60.2, 33.3, 23.9, 64, 48 + i)
        views.append(View(f"cam{i}/0.png", camera, "a file", i / 8 if moves else None))
    xyz = rng.normal(0.0, 2.0, (points, 3)).astype(np.float32)
    return SceneData(
        root=Path("/captures/garden"),
        views=tuple(views),
        train=(1, 2, 3, 5, 6, 7, 8),
        test=(0, 4),
        points=PointCloud(xyz, np.zeros(xyz.shape, np.uint8)),
        transform=np.diag([2.0, 2.0, 2.0, 1.0]),
        extent=0.7,
        background=(1.0, 1.0, 1.0),
        time_axis=TimeAxis(3.0, 9.0, "seconds") if moves else None,
        images=object(),
    )


def intrinsics(camera: Camera) -> tuple[float, ...]:
    return camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height


def again(kept: SceneData) -> SceneData:
    return from_parts(*to_parts(kept), kept.transform, kept.time_axis)


@pytest.mark.parametrize("moves", [True, False])
def test_all_but_the_photos_comes_back_exactly(moves: bool) -> None:
    original = scene(moves=moves)
    kept = again(without_photos(original))
    assert kept.root == original.root.resolve()
    for name in ("train", "test", "extent", "time_axis", "transform"):
        assert getattr(kept, name) is not None or not moves
        assert np.array_equal(getattr(kept, name), getattr(original, name)), name
    for old, new in zip(original.views, kept.views, strict=True):
        assert torch.equal(old.camera.viewmat, new.camera.viewmat)
        assert intrinsics(old.camera) == intrinsics(new.camera)
        assert (new.name, new.time, new.source) == (old.name, old.time, None)
    assert original.has_photos and not kept.has_photos
    with pytest.raises(UserError, match=r"no photos of .*garden: .*--capture\.$"):
        kept.image(0)


@pytest.mark.parametrize("converging", [True, False])
@pytest.mark.parametrize("points", [0, 1, 40, 41])
def test_the_way_around_is_the_same_though_few_points_are_kept(points: int, converging: bool) -> None:
    original = scene(points, converging=converging)
    kept = again(without_photos(original))
    assert len(kept.points) <= 2
    for old, new in zip(orbit(original, 12), orbit(kept, 12), strict=True):
        torch.testing.assert_close(new.viewmat, old.viewmat, rtol=0, atol=1e-6)
        assert intrinsics(old) == intrinsics(new)


def put(name: str, value: object, index: object = ...) -> Callable[[Parts], None]:
    """Write a value into a tensor, or all over it."""

    def change(parts: Parts) -> None:
        parts[1][name] = parts[1][name].clone()
        parts[1][name][index] = value  # type: ignore[index]

    return change


def tensor(name: str, value: Tensor | None) -> Callable[[Parts], None]:
    """Another tensor, or none."""
    return lambda parts: parts[1].pop(name) if value is None else parts[1].update({name: value})  # type: ignore


def fact(name: str, value: object) -> Callable[[Parts], None]:
    return lambda parts: parts[0].update({name: value})


NAMES = [f"{i}.png" for i in range(9)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (tensor("viewmats", None), "viewmats"),
        (tensor("viewmats", torch.zeros(9, 3, 4)), "viewmats has shape"),
        (tensor("viewmats", torch.eye(4).expand(8, 4, 4)), "N is 9 here but 8"),
        (put("viewmats", torch.nan), "not finite"),
        (put("viewmats", torch.inf, (3, 0, 3)), "not finite"),
        (put("viewmats", 0.0), "not rigid"),
        (put("viewmats", torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0])), 2), "not rigid"),
        (put("viewmats", 2.0, (0, 3, 3)), "not rigid"),
        (put("intrinsics", torch.nan), "not finite"),
        (put("intrinsics", 0.0, (0, 0)), "focal length"),
        (put("intrinsics", 1e300, (8, 1)), "focal length"),
        (put("intrinsics", -1e20, (8, 3)), "principal point"),
        (put("sizes", 0, (4, 1)), "no possible size"),
        (put("sizes", 2**62), "no possible size"),
        (put("sizes", 20_000), "no possible size"),
        (put("times", 1.5, 3), "not between 0 and 1"),
        (put("times", torch.nan, 3), "not between 0 and 1"),
        (tensor("times", None), "not both"),
        (put("train", 9, 0), "overlap"),
        (put("train", -1, 0), "overlap"),
        (put("test", 1, 0), "overlap"),
        (tensor("train", torch.zeros(0, dtype=torch.int64)), "overlap"),
        (tensor("test", torch.zeros(1, 1)), "test has shape"),
        (tensor("points", torch.zeros(4)), "points has shape"),
        (put("points", torch.inf), "point of the scene is not finite"),
        (fact("names", NAMES[:8]), "9 different names"),
        (fact("names", [*NAMES[:8], "0.png"]), "9 different names"),
        (fact("names", "123456789"), "9 different names"),
        (fact("names", [*NAMES[:8], 8]), "the name of a file is a int"),
        (fact("names", [*NAMES[:8], "a\0b"]), "zero byte"),
        (fact("names", [*NAMES[:8], "\ud800"]), "surrogates not allowed"),
        (fact("names", [*NAMES[:8], ""]), "has no name"),
        (fact("root", ["/"]), "the name of a file is a list"),
        (fact("root", "\0"), "zero byte"),
        (fact("extent", -1.0), "extent of the scene is -1"),
        (fact("extent", float("nan")), "extent of the scene is nan"),
        (fact("extent", "wide"), "could not convert"),
    ],
)
def test_what_no_capture_has_is_refused(change: Callable[[Parts], None], says: str) -> None:
    kept = without_photos(scene())
    parts = to_parts(kept)
    change(parts)
    with pytest.raises((ValueError, TypeError, KeyError), match=says):
        from_parts(*parts, kept.transform, kept.time_axis)


def test_no_views_are_no_scene() -> None:
    values, tensors = to_parts(without_photos(scene(moves=False)))
    empty = {name: tensor[:0] for name, tensor in tensors.items()}
    with pytest.raises(ValueError, match="no views"):
        from_parts(values | {"names": []}, empty, np.eye(4), None)
