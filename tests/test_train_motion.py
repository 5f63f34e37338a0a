"""Training what moves: it learns motion, waits for the warm-up, resumes exactly, and leaves static scenes alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_trainer import (
    StillImages,
    all_tensors,
    assert_same_bits,
    available_backends,
    blobs,
    stop_after,
    tiny_config,
    tiny_scene,
)

from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import PointCloud, SceneData, TimeAxis, View, ViewImage
from nfc_gs.model.deformation import robust_bounds
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.hexplane import MAX_GROWTH, HexPlane, HexPlaneConfig, is_time_plane
from nfc_gs.model.mlp import MlpConfig
from nfc_gs.objective.objective import ObjectiveConfig
from nfc_gs.ops import native
from nfc_gs.ops.operations import operations_for
from nfc_gs.rendering.pipeline import render
from nfc_gs.runs.checkpoint import load_checkpoint, load_model, save_checkpoint
from nfc_gs.training import schedules
from nfc_gs.training.config import DeformationConfig, LearningRates, resolve
from nfc_gs.training.deformation import MotionTraining, new_deformation, regulariser_gradients_, view_time
from nfc_gs.training.trainer import Trainer

FAST = available_backends()[-1]
SMALL = HexPlaneConfig(features=16, resolution=6, levels=(1,), width=16)
RATES = LearningRates(sh0=0.03, means=5e-3, means_final=1e-3, scales=1e-2)
QUICK = DeformationConfig(warmup=8, rate=1e-3, rate_final=1e-4, plane_rate=1e-2, plane_rate_final=1e-3)
MLP = MlpConfig(depth=3, width=32, mean_frequencies=3, time_frequencies=2)


@pytest.fixture(autouse=True)
def small_images_may_be_smaller_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "MIN_SIDE", 12)


@pytest.fixture(autouse=True)
def warm_ups_may_be_a_larger_part_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfc_gs.training.deformation.LONGEST_WARMUP", 1.0)


@cache
def moving_scene(times: int = 4) -> SceneData:
    """The blobs of `tiny_scene`, all of which swing together, seen by the same cameras at every time."""
    truth = blobs(12).tensors()

    def swing(time: float) -> dict[str, torch.Tensor]:
        return {"means": truth["means"] + torch.tensor([0.5 * math.sin(math.pi * (time - 0.5)), 0.0, 0.0])}

    return scene_of(swing, times)


@cache
def recolored_scene() -> SceneData:
    """The same blobs, which stay and turn from red to blue."""
    truth = blobs(12).tensors()

    def turn(time: float) -> dict[str, torch.Tensor]:
        return {"sh_coeffs": truth["sh_coeffs"] + torch.tensor([3.0, 0.0, -3.0]) * (0.5 - time)}

    return scene_of(turn)


def scene_of(changed: Callable[[float], dict[str, torch.Tensor]], times: int = 4) -> SceneData:
    """What the cameras of `tiny_scene` see of its blobs, each at every time, after changes."""
    still = tiny_scene()
    truth = blobs(12).tensors()
    views, frames = [], {}
    for k in range(times):
        time = k / (times - 1)
        model = GaussianModel({**truth, **changed(time)})
        for view in still.views:
            name = f"{view.name}_{k}"
            with torch.no_grad():
                rgb = render(model, view.camera, backend="torch").rgb
            frames[name] = ViewImage((rgb.clamp(0, 1) * 255).round().to(torch.uint8).numpy(), None)
            views.append(replace(view, name=name, time=time))
    return replace(
        still,
        views=tuple(views),
        train=tuple(i for i in range(len(views)) if i % 4),
        test=tuple(i for i in range(len(views)) if not i % 4),
        time_axis=TimeAxis(0.0, 1.0),
        images=StillImages(frames),
    )


def config(**changes: object):
    defaults = {"hexplane": SMALL, "mlp": MLP, "deformation": QUICK, "rates": RATES, "backend": FAST, "eval_every": 0.0}
    return tiny_config(**{**defaults, **changes})


def train(run: Path, scene: SceneData | None = None, **changes: object) -> Trainer:
    trainer = Trainer(scene or moving_scene(), config(**changes), run, capture="tiny")
    trainer.train()
    return trainer


def tensors_with_field(trainer: Trainer) -> dict[str, torch.Tensor]:
    assert trainer.motion is not None
    field = {f"field.{name}": tensor.detach() for name, tensor in trainer.motion.field.state_dict().items()}
    moments = {f"field.{name}": tensor for name, tensor in trainer.motion.optimizer.state().items()}
    return {**all_tensors(trainer), **field, **moments}


def psnr(trainer: Trainer) -> float:
    value = trainer.evaluate().psnr
    assert value is not None
    return value


@pytest.mark.skipif(FAST != "cpu", reason="takes too long without the compiled core")
@pytest.mark.parametrize(
    ("motion", "method"),
    [
        ("hexplane", "nfr"), ("mlp", "nfr"), ("hexplane", "nfc"), ("hexplane", "nfc-te"), ("mlp", "nfc-te"),
        ("hexplane", "nfc-bitwise"),
    ],
)  # fmt: skip
def test_what_moves_is_drawn_better_than_by_a_static_splat(tmp_path: Path, motion: str, method: str) -> None:
    static = psnr(train(tmp_path / "static", motion="none", method=method, steps=400))
    moving = train(tmp_path / "moving", motion=motion, method=method, steps=400)
    assert psnr(moving) > static + 2.0
    # and it is the time that does it
    frozen = GaussianModel(moving.model.tensors())
    without = moving.measure(frozen).psnr
    assert without is not None and without < psnr(moving) - 2.0


@pytest.mark.skipif(FAST != "cpu", reason="takes too long without the compiled core")
@pytest.mark.parametrize("method", ["nfr", "nfc-te"])
def test_what_only_changes_its_color_is_drawn_in_the_color_of_its_time(tmp_path: Path, method: str) -> None:
    scores = {}
    for color in (False, True):
        settings = {"method": method, "deformation": replace(QUICK, color=color), "steps": 400}
        scores[color] = psnr(train(tmp_path / str(color), recolored_scene(), **settings))
    assert scores[True] > scores[False] + 2.0


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize(
    "changes",
    [
        {"motion": "hexplane"},
        {"motion": "mlp"},
        {"method": "nfc-te", "deformation": replace(QUICK, opacity=True, color=True)},
        {"method": "nfc-bitwise"},
        {"method": "nfc", "density": "adc", "deformation": replace(QUICK, scales=True)},
        {"one_camera": True},
    ],
)
def test_a_resumed_run_gives_the_same_bits(tmp_path: Path, backend: str, changes: dict) -> None:
    changes = dict(changes)
    scene = one_view_at_each_time() if changes.pop("one_camera", False) else moving_scene()
    whole = train(tmp_path / "whole", scene, backend=backend, **changes)
    for cut in (3, 17):  # in the warm-up, and while things move
        run = tmp_path / f"cut{cut}"
        holder: list[Trainer] = []
        settings = config(backend=backend, **changes)
        first = Trainer(scene, settings, run, [stop_after(cut, holder)], capture="tiny")
        holder.append(first)
        first.train()
        assert first.steps_done == cut
        resumed = Trainer.resume(run, scene=scene)
        resumed.train()
        assert_same_bits(tensors_with_field(resumed), tensors_with_field(whole))


@pytest.mark.skipif(FAST != "cpu", reason="the compiled core is not built")
def test_any_number_of_threads_gives_the_same_bits(tmp_path: Path) -> None:
    """With so many Gaussians that every kernel has work for several threads."""
    scene, wide = moving_scene(), replace(SMALL, width=32)
    generator = np.random.default_rng(0)
    xyz = generator.uniform(-1.0, 1.0, (3000, 3)).astype(np.float32)
    points = PointCloud(xyz, generator.integers(0, 255, (3000, 3)).astype(np.uint8))
    crowded = replace(scene, points=points)
    before = native.threads()
    try:
        results = []
        for threads in (1, 3):
            native.set_threads(threads)
            results.append(tensors_with_field(train(tmp_path / str(threads), crowded, steps=24, hexplane=wide)))
    finally:
        native.set_threads(before)
    assert_same_bits(*results)


def test_nothing_moves_before_the_warm_up_is_over(tmp_path: Path) -> None:
    trainer = Trainer(moving_scene(), config(steps=40), tmp_path / "run", capture="tiny")
    assert trainer.motion is not None
    begin = {name: tensor.clone() for name, tensor in trainer.motion.field.state_dict().items()}
    for _ in range(8):  # 0.2 of 40
        trainer.step()
    assert trainer.motion.optimizer.steps == 0
    assert_same_bits(begin, dict(trainer.motion.field.state_dict()))
    for _ in range(3):
        trainer.step()
    assert trainer.motion.optimizer.steps == 3
    after = trainer.motion.field.state_dict()
    assert all(not torch.equal(tensor, after[name]) for name, tensor in begin.items())


def test_in_a_warm_up_of_all_times_a_moving_capture_trains_as_a_static_one(tmp_path: Path) -> None:
    open_at_once = replace(QUICK, open_until=0.0)
    moving = Trainer(moving_scene(), config(steps=40, deformation=open_at_once), tmp_path / "moving", capture="tiny")
    static = Trainer(moving_scene(), config(steps=40, motion="none"), tmp_path / "static", capture="tiny")
    for _ in range(8):
        moving.step()
        static.step()
    assert static.motion is None
    assert_same_bits(all_tensors(moving), all_tensors(static))


def one_view_at_each_time(times: int = 8) -> SceneData:
    scene = moving_scene(times)
    return scene.with_split([4 * k + 1 + k % 3 for k in range(times)], scene.test)


class Watched(StillImages):
    """Images that note which of them are shown."""

    def __init__(self, images: StillImages) -> None:
        self.shown: list[str] = []
        self.images = images

    def image(self, view: View, divisor: int = 1) -> ViewImage:
        self.shown.append(view.name)
        return self.images.image(view, divisor)


def test_with_several_cameras_the_times_come_in_from_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nfc_gs.training.deformation.FIRST_VIEWS", 4)  # of 3 cameras: the two times in the middle of 8
    scene = moving_scene(8)
    images = Watched(scene.images)
    scene = replace(scene, images=images)
    time_of = {view.name: view_time(view) for view in scene.views}
    trainer = Trainer(scene, config(steps=200), tmp_path / "run", capture="tiny")
    assert trainer.motion is not None
    shown: dict[float, set[float]] = {}
    while (progress := trainer.progress) < 1.0:
        images.shown.clear()
        trainer.step()
        times = {time_of[name] for name in images.shown}
        shown[progress] = times
        window = trainer.motion.window(progress)
        assert (window is None) == (progress >= 0.7)
        assert window is None or all(window[0] <= time <= window[1] for time in times)
    until = {end: set().union(*(times for progress, times in shown.items() if progress < end)) for end in (0.2, 0.5, 1)}
    assert until[0.2] == {3 / 7, 4 / 7}
    assert 4 <= len(until[0.5]) <= 6
    assert len(until[1]) == 8


def test_what_is_not_shown_yet_is_drawn_as_the_edge_of_what_is(tmp_path: Path) -> None:
    trainer = Trainer(moving_scene(8), config(steps=40), tmp_path / "run", capture="tiny")
    for _ in range(16):
        trainer.step()
    assert trainer.motion is not None
    window = trainer.motion.window(15 / 40)
    assert window is not None and 0.0 < window[0] < 0.4
    field, means = trainer.motion.field, trainer.model.means
    cell = math.floor(window[0] * 7) / 7  # 8 cells, the ends at 0 and 1
    at = {time: field(means, time)["means"] for time in (0.0, cell / 2, 0.5)}
    assert cell > 0.0 and torch.allclose(at[0.0], at[cell / 2], atol=1e-6)
    assert not torch.allclose(at[0.0], at[0.5], atol=1e-4)


def test_with_one_camera_all_times_are_shown_and_the_mean_over_time_is_wanted_first(tmp_path: Path) -> None:
    resolved = resolve(config())
    for scene, several in ((one_view_at_each_time(), False), (moving_scene(), True)):
        model = blobs(5)
        model.deformation = new_deformation(resolved, scene)
        motion = MotionTraining(resolved, scene, model, operations_for("cpu"))
        objective = ObjectiveConfig(l1=0.5, ssim=0.25, mse=0.125, ce=0.3)
        early, late = motion.objective(objective, 0.6), motion.objective(objective, 0.8)
        assert late == objective
        assert early == (objective if several else ObjectiveConfig(l1=0.0, ssim=0.0, mse=3.125, ce=0.3))
        assert (motion.window(0.0) is None) != several


def test_static_captures_have_no_field(tmp_path: Path) -> None:
    trainer = train(tmp_path / "run", scene=tiny_scene(), motion="hexplane")
    assert trainer.motion is None and trainer.model.deformation is None
    checkpoint = load_checkpoint(trainer.run)
    assert not checkpoint.motion and not checkpoint.deformation and checkpoint.time_axis is None


def test_a_field_that_is_asked_for_without_times_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Trainer(tiny_scene(), config(motion="mlp"), tmp_path / "run", capture="tiny")
    assert "has no times: --motion mlp is left out" in caplog.text
    caplog.clear()
    Trainer(tiny_scene(), config(), tmp_path / "auto", capture="tiny")
    assert caplog.text == ""


def test_a_capture_with_other_times_is_not_gone_on_with(tmp_path: Path) -> None:
    trainer = Trainer(moving_scene(), config(), tmp_path / "run", capture="tiny")
    other = replace(moving_scene(), time_axis=TimeAxis(0.0, 2.0))
    with pytest.raises(UserError, match="The times of the capture tiny have changed"):
        Trainer.resume(trainer.run, scene=other)


def test_in_a_short_run_things_move_after_a_tenth_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(schedules, "MIN_SIDE", 12)
    trainer = Trainer(moving_scene(), config(steps=40), tmp_path / "run", capture="tiny")
    assert trainer.motion is not None
    for _ in range(4):
        assert trainer.motion.optimizer.steps == 0
        trainer.step()
    trainer.step()
    assert trainer.motion.optimizer.steps == 1


def warmed_up(tmp_path: Path) -> Trainer:
    """A training whose next step is the first in which the scene moves."""
    trainer = Trainer(moving_scene(), config(steps=40), tmp_path / "run", capture="tiny")
    for _ in range(8):
        trainer.step()
    return trainer


def test_a_gaussian_that_is_not_a_number_does_not_decide_on_the_box(tmp_path: Path) -> None:
    trainer = warmed_up(tmp_path)
    assert trainer.motion is not None
    with torch.no_grad():
        trainer.model.means[1] = math.nan
    trainer.motion.prepare(trainer.steps_done, trainer.progress)
    assert trainer.motion.field.bounds.isfinite().all()


def test_the_box_is_put_around_what_can_be_seen_when_motion_begins(tmp_path: Path) -> None:
    trainer = warmed_up(tmp_path)
    assert trainer.motion is not None
    with torch.no_grad():
        trainer.model.means[0] = 100.0
        trainer.model.opacity_logits[0] = -6.0  # far away and faint
        seen = trainer.model.means[trainer.model.opacities > 0.05]
    trainer.motion.prepare(trainer.steps_done, trainer.progress)
    low, high = trainer.motion.field.bounds
    assert (high < 50.0).all()
    inside = ((seen > low) & (seen < high)).all(dim=1).float().mean()
    assert inside > 0.9


def test_a_grown_box_takes_the_moments_of_its_planes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfc_gs.training.deformation.BOUNDS_EVERY", 20)
    trainer = Trainer(moving_scene(), config(steps=40, density="none"), tmp_path / "run", capture="tiny")
    assert trainer.motion is not None
    for _ in range(19):
        trainer.step()
    field, optimizer = trainer.motion.field, trainer.motion.optimizer
    before = field.bounds.clone()
    for moments, value in ((optimizer.m, 3.0), (optimizer.v, 5.0)):
        for index in range(len(field.planes)):  # the same everywhere, so also in the grown box
            moments[f"planes.{index}"].fill_(value)
    monkeypatch.setattr(optimizer, "step", lambda *_: None)
    with torch.no_grad():
        trainer.model.means[:5, 2] += 40.0
    trainer.step()
    side = before[1, 2] - before[0, 2]
    assert field.bounds[1, 2] == pytest.approx(before[1, 2] + MAX_GROWTH * side)  # and no further
    for moments, value in ((optimizer.m, 3.0), (optimizer.v, 5.0)):
        assert all(torch.allclose(moments[f"planes.{k}"], torch.tensor(value)) for k in range(len(field.planes)))


@pytest.mark.parametrize("cut", [12, 22])  # before the box grows, and after
def test_a_run_whose_box_grows_resumes_exactly(cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfc_gs.training.deformation.BOUNDS_EVERY", 20)
    monkeypatch.setattr("nfc_gs.model.deformation.robust_bounds", lambda points: 0.6 * robust_bounds(points))
    whole = train(tmp_path / "whole", steps=24)
    holder: list[Trainer] = []
    first = Trainer(moving_scene(), config(steps=24), tmp_path / "cut", [stop_after(cut, holder)], capture="tiny")
    holder.append(first)
    first.train()
    resumed = Trainer.resume(tmp_path / "cut", scene=moving_scene())
    assert first.motion is not None and resumed.motion is not None
    resumed.train()
    assert torch.equal(first.motion.field.bounds, resumed.motion.field.bounds) == (cut > 20)
    assert_same_bits(tensors_with_field(resumed), tensors_with_field(whole))


def test_regularisers_make_planes_smooth_and_those_with_time_one(tmp_path: Path) -> None:
    found: dict[str, list[float]] = {}
    for name, weight in (("weak", 0.0), ("strong", 100.0)):
        plane_config = replace(SMALL, tv=weight, smoothness=weight, sparsity=weight)
        trainer = train(tmp_path / name, hexplane=plane_config, steps=60)
        assert trainer.motion is not None and isinstance(trainer.motion.field, HexPlane)
        space, _, _, time, _, _ = (plane.detach() for plane in trainer.motion.field.planes)
        second = time[2:] - 2.0 * time[1:-1] + time[:-2]
        measures = (space.diff(dim=0).square(), space.diff(dim=1).square(), second.square(), (time - 1.0).abs())
        found[name] = [float(measure.mean()) for measure in measures]
    for weak, strong in zip(found["weak"], found["strong"], strict=True):
        assert 0.0 < strong < 0.5 * weak


def test_gradients_of_the_regularisers_are_those_of_the_paper_s_losses() -> None:
    weights = HexPlaneConfig(features=16, resolution=5, levels=(1, 2), width=32, tv=0.3, smoothness=0.5, sparsity=0.7)
    field = HexPlane(weights, 6, ("means",), torch.tensor([[-1.0] * 3, [1.0] * 3]), torch.Generator().manual_seed(1))
    with torch.no_grad():
        for plane in field.planes:
            plane.add_(torch.rand(plane.shape, generator=torch.Generator().manual_seed(len(plane))))
    loss = torch.zeros(())
    for index, plane in enumerate(field.planes):
        if is_time_plane(index):
            loss = loss + weights.smoothness * plane.diff(n=2, dim=0).square().mean()
            loss = loss + weights.sparsity * (plane - 1.0).abs().mean()
        else:
            loss = loss + 2.0 * weights.tv * (plane.diff(dim=0).square().mean() + plane.diff(dim=1).square().mean())
    loss.backward()
    grads = {f"planes.{index}": torch.zeros_like(plane) for index, plane in enumerate(field.planes)}
    regulariser_gradients_(field, grads, operations_for("cpu"))
    for index, plane in enumerate(field.planes):
        assert plane.grad is not None
        torch.testing.assert_close(grads[f"planes.{index}"], plane.grad, rtol=1e-4, atol=1e-7)


def test_planes_and_networks_learn_at_rates_of_their_own_that_fall(tmp_path: Path) -> None:
    rates = replace(QUICK, rate=1e-3, rate_final=1e-5, plane_rate=1e-1, plane_rate_final=1e-2)
    motion, _ = motion_of("hexplane", tmp_path, deformation=rates, rate_factor=3.0)
    for progress, network, planes in ((0.0, 3e-3, 3e-1), (0.5, 3e-4, 3e-1 / math.sqrt(10.0)), (1.0, 3e-5, 3e-2)):
        found = motion._rates(progress, 0)
        assert found["planes.0"] == pytest.approx(planes) and found["planes.5"] == pytest.approx(planes)
        assert found["networks.geometry.0.weight"] == pytest.approx(network)
        assert found["networks.colors.2.bias"] == pytest.approx(network)
    means = motion_of("mlp", tmp_path, deformation=rates, rate_factor=3.0)[0]._rates(0.5, 1500)
    assert means.keys() and all(rate == pytest.approx(1.5e-4) for rate in means.values())


def motion_of(motion: str, tmp_path: Path, background: tuple[float, float, float] | None = None, **changes: object):
    scene = replace(moving_scene(), background=background)
    resolved = resolve(config(motion=motion, **changes))
    model = blobs(5)
    model.deformation = new_deformation(resolved, scene)
    return MotionTraining(resolved, scene, model, operations_for("cpu")), scene


def test_the_noise_on_time_falls_to_nothing_and_stays_on_the_axis(tmp_path: Path) -> None:
    noisy, scene = motion_of("mlp", tmp_path, mlp=replace(MLP, time_noise=1.0))
    middle = scene.views[10]
    assert middle.time == pytest.approx(1 / 3)

    def spread(progress: float) -> float:
        times = torch.tensor([noisy.time_of(middle, step, progress) for step in range(100, 400)])
        assert (times >= 0).all() and (times <= 1).all() and times.mean() == pytest.approx(1 / 3, abs=0.06)
        return float(times.std())

    early, late = spread(0.3), spread(0.9)
    assert early == pytest.approx(0.7 / 3, rel=0.2)  # 0.7 of an interval of 1/3, cut off at 0
    assert late == pytest.approx(0.1 / 3, rel=0.2)
    assert noisy.time_of(middle, 50, 0.3) == noisy.time_of(middle, 50, 0.3)
    assert noisy.time_of(middle, 7, 0.1) is None


def test_only_the_mlp_on_real_captures_has_noise_by_default(tmp_path: Path) -> None:
    for motion, background, is_noisy in (
        ("mlp", None, True),
        ("mlp", (1.0, 1.0, 1.0), False),
        ("hexplane", None, False),
    ):
        trained, scene = motion_of(motion, tmp_path, background)
        assert (trained.time_of(scene.views[10], 50, 0.5) != scene.views[10].time) == is_noisy


def test_checkpoints_hold_the_motion_and_what_time_means(tmp_path: Path) -> None:
    scene = replace(moving_scene(), time_axis=TimeAxis(2.0, 7.0, "seconds"))
    trainer = train(tmp_path / "run", scene=scene)
    loaded = load_model(trainer.run)
    assert loaded.checkpoint.time_axis == TimeAxis(2.0, 7.0, "seconds")
    camera = scene.camera(0)
    for time in (0.0, 0.6):
        with torch.no_grad():
            wanted, found = (render(m, camera, time, backend=FAST).rgb for m in (trainer.model, loaded.model))
        assert torch.equal(wanted, found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: replace(c, deformation={**c.deformation, "planes.0": torch.zeros(2, 2, 2)}), "do not fit together"),
        (lambda c: replace(c, deformation={n: t for n, t in c.deformation.items() if n != "planes.1"}), "planes.1"),
        (lambda c: replace(c, deformation={**c.deformation, "layers.0.bias": torch.zeros(3)}), "layers.0.bias"),
        (lambda c: replace(c, deformation={}), "but not both"),
        (lambda c: replace(c, motion={**c.motion, "kind": "voxels"}), "kind voxels"),
        (lambda c: replace(c, motion={"kind": "hexplane"}), "do not fit together"),
        (lambda c: replace(c, deformation={**c.deformation, "bounds": torch.zeros(5, 3)}), "are no box"),
        (lambda c: replace(c, deformation={**c.deformation, "bounds": torch.zeros(2, 3)}), "are no box"),
        (lambda c: replace(c, motion={**c.motion, "time_resolution": math.inf}), "do not fit together"),
        (lambda c: replace(c, deformation_optimizer={"m.planes.0": torch.zeros(1)}), "the optimizer's m.planes.0"),
    ],
)
def test_broken_motion_in_a_checkpoint_gets_one_sentence(tmp_path: Path, change, says: str) -> None:
    trainer = Trainer(moving_scene(), config(), tmp_path / "run", capture="tiny")
    path = tmp_path / "broken.safetensors"
    save_checkpoint(path, change(load_checkpoint(trainer.run)))
    with pytest.raises(UserError, match=says):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"motion": "voxels"}, "--motion is 'voxels'; choose one of auto, none, hexplane, mlp"),
        ({"deformation": DeformationConfig(warmup=-1)}, "--deformation.warmup is -1"),
        ({"deformation": DeformationConfig(plane_rate=0.0)}, "learning rate of --deformation"),
        ({"hexplane": HexPlaneConfig(features=20)}, "--hexplane.features is 20, but must be a multiple of 16"),
        ({"hexplane": HexPlaneConfig(levels=())}, "--hexplane.levels"),
        ({"hexplane": HexPlaneConfig(resolution=1)}, "--hexplane.resolution is 1"),
        ({"hexplane": HexPlaneConfig(time_resolution=1)}, "--hexplane.time-resolution is 1"),
        ({"hexplane": HexPlaneConfig(tv=-1.0)}, "weights of --hexplane"),
        ({"mlp": MlpConfig(depth=1)}, "--mlp.depth is 1"),
        ({"mlp": MlpConfig(time_frequencies=-1)}, "--mlp.time-frequencies"),
    ],
)
def test_settings_out_of_range_get_one_sentence(changes: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        resolve(config(**changes))


def test_runs_of_before_moving_scenes_can_still_be_read(tmp_path: Path) -> None:
    from nfc_gs.training.config import ResolvedConfig

    saved = resolve(tiny_config()).to_dict()
    for name in ("motion", "deformation", "hexplane", "mlp"):
        del saved[name]
    assert ResolvedConfig.from_dict(saved) == resolve(tiny_config())
