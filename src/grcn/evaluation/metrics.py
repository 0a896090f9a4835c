"""All results of one evaluation, as the dictionary that becomes metrics.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from grcn.errors import DataError
from grcn.evaluation.coco import COCO_IN_WORDS, IOU, coco_ap, nan_mean
from grcn.evaluation.voc import DIFFICULT_IN_WORDS, MODE_IN_WORDS, VocResult, ap_key, match_voc
from grcn.types import Array, Detections, Target


def evaluate(
    detections: Sequence[Detections],
    targets: Sequence[Target],
    class_names: Sequence[str],
    *,
    iou: Sequence[float] = (0.5, 0.7),
) -> dict[str, Any]:
    """Scores detections by the COCO rule and by both modes of the VOC rule.

    Args:
        detections: the detections in each image.
        targets: the annotated objects of each image, in the same order.
        class_names: the C names; labels and class ids are 0..C-1 in this order.
        iou: IoU thresholds for the VOC sections, in (0, 1]; COCO's ten are fixed.

    Returns:
        JSON-ready values. All AP and AR are in 0..1, or None (null) if there is nothing to average:

        - `AP` (mean over IoU 0.50:0.95), `AP50`, `AP70`, `AP75`, `APs`, `APm`, `APl`, `AR1`, `AR10`, `AR100`, `ARs`,
          `ARm`, `ARl`: COCO-style means over the classes that have objects; `rule` describes them in words;
        - `AP_by_iou`: the mean at each of COCO's ten IoUs;
        - `images`, `objects` (not crowd), `difficult`, `crowd`, `detections`: counts;
        - `per_class`: for each name AP, AP50, AP70, AP75, objects, detections;
        - `classes_without_objects`: names left out of the means;
        - `voc_area`, `voc_11point`: for each IoU AP50, AP70, ... (mean over classes); `mode` and `difficult` in words;
          `per_class` the same with `objects` (neither difficult nor crowd); `classes_without_objects`.

    Raises:
        DataError: if images or class names do not correspond, or a class id is beyond C.
        ConfigError: on a threshold outside (0, 1].
    """
    names = tuple(class_names)
    _check_names(detections, names)
    coco = coco_ap(targets, detections, len(names))
    voc = match_voc(targets, detections, len(names), iou=iou)
    objects = _count([t.labels[~t.crowd] for t in targets], len(names))
    found_per_class = _count([d.class_ids for d in detections], len(names))
    columns = {"AP": coco.ap.mean(axis=0), "AP50": coco.at(0.5), "AP70": coco.at(0.7), "AP75": coco.at(0.75)}
    return {
        **{key: _json(value) for key, value in coco.summary().items()},
        "rule": COCO_IN_WORDS,
        "AP_by_iou": {ap_key(threshold): _json(nan_mean(coco.at(threshold))) for threshold in IOU},
        "images": len(targets),
        "objects": int(objects.sum()),
        "difficult": sum(int(t.difficult.sum()) for t in targets),
        "crowd": sum(int(t.crowd.sum()) for t in targets),
        "detections": int(found_per_class.sum()),
        "per_class": {
            name: {
                **{key: _json(values[c]) for key, values in columns.items()},
                "objects": int(objects[c]),
                "detections": int(found_per_class[c]),
            }
            for c, name in enumerate(names)
        },
        "classes_without_objects": [name for name, count in zip(names, objects, strict=True) if count == 0],
        "voc_area": _voc_section(voc.result("area"), names),
        "voc_11point": _voc_section(voc.result("11point"), names),
    }


def _check_names(detections: Sequence[Detections], names: tuple[str, ...]) -> None:
    if len(set(names)) != len(names):
        raise DataError(f"class names {list(names)}: each may occur only once")
    for image, found in enumerate(detections):
        if found.class_names != names:
            raise DataError(
                f"detections[{image}]: class names {list(found.class_names)} are not the data set's {list(names)}: "
                "open the data set with the model's class names"
            )


def _voc_section(result: VocResult, names: Sequence[str]) -> dict[str, Any]:
    keys = [ap_key(threshold) for threshold in result.matches.iou]
    objects = result.matches.objects
    return {
        **{key: _json(ap) for key, ap in zip(keys, result.mean_ap, strict=True)},
        "mode": MODE_IN_WORDS[result.mode],
        "difficult": DIFFICULT_IN_WORDS,
        "per_class": {
            name: {
                **{key: _json(ap) for key, ap in zip(keys, result.ap[:, c], strict=True)},
                "objects": int(objects[c]),
            }
            for c, name in enumerate(names)
        },
        "classes_without_objects": [name for name, count in zip(names, objects, strict=True) if count == 0],
    }


def _count(ids: Sequence[Array], num_classes: int) -> Array:
    """[C] how often each class id occurs."""
    return np.bincount(np.concatenate([np.empty(0, np.int64), *ids]), minlength=num_classes)


def _json(value: float) -> float | None:
    """A number for JSON: NaN, which JSON does not have, becomes null."""
    return None if math.isnan(value) else float(value)
