"""`nfc-gs info`: what something is."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

import nfc_gs
from nfc_gs.commands.console import Output, bytes_on_disk, decibels, ratio, size_on_disk, table
from nfc_gs.commands.options import Command
from nfc_gs.commands.runs import device_in_words
from nfc_gs.core.errors import UserError
from nfc_gs.core.memory import available_memory
from nfc_gs.core.text import duration, gigabytes
from nfc_gs.data.config import DataConfig, FrameOptions
from nfc_gs.data.image_cache import picture_bytes
from nfc_gs.data.image_plan import image_memory
from nfc_gs.data.images import describe_processing
from nfc_gs.data.loading import load_scene
from nfc_gs.data.readers.registry import READERS
from nfc_gs.data.scene import SceneData, TimeAxis, View
from nfc_gs.formats.registry import format_of, splat_suffixes
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.model.radiance import RadianceModel
from nfc_gs.objective.terms import terms_in_words
from nfc_gs.ops import native, nvrtc
from nfc_gs.ops.device import gpu_count, gpu_properties
from nfc_gs.rendering.registry import choose_device_and_backend
from nfc_gs.rendering.self_test import Verdict, self_test
from nfc_gs.runs.checkpoint import Checkpoint
from nfc_gs.runs.metrics import read_metrics
from nfc_gs.runs.names import CHECKPOINT_NAME
from nfc_gs.runs.opening import capture_is_there, check_results, check_same_scene, load_model, scene_of
from nfc_gs.training.config import ResolvedConfig
from nfc_gs.training.config_check import check
from nfc_gs.training.deformation import sizes_in_words

NO_GPU = "none that torch sees"
NO_NAME = "torch cannot say which one"

TITLES = {"Installation": "nfc-gs"}
"""Titles of tables that are not the kind of what is described."""

MEASURED = ("psnr", "ssim", "foreground_psnr", "moving_psnr")
"""Fields of a run that are null until it is measured."""

PACKAGES = ("torch", "numpy", "scipy", "pycolmap", "gsplat", "lpips", "tensorboard")


@dataclass(frozen=True)
class Fact:
    """One thing that is known.

    Attributes:
        name, text: a row of the table.
        values: fields of the JSON object.
    """

    name: str
    text: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Info(Command):
    """Describe a capture, a run or a splat file; without one, this machine and installation.

    Examples:
      nfc-gs info
      nfc-gs info captures/garden
      nfc-gs info captures/dancer --frame-rate 30
      nfc-gs info splat.ply --json
      nfc-gs info --devices

    Fields of the JSON object:
      everything    kind (capture, run, checkpoint, splat, installation,
                    devices), path, bytes, device_here, backend_here
      a capture     views, train_views, test_views, cameras, image_sizes,
                    image_bytes, points, time_axis
      a run         those of its capture; capture, steps, total_steps,
                    train_seconds, budget_seconds, device, backend, preset,
                    seed, method, objective, psnr, ssim,
                    foreground_psnr, moving_psnr
      run or splat  gaussians, sh_degree, head, deformation
      splat         offset, where its frame is the capture's minus one
    """

    path: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PATH]")] = None
    """A capture, a run folder, a checkpoint or a splat file."""

    devices: bool = False
    """List the GPUs, whether our kernels pass their self-test there, what compiles them, and which are compiled."""

    retest: bool = False
    """With --devices: run the self-tests again, whatever their last verdicts."""

    json: bool = False
    """Print one JSON object, with null for what is not known."""

    timing: Annotated[FrameOptions, tyro.conf.arg(name="frame")] = field(default_factory=FrameOptions)
    """Which frames of a capture are used, and at which times they are, as for `nfc-gs train`."""

    def run(self) -> int:
        """Print a table; returns the exit code."""
        kind, facts = self._facts()
        values: dict[str, Any] = {"kind": kind.lower(), "path": None if self.path is None else str(self.path)}
        for fact in facts:
            values |= fact.values
        output = Output(quiet=self.json, as_json=self.json)
        if self.path is not None:
            output.line(str(self.path), style="bold")
        output.print(table(TITLES.get(kind, kind), [(fact.name, fact.text) for fact in facts]))
        output.result("", values)
        return 0

    def _facts(self) -> tuple[str, list[Fact]]:
        """What is described, and the facts."""
        if self.retest and not self.devices:
            raise UserError("--retest goes with --devices; write nfc-gs info --devices --retest.")
        if self.devices:
            return "Devices", _devices(self.retest)
        if self.path is None:
            return "Installation", _installation()
        path, suffix = self.path, self.path.suffix.lower()
        if not path.exists():
            raise UserError(f"There is no {path}; give a capture, a run folder, a checkpoint or a splat file.")
        if format_of(path) is not None:
            loaded = load_model(path)
            kind, facts = "Splat", [*_model(loaded.model), *_offset(loaded.transform)]
        elif suffix == ".safetensors" or (path / CHECKPOINT_NAME).is_file():
            kind, facts = "Run" if path.is_dir() else "Checkpoint", _run(path)
        elif path.is_dir() or any(reader.recognises(path) for reader in READERS):
            kind, facts = "Capture", _capture(path, DataConfig(**asdict(self.timing)))
        else:
            raise UserError(
                f"{path} is no capture, run folder, checkpoint (.safetensors) or splat ({splat_suffixes()}); give one."
            )
        if kind != "Capture" and self.timing != FrameOptions():
            raise UserError(f"{path} is no capture: leave out the options on its frames and times.")
        place = path.parent if kind == "Capture" and path.is_file() else path
        size = Fact("Size on disk", size_on_disk(place), {"bytes": bytes_on_disk(place)})
        return kind, [*facts, size, _device_here("Device here")]


def _device_here(name: str) -> Fact:
    device, backend = choose_device_and_backend()
    return Fact(name, device_in_words(device, backend), {"device_here": device, "backend_here": backend})


def _installation() -> list[Fact]:
    python = f"{platform.python_version()} on {platform.platform()}"
    facts = [
        Fact("nfc-gs", nfc_gs.__version__, {"nfc_gs": nfc_gs.__version__}),
        Fact("Python", python, {"python": platform.python_version(), "platform": platform.platform()}),
    ]
    for name in PACKAGES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = None
        facts.append(Fact(name, version or "not installed", {name: version}))
    try:
        core = native.core()
        values = {"instruction_set": core.instruction_set(), "threads": core.threads()}
        facts.append(Fact("CPU core", f"{values['instruction_set']}, threads: {values['threads']}", values))
    except UserError as error:
        facts.append(Fact("CPU core", str(error), {"instruction_set": None, "threads": None}))
    gpus = [found.name if found else None for found in map(gpu_properties, range(gpu_count()))]
    facts.append(Fact("GPU", ", ".join(name or NO_NAME for name in gpus) or NO_GPU, {"gpus": gpus}))
    try:
        facts.append(_device_here("Device auto"))
    except UserError as error:
        facts.append(Fact("Device auto", str(error), {"device_here": None, "backend_here": None}))
    return facts


def _devices(retest: bool) -> list[Fact]:
    facts, gpus = [], []
    for i in range(gpu_count()):
        text = NO_NAME
        values: dict[str, Any] = dict.fromkeys(("name", "architecture", "bytes"))
        found = gpu_properties(i)
        if found is not None:
            architecture, size = f"sm_{found.major}{found.minor}", found.total_memory
            text = f"{found.name}, {architecture}, {size / 2**30:.1f} GiB"
            values = {"name": found.name, "architecture": architecture, "bytes": size}
        verdict = self_test(torch.device("cuda", i), retest=retest)
        outcome = {"passed": verdict.passed, "reason": verdict.reason, "driver": verdict.driver}
        gpus.append({**values, "self_test": outcome})
        facts += [Fact(f"GPU {i}", text), Fact(f"Self-test {i}", verdict_in_words(verdict))]
    facts = [*facts, Fact("GPUs", str(len(gpus)) if gpus else NO_GPU, {"gpus": gpus}), _compiler(bool(gpus))]
    kernels, folder = nvrtc.cached_kernels(), nvrtc.cache_folder()
    counts = ", ".join(f"{count} for {name}" for name, count in kernels.items())
    values = {"compiled_kernels": kernels, "cache": str(folder)}
    return [*facts, Fact("Compiled kernels", f"{counts or 'none yet'} ({folder})", values)]


def _compiler(needed: bool) -> Fact:
    """What compiles kernels; without a GPU nothing of NVIDIA's is imported to find out."""
    if not needed:
        return Fact("Compiler", "not loaded without a GPU", {"compiler": None})
    try:
        return Fact("Compiler", nvrtc.compiler_name(), {"compiler": nvrtc.compiler_name()})
    except UserError as error:
        return Fact("Compiler", str(error), {"compiler": None})


def verdict_in_words(verdict: Verdict) -> str:
    """What a self-test found: 'passed (driver 580.65.06, CUDA 13.0)'."""
    if not verdict.passed:
        return f"not passed: {verdict.reason}"
    return f"passed (driver {verdict.driver})"


def _capture(path: Path, config: DataConfig) -> list[Fact]:
    scene = load_scene(path, config)
    count = len({view.time for view in scene.views})
    return [
        Fact("Format", scene.format, {"format": scene.format}),
        _views(len(scene.train), len(scene.test)),
        *_cameras(scene.views),
        _photos(scene),
        _memory(scene.views, config),
        Fact("Points", f"{len(scene.points):,}", {"points": len(scene.points)}),
        *_times(scene.time_axis, f", {count} of them"),
    ]


def _times(axis: TimeAxis | None, count: str = "") -> list[Fact]:
    """From when to when, '0 to 12.5 seconds', and where it is known how long that is."""
    if axis is None:
        return []
    text = f"{axis.start:g} to {axis.end:g} {axis.unit}".rstrip() + count
    facts = [Fact("Times", text, {"time_axis": asdict(axis)})]
    return [*facts, Fact("Duration", duration(axis.end - axis.start))] if axis.unit == "seconds" else facts


def _views(train: int, test: int) -> Fact:
    text = f"{train + test}: {train} to train on, {test or 'none'} held out"
    # What a static capture lacks is null.
    return Fact("Views", text, {"views": train + test, "train_views": train, "test_views": test, "time_axis": None})


def _cameras(views: Sequence[View]) -> list[Fact]:
    sizes = Counter((view.camera.width, view.camera.height) for view in views)
    common = ", ".join(f"{w} x {h}" + (f" ({n})" if len(sizes) > 1 else "") for (w, h), n in sizes.most_common(4))
    lenses = [tuple(round(value, 3) for value in (c.fx, c.fy, c.cx, c.cy)) for c in (view.camera for view in views)]
    places = {(lens, view.camera.viewmat.numpy().tobytes()) for lens, view in zip(lenses, views, strict=True)}
    still = 2 * len(places) <= len(views)  # cameras that do not move and take a video each
    count = len(places) if still else len(set(lenses))
    images = [{"width": w, "height": h, "views": n} for (w, h), n in sizes.most_common()]
    return [
        Fact("Cameras", f"{count}, each at one place" if still else str(count), {"cameras": count}),
        Fact("Image size", common + (", ..." if len(sizes) > 4 else ""), {"image_sizes": images}),
    ]


def _photos(scene: SceneData) -> Fact:
    return Fact("Images are", ", ".join(describe_processing(scene.views)) or "taken as they are")


def _memory(views: Sequence[View], config: DataConfig) -> Fact:
    """What decoded images take, and how much memory is used for them."""
    size, limit = sum(picture_bytes(view) for view in views), image_memory(config, available_memory())
    text = f"{gigabytes(size)}; {gigabytes(limit)} of memory are used for them (--cache-gb)"
    return Fact("Decoded images", text, {"image_bytes": size})


def _run(path: Path) -> list[Fact]:
    loaded = load_model(path)
    checkpoint = loaded.checkpoint
    assert checkpoint is not None, "a splat file is no run"
    config = ResolvedConfig.from_dict(checkpoint.config)
    check(config)
    whole = f" of {config.steps:,}" if config.steps is not None else ""
    if config.budget_seconds is not None:
        whole = f", {duration(checkpoint.seconds)} of {duration(config.budget_seconds)}"
    steps = {"steps": checkpoint.step, "total_steps": config.steps, "budget_seconds": config.budget_seconds}
    machine = {name: getattr(config, name) for name in ("device", "backend", "preset", "seed")}
    weights = checkpoint.term_weights()
    return [
        Fact("Capture", checkpoint.capture, {"capture": checkpoint.capture}),
        *_trained_on(checkpoint, config),
        Fact("Steps", f"{checkpoint.step:,}{whole}", steps),
        Fact("Training time", duration(checkpoint.seconds), {"train_seconds": checkpoint.seconds}),
        Fact(
            "Trained on",
            f"{config.device}, backend {config.backend}, preset {config.preset}, seed {config.seed}",
            machine,
        ),
        Fact(
            "Method",
            f"{config.method}, minimising {terms_in_words(weights)}",
            {"method": config.method, "objective": weights, **dict.fromkeys(MEASURED)},
        ),
        *_model(loaded.model),
        *_times(checkpoint.time_axis),
        *_measured(path),
    ]


def _measured(run: Path) -> list[Fact]:
    """What the held-out views of a run gave, if they were measured; nothing of a checkpoint without its run."""
    check_results(run)
    test = read_metrics(run).get("test") if run.is_dir() else None
    values = test if isinstance(test, dict) else {}
    rows = [("Test PSNR", "psnr", decibels), ("Test SSIM", "ssim", ratio)]
    rows += [("Foreground PSNR", "foreground_psnr", decibels), ("Moving PSNR", "moving_psnr", decibels)]
    return [
        Fact(label, words(values[name]), {name: values[name]})
        for label, name, words in rows
        if isinstance(values.get(name), float)
    ]


def _model(model: RadianceModel) -> list[Fact]:
    facts, values = model.facts(), dict[str, Any](model.sizes())
    if isinstance(model, GaussianModel):
        values |= {"sh_degree": model.sh_degree, "head": model.head, "deformation": None}
        if model.deformation is not None:
            facts["Deformation"] = sizes_in_words(model.deformation)
            values["deformation"] = model.deformation.kind
    first, *rest = facts.items()
    return [Fact(*first, values), *(Fact(*fact) for fact in rest)]


def _offset(transform: np.ndarray) -> list[Fact]:
    """What must be added to a splat file's centres for the coordinates of its capture, if anything."""
    x, y, z = (0.0 - transform[:3, 3]).tolist()
    return [Fact("Offset", f"({x:.12g}, {y:.12g}, {z:.12g})", {"offset": [x, y, z]})] if x or y or z else []


def _trained_on(checkpoint: Checkpoint, config: ResolvedConfig) -> list[Fact]:
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
        unknown = Fact("Images are", f"not known any more: {problem}", {"points": None})
        return [views, *_cameras(checkpoint.scene.views), unknown]
    start = min(len(scene.points), config.max_gaussians)
    points = Fact("Points at start", f"{start:,}", {"points": start})
    return [views, *_cameras(scene.views), _photos(scene), points]
