"""Reads detections of any tool from a file in COCO's results format."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grcn.data.text import Id, by_id, unshared
from grcn.errors import AnnotationError
from grcn.types import Detections

if TYPE_CHECKING:
    from grcn.data.dataset import Dataset

MAX_BYTES = 1 << 30
_MAX_PIXEL = 1e7  # far beyond any image; float32 holds such a number to one pixel
_MAX_SCORE = 1e30  # scores need not be probabilities, but must fit float32


def load_results(
    path: str | Path,
    dataset: Dataset,
    *,
    image_of: Mapping[Id, int | None] | None = None,
    class_of: Mapping[Id, int] | None = None,
    max_bytes: int = MAX_BYTES,
) -> list[Detections]:
    """Reads a COCO results file: a JSON list of `{"image_id", "category_id", "bbox": [x, y, width, height], "score"}`,
    or a `.jsonl` file with one of these objects per line.

    `image_id` is the id in the record. If no two images share it, the file name of the image without suffix also works
    (for VOC, that is the id), and for an id of digits, such as VOC's "000005", the number 5. `category_id` is one of
    `dataset.category_ids`: the id in the file for COCO, otherwise 1..C in the order of the class names. Other keys are
    ignored. Boxes and scores become float32, and equal scores keep the order of the file. Boxes without area are kept;
    they match nothing.

    Args:
        path: the file, UTF-8. The last line of a `.jsonl` file counts only if it ends with a line break, since its
            writer may have been stopped.
        dataset: the data set that the detections are on.
        image_of: maps the image ids of the file to indices of records, if they are not as above; None for an image that
            is not in the data set, whose detections are left out.
        class_of: maps the category ids of the file to class ids, if they are not as above.
        max_bytes: a larger file is refused; parsing takes about ten times its size in memory.

    Returns:
        Detections aligned with `dataset.records`; none for images that the file does not name.

    Raises:
        AnnotationError: on a file that is not a JSON list, a missing key, an image or category that is not in the data
            set, numbers that are not finite, and a negative width or height. It names the file, the index of the result
            and the value.
    """
    path = Path(path)
    if image_of is None:
        image_of = _image_ids(dataset)
    if class_of is None:
        class_of = by_id((category_id, c) for c, category_id in enumerate(dataset.category_ids))
    images, classes, boxes, scores = [], [], [], []
    for index, result in enumerate(_read_list(path, max_bytes)):
        where = f"{path}: result {index}"
        if not isinstance(result, dict):
            raise AnnotationError(f"{where} is {_short(result)}: each must be an object with image_id, bbox, ...")
        image = _image(where, result, image_of, dataset)
        if image is None:
            continue
        images.append(image)
        classes.append(_class_id(where, result, class_of, dataset))
        boxes.append(_box(where, result))
        scores.append(_score(where, result))

    xywh = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    order = np.argsort(np.array(images, dtype=np.int64), kind="stable")
    ends = np.cumsum(np.bincount(np.array(images, dtype=np.int64), minlength=len(dataset.records)))
    all_scores, all_classes = np.array(scores), np.array(classes, dtype=np.int64)
    return [
        Detections(xyxy[rows], all_scores[rows], all_classes[rows], dataset.class_names)
        for rows in np.split(order, ends[:-1])
    ]


def _image(where: str, result: dict[str, Any], image_of: Mapping[Id, int | None], dataset: Dataset) -> int | None:
    image_id = _id(where, result, "image_id")
    try:
        return image_of[image_id]
    except KeyError:
        raise AnnotationError(
            f"{where}: image_id {_short(image_id)} is not an image of {dataset.root} ({dataset.split}): "
            "are these the results of another split?"
        ) from None


def _class_id(where: str, result: dict[str, Any], class_of: Mapping[Id, int], dataset: Dataset) -> int:
    class_id = class_of.get(_id(where, result, "category_id"))
    if class_id is None:
        raise AnnotationError(
            f"{where}: category_id {_short(result['category_id'])} is not one of the data set's "
            f"{_short(list(dataset.category_ids))}"
        )
    return class_id


def _read_list(path: Path, max_bytes: int) -> list[Any]:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > max_bytes or len(data := file.read(max_bytes + 1)) > max_bytes:
                raise AnnotationError(f"{path}: larger than {max_bytes} bytes: keep fewer detections, or split it")
        text = data.decode(json.detect_encoding(data))
        if path.suffix.lower() == ".jsonl":
            return [json.loads(line) for line in text[: text.rfind("\n") + 1].split("\n") if line.strip()]
        content = json.loads(text)
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise AnnotationError(f"{path}: nested too deeply for a list of COCO results") from None
    except ValueError as error:  # UnicodeDecodeError, JSONDecodeError, integers of thousands of digits
        raise AnnotationError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, list):
        hint = ", such as its 'annotations'" if isinstance(content, dict) and "annotations" in content else ""
        raise AnnotationError(f"{path}: a JSON {type(content).__name__}; COCO results are a list{hint}")
    return content


def _image_ids(dataset: Dataset) -> dict[Id, int]:
    """The index of a record for every id that a file may use for its image, without ids that two images share."""
    own: list[tuple[Id, int]] = [(record.image_id, i) for i, record in enumerate(dataset.records)]
    stems: list[tuple[Id, int]] = [(record.path.stem, i) for i, record in enumerate(dataset.records)]
    return {**by_id(own), **unshared(stems), **unshared(own)}


def _value(where: str, result: dict[str, Any], key: str) -> Any:
    if key not in result:
        raise AnnotationError(f"{where}: no {key}: box results need image_id, category_id, bbox and score")
    return result[key]


def _id(where: str, result: dict[str, Any], key: str) -> Id:
    value = _value(where, result, key)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise AnnotationError(f"{where}: {key} {_short(value)} is not an id")
    return value


def _score(where: str, result: dict[str, Any]) -> float:
    score = _value(where, result, "score")
    if not _is_number(score, _MAX_SCORE):
        raise AnnotationError(f"{where}: score {_short(score)} is not a finite number")
    return float(score)


def _box(where: str, result: dict[str, Any]) -> list[float]:
    box = _value(where, result, "bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value, _MAX_PIXEL) for value in box):
        raise AnnotationError(f"{where}: bbox {_short(box)} is not four finite numbers of pixels: x, y, width, height")
    if box[2] < 0 or box[3] < 0:
        raise AnnotationError(f"{where}: bbox {_short(box)} has a negative width or height: it is x, y, width, height")
    return box


def _is_number(value: object, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most


def _short(value: object) -> str:
    """A value from the file, short enough for one line."""
    return reprlib.repr(value)
