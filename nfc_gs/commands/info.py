"""`nfc-gs info`: what something is."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated

import torch
import tyro

import nfc_gs
from nfc_gs.commands.console import Output, decibels, ratio, size_on_disk, table
from nfc_gs.commands.runs import device_in_words
from nfc_gs.core.errors import UserError
from nfc_gs.core.text import duration
from nfc_gs.data.config import DataConfig, FrameOptions
from nfc_gs.data.images import describe_processing
from nfc_gs.data.loading import load_scene
from nfc_gs.data.readers.registry import READERS
from nfc_gs.data.scene import SceneData, TimeAxis, View
from nfc_gs.formats.registry import format_of, splat_suffixes
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RadianceModel
from nfc_gs.objective.terms import terms_in_words
from nfc_gs.ops import native, nvrtc
from nfc_gs.rendering.registry import choose_device_and_backend
from nfc_gs.runs.checkpoint import Checkpoint
from nfc_gs.runs.metrics import read_metrics
from nfc_gs.runs.names import CHECKPOINT_NAME
from nfc_gs.runs.opening import capture_is_there, check_same_scene, load_model, scene_of
from nfc_gs.training.config import ResolvedConfig
from nfc_gs.training.deformation import sizes_in_words

PACKAGES = ("torch", "numpy", "scipy", "pycolmap", "gsplat", "lpips", "tensorboard")

Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class Info:
    """Say what a capture, a run or a splat is; without one, what this machine and installation are.

    For example:
      nfc-gs info
      nfc-gs info captures/garden
      nfc-gs info captures/dancer --frame-rate 30
      nfc-gs info splat.ply
      nfc-gs info --devices
    """

    path: Annotated[
        Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURE_OR_RUN_OR_PLY", help_behavior_hint="")
    ] = None
    """A capture, a run folder or its checkpoint, or a PLY."""
    devices: bool = False
    """Say which GPUs there are, what compiles kernels for them, and which are compiled."""

    timing: Annotated[FrameOptions, tyro.conf.arg(name="")] = field(default_factory=FrameOptions)
    """Which frames of a capture are used, and at which times they are, as for `nfc-gs train`."""

    def run(self) -> int:
        """Print a table; returns the exit code."""
        output = Output()
        if self.devices:
            output.print(table("Devices", _devices()))
            return 0
        if self.path is None:
            output.print(table("nfc-gs", _installation()))
            return 0
        path, suffix = self.path, self.path.suffix.lower()
        if not path.exists():
            raise UserError(f"There is no {path}; give a capture, a run folder, a checkpoint or a splat file.")
        if format_of(path) is not None:
            title, rows = "Splat", list(load_model(path).model.facts().items())
        elif suffix == ".safetensors" or (path / CHECKPOINT_NAME).is_file():
            title, rows = "Run" if path.is_dir() else "Checkpoint", _run(path)
        elif path.is_dir() or any(reader.recognises(path) for reader in READERS):
            title, rows = "Capture", _capture(path, DataConfig(**asdict(self.timing)))
        else:
            raise UserError(
                f"{path} is no capture, run folder, checkpoint (.safetensors) or splat ({splat_suffixes()}); give one."
            )
        if title != "Capture" and self.timing != FrameOptions():
            raise UserError(f"{path} is no capture: leave out the options on its frames and times.")
        place = path.parent if title == "Capture" and path.is_file() else path
        rows += [("Size on disk", size_on_disk(place)), ("Device here", device_in_words(*choose_device_and_backend()))]
        output.line(str(path), style="bold")
        output.print(table(title, rows))
        return 0


def _installation() -> Rows:
    rows = [("nfc-gs", nfc_gs.__version__), ("Python", f"{platform.python_version()} on {platform.platform()}")]
    for name in PACKAGES:
        try:
            rows.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            rows.append((name, "not installed"))
    try:
        core = native.core()
        rows.append(("CPU core", f"{core.instruction_set()}, threads: {core.threads()}"))
    except UserError as error:
        rows.append(("CPU core", str(error)))
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows.append(("GPU", ", ".join(gpus) or "none that torch sees"))
    try:
        rows.append(("Device auto", device_in_words(*choose_device_and_backend())))
    except UserError as error:
        rows.append(("Device auto", str(error)))
    return rows


def _devices() -> Rows:
    rows = []
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        rows.append((f"GPU {i}", f"{facts.name}, sm_{facts.major}{facts.minor}, {facts.total_memory / 2**30:.1f} GiB"))
    if not rows:
        rows.append(("GPU", "none that torch sees"))
    try:
        rows.append(("Compiler", nvrtc.compiler_name()))
    except UserError as error:
        rows.append(("Compiler", str(error)))
    counts = ", ".join(f"{count} for {name}" for name, count in nvrtc.cached_kernels().items())
    rows.append(("Compiled kernels", f"{counts or 'none yet'} ({nvrtc.cache_folder()})"))
    return rows


def _capture(path: Path, config: DataConfig) -> Rows:
    scene = load_scene(path, config)
    rows = [
        _views(len(scene.train), len(scene.test)),
        *_cameras(scene.views),
        _photos(scene),
        ("Points", f"{len(scene.points):,}"),
    ]
    if scene.time_axis is not None:
        rows += _times(scene.time_axis, f", {len({view.time for view in scene.views})} of them")
    return rows


def _times(axis: TimeAxis, count: str = "") -> Rows:
    """From when to when, '0 to 12.5 seconds', and where it is known how long that is."""
    rows = [("Times", f"{axis.start:g} to {axis.end:g} {axis.unit}".rstrip() + count)]
    return [*rows, ("Duration", duration(axis.end - axis.start))] if axis.unit == "seconds" else rows


def _views(train: int, test: int) -> tuple[str, str]:
    return "Views", f"{train + test}: {train} to train on, {test or 'none'} held out"


def _cameras(views: Sequence[View]) -> Rows:
    sizes = Counter((view.camera.width, view.camera.height) for view in views)
    common = ", ".join(f"{w} x {h}" + (f" ({n})" if len(sizes) > 1 else "") for (w, h), n in sizes.most_common(4))
    cameras = {tuple(round(value, 3) for value in (c.fx, c.fy, c.cx, c.cy)) for c in (view.camera for view in views)}
    return [
        ("Cameras", str(len(cameras))),
        ("Image size", common + (", ..." if len(sizes) > 4 else "")),
    ]


def _photos(scene: SceneData) -> tuple[str, str]:
    return "Images are", ", ".join(describe_processing(scene.views)) or "taken as they are"


def _run(path: Path) -> Rows:
    loaded = load_model(path)
    checkpoint = loaded.checkpoint
    assert checkpoint is not None, "a splat file is no run"
    config = ResolvedConfig.from_dict(checkpoint.config)
    whole = f" of {config.steps:,}" if config.steps is not None else ""
    if config.budget_seconds is not None:
        whole = f", {duration(checkpoint.seconds)} of {duration(config.budget_seconds)}"
    rows = [
        ("Capture", checkpoint.capture),
        *_trained_on(checkpoint, config),
        ("Steps", f"{checkpoint.step:,}{whole}"),
        ("Training time", duration(checkpoint.seconds)),
        ("Trained on", f"{config.device}, backend {config.backend}, preset {config.preset}, seed {config.seed}"),
        ("Method", f"{config.method}, minimising {terms_in_words(checkpoint.term_weights())}"),
        *_model(loaded.model),
    ]
    if checkpoint.time_axis is not None:
        rows += _times(checkpoint.time_axis)
    test = read_metrics(path).get("test") if path.is_dir() else None
    if isinstance(test, dict) and isinstance(test.get("psnr"), float):
        ssim = test.get("ssim")
        rows.append(("Test PSNR", decibels(test["psnr"])))
        rows.append(("Test SSIM", ratio(ssim if isinstance(ssim, float) else None)))
        if isinstance(test.get("moving_psnr"), float):
            rows.append(("Moving PSNR", decibels(test["moving_psnr"])))
    return rows


def _model(model: RadianceModel) -> Rows:
    facts = model.facts()
    if isinstance(model, GaussianModel) and model.deformation is not None:
        facts["Deformation"] = sizes_in_words(model.deformation)
    return list(facts.items())


def _trained_on(checkpoint: Checkpoint, config: ResolvedConfig) -> Rows:
    """Views, cameras and points of a run; what its checkpoint does not hold is read from the capture again."""
    scene: SceneData | None = None
    problem = "the capture is not there any more"
    if capture_is_there(checkpoint):
        try:
            scene = scene_of(checkpoint)
            check_same_scene(scene, checkpoint)
        except UserError as error:
            scene, problem = None, str(error)
    views = _views(len(checkpoint.scene.train), len(checkpoint.scene.test))
    if scene is None:
        return [views, *_cameras(checkpoint.scene.views), ("Images are", f"not known any more: {problem}")]
    start = min(len(scene.points), config.max_gaussians)
    return [views, *_cameras(scene.views), _photos(scene), ("Points at start", f"{start:,}")]
