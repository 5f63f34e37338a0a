"""Points inside the silhouettes of a capture."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from capture_files import write_transforms
from PIL import Image
from tiny_scenes import ImagesInMemory

from nfc_gs.core.camera import Camera, look_at_viewmat
from nfc_gs.data.carving import carved_points
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import PointCloud, SceneData, TimeAxis, View, ViewImage
from nfc_gs.training.config import TrainConfig
from nfc_gs.training.gaussians import new_gaussians, starting_points
from nfc_gs.training.resolve import resolve

SIZE = 64
RED = (200, 20, 30)
ORIGIN = np.zeros(3)


class Silhouettes(ImagesInMemory):
    """Images of which parts are foreground."""

    def __init__(self, images: dict[str, ViewImage], foreground: dict[str, np.ndarray]) -> None:
        super().__init__(images)
        self._foreground = foreground

    def foreground(self, view: View) -> np.ndarray | None:
        return self._foreground.get(view.name)


def eyes(count: int) -> list[np.ndarray]:
    """Places on a sphere of radius 3 that are about evenly far from each other."""
    heights = (2.0 * np.arange(count) + 1.0) / count - 1.0
    angles = np.pi * (3.0 - math.sqrt(5.0)) * np.arange(count)
    around = np.sqrt(1.0 - heights**2)
    return list(3.0 * np.stack([around * np.cos(angles), around * np.sin(angles), heights], axis=1))


def balls(centers: list[np.ndarray], radius: float = 0.3, *, foreground: bool = True) -> SceneData:
    """A red ball on white; the k-th of the views, in an order that says nothing about their places, shows it at the
    k-th center."""
    count = len(centers)
    places = np.random.default_rng(5).permutation(count)
    views, images, inside = [], {}, {}
    for k, eye in enumerate(eyes(count)):
        viewmat = look_at_viewmat(torch.from_numpy(eye).float(), torch.zeros(3), torch.tensor([0.1, 0.9, 0.2]))
        camera = Camera(viewmat, 80.0, 80.0, SIZE / 2, SIZE / 2, SIZE, SIZE)
        v, u = np.mgrid[:SIZE, :SIZE] + 0.5
        rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], axis=-1)
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        center = viewmat[:3, :3].double().numpy() @ centers[places[k]] + viewmat[:3, 3].double().numpy()
        along = rays @ center
        hit = center @ center - along**2 <= radius**2
        name = f"{k:03d}.png"
        rgb = np.full((SIZE, SIZE, 3), 255, np.uint8)
        rgb[hit] = RED
        images[name], inside[name] = ViewImage(rgb, None), hit
        views.append(View(name, camera, None, time=k / (count - 1)))
    box = np.random.default_rng(0).uniform(-1.0, 1.0, (500, 3)).astype(np.float32)
    return SceneData(
        root=Path("ball"),
        views=tuple(views),
        train=tuple(range(count)),
        test=(),
        points=PointCloud(box, np.full((500, 3), 128, np.uint8)),
        points_are_random=True,
        transform=np.eye(4),
        extent=3.0,
        background=(1.0, 1.0, 1.0),
        time_axis=TimeAxis(0.0, 1.0),
        images=Silhouettes(images, inside if foreground else {}),
    )


def carved(scene: SceneData, count: int = 500, seed: int = 0) -> PointCloud:
    points = carved_points(scene, count, seed)
    assert points is not None
    return points


def test_points_lie_evenly_in_what_stands_still_and_have_its_color() -> None:
    points = carved(balls([np.array([0.2, -0.1, 0.3])] * 40), 2000)
    assert len(points) == 2000 and (points.rgb == RED).all()
    distances = np.linalg.norm(points.xyz - [0.2, -0.1, 0.3], axis=1)
    hull = 0.3 / math.sqrt(0.75)  # from half of all directions a point there is before or behind the ball
    assert (distances < hull + 0.05).all() and (distances > hull - 0.05).any()
    assert np.abs(points.xyz.mean(axis=0) - [0.2, -0.1, 0.3]).max() < 0.03
    assert (distances < 0.8 * hull).mean() == pytest.approx(0.8**3, abs=0.08)


def test_what_moves_is_found_about_the_places_where_it_mostly_is() -> None:
    swings = [np.array([0.2 * math.sin(0.7 * k), 0.0, 0.0]) for k in range(60)]
    points = carved(balls(swings)).xyz
    assert (np.abs(points[:, 1:]) < 0.4).all() and (np.abs(points[:, 0]) < 0.6).all()
    assert (np.linalg.norm(points, axis=1) < 0.15).any()
    seldom = [ORIGIN] * 48 + [np.array([0.0, 0.8, 0.0])] * 12
    points = carved(balls(seldom)).xyz
    assert (np.linalg.norm(points, axis=1) < 0.45).all(), "a fifth of the views is too few"


def test_the_seed_decides_which_points() -> None:
    scene = balls([ORIGIN] * 20)
    first, again, other = carved(scene), carved(scene), carved(scene, seed=1)
    assert np.array_equal(first.xyz, again.xyz) and np.array_equal(first.rgb, again.rgb)
    assert not np.array_equal(first.xyz, other.xyz)


def test_nothing_is_carved_without_a_foreground_or_where_silhouettes_disagree() -> None:
    assert carved_points(balls([ORIGIN] * 20, foreground=False), 500, 0) is None
    everywhere = list(np.random.default_rng(1).uniform(-0.8, 0.8, (40, 3)))
    assert carved_points(balls(everywhere, radius=0.02), 500, 0) is None


def test_a_moving_scene_without_points_starts_inside_its_silhouettes() -> None:
    scene = balls([ORIGIN] * 20)
    config = resolve(TrainConfig(device="cpu", backend="torch", max_gaussians=300), moves=True)
    model = new_gaussians(scene, config)
    assert len(model) == 300 and model.deformation is not None and model.means.norm(dim=1).max() < 0.4
    assert torch.allclose(model.deformation.bounds[1], torch.full((3,), 1.2), atol=0.1), "the whole box to look in"


def test_points_of_the_capture_and_still_scenes_are_left_as_they_are() -> None:
    scene = balls([ORIGIN] * 20)
    for other in (replace(scene, points_are_random=False), replace(scene, time_axis=None)):
        assert starting_points(other, 0) is other.points
    unknown = balls([ORIGIN] * 20, foreground=False)
    assert starting_points(unknown, 0) is unknown.points


def test_a_capture_says_whether_its_points_are_random(tmp_path: Path) -> None:
    file = write_transforms(tmp_path, 8, mode="RGBA")
    for path in sorted((tmp_path / "images").iterdir()):
        pixels = np.array(Image.open(path))
        pixels[:, :, 3] = 0
        pixels[8:16, 12:20, 3] = 255
        Image.fromarray(pixels).save(path)
    scene = load_scene(file, DataConfig(random_points=200, background=(1.0, 1.0, 1.0)))
    assert scene.points_are_random
    foreground = scene.foreground(0)
    assert foreground is not None and foreground.sum() == 64
