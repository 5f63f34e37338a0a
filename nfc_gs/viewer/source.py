"""What can be looked at: a run, a file, a model in memory, a training."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import torch

from nfc_gs.core.errors import UserError
from nfc_gs.data.scene import SceneData, TimeAxis
from nfc_gs.formats.registry import format_of, read_splats, splat_suffixes
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.objective.terms import terms_in_words
from nfc_gs.runs.checkpoint import Checkpoint, checkpoint_path, load_checkpoint
from nfc_gs.runs.names import CHECKPOINT_NAME
from nfc_gs.runs.opening import capture_is_there, scene_of
from nfc_gs.viewer.frames import WORLD, CoordinateFrame
from nfc_gs.viewer.light import Light

logger = logging.getLogger("nfc_gs")

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Snapshot:
    """A model as it is at one moment; nobody changes its tensors.

    Attributes:
        step: of the training; None for a file.
        number: grows with every snapshot of a source.
    """

    model: GaussianModel
    step: int | None
    number: int


class Source:
    """A model to look at, and what is known of where it comes from.

    Attributes:
        name: for people, unique in a viewer.
        scene: the capture it was trained on, without photos if it cannot be read any more; None if nothing is known of
            it.
        background: color in [0, 1] behind the splats.
        antialiased: it was trained with Mip-Splatting's opacities.
        time_axis: what the times 0 and 1 mean; None for a static model.
        folder: of its run, the only place where files are written; None for what is not a run.
        frame: what its Gaussians are given in; None where nothing is known of that.
        light: models to draw in its place where pictures must come quickly.
        facts: names and values to show, seed and objective for example.
    """

    def __init__(
        self,
        name: str,
        model: GaussianModel,
        *,
        scene: SceneData | None = None,
        background: Vector = (0.0, 0.0, 0.0),
        antialiased: bool = False,
        time_axis: TimeAxis | None = None,
        folder: Path | None = None,
        step: int | None = None,
        frame: CoordinateFrame | None = None,
    ) -> None:
        """Show a model; its tensors must not change any more. Without a `frame` it is in that of the scene."""
        self.name, self.scene, self.background, self.antialiased = name, scene, background, antialiased
        self.time_axis, self.folder = time_axis, folder
        self.frame = frame_of(scene) if frame is None and scene is not None else frame
        self.facts: dict[str, str] = {}
        self.light = Light()
        self._snapshot = Snapshot(model, step, 0)

    def snapshot(self) -> Snapshot:
        """The model as it is now."""
        return self._snapshot

    def show(self, model: GaussianModel, step: int | None) -> None:
        """Show another state of the model from now on."""
        self._snapshot = Snapshot(model, step, self._snapshot.number + 1)

    def refresh(self) -> bool:
        """Look whether there is something newer; returns whether there is. Raises nothing."""
        return False


class RunSource(Source):
    """A run folder or a checkpoint file, which may still be written: the last whole checkpoint is shown."""

    def __init__(self, path: Path, scene: SceneData | None, device: str = "cpu") -> None:
        """Read the checkpoint; raises UserError as `load_checkpoint`."""
        self._file, self._device = checkpoint_path(path), device
        self._stamp = self._stamp_now()
        self._lock = threading.Lock()
        checkpoint = load_checkpoint(self._file)
        super().__init__(
            run_name(path),
            checkpoint.make_model(device),
            scene=scene,
            background=checkpoint.background,
            antialiased=bool(checkpoint.config.get("antialiased", False)),
            time_axis=checkpoint.time_axis,
            folder=self._file.parent,
            step=checkpoint.step,
            frame=CoordinateFrame(
                checkpoint.transform, str(Path(checkpoint.capture if scene is None else scene.root).resolve())
            ),
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
            self.show(checkpoint.make_model(self._device), checkpoint.step)
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
    objective = config.get("objective")
    if isinstance(objective, dict):
        facts["Objective"] = terms_in_words(objective)
    return facts


def open_source(path: Path | str, *, capture: Path | None = None, device: str = "auto") -> Source:
    """Open a run folder, a checkpoint or a splat file.

    Args:
        capture: where the capture of a run lies now; None where it lay.
        device: where to draw: auto, cpu or cuda; auto takes a GPU if there is one.

    Raises:
        UserError: there is no such thing, or it is broken. A capture that cannot be read is told, and its photos are
            left out.
    """
    path = Path(path)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if format_of(path) is not None:
        return Source(path.stem, read_splats(path).to(device), frame=WORLD)
    if not path.exists():
        raise UserError(f"There is no {path}; give a run folder, a checkpoint or a splat file ({splat_suffixes()}).")
    if path.is_file() and path.suffix.lower() != ".safetensors":
        raise UserError(
            f"{path} cannot be shown; give a run folder, a checkpoint (.safetensors) or a splat ({splat_suffixes()})."
        )
    return RunSource(path, _scene_of(path, capture), device)


def _scene_of(path: Path, capture: Path | None) -> SceneData | None:
    """The capture of a run; where it cannot be read, a sentence, and what the checkpoint holds of it, if anything."""
    checkpoint = load_checkpoint(path)
    if capture is None and not capture_is_there(checkpoint):
        logger.info("The capture %s is not there any more: no photos are shown beside the splat.", checkpoint.capture)
        return checkpoint.scene
    try:
        return scene_of(checkpoint, capture)
    except UserError as error:
        logger.warning("%s", error)
        return checkpoint.scene


def up_of(scene: SceneData | None) -> Vector:
    """The direction that is up: that of the cameras; without a capture, -y (most splats' convention)."""
    if scene is None or not scene.views:
        return (0.0, -1.0, 0.0)
    ups = torch.stack([-view.camera.viewmat[1, :3] for view in scene.views])
    x, y, z = torch.nn.functional.normalize(ups.mean(0), dim=0).tolist()
    return (x, y, z)


def middle_and_radius(model: GaussianModel) -> tuple[Vector, float]:
    """Where the Gaussians are: the median of their centres, and the median distance from it, never 0."""
    means = model.means.detach()
    means = means[:: max(1, len(means) // 100_000)].cpu()
    middle = means.median(0).values
    radius = float((means - middle).norm(dim=1).median()) or 1.0
    x, y, z = middle.tolist()
    return (x, y, z), radius
