"""What can be shown: a run, a file, a model in memory, a training."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path

import torch

from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import SceneData, TimeAxis
from nfc_gs.export.paths import middle_and_radius as points_middle_and_radius
from nfc_gs.formats.notes import Notes
from nfc_gs.formats.registry import format_of
from nfc_gs.model.radiance import RadianceModel, RenderOptions
from nfc_gs.objective.terms import terms_in_words
from nfc_gs.ops.device import resolve_device
from nfc_gs.runs.checkpoint import Checkpoint, load_checkpoint
from nfc_gs.runs.names import CHECKPOINT_NAME
from nfc_gs.runs.opening import capture_is_there, load_model, scene_of
from nfc_gs.viewer.frames import CoordinateFrame
from nfc_gs.viewer.preview import PreviewModels
from nfc_gs.viewer.snapshot import Snapshot

logger = logging.getLogger("nfc_gs")

Vector = tuple[float, float, float]

NOTHING_KNOWN = Notes()

PLAIN = RenderOptions()
"""How a model is rendered of which nothing else is known."""


class Source:
    """A model to show, and what is known of its origin.

    Attributes:
        name: for people, unique in a viewer.
        scene: the capture it was trained on, without photos if it cannot be read any more; None if nothing is known of
            it.
        options: how it is rendered, but for the backend, which the viewer chooses.
        time_axis: what the times 0 and 1 mean; None for a static model.
        folder: of its run, the only place where files are written; None for what is not a run.
        frame: the coordinate frame of the model; None where it is not known.
        previews: cheaper models for pictures that must come quickly.
        notes: what its file says of up, the first camera and the background, in the frame of the model.
        facts: names and values to show, seed and objective for example.
    """

    def __init__(
        self,
        name: str,
        model: RadianceModel,
        *,
        scene: SceneData | None = None,
        options: RenderOptions = PLAIN,
        time_axis: TimeAxis | None = None,
        folder: Path | None = None,
        step: int | None = None,
        frame: CoordinateFrame | None = None,
        notes: Notes = NOTHING_KNOWN,
    ) -> None:
        """Show a model; its tensors must not change any more. Without a `frame` it is in that of the scene."""
        self.name, self.scene, self.options = name, scene, options
        self.time_axis, self.folder = time_axis, folder
        self.frame = frame_of(scene) if frame is None and scene is not None else frame
        self.facts: dict[str, str] = {}
        self.notes = notes
        self.previews = PreviewModels()
        self._snapshot = Snapshot(model, step, 0)

    def snapshot(self) -> Snapshot:
        """The model as it is now."""
        return self._snapshot

    def set_model(self, model: RadianceModel, step: int | None) -> None:
        """Show another state of the model from now on; its tensors must not change any more."""
        self._snapshot = Snapshot(model, step, self._snapshot.number + 1)

    def refresh(self) -> bool:
        """Load a newer state if there is one; returns whether there was. Raises nothing."""
        return False


class RunSource(Source):
    """A run folder or a checkpoint file, which may still be written: the last whole checkpoint is shown."""

    def __init__(self, path: Path, capture: Path | None = None, device: str = "cpu") -> None:
        """Read the checkpoint, and the capture where it lies now (None: where it lay); raises as `open_source`."""
        self._file, self._device = path / CHECKPOINT_NAME if path.is_dir() else path, device
        self._stamp = self._stamp_now()
        self._lock = threading.Lock()
        loaded = load_model(path, device=device)
        checkpoint = loaded.checkpoint
        assert checkpoint is not None, "a splat file is no run"
        scene = _scene_of(checkpoint, capture)
        super().__init__(
            run_name(path),
            loaded.model,
            scene=scene,
            options=loaded.options,
            time_axis=checkpoint.time_axis,
            folder=self._file.parent,
            step=checkpoint.step,
            frame=CoordinateFrame(loaded.transform, str(scene.root.resolve())),
        )
        self.facts = facts_of(checkpoint)

    def refresh(self) -> bool:
        """Read the checkpoint again if its file has changed; one that cannot be read is left for the next time."""
        with self._lock:
            stamp = self._stamp_now()
            if stamp == self._stamp or stamp is None:
                return False
            self._stamp = stamp
            try:
                checkpoint = load_checkpoint(self._file)
            except UserError as error:
                logger.warning("%s", error)
                return False
            self.set_model(checkpoint.make_model(self._device), checkpoint.step)
            self.facts = facts_of(checkpoint)
            return True

    def _stamp_now(self) -> tuple[int, int] | None:
        try:
            stat = self._file.stat()
        except OSError:  # just being replaced, or gone
            return None
        return stat.st_mtime_ns, stat.st_ino


def frame_of(scene: SceneData) -> CoordinateFrame:
    """The frame in which a capture's cameras are given."""
    return CoordinateFrame(scene.transform, str(scene.root.resolve()))


def run_name(path: Path) -> str:
    """What a run is called: the name of its folder."""
    return (path if path.is_dir() else path.parent).resolve().name if path.name == CHECKPOINT_NAME or path.is_dir() \
        else path.stem  # fmt: skip


def facts_of(checkpoint: Checkpoint) -> dict[str, str]:
    """Settings of a run that a viewer shows."""
    config = checkpoint.config
    facts = {"Method": str(config.get("method", "")), "Seed": str(config.get("seed", ""))}
    facts["Objective"] = terms_in_words(checkpoint.term_weights())
    return facts


def open_source(path: Path | str, *, capture: Path | None = None, device: str = "auto") -> Source:
    """Open a run folder, a checkpoint or a splat file.

    A splat file that lies in a run folder is shown with the cameras and the background of that run.

    Args:
        capture: where the capture of a run lies now; None where it lay.
        device: where to draw: auto, cpu, cuda or cuda:N; auto takes a GPU if there is one.

    Raises:
        UserError: there is no such file, or it is broken. A capture that cannot be read is logged, and its photos are
            left out.
    """
    path, device = Path(path), resolve_device(device)
    if format_of(path) is None:
        return RunSource(path, capture, device)
    loaded, checkpoint = load_model(path, device=device), _checkpoint_around(path)
    options, notes, frame = loaded.options, loaded.notes, CoordinateFrame(loaded.transform, None)
    if checkpoint is None:
        return Source(path.stem, loaded.model, options=options, frame=frame, notes=notes)
    scene, background = _scene_of(checkpoint, capture), checkpoint.render_options().background
    frame = replace(frame, capture=str(scene.root.resolve()))
    return Source(path.stem, loaded.model, scene=scene, options=replace(options, background=background), frame=frame)


def _checkpoint_around(path: Path) -> Checkpoint | None:
    """The checkpoint of the run in whose folder a splat file lies, or in a folder of that; None where there is none."""
    for folder in path.resolve().parents[:2]:
        if (folder / CHECKPOINT_NAME).is_file():
            try:
                return load_checkpoint(folder)
            except UserError as error:
                logger.warning("%s is shown without the cameras of its run. %s", path, error)
    return None


def _scene_of(checkpoint: Checkpoint, capture: Path | None) -> SceneData:
    """The capture of a run; where it cannot be read, that is logged, and what the checkpoint holds of it is taken."""
    if capture is None and not capture_is_there(checkpoint):
        logger.info("The capture %s is not there any more: no photos are shown beside the splat.", checkpoint.capture)
        return checkpoint.scene
    try:
        return scene_of(checkpoint, capture)
    except UserError as error:
        logger.warning("%s", error)
        return checkpoint.scene


def middle_and_radius(source: Source) -> tuple[Vector, float]:
    """Where a source's content is: the median of its points, and the median distance from it, never 0.

    The points are the centres of Gaussians; of another model, those of its capture if there is one, else the origin.
    """
    gaussians = source.snapshot().gaussians
    if gaussians is not None:
        points = gaussians.means.detach()
    elif source.scene is not None and len(source.scene.points) > 0:
        points = torch.from_numpy(source.scene.points.xyz)
    else:
        points = torch.zeros(1, 3)
    middle, radius = points_middle_and_radius(points)
    x, y, z = middle.tolist()
    return (x, y, z), radius
