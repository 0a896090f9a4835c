"""FiftyOne: a folder of images with annotations and detections, which FiftyOne itself imports.

```python
import fiftyone as fo
dataset = fo.Dataset.from_dir("found/fiftyone", dataset_type=fo.types.LegacyFiftyOneDataset)
```
This is FiftyOne's own type for samples as plain JSON, with any number of fields of boxes. Its newer type is a copy of
its database. FiftyOne is not needed to write the folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grcn.data.formats.protocol import Writer
from grcn.data.records import AnnotatedImage
from grcn.files import write_json


def write_fiftyone(
    path: str | Path, samples: Iterable[tuple[str | Path, Mapping[str, AnnotatedImage]]], class_names: Sequence[str]
) -> None:
    """Writes the samples of a FiftyOne data set.

    Args:
        path: the file, `samples.json` in the folder to import; it is written completely or not at all.
        samples: for each image its path, absolute or relative to that folder, and its boxes by field, such as
            `ground_truth` and `predictions`.
        class_names: [C] names.
    """
    entries = [
        {"filepath": str(file), **{name: _detections(image, class_names) for name, image in fields.items()}}
        for file, fields in samples
    ]
    write_json(path, {"samples": entries})


def _detections(image: AnnotatedImage, class_names: Sequence[str]) -> dict[str, Any]:
    """Boxes as in FiftyOne: x, y, width, height as fractions of the image's sides."""
    boxes = np.asarray(image.boxes, dtype=np.float64).reshape(-1, 4)
    fractions = boxes / np.array([image.width, image.height] * 2, dtype=np.float64)
    detections: list[dict[str, Any]] = []
    for i, ((x1, y1, x2, y2), class_id) in enumerate(zip(fractions.tolist(), image.class_ids, strict=True)):
        item: dict[str, Any] = {
            "_cls": "Detection",
            "label": class_names[class_id],
            "bounding_box": [x1, y1, x2 - x1, y2 - y1],
        }
        if image.scores is not None:
            item["confidence"] = float(image.scores[i])
        detections.append(item)
    return {"_cls": "Detections", "detections": detections}


def _finish(folder: Path, images: Sequence[AnnotatedImage], class_names: Sequence[str], detector: str) -> None:
    samples = [(f"{WRITER.images}/{image.file_name}", {"predictions": image}) for image in images]
    write_fiftyone(folder / "samples.json", samples, class_names)


WRITER = Writer("data", _finish)
