"""`grcn evaluate`: a run, or anyone's results file, against the annotations of a data set."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grcn.data.formats.fiftyone import write_fiftyone
from grcn.data.records import AnnotatedImage
from grcn.data.results import load_results
from grcn.errors import AnnotationError
from grcn.types import Detections

if TYPE_CHECKING:
    from grcn.data.dataset import Dataset

KEY = "images.json"
"""What `grcn predict` writes beside its results: which images and classes the ids in them mean."""


@dataclass(frozen=True)
class ResultsKey:
    """What the ids in a results file of `grcn predict` mean.

    Args:
        class_names: [C] in the order of the categories.
        category_ids: [C] their ids.
        images: per image id, the file's name and its whole path (None for standard input).
        complete: false where `grcn predict` was stopped, or has not ended yet.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: dict[int, tuple[str, str | None]]
    complete: bool = True


def read_key(path: Path) -> ResultsKey:
    """Reads an `images.json` that `grcn predict` wrote.

    Raises:
        AnnotationError: where it is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return ResultsKey(
            tuple(str(category["name"]) for category in content["categories"]),
            tuple(int(category["id"]) for category in content["categories"]),
            {int(image["id"]): (str(image["file_name"]), image.get("path")) for image in content["images"]},
            bool(content.get("complete", True)),
        )
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise AnnotationError(
            f"{path}: not the list of images that `grcn predict` writes ({type(error).__name__}: {error}); "
            "move it away if the results are someone else's"
        ) from None


def load_own_results(path: Path, key: ResultsKey, dataset: Dataset) -> tuple[list[Detections], int]:
    """Detections from the results of `grcn predict`, whose images are found by path, else by file name.

    Args:
        path: the results file.
        key: of these results.
        dataset: opened with the key's class names.

    Returns:
        Detections aligned with the records, and how many of the predicted images are not among the records: their
        detections are left out.

    Raises:
        AnnotationError: where none of the predicted images is among the records, or the file is broken.
    """
    by_path = {str(record.path.resolve()): i for i, record in enumerate(dataset.records)}
    by_name = {record.path.name: i for i, record in enumerate(dataset.records)}
    shared = Counter(record.path.name for record in dataset.records) + Counter(name for name, _ in key.images.values())
    # Of a run that was killed, the last results may be of images that are not listed yet.
    image_of: dict[Any, int | None] = {} if key.complete else defaultdict(lambda: None)
    for image_id, (name, whole) in key.images.items():
        image_of[image_id] = by_path.get(str(whole))
        if image_of[image_id] is None and shared[name] == 2:  # one image here and one there, so it is the same
            image_of[image_id] = by_name.get(name)
    missing = sum(image is None for image in image_of.values())
    if missing == len(image_of):
        raise AnnotationError(
            f"{path}: none of its {missing} images is in {dataset.root} ({dataset.split}); predict on that split"
        )
    class_of: dict[Any, int] = {category_id: i for i, category_id in enumerate(key.category_ids)}
    return load_results(path, dataset, image_of=image_of, class_of=class_of), missing


def coco_results(detections: list[Detections], dataset: Dataset) -> list[dict[str, Any]]:
    """The detections of a data set's images as COCO results with the data set's own ids."""
    return [
        result
        for found, record in zip(detections, dataset.records, strict=True)
        for result in found.to_coco(record.image_id, dataset.category_ids)
    ]


def save_fiftyone(folder: Path, detections: Sequence[Detections], dataset: Dataset) -> None:
    """Writes samples.json, which FiftyOne imports (`grcn.data.formats.fiftyone`); it names the images where they lie.

    Args:
        folder: made where absent.
        detections: of each of the data set's images: the field `predictions`; its objects are `ground_truth`.
        dataset: the data set.
    """
    samples = []
    for record, found in zip(dataset.records, detections, strict=True):
        name, height, width = record.path.name, record.height, record.width
        truth = AnnotatedImage(name, height, width, record.target.boxes, record.target.labels.tolist())
        guess = AnnotatedImage(name, height, width, found.boxes, found.class_ids.tolist(), found.scores.tolist())
        samples.append((record.path.resolve(), {"ground_truth": truth, "predictions": guess}))
    folder.mkdir(parents=True, exist_ok=True)
    write_fiftyone(folder / "samples.json", samples, dataset.class_names)
