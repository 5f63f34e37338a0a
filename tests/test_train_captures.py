"""Whole training runs on captures from disk: what quality they reach, and that threads change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from capture_files import SHARED

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
