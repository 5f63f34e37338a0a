"""Whole training runs on captures from disk: what quality they reach, and that threads change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from capture_files import SHARED
from PIL import Image

import nfc_gs
from nfc_gs.core.errors import UserError
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.ops import native
from nfc_gs.training.config import TrainConfig
from nfc_gs.training.trainer import Trainer

needs_core = pytest.mark.skipif(not native.available(), reason="the compiled core is not built")


@pytest.fixture(scope="module")
def small_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("captures") / "small", views=10, width=112, height=84)


@needs_core
def test_a_whole_run_is_the_same_bits_for_any_number_of_threads(small_capture: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=40, max_gaussians=6500, device="cpu", seed=3, eval_every=0.5)
    before = native.threads()
    results = []
    try:
        for threads in (1, 3, 3):
            native.set_threads(threads)
            run = tmp_path / f"run{len(results)}"
            trainer = Trainer(load_scene(small_capture), config, run, capture=small_capture)
            first = len(trainer.model)
            trainer.train()
            results.append({**trainer.model.tensors(), **trainer.training.optimizer.state()})
            assert len(trainer.model) > first, "growth must be a part of what is compared"
            assert trainer.evaluate().psnr is not None
    finally:
        native.set_threads(before)
    for other in results[1:]:
        for name, tensor in results[0].items():
            assert torch.equal(tensor, other[name]), name


@needs_core
def test_a_cache_too_small_for_the_capture_changes_no_bit(small_capture: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=30, max_gaussians=6500, device="cpu", eval_every=0.5)
    results, held, image_bytes = [], [], 112 * 84 * 3
    for cache_gb in (DataConfig().cache_gb, 2.5e-9 * image_bytes):
        scene = load_scene(small_capture, DataConfig(cache_gb=cache_gb))
        trainer = Trainer(scene, config, tmp_path / f"{cache_gb}", capture=small_capture)
        trainer.train()
        results.append({**trainer.model.tensors(), **trainer.training.optimizer.state()})
        held.append(scene.images.nbytes)
    assert held[0] >= 10 * image_bytes and held[1] <= 2.5 * image_bytes
    for name, tensor in results[0].items():
        assert torch.equal(tensor, results[1][name]), name


@pytest.fixture
def distorted(tmp_path: Path) -> Path:
    """A capture whose photos are undistorted, and one of which has a mask."""
    folder = write_capture(tmp_path / "phone", views=8, width=96, height=72)
    model = pycolmap.Reconstruction(folder / "sparse" / "0")
    for camera in model.cameras.values():
        fx, fy, cx, cy = camera.focal_length_x, camera.focal_length_y, *camera.params[-2:]
        camera.model = pycolmap.CameraModelId.OPENCV
        camera.params = [fx, fy, cx, cy, -0.08, 0.01, 0.001, -0.001]
    model.write(folder / "sparse" / "0")
    photo = sorted((folder / "images").iterdir())[2]
    (folder / "masks").mkdir()
    mask = np.full((72, 96), 255, np.uint8)
    mask[:20] = 0
    Image.fromarray(mask).save(folder / "masks" / f"{photo.name}.png")
    return folder


def state_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {**trainer.model.tensors(), **trainer.training.optimizer.state()}


@needs_core
@pytest.mark.usefixtures("same_core_afterwards")
def test_a_training_from_copies_on_disk_is_that_from_memory_bit_for_bit(distorted: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=30, max_gaussians=6500, device="cpu", eval_every=0.5)
    copies, small = tmp_path / "image-cache", DataConfig(cache_gb=2.5e-9 * 96 * 72 * 4)
    states, metrics = [], []
    for name, data, threads in (("memory", DataConfig(), 1), ("made", small, 2), ("read", small, 3)):
        native.set_threads(threads)
        trainer = nfc_gs.train(distorted, config, out=tmp_path / name, data=data).trainer
        states.append(state_of(trainer))
        metrics.append(trainer.measure())
        assert copies.exists() == (name != "memory")
    assert len(list(copies.glob("*.picture"))) == 8
    assert metrics[0] == metrics[1] == metrics[2]
    for other in states[1:]:
        for key, tensor in states[0].items():
            assert torch.equal(tensor, other[key]), key


@needs_core
def test_a_run_goes_on_exactly_whatever_became_of_its_copies(distorted: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=24, max_gaussians=6500, device="cpu", eval_every=0.0)
    small, copies = DataConfig(cache_gb=2.5e-9 * 96 * 72 * 4), tmp_path / "image-cache"

    def begun(name: str) -> Trainer:
        scene = load_scene(distorted, small, copies=copies)
        trainer = Trainer(scene, config, tmp_path / name, capture=distorted, data=small)
        for _ in range(10):
            trainer.step()
        trainer.save()
        return trainer

    unbroken = begun("unbroken")
    unbroken.train()
    begun("broken")
    first, second, *others = sorted(copies.glob("*.picture"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1000] + bytes(1000))
    assert len(others) >= 5
    resumed = Trainer.resume(tmp_path / "broken")
    resumed.train()
    assert first.exists(), "copies are made when a run goes on, too"
    for key, tensor in state_of(unbroken).items():
        assert torch.equal(tensor, state_of(resumed)[key]), key


@needs_core
def test_a_photo_that_vanishes_in_the_middle_is_named_and_nothing_learnt_is_lost(
    distorted: Path, tmp_path: Path
) -> None:
    config, small = TrainConfig(steps=60, device="cpu", eval_every=0.0), DataConfig(cache_gb=0.0)
    scene = load_scene(distorted, small, copies=tmp_path / "image-cache")
    trainer = Trainer(scene, config, tmp_path / "run", capture=distorted, data=small)
    for _ in range(9):
        trainer.step()
    photo = distorted / "images" / scene.views[scene.train[0]].name
    content = photo.read_bytes()
    photo.unlink()
    with pytest.raises(UserError, match=rf"The image .*{photo.name} is not there \(any more\); put it back"):
        trainer.train()
    done = trainer.steps_done
    photo.write_bytes(content)
    assert 9 <= done < 60 and Trainer.resume(tmp_path / "run").steps_done == done


@needs_core
def test_another_seed_gives_another_model(small_capture: Path, tmp_path: Path) -> None:
    models = []
    for seed in (0, 1):
        config = TrainConfig(steps=5, device="cpu", seed=seed, eval_every=0.0)
        trainer = Trainer(load_scene(small_capture), config, tmp_path / str(seed), capture=small_capture)
        trainer.train()
        models.append(trainer.model.means.detach())
    assert not torch.equal(*models)


@needs_core
def test_the_built_in_capture_is_learnt(small_capture: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=150, max_gaussians=8000, device="cpu", eval_every=0.0)
    trainer = Trainer(load_scene(small_capture), config, tmp_path / "run", capture=small_capture)
    trainer.train()
    psnr = trainer.evaluate().psnr
    assert psnr is not None and psnr > 20.0, psnr


@pytest.mark.slow
@needs_core
@pytest.mark.skipif(not (SHARED / "fox").is_dir(), reason="the real capture 'fox' is not at hand")
def test_fox_reaches_26_db_in_500_steps(tmp_path: Path) -> None:
    scene = load_scene(SHARED / "fox", DataConfig())
    assert (len(scene.train), len(scene.test)) == (43, 7)
    config = TrainConfig(steps=500, max_gaussians=10_000, device="cpu", eval_every=0.0)
    trainer = Trainer(scene, config, tmp_path / "run", capture=SHARED / "fox")
    trainer.train()
    psnr, ssim = trainer.evaluate().psnr, trainer.evaluate().ssim
    assert psnr is not None and ssim is not None
    assert psnr > 26.0 and ssim > 0.80, (psnr, ssim)
