"""Average precision by the PASCAL VOC rule, at any IoU, by area or by 11 points.

The rule (Everingham et al. 2010, "The PASCAL Visual Object Classes Challenge", section 4, and its development kit): The
detections of a class are visited by descending score. Each is compared with the object of its image and class that it
overlaps most. If the IoU is below the threshold, the detection is a false positive. If that object is `difficult`, the
detection is left out. Otherwise the first detection of an object is a true positive, and each later one (a duplicate)
is a false positive, even if another object nearby is still free. In this point VOC and COCO differ.

These are our choices where the rule leaves room or our conventions differ:
- IoU is that of half-open float boxes. The kit adds one pixel to every width and height because its corners are
  inclusive integers. Our reader has already moved the corners of VOC (`x1 = xmin - 1`), so that both give the same
  values on annotated boxes.
- A detection matches at IoU >= threshold, as in the kit (some Python ports use >).
- Detections with equal scores keep their order: images in the given order, then the order within an image.
- For equal overlaps, the object that comes first in its image counts.
- COCO's crowd objects are treated like difficult objects: detections of them are neither right nor false.
- A class without an object that counts has no AP (NaN) and is left out of means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from grcn.errors import ConfigError, DataError
from grcn.types import Array, Detections, Target

Mode = Literal["area", "11point"]
MODE_IN_WORDS: dict[str, str] = {
    "area": "area under the precision-recall curve, all points (VOC 2010 on)",
    "11point": "mean of the best precision at recall 0, 0.1, ..., 1 (VOC 2007)",
}
DIFFICULT_IN_WORDS = (
    "difficult and crowd objects are not counted, and detections of them are neither true nor false positives"
)

HIT, FALSE, IGNORED = 1, 0, -1
_PAIRS_AT_ONCE = 4_000_000  # detections x objects compared in one piece: bounds the memory at about 500 MB


def ap_key(iou: float) -> str:
    """The name of AP at an IoU, as in metrics.json.

    >>> ap_key(0.5), ap_key(0.7), ap_key(0.625)
    ('AP50', 'AP70', 'AP62.5')
    """
    return f"AP{iou * 100:g}"


@dataclass(frozen=True)
class Curve:
    """Precision and recall with descending score, without the detections that are left out.

    Args:
        recall: [n] float64, non-decreasing.
        precision: [n] float64, as measured (not made monotone).
        scores: [n] float32, non-increasing.
    """

    recall: Array
    precision: Array
    scores: Array

    @property
    def envelope(self) -> Array:
        """[n] the best precision at this or any higher recall: the monotone curve that AP integrates."""
        return np.maximum.accumulate(self.precision[::-1])[::-1]

    def ap(self, mode: Mode) -> float:
        """Average precision, 0..1; 0 if nothing was detected."""
        if mode == "area":
            return float(np.sum(np.diff(self.recall, prepend=0.0) * self.envelope))
        # k / 10 is the float nearest to the decimal, as found / objects is: a recall of 3/10 reaches 0.3, which
        # with np.arange(0, 1.1, 0.1) it does not.
        at = np.searchsorted(self.recall, np.arange(11) / 10, side="left")
        return float(np.append(self.envelope, 0.0)[at].mean())


@dataclass(frozen=True)
class VocMatches:
    """The outcome of each detection at each IoU. Both modes of AP and all curves follow from it.

    D detections are sorted by class, then by descending score.

    Args:
        iou: the T thresholds.
        objects: [C] objects that count (neither difficult nor crowd).
        offsets: [C + 1] class c's detections are `offsets[c]:offsets[c + 1]`.
        scores: [D] float32.
        outcome: [T, D] int8: HIT, FALSE or IGNORED.
    """

    iou: tuple[float, ...]
    objects: Array
    offsets: Array
    scores: Array
    outcome: Array

    def curve(self, iou: float, class_id: int | None = None) -> Curve:
        """The curve of a class that has objects, at one of the thresholds matched; None: of all classes together."""
        own = slice(None) if class_id is None else slice(self.offsets[class_id], self.offsets[class_id + 1])
        outcome, scores = self.outcome[self.iou.index(iou), own], self.scores[own]
        if class_id is None:
            order = np.argsort(-scores, kind="stable")
            outcome, scores = outcome[order], scores[order]
        counted = outcome != IGNORED
        hits = np.cumsum(outcome[counted] == HIT)
        return Curve(
            recall=hits / (self.objects.sum() if class_id is None else self.objects[class_id]),
            precision=hits / np.arange(1, len(hits) + 1),
            scores=scores[counted],
        )

    def scored(self, iou: float) -> tuple[Array, Array, Array]:
        """The score [n], correctness [n] bool and class id [n] of the detections that count at a threshold.

        They are sorted by class, then by descending score."""
        outcome = self.outcome[self.iou.index(iou)]
        counted = outcome != IGNORED
        class_ids = np.repeat(np.arange(len(self.objects)), np.diff(self.offsets))
        return self.scores[counted], outcome[counted] == HIT, class_ids[counted]

    def result(self, mode: Mode) -> VocResult:
        """AP of every class at every threshold.

        Raises:
            ConfigError: on an unknown mode.
        """
        if mode not in get_args(Mode):
            raise ConfigError(f"VOC AP mode {mode!r}: use one of {', '.join(get_args(Mode))}")
        ap = np.full((len(self.iou), len(self.objects)), np.nan)
        for t, iou in enumerate(self.iou):
            for class_id in np.flatnonzero(self.objects).tolist():
                ap[t, class_id] = self.curve(iou, class_id).ap(mode)
        return VocResult(mode, ap, self)


@dataclass(frozen=True)
class VocResult:
    """AP by the VOC rule. Printing it also shows the mode and the policy on difficult objects.

    Args:
        mode: "area" or "11point".
        ap: [T, C] float64 in 0..1, NaN for classes without objects.
        matches: the thresholds, objects per class and curves behind it.
    """

    mode: Mode
    ap: Array
    matches: VocMatches

    @property
    def mean_ap(self) -> Array:
        """[T] mean over the classes that have objects; NaN when none has."""
        counted = self.matches.objects > 0
        return self.ap[:, counted].mean(axis=1) if counted.any() else np.full(len(self.ap), np.nan)

    def __str__(self) -> str:
        figures = ", ".join(f"{ap_key(iou)} {ap:.4f}" for iou, ap in zip(self.matches.iou, self.mean_ap, strict=True))
        with_objects = int((self.matches.objects > 0).sum())
        return (
            f"VOC {figures} (mode {self.mode}: {MODE_IN_WORDS[self.mode]}; {DIFFICULT_IN_WORDS}; "
            f"mean over {with_objects} of {len(self.matches.objects)} classes, those with objects)"
        )


def voc_ap(
    targets: Sequence[Target],
    detections: Sequence[Detections],
    num_classes: int,
    *,
    iou: Sequence[float] = (0.5, 0.7),
    mode: Mode = "area",
) -> VocResult:
    """Average precision by the VOC rule (the top of this module has the rule and our conventions).

    Args:
        targets: the annotated objects of each image.
        detections: the detections in each image, in the same order.
        num_classes: C; labels and class ids are 0..C-1.
        iou: thresholds in (0, 1].
        mode: "area" (VOC 2010 on) or "11point" (VOC 2007).

    Raises:
        DataError: if images do not correspond or a class id is beyond C.
        ConfigError: on a threshold outside (0, 1] or an unknown mode.
    """
    return match_voc(targets, detections, num_classes, iou=iou).result(mode)


def match_voc(
    targets: Sequence[Target],
    detections: Sequence[Detections],
    num_classes: int,
    *,
    iou: Sequence[float] = (0.5, 0.7),
) -> VocMatches:
    """The matching behind `voc_ap`, done once for both modes and the curves; same arguments and errors."""
    check_aligned(targets, detections, num_classes)
    for threshold in iou:
        if not 0 < threshold <= 1:
            raise ConfigError(f"IoU threshold {threshold}: must be above 0 and at most 1")

    object_labels = _joined([t.labels for t in targets], np.int64)
    ignored = _joined([t.difficult | t.crowd for t in targets], bool)
    class_ids = _joined([d.class_ids for d in detections], np.int64)
    scores = _joined([d.scores for d in detections], np.float32)
    order = np.lexsort((-scores, class_ids))  # stable: equal scores stay in the order of images and of detections
    class_ids, scores = class_ids[order], scores[order]

    best, overlap = _best_objects(
        _joined([d.boxes for d in detections], np.float64, 4)[order],
        (_image_index(detections) * num_classes)[order] + class_ids,
        _joined([t.boxes for t in targets], np.float64, 4),
        _image_index(targets) * num_classes + object_labels,
    )
    best_ignored = np.append(ignored, False)[best]  # `best` is -1 where there is no object: the last, False
    outcome = np.full((len(iou), len(scores)), FALSE, dtype=np.int8)
    for row, threshold in zip(outcome, iou, strict=True):
        near = overlap >= threshold
        row[near & best_ignored] = IGNORED
        claims = np.flatnonzero(near & ~best_ignored)
        _, first = np.unique(best[claims], return_index=True)  # by descending score, so the first claim of each object
        row[claims[first]] = HIT
    return VocMatches(
        iou=tuple(float(threshold) for threshold in iou),
        objects=np.bincount(object_labels[~ignored], minlength=num_classes),
        offsets=np.searchsorted(class_ids, np.arange(num_classes + 1)),
        scores=scores,
        outcome=outcome,
    )


def check_aligned(targets: Sequence[Target], detections: Sequence[Detections], num_classes: int) -> None:
    """Raises DataError if targets and detections are not of the same images and classes."""
    if len(targets) != len(detections):
        raise DataError(
            f"detections of {len(detections)} images, but targets of {len(targets)}; give both for each image"
        )
    for image, (target, found) in enumerate(zip(targets, detections, strict=True)):
        for what, ids in (("targets", target.labels), ("detections", found.class_ids)):
            if len(ids) and ids.max() >= num_classes:
                raise DataError(f"{what}[{image}]: class id {ids.max()} is outside 0..{num_classes - 1}")


def box_areas(boxes: Array) -> Array:
    """[..., 4] xyxy -> [...]; 0 for boxes without area, inverted ones too."""
    size = np.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return np.asarray(size[..., 0] * size[..., 1])


def box_iou(a: Array, b: Array) -> Array:
    """Plain IoU of half-open boxes, broadcast: [..., 4] and [..., 4] float64 xyxy -> [...]; 0 if neither has area."""
    corners = np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], axis=-1)
    intersection = box_areas(corners)
    union = box_areas(a) + box_areas(b) - intersection
    iou: Array = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return iou


def _joined(parts: Sequence[Array], dtype: type, *trailing: int) -> Array:
    """All images' arrays as one, [sum of n, *trailing]; also for no images."""
    return np.concatenate([np.empty((0, *trailing), dtype=dtype), *parts]).astype(dtype)


def _image_index(parts: Sequence[Target] | Sequence[Detections]) -> Array:
    return np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def _best_objects(boxes: Array, keys: Array, object_boxes: Array, object_keys: Array) -> tuple[Array, Array]:
    """Finds the object of the same key (image and class) that each detection overlaps most.

    Args:
        boxes, keys: [D, 4] float64, [D] int64 of the detections.
        object_boxes, object_keys: [G, 4] float64, [G] int64 of the objects.

    Returns:
        [D] int64, the index of the object (the first on a tie; -1 if there is none of this key); [D] float64, the IoU.
    """
    by_key = np.argsort(object_keys, kind="stable")
    object_boxes, object_keys = object_boxes[by_key], object_keys[by_key]
    first = np.searchsorted(object_keys, keys, side="left")
    count = np.searchsorted(object_keys, keys, side="right") - first
    best = np.full(len(keys), -1)
    overlap = np.zeros(len(keys))
    # Only detections that have candidates, in pieces of a bounded number of pairs.
    todo = np.flatnonzero(count)
    piece = np.cumsum(count[todo]) // _PAIRS_AT_ONCE
    for rows in np.split(todo, np.flatnonzero(np.diff(piece)) + 1) if len(todo) else []:
        n = count[rows]
        start = np.cumsum(n) - n
        owner = np.repeat(np.arange(len(rows)), n)  # [P] of each pair: the detection
        candidate = np.arange(len(owner)) + np.repeat(first[rows] - start, n)  # [P] and the object
        iou = box_iou(boxes[rows[owner]], object_boxes[candidate])
        highest = np.maximum.reduceat(iou, start)
        winners = np.flatnonzero(iou == highest[owner])
        winners = winners[np.diff(owner[winners], prepend=-1) > 0]  # one per detection: the first on a tie
        best[rows] = by_key[candidate[winners]]
        overlap[rows] = highest
    return best, overlap
