"""`nfc-gs render`: images and videos of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from nfc_gs.commands.console import Output
from nfc_gs.commands.options import Command
from nfc_gs.commands.runs import prepare_file, replacement_note
from nfc_gs.commands.shared_options import Device, MovedCapture, RunBackend
from nfc_gs.core.camera import Camera
from nfc_gs.core.constants import BITS
from nfc_gs.core.errors import UserError
from nfc_gs.core.files import make_folder
from nfc_gs.core.threads import one_torch_thread
from nfc_gs.export.paths import interpolate, orbit, size_like
from nfc_gs.export.video import write_png, write_video
from nfc_gs.model.gate import gated
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.rendering.normals import normal_colors
from nfc_gs.runs.families import render
from nfc_gs.runs.names import RENDERS, image_stems
from nfc_gs.runs.opening import OpenRun, open_run

What = Literal["test", "orbit", "path", "still"]
Picture = Literal["rgb", "depth", "normals", "bits", "bit_entropy"]

FRAMES = 120
"""Images of a video unless options say otherwise."""

MOST_FRAMES = 1_000_000
"""That a video may get by `--speed`: nine hours of 30 a second."""

DEPTH_SAMPLES = 8
"""From so many cameras of a path, rendered small, the range of depths is taken."""

DEPTH_SAMPLE_SIDE = 160
"""Longest side of these small images, pixels."""


@dataclass(frozen=True)
class Render(Command):
    """Render images and videos of a run: an orbit, a path through the cameras, one camera, or the held-out views.

    Examples:
      nfc-gs render runs/garden
      nfc-gs render runs/garden --what test --out images
      nfc-gs render runs/garden --what path --frames 240 --fps 30 --out walk.mp4
      nfc-gs render runs/dancer --time 0.3
      nfc-gs render runs/dancer --what still --time 0 0.5 --speed 0.25
    """

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run, its checkpoint.safetensors, or a compact file that export wrote."""

    what: What = "orbit"
    """orbit: a closed path around the scene; path: a path through the cameras; still: the camera of the first held-out
    view, which does not move; test: each held-out view."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """A video (.mp4 or .gif) or, without a suffix, a folder of PNG files. By default renders/orbit.mp4, path.mp4 or
    still.mp4 in the run folder, and renders/views for --what test. Of a compact file, the folder FILE-results beside
    it stands for the run folder."""

    time: Annotated[tuple[float, ...], tyro.conf.arg(metavar="T [T]")] = ()
    """Of a moving splat: one time, 0 (its start) to 1 (its end), or two times, from the first to the second while the
    camera moves. By default 0 1, and for --what test the time of each view."""

    frames: int | None = None
    """Number of images of an orbit, a path or a still. By default 120."""

    speed: float | None = None
    """Of a capture whose times are seconds: 1 plays as fast as it was, 0.25 in slow motion. The number of images
    follows from it, in the place of --frames."""

    fps: float = 30.0
    """Images per second of a video."""

    width: int | None = None
    """Width in pixels. By default that of the images as trained on; one of width and height is enough."""

    height: int | None = None
    """Height in pixels."""

    outputs: Annotated[tuple[Picture, ...], tyro.conf.arg(metavar="NAME")] = ("rgb",)
    """What to render, side by side: rgb, depth (1 / depth, near is white), normals (red to the right, green
    up, blue towards the camera); of a bit head also bits (its eight bit
    planes, most significant first) and bit_entropy (white where bits are undecided)."""

    capture: MovedCapture = None

    device: Device = "auto"

    backend: RunBackend = "auto"

    quiet: bool = False
    """Print only the path of the video or folder. Warnings and errors still go to stderr."""

    def run(self) -> int:
        """Render; returns the exit code."""
        output = Output(quiet=self.quiet)
        out, line = self.write()
        output.line(line)
        output.result(str(out))
        return 0

    def write(self) -> tuple[Path, str]:
        """Render and write the images; returns where they are, and a line that says so."""
        for name in ("frames", "width", "height"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} is {value}, but must be at least 1.")
        if not self.outputs:
            raise UserError("--outputs is empty; give rgb, depth, normals, bits or bit_entropy.")
        if len(self.time) > 2 or not all(0.0 <= time <= 1.0 for time in self.time):
            given = " ".join(f"{time:g}" for time in self.time)
            raise UserError(f"--time {given} is not understood; give one or two moments between 0 and 1.")
        if self.speed is not None and not 0.0 < self.speed < math.inf:
            raise UserError(f"--speed is {self.speed:g}, but must be a positive number.")
        run = open_run(self.path, capture=self.capture, device=self.device, backend=self.backend, images=False)
        cameras = self._cameras(run, self._count(run))
        times = self._times(run, len(cameras))
        views = self._views(run, len(cameras))
        out = self.out or run.folder / RENDERS / ("views" if self.what == "test" else f"{self.what}.mp4")
        note = replacement_note(out)
        with one_torch_thread(), torch.no_grad():
            if self.what != "test":  # those are compared with photos
                run = _fastest_model(run, times)
            images = _images(
                run, [TimedCamera(*each) for each in zip(cameras, times, views, strict=True)], self.outputs
            )
            if self.what == "test" and not out.suffix:
                _write_views(run, out, images)
            else:
                write_video(prepare_file(out), images, self.fps)
        return out, f"{len(cameras)} images of {cameras[0].width} x {cameras[0].height}: {out}{note}"

    def _count(self, run: OpenRun) -> int:
        """The number of images of an orbit, a path or a still."""
        if self.speed is None:
            return self.frames if self.frames is not None else FRAMES
        if self.frames is not None:
            raise UserError("--speed and --frames both say how many images there are; leave out one of the two.")
        axis = run.scene.time_axis
        if not run.model.changes_with_time or axis is None or axis.unit != "seconds":
            raise UserError(
                f"--speed: the times of {self.path} are not in seconds; say how many --frames to render, or train with "
                "--frame-rate where the capture numbers its frames."
            )
        first, last = self._interval()
        count = abs(last - first) * (axis.end - axis.start) / self.speed * self.fps + 1
        if not count <= MOST_FRAMES:
            raise UserError(f"--speed {self.speed:g} makes {count:.3g} images of {self.path}; let time run faster.")
        return max(1, round(count))

    def _interval(self) -> tuple[float, float]:
        """When time begins and ends, 0..1."""
        return (self.time[0], self.time[-1]) if self.time else (0.0, 1.0)

    def _cameras(self, run: OpenRun, count: int) -> list[Camera]:
        """The cameras to render from, at the size asked for."""
        scene = run.scene
        if self.what == "test" and not scene.test:
            raise UserError(f"{self.path} has no held-out views; take --what orbit or --what path.")
        if self.what == "test":
            return [sized(scene.views[i].camera, self.width, self.height) for i in scene.test]
        if self.what == "still":
            camera = scene.views[(scene.test or scene.train)[0]].camera
            return [sized(camera, self.width, self.height)] * count
        first = scene.views[scene.train[0]].camera
        width, height = size_like(first, self.width, self.height)
        if self.what == "orbit":
            return orbit(scene, count, width=width, height=height)
        cameras = [scene.views[i].camera for i in scene.train]
        return interpolate(cameras, count, order="nearest", width=width, height=height)

    def _views(self, run: OpenRun, count: int) -> Sequence[int | None]:
        """The views of the capture that the cameras belong to."""
        scene = run.scene
        if self.what == "test":
            return scene.test
        return [(scene.test or scene.train)[0] if self.what == "still" else None] * count

    def _times(self, run: OpenRun, count: int) -> list[float | None]:
        """The time of each image; None for all of a static splat."""
        if not run.model.changes_with_time:
            if self.time:
                raise UserError(f"{self.path} is a static splat, the same at all times; leave out --time.")
            return [None] * count
        if self.what == "test" and not self.time:
            return [run.scene.views[i].time for i in run.scene.test]
        first, last = self._interval()
        return [first + (last - first) * k / max(1, count - 1) for k in range(count)]


def _fastest_model(run: OpenRun, times: Sequence[float | None]) -> OpenRun:
    """The run with the model that renders these times fastest: at a single time the static model of that time; at so
    many that it pays off, one in which Gaussians that stand still pass by the deformation."""
    model = run.model
    if not isinstance(model, GaussianModel) or model.deformation is None:
        return run
    if len(set(times)) == 1:
        return replace(run, model=model.at(times[0]))
    if len(times) < len(model.deformation.key_times()):
        return run
    return replace(run, model=gated(model))


def sized(camera: Camera, width: int | None, height: int | None) -> Camera:
    """The camera at another size; where the sides' ratio differs, the middle of its image is cut out."""
    w, h = size_like(camera, width, height)
    zoom = max(w / camera.width, h / camera.height)
    return replace(
        camera,
        fx=camera.fx * zoom,
        fy=camera.fy * zoom,
        cx=camera.cx * zoom - (camera.width * zoom - w) / 2,
        cy=camera.cy * zoom - (camera.height * zoom - h) / 2,
        width=w,
        height=h,
    )


@dataclass(frozen=True)
class TimedCamera:
    """What an image is rendered from.

    Attributes:
        time: at which the camera sees the scene; None for a static one.
        view: index of the view of the capture that the camera belongs to; None if it is none of them.
    """

    camera: Camera
    time: float | None
    view: int | None = None


def _images(run: OpenRun, cameras: Sequence[TimedCamera], outputs: tuple[Picture, ...]) -> Iterator[np.ndarray]:
    """The rendered images one by one, [H, W, 3] in [0, 1]; several outputs stand side by side."""
    near, far = _depth_range(run, cameras) if "depth" in outputs else (1.0, 2.0)
    for each in cameras:
        out = render(run.model, each.camera, each.time, run.options, outputs, view=each.view)
        parts = []
        for output in outputs:
            if output == "rgb":
                parts.append(out.rgb.clamp(0.0, 1.0).cpu().numpy())
            elif output == "normals":
                assert out.normals is not None
                parts.append((normal_colors(out.normals, each.camera) * out.alpha).cpu().numpy())
            elif output == "bits":
                assert out.bits is not None
                parts.append(bit_planes(out.bits).cpu().numpy())
            elif output == "bit_entropy":
                assert out.bit_entropy is not None
                parts.append(out.bit_entropy.expand(-1, -1, 3).cpu().numpy())
            else:
                assert out.depth is not None
                closeness = (1 / out.depth.clamp(min=near) - 1 / far) / (1 / near - 1 / far)
                closeness = closeness.clamp(0.0, 1.0) * out.alpha  # [H, W, 1]
                parts.append(closeness.expand(-1, -1, 3).cpu().numpy())
        yield np.concatenate(parts, axis=1)


def bit_planes(bits: Tensor) -> Tensor:
    """Probabilities of bits [H, W, 24] as eight images side by side, [H, 8 W, 3], the most significant bit first.

    Red shows the bit of red, and so on: the planes add up to the image, each weighted by its place value.
    """
    return bits.unflatten(-1, (3, BITS)).permute(0, 3, 1, 2).flatten(1, 2)  # [H, 8, W, 3] -> [H, 8 W, 3]


def _depth_range(run: OpenRun, cameras: Sequence[TimedCamera]) -> tuple[float, float]:
    """Depths that become white and black, the same for all images: the 1st and 99th percentile of what is visible."""
    depths = []
    for index in np.unique(np.linspace(0, len(cameras) - 1, DEPTH_SAMPLES).astype(int)):
        each, camera = cameras[index], cameras[index].camera
        shrink = min(1.0, DEPTH_SAMPLE_SIDE / max(camera.width, camera.height))
        small = camera.resized(max(1, round(camera.width * shrink)), max(1, round(camera.height * shrink)))
        out = render(run.model, small, each.time, run.options, ("rgb", "depth"), view=each.view)
        assert out.depth is not None
        depths.append(out.depth[out.alpha > 0.5].cpu().numpy())
    visible = np.concatenate(depths)
    if len(visible) == 0:
        return 1.0, 2.0
    near, far = np.percentile(visible, [1, 99])
    return float(near), float(max(far, 1.001 * near))


def _write_views(run: OpenRun, folder: Path, images: Iterator[np.ndarray]) -> None:
    """A PNG for each held-out view, under its name."""
    make_folder(folder)
    stems = image_stems([run.scene.views[i].name for i in run.scene.test])
    for stem, image in zip(stems, images, strict=True):
        write_png(folder / f"{stem}.png", image)
