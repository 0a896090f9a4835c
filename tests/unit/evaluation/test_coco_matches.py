"""AP by these matches equals pycocotools' in tests/golden/test_evaluation_against_others.py."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grcn.evaluation.coco import IOU, coco_ap
from grcn.evaluation.coco_matches import match_coco
from grcn.evaluation.voc import FALSE, HIT, IGNORED
from grcn.types import Detections, Target
from random_scenes import CLASSES, NAMES, random_scene, with_distinct_scores


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_an_image_that_counts_twice_is_an_image_given_twice(seed):
    targets, detections = random_scene(seed, images=6, per_image=12)
    detections = with_distinct_scores(detections, seed)  # equal ones would be ranked by when they came
    times = np.random.default_rng(seed).integers(0, 4, len(targets))
    again = np.repeat(np.arange(len(targets)), times)
    drawn = match_coco([targets[i] for i in again], [detections[i] for i in again], CLASSES).ap()
    np.testing.assert_allclose(match_coco(targets, detections, CLASSES).ap(times), drawn, atol=1e-12)


def test_more_than_100_of_a_class_in_an_image_are_left_out():
    boxes = [[float(k), 0, k + 1.0, 1] for k in range(102)]
    target = Target(boxes, [0] * 102)
    found = Detections(boxes, np.linspace(1, 0.5, 102), [0] * 102, NAMES)
    matches = match_coco([target], [found], 3)
    assert (matches.outcome[0, :100] == HIT).all()
    assert (matches.outcome[:, 100:] == IGNORED).all()
    assert matches.ap()[0, 0] == coco_ap([target], [found], 3).at(0.5)[0] == pytest.approx(99 / 101)


def test_each_detection_knows_its_object_and_overlap():
    targets = [Target([], []), Target([[0, 0, 10, 10], [20, 0, 30, 10]], [0, 1])]
    nothing = Detections([], [], [], NAMES)
    found = Detections([[20, 0, 28, 10], [0, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.8, 0.7], [1, 0, 0], NAMES)
    matches = match_coco(targets, [nothing, found], 3)
    assert matches.images.tolist() == [1, 1, 1]
    assert matches.outcome[IOU.index(0.8)].tolist() == [HIT, HIT, FALSE]
    assert matches.matched[IOU.index(0.8)].tolist() == [1, 0, -1]
    assert matches.matched[IOU.index(0.85)].tolist() == [-1, 0, -1]
    np.testing.assert_allclose(matches.overlap[0], [0.8, 1.0, np.nan])
    assert matches.objects.tolist() == [[0, 0, 0], [1, 1, 0]]


def test_no_images():
    matches = match_coco([], [], 2)
    assert matches.outcome.shape == (10, 0)
    assert np.isnan(matches.ap()).all()
