"""A detector over a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from grcn.errors import DataError, ImageError
from grcn.types import Detections

if TYPE_CHECKING:
    from grcn.data.dataset import Dataset, ImageRecord


class Predictor(Protocol):
    """What is needed of a detector; `grcn.predict.detector.Detector` is one."""

    def predict(self, images: list[Path], *, score: float | None, batch_size: int) -> Sequence[Detections]:
        """The detections of each image, at least `score` (None: the model's own threshold)."""


def evaluate_detector(
    detector: Predictor,
    dataset: Dataset,
    *,
    batch_size: int = 1,
    score: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_broken: Callable[[ImageRecord, ImageError], None] | None = None,
) -> list[Detections]:
    """Run a detector over every image of a data set.

    Args:
        detector: anything with `predict(paths, score=..., batch_size=...)`.
        dataset: opened with the detector's class names.
        batch_size: images at a time.
        score: lowest score kept; None: the model's own threshold, which is low (0.05 in every preset), since AP wants
            nearly all detections.
        progress: called after each batch with images done and images in all.
        on_broken: what to do with an image that cannot be read. Default: raise, since a figure over fewer images is not
            the data set's. When given, it is told of each, and the image counts as one in which nothing was found, so
            that skipping never improves a figure.

    Returns:
        Detections aligned with `dataset.records`, ready for `evaluate` with the records' targets.

    Raises:
        ImageError: on an image that cannot be read, without `on_broken`.
        DataError: when the detector's classes are not the data set's.
    """
    records = dataset.records
    found: list[Detections] = []
    for start in range(0, len(records), batch_size):
        batch = records[start : start + batch_size]
        try:
            found += detector.predict([r.checked_path() for r in batch], score=score, batch_size=batch_size)
        except ImageError:
            if on_broken is None:
                raise
            # One of them is broken: one by one, to lose no other.
            found += [_predict_one(detector, record, score, dataset.class_names, on_broken) for record in batch]
        if found[start].class_names != dataset.class_names:
            raise DataError(
                f"{dataset.root}: classes {list(dataset.class_names)} are not the detector's "
                f"{list(found[start].class_names)}: open the data set with the detector's class names"
            )
        if progress is not None:
            progress(len(found), len(records))
    return found


def _predict_one(
    detector: Predictor,
    record: ImageRecord,
    score: float | None,
    class_names: tuple[str, ...],
    on_broken: Callable[[ImageRecord, ImageError], None],
) -> Detections:
    try:
        return detector.predict([record.checked_path()], score=score, batch_size=1)[0]
    except ImageError as error:
        on_broken(record, error)
        return Detections(np.empty((0, 4)), np.empty(0), np.empty(0), class_names)
