import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import norm, t, ttest_ind

from grcn.study.verdict import half_over_photos, judge, pooled_gain

SCORES = st.lists(st.floats(0, 1), min_size=2, max_size=6)


@given(SCORES, SCORES, st.sampled_from([0.9, 0.95, 0.97]))
def test_with_one_set_the_interval_is_that_of_welch(own: list[float], base: list[float], level: float) -> None:
    assume(np.ptp(own) > 1e-3)
    assume(np.ptp(base) > 1e-3)
    ours = pooled_gain([(own, base)], level)
    theirs = ttest_ind(own, base, equal_var=False).confidence_interval(level)
    assert ours.mean == pytest.approx(np.mean(own) - np.mean(base))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_over_two_sets_by_hand() -> None:
    """Gains 2 and 6, mean 4. Variances s^2 are 2, 0, 8, 18; over n (2, 2, 2, 3) 1, 0, 4, 6; over K^2 they sum to 11/4.
    Degrees of freedom: 11^2 / (1/1 + 0 + 16/1 + 36/2)."""
    first, second = ([3.0, 5.0], [2.0, 2.0]), ([8.0, 12.0], [4 - 18**0.5, 4.0, 4 + 18**0.5])
    gain = pooled_gain([first, second], 0.97)
    half = t.ppf(0.985, 121 / 35) * math.sqrt(11 / 4)
    assert gain.each == pytest.approx((2, 6))
    assert (gain.mean, gain.low, gain.high) == pytest.approx((4, 4 - half, 4 + half))


def test_sets_weigh_the_same_whatever_their_seeds() -> None:
    gain = pooled_gain([([1.0, 1.2], [0.0, 0.1]), ([5.0, 5.1, 5.2, 5.3], [2.0, 2.1])], 0.95)
    assert gain.mean == pytest.approx((1.05 + 3.1) / 2)


@pytest.mark.parametrize("pair", [([1.0], [0.5]), ([1.0, 1.1], [0.5]), ([0.3, 0.3, 0.3], [0.1, 0.1, 0.1])])
def test_without_a_spread_nothing_is_decided(pair: Any) -> None:
    """One seed has none; and where every seed gives the same, it is none of chance."""
    gain = pooled_gain([pair, pair], 0.95)
    assert math.isnan(gain.low)
    assert math.isnan(gain.high)
    verdict = judge({"E": pair, "V": pair}, 1, 1.0)
    assert (verdict.answer, verdict.reason) == ("open", "no spread over seeds to judge by")


def test_the_interval_over_photos_by_hand() -> None:
    """The differences of the means over seeds are 1, 3 (variance 2) on one set, and 0, 4 (variance 8) on the other."""
    first = np.array([[3.0, 4.0], [1.0, 6.0]]), np.array([[1.0, 2.0]])  # means 2, 5
    second = np.array([[1.0, 5.0]]), np.array([[1.0, 1.0], [1.0, 1.0]])
    assert half_over_photos([first], 0.95) == pytest.approx(norm.ppf(0.975) * math.sqrt(2))
    assert half_over_photos([first, second], 0.97) == pytest.approx(norm.ppf(0.985) * math.sqrt((2 + 8) / 4))


def around(mean: float, spread: float) -> list[float]:
    return [mean - spread, mean - spread, mean + spread, mean + spread]


@pytest.mark.parametrize(
    ("gains", "spread", "answer", "reason"),
    [
        ((3.0, 5.0), 1.0, "yes", "ahead on every set"),
        ((0.3, 0.5), 0.1, "yes", "ahead on every set"),  # within the margin, but surely ahead
        ((6.0, -0.2), 1.0, "open", "ahead in the mean, not on V"),
        ((6.0, 0.0), 1.0, "open", "ahead in the mean, not on V"),
        ((-3.0, -5.0), 1.0, "no", "behind"),
        ((-0.4, -0.5), 0.1, "no", "behind"),
        ((0.1, -0.2), 0.5, "no", "no difference"),
        ((0.1, -0.2), 2.0, "open", "the interval holds zero"),
        ((2.0, 3.0), 4.0, "open", "the interval holds zero"),
    ],
)
def test_what_follows(gains: tuple[float, float], spread: float, answer: str, reason: str) -> None:
    sets = {name: (around(20 + gain, spread), around(20, spread)) for name, gain in zip("EV", gains, strict=True)}
    verdict = judge(sets, 1, 1.0)
    assert (verdict.answer, verdict.reason) == (answer, reason)
    assert verdict.gain.mean == pytest.approx(np.mean(gains))


def test_two_looks_ask_for_a_wider_interval_and_the_margin_for_the_same() -> None:
    """Equal spreads of 4 seeds on one set: 6 degrees of freedom, s^2 4/3, variance 2/3."""

    def at(gain: float, looks: int) -> str:
        return judge({"E": (around(gain, 1), around(0, 1))}, looks, 10 * abs(gain) if gain < 0 else 0.001).answer

    one, two, unit = t.ppf(0.975, 6), t.ppf(0.985, 6), math.sqrt(2 / 3)
    assert one < 2.45 < two
    assert (at(2.45 * unit, 1), at(2.45 * unit, 2), at((two + 0.01) * unit, 2)) == ("yes", "open", "yes")
    edge = t.ppf(0.95, 6) * unit
    for looks in (1, 2):
        sets = {"E": (around(0, 1), around(0, 1))}
        assert judge(sets, looks, edge * 1.001).reason == "no difference"
        assert judge(sets, looks, edge * 0.999).answer == "open"
