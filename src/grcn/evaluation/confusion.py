"""The confusion matrix of a detector, with background: which classes it mistakes for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from grcn.evaluation.voc import box_iou, check_aligned
from grcn.types import Array, Detections, Target


def confusion_matrix(
    targets: Sequence[Target],
    detections: Sequence[Detections],
    num_classes: int,
    *,
    score: float | Array = 0.5,
    iou: float = 0.5,
) -> Array:
    """Counts which class each object was taken for, at one score and one IoU.

    There is no standard definition. This is ours: in each image, detections of at least `score` are visited by
    descending score. Each takes the free object that it overlaps most, of any class, if the IoU is at least `iou`. An
    object that no detection takes is missed: it was taken for background. A detection that takes no object is false:
    background was taken for a class. Difficult and crowd objects are left out, and so are detections that take no
    object but overlap one of those by `iou`.

    Args:
        targets: the annotated objects of each image.
        detections: the detections in each image, in the same order.
        num_classes: C.
        score: lowest score of a detection that counts; [C] float32: one for each class.
        iou: lowest IoU with which a detection takes an object.

    Returns:
        [C + 1, C + 1] int64: rows are true classes, columns are classes found, and the last of each is background. The
        row of a class sums to its objects that count. The corner where both are background is 0.

    Raises:
        DataError: if images do not correspond or a class id is beyond C.
    """
    check_aligned(targets, detections, num_classes)
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    background = num_classes
    for target, every in zip(targets, detections, strict=True):
        found = every.above(score)
        ignored = target.difficult | target.crowd
        overlap = box_iou(found.boxes[:, None].astype(np.float64), target.boxes[None].astype(np.float64))  # [D, G]
        free = ~ignored
        for row, class_id in zip(overlap, found.class_ids, strict=True):
            candidates = np.flatnonzero(free & (row >= iou))
            if len(candidates):
                taken = candidates[row[candidates].argmax()]
                free[taken] = False
                matrix[target.labels[taken], class_id] += 1
            elif not (ignored & (row >= iou)).any():
                matrix[background, class_id] += 1
        np.add.at(matrix[:, background], target.labels[free], 1)
    return matrix


def confusion_json(matrix: Array, class_names: Sequence[str]) -> dict[str, Any]:
    """The confusion matrix for JSON, without zeros.

    Returns:
        `found_as`: for each class with objects, how many were found as which class; `missed`: how many were not found;
        `false`: for each class, how many detections are on no object.
    """
    background = len(class_names)

    def counts(row: Array) -> dict[str, int]:
        return {name: int(count) for name, count in zip(class_names, row, strict=False) if count}

    rows = {name: matrix[c] for c, name in enumerate(class_names) if matrix[c].any()}
    return {
        "found_as": {name: counts(row) for name, row in rows.items()},
        "missed": counts(matrix[:background, background]),
        "false": counts(matrix[background]),
    }
