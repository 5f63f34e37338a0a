"""What a training leaves in its run folder at the end: splat, metrics, rendered views, video and report."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from nfc_gs.core.errors import UserError
from nfc_gs.core.files import make_folder
from nfc_gs.core.signals import Interrupted, first_signal_calls, signal_of
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.data.sampler import MEASURED_AT_THE_END
from nfc_gs.data.scene import SceneData
from nfc_gs.export.loop_video import write_loop_video
from nfc_gs.export.report import write_report
from nfc_gs.formats.notes import notes_of_scene
from nfc_gs.formats.registry import write_splats
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RadianceModel, RenderOptions
from nfc_gs.runs.history import read_history
from nfc_gs.runs.metrics import Metrics
from nfc_gs.runs.names import LOOP_NAME, SPLAT_NAME, TEST_RENDERS
from nfc_gs.runs.run_folder import remove_leftovers_of
from nfc_gs.runs.verdict import shortfall
from nfc_gs.training.trainer import Trainer

logger = logging.getLogger("nfc_gs")

START_TIME = 0.0
"""The time of a moving splat in a file that knows no time."""


def finish(trainer: Trainer, progress: Callable[[int, int], None] | None = None) -> Metrics | None:
    """Write splat, metrics, rendered views (of a moving scene also a video) and report of a run as it is now.

    Then the folder of the run is released for other processes. Ctrl-C ends the measuring of held-out views, and the
    rest is written all the same; if it was Ctrl-C that ended the training, it ends this at once.

    Args:
        progress: called with how many held-out views are measured, and how many there are.

    Returns:
        The metrics, or None if Ctrl-C cut the measuring short.

    Raises:
        UserError: something cannot be written, or an image not be read; or another process works in the folder.

    >>> scene = nfc_gs.load_scene("captures/garden")
    >>> config = nfc_gs.TrainConfig(steps=6)
    >>> trainer = nfc_gs.Trainer(scene, config, "runs/by-hand", capture="captures/garden")
    >>> trainer.train().reason
    'done'
    >>> metrics = nfc_gs.finish(trainer)  # `train` does this by itself
    >>> (trainer.run.folder / "report.html").exists(), metrics.psnr > 10
    (True, True)
    """
    with trainer.run.writing():
        metrics = _write_results(trainer, progress)
        remove_leftovers_of(trainer.run.folder)
    trainer.run.release()
    return metrics


def _write_results(trainer: Trainer, progress: Callable[[int, int], None] | None) -> Metrics | None:
    """What `finish` writes; returns the metrics, None where they were cut short."""
    run, model = trainer.run, trainer.model
    training_was_interrupted = run.interrupted_by is not None

    def note(number: int) -> None:
        run.interrupted_by = number

    def cut_short(number: int) -> None:
        note(number)
        raise Interrupted(number)

    def first_signal(handler: Callable[[int], None]) -> contextlib.AbstractContextManager[None]:
        return first_signal_calls(handler) if run.interrupted_by is None else contextlib.nullcontext()

    if isinstance(model, GaussianModel):
        with one_torch_thread(), trainer.clock.counting("export"), first_signal(note):
            still = model.at(START_TIME, trainer.operations)
            notes = notes_of_scene(trainer.scene, still.means, trainer.render_options.background)
            write_splats(run.folder / SPLAT_NAME, still, trainer.scene.transform, notes=notes)
    metrics: Metrics | None = None
    if training_was_interrupted or run.interrupted_by is None:
        try:
            with first_signal(cut_short):
                metrics = trainer.evaluate(run.folder / TEST_RENDERS, progress=progress, most=MEASURED_AT_THE_END)
        except KeyboardInterrupt as error:
            if training_was_interrupted:
                raise
            note(signal_of(error))
            logger.warning("Interrupted while held-out views were measured: the metrics leave them out.")
    if metrics is not None and (sentence := shortfall(metrics, read_history(run.folder), steps=trainer.steps_done)):
        logger.warning(sentence)
    with trainer.clock.counting("export"), first_signal(cut_short):
        add_loop_video(run.folder, model, trainer.scene, trainer.render_options)
    with first_signal(note):
        try:
            trainer.write_metrics(metrics or Metrics(()))
        except UserError as error:
            logger.warning("The report lacks the figures of this run. %s", error)
        write_report(run.folder)
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
