"""What Python users call: training a capture from end to end."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nfc_gs.core.errors import UserError
from nfc_gs.core.events import Listener
from nfc_gs.core.files import make_folder
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData
from nfc_gs.export.loop_video import write_loop_video
from nfc_gs.export.report import write_report
from nfc_gs.formats.registry import write_splats
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RadianceModel, RenderOptions
from nfc_gs.runs.metrics import Metrics
from nfc_gs.runs.names import LOOP_NAME, SPLAT_NAME, TEST_RENDERS
from nfc_gs.runs.run_folder import claim_run_folder
from nfc_gs.training.clock import StageClock
from nfc_gs.training.companion import Companion
from nfc_gs.training.config import TrainConfig
from nfc_gs.training.resolve import resolve
from nfc_gs.training.trainer import Terms, Trainer

logger = logging.getLogger("nfc_gs")

RUNS = Path("runs")
"""Where runs go unless one says otherwise."""

START_TIME = 0.0
"""The time of a moving splat in a file that knows no time."""


@dataclass(frozen=True)
class TrainedRun:
    """What `train` leaves.

    Attributes:
        folder: the run folder.
        model: the trained model.
        metrics: of the held-out views; None where Ctrl-C cut the measuring short.
        trainer: to go on with.
    """

    folder: Path
    model: RadianceModel
    metrics: Metrics | None
    trainer: Trainer


def train(
    capture: Path | str,
    config: TrainConfig | None = None,
    *,
    out: Path | str | None = None,
    data: DataConfig | None = None,
    terms: Terms | None = None,
    companions: Sequence[Companion] = (),
    listeners: Sequence[Listener] = (),
    family: str = "gaussians",
) -> TrainedRun:
    """Train on a capture and leave a complete run folder: splat, metrics, rendered views, report, checkpoint.

    Args:
        capture: folder of a capture, or its transforms.json.
        config: how to train.
        out: folder of the run; by default runs/<capture>-<date-time>.
        data: how the capture is read.
        terms: further terms of the objective, (weight, function of a `Comparison`) by name.
        companions: what else trains beside the model.
        listeners: are called with events (`core.events`).
        family: of the model, a name of `training.registry.TRAINABLE_FAMILIES`.

    Raises:
        UserError: the capture cannot be read, the configuration makes no sense, or the folder holds a run already.
    """
    config, data = config or TrainConfig(), data or DataConfig()
    resolve(config)  # a wrong setting should show before the capture is read
    folder = Path(out) if out is not None else default_run_folder(Path(capture))
    claim_run_folder(folder)
    clock = StageClock()
    with clock.counting("capture"):
        scene = load_scene(capture, data, seed=config.seed)
    trainer = Trainer(
        scene,
        config,
        folder,
        listeners,
        capture=capture,
        data=data,
        terms=terms,
        companions=companions,
        family=family,
        clock=clock,
    )
    trainer.train()
    return TrainedRun(folder, trainer.model, finish(trainer), trainer)


def finish(trainer: Trainer) -> Metrics | None:
    """Write splat, metrics, rendered views (of a moving scene also a video) and report of a run as it stands.

    Returns:
        The metrics, or None if Ctrl-C cut the measuring short: the rest is written all the same.

    Raises:
        UserError: something cannot be written, or an image not be read.
    """
    folder, model = trainer.run.folder, trainer.model
    if isinstance(model, GaussianModel):
        with one_torch_thread(), trainer.clock.counting("export"):
            still = model.at(START_TIME, trainer.operations)
            write_splats(folder / SPLAT_NAME, still, trainer.scene.transform)
    metrics: Metrics | None = None
    try:
        metrics = trainer.evaluate(save_to=folder / TEST_RENDERS)
    except KeyboardInterrupt:
        logger.warning("Interrupted while held-out views were measured: the metrics leave them out.")
    with trainer.clock.counting("export"):
        add_loop_video(folder, model, trainer.scene, trainer.render_options)
    trainer.write_metrics(metrics or Metrics(()))
    write_report(folder)
    return metrics


def add_loop_video(run: Path, model: RadianceModel, scene: SceneData, options: RenderOptions) -> None:
    """Write the looping video of a model that changes with time into its run folder; a failure is logged, no more."""
    if not model.changes_with_time:
        return
    try:
        path = run / LOOP_NAME
        make_folder(path.parent)
        with one_torch_thread():
            write_loop_video(path, model, scene, options)
    except UserError as error:
        logger.warning("The report gets no new video. %s", error)
    except KeyboardInterrupt:
        logger.warning("Interrupted while the video of the report was rendered: there is no new one.")


def free_folder(path: Path) -> Path:
    """`path`, or `path-2`, `path-3`, ...: the first that is not there yet."""
    free, number = path, 2
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free


def default_run_folder(capture: Path) -> Path:
    """`runs/<capture>-<date-time>`, never one that is there."""
    place = capture.resolve()
    name = (place.parent if place.suffix == ".json" else place).name or "capture"
    return free_folder(RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
