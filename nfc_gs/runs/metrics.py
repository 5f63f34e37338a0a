"""How well a run renders its held-out views: the figures, and `metrics.json`, which holds them."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nfc_gs.core import plain_json
from nfc_gs.core.errors import UserError
from nfc_gs.core.files import write_text
from nfc_gs.core.text import in_one_line
from nfc_gs.data.sampler import measured_views
from nfc_gs.data.scene import TimeAxis
from nfc_gs.runs.names import METRICS_NAME

logger = logging.getLogger("nfc_gs")


_OF_TRAINING = ("train_seconds", "peak_memory_mb")
_OF_VIEWS = (
    *("psnr", "ssim", "lpips", "time", "moving_psnr", "moving_pixels", "foreground_psnr", "foreground_pixels"),
    *("flat_psnr", "alpha"),
)
"""Figures in `metrics.json`: of the training, and of one view or the mean of all."""


@dataclass(frozen=True)
class ViewMetrics:
    """How well one view is rendered.

    Attributes:
        psnr, ssim, lpips: PSNR in dB; LPIPS is None where it cannot be had.
        time: of the view, 0..1; None in a static scene.
        moving_psnr: PSNR in dB of the pixels that show something that moves; None where the capture does not say
            which they are, or none moves.
        moving_pixels: how many pixels that is; None with it.
        foreground_psnr: PSNR in dB of the pixels whose alpha in the image is above one half; None where no alpha
            channel and no mask is laid on a color, or no pixel is foreground.
        foreground_pixels: how many pixels that is; None with it.
        flat_psnr: what a picture of one color, the mean of the photo, would have instead of `psnr`; infinity if the
            photo is of one color; None where it was not measured.
        alpha: mean alpha of the rendering, 0..1; None where it was not measured.
    """

    name: str
    psnr: float
    ssim: float
    lpips: float | None = None
    time: float | None = None
    moving_psnr: float | None = None
    moving_pixels: int | None = None
    foreground_psnr: float | None = None
    foreground_pixels: int | None = None
    flat_psnr: float | None = None
    alpha: float | None = None


@dataclass(frozen=True, repr=False)
class Metrics:
    """The held-out views' metrics and their means, None where there are no views.

    Attributes:
        views: those that were measured.
        time_axis: what the times of the views mean; None in a static scene.
        held_out: how many views are held out, which may be more than were measured; None where that is not known.

    >>> metrics = nfc_gs.evaluate(nfc_gs.load_model("runs/garden"))
    >>> metrics
    Metrics(PSNR ... dB, SSIM 0..., 1 view)
    >>> [(view.name, view.psnr > 10) for view in metrics.views]
    [('0001.png', True)]
    """

    views: tuple[ViewMetrics, ...]
    time_axis: TimeAxis | None = None
    held_out: int | None = None

    def __repr__(self) -> str:
        views = f"{len(self.views)} view" if len(self.views) == 1 else f"{len(self.views)} views"
        if self.psnr is None or self.ssim is None:
            return f"Metrics({views})"
        return f"Metrics(PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.3f}, {views})"

    @property
    def is_sample(self) -> bool:
        """Whether more views are held out than were measured."""
        return self.held_out is not None and self.held_out > len(self.views)

    @property
    def count_in_words(self) -> str:
        """How many views were measured: '8', or '500 of 625, chosen at random'."""
        return f"{len(self.views)} of {self.held_out}, chosen at random" if self.is_sample else str(len(self.views))

    def among(self, most: int) -> Metrics:
        """The metrics that would have been measured with at most so many views (`data.sampler.measured_views`)."""
        count = len(self.views) if self.held_out is None else self.held_out
        fewer = set(measured_views(count, most))
        measured = measured_views(count, len(self.views))
        views = [view for i, view in zip(measured, self.views, strict=True) if i in fewer]
        return replace(self, views=tuple(views))

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
        pixels move, and a mean over views would count their noise as much as whole images.
        """
        return _together((view.moving_pixels, view.moving_psnr) for view in self.views)

    @property
    def foreground_psnr(self) -> float | None:
        """Of the foreground pixels of all views taken together (as `moving_psnr`), dB; None where none is known.

        A large empty background raises `psnr` by itself: of two captures with equal errors on the object that with the
        smaller object has the higher `psnr`, but the same `foreground_psnr`.
        """
        return _together((view.foreground_pixels, view.foreground_psnr) for view in self.views)

    @property
    def flat_psnr(self) -> float | None:
        """Mean over views of the PSNR that one flat color has, dB; of photos that are of one color themselves, none."""
        values = [view.flat_psnr for view in self.views if view.flat_psnr is not None and math.isfinite(view.flat_psnr)]
        return sum(values) / len(values) if values else None

    @property
    def alpha(self) -> float | None:
        """Mean over views; None unless all have it."""
        return self._mean("alpha")

    @property
    def better_than_flat(self) -> bool | None:
        """Whether half of the views or more are rendered better than one flat color would show them; None where no
        photo says so."""
        views = [view for view in self.views if view.flat_psnr is not None and math.isfinite(view.flat_psnr)]
        better = sum(view.psnr > view.flat_psnr for view in views if view.flat_psnr is not None)
        return 2 * better >= len(views) if views else None

    def _mean(self, name: str) -> float | None:
        values = [getattr(view, name) for view in self.views]
        if None in values:
            return None
        values = [value for value in values if not math.isnan(value)]  # a view that its mask ignores whole
        return sum(values) / len(values) if values else None


def _together(parts: Iterable[tuple[int | None, float | None]]) -> float | None:
    """The PSNR, dB, of parts with so many pixels and such a PSNR each; None if there is none."""
    errors = [(pixels, pixels * 10 ** (-0.1 * psnr)) for pixels, psnr in parts if pixels and psnr is not None]
    if not errors:
        return None
    mean = sum(error for _, error in errors) / sum(pixels for pixels, _ in errors)
    return -10 * math.log10(mean) if mean > 0 else math.inf


@dataclass(frozen=True)
class TrainingRecord:
    """What `metrics.json` says of the training beside the held-out views.

    Attributes:
        sizes: how many elements the model has, by what they are ("gaussians").
        steps: optimisation steps.
        train_seconds: training time.
        device, backend, preset, method: of the run's configuration.
        timings: seconds by stage of a step.
        peak_memory_mb: the most memory the training's process has held, MiB; None where that is not known.
    """

    sizes: Mapping[str, int]
    steps: int
    train_seconds: float
    device: str
    backend: str
    preset: str
    method: str
    timings: Mapping[str, float] = field(default_factory=dict)
    peak_memory_mb: float | None = None


def write_metrics(run: Path, metrics: Metrics, record: TrainingRecord) -> Path:
    """Write `metrics.json` of a run and return its path.

    Raises:
        UserError: it cannot be written.
    """
    values = asdict(record)
    content = {"test": test_values(metrics), **values.pop("sizes"), **values}
    path = Path(run) / METRICS_NAME
    write_text(path, json.dumps(finite(content), indent=2, allow_nan=False) + "\n")
    return path


def test_values(metrics: Metrics) -> dict[str, Any]:
    """What `metrics.json` says of the held-out views; numbers may not be finite."""
    test: dict[str, Any] = {"psnr": metrics.psnr, "ssim": metrics.ssim}
    if metrics.held_out:
        test |= {"measured": len(metrics.views), "held_out": metrics.held_out}
    if metrics.lpips is not None:
        test["lpips"] = metrics.lpips
    if metrics.moving_psnr is not None:
        test["moving_psnr"] = metrics.moving_psnr
    if metrics.foreground_psnr is not None:
        test["foreground_psnr"] = metrics.foreground_psnr
    if metrics.better_than_flat is not None:
        test["better_than_flat"] = metrics.better_than_flat
    if metrics.time_axis is not None:
        test["time_axis"] = asdict(metrics.time_axis)
    test["views"] = [
        {name: value for name, value in asdict(view).items() if value is not None} for view in metrics.views
    ]
    return test


def read_metrics(run: Path) -> dict[str, Any]:
    """The content of a run's `metrics.json`; empty if there is none, or (with a warning) if it is damaged."""
    path = run / METRICS_NAME
    try:
        return _parsed(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read and is left out: %s.", path, in_one_line(error))
        return {}


def check_metrics(run: Path) -> None:
    """Refuse a damaged `metrics.json` before it is written anew, or figures of it are shown.

    Raises:
        UserError: it is no JSON, or a figure in it is none.
    """
    path = run / METRICS_NAME
    try:
        _parsed(path)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged: {in_one_line(error)}; remove it, and nfc-gs eval {run} writes it anew."
        ) from None


def _parsed(path: Path) -> dict[str, Any]:
    """The content of a `metrics.json`; raises ValueError, which names what is odd in it, or OSError."""
    content = plain_json.as_dict(plain_json.parse(path.read_text(encoding="utf-8")), "its content")
    for name, value in plain_json.as_dict(content.get("timings", {}), "timings").items():
        plain_json.as_float(value, f"timings.{name}")
    plain_json.as_int(content.get("steps", 0), "steps")
    test = plain_json.as_dict(content.get("test", {}), "test")
    views = plain_json.as_list(test.get("views", []), "test.views")
    for name in ("measured", "held_out"):
        plain_json.as_int(test.get(name, 0), f"test.{name}")
    parts = {"": (content, _OF_TRAINING), "test.": (test, _OF_VIEWS)}
    for index, view in enumerate(views):
        parts[f"test.views[{index}]."] = (plain_json.as_dict(view, f"test.views[{index}]"), _OF_VIEWS)
    for where, (part, names) in parts.items():
        for name in names:
            if part.get(name) is not None:  # which stands for what is not finite, as the PSNR of an exact image
                plain_json.as_float(part[name], f"{where}{name}")
    if "time_axis" in test:
        plain_json.as_dict(test["time_axis"], "test.time_axis")
    return finite(content)


def finite(value: Any) -> Any:
    """Plain values as JSON can hold them: what is not finite, as the PSNR of an exact image, becomes None."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return None if is_number and plain_json.finite_number(value) is None else value


def peak_memory_mb() -> float | None:
    """The most memory this process has held, MiB, or None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
