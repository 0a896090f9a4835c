"""Thresholds: a case worked by hand, and a loop that leaves out detections below every score in turn."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grcn.errors import ConfigError
from grcn.evaluation.thresholds import choose, choose_each, choose_thresholds, measure_thresholds
from grcn.evaluation.voc import HIT, IGNORED, VocMatches, match_voc
from grcn.thresholds import Thresholds
from grcn.types import Detections, Target
from random_scenes import NAMES as RANDOM_NAMES
from random_scenes import random_scene

NAMES = ("cat", "dog", "owl", "pig")


def box(place: int) -> list[int]:
    return [20 * place, 0, 20 * place + 10, 10]


@pytest.fixture
def matches() -> VocMatches:
    """Four cats, found at 0.9, 0.7, 0.7 and 0.4 among three false ones; an owl that nothing finds; a dog that is none;
    a difficult cat, found."""
    target = Target([*map(box, range(4)), box(4), box(5)], [0, 0, 0, 0, 2, 0], difficult=[False] * 5 + [True])
    cats = [(0, 0.9), (9, 0.8), (1, 0.7), (2, 0.7), (0, 0.5), (3, 0.4), (5, 0.95)]
    places, scores = zip(*cats, (8, 0.6), strict=True)
    found = Detections([box(p) for p in places], scores, [0] * 7 + [1], NAMES)
    return match_voc([target], [found], 4, iou=[0.5])


def test_the_case_worked_by_hand(matches: VocMatches) -> None:
    each, together = choose_each(matches, 0.7)
    best, precise = each[0]
    # 4 of 6 kept are right, 4 of 4 found; at 0.7 it is 3 of 4, which come together with the other of 0.7
    assert best == pytest.approx((np.float32(0.4), 4 / 6, 1, 2 * 4 / (6 + 4)))
    assert precise == pytest.approx((np.float32(0.7), 3 / 4, 3 / 4, 3 / 4))
    assert each[1:] == [(None, None)] * 3, "nothing to find, or nothing found"
    # with the owl and the dog F1 is 2 * 4 / (7 + 5) at 0.4, and the same at 0.7: the higher score counts
    assert together.best == together.precise == pytest.approx((np.float32(0.7), 3 / 4, 3 / 5, 2 * 3 / (4 + 5)))


@pytest.mark.parametrize(("precision", "score"), [(1.0, 0.9), (0.76, 0.9), (0.75, 0.7), (0.6, 0.4)])
def test_a_wanted_precision_is_reached_at_the_lowest_score(matches: VocMatches, precision: float, score: float) -> None:
    precise = choose(matches.curve(0.5, 0), 4, precision).precise
    assert precise is not None
    assert precise.score == np.float32(score)


@pytest.mark.parametrize("precision", [0.0, -1.0, 1.01, float("nan")])
def test_a_precision_that_is_none_is_refused(matches: VocMatches, precision: float) -> None:
    with pytest.raises(ConfigError, match=r"precision .*: needs a number above 0 and at most 1"):
        choose_each(matches, precision)


def counts(matches: VocMatches, class_id: int | None) -> tuple[int, int]:
    own = slice(None) if class_id is None else slice(*matches.offsets[class_id : class_id + 2])
    outcome = matches.outcome[0, own]
    return int((outcome == HIT).sum()), int((outcome != IGNORED).sum())


@pytest.mark.parametrize("iou", [0.5, 0.7])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_other_score_is_better(iou: float, seed: int) -> None:
    """Each score that occurs is tried: what is below it is left out, the rest matched anew and counted."""

    def kept(score: float) -> VocMatches:
        return match_voc(targets, [found.above(score) for found in detections], len(RANDOM_NAMES), iou=[iou])

    targets, detections = random_scene(seed)
    scores = np.unique(np.concatenate([found.scores for found in detections])).tolist()
    each, together = choose_each(kept(0.0), 0.4)
    for class_id, chosen in [*enumerate(each), (None, together)]:
        tried = []
        for score, matches in zip(scores, map(kept, scores), strict=True):
            hits, count = counts(matches, class_id)
            objects = matches.objects.sum() if class_id is None else matches.objects[class_id]
            if count and objects:
                tried.append((2 * hits / (count + objects), score, hits / count, hits / objects))
        if not tried:
            assert (class_id, chosen) == (3, (None, None))
            continue
        best, reached = max(tried), [recall for *_, precision, recall in tried if precision >= 0.4]
        assert chosen.best is not None
        assert chosen.best.score is not None
        hits, count = counts(kept(chosen.best.score), class_id)
        assert (chosen.best.f1, chosen.best.precision) == pytest.approx((best[0], best[2]))
        assert chosen.best.precision == pytest.approx(hits / count), "the score gives what it is said to give"
        assert (chosen.precise and chosen.precise.recall) == (pytest.approx(max(reached)) if reached else None)


def test_thresholds_of_a_file_are_counted_on_other_photos(matches: VocMatches) -> None:
    given = Thresholds(NAMES, (0.7, None, None, None), (None, 0.5, None, None), 0.85, 0.8, 2.0, 0.5, "zoo", "val")
    section = measure_thresholds(matches, NAMES, precision=0.7, given=given)
    assert json.loads(json.dumps(section, allow_nan=False)) == section
    of_file = section["of_file"]
    assert {key: of_file[key] for key in ("data", "split", "iou", "precision")} == {
        "data": "zoo",
        "split": "val",
        "iou": 0.5,
        "precision": 0.8,
    }
    cat, dog = (of_file["per_class"][name] for name in ("cat", "dog"))
    assert cat["best"] == pytest.approx({"score": np.float32(0.7), "precision": 3 / 4, "recall": 3 / 4, "F1": 3 / 4})
    assert cat["precise"] == {"score": None, "precision": None, "recall": 0, "F1": 0}, "nothing is kept"
    assert dog["best"]["score"] == np.float32(0.85), "nothing is said of it: that of all together"
    assert dog["precise"] == {"score": 0.5, "precision": 0, "recall": None, "F1": 0}
    assert of_file["all"]["best"] == pytest.approx(
        {"score": None, "precision": 3 / 4, "recall": 3 / 5, "F1": 6 / 9}, nan_ok=True
    )
    assert of_file["all"]["objects"] == section["all"]["objects"] == 5
    assert section["per_class"]["owl"] == {"objects": 1, "best": None, "precise": None}


def test_what_is_kept_with_the_weights(matches: VocMatches) -> None:
    kept = choose_thresholds(matches, NAMES, data="zoo", split="val", precision=0.7)
    assert kept is not None
    assert kept.best == (pytest.approx(0.4), None, None, None)
    assert kept.precise == (pytest.approx(0.7), None, None, None)
    assert (kept.overall, kept.precision, kept.iou) == (pytest.approx(0.7), 0.7, 0.5)
    assert kept.of("best").tolist() == pytest.approx([0.4, 0.7, 0.7, 0.7])
    assert kept.of("precise").tolist() == pytest.approx([0.7, np.inf, np.inf, np.inf])


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (Target([box(0)], [0]), Detections([box(9)], [0.9], [0], NAMES)),
        (Target([box(0)], [0]), Detections([], [], [], NAMES)),
        (Target([], []), Detections([box(9)], [0.9], [0], NAMES)),
        (Target([box(0)], [0]), Detections([box(0)], [7.5], [0], NAMES)),
    ],
    ids=["all false", "nothing found", "nothing there", "scores that are no probabilities"],
)
def test_there_may_be_nothing_to_keep(target: Target, found: Detections) -> None:
    matches = match_voc([target], [found], 4, iou=[0.5])
    assert choose_thresholds(matches, NAMES, data="zoo", split="val") is None
    section = measure_thresholds(matches, NAMES)
    assert json.loads(json.dumps(section, allow_nan=False)) == section
