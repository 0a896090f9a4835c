"""Calibration: error and bins worked by hand, the temperature beside a grid of temperatures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grcn.evaluation.calibration import (
    BINS,
    TEMPERATURES,
    best_temperature,
    calibration_error,
    measure_calibration,
    reliability,
)
from grcn.evaluation.voc import match_voc
from grcn.thresholds import Thresholds, scaled
from grcn.types import Array, Detections, Target

NAMES = ("cat", "dog")
SCORES = np.array([0.95, 0.91, 0.98, 0.31, 0.39, 0.0, 1.0], dtype=np.float32)
RIGHT = np.array([True, True, False, True, False, False, True])


def test_bins_and_error_worked_by_hand() -> None:
    bins = reliability(SCORES, RIGHT)
    assert bins.detections.tolist() == [1, 0, 0, 2, 0, 0, 0, 0, 0, 4]
    assert bins.score[[0, 3, 9]].tolist() == pytest.approx([0, 0.35, 0.96])
    assert bins.right[[0, 3, 9]].tolist() == [0, 0.5, 0.75]
    assert np.isnan(bins.score[1:3]).all()
    assert calibration_error(SCORES, RIGHT) == pytest.approx((1 * 0 + 2 * 0.15 + 4 * 0.21) / 7)
    assert np.isnan(calibration_error(SCORES[:0], RIGHT[:0]))


def loss(scores: Array, right: Array, temperature: float) -> float:
    chance = scaled(scores, temperature)
    return float(-np.log(np.where(right, chance, 1 - chance)).mean())


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_no_temperature_of_a_grid_is_better(true: float) -> None:
    """Of detections that are right as often as their scores, scaled by `true`, say."""
    rng = np.random.default_rng(1)
    scores = rng.uniform(0.05, 1, 3000).astype(np.float32)
    right = rng.random(3000) < scaled(scores, true)
    found = best_temperature(scores, right)
    assert found is not None
    grid = np.geomspace(0.2, 10, 400)
    losses = [loss(scores, right, temperature) for temperature in grid]
    assert loss(scores, right, found) <= min(losses) + 1e-12
    assert found == pytest.approx(grid[np.argmin(losses)], rel=0.02)
    assert found == pytest.approx(true, rel=0.15)


@pytest.mark.parametrize(("right", "temperature"), [([True, True], TEMPERATURES[0]), ([False, False], TEMPERATURES[1])])
def test_a_temperature_without_a_best_one_is_bounded(right: list[bool], temperature: float) -> None:
    assert best_temperature(np.array([0.7, 0.9]), np.array(right)) == pytest.approx(temperature)


def test_scaling_keeps_the_order_and_the_middle() -> None:
    scores = np.array([0, 1e-6, 0.2, 0.5, 0.7, 1 - 1e-6, 1])
    for temperature in (0.3, 1.0, 4.0):
        after = scaled(scores, temperature)
        assert (np.diff(after) >= 0).all()
        assert after[3] == pytest.approx(0.5)
        assert np.isfinite(after).all()
    np.testing.assert_allclose(scaled(scores, 1.0), scores, atol=2e-7)
    assert scaled(0.8, 2.0) == pytest.approx(2 / 3), "odds of 4 to 1 become 2 to 1"


def scene() -> tuple[list[Target], list[Detections]]:
    """Ten photos of a cat; it is found in six, twice in one of them, and something else in four."""
    cat, elsewhere = [0, 0, 10, 10], [50, 50, 60, 60]
    boxes = [cat] * 6 + [elsewhere] * 4
    detections = [Detections([box], [0.95], [0], NAMES) for box in boxes]
    detections[0] = Detections([cat, cat], [0.95, 0.35], [0, 0], NAMES)
    return [Target([cat], [0])] * 10, detections


def test_the_section_of_the_metrics() -> None:
    matches = match_voc(*scene(), 2, iou=[0.5])
    section = measure_calibration(matches, NAMES)
    assert section is not None
    assert json.loads(json.dumps(section, allow_nan=False)) == section
    assert section["detections"] == 11
    assert section["error"] == pytest.approx((10 * 0.35 + 0.35) / 11)
    assert section["reliability"][9] == {
        "from": 0.9,
        "to": 1.0,
        "detections": 10,
        "score": pytest.approx(0.95),
        "right": 0.6,
    }
    assert section["reliability"][3]["right"] == 0, "a duplicate is false"
    assert len(section["reliability"]) == len(section["reliability_scaled"]) == BINS
    assert section["per_class"]["dog"] == {"detections": 0, "error": None, "error_scaled": None}
    assert section["error_scaled"] < section["error"]
    assert "of_file" not in section

    given = Thresholds(NAMES, (None, None), (None, None), 0.5, 0.9, 1e3, 0.5, "zoo", "val")
    other = measure_calibration(matches, NAMES, given)
    assert other is not None
    assert (other["temperature"], other["error"]) == (section["temperature"], section["error"])
    # of so high a temperature all scores are about a half: of ten six are right, of one none
    assert other["of_file"] == {
        "data": "zoo",
        "split": "val",
        "temperature": 1e3,
        "error_scaled": pytest.approx((10 * 0.1 + 0.5) / 11, abs=1e-3),
    }
    assert other["per_class"]["cat"]["error_scaled"] == other["of_file"]["error_scaled"]


@pytest.mark.parametrize("scores", [[], [1.5], [-0.1], [1e20]], ids=str)
def test_scores_that_are_no_probabilities_have_no_calibration(scores: list[float]) -> None:
    found = Detections([[0, 0, 10, 10]] * len(scores), scores, [0] * len(scores), NAMES)
    assert measure_calibration(match_voc([Target([[0, 0, 10, 10]], [0])], [found], 2, iou=[0.5]), NAMES) is None
