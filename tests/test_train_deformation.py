"""Training deformations: they are learnt after the warm-up, resume exactly, and static scenes have none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_scenes import FAST, MLP, QUICK, SMALL, moving_config, moving_scene, psnr, scene_of
from tiny_scenes import ImagesInMemory, all_tensors, assert_same_bits, available_backends, blobs, stop_after, tiny_scene

from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import PointCloud, SceneData, TimeAxis, View, ViewImage
from nfc_gs.model.deformation import robust_bounds
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.hexplane import MAX_GROWTH, HexPlane, HexPlaneConfig, is_time_plane
from nfc_gs.model.mlp import MlpConfig
from nfc_gs.model.radiance import Part
from nfc_gs.objective.objective import ObjectiveConfig
from nfc_gs.ops import native
from nfc_gs.ops.operations import REFERENCE, Operations, operations_for
from nfc_gs.rendering.pipeline import render
from nfc_gs.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from nfc_gs.runs.opening import load_model
from nfc_gs.training import schedules
from nfc_gs.training.config import DeformationConfig
from nfc_gs.training.deformation import DeformationCompanion, add_regulariser_gradients_, new_deformation
from nfc_gs.training.resolve import resolve
from nfc_gs.training.samples import ViewSample
from nfc_gs.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("small_images_may_be_smaller_still")


@pytest.fixture(autouse=True)
def warm_ups_may_be_a_larger_part_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfc_gs.training.deformation.MAX_WARMUP", 1.0)


@cache
def recolored_scene() -> SceneData:
    """The same blobs, which stay and turn from red to blue."""
    truth = blobs(12).tensors()

    def turn(time: float) -> dict[str, torch.Tensor]:
        return {"sh_coeffs": truth["sh_coeffs"] + torch.tensor([3.0, 0.0, -3.0]) * (0.5 - time)}

    return scene_of(turn)


def train(run: Path, scene: SceneData | None = None, **changes: object) -> Trainer:
    trainer = Trainer(scene or moving_scene(), moving_config(**changes), run, capture="tiny")
    trainer.train()
    return trainer


def companion_of(trainer: Trainer) -> DeformationCompanion:
    (companion,) = trainer.companions
    assert isinstance(companion, DeformationCompanion)
    return companion


def tensors_with_deformation(trainer: Trainer) -> dict[str, torch.Tensor]:
    companion = companion_of(trainer)
    deformation = {f"deformation.{name}": t.detach() for name, t in companion.deformation.state_dict().items()}
    moments = {f"deformation.{name}": tensor for name, tensor in companion.optimizer.state().items()}
    return {**all_tensors(trainer), **deformation, **moments}


@pytest.fixture
def static_psnr(tmp_path: Path) -> Callable[[str], float]:
    """That of a static splat of the moving scene, by the method that trains it; each is trained once."""

    def of(method: str) -> float:
        if method not in STATIC_PSNRS:
            STATIC_PSNRS[method] = psnr(train(tmp_path / "static", motion="none", method=method, steps=150))
        return STATIC_PSNRS[method]

    return of


STATIC_PSNRS: dict[str, float] = {}


@pytest.mark.skipif(FAST != "cpu", reason="takes too long without the compiled core")
@pytest.mark.parametrize(
    ("motion", "method"),
    [
        ("hexplane", "nfr"), ("mlp", "nfr"), ("hexplane", "nfc"), ("hexplane", "nfc-te"), ("mlp", "nfc-te"),
        ("hexplane", "nfc-bitwise"),
    ],
)  # fmt: skip
def test_what_moves_is_rendered_better_than_by_a_static_splat(
    tmp_path: Path, motion: str, method: str, static_psnr: Callable[[str], float]
) -> None:
    moving = train(tmp_path / "moving", motion=motion, method=method, steps=150)
    assert psnr(moving) > static_psnr(method) + 2.0
    # and it is the time that does it
    frozen = GaussianModel(moving.model.tensors())
    without = moving.measure(model_at=lambda time: frozen).psnr
    assert without is not None and without < psnr(moving) - 2.0


@pytest.mark.skipif(FAST != "cpu", reason="takes too long without the compiled core")
@pytest.mark.parametrize("method", ["nfr", "nfc-te"])
def test_what_only_changes_its_color_is_rendered_in_the_color_of_its_time(tmp_path: Path, method: str) -> None:
    scores = {}
    for color in (False, True):
        settings = {"method": method, "deformation": replace(QUICK, color=color), "steps": 150}
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
    run, settings = tmp_path / "cut", moving_config(backend=backend, **changes)
    holder: list[Trainer] = []
    trainer = Trainer(scene, settings, run, [stop_after(3, holder)], capture="tiny")
    for cut, listeners in ((3, [stop_after(17, holder)]), (17, [])):  # in the warm-up, and while things move
        holder[:] = [trainer]
        trainer.train()
        assert trainer.steps_done == cut
        trainer = Trainer.resume(run, listeners, scene=scene)
    trainer.train()
    assert_same_bits(tensors_with_deformation(trainer), tensors_with_deformation(whole))


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
            results.append(tensors_with_deformation(train(tmp_path / str(threads), crowded, steps=24, hexplane=wide)))
    finally:
        native.set_threads(before)
    assert_same_bits(*results)


def test_nothing_moves_before_the_warm_up_is_over(tmp_path: Path) -> None:
    trainer = Trainer(moving_scene(), moving_config(steps=40), tmp_path / "run", capture="tiny")
    begin = {name: tensor.clone() for name, tensor in companion_of(trainer).deformation.state_dict().items()}
    for _ in range(8):  # 0.2 of 40
        trainer.step()
    assert companion_of(trainer).optimizer.steps == 0
    assert_same_bits(begin, dict(companion_of(trainer).deformation.state_dict()))
    for _ in range(3):
        trainer.step()
    assert companion_of(trainer).optimizer.steps == 3
    after = companion_of(trainer).deformation.state_dict()
    assert all(not torch.equal(tensor, after[name]) for name, tensor in begin.items())


def test_in_a_warm_up_of_all_times_a_moving_capture_trains_as_a_static_one(tmp_path: Path) -> None:
    all_times = replace(QUICK, open_until=0.0)
    moving = Trainer(
        moving_scene(), moving_config(steps=40, deformation=all_times), tmp_path / "moving", capture="tiny"
    )
    static = Trainer(moving_scene(), moving_config(steps=40, motion="none"), tmp_path / "static", capture="tiny")
    for _ in range(8):
        moving.step()
        static.step()
    assert static.companions == ()
    assert_same_bits(all_tensors(moving), all_tensors(static))


def one_view_at_each_time(times: int = 8) -> SceneData:
    scene = moving_scene(times)
    return scene.with_split([4 * k + 1 + k % 3 for k in range(times)], scene.test)


class WatchedImages(ImagesInMemory):
    """Images that record which of them are read."""

    def __init__(self, images: dict[str, ViewImage]) -> None:
        super().__init__(images)
        self.read: list[str] = []

    def image(self, view: View, divisor: int = 1) -> ViewImage:
        self.read.append(view.name)
        return super().image(view, divisor)


def test_with_several_cameras_the_times_come_in_from_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nfc_gs.training.deformation.FIRST_VIEWS", 4)  # of 3 cameras: the two times in the middle of 8
    scene = moving_scene(8)
    images = WatchedImages(scene.images.images)
    scene = replace(scene, images=images)
    time_of = {view.name: view.time for view in scene.views}
    trainer = Trainer(scene, moving_config(steps=200), tmp_path / "run", capture="tiny")
    shown: dict[float, set[float]] = {}
    while (progress := trainer.progress) < 1.0:
        images.read.clear()
        trainer.step()
        times = {time_of[name] for name in images.read}
        shown[progress] = times
        window = companion_of(trainer).time_window(progress)
        assert (window is None) == (progress >= 0.7)
        assert window is None or all(window[0] <= time <= window[1] for time in times)
    until = {end: set().union(*(times for progress, times in shown.items() if progress < end)) for end in (0.2, 0.5, 1)}
    assert until[0.2] == {3 / 7, 4 / 7}
    assert 4 <= len(until[0.5]) <= 6
    assert len(until[1]) == 8


def test_times_that_are_not_shown_yet_are_deformed_as_the_nearest_that_is(tmp_path: Path) -> None:
    trainer = Trainer(moving_scene(8), moving_config(steps=40), tmp_path / "run", capture="tiny")
    for _ in range(16):
        trainer.step()
    window = companion_of(trainer).time_window(15 / 40)
    assert window is not None and 0.0 < window[0] < 0.4
    deformation, means = companion_of(trainer).deformation, trainer.model.means
    cell = math.floor(window[0] * 7) / 7  # 8 cells, the ends at 0 and 1
    at = {time: deformation(means, time)["means"] for time in (0.0, cell / 2, 0.5)}
    assert cell > 0.0 and torch.allclose(at[0.0], at[cell / 2], atol=1e-6)
    assert not torch.allclose(at[0.0], at[0.5], atol=1e-4)


def test_with_one_camera_all_times_are_shown_and_the_squared_error_is_minimised_first() -> None:
    resolved = resolve(moving_config())
    for scene, several in ((one_view_at_each_time(), False), (moving_scene(), True)):
        model = blobs(5)
        model.deformation = new_deformation(resolved, scene)
        companion = DeformationCompanion(model, scene, resolved, operations_for("cpu"))
        objective = ObjectiveConfig(l1=0.5, ssim=0.25, mse=0.125, ce=0.3)
        early, late = companion.objective(objective, 0.6), companion.objective(objective, 0.8)
        assert late == objective
        assert early == (objective if several else ObjectiveConfig(l1=0.0, ssim=0.0, mse=3.125, ce=0.3))
        assert (companion.time_window(0.0) is None) != several


def test_static_captures_have_no_deformation(tmp_path: Path) -> None:
    trainer = train(tmp_path / "run", scene=tiny_scene(), motion="hexplane")
    assert trainer.companions == () and trainer.model.deformation is None
    checkpoint = load_checkpoint(trainer.run.folder)
    assert checkpoint.model_parts == ("model",) and checkpoint.time_axis is None
    assert not {"deformation", "deformation_optimizer"} & checkpoint.parts.keys()


def test_a_deformation_that_is_chosen_without_times_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Trainer(tiny_scene(), moving_config(motion="mlp"), tmp_path / "run", capture="tiny")
    assert "has no times: --motion mlp is left out" in caplog.text
    caplog.clear()
    Trainer(tiny_scene(), moving_config(), tmp_path / "auto", capture="tiny")
    assert caplog.text == ""


def test_a_capture_with_other_times_is_not_gone_on_with(tmp_path: Path) -> None:
    trainer = Trainer(moving_scene(), moving_config(), tmp_path / "run", capture="tiny")
    other = replace(moving_scene(), time_axis=TimeAxis(0.0, 2.0))
    with pytest.raises(UserError, match="The times of the capture tiny have changed"):
        Trainer.resume(trainer.run.folder, scene=other)


def test_in_a_short_run_things_move_after_a_tenth_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(schedules, "MIN_SIDE", 12)
    trainer = Trainer(moving_scene(), moving_config(steps=40), tmp_path / "run", capture="tiny")
    for _ in range(4):
        assert companion_of(trainer).optimizer.steps == 0
        trainer.step()
    trainer.step()
    assert companion_of(trainer).optimizer.steps == 1


def warmed_up(tmp_path: Path) -> Trainer:
    """A training whose next step is the first in which the scene moves."""
    trainer = Trainer(moving_scene(), moving_config(steps=40), tmp_path / "run", capture="tiny")
    for _ in range(8):
        trainer.step()
    return trainer


def test_a_gaussian_that_is_not_a_number_does_not_decide_on_the_box(tmp_path: Path) -> None:
    trainer = warmed_up(tmp_path)
    with torch.no_grad():
        trainer.model.means[1] = math.nan
    companion_of(trainer).prepare(trainer.steps_done, trainer.progress)
    assert companion_of(trainer).deformation.bounds.isfinite().all()


def test_the_box_is_put_around_what_is_visible_at_the_end_of_the_warm_up(tmp_path: Path) -> None:
    trainer = warmed_up(tmp_path)
    with torch.no_grad():
        trainer.model.means[0] = 100.0
        trainer.model.opacity_logits[0] = -6.0  # far away and faint
        seen = trainer.model.means[trainer.model.opacities > 0.05]
    companion_of(trainer).prepare(trainer.steps_done, trainer.progress)
    low, high = companion_of(trainer).deformation.bounds
    assert (high < 50.0).all()
    inside = ((seen > low) & (seen < high)).all(dim=1).float().mean()
    assert inside > 0.9


def test_a_grown_box_takes_the_moments_of_its_planes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfc_gs.training.deformation.BOUNDS_EVERY", 20)
    trainer = Trainer(moving_scene(), moving_config(steps=40, density="none"), tmp_path / "run", capture="tiny")
    for _ in range(19):
        trainer.step()
    deformation, optimizer = companion_of(trainer).deformation, companion_of(trainer).optimizer
    assert isinstance(deformation, HexPlane)
    before = deformation.bounds.clone()
    for moments, value in ((optimizer.m, 3.0), (optimizer.v, 5.0)):
        for index in range(len(deformation.planes)):  # the same everywhere, so also in the grown box
            moments[f"planes.{index}"].fill_(value)
    monkeypatch.setattr(optimizer, "step", lambda *_: None)
    with torch.no_grad():
        trainer.model.means[:5, 2] += 40.0
    trainer.step()
    side = before[1, 2] - before[0, 2]
    assert deformation.bounds[1, 2] == pytest.approx(before[1, 2] + MAX_GROWTH * side)  # and no further
    for moments, value in ((optimizer.m, 3.0), (optimizer.v, 5.0)):
        assert all(torch.allclose(moments[f"planes.{k}"], torch.tensor(value)) for k in range(len(deformation.planes)))


@pytest.mark.parametrize("cut", [12, 22])  # before the box grows, and after
def test_a_run_whose_box_grows_resumes_exactly(cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfc_gs.training.deformation.BOUNDS_EVERY", 20)
    monkeypatch.setattr("nfc_gs.model.deformation.robust_bounds", lambda points: 0.6 * robust_bounds(points))
    whole = train(tmp_path / "whole", steps=24)
    holder: list[Trainer] = []
    first = Trainer(
        moving_scene(), moving_config(steps=24), tmp_path / "cut", [stop_after(cut, holder)], capture="tiny"
    )
    holder.append(first)
    first.train()
    resumed = Trainer.resume(tmp_path / "cut", scene=moving_scene())
    resumed.train()
    boxes = [companion_of(trainer).deformation.bounds for trainer in (first, resumed)]
    assert torch.equal(*boxes) == (cut > 20)
    assert_same_bits(tensors_with_deformation(resumed), tensors_with_deformation(whole))


def test_regularisers_make_planes_smooth_and_those_with_time_one(tmp_path: Path) -> None:
    found: dict[str, list[float]] = {}
    for name, weight in (("weak", 0.0), ("strong", 100.0)):
        plane_config = replace(SMALL, tv=weight, smoothness=weight, sparsity=weight)
        trainer = train(tmp_path / name, hexplane=plane_config, steps=60)
        deformation = companion_of(trainer).deformation
        assert isinstance(deformation, HexPlane)
        space, _, _, time, _, _ = (plane.detach() for plane in deformation.planes)
        second = time[2:] - 2.0 * time[1:-1] + time[:-2]
        measures = (space.diff(dim=0).square(), space.diff(dim=1).square(), second.square(), (time - 1.0).abs())
        found[name] = [float(measure.mean()) for measure in measures]
    for weak, strong in zip(found["weak"], found["strong"], strict=True):
        assert 0.0 < strong < 0.5 * weak


@pytest.mark.parametrize("operations", [REFERENCE, operations_for("cpu")], ids=["reference", "fast"])
def test_gradients_of_the_regularisers_are_those_of_the_paper_s_losses(operations: Operations) -> None:
    weights = HexPlaneConfig(features=16, resolution=5, levels=(1, 2), width=32, tv=0.3, smoothness=0.5, sparsity=0.7)
    bounds = torch.tensor([[-1.0] * 3, [1.0] * 3])
    deformation = HexPlane(weights, 6, ("means",), bounds, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for plane in deformation.planes:
            plane.add_(torch.rand(plane.shape, generator=torch.Generator().manual_seed(len(plane))))
    loss = torch.zeros(())
    for index, plane in enumerate(deformation.planes):
        if is_time_plane(index):
            loss = loss + weights.smoothness * plane.diff(n=2, dim=0).square().mean()
            loss = loss + weights.sparsity * (plane - 1.0).abs().mean()
        else:
            loss = loss + 2.0 * weights.tv * (plane.diff(dim=0).square().mean() + plane.diff(dim=1).square().mean())
    loss.backward()
    grads = {f"planes.{index}": torch.zeros_like(plane) for index, plane in enumerate(deformation.planes)}
    add_regulariser_gradients_(deformation, grads, operations)
    for index, plane in enumerate(deformation.planes):
        assert plane.grad is not None
        torch.testing.assert_close(grads[f"planes.{index}"], plane.grad, rtol=1e-4, atol=1e-7)


def test_planes_and_networks_learn_at_rates_of_their_own_that_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = replace(QUICK, rate=1e-3, rate_final=1e-5, plane_rate=1e-1, plane_rate_final=1e-2)

    def rates_of(companion: DeformationCompanion, progress: float, steps: int = 0) -> dict[str, float]:
        """What its optimizer is given after so many steps."""
        given: list[dict[str, float]] = []
        monkeypatch.setattr(companion.optimizer, "step", lambda gradients, rates: given.append(rates))
        monkeypatch.setattr(companion.optimizer, "steps", steps)
        companion.step(QUICK.warmup, progress)
        return given[0]

    companion, _ = new_companion("hexplane", deformation=rates, rate_factor=3.0)
    for progress, network, planes in ((0.0, 3e-3, 3e-1), (0.5, 3e-4, 3e-1 / math.sqrt(10.0)), (1.0, 3e-5, 3e-2)):
        found = rates_of(companion, progress)
        assert found["planes.0"] == pytest.approx(planes) and found["planes.5"] == pytest.approx(planes)
        assert found["networks.geometry.0.weight"] == pytest.approx(network)
        assert found["networks.colors.2.bias"] == pytest.approx(network)
    network = rates_of(new_companion("mlp", deformation=rates, rate_factor=3.0)[0], 0.5, 1500)
    assert network.keys() and all(rate == pytest.approx(1.5e-4) for rate in network.values())


def new_companion(
    motion: str, background: tuple[float, float, float] | None = None, **changes: object
) -> tuple[DeformationCompanion, SceneData]:
    """What trains the deformation of a few Gaussians, and their scene."""
    scene = replace(moving_scene(), background=background)
    resolved = resolve(moving_config(motion=motion, **changes))
    model = blobs(5)
    model.deformation = new_deformation(resolved, scene)
    return DeformationCompanion(model, scene, resolved, operations_for("cpu")), scene


def sample_of(scene: SceneData, index: int) -> ViewSample:
    view, image = scene.views[index], scene.image(index)
    return ViewSample(torch.from_numpy(image.rgb), None, view.name, index, view.time, view.camera)


def test_the_noise_on_time_falls_to_nothing_and_stays_on_the_axis() -> None:
    noisy, scene = new_companion("mlp", mlp=replace(MLP, time_noise=1.0))
    middle = sample_of(scene, 10)
    assert middle.time == pytest.approx(1 / 3)

    def time_of(step: int, progress: float) -> float | None:
        sample = noisy.sample(middle, step, progress)
        assert replace(sample, time=middle.time) == middle, "nothing else changes"
        return sample.time

    def spread(progress: float) -> float:
        times = torch.tensor([time_of(step, progress) for step in range(100, 400)])
        assert (times >= 0).all() and (times <= 1).all() and times.mean() == pytest.approx(1 / 3, abs=0.06)
        return float(times.std())

    early, late = spread(0.3), spread(0.9)
    assert early == pytest.approx(0.7 / 3, rel=0.2)  # 0.7 of an interval of 1/3, cut off at 0
    assert late == pytest.approx(0.1 / 3, rel=0.2)
    assert time_of(50, 0.3) == time_of(50, 0.3)
    assert time_of(7, 0.1) is None


def test_only_the_mlp_on_real_captures_has_noise_by_default() -> None:
    for motion, background, is_noisy in (
        ("mlp", None, True),
        ("mlp", (1.0, 1.0, 1.0), False),
        ("hexplane", None, False),
    ):
        companion, scene = new_companion(motion, background)
        assert (companion.sample(sample_of(scene, 10), 50, 0.5).time != scene.views[10].time) == is_noisy


def test_checkpoints_hold_the_deformation_and_what_time_means(tmp_path: Path) -> None:
    scene = replace(moving_scene(), time_axis=TimeAxis(2.0, 7.0, "seconds"))
    trainer = train(tmp_path / "run", scene=scene)
    loaded = load_model(trainer.run.folder)
    assert loaded.checkpoint.time_axis == TimeAxis(2.0, 7.0, "seconds")
    camera = scene.camera(0)
    for time in (0.0, 0.6):
        with torch.no_grad():
            expected, found = (render(m, camera, time, backend=FAST).rgb for m in (trainer.model, loaded.model))
        assert torch.equal(expected, found)


def changed(
    name: str, tensors: dict[str, torch.Tensor | None] | None = None, values: dict[str, object] | None = None
) -> Callable[[Checkpoint], Checkpoint]:
    """A change of one part of a checkpoint: tensors (None for one that is taken away) and values by name."""

    def change(checkpoint: Checkpoint) -> Checkpoint:
        part = checkpoint.parts[name]
        merged = {**part.tensors, **(tensors or {})}
        kept = {key: tensor for key, tensor in merged.items() if tensor is not None}
        return replace(checkpoint, parts={**checkpoint.parts, name: Part(kept, {**part.values, **(values or {})})})

    return change


def without_values(checkpoint: Checkpoint) -> Checkpoint:
    part = replace(checkpoint.parts["deformation"], values={"kind": "hexplane"})
    return replace(checkpoint, parts={**checkpoint.parts, "deformation": part})


def without_tensors(checkpoint: Checkpoint) -> Checkpoint:
    part = replace(checkpoint.parts["deformation"], tensors={})
    return replace(checkpoint, parts={**checkpoint.parts, "deformation": part})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed("deformation", {"planes.0": torch.zeros(2, 2, 2)}), "do not fit together: .*planes.0"),
        (changed("deformation", {"planes.1": None}), "do not fit together: .*planes.1"),
        (changed("deformation", {"layers.0.bias": torch.zeros(3)}), "do not fit together: .*layers.0.bias"),
        (without_tensors, "do not fit together: the bounds of the deformation are no box"),
        (changed("deformation", values={"kind": "voxels"}), "voxels"),
        (without_values, "do not fit together: the settings of the deformation make none"),
        (changed("deformation", {"bounds": torch.zeros(5, 3)}), "are no box"),
        (changed("deformation", {"bounds": torch.zeros(2, 3)}), "are no box"),
        (changed("deformation", values={"time_resolution": math.inf}), "do not fit together"),
    ],
)
def test_a_broken_deformation_in_a_checkpoint_gets_one_sentence(
    tmp_path: Path, change: Callable[[Checkpoint], Checkpoint], says: str
) -> None:
    trainer = Trainer(moving_scene(), moving_config(), tmp_path / "run", capture="tiny")
    path = tmp_path / "broken.safetensors"
    save_checkpoint(path, change(load_checkpoint(trainer.run.folder)))
    with pytest.raises(UserError, match=says):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed("deformation_optimizer", {"m.planes.0": torch.zeros(1)}), r"m\.planes\.0 has shape \(1,\), expected"),
        (changed("deformation_optimizer", {"v.planes.1": None}), r"there is no tensor 'v\.planes\.1'"),
        (changed("deformation_optimizer", {"m.other": torch.zeros(1)}), r"there is an unexpected tensor 'm\.other'"),
        (changed("deformation_optimizer", values={"steps": None}), "NoneType"),
        (
            lambda c: replace(c, parts={n: p for n, p in c.parts.items() if n != "deformation_optimizer"}),
            "lacks 'deformation_optimizer'",
        ),
    ],
)
def test_a_run_with_another_optimizer_of_its_deformation_is_not_gone_on_with(
    tmp_path: Path, change: Callable[[Checkpoint], Checkpoint], says: str
) -> None:
    run = tmp_path / "run"
    Trainer(moving_scene(), moving_config(), run, capture="tiny")
    save_checkpoint(run / "checkpoint.safetensors", change(load_checkpoint(run)))
    assert load_model(run).model.changes_with_time
    with pytest.raises(UserError, match=f"{says}.*cannot be resumed"):
        Trainer.resume(run, scene=moving_scene())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"motion": "voxels"}, "motion must be one of 'auto', 'none', 'hexplane', 'mlp'"),
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
        resolve(moving_config(**changes))
