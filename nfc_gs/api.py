"""What Python users call: training a capture from end to end, rendering, turntables, the viewer."""

from __future__ import annotations

import contextlib
import signal
import webbrowser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import strftime
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core.camera import Camera
from nfc_gs.core.errors import UserError
from nfc_gs.core.events import Listener
from nfc_gs.core.files import make_folder
from nfc_gs.core.text import duration
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.data.config import DataConfig
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import SceneData, View
from nfc_gs.export.notebook import run_card, view_pictures
from nfc_gs.export.paths import DEFAULT_UP, orbit, orbit_around
from nfc_gs.export.video import write_video
from nfc_gs.model.gate import gated
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import Output, RadianceModel, RenderOptions, RenderOutput, check_outputs
from nfc_gs.rendering.backend import RasterBackend
from nfc_gs.results import finish
from nfc_gs.runs import families
from nfc_gs.runs.metrics import Metrics
from nfc_gs.runs.opening import LoadedModel, in_words, scene_of
from nfc_gs.runs.run_folder import check_is_capture, claim_free_folder, claim_run_folder, image_cache_of
from nfc_gs.runs.verdict import verdict
from nfc_gs.training.clock import StageClock
from nfc_gs.training.companion import Companion
from nfc_gs.training.config import TrainConfig
from nfc_gs.training.evaluation import evaluate as measure
from nfc_gs.training.resolve import resolve
from nfc_gs.training.trainer import Terms, Trainer
from nfc_gs.viewer import HOST, PORT

if TYPE_CHECKING:
    from nfc_gs.viewer.app import Viewer

RUNS = Path("runs")
"""Where runs go unless one says otherwise."""


@dataclass(frozen=True, repr=False)
class TrainedRun:
    """What `train` leaves. A notebook shows a held-out view beside its photo, and the figures.

    Attributes:
        folder: the run folder.
        metrics: of the held-out views; None where Ctrl-C cut the measuring short.
        trainer: to go on with.

    >>> trained = nfc_gs.train("captures/garden", nfc_gs.TrainConfig(steps=10), out="runs/short")
    >>> trained
    TrainedRun('runs/short': 4,005 Gaussians, SH degree 3, step 10, test PSNR ... dB)
    >>> trained.scene
    SceneData('captures/garden': 8 views, 7 to train on and 1 held out, 4,005 points)
    >>> trained.metrics.psnr > 10
    True
    >>> nfc_gs.render(trained, trained.scene.camera(trained.scene.test[0])).rgb.numpy().shape
    (36, 48, 3)
    """

    folder: Path
    metrics: Metrics | None
    trainer: Trainer

    @property
    def model(self) -> RadianceModel:
        """The trained model without gradients; it shares memory with `trainer.model`, which is for training."""
        return self.trainer.model.detached()

    @property
    def scene(self) -> SceneData:
        """The capture it was trained on."""
        return self.trainer.scene

    def __repr__(self) -> str:
        steps = f"step {self.trainer.steps_done:,}"
        psnr = None if self.metrics is None else self.metrics.psnr
        measured = "" if psnr is None else f", test PSNR {psnr:.2f} dB"
        return f"TrainedRun('{self.folder}': {in_words(self.trainer.model)}, {steps}{measured})"

    def _repr_html_(self) -> str:
        trainer, metrics = self.trainer, self.metrics
        rows = [("Model", in_words(trainer.model))]
        sentences = []
        if metrics is not None and metrics.psnr is not None and metrics.ssim is not None:
            views = f"{len(metrics.views)} held-out views" if len(metrics.views) > 1 else "1 held-out view"
            rows.append(("Test PSNR, SSIM", f"{metrics.psnr:.2f} dB, {metrics.ssim:.3f} ({views})"))
            if not trainer.model.changes_with_time:
                words = verdict(metrics.psnr, steps=trainer.steps_done, better_than_flat=metrics.better_than_flat)
                sentences.append(str(words))
        rows.append(("Training", f"{trainer.steps_done:,} steps in {duration(trainer.seconds)}"))
        if trainer.progress < 1.0:
            sentences.append(f"Not complete; go on with nfc_gs.Trainer.resume({str(self.folder)!r}).train().")
        pictures = view_pictures(self.model, self.scene, trainer.render_options)
        return run_card(self.folder, pictures, rows, " ".join(sentences))


def render(
    model: RadianceModel | LoadedModel | TrainedRun,
    camera: Camera,
    time: float | None = None,
    *,
    background: Tensor | Sequence[float] | np.ndarray | None = None,
    outputs: Sequence[Output] | Output = ("rgb",),
    backend: str | RasterBackend | None = None,
    antialiased: bool | None = None,
    sh_degree: int | None = None,
    absgrad: bool = False,
    view: int | None = None,
) -> RenderOutput:
    """Render a model as a camera sees it.

    Differentiable in the parameters of a model that has gradients (`trainer.model`, `GaussianModel(...)`), in the
    camera's pose and in the background.

    Args:
        model: of any family; of what `load_model` and `train` return, background, antialiasing and corrections of views
            are those of the run unless others are given.
        camera: in the frame of the model: `scene.camera(index)`, `look_at(...)` or one of `orbit(...)`.
        time: 0..1, of a moving model; None for its canonical state. A static model is the same at all times.
        background: color in [0, 1] behind the model, [3]; black unless the run says otherwise.
        outputs: names of `RenderOutput`'s images, or one name: "rgb" and alpha are always there, "depth" and "normals"
            if asked for, "bits" and "bit_entropy" of Gaussians with a bit head.
        backend: rasterizer of Gaussians: auto (that of the model's device), torch, cpu, gsplat or cuda.
        antialiased: Mip-Splatting's opacity compensation; off unless the run was trained with it.
        sh_degree: of Gaussians: view dependence up to this degree; None for all that the model has.
        absgrad: of Gaussians: also compute absolute gradients of the projected means, for density control of your own.
        view: index of the view of the scene that `camera` belongs to, for corrections; None if it is none of them.

    Raises:
        UserError: there is no such output or backend, the time is not in 0..1, or `model` and `camera` are something
            else.

    >>> garden = nfc_gs.load_model("runs/garden")
    >>> camera = nfc_gs.look_at(eye=(0, -1, 0.5), target=(0, 0, 0), width=64, height=48)
    >>> image = nfc_gs.render(garden, camera, outputs=("rgb", "depth", "normals"))
    >>> image
    RenderOutput(rgb [48, 64, 3], alpha [48, 64, 1], depth [48, 64, 1], normals [48, 64, 3])
    >>> pixels = image.rgb.clamp(0, 1).numpy()  # float32, [H, W, 3]
    >>> nfc_gs.render(garden, camera, outputs="albedo")
    Traceback (most recent call last):
        ...
    nfc_gs.core.errors.UserError: There is no output 'albedo' of a rendering; choose from rgb, depth, normals, bits, \
bit_entropy.
    """
    names: tuple[Output, ...] = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    check_outputs(names)
    _check_view(camera, time)
    shown, options = opened(model)
    learnt = isinstance(background, Tensor) and background.requires_grad
    if background is not None and not learnt:
        options = replace(options, background=_color(background))
    if backend is not None:
        options = replace(options, backend=backend)
    if antialiased is not None:
        options = replace(options, antialiased=antialiased)
    further = {"sh_degree": sh_degree, "absgrad": absgrad or None, "background": background if learnt else None}
    further = {name: value for name, value in further.items() if value is not None}
    if further and not isinstance(shown, GaussianModel):
        raise UserError(
            f"{', '.join(further)}: only of Gaussians, and this model is of the family '{shown.family}'; leave it out."
        )
    follows = shown is model or camera.viewmat.requires_grad or learnt  # else corrections alone may have gradients
    with contextlib.nullcontext() if follows else torch.no_grad():
        return families.render(shown, camera, time, options, names, view=view, **further)


def opened(model: RadianceModel | LoadedModel | TrainedRun) -> tuple[RadianceModel, RenderOptions]:
    """A model, and how its views are rendered.

    Raises:
        UserError: it is something else.
    """
    if isinstance(model, TrainedRun):
        return model.model, model.trainer.render_options
    if isinstance(model, LoadedModel):
        return model.model, model.options
    if isinstance(model, RadianceModel):
        return model, RenderOptions()
    if isinstance(model, (str, Path)):
        raise UserError(f"{str(model)!r} is a path, not a model; open it first: nfc_gs.load_model({str(model)!r}).")
    raise UserError(
        f"A {type(model).__name__} is no model; give a GaussianModel, or what nfc_gs.train or nfc_gs.load_model return."
    )


def _check_view(camera: Camera, time: float | None) -> None:
    """Raise UserError unless these are a camera and a time."""
    if isinstance(camera, View):
        raise UserError(f"{camera.name} is a view, not a camera; give its camera: view.camera.")
    if not isinstance(camera, Camera):
        hint = f"scene.camera({camera})" if isinstance(camera, int) else "scene.camera(index)"
        raise UserError(f"A {type(camera).__name__} is no camera; give {hint} of a scene, or nfc_gs.look_at(...).")
    if time is not None and not isinstance(time, (int, float, np.number)):
        raise UserError(f"time is {time!r}, but must be a number between 0 and 1.")
    if time is not None and not 0.0 <= time <= 1.0:
        raise UserError(
            f"time is {time:g}, but must be between 0 and 1; scene.time_axis.normalised(time) converts the capture's "
            "own times."
        )


def _color(values: Tensor | Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """A background as `RenderOptions` has it; raises UserError for what is no color."""
    array = np.asarray(values, dtype=object).ravel()
    numbers = [float(value) for value in array if isinstance(value, (int, float, np.number, Tensor))]
    if len(array) != 3 or len(numbers) != 3 or not all(0.0 <= number <= 1.0 for number in numbers):
        raise UserError(f"background is {values!r}, but must be red, green and blue in 0..1, (1, 1, 1) for white.")
    red, green, blue = numbers
    return red, green, blue


def evaluate(
    model: RadianceModel | LoadedModel | TrainedRun,
    scene: SceneData | None = None,
    *,
    lpips: bool = False,
    save_to: Path | str | None = None,
    most: int | None = None,
) -> Metrics:
    """Render the held-out views at full size and compare them with their photos.

    Args:
        model: as `render` has it.
        scene: with photos; by default the capture that the run was trained on, which is read again for what
            `load_model` returns.
        lpips: also LPIPS; where it cannot be had, a sentence in the log says so.
        save_to: folder for `<name>.png` and `<name>_truth.png` of every view.
        most: measure so many views at most, chosen at random, always the same ones; by default all.

    Raises:
        UserError: an image cannot be read, or not be written, or there is no scene.

    >>> metrics = nfc_gs.evaluate(nfc_gs.load_model("runs/garden"), save_to="views")
    >>> metrics
    Metrics(PSNR ... dB, SSIM 0..., 1 view)
    >>> import pathlib
    >>> sorted(path.name for path in pathlib.Path("views").iterdir())
    ['0001.png', '0001_truth.png']
    """
    shown, options = opened(model)
    if scene is None and isinstance(model, TrainedRun):
        scene = model.scene
    elif scene is None and isinstance(model, LoadedModel) and model.checkpoint is not None:
        scene = scene_of(model.checkpoint)
    if scene is None:
        raise UserError("There are no photos to compare with; give the scene: nfc_gs.load_scene(...).")
    if isinstance(model, LoadedModel) and model.checkpoint is None:
        if not np.allclose(scene.transform[:3, :3], np.eye(3)):
            raise UserError(
                "A splat file is in the frame of the capture, and this scene has been normalised; read the scene by "
                "nfc_gs.load_scene(..., nfc_gs.DataConfig(normalize=False))."
            )
        scene = scene.in_frame(model.transform)
    with one_torch_thread():
        folder = None if save_to is None else Path(save_to)
        return measure(shown, scene, options, lpips=lpips, save_to=folder, most=most)


def turntable(
    model: RadianceModel | LoadedModel | TrainedRun,
    path: Path | str,
    *,
    scene: SceneData | None = None,
    frames: int = 120,
    fps: float = 30.0,
    width: int | None = None,
    height: int | None = None,
    up: tuple[float, float, float] | None = None,
) -> Path:
    """Write a video in which the camera goes around once; of a moving model time runs from 0 to 1 meanwhile.

    The path is `orbit`'s where the cameras of the scene are known, as they are of runs. Around a model of which nothing
    is known, a splat file for example, it is a circle about the middle of its Gaussians.

    Args:
        path: .mp4, .gif, or without a suffix a folder of PNGs.
        scene: whose cameras the path follows; by default that of the run.
        frames: number of pictures.
        fps: pictures per second.
        width, height: in pixels; by default as the scene's first view, or 640 x 480. One of the two is enough.
        up: of a model without a scene; by default what its file says is up, else -y as in most splats.

    Returns:
        `path`.

    Raises:
        UserError: it cannot be written, or a number makes no sense.

    >>> garden = nfc_gs.load_model("runs/garden")
    >>> str(nfc_gs.turntable(garden, "turntable.gif", frames=4, fps=8))
    'turntable.gif'
    """
    shown, options = opened(model)
    if scene is None and not isinstance(model, RadianceModel):
        scene = model.scene
    if scene is not None:
        cameras = orbit(scene, frames, width=width, height=height)
    elif isinstance(shown, GaussianModel):
        if up is None:
            up = (model.notes.up if isinstance(model, LoadedModel) else None) or DEFAULT_UP
        cameras = orbit_around(shown.means.detach(), frames, up=up, width=width, height=height)
    else:
        raise UserError(f"The model is of the family '{shown.family}' and has no cameras; give a scene=.")
    make_folder(Path(path).parent)
    with one_torch_thread(), torch.no_grad():
        if isinstance(shown, GaussianModel):
            shown = gated(shown)
        write_video(path, _frames(shown, options, cameras), fps)
    return Path(path)


def _frames(model: RadianceModel, options: RenderOptions, cameras: Sequence[Camera]) -> Iterator[np.ndarray]:
    for k, camera in enumerate(cameras):
        time = k / max(1, len(cameras) - 1) if model.changes_with_time else None
        yield families.render(model, camera, time, options).rgb.cpu().numpy()


Shown = RadianceModel | LoadedModel | TrainedRun | Path | str
"""What the viewer shows."""


def view(
    what: Shown | Sequence[Shown],
    *,
    host: str = HOST,
    port: int = PORT,
    trusted_origins: Sequence[str] = (),
    open_browser: bool = False,
    wait: bool = True,
) -> Viewer:
    """Show models, runs, PLYs or .splat files in the browser.

    Args:
        what: one of them, or several to compare: a model, what `train` or `load_model` return, or a path.
        host: address of the page; 127.0.0.1 is this machine alone.
        port: of the page, or the next free one.
        trusted_origins: addresses at which reverse proxies show the page, as "https://splats.example.org".
        open_browser: open the page in a browser.
        wait: return only after Ctrl-C; else immediately, and the viewer runs until `close`. In a notebook: False.

    Returns:
        The viewer, closed if it was waited for.

    Raises:
        UserError: something cannot be opened, there is no port, or a trusted origin is none.

    >>> viewer = nfc_gs.view("runs/garden", wait=False)
    Viewer: http://127.0.0.1:...
    >>> viewer.close()
    """
    from nfc_gs.viewer.app import Viewer
    from nfc_gs.viewer.source import Source, open_source

    def source(thing: Shown) -> Source:
        if isinstance(thing, TrainedRun):
            return open_source(thing.folder)
        if isinstance(thing, LoadedModel):
            return open_source(thing.path)
        return open_source(thing) if isinstance(thing, (Path, str)) else Source("model", opened(thing)[0].copy())

    things = list(what) if isinstance(what, Sequence) and not isinstance(what, str) else [what]
    sources = [source(thing) for thing in things]
    viewer = Viewer(sources, host=host, port=port, trusted_origins=trusted_origins, keeps_state=True)
    print(f"Viewer: {viewer.url}", flush=True)
    if open_browser:
        webbrowser.open(viewer.url)
    if wait:
        with contextlib.suppress(KeyboardInterrupt), viewer:
            viewer.wait()
    return viewer


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
        UserError: the capture cannot be read, the configuration makes no sense, the folder holds a run already, or
            another process works in it.

    Ctrl-C (in a notebook: interrupting the kernel) ends the training early, with everything saved. So do SIGTERM and
    SIGHUP, which then do what they would have done at once.

    >>> config = nfc_gs.TrainConfig(steps=10, seed=1)
    >>> trained = nfc_gs.train("captures/garden", config, out="runs/first")
    >>> trained
    TrainedRun('runs/first': 4,005 Gaussians, SH degree 3, step 10, test PSNR ... dB)
    >>> sorted(path.name for path in trained.folder.iterdir())
    ['checkpoint.safetensors', 'config.yaml', 'history.jsonl', 'metrics.json', 'renders', 'report.html', 'splat.ply']

    A loss of your own, beside the others: dark corners of the pictures, say.

    >>> def dark(pair: nfc_gs.Comparison):  # pair.rendered, .truth, .weights, .alpha, .camera, ...
    ...     return pair.mean((1.0 - pair.rendered).square())
    >>> trained = nfc_gs.train("captures/garden", config, out="runs/second", terms={"dark": (0.1, dark)})
    """
    config, data = config or TrainConfig(), data or DataConfig()
    for value, kind in ((capture, (str, Path)), (config, TrainConfig), (data, DataConfig)):
        if not isinstance(value, kind):
            raise UserError(
                f"train takes a path, a TrainConfig and as data= a DataConfig, but a {type(value).__name__} was given."
            )
    resolve(config)  # a wrong setting should show before the capture is read
    check_is_capture(capture)
    with claim_run_folder(out) if out is not None else claim_free_folder(default_run_folder(capture)) as folder:
        clock = StageClock()
        with clock.counting("capture"):
            scene = load_scene(capture, data, seed=config.seed, copies=image_cache_of(folder.path))
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
        trained = TrainedRun(folder.path, finish(trainer), trainer)
    if trainer.run.interrupted_by not in (None, signal.SIGINT):
        signal.raise_signal(trainer.run.interrupted_by)
    return trained


def default_run_folder(capture: Path | str) -> Path:
    """`runs/<capture>-<date-time>`, which may be there (`runs.run_folder.claim_free_folder`)."""
    place = Path(capture).resolve()
    name = (place.parent if place.suffix == ".json" else place).name or "capture"
    return RUNS / f"{name}-{strftime('%Y%m%d-%H%M%S')}"
