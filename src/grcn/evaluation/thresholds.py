"""Score thresholds: for each class the score with the best F1, and the score that reaches a wanted precision.

A detection is right or false by the VOC rule at one IoU (`grcn.evaluation.voc`), so these thresholds are points on the
curves that `grcn evaluate` draws. Leaving out detections below a threshold changes nothing for those above it, so one
curve covers all thresholds. Detections with equal scores are kept or left out together.

F1 = 2 * precision * recall / (precision + recall), with recall over the objects that count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from grcn.config import ScoreChoice
from grcn.evaluation.calibration import best_temperature
from grcn.evaluation.voc import Curve, VocMatches
from grcn.thresholds import Thresholds, check_precision
from grcn.types import Array

RULE_IN_WORDS = (
    "right: by the VOC rule at this IoU; best: the score of best F1, the highest of equals; precise: the lowest score "
    "from which on this share of a class's detections is right, so that the most objects are found"
)


class Point(NamedTuple):
    """Precision, recall and F1 of the detections with at least `score`.

    Args:
        score: lowest score that is kept; None if each class has its own, or nothing is kept.
        precision, recall, f1: 0..1; None if nothing is kept, or there is nothing to find.
    """

    score: float | None
    precision: float | None
    recall: float | None
    f1: float | None


class Chosen(NamedTuple):
    """The two thresholds of one class, or of all classes together; None if no score qualifies."""

    best: Point | None
    precise: Point | None


def choose(curve: Curve, objects: int, precision: float) -> Chosen:
    """The point with the best F1 (on a tie, the highest score), and the point with most recall at a precision.

    Args:
        curve: the curve of a class, or of all; objects: number of objects that count, at least one.
        precision: the wanted precision.
    """
    at = np.flatnonzero(np.diff(curve.scores, append=-np.inf) < 0)  # the last detection of each run of equal scores
    count = at + 1
    hits = np.rint(curve.precision[at] * count)
    f1 = 2 * hits / (count + objects)  # equals the F1 of precision and recall, but ties are exact

    def point(place: int) -> Point:
        values = curve.scores[at], curve.precision[at], curve.recall[at], f1
        return Point(*(float(value[place]) for value in values))

    precise = np.flatnonzero(curve.precision[at] >= precision)
    return Chosen(point(int(f1.argmax())) if f1.any() else None, point(int(precise[-1])) if len(precise) else None)


def choose_each(matches: VocMatches, precision: float) -> tuple[list[Chosen], Chosen]:
    """The thresholds of each class, and those of all classes together.

    Args:
        matches: matches at one IoU.
        precision: the wanted precision.

    Raises:
        ConfigError: on a precision outside (0, 1].
    """
    check_precision(precision)
    (iou,) = matches.iou
    nothing = Chosen(None, None)
    each = [
        choose(matches.curve(iou, class_id), objects, precision) if objects else nothing
        for class_id, objects in enumerate(matches.objects.tolist())
    ]
    objects = int(matches.objects.sum())
    return each, choose(matches.curve(iou), objects, precision) if objects else nothing


def points_at(matches: VocMatches, least: Array) -> tuple[list[Point], Point]:
    """Precision, recall and F1 at given thresholds, for each class and for all together.

    Args:
        matches: matches at one IoU.
        least: [C] float32, the lowest score that is kept of each class; infinite: no detection is kept.
    """
    scores, right, class_ids = matches.scored(matches.iou[0])
    kept = scores >= least[class_ids]
    count = np.bincount(class_ids[kept], minlength=len(least))
    hits = np.bincount(class_ids[kept & right], minlength=len(least))
    lowest = [float(score) if np.isfinite(score) else None for score in least]
    each = [_counted(*values) for values in zip(lowest, hits, count, matches.objects, strict=True)]
    return each, _counted(None, hits.sum(), count.sum(), matches.objects.sum())


def lowest_scores(section: Mapping[str, Any], choice: ScoreChoice) -> Array | None:
    """[C] float32, the thresholds chosen on these detections; None if none of them is right.

    As in `Thresholds.of`, a class without a threshold of its own gets that of all classes for `best`, and infinity for
    `precise`.

    Args:
        section: the result of `measure_thresholds`.
        choice: `best` or `precise`.
    """
    together = section["all"]["best"]
    if together is None:
        return None
    fallback = together["score"] if choice == "best" else float("inf")
    rows = section["per_class"].values()
    return np.array([row[choice]["score"] if row[choice] else fallback for row in rows], dtype=np.float32)


def _counted(score: float | None, hits: int, count: int, objects: int) -> Point:
    def share(part: int, whole: int) -> float | None:
        return float(part / whole) if whole else None

    return Point(score, share(hits, count), share(hits, objects), share(2 * hits, count + objects))


def choose_thresholds(
    matches: VocMatches, class_names: Sequence[str], *, data: str, split: str, precision: float = 0.9
) -> Thresholds | None:
    """Chooses the thresholds and the temperature of a detector, to store with its weights.

    Args:
        matches: matches at one IoU, of detections down to low scores.
        class_names: the C names.
        data, split: the data set and split that they are chosen on, for the record.
        precision: the wanted precision.

    Returns:
        None if no detection is right, so that nothing can be chosen, or if scores are not in 0..1.

    Raises:
        ConfigError: on a precision outside (0, 1].
    """
    each, together = choose_each(matches, precision)
    (iou,) = matches.iou
    temperature = best_temperature(*matches.scored(iou)[:2])
    if together.best is None or together.best.score is None or temperature is None:
        return None
    best, precise = (tuple(point and point.score for point in points) for points in zip(*each, strict=True))
    return Thresholds(tuple(class_names), best, precise, together.best.score, precision, temperature, iou, data, split)


def measure_thresholds(
    matches: VocMatches, class_names: Sequence[str], *, precision: float = 0.9, given: Thresholds | None = None
) -> dict[str, Any]:
    """The section `thresholds` of metrics.json.

    Args:
        matches: matches at one IoU.
        class_names: the C names.
        precision: the wanted precision.
        given: thresholds from the detector's file.

    Returns:
        JSON-ready values:

        - `iou`, the wanted `precision`, `rule` in words;
        - `per_class`: for each name `objects` (neither difficult nor crowd), and `best` and `precise`, each with
          `score`, `precision`, `recall` and `F1`, or None if no score qualifies;
        - `all`: the same for all classes together, with one score for all;
        - `of_file`, if the file has thresholds: its `data`, `split`, `iou` and `precision`, and the results of its
          thresholds here: `per_class`, and `all` with the threshold of each class.

    Raises:
        ConfigError: on a precision outside (0, 1].
    """
    each, together = choose_each(matches, precision)
    section = {
        "iou": matches.iou[0],
        "precision": precision,
        "rule": RULE_IN_WORDS,
        **_rows(matches, class_names, each, together),
    }
    if given:
        best, all_best = points_at(matches, given.of("best"))
        precise, all_precise = points_at(matches, given.of("precise"))
        section["of_file"] = {
            **{key: getattr(given, key) for key in ("data", "split", "iou", "precision")},
            **_rows(matches, class_names, [*map(Chosen, best, precise)], Chosen(all_best, all_precise)),
        }
    return section


def _rows(matches: VocMatches, class_names: Sequence[str], each: Sequence[Chosen], together: Chosen) -> dict[str, Any]:
    def row(objects: int, chosen: Chosen) -> dict[str, Any]:
        keys = ("score", "precision", "recall", "F1")
        best, precise = (point and dict(zip(keys, point, strict=True)) for point in chosen)
        return {"objects": int(objects), "best": best, "precise": precise}

    return {
        "per_class": {name: row(*values) for name, *values in zip(class_names, matches.objects, each, strict=True)},
        "all": row(matches.objects.sum(), together),
    }
