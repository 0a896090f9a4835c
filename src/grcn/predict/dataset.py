"""Runs a detector on a whole data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from grcn.data.records import ImageRecord
from grcn.errors import DataError, ImageError
from grcn.types import Detections

if TYPE_CHECKING:
    from grcn.data.records import Dataset
    from grcn.predict.detector import Detector


def predict_dataset(
    detector: Detector,
    dataset: Dataset,
    *,
    batch_size: int = 1,
    workers: int = 2,
    score: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_broken: Callable[[ImageRecord, ImageError], None] | None = None,
) -> list[Detections]:
    """Runs a detector on every image of a data set.

    Args:
        detector: the detector.
        dataset: the data set, opened with the detector's class names.
        batch_size, workers: as in `Detector.stream`.
        score: lowest score that is kept. None: the model's own threshold, which is low (0.05 in every preset), since AP
            needs nearly all detections.
        progress: called with the number of images done and of all images.
        on_broken: called with the error of each image that cannot be read. The image then counts as one without
            detections, so that skipping never improves a result. Default: the error is raised, since results on fewer
            images are not those of the data set.

    Returns:
        Detections aligned with `dataset.records`, ready for `grcn.evaluation.evaluate` with the records' targets.

    Raises:
        ImageError: on an image that cannot be read, without `on_broken`.
        DataError: if the detector and the data set have different classes.
    """
    if detector.class_names != dataset.class_names:
        raise DataError(
            f"{dataset.root}: classes {list(dataset.class_names)} are not the detector's "
            f"{list(detector.class_names)}: open the data set with the detector's class names"
        )
    found: list[Detections] = []
    results = detector.stream(
        dataset.records, score=score, batch_size=batch_size, workers=workers, read=ImageRecord.pixels
    )
    for record, result in results:
        if isinstance(result, ImageError):
            if on_broken is None:
                raise result
            on_broken(record, result)
            result = Detections(np.empty((0, 4)), np.empty(0), np.empty(0), dataset.class_names)
        found.append(result)
        if progress is not None:
            progress(len(found), len(dataset))
    return found
