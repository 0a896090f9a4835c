"""Judges a study by the gain of one cell over another, pooled over data sets, and the interval of this gain.

Seeds are not paired. Two detectors that train with the same seed see the same photos in the same order, but their
scores are correlated so little that pairing would not make an interval narrower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from grcn.types import Array

Scores = tuple[Sequence[float], Sequence[float]]
"""Scores of the cell, and of the cell that it is compared with, on one data set, one score per seed."""

LEVEL = {1: 0.95, 2: 0.97}
"""The level of the interval by the number of planned looks. Over all looks, the chance of a false yes is 5%."""
MARGIN_LEVEL = 0.90
"""The level of the interval that has to lie within the margin for "no difference": two one-sided tests at 5%."""


@dataclass(frozen=True)
class Gain:
    """How far one cell is ahead of another.

    Args:
        mean: the mean gain over the data sets.
        each: the gain on each data set, which is the difference of the means over seeds.
        low: lower end of the confidence interval; NaN if a cell has only one seed on a set, or if all seeds are equal.
        high: upper end.
    """

    mean: float
    each: tuple[float, ...]
    low: float
    high: float


def pooled_gain(sets: Sequence[Scores], level: float) -> Gain:
    """The gain over K data sets of equal weight, with an interval at `level`.

    The variance is the sum of s^2 / n over both cells of each set, divided by K^2. The degrees of freedom are
    Satterthwaite's over these 2K parts. With one set, this is Welch's t.

    >>> gain = pooled_gain([([3.0, 5.0], [1.0, 3.0])], 0.95)
    >>> gain.mean, round(gain.low, 2), round(gain.high, 2)  # variance 2/2 + 2/2, 2 degrees of freedom
    (2.0, -4.08, 8.08)
    """
    from scipy.stats import t

    each = tuple(float(np.mean(own) - np.mean(base)) for own, base in sets)
    mean = float(np.mean(each))
    cells = [np.asarray(cell, dtype=np.float64) for pair in sets for cell in pair]
    if min(len(cell) for cell in cells) < 2 or not any(np.ptp(cell) for cell in cells):
        return Gain(mean, each, math.nan, math.nan)
    parts = np.array([cell.var(ddof=1) / len(cell) for cell in cells]) / len(sets) ** 2
    variance = parts.sum()
    freedom = variance**2 / sum(part**2 / (len(cell) - 1) for part, cell in zip(parts, cells, strict=True))
    half = float(t.ppf((1 + level) / 2, freedom) * math.sqrt(variance))
    return Gain(mean, each, mean - half, mean + half)


def half_over_photos(sets: Sequence[tuple[Array, Array]], level: float) -> float:
    """Half the width of the interval of the pooled gain, if photos of the same kind were drawn again.

    It says nothing about other seeds. The data sets are independent, so their variances add up, over K^2. Detectors on
    one data set are scored on the same samples of its photos, so their differences are paired.

    Args:
        sets: for each of K data sets, the scores of the cell and of the one that it is compared with: [seeds, samples].
    """
    from scipy.stats import norm

    variance = (
        sum(float(np.nanvar(own.mean(axis=0) - base.mean(axis=0), ddof=1)) for own, base in sets) / len(sets) ** 2
    )
    return float(norm.ppf((1 + level) / 2)) * math.sqrt(variance)


@dataclass(frozen=True)
class Verdict:
    """The outcome of a comparison.

    Args:
        answer: `yes`: ahead on every set, and the interval excludes zero. `no`: the interval lies below zero, or the
            90% interval lies within the margin on both sides of zero. Otherwise `open`.
        reason: the reason, in a few words.
        gain: the gain and its interval, at the level for the number of looks.
    """

    answer: Literal["yes", "no", "open"]
    reason: str
    gain: Gain


def judge(sets: Mapping[str, Scores], looks: int, margin: float) -> Verdict:
    """Whether a cell is ahead of another.

    Args:
        sets: the scores on each data set, by its name.
        looks: number of planned looks, one or two.
        margin: a difference that is surely smaller counts as none; in the unit of the scores.
    """
    gain = pooled_gain(list(sets.values()), LEVEL[looks])
    narrow = pooled_gain(list(sets.values()), MARGIN_LEVEL)
    behind = [name for name, each in zip(sets, gain.each, strict=True) if each <= 0]
    if math.isnan(gain.low):
        return Verdict("open", "no spread over seeds to judge by", gain)
    if gain.low > 0 and not behind:
        return Verdict("yes", "ahead on every set", gain)
    if gain.high < 0:
        return Verdict("no", "behind", gain)
    if -margin < narrow.low and narrow.high < margin:
        return Verdict("no", "no difference", gain)
    if gain.low > 0:
        return Verdict("open", f"ahead in the mean, not on {', '.join(behind)}", gain)
    return Verdict("open", "the interval holds zero", gain)
