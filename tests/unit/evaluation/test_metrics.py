import json

import pytest

from grcn.errors import ConfigError, DataError
from grcn.evaluation import evaluate
from grcn.types import Detections, Target

NAMES = ("cat", "dog", "owl")


@pytest.fixture
def scene():
    """Two cats, one of them difficult and missed, the other found at IoU 0.6; a dog missed; a crowd of owls."""
    targets = [
        Target([[0, 0, 10, 10], [50, 0, 60, 10], [90, 0, 99, 9]], [0, 0, 1], difficult=[False, True, False]),
        Target([[0, 0, 50, 50]], [2], crowd=[True]),
    ]
    detections = [Detections([[0, 0, 10, 6]], [0.9], [0], NAMES), Detections([[0, 0, 9, 9]], [0.8], [2], NAMES)]
    return detections, targets


def test_content(scene):
    metrics = evaluate(*scene, NAMES)
    # COCO: the cat is found at IoU 0.50, 0.55 and 0.60, one of two: 51 of 101 recalls. The dog never.
    cat = 51 / 101
    assert metrics["AP50"] == pytest.approx(cat / 2)
    assert metrics["AP"] == pytest.approx(3 / 10 * cat / 2)
    assert (metrics["AP70"], metrics["AP75"]) == (0, 0)
    assert metrics["AR100"] == pytest.approx(3 / 10 * 0.5 / 2)
    assert (metrics["APs"], metrics["APm"], metrics["APl"]) == (metrics["AP"], None, None)
    assert metrics["AP_by_iou"]["AP60"] == metrics["AP50"]
    assert metrics["AP_by_iou"]["AP65"] == 0
    counts = {key: metrics[key] for key in ("images", "objects", "difficult", "crowd", "detections")}
    assert counts == {"images": 2, "objects": 3, "difficult": 1, "crowd": 1, "detections": 2}
    assert metrics["per_class"]["cat"] == {
        "AP": pytest.approx(3 / 10 * cat),
        "AP50": pytest.approx(cat),
        "AP70": 0,
        "AP75": 0,
        "objects": 2,
        "detections": 1,
    }
    nothing = dict.fromkeys(("AP", "AP50", "AP70", "AP75"))
    assert metrics["per_class"]["owl"] == {**nothing, "objects": 0, "detections": 1}
    assert metrics["classes_without_objects"] == ["owl"]


def test_voc_sections(scene):
    metrics = evaluate(*scene, NAMES)
    for section, mode in (("voc_area", "area"), ("voc_11point", "0.1")):
        voc = metrics[section]
        # The difficult cat does not count: one of one found at 0.5; the dog is missed.
        assert (voc["AP50"], voc["AP70"]) == (pytest.approx(0.5), 0)
        assert voc["per_class"]["cat"] == {"AP50": pytest.approx(1), "AP70": 0, "objects": 1}
        assert voc["per_class"]["owl"] == {"AP50": None, "AP70": None, "objects": 0}
        assert voc["classes_without_objects"] == ["owl"]
        assert mode in voc["mode"]
        assert "difficult" in voc["difficult"]


def test_is_json_without_nan_even_with_nothing_to_score(scene):
    for detections, targets in (scene, ([], []), ([Detections([], [], [], NAMES)], [Target([], [])])):
        text = json.dumps(evaluate(detections, targets, NAMES), allow_nan=False)
        assert json.loads(text)["images"] == len(targets)


def test_any_iou_for_the_voc_sections(scene):
    metrics = evaluate(*scene, NAMES, iou=(0.6, 0.61, 0.625))
    assert metrics["voc_area"]["AP60"] == pytest.approx(0.5)
    assert (metrics["voc_area"]["AP61"], metrics["voc_11point"]["AP62.5"]) == (0, 0)
    assert "AP50" not in metrics["voc_area"]
    with pytest.raises(ConfigError, match="IoU threshold 50"):
        evaluate(*scene, NAMES, iou=(50,))


def test_detections_of_other_classes_are_refused(scene):
    with pytest.raises(DataError, match=r"detections\[0\]: class names \['cat', 'dog', 'owl'\] are not the data set's"):
        evaluate(*scene, ("dog", "cat", "owl"))


def test_class_names_must_differ(scene):
    with pytest.raises(DataError, match="only once"):
        evaluate(*scene, ("cat", "cat", "owl"))
