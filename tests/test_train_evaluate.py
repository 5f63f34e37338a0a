"""Held-out views measured: whole images, what masks leave out, moving parts, and the files that come of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_scenes import ImagesInMemory

from nfc_gs.core.camera import Camera
from nfc_gs.data.scene import PointCloud, SceneData, TimeAxis, View, ViewImage
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RenderOptions
from nfc_gs.objective import metrics as measure
from nfc_gs.runs.metrics import (
    Metrics,
    TrainingRecord,
    ViewMetrics,
    finite,
    peak_memory_mb,
    read_metrics,
    write_metrics,
)
from nfc_gs.runs.names import image_stems
from nfc_gs.training.evaluation import baked_at, evaluate

GREY = RenderOptions((0.4, 0.4, 0.4), "torch")
BLACK = RenderOptions(backend="torch")


class ImagesWithParts(ImagesInMemory):
    """Images at full size, and which of their pixels move or are foreground."""

    def __init__(
        self, images: dict[str, ViewImage], moving: dict[str, np.ndarray], foreground: dict[str, np.ndarray]
    ) -> None:
        super().__init__(images)
        self._moving, self._foreground = moving, foreground

    def moving(self, view: View) -> np.ndarray | None:
        return self._moving.get(view.name)

    def foreground(self, view: View) -> np.ndarray | None:
        return self._foreground.get(view.name)


def empty_model() -> GaussianModel:
    """One Gaussian behind every camera: images show the background alone."""
    return GaussianModel(
        {
            "means": torch.tensor([[0.0, 0.0, -5.0]]),
            "log_scales": torch.zeros(1, 3),
            "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
            "opacity_logits": torch.zeros(1),
            "sh_coeffs": torch.zeros(1, 1, 3),
        }
    )


def scene_of(
    images: dict[str, ViewImage],
    moving: dict[str, np.ndarray] | None = None,
    foreground: dict[str, np.ndarray] | None = None,
) -> SceneData:
    camera = Camera(torch.eye(4), 20.0, 20.0, 16.0, 12.0, 32, 24)
    views = tuple(View(name, camera, None) for name in images)
    return SceneData(
        root=Path("tiny"),
        views=views,
        train=(),
        test=tuple(range(len(views))),
        points=PointCloud(np.zeros((1, 3), np.float32), np.zeros((1, 3), np.uint8)),
        transform=np.eye(4),
        extent=1.0,
        images=ImagesWithParts(images, moving or {}, foreground or {}),
    )


def grey(value: int) -> np.ndarray:
    return np.full((24, 32, 3), value, np.uint8)


def test_a_constant_error_gives_its_psnr_for_each_view_and_their_mean() -> None:
    scene = scene_of({"a.png": ViewImage(grey(51), None), "b.png": ViewImage(grey(255), None)})
    metrics = evaluate(empty_model(), scene, GREY)
    expected = [-20 * math.log10(0.2), -20 * math.log10(0.6)]
    assert [view.psnr for view in metrics.views] == pytest.approx(expected, rel=1e-5)
    assert [view.name for view in metrics.views] == ["a.png", "b.png"]
    assert metrics.psnr == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert metrics.lpips is None


def test_of_many_views_a_sample_is_measured_that_is_the_same_every_time_and_says_so(tmp_path: Path) -> None:
    scene = scene_of({f"{i:02}.png": ViewImage(grey(5 * i), None) for i in range(40)})
    everything = evaluate(empty_model(), scene, GREY)
    twelve, again = (evaluate(empty_model(), scene, GREY, most=12, save_to=tmp_path) for _ in range(2))
    five = evaluate(empty_model(), scene, GREY, most=5)
    assert twelve == again and len(twelve.views) == 12 and len(five.views) == 5
    assert set(five.views) < set(twelve.views) < set(everything.views)
    assert [view.name for view in twelve.views] == sorted(view.name for view in twelve.views)
    assert twelve.views != everything.views[:12] and twelve.views[0] != everything.views[3], "spread at random"
    assert (everything.count_in_words, twelve.count_in_words) == ("40", "12 of 40, chosen at random")
    assert sorted(path.name for path in tmp_path.glob("*_truth.png")) == [
        f"{view.name[:-4]}_truth.png" for view in twelve.views
    ]
    assert everything.among(5) == twelve.among(5) == five and twelve.among(100) == twelve


def test_a_sample_as_large_as_all_is_all_of_them() -> None:
    scene = scene_of({f"{i}.png": ViewImage(grey(50 * i), None) for i in range(4)})
    metrics = evaluate(empty_model(), scene, GREY, most=4)
    assert len(metrics.views) == 4 and not metrics.is_sample and metrics == evaluate(empty_model(), scene, GREY)


def test_metrics_json_says_how_many_views_were_measured(tmp_path: Path) -> None:
    scene = scene_of({f"{i}.png": ViewImage(grey(50 * i), None) for i in range(4)})
    record = TrainingRecord({"gaussians": 1}, 1, 1.0, "cpu", "torch", "fast", "nfr")
    write_metrics(tmp_path, evaluate(empty_model(), scene, GREY, most=3), record)
    test = read_metrics(tmp_path)["test"]
    assert (test["measured"], test["held_out"], len(test["views"])) == (3, 4, 3)


def test_what_a_mask_leaves_out_does_not_count() -> None:
    rgb, mask = grey(51), np.full((24, 32), 255, np.uint8)
    rgb[:12], mask[:12] = 200, 0
    metrics = evaluate(empty_model(), scene_of({"a.png": ViewImage(rgb, mask)}), GREY)
    assert metrics.psnr == pytest.approx(-20 * math.log10(0.2), rel=1e-5)


def test_a_view_that_its_mask_ignores_whole_does_not_spoil_the_mean() -> None:
    images = {"a.png": ViewImage(grey(51), None), "b.png": ViewImage(grey(9), np.zeros((24, 32), np.uint8))}
    metrics = evaluate(empty_model(), scene_of(images), GREY)
    assert metrics.psnr == pytest.approx(-20 * math.log10(0.2), rel=1e-5)


def rows(first: int, last: int) -> np.ndarray:
    """A mask of these rows."""
    mask = np.zeros((24, 32), bool)
    mask[first:last] = True
    return mask


def test_moving_parts_have_a_psnr_of_their_own_in_which_every_pixel_counts_once() -> None:
    rgb = {name: grey(102) for name in ("a.png", "b.png", "still.png", "unknown.png")}  # 0.4, as the background
    rgb["a.png"][:12] = 153  # wrong by 0.2 in 12 rows, of which 2 move
    rgb["b.png"][:8] = 204  # wrong by 0.4 in 8 rows, and all of them move, and 8 more
    images = {name: ViewImage(pixels, None) for name, pixels in rgb.items()}
    moving = {"a.png": rows(0, 2), "b.png": rows(0, 16), "still.png": rows(0, 0)}
    metrics = evaluate(empty_model(), scene_of(images, moving), GREY)
    first, second, still, unknown = metrics.views
    assert first.moving_psnr == pytest.approx(-20 * math.log10(0.2), rel=1e-5)
    assert second.moving_psnr == pytest.approx(-10 * math.log10(0.16 / 2), rel=1e-5)
    assert (first.moving_pixels, second.moving_pixels) == (2 * 32, 16 * 32)
    for view in (still, unknown):
        assert view.moving_psnr is None and view.moving_pixels is None
    assert metrics.moving_psnr == pytest.approx(-10 * math.log10((2 * 0.04 + 8 * 0.16) / 18), rel=1e-5)


def test_moving_parts_that_a_mask_leaves_out_do_not_count() -> None:
    rgb, mask = grey(51), np.full((24, 32), 255, np.uint8)
    rgb[:12], mask[:12] = 200, 0
    images = {"a.png": ViewImage(rgb, mask), "b.png": ViewImage(rgb, mask)}
    scene = scene_of(images, {"a.png": rows(10, 14), "b.png": rows(0, 12)})
    first, second = evaluate(empty_model(), scene, GREY).views
    assert first.moving_psnr == pytest.approx(-20 * math.log10(0.2), rel=1e-5) and first.moving_pixels == 2 * 32
    assert second.moving_psnr is None


def test_the_foreground_has_a_psnr_in_which_the_background_does_not_count() -> None:
    rgb = {name: grey(102) for name in ("a.png", "b.png", "empty.png", "opaque.png")}  # 0.4, as the background
    rgb["a.png"][:12] = 153  # wrong by 0.2 in 12 rows, of which 6 are foreground
    rgb["b.png"][:8] = 204  # wrong by 0.4 in 8 rows, and all of them are foreground, and 8 more
    images = {name: ViewImage(pixels, None) for name, pixels in rgb.items()}
    parts = {"a.png": rows(0, 6), "b.png": rows(0, 16), "empty.png": rows(0, 0)}
    metrics = evaluate(empty_model(), scene_of(images, foreground=parts), GREY)
    first, second, empty, opaque = metrics.views
    assert first.foreground_psnr == pytest.approx(-20 * math.log10(0.2), rel=1e-5)
    assert second.foreground_psnr == pytest.approx(-10 * math.log10(0.16 / 2), rel=1e-5)
    assert (first.foreground_pixels, second.foreground_pixels) == (6 * 32, 16 * 32)
    for view in (empty, opaque):
        assert view.foreground_psnr is None and view.foreground_pixels is None
    assert metrics.foreground_psnr == pytest.approx(-10 * math.log10((6 * 0.04 + 8 * 0.16) / 22), rel=1e-5)
    assert metrics.moving_psnr is None
    whole = evaluate(empty_model(), scene_of(images), GREY)
    assert (whole.psnr, whole.ssim) == (metrics.psnr, metrics.ssim) and whole.foreground_psnr is None


def test_foreground_that_a_mask_leaves_out_does_not_count() -> None:
    rgb, mask = grey(51), np.full((24, 32), 255, np.uint8)
    rgb[:12], mask[:12] = 200, 0
    scene = scene_of({"a.png": ViewImage(rgb, mask)}, foreground={"a.png": rows(10, 14)})
    (view,) = evaluate(empty_model(), scene, GREY).views
    assert view.foreground_psnr == pytest.approx(-20 * math.log10(0.2), rel=1e-5) and view.foreground_pixels == 2 * 32


def test_metrics_json_holds_the_foreground(tmp_path: Path) -> None:
    views = (ViewMetrics("a.png", 30.0, 0.9, foreground_psnr=20.0, foreground_pixels=100),)
    write_metrics(tmp_path, Metrics(views), RECORD)
    test = read_metrics(tmp_path)["test"]
    assert test["foreground_psnr"] == pytest.approx(20.0)
    assert test["views"][0]["foreground_psnr"] == 20.0 and test["views"][0]["foreground_pixels"] == 100


def test_perfect_moving_parts_differ_from_none_at_all() -> None:
    assert Metrics((ViewMetrics("a.png", 30.0, 0.9),)).moving_psnr is None
    perfect = ViewMetrics("a.png", 30.0, 0.9, moving_psnr=math.inf, moving_pixels=5)
    assert Metrics((perfect,)).moving_psnr == math.inf
    other = ViewMetrics("b.png", 30.0, 0.9, moving_psnr=20.0, moving_pixels=5)
    assert Metrics((perfect, other)).moving_psnr == pytest.approx(20.0 + 10 * math.log10(2))


def test_views_of_a_moving_scene_are_measured_with_their_times() -> None:
    scene = scene_of({"a.png": ViewImage(grey(51), None)})
    still = evaluate(empty_model(), scene, BLACK)
    assert still.views[0].time is None and still.time_axis is None
    moving = replace(scene, views=(replace(scene.views[0], time=0.25),), time_axis=TimeAxis(3.0, 7.0, "frames"))
    metrics = evaluate(empty_model(), moving, BLACK)
    assert metrics.views[0].time == 0.25 and metrics.time_axis == TimeAxis(3.0, 7.0, "frames")


def test_lpips_sees_black_in_both_images_where_the_mask_leaves_something_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def distance(image: torch.Tensor, truth: torch.Tensor) -> float:
        seen.append((torch.as_tensor(image), torch.as_tensor(truth)))
        return 0.25

    monkeypatch.setattr(measure, "lpips", distance)
    mask = np.full((24, 32), 255, np.uint8)
    mask[:12] = 0
    images = {
        "a.png": ViewImage(grey(51), mask),
        "b.png": ViewImage(grey(51), None),
        "c.png": ViewImage(grey(51), 0 * mask),
    }
    metrics = evaluate(empty_model(), scene_of(images), GREY, lpips=True)
    (image, truth), (whole, whole_truth) = seen
    assert not image[:12].any() and not truth[:12].any()
    assert torch.allclose(image[12:], torch.tensor(0.4)) and (truth[12:] == 51).all()
    assert torch.allclose(whole, torch.tensor(0.4)) and (whole_truth == 51).all()
    assert [view.lpips for view in metrics.views[:2]] == [0.25, 0.25] and metrics.lpips == 0.25


def test_progress_is_told_after_each_view() -> None:
    scene = scene_of({name: ViewImage(grey(51), None) for name in ("a.png", "b.png", "c.png")})
    seen: list[tuple[int, int]] = []
    evaluate(empty_model(), scene, BLACK, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def bakings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every baking."""
    done: list[int] = []
    bake = GaussianModel.baked

    def counted(self: GaussianModel, degree: int | None = None) -> GaussianModel:
        done.append(1)
        return bake(self, degree)

    monkeypatch.setattr(GaussianModel, "baked", counted)
    return done


def test_a_static_model_is_baked_once_for_all_views(monkeypatch: pytest.MonkeyPatch) -> None:
    done, model = bakings(monkeypatch), empty_model()
    scene = scene_of({name: ViewImage(grey(51), None) for name in ("a.png", "b.png", "c.png")})
    timed = replace(scene, views=tuple(replace(view, time=0.1 * i) for i, view in enumerate(scene.views)))
    for each in (scene, timed):
        done.clear()
        evaluate(model, each, BLACK, model_at=baked_at(model, 0))
        assert len(done) == 1


def test_a_moving_model_is_baked_once_for_each_time_and_its_views_keep_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, model = bakings(monkeypatch), empty_model()
    monkeypatch.setattr(GaussianModel, "changes_with_time", True)
    scene = scene_of({name: ViewImage(grey(51), None) for name in ("a.png", "b.png", "c.png", "d.png", "e.png")})
    times = (0.5, 0.0, 0.5, 1.0, 0.0)
    views = tuple(replace(view, time=time) for view, time in zip(scene.views, times, strict=True))
    metrics = evaluate(model, replace(scene, views=views), BLACK, model_at=baked_at(model, 0))
    assert len(done) == 3
    assert [(view.name, view.time) for view in metrics.views] == [(view.name, view.time) for view in views]


def test_each_view_knows_what_one_flat_color_would_have_and_how_opaque_it_is() -> None:
    rgb = grey(0)
    rgb[:12] = (255, 128, 51)
    mask = np.full((24, 32), 255, np.uint8)
    mask[6:18] = 0
    images = {
        "a.png": ViewImage(rgb, None),
        "b.png": ViewImage(rgb, mask),
        "flat.png": ViewImage(grey(7), None),
        "none.png": ViewImage(rgb, 0 * mask),
    }
    first, masked, flat, nothing = evaluate(empty_model(), scene_of(images), BLACK).views
    picture = np.broadcast_to(rgb.reshape(-1, 3).mean(0) / 255, rgb.shape).copy()
    assert first.flat_psnr == pytest.approx(measure.psnr(picture, rgb), abs=1e-9)
    assert masked.flat_psnr == pytest.approx(first.flat_psnr, abs=1e-9)  # both halves are there in equal parts
    assert flat.flat_psnr == math.inf
    assert nothing.flat_psnr is not None and math.isnan(nothing.flat_psnr)
    assert first.alpha == 0.0


def test_a_gaussian_over_the_whole_picture_is_opaque() -> None:
    tensors = empty_model().tensors()
    model = GaussianModel({**tensors, "means": tensors["means"] * -1, "log_scales": torch.full((1, 3), 4.0)})
    (view,) = evaluate(model, scene_of({"a.png": ViewImage(grey(51), None)}), BLACK).views
    assert view.alpha == pytest.approx(0.5, abs=0.01)  # the opacity of a logit of 0


def test_without_held_out_views_no_folder_is_made(tmp_path: Path) -> None:
    evaluate(empty_model(), scene_of({}), BLACK, save_to=tmp_path / "renders" / "test")
    assert not (tmp_path / "renders").exists()


def test_rendered_and_true_images_are_saved_side_by_side(tmp_path: Path) -> None:
    scene = scene_of({"left/a.png": ViewImage(grey(51), None), "right/a.jpg": ViewImage(grey(255), None)})
    evaluate(empty_model(), scene, RenderOptions((1.0, 0.5, 0.0), "torch"), save_to=tmp_path / "test")
    names = sorted(path.name for path in (tmp_path / "test").iterdir())
    assert names == ["left_a.png", "left_a_truth.png", "right_a.png", "right_a_truth.png"]
    assert np.asarray(Image.open(tmp_path / "test" / "left_a.png"))[3, 3].tolist() == [255, 128, 0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "test" / "right_a_truth.png")), grey(255))


def test_names_that_differ_in_their_suffix_alone_get_files_of_their_own() -> None:
    assert image_stems(["a.png", "a.jpg", "b.png", "c/d.png", "c_d.png"]) == [
        "a_png",
        "a_jpg",
        "b",
        "c_d_png",
        "c_d_png_2",
    ]


def test_no_view_takes_the_file_of_another_s_photo_and_long_names_are_cut() -> None:
    first, second = image_stems(["d.png", "d_truth.png"])
    assert len({first, f"{first}_truth", second, f"{second}_truth"}) == 4
    long = image_stems(["\u4e2d" * 90 + "a.png", "\u4e2d" * 90 + "b.png"])
    assert len(set(long)) == 2 and all(len(f".{stem}_truth.12345678.partial.png".encode()) < 255 for stem in long)


RECORD = TrainingRecord({"gaussians": 5}, 10, 1.5, device="cpu", backend="torch", preset="fast", method="nfc")


def test_metrics_json_holds_what_scripts_look_for(tmp_path: Path) -> None:
    metrics = Metrics((ViewMetrics("a.png", 30.0, 0.9), ViewMetrics("b.png", math.inf, 1.0)))
    path = write_metrics(tmp_path, metrics, replace(RECORD, timings={"view": 1.0}))
    content = json.loads(path.read_text())
    assert content["test"]["views"] == [
        {"name": "a.png", "psnr": 30.0, "ssim": 0.9},
        {"name": "b.png", "psnr": None, "ssim": 1.0},
    ]
    assert content["test"]["ssim"] == pytest.approx(0.95)
    assert (content["gaussians"], content["steps"], content["train_seconds"]) == (5, 10, 1.5)
    assert (content["device"], content["backend"]) == ("cpu", "torch")
    assert (content["preset"], content["method"], content["timings"]) == ("fast", "nfc", {"view": 1.0})
    assert content["peak_memory_mb"] is None and "lpips" not in content["test"]
    assert read_metrics(tmp_path) == content


def test_metrics_json_holds_moving_parts_and_times(tmp_path: Path) -> None:
    views = (
        ViewMetrics("a.png", 30.0, 0.9, time=0.0, moving_psnr=20.0, moving_pixels=100),
        ViewMetrics("b.png", 30.0, 0.9, time=1.0),
    )
    metrics = Metrics(views, TimeAxis(0.0, 12.5, "seconds"))
    test = json.loads(write_metrics(tmp_path, metrics, RECORD).read_text())["test"]
    assert test["moving_psnr"] == pytest.approx(20.0)
    assert test["time_axis"] == {"start": 0.0, "end": 12.5, "unit": "seconds"}
    assert test["views"] == [
        {"name": "a.png", "psnr": 30.0, "ssim": 0.9, "time": 0.0, "moving_psnr": 20.0, "moving_pixels": 100},
        {"name": "b.png", "psnr": 30.0, "ssim": 0.9, "time": 1.0},
    ]


def test_the_peak_memory_is_that_of_a_process_with_torch() -> None:
    peak = peak_memory_mb()
    assert peak is None or 50 < peak < 1e6


def test_what_json_cannot_hold_becomes_none() -> None:
    values = {"a": [1.0, math.inf, {"b": -math.inf}], "c": (math.nan, 2, "x", None, True), "d": 0.5}
    assert finite(values) == {"a": [1.0, None, {"b": None}], "c": [None, 2, "x", None, True], "d": 0.5}


def test_another_model_may_be_measured_at_the_time_of_each_view() -> None:
    scene = scene_of({"a.png": ViewImage(grey(51), None), "b.png": ViewImage(grey(51), None)})
    views = tuple(replace(view, time=float(k)) for k, view in enumerate(scene.views))
    moving = replace(scene, views=views, time_axis=TimeAxis(0.0, 1.0))
    shown, covering = [], empty_model()
    with torch.no_grad():
        covering.means[:] = torch.tensor([0.0, 0.0, 2.0])
        covering.log_scales[:] = 3.0
        covering.opacity_logits[:] = 9.0

    def model_at(time: float | None) -> GaussianModel:
        shown.append(time)
        return covering if time == 1.0 else empty_model()

    first, second = evaluate(empty_model(), moving, GREY, model_at=model_at).views
    assert shown == [0.0, 1.0]
    assert first.psnr == evaluate(empty_model(), moving, GREY).views[0].psnr
    assert second.psnr == evaluate(covering, moving, GREY).views[1].psnr != first.psnr


def test_baked_gaussians_are_those_of_a_splat_file() -> None:
    model = empty_model()
    baked = baked_at(model, 2)(None)
    assert baked.sh_degree == 2 and torch.equal(baked.means, model.means)
