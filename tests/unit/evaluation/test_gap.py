"""Error shares equal tidecv's in tests/golden/test_gap_against_tidecv.py; here are cases worked by hand."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grcn.evaluation.coco import coco_ap
from grcn.evaluation.coco_matches import match_coco
from grcn.evaluation.gap import (
    ERRORS,
    ORACLES,
    apply_oracle,
    bootstrap,
    find_errors,
    measure_gap,
    rank_correlation,
    resampled_ap,
    to_json,
)
from grcn.types import Detections, Target
from random_scenes import CLASSES, NAMES, random_scene

AB = ("a", "b")


def errors_of(targets, detections, iou=0.5):
    found = find_errors(targets, detections, match_coco(targets, detections, 2), iou=iou)
    return {e: int(found.count[k].sum()) for k, e in enumerate(ERRORS)}, dict(zip(ERRORS, found.cost, strict=True))


# --- oracles ----------------------------------------------------------------------------------------------------------

# Two objects 10 wide, of classes 0 and 1, at x = 0 and x = 20.
OBJECTS = Target([[0, 0, 10, 10], [20, 0, 30, 10]], [0, 1])


def test_each_oracle_mends_its_own_task():
    # 4 of 10 px beside the first object, as class 1: IoU 6 / 14.
    found = Detections([[4, 0, 14, 10]], [0.9], [1], AB)
    place = apply_oracle([found], [OBJECTS], "localization")[0]
    assert (place.boxes.tolist(), place.class_ids.tolist()) == ([[0, 0, 10, 10]], [1])
    kind = apply_oracle([found], [OBJECTS], "classification")[0]
    assert (kind.boxes.tolist(), kind.class_ids.tolist()) == ([[4, 0, 14, 10]], [0])
    both = apply_oracle([found], [OBJECTS], "both")[0]
    assert (both.boxes.tolist(), both.class_ids.tolist()) == ([[0, 0, 10, 10]], [0])
    assert both.scores.tolist() == found.scores.tolist()
    assert apply_oracle([found], [OBJECTS], "none")[0] is found


@pytest.mark.parametrize(("x", "mended"), [(8.0, True), (8.5, False)])
def test_an_oracle_leaves_what_overlaps_nothing_by_a_tenth(x, mended):
    # IoU of boxes 10 wide at distance x: (10 - x) / (10 + x): 2 / 18 above a tenth, 1.5 / 18.5 below.
    found = Detections([[-x, 0, 10 - x, 10]], [0.9], [1], AB)
    assert (apply_oracle([found], [OBJECTS], "both")[0].class_ids[0] == 0) == mended


def test_an_oracle_takes_the_first_of_equal_overlaps():
    # 5 px of each object, 15 wide: both at IoU 5 / 20.
    found = Detections([[5, 0, 25, 10]], [0.9], [1], AB)
    assert apply_oracle([found], [OBJECTS], "classification")[0].class_ids.tolist() == [0]


def test_an_oracle_passes_over_crowds():
    target = Target([[0, 0, 10, 10], [4, 0, 14, 10]], [0, 1], crowd=[True, False])
    found = Detections([[0, 0, 10, 10]], [0.9], [0], AB)
    assert apply_oracle([found], [target], "both")[0].class_ids.tolist() == [1]
    alone = Target([[0, 0, 10, 10]], [1], crowd=[True])
    assert apply_oracle([found], [alone], "both")[0].class_ids.tolist() == [0]


def test_detections_that_come_to_lie_on_one_object_are_its_duplicates():
    # Of one object, two detections, both too loose for IoU 0.75: 0.6 and 0.5 of it. Mended, the first is a hit and the
    # second false after it: AP 1, as recall 1 is reached at precision 1. The order of scores decides, not the IoU.
    target = Target([[0, 0, 10, 10]], [0])
    found = Detections([[0, 0, 6, 10], [0, 0, 5, 10]], [0.8, 0.9], [0, 0], AB)
    gap = measure_gap([target], [found], AB)
    figures = gap.figures()
    assert (figures["AP75"], figures["AP75 localization"]) == (0, 1)
    assert gap.matches["localization"].outcome[0].tolist() == [1, 0]


def test_the_worked_example_of_the_docs():
    # docs/explanations/gap.md: three objects of class a; a tight box, a loose one (IoU 0.6), a tight one taken for b.
    target = Target([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]], [0, 0, 0, 1])
    found = Detections(
        [[0, 0, 10, 10], [20, 0, 26, 10], [40, 0, 50, 10], [60, 0, 70, 10]], [0.9, 0.8, 0.7, 0.6], [0, 0, 1, 1], AB
    )
    gap = measure_gap([target], [found], AB)
    figures = gap.figures()
    # Class a at 0.50 finds two of three (recalls 0 to 0.66: 67 of 101), at 0.75 one (34 of 101). Class b has one object
    # and the wrong detection before it: precision 1/2 throughout.
    assert figures["AP50"] == pytest.approx((67 / 101 + 0.5) / 2)
    assert figures["AP75"] == pytest.approx((34 / 101 + 0.5) / 2)
    assert figures["AP75 localization"] == pytest.approx((67 / 101 + 0.5) / 2)
    # The class mended, a is found whole but for the loose box, which at 0.75 is a false one before the last hit: 1 to
    # recall 1/3, then 2/3; b is found.
    assert figures["AP75 classification"] == pytest.approx(((34 + 33 * 2 / 3) / 101 + 1) / 2)
    assert figures["AP75 both"] == pytest.approx(1)
    assert figures["AP75 loses both"] == pytest.approx(1 - figures["AP75"])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_figures_are_the_librarys(seed):
    targets, detections = random_scene(seed, images=5, per_image=10)
    gap = measure_gap(targets, detections, NAMES)
    for oracle in ORACLES:
        summary = coco_ap(targets, apply_oracle(detections, targets, oracle), CLASSES).summary()
        for key in ("AP", "AP50", "AP70", "AP75"):
            ours = gap.figures()[key if oracle == "none" else f"{key} {oracle}"]
            assert ours == pytest.approx(summary[key], abs=1e-9, nan_ok=True)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "class_id", "error"),
    [
        ([4, 0, 14, 10], 0, "localization"),  # IoU 6 / 14 with its own class
        ([1, 0, 11, 10], 1, "classification"),  # IoU 9 / 11 with the other
        ([4, 0, 14, 10], 1, "both"),  # 6 / 14 with the other
        ([40, 0, 50, 10], 0, "background"),
    ],
)
def test_one_error_of_each_type(box, class_id, error):
    counts, costs = errors_of([OBJECTS], [Detections([box], [0.9], [class_id], AB)])
    assert counts[error] == 1
    # An object that mending would hit is not missed.
    assert counts["missed"] == (1 if error in ("localization", "classification") else 2)
    assert sum(counts.values()) == 1 + counts["missed"]
    # Of one class everything is found then, of the other nothing.
    assert costs[error] == pytest.approx(0.5 if error in ("localization", "classification") else 0)


def test_a_duplicate_and_what_it_costs():
    # Class 0: a hit, a duplicate, a hit: precision 1, then 2 / 3. Without the duplicate AP is 1.
    target = Target([[0, 0, 10, 10], [20, 0, 30, 10]], [0, 0])
    found = Detections([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]], [0.9, 0.8, 0.7], [0, 0, 0], AB)
    counts, costs = errors_of([target], [found])
    assert counts == {error: int(error == "duplicate") for error in ERRORS}
    assert costs["duplicate"] == pytest.approx(50 / 101 * (1 - 2 / 3))


def test_only_the_surest_of_several_errors_is_mended_into_an_object():
    target = Target([[0, 0, 10, 10]], [0])
    loose = Detections([[4, 0, 14, 10], [5, 0, 15, 10]], [0.9, 0.8], [0, 0], AB)
    counts, costs = errors_of([target], [loose])
    assert counts["localization"] == 2
    assert costs["localization"] == pytest.approx(1)  # the second is removed, not a duplicate


def test_missed_objects_are_taken_out_of_the_count():
    target = Target([[0, 0, 10, 10], [20, 0, 30, 10]], [0, 0])
    counts, costs = errors_of([target], [Detections([[0, 0, 10, 10]], [0.9], [0], AB)])
    assert counts["missed"] == 1
    assert costs["missed"] == pytest.approx(50 / 101)


def test_what_lies_in_a_crowd_is_no_error():
    target = Target([[0, 0, 10, 10], [100, 0, 200, 100]], [0, 0], crowd=[False, True])
    counts, _ = errors_of([target], [Detections([[0, 0, 10, 10], [110, 0, 120, 10]], [0.9, 0.8], [0, 0], AB)])
    assert sum(counts.values()) == 0


def test_errors_are_counted_by_class():
    found = Detections([[1, 0, 11, 10]], [0.9], [1], AB)
    errors = find_errors([OBJECTS], [found], match_coco([OBJECTS], [found], 2))
    assert errors.count[ERRORS.index("classification")].tolist() == [0, 1]  # by the detection's
    assert errors.count[ERRORS.index("missed")].tolist() == [0, 1]  # by the object's


def test_nothing_found_and_nothing_there():
    nothing = Detections([], [], [], AB)
    counts, _ = errors_of([OBJECTS], [nothing])
    assert counts == {error: 2 * (error == "missed") for error in ERRORS}
    counts, costs = errors_of([Target([], [])], [Detections([[0, 0, 10, 10]], [0.9], [0], AB)])
    assert counts == {error: int(error == "background") for error in ERRORS}
    assert not any(costs.values())


# --- intervals --------------------------------------------------------------------------------------------------------


def test_intervals_hold_the_figures_and_no_difference_to_itself():
    targets, detections = random_scene(3, images=30, per_image=10)
    gap = measure_gap(targets, detections, NAMES)
    intervals = bootstrap([gap, gap], resamples=60, seed=0)
    for key, value in gap.figures().items():
        low, high = intervals.of[1][key]
        assert low <= value <= high, key
        assert low < high
        assert intervals.difference[1][key] == (0, 0)
    again = bootstrap([gap], resamples=60, seed=0)
    assert again.of[0] == intervals.of[0]
    assert bootstrap([gap], resamples=60, seed=1).of[0] != intervals.of[0]


def test_resampled_ap_is_that_of_the_intervals():
    targets, detections = random_scene(3, images=30, per_image=10)
    gap = measure_gap(targets, detections, NAMES)
    drawn = resampled_ap(gap, resamples=60)
    assert len(drawn) == 60
    assert np.percentile(drawn, [2.5, 97.5]) == pytest.approx(bootstrap([gap], resamples=60).of[0]["AP"])


def test_a_detector_that_is_better_on_every_image_is_better_in_every_draw():
    targets = [Target([[0, 0, 10, 10]], [0])] * 10
    better = [Detections([[0, 0, 10, 10]], [0.9], [0], AB)] * 10
    worse = [Detections([[0, 0, 10, 8]], [0.9], [0], AB)] * 10
    intervals = bootstrap([measure_gap(targets, d, AB) for d in (worse, better)], resamples=20)
    # IoU 0.8: found at seven of ten.
    assert intervals.difference[1]["AP"] == pytest.approx((0.3, 0.3))
    assert intervals.difference[1]["AP loses localization"] == pytest.approx((-0.3, -0.3))


# --- true positives and JSON ------------------------------------------------------------------------------------------


def test_rank_correlation():
    overlap = np.array([0.5, 0.6, 0.7, 0.9])
    assert rank_correlation(np.array([0.1, 0.2, 0.3, 0.4]), overlap) == pytest.approx(1)
    assert rank_correlation(np.array([0.4, 0.3, 0.2, 0.1]), overlap) == pytest.approx(-1)
    # 1 - 6 * (1 + 1) / (4 * 15): two neighbours exchanged
    assert rank_correlation(np.array([0.2, 0.1, 0.3, 0.4]), overlap) == pytest.approx(0.8)
    assert rank_correlation(np.array([0.4]), np.array([0.6])) is None
    assert rank_correlation(np.array([0.4, 0.4]), np.array([0.6, 0.7])) is None


def test_json_has_every_figure_and_no_nan():
    target = Target([[0, 0, 10, 10], [20, 0, 80, 40]], [0, 0])
    found = Detections([[0, 0, 10, 8], [20, 0, 80, 40]], [0.9, 0.8], [0, 0], AB)
    content = json.loads(json.dumps(to_json(measure_gap([target], [found], AB)), allow_nan=False))
    assert content["AP75"]["none"] == pytest.approx(1)
    assert content["loses"]["AP"]["localization"] == pytest.approx(1 - content["AP"]["none"])
    assert content["AP_by_iou"]["none"]["0.50"] == 1
    assert content["per_class"]["b"]["none"] is None
    assert content["true_positives"] == {
        "count": 2,
        "mean_iou": pytest.approx(0.9),
        "median_iou": pytest.approx(0.9),
        "rank_correlation": pytest.approx(-1),
    }
    assert content["by_size"]["small"]["true_positives"]["count"] == 1
    assert content["by_size"]["medium"]["none"] == pytest.approx(1)
    assert content["by_size"]["large"]["true_positives"]["mean_iou"] is None
    assert content["errors"]["missed"] == {"count": 0, "share": 0, "cost": 0}
