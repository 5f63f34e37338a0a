"""What the figures of a run mean, in words."""

from __future__ import annotations

import math

import pytest

from nfc_gs.runs import verdict as module
from nfc_gs.runs.metrics import Metrics, ViewMetrics
from nfc_gs.runs.verdict import BEST, FLAT, GAINS, JUDGED_STEPS, QUALITY, shortfall, verdict


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


# ---- a training that shows nothing ----------------------------------------------------------------------------------


def measured(*psnrs: float, flat: float | None = 13.0, alpha: float = 0.9) -> Metrics:
    return Metrics(
        tuple(ViewMetrics(f"{i}.png", psnr, 0.5, flat_psnr=flat, alpha=alpha) for i, psnr in enumerate(psnrs))
    )


def history(*psnrs: float) -> list[dict[str, float]]:
    """Lines of training and of evaluations."""
    lines: list[dict[str, float]] = [{"step": 1, "loss": 0.3, "psnr": 9.0}]
    return lines + [{"step": 50 * (i + 1), "test_psnr": psnr} for i, psnr in enumerate(psnrs)]


def test_a_training_that_works_has_no_shortfall() -> None:
    assert shortfall(measured(25.0, 27.0), history(22.0, 26.0), steps=500) is None
    assert shortfall(measured(25.0, 27.0, flat=None), history(), steps=500) is None
    assert shortfall(measured(math.inf), history(), steps=500) is None


def test_views_no_better_than_one_flat_color_are_said_with_numbers_and_causes() -> None:
    sentence = shortfall(measured(11.0, 12.0, 10.0), history(11.0), steps=1234)
    assert sentence == (
        "The held-out views are rendered no better than one flat color after 1,234 steps (PSNR 11.0 dB, and 13.0 dB "
        "for the mean color of each photo): likely the poses are wrong or belong to other photos, no camera sees the "
        "points, or the training was too short."
    )


def test_empty_views_are_said_with_their_alpha() -> None:
    sentence = shortfall(measured(6.0, alpha=0.001), history(), steps=500)
    assert sentence is not None and "rendered empty after 500 steps (mean alpha 0.001; PSNR 6.0 dB" in sentence


def test_an_empty_picture_of_an_empty_photo_is_no_shortfall() -> None:
    assert shortfall(measured(math.inf, flat=math.inf, alpha=0.0), history(), steps=500) is None
    assert shortfall(measured(50.0, flat=math.inf, alpha=0.0), history(), steps=500) is None
    assert shortfall(measured(math.nan, flat=math.nan), history(), steps=500) is None
    assert shortfall(Metrics(()), history(), steps=500) is None


def test_half_of_the_views_decide() -> None:
    assert shortfall(measured(20.0, 12.0), history(), steps=500) is None
    assert shortfall(measured(20.0, 12.0, 12.0), history(), steps=500) is not None
    assert measured(20.0, 12.0, 12.0).better_than_flat is False and measured(20.0, flat=None).better_than_flat is None


def test_views_that_have_become_worse_in_training_are_said() -> None:
    sentence = shortfall(measured(17.0), history(19.5, 18.0), steps=500)
    assert sentence is not None and "(PSNR 19.5 dB after step 50, 17.0 dB after 500 steps)" in sentence
    assert shortfall(measured(18.6), history(19.5, 18.6), steps=500) is None, "some learn few photos by heart"


def test_nothing_is_praised_that_is_no_better_than_one_flat_color() -> None:
    praised = verdict(28.0, steps=500)
    honest = verdict(28.0, steps=500, better_than_flat=False)
    assert praised.outlook is not None and praised.quality != FLAT
    assert honest.quality == FLAT and honest.outlook is None
    assert verdict(28.0, steps=500, better_than_flat=True) == praised


def test_a_training_of_a_few_steps_is_not_judged() -> None:
    assert shortfall(measured(6.0), history(19.0), steps=JUDGED_STEPS - 1) is None
    assert verdict(6.0, steps=JUDGED_STEPS - 1, better_than_flat=False).quality != FLAT
