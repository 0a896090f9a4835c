"""What crosses the borders is validated once, and converted without loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grcn.errors import DataError
from grcn.types import Detections, Target

BOXES = [[0.0, 0, 10, 20], [5, 5, 6, 6]]


def test_a_target_fills_in_what_is_not_said() -> None:
    target = Target(boxes=BOXES, labels=[0, 2])  # type: ignore[arg-type]
    assert target.boxes.dtype == np.float32
    assert target.labels.dtype == np.int64
    assert target.difficult.tolist() == target.crowd.tolist() == [False, False]
    assert target.areas.tolist() == [200, 1]
    assert len(target) == 2


def test_nothing_is_a_target_too() -> None:
    target = Target(boxes=[], labels=[])  # type: ignore[arg-type]
    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == target.areas.shape == target.crowd.shape == (0,)
    assert len(target) == 0
    assert len(Target(np.zeros((0, 4)), np.zeros(0))) == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"boxes": [[0, 0, 5, 5], [3, 3, 3, 9]]}, r"boxes\[1\] = \[3.0, 3.0, 3.0, 9.0\]: needs finite x1 < x2"),
        ({"boxes": [[0, 0, 5, 5], [9, 3, 3, 9]]}, r"boxes\[1\]"),
        ({"boxes": [[0, 0, np.nan, 5], [9, 3, 3, 9]]}, r"boxes\[0\]"),
        ({"boxes": [[0, 0, np.inf, 5], [1, 1, 3, 9]]}, r"boxes\[0\]"),
        ({"boxes": [[0, 0, 5], [1, 2, 3]]}, r"boxes: shape \(2, 3\), expected \(2, 4\)"),
        ({"boxes": [[0, 0, 5, 5], [1]]}, "boxes: not an array of float32"),
        ({"boxes": [["a", 0, 5, 5], [1, 1, 3, 3]]}, "boxes: not an array of float32"),
        ({"labels": [0]}, r"labels: shape \(1,\), expected \(2,\)"),
        ({"labels": [0, -1]}, r"labels\[1\] is negative"),
        ({"difficult": [True]}, r"difficult: shape"),
        ({"crowd": [True, False, True]}, r"crowd: shape"),
        ({"areas": [1.0]}, r"areas: shape"),
    ],
)
def test_targets_that_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Target(**({"boxes": BOXES, "labels": [0, 1]} | values))


def detections() -> Detections:
    boxes = [[0, 0, 10, 20], [5, 5, 6, 6.5], [1, 2, 3, 4]]
    return Detections(boxes, [0.3, 0.9, 0.9], [0, 1, 2], ["cat", "dog", "hen"])  # type: ignore[arg-type]


def test_detections_go_by_falling_score() -> None:
    found = detections()
    assert found.scores.tolist() == pytest.approx([0.9, 0.9, 0.3])
    assert found.names == ["dog", "hen", "cat"]  # equal scores keep their order
    assert found.boxes[:, 0].tolist() == [5, 1, 0]
    assert found.class_names == ("cat", "dog", "hen")
    assert len(found) == 3


def test_detections_above_a_score() -> None:
    found = detections()
    assert found.above(0.5).names == ["dog", "hen"]
    assert len(found.above(float(found.scores[2]))) == 3
    assert len(found.above(1.0)) == 0
    of_each_class = np.array([0.2, 0.95, 0.9], dtype=np.float32)
    assert found.above(of_each_class).names == ["hen", "cat"]


def test_coco_results() -> None:
    results = detections().to_coco("a.jpg")
    assert [r["category_id"] for r in results] == [2, 3, 1]
    assert results[0] == {
        "image_id": "a.jpg",
        "category_id": 2,
        "bbox": [5.0, 5.0, 1.0, 1.5],
        "score": pytest.approx(0.9),
    }
    assert [r["category_id"] for r in detections().to_coco(7, (10, 20, 90))] == [20, 90, 10]


def test_supervision() -> None:
    own = detections()
    found = own.to_supervision()
    assert np.array_equal(found.xyxy, own.boxes)
    assert np.array_equal(found.confidence, own.scores)
    assert found.class_id.tolist() == [1, 2, 0]
    assert found.data["class_name"].tolist() == own.names
    found.xyxy += 1
    assert own.boxes[0, 0] == 5
    assert len(Detections([], [], [], ("cat",)).to_supervision()) == 0  # type: ignore[arg-type]


def test_supervision_and_back() -> None:
    own = detections()
    found = own.to_supervision()
    back = Detections.from_supervision(found, own.class_names)
    assert np.array_equal(back.boxes, own.boxes)
    assert np.array_equal(back.scores, own.scores)
    assert (back.names, back.class_names) == (own.names, own.class_names)
    other_order = own.class_names[::-1]
    assert Detections.from_supervision(found, other_order).names == own.names, "by name where there are names"
    assert Detections.from_supervision(found[found.confidence > 2], own.class_names).names == []
    found.data.clear()
    assert Detections.from_supervision(found, other_order).class_ids.tolist() == own.class_ids.tolist()
    with pytest.raises(DataError, match="class_ids: outside"):
        Detections.from_supervision(found, ("only",))
    with pytest.raises(DataError, match="'dog' is not one of the class names"):
        Detections.from_supervision(own.to_supervision(), ("eel",))
    found.confidence = None
    with pytest.raises(DataError, match="without scores"):
        Detections.from_supervision(found, own.class_names)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"boxes": [[0, 0, np.nan, 1]]}, "boxes: not finite"),
        ({"boxes": [[0, 0, 1]]}, r"boxes: shape \(1, 3\)"),
        ({"scores": [np.inf]}, "scores: not finite"),
        ({"scores": [0.1, 0.2]}, r"scores: shape \(2,\), expected \(1,\)"),
        ({"class_ids": [2]}, r"class_ids: outside 0\.\.1"),
        ({"class_ids": [-1]}, r"class_ids: outside 0\.\.1"),
        ({"class_ids": ["x"]}, "class_ids: not an array of int64"),
    ],
)
def test_detections_that_are_refused(values: dict[str, Any], said: str) -> None:
    good: dict[str, Any] = {"boxes": [[0, 0, 1, 1]], "scores": [0.5], "class_ids": [1], "class_names": ("a", "b")}
    assert len(Detections(**good)) == 1
    with pytest.raises(DataError, match=said):
        Detections(**(good | values))


@given(st.lists(st.floats(0, 1, width=32), max_size=20))
def test_every_detection_keeps_its_own_box_and_class(scores: list[float]) -> None:
    n = len(scores)
    boxes = np.arange(n)[:, None] + np.array([0, 0, 1, 1])
    found = Detections(boxes, scores, np.arange(n), tuple(map(str, range(n))))  # type: ignore[arg-type]
    assert np.array_equal(found.boxes[:, 0], found.class_ids)
    assert np.array_equal(np.asarray(scores, np.float32)[found.class_ids], found.scores)
    assert (np.diff(found.scores) <= 0).all()
