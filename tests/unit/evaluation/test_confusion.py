import numpy as np
import pytest

from grcn.errors import DataError
from grcn.evaluation import confusion_matrix
from grcn.evaluation.confusion import confusion_json
from grcn.types import Detections, Target

NAMES = ("a", "b")


def box(x):
    return [x, 0, x + 10, 10]


def test_worked_by_hand():
    targets = [
        # found as a; found as b; missed; difficult and found; crowd and missed
        Target(
            [box(0), box(100), box(200), box(300), box(400)],
            [0, 0, 1, 1, 1],
            difficult=[False, False, False, True, False],
            crowd=[False, False, False, False, True],
        ),
        Target([box(0)], [1]),
    ]
    detections = [
        Detections(
            # object 0; object 0 again: false; object 1 as b; the difficult one: left out; nothing; below the score
            [box(0), box(1), box(100), box(300), box(600), box(200)],
            [0.9, 0.8, 0.9, 0.9, 0.5, 0.49],
            [0, 0, 1, 1, 0, 1],
            NAMES,
        ),
        Detections([box(1)], [0.9], [1], NAMES),
    ]
    assert confusion_matrix(targets, detections, 2).tolist() == [
        [1, 1, 0],  # a: one found as a, one as b
        [0, 1, 1],  # b: one found, one missed
        [2, 0, 0],  # background: the duplicate and the stray
    ]


def test_a_score_for_each_class_and_the_json():
    targets = [Target([box(0), box(100), box(200)], [0, 1, 1])]
    found = [Detections([box(0), box(100), box(200), box(300)], [0.6, 0.6, 0.9, 0.6], [0, 1, 0, 0], NAMES)]
    matrix = confusion_matrix(targets, found, 2, score=np.array([0.5, 0.7], dtype=np.float32))
    assert matrix.tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 0]]
    assert confusion_json(matrix, NAMES) == {
        "found_as": {"a": {"a": 1}, "b": {"a": 1}},
        "missed": {"b": 1},
        "false": {"a": 1},
    }


def test_the_free_object_of_highest_overlap_is_taken():
    # At 3, object 4 (IoU 9/11) is meant, not object 0 (7/13).
    targets = [Target([box(0), box(4)], [0, 1])]
    assert confusion_matrix(targets, [Detections([box(3)], [0.9], [1], NAMES)], 2).tolist()[:2] == [
        [0, 0, 1],
        [0, 1, 0],
    ]
    # Detection 1 takes object 4 (exact); detection 2 overlaps that most too, but takes object 0, the one free.
    detections = [Detections([box(4), box(3)], [0.9, 0.8], [1, 1], NAMES)]
    assert confusion_matrix(targets, detections, 2).tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert confusion_matrix(targets, detections, 2, iou=0.7).tolist() == [[0, 0, 1], [0, 1, 0], [0, 1, 0]]


def test_rows_sum_to_the_objects_that_count():
    rng = np.random.default_rng(0)

    def boxes(n):
        corner = rng.uniform(0, 50, (n, 2))
        return np.concatenate([corner, corner + rng.uniform(5, 30, (n, 2))], axis=1)

    targets = [Target(boxes(6), rng.integers(0, 2, 6), difficult=rng.random(6) < 0.3) for _ in range(9)]
    detections = [Detections(boxes(15), rng.random(15), rng.integers(0, 2, 15), NAMES) for _ in range(9)]
    matrix = confusion_matrix(targets, detections, 2, score=0.3, iou=0.3)
    objects = np.concatenate([t.labels[~t.difficult] for t in targets])
    assert matrix[:2].sum(axis=1).tolist() == np.bincount(objects).tolist()
    assert matrix[2, 2] == 0
    assert matrix[:2, :2].sum() > 5


def test_no_images_and_what_does_not_correspond():
    assert confusion_matrix([], [], 2).tolist() == [[0] * 3] * 3
    with pytest.raises(DataError, match="detections of 1 images, but targets of 0"):
        confusion_matrix([], [Detections([], [], [], NAMES)], 2)
