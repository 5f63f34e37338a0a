"""Measuring a model on the held-out views of its scene."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfc_gs.core.files import atomic_write, make_folder, write_text
from nfc_gs.data.scene import SceneData, TimeAxis, ViewImage
from nfc_gs.model.gaussians import GaussianModel
from nfc_gs.objective import metrics as measure
from nfc_gs.rendering.backend import RasterBackend
from nfc_gs.rendering.pipeline import at_time, render
from nfc_gs.rendering.registry import get_backend

METRICS_NAME = "metrics.json"


@dataclass(frozen=True)
class ViewMetrics:
    """How well one view is rendered.

    Attributes:
        psnr, ssim, lpips: PSNR in dB; LPIPS is None where it cannot be had.
        time: of the view, 0..1; None in a static scene.
        moving_psnr: PSNR in dB of the pixels that show something that moves; None where the capture does not say
            which they are, or none moves.
        moving_pixels: how many pixels that is; None with it.
    """

    name: str
    psnr: float
    ssim: float
    lpips: float | None = None
    time: float | None = None
    moving_psnr: float | None = None
    moving_pixels: int | None = None


@dataclass(frozen=True)
class Metrics:
    """The held-out views' metrics and their means, None where there are no views.

    Attributes:
        time_axis: what the times of the views mean; None in a static scene.
    """

    views: tuple[ViewMetrics, ...]
    time_axis: TimeAxis | None = None

    @property
    def psnr(self) -> float | None:
        """Mean over views, dB."""
        return self._mean("psnr")

    @property
    def ssim(self) -> float | None:
        """Mean over views."""
        return self._mean("ssim")

    @property
    def lpips(self) -> float | None:
        """Mean over views; None unless all have it."""
        return self._mean("lpips")

    @property
    def moving_psnr(self) -> float | None:
        """Of the moving pixels of all views taken together, dB; None where nothing is known to move.

        It comes from the squared error summed over these pixels, not from the views' own numbers: in some views few
        pixels move, and a mean over views would count their noise as much as whole pictures.
        """
        parts = [(view.moving_pixels, view.moving_psnr) for view in self.views]
        errors = [(pixels, pixels * 10 ** (-0.1 * psnr)) for pixels, psnr in parts if pixels and psnr is not None]
        if not errors:
            return None
        mean = sum(error for _, error in errors) / sum(pixels for pixels, _ in errors)
        return -10 * math.log10(mean) if mean > 0 else math.inf

    def _mean(self, name: str) -> float | None:
        values = [getattr(view, name) for view in self.views]
        if None in values:
            return None
        values = [value for value in values if not math.isnan(value)]  # a view that its mask ignores whole
        return sum(values) / len(values) if values else None


@torch.no_grad()
def evaluate(
    model: GaussianModel,
    scene: SceneData,
    *,
    backend: str | RasterBackend = "auto",
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    antialiased: bool = False,
    lpips: bool = False,
    save_to: Path | None = None,
    baked_degree: int | None = None,
) -> Metrics:
    """Render every held-out view at full size and compare it with its picture.

    Args:
        lpips: also LPIPS; where it cannot be had, a sentence says so and the other metrics stand. It knows no
            masks: what one leaves out is black in both pictures, and counts as equal.
        baked_degree: measure what a splat file of this SH degree would hold, at the time of each view.
        save_to: folder for `<stem>.png` and `<stem>_truth.png` of every view, made if there is a view.

    Raises:
        UserError: a picture cannot be read, or an image not be written.
    """
    engine = get_backend(backend) if isinstance(backend, str) else backend
    stems = image_stems([scene.views[i].name for i in scene.test])
    if save_to is not None and scene.test:
        make_folder(save_to)
    views = []
    for position, index in enumerate(scene.test):
        scene.prefetch(scene.test[position + 1 : position + 3])
        view, frame = scene.views[index], scene.image(index)
        shown = model if baked_degree is None else at_time(model, view.time).baked(baked_degree)
        out = render(
            shown,
            scene.camera(index),
            view.time,
            background=background,
            backend=engine,
            antialiased=antialiased,
        )
        image = out.rgb.clamp(0.0, 1.0)  # [H, W, 3]
        moving = _moving(scene.moving(index), frame)
        views.append(
            ViewMetrics(
                name=view.name,
                psnr=measure.psnr(image, frame.rgb, frame.mask),
                ssim=measure.ssim(image, frame.rgb, frame.mask),
                lpips=_lpips(image, frame) if lpips else None,
                time=view.time,
                moving_psnr=None if moving is None else measure.psnr(image, frame.rgb, moving),
                moving_pixels=None if moving is None else int(moving.sum()),
            )
        )
        if save_to is not None:
            _save(save_to / f"{stems[position]}.png", (image * 255.0).round().to(torch.uint8).cpu().numpy())
            _save(save_to / f"{stems[position]}_truth.png", frame.rgb)
    return Metrics(tuple(views), scene.time_axis)


def _moving(moving: np.ndarray | None, frame: ViewImage) -> np.ndarray | None:
    """Which of the moving pixels count, [H, W] bool; None if no pixel does."""
    if moving is not None and frame.mask is not None:
        moving = moving & (frame.mask >= 128)
    return moving if moving is not None and moving.any() else None


def _lpips(image: Tensor, frame: ViewImage) -> float | None:
    """LPIPS of `image` [H, W, 3] in [0, 1], what the mask leaves out being black in both; NaN if no pixel counts."""
    truth = torch.from_numpy(frame.rgb)
    if frame.mask is not None:
        counts = torch.from_numpy(frame.mask >= 128)[..., None]  # [H, W, 1] bool
        if not counts.any():
            return math.nan
        image, truth = image * counts.to(image.device), truth * counts
    return measure.lpips(image, truth)


def write_metrics(
    run: Path, metrics: Metrics, *, gaussians: int, steps: int, train_seconds: float, extras: Mapping[str, Any]
) -> Path:
    """Write `metrics.json` of a run and return its path.

    Args:
        extras: further plain values on the top level (device, timings, memory, ...).

    Raises:
        UserError: it cannot be written.
    """
    test: dict[str, Any] = {"psnr": metrics.psnr, "ssim": metrics.ssim}
    if metrics.lpips is not None:
        test["lpips"] = metrics.lpips
    if metrics.moving_psnr is not None:
        test["moving_psnr"] = metrics.moving_psnr
    if metrics.time_axis is not None:
        test["time_axis"] = asdict(metrics.time_axis)
    test["views"] = [
        {name: value for name, value in asdict(view).items() if value is not None} for view in metrics.views
    ]
    content = {"test": test, "gaussians": gaussians, "steps": steps, "train_seconds": train_seconds, **extras}
    path = Path(run) / METRICS_NAME
    write_text(path, json.dumps(finite(content), indent=2, allow_nan=False) + "\n")
    return path


def image_stems(names: Sequence[str]) -> list[str]:
    """File names without suffix for views, one each: folders become underscores, clashes keep suffix or number."""
    flat = [str(PurePosixPath(name).with_suffix("")).replace("/", "_") for name in names]
    whole = [name.replace("/", "_").replace(".", "_") for name in names]
    stems: list[str] = []
    for short, long in zip(flat, whole, strict=True):
        stem, number = (short if flat.count(short) == 1 else long), 2
        while stem in stems:
            stem, number = f"{long}_{number}", number + 1
        stems.append(stem)
    return stems


def peak_memory_mb() -> float | None:
    """The most memory this process has held, MiB, or None where the system does not say."""
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def finite(value: Any) -> Any:
    """Plain values as JSON can hold them: what is not finite, as a perfect picture's PSNR, becomes None."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary)
