"""Error shares equal those of tidecv, the code of the TIDE paper, on random cases.

Left out of the comparison, on purpose: crowds (tidecv counts ignored detections among the errors), classes without
objects (tidecv gives them AP 0, COCO none) and equal scores (tidecv ranks them by when it met them).
"""

import sys
from unittest.mock import MagicMock, patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grcn.evaluation.coco_matches import match_coco
from grcn.evaluation.gap import ERRORS, find_errors
from grcn.types import Detections, Target
from random_scenes import random_scene, with_distinct_scores

NAMES = ("a", "b", "c")
SHORT = {"Cls": "classification", "Loc": "localization", "Both": "both", "Dupe": "duplicate"}
SHORT |= {"Bkg": "background", "Miss": "missed"}


def tide_errors(targets, detections, iou):
    """AP, counts and costs by tidecv: {type: (count, cost)}, AP in 0..1."""
    # Its pictures, which are not drawn here, want OpenCV.
    sys.modules.setdefault("cv2", MagicMock())
    from tidecv import TIDE
    from tidecv.data import Data

    truth, found = Data("truth"), Data("found", max_dets=10_000)
    for image, (target, detected) in enumerate(zip(targets, detections, strict=True)):
        truth.add_image(image, str(image))
        for (x1, y1, x2, y2), label in zip(target.boxes.astype(float).tolist(), target.labels.tolist(), strict=True):
            truth.add_ground_truth(image, label, box=[x1, y1, x2 - x1, y2 - y1])
        for (x1, y1, x2, y2), class_id, score in zip(
            detected.boxes.astype(float).tolist(), detected.class_ids.tolist(), detected.scores.tolist(), strict=True
        ):
            found.add_detection(image, class_id, score, box=[x1, y1, x2 - x1, y2 - y1])
    run = TIDE().evaluate(truth, found, pos_threshold=iou, mode=TIDE.BOX)
    counts, costs = run.count_errors(), run.fix_main_errors()
    by_name = {SHORT[kind.short_name]: (counts[kind], costs[kind] / 100) for kind in counts}
    return run.ap / 100, by_name


@pytest.mark.filterwarnings("ignore")  # what its plotting imports warn of
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), iou=st.sampled_from([0.5, 0.7, 0.9]), whole_pixels=st.booleans())
def test_error_shares_equal_tidecv(seed, iou, whole_pixels):
    targets, detections = random_scene(seed, images=8, per_image=15, whole_pixels=whole_pixels)
    targets = [Target(t.boxes, t.labels) for t in targets]
    targets.append(Target([[0, 0, 10, 10], [20, 20, 40, 40], [60, 60, 80, 80]], [0, 1, 2]))
    detections = [
        Detections(d.boxes[d.class_ids < 3], d.scores[d.class_ids < 3], d.class_ids[d.class_ids < 3], NAMES)
        for d in detections
    ]
    detections.append(Detections([[0, 0, 10, 9]], [0.5], [0], NAMES))
    detections = with_distinct_scores(detections, seed)
    # COCO reads AP at the recalls of np.linspace, tidecv at k / 100: where they differ in the last bit, a recall of
    # 7 / 25 is reached for one and not for the other.
    with patch("grcn.evaluation.coco_matches.RECALLS", np.arange(101) / 100):
        ours = find_errors(targets, detections, match_coco(targets, detections, len(NAMES)), iou=iou)
    ap, theirs = tide_errors(targets, detections, iou)
    assert ours.ap == pytest.approx(ap, abs=1e-9)
    for e, error in enumerate(ERRORS):
        count, cost = theirs[error]
        assert int(ours.count[e].sum()) == count, error
        assert ours.cost[e] == pytest.approx(cost, abs=1e-9), error
