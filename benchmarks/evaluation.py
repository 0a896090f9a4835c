"""Seconds to score 5,000 images of 80 classes with 100 detections each, beside faster-coco-eval by itself.

    python benchmarks/evaluation.py [--images 5000] [--rounds 7] [--out FILE.json]

Ours begins with `Detections` and `Target` in memory, theirs with COCO's dictionaries; both end with AP at each IoU and
class. VOC AP is at ten IoUs, by area and by 11 points.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

import record
from grcn.evaluation.coco import IOU, coco_ap
from grcn.evaluation.voc import match_voc
from grcn.types import Detections, Target

CLASSES = 80
DETECTIONS = 100


def make(images: int) -> tuple[list[Target], list[Detections]]:
    """Objects as COCO has them, some seven an image; detections near them, and as many anywhere."""
    rng = np.random.default_rng(0)
    names = tuple(map(str, range(CLASSES)))
    targets, found = [], []
    for _ in range(images):
        count = int(rng.integers(1, 14))
        corner, sides = rng.uniform(0, 400, (count, 2)), rng.uniform(10, 200, (count, 2))
        boxes = np.concatenate((corner, corner + sides), axis=1).astype(np.float32)
        labels = rng.integers(0, CLASSES, count)
        targets.append(Target(boxes, labels))
        source = rng.integers(0, count, DETECTIONS)
        moved = boxes[source] + rng.normal(0, 12, (DETECTIONS, 4)).astype(np.float32)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        classes = np.where(rng.random(DETECTIONS) < 0.5, labels[source], rng.integers(0, CLASSES, DETECTIONS))
        scores = np.sort(rng.random(DETECTIONS).astype(np.float32))[::-1].copy()
        found.append(Detections(moved, scores, classes, names))
    return targets, found


def as_coco(targets: list[Target], found: list[Detections]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    annotations: list[dict[str, Any]] = []
    for image, target in enumerate(targets, 1):
        for (x1, y1, x2, y2), label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    truth = {
        "images": [{"id": image, "width": 640, "height": 640} for image in range(1, len(targets) + 1)],
        "categories": [{"id": c + 1, "name": str(c)} for c in range(CLASSES)],
        "annotations": annotations,
    }
    results = [
        {"image_id": image, "category_id": c + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for image, one in enumerate(found, 1)
        for (x1, y1, x2, y2), c, score in zip(
            one.boxes.tolist(), one.class_ids.tolist(), one.scores.tolist(), strict=True
        )
    ]
    return truth, results


def mute(*_: Any) -> None:
    """In place of the library's print."""


def faster_coco_eval(truth: dict[str, Any], results: list[dict[str, Any]]) -> np.ndarray:
    objects = COCO(truth, print_function=mute)
    run = COCOeval_faster(objects, objects.loadRes(results), iouType="bbox", print_function=mute)
    run.evaluate()
    run.accumulate()
    return np.asarray(run.eval["precision"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    targets, found = make(options.images)
    truth, results = as_coco(targets, found)

    def voc() -> list[Any]:
        matches = match_voc(targets, found, CLASSES, iou=IOU)
        return [matches.result(mode).mean_ap for mode in ("area", "11point")]

    jobs: dict[str, Callable[[], Any]] = {
        "faster-coco-eval": lambda: faster_coco_eval(truth, results),
        "COCO AP": lambda: coco_ap(targets, found, CLASSES),
        "VOC AP": voc,
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(options.rounds):
        for name, job in jobs.items():
            began = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = median["COCO AP"] / median["faster-coco-eval"]
    rows = [
        {"job": name, "seconds": round(median[name], 2), "target": target, "met": met}
        for name, target, met in (
            ("faster-coco-eval", "-", "-"),
            ("COCO AP", f"ratio {ratio:.2f}, at most 1.10", ratio <= 1.1),
            ("VOC AP", "3 s", median["VOC AP"] <= 3),
        )
    ]
    print(record.table(rows, list(rows[0])))
    if options.out:
        record.write(options.out, rows, images=options.images, seconds=seconds)


if __name__ == "__main__":
    main()
