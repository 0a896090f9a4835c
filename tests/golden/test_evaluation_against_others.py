"""COCO AP equals pycocotools'; VOC AP equals an independent implementation in exact fractions."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from grcn.data.records import Dataset, ImageRecord
from grcn.data.results import load_results
from grcn.evaluation import coco_ap, evaluate, voc_ap
from grcn.evaluation.coco_matches import match_coco
from grcn.types import Detections, Target
from random_scenes import CLASSES, NAMES, random_scene, small_scenes

IOUS = tuple(k / 100 for k in range(50, 100, 5))


# --- pycocotools ------------------------------------------------------------------------------------------------------


def pycocotools_eval(targets, detections):
    """The original evaluation on the same objects; image i has id i + 1, class c has id c + 1."""
    images = [{"id": i + 1} for i in range(len(targets))]
    categories = [{"id": c + 1} for c in range(CLASSES)]

    def data_set(annotations):
        for index, annotation in enumerate(annotations, start=1):
            annotation["id"] = index
        coco = COCO()
        coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
        coco.createIndex()
        return coco

    def xywh(box):
        x1, y1, x2, y2 = map(float, box)
        return [x1, y1, x2 - x1, y2 - y1]

    truth = data_set(
        [
            {
                "image_id": i + 1,
                "category_id": int(t.labels[k]) + 1,
                "bbox": xywh(t.boxes[k]),
                "area": float(t.areas[k]),
                "iscrowd": int(t.crowd[k]),
            }
            for i, t in enumerate(targets)
            for k in range(len(t))
        ]
    )
    results = [result for i, d in enumerate(detections) for result in d.to_coco(i + 1)]
    found = truth.loadRes(results) if results else data_set([])  # loadRes fails on an empty list
    run = COCOeval(truth, found, "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run


def assert_equals_pycocotools(targets, detections):
    original = pycocotools_eval(targets, detections)
    ours = coco_ap(targets, detections, CLASSES)
    precision = np.where(original.eval["precision"] < 0, np.nan, original.eval["precision"])  # [T, R, C, sizes, most]
    recall = np.where(original.eval["recall"] < 0, np.nan, original.eval["recall"])  # [T, C, sizes, most]
    np.testing.assert_allclose(ours.ap, precision[:, :, :, 0, 2].mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(ours.ap_by_size, precision[:, :, :, 1:, 2].mean(axis=(0, 1)).T, atol=1e-6)
    np.testing.assert_allclose(ours.ar, recall[:, :, 0, :].mean(axis=0).T, atol=1e-6)
    np.testing.assert_allclose(ours.ar_by_size, recall[:, :, 1:, 2].mean(axis=0).T, atol=1e-6)
    keys = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    summary = ours.summary()
    for key, value in zip(keys, original.stats, strict=True):
        assert summary[key] == pytest.approx(np.nan if value == -1 else value, abs=1e-6, nan_ok=True), key
    np.testing.assert_allclose(match_coco(targets, detections, CLASSES).ap(), ours.ap, atol=1e-6)
    at_70 = original.eval["precision"][4, :, :, 0, 2]
    ap70 = at_70[at_70 > -1].mean() if (at_70 > -1).any() else np.nan
    assert summary["AP70"] == pytest.approx(ap70, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("whole_pixels", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_coco_equals_pycocotools_on_crowded_scenes(seed, whole_pixels):
    targets, detections = random_scene(seed, whole_pixels=whole_pixels)
    assert any(t.crowd.any() for t in targets)
    assert any(t.difficult.any() for t in targets)
    assert_equals_pycocotools(targets, detections)


def test_coco_equals_pycocotools_beyond_a_hundred_detections_of_a_class():
    targets, detections = random_scene(7, images=3, per_image=700)
    assert max(np.bincount(d.class_ids).max() for d in detections) > 100
    assert_equals_pycocotools(targets, detections)


@settings(max_examples=150, deadline=None)
@given(small_scenes())
def test_coco_equals_pycocotools_on_any_small_scene(scene):
    assert_equals_pycocotools(*scene)


def test_coco_equals_pycocotools_where_nothing_is_found_or_nothing_is_there():
    targets, detections = random_scene(0)
    nothing = [Detections([], [], [], NAMES)] * len(targets)
    assert coco_ap(targets, nothing, CLASSES).summary()["AP"] == 0
    assert_equals_pycocotools(targets, nothing)
    empty = [Target([], [])] * len(targets)
    assert np.isnan(coco_ap(empty, detections, CLASSES).summary()["AP"])
    assert_equals_pycocotools(empty, detections)
    assert_equals_pycocotools(empty, nothing)


# --- VOC, straight from its definition, in exact fractions ------------------------------------------------------------


def exact_iou(a, b):
    a, b = [Fraction(float(v)) for v in a], [Fraction(float(v)) for v in b]
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return Fraction(0)
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def voc_by_definition(targets, detections, class_id, iou):
    """AP by area and by 11 points of one class at one IoU (a decimal string); None without objects."""
    positives = 0
    for target in targets:
        for k in range(len(target)):
            if target.labels[k] == class_id and not target.difficult[k] and not target.crowd[k]:
                positives += 1
    if positives == 0:
        return None, None
    ranked = []
    for image, found in enumerate(detections):
        for k in range(len(found)):
            if found.class_ids[k] == class_id:
                ranked.append((float(found.scores[k]), image, found.boxes[k]))
    ranked.sort(key=lambda entry: -entry[0])  # Python's sort is stable
    points = []  # (hits, precision) after each detection that counts
    taken, hits, counted = set(), 0, 0
    for _, image, box in ranked:
        best, best_iou = None, Fraction(0)
        for k in range(len(targets[image])):
            if targets[image].labels[k] == class_id:
                overlap = exact_iou(box, targets[image].boxes[k])
                if overlap > best_iou:
                    best, best_iou = k, overlap
        if best is not None and best_iou >= Fraction(iou):
            if targets[image].difficult[best] or targets[image].crowd[best]:
                continue
            if (image, best) not in taken:
                taken.add((image, best))
                hits += 1
        counted += 1
        points.append((hits, Fraction(hits, counted)))

    def best_precision(recall):
        return max((precision for hit, precision in points if Fraction(hit, positives) >= recall), default=Fraction(0))

    by_area = sum(best_precision(Fraction(k, positives)) for k in range(1, positives + 1)) / positives
    by_points = sum(best_precision(Fraction(k, 10)) for k in range(11)) / 11
    return by_area, by_points


def assert_equals_definition(targets, detections, ious=IOUS):
    results = [voc_ap(targets, detections, CLASSES, iou=ious, mode=mode) for mode in ("area", "11point")]
    for t, iou in enumerate(ious):
        for class_id in range(CLASSES):
            expected = voc_by_definition(targets, detections, class_id, str(iou))
            for result, value in zip(results, expected, strict=True):
                ap = result.ap[t, class_id]
                if value is None:
                    assert np.isnan(ap)
                else:
                    assert ap == pytest.approx(float(value), abs=1e-12), (iou, class_id, result.mode)


@pytest.mark.parametrize("whole_pixels", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_voc_equals_the_definition_on_crowded_scenes(seed, whole_pixels):
    assert_equals_definition(*random_scene(seed, images=8, per_image=12, whole_pixels=whole_pixels))


@settings(max_examples=150, deadline=None)
@given(small_scenes())
def test_voc_equals_the_definition_on_any_small_scene(scene):
    assert_equals_definition(*scene)


def test_voc_equals_the_definition_where_nothing_is_found_or_nothing_is_there():
    targets, detections = random_scene(1, images=4, per_image=6)
    assert_equals_definition(targets, [Detections([], [], [], NAMES)] * 4)
    assert_equals_definition([Target([], [])] * 4, detections)


def test_evaluate_holds_the_same_figures_as_pycocotools():
    targets, detections = random_scene(5)
    metrics = evaluate(detections, targets, NAMES)
    original = pycocotools_eval(targets, detections)
    keys = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")
    assert [metrics[key] for key in keys] == pytest.approx(original.stats[:9].tolist(), abs=1e-6)


def test_a_results_file_scores_as_pycocotools_scores_it(shared_data, tmp_path):
    """Real annotations; detections are shaken copies of them in a file that each side reads by itself."""
    annotations = shared_data / "deeppcb" / "annotations" / "test.json"
    content = json.loads(annotations.read_text())
    images = {image["id"]: image for image in content["images"][:120]}
    classes = {category["id"]: c for c, category in enumerate(content["categories"])}
    rng = np.random.default_rng(0)
    results, objects = [], {image_id: [] for image_id in images}
    for annotation in content["annotations"]:
        if annotation["image_id"] in images:
            objects[annotation["image_id"]].append(annotation)
            shaken = (np.array(annotation["bbox"]) + rng.normal(0, 3, 4)).round(2).clip(1)
            category_id = annotation["category_id"] if rng.random() < 0.9 else int(rng.choice(list(classes)))
            result = {"image_id": annotation["image_id"], "category_id": category_id, "bbox": shaken.tolist()}
            results.append({**result, "score": round(rng.random(), 2)})
    rng.shuffle(results)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))

    def record(image_id):
        xywh = np.array([a["bbox"] for a in objects[image_id]], dtype=float).reshape(-1, 4)
        boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        labels = [classes[a["category_id"]] for a in objects[image_id]]
        target = Target(boxes, labels, areas=[a["area"] for a in objects[image_id]])
        return ImageRecord(image_id, Path(images[image_id]["file_name"]), 640, 640, target)

    names = tuple(category["name"] for category in content["categories"])
    records = tuple(record(image_id) for image_id in sorted(images))
    data = Dataset(shared_data / "deeppcb", "coco", "test", names, tuple(classes), records, ())
    metrics = evaluate(load_results(path, data), [r.target for r in records], names)

    truth = COCO(str(annotations))
    run = COCOeval(truth, truth.loadRes(str(path)), "bbox")
    run.params.imgIds = sorted(images)
    run.evaluate()
    run.accumulate()
    run.summarize()
    keys = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")
    assert 0.2 < metrics["AP"] < 0.8
    expected = [None if value == -1 else pytest.approx(value, abs=1e-6) for value in run.stats[:9]]
    assert [metrics[key] for key in keys] == expected
