"""From the configuration a user writes to the one that is saved; and what follows from it for each step."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from tiny_scenes import tiny_scene

from nfc_gs.core.errors import UserError
from nfc_gs.data.config import DataConfig
from nfc_gs.model.gaussians import GEOMETRY
from nfc_gs.model.heads.registry import HEADS
from nfc_gs.model.hexplane import HexPlaneConfig
from nfc_gs.objective.objective import ObjectiveConfig
from nfc_gs.objective.presets import LAMBDA, METHODS, ObjectiveOptions
from nfc_gs.objective.terms import TERMS, Term
from nfc_gs.training import resolve as resolving
from nfc_gs.training.config import AdcConfig, LearningRates, McmcConfig, RefineConfig, ResolvedConfig, TrainConfig
from nfc_gs.training.resolve import affordable_gaussians, evaluation_background, parse_duration, resolve
from nfc_gs.training.schedules import (
    MIN_SIDE,
    early_progress,
    gaussian_cap,
    generator_for,
    learning_rates,
    progress_of,
    resolution_divisor,
    seed_for,
    sh_degree_at,
)

CPU = TrainConfig(device="cpu")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("120s", 120), ("3m", 180), ("1h", 3600), ("90", 90), ("1h30m", 5400), (" 1.5 min ", 90), (".5s", 0.5)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_a_bare_number_in_a_duration_counts_seconds() -> None:
    assert parse_duration("5s5") == 10


@pytest.mark.parametrize("text", ["", "soon", "3 parsecs", "-5s", "0s", "1h-3m", "nan", "inf", "1e3s"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match="not a time budget; write for example 120s, 3m or 1h"):
        parse_duration(text)


def test_the_preset_fills_in_what_is_left_out_and_nothing_else() -> None:
    fast, own = resolve(CPU), resolve(replace(CPU, steps=77, max_gaussians=5, sh_degree=0))
    assert fast.preset == "fast" and fast.backend == "cpu"
    assert fast.steps is not None and fast.steps > 77
    assert (own.steps, own.max_gaussians, own.sh_degree) == (77, 5, 0)
    assert own.coarse_factor == fast.coarse_factor


def test_the_paper_preset_has_the_numbers_of_the_papers() -> None:
    paper = resolve(replace(CPU, preset="paper"))
    assert paper.steps == 30_000
    assert paper.coarse_factor == 1
    assert (paper.objective.l1, paper.objective.ssim) == (0.8, 0.2)
    rates = paper.rates
    assert (paper.means_factor, paper.rate_factor) == (1.0, 1.0)
    assert (rates.means, rates.means_final, rates.sh0, rates.sh_rest) == (1.6e-4, 1.6e-6, 2.5e-3, 1.25e-4)
    assert (rates.opacities, rates.scales, rates.quats) == (5e-2, 5e-3, 1e-3)
    assert (paper.mcmc.noise, paper.mcmc.opacity_reg, paper.mcmc.scale_reg) == (5e5, 0.01, 0.01)
    assert paper.grow_factor == 0.05
    assert gaussian_cap(paper, 0.0, 100) == paper.max_gaussians
    assert [sh_degree_at(paper, step / 30_000) for step in (0, 999, 1000, 2000, 3000)] == [0, 0, 1, 2, 3]


def test_a_time_budget_affords_fewer_gaussians_that_move() -> None:
    budget = replace(CPU, time_budget="5m", max_gaussians=None)
    static, moving = resolve(budget).max_gaussians, resolve(budget, moves=True).max_gaussians
    assert 0 < moving < 0.5 * static
    assert resolve(replace(budget, motion="none"), moves=True).max_gaussians == static
    assert resolve(replace(budget, max_gaussians=77), moves=True).max_gaussians == 77


def test_a_resolved_configuration_survives_json() -> None:
    resolved = resolve(replace(CPU, time_budget="3m", rates=LearningRates(means=0.1 + 0.2)))
    assert ResolvedConfig.from_dict(json.loads(json.dumps(resolved.to_dict()))) == resolved


def test_a_saved_configuration_with_other_fields_is_refused() -> None:
    values = resolve(CPU).to_dict()
    values["rates"]["warp"] = 9
    with pytest.raises(UserError, match=r"rates\.warp"):
        ResolvedConfig.from_dict(values)
    with pytest.raises(UserError, match="does not fit this version"):
        ResolvedConfig.from_dict({"preset": "fast"})


@pytest.mark.parametrize("part", ["", "objective", "rates", "refine", "mcmc", "adc", "deformation", "hexplane", "mlp"])
def test_a_saved_configuration_has_every_field(part: str) -> None:
    saved = resolve(CPU).to_dict()
    for name in saved[part] if part else saved:
        values = json.loads(json.dumps(saved))
        del (values[part] if part else values)[name]
        with pytest.raises(UserError, match="does not fit this version of nfc-gs") as error:
            ResolvedConfig.from_dict(values)
        assert (f"field {part}.{name})" if part else name) in str(error.value)


def test_a_saved_configuration_with_an_odd_part_is_refused() -> None:
    values = resolve(CPU).to_dict()
    for odd in (None, 3, [], "all"):
        with pytest.raises(UserError, match=r"does not fit this version of nfc-gs \(field rates\."):
            ResolvedConfig.from_dict({**values, "rates": odd})


def test_a_resolved_configuration_has_steps_or_a_budget_in_seconds() -> None:
    by_steps, by_time = resolve(replace(CPU, steps=200)), resolve(replace(CPU, time_budget="1m40s"))
    assert (by_steps.steps, by_steps.budget_seconds) == (200, None)
    assert (by_time.steps, by_time.budget_seconds, by_time.time_budget) == (None, 100.0, "1m40s")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "--steps is 0, but must be at least 1"),
        ({"steps": 5, "time_budget": "1m"}, "exclude each other"),
        ({"max_gaussians": 0}, "--max-gaussians"),
        ({"sh_degree": 4}, "--sh-degree is 4, but must be between 0 and 3"),
        ({"seed": -1}, "--seed"),
        ({"coarse_factor": 3}, "--coarse-factor"),
        ({"eval_every": 1.5}, "--eval-every is 1.5, but is a fraction"),
        ({"init_opacity": 1.0}, "--init-opacity"),
        ({"rate_factor": 0.0}, "--rate-factor"),
        ({"checkpoint_every": -1.0}, "must not be negative"),
        ({"backend": "gpu"}, "There is no backend 'gpu'"),
        ({"backend": "gsplat"}, "'gsplat' does not work on the device 'cpu'"),
        ({"device": "tpu"}, "There is no device 'tpu'"),
        ({"refine": RefineConfig(every=0)}, "--refine.every is 0, but is a number of steps: at least 1"),
        ({"refine": RefineConfig(stop=1.5)}, "--refine.stop is 1.5, but is a fraction of the run"),
        ({"mcmc": McmcConfig(noise=math.inf)}, "--mcmc.noise is inf, but must be 0 or a positive number"),
        ({"adc": AdcConfig(grow_grad2d=-1.0)}, "--adc.grow-grad2d is -1.0, but must be 0 or a positive number"),
        ({"adc": AdcConfig(reset_every=math.nan)}, "--adc.reset-every is nan, but is a fraction of the run"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(replace(CPU, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "name", "value", "expected"),
    [
        (TrainConfig, "steps", "abc", "a whole number or None"),
        (TrainConfig, "steps", 100.0, "a whole number or None"),
        (TrainConfig, "steps", True, "a whole number or None"),
        (TrainConfig, "seed", None, "a whole number"),
        (TrainConfig, "sh_ramp", "0.1", "a number"),
        (TrainConfig, "antialiased", 1, "True or False"),
        (TrainConfig, "time_budget", 180, "text or None"),
        (TrainConfig, "preset", "slow", "one of 'auto', 'fast', 'quality', 'paper'"),
        (TrainConfig, "background", "pink", "one of 'auto', 'black', 'white', 'random'"),
        (TrainConfig, "density", "more", "one of 'mcmc', 'adc', 'none'"),
        (TrainConfig, "method", "nfx", "one of 'nfr', 'nfc', 'nfc-te', 'nfc-bitwise'"),
        (TrainConfig, "head", "nn", "one of 'sh', 'bits' or None"),
        (TrainConfig, "bit_view", "half", "one of 'shared', 'full'"),
        (TrainConfig, "refine", {"every": 5}, "a RefineConfig"),
        (RefineConfig, "every", 2.5, "a whole number"),
        (LearningRates, "means", "fast", "a number"),
        (HexPlaneConfig, "levels", (1, "2"), "a tuple of whole numbers"),
        (HexPlaneConfig, "levels", 2, "a tuple of whole numbers"),
        (ObjectiveOptions, "l1", "0.8", "a number or None"),
        (ObjectiveOptions, "extra", {"edges": "much"}, "a dictionary of numbers by name"),
        (ObjectiveOptions, "extra", 0.5, "a dictionary of numbers by name"),
        (DataConfig, "background", (1.0, 1.0), "a tuple of 3 numbers or None"),
        (DataConfig, "downscale", (2, 2), "text"),
        (DataConfig, "frame_stride", "2", "a whole number"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_when_the_configuration_is_made(
    kind: type, name: str, value: object, expected: str
) -> None:
    sentence = f"{kind.__name__}({name}={value!r}): {name} must be {expected}."
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        kind(**{name: value})


def test_a_long_value_of_the_wrong_kind_is_cut_short() -> None:
    with pytest.raises(UserError, match="steps must be a whole number") as error:
        TrainConfig(steps="x" * 100_000)  # type: ignore[arg-type]
    assert len(str(error.value)) < 200


def test_numbers_of_numpy_are_taken_and_saved_as_plain_ones() -> None:
    options = {"steps": np.int64(70), "sh_ramp": np.float32(0.25), "eval_every": 0, "antialiased": np.bool_(True)}
    config = TrainConfig(device="cpu", **options, rates=LearningRates(means=np.float64(1e-3)))
    values = resolve(config).to_dict()
    assert (values["steps"], values["sh_ramp"], values["eval_every"], values["antialiased"]) == (70, 0.25, 0, True)
    kinds = {name: type(values[name]) for name in options} | {"means": type(values["rates"]["means"])}
    assert kinds == {"steps": int, "sh_ramp": float, "eval_every": int, "antialiased": bool, "means": float}
    assert DataConfig(background=np.ones(3)).background == (1.0, 1.0, 1.0)
    assert DataConfig(background=[0, 0.5, 1]).background == (0, 0.5, 1)  # type: ignore[arg-type]
    assert HexPlaneConfig(levels=[1, 2, 4]).levels == (1, 2, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "head", "weights"),
    [
        ("nfr", "sh", {}),
        ("nfc", "sh", {"ce": LAMBDA}),
        ("nfc-te", "bits", {"ce": LAMBDA}),
        ("nfc-bitwise", "bits", {"bit_ce": LAMBDA}),
    ],
)
def test_a_method_is_a_head_and_weights(method: str, head: str, weights: dict[str, float]) -> None:
    resolved = resolve(replace(CPU, method=method))  # type: ignore[arg-type]
    assert (resolved.method, resolved.head) == (method, head)
    assert resolved.objective == ObjectiveConfig(**weights)
    assert (resolved.bit_view, resolved.bit_hardness) == ("shared", 0.0)


def test_every_method_is_tested_above_and_regression_is_the_default() -> None:
    assert set(METHODS) == {"nfr", "nfc", "nfc-te", "nfc-bitwise"} and LAMBDA > 0
    assert resolve(CPU).method == "nfr" and resolve(CPU).objective == ObjectiveConfig()


@pytest.mark.parametrize("name", [f.name for f in fields(ObjectiveConfig) if f.name != "extra"])
@pytest.mark.parametrize("method", ["nfr", "nfc-bitwise"])
def test_every_number_of_the_objective_can_be_set_and_beats_the_method(name: str, method: str) -> None:
    config = replace(CPU, method=method, head="bits", objective=ObjectiveOptions(**{name: 0.25}))  # type: ignore
    plain = resolve(replace(config, objective=ObjectiveOptions())).objective
    assert resolve(config).objective == replace(plain, **{name: 0.25}) != plain


def test_a_registered_term_has_its_weight_in_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CPU, method="nfc", objective=ObjectiveOptions(extra={"edges": 0.25}))
    with pytest.raises(UserError, match=r"There is no term 'edges' of the objective, only l1, "):
        resolve(config)
    monkeypatch.setitem(TERMS, "edges", Term(lambda comparison: comparison.rendered.mean()))
    resolved = resolve(config)
    assert resolved.objective == ObjectiveConfig(ce=LAMBDA, extra={"edges": 0.25})
    assert resolved.objective.weights()["edges"] == 0.25
    assert ResolvedConfig.from_dict(json.loads(json.dumps(resolved.to_dict()))) == resolved
    with pytest.raises(UserError, match=r"--objective\.extra edges is -1\.0, but must be 0 or a positive number\."):
        resolve(replace(CPU, objective=ObjectiveOptions(extra={"edges": -1.0})))


def test_a_weight_of_zero_is_kept() -> None:
    resolved = resolve(replace(CPU, method="nfc-te", objective=ObjectiveOptions(ce=0.0)))
    assert resolved.objective.ce == 0.0 and resolved.head == "bits"


def test_the_objective_has_the_fields_of_its_options() -> None:
    assert [f.name for f in fields(ObjectiveOptions)] == [f.name for f in fields(ObjectiveConfig)]


def test_the_head_of_a_method_can_be_another() -> None:
    resolved = resolve(replace(CPU, method="nfc", head="bits", bit_view="full", bit_hardness=0.5))
    assert (resolved.head, resolved.bit_view, resolved.bit_hardness) == ("bits", "full", 0.5)
    assert resolved.objective.ce == LAMBDA
    assert resolve(replace(CPU, method="nfc-te", head="sh")).head == "sh"


@pytest.mark.parametrize(
    ("changes", "objective", "message"),
    [
        ({"bit_hardness": 1.01}, {}, r"--bit-hardness is 1\.01, but must be between 0 and 1\."),
        ({"bit_hardness": math.nan}, {}, r"--bit-hardness is nan, but must be between 0 and 1\."),
        ({}, {"l1": -0.1}, r"--objective\.l1 is -0\.1, but must be 0 or a positive number\."),
        ({"head": "bits"}, {"bit_ce": math.inf}, r"--objective\.bit-ce is inf, but must be 0 or a positive number\."),
        ({}, {"mse": math.nan}, r"--objective\.mse is nan, but must be 0 or a positive number\."),
        ({}, {"ce_eps": 0.0}, r"--objective\.ce-eps is 0\.0, but must lie between 0\.000001 and 0\.5\."),
        ({}, {"ce_eps": 0.5}, r"--objective\.ce-eps is 0\.5, but must lie between 0\.000001 and 0\.5\."),
        ({}, {"ce_from": 0.5, "ce_until": 0.5}, r"--objective\.ce-from and --objective\.ce-until .* in this order\."),
        ({}, {"ce_from": -0.1}, r"--objective\.ce-from and --objective\.ce-until must be fractions"),
        ({}, {"ce_until": 1.1}, r"--objective\.ce-from and --objective\.ce-until must be fractions"),
        ({}, {"l1": 0.0, "ssim": 0.0, "ce": 1.0, "ce_until": 0.5}, r"cross entropy must act all the time; .*-until\."),
        ({"bit_view": "full"}, {}, r"--bit-view and --bit-hardness are about the bit head; add --head bits"),
        ({"bit_hardness": 0.5}, {}, r"--bit-view and --bit-hardness are about the bit head; add --head bits"),
        ({}, {"bit_ce": 0.1}, r"--objective\.bit-ce compares bits, .*; add --head bits\."),
        ({"method": "nfc-bitwise", "head": "sh"}, {}, r"--objective\.bit-ce compares bits, .*; add --head bits\."),
        ({"method": "nfc-bitwise", "density": "adc"}, {}, r"--density adc .* draws 24; choose --density mcmc\."),
    ],
)
def test_an_objective_that_makes_no_sense_is_told_in_one_sentence(
    changes: dict[str, object], objective: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        resolve(replace(CPU, **changes, objective=ObjectiveOptions(**objective)))  # type: ignore[arg-type]
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_bits_go_with_adc_as_long_as_they_are_decoded() -> None:
    assert resolve(replace(CPU, method="nfc-te", density="adc")).density == "adc"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_asking_for_a_gpu_where_there_is_none_says_what_to_do() -> None:
    with pytest.raises(UserError, match="torch sees no GPU here; use --device cpu"):
        resolve(TrainConfig(device="cuda"))


def test_the_number_of_a_gpu_stays_in_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "choose_device_and_backend", lambda device, backend: (device, "cuda"))
    resolved = resolve(TrainConfig(device="cuda:1"))
    assert (resolved.device, resolved.backend, resolved.preset) == ("cuda:1", "cuda", "quality")
    assert ResolvedConfig.from_dict(resolved.to_dict()) == resolved


def test_held_out_views_are_measured_on_the_background_of_the_configuration_or_the_capture() -> None:
    scene = tiny_scene()
    on_grey = replace(scene, background=(0.5, 0.5, 0.5))
    for name, plain, grey in (
        ("auto", (0.0, 0.0, 0.0), (0.5, 0.5, 0.5)),
        ("black", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ("white", (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
        ("random", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ):
        config = resolve(replace(CPU, background=name))  # type: ignore[arg-type]
        assert (evaluation_background(config, scene), evaluation_background(config, on_grey)) == (plain, grey)


def test_progress_follows_the_steps_or_the_time() -> None:
    by_steps = resolve(replace(CPU, steps=200))
    assert progress_of(by_steps, 50, 1e9) == 0.25
    by_time = resolve(replace(CPU, time_budget="100s"))
    assert by_time.steps is None
    assert progress_of(by_time, 10**9, 25.0) == 0.25
    assert progress_of(by_time, 0, 1000.0) == 1.0


def test_images_grow_to_full_size_in_equal_parts_of_the_time() -> None:
    config = resolve(replace(CPU, coarse_factor=4, full_resolution_at=0.4))
    divisors = [resolution_divisor(config, p, 640, 480) for p in (0.0, 0.19, 0.2, 0.39, 0.4, 1.0)]
    assert divisors == [4, 4, 2, 2, 1, 1]


def test_a_long_run_ends_the_early_phases_as_a_short_one() -> None:
    config = resolve(replace(CPU, preset="fast", steps=30_000, full_resolution_at=0.4, sh_ramp=0.2))
    earlies = [early_progress(config, step, step / 30_000) for step in (0, 600, 1200, 3000, 9000)]
    assert earlies == [0.0, 0.2, 0.4, 1.0, 1.0]
    assert [resolution_divisor(config, early, 640, 480) for early in earlies] == [4, 2, 1, 1, 1]
    assert [sh_degree_at(config, early) for early in earlies] == [0, 3, 3, 3, 3]
    short = resolve(replace(CPU, preset="fast", steps=300))
    assert early_progress(short, 30, 0.1) == 0.1


def test_the_factor_of_the_centres_rate_fades_within_the_early_steps() -> None:
    config = resolve(replace(CPU, preset="fast", steps=30_000, means_factor=16.0, rate_factor=2.0))
    without = replace(config, means_factor=1.0)
    for step, factor in ((0, 16.0), (1500, 4.0), (3000, 1.0), (15_000, 1.0), (30_000, 1.0)):
        progress = step / 30_000
        early = early_progress(config, step, progress)
        means = [learning_rates(each, progress, early, 1.0)["means"] for each in (config, without)]
        assert means[0] == pytest.approx(factor * means[1], rel=1e-9)
    short = replace(config, steps=3000)
    middle = learning_rates(short, 0.5, early_progress(short, 1500, 0.5), 1.0)["means"]
    assert middle == pytest.approx(math.sqrt(16.0 * 1.6e-4 * 2.0 * 1.6e-6))


def test_small_images_are_made_less_coarse() -> None:
    config = resolve(replace(CPU, coarse_factor=8, full_resolution_at=0.4))
    assert resolution_divisor(config, 0.0, 1000, 8 * MIN_SIDE) == 8
    assert resolution_divisor(config, 0.0, 1000, 8 * MIN_SIDE - 1) == 4
    assert resolution_divisor(config, 0.0, 2 * MIN_SIDE, 1000) == 2
    assert resolution_divisor(config, 0.0, 50, 40) == 1


def test_a_longer_budget_affords_more_gaussians_on_a_cpu() -> None:
    numbers = [resolve(replace(CPU, steps=None, time_budget=t)).max_gaussians for t in ("1m", "3m", "10m")]
    assert numbers[0] == 30_000 and numbers == sorted(set(numbers))
    assert numbers == [affordable_gaussians(seconds) for seconds in (60.0, 180.0, 600.0)]
    assert resolve(replace(CPU, steps=None, time_budget="10m", max_gaussians=7)).max_gaussians == 7


def test_no_coarse_phase_means_full_size_at_once() -> None:
    assert resolution_divisor(resolve(replace(CPU, full_resolution_at=0.0)), 0.0, 640, 480) == 1
    assert resolution_divisor(resolve(replace(CPU, coarse_factor=1)), 0.0, 640, 480) == 1


def test_the_number_of_gaussians_follows_its_curve() -> None:
    config = resolve(replace(CPU, max_gaussians=1000, growth_end=0.5))
    assert [gaussian_cap(config, p, 200) for p in (0.0, 0.25, 0.5, 0.9)] == [200, 600, 1000, 1000]
    assert gaussian_cap(config, 0.1, 5000) == 1000


def test_the_rate_of_the_centres_falls_a_hundredfold_and_scales_with_the_scene() -> None:
    rates = resolve(replace(CPU, preset="paper"))
    assert learning_rates(rates, 0.0, 0.0, 2.0)["means"] == pytest.approx(3.2e-4, rel=1e-12)
    assert learning_rates(rates, 0.5, 0.5, 1.0)["means"] == pytest.approx(1.6e-5, rel=1e-9)
    assert learning_rates(rates, 1.0, 1.0, 1.0)["means"] == pytest.approx(1.6e-6, rel=1e-9)
    assert learning_rates(rates, 0.7, 0.7, 3.0)["sh_coeffs"] == (2.5e-3, 1.25e-4, 3)


def test_a_short_run_may_have_higher_rates() -> None:
    config = resolve(replace(CPU, means_factor=10.0, rate_factor=3.0))
    first, last = learning_rates(config, 0.0, 0.0, 1.0), learning_rates(config, 1.0, 1.0, 1.0)
    assert first["means"] == pytest.approx(1.6e-3) and last["means"] == pytest.approx(4.8e-6)
    assert first["sh_coeffs"] == pytest.approx((7.5e-3, 3.75e-4, 3))
    assert (first["opacity_logits"], first["quats"]) == pytest.approx((5e-2, 3e-3))


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_of_a_head_has_a_rate(head: str) -> None:
    rates = learning_rates(resolve(replace(CPU, rate_factor=3.0)), 0.5, 0.5, 1.0)
    assert {*GEOMETRY, *HEADS[head].parameters} <= set(rates)


def test_the_rates_of_bits_are_set_by_name_and_follow_the_factor() -> None:
    config = resolve(replace(CPU, rate_factor=3.0, rates=LearningRates(bits=0.01, bit_shifts=0.002)))
    rates = learning_rates(config, 0.5, 0.5, 2.0)
    assert (rates["bit_logits"], rates["bit_shifts"]) == pytest.approx((0.03, 0.006))


def test_random_numbers_depend_on_seed_purpose_and_step_alone() -> None:
    seeds = {seed_for(seed, purpose, step) for seed in range(3) for purpose in ("a", "b") for step in range(3)}
    assert len(seeds) == 18
    assert seed_for(1, "grow", 2) == seed_for(1, "grow", 2)
    draws = [torch.rand(3, generator=generator_for(0, "x", 1)) for _ in range(2)]
    assert torch.equal(*draws)
