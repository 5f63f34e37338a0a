"""Which operations a device uses, and that the backend torch is the reference end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from moving_scenes import moving_config, moving_scene
from tiny_scenes import all_tensors, tiny_config, tiny_scene

from nfc_gs.core.errors import UserError
from nfc_gs.ops import native, nvrtc, operations
from nfc_gs.ops.operations import CPU, REFERENCE, operations_for, use_references
from nfc_gs.training.deformation import DeformationCompanion
from nfc_gs.training.trainer import Trainer

needs_core = pytest.mark.skipif(not native.available(), reason="the compiled core is not built")


def test_the_reference_has_no_accelerated_operation() -> None:
    given = [value for name, value in vars(REFERENCE).items() if name not in ("name", "width_multiple", "max_width")]
    assert given == [None] * len(given)
    assert len(given) == 10, "another number of operations: follow 'Adding one' in cuda/README.md, then change the 10"


def without_compiler(device: torch.device) -> None:
    raise UserError("there is no compiler")


def test_without_the_core_and_without_nvidias_compiler_there_is_the_reference_and_a_line_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    operations._fastest.cache_clear()
    try:
        monkeypatch.setattr(native, "available", lambda: False)
        monkeypatch.setattr(nvrtc, "runtime_for", without_compiler)
        for _ in range(2):
            assert operations_for("cpu") is operations_for(torch.device("cuda", 3)) is REFERENCE
        said = [record.getMessage() for record in caplog.records]
        assert said == [
            "Losses, Adam, noise, relocation and HexPlane run on cuda:3 by PyTorch's own operations, which is slower: "
            "there is no compiler"
        ]  # once, and not in every step
    finally:
        operations._fastest.cache_clear()


def test_a_gpu_has_one_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    operations._fastest.cache_clear()
    try:
        monkeypatch.setattr(nvrtc, "runtime_for", lambda device: object())
        bundle = operations_for("cuda:1")
        assert bundle.name == "gpu" and operations_for(torch.device("cuda", 1)) is bundle
        assert operations_for("cuda:1", torch.float16) is operations_for("cuda:1", reference=True) is REFERENCE
    finally:
        operations._fastest.cache_clear()


def test_kernels_that_failed_their_self_test_are_not_used_any_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    operations._fastest.cache_clear()
    gpu = torch.device("cuda", 5)
    try:
        monkeypatch.setattr(nvrtc, "runtime_for", lambda device: object())
        monkeypatch.setattr(operations, "_refused", {})
        assert operations_for(gpu).name == operations_for("cuda:6").name == "gpu"
        use_references(gpu, "its self-test failed")
        assert operations_for(gpu) is REFERENCE and operations_for("cuda:6").name == "gpu"
        assert "on cuda:5 by PyTorch's own operations, which is slower: its self-test failed" in caplog.text
    finally:
        operations._fastest.cache_clear()


def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for accelerated operations, or for the compiled core, fails the test."""

    def refuse(*_: object) -> None:
        raise AssertionError("the backend torch uses references alone")

    monkeypatch.setattr(operations, "_fastest", refuse)
    monkeypatch.setattr(native, "core", refuse)


@pytest.mark.usefixtures("small_images_may_be_smaller_still")
@pytest.mark.parametrize("density", ["mcmc", "adc"])
def test_the_backend_torch_trains_a_static_scene_by_references_alone(
    density: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, Adam, noise and relocation."""
    nothing_compiled(monkeypatch)
    settings = tiny_config(steps=12, backend="torch", method="nfc-te", density=density)
    trainer = Trainer(tiny_scene(), settings, tmp_path / "run", capture="tiny")
    count = len(trainer.model)
    trainer.train()
    assert trainer.steps_done == 12 and (density == "adc" or len(trainer.model) != count)


@pytest.mark.usefixtures("small_images_may_be_smaller_still")
@pytest.mark.parametrize("kind", ["hexplane", "mlp"])
def test_the_backend_torch_trains_a_moving_scene_by_references_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deformation, its regularisers and its Adam, too."""
    nothing_compiled(monkeypatch)
    settings = moving_config(steps=12, backend="torch", method="nfc-bitwise", motion=kind)
    trainer = Trainer(moving_scene(), settings, tmp_path / "run", capture="tiny")
    trainer.train()
    (companion,) = trainer.companions
    assert isinstance(companion, DeformationCompanion)
    assert trainer.steps_done == 12 and companion.optimizer.steps > 0


@needs_core
def test_the_compiled_core_trains_to_other_bits_than_the_references(tmp_path: Path) -> None:
    """So that the tests above would see it: noise has another generator."""
    found = []
    for backend in ("torch", "cpu"):
        trainer = Trainer(tiny_scene(), tiny_config(steps=4, backend=backend), tmp_path / backend, capture="tiny")
        trainer.train()
        found.append(all_tensors(trainer)["means"])
    assert operations_for("cpu") is CPU and not torch.equal(*found)
