"""What a report shows, read from a run folder once: numbers, curves, views, and the checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nfc_gs.core.errors import UserError
from nfc_gs.core.plain_json import finite_number
from nfc_gs.data.scene import TimeAxis
from nfc_gs.export.report_pictures import Picture, color_error, jpeg, read_pictures
from nfc_gs.model.radiance import RadianceModel
from nfc_gs.runs.checkpoint import GIVEN_PART, RUN_PART, Checkpoint, load_checkpoint
from nfc_gs.runs.metrics import read_metrics
from nfc_gs.runs.names import CHECKPOINT_NAME, CONFIG_NAME, PHOTO_ENDING, TEST_RENDERS, image_stems

log = logging.getLogger("nfc_gs")

MAX_VIEWS = 16
"""Views with embedded pictures."""

MAX_SIDE, MAX_ERROR_SIDE = 960, 480
"""Longest side of an embedded photo or rendering, and of a picture of errors, pixels."""

MAX_TEXT = 100_000
"""Characters that are shown of a file."""

MAX_BYTES, MAX_PICTURE_BYTES = 3_500_000, 450_000
"""Of the embedded pictures of views together, and of each; the worst and the best view always have room."""


@dataclass
class ViewResult:
    """A held-out view: its numbers, and its pictures where they are embedded.

    Attributes:
        stem: of the names of its files.
        time: as the capture counts it; None in a static scene.
    """

    name: str
    stem: str
    psnr: float | None
    ssim: float | None
    lpips: float | None
    moving_psnr: float | None
    foreground_psnr: float | None
    time: float | None
    pictures: dict[str, Picture] = field(default_factory=dict)
    """"truth", "render" and "error"; empty where they are not embedded."""


@dataclass(frozen=True)
class RunFiles:
    """What is there of a run; what is missing or unreadable is empty.

    Attributes:
        metrics: content of `metrics.json`.
        config: the settings, as the checkpoint has them; without one the text of `config.yaml`, which is for people to
            read.
        checkpoint: None if there is none.
        views: the held-out views by name.
        axis: what the times of the views mean.
    """

    folder: Path
    metrics: Mapping[str, Any]
    config: Any
    checkpoint: Checkpoint | None
    views: Sequence[ViewResult]
    axis: TimeAxis

    @staticmethod
    def read(folder: Path) -> RunFiles:
        """Read the files of a run."""
        metrics, checkpoint = read_metrics(folder), _read_checkpoint(folder)
        test = as_mapping(metrics.get("test"))
        return RunFiles(
            folder=folder,
            metrics=metrics,
            config=_read_text(folder / CONFIG_NAME) if checkpoint is None else _settings(checkpoint),
            checkpoint=checkpoint,
            views=read_views(folder, test),
            axis=read_time_axis(test),
        )

    @property
    def test(self) -> dict[str, Any]:
        """What the metrics say of the held-out views."""
        return as_mapping(self.metrics.get("test"))

    @cached_property
    def model(self) -> RadianceModel | None:
        """The model of the checkpoint, on the CPU."""
        return None if self.checkpoint is None else self.checkpoint.make_model()

    @cached_property
    def state(self) -> Mapping[str, Any]:
        """What the checkpoint keeps of the run itself."""
        parts = {} if self.checkpoint is None else self.checkpoint.parts
        return parts[RUN_PART].values if RUN_PART in parts else {}

    @property
    def given(self) -> bool:
        """Whether the run was given terms or companions from Python, without which it cannot be resumed."""
        parts = {} if self.checkpoint is None else self.checkpoint.parts
        return GIVEN_PART in parts and any(parts[GIVEN_PART].values.values())

    @property
    def mean_psnr(self) -> float | None:
        """Of the held-out views, dB."""
        return as_number(self.test.get("psnr"))

    @property
    def better_than_flat(self) -> bool | None:
        """As `Metrics` has it; None if that is not known."""
        known = self.test.get("better_than_flat")
        return known if isinstance(known, bool) else None

    @property
    def moves(self) -> bool:
        """Whether the scene has times."""
        axis = None if self.checkpoint is None else self.checkpoint.time_axis
        return axis is not None or "time_axis" in self.test

    @property
    def steps(self) -> float | None:
        """Optimisation steps done."""
        return as_number(self.metrics.get("steps")) or (self.checkpoint and float(self.checkpoint.step))

    @property
    def seconds(self) -> float | None:
        """Training time so far."""
        return as_number(self.metrics.get("train_seconds")) or (self.checkpoint and self.checkpoint.seconds)

    @property
    def progress(self) -> float | None:
        """How much of the run is done, 0..1; None where that is not known."""
        config = as_mapping(self.config)
        for goal, done in ((config.get("budget_seconds"), self.seconds), (config.get("steps"), self.steps)):
            goal = as_number(goal)
            if goal and done is not None:
                return min(1.0, done / goal)
        return None

    @cached_property
    def ordered(self) -> list[ViewResult]:
        """The worst view, the best, then the others by name."""
        measured = [view for view in self.views if view.psnr is not None]
        ends = []
        if len(measured) > 1:
            ends = [min(measured, key=lambda view: view.psnr or 0.0), max(measured, key=lambda view: view.psnr or 0.0)]
        return [*ends, *(view for view in self.views if not any(view is end for end in ends))]

    @cached_property
    def shown(self) -> list[ViewResult]:
        """Those of `ordered` that have pictures."""
        return [view for view in self.ordered if view.pictures]


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """What `config.yaml` says, in the same order."""
    given = dict(checkpoint.parts[GIVEN_PART].values) if GIVEN_PART in checkpoint.parts else {}
    return {"capture": checkpoint.capture, "data": dict(checkpoint.data), **checkpoint.config, "given": given}


def _read_text(path: Path) -> str | None:
    """The beginning of a text; None if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(MAX_TEXT)
    except OSError:
        return None


def _read_checkpoint(folder: Path) -> Checkpoint | None:
    if not (folder / CHECKPOINT_NAME).exists():
        return None
    try:
        return load_checkpoint(folder)
    except UserError as error:
        log.warning("The report shows nothing of the model. %s", error)
        return None


def as_mapping(value: Any) -> dict[str, Any]:
    """The value itself if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_number(value: Any) -> float | None:
    """A finite number, or None."""
    number = finite_number(value)
    return number if number is not None and abs(number) < 1e300 else None


def read_time_axis(test: Mapping[str, Any]) -> TimeAxis:
    """What the times in the metrics mean; from 0 to 1 where they do not say."""
    given = as_mapping(test.get("time_axis"))
    start, end = as_number(given.get("start")), as_number(given.get("end"))
    if start is None or end is None or not start < end:
        return TimeAxis(0.0, 1.0)
    unit = given.get("unit")
    return TimeAxis(start, end, unit if unit in ("seconds", "frames") else "")


def read_views(run: Path, test: Mapping[str, Any]) -> list[ViewResult]:
    """The views of the metrics (or, without them, those with pictures) by name, some of them with pictures."""
    folder = run / TEST_RENDERS
    rows = test.get("views")
    if isinstance(rows, list):
        rows = [row for row in rows if isinstance(row, dict) and "name" in row]
        stems = image_stems([str(row["name"]) for row in rows])
    else:
        stems = [path.stem.removesuffix(PHOTO_ENDING) for path in sorted(folder.glob(f"*{PHOTO_ENDING}.png"))]
        rows = [{"name": stem} for stem in stems]
    axis = read_time_axis(test)
    views = []
    for row, stem in zip(rows, stems, strict=True):
        psnr, ssim, lpips, moving, foreground, time = (
            as_number(row.get(key)) for key in ("psnr", "ssim", "lpips", "moving_psnr", "foreground_psnr", "time")
        )
        own = None if time is None else axis.own(time)
        views.append(ViewResult(str(row["name"]), stem, psnr, ssim, lpips, moving, foreground, own))
    views.sort(key=lambda view: view.name)
    room = MAX_BYTES
    for index in _worth_showing([view.psnr for view in views]):
        pictures = _pictures(folder, views[index].stem)
        room -= sum(len(picture.uri) for picture in pictures.values())
        if room <= 0:
            break
        views[index].pictures = pictures
    return views


def _worth_showing(psnrs: Sequence[float | None]) -> list[int]:
    """Up to `MAX_VIEWS` indices, the most informative first: the worst, the best, then evenly between them; views that
    could not be measured come last."""
    measured = {i: psnr for i, psnr in enumerate(psnrs) if psnr is not None}
    ranked = sorted(measured, key=lambda i: (measured[i], i))
    ends = [ranked[k] for pair in ((i, -1 - i) for i in range(MAX_VIEWS // 4)) for k in pair if len(ranked) > abs(k)]
    spread = [ranked[round(k)] for k in np.linspace(0, len(ranked) - 1, MAX_VIEWS)] if ranked else []
    rest = ranked if len(ranked) <= MAX_VIEWS else spread
    return list(dict.fromkeys([*ends, *rest, *range(len(psnrs))]))[:MAX_VIEWS]


def _pictures(folder: Path, stem: str) -> dict[str, Picture]:
    """The pictures of a view; empty if they are not there."""
    found = read_pictures(folder, stem)
    if found is None:
        return {}
    truth, render = found
    error = np.abs(truth.astype(np.float32) - render.astype(np.float32)).mean(axis=2) / 255  # [H, W]
    return {
        "truth": jpeg(truth, MAX_SIDE, MAX_PICTURE_BYTES),
        "render": jpeg(render, MAX_SIDE, MAX_PICTURE_BYTES),
        "error": jpeg(color_error(error), MAX_ERROR_SIDE, MAX_PICTURE_BYTES),
    }
