"""Times of frames: what is kept, what is scaled, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import Notes, Shot
from nfc_gs.data.lens import Lens
from nfc_gs.data.scene import TimeAxis
from nfc_gs.data.times import FEW_VIEWS, normalise_times

ROOT = Path("capture")


def shots(*times):
    lens = Lens("PINHOLE", 8, 8, (8.0, 8.0, 4.0, 4.0))
    return [Shot(f"{k:03d}.png", ROOT / f"{k:03d}.png", lens, np.eye(4), time=time) for k, time in enumerate(times)]


def many(*times):
    """The same moments seen by enough cameras."""
    return shots(*times * FEW_VIEWS)


def test_frames_without_times_make_a_static_scene():
    notes = Notes()
    assert normalise_times(shots(None, None), "", ROOT, notes) is None
    assert notes == []


def test_one_time_for_all_makes_a_static_scene_and_is_said():
    notes = Notes()
    assert normalise_times(shots(0.5, 0.5, 0.5), "", ROOT, notes) is None
    assert notes == ["Every frame of capture has the time 0.5: the scene is taken as static."]


def test_a_frame_without_a_time_among_others_is_refused():
    with pytest.raises(UserError, match=r"1 of 3 frames of capture have no time \(the first is 001.png\); give every"):
        normalise_times(shots(0.0, None, 1.0), "", ROOT, Notes())


@pytest.mark.parametrize("times", [(0.0, 0.5, 1.0), (0.2, 0.9), (0.9, 0.0, 0.3)])
def test_times_in_0_to_1_stay_as_they_are_in_any_order(times):
    notes = Notes()
    axis = normalise_times(many(*times), "", ROOT, notes)
    assert axis == TimeAxis(0.0, 1.0)
    assert [axis.normalised(time) for time in times] == list(times)
    assert notes == []


def test_times_out_of_0_to_1_are_scaled_and_that_is_said():
    notes = Notes()
    axis = normalise_times(many(3.0, -1.0, 1.0), "", ROOT, notes)
    assert axis == TimeAxis(-1.0, 3.0)
    assert [axis.normalised(time) for time in (-1.0, 1.0, 3.0)] == [0.0, 0.5, 1.0]
    assert axis.own(0.5) == 1.0
    assert notes == ["The times of capture run from -1 to 3, not from 0 to 1: they are scaled to that."]


@pytest.mark.parametrize("unit", ["seconds", "frames"])
def test_times_with_a_unit_span_the_axis_and_keep_it(unit):
    notes = Notes()
    assert normalise_times(many(2.0, 10.0), unit, ROOT, notes) == TimeAxis(2.0, 10.0, unit)
    assert notes == []


def test_few_frames_each_at_its_own_time_are_warned_of():
    notes = Notes()
    normalise_times(shots(*np.linspace(0, 1, FEW_VIEWS - 1)), "", ROOT, notes)
    assert len(notes) == 1 and "only 19 frames: motion and shape can hardly be told apart" in notes[0]
    enough = Notes()
    normalise_times(shots(*np.linspace(0, 1, FEW_VIEWS)), "", ROOT, enough)
    assert enough == []
