import numpy as np
import pytest

from grcn.errors import ConfigError, DataError
from grcn.evaluation import voc, voc_ap
from grcn.types import Detections, Target


def box(x, width=10):
    """A box of height 10; two of width 10 that are d apart have IoU (10 - d) / (10 + d)."""
    return [x, 0, x + width, 10]


def one_image(objects, found, difficult=None, crowd=None):
    """One class; `objects` are x positions, `found` pairs of x position and score."""
    target = Target([box(x) for x in objects], [0] * len(objects), difficult=difficult, crowd=crowd)
    detections = Detections([box(x) for x, _ in found], [s for _, s in found], [0] * len(found), ("a",))
    return [target], [detections]


def ap(scene, iou=0.5, mode="area"):
    return voc_ap(*scene, 1, iou=(iou,), mode=mode).ap[0, 0]


def test_worked_by_hand_in_both_modes():
    # Five objects. By falling score: hit, stray, hit, stray, hit; two are never found.
    scene = one_image([0, 100, 200, 300, 400], [(0, 0.9), (50, 0.8), (100, 0.7), (150, 0.6), (200, 0.5)])
    # recall     1/5  1/5  2/5  2/5  3/5
    # precision  1    1/2  2/3  1/2  3/5;  the best from there on: 1, 2/3, 2/3, 3/5, 3/5
    # area: 1/5 * (1 + 2/3 + 3/5)
    assert ap(scene) == pytest.approx((1 + 2 / 3 + 3 / 5) / 5)
    # points 0, 0.1, 0.2 -> 1;  0.3, 0.4 -> 2/3;  0.5, 0.6 -> 3/5;  0.7 to 1 -> 0
    assert ap(scene, mode="11point") == pytest.approx((3 * 1 + 2 * 2 / 3 + 2 * 3 / 5) / 11)


def test_eleven_points_reach_a_recall_of_three_tenths():
    # 3 of 10 found without a mistake: precision 1 at 0, 0.1, 0.2 and 0.3, which np.arange(0, 1.1, 0.1) would miss.
    scene = one_image(range(0, 1000, 100), [(0, 0.9), (100, 0.8), (200, 0.7)])
    assert ap(scene, mode="11point") == pytest.approx(4 / 11)
    assert ap(scene) == pytest.approx(3 / 10)


def test_a_duplicate_is_false_even_where_another_object_is_free():
    # Objects at 0 and 4. Both detections overlap the first most (1 and 9/11), though the second (7/13 = 0.54) is free.
    scene = one_image([0, 4], [(0, 0.9), (1, 0.8)])
    assert ap(scene) == pytest.approx(1 / 2)


def test_a_match_needs_the_threshold_and_no_more():
    # 2 apart: 8/12; 3 apart: 7/13; width 5 inside 10: 1/2 exactly.
    scene = ([Target([box(0)], [0])], [Detections([box(0, width=5)], [0.9], [0], ("a",))])
    assert ap(scene, iou=0.5) == 1
    assert ap(scene, iou=0.501) == 0
    assert ap(one_image([0], [(2, 0.9)]), iou=0.66) == 1
    assert ap(one_image([0], [(2, 0.9)]), iou=0.67) == 0


@pytest.mark.parametrize("flag", ["difficult", "crowd"])
def test_difficult_and_crowd_objects_neither_count_nor_punish(flag):
    # Object 100 is ignored: not counted (one positive left), and its two detections, the best ones, are left out.
    scene = one_image([0, 100], [(100, 0.9), (101, 0.8), (0, 0.7)], **{flag: [False, True]})
    assert ap(scene) == 1
    result = voc_ap(*scene, 1)
    assert result.matches.objects.tolist() == [1]
    assert result.matches.outcome[0].tolist() == [voc.IGNORED, voc.IGNORED, voc.HIT]
    # A detection near the ignored object but below the threshold is false: precision 1/2 at recall 1.
    assert ap(one_image([0, 100], [(106, 0.9), (0, 0.7)], **{flag: [False, True]})) == pytest.approx(1 / 2)


def test_equal_scores_keep_the_order_of_images_and_of_detections():
    target, nothing = Target([box(0)], [0]), Target([], [])
    hit, stray = Detections([box(0)], [0.5], [0], ("a",)), Detections([box(50)], [0.5], [0], ("a",))
    # The hit first: precision 1 at recall 1. The stray first: 1/2.
    assert ap(([target, nothing], [hit, stray])) == 1
    assert ap(([nothing, target], [stray, hit])) == pytest.approx(1 / 2)
    assert ap(one_image([0], [(0, 0.5), (50, 0.5)])) == 1
    assert ap(one_image([0], [(50, 0.5), (0, 0.5)])) == pytest.approx(1 / 2)


def test_of_equal_overlaps_the_first_object_is_meant():
    # At 5, both objects overlap by 5/15. The first is difficult, so the detection is left out; else it would be a hit.
    ignored_first = one_image([0, 10], [(5, 0.9)], difficult=[True, False])
    assert voc_ap(*ignored_first, 1, iou=(0.3,)).matches.outcome.tolist() == [[voc.IGNORED]]
    ignored_second = one_image([0, 10], [(5, 0.9)], difficult=[False, True])
    assert voc_ap(*ignored_second, 1, iou=(0.3,)).matches.outcome.tolist() == [[voc.HIT]]


def test_other_classes_and_other_images_do_not_match():
    targets = [Target([box(0)], [0]), Target([box(100)], [1])]
    detections = [Detections([box(0)], [0.9], [1], ("a", "b")), Detections([box(0)], [0.9], [0], ("a", "b"))]
    assert voc_ap(targets, detections, 2).ap.tolist() == [[0, 0], [0, 0]]


def test_classes_without_objects_are_left_out_of_means():
    targets = [Target([box(0), box(50)], [0, 2], difficult=[False, True])]
    detections = [Detections([box(0), box(20)], [0.9, 0.8], [0, 1], ("a", "b", "c"))]
    result = voc_ap(targets, detections, 3)
    assert result.mean_ap.tolist() == [1, 1]
    assert np.isnan(result.ap[:, 1:]).all()
    assert "mean over 1 of 3 classes" in str(result)


def test_no_images_no_objects_no_detections():
    assert np.isnan(voc_ap([], [], 2).mean_ap).all()
    assert np.isnan(voc_ap([Target([], [])], [Detections([], [], [], ("a",))], 1).mean_ap).all()
    assert voc_ap([Target([box(0)], [0])], [Detections([], [], [], ("a",))], 1).mean_ap.tolist() == [0, 0]


@pytest.mark.parametrize("found", [[5, 5, 5, 5], [9, 9, 1, 1]])
def test_boxes_without_area_match_nothing(found):
    scene = ([Target([[0, 0, 10, 10]], [0])], [Detections([found], [0.9], [0], ("a",))])
    assert ap(scene, iou=1e-9) == 0


@pytest.mark.parametrize("mode", ["area", "11point"])
def test_printing_says_mode_and_policy(mode):
    text = str(voc_ap(*one_image([0], [(0, 0.9)]), 1, iou=(0.5, 0.625), mode=mode))
    assert text.startswith("VOC AP50 1.0000, AP62.5 1.0000")
    assert f"mode {mode}" in text
    assert voc.MODE_IN_WORDS[mode] in text
    assert voc.DIFFICULT_IN_WORDS in text


def test_matching_in_pieces_is_matching_at_once(monkeypatch):
    rng = np.random.default_rng(0)

    def boxes(n):
        corner = rng.uniform(0, 60, (n, 2))
        return np.concatenate([corner, corner + rng.uniform(5, 30, (n, 2))], axis=1)

    targets = [Target(boxes(9), rng.integers(0, 2, 9)) for _ in range(5)]
    detections = [Detections(boxes(20), rng.random(20), rng.integers(0, 2, 20), ("a", "b")) for _ in range(5)]
    at_once = voc.match_voc(targets, detections, 2, iou=(0.3, 0.5))
    assert (at_once.outcome == voc.HIT).any()
    for most in (1, 7, 50):
        monkeypatch.setattr(voc, "_PAIRS_AT_ONCE", most)
        assert np.array_equal(voc.match_voc(targets, detections, 2, iou=(0.3, 0.5)).outcome, at_once.outcome)


def test_curve_is_of_the_counted_detections():
    scene = one_image([0, 100, 200], [(100, 0.9), (0, 0.8), (50, 0.7)], difficult=[False, True, False])
    curve = voc_ap(*scene, 1).matches.curve(0.5, 0)
    assert curve.recall.tolist() == [0.5, 0.5]
    assert curve.precision.tolist() == [1, 0.5]
    assert curve.scores.tolist() == pytest.approx([0.8, 0.7])


@pytest.mark.parametrize("iou", [0, -0.5, 1.01, float("nan")])
def test_thresholds_outside_0_1_are_refused(iou):
    with pytest.raises(ConfigError, match="IoU threshold"):
        voc_ap(*one_image([0], [(0, 0.9)]), 1, iou=(0.5, iou))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="'101point': use one of area, 11point"):
        voc_ap(*one_image([0], [(0, 0.9)]), 1, mode="101point")


def test_what_does_not_correspond_is_refused():
    targets, detections = one_image([0], [(0, 0.9)])
    with pytest.raises(DataError, match="detections of 1 images, but targets of 2"):
        voc_ap(targets * 2, detections, 1)
    with pytest.raises(DataError, match=r"targets\[1\]: class id 3 is outside 0..1"):
        voc_ap([*targets, Target([box(0)], [3])], detections * 2, 2)
    with pytest.raises(DataError, match=r"detections\[0\]: class id 1 is outside 0..0"):
        voc_ap(targets, [Detections([box(0)], [0.9], [1], ("a", "b"))], 1)
