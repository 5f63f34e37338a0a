"""The folder of a run: whose it is, what it says about itself, and what it was trained on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import write_text
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData, TimeAxis
from nfc_gs.runs.checkpoint import CHECKPOINT_NAME, Checkpoint
from nfc_gs.runs.history import HISTORY_NAME
from nfc_gs.training.config import ResolvedConfig

CONFIG_NAME = "config.yaml"


def claim_run_folder(run: Path | str) -> None:
    """Check that `run` does not hold a run already, before work is done for it.

    Raises:
        UserError: it does.
    """
    for name in (CHECKPOINT_NAME, CONFIG_NAME, HISTORY_NAME):
        if (Path(run) / name).exists():
            raise UserError(
                f"{run} holds a run already, and a run is never overwritten; choose another --out, "
                f"or go on with it: --resume {run}."
            )


def evaluation_background(config: ResolvedConfig, scene: SceneData) -> tuple[float, float, float]:
    """The color behind the splats when views are measured: the capture's own if it has one, else black."""
    if config.background == "white":
        return (1.0, 1.0, 1.0)
    if config.background == "auto" and scene.background is not None:
        return scene.background
    return (0.0, 0.0, 0.0)


def write_config(run: Path, config: ResolvedConfig, capture: Path, data: Mapping[str, Any]) -> None:
    """Write `config.yaml`, for people to read; `Trainer.resume` reads the checkpoint."""
    document = {"capture": str(capture), "data": dict(data), **config.to_dict()}
    write_text(run / CONFIG_NAME, yaml.safe_dump(document, sort_keys=False))


def capture_is_there(checkpoint: Checkpoint) -> bool:
    """Whether there is something where the capture of a run lay; not where nobody may look."""
    return os.path.exists(checkpoint.capture)


def scene_of(checkpoint: Checkpoint, capture: Path | str | None = None) -> SceneData:
    """Read the capture of a run again, in the way it was read for training.

    Args:
        capture: where it lies now, if it was moved.

    Raises:
        UserError: it cannot be read, or the checkpoint does not say how.
    """
    values = dict(checkpoint.data)
    if values.get("background") is not None:
        values["background"] = tuple(values["background"])
    try:
        config = DataConfig(**values)
    except TypeError as error:
        raise UserError(
            f"The saved configuration of the capture does not fit this version of nfc-gs ({error}); start a new run."
        ) from None
    scene = load_scene(capture if capture is not None else checkpoint.capture, config)
    return _timed_as_then(scene, checkpoint.time_axis)


def _timed_as_then(scene: SceneData, then: TimeAxis | None) -> SceneData:
    """Runs of before scaled no times within [0, 1], however small a part of it they span: nor does this scene."""
    now = scene.time_axis
    if then != TimeAxis(0.0, 1.0) or now is None or now.unit or now == then or now.start < 0.0 or now.end > 1.0:
        return scene
    views = [view if view.time is None else replace(view, time=now.own(view.time)) for view in scene.views]
    return replace(scene, views=tuple(views), time_axis=then)


def training_views(scene: SceneData) -> dict[str, list[Any]]:
    """Names and normalised times of the views to train on, as the `state` of a checkpoint keeps them."""
    views = [scene.views[i] for i in scene.train]
    return {"train_views": [view.name for view in views], "train_times": [view.time for view in views]}


def check_same_scene(scene: SceneData, checkpoint: Checkpoint) -> None:
    """Raise if the capture is not what the run was started on."""
    if training_views(scene)["train_views"] != checkpoint.state.get("train_views"):
        raise UserError(
            f"The capture {checkpoint.capture} has other training views than when the run began; "
            "restore it, or start a new run."
        )
    check_same_times(scene, checkpoint)
    if not np.allclose(scene.transform, checkpoint.transform, rtol=1e-6, atol=1e-9):
        raise UserError(
            f"The cameras of the capture {checkpoint.capture} have changed since the run began; "
            "restore it, or start a new run."
        )


def check_same_times(scene: SceneData, checkpoint: Checkpoint) -> None:
    """Raise if a moving splat's views have other times, or these another meaning, than when its run began."""
    now, then = training_views(scene), checkpoint.state
    same_views = now["train_views"] == then.get("train_views")
    times = then.get("train_times", now["train_times"])  # runs of before did not save them
    moved = same_views and now["train_times"] != times
    units = [axis.unit for axis in (checkpoint.time_axis, scene.time_axis) if axis is not None]
    gained_seconds = same_views and units == ["frames", "seconds"]  # runs of before had none for videos
    same_axis = gained_seconds or scene.time_axis == checkpoint.time_axis
    if checkpoint.motion and (moved or not same_axis):
        raise UserError(
            f"The times of the capture {scene.root} have changed since the run began; restore it, or start a new run."
        )
