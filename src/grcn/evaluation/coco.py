"""Average precision and recall by the COCO rule, through `faster-coco-eval`'s C++ (equal to pycocotools to 1e-6).

The rule (Lin et al. 2014, "Microsoft COCO", and its evaluation code) uses IoU 0.50 to 0.95 in steps of 0.05, precision
interpolated at 101 recalls, and at most 100 detections per image and class. In order of descending score, each
detection takes the free object that it overlaps most. Crowd objects are not counted, and detections inside them are
left out. Sizes are by `Target.areas`: small below 32^2 px, large above 96^2 px. COCO does not know `difficult`; such
objects count like any other.

Detections with equal scores keep their order (pycocotools uses mergesort): images in the given order, then the order
within an image. pycocotools sorts images by ascending id; give images in that order to get exactly its results.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from grcn.evaluation.voc import check_aligned
from grcn.types import Array, Detections, Target

COCO_IN_WORDS = (
    "COCO: 101-point AP, mean over IoU 0.50:0.05:0.95 if no IoU is named, 100 detections per image and class; "
    "detections of crowd objects are left out; difficult objects count as any other"
)
IOU = tuple(k / 100 for k in range(50, 100, 5))
MAX_DETECTIONS = (1, 10, 100)


@dataclass(frozen=True)
class CocoResult:
    """AP and AR by the COCO rule, 0..1. Classes without objects (of a size) are NaN and left out of means.

    Args:
        ap: [10, C] at each IoU of `IOU`, all sizes.
        ap_by_size: [3, C] small, medium, large; mean over IoU.
        ar: [3, C] with at most 1, 10, 100 detections per image; mean over IoU.
        ar_by_size: [3, C] small, medium, large; at most 100 detections per image.
    """

    ap: Array
    ap_by_size: Array
    ar: Array
    ar_by_size: Array

    def at(self, iou: float) -> Array:
        """[C] AP at one of the ten IoUs."""
        return np.asarray(self.ap[IOU.index(iou)])

    def summary(self) -> dict[str, float]:
        """Means over the classes: AP, AP50, AP70, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl."""
        return {
            "AP": nan_mean(self.ap),
            **{f"AP{percent}": nan_mean(self.at(percent / 100)) for percent in (50, 70, 75)},
            **{f"AP{size}": nan_mean(ap) for size, ap in zip("sml", self.ap_by_size, strict=True)},
            **{f"AR{most}": nan_mean(ar) for most, ar in zip(MAX_DETECTIONS, self.ar, strict=True)},
            **{f"AR{size}": nan_mean(ar) for size, ar in zip("sml", self.ar_by_size, strict=True)},
        }


def coco_ap(targets: Sequence[Target], detections: Sequence[Detections], num_classes: int) -> CocoResult:
    """AP and AR by the COCO rule (described at the top of this module).

    Args:
        targets: the annotated objects of each image.
        detections: the detections in each image, in the same order.
        num_classes: C; labels and class ids are 0..C-1.

    Raises:
        DataError: if images do not correspond or a class id is beyond C.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    check_aligned(targets, detections, num_classes)
    if not targets or not num_classes:  # the library needs one of each
        nothing = np.full((3, num_classes), np.nan)
        return CocoResult(np.full((len(IOU), num_classes), np.nan), nothing, nothing, nothing)
    common = {
        "images": [{"id": image_id} for image_id in range(1, len(targets) + 1)],
        "categories": [{"id": category_id} for category_id in range(1, num_classes + 1)],
    }
    with _no_collection():
        # Results are given as a second data set: `COCO.loadRes` would add a polygon to every one of them.
        truth = COCO({**common, "annotations": _annotations(targets)}, print_function=_mute)
        found = COCO({**common, "annotations": _results(detections)}, print_function=_mute)
        run = COCOeval_faster(truth, found, iouType="bbox", print_function=_mute)
        run.params.maxDets = list(MAX_DETECTIONS)
        run.evaluate()
        run.accumulate()
    # [IoU 10, recall 101, class C, size 4, most 3] and [10, C, 4, 3]; -1 where there is no object, size 0 is all.
    precision = np.where(run.eval["precision"] < 0, np.nan, run.eval["precision"])
    recall = np.where(run.eval["recall"] < 0, np.nan, run.eval["recall"])
    return CocoResult(
        ap=precision[..., 0, -1].mean(axis=1),
        ap_by_size=precision[..., 1:, -1].mean(axis=(0, 1)).T,
        ar=recall[..., 0, :].mean(axis=0).T,
        ar_by_size=recall[..., 1:, -1].mean(axis=0).T,
    )


def nan_mean(values: Array) -> float:
    """The mean without NaN values; NaN if there are no others."""
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if counted.size else float("nan")


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector would walk the dictionaries of all detections again and again: a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _mute(*_: Any) -> None:
    """In place of the library's print."""


def _xywh(boxes: Array) -> list[list[float]]:
    boxes = boxes.astype(np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()  # type: ignore[no-any-return]


def _annotations(targets: Sequence[Target]) -> list[dict[str, Any]]:
    """The objects in COCO's form. All ids start at 1 (for COCO, 0 means unmatched)."""
    annotations: list[dict[str, Any]] = []
    for image_id, target in enumerate(targets, start=1):
        for box, label, crowd, area in zip(
            _xywh(target.boxes), target.labels.tolist(), target.crowd.tolist(), target.areas.tolist(), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    return annotations


def _results(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    for image_id, found in enumerate(detections, start=1):
        for box, class_id, score in zip(
            _xywh(found.boxes), found.class_ids.tolist(), found.scores.tolist(), strict=True
        ):
            results.append(
                {
                    "id": len(results) + 1,
                    "image_id": image_id,
                    "category_id": class_id + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "score": score,
                    "iscrowd": 0,
                }
            )
    return results
