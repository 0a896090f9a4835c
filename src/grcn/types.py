"""The types of the package's interfaces: annotated objects (`Target`) and detected objects (`Detections`).

Both hold numpy arrays and are validated once, at construction. Reading data and running an exported detector thus need
no torch.

Conventions, everywhere: boxes are float32 `x1, y1, x2, y2` in pixels of the original image, half-open,
`0 <= x1 < x2 <= width`; class ids are `0..C-1`. Background exists only inside the model.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grcn.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    import supervision

Array = NDArray[Any]


def import_supervision() -> ModuleType:
    """The `supervision` package, without its warning that OpenCV is not installed: nothing here needs that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "OpenCV .* is not installed", UserWarning)
        import supervision
    return supervision


def duplicate(class_names: Sequence[str]) -> str | None:
    """The first class name that occurs twice; None if all differ."""
    seen: set[str] = set()
    for name in class_names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _array(name: str, value: ArrayLike, dtype: Any, shape: tuple[int, ...]) -> Array:
    try:
        array = np.asarray(value, dtype=dtype)
        array = array.reshape(shape) if array.size == 0 else array
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: not an array of {np.dtype(dtype).name}: {error}") from None
    if array.shape != shape:
        raise DataError(f"{name}: shape {array.shape}, expected {shape}")
    return array


def _check_boxes(name: str, boxes: Array) -> None:
    """Raises DataError naming the first box that is not finite or has no area."""
    bad = ~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    if bad.any():
        index = int(np.flatnonzero(bad)[0])
        raise DataError(f"{name}[{index}] = {boxes[index].tolist()}: needs finite x1 < x2 and y1 < y2")


@dataclass(frozen=True)
class Target:
    """The objects annotated in one image.

    Args:
        boxes: [N, 4] float32, xyxy pixels of the original image.
        labels: [N] int64, class ids 0..C-1.
        difficult: [N] bool, VOC's flag; neither rewarded nor punished by the VOC rule. Default: all False.
        crowd: [N] bool, COCO's `iscrowd`; never trained on, ignored in scoring by the COCO rule. Default: all False.
        areas: [N] float32, COCO's `area` (of the segment if there is one), used for its size classes.
            Default: the boxes' areas.

    Raises:
        DataError: if lengths differ, a box is not finite or has no area, or a label is negative.
    """

    boxes: Array
    labels: Array
    difficult: Array = field(default=None)  # type: ignore[arg-type]
    crowd: Array = field(default=None)  # type: ignore[arg-type]
    areas: Array = field(default=None)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        n = len(self.boxes)
        boxes = _array("boxes", self.boxes, np.float32, (n, 4))
        _check_boxes("boxes", boxes)
        labels = _array("labels", self.labels, np.int64, (n,))
        if (labels < 0).any():
            raise DataError(f"labels[{int(np.flatnonzero(labels < 0)[0])}] is negative; class ids are 0..C-1")
        falses = np.zeros(n, dtype=bool)
        difficult = falses if self.difficult is None else _array("difficult", self.difficult, bool, (n,))
        crowd = falses if self.crowd is None else _array("crowd", self.crowd, bool, (n,))
        box_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        areas = box_areas if self.areas is None else _array("areas", self.areas, np.float32, (n,))
        for name, value in (
            ("boxes", boxes),
            ("labels", labels),
            ("difficult", difficult),
            ("crowd", crowd),
            ("areas", areas),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Detections:
    """The objects found in one image, by descending score.

    Args:
        boxes: [N, 4] float32, xyxy pixels of the source image.
        scores: [N] float32 in 0..1.
        class_ids: [N] int64, 0..C-1.
        class_names: the C names.
        track_ids: [N] int64, the number of the tracked object in a video, or -1 if it is not tracked (yet). None if
            objects are not tracked.

    Raises:
        DataError: if lengths differ, a box or score is not finite, or a class id has no name.
    """

    boxes: Array
    scores: Array
    class_ids: Array
    class_names: tuple[str, ...]
    track_ids: Array | None = None

    def __post_init__(self) -> None:
        n = len(self.boxes)
        boxes = _array("boxes", self.boxes, np.float32, (n, 4))
        if not np.isfinite(boxes).all():
            raise DataError("boxes: not finite")
        scores = _array("scores", self.scores, np.float32, (n,))
        if not np.isfinite(scores).all():
            raise DataError("scores: not finite")
        class_ids = _array("class_ids", self.class_ids, np.int64, (n,))
        if n and not (class_ids.min() >= 0 and class_ids.max() < len(self.class_names)):
            raise DataError(f"class_ids: outside 0..{len(self.class_names) - 1}, the ids of the class names")
        order = np.argsort(-scores, kind="stable")
        object.__setattr__(self, "boxes", boxes[order])
        object.__setattr__(self, "scores", scores[order])
        object.__setattr__(self, "class_ids", class_ids[order])
        if self.track_ids is not None:
            object.__setattr__(self, "track_ids", _array("track_ids", self.track_ids, np.int64, (n,))[order])
        object.__setattr__(self, "class_names", tuple(self.class_names))

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def names(self) -> list[str]:
        """The class name of each detection, [N]."""
        return [self.class_names[i] for i in self.class_ids]

    @classmethod
    def from_supervision(cls, detections: supervision.Detections, class_names: Sequence[str]) -> Detections:
        """Converts detections of the `supervision` package, for instance from another detector or after its filters.

        Args:
            detections: detections with scores, and with class names (`data["class_name"]`) or class ids.
            class_names: the C names. Names are matched to them, and ids are indices into them.

        Raises:
            DataError: on detections without scores or classes, or of a class that is not among the names.
        """
        names = detections.data.get("class_name")
        if detections.confidence is None or (names is None and detections.class_id is None):
            raise DataError("supervision detections without scores (confidence) or classes (class_id)")
        class_ids = np.asarray(detections.class_id)
        if names is not None:
            unknown = next((name for name in names if name not in class_names), None)
            if unknown is not None:
                raise DataError(f"class_name: '{unknown}' is not one of the class names ({', '.join(class_names)})")
            class_ids = np.array([list(class_names).index(name) for name in names], dtype=np.int64)
        tracks = None if detections.tracker_id is None else detections.tracker_id.copy()
        return cls(detections.xyxy.copy(), detections.confidence.copy(), class_ids, tuple(class_names), tracks)

    def above(self, score: float | Array) -> Detections:
        """The detections whose score is at least `score`, which is one number, or [C] float32, one per class."""
        keep = self.scores >= (score[self.class_ids] if isinstance(score, np.ndarray) else score)
        tracks = None if self.track_ids is None else self.track_ids[keep]
        return Detections(self.boxes[keep], self.scores[keep], self.class_ids[keep], self.class_names, tracks)

    def to_coco(self, image_id: int | str, category_ids: tuple[int, ...] | None = None) -> list[dict[str, Any]]:
        """COCO results: one dict per detection, `bbox` as x, y, width, height; with `track_id` after tracking.

        Args:
            image_id: the image's id in the COCO file.
            category_ids: the COCO category id of each class, [C]. Default: class id + 1, as COCO counts from 1.
        """
        ids = category_ids or tuple(range(1, len(self.class_names) + 1))
        tracks: list[dict[str, int | None]] = [{}] * len(self)
        if self.track_ids is not None:
            tracks = [{"track_id": track if track >= 0 else None} for track in self.track_ids.tolist()]
        return [
            {
                "image_id": image_id,
                "category_id": ids[class_id],
                "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
                "score": float(score),
                **track,
            }
            for (x1, y1, x2, y2), score, class_id, track in zip(
                self.boxes.astype(np.float64), self.scores, self.class_ids, tracks, strict=True
            )
        ]

    def to_supervision(self) -> supervision.Detections:
        """The same detections for the `supervision` package (drawing, tracking, export)."""
        found: supervision.Detections = import_supervision().Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.class_ids.copy(),
            tracker_id=None if self.track_ids is None else self.track_ids.copy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )
        return found
