"""What a capture says of its moving parts: where the masks are found, and how they become pixels of the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from capture_files import HEIGHT, WIDTH, write_capture, write_transforms
from lenses import HEIGHT as LENS_HEIGHT
from lenses import WIDTH as LENS_WIDTH
from lenses import lens_of, pixel_grid
from photos import noise, save, source_of
from PIL import Image
from videos import PLAIN, write_bounds, write_frames, write_videos

from nfc_gs.core.errors import UserError
from nfc_gs.data.config import DataConfig
from nfc_gs.data.image_files import read_header
from nfc_gs.data.image_source import MaskFile
from nfc_gs.data.images import decode, decode_moving
from nfc_gs.data.lens import pinholes
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData


def write_mask(root: Path, name: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """A mask whose left quarter moves."""
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[:, : size[0] // 4] = 255
    path = root / "moving" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(path, pixels)


def marked(scene: SceneData) -> dict[str, int]:
    """How many pixels move in each view that has a mask."""
    found = {view.name: scene.moving(index) for index, view in enumerate(scene.views)}
    return {name: int(mask.sum()) for name, mask in found.items() if mask is not None}


# --- from a file to pixels ---------------------------------------------------------------------------------------


def test_a_pixel_moves_where_half_or_more_of_what_it_covers_does(tmp_path: Path) -> None:
    values = [[255, 0, 0, 0, 255, 255], [255, 0, 255, 0, 0, 255]]
    path = save(tmp_path / "a.png", noise(2, 6))
    mask = save(tmp_path / "m.png", np.array(values, np.uint8))
    moving = decode_moving(source_of(path, moving=MaskFile(mask), width=3, height=1))
    assert moving is not None and moving.tolist() == [[True, False, True]]
    whole = decode_moving(source_of(path, moving=MaskFile(mask)))
    assert whole is not None and np.array_equal(whole, np.array(values) == 255)
    assert decode_moving(source_of(path)) is None


def test_it_hides_nothing_of_the_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", noise(2, 2))
    frame = decode(source_of(path, moving=MaskFile(save(tmp_path / "m.png", np.zeros((2, 2), np.uint8)))))
    assert frame.mask is None and np.array_equal(frame.rgb, noise(2, 2))


@pytest.mark.parametrize("model", ["OPENCV", "OPENCV_FISHEYE"])
def test_it_is_undistorted_as_its_picture_is(tmp_path: Path, model: str) -> None:
    """What moves in the photo lies on the far left or high up, in directions; the pinhole must say the same."""
    lens = lens_of(model)
    camera = pycolmap.Camera(model=model, width=LENS_WIDTH, height=LENS_HEIGHT, params=list(lens.params))
    rays = np.asarray(camera.cam_ray_from_img(pixel_grid(LENS_WIDTH, LENS_HEIGHT)))

    def beyond(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x < -0.45) | (y < -0.3)

    values = beyond(rays[:, 0] / rays[:, 2], rays[:, 1] / rays[:, 2]).reshape(LENS_HEIGHT, LENS_WIDTH)
    mask = save(tmp_path / "m.png", values.astype(np.uint8) * 255)
    path = save(tmp_path / "a.png", noise(LENS_HEIGHT, LENS_WIDTH))
    (target,) = pinholes(lens)
    moving = decode_moving(source_of(path, moving=MaskFile(mask), lens=lens, pinhole=target))
    assert moving is not None and moving.shape == (target.height, target.width)
    x, y = ((pixel_grid(target.width, target.height) - [target.cx, target.cy]) / [target.fx, target.fy]).T
    counts = decode(source_of(path, lens=lens, pinhole=target)).mask
    inside = np.full(moving.shape, True) if counts is None else counts == 255
    step = 1.0 / target.fx  # a pixel about the edge may fall on either side
    clear = beyond(x - step, y - step) == beyond(x + step, y + step)
    clear = clear.reshape(moving.shape) & inside
    assert clear.mean() > 0.6
    assert np.array_equal(moving[clear], beyond(x, y).reshape(moving.shape)[clear])
    assert (moving != values)[clear].sum() > 50, "the lens bends the edges by more than a pixel"


# --- in captures -------------------------------------------------------------------------------------------------


def test_every_reader_finds_them_by_the_names_of_the_images(tmp_path: Path) -> None:
    write_mask(write_capture(tmp_path / "colmap"), "im02.png")
    write_mask(write_transforms(tmp_path / "nerfstudio").parent, "im02.png.png")
    write_mask(write_transforms(tmp_path / "blender", name="transforms_train.json").parent, "images/im02.png")
    write_mask(write_bounds(write_frames(tmp_path / "frames")), "cam01/0002.png")
    write_mask(write_bounds(write_videos(tmp_path / "videos")), "cam01/000002.png")
    pixels = WIDTH * HEIGHT // 4
    assert marked(load_scene(tmp_path / "colmap")) == {"im02.png": pixels}
    assert marked(load_scene(tmp_path / "nerfstudio")) == {"im02.png": pixels}
    assert marked(load_scene(tmp_path / "blender")) == {"images/im02.png": pixels}
    assert marked(load_scene(tmp_path / "frames", PLAIN)) == {"cam01/0002.png": pixels}
    assert marked(load_scene(tmp_path / "videos", PLAIN)) == {"cam01/000002": pixels}


def test_they_are_made_smaller_with_their_pictures_and_need_no_masks(tmp_path: Path) -> None:
    write_mask(write_capture(tmp_path), "im02.png")
    scene = load_scene(tmp_path, DataConfig(downscale="2", masks=False))
    assert marked(scene) == {"im02.png": WIDTH * HEIGHT // 16}
    assert scene.image(2).mask is None


def test_a_capture_whose_images_lie_in_a_folder_of_that_name_has_none(tmp_path: Path) -> None:
    file = write_transforms(tmp_path)
    (tmp_path / "images").rename(tmp_path / "moving")
    file.write_text(file.read_text().replace("images/", "moving/"))
    assert marked(load_scene(tmp_path)) == {}


def test_a_folder_without_any_name_of_an_image_is_pointed_out(tmp_path: Path) -> None:
    write_mask(write_capture(tmp_path), "2.png")
    assert any("no file in it" in text and "moving" in text for text in load_scene(tmp_path).messages)


def test_a_wrong_or_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    path = write_mask(write_capture(tmp_path), "im00.png", (24, 24))
    with pytest.raises(UserError, match=r"moving/im00\.png is 24 x 24 pixels, but its image is 32 x 24"):
        load_scene(tmp_path)
    Image.fromarray(noise(HEIGHT, WIDTH)[..., 0]).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    assert read_header(path).width == WIDTH
    with pytest.raises(UserError, match=r"moving/im00\.png is damaged or cut short"):
        load_scene(tmp_path)
