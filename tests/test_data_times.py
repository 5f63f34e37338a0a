"""Times of frames: what is kept, what is scaled, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from capture_files import write_capture

from nfc_gs.core.errors import UserError
from nfc_gs.data.capture import Capture, CaptureImage, ReaderMessages
from nfc_gs.data.config import DataConfig
from nfc_gs.data.lens import Lens
from nfc_gs.data.loading import load_scene
from nfc_gs.data.scene import TimeAxis
from nfc_gs.data.times import FEW_VIEWS, frames_per_second, normalise_times, select_frames, times_from_names

ROOT = Path("capture")


def images_at(*times):
    lens = Lens("PINHOLE", 8, 8, (8.0, 8.0, 4.0, 4.0))
    return [
        CaptureImage(f"{k:03d}.png", ROOT / f"{k:03d}.png", lens, np.eye(4), time=time) for k, time in enumerate(times)
    ]


def many(*times):
    """The same moments seen by enough cameras."""
    return images_at(*times * FEW_VIEWS)


def normalise(found, unit, messages, held_out=()):
    return normalise_times(found, {image.name for image in found} - set(held_out), unit, ROOT, messages)


def test_frames_without_times_make_a_static_scene():
    messages = ReaderMessages()
    assert normalise(images_at(None, None), "", messages) is None
    assert messages == []


def test_one_time_for_all_makes_a_static_scene_and_is_said():
    messages = ReaderMessages()
    assert normalise(images_at(0.5, 0.5, 0.5), "", messages) is None
    assert messages == ["Every frame of capture to train on has the time 0.5: the scene is taken as static."]


def test_a_frame_without_a_time_among_others_is_refused():
    with pytest.raises(UserError, match=r"1 of 3 frames of capture have no time \(the first is 001.png\); give every"):
        normalise(images_at(0.0, None, 1.0), "", ReaderMessages())


@pytest.mark.parametrize("times", [(0.0, 0.5, 1.0), (0.95, 0.0, 0.3), (0.05, 0.99)])
def test_times_that_span_0_to_1_stay_as_they_are_in_any_order(times):
    messages = ReaderMessages()
    axis = normalise(many(*times), "", messages)
    assert axis == TimeAxis(0.0, 1.0)
    assert [axis.normalised(time) for time in times] == list(times)
    assert messages == []


def test_times_out_of_0_to_1_are_scaled_and_that_is_said():
    messages = ReaderMessages()
    axis = normalise(many(3.0, -1.0, 1.0), "", messages)
    assert axis == TimeAxis(-1.0, 3.0)
    assert [axis.normalised(time) for time in (-1.0, 1.0, 3.0)] == [0.0, 0.5, 1.0]
    assert axis.own(0.5) == 1.0
    assert messages == ["The times of capture run from -1 to 3, not from 0 to 1: they are scaled to that."]


@pytest.mark.parametrize("unit", ["seconds", "frames"])
def test_times_with_a_unit_span_the_axis_and_keep_it(unit):
    messages = ReaderMessages()
    assert normalise(many(2.0, 10.0), unit, messages) == TimeAxis(2.0, 10.0, unit)
    assert messages == []


def test_times_of_a_small_part_of_0_to_1_are_scaled_and_that_is_said():
    messages = ReaderMessages()
    times = [k / 300 for k in range(100)]
    axis = normalise(images_at(*times), "", messages)
    assert axis == TimeAxis(0.0, 0.33)
    assert [axis.normalised(time) for time in times] == pytest.approx(np.linspace(0, 1, 100))
    assert messages == ["The times of capture run from 0 to 0.33, not from 0 to 1: they are scaled to that."]


@pytest.mark.parametrize(
    ("trained", "held_out", "axis"),
    [
        ((0.0, 1.0), (0.3, 0.6), TimeAxis(0.0, 1.0)),
        ((0.3, 0.6), (0.0, 1.0), TimeAxis(0.0, 1.0)),
        ((0.05, 0.9), (0.0, 0.95), TimeAxis(0.0, 0.95)),
    ],
)
def test_how_much_is_spanned_is_asked_of_the_frames_to_train_on_and_all_have_their_place(trained, held_out, axis):
    messages, found = ReaderMessages(), many(*trained, *held_out)
    others = [image.name for image in found if image.time in held_out]
    assert normalise(found, "", messages, others) == axis
    assert len(messages) == (axis != TimeAxis(0.0, 1.0))


def test_frames_to_train_on_of_one_time_make_a_static_scene():
    messages = ReaderMessages()
    assert normalise(images_at(0.5, 0.5, 0.1), "", messages, ["002.png"]) is None
    assert messages == ["Every frame of capture to train on has the time 0.5: the scene is taken as static."]


def times_of_views(count, tests=()):
    """`count` frames at times of their own, and the names of frames for testing at `tests`, times of some of them."""
    found = images_at(*np.linspace(0, 1, count), *np.linspace(0, 1, count)[list(tests)])
    return found, [image.name for image in found[count:]]


@pytest.mark.parametrize(("count", "tests"), [(FEW_VIEWS - 1, ()), (10, (2, 4, 6)), (16, (1, 4, 7, 9))])
def test_few_frames_to_train_on_each_at_its_own_time_are_warned_of(count, tests):
    messages = ReaderMessages()
    found, held_out = times_of_views(count, tests)
    normalise(found, "", messages, held_out)
    assert len(messages) == 1 and f"only {count} frames to train on: motion and shape can hardly be told" in messages[0]


def test_frames_held_out_do_not_hide_that_the_others_are_few():
    messages = ReaderMessages()
    normalise(images_at(*np.linspace(0, 1, FEW_VIEWS)), "", messages, [f"{k:03d}.png" for k in (5, 9, 13, 17)])
    assert len(messages) == 1 and "only 16 frames to train on" in messages[0]


def test_enough_frames_or_several_of_a_time_are_not_warned_of():
    for found in (images_at(*np.linspace(0, 1, FEW_VIEWS)), images_at(0.0, 0.0, 0.5, 0.5, 1.0, 1.0)):
        messages = ReaderMessages()
        normalise(found, "", messages)
        assert messages == []


def named(*names, root=ROOT, unit=""):
    lens, points = Lens("PINHOLE", 8, 8, (8.0, 8.0, 4.0, 4.0)), np.zeros((0, 3))
    found = [CaptureImage(name, root / name, lens, np.eye(4)) for name in names]
    return Capture(root, found, points, points.astype(np.uint8), None, "mask", time_unit=unit)


@pytest.mark.parametrize(
    ("pattern", "times"),
    [
        (r"t(\d+)_", [2.0, 10.0]),
        (r"(?<=t)\d+(?=_)", [2.0, 10.0]),
        (r"\d+", [7.0, 7.0]),
        (r"_([0-9.]+)\.png", [0.5, 1.5]),
        (r"t(?:x|)(\d)", [2.0, 1.0]),
    ],
)
def test_times_are_found_in_names_by_the_group_of_an_expression_or_all_of_it(pattern, times):
    timed = times_from_names(named("7/t2_0.5.png", "7/t10_1.5.png"), pattern)
    assert [image.time for image in timed.images] == times and timed.time_unit == "frames"


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        (r"t(\d+", r"--time-from-name 't\(\\\\d\+' is no regular expression \(.*unterminated"),
        (r"(t)(\d+)", r"has 2 groups; leave the one that is the number"),
        (r"t(\d)\.png", r"is not found in the names of 1 of 2 images \(the first is t12\.png\)"),
        (r"x", r"is not found in the names of 2 of 2 images \(the first is t1\.png\)"),
        (r"(t)\d", r"finds 't' in t1\.png, which is no number"),
        (r"t\d(\d)?", r"finds '' in t1\.png, which is no number"),
        (r"", r"finds '' in t1\.png, which is no number"),
    ],
)
def test_expressions_that_find_no_times_are_named(pattern, sentence):
    with pytest.raises(UserError, match=sentence):
        times_from_names(named("t1.png", "t12.png"), pattern)


def test_frames_are_chosen_by_number():
    capture = times_from_names(named(*[f"{k:02d}.png" for k in range(12)]), r"\d+")
    assert select_frames(capture, 0, None, 1) is capture
    assert [image.time for image in select_frames(capture, 3, 10, 3).images] == [3.0, 6.0, 9.0]
    with pytest.raises(UserError, match="leave no image of capture, whose frames are numbered from 0 to 11"):
        select_frames(capture, 12, None, 1)


@pytest.mark.parametrize("unit", ["", "seconds"])
def test_frames_without_numbers_cannot_be_chosen(unit):
    with pytest.raises(UserError, match="the images of capture have none; give --time-from-name"):
        select_frames(named("a.png", unit=unit), 0, None, 2)


def test_the_rate_that_is_given_goes_before_the_captures_own():
    frames = replace(named("a.png", unit="frames"), frame_rate=25.0)
    assert [frames_per_second(frames, rate) for rate in (None, 240.0)] == [25.0, 240.0]
    assert frames_per_second(named("a.png"), None) is None


@pytest.mark.parametrize("unit", ["", "seconds"])
def test_a_rate_of_frames_without_numbers_is_refused(unit):
    with pytest.raises(UserError, match=r"--frame-rate .* the images of capture have none; give --time-from-name"):
        frames_per_second(named("a.png", unit=unit), 30.0)


def test_a_rate_makes_seconds_of_the_numbers_in_names(tmp_path):
    write_capture(tmp_path, 6)
    plain = DataConfig(time_from_name=r"im(\d+)", frame_start=1)
    frames, seconds = load_scene(tmp_path, plain), load_scene(tmp_path, replace(plain, frame_rate=2.0))
    assert frames.time_axis == TimeAxis(1.0, 5.0, "frames") and seconds.time_axis == TimeAxis(0.5, 2.5, "seconds")
    assert [view.time for view in frames.views] == [view.time for view in seconds.views]


@pytest.mark.parametrize("splits", [False, True])
def test_a_capture_of_photos_moves_when_names_give_times(tmp_path, splits):
    names = [f"im{i:02d}.png" for i in range(6)]
    write_capture(tmp_path, 6)
    scene = load_scene(tmp_path, DataConfig(time_from_name=r"im(\d+)", frame_stride=2 if splits else 1))
    assert [view.name for view in scene.views] == names[:: 2 if splits else 1]
    assert scene.time_axis == TimeAxis(0.0, 4.0 if splits else 5.0, "frames")
    assert load_scene(tmp_path).time_axis is None
