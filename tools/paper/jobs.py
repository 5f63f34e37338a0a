"""One training of the paper's tables: what determines it, the pictures it is trained on, and its record.

A module of `tables.py`, not a command. A job's key is a hash of its settings, its condition, and the names and sizes of
pictures and the number of points of its capture. So the same job in two experiments is one job, and a changed default
makes a new one. A change of the code or of the pictures does not: use another OUT then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import signal
import statistics
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection, parent_process
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from experiments import ALL_RATES, Condition, Variant

import nfc_gs
from nfc_gs.core.errors import UserError
from nfc_gs.core.events import Evaluated, Event, Listener, StepDone
from nfc_gs.core.files import make_folder, write_text
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.data.config import DataConfig
from nfc_gs.data.images import shrink
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData, View, ViewImage
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.ops import native
from nfc_gs.rendering.pipeline import render
from nfc_gs.runs.metrics import Metrics, finite
from nfc_gs.runs.names import CHECKPOINT_NAME
from nfc_gs.training.config import LearningRates, ResolvedConfig, TrainConfig
from nfc_gs.training.evaluation import evaluate
from nfc_gs.training.resolve import resolve
from nfc_gs.training.trainer import Trainer

CURVE_EVERY = 0.125
"""A curve has a point after each such fraction of a run, the last one included."""

TRAIN_VIEWS = 8
"""Training views, evenly spaced, that are measured at the most."""

RENDERED_VIEWS = 16
"""Views, evenly spaced, whose rendering is timed at the most."""

_NO_EFFECT = ("eval_every", "checkpoint_every")
"""Settings that do not change what a run learns."""


@dataclass(frozen=True)
class Capture:
    """A capture and how it is read."""

    label: str
    path: Path
    data: DataConfig
    fingerprint: str
    """Of its views' names and sizes, its split and its number of points; not of where it lies."""


@dataclass(frozen=True)
class Job:
    """One training."""

    capture: Capture
    condition: Condition
    variant: Variant
    config: TrainConfig
    key: str
    """Of everything that determines the result."""
    setup: str
    """Of its settings and condition, without capture and seed."""
    curve: bool = False
    """Whether training and test views are measured in the course of training, too."""

    @property
    def seed(self) -> int:
        """Of the order of the data, the noise, the choice of views and the optimisation."""
        return self.config.seed


def configure(variant: Variant, common: TrainConfig) -> TrainConfig:
    """The common settings with the overrides of a variant.

    Raises:
        UserError: there is no such setting.
    """
    config = common
    for name, value in variant.overrides.items():
        part, _, rest = name.partition(".")
        try:
            if name == ALL_RATES:
                rates = {f.name: value * getattr(config.rates, f.name) for f in dataclasses.fields(LearningRates)}
                mcmc = replace(config.mcmc, noise=config.mcmc.noise / value)
                config = replace(config, rates=LearningRates(**rates), mcmc=mcmc)
            elif rest:
                config = replace(config, **{part: replace(getattr(config, part), **{rest: value})})
            else:
                config = replace(config, **{part: value})
        except (TypeError, AttributeError):
            raise UserError(
                f"The variant '{variant.name}' sets {name}, which this version of nfc-gs does not know."
            ) from None
    return config


def make_job(capture: Capture, condition: Condition, variant: Variant, common: TrainConfig, curve: bool = False) -> Job:
    """The job that trains a variant under a condition. Raises UserError if its settings do not make sense."""
    config = configure(variant, common)
    settings = effective(resolve(config))
    data = {
        name: value for name, value in dataclasses.asdict(capture.data).items() if name not in ("cache_gb", "copies_gb")
    }
    determines = {
        "capture": capture.path.name,
        "scene": capture.fingerprint,
        "data": data,
        "condition": dataclasses.asdict(condition),
        "settings": settings,
    }
    if variant.terms:
        determines["terms"] = {name: weight for name, (weight, _) in variant.terms.items()}
    setup = digest({**determines, "capture": None, "scene": None, "data": None, "settings": {**settings, "seed": None}})
    return Job(capture, condition, variant, config, digest(determines), setup, curve)


def effective(config: ResolvedConfig) -> dict[str, Any]:
    """The settings that have an effect, so that the key does not depend on defaults that the training does not use."""
    unused = {"mcmc", "adc"} - {config.density}
    settings = {name: value for name, value in config.to_dict().items() if name not in {*_NO_EFFECT, *unused}}
    if settings.get("head") == "sh":
        settings = {name: value for name, value in settings.items() if not name.startswith("bit_")}
        rates = settings["rates"]
        settings["rates"] = {name: rate for name, rate in rates.items() if not name.startswith("bit")}
    objective = settings["objective"]
    if not objective.get("ce") and not objective.get("bit_ce"):
        settings["objective"] = {name: value for name, value in objective.items() if not name.startswith("ce_")}
    return settings


def digest(values: Any) -> str:
    """A short hash of plain values; the order of dictionaries does not matter."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


@functools.lru_cache(maxsize=1)
def open_capture(path: Path, data: DataConfig) -> SceneData:
    """The scene of a capture; the last one stays open. Raises UserError as `load_scene`."""
    return load_scene(path, data)


def describe_capture(label: str, path: Path, data: DataConfig) -> Capture:
    """Read a capture and fingerprint it.

    Raises:
        UserError: it cannot be read, or holds out no view for testing.
    """
    scene = open_capture(path, data)
    if not scene.test:
        raise UserError(f"{path} has no view to test on; the tables need a capture of at least 3 views.")
    views = [(view.name, view.camera.width, view.camera.height) for view in scene.views]
    return Capture(label, path, data, digest([views, scene.train, scene.test, len(scene.points)]))


# ---- the pictures -----------------------------------------------------------------------------------------------


def seeded(*parts: object) -> int:
    """A 64-bit number that depends on all parts, the same on every machine."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "little")


def keep_views(scene: SceneData, share: float, seed: int) -> SceneData:
    """The scene with a share of its training views, at least 2; a smaller share is a subset of a larger one."""
    count = min(len(scene.train), max(2, round(share * len(scene.train))))
    order = sorted(scene.train, key=lambda index: seeded(seed, "views", scene.views[index].name))
    return scene.with_split(sorted(order[:count]), scene.test)


class NoisyImages:
    """The pictures of a scene, those of some views with Gaussian noise; used as an `ImageCache` is.

    The noise is drawn once per view at full working size; smaller pictures are made from the noisy one. Noisy pictures
    stay in memory, as uint8.

    Args:
        images: the clean pictures.
        names: the views that get noise.
        sigma: standard deviation in units of the range [0, 1].
        seed: the noise of a view depends only on it and on the view's name, and is proportional to `sigma`.
    """

    def __init__(self, images: Any, names: Iterable[str], sigma: float, seed: int) -> None:
        self._images, self._names, self._sigma, self._seed = images, frozenset(names), sigma, seed
        self._frames: dict[tuple[str, int], ViewImage] = {}

    def image(self, view: View, divisor: int = 1) -> ViewImage:
        """The picture of a view; see `SceneData.image`."""
        if view.name not in self._names:
            return self._images.image(view, divisor)
        frame = self._frames.get((view.name, divisor))
        if frame is None:
            if divisor == 1:
                frame = self._noisy(view.name, self._images.image(view, 1))
            else:
                full = self.image(view, 1)
                height, width = full.rgb.shape[:2]
                frame = shrink(full, max(1, round(width / divisor)), max(1, round(height / divisor)))
            self._frames[view.name, divisor] = frame
        return frame

    def moving(self, view: View) -> np.ndarray | None:
        """Which pixels of a view show something that moves; see `SceneData.moving`."""
        return self._images.moving(view)

    def foreground(self, view: View) -> np.ndarray | None:
        """Which pixels of a view are foreground; see `SceneData.foreground`."""
        return self._images.foreground(view)

    def prefetch(self, views: Sequence[View], divisor: int = 1) -> None:
        """Start decoding in the background what is not there yet."""
        self._images.prefetch([view for view in views if view.name not in self._names], divisor)
        noisy = [view for view in views if view.name in self._names]
        self._images.prefetch([view for view in noisy if (view.name, 1) not in self._frames], 1)

    def _noisy(self, name: str, frame: ViewImage) -> ViewImage:
        generator = np.random.default_rng(seeded(self._seed, "noise", name))
        values = generator.standard_normal(frame.rgb.shape, dtype=np.float32)
        values *= self._sigma
        values += frame.rgb.astype(np.float32) / 255
        rgb = (values.clip(0.0, 1.0) * 255 + 0.5).astype(np.uint8)
        return ViewImage(rgb, frame.mask)


def prepare(scene: SceneData, condition: Condition, seed: int) -> SceneData:
    """The scene under a condition and with a seed; its test views are unchanged."""
    if condition.noise > 0.0:
        names = [scene.views[index].name for index in scene.train]
        scene = replace(scene, images=NoisyImages(scene.images, names, condition.noise, seed))
    return scene if condition.views == 1.0 else keep_views(scene, condition.views, seed)


def evenly(indices: Sequence[int], count: int) -> list[int]:
    """At most `count` of the indices, evenly spaced, the first and the last included."""
    if len(indices) <= count:
        return list(indices)
    return [indices[round(i * (len(indices) - 1) / (count - 1))] for i in range(count)]


# ---- running ----------------------------------------------------------------------------------------------------


class Curve:
    """A listener that measures training views whenever the trainer has measured the test views, and keeps both.

    The points are also in a file of the run, so that an interrupted run has them all in the end.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "curve.json"
        self.points: list[dict[str, float]] = []
        self.trainer: Trainer | None = None
        self.error: Exception | None = None
        """The error of a measurement; training was stopped."""

    def follow(self, trainer: Trainer) -> None:
        """Listen to this trainer; a point that was lost by an interruption is measured now."""
        self.trainer = trainer
        with contextlib.suppress(OSError, ValueError):
            points = json.loads(self._path.read_text(encoding="utf-8"))
            self.points = [point for point in points if point["step"] <= trainer.steps_done]
        if trainer.progress < 1.0 and int(trainer.progress / CURVE_EVERY + 1e-9) > len(self.points):
            trainer.evaluate()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        trainer = self.trainer
        if trainer is None or not isinstance(event, Evaluated) or trainer.progress >= 1.0:
            return
        try:
            train = train_metrics(trainer)
            self.add(event.psnr, event.ssim, train)
            write_text(self._path, json.dumps(self.points))
        except Exception as error:
            self.error = error
            trainer.stop()

    def add(self, psnr: float | None, ssim: float | None, train: Metrics) -> None:
        """Add a point at the step the trainer is at."""
        assert self.trainer is not None
        values = {"test_psnr": psnr, "test_ssim": ssim, "train_psnr": train.psnr, "train_ssim": train.ssim}
        self.points.append({"step": self.trainer.steps_done, "progress": self.trainer.progress, **finite(values)})


def run_job(job: Job, out: Path, *, lpips: bool = False, keep_runs: bool = False, stop: Any = None) -> dict | None:
    """Train and measure a job, from its last checkpoint if there is one, and write its record into `out/jobs`.

    Args:
        keep_runs: do not delete the run folder (`out/runs/KEY`) afterwards.
        stop: an event that ends the training early, with everything saved.

    Returns:
        The record, or None if the job was interrupted.

    Raises:
        UserError: it cannot be trained.
    """
    folder = run_folder(out, job)
    scene = prepare(open_capture(job.capture.path, job.capture.data), job.condition, job.seed)
    curve = Curve(folder) if job.curve else None
    listeners: list[Listener] = [] if curve is None else [curve]
    if stop is not None:
        listeners.append(lambda event: trainer.stop() if isinstance(event, StepDone) and stop.is_set() else None)
    trainer = _trainer(job, scene, folder, listeners)
    if curve is not None:
        curve.follow(trainer)
    finished = trainer.train()
    if curve is not None and curve.error is not None:
        raise curve.error
    if finished.reason != "done":
        return None
    start = perf_counter()
    test, train = trainer.evaluate(lpips=lpips), train_metrics(trainer)
    if curve is not None:
        curve.add(test.psnr, test.ssim, train)
    record = {
        **describe(job),
        "test": _plain(test),
        "train": _plain(train),
        "curve": None if curve is None else curve.points,
        **trainer.model.sizes(),
        "steps": trainer.steps_done,
        "train_seconds": trainer.seconds,
        "render_ms": render_milliseconds(trainer),
        "evaluate_seconds": perf_counter() - start,
        "threads": native.threads() if trainer.config.device == "cpu" else None,
        "version": nfc_gs.__version__,
        "config": trainer.config.to_dict(),
    }
    write_text(record_path(out, job.key), json.dumps(finite(record), indent=1, allow_nan=False, default=str) + "\n")
    if not keep_runs:
        shutil.rmtree(folder, ignore_errors=True)
    return record


def _trainer(job: Job, scene: SceneData, folder: Path, listeners: Sequence[Listener]) -> Trainer:
    """The job's trainer, at its last checkpoint if there is one that can be read."""
    terms = job.variant.terms
    if (folder / CHECKPOINT_NAME).is_file():
        with contextlib.suppress(UserError):
            return Trainer.resume(folder, listeners, scene=scene, terms=terms)
    shutil.rmtree(folder, ignore_errors=True)
    config = replace(job.config, eval_every=CURVE_EVERY if job.curve else 0.0)
    capture = job.capture
    return Trainer(scene, config, folder, listeners, capture=capture.path, data=capture.data, terms=terms)


def describe(job: Job) -> dict[str, Any]:
    """What a job is, in plain values."""
    return {
        "key": job.key,
        "capture": job.capture.label,
        "condition": dataclasses.asdict(job.condition),
        "variant": job.variant.name,
        "overrides": dict(job.variant.overrides),
        "terms": {name: weight for name, (weight, _) in job.variant.terms.items()},
        "seed": job.seed,
        "data": dataclasses.asdict(job.capture.data),
    }


def train_metrics(trainer: Trainer) -> Metrics:
    """Metrics of some of its training views at full size."""
    views = evenly(trainer.scene.train, TRAIN_VIEWS)
    with one_torch_thread():
        return evaluate(trainer.model, trainer.scene.with_split((), views), trainer.render_options)


def render_milliseconds(trainer: Trainer) -> float:
    """Median time of rendering a test view at full size; the exact measure is `tools/bench/bench.py nfc`."""
    config, times = trainer.config, []
    model = trainer.model
    assert isinstance(model, GaussianModel)
    with torch.no_grad(), one_torch_thread():
        for index in evenly(trainer.scene.test, RENDERED_VIEWS):
            camera = trainer.scene.camera(index).to(config.device)
            for _ in range(2):  # the first warms up
                start = perf_counter()
                render(
                    model,
                    camera,
                    background=trainer.background,
                    backend=config.backend,
                    antialiased=config.antialiased,
                )
                if config.device != "cpu":
                    torch.cuda.synchronize()
                seconds = perf_counter() - start
            times.append(1e3 * seconds)
    return statistics.median(times)


def _plain(metrics: Metrics) -> dict[str, Any]:
    views = [dataclasses.asdict(view) for view in metrics.views]
    return {"psnr": metrics.psnr, "ssim": metrics.ssim, "lpips": metrics.lpips, "views": views}


def record_path(out: Path, key: str) -> Path:
    """Where the record of a job is."""
    return out / "jobs" / f"{key}.json"


def run_folder(out: Path, job: Job) -> Path:
    """Where a job trains."""
    return out / "runs" / (f"{job.key}-curve" if job.curve else job.key)


def read_record(out: Path, key: str) -> dict[str, Any] | None:
    """The record of a finished job, or None."""
    try:
        record = json.loads(record_path(out, key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("key") == key else None


def is_done(job: Job, record: Mapping[str, Any] | None) -> bool:
    """Whether a record has all that a job measures."""
    return record is not None and (not job.curve or record.get("curve") is not None)


# ---- worker processes -------------------------------------------------------------------------------------------

_stop: Any = None


def begin_worker(stop: Any, threads: int) -> None:
    """Set up a worker process: its threads, that only `stop` stops it, and that it ends when its parent is gone."""
    global _stop
    _stop = stop
    os.environ[native.THREADS_VARIABLE] = str(threads)
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def run_in_worker(job: Job, out: Path, lpips: bool, keep_runs: bool) -> dict | None:
    """`run_job` in a worker process; None as well if the study is being stopped."""
    return None if _stop.is_set() else run_job(job, out, lpips=lpips, keep_runs=keep_runs, stop=_stop)


def make_folders(out: Path) -> None:
    """Make the folders of a study. Raises UserError if they cannot be made."""
    for name in ("jobs", "runs", "captures", "tables", "plots"):
        make_folder(out / name)
