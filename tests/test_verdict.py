"""What the figures of a run mean, in words."""

from __future__ import annotations

import math

import pytest

from nfc_gs.runs import verdict as module
from nfc_gs.runs.verdict import BEST, GAINS, QUALITY, verdict


@pytest.mark.parametrize(("psnr", "word"), [(12.0, "hardly"), (18.0, "rough"), (28.9, "preview"), (36.0, "very good")])
def test_a_psnr_is_put_into_words(psnr: float, word: str) -> None:
    assert word in verdict(psnr, steps=1000).quality


def test_better_psnrs_have_words_of_their_own() -> None:
    bounds = [bound for bound, _ in QUALITY]
    assert bounds == sorted(bounds)
    words = [verdict(psnr, steps=1000).quality for psnr in (bounds[0] - 1, *bounds)]
    assert len(set(words)) == len(bounds) + 1


def promised(steps: int) -> float:
    """The gain in dB that the outlook of a run of so many steps speaks of."""
    outlook = verdict(25.0, steps=steps).outlook
    assert outlook is not None and f"({2 * steps:,})" in outlook
    return float(outlook.split()[-2])


def test_the_outlook_is_the_measured_gain_of_twice_the_steps() -> None:
    for steps, gain in GAINS:
        assert promised(steps) == pytest.approx(gain, abs=1e-9)


def test_between_two_measurements_the_gain_lies_between_theirs() -> None:
    (low, low_gain), (high, high_gain) = GAINS[:2]
    assert promised(round(math.sqrt(low * high))) == pytest.approx((low_gain + high_gain) / 2, abs=0.06)


@pytest.mark.parametrize("steps", [GAINS[0][0] // 2, GAINS[-1][0] * 2])
def test_nothing_is_promised_where_nothing_was_measured(steps: int) -> None:
    assert verdict(25.0, steps=steps).outlook is None


def test_no_sentence_for_a_gain_that_is_no_more_than_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_GAIN", 100.0)
    assert verdict(25.0, steps=1000).outlook is None


def test_a_perfect_picture_promises_nothing() -> None:
    perfect = verdict(math.inf, steps=1000)
    assert perfect.quality == BEST and perfect.outlook is None


def test_as_text_it_is_one_or_two_sentences() -> None:
    assert str(verdict(25.0, steps=1000)).endswith(" dB.")
    assert str(verdict(math.inf, steps=1000)) == f"{BEST}."
