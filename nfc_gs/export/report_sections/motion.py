"""A moving scene: its loop video, PSNR over time, and a film strip."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from nfc_gs.data.scene import TimeAxis
from nfc_gs.export.report_files import RunFiles, ViewResult, as_number, log
from nfc_gs.export.report_pictures import data_uri, jpeg, picture_files, read_pictures
from nfc_gs.export.report_sections.section import Section, image, section_of
from nfc_gs.runs.names import LOOP_NAME, TEST_RENDERS

MAX_LOOP_BYTES = 1_200_000
"""A larger loop video is left out."""

MAX_STRIP_VIEWS = 8
"""Most views in a film strip."""

STRIP_SIDE, STRIP_BYTES = 320, 40_000
"""Longest side of a picture of the film strip, pixels, and its size."""


def time_words(time: float, unit: str) -> str:
    """A time as the capture counts it, in words: 'frame 12', '1.5 s', '0.35'."""
    number = f"{round(time, 3):.6g}"
    return {"frames": f"frame {number}", "seconds": f"{number} s"}.get(unit, number)


def section(run: RunFiles) -> Section:
    """Video, curve and film strip; empty for a static scene."""
    data = _curve_data(run)
    figures = _loop(run.folder / LOOP_NAME, run.axis) + ("" if data is None else _curve(run.axis))
    strip = _strip(run.folder / TEST_RENDERS, run.views, run.axis)
    if not figures and not strip:
        return Section()
    charts = f'<div class="charts motion" id="times">{figures}</div>' if figures else ""
    after = '<span class="readout" id="time-readout"></span>'
    return Section(section_of("motion", "Motion", charts + strip, after), data)


def _curve_data(run: RunFiles) -> dict[str, Any] | None:
    """The curves of PSNR over time (script's field names); None where no view has both."""
    timed = [view for view in _by_time(run.views) if view.psnr is not None]
    if not timed:
        return None
    return {
        "range": [run.axis.start, run.axis.end],
        "times": [view.time for view in timed],
        "labels": [_label(view, run.axis) for view in timed],
        "names": [view.name for view in timed],
        "psnr": [view.psnr for view in timed],
        "moving_psnr": [view.moving_psnr for view in timed],
        "psnr_all": as_number(run.test.get("psnr")),
        "moving_psnr_all": as_number(run.test.get("moving_psnr")),
    }


def _by_time(views: Sequence[ViewResult]) -> list[ViewResult]:
    """The views that have a time, in its order."""
    timed = [(view.time, view.name, view) for view in views if view.time is not None]
    return [view for *_, view in sorted(timed, key=lambda entry: entry[:2])]


def _label(view: ViewResult, axis: TimeAxis) -> str:
    assert view.time is not None
    words = time_words(view.time, axis.unit)
    return words if axis.unit else f"time {words}"


def _loop(file: Path, axis: TimeAxis) -> str:
    """The loop video as a part of the page; empty if there is none."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        log.warning("The report leaves out %s, which cannot be read: %s.", file, error)
        return ""
    if content[4:8] != b"ftyp" or len(content) > MAX_LOOP_BYTES:
        log.warning("The report leaves out %s, which is no MP4 or larger than %.1f MB.", file, MAX_LOOP_BYTES / 1e6)
        return ""
    source = data_uri(content, "video/mp4")
    first, last = (escape(time_words(time, axis.unit)) for time in (axis.start, axis.end))
    return (
        f'<figure class="loop card"><h3>As it moves</h3><video id="loop" muted loop controls playsinline '
        f'aria-label="The moving splat" src="{source}"></video>'
        f"<figcaption>From {first} to {last} and back, seen from one place</figcaption></figure>"
    )


def _curve(axis: TimeAxis) -> str:
    unit = {"frames": "Time in frames", "seconds": "Time in seconds"}.get(axis.unit, "Time")
    return (
        '<figure class="chart card" data-chart="time"><h3>PSNR of the held-out views over time</h3>'
        '<div class="legend"></div><svg role="img" tabindex="0" '
        'aria-label="PSNR in decibels of the held-out views over time; arrow keys read values"></svg>'
        f"<figcaption>{unit}</figcaption></figure>"
    )


def _strip(folder: Path, views: Sequence[ViewResult], axis: TimeAxis) -> str:
    """Held-out views at nearly even times, photo above rendering; empty where there are no pictures."""
    frames = []
    for view in _spread_in_time([view for view in _by_time(views) if picture_files(folder, view.stem)]):
        pictures = read_pictures(folder, view.stem)
        if pictures is None:
            continue
        words = escape(_label(view, axis))
        images = "".join(
            image(jpeg(pixels, STRIP_SIDE, STRIP_BYTES), f"{kind} of {view.name}")
            for kind, pixels in zip(("Photo", "Rendering"), pictures, strict=True)
        )
        frames.append(f"<figure>{images}<figcaption>{words}</figcaption></figure>")
    if not frames:
        return ""
    return (
        '<div class="strip card"><h3>Held-out views in the order of time: photo above, rendering below</h3>'
        f'<div class="film" tabindex="0" role="region" aria-label="Film strip">{"".join(frames)}</div></div>'
    )


def _spread_in_time(views: Sequence[ViewResult]) -> list[ViewResult]:
    """Up to `MAX_STRIP_VIEWS` of views sorted by time: those nearest to times evenly spaced."""
    if len(views) <= MAX_STRIP_VIEWS:
        return list(views)
    times = np.array([view.time for view in views], dtype=np.float64)
    even = np.linspace(times[0], times[-1], MAX_STRIP_VIEWS)
    return [views[i] for i in dict.fromkeys(int(np.abs(times - time).argmin()) for time in even)]
