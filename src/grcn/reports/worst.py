"""Draws the photos with the most errors: missed objects, false detections and loose boxes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg

from grcn.errors import ImageError
from grcn.evaluation.errors import PhotoErrors, worst_first
from grcn.files import atomic_file
from grcn.palette import PALETTE
from grcn.predict.draw import Mark, draw_marks
from grcn.predict.job import MAX_JPEG
from grcn.types import Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from grcn.data.records import Dataset

FOLDER = "worst"
MISSED, FALSE, RIGHT, LOOSE = PALETTE[:4]  # blue, orange-red, green, pink
_MAX_STEM = 60  # characters, because a file name has at most 255 bytes


def draw_errors(image: NDArray[np.uint8], target: Target, errors: PhotoErrors) -> NDArray[np.uint8]:
    """A copy of the photo with its errors, each with its class.

    Missed objects are blue and false detections orange-red. Loose boxes are pink, with a thin line around the object.
    Correct detections have a thin green line.

    Args:
        image: [H, W, 3] uint8 RGB.
        target: the annotated objects.
        errors: the errors in this photo.
    """
    found, is_loose = errors.found, errors.loose >= 0

    def of_detections(rows: NDArray[np.bool_], word: str, color: str) -> list[Mark]:
        pairs = zip(found.class_ids[rows].tolist(), found.scores[rows], strict=True)
        return [Mark(class_id, f"{score:.2f}", color, word) for class_id, score in pairs]

    marks = of_detections(errors.false, "false", FALSE) + of_detections(is_loose, "loose", LOOSE)
    marks += [Mark(class_id, "", MISSED, "missed") for class_id in target.labels[errors.missed].tolist()]
    boxes = np.concatenate([found.boxes[errors.false], found.boxes[is_loose], target.boxes[errors.missed]])
    thin = [(found.boxes[errors.right], RIGHT), (target.boxes[errors.loose[is_loose]], LOOSE)]
    return draw_marks(image, boxes, marks, found.class_names, thin)


def write_worst(
    out: Path, dataset: Dataset, errors: Sequence[PhotoErrors], most: int, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Draws the photos with the most errors into the folder `worst` in `out`. Earlier pictures there are removed.

    Args:
        out: the folder of the report.
        dataset: the photos.
        errors: the errors in each photo.
        most: most photos to draw.
        tell: called with a message for each photo that cannot be decoded; such a photo is left out.

    Returns:
        For each picture: `file`, its path in `out`; `image`, the name of the photo; and the counts of right, loose,
        false and missed.
    """
    folder = out / FOLDER
    drawn: list[dict[str, Any]] = []
    for old in folder.glob("*.jpg") if folder.is_dir() else ():
        if re.match(r"\d{2,}-", old.name):
            old.unlink()
    for index in worst_first(errors):
        if len(drawn) == most:
            break
        record, photo = dataset.records[index], errors[index]
        try:
            picture = draw_errors(record.pixels(), record.target, photo)
            if max(picture.shape[:2]) > MAX_JPEG:
                raise ImageError(f"{record.path}: a JPEG has at most {MAX_JPEG} pixels per side")
        except ImageError as error:
            tell(f"not drawn: {error}")
            continue
        name = f"{len(drawn) + 1:02d}-{record.path.stem[:_MAX_STEM]}.jpg"
        with atomic_file(folder / name, durable=False) as file:
            file.write(simplejpeg.encode_jpeg(picture, quality=92, colorsubsampling="420"))
        drawn.append({"file": f"{FOLDER}/{name}", "image": record.path.name, **photo.counts})
    return drawn
