"""What a report shows, read from a run folder: numbers, curves and pictures as plain data."""

from __future__ import annotations

import base64
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from nfc_gs.core import colormap
from nfc_gs.data.scene import TimeAxis
from nfc_gs.runs.names import TEST_RENDERS

log = logging.getLogger("nfc_gs")

_MAX_VIEWS = 16  # views with embedded pictures
_MAX_SIDE = 960  # pixels of an embedded picture's longer side
_MAX_BYTES = 24_000_000  # of embedded pictures together
_MAX_POINTS = 400  # of a curve


def read_yaml(path: Path) -> Any:
    """The parsed file, its text if it is not plain YAML, None if it is not there."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none, or (with a warning) if it cannot be read."""
    try:
        return as_mapping(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read and is left out: %s.", path, error)
        return {}


def as_mapping(value: Any) -> dict[str, Any]:
    """The value itself if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_number(value: Any) -> float | None:
    """A finite number, or None."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def read_curves(path: Path) -> dict[str, Any]:
    """The curves of a run's history: {"train": columns or None, "test": columns or None}."""
    train: list[dict[str, Any]] = []
    test: list[dict[str, Any]] = []
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            for line in handle:
                try:
                    row = as_mapping(json.loads(line))
                except ValueError:  # the last line of a run that was killed
                    continue
                if as_number(row.get("step")) is None or as_number(row.get("seconds")) is None:
                    continue
                rows = test if "test_psnr" in row else train
                while rows and rows[-1]["step"] >= row["step"]:  # the run was resumed from an earlier checkpoint
                    rows.pop()
                rows.append(row)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("The report leaves out %s, which cannot be read: %s.", path.name, error)
    return {"train": _train_columns(train), "test": _test_columns(test)}


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """[R] float64, NaN where there is no number."""
    numbers = [as_number(row.get(name)) for row in rows]
    return np.array([math.nan if number is None else number for number in numbers], dtype=np.float64)


def _json_list(values: np.ndarray, digits: int = 5) -> list[float | None]:
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in values]


def _train_columns(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Training rows as columns of at most `_MAX_POINTS`: means over equal numbers of rows, the last step kept."""
    if not rows:
        return None
    edges = np.unique(np.linspace(0, len(rows), min(len(rows), _MAX_POINTS) + 1).astype(int))
    last = edges[1:] - 1
    columns: dict[str, Any] = {
        name: _json_list(_column(rows, name)[last], 9) for name in ("step", "seconds", "gaussians", "width", "height")
    }
    for name in ("loss", "psnr"):
        values = _column(rows, name)
        means = np.array([_mean(values[a:b]) for a, b in pairwise(edges)])
        columns[name] = _json_list(means)
        columns[name + "_smooth"] = _json_list(_smooth(means))
    return columns


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def _smooth(values: np.ndarray) -> np.ndarray:
    """Means over a window of about a twentieth of the curve; narrower at the steep start, one-sided at the end."""
    spans = [min(len(values) // 40, i) for i in range(len(values))]
    return np.array([_mean(values[i - span : i + span + 1]) for i, span in enumerate(spans)])


def _test_columns(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    names = {"step": "step", "seconds": "seconds", "psnr": "test_psnr", "ssim": "test_ssim"}
    return {name: _json_list(_column(rows, source), 9) for name, source in names.items()}


@dataclass
class ViewResult:
    """A held-out view: its numbers, and its pictures where they are embedded (script's field names).

    Its time is as the capture counts it; None in a static scene.
    """

    name: str
    psnr: float | None
    ssim: float | None
    lpips: float | None
    moving_psnr: float | None
    time: float | None
    pictures: dict[str, Any]


def read_time_axis(test: Mapping[str, Any]) -> TimeAxis:
    """What the times in the metrics mean; from 0 to 1 where they do not say."""
    given = as_mapping(test.get("time_axis"))
    start, end = as_number(given.get("start")), as_number(given.get("end"))
    if start is None or end is None or not start < end:
        return TimeAxis(0.0, 1.0)
    unit = given.get("unit")
    return TimeAxis(start, end, unit if unit in ("seconds", "frames") else "")


def read_views(run: Path, test: Mapping[str, Any]) -> list[ViewResult]:
    """The views of the metrics (or, without them, those with pictures), some of them with pictures."""
    folder = run / TEST_RENDERS
    rows = test.get("views")
    if isinstance(rows, list):
        rows = [row for row in rows if isinstance(row, dict) and "name" in row]
    else:
        rows = [{"name": p.name.removesuffix("_truth.png")} for p in sorted(folder.glob("*_truth.png"))]
    axis = read_time_axis(test)
    views = []
    for row in rows:
        psnr, ssim, lpips, moving, time = (
            as_number(row.get(key)) for key in ("psnr", "ssim", "lpips", "moving_psnr", "time")
        )
        own = None if time is None else axis.own(time)
        views.append(ViewResult(str(row["name"]), psnr, ssim, lpips, moving, own, pictures={}))
    views.sort(key=lambda view: view.name)
    room = _MAX_BYTES
    for index in _worth_showing([view.psnr for view in views]):
        if room <= 0:
            break
        views[index].pictures = _pictures(folder, views[index].name)
        room -= sum(len(value) for value in views[index].pictures.values() if isinstance(value, str))
    return views


def _worth_showing(psnrs: Sequence[float | None]) -> list[int]:
    """Up to `_MAX_VIEWS` indices, the most informative first: the worst, the best, then evenly between them."""
    ranked = sorted(range(len(psnrs)), key=lambda i: (math.inf if psnrs[i] is None else psnrs[i], i))
    ends = [ranked[k] for pair in ((i, -1 - i) for i in range(_MAX_VIEWS // 4)) for k in pair if len(ranked) > abs(k)]
    spread = [ranked[round(k)] for k in np.linspace(0, len(ranked) - 1, _MAX_VIEWS)] if ranked else []
    rest = ranked if len(ranked) <= _MAX_VIEWS else spread
    return list(dict.fromkeys([*ends, *rest]))[:_MAX_VIEWS]


def _pictures(folder: Path, name: str) -> dict[str, Any]:
    """The pictures of a view as data URIs, with the size at which they are shown; empty if they are not there."""
    pictures = read_pictures(folder, name)
    if pictures is None:
        return {}
    truth, render = pictures
    error = np.abs(truth.astype(np.float32) - render.astype(np.float32)).mean(axis=2) / 255  # [H, W]
    size = fitted(truth, _MAX_SIDE)
    sources = {"truth": truth, "render": render, "error": color_error(error)}
    return {"width": size[0], "height": size[1], **{key: data_uri(image, size) for key, image in sources.items()}}


def picture_files(folder: Path, name: str) -> tuple[Path, Path] | None:
    """The files with the ground truth and the render of a view; None if they are not both there."""
    flat = name.replace("/", "_")
    for stem in (PurePosixPath(flat).stem, flat.replace(".", "_")):  # the second where names differ in suffix alone
        files = folder / f"{stem}_truth.png", folder / f"{stem}.png"
        if all(file.exists() for file in files):
            return files
    return None


def read_pictures(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Ground truth and render of a view, [H, W, 3] uint8 each; None (with a warning) if they are of no use."""
    from PIL import Image

    images = []
    for path in picture_files(folder, name) or ():
        try:
            with Image.open(path) as file:
                images.append(np.asarray(file.convert("RGB")))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            log.warning("The report leaves out %s, which cannot be read: %s.", path, error)
            return None
    if not images:
        return None
    truth, render = images
    if truth.shape != render.shape:
        log.warning("The report leaves out the pictures of %s: render and ground truth differ in size.", name)
        return None
    return truth, render


def fitted(image: np.ndarray, side: int) -> tuple[int, int]:
    """The width and height at which no side of an image [H, W, ...] is longer than `side` pixels."""
    height, width = image.shape[:2]
    factor = min(1.0, side / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def color_error(error: np.ndarray) -> np.ndarray:
    """Errors as colors from black over red to pale yellow: 0 is the first, `ERROR_FULL` and more the last.

    Args:
        error: [H, W] float, absolute error averaged over the channels, in [0, 1].

    Returns:
        [H, W, 3] uint8.
    """
    colors = colormap.apply(torch.from_numpy(error).float() / colormap.ERROR_FULL, colormap.ERROR_MAP)
    return (255.0 * colors).round().to(torch.uint8).numpy()


def data_uri(image: np.ndarray, size: tuple[int, int]) -> str:
    """An image [H, W, 3] uint8 as the data URI of a JPEG of (width, height) pixels."""
    from PIL import Image

    picture = Image.fromarray(image)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def middle_view(views: Sequence[ViewResult]) -> int:
    """The index of the view with the median PSNR: the one to show first."""
    ranked = sorted(range(len(views)), key=lambda i: views[i].psnr or 0.0)
    return ranked[len(ranked) // 2] if ranked else 0
