"""The training loop: view -> render -> objective -> backward -> optimizer -> density control -> events."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.core.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    Listener,
    StepDone,
    TrainFinished,
    TrainStarted,
)
from nfc_gs.core.files import make_folder, remove_leftovers
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.data.loading import DataConfig
from nfc_gs.data.scene import SceneData
from nfc_gs.data.stored import without_photos
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.init import from_points
from nfc_gs.model.radiance import RenderOutput
from nfc_gs.objective.losses import LossResult, ObjectiveConfig, photometric
from nfc_gs.rendering.pipeline import render
from nfc_gs.rendering.registry import get_backend
from nfc_gs.runs.checkpoint import CHECKPOINT_NAME, Checkpoint, load_checkpoint, save_checkpoint
from nfc_gs.runs.history import History
from nfc_gs.runs.run_folder import (
    check_same_scene,
    claim_run_folder,
    evaluation_background,
    scene_of,
    training_views,
    write_config,
)
from nfc_gs.training.config import ResolvedConfig, TrainConfig, resolve, resolve_device
from nfc_gs.training.deformation import MotionTraining, new_deformation, view_time
from nfc_gs.training.density import make_density_control
from nfc_gs.training.evaluation import Metrics, evaluate, peak_memory_mb, write_metrics
from nfc_gs.training.interrupt import interrupt_calls
from nfc_gs.training.optimizers import VisibleAdam
from nfc_gs.training.schedules import generator_for, learning_rates, progress_of, sh_degree_at
from nfc_gs.training.views import Feed, on_device

logger = logging.getLogger("nfc_gs")

STAGES = ("view", "render", "loss", "backward", "optimizer", "density", "events")

_GPU_READS = 10
"""Steps between two readings of the loss on a GPU."""

_SAVE_SHARE = 20
"""Saving takes at most about one part in this many of the time, however large the model."""


class Trainer:
    """Trains a model on a scene and keeps everything in a run folder.

    All randomness depends on (seed, purpose, step) alone and torch computes in one thread on the CPU, so a run
    gives the same bits again, for any number of threads and across interruptions.

    Attributes:
        scene, config, run, model, optimizer, density: what it works on; read them, do not change them.
        motion: what trains the deformation of a moving scene; None for a static one.
        steps_done: optimisation steps so far.
        seconds: training time so far, without evaluation, saving and what listeners take.
        timings: seconds by stage.
    """

    scene: SceneData
    config: ResolvedConfig
    run: Path
    model: GaussianModel
    optimizer: VisibleAdam
    motion: MotionTraining | None
    steps_done: int
    seconds: float
    timings: dict[str, float]

    def __init__(
        self,
        scene: SceneData,
        config: TrainConfig,
        run: Path | str,
        listeners: Sequence[Listener] = (),
        *,
        capture: Path | str,
        data: DataConfig | None = None,
    ) -> None:
        """Begin a run: make its folder and write its configuration and a checkpoint of step 0.

        Args:
            run: folder of the run; must not hold one already.
            listeners: are told what happens (`core.events`); one that raises is logged and dropped.
            capture: path the scene was read from, for `resume`.
            data: how `load_scene` was told to read it, for `resume`.

        Raises:
            UserError: the folder holds a run or cannot be written, the configuration does not make sense, or the
                device or backend is not there.
        """
        claim_run_folder(run)
        resolved = resolve(config, moves=scene.time_axis is not None)
        with one_torch_thread():
            model = from_points(
                scene.points,
                resolved.sh_degree,
                head=resolved.head,
                bit_view=resolved.bit_view,
                bit_hardness=resolved.bit_hardness,
                opacity=resolved.init_opacity,
                scale_factor=resolved.init_scale,
                max_gaussians=resolved.max_gaussians,
                seed=resolved.seed,
                device=resolved.device,
            )
            model.deformation = new_deformation(resolved, scene)
        self._set_up(
            scene, resolved, Path(run), listeners, model, Path(capture).resolve(), asdict(data or DataConfig())
        )
        make_folder(self.run)
        self.save()
        write_config(self.run, resolved, self._capture, self._data)
        self._history = History(self.run, 0, 0.0)

    @classmethod
    def resume(cls, run: Path | str, listeners: Sequence[Listener] = (), *, scene: SceneData | None = None) -> Trainer:
        """Go on with a run from its last checkpoint, exactly as if it had never stopped.

        Args:
            run: folder of the run.
            scene: the scene it trains on; None to read the capture again.

        Raises:
            UserError: no such run, a broken checkpoint, a capture that is gone or has changed, or a device or
                backend that is not there.
        """
        checkpoint = load_checkpoint(run)
        config = ResolvedConfig.from_dict(checkpoint.config)
        resolve_device(config.device)
        scene = scene if scene is not None else scene_of(checkpoint)
        check_same_scene(scene, checkpoint)
        trainer = cls.__new__(cls)
        model = checkpoint.make_model(config.device)
        trainer._set_up(scene, config, Path(run), listeners, model, Path(checkpoint.capture), dict(checkpoint.data))
        trainer.steps_done, trainer.seconds = checkpoint.step, checkpoint.seconds
        try:
            trainer.optimizer.load_state(checkpoint.optimizer, checkpoint.step)
            if trainer.motion is not None:
                trainer.motion.optimizer.load_state(
                    checkpoint.deformation_optimizer, int(checkpoint.state["deformation_steps"])
                )
            trainer.density.load(checkpoint.density, checkpoint.state["density"])
            trainer.timings.update(checkpoint.state["timings"])
            trainer._evaluations = int(checkpoint.state["evaluations"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"The checkpoint of {run} lacks {error}; it cannot be resumed.") from None
        remove_leftovers(trainer.run)
        trainer._history = History(trainer.run, trainer.steps_done, trainer.progress)
        return trainer

    def _set_up(
        self,
        scene: SceneData,
        config: ResolvedConfig,
        run: Path,
        listeners: Sequence[Listener],
        model: GaussianModel,
        capture: Path,
        data: dict[str, Any],
    ) -> None:
        if not scene.train:
            raise UserError(f"{capture} has no view left to train on; hold fewer views out for testing.")
        self.scene, self.config, self.run, self.model = scene, config, run, model
        self.steps_done, self.seconds = 0, 0.0
        self.timings = dict.fromkeys(STAGES, 0.0)
        self.optimizer = VisibleAdam(model.tensors())
        self.motion = None if model.deformation is None else MotionTraining(config, scene, model)
        self.density = make_density_control(config, model, self.optimizer, scene.extent)
        self.background = evaluation_background(config, scene)
        self._capture, self._data, self._without_photos = capture, data, without_photos(scene)
        self._backend = get_backend(config.backend)
        times = () if self.motion is None else [view_time(scene.views[i]) for i in scene.train]
        self._feed = Feed(scene, config, times)
        self._fixed_background = torch.tensor(self.background, device=config.device)
        self._listeners = list(listeners)
        self._evaluations = 0
        self._stop_asked = False
        self._last_save = perf_counter()
        self._save_seconds = 0.0
        self._history: History | None = None

    @property
    def progress(self) -> float:
        """How much of the run is done, 0..1."""
        return progress_of(self.config, self.steps_done, self.seconds)

    @property
    def stopping(self) -> bool:
        """Whether `train` was asked to end after the step it is at."""
        return self._stop_asked

    def listen(self, listener: Listener) -> None:
        """Tell one more listener what happens from now on."""
        self._listeners.append(listener)

    def stop(self) -> None:
        """Ask `train` to end after the step it is at, with everything saved; may be called from any thread."""
        self._stop_asked = True

    def train(self) -> TrainFinished:
        """Train to the end of the run, or until Ctrl-C or `stop`; the last state is saved in either case.

        A second Ctrl-C aborts at once.

        Raises:
            UserError: the loss is not finite (the state before is saved), or something cannot be read or written.
        """
        self._stop_asked = False
        self._emit(
            TrainStarted(
                run=self.run,
                first_step=self.steps_done,
                total_steps=self.config.steps,
                device=self.config.device,
                gaussians=len(self.model),
                train_views=len(self.scene.train),
                test_views=len(self.scene.test),
            )
        )
        self._last_save = perf_counter()
        with one_torch_thread(), interrupt_calls(self.stop):
            while self.progress < 1.0 and not self._stop_asked:
                self._step()
                self._after_step()
        self.save()
        reason = "done" if self.progress >= 1.0 else "interrupted"
        finished = TrainFinished(self.steps_done, self.seconds, reason, dict(self.timings))
        self._emit(finished)
        return finished

    def step(self) -> None:
        """One optimisation step alone: nothing is evaluated or saved. Raises as `train`."""
        with one_torch_thread():
            self._step()

    def evaluate(self, save_to: Path | None = None, *, lpips: bool = False) -> Metrics:
        """Measure the held-out views now, at full size, and log the result in the run's history.

        Args:
            save_to: folder for the rendered views and their pictures.
        """
        metrics = self.measure(self.model, save_to, lpips=lpips)
        if metrics.psnr is not None and metrics.ssim is not None:
            assert self._history is not None
            self._history.write(
                step=self.steps_done, seconds=self.seconds, test_psnr=metrics.psnr, test_ssim=metrics.ssim
            )
            self._emit(Evaluated(self.steps_done, metrics.psnr, metrics.ssim, self.seconds))
        return metrics

    def measure(self, model: GaussianModel, save_to: Path | None = None, **options: Any) -> Metrics:
        """The held-out views' metrics of any model, rendered as this run renders; nothing is logged.

        Args:
            options: `lpips` and `baked_degree` as `evaluate` has them.
        """
        with one_torch_thread():
            return evaluate(
                model,
                self.scene,
                backend=self._backend,
                background=self.background,
                antialiased=self.config.antialiased,
                save_to=save_to,
                **options,
            )

    def write_metrics(self, metrics: Metrics) -> Path:
        """Write `metrics.json` of the run; returns its path."""
        extras = {
            "device": self.config.device,
            "backend": self.config.backend,
            "preset": self.config.preset,
            "method": self.config.method,
            "peak_memory_mb": peak_memory_mb(),
            "timings": self.timings,
        }
        return write_metrics(
            self.run,
            metrics,
            gaussians=len(self.model),
            steps=self.steps_done,
            train_seconds=self.seconds,
            extras=extras,
        )

    def save(self) -> Path:
        """Write the checkpoint; returns its path. Raises UserError if it cannot be written."""
        begun = perf_counter()
        path = self.run / CHECKPOINT_NAME
        save_checkpoint(
            path,
            Checkpoint(
                model=self.model.tensors(),
                optimizer=self.optimizer.state(),
                density=self.density.tensors(),
                step=self.steps_done,
                seconds=self.seconds,
                config=self.config.to_dict(),
                capture=str(self._capture),
                data=self._data,
                transform=self.scene.transform,
                background=self.background,
                state={
                    "density": self.density.state(),
                    "timings": self.timings,
                    "evaluations": self._evaluations,
                    "deformation_steps": 0 if self.motion is None else self.motion.optimizer.steps,
                    **training_views(self.scene),
                    "test_views": [self.scene.views[i].name for i in self.scene.test],
                },
                time_axis=self.scene.time_axis,
                scene=self._without_photos,
                **self._motion_to_save(),
            ),
        )
        self._last_save = perf_counter()
        self._save_seconds = self._last_save - begun
        self._emit(CheckpointSaved(self.steps_done, path))
        return path

    def _motion_to_save(self) -> dict[str, Any]:
        if self.motion is None:
            return {}
        return {
            "motion": self.motion.field.settings,
            "deformation": {name: tensor.detach() for name, tensor in self.motion.field.state_dict().items()},
            "deformation_optimizer": self.motion.optimizer.state(),
        }

    def _step(self) -> None:
        config, step, progress = self.config, self.steps_done, self.progress
        t0 = perf_counter()
        window = None if self.motion is None else self.motion.window(progress)
        index = self._feed.index(step, window)
        try:
            camera, target, mask = self._feed.view(index, step, progress, window)
        except UserError:  # the picture cannot be read: nothing learnt so far is lost
            self.save()
            raise
        degree, objective = sh_degree_at(config, progress), config.objective.at(progress)
        time = None
        if self.motion is not None:
            self.motion.prepare(step, progress)
            objective = self.motion.objective(objective, progress)
            time = self.motion.time_of(self.scene.views[index], step, progress)
        t1 = perf_counter()
        out = render(
            self.model,
            camera,
            time,
            background=self._background_of(step),
            outputs=("rgb", "bits") if objective.bit_ce else ("rgb",),
            backend=self._backend,
            sh_degree=degree,
            antialiased=config.antialiased,
            absgrad=self.density.absgrad,
        )
        t2 = perf_counter()
        loss = self._compare(out, target, mask, objective)
        value = loss.total.item() if self._reads_loss(step) else None
        if value is not None and not math.isfinite(value):
            raise self._non_finite(value, index)
        t3 = perf_counter()
        grads = self._backward(loss.total)
        t4 = perf_counter()
        rates = learning_rates(config, progress, self.scene.extent)
        self.density.add_gradients(grads)
        self.optimizer.step(grads, out.info.visible, rates)
        if self.motion is not None:
            self.motion.step(step, progress)
        t5 = perf_counter()
        if out.info.means2d_grad is not None:
            self.density.observe(out.info, camera.width, camera.height)
        means_rate = rates["means"]
        assert isinstance(means_rate, float)
        self.density.act(step + 1, progress, means_rate)
        t6 = perf_counter()
        self.steps_done = step + 1
        self.seconds += t6 - t0
        if value is not None:
            self._report(value, loss.values["mse"], camera, degree)
        t7 = perf_counter()  # what listeners take is no training time
        for stage, spent in zip(STAGES, (t1 - t0, t2 - t1, t3 - t2, t4 - t3, t5 - t4, t6 - t5, t7 - t6), strict=True):
            self.timings[stage] += spent

    def _compare(
        self, out: RenderOutput, target: Tensor, mask: Tensor | None, objective: ObjectiveConfig
    ) -> LossResult:
        """What a step minimises."""
        return photometric(out.rgb, target, mask, objective, out.bits)

    def _reads_loss(self, step: int) -> bool:
        """Whether a step reads its loss: always on the CPU; at times on a GPU, which must be waited for."""
        return self.config.device == "cpu" or step % _GPU_READS == 0 or step + 1 == self.config.steps

    def _background_of(self, step: int) -> Tensor:
        """[3] color behind the splats in this step."""
        if self.config.background != "random":
            return self._fixed_background
        color = torch.rand(3, generator=generator_for(self.config.seed, "background", step))
        return on_device(color, self.config.device)

    def _backward(self, total: Tensor) -> dict[str, Tensor]:
        """Gradients of all parameters; zeros where the picture does not depend on them."""
        params = {name: getattr(self.model, name) for name in self.model.parameter_names}
        for param in params.values():
            param.grad = None
        if self.motion is not None:
            self.motion.clear()
        if total.requires_grad:
            total.backward()
        return {
            name: param.grad if param.grad is not None else torch.zeros_like(param) for name, param in params.items()
        }

    def _non_finite(self, value: float, index: int) -> UserError:
        """Save what is worth saving; the error to raise."""
        tensors = [*self.optimizer.params.values(), *(self.motion.optimizer.params.values() if self.motion else ())]
        sound = all(bool(tensor.isfinite().all()) for tensor in tensors)
        if sound:
            self.save()
        self._emit(TrainFinished(self.steps_done, self.seconds, "non-finite loss", dict(self.timings)))
        where = f"at step {self.steps_done + 1}, on the view {self.scene.views[index].name}"
        if self.config.device != "cpu":  # the loss is not read at every step
            where = f"in the {_GPU_READS} steps up to step {self.steps_done + 1}"
        return UserError(
            f"The loss became {value} {where}; the last good state is in {self.run / CHECKPOINT_NAME}: "
            "check the images and cameras, or lower the learning rates."
        )

    def _report(self, loss: float, mse: Tensor, camera: Camera, degree: int) -> None:
        """Tell the listeners and the history of the step that is over."""
        progress = self.progress
        logs = self._history is not None and (self._history.due(progress) or progress >= 1.0)
        if not logs and not self._listeners:
            return
        psnr = -10.0 * math.log10(max(float(mse), 1e-10))
        count, seconds = len(self.model), self.seconds
        if logs:
            assert self._history is not None
            self._history.write(
                step=self.steps_done,
                seconds=round(seconds, 3),
                loss=loss,
                psnr=psnr,
                gaussians=count,
                width=camera.width,
                height=camera.height,
            )
        if self._listeners:
            left = seconds / progress - seconds if progress > 0.0 else math.inf
            if self.config.time_budget is not None:
                left = self.config.time_budget - seconds
            self._emit(
                StepDone(
                    step=self.steps_done,
                    progress=progress,
                    loss=loss,
                    psnr=psnr,
                    gaussians=count,
                    width=camera.width,
                    height=camera.height,
                    sh_degree=degree,
                    seconds=seconds,
                    remaining_seconds=max(0.0, left),
                )
            )

    def _after_step(self) -> None:
        """Evaluate and save when it is time; neither changes what training computes."""
        every, progress = self.config.eval_every, self.progress
        if every > 0.0 and self.scene.test and progress + 1e-9 >= (self._evaluations + 1) * every and progress < 1.0:
            self._evaluations = int(progress / every + 1e-9)
            self.save()  # a picture that cannot be read ends the run: nothing learnt so far is lost
            self.evaluate()
        pause = max(self.config.checkpoint_every, _SAVE_SHARE * self._save_seconds)
        if perf_counter() - self._last_save >= pause and progress < 1.0:
            self.save()

    def _emit(self, event: Event) -> None:
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:
                logger.exception("A listener of the training raised and is dropped; training goes on.")
                self._listeners.remove(listener)
