"""Points of a capture that are in another frame than its cameras, or have no color of their own."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from capture_files import HEIGHT, WIDTH, write_capture, write_transforms
from PIL import Image
from tiny_scenes import ImagesInMemory, tiny_scene

from nfc_gs.data.cloud import with_colors_of_photos, without_color
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import PointCloud, ViewImage

FEW = DataConfig(random_points=150)


def change_points(root: Path, xyz=lambda xyz: xyz, rgb=lambda rgb: rgb) -> Path:
    """Rewrite the points of a COLMAP project by functions of [P, 3]."""
    model = pycolmap.Reconstruction(str(root / "sparse" / "0"))
    points = list(model.points3D.values())
    places = xyz(np.array([point.xyz for point in points]))
    colors = rgb(np.array([point.color for point in points]))
    for point, place, color in zip(points, places, colors, strict=True):
        point.xyz, point.color = place, color.astype(np.uint8)
    model.write(str(root / "sparse" / "0"))
    return root


def paint_images(root: Path, top: tuple[int, ...], bottom: tuple[int, ...]) -> None:
    """Give all images of a capture one color in their upper and one in their lower half."""
    pixels = np.empty((HEIGHT, WIDTH, len(top)), np.uint8)
    pixels[: HEIGHT // 2], pixels[HEIGHT // 2 :] = top, bottom
    for path in sorted((root / "images").iterdir()):
        Image.fromarray(pixels).save(path)


# --- another frame -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "shift"),
    [
        (1.0, (5e5, 4e6, 300.0)),  # UTM
        (1.0, (0.0, 0.0, 9.0)),  # above all photos
        (1.0, (12.0, 0.0, 0.0)),  # beyond the cameras: half of them look the other way
        (0.01, (4.0, 0.5, 1.0)),  # all within one camera's place
    ],
)
def test_points_in_another_frame_are_replaced_by_random_ones(
    tmp_path: Path, scale: float, shift: tuple[float, float, float]
) -> None:
    root = change_points(write_capture(tmp_path / "moved", points=60), lambda xyz: scale * xyz + np.array(shift))
    scene, plain = load_scene(root, FEW), load_scene(write_capture(tmp_path / "empty", points=0), FEW)
    assert np.array_equal(scene.points.xyz, plain.points.xyz) and np.array_equal(scene.transform, plain.transform)
    assert len(scene.messages) == 1 and "points must be in another frame than the cameras" in scene.messages[0]
    assert "of 9 photos see none" in scene.messages[0] and "150 random ones" in scene.messages[0]


def test_a_cloud_of_which_photos_see_a_part_is_used(tmp_path: Path) -> None:
    def half_far_below(xyz: np.ndarray) -> np.ndarray:
        return xyz - [0.0, 0.0, 50.0] * (np.arange(len(xyz)) % 2 == 0)[:, None]

    scene = load_scene(change_points(write_capture(tmp_path, points=60), half_far_below), FEW)
    assert len(scene.points) == 60 and scene.messages == ()


def test_a_photo_that_sees_no_point_does_not_condemn_the_cloud(tmp_path: Path) -> None:
    scene = load_scene(write_capture(tmp_path / "all", points=60), FEW)
    viewmats = [view.camera.viewmat.double().numpy() for view in load_scene(
        tmp_path / "all", replace(FEW, normalize=False)).views]  # fmt: skip
    viewmats[4] = np.diag([-1.0, 1.0, -1.0, 1.0]) @ viewmats[4]  # it looks the other way
    turned = load_scene(write_capture(tmp_path / "one", points=60, viewmats=viewmats), FEW)
    assert len(turned.points) == len(scene.points) == 60 and turned.messages == ()


def test_many_points_are_used_however_small_their_share_in_view_is(tmp_path: Path) -> None:
    file = write_transforms(tmp_path, ply_file_path="scan.ply")
    rng = np.random.default_rng(0)
    xyz = np.concatenate([rng.normal(size=(300, 3)), rng.normal((0.0, 0.0, 60.0), size=(9_700, 3))])
    write_ply(tmp_path / "scan.ply", rng.permutation(xyz), rng.integers(1, 255, (10_000, 3)))
    assert len(load_scene(file, FEW).points) == 10_000, "300 in view are more than 150 at random"
    assert len(load_scene(file, replace(FEW, random_points=500)).points) == 500


@pytest.mark.parametrize("scale", [100.0, 1000.0])
def test_points_in_millimetres_are_replaced_by_random_ones(tmp_path: Path, scale: float) -> None:
    root = change_points(write_capture(tmp_path, points=60), lambda xyz: scale * xyz)
    scene = load_scene(root, FEW)
    assert len(scene.points) == 150 and np.abs(scene.points.xyz).max() < 20.0
    assert len(scene.messages) == 1 and "must be in another unit than the cameras" in scene.messages[0]


def test_a_distant_background_behind_a_few_near_points_is_used(tmp_path: Path) -> None:
    def behind(xyz: np.ndarray) -> np.ndarray:
        return xyz * np.where(np.arange(len(xyz)) % 10, 1000.0, 1.0)[:, None]

    scene = load_scene(change_points(write_capture(tmp_path, points=60), behind), FEW)
    assert len(scene.points) == 60 and scene.messages == ()


def sky_and_ground(xyz: np.ndarray) -> np.ndarray:
    """Colors [P, 3] of points before photos that are bright above and dark below."""
    return np.where(xyz[:, 2:] > 0, 250, 10) * np.ones(3)


@pytest.mark.parametrize(
    ("axes", "sentences"), [((0, 1, 2), 0), ((2, 0, 1), 1)], ids=["in its frame", "axes in another order"]
)
def test_a_cloud_in_view_whose_colors_are_not_those_of_the_photos_is_said(
    tmp_path: Path, axes: tuple[int, int, int], sentences: int
) -> None:
    file = write_transforms(tmp_path, ply_file_path="points.ply")
    paint_images(tmp_path, (250, 250, 250), (10, 10, 10))
    xyz = np.random.default_rng(0).uniform(-0.9, 0.9, size=(200, 3))
    write_ply(tmp_path / "points.ply", xyz[:, axes], sky_and_ground(xyz))
    scene = load_scene(file)
    assert sum("other colors than the photos" in text for text in scene.messages) == len(scene.messages) == sentences
    assert len(scene.points) == 200, "whatever it is, it is used"


def test_points_of_random_colors_are_no_sign_of_another_frame(tmp_path: Path) -> None:
    file = write_transforms(tmp_path, ply_file_path="points.ply")
    rng = np.random.default_rng(0)
    write_ply(tmp_path / "points.ply", rng.uniform(-0.9, 0.9, size=(200, 3)), rng.integers(0, 256, (200, 3)))
    assert load_scene(file).messages == ()


def write_ply(path: Path, xyz: np.ndarray, rgb: np.ndarray | None) -> None:
    names = ["float x", "float y", "float z"] + ([] if rgb is None else ["uchar red", "uchar green", "uchar blue"])
    header = ["ply", "format ascii 1.0", f"element vertex {len(xyz)}", *(f"property {name}" for name in names)]
    table = xyz if rgb is None else np.concatenate([xyz, rgb], axis=1)
    rows = [" ".join(f"{value:.9g}" for value in row) for row in table]
    path.write_text("\n".join([*header, "end_header", *rows]) + "\n")


# --- colors ------------------------------------------------------------------------------------------------------


def within(xyz: np.ndarray) -> np.ndarray:
    """Points in view of all photos, half of them well above and half well below the middle of the pictures."""
    low = 0.2 * xyz / np.linalg.norm(xyz, axis=1, keepdims=True)
    return low + [0.0, 0.0, 0.9] * np.where(np.arange(len(xyz)) % 2, 1, -1)[:, None]


@pytest.mark.parametrize("black", [1.0, 0.9])
def test_black_points_take_the_colors_of_the_photos(tmp_path: Path, caplog, black: float) -> None:
    def blackened(rgb: np.ndarray) -> np.ndarray:
        return np.where((np.arange(len(rgb)) < black * len(rgb))[:, None], 0 * rgb, 255)

    root = change_points(write_capture(tmp_path, points=60), within, blackened)
    paint_images(root, (200, 100, 20), (20, 100, 200))
    with caplog.at_level(logging.WARNING, "nfc_gs"):
        scene = load_scene(root)
    lacking = int(black * 60)
    assert scene.messages == (f"{lacking} of 60 points have no color of their own: they take that of the photos.",)
    assert caplog.text.count("no color of their own") == 1
    above = (scene.points.xyz @ scene.transform[:3, 2])[:, None] > (scene.transform[:3, 3] @ scene.transform[:3, 2])
    own = (scene.points.rgb == 255).all(axis=1)
    assert own.sum() == 60 - lacking
    expected = np.where(above, (200, 100, 20), (20, 100, 200))
    assert np.array_equal(scene.points.rgb[~own], expected[~own])
    assert np.array_equal(scene.points.rgb, load_scene(root).points.rgb)


def test_points_of_a_file_without_colors_are_grey(tmp_path: Path) -> None:
    file = write_transforms(tmp_path, ply_file_path="points.ply")
    write_ply(tmp_path / "points.ply", 0.3 * np.random.default_rng(0).normal(size=(80, 3)), None)
    scene = load_scene(file)
    assert (scene.points.rgb == 128).all() and scene.messages == ()


def test_what_is_masked_out_gives_points_no_color(tmp_path: Path) -> None:
    root = change_points(write_capture(tmp_path, points=60), rgb=np.zeros_like)
    paint_images(root, (250, 250, 250), (30, 90, 60))
    (root / "masks").mkdir()
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[HEIGHT // 2 :] = 255
    for path in sorted((root / "images").iterdir()):
        Image.fromarray(mask).save(root / "masks" / path.name)
    rgb = load_scene(root).points.rgb
    seen = (rgb == [30, 90, 60]).all(axis=1)
    assert seen.sum() > 15 and (rgb[~seen] == 128).all(), "grey, where only masked parts show a point"


def test_a_color_that_is_laid_under_the_photos_is_none_of_the_points(tmp_path: Path) -> None:
    file = write_transforms(tmp_path, mode="RGBA", ply_file_path="points.ply")
    xyz = np.random.default_rng(0).uniform(-0.9, 0.9, size=(200, 3))
    write_ply(tmp_path / "points.ply", xyz, np.zeros((200, 3)))
    paint_images(tmp_path, (90, 90, 90, 0), (30, 90, 60, 255))
    rgb = load_scene(file, DataConfig(background=(1.0, 1.0, 1.0))).points.rgb
    seen = (rgb == [30, 90, 60]).all(axis=1)
    assert seen.sum() > 15 and (rgb[~seen] == 128).all()


def test_points_that_no_photo_sees_become_grey_and_others_keep_their_color() -> None:
    scene = tiny_scene()
    black = {view.name: ViewImage(np.full((24, 32, 3), 77, np.uint8), None) for view in scene.views}
    points = PointCloud(np.array([[0, 0, 0], [0, 90, 0], [0, 0.1, 0]], np.float32), np.zeros((3, 3), np.uint8))
    scene = replace(scene, points=points, images=ImagesInMemory(black))
    colored = with_colors_of_photos(scene, np.array([True, True, False]))
    assert colored.rgb.tolist() == [[77] * 3, [128] * 3, [0] * 3] and np.array_equal(colored.xyz, points.xyz)


def test_no_more_photos_than_needed_are_decoded_for_colors() -> None:
    class Counted(ImagesInMemory):
        def __init__(self, images: dict[str, ViewImage]) -> None:
            super().__init__(images)
            self.asked: set[str] = set()

        def image(self, view, divisor=1):
            self.asked.add(view.name)
            return super().image(view, divisor)

    scene = tiny_scene(views=40)
    assert isinstance(scene.images, ImagesInMemory)
    images = Counted(scene.images.images)
    scene = replace(scene, images=images, points=PointCloud(0.1 * scene.points.xyz, scene.points.rgb))
    with_colors_of_photos(scene, np.ones(len(scene.points), dtype=bool))
    assert len(images.asked) == 3, "all points are in view of each"


def test_points_with_colors_keep_them(tmp_path: Path) -> None:
    scene = load_scene(write_capture(tmp_path / "sound", points=60))
    assert scene.messages == () and len(np.unique(scene.points.rgb, axis=0)) == 60
    some_black = scene.points.rgb.copy()
    some_black[:20] = 0
    assert not without_color(some_black).any() and not without_color(some_black[:0]).any()
    assert not without_color(np.tile(np.array([[255, 0, 0]], np.uint8), (9, 1))).any(), "all red is a color"
