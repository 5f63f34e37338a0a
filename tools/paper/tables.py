"""The experiments of the NFC paper on Gaussian splats: does learning colors by classification help, and where?

    python tools/paper/tables.py --captures builtin captures/fox --experiments main sparse noise --out runs/paper
    python tools/paper/tables.py --out runs/paper --report-only      the tables of the finished jobs
    python tools/paper/tables.py --list                              the experiments and their variants

A capture is a path, `PATH:DOWNSCALE` for one that is read at another size than the others, or `builtin`. `--experiments
all` takes all. Every variant is trained with the same number of steps, cap of Gaussians, learning rates (but where an
experiment is about these), order of the data and initial points, once per capture, condition and seed. Each finished
training is one file in OUT/jobs; Ctrl-C or `kill` ends the command early, and the same command resumes it. Experiments
that are run later use the finished jobs (but for `generalisation`, which needs its curves).
Results are in OUT/report.html, OUT/tables (Markdown, CSV) and OUT/plots (these need `pip install ".[paper]"`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from experiments import EXPERIMENTS, Experiment, chosen
from jobs import (
    Capture,
    Job,
    begin_worker,
    describe_capture,
    is_done,
    make_folders,
    make_job,
    read_record,
    run_folder,
    run_in_worker,
    run_job,
)
from report import PLAN_NAME, build_report, read_plan

from nfc_gs.commands.console import sentences_to_stderr
from nfc_gs.core.errors import UserError
from nfc_gs.core.files import make_folder, write_text
from nfc_gs.data.builtin.captures import write_capture
from nfc_gs.data.config import DataConfig
from nfc_gs.ops import native
from nfc_gs.training.config import TrainConfig

REPORT_EVERY = 10
"""Finished jobs between two writings of the tables."""


@dataclass(frozen=True)
class Options:
    """What to run, and how much of it."""

    captures: tuple[str, ...] = ("builtin",)
    """Captures: a path, PATH:DOWNSCALE, or builtin."""
    out: Path = Path("runs/paper")
    """Folder of the results."""
    experiments: tuple[str, ...] = ("main",)
    """Names of experiments, or all; --list shows them."""
    seeds: int = 3
    """Every job is done with this number of seeds."""
    first_seed: int = 0
    """The first of them; the others follow it."""
    steps: int = 2000
    """Optimisation steps of every job."""
    max_gaussians: int = 10_000
    """Most Gaussians of every job."""
    downscale: str = "2"
    """Size of the images, as `nfc-gs train --downscale` has it."""
    device: str = "auto"
    """Where to compute: auto, cpu or cuda."""
    jobs: int = 1
    """Worker processes; they share the cores."""
    lpips: bool = False
    """Also measure LPIPS, if its weights are there. Jobs that were done without it are not done again."""
    keep_runs: bool = False
    """Keep the run folders (checkpoints) of finished jobs in OUT/runs."""
    report_only: bool = False
    """Train nothing; write tables, plots and report of the jobs in OUT."""
    list: bool = False
    """List the experiments, and end."""


@dataclass
class Study:
    """The jobs of a call, and its progress."""

    out: Path
    jobs: dict[str, Job] = field(default_factory=dict)
    """By key, in the order in which they are done."""
    names: dict[str, str] = field(default_factory=dict)
    """Name of each job in the progress lines, by key."""
    finished: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """Of finished jobs, by capture and variant."""

    def add_time(self, job: Job, record: Mapping[str, Any]) -> None:
        """Add the seconds of a finished job."""
        spent = float(record.get("train_seconds") or 0.0) + float(record.get("evaluate_seconds") or 0.0)
        self.seconds.setdefault((job.capture.label, job.variant.name), []).append(spent)

    def seconds_left(self, jobs: Sequence[Job], workers: int) -> float | None:
        """Estimate for these jobs from finished ones of the same capture and variant; None if none is finished."""
        if not self.seconds:
            return None
        overall = statistics.mean(s for spent in self.seconds.values() for s in spent)
        total = 0.0
        for job in jobs:
            here = {name: spent for (label, name), spent in self.seconds.items() if label == job.capture.label}
            similar = here.get(job.variant.name) or [s for spent in here.values() for s in spent]
            total += statistics.mean(similar) if similar else overall
        return total / max(1, min(workers, len(jobs)))


def find_captures(options: Options) -> list[Capture]:
    """Read all captures once, so that errors show before hours of work.

    Raises:
        UserError: one cannot be read, or two have the same name.
    """
    found: list[Capture] = []
    for item in options.captures:
        text, downscale, label = item, options.downscale, ""
        match = re.fullmatch(r"(.+):(auto|\d+(?:\.\d+)?|\d+px)", item)
        if match and not Path(item).exists():
            text, downscale = match[1], match[2]
            label = f":{downscale}"
        path = Path(text).resolve()
        if text == "builtin":
            path = (options.out / "captures" / "builtin").resolve()
            if not path.is_dir():
                print("drawing the built-in capture ...", flush=True)
                write_capture(path)
        capture = describe_capture(path.name + label, path, DataConfig(downscale=downscale))
        if capture.label in [other.label for other in found]:
            raise UserError(f"Two captures are called {capture.label}; rename the folder of one.")
        found.append(capture)
    return found


def plan(options: Options, captures: Sequence[Capture]) -> tuple[Study, dict[str, Any]]:
    """The jobs of the options, each once, and the experiments that use them, for OUT/plan.json.

    All variants and conditions of one seed come before those of the next, so that results can be compared early.
    """
    study = Study(options.out)
    experiments = chosen(options.experiments)
    uses: list[dict[str, Any]] = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        common = TrainConfig(
            preset="fast",
            density="mcmc",
            steps=options.steps,
            max_gaussians=options.max_gaussians,
            seed=seed,
            device=options.device,
        )
        for capture in captures:
            for name, experiment in experiments.items():
                for condition in experiment.conditions:
                    for variant in experiment.variants:
                        job = make_job(capture, condition, variant, common, experiment.kind == "curves")
                        uses.append(use_of(job, name, experiment, options))
                        words = (capture.label, name, condition.label, variant.name, f"seed {seed}")
                        study.names.setdefault(job.key, " ".join(word for word in words if word))
                        if job.key not in study.jobs or job.curve:
                            study.jobs[job.key] = job  # a job with a curve has all that the one without has
    about = {
        name: {
            "question": experiment.question,
            "kind": experiment.kind,
            "axis": experiment.axis,
            "logarithmic": experiment.logarithmic,
            "baseline": experiment.baseline,
            "notes": list(experiment.notes),
        }
        for name, experiment in experiments.items()
    }
    return study, {"experiments": about, "uses": uses}


def use_of(job: Job, name: str, experiment: Experiment, options: Options) -> dict[str, Any]:
    """The use of a job in an experiment, as the report needs it."""
    over_conditions = len(experiment.conditions) > 1
    condition = job.condition
    return {
        "experiment": name,
        "capture": job.capture.label,
        "condition": condition.label or ("100% of the views" if over_conditions else ""),
        "variant": job.variant.name,
        "partner": job.variant.partner,
        "series": job.variant.series or job.variant.name,
        "x": (condition.noise or condition.views) if over_conditions else job.variant.x,
        "seed": job.seed,
        "key": job.key,
        "setup": job.setup,
        "common": f"{options.steps} steps, at most {options.max_gaussians} Gaussians, downscale "
        f"{job.capture.data.downscale}",
    }


def merge_plans(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The old plan, replaced by the new one where they overlap; results of different settings are never mixed."""
    place = ("experiment", "condition", "variant")
    setups = {tuple(use[name] for name in place): use["setup"] for use in new["uses"]}
    common = {(use["experiment"], use["capture"]): use["common"] for use in new["uses"]}
    keys = {(use["experiment"], use["key"]) for use in new["uses"]}
    kept = [
        use
        for use in old.get("uses", [])
        if (use["experiment"], use["key"]) not in keys
        and common.get((use["experiment"], use["capture"]), use["common"]) == use["common"]
        and setups.get(tuple(use[name] for name in place), use["setup"]) == use["setup"]
    ]
    return {"experiments": {**old.get("experiments", {}), **new["experiments"]}, "uses": [*new["uses"], *kept]}


def duration(seconds: float) -> str:
    """A time in words."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


def finish(study: Study, job: Job, record: Mapping[str, Any], left: Sequence[Job], workers: int) -> None:
    """Count a finished job, print its result, and write the tables after every few jobs."""
    study.finished += 1
    study.add_time(job, record)
    test = record["test"]
    quality = "no finite PSNR" if test["psnr"] is None else f"{test['psnr']:.2f} dB, {test['ssim']:.3f}"
    count, spent = f"[{study.finished}/{len(study.jobs)}]", duration(record["train_seconds"])
    line = f"{count} {study.names[job.key]}: {quality}, {spent}"
    seconds = study.seconds_left(left, workers)
    print(line + (f"; about {duration(seconds)} left" if left and seconds is not None else ""), flush=True)
    if study.finished % REPORT_EVERY == 0 and left:
        build_report(study.out, quiet=True)


def fail(study: Study, job: Job, error: UserError) -> None:
    """Print and keep the error of a job; the others go on."""
    study.failures.append(str(error))
    print(f"{study.names[job.key]} failed: {error}", file=sys.stderr, flush=True)


def run_here(study: Study, todo: Sequence[Job], options: Options) -> None:
    """Do the jobs one after the other in this process. Raises KeyboardInterrupt if interrupted."""
    for position, job in enumerate(todo):
        try:
            record = run_job(job, study.out, lpips=options.lpips, keep_runs=options.keep_runs)
        except UserError as error:
            fail(study, job, error)
            continue
        if record is None:
            raise KeyboardInterrupt
        finish(study, job, record, todo[position + 1 :], 1)


def cores() -> int:
    """The threads to share: NFC_GS_THREADS if it is a number, else one per processor that may be used."""
    text = os.environ.get(native.THREADS_VARIABLE, "").strip()
    if text.isdecimal() and int(text) > 0:
        return int(text)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_workers(study: Study, todo: Sequence[Job], options: Options) -> None:
    """Do the jobs in worker processes. Raises KeyboardInterrupt if interrupted, once they have saved their work."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    workers = min(options.jobs, len(todo))
    threads = max(1, cores() // workers)
    left = list(todo)
    with ProcessPoolExecutor(workers, context, initializer=begin_worker, initargs=(stop, threads)) as pool:
        futures = {pool.submit(run_in_worker, job, study.out, options.lpips, options.keep_runs): job for job in todo}
        waiting = set(futures)
        interrupted = False
        while waiting:
            try:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    job = futures[future]
                    left.remove(job)
                    try:
                        record = future.result()
                    except UserError as error:
                        fail(study, job, error)
                    except BrokenProcessPool:
                        if interrupted:
                            continue
                        raise UserError(
                            "A worker process was killed, perhaps for lack of memory; "
                            "go on with the same command and fewer --jobs."
                        ) from None
                    else:
                        if record is not None:
                            finish(study, job, record, left, workers)
            except KeyboardInterrupt:
                if interrupted:
                    for process in multiprocessing.active_children():
                        process.terminate()
                    raise
                print("Stopping: the jobs at hand are being saved; once more to abort at once.", file=sys.stderr)
                interrupted = True
                stop.set()
                waiting = {future for future in waiting if not future.cancel()}
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    if interrupted:
        raise KeyboardInterrupt


@contextlib.contextmanager
def each_sentence_once() -> Iterator[None]:
    """Let the library print each sentence once, though many jobs have the same ones."""
    printed: set[str] = set()

    def first_time(record: logging.LogRecord) -> bool:
        text, count = record.getMessage(), len(printed)
        printed.add(text)
        return len(printed) > count

    logger = logging.getLogger("nfc_gs")
    logger.addFilter(first_time)
    try:
        with sentences_to_stderr():
            yield
    finally:
        logger.removeFilter(first_time)


@contextlib.contextmanager
def kill_interrupts() -> Iterator[None]:
    """Let `kill` (SIGTERM) do what Ctrl-C does."""
    import pycolmap  # noqa: F401  # now, since it sets a handler of its own, and the last one counts

    def on_kill(number: int, frame: Any) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, on_kill)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check(options: Options) -> None:
    """Raise UserError for options that make no sense."""
    for name in ("seeds", "steps", "max_gaussians", "jobs"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(options, name)}, but must be at least 1.")
    chosen(options.experiments)
    if not options.captures:
        raise UserError("No capture is given; name folders, or builtin.")


def study_of(options: Options) -> Study:
    """Read the captures, plan, and keep the plan; jobs that are done are counted."""
    make_folders(options.out)
    study, new = plan(options, find_captures(options))
    merged = merge_plans(read_plan(options.out), new)
    write_text(options.out / PLAN_NAME, json.dumps(merged, indent=0) + "\n")
    for key, job in study.jobs.items():
        record = read_record(options.out, key)
        if record is not None and is_done(job, record):
            study.finished += 1
            study.add_time(job, record)
            if not options.keep_runs:
                shutil.rmtree(run_folder(options.out, job), ignore_errors=True)
    return study


def run(options: Options) -> None:
    """Run the options. Raises UserError or KeyboardInterrupt; what is finished by then is saved and in the tables."""
    if options.list:
        for name, experiment in EXPERIMENTS.items():
            print(f"{name}: {experiment.question}\n    {', '.join(variant.name for variant in experiment.variants)}")
        return
    if options.report_only:
        if not (options.out / PLAN_NAME).is_file():
            raise UserError(f"{options.out} holds no results; run without --report-only first, or name another --out.")
        print(build_report(options.out))
        return
    check(options)
    make_folder(options.out)
    study = study_of(options)
    todo = [job for key, job in study.jobs.items() if not is_done(job, read_record(options.out, key))]
    seconds = study.seconds_left(todo, options.jobs)
    estimate = f"; about {duration(seconds)}" if todo and seconds is not None else ""
    print(f"{len(study.jobs)} jobs, {study.finished} of them done{estimate}", flush=True)
    try:
        if todo:
            (run_in_workers if options.jobs > 1 else run_here)(study, todo, options)
    finally:
        report = build_report(options.out)
    print(report)
    if study.failures:
        raise UserError(
            f"{len(study.failures)} of {len(study.jobs)} jobs failed (the first: {study.failures[0]}); "
            "the same command tries them again."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, 2 if something given is wrong, 130 after Ctrl-C."""
    options = tyro.cli(Options, args=arguments, description=__doc__)
    try:
        with each_sentence_once(), kill_interrupts():
            run(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped with everything saved; resume with the same command.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
