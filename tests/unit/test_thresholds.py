"""Thresholds in headers: read as written, refused where they are garbled, mapped with the scores."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from grcn.errors import CheckpointError
from grcn.thresholds import KEY, Thresholds, calibrate, scaled, unscaled
from grcn.types import Detections

NAMES = ("cat", "dog", "eel")
CHOSEN = Thresholds(NAMES, (0.25, None, 0.75), (0.5, 0.625, None), 0.4, 0.9, 2.0, 0.5, "zoo", "val")


def test_they_are_read_as_they_were_written() -> None:
    written = json.loads(json.dumps({KEY: CHOSEN.to_json()}, allow_nan=False))
    assert Thresholds.from_extra(written, NAMES, "x") == CHOSEN
    assert Thresholds.from_extra({"AP": 0.5}, NAMES, "x") is None


def test_the_scores_of_a_choice() -> None:
    assert CHOSEN.of("best").tolist() == pytest.approx([0.25, 0.4, 0.75])
    assert CHOSEN.of("precise").tolist() == [0.5, 0.625, np.inf]
    assert CHOSEN.in_words("best") == "cat 0.25, dog 0.40, eel 0.75 (best F1 on zoo, val; IoU 0.5)"
    assert CHOSEN.in_words("precise") == "cat 0.50, dog 0.62, eel never (precision 0.9 on zoo, val; IoU 0.5)"
    many = Thresholds(tuple("abcdefghij"), (0.5,) * 10, (0.5,) * 10, 0.4, 0.9, 2.0, 0.5, "zoo", "val")
    assert many.in_words("best").startswith("a 0.50, b 0.50, c 0.50, d 0.50, e 0.50, f 0.50, g 0.50, h 0.50, ... (")


@pytest.mark.parametrize(
    "change",
    [
        {"best": {"cat": 0.5}},
        {"best": {"cat": 0.5, "dog": 1.5, "eel": None}},
        {"best": {"cat": "high", "dog": None, "eel": None}},
        {"best": [0.5, 0.5, 0.5]},
        {"precise": {"cat": float("nan"), "dog": None, "eel": None}},
        {"precise": None},
        {"overall": -0.1},
        {"temperature": 0},
        {"temperature": float("inf")},
        {"temperature": [1]},
        {"temperature": 10**400},
        {"iou": 2},
        {"precision": 0},
        {"class_of_its_own": 1, "split": ...},
    ],
    ids=str,
)
def test_garbled_ones_are_refused(change: dict[str, Any]) -> None:
    content = {**CHOSEN.to_json(), **change}
    if content.get("split") is ...:
        del content["split"]
    with pytest.raises(CheckpointError, match=r"m\.onnx: the thresholds in its header are damaged") as refused:
        Thresholds.from_extra({KEY: content}, NAMES, "m.onnx")
    assert "\n" not in str(refused.value)
    for other in ([], "best", 3):
        with pytest.raises(CheckpointError, match="damaged"):
            Thresholds.from_extra({KEY: other}, NAMES, "m.onnx")


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.7])
def test_what_is_kept_is_the_same_before_and_after_calibration(temperature: float) -> None:
    """To the last detection: those at the threshold itself, and their neighbours in float32."""
    scores = np.array([0.1, 0.25, 0.4, 0.5, 0.625, 0.75, 0.9], dtype=np.float32)
    scores = np.concatenate([scores, np.nextafter(scores, np.float32(0)), np.nextafter(scores, np.float32(1))])
    n = len(scores)
    given = Thresholds(NAMES, (0.25, None, 0.75), (0.5, 0.625, None), 0.4, 0.9, temperature, 0.5, "zoo", "val")
    for class_id in range(3):
        found = Detections(np.zeros((n, 4)), scores, np.full(n, class_id), NAMES)
        after = calibrate(found, temperature)
        np.testing.assert_allclose(after.scores, scaled(found.scores, temperature), rtol=1e-6)
        for choice in ("best", "precise"):
            kept = len(found.above(given.of(choice)))  # type: ignore[arg-type]
            again = len(after.above(given.calibrated().of(choice)))  # type: ignore[arg-type]
            # rounding may make equals of neighbours, of which then both are kept
            assert kept <= again <= kept + 1


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("score", [0.0, 1e-5, 0.3, 0.9, 1.0])
def test_what_a_network_is_asked_for_leaves_out_nothing(temperature: float, score: float) -> None:
    """And little else is asked for."""
    raw = np.linspace(0, 1, 10_001)
    kept, asked = scaled(raw, temperature) >= score, raw >= unscaled(score, temperature)
    assert (asked | ~kept).all()
    assert (asked & ~kept).sum() <= 1 or score == 1
