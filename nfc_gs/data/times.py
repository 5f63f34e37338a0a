"""The times of a capture's frames, brought onto one axis from 0 to 1."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import Capture, CaptureImage, ReaderMessages, TimeUnit
from nfc_gs.data.scene import TimeAxis

FEW_VIEWS = 20
"""Fewer frames than this, each at a time of its own, do not suffice to separate motion from shape."""

WHOLE_SPAN = 0.9
"""Times without a unit that span so much of [0, 1] are taken to be on that axis already."""


def normalise_times(
    images: Sequence[CaptureImage], trained: Container[str], unit: TimeUnit, root: Path, messages: ReaderMessages
) -> TimeAxis | None:
    """What 0 and 1 mean for the frames of a capture, in whatever order they come.

    Times without a unit that lie in [0, 1] stay as they are where the frames to train on span nearly all of it (the
    convention of D-NeRF, whose splits share one axis). All others are shifted and scaled so that the first frame is at
    0 and the last at 1, so that no part of the axis is without frames.

    Args:
        trained: names of the images to train on, at least one; the others are held out.

    Returns:
        None for a static capture: no frame has a time, or all to train on have the same.

    Raises:
        UserError: some frames have a time and others have none.
    """
    timeless = [image.name for image in images if image.time is None]
    if len(timeless) == len(images):
        return None
    if timeless:
        raise UserError(
            f"{len(timeless)} of {len(images)} frames of {root} have no time (the first is {timeless[0]}); "
            "give every frame a 'time', or none."
        )
    timed = [(image.name, image.time) for image in images if image.time is not None]
    times = [time for _, time in timed]
    used = [time for name, time in timed if name in trained]
    first, last = min(used), max(used)
    if first == last:
        messages.info(f"Every frame of {root} to train on has the time {first:g}: the scene is taken as static.")
        return None
    if len(set(used)) == len(used) < FEW_VIEWS:
        messages.warning(
            f"{root} has one frame for each time and only {len(used)} frames to train on: motion and shape can "
            "hardly be told apart; take more frames, or several cameras."
        )
    low, high = min(times), max(times)
    if not unit and low >= 0.0 and high <= 1.0 and last - first >= WHOLE_SPAN:
        return TimeAxis(0.0, 1.0)
    if not unit and (low, high) != (0.0, 1.0):
        messages.warning(f"The times of {root} run from {low:g} to {high:g}, not from 0 to 1: they are scaled to that.")
    return TimeAxis(low, high, unit)


def frames_per_second(capture: Capture, given: float | None) -> float | None:
    """Frames per second of a capture: the number given, else its own; None where neither is known.

    Raises:
        UserError: one is given, and the times are no numbers of frames.
    """
    if given is not None and capture.time_unit != "frames":
        raise UserError(
            f"--frame-rate makes seconds of the numbers of frames, and the images of {capture.root} have none; "
            "give --time-from-name, or leave it out."
        )
    return capture.frame_rate if given is None else given


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
    found = {image.name: expression.search(image.name) for image in capture.images}
    lacking = [name for name, match in found.items() if match is None]
    if lacking:
        raise UserError(
            f"{option} is not found in the names of {len(lacking)} of {len(found)} images (the first is {lacking[0]}); "
            "give an expression that all names match."
        )
    images = []
    for image in capture.images:
        match = found[image.name]
        text = match.group(expression.groups) if match else None
        if text is None or re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", text) is None:
            raise UserError(f"{option} finds {text or ''!r} in {image.name}, which is no number; mend it.")
        images.append(replace(image, time=float(text)))
    return replace(capture, images=images, time_unit="frames")


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
    numbered = [(image, image.time) for image in capture.images if image.time is not None]
    images = [
        image
        for image, number in numbered
        if start <= number and (end is None or number < end) and (stride == 1 or (number - start) % stride == 0)
    ]
    if not images:
        numbers = [number for _, number in numbered]
        raise UserError(
            f"{options} leave no image of {capture.root}, whose frames are numbered from {min(numbers):g} to "
            f"{max(numbers):g}; choose among these."
        )
    return replace(capture, images=images)
