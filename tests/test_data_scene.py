"""A scene for a loop of one's own: photos and masks as tensors; and what it says of itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_scenes import ImagesInMemory, tiny_scene

from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import PointCloud, TimeAxis, ViewImage


def test_a_photo_is_a_tensor_of_its_own_in_the_size_of_its_camera() -> None:
    scene = tiny_scene()
    photo = scene.photo(1)
    assert photo.dtype == torch.float32 and photo.shape == (24, 32, 3)
    np.testing.assert_array_equal((photo * 255).round().byte().numpy(), scene.image(1).rgb)
    photo.zero_()
    assert scene.photo(1).max() > 0.1, "the picture in the cache is untouched"
    small, camera = scene.photo(1, divisor=2), scene.camera(1, divisor=2)
    assert small.shape == (camera.height, camera.width, 3) == (12, 16, 3)


def test_a_mask_says_which_pixels_count() -> None:
    scene = tiny_scene()
    assert scene.mask(1).shape == (24, 32, 1) and scene.mask(1).dtype == torch.bool and scene.mask(1).all()
    rgb, mask = scene.image(1).rgb, np.full((24, 32), 255, np.uint8)
    mask[:, :16], mask[0, 0] = 0, 127
    masked = replace(scene, images=ImagesInMemory({scene.views[1].name: ViewImage(rgb, mask)}))
    assert not masked.mask(1)[:, :16].any() and masked.mask(1)[:, 16:].all()
    assert masked.mask(1, divisor=2).shape == (12, 16, 1)


def test_without_photos_a_sentence_says_how_to_get_them() -> None:
    with pytest.raises(UserError, match=r"no photos of tiny: .* comes from a checkpoint; read .* nfc_gs\.load_scene"):
        replace(tiny_scene(), images=None).photo(0)


def test_a_scene_and_its_parts_say_what_they_are_in_one_line() -> None:
    scene = tiny_scene()
    assert repr(scene) == "SceneData('tiny': 8 views, 6 to train on and 2 held out, 30 points)"
    assert repr(scene.points) == "PointCloud(30 points)"
    assert repr(scene.views[2]) == "View('view_02.png', 32 x 24 pixels)"
    moving = replace(
        scene.with_split(range(8), ()),
        views=tuple(replace(view, time=k / 7) for k, view in enumerate(scene.views)),
        time_axis=TimeAxis(0.0, 2.5, "seconds"),
        images=None,
    )
    assert repr(moving) == (
        "SceneData('tiny': 8 views, 8 to train on and none held out, times 0 to 2.5 seconds, without photos)"
    )
    assert repr(moving.views[1]) == "View('view_01.png', 32 x 24 pixels, at time 0.1429)"
    assert repr(PointCloud(np.zeros((1234, 3)), np.zeros((1234, 3)))) == "PointCloud(1,234 points)"
