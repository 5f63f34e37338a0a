"""The times of a capture's frames, brought onto one axis from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import Notes, Shot, TimeUnit
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
    if not unit and 0.0 <= low and high <= 1.0:
        return TimeAxis(0.0, 1.0)
    if not unit:
        notes.warning(f"The times of {root} run from {low:g} to {high:g}, not from 0 to 1: they are scaled to that.")
    return TimeAxis(low, high, unit)
