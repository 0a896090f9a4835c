"""Calibration of scores: how well a score tells the probability that a detection is right.

- A detection is right by the VOC rule (`grcn.evaluation.voc`), as in the rest of the evaluation: it overlaps an object
  of its class by at least the IoU and is the first to do so. Duplicates are false. Detections of difficult or crowd
  objects are left out. So scores are compared with precision, as in Kueppers et al. 2020 ("Multivariate Confidence
  Calibration for Object Detection").
- The calibration error is the expected calibration error of Guo et al. 2017 ("On Calibration of Modern Neural
  Networks"). Detections are sorted by score into bins of equal width. The error is the distance between the mean score
  of a bin and the share of its detections that is right, averaged over all detections. Kueppers et al. call it D-ECE.
  Missed objects do not count, nor do detections below the detector's own threshold.
- Temperature scaling is that of Guo et al. for one logit: sigmoid(logit(score) / temperature). One temperature is used
  for all classes, the one with the smallest negative log-likelihood. It need not have the smallest calibration error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from grcn.evaluation.voc import VocMatches
from grcn.thresholds import Thresholds, logits, scaled, sigmoid
from grcn.types import Array

BINS = 10
TEMPERATURES = (0.05, 20.0)
"""Limits of the temperature. If all detections are right, or all false, no temperature is the best."""
RULE_IN_WORDS = (
    "error: mean over the detections of |mean score - share that is right| of their bin, bins of equal width; "
    "right: by the VOC rule at this IoU; scaled: sigmoid(logit(score) / temperature), of the best likelihood"
)


class Reliability(NamedTuple):
    """Scores and precision in bins of equal width.

    Args:
        detections: [BINS] int64, the number of detections whose score is in the bin. Bin k goes from k / BINS up to,
            but not including, (k + 1) / BINS; score 1 is in the last bin.
        score: [BINS] float64, their mean score; right: [BINS], the share of them that is right. NaN for an empty bin.
    """

    detections: Array
    score: Array
    right: Array


def reliability(scores: Array, right: Array) -> Reliability:
    """The reliability diagram as numbers.

    Args:
        scores: [N] in 0..1.
        right: [N] bool.
    """
    place = np.minimum((np.asarray(scores, np.float64) * BINS).astype(np.int64), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = (np.bincount(place, values, minlength=BINS) / count for values in (scores, right))
        return Reliability(count, *means)


def calibration_error(scores: Array, right: Array) -> float:
    """The expected calibration error, 0..1; NaN without detections.

    Args:
        scores: [N] in 0..1.
        right: [N] bool.
    """
    bins = reliability(scores, right)
    distance = np.nan_to_num(np.abs(bins.right - bins.score))
    return float(bins.detections @ distance / len(scores)) if len(scores) else float("nan")


def best_temperature(scores: Array, right: Array) -> float | None:
    """The temperature of the smallest negative log-likelihood, within `TEMPERATURES`.

    Args:
        scores: [N]; right: [N] bool.

    Returns:
        None without detections, or if scores are not in 0..1 and so are not probabilities.
    """
    if not len(scores) or scores.min() < 0 or scores.max() > 1:
        return None
    values = logits(scores)

    def slope(inverse: float) -> float:
        """The slope of the loss over 1 / temperature, in which the loss is convex."""
        return float((sigmoid(inverse * values) - right) @ values)

    low, high = (1 / temperature for temperature in reversed(TEMPERATURES))
    for _ in range(50):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 2 / (low + high)


def measure_calibration(
    matches: VocMatches, class_names: Sequence[str], given: Thresholds | None = None
) -> dict[str, Any] | None:
    """The section `calibration` of metrics.json; None without detections, or if scores are not in 0..1.

    Args:
        matches: matches at one IoU.
        class_names: the C names.
        given: thresholds and temperature from the detector's file.

    Returns:
        JSON-ready values:

        - `iou`; `detections` that count; `rule` in words;
        - `error`: the error of the unscaled scores; `temperature`: the best one for these detections; `error_scaled`:
          the error with it;
        - `of_file`, if the file has a temperature: `data`, `split` and `temperature` of the file, and `error_scaled`
          with it;
        - `reliability`, `reliability_scaled`: for each bin `from`, `to`, `detections`, their mean `score` and the share
          that is `right`. Scaled means, here and below, with the temperature of the file if it has one;
        - `per_class`: for each name `detections`, `error`, `error_scaled`.
    """
    (iou,) = matches.iou
    scores, right, class_ids = matches.scored(iou)
    own = best_temperature(scores, right)
    if own is None:
        return None
    used = given.temperature if given else own
    after = scaled(scores, used)
    of_file = {}
    if given:
        about = {"data": given.data, "split": given.split, "temperature": used}
        of_file = {"of_file": {**about, "error_scaled": calibration_error(after, right)}}
    per_class = {}
    for class_id, name in enumerate(class_names):
        rows = class_ids == class_id
        per_class[name] = {
            "detections": int(rows.sum()),
            "error": calibration_error(scores[rows], right[rows]) if rows.any() else None,
            "error_scaled": calibration_error(after[rows], right[rows]) if rows.any() else None,
        }
    return {
        "iou": iou,
        "detections": len(scores),
        "rule": RULE_IN_WORDS,
        "error": calibration_error(scores, right),
        "temperature": own,
        "error_scaled": calibration_error(scaled(scores, own), right),
        **of_file,
        "reliability": _to_json(reliability(scores, right)),
        "reliability_scaled": _to_json(reliability(after, right)),
        "per_class": per_class,
    }


def _to_json(bins: Reliability) -> list[dict[str, Any]]:
    return [
        {
            "from": place / BINS,
            "to": (place + 1) / BINS,
            "detections": int(count),
            "score": float(score) if count else None,
            "right": float(right) if count else None,
        }
        for place, (count, score, right) in enumerate(zip(*bins, strict=True))
    ]
