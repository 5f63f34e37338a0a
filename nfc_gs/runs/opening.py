"""Opening what was saved: a model of any file, and a run with the capture it was trained on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import check_path
from nfc_gs.core.plain_json import finite_number
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.normalize import same_frame, translation
from nfc_gs.data.scene import SceneData
from nfc_gs.formats.notes import Notes, notes_of_scene
from nfc_gs.formats.registry import format_of, read_notes, read_splats, splat_suffixes
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RadianceModel, RenderOptions
from nfc_gs.ops.device import resolve_device
from nfc_gs.rendering.registry import choose_device_and_backend, get_backend
from nfc_gs.runs.checkpoint import RUN_PART, Checkpoint, load_checkpoint
from nfc_gs.runs.history import check_history
from nfc_gs.runs.metrics import Metrics, TrainingRecord, check_metrics, read_metrics, write_metrics
from nfc_gs.runs.names import CHECKPOINT_NAME
from nfc_gs.runs.run_folder import image_cache_of


@dataclass(frozen=True, repr=False)
class LoadedModel:
    """A model that was read from a file, to render and look at. Training goes on with `Trainer.resume`.

    Attributes:
        path: what it was read from.
        model: without gradients.
        options: how its views are rendered: background, antialiasing, corrections of views.
        transform: [4, 4] float64 similarity from the capture's world frame to the frame of the model; of a splat file,
            which holds the Gaussians in the frame of the capture, the identity, or a translation if it has an offset
            (`formats.offset`).
        notes: what is up, where to begin to look, and the background, as far as a file says so, in the frame of the
            model.
        checkpoint: the rest of what was saved; None of a splat file.

    >>> garden = nfc_gs.load_model("runs/garden")
    >>> garden
    LoadedModel('runs/garden': 300 Gaussians, SH degree 3, step 20)
    >>> garden.scene  # the cameras it was trained on
    SceneData('...captures/garden': 8 views, 7 to train on and 1 held out, without photos)
    >>> garden.background
    (0.0, 0.0, 0.0)
    """

    path: Path
    model: RadianceModel
    options: RenderOptions
    transform: np.ndarray
    notes: Notes
    checkpoint: Checkpoint | None = None

    @property
    def background(self) -> tuple[float, float, float]:
        """Color in [0, 1] behind the model."""
        return self.options.background

    @property
    def scene(self) -> SceneData | None:
        """The cameras of the capture it was trained on, without photos; None of a splat file."""
        return None if self.checkpoint is None else self.checkpoint.scene

    def __repr__(self) -> str:
        step = "" if self.checkpoint is None else f", step {self.checkpoint.step:,}"
        return f"LoadedModel('{self.path}': {in_words(self.model)}{step})"


def in_words(model: RadianceModel) -> str:
    """How large a model is, and what else there is in a few words: '12,345 Gaussians, SH degree 3'."""
    (what, count), *others = model.facts().items()
    degree = [f"{name} {value}" for name, value in others if name == "SH degree"]
    return ", ".join([f"{count} {what}", *degree, *(["moving"] if model.changes_with_time else [])])


def what_opens() -> str:
    """What `load_model` opens, in words for sentences that say what to give."""
    return f"a run folder, a checkpoint or compact file (.safetensors), or a splat file ({splat_suffixes()})"


def load_model(path: Path | str, *, device: str = "cpu") -> LoadedModel:
    """The model of a run folder, a checkpoint, a compact file (.safetensors) or a splat file (.ply, .splat).

    Args:
        device: where it will be: cpu, cuda, cuda:N, or auto for a GPU if there is one.

    Raises:
        UserError: there is no such file, it is none of these, or it is broken.

    >>> nfc_gs.load_model("runs/garden")
    LoadedModel('runs/garden': 300 Gaussians, SH degree 3, step 20)
    >>> splat = nfc_gs.load_model("runs/garden/splat.ply")
    >>> splat
    LoadedModel('runs/garden/splat.ply': 300 Gaussians, SH degree 3)
    >>> splat.model.means.numpy().shape
    (300, 3)
    """
    check_path(path)
    path, device = Path(path), resolve_device(device)
    if format_of(path) is not None:
        model = read_splats(path).to(device).requires_grad_(False)
        notes = read_notes(path)
        transform = np.eye(4) if notes.offset is None else translation(-notes.offset)
        options = RenderOptions() if notes.background is None else RenderOptions(background=notes.background)
        return LoadedModel(path, model, options, transform, notes)
    if not path.exists():
        raise UserError(f"There is no {path}; give {what_opens()}.")
    if path.is_file() and path.suffix.lower() != ".safetensors":
        raise UserError(f"{path} holds no model; give {what_opens()}.")
    checkpoint = load_checkpoint(path)
    model = checkpoint.make_model(device).detached()
    options, scene = checkpoint.render_options(), checkpoint.scene
    points = model.means if isinstance(model, GaussianModel) else torch.from_numpy(scene.points.xyz)
    notes = notes_of_scene(scene, points, options.background)
    return LoadedModel(path, model, options, checkpoint.transform, notes, checkpoint)


@dataclass(frozen=True)
class OpenRun:
    """A run opened for rendering.

    Attributes:
        folder: where what is made of the run goes.
        model: on `device`.
        options: how its views are rendered, with a backend that works on `device`.
        scene: the capture it was trained on; without images where they were not asked for and are not there.
    """

    folder: Path
    checkpoint: Checkpoint
    model: RadianceModel
    device: str
    options: RenderOptions
    scene: SceneData

    def save_metrics(self, metrics: Metrics) -> Path:
        """Write `metrics.json` anew; what an earlier one says of the training's memory and time is kept.

        Returns its path.
        """
        checkpoint = self.checkpoint
        config = {name: str(checkpoint.config.get(name, "")) for name in ("device", "backend", "preset", "method")}
        record = TrainingRecord(
            sizes=self.model.sizes(),
            steps=checkpoint.step,
            train_seconds=checkpoint.seconds,
            timings=timings_so_far(self.folder, checkpoint),
            peak_memory_mb=finite_number(read_metrics(self.folder).get("peak_memory_mb")),
            **config,
        )
        return write_metrics(self.folder, metrics, record)


def timings_so_far(run: Path, checkpoint: Checkpoint) -> Mapping[str, float]:
    """Seconds by stage up to a checkpoint; with what was done after it, if `metrics.json` is of the same step.

    Raises:
        KeyError, TypeError, ValueError: those of the checkpoint are odd.
    """
    part = checkpoint.parts.get(RUN_PART)
    saved = {} if part is None else dict(part.values["timings"])
    metrics = read_metrics(run)
    later = metrics.get("timings")
    if metrics.get("steps") != checkpoint.step or not isinstance(later, dict):
        return saved
    return {name: value for name, value in later.items() if isinstance(value, float) and value >= 0.0}


def check_results(run: Path) -> None:
    """Refuse a run whose `metrics.json` or history is damaged, before they are shown or written anew.

    Raises:
        UserError: one of them is.
    """
    if run.is_dir():
        check_metrics(run)
        check_history(run)


def open_run(path: Path, *, capture: Path | None, device: str, backend: str, images: bool = True) -> OpenRun:
    """Open a run folder or its checkpoint.

    Args:
        capture: where the capture lies now; None where it lay when the run was trained.
        device, backend: names as in `TrainConfig`; "auto" takes the run's own backend where it works.
        images: as `scene_again` has it.

    Raises:
        UserError: no such run, a broken checkpoint, a capture that is gone or has other times, a device that is not
            there.
    """
    checkpoint = load_checkpoint(path)
    own = checkpoint.config
    if backend == "auto" and _kind(own.get("device")) == _kind(resolve_device(device)):
        backend = str(own.get("backend", backend))
    device, backend = choose_device_and_backend(device, backend)
    folder = _folder_of(path)
    copies = image_cache_of(folder) if images and folder.is_dir() else None
    scene = scene_again(checkpoint, capture, images=images, copies=copies)
    check_same_times(scene, checkpoint)
    if checkpoint.correction_parts and _names(scene) != _names(checkpoint.scene):
        raise UserError(
            f"The capture {scene.root} has other views than when the run began, which learnt corrections of views; "
            "restore it."
        )
    return OpenRun(
        folder=folder,
        checkpoint=checkpoint,
        model=checkpoint.make_model(device),
        device=device,
        options=checkpoint.render_options(get_backend(backend)),
        scene=scene,
    )


def _kind(device: object) -> str:
    """cpu or cuda, of the name of a device."""
    return str(device).partition(":")[0]


def _folder_of(path: Path) -> Path:
    """The folder of a run; for a file that lies elsewhere one with its name beside it, since that may be another's."""
    if path.is_dir():
        return path
    return path.parent if path.name == CHECKPOINT_NAME else path.with_name(f"{path.stem}-results")


def capture_is_there(checkpoint: Checkpoint) -> bool:
    """Whether there is something where the capture of a run lay; not where nobody may look."""
    return os.path.exists(checkpoint.capture)


def scene_again(
    checkpoint: Checkpoint, capture: Path | None, *, images: bool = True, copies: Path | None = None
) -> SceneData:
    """Read the capture of a run again.

    Args:
        capture: where it lies now; None where it lay.
        images: they are needed; else what the checkpoint holds of a capture that is gone will do.
        copies: as `load_scene` has it.

    Raises:
        UserError: it is gone, or cannot be read.
    """
    if capture is None and not capture_is_there(checkpoint):
        if not images:
            return checkpoint.scene
        raise UserError(
            f"The capture of this run, {checkpoint.capture}, is not there any more; say where it is with --capture."
        )
    return scene_of(checkpoint, capture, copies=copies)


def scene_of(checkpoint: Checkpoint, capture: Path | str | None = None, *, copies: Path | None = None) -> SceneData:
    """Read the capture of a run again, in the way it was read for training.

    Args:
        capture: where it lies now, if it was moved.
        copies: as `load_scene` has it.

    Raises:
        UserError: it cannot be read, or the checkpoint does not say how.
    """
    values: dict[str, Any] = dict(checkpoint.data)
    if values.get("background") is not None:
        values["background"] = tuple(values["background"])
    try:
        config = DataConfig(**values)
    except TypeError as error:
        raise UserError(
            f"The saved configuration of the capture does not fit this version of nfc-gs ({error}); start a new run."
        ) from None
    return load_scene(capture if capture is not None else checkpoint.capture, config, copies=copies)


def _names(scene: SceneData) -> list[str]:
    return [view.name for view in scene.views]


def _training_names(scene: SceneData) -> list[str]:
    return [scene.views[i].name for i in scene.train]


def check_same_scene(scene: SceneData, checkpoint: Checkpoint) -> None:
    """Raise UserError if the capture is not what the run was started on."""
    if _training_names(scene) != _training_names(checkpoint.scene):
        raise UserError(
            f"The capture {checkpoint.capture} has other training views than when the run began; "
            "restore it, or start a new run."
        )
    check_same_times(scene, checkpoint)
    if not same_frame(scene.transform, checkpoint.transform):
        raise UserError(
            f"The cameras of the capture {checkpoint.capture} have changed since the run began; "
            "restore it, or start a new run."
        )


def check_same_times(scene: SceneData, checkpoint: Checkpoint) -> None:
    """Raise UserError if the views of a model that changes with time have other times than when its run began, or
    these another meaning."""
    then = checkpoint.scene
    times, times_then = ([each.views[i].time for i in each.train] for each in (scene, then))
    changed = _training_names(scene) == _training_names(then) and times != times_then
    if checkpoint.make_model().changes_with_time and (changed or scene.time_axis != then.time_axis):
        raise UserError(
            f"The times of the capture {scene.root} have changed since the run began; restore it, or start a new run."
        )
