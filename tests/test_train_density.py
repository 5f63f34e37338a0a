from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nfc_gs.core.rotation import quat_to_matrix
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.ops.operations import REFERENCE, Operations, operations_for
from nfc_gs.rendering.backend import SplatInfo
from nfc_gs.training import density_ops
from nfc_gs.training.config import AdcConfig, McmcConfig, RefineConfig, ResolvedConfig, TrainConfig
from nfc_gs.training.density import AdcControl, McmcControl, RefineClock, make_density_control
from nfc_gs.training.optimizers import VisibleAdam
from nfc_gs.training.resolve import resolve
from nfc_gs.training.schedules import generator_for

FAST = operations_for("cpu")

either = pytest.mark.parametrize("operations", [REFERENCE, FAST], ids=["reference", "fast"])


def make_model(n: int = 20, opacity: float = 0.5, scale: float = 0.1) -> GaussianModel:
    g = torch.Generator().manual_seed(0)
    return GaussianModel(
        {
            "means": torch.randn(n, 3, generator=g),
            "log_scales": math.log(scale) + 0.2 * torch.randn(n, 3, generator=g),
            "quats": torch.randn(n, 4, generator=g),
            "opacity_logits": torch.full((n,), math.log(opacity / (1 - opacity))),
            "sh_coeffs": torch.randn(n, 4, 3, generator=g),
        }
    )


def make_config(**changes: object) -> ResolvedConfig:
    refine = RefineConfig(every=1, every_at_least=1, start=0.0, stop=1.0)
    base = TrainConfig(preset="fast", steps=100, device="cpu", backend="torch", refine=refine, max_gaussians=40)
    return resolve(replace(base, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("opacity", [0.006, 0.1, 0.5, 0.9, 0.995])
@pytest.mark.parametrize("copies", [1, 2, 3, 10, 51])
def test_relocation_keeps_the_opacity_and_the_area_of_what_it_divides(opacity: float, copies: int) -> None:
    """Compose the copies by hand along a line through the centre and compare with the one that stood there."""
    old_scale = 0.3
    new_opacity, new_scale = density_ops.relocation(
        torch.tensor([opacity], dtype=torch.float64),
        torch.full((1, 3), old_scale, dtype=torch.float64),
        torch.tensor([copies]),
    )
    x = np.linspace(-3.0, 3.0, 20001)
    one = opacity * np.exp(-0.5 * (x / old_scale) ** 2)
    profile = new_opacity.item() * np.exp(-0.5 * (x / new_scale[0, 0].item()) ** 2)
    together = 1.0 - (1.0 - profile) ** copies
    assert together.max() == pytest.approx(opacity, rel=1e-9)
    assert together.sum() == pytest.approx(one.sum(), rel=1e-7)
    if copies == 1:
        assert new_scale[0, 0].item() == pytest.approx(old_scale, rel=1e-12)


def test_relocation_agrees_with_the_double_sum_of_the_paper() -> None:
    opacity, copies = 0.7, 9
    new_opacity, new_scale = density_ops.relocation(
        torch.tensor([opacity], dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64), torch.tensor([copies])
    )
    o = new_opacity.item()
    integral = sum(
        math.comb(i - 1, k) * (-1) ** k * o ** (k + 1) / math.sqrt(k + 1)
        for i in range(1, copies + 1)
        for k in range(i)
    )
    assert new_scale[0].tolist() == pytest.approx([opacity / integral] * 3, rel=1e-12)


def test_sampling_follows_the_weights_and_never_draws_a_weight_of_zero() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0, 4.0, 0.0])
    counts = torch.bincount(density_ops.sample_proportional(weights, 80_000, generator_for(0, "test", 0)), minlength=6)
    assert counts[[0, 3, 5]].tolist() == [0, 0, 0]
    expected = torch.tensor([1.0, 3.0, 4.0]) * 10_000
    chi2 = ((counts[[1, 2, 4]] - expected) ** 2 / expected).sum()
    assert chi2 < 13.8  # 0.1 % point of chi squared with 2 degrees of freedom


@either
def test_noise_moves_faint_gaussians_along_their_covariance_and_leaves_opaque_ones(operations: Operations) -> None:
    n, strength = 40_000, 2.0
    quat = torch.tensor([0.9, 0.1, -0.4, 0.3])
    log_scales = torch.tensor([0.3, 0.1, 0.02]).log()
    means = torch.zeros(n, 3)
    logits = torch.full((n,), -5.3)  # about the opacity of the dead
    logits[n // 2 :] = 2.0
    geometry = (means, quat.expand(n, 4), log_scales.expand(n, 3), logits)
    density_ops.mcmc_noise_(*geometry, strength, seed=1, step=7, operations=operations)
    assert not means[n // 2 :].any()

    opacity = torch.sigmoid(torch.tensor(-5.3, dtype=torch.float64))
    gate = torch.sigmoid(-100.0 * (opacity - 0.005))
    rotation = quat_to_matrix(quat.double())
    covariance = rotation @ torch.diag((2 * log_scales.double()).exp()) @ rotation.T
    expected = (gate * strength) ** 2 * covariance @ covariance.T
    measured = torch.cov(means[: n // 2].double().T)
    # 20 000 samples estimate a covariance to about 1 %; 5 % is far beyond chance
    torch.testing.assert_close(measured, expected, rtol=0, atol=0.05 * expected.abs().max().item())


@either
def test_noise_depends_on_seed_and_step_alone(operations: Operations) -> None:
    def noise(seed: int, step: int) -> torch.Tensor:
        means = torch.zeros(10, 3)
        geometry = (means, torch.ones(10, 4), torch.zeros(10, 3), torch.full((10,), -6.0))
        density_ops.mcmc_noise_(*geometry, 1.0, seed, step, operations)
        return means

    assert torch.equal(noise(3, 4), noise(3, 4))
    assert not torch.equal(noise(3, 4), noise(3, 5))
    assert not torch.equal(noise(3, 4), noise(4, 4))


@either
def test_a_quaternion_of_zero_gets_no_noise(operations: Operations) -> None:
    means = torch.zeros(1, 3)
    geometry = (means, torch.zeros(1, 4), torch.zeros(1, 3), torch.tensor([-6.0]))
    density_ops.mcmc_noise_(*geometry, 1.0, 0, 0, operations)
    assert means.isfinite().all()


def test_regulariser_gradients_are_those_of_autograd() -> None:
    model = make_model()
    (0.01 * model.opacities.sum() + 0.02 * model.scales.sum()).backward()
    grads = {name: torch.zeros_like(tensor) for name, tensor in model.tensors().items()}
    density_ops.add_regulariser_gradients_(model.tensors(), grads, 0.01, 0.02)
    assert model.opacity_logits.grad is not None and model.log_scales.grad is not None
    torch.testing.assert_close(grads["opacity_logits"], model.opacity_logits.grad)
    torch.testing.assert_close(grads["log_scales"], model.log_scales.grad)


def test_a_split_puts_two_smaller_ones_where_the_old_one_was() -> None:
    model = make_model(3)
    rows = torch.tensor([2]).repeat(2000)
    halves = density_ops.split(model.tensors(), rows, generator_for(0, "split", 0))
    assert halves["means"].shape == (4000, 3)
    offsets = (halves["means"] - model.means[2]).detach().double()
    rotation = quat_to_matrix(model.quats[2].detach().double())
    covariance = rotation @ torch.diag((2 * model.log_scales[2].detach().double()).exp()) @ rotation.T
    # 4 000 samples: a few per cent
    torch.testing.assert_close(torch.cov(offsets.T), covariance, rtol=0, atol=0.1 * covariance.abs().max().item())
    torch.testing.assert_close(halves["log_scales"].exp() * 1.6, model.scales[2].detach().expand(4000, 3))


def test_the_clock_refines_every_so_many_steps_and_more_often_in_a_short_run() -> None:
    def times(steps: int) -> list[int]:
        clock = RefineClock(RefineConfig(every=100, every_at_least=20, every_fraction=0.01, start=0.1, stop=0.5), 0.5)
        return [step for step in range(1, steps + 1) if clock.due(step, step / steps)]

    long = times(30_000)
    assert (long[0], long[1], long[-1]) == (3000, 3100, 15_000)
    short = times(500)
    assert short == list(range(50, 251, 20))
    assert times(5000)[:3] == [500, 550, 600]


def test_mcmc_moves_the_dead_to_the_living_and_resets_their_moments() -> None:
    model = make_model(20)
    model.opacity_logits.data[:5] = -8.0
    optimizer = VisibleAdam(model.tensors())
    for tensor in optimizer.state().values():
        tensor.fill_(1.0)
    config = make_config(mcmc=McmcConfig(noise=0.0), growth_end=0.5, max_gaussians=20)
    control = McmcControl(config, model, optimizer, 1.0, FAST)
    before = {name: tensor.clone() for name, tensor in model.tensors().items()}
    control.act(1, 0.01, 1e-4)
    assert len(model) == 20
    assert bool((model.opacities > 0.005).all())
    here = (model.means.detach() == before["means"][:, None]).all(2)  # [before, now]: they have changed their order
    assert not here[:5].any(), "the dead are where they were"
    assert here[5:].any(1).all() and int(here.sum()) == 20, "no other one has moved"
    sources = here.long().argmax(0)  # [now] where each was before, or the one that it was moved to
    counts = here.sum(1)[sources]  # [now] how many are at that place
    twins = counts > 1
    assert int((counts[twins] - 1.0).div(counts[twins]).sum().round()) == 5
    logits, opacity_before = model.opacity_logits.detach(), before["opacity_logits"][sources]
    assert bool((logits[twins] < opacity_before[twins]).all()) and torch.equal(logits[~twins], opacity_before[~twins])
    for place in sources[twins].unique():
        assert len(logits[sources == place].unique()) == 1
    assert not optimizer.m["means"][twins].any() and bool((optimizer.v["means"][~twins] == 1.0).all())


def test_mcmc_grows_by_its_share_up_to_the_curve_and_the_cap() -> None:
    model = make_model(20)
    optimizer = VisibleAdam(model.tensors())
    control = McmcControl(make_config(growth_end=0.5, grow_factor=0.2), model, optimizer, 1.0, FAST)
    counts = []
    for step in range(1, 101):
        control.act(step, step / 100, 1e-6)
        counts.append(len(model))
        assert optimizer.m["sh_coeffs"].shape == model.sh_coeffs.shape
        assert optimizer.params["means"].data_ptr() == model.means.data_ptr()
    assert counts[0] == 20  # the curve has hardly begun
    assert counts[24] == 30  # half of the way to 40 at half of the time
    assert max(counts) == counts[-1] == 40


def test_mcmc_with_every_gaussian_dead_goes_on() -> None:
    model = make_model(6, opacity=0.001)
    control = McmcControl(make_config(max_gaussians=6), model, VisibleAdam(model.tensors()), 1.0, FAST)
    control.act(1, 0.01, 1e-4)
    assert len(model) == 6 and bool(model.means.isfinite().all())


def observation(grads: torch.Tensor) -> SplatInfo:
    n = len(grads)
    return SplatInfo(
        radii=torch.ones(n, 2, dtype=torch.int32),
        means2d=torch.zeros(n, 2),
        means2d_grad=torch.zeros(n, 2),
        means2d_absgrad=grads,
    )


def make_adc(model: GaussianModel, **changes: object) -> AdcControl:
    config = make_config(density="adc", adc=AdcConfig(**changes))  # type: ignore[arg-type]
    return AdcControl(config, model, VisibleAdam(model.tensors()), 1.0, FAST)


def test_adc_clones_small_and_splits_large_gaussians_of_high_gradient() -> None:
    model = make_model(6, scale=0.1)
    model.log_scales.data[0] = math.log(0.001)
    control = make_adc(model, grow_scale3d=0.01)
    grads = torch.zeros(6, 2)
    grads[0] = grads[3] = torch.tensor([1e-3, 0.0])  # x 16 in normalised units of a 32 pixel wide image
    control.observe(observation(grads), 32, 24)
    old = model.means.detach().clone()
    control.act(1, 0.01, 1e-4)
    assert len(model) == 8  # 6 + a clone + two halves - the split one
    means = model.means.detach()
    assert int((means == old[0]).all(1).sum()) == 2
    assert int((means == old[3]).all(1).sum()) == 0
    assert all(control.optimizer.m[name].shape == tensor.shape for name, tensor in model.tensors().items())
    assert len(control.tensors()["grad2d"]) == 8 and not control.tensors()["grad2d"].any()


def test_adc_leaves_gradients_below_the_threshold_alone() -> None:
    model = make_model(6)
    control = make_adc(model)
    control.observe(observation(torch.full((6, 2), 1e-5)), 32, 24)
    assert len(model) == 6
    control.act(1, 0.01, 1e-4)
    assert len(model) == 6


def test_adc_takes_the_highest_gradients_when_room_is_short() -> None:
    model = make_model(38, scale=0.001)
    control = make_adc(model)
    grads = torch.linspace(1e-3, 1e-2, 38)[:, None].repeat(1, 2)
    control.observe(observation(grads), 32, 24)
    old = model.means.detach().clone()
    control.act(1, 0.01, 1e-4)
    assert len(model) == 40
    copies = (model.means.detach() == old[:, None]).all(2).sum(1)
    assert copies.tolist() == [1] * 36 + [2] * 2


def test_adc_prunes_the_faint_and_after_a_reset_the_huge() -> None:
    model = make_model(6, scale=0.03)
    model.opacity_logits.data[1] = -8.0
    model.log_scales.data[2] = math.log(0.5)
    control = make_adc(model, reset_every=0.3, reset_at_least=1)
    huge = model.means[2].detach().clone()
    for step, progress in ((1, 0.01), (2, 0.3)):  # after the second one opacities are reset
        control.act(step, progress, 1e-4)
        assert len(model) == 5 and bool((model.means == huge).all(1).any())
    control.act(3, 0.31, 1e-4)
    assert len(model) == 4 and not bool((model.means == huge).all(1).any())


def test_adc_never_removes_the_last_gaussian(caplog: pytest.LogCaptureFixture) -> None:
    model = make_model(3, opacity=0.001)
    make_adc(model).act(1, 0.01, 1e-4)
    assert len(model) == 3
    assert "none is removed" in caplog.text


def test_adc_resets_opacities_after_each_part_of_the_run_but_not_too_often() -> None:
    def resets(steps: int, at_least: int) -> list[int]:
        model = make_model(2)
        control = make_adc(model, reset_every=0.1, reset_at_least=at_least, stop=0.5)
        found = []
        for step in range(1, steps + 1):
            model.opacity_logits.data.fill_(1.0)
            control.act(step, step / steps, 1e-4)
            if bool((model.opacities < 0.0101).all()):
                found.append(step)
        return found

    assert resets(100, 1) == [10, 20, 30, 40]
    assert resets(100, 25) == [25]


def test_statistics_survive_saving() -> None:
    model = make_model(5)
    control = make_adc(model)
    control.observe(observation(torch.rand(5, 2)), 32, 24)
    control.clock.due(1, 0.01)
    other = make_adc(make_model(5))
    other.load({name: tensor.clone() for name, tensor in control.tensors().items()}, control.state())
    assert other.state() == control.state()
    assert torch.equal(other.tensors()["grad2d"], control.tensors()["grad2d"])


def test_even_a_few_gaussians_grow() -> None:
    model = make_model(3)
    control = McmcControl(
        make_config(max_gaussians=50, grow_factor=0.05), model, VisibleAdam(model.tensors()), 1.0, FAST
    )
    control.act(100, 0.9, 1e-4)
    assert len(model) == 4


def test_the_order_of_morton_goes_through_octants_within_octants() -> None:
    corners = torch.tensor([[x, y, z] for z in (0.0, 1.0) for y in (0.0, 1.0) for x in (0.0, 1.0)])
    finer = (corners[:, None] * 2.0 + corners).reshape(-1, 3)  # [64, 3] in order, coarse cells first
    shuffle = torch.randperm(64, generator=generator_for(0, "test", 2))
    order = density_ops.morton_order(finer[shuffle] * 7.0 - 3.0)
    assert torch.equal(finer[shuffle][order], finer)


def test_the_order_of_morton_keeps_rows_and_takes_what_is_not_finite_first() -> None:
    means = torch.tensor([[1.0, 1.0, 1.0], [0.0, math.nan, 0.0], [1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
    assert density_ops.morton_order(means).tolist() == [1, 3, 0, 2]
    assert density_ops.morton_order(means[:, :1].expand(-1, 3)[:1]).tolist() == [0]
    assert density_ops.morton_order(torch.full((3, 3), math.nan)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["mcmc", "adc"])
def test_refining_puts_neighbours_side_by_side_with_their_moments(kind: str) -> None:
    model = make_model(20)
    optimizer = VisibleAdam(model.tensors())
    optimizer.m["means"].copy_(model.means.detach())
    config = make_config(density=kind, max_gaussians=20, mcmc=McmcConfig(noise=0.0), adc=AdcConfig(prune_opacity=0.0))
    before = model.means.detach().clone()
    make_density_control(config, model, optimizer, 1.0, FAST).act(1, 0.01, 1e-4)
    order = density_ops.morton_order(before)
    assert not torch.equal(order, torch.arange(20))
    assert torch.equal(model.means.detach(), before[order]) and torch.equal(optimizer.m["means"], before[order])


def test_a_broken_opacity_is_never_drawn_and_counts_as_dead() -> None:
    weights = torch.tensor([0.5, math.nan, 0.5, 0.0])
    draws = density_ops.sample_proportional(weights, 200, generator_for(0, "test", 1))
    assert set(draws.tolist()) == {0, 2}
    model = make_model(6)
    with torch.no_grad():
        model.opacity_logits[2] = math.nan
    control = McmcControl(make_config(), model, VisibleAdam(model.tensors()), 1.0, FAST)
    control.act(100, 0.5, 1e-4)
    assert bool(model.opacity_logits.isfinite().all())
