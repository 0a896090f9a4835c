"""The errors in each photo at given score thresholds: missed objects, false detections and loose boxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grcn.evaluation.gap import LEAST_OVERLAP
from grcn.evaluation.voc import box_iou
from grcn.types import Array, Detections, Target


@dataclass(frozen=True)
class PhotoErrors:
    """The outcome for the G objects and D detections of one photo. Each object is right, loose, missed or left out.

    A detection is right by the VOC rule (`grcn.evaluation.voc`). For an object that no detection found, the detection
    with the highest score that overlaps it most, with an IoU from 0.1 up to the threshold and of the same class, is
    loose. Of the other detections, those of difficult and crowd objects are left out. The rest is false: they overlap
    nothing, an object of another class, or an object that is already found.

    Args:
        found: the detections above the thresholds.
        right: [D] bool.
        false: [D] bool.
        loose: [D] int64, the index of the object; -1: the detection is not loose.
        missed: [G] bool.
    """

    found: Detections
    right: Array
    false: Array
    loose: Array
    missed: Array

    @property
    def counts(self) -> dict[str, int]:
        """How many are `right`, `loose`, `false` and `missed`."""
        flags = {"right": self.right, "loose": self.loose >= 0, "false": self.false, "missed": self.missed}
        return {name: int(flag.sum()) for name, flag in flags.items()}


def find_photo_errors(target: Target, found: Detections, *, iou: float = 0.5) -> PhotoErrors:
    """Finds the errors in one photo.

    Args:
        target: the annotated objects.
        found: the detections above the thresholds.
        iou: lowest IoU at which a detection is right.
    """
    count = len(target)
    ignored = np.append(target.difficult | target.crowd, False)
    overlap = box_iou(found.boxes[:, None].astype(np.float64), target.boxes[None].astype(np.float64))
    overlap = np.where(found.class_ids[:, None] == target.labels[None], overlap, 0.0)  # [D, G]
    best = overlap.argmax(axis=1) if count else np.zeros(len(found), np.int64)
    most = overlap.max(axis=1, initial=0.0)
    near = most >= iou
    right = _first(near & ~ignored[best], best)
    hit = np.zeros(count + 1, bool)
    hit[best[right]] = True
    is_loose = _first(~near & (most >= LEAST_OVERLAP) & ~ignored[best] & ~hit[best], best)
    hit[best[is_loose]] = True
    return PhotoErrors(
        found=found,
        right=right,
        false=~right & ~is_loose & ~(near & ignored[best]),
        loose=np.where(is_loose, best, -1),
        missed=~hit[:count] & ~ignored[:count],
    )


def _first(claims: Array, objects: Array) -> Array:
    """[D] bool: for each object, the first of the detections that claim it, which has the highest score."""
    rows = np.flatnonzero(claims)
    winners = np.zeros(len(claims), bool)
    winners[rows[np.unique(objects[rows], return_index=True)[1]]] = True
    return winners


def count_errors(photos: Sequence[PhotoErrors]) -> dict[str, int]:
    """`PhotoErrors.counts` over all photos."""
    counts = Counter({"right": 0, "loose": 0, "false": 0, "missed": 0})
    for photo in photos:
        counts.update(photo.counts)
    return dict(counts)


def worst_first(errors: Sequence[PhotoErrors]) -> list[int]:
    """The indices of photos with errors, those with most errors first.

    On a tie, those whose false detections have the highest scores come first.
    """

    def badness(index: int) -> tuple[int, float]:
        photo = errors[index]
        counts = photo.counts
        return counts["loose"] + counts["false"] + counts["missed"], float(photo.found.scores[photo.false].sum())

    wrong = [index for index in range(len(errors)) if badness(index)[0]]
    return sorted(wrong, key=badness, reverse=True)
