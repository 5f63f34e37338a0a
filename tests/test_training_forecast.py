"""What is said of memory before a training, and how the limit of Gaussians follows from it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import HERE
from tiny_scenes import tiny_scene

from nfc_gs.core.errors import UserError
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.ops.device import free_gpu_memory
from nfc_gs.runs.history import read_history
from nfc_gs.training import density, forecast
from nfc_gs.training.config import DensityName, RefineConfig, TrainConfig
from nfc_gs.training.forecast import Forecast, check_fits, fit_to_memory, largest_count
from nfc_gs.training.resolve import resolve
from nfc_gs.training.trainer import Trainer

GROWING = TrainConfig(
    steps=30, device="cpu", max_gaussians=60, refine=RefineConfig(every=3, every_at_least=1, start=0.0, stop=1.0)
)

PEAK = """
import json, sys
from pathlib import Path
from tiny_scenes import tiny_scene
from nfc_gs.results import finish
from nfc_gs.training.config import RefineConfig, TrainConfig
from nfc_gs.training.trainer import Trainer

def peak():
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

method, moments, folder = sys.argv[1:]
scene = tiny_scene(points=110_000)
refine = RefineConfig(every=2, every_at_least=1, start=0.0)
config = TrainConfig(
    method=method, preset="paper", steps=10, max_gaussians=120_000, device="cpu", refine=refine, eval_every=0.0,
    adam_moments=moments,
)
before = peak()
trainer = Trainer(scene, config, folder, capture="tiny")
trainer.train()
finish(trainer)
print(json.dumps({"need": trainer.forecast.need, "took": peak() - before, "gaussians": len(trainer.model)}))
"""


def has(monkeypatch: pytest.MonkeyPatch, memory: int | None) -> None:
    """So much memory is available from now on."""
    monkeypatch.setattr(forecast, "available_memory", lambda: memory)


def need_of(count: int, **changes) -> int:
    found = forecast.forecast(tiny_scene(), resolve(replace(TrainConfig(device="cpu"), **changes)))
    return found.fixed + found.each * count


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize(("method", "moments"), [("nfr", "float32"), ("nfr", "bfloat16"), ("nfc-bitwise", "float32")])
def test_the_peak_of_a_training_and_its_results_is_near_what_was_said_of_it(
    tmp_path: Path, method: str, moments: str
) -> None:
    command = [sys.executable, "-c", PEAK, method, moments, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["gaussians"] == 120_000
    assert 0.8 <= found["need"] / found["took"] <= 1.3


def test_richer_gaussians_and_stored_gradients_need_more() -> None:
    assert need_of(10**6, sh_degree=0) < need_of(10**6, sh_degree=3) < need_of(10**6, method="nfc-te")
    assert need_of(10**6, method="nfc-te") < need_of(10**6, method="nfc-te", bit_view="full")
    assert need_of(10**6) < need_of(10**6, backend="torch"), "whose backward pass stores gradients"
    assert need_of(10**6) - need_of(10**6, adam_moments="bfloat16") == 4 * 59 * 10**6, "two moments of 59 numbers"


def test_where_everything_fits_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = []
    for name, memory in (("unknown", None), ("plenty", 10**12)):
        has(monkeypatch, memory)
        trainer = Trainer(tiny_scene(), replace(GROWING, max_gaussians=None), tmp_path / name, capture="tiny")
        trainer.train()
        assert trainer.config.max_gaussians == 30_000
        assert isinstance(trainer.model, GaussianModel)
        models.append({key: tensor.numpy().tobytes() for key, tensor in trainer.model.tensors().items()})
    assert models[0] == models[1]


def test_the_default_limit_is_lowered_to_what_fits_and_the_run_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    has(monkeypatch, need_of(20_000))
    config = TrainConfig(steps=5_000, device="cpu")
    trainer = Trainer(tiny_scene(), config, tmp_path / "run", capture="tiny")
    limit = trainer.config.max_gaussians
    assert 5_000 < limit < 20_000
    assert f"--max-gaussians is lowered from 30,000 to {limit:,}" in caplog.text
    assert trainer.forecast is not None and f"at most {limit:,} Gaussians" in str(trainer.forecast)
    assert f"max_gaussians: {limit}" in (tmp_path / "run" / "config.yaml").read_text()
    trainer.step()
    trainer.save()
    trainer.run.release()
    has(monkeypatch, 10**12)
    again = Trainer.resume(tmp_path / "run", scene=tiny_scene())
    assert again.config.max_gaussians == limit


def test_a_limit_that_cannot_fit_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, need_of(20_000))
    config = TrainConfig(steps=5_000, device="cpu", max_gaussians=30_000)
    with pytest.raises(UserError, match=r"30,000 Gaussians need .* available; take --max-gaussians \d+ or fewer"):
        Trainer(tiny_scene(), config, tmp_path / "run", capture="tiny")
    assert not (tmp_path / "run").exists()


def test_a_run_that_does_not_fit_here_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(tiny_scene(), TrainConfig(steps=5_000, device="cpu"), tmp_path / "run", capture="tiny")
    trainer.run.release()
    has(monkeypatch, need_of(20_000))
    with pytest.raises(UserError, match="close other programs, or go on where there is more memory"):
        Trainer.resume(tmp_path / "run", scene=tiny_scene())


def test_a_run_whose_growth_is_over_is_resumed_where_only_what_it_has_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_by_memory = replace(GROWING, max_gaussians=60_000, grow_factor=10.0, growth_end=0.0)
    refined = replace(GROWING, max_gaussians=60_000, grow_factor=10.0, refine=replace(GROWING.refine, stop=0.3))
    for name, config in (("memory", ended_by_memory), ("refined", refined)):
        has(monkeypatch, 10**12)
        trainer = Trainer(tiny_scene(), config, tmp_path / name, capture="tiny")
        monkeypatch.setattr(density, "growth_fits", lambda tensors, new: False)
        for _ in range(12):
            trainer.step()
        trainer.save()
        trainer.run.release()
        has(monkeypatch, need_of(1_000))
        again = Trainer.resume(tmp_path / name, scene=tiny_scene())
        assert again.forecast is not None and again.forecast.most == again.model.sizes()["gaussians"]


def test_a_given_limit_near_what_is_available_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    config = resolve(TrainConfig(device="cpu", max_gaussians=1_000))
    found = Forecast(fixed=0, each=1_000, most=1_000, available=1_100_000)
    assert fit_to_memory(found, config, given=True) == (found, config)
    assert "may just fit" in caplog.text
    caplog.clear()
    check_fits(replace(found, available=1_300_000))
    assert not caplog.records
    with pytest.raises(UserError):
        check_fits(replace(found, available=990_000))


def test_no_limit_is_chosen_where_hardly_a_gaussian_fits() -> None:
    found = Forecast(fixed=10**6, each=1_000, most=30_000, available=1_500_000)
    with pytest.raises(UserError, match=r"available; take smaller images"):
        fit_to_memory(found, resolve(TrainConfig(device="cpu")), given=False)


def test_what_fits_closely_is_not_refused_where_no_limit_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    config = resolve(TrainConfig(device="cpu"))
    found = Forecast(fixed=119_500_000, each=1_000, most=20_000, available=140_000_000)
    assert fit_to_memory(found, config, given=False) == (found, config)
    assert "may just fit" in caplog.text


def test_a_run_too_short_to_reach_its_limit_needs_no_memory_for_it() -> None:
    config = resolve(TrainConfig(device="cpu", steps=100, max_gaussians=10**9))
    assert largest_count(config, 1_000) < 10_000
    assert largest_count(replace(config, density="none"), 1_000) == 1_000
    assert largest_count(replace(config, steps=10**6), 1_000) == 10**9


@pytest.mark.parametrize("steps", [40, 200, 1_000])
def test_a_training_never_has_more_gaussians_than_was_said(tmp_path: Path, steps: int) -> None:
    config = TrainConfig(steps=steps, device="cpu", max_gaussians=2_000, eval_every=0.0, growth_end=0.0)
    trainer = Trainer(tiny_scene(), config, tmp_path / "run", capture="tiny")
    assert trainer.forecast is not None
    trainer.train()
    assert trainer.model.sizes()["gaussians"] <= trainer.forecast.most


@pytest.mark.parametrize("kind", ["mcmc", "adc"])
def test_growth_ends_when_memory_is_short_and_the_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: DensityName
) -> None:
    config = replace(GROWING, density=kind, adc=replace(GROWING.adc, grow_grad2d=0.0))
    trainer = Trainer(tiny_scene(), config, tmp_path / "run", capture="tiny")
    monkeypatch.setattr(density, "growth_fits", lambda tensors, new: False)
    trainer.train()
    assert trainer.model.sizes()["gaussians"] <= 30
    assert caplog.text.count("The memory is nearly used up: the training goes on with at most 30 Gaussians.") == 1
    phases = [line["phases"] for line in read_history(tmp_path / "run") if "phases" in line]
    assert phases[-1]["memory_limit"] == 30
    trainer.run.release()
    again = Trainer.resume(tmp_path / "run", scene=tiny_scene())
    assert again.training.parts()["density"].values["memory_limit"] == 30


def test_growth_asks_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"means": torch.zeros(1_000, 3)}
    for memory, fits in ((None, True), (10**9, True), (10_000, False)):
        has(monkeypatch, memory)
        assert forecast.growth_fits(tensors, 100) is fits


def test_the_memory_of_a_gpu_is_what_is_free_and_what_torch_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000, 9_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert free_gpu_memory("cuda") == 1_300


def test_everything_is_said_in_one_line() -> None:
    found = Forecast(fixed=10**8, each=2_000, most=1_000_000, available=7_800_000_000)
    assert str(found) == "Memory: about 2.1 GB more, of 7.8 GB available; at most 1,000,000 Gaussians."
    assert str(replace(found, available=None)) == "Memory: about 2.1 GB more; at most 1,000,000 Gaussians."
