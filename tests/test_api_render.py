"""What is done with a model from Python: opening it, rendering, measuring, turntables, and what a notebook shows."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_scenes import assert_same_bits, blobs, tiny_config, tiny_scene
from toy_family import ToyField, register

import nfc_gs
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.rendering.pipeline import render as render_gaussians
from nfc_gs.runs.checkpoint import load_checkpoint, save_compact
from nfc_gs.runs.families import FAMILIES
from nfc_gs.runs.names import CHECKPOINT_NAME, SPLAT_NAME
from nfc_gs.runs.verdict import verdict
from nfc_gs.training.companion import Companion
from nfc_gs.training.registry import TRAINABLE_FAMILIES

WHITE = (1.0, 1.0, 1.0)
CONFIG = nfc_gs.TrainConfig(
    steps=6, device="cpu", max_gaussians=60, eval_every=0.0, antialiased=True, background="white"
)
MOVING = nfc_gs.TrainConfig(steps=6, device="cpu", max_gaussians=60, eval_every=0.0)
EYE = nfc_gs.look_at((0, -2, 0.5), (0, 0, 0), width=40, height=30)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> nfc_gs.TrainedRun:
    """On white, antialiased; read it, do not change it."""
    folder = tmp_path_factory.mktemp("garden")
    capture = nfc_gs.write_demo_capture(folder / "capture", views=8, width=48, height=36)
    return nfc_gs.train(capture, CONFIG, out=folder / "run", data=nfc_gs.DataConfig(test_every=4))


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> nfc_gs.TrainedRun:
    folder = tmp_path_factory.mktemp("dancer")
    capture = nfc_gs.write_demo_capture(folder / "capture", moving=True, views=6, width=48, height=36)
    return nfc_gs.train(capture, MOVING, out=folder / "run")


def gaussians(model: object) -> GaussianModel:
    assert isinstance(model, GaussianModel)
    return model


def test_every_file_that_the_viewer_shows_is_opened_without_gradients(
    trained: nfc_gs.TrainedRun, tmp_path: Path
) -> None:
    save_compact(tmp_path / "small.safetensors", load_checkpoint(trained.folder))
    record = np.zeros(2, [("m", "<f4", 3), ("s", "<f4", 3), ("c", "u1", 4), ("q", "u1", 4)])
    record["m"], record["s"], record["c"], record["q"] = [[0, 0, 0], [1, 0, 0]], 0.5, 200, [255, 128, 128, 128]
    (tmp_path / "two.splat").write_bytes(record.tobytes())
    runs = (trained.folder, trained.folder / CHECKPOINT_NAME, tmp_path / "small.safetensors")
    for path in (*runs, str(trained.folder / SPLAT_NAME), tmp_path / "two.splat"):
        loaded = nfc_gs.load_model(path)
        assert not any(tensor.requires_grad for tensor in gaussians(loaded.model).parameters())
        assert nfc_gs.render(loaded, EYE).rgb.numpy().shape == (30, 40, 3)
        if path in runs:
            assert loaded.scene is not None and [v.name for v in loaded.scene.views] == [
                v.name for v in trained.scene.views
            ]
            assert loaded.background == WHITE and loaded.options.antialiased
            np.testing.assert_array_equal(loaded.transform, trained.scene.transform)
        else:
            assert loaded.scene is None and loaded.checkpoint is None
            assert loaded.background == (WHITE if str(path).endswith(".ply") else (0.0, 0.0, 0.0))
            np.testing.assert_array_equal(loaded.transform, np.eye(4))
    assert_same_bits(gaussians(nfc_gs.load_model(trained.folder).model).tensors(), gaussians(trained.model).tensors())


def test_a_path_without_a_model_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for path, sentence in (
        ("nowhere", "There is no .*nowhere; give a run folder, a checkpoint or compact file .*, or a splat file"),
        ("notes.txt", "notes.txt holds no model; give a run folder, a checkpoint"),
        (".", "is not a run: it holds no checkpoint"),
        ("gone.ply", "gone.ply"),
    ):
        with pytest.raises(nfc_gs.UserError, match=sentence):
            nfc_gs.load_model(tmp_path / path)


def test_what_training_left_is_rendered_as_its_views_are_unless_told_otherwise(trained: nfc_gs.TrainedRun) -> None:
    loaded, model = nfc_gs.load_model(trained.folder), gaussians(trained.model)

    def expected(background: tuple[float, float, float] = WHITE, antialiased: bool = True) -> np.ndarray:
        return render_gaussians(model, EYE, background=background, antialiased=antialiased).rgb.numpy()

    for each in (trained, loaded):
        own = nfc_gs.render(each, EYE)
        np.testing.assert_array_equal(own.rgb.numpy(), expected())
        black = nfc_gs.render(each, EYE, background=np.zeros(3)).rgb.numpy()
        np.testing.assert_array_equal(black, expected((0.0, 0.0, 0.0)))
        classic = nfc_gs.render(each, EYE, antialiased=False, backend="cpu").rgb.numpy()
        np.testing.assert_array_equal(classic, expected(antialiased=False))
    assert np.abs(expected() - expected((0.0, 0.0, 0.0))).max() > 0.1
    assert np.abs(expected() - expected(antialiased=False)).max() > 1e-3
    plain = nfc_gs.render(model, EYE).rgb.numpy()
    np.testing.assert_array_equal(plain, expected((0.0, 0.0, 0.0), antialiased=False))


def test_corrections_of_views_act_in_python_as_they_do_in_evaluation(tmp_path: Path) -> None:
    class Brighter(Companion):
        name = "brighter"

        class Correction(nfc_gs.Companion.correction.__class__):  # type: ignore[name-defined]
            factor = torch.tensor(2.0, requires_grad=True)

            def output(self, output: nfc_gs.RenderOutput, view: int | None) -> nfc_gs.RenderOutput:
                return output if view is None else replace(output, rgb=output.rgb * self.factor)

        correction = Correction()

    trainer = nfc_gs.Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny", companions=[Brighter()])
    run, camera = nfc_gs.TrainedRun(tmp_path / "run", None, trainer), trainer.scene.camera(0)
    plain, corrected = nfc_gs.render(run, camera), nfc_gs.render(run, camera, view=0)
    np.testing.assert_array_equal(corrected.rgb.numpy(), 2 * plain.rgb.numpy())


def test_rendering_is_differentiable_in_model_pose_and_background(trained: nfc_gs.TrainedRun) -> None:
    model = GaussianModel({name: tensor.clone() for name, tensor in gaussians(trained.model).tensors().items()})
    nfc_gs.render(model, EYE).rgb.sum().backward()
    assert model.means.grad is not None and model.means.grad.abs().max() > 0
    eye = torch.tensor([0.0, -2.0, 0.5], requires_grad=True)
    nfc_gs.render(trained, nfc_gs.look_at(eye, (0, 0, 0), width=40, height=30)).rgb.sum().backward()
    assert eye.grad is not None and eye.grad.abs().max() > 0
    color = torch.tensor([0.2, 0.4, 0.6], requires_grad=True)
    out = nfc_gs.render(nfc_gs.load_model(trained.folder), EYE, background=color)
    out.rgb.sum().backward()
    torch.testing.assert_close(color.grad, (1 - out.alpha).sum().expand(3))


def test_outputs_are_asked_for_by_name_one_or_several(trained: nfc_gs.TrainedRun) -> None:
    several = nfc_gs.render(trained, EYE, outputs=["rgb", "depth", "normals"])
    assert several.depth is not None and several.normals is not None
    lengths = several.normals.norm(dim=-1)
    assert bool(((lengths - 1).abs() < 1e-5)[several.alpha[..., 0] > 0.5].all())
    one = nfc_gs.render(trained, EYE, outputs="depth")
    assert one.depth is not None and torch.equal(one.depth, several.depth) and one.normals is None
    for outputs in ("albedo", ("rgb", "albedo")):
        with pytest.raises(nfc_gs.UserError, match=r"no output 'albedo' .*; choose from rgb, depth, normals"):
            nfc_gs.render(trained, EYE, outputs=outputs)  # type: ignore[arg-type]
    with pytest.raises(nfc_gs.UserError, match="has no bits; train with --head bits"):
        nfc_gs.render(trained, EYE, outputs="bits")


def test_sh_degree_and_absgrad_are_passed_on_to_gaussians_alone(trained: nfc_gs.TrainedRun) -> None:
    model = gaussians(trained.model).copy().detached()
    with torch.no_grad():
        assert model.sh_coeffs is not None
        model.sh_coeffs[:, 1:] += 0.5 * torch.randn(model.sh_coeffs[:, 1:].shape)
    flat = nfc_gs.render(model, EYE, sh_degree=0).rgb
    assert torch.equal(flat, render_gaussians(model, EYE, sh_degree=0).rgb)
    assert (flat - nfc_gs.render(model, EYE).rgb).abs().max() > 0.01
    own = model.copy()
    out = nfc_gs.render(own, EYE, absgrad=True)
    out.rgb.sum().backward()
    assert out.info.means2d_absgrad is not None
    register()
    try:
        toy = ToyField(torch.zeros(1, 4, 5, 5, 5))
        assert nfc_gs.render(toy, EYE, background=WHITE).rgb.shape == (30, 40, 3)
        with pytest.raises(nfc_gs.UserError, match=r"sh_degree: only of Gaussians, .* 'toy'; leave it out"):
            nfc_gs.render(toy, EYE, sh_degree=0)
        with pytest.raises(nfc_gs.UserError, match=r"family 'toy' and has no cameras; give a scene=\."):
            nfc_gs.turntable(toy, "toy.gif")
    finally:
        del FAMILIES["toy"], TRAINABLE_FAMILIES["toy"]


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (("runs/garden", EYE), {}, r"'runs/garden' is a path, not a model; .* nfc_gs\.load_model\('runs/garden'\)"),
        ((Path("a.ply"), EYE), {}, r"'a\.ply' is a path, not a model"),
        (({"means": 1}, EYE), {}, "A dict is no model; give a GaussianModel, or what nfc_gs.train"),
        ((blobs(3), 4), {}, r"A int is no camera; give scene\.camera\(4\) of a scene, or nfc_gs\.look_at"),
        ((blobs(3), np.eye(4)), {}, r"A ndarray is no camera; give scene\.camera\(index\)"),
        ((blobs(3), tiny_scene().views[0]), {}, r"view_00\.png is a view, not a camera; give its camera: view\.camera"),
        ((blobs(3), EYE, 1.5), {}, r"time is 1\.5, but must be between 0 and 1; scene\.time_axis\.normalised"),
        ((blobs(3), EYE, math.nan), {}, "time is nan, but must be between 0 and 1"),
        ((blobs(3), EYE), {"background": "white"}, r"background is 'white', but must be red, green and blue"),
        ((blobs(3), EYE), {"background": (0.5, 0.5)}, r"background is \(0\.5, 0\.5\), but must be red"),
        ((blobs(3), EYE), {"background": (255, 255, 255)}, r"background is \(255, 255, 255\), but must be red"),
        ((blobs(3), EYE), {"background": 1.0}, r"background is 1\.0, but must be red"),
        ((blobs(3), EYE, "half"), {}, "time is 'half', but must be a number"),
        ((blobs(3), EYE), {"backend": "metal"}, "There is no backend 'metal'; choose one of auto, torch, cpu"),
    ],
)
def test_what_is_given_by_mistake_gets_one_sentence(arguments: tuple, options: dict, sentence: str) -> None:
    with pytest.raises(nfc_gs.UserError, match=sentence) as error:
        nfc_gs.render(*arguments, **options)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_views_are_measured_again_with_the_scene_of_the_run(trained: nfc_gs.TrainedRun, tmp_path: Path) -> None:
    again = nfc_gs.evaluate(nfc_gs.load_model(trained.folder), save_to=str(tmp_path / "views"))
    assert again == nfc_gs.evaluate(trained) == trained.metrics
    assert len(list((tmp_path / "views").iterdir())) == 4
    plain = nfc_gs.evaluate(trained.model, trained.scene)
    assert plain != again, "nothing says that this model is on white and antialiased"
    with pytest.raises(nfc_gs.UserError, match=r"no photos to compare with; give the scene: nfc_gs\.load_scene"):
        nfc_gs.evaluate(nfc_gs.load_model(trained.folder / SPLAT_NAME))


def test_a_turntable_of_a_run_follows_its_cameras_and_has_its_size(trained: nfc_gs.TrainedRun, tmp_path: Path) -> None:
    path = nfc_gs.turntable(trained, tmp_path / "new" / "garden", frames=3)
    pictures = [imageio.imread(path / f"frame_{k:05d}.png") for k in range(3)]
    assert [picture.shape for picture in pictures] == [(36, 48, 3)] * 3
    for picture, camera in zip(pictures, nfc_gs.orbit(trained.scene, 3), strict=True):
        expected = nfc_gs.render(trained, camera).rgb.clamp(0, 1) * 255
        np.testing.assert_array_equal(picture, expected.round().byte().numpy())
    loaded = nfc_gs.load_model(trained.folder)
    small = nfc_gs.turntable(loaded, str(tmp_path / "small"), frames=2, width=24)
    assert imageio.imread(small / "frame_00001.png").shape == (18, 24, 3)


def test_a_turntable_of_a_splat_file_goes_around_its_gaussians(trained: nfc_gs.TrainedRun, tmp_path: Path) -> None:
    loaded = nfc_gs.load_model(trained.folder / SPLAT_NAME)
    path = nfc_gs.turntable(loaded, tmp_path / "around", frames=4, width=64)
    pictures = [imageio.imread(path / f"frame_{k:05d}.png") for k in range(4)]
    assert pictures[0].shape == (48, 64, 3)
    assert all(picture[12:36, 16:48].max() > 40 for picture in pictures), "Gaussians are in the middle of each"
    assert all((pictures[0] != picture).any() for picture in pictures[1:])
    with pytest.raises(nfc_gs.UserError, match="0 frames is empty"):
        nfc_gs.turntable(loaded, tmp_path / "none", frames=0)
    with pytest.raises(nfc_gs.UserError, match=r"Videos are not written as '\.avi'"):
        nfc_gs.turntable(loaded, tmp_path / "a.avi", frames=1)


def test_time_runs_in_the_turntable_of_a_moving_model(
    moving: nfc_gs.TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[float | None] = []
    original = FAMILIES["gaussians"].render

    def seen(model: object, camera: object, time: float | None, *rest: object, **further: object) -> object:
        times.append(time)
        return original(model, camera, time, *rest, **further)

    monkeypatch.setitem(FAMILIES, "gaussians", replace(FAMILIES["gaussians"], render=seen))
    model = gaussians(moving.model).copy()  # which hardly moves after six steps
    assert model.deformation is not None
    with torch.no_grad():
        for parameter in model.deformation.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    nfc_gs.turntable(model, tmp_path / "dancer", scene=moving.scene, frames=5, width=16)
    assert times == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert nfc_gs.render(moving, EYE, 0.5).rgb.numpy().shape == (30, 40, 3)


def test_a_notebook_shows_a_run_with_its_figures_and_what_they_mean(trained: nfc_gs.TrainedRun) -> None:
    html = trained._repr_html_()
    assert html.count("<img") == 2 and "0001.png, rendered" in html and "0001.png, photo" in html
    assert trained.metrics is not None and trained.metrics.psnr is not None
    assert f"{trained.metrics.psnr:.2f} dB" in html and "(2 held-out views)" in html and "6 steps in" in html
    meaning = verdict(trained.metrics.psnr, steps=6).quality
    assert meaning[1:] in html and "report.html" in html and "splat.ply" in html
    assert "Trainer.resume" not in html
    assert repr(trained) == (
        f"TrainedRun('{trained.folder}': 60 Gaussians, SH degree 3, step 6, test PSNR {trained.metrics.psnr:.2f} dB)"
    )
    assert repr(nfc_gs.load_model(trained.folder)) == (
        f"LoadedModel('{trained.folder}': 60 Gaussians, SH degree 3, step 6)"
    )
    assert repr(trained.metrics) == (
        f"Metrics(PSNR {trained.metrics.psnr:.2f} dB, SSIM {trained.metrics.ssim:.3f}, 2 views)"
    )


def test_a_run_that_is_cut_short_shows_how_to_go_on_and_a_moving_one_makes_no_promise(
    moving: nfc_gs.TrainedRun, tmp_path: Path
) -> None:
    trainer = nfc_gs.Trainer(tiny_scene(), tiny_config(), tmp_path / "run", capture="tiny")
    trainer.step()
    run = nfc_gs.TrainedRun(tmp_path / "run", None, trainer)
    html = run._repr_html_()
    assert "Not complete; go on with nfc_gs.Trainer.resume(" in html and "Test PSNR" not in html
    assert repr(run) == f"TrainedRun('{tmp_path / 'run'}': 30 Gaussians, SH degree 1, step 1)"
    assert "moving" in moving._repr_html_() and "steps (--steps" not in moving._repr_html_()


def test_a_rendering_shows_its_color_and_says_what_it_holds(trained: nfc_gs.TrainedRun) -> None:
    out = nfc_gs.render(trained, EYE, outputs=("depth",))
    assert repr(out) == "RenderOutput(rgb [30, 40, 3], alpha [30, 40, 1], depth [30, 40, 1])"
    shown = np.asarray(Image.open(io.BytesIO(out._repr_png_())))
    np.testing.assert_array_equal(shown, (out.rgb.clamp(0, 1) * 255).round().byte().numpy())


def test_training_prints_nothing_and_logs_no_more_than_is_asked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    capture = nfc_gs.write_demo_capture(tmp_path / "capture", views=8, width=48, height=36)
    capfd.readouterr()
    nfc_gs.train(capture, replace(CONFIG, steps=2), out=tmp_path / "run")
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_splat_file_is_not_measured_in_a_scene_of_another_frame(trained: nfc_gs.TrainedRun, tmp_path: Path) -> None:
    splat = nfc_gs.load_model(trained.folder / "splat.ply")
    with pytest.raises(nfc_gs.UserError, match=r"DataConfig\(normalize=False\)"):
        nfc_gs.evaluate(splat, trained.scene)
    scene = nfc_gs.load_scene(trained.scene.root, nfc_gs.DataConfig(normalize=False))
    plain = nfc_gs.evaluate(nfc_gs.load_model(trained.folder), trained.scene).psnr
    assert nfc_gs.evaluate(splat, scene).psnr == pytest.approx(plain, abs=0.5), "the near plane is another"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda run: nfc_gs.orbit(run, 5),
            r"of a scene, not of a TrainedRun; give its .scene",
        ),
        (lambda run: nfc_gs.write_splats("a.ply", run), r"not of a TrainedRun; give its .model"),
        (lambda run: nfc_gs.train(run.scene), r"but a SceneData was given"),
        (lambda run: nfc_gs.train("captures/x", {"steps": 10}), r"but a dict was given"),
        (lambda run: run.scene.camera(999), r"There is no view 999 in "),
        (lambda run: run.scene.photo("0001.png"), r"There is no view '0001.png' in "),
    ],
)
def test_objects_of_another_kind_are_refused_with_what_to_give(
    call: Callable[[nfc_gs.TrainedRun], object], sentence: str, trained: nfc_gs.TrainedRun
) -> None:
    with pytest.raises(nfc_gs.UserError, match=sentence):
        call(trained)
