"""Matches detections to objects by the COCO rule. From the matches follows AP for any resampling of the images.

`grcn.evaluation.coco` computes AP with a library that does not expose its matching. This module has its own matching,
for error shares, the IoU of true positives and bootstrap intervals. A test checks that both give the same AP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grcn.evaluation.coco import IOU, MAX_DETECTIONS
from grcn.evaluation.voc import FALSE, HIT, IGNORED, box_areas, box_iou, check_aligned
from grcn.types import Array, Detections, Target

RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class CocoMatches:
    """Detections matched to objects by the COCO rule.

    The D detections of all images are sorted by descending score. Equal scores stay in the order of images, then in
    their order within the image. The G objects of all images are in the order of images and annotations.

    Args:
        images: [D] int64, index of the image of each detection.
        class_ids: [D] int64.
        scores: [D] float32.
        outcome: [10, D] int8 at each IoU of COCO's ten: HIT, FALSE, or IGNORED (in a crowd; beyond 100 of a class).
        matched: [10, D] int64, index of the object hit, or -1.
        overlap: [10, D] float64, IoU with the object hit, or NaN.
        objects: [I, C] int64, objects per image and class, crowds not counted.
    """

    images: Array
    class_ids: Array
    scores: Array
    outcome: Array
    matched: Array
    overlap: Array
    objects: Array

    def ap(self, times: Array | None = None) -> Array:
        """[10, C] AP at each IoU; NaN for classes without objects.

        Args:
            times: [I] how often each image counts in a bootstrap sample; default: once.
        """
        times = np.ones(len(self.objects), np.int64) if times is None else times
        positives, weight = times @ self.objects, times[self.images]
        ap = np.full((len(IOU), self.objects.shape[1]), np.nan)
        for c in np.flatnonzero(positives).tolist():
            own = self.class_ids == c
            ap[:, c] = [average_precision(row, weight[own], int(positives[c])) for row in self.outcome[:, own]]
        return ap


def average_precision(outcome: Array, weight: Array, positives: int) -> float:
    """AP at 101 recalls of one class.

    Args:
        outcome: [n] HIT, FALSE or IGNORED, by descending score.
        weight: [n] how often each detection counts.
        positives: number of objects to find, at least one.
    """
    hits = np.cumsum(weight * (outcome == HIT))
    counted = np.cumsum(weight * (outcome != IGNORED))
    # Only hits raise precision, so only there can the envelope change.
    at = np.flatnonzero((outcome == HIT) & (weight > 0))
    precision = np.maximum.accumulate((hits[at] / counted[at])[::-1])[::-1]
    reached = np.searchsorted(hits[at] / positives, RECALLS, side="left")
    return float(np.append(precision, 0.0)[reached].mean())


def match_coco(targets: Sequence[Target], detections: Sequence[Detections], num_classes: int) -> CocoMatches:
    """Matches detections to objects by the COCO rule, at its ten IoUs.

    Args:
        targets: the annotated objects of each image.
        detections: the detections in each image, in the same order.
        num_classes: C; labels and class ids are 0..C-1.

    Raises:
        DataError: if images do not correspond or a class id is beyond C.
    """
    check_aligned(targets, detections, num_classes)
    images = np.repeat(np.arange(len(targets)), [len(found) for found in detections])
    class_ids = np.concatenate([np.empty(0, np.int64), *(found.class_ids for found in detections)])
    scores = np.concatenate([np.empty(0, np.float32), *(found.scores for found in detections)])
    first = np.cumsum([0, *(len(target) for target in targets)])
    each = [_match_image(*pair) for pair in zip(targets, detections, strict=True)]
    nothing = np.empty((len(IOU), 0))
    outcome = np.concatenate([nothing.astype(np.int8), *(outcome for outcome, _, _ in each)], axis=1)
    matched = np.concatenate(
        [nothing.astype(np.int64), *(np.where(m >= 0, m + f, -1) for f, (_, m, _) in zip(first, each, strict=False))],
        axis=1,
    )
    overlap = np.concatenate([nothing, *(overlap for _, _, overlap in each)], axis=1)
    objects = [np.bincount(target.labels[~target.crowd], minlength=num_classes) for target in targets]
    order = np.argsort(-scores, kind="stable")
    return CocoMatches(
        images=images[order],
        class_ids=class_ids[order],
        scores=scores[order],
        outcome=outcome[:, order],
        matched=matched[:, order],
        overlap=overlap[:, order],
        objects=np.array(objects, dtype=np.int64).reshape(len(targets), num_classes),
    )


def _match_image(target: Target, found: Detections) -> tuple[Array, Array, Array]:
    """outcome, matched (within the image) and overlap of one image's detections, each [10, N]."""
    shape, thresholds = (len(IOU), len(found)), np.array(IOU)
    outcome, matched = np.full(shape, FALSE, dtype=np.int8), np.full(shape, -1, dtype=np.int64)
    overlap = np.full(shape, np.nan)
    same = found.class_ids[:, None] == target.labels[None]  # [N, M]
    iou = np.where(same & ~target.crowd, pairwise_iou(found.boxes, target.boxes), -1.0)
    in_crowd = np.where(same & target.crowd, _covered(found.boxes, target.boxes), -1.0).max(axis=1, initial=-1.0)
    for class_id in np.unique(found.class_ids):
        outcome[:, np.flatnonzero(found.class_ids == class_id)[MAX_DETECTIONS[-1] :]] = IGNORED
    free = np.ones((len(IOU), len(target)), dtype=bool)
    rows = np.arange(len(IOU))
    for n in np.flatnonzero((outcome[0] != IGNORED) & (np.maximum(iou.max(axis=1, initial=-1), in_crowd) >= IOU[0])):
        if len(target):
            candidates = np.where(free, iou[n], -1.0)[:, ::-1]  # of equal overlaps the last object, as in COCO's code
            best = len(target) - 1 - candidates.argmax(axis=1)
            hit = iou[n, best] * free[rows, best] >= thresholds
            outcome[hit, n], matched[hit, n], overlap[hit, n] = HIT, best[hit], iou[n, best[hit]]
            free[rows[hit], best[hit]] = False
            outcome[~hit & (in_crowd[n] >= thresholds), n] = IGNORED
    return outcome, matched, overlap


def pairwise_iou(boxes: Array, others: Array) -> Array:
    """[N, 4] and [M, 4] xyxy -> [N, M] float64."""
    return box_iou(boxes[:, None].astype(np.float64), others[None].astype(np.float64))


def _covered(boxes: Array, crowds: Array) -> Array:
    """[N, 4], [M, 4] -> [N, M] float64: the share of each box that lies inside each crowd box."""
    a, b = boxes[:, None].astype(np.float64), crowds[None].astype(np.float64)
    inside = box_areas(
        np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], axis=-1)
    )
    whole = np.broadcast_to(box_areas(a), inside.shape)
    share: Array = np.divide(inside, whole, out=np.zeros_like(inside), where=whole > 0)
    return share
