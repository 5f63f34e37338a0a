"""The times of a capture's frames, brought onto one axis from 0 to 1."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import Capture, Notes, Shot, TimeUnit
from nfc_gs.data.scene import TimeAxis

FEW_VIEWS = 20
"""Fewer frames than this, each at a time of its own, hardly tell motion from shape."""


def normalise_times(shots: Sequence[Shot], unit: TimeUnit, root: Path, notes: Notes) -> TimeAxis | None:
    """What 0 and 1 mean for the frames of a capture, in whatever order they come.

    Times without a unit that lie in [0, 1] stay as they are (the convention of D-NeRF, whose splits share one axis);
    all others are shifted and scaled so that the first frame is at 0 and the last at 1.

    Returns:
        None for a static capture: no frame has a time, or all have the same.

    Raises:
        UserError: some frames have a time and others have none.
    """
    timeless = [shot.name for shot in shots if shot.time is None]
    if len(timeless) == len(shots):
        return None
    if timeless:
        raise UserError(
            f"{len(timeless)} of {len(shots)} frames of {root} have no time (the first is {timeless[0]}); "
            "give every frame a 'time', or none."
        )
    times = [shot.time for shot in shots if shot.time is not None]
    low, high = min(times), max(times)
    if low == high:
        notes.info(f"Every frame of {root} has the time {low:g}: the scene is taken as static.")
        return None
    if len(set(times)) == len(shots) < FEW_VIEWS:
        notes.warning(
            f"{root} has one frame for each time and only {len(shots)} frames: motion and shape can hardly be told "
            "apart; take more frames, or several cameras."
        )
    if not unit and low >= 0.0 and high <= 1.0:
        return TimeAxis(0.0, 1.0)
    if not unit:
        notes.warning(f"The times of {root} run from {low:g} to {high:g}, not from 0 to 1: they are scaled to that.")
    return TimeAxis(low, high, unit)


def times_from_names(capture: Capture, pattern: str) -> Capture:
    """The same capture with the numbers in the names of its images as times, in frames.

    Args:
        pattern: a regular expression that is searched for in each name; its one group, or all of it where it has no
            group, is the number.

    Raises:
        UserError: it is no regular expression, does not match a name, or finds something else than a number.
    """
    option = f"--time-from-name {pattern!r}"
    try:
        expression = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"{option} is no regular expression ({error}); mend it.") from None
    if expression.groups > 1:
        raise UserError(f"{option} has {expression.groups} groups; leave the one that is the number of the frame.")
    found = {shot.name: expression.search(shot.name) for shot in capture.shots}
    lacking = [name for name, match in found.items() if match is None]
    if lacking:
        raise UserError(
            f"{option} is not found in the names of {len(lacking)} of {len(found)} images (the first is {lacking[0]}); "
            "give an expression that all names match."
        )
    shots = []
    for shot in capture.shots:
        match = found[shot.name]
        text = match.group(expression.groups) if match else None
        if text is None or re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", text) is None:
            raise UserError(f"{option} finds {text or ''!r} in {shot.name}, which is no number; mend it.")
        shots.append(replace(shot, time=float(text)))
    return replace(capture, shots=shots, time_unit="frames")


def select_frames(capture: Capture, start: int, end: int | None, stride: int) -> Capture:
    """The same capture with every `stride`-th of the frames from `start` on and before `end`.

    Raises:
        UserError: its frames have no numbers, or none is left.
    """
    if (start, end, stride) == (0, None, 1):
        return capture
    options = "--frame-start, --frame-end and --frame-stride"
    if capture.time_unit != "frames":
        raise UserError(
            f"{options} choose by the numbers of frames, and the images of {capture.root} have none; "
            "give --time-from-name, or leave these options."
        )
    numbered = [(shot, shot.time) for shot in capture.shots if shot.time is not None]
    shots = [
        shot
        for shot, number in numbered
        if start <= number and (end is None or number < end) and (stride == 1 or (number - start) % stride == 0)
    ]
    if not shots:
        numbers = [number for _, number in numbered]
        raise UserError(
            f"{options} leave no image of {capture.root}, whose frames are numbered from {min(numbers):g} to "
            f"{max(numbers):g}; choose among these."
        )
    return replace(capture, shots=shots)
