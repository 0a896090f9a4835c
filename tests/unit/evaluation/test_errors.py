"""What is wrong in a photo: a case worked by hand, and the counts of the VOC rule."""

from __future__ import annotations

import numpy as np
import pytest

from grcn.evaluation.errors import count_errors, find_photo_errors, worst_first
from grcn.evaluation.voc import HIT, IGNORED, match_voc
from grcn.types import Detections, Target
from random_scenes import NAMES as RANDOM_NAMES
from random_scenes import random_scene

NAMES = ("cat", "dog")


def box(x: float, width: float = 10) -> list[float]:
    return [x, 0, x + width, 10]


TARGET = Target(
    [box(0), box(100), box(200), box(300), box(400)], [0, 0, 1, 1, 0], difficult=[False, False, False, False, True]
)


@pytest.mark.parametrize(
    ("found", "class_id", "kind"),
    [
        (box(0), 0, "right"),
        (box(0, 5), 0, "right"),  # IoU 0.5
        (box(0, 4.9), 0, "loose"),
        (box(0, 1), 0, "loose"),  # IoU 0.1
        (box(0, 0.9), 0, "false"),
        (box(0), 1, "false"),  # of another class
        (box(600), 0, "false"),
        (box(400), 0, "left out"),
        (box(400, 4), 0, "false"),  # loose, of one that does not count
    ],
)
def test_one_detection(found: list[float], class_id: int, kind: str) -> None:
    photo = find_photo_errors(TARGET, Detections([found], [0.9], [class_id], NAMES))
    counts = {"right": 0, "loose": 0, "false": 0}
    counts.update({kind: 1} if kind in counts else {})
    assert photo.counts == {**counts, "missed": 4 - counts["right"] - counts["loose"]}
    assert photo.loose.tolist() == [0 if kind == "loose" else -1]
    assert photo.missed[0] == (kind not in ("right", "loose"))


def test_an_object_is_right_or_loose_once() -> None:
    boxes = [box(0), box(1), box(4), box(104), box(105), box(200)]
    photo = find_photo_errors(TARGET, Detections(boxes, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0, 0, 0, 0, 0, 1], NAMES))
    assert photo.right.tolist() == [True, False, False, False, False, True]
    assert photo.loose.tolist() == [-1, -1, -1, 1, -1, -1]
    assert photo.false.tolist() == [False, True, True, False, True, False], "twice, loose of what is found, loose twice"
    assert photo.missed.tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("iou", [0.5, 0.7])
def test_right_and_found_are_those_of_the_voc_rule(iou: float) -> None:
    targets, detections = random_scene(2)
    photos = [find_photo_errors(*pair, iou=iou) for pair in zip(targets, detections, strict=True)]
    matches = match_voc(targets, detections, len(RANDOM_NAMES), iou=[iou])
    counts = count_errors(photos)
    assert counts["right"] == (matches.outcome == HIT).sum() > 10
    assert counts["right"] + counts["loose"] + counts["missed"] == matches.objects.sum()
    left_out = sum(len(p.found) - sum(p.counts[key] for key in ("right", "loose", "false")) for p in photos)
    assert left_out == (matches.outcome == IGNORED).sum() > 0


def test_the_worst_come_first() -> None:
    def photo(*scores: float, missed: int = 0) -> object:
        target = Target([box(50 * i) for i in range(missed)], [0] * missed)
        found = Detections([box(900)] * len(scores), scores, [1] * len(scores), NAMES)
        return find_photo_errors(target, found)

    photos = [photo(), photo(0.3), photo(0.9, 0.2, missed=1), photo(0.9), photo(missed=3), photo(missed=1)]
    assert worst_first(photos) == [2, 4, 3, 1, 5]  # type: ignore[arg-type]


def test_nothing_there_and_nothing_found() -> None:
    empty = Detections([], [], [], NAMES)
    assert set(find_photo_errors(Target([], []), empty).counts.values()) == {0}
    assert find_photo_errors(TARGET, empty).counts["missed"] == 4
    assert find_photo_errors(Target([], []), Detections([box(0)], [0.5], [0], NAMES)).false.all()
    assert count_errors([]) == {"right": 0, "loose": 0, "false": 0, "missed": 0}
    assert np.array(worst_first([])).size == 0
