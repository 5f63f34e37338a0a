"""tools/paper/tables.py: statistics, conditions, keys, interruption, tables and report."""

from __future__ import annotations

import itertools
import json
import math
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tool_modules import load

from nfc_gs.core.errors import UserError
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData
from nfc_gs.ops import native
from nfc_gs.training.config import TrainConfig

bands, experiments = load("paper/frequency_bands"), load("paper/experiments")
jobs, stats = load("paper/jobs"), load("paper/stats")
report, tables = load("paper/report"), load("paper/tables")

trains = pytest.mark.skipif(not native.available(), reason="the compiled core is not built")

COMMON = TrainConfig(preset="fast", density="mcmc", steps=12, max_gaussians=200, device="cpu", backend="torch")
BASE = experiments.Variant("nfr")
STRONG = experiments.Variant("strong", {"mcmc.opacity_reg": 0.1})


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of 40 x 30 pixels."""
    return write_capture(tmp_path_factory.mktemp("paper") / "still", views=8, width=40, height=30)


@pytest.fixture
def scene(capture: Path) -> SceneData:
    return load_scene(capture, DataConfig(downscale="1"))


@pytest.fixture
def command(capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command on the small capture with two quick experiments, `one` and `two`, that share a job."""
    monkeypatch.setitem(experiments.EXPERIMENTS, "one", experiments.Experiment("One?", (BASE, STRONG)))
    two = experiments.Experiment(
        "Two?", (BASE,), (experiments.Condition(views=0.5), experiments.Condition()), kind="lines", axis="share"
    )
    monkeypatch.setitem(experiments.EXPERIMENTS, "two", two)
    monkeypatch.setitem(experiments.EXPERIMENTS, "curve", experiments.Experiment("Three?", (BASE,), kind="curves"))

    def run(*words: str, experiments: str = "one") -> int:
        given = ["--captures", str(capture), "--out", str(tmp_path / "out"), "--experiments", *experiments.split()]
        given += ["--downscale", "1", "--steps", "12", "--max-gaussians", "200", "--seeds", "1", "--device", "cpu"]
        return tables.main([*given, *words])

    return run


def use(variant: str, seed: int = 0, capture: str = "fox", **others: Any) -> dict[str, Any]:
    """An entry of a plan."""
    entry = {
        "experiment": "main",
        "capture": capture,
        "condition": "",
        "variant": variant,
        "partner": None,
        "series": variant,
    }
    entry |= {"x": None, "seed": seed, "key": f"{capture}{variant}{seed}", "setup": variant, "common": "9 steps"}
    return entry | others


def record(psnr: float, **others: Any) -> dict[str, Any]:
    """The record of a job."""
    test = {"psnr": psnr, "ssim": psnr / 100, "lpips": None, "views": []}
    train = {**test, "psnr": psnr + 2}
    values = {"test": test, "train": train, "curve": None, "gaussians": 10, "train_seconds": 60.0, "render_ms": 2.0}
    return {**values, "threads": 2, **others}


def results(psnrs: dict[str, Sequence[float]], capture: str = "fox") -> list[Any]:
    """Results of variants, one for each seed."""
    return [
        stats.Result(use(variant, seed, capture), record(psnr))
        for variant, values in psnrs.items()
        for seed, psnr in enumerate(values)
    ]


def write_study(out: Path, entries: Sequence[tuple[dict[str, Any], dict[str, Any]]], **about: Any) -> None:
    """A folder of results without any training."""
    meta = {"question": "Does <it> help?", "kind": "differences", "axis": "", "logarithmic": False, "baseline": "nfr"}
    plan = {"experiments": {"main": {**meta, "notes": [], **about}}, "uses": [entry for entry, _ in entries]}
    (out / "jobs").mkdir(parents=True)
    (out / "plan.json").write_text(json.dumps(plan))
    for entry, content in entries:
        (out / "jobs" / f"{entry['key']}.json").write_text(json.dumps({"key": entry["key"], **content}))


# ---- statistics -------------------------------------------------------------------------------------------------


def test_mean_and_deviation_are_those_of_a_sample() -> None:
    assert stats.mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert stats.mean_and_deviation([5.0]) == (5.0, None)
    assert stats.mean_and_deviation([]) == (None, None)


def test_the_interval_of_a_paired_difference_is_students() -> None:
    difference = stats.paired_difference([(11.0, 10.0), (22.0, 20.0), (33.0, 30.0)])  # 1, 2, 3: t(0.975, 2) = 4.30265
    assert difference.mean == pytest.approx(2.0)
    assert difference.low == pytest.approx(2.0 - 4.30265 / math.sqrt(3), abs=1e-4)
    assert difference.high == pytest.approx(2.0 + 4.30265 / math.sqrt(3), abs=1e-4)
    assert not difference.clear and stats.verdict(difference) == "unclear"


def test_a_clear_difference_is_better_or_worse_by_the_direction_of_its_metric() -> None:
    difference = stats.paired_difference([(11.0, 10.0), (21.1, 20.0), (30.9, 30.0)])  # 1, 1.1, 0.9
    assert difference.clear and difference.low == pytest.approx(1.0 - 4.30265 * 0.1 / math.sqrt(3), abs=1e-4)
    assert stats.verdict(difference) == "better"
    assert stats.verdict(difference, lower_is_better=True) == "worse"


def test_one_pair_has_no_interval_and_none_no_difference() -> None:
    difference = stats.paired_difference([(3.0, 1.0)])
    assert (difference.mean, difference.low, difference.high, difference.pairs) == (2.0, None, None, 1)
    assert stats.verdict(difference) == "" and report.show_difference(difference, 2) == "+2.00 n=1"
    assert stats.paired_difference([]) is None and report.show_difference(None, 2) == "-"


def test_only_results_of_the_same_capture_and_seed_are_paired() -> None:
    ours, theirs = results({"nfc": [21.0, 23.0, 99.0]}), results({"nfr": [20.0, 21.0]})
    difference = stats.compare(ours, theirs, "psnr")
    assert (difference.mean, difference.pairs) == (pytest.approx(1.5), 2)
    assert stats.compare(ours, results({"nfr": [20.0]}, "garden"), "psnr") is None


def test_captures_are_summarised_one_by_one_and_pooled() -> None:
    both = results({"nfr": [20.0, 22.0], "nfc": [21.0, 23.0]}) + results({"nfr": [30.0], "nfc": [33.0]}, "garden")
    pooled = next(s for s in stats.summarise(both, "nfr") if s.capture == stats.ALL and s.variant == "nfc")
    assert pooled.to_baseline["psnr"].mean == pytest.approx(5 / 3)  # of 1, 1 and 3
    assert pooled.to_baseline["psnr"].pairs == 3
    fox = next(s for s in stats.summarise(both, "nfr") if s.capture == "fox" and s.variant == "nfc")
    assert (fox.mean["psnr"], fox.deviation["psnr"]) == (22.0, pytest.approx(math.sqrt(2)))
    assert fox.mean["gap"] == pytest.approx(2.0)
    assert {s.capture for s in stats.summarise(results({"nfr": [1.0]}), "nfr")} == {"fox"}


# ---- conditions -------------------------------------------------------------------------------------------------


def test_shares_of_views_are_nested_seeded_and_leave_the_test_views_alone(scene: SceneData) -> None:
    kept = [jobs.keep_views(scene, share, seed=3) for share in (0.3, 0.5, 0.8, 1.0)]
    assert [len(part.train) for part in kept] == [2, 4, 6, 7]
    for small, large in itertools.pairwise(kept):
        assert set(small.train) < set(large.train)
    assert kept[-1].train == scene.train and all(part.test == scene.test for part in kept)
    assert jobs.keep_views(scene, 0.5, seed=3).train == kept[1].train
    assert len({jobs.keep_views(scene, 0.3, seed).train for seed in range(8)}) > 1


def test_noise_is_drawn_once_for_each_training_picture(scene: SceneData) -> None:
    noisy, again = (jobs.prepare(scene, jobs.Condition(noise=0.2), seed=1) for _ in range(2))
    other = jobs.prepare(scene, jobs.Condition(noise=0.2), seed=2)
    first, second = scene.train[:2]
    assert noisy.image(first).rgb.dtype == np.uint8
    assert np.array_equal(noisy.image(first).rgb, again.image(first).rgb)
    assert noisy.image(first) is noisy.image(first)
    assert not np.array_equal(noisy.image(first).rgb, other.image(first).rgb)
    noise = [noisy.image(i).rgb.astype(int) - scene.image(i).rgb for i in (first, second)]
    assert not np.array_equal(*noise)
    for index in scene.test:
        assert np.array_equal(noisy.image(index).rgb, scene.image(index).rgb)
    noisy.prefetch(range(len(noisy.views)), 2)


def test_noise_has_the_given_deviation_and_is_clipped() -> None:
    grey = np.full((80, 80, 3), 128, dtype=np.uint8)

    class Still:
        def image(self, view: Any, divisor: int = 1) -> Any:
            return jobs.ViewImage(grey, None)

    view = jobs.View("a.png", None, None)
    mild, strong = (jobs.NoisyImages(Still(), ["a.png"], sigma, 0).image(view).rgb for sigma in (0.1, 0.6))
    assert mild.std() / 255 == pytest.approx(0.1, rel=0.03)
    assert abs(mild.mean() - 128) < 1
    assert strong.min() == 0 and strong.max() == 255
    beyond = 1 - math.erf(0.5 / 0.6 / math.sqrt(2))  # share of the pixels that the range cuts off
    assert np.isin(strong, (0, 255)).mean() == pytest.approx(beyond, rel=0.1)


def test_smaller_noisy_pictures_are_made_of_the_noisy_one(scene: SceneData) -> None:
    noisy = jobs.prepare(scene, jobs.Condition(noise=0.4), seed=0)
    index = scene.train[0]
    full, half = noisy.image(index).rgb.astype(float), noisy.image(index, 2).rgb
    assert half.shape == (15, 20, 3)
    assert np.abs(full.reshape(15, 2, 20, 2, 3).mean(axis=(1, 3)) - half).max() <= 0.5
    clean = scene.image(index, 2).rgb.astype(float)
    assert 0.1 < (half - clean).std() / 255 < 0.25  # half of 0.4, a little less for the clipping


def test_views_are_spread_evenly() -> None:
    assert jobs.evenly(range(5), 8) == [0, 1, 2, 3, 4]
    assert jobs.evenly(range(15), 8) == [0, 2, 4, 6, 8, 10, 12, 14]


# ---- jobs -------------------------------------------------------------------------------------------------------


def described(path: Path = Path("fox")) -> Any:
    return jobs.Capture(path.name, path, DataConfig(downscale="2"), "print")


def test_a_job_has_one_key_in_all_experiments() -> None:
    key = jobs.make_job(described(), experiments.Condition(), BASE, COMMON).key
    for same in (
        jobs.make_job(described(Path("/elsewhere/fox")), experiments.Condition(views=1.0, noise=0.0), BASE, COMMON),
        jobs.make_job(
            described(),
            experiments.Condition(),
            experiments.Variant("renamed", {experiments.ALL_RATES: 1.0}),
            COMMON,
            curve=True,
        ),
        jobs.make_job(described(), experiments.Condition(), BASE, replace(COMMON, eval_every=0.5)),
    ):
        assert same.key == key


def test_whatever_changes_the_result_changes_the_key() -> None:
    job = jobs.make_job(described(), experiments.Condition(), BASE, COMMON)
    elsewhere = [
        jobs.make_job(described(Path("garden")), experiments.Condition(), BASE, COMMON),
        jobs.make_job(replace(described(), fingerprint="other"), experiments.Condition(), BASE, COMMON),
        jobs.make_job(replace(described(), data=DataConfig(downscale="4")), experiments.Condition(), BASE, COMMON),
        jobs.make_job(described(), experiments.Condition(), BASE, replace(COMMON, seed=1)),
    ]
    others = [
        jobs.make_job(described(), experiments.Condition(views=0.2), BASE, COMMON),
        jobs.make_job(described(), experiments.Condition(noise=0.2), BASE, COMMON),
        jobs.make_job(described(), experiments.Condition(), STRONG, COMMON),
        jobs.make_job(described(), experiments.Condition(), BASE, replace(COMMON, steps=13)),
        jobs.make_job(described(), experiments.Condition(), BASE, replace(COMMON, max_gaussians=201)),
        jobs.make_job(
            described(), experiments.Condition(), experiments.Variant("low", terms={"ce low": (0.3, sum)}), COMMON
        ),
    ]
    assert len({other.key for other in [job, *elsewhere, *others]}) == 1 + len(elsewhere) + len(others)
    assert all(other.setup == job.setup for other in elsewhere) and job.setup not in {other.setup for other in others}


def test_the_factor_on_all_rates_is_on_every_one_of_them() -> None:
    rates = jobs.configure(experiments.Variant("fast", {experiments.ALL_RATES: 2.0}), COMMON).rates
    assert rates.means == 2 * COMMON.rates.means and rates.opacities == 2 * COMMON.rates.opacities
    assert rates.means_final == 2 * COMMON.rates.means_final and rates.sh_rest == 2 * COMMON.rates.sh_rest


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_the_variants_of_every_experiment_make_sense(name: str) -> None:
    experiment = experiments.EXPERIMENTS[name]
    names = [variant.name for variant in experiment.variants]
    assert len(set(names)) == len(names) and experiment.baseline in names
    assert {variant.partner for variant in experiment.variants} <= {None, *names}
    keys = {jobs.make_job(described(), experiments.Condition(), variant, COMMON).key for variant in experiment.variants}
    assert len(keys) == len(names)


def test_variants_cannot_change_what_makes_them_comparable() -> None:
    with pytest.raises(ValueError, match="the same in all variants"):
        experiments.Variant("more steps", {"steps": 9})
    with pytest.raises(UserError, match=r"objective\.magic, which this version"):
        jobs.configure(experiments.Variant("odd", {"objective.magic": 1.0}), COMMON)


def test_a_band_of_a_flat_picture_has_its_color_or_nothing() -> None:
    rendered, target = torch.full((20, 30, 3), 0.3), torch.full((20, 30, 3), 102, dtype=torch.uint8)
    pair = bands.Comparison(SimpleNamespace(rgb=rendered), target)
    low, residual = (float(bands.band_cross_entropy(pair, band)) for band in ("low", "residual"))
    assert low == pytest.approx(-0.4 * math.log(0.3) - 0.6 * math.log(0.7), rel=1e-5)
    assert residual == pytest.approx(math.log(2), rel=1e-5)  # of 1/2 and 1/2


# ---- the command ------------------------------------------------------------------------------------------------


@trains
def test_finished_jobs_are_neither_done_again_nor_for_another_experiment(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 jobs, 0 of them done"
    assert re.fullmatch(r"\[1/2\] still one nfr seed 0: \d+\.\d\d dB, \d\.\d{3}, \d+ s; about \d+ s left", lines[1]), (
        lines
    )
    assert re.fullmatch(r"\[2/2\] still one strong seed 0: .* s", lines[2])
    done = {path: path.read_bytes() for path in (tmp_path / "out" / "jobs").iterdir()}
    assert len(done) == 2 and not list((tmp_path / "out" / "runs").iterdir())

    assert command(experiments="one two") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 jobs, 2 of them done; about ")
    assert lines[1].startswith("[3/3] still two 50% of the views nfr seed 0: ")
    assert all(path.read_bytes() == content for path, content in done.items())

    monkeypatch.setattr(tables, "run_job", lambda *_, **__: pytest.fail("nothing is left to do"))
    assert command(experiments="one two") == 0
    two = (tmp_path / "out" / "tables" / "two.md").read_text()
    assert two.index("| 50% of the views | nfr") < two.index("| 100% of the views | nfr")


@trains
def test_an_interrupted_job_goes_on_and_ends_as_if_it_had_not_been(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("--out", str(tmp_path / "whole"), experiments="curve") == 0
    measure, calls = jobs.train_metrics, []

    def measure_and_kill(trainer: Any) -> Any:
        calls.append(trainer.steps_done)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return measure(trainer)

    monkeypatch.setattr(jobs, "train_metrics", measure_and_kill)
    assert command(experiments="curve") == 130
    assert "resume with the same command" in capsys.readouterr().err
    assert not list((tmp_path / "out" / "jobs").iterdir())
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 1
    assert command(experiments="curve") == 0
    assert calls == sorted(set(calls)), "what was measured before the interruption is not measured again"

    (path,) = (tmp_path / "out" / "jobs").iterdir()
    resumed, whole = (json.loads((tmp_path / name / "jobs" / path.name).read_text()) for name in ("out", "whole"))
    assert len(whole["curve"]) >= 5 and whole["curve"][-1]["progress"] == 1.0
    for part in ("test", "train", "curve", "gaussians", "config", "key"):
        assert resumed[part] == whole[part]


@trains
def test_a_job_that_fails_leaves_the_others_alone(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = jobs.run_job

    def run_or_fail(job: Any, *rest: Any, **options: Any) -> Any:
        if job.variant.name == "nfr":
            raise UserError("The loss became nan.")
        return run(job, *rest, **options)

    monkeypatch.setattr(tables, "run_job", run_or_fail)
    assert command() == 2
    err = capsys.readouterr().err
    assert "still one nfr seed 0 failed: The loss became nan." in err and "1 of 2 jobs failed" in err
    assert len(list((tmp_path / "out" / "jobs").iterdir())) == 1
    assert "1 of 2 jobs are done." in (tmp_path / "out" / "tables" / "one.md").read_text()


@trains
def test_a_term_of_a_variant_is_trained_with(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    term = partial(bands.band_cross_entropy, band="low")
    kinds = [BASE, *(experiments.Variant(f"low {w:g}", terms={"ce low": (w, term)}) for w in (0.0, 3.0))]
    monkeypatch.setitem(experiments.EXPERIMENTS, "one", experiments.Experiment("One?", kinds))
    assert command() == 0
    found = [json.loads(path.read_text()) for path in (tmp_path / "out" / "jobs").iterdir()]
    psnrs = {record["variant"]: record["train"]["psnr"] for record in found}
    assert psnrs["low 0"] == psnrs["nfr"] != psnrs["low 3"]
    assert {record["variant"]: record["terms"] for record in found}["low 3"] == {"ce low": 3.0}


@trains
@pytest.mark.slow
def test_worker_processes_give_the_same_results(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command() == 0
    assert command("--jobs", "2", "--out", str(tmp_path / "workers")) == 0
    for path in (tmp_path / "out" / "jobs").iterdir():
        ours, theirs = (json.loads((tmp_path / name / "jobs" / path.name).read_text()) for name in ("out", "workers"))
        assert ours["test"] == theirs["test"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--experiments", "mian"], "There is no experiment 'mian'; choose of main, "),
        (["--seeds", "0"], "--seeds is 0, but must be at least 1."),
        (["--max-gaussians", "-1"], "--max-gaussians is -1, but must be at least 1."),
        (["--captures", "nowhere"], "There is no "),
        (["--captures"], "No capture is given"),
        (["--report-only"], "holds no results"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert tables.main(["--out", str(tmp_path / "out"), *words]) == 2
    err = capsys.readouterr().err.strip()
    assert sentence in err and len(err.splitlines()) == 1


def test_two_captures_of_one_name_are_refused(capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    given = ["--out", str(tmp_path), "--downscale", "1", "--captures", str(capture), f"{capture}:2", str(capture)]
    assert tables.main(given) == 2
    assert capsys.readouterr().err.strip() == "Two captures are called still; rename the folder of one."


def test_a_plan_keeps_what_fits_and_drops_what_other_settings_gave() -> None:
    old = {"experiments": {"main": 0, "sparse": 1}, "uses": [use("nfr", 0), use("nfr", 1), use("nfr", 0, "garden")]}
    same = {"experiments": {"main": 2}, "uses": [use("nfr", 0)]}
    assert tables.merge_plans(old, same)["experiments"] == {"main": 2, "sparse": 1}
    assert tables.merge_plans(old, same)["uses"] == [use("nfr", 0), use("nfr", 1), use("nfr", 0, "garden")]
    longer = {"experiments": {"main": 2}, "uses": [use("nfr", 0, common="99 steps", key="k")]}
    assert tables.merge_plans(old, longer)["uses"] == [*longer["uses"], use("nfr", 0, "garden")]
    elsewhere = {"experiments": {"main": 2}, "uses": [use("nfr", 0, "attic", setup="new default")]}
    assert tables.merge_plans(old, elsewhere)["uses"] == elsewhere["uses"]  # or the two would be pooled
    changed = {"experiments": {"main": 2}, "uses": [use("nfr", 0, setup="new default", key="k")]}
    assert tables.merge_plans(old, changed)["uses"] == changed["uses"]


# ---- tables and report ------------------------------------------------------------------------------------------


def known_study(out: Path) -> None:
    psnrs = {"nfr": [20.0, 22.0, 24.0], "nfc": [21.0, 23.1, 24.9], "odd": [20.0, 23.0, 23.0]}
    entries = [(dict(r.use), dict(r.record)) for r in results(psnrs)]
    missing = use("nfc", 3)
    write_study(out, entries)
    plan = json.loads((out / "plan.json").read_text())
    plan["uses"].append(missing)
    (out / "plan.json").write_text(json.dumps(plan))


def test_the_table_of_known_results(tmp_path: Path) -> None:
    known_study(tmp_path)
    report.build_report(tmp_path)
    text = (tmp_path / "tables" / "main.md").read_text()
    assert "9 of 10 jobs are done." in text
    assert "| variant | n | test PSNR | SSIM | train PSNR | gap | test PSNR to nfr | SSIM to nfr | gap to nfr |" in text
    assert "| nfr | 3 | 22.00 ± 2.00 | 0.2200 ± 0.0200 | 24.00 ± 2.00 | 2.00 ± 0.00 | - | - | - |" in text
    assert "| +1.00 [+0.75, +1.25] n=3 better | +0.0100 [+0.0075, +0.0125] n=3 better | " in text
    assert "| +0.00 [-2.48, +2.48] n=3 unclear |" in text
    lines = (tmp_path / "tables" / "main.csv").read_text().splitlines()
    values = dict(zip(lines[0].split(","), lines[2].split(","), strict=True))
    assert (values["capture"], values["variant"], values["n"]) == ("fox", "nfc", "3")
    assert float(values["psnr_to_baseline"]) == pytest.approx(1.0)
    assert float(values["psnr_to_baseline_low"]) == pytest.approx(1.0 - 4.30265 * 0.1 / math.sqrt(3), abs=1e-4)


def test_the_costs_are_shown_beside_those_of_the_baseline(tmp_path: Path) -> None:
    slow = record(21.0, train_seconds=90.0, render_ms=3.0)
    write_study(tmp_path, [(use("nfr"), record(20.0)), (use("nfc"), slow)], kind="cost")
    report.build_report(tmp_path)
    assert "| nfc | 1 | 1.50 | 1.50 x | 3.00 | 1.50 x | 10 | 2 |" in (tmp_path / "tables" / "main.md").read_text()


def test_the_curves_are_shown_point_by_point(tmp_path: Path) -> None:
    points = [{"step": 1, "progress": 0.5, "test_psnr": 18.0, "train_psnr": 19.0}]
    points.append({"step": 2, "progress": 1.0, "test_psnr": 20.0, "train_psnr": 22.0})
    write_study(tmp_path, [(use("nfr"), record(20.0, curve=points))], kind="curves")
    report.build_report(tmp_path)
    text = (tmp_path / "tables" / "main.md").read_text()
    assert "| progress | nfr, test | nfr, train |" in text
    assert "| 50.0% | 18.00 | 19.00 |\n| 100.0% | 20.00 | 22.00 |" in text


def test_the_report_is_self_contained(tmp_path: Path) -> None:
    known_study(tmp_path)
    text = report.build_report(tmp_path).read_text()
    bare = re.sub(r'src="data:image/png;base64,[A-Za-z0-9+/=]*"', "", text)
    assert not re.search(r"https?:|//|src=|url\(|@import|<script|<link", bare)
    assert "Does &lt;it&gt; help?" in text and '<td class="better">+1.00' in text


@pytest.mark.parametrize("kind", ["differences", "lines", "curves"])
def test_every_kind_of_experiment_has_a_plot(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curve = [{"step": 1, "progress": 1.0, "test_psnr": 20.0, "train_psnr": 22.0}]
    entries = [
        (use(variant, seed, x=x, key=f"{variant}{seed}"), record(20.0 + seed, curve=curve))
        for variant, x in (("nfr", None), ("nfc", 0.5))
        for seed in range(2)
    ]
    write_study(tmp_path, entries, kind=kind, axis="share", logarithmic=True)
    text = report.build_report(tmp_path).read_text()
    assert (tmp_path / "plots" / "main.png").read_bytes().startswith(b"\x89PNG")
    assert text.count("data:image/png;base64,") == 1


def test_without_matplotlib_a_sentence_says_so_and_the_tables_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    known_study(tmp_path)
    assert tables.main(["--report-only", "--out", str(tmp_path)]) == 0
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert "<table>" in (tmp_path / "report.html").read_text() and not (tmp_path / "plots").exists()


def test_a_damaged_plan_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    known_study(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    assert tables.main(["--report-only", "--out", str(tmp_path)]) == 2
    assert "plan.json is damaged or of an older version; delete it and run again" in capsys.readouterr().err
