"""The AP that a detector loses to classification and to localization: oracles, error shares and intervals.

Definitions, with a worked example, are in docs/explanations/gap.md. In short:

- An oracle corrects one task of every detection and leaves the other as it is. The AP that this gains is what the task
  loses.
- Error shares are those of TIDE (Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors").
  Each false positive and each missed object has one cause. The cost of a cause is the AP gained by correcting it alone.
- Intervals come from a bootstrap over images. Detectors are compared on the same bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from grcn.evaluation.coco import IOU, CocoResult, coco_ap, nan_mean
from grcn.evaluation.coco_matches import CocoMatches, average_precision, match_coco, pairwise_iou
from grcn.evaluation.voc import FALSE, HIT
from grcn.types import Array, Detections, Target

Oracle = Literal["none", "localization", "classification", "both"]
ORACLES: tuple[Oracle, ...] = get_args(Oracle)
ErrorType = Literal["classification", "localization", "both", "duplicate", "background", "missed"]
ERRORS: tuple[ErrorType, ...] = get_args(ErrorType)
KEYS = ("AP", "AP50", "AP70", "AP75")
LEAST_OVERLAP = 0.1
"""IoU from which a detection belongs to an object, for the oracles and as TIDE's limit of background."""


def apply_oracle(detections: Sequence[Detections], targets: Sequence[Target], oracle: Oracle) -> list[Detections]:
    """Returns the detections as they would be if one task, or both, made no mistake.

    Each detection gets the box (localization), the class (classification) or both from the object that it overlaps
    most, if the IoU is at least 0.1. Its score and order do not change. For equal overlaps, the first object counts.
    Crowds do not count as objects. Nothing is removed: several detections of one object become duplicates.

    Args:
        detections: the detections in each image.
        targets: the annotated objects of each image, in the same order.
        oracle: the task that is corrected; `none` returns the detections unchanged.
    """
    if oracle == "none":
        return list(detections)
    return [_mend_image(*pair, oracle) for pair in zip(detections, targets, strict=True)]


def _mend_image(found: Detections, target: Target, oracle: Oracle) -> Detections:
    objects, labels = target.boxes[~target.crowd], target.labels[~target.crowd]
    if not len(objects) or not len(found):
        return found
    iou = pairwise_iou(found.boxes, objects)
    best = iou.argmax(axis=1)
    near = iou.max(axis=1) >= LEAST_OVERLAP
    boxes, class_ids = found.boxes, found.class_ids
    if oracle != "classification":
        boxes = np.where(near[:, None], objects[best], boxes)
    if oracle != "localization":
        class_ids = np.where(near, labels[best], class_ids)
    return Detections(boxes, found.scores, class_ids, found.class_names)


@dataclass(frozen=True)
class Errors:
    """Why detections are false and objects are missed, by TIDE's definitions.

    Args:
        iou: lowest IoU at which a detection is right.
        ap: AP at that IoU, mean over the classes with objects.
        count: [6, C] int64, the number of errors of each type in `ERRORS`, by the class of the detection (for missed
            objects, the class of the object).
        cost: [6] AP gained by correcting only this type; as in TIDE's code, 0 if AP would fall.
    """

    iou: float
    ap: float
    count: Array
    cost: Array


def find_errors(
    targets: Sequence[Target],
    detections: Sequence[Detections],
    matches: CocoMatches,
    *,
    iou: float = 0.5,
) -> Errors:
    """Error shares by TIDE's definitions.

    A false positive has the first type that fits. IoU is with the objects of its image, without crowds:

    - localization: the best IoU with an object of its class is from 0.1 to `iou`;
    - classification: the best IoU with an object of another class is at least `iou`;
    - duplicate: its IoU with an object of its class is at least `iou`, and a detection of higher score hit that object;
    - background: no IoU is above 0.1;
    - both: the rest, with a wrong class and a wrong place.

    To get its cost, each type is corrected alone. For localization and classification, if nothing hit an object, the
    detection of highest score becomes a hit and the others are removed. Duplicate, background and both are removed. An
    object is missed if nothing hit it and no detection would be corrected to hit it; to correct this, missed objects
    are not counted.

    Detections that COCO's rule ignores (in crowds) are not errors here; tidecv lists them.

    Args:
        targets, detections: as given to `match_coco`.
        matches: the result of `match_coco`.
        iou: one of COCO's ten IoUs.
    """
    at, num_classes = IOU.index(iou), matches.objects.shape[1]
    place = np.argsort(matches.images, kind="stable")  # rows of `matches` by image, each image's in its own order
    outcome, matched, scores = matches.outcome[at][place], matches.matched[at][place], matches.scores[place]
    class_ids, positives = matches.class_ids[place], matches.objects.sum(axis=0)
    kind, mended_to, missed = _sort_out(targets, detections, outcome, matched, class_ids, num_classes, iou)
    hit, counted = outcome == HIT, (outcome == HIT) | (outcome == FALSE)
    ap = _mean_ap(scores, counted, hit, class_ids, positives, positives)
    count, cost = np.zeros((len(ERRORS), num_classes), np.int64), np.zeros(len(ERRORS))
    for e, error in enumerate(ERRORS):
        if error == "missed":
            count[e] = missed
            after = _mean_ap(scores, counted, hit, class_ids, positives - missed, positives)
        else:
            own = kind == e
            count[e] = np.bincount(class_ids[own], minlength=num_classes)
            mended = own & (mended_to >= 0)
            classes = np.where(mended, mended_to, class_ids)
            after = _mean_ap(scores, counted & (~own | mended), hit | mended, classes, positives, positives)
        cost[e] = max(0.0, after - ap)  # also 0 if there is no AP (NaN)
    return Errors(iou, ap, count, cost)


def _sort_out(
    targets: Sequence[Target],
    detections: Sequence[Detections],
    outcome: Array,
    matched: Array,
    class_ids: Array,
    num_classes: int,
    iou: float,
) -> tuple[Array, Array, Array]:
    """The error of each detection, and the missed objects of each class.

    Args:
        outcome, matched, class_ids: [N] of all detections, image by image.

    Returns:
        kind: [N] indices of ERRORS, or -1 for no error.
        mended_to: [N] the class of the object that a mended detection hits; -1: it is removed.
        missed: [C] objects.
    """
    offsets = np.cumsum([0, *(len(found) for found in detections)])
    first_object = np.cumsum([0, *(len(target) for target in targets)])
    kind, mended_to = np.full(len(outcome), -1), np.full(len(outcome), -1)
    missed = np.zeros(num_classes, np.int64)
    for image, target in enumerate(targets):
        rows = np.arange(offsets[image], offsets[image + 1])
        used = np.zeros(len(target), bool)
        used[matched[rows][outcome[rows] == HIT] - first_object[image]] = True
        false = rows[outcome[rows] == FALSE]
        boxes = detections[image].boxes[false - offsets[image]]
        kinds, objects = _classify(boxes, class_ids[false], target, used, iou)
        kind[false] = kinds
        claims = np.flatnonzero(objects >= 0)
        claims = claims[~used[objects[claims]]]
        claimed, first = np.unique(objects[claims], return_index=True)  # detections are by descending score
        mended_to[false[claims[first]]] = target.labels[claimed]
        left = ~used & ~target.crowd
        left[claimed] = False
        missed += np.bincount(target.labels[left], minlength=num_classes)
    return kind, mended_to, missed


def _mean_ap(scores: Array, keep: Array, hit: Array, classes: Array, objects: Array, positives: Array) -> float:
    """AP of the detections in `keep`, as the mean over classes with `positives`; `objects` of them are to be found."""
    order = np.argsort(-scores[keep], kind="stable")
    hits, ids = np.where(hit[keep][order], HIT, FALSE), classes[keep][order]
    aps = []
    for c in np.flatnonzero(positives).tolist():
        own = hits[ids == c]
        if objects[c]:
            aps.append(average_precision(own, np.ones(len(own), np.int64), int(objects[c])))
        elif len(own):  # all its objects were missed: only false positives are left
            aps.append(0.0)
    return float(np.mean(aps)) if aps else float("nan")


def _classify(boxes: Array, class_ids: Array, target: Target, used: Array, iou: float) -> tuple[Array, Array]:
    """The type of each false positive of an image, [n], and the object that mending it would hit, -1 for none, [n]."""
    kinds = np.full(len(boxes), ERRORS.index("background"))
    objects = np.full(len(boxes), -1)
    if not len(boxes) or target.crowd.all():
        return kinds, objects
    overlap = np.where(target.crowd, -1.0, pairwise_iou(boxes, target.boxes))  # [n, M]
    same = class_ids[:, None] == target.labels[None]
    of_class, of_other = np.where(same, overlap, 0.0), np.where(same, 0.0, overlap)
    localization = (of_class.max(axis=1) >= LEAST_OVERLAP) & (of_class.max(axis=1) <= iou)
    classification = ~localization & (of_other.max(axis=1) >= iou)
    objects[localization] = of_class[localization].argmax(axis=1)
    objects[classification] = of_other[classification].argmax(axis=1)
    duplicate = (np.where(used, of_class, 0.0) >= iou).any(axis=1)
    background = overlap.max(axis=1) <= LEAST_OVERLAP
    kinds = np.select(
        [localization, classification, duplicate, background],
        [ERRORS.index(name) for name in ("localization", "classification", "duplicate", "background")],
        ERRORS.index("both"),
    )
    return kinds, objects


@dataclass(frozen=True)
class Gap:
    """The AP that a detector loses to each task, on one data set.

    Args:
        class_names: the C names.
        results: AP by the COCO rule under each oracle.
        matches: the matching under each oracle.
        errors: TIDE's error shares.
        areas: [G] areas of the objects, which decide their size class.
        labels: [G] class ids of the objects, crowds included.
    """

    class_names: tuple[str, ...]
    results: dict[Oracle, CocoResult]
    matches: dict[Oracle, CocoMatches]
    errors: Errors
    areas: Array
    labels: Array

    def true_positives(self, iou: float = 0.5) -> tuple[Array, Array, Array]:
        """Of the detections that hit an object at `iou`: score [n], IoU [n], index of the object [n]."""
        found, at = self.matches["none"], IOU.index(iou)
        hit = found.outcome[at] == HIT
        return found.scores[hit], found.overlap[at, hit], found.matched[at, hit]

    def figures(self, times: Array | None = None) -> dict[str, float]:
        """AP under each oracle and the AP lost to each task, as `AP70 localization` and `AP70 loses localization`.

        Args:
            times: [I] how often each image counts; default: once.
        """
        ap = {oracle: matches.ap(times) for oracle, matches in self.matches.items()}
        rows = {"AP": range(len(IOU)), **{key: [IOU.index(int(key[2:]) / 100)] for key in KEYS[1:]}}
        values = {(key, o): nan_mean(ap[o][rows[key]]) for key in KEYS for o in ORACLES}
        return {
            **{key: values[key, "none"] for key in KEYS},
            **{f"{key} {o}": values[key, o] for key in KEYS for o in ORACLES[1:]},
            **{f"{key} loses {o}": values[key, o] - values[key, "none"] for key in KEYS for o in ORACLES[1:]},
        }


def measure_gap(
    targets: Sequence[Target],
    detections: Sequence[Detections],
    class_names: Sequence[str],
    *,
    iou: float = 0.5,
) -> Gap:
    """Measures the AP that a detector loses to classification and to localization.

    Args:
        targets: the annotated objects of each image.
        detections: the detections in each image, in the same order.
        class_names: the C names.
        iou: IoU for the error shares, one of COCO's ten.

    Raises:
        DataError: if images do not correspond or a class id is beyond the names.
    """
    names = tuple(class_names)
    mended = {oracle: apply_oracle(detections, targets, oracle) for oracle in ORACLES}
    matches = {oracle: match_coco(targets, found, len(names)) for oracle, found in mended.items()}
    return Gap(
        class_names=names,
        results={oracle: coco_ap(targets, found, len(names)) for oracle, found in mended.items()},
        matches=matches,
        errors=find_errors(targets, detections, matches["none"], iou=iou),
        areas=np.concatenate([np.empty(0, np.float32), *(target.areas for target in targets)]),
        labels=np.concatenate([np.empty(0, np.int64), *(target.labels for target in targets)]),
    )


@dataclass(frozen=True)
class Intervals:
    """Bootstrap intervals over images, at 95%.

    Args:
        resamples: number of bootstrap samples.
        of: for each detector and value: low and high end.
        difference: for each detector and value: low and high end of its difference to the first detector.
    """

    resamples: int
    of: list[dict[str, tuple[float, float]]]
    difference: list[dict[str, tuple[float, float]]]


def bootstrap(
    gaps: Sequence[Gap],
    *,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Intervals:
    """Estimates how much the results of detectors, and their differences, would vary with other images of this kind.

    Each bootstrap sample draws as many images as there are, with replacement, and is the same for every detector (Efron
    1979). The interval is from the 2.5th to the 97.5th percentile. It does not tell how much results vary with the
    seed of the training.

    Args:
        gaps: the gaps of the detectors, on the same images.
        resamples: number of bootstrap samples.
        seed: random seed for the bootstrap.
        progress: called after each sample with the number of samples done and of all samples.
    """
    drawn: list[list[dict[str, float]]] = [[] for _ in gaps]
    for done, times in enumerate(_samples(gaps[0], resamples, seed), start=1):
        for figures, gap in zip(drawn, gaps, strict=True):
            figures.append(gap.figures(times))
        if progress is not None:
            progress(done, resamples)

    def interval(values: Sequence[float]) -> tuple[float, float]:
        low, high = np.nanpercentile(values, [2.5, 97.5]) if np.isfinite(values).any() else (np.nan, np.nan)
        return float(low), float(high)

    keys = list(drawn[0][0])
    return Intervals(
        resamples,
        [{key: interval([f[key] for f in figures]) for key in keys} for figures in drawn],
        [
            {key: interval([f[key] - g[key] for f, g in zip(figures, drawn[0], strict=True)]) for key in keys}
            for figures in drawn
        ],
    )


def _samples(gap: Gap, resamples: int, seed: int) -> Iterator[Array]:
    """Bootstrap samples of the images: [I] how often each counts, the same for every detector on these images."""
    images = len(gap.matches["none"].objects)
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = generator.integers(0, images, images) if images else np.empty(0, np.int64)
        yield np.bincount(drawn, minlength=images)


def resampled_ap(gap: Gap, *, resamples: int = 200, seed: int = 0) -> list[float]:
    """AP on each of `bootstrap`'s samples of the images.

    The samples are the same for every detector on these images. So the differences of two lists say how much the
    difference of two detectors would vary with other images.
    """
    return [nan_mean(gap.matches["none"].ap(times)) for times in _samples(gap, resamples, seed)]


def rank_correlation(scores: Array, overlap: Array) -> float | None:
    """Spearman's rank correlation between the scores and the IoUs of true positives; None if it is undefined."""
    if len(np.unique(scores)) < 2 or len(np.unique(overlap)) < 2:
        return None
    return float(np.corrcoef(_ranks(scores), _ranks(overlap))[0, 1])


def _ranks(values: Array) -> Array:
    """The rank of each value, from 1; equal values share the mean of their ranks."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[where]


def to_json(gap: Gap) -> dict[str, Any]:
    """A `Gap` for JSON. AP is in 0..1, and null if there is nothing to average.

    - `AP`, `AP50`, `AP70`, `AP75`: for each oracle (`none`: the detector itself); `loses`: the AP that it gains;
    - `AP_by_iou`: for each oracle, the mean at each of COCO's ten IoUs;
    - `per_class`, `by_size`: AP for each oracle, and for the true positives at IoU 0.5 their number, mean and median
      IoU, and the rank correlation between their scores and IoUs;
    - `true_positives`: the same for all true positives;
    - `errors`: for each of TIDE's types `count`, `share` (of all errors) and `cost` (AP at `errors.iou`).
    """
    figures = gap.figures()
    scores, overlap, objects = gap.true_positives()
    sizes = np.digitize(gap.areas, [32.0**2, 96.0**2])
    total = max(int(gap.errors.count.sum()), 1)
    return {
        **{key: {"none": _json(figures[key])} | {o: _json(figures[f"{key} {o}"]) for o in ORACLES[1:]} for key in KEYS},
        "loses": {key: {o: _json(figures[f"{key} loses {o}"]) for o in ORACLES[1:]} for key in KEYS},
        "AP_by_iou": {o: {f"{t:.2f}": _json(nan_mean(result.at(t))) for t in IOU} for o, result in gap.results.items()},
        "true_positives": _true_positives(scores, overlap),
        "per_class": {
            name: {
                **{o: _json(nan_mean(result.ap[:, c])) for o, result in gap.results.items()},
                "true_positives": _true_positives(*(v[gap.labels[objects] == c] for v in (scores, overlap))),
                "errors": {error: int(gap.errors.count[e, c]) for e, error in enumerate(ERRORS)},
            }
            for c, name in enumerate(gap.class_names)
        },
        "by_size": {
            size: {
                **{o: _json(nan_mean(result.ap_by_size[s])) for o, result in gap.results.items()},
                "true_positives": _true_positives(*(v[sizes[objects] == s] for v in (scores, overlap))),
            }
            for s, size in enumerate(("small", "medium", "large"))
        },
        "errors": {
            "iou": gap.errors.iou,
            "AP": _json(gap.errors.ap),
            **{
                error: {
                    "count": int(gap.errors.count[e].sum()),
                    "share": float(gap.errors.count[e].sum() / total),
                    "cost": float(gap.errors.cost[e]),
                }
                for e, error in enumerate(ERRORS)
            },
        },
    }


def _true_positives(scores: Array, overlap: Array) -> dict[str, Any]:
    return {
        "count": len(scores),
        "mean_iou": float(overlap.mean()) if len(overlap) else None,
        "median_iou": float(np.median(overlap)) if len(overlap) else None,
        "rank_correlation": rank_correlation(scores, overlap),
    }


def _json(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
