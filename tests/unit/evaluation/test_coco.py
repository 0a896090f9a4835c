import logging

import numpy as np
import pytest

from grcn.errors import DataError
from grcn.evaluation import coco_ap
from grcn.types import Detections, Target

NAMES = ("a", "b")


def test_worked_by_hand():
    # Two objects of 10 x 10. The first detection is exact, the second 8 of 10 wide: IoU 0.8, a hit at 0.50 to 0.80.
    targets = [Target([[0, 0, 10, 10], [50, 0, 60, 10]], [0, 0])]
    detections = [Detections([[0, 0, 10, 10], [50, 0, 58, 10]], [0.9, 0.8], [0, 0], NAMES)]
    result = coco_ap(targets, detections, 2)
    # One found of two: precision 1 at the 51 recalls 0 to 0.50 of the 101.
    by_iou = [1] * 7 + [51 / 101] * 3
    assert result.ap[:, 0].tolist() == pytest.approx(by_iou)
    summary = result.summary()
    assert summary["AP"] == pytest.approx(np.mean(by_iou))
    assert (summary["AP50"], summary["AP70"], summary["AP75"]) == (1, 1, 1)
    assert summary["AR1"] == pytest.approx(0.5)
    assert summary["AR100"] == pytest.approx((7 * 1 + 3 * 0.5) / 10)
    assert result.at(0.85)[0] == pytest.approx(51 / 101)
    assert np.isnan(result.ap[:, 1]).all()


def test_a_second_detection_takes_the_next_free_object_unlike_voc():
    # Both overlap the first object most; COCO gives the second detection the object still free (7/13 = 0.54).
    targets = [Target([[0, 0, 10, 10], [4, 0, 14, 10]], [0, 0])]
    detections = [Detections([[0, 0, 10, 10], [1, 0, 11, 10]], [0.9, 0.8], [0, 0], NAMES)]
    assert coco_ap(targets, detections, 1).at(0.5)[0] == 1


def test_crowds_swallow_any_number_of_detections():
    targets = [Target([[0, 0, 10, 10], [100, 0, 200, 100]], [0, 0], crowd=[False, True])]
    inside = [[100 + 10 * k, 0, 110 + 10 * k, 10] for k in range(5)]
    detections = [Detections([*inside, [0, 0, 10, 10]], [0.9] * 5 + [0.5], [0] * 6, NAMES)]
    assert coco_ap(targets, detections, 1).summary()["AP"] == 1


def test_difficult_objects_count_as_any_other():
    targets = [Target([[0, 0, 10, 10], [50, 0, 60, 10]], [0, 0], difficult=[False, True])]
    detections = [Detections([[0, 0, 10, 10]], [0.9], [0], NAMES)]
    assert coco_ap(targets, detections, 1).summary()["AR100"] == pytest.approx(0.5)


def test_sizes_are_by_the_annotated_area():
    # A box of 40 x 40 = 1600 px, medium, whose segment has 1000 px: small, below 32^2 = 1024.
    detections = [Detections([[0, 0, 40, 40]], [0.9], [0], NAMES)]
    by_segment = coco_ap([Target([[0, 0, 40, 40]], [0], areas=[1000])], detections, 1).summary()
    by_box = coco_ap([Target([[0, 0, 40, 40]], [0])], detections, 1).summary()
    assert (by_segment["APs"], by_box["APm"]) == (1, 1)
    assert np.isnan([by_segment["APm"], by_box["APs"]]).all()


def test_nothing_is_printed_or_logged(capfd, caplog):
    caplog.set_level(logging.DEBUG)
    coco_ap([Target([[0, 0, 10, 10]], [0])], [Detections([[0, 0, 10, 10]], [0.9], [0], NAMES)], 2)
    captured = capfd.readouterr()
    assert (captured.out, captured.err, caplog.text) == ("", "", "")


def test_no_images():
    assert np.isnan(list(coco_ap([], [], 2).summary().values())).all()


def test_what_does_not_correspond_is_refused():
    with pytest.raises(DataError, match="detections of 0 images, but targets of 1"):
        coco_ap([Target([], [])], [], 1)
