"""Training: a `Step`, which does the mathematics, and a `Run`, which keeps what comes of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from nfc_gs.core.errors import UserError
from nfc_gs.core.events import Listener, TrainFinished, TrainStarted
from nfc_gs.core.text import in_one_line
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.data.config import DataConfig
from nfc_gs.data.sampler import MEASURED_WHILE_TRAINING
from nfc_gs.data.scene import SceneData
from nfc_gs.data.stored import without_photos
from nfc_gs.model.corrections import NO_CORRECTION
from nfc_gs.model.radiance import Part, RadianceModel, RenderOptions
from nfc_gs.objective.objective import Objective
from nfc_gs.objective.terms import Comparison, Term
from nfc_gs.ops.operations import operations_for
from nfc_gs.rendering.registry import BACKENDS, choose_device_and_backend, get_backend
from nfc_gs.runs.checkpoint import GIVEN_PART, RESERVED_PARTS, RUN_PART, Checkpoint, load_checkpoint
from nfc_gs.runs.metrics import Metrics, TrainingRecord, peak_memory_mb, write_metrics
from nfc_gs.runs.names import CHECKPOINT_NAME, CONFIG_NAME
from nfc_gs.runs.opening import check_same_scene, scene_of, timings_so_far
from nfc_gs.runs.run_folder import RunFolder, claim_run_folder, image_cache_of, lock_run_folder, write_config
from nfc_gs.runs.timelapse import timelapse_picture
from nfc_gs.training.clock import StageClock
from nfc_gs.training.companion import Companion
from nfc_gs.training.config import ResolvedConfig, TrainConfig
from nfc_gs.training.config_check import check, check_terms
from nfc_gs.training.evaluation import evaluate
from nfc_gs.training.forecast import Forecast, check_fits, fit_to_memory
from nfc_gs.training.registry import TRAINABLE_FAMILIES, companions_of
from nfc_gs.training.resolve import evaluation_background, resolve
from nfc_gs.training.run import Run
from nfc_gs.training.schedules import progress_of
from nfc_gs.training.step import NonFiniteLossError, Step

Terms = Mapping[str, tuple[float, Term | Callable[[Comparison], Tensor]]]
"""Terms of one's own beside the configured ones: weight and function, by name."""

_GPU_READS = 10
"""Steps between two readings of the loss on a GPU."""


class Trainer:
    """Trains a model on a scene and keeps everything in a run folder.

    All randomness depends on (seed, purpose, step) alone and torch computes in one thread on the CPU, so a run
    gives the same bits again, for any number of threads and across interruptions.

    A trainer keeps its run folder locked against other processes until `run.release`, which `nfc_gs.finish` calls, or
    until it is forgotten. `resume` takes the folder over from another trainer of the process that is not training.

    Attributes:
        scene, config, model: what it works on; read them, do not change them.
        training: of the model's family: optimizer, density control.
        operations: compute losses, optimizer and deformation.
        companions: what trains beside the model.
        run: how far it is, and its folder.
        background: color in [0, 1] behind the model when views are measured.
        clock: where the time goes.
        forecast: the memory that it will need; None where that is not known of the model's family.

    >>> scene = nfc_gs.load_scene("captures/garden")
    >>> trainer = nfc_gs.Trainer(scene, nfc_gs.TrainConfig(steps=8), "runs/steps", capture="captures/garden")
    >>> for _ in range(3):
    ...     trainer.step()
    >>> trainer.steps_done, trainer.progress
    (3, 0.375)
    >>> path = trainer.save()  # what `resume` goes on from
    >>> trainer = nfc_gs.Trainer.resume("runs/steps")
    >>> trainer.train().step
    8
    """

    def __init__(
        self,
        scene: SceneData,
        config: TrainConfig,
        run: Path | str | RunFolder,
        listeners: Sequence[Listener] = (),
        *,
        capture: Path | str,
        data: DataConfig | None = None,
        terms: Terms | None = None,
        companions: Sequence[Companion] = (),
        family: str = "gaussians",
        clock: StageClock | None = None,
    ) -> None:
        """Begin a run: make its folder and write its configuration and a checkpoint of step 0.

        Args:
            run: folder of the run, which must not hold one already; or what `runs.run_folder.claim_run_folder` returns.
            listeners: are called with events (`core.events`); one that raises is logged and dropped.
            capture: path the scene was read from, for `resume`.
            data: how `load_scene` read it, for `resume`.
            terms: further terms of the objective, (weight, function of a `Comparison`) by name.
            companions: what else trains beside the model; a correction of views that one of them learns is applied
                when the run is opened if `model.correction_kinds.CORRECTIONS` has its name.
            family: of the model, a name of `training.registry.TRAINABLE_FAMILIES`.
            clock: where the time goes is counted on it; it may have counted the reading of the capture already.

        Raises:
            UserError: the folder holds a run, another process works in it, or it cannot be written; the configuration
                does not make sense; or the device or backend is not there.
        """
        if family not in TRAINABLE_FAMILIES:
            raise UserError(f"There is no family of models '{family}', only {', '.join(TRAINABLE_FAMILIES)}.")
        self.clock = clock or StageClock()
        with self.clock.counting("start"), one_torch_thread():
            folder = run if isinstance(run, RunFolder) else claim_run_folder(run)
            try:
                resolved = resolve(config, moves=scene.time_axis is not None)
                place = Path(capture).resolve()
                _check_has_views(scene, place)
                forecast = TRAINABLE_FAMILIES[family].forecast
                self.forecast: Forecast | None = None
                if forecast is not None:
                    found = forecast(scene, resolved, None, 0)
                    self.forecast, resolved = fit_to_memory(found, resolved, given=config.max_gaussians is not None)
                model = TRAINABLE_FAMILIES[family].new_model(scene, resolved)
                self._assemble(scene, resolved, folder, listeners, model, terms or {}, companions)
                self._capture, self._data = place, asdict(data or DataConfig())
                self.run.begin()
                self._write_config()
            except BaseException:
                folder.abandon()
                raise
            folder.lock.busy = False

    @classmethod
    def resume(
        cls,
        run: Path | str | RunFolder,
        listeners: Sequence[Listener] = (),
        *,
        scene: SceneData | None = None,
        terms: Terms | None = None,
        companions: Sequence[Companion] = (),
        clock: StageClock | None = None,
    ) -> Trainer:
        """Go on with a run from its last checkpoint, exactly as if it had never stopped.

        Args:
            run: folder of the run, or what `runs.run_folder.lock_run_folder` returns.
            scene: the scene it trains on; None to read the capture again.
            terms, companions: the same as when the run began.
            clock: as for a new run.

        Raises:
            UserError: no such run, one that another process works in, a broken checkpoint, a capture that is gone or
                has changed, terms or companions of its own that are not given again, or a device or backend that is
                not there.
        """
        clock = clock or StageClock()
        folder = run if isinstance(run, RunFolder) else lock_run_folder(run)
        try:
            with clock.counting("start"):
                checkpoint = load_checkpoint(folder.path)
                config = ResolvedConfig.from_dict(checkpoint.config)
                check(config)
                choose_device_and_backend(config.device, config.backend)
                if scene is None:
                    with clock.counting("capture"):
                        scene = scene_of(checkpoint, copies=image_cache_of(folder.path))
                check_same_scene(scene, checkpoint)
                _check_has_views(scene, Path(checkpoint.capture))
                trainer = cls.__new__(cls)
                trainer.clock = clock
                model = checkpoint.make_model(config.device)
                trainer._assemble(scene, config, folder, listeners, model, terms or {}, companions)
                trainer._capture, trainer._data = Path(checkpoint.capture), dict(checkpoint.data)
                trainer._load(checkpoint)
                if not (folder.path / CONFIG_NAME).exists():  # the run was killed when it had just begun
                    trainer._write_config()
        except BaseException:
            folder.lock.release()
            raise
        return trainer

    def _write_config(self) -> None:
        given = {"terms": self._term_weights, "companions": self._given_companions}
        write_config(self.run.folder, {**self.config.to_dict(), "given": given}, self._capture, self._data)

    def _assemble(
        self,
        scene: SceneData,
        config: ResolvedConfig,
        folder: RunFolder,
        listeners: Sequence[Listener],
        model: RadianceModel,
        terms: Terms,
        companions: Sequence[Companion],
    ) -> None:
        self.scene, self.config, self.model = scene, config, model
        _check_companions(companions)
        operations = operations_for(config.device, reference=BACKENDS[config.backend].reference)
        objective = Objective(config.objective, terms, operations)
        self._term_weights = {name: float(weight) for name, (weight, _) in terms.items()}
        check_terms(config, self.term_weights, objective.outputs(config.objective))
        self.operations = operations
        self.training = TRAINABLE_FAMILIES[model.family].training(model, scene, config, operations)
        self.companions = (*companions_of(model, scene, config, operations), *companions)
        self._step = Step(self.training, objective, self.companions, self.clock)
        self.run = Run(
            folder,
            config,
            listeners,
            make_checkpoint=self._checkpoint,
            picture=lambda: timelapse_picture(self.model, self.scene, self.render_options),
            clock=self.clock,
        )
        self.background = evaluation_background(config, scene)
        self._given_companions = [companion.name for companion in companions]
        self._check_part_names()
        self._stored_scene = without_photos(scene)

    def _load(self, checkpoint: Checkpoint) -> None:
        """Put the training where a checkpoint left it.

        Raises:
            UserError: the checkpoint lacks something, or the memory does not suffice to go on.
        """
        parts = checkpoint.parts
        if RUN_PART not in parts:
            raise UserError(
                f"{self.run.folder} is a compact file, which holds no training; give the folder of the run."
            )
        try:
            given = parts[GIVEN_PART].values
            self._check_given("terms", given["terms"], self._term_weights)
            self._check_given("companions", given["companions"], self._given_companions)
            self.training.load(parts)
            for companion in self.companions:
                companion.load(parts)
            self.forecast = self._forecast_again(checkpoint)  # before anything in the folder is changed
            self.clock.go_on(timings_so_far(self.run.folder, checkpoint))
            self.run.go_on(checkpoint.step, checkpoint.seconds, parts[RUN_PART].values)
        except KeyError as error:
            raise UserError(f"The checkpoint of {self.run.folder} lacks {error}; it cannot be resumed.") from None
        except (TypeError, ValueError, OverflowError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"The checkpoint of {self.run.folder} is not that of its configuration ({in_one_line(error)}); "
                "it cannot be resumed."
            ) from None

    def _forecast_again(self, checkpoint: Checkpoint) -> Forecast | None:
        """The memory that a run needs to go on. Raises UserError where that does not suffice."""
        forecast = TRAINABLE_FAMILIES[checkpoint.family].forecast
        if forecast is None:
            return None
        held = sum(tensor.nbytes for part in checkpoint.parts.values() for tensor in part.tensors.values())
        most = self.training.largest_size(progress_of(self.config, checkpoint.step, checkpoint.seconds))
        found = forecast(self.scene, self.config, most, held)
        check_fits(found, resumed=True)
        return found

    def _check_given(self, what: str, then: Collection[str], now: Collection[str]) -> None:
        """Raise UserError unless a run goes on with the terms or companions that it was given at its beginning."""
        if then != now:
            raise UserError(
                f"The run {self.run.folder} began with {_listed(what, then)} of its own, and is resumed with "
                f"{_listed(what, now)}; give the same {what} to Trainer.resume."
            )

    def _check_part_names(self) -> None:
        """Raise UserError if two parts of a checkpoint would have one name."""
        taken = set(RESERVED_PARTS)
        for owner in (self.model, self.training, *self.companions):
            names = set(owner.parts())
            if isinstance(owner, Companion):
                names.add(owner.name)
            for name in sorted(names):
                if name in taken or not name or "/" in name:
                    raise UserError(
                        f"A part of a checkpoint cannot have the name '{name}'; give the companion another."
                    )
            taken |= names

    @property
    def steps_done(self) -> int:
        """Optimisation steps so far."""
        return self.run.steps_done

    @property
    def seconds(self) -> float:
        """Training time so far, without evaluation, saving and listeners."""
        return self.run.seconds

    @property
    def progress(self) -> float:
        """How much of the run is done, 0..1."""
        return self.run.progress

    @property
    def term_weights(self) -> dict[str, float]:
        """Weights of the terms of the objective by name, those that were given to it included."""
        return {**self.config.objective.weights(), **self._term_weights}

    @property
    def timings(self) -> dict[str, float]:
        """Seconds by stage (`training.clock`), which add up to the whole time of the run."""
        return self.clock.seconds

    @property
    def stopping(self) -> bool:
        """Whether `train` was asked to end after the step it is at."""
        return self.run.stopping

    @property
    def render_options(self) -> RenderOptions:
        """How views of the model are rendered when they are measured or shown."""
        backend = get_backend(self.config.backend)
        corrections = tuple(companion.correction for companion in self.companions)
        return RenderOptions(self.background, backend, self.config.antialiased, corrections)

    def stop(self) -> None:
        """Ask `train` to end after the step it is at, with everything saved; may be called from any thread."""
        self.run.stop()

    def train(self) -> TrainFinished:
        """Train to the end of the run, or until Ctrl-C, SIGTERM, SIGHUP or `stop`; the last state is saved in any case.

        A second signal does what it does elsewhere: Ctrl-C aborts at once.

        Raises:
            UserError: the loss or a parameter is not finite (the last good state stays saved), or something cannot be
                read or written.
        """
        started = TrainStarted(
            run=self.run.folder,
            first_step=self.steps_done,
            total_steps=self.config.steps,
            device=self.config.device,
            sizes=self.model.sizes(),
            train_views=len(self.scene.train),
            test_views=len(self.scene.test),
        )
        with one_torch_thread(), self.clock.counting("other"):
            measure = functools.partial(self.evaluate, most=MEASURED_WHILE_TRAINING)
            reason = self.run.loop(started, self._one_step, measure if self.scene.test else None)
            return self.run.finished(reason, self.timings)

    def step(self) -> None:
        """One optimisation step alone: nothing is evaluated or saved. Raises as `train`."""
        with one_torch_thread():
            self._one_step()

    def evaluate(self, save_to: Path | None = None, **options: Any) -> Metrics:
        """Measure the held-out views now, at full size, and log the result in the run's history.

        The history and its listeners get the figures of the views that are measured while training
        (`data.sampler.measured_views`), of however many they are here.

        Args:
            save_to: folder for the rendered views and their images.
            options: as of `measure`.
        """
        with self.clock.counting("evaluation"):
            metrics = self.measure(save_to, **options)
            logged = metrics.among(MEASURED_WHILE_TRAINING)
            if logged.psnr is not None and logged.ssim is not None:
                self.run.evaluated(logged.psnr, logged.ssim)
        return metrics

    def measure(self, save_to: Path | None = None, **options: Any) -> Metrics:
        """The held-out views' metrics; nothing is logged.

        Args:
            options: `lpips`, `model_at`, `progress` and `most` as `evaluation.evaluate` has them.
        """
        with one_torch_thread():
            return evaluate(self.model, self.scene, self.render_options, save_to=save_to, **options)

    def write_metrics(self, metrics: Metrics) -> Path:
        """Write `metrics.json` of the run; returns its path."""
        config = self.config
        record = TrainingRecord(
            sizes=self.model.sizes(),
            steps=self.steps_done,
            train_seconds=self.seconds,
            device=config.device,
            backend=config.backend,
            preset=config.preset,
            method=config.method,
            timings=self.timings,
            peak_memory_mb=peak_memory_mb(),
        )
        return write_metrics(self.run.folder, metrics, record)

    def save(self) -> Path:
        """Write the checkpoint; returns its path. Raises UserError if it cannot be written."""
        return self.run.save()

    def _checkpoint(self) -> Checkpoint:
        """What a checkpoint holds now. Raises UserError if a parameter is not finite: the last checkpoint stays."""
        if not self._step.parameters_are_finite():
            raise UserError(
                f"Parameters of the model are not finite after step {self.steps_done}, though the loss was; the last "
                f"good state is in {self.run.folder / CHECKPOINT_NAME}: check the gradients of terms and companions of "
                "your own, or lower the learning rates."
            )
        model_parts = self.model.parts()
        parts = {**model_parts, **self.training.parts()}
        for companion in self.companions:
            parts |= companion.parts()
        parts[RUN_PART] = Part(values={**self.run.state(), "timings": dict(self.timings)})
        parts[GIVEN_PART] = Part(values={"terms": self._term_weights, "companions": self._given_companions})
        return Checkpoint(
            family=self.model.family,
            model_parts=tuple(model_parts),
            parts=parts,
            step=self.steps_done,
            seconds=self.seconds,
            config=self.config.to_dict(),
            capture=str(self._capture),
            data=self._data,
            scene=self._stored_scene,
            background=self.background,
            correction_parts=tuple(c.name for c in self.companions if c.correction is not NO_CORRECTION),
        )

    def _one_step(self) -> None:
        run, clock = self.run, self.clock
        try:
            result = self._step(run.steps_done, run.progress, read_loss=self._reads_loss(run.steps_done))
        except UserError:  # an image cannot be read: nothing learnt so far is lost
            self.save()
            raise
        except NonFiniteLossError as error:
            raise self._non_finite(error) from None
        run.step_done(result, self.model.sizes())
        clock.lap("events")

    def _reads_loss(self, step: int) -> bool:
        """Whether a step reads its loss: always on the CPU; at times on a GPU, which must be waited for."""
        return self.config.device == "cpu" or step % _GPU_READS == 0 or step + 1 == self.config.steps

    def _non_finite(self, error: NonFiniteLossError) -> UserError:
        """Save what is worth saving; the error to raise."""
        if self._step.parameters_are_finite():
            self.save()
        self.run.finished("non-finite loss", self.timings)
        where = f"at step {self.steps_done + 1}, on the view {error.name}"
        if self.config.device != "cpu":  # the loss is not read at every step
            where = f"in the {_GPU_READS} steps up to step {self.steps_done + 1}"
        return UserError(
            f"The loss became {error.value} {where}; the last good state is in {self.run.folder / CHECKPOINT_NAME}: "
            "check the images and cameras, or lower the learning rates."
        )


def _listed(what: str, values: Collection[str]) -> str:
    """'the terms {"white": 0.1}', or 'no terms'."""
    return f"the {what} {values}" if values else f"no {what}"


def _check_companions(companions: object) -> None:
    """Raise UserError unless these are companions."""
    if not isinstance(companions, Sequence):
        raise UserError(f"companions is a {type(companions).__name__}, but must be a list: companions=[...].")
    for companion in companions:
        if isinstance(companion, type):
            name = companion.__name__
            raise UserError(f"The companion {name} is a class; give an object of it: {name}(...).")
        if not isinstance(companion, Companion):
            raise UserError(f"A {type(companion).__name__} is no companion; derive it from nfc_gs.Companion.")


def _check_has_views(scene: SceneData, capture: Path) -> None:
    if not scene.train:
        raise UserError(f"{capture} has no view left to train on; hold fewer views out for testing.")
