"""The policy for unusual boxes, the same in every format.

| box | outcome |
|---|---|
| a coordinate that is NaN, infinite or beyond a million pixels | dropped, `box-not-finite` |
| second corner left of or above the first | dropped, `box-inverted` |
| no width or no height, in the file's own numbers | dropped, `box-no-area` |
| wholly outside the image | dropped, `box-outside` |
| a pixel or more outside the image | clipped to it, `box-clipped` |
| same corners and class as an earlier box of the image | dropped, `box-twice` |

Each of these boxes is counted and named. A box that reaches less than a pixel outside is clipped without being counted,
since that comes from rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LARGEST = 1e6  # pixels; no image has a longer side
UNCOUNTED = 1.0  # pixel; what reaches less outside is the rounding of whoever drew or wrote the box


@dataclass(frozen=True)
class BoxProblem:
    """A problem with one box: its index, a kind from the table above, and what was done."""

    index: int
    kind: str
    message: str


def clean_boxes(
    boxes: NDArray[np.float64],
    height: int | NDArray[np.int64],
    width: int | NDArray[np.int64],
    labels: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[BoxProblem]]:
    """Applies the policy to boxes.

    Args:
        boxes: [N, 4] xyxy pixels, half-open, as in the file.
        height, width: size of the image, or [N] the image size for each box.
        labels: [N] class ids; or [N, K], the values that must be equal, besides the corners, for boxes to be the same.

    Returns:
        boxes: [M, 4] float32, 0 <= x1 < x2 <= width, 0 <= y1 < y2 <= height.
        kept: [M] int64, their indices among the N.
        problems: the dropped and clipped boxes, by index.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    n = len(boxes)
    size = np.stack([np.broadcast_to(width, n), np.broadcast_to(height, n)], axis=1).astype(np.float64)  # [N, 2]
    first, second = boxes[:, :2], boxes[:, 2:]
    with np.errstate(invalid="ignore"):
        finite = _rows(np.abs(boxes) <= LARGEST)  # NaN compares as False
        inverted = ~_rows(~(second < first))
        empty = ~_rows(~(second <= first))
        outside = ~_rows((first < size) & (second > 0))
        inside = np.clip(boxes, 0, np.tile(size, 2))
        moved = ~_rows(np.abs(boxes - inside) < UNCOUNTED)
        clipped = inside.astype(np.float32)
    # A sliver can be lost to float32; it then has no area either.
    empty |= finite & ~outside & ~_rows(clipped[:, 2:] > clipped[:, :2])
    kept = finite & ~empty & ~outside
    twice = np.zeros(n, dtype=bool)
    if n > 1:
        twice[kept] = _seen_before(clipped[kept], labels.reshape(n, -1)[kept])

    problems = []
    for i in np.flatnonzero(~finite | empty | outside | moved | twice).tolist():
        image = f"the {size[i, 0]:g} x {size[i, 1]:g} image"
        if not finite[i]:
            kind, what = "box-not-finite", "is not finite or absurdly large: dropped"
        elif inverted[i]:
            kind, what = "box-inverted", "has its corners the wrong way round: dropped"
        elif empty[i]:
            kind, what = "box-no-area", "has no area: dropped"
        elif outside[i]:
            kind, what = "box-outside", f"lies outside {image}: dropped"
        elif twice[i]:
            kind, what = "box-twice", "is there twice, with the same class: dropped"
        else:
            kind, what = "box-clipped", f"reaches outside {image}: clipped"
        numbers = ", ".join(f"{v:g}" for v in boxes[i])
        problems.append(BoxProblem(i, kind, f"box [{numbers}] {what}"))
    indices = np.flatnonzero(kept & ~twice).astype(np.int64)
    return clipped[indices], indices, problems


def _rows(conditions: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether all of a row's conditions hold, [N, K] -> [N]."""
    rows: NDArray[np.bool_] = np.asarray(conditions.all(axis=1))
    return rows


def _seen_before(boxes: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a row of boxes [N, 4] and labels [N, K] equals an earlier one, [N]."""
    rows = np.concatenate([boxes + np.float32(0), labels], axis=1)  # float64 holds both; adding 0 makes -0 a 0
    data, size = rows.tobytes(), rows.itemsize * rows.shape[1]
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(data[i * size : (i + 1) * size], i) != i for i in range(len(rows))], dtype=bool)


def from_voc(corners: NDArray[np.float64], first: int = 1) -> NDArray[np.float64]:
    """Converts VOC's inclusive corners, [N, 4] xmin, ymin, xmax, ymax, to half-open xyxy.

    The first corner moves by one pixel. Corners that coincide or are inverted in the file do not move, so that such a
    box has no area, as in the other formats, and is not one pixel wide.

    Args:
        first: the number of the first pixel, 1 or 0. Corners that count from 0 are half-open already.
    """
    corners = np.asarray(corners, dtype=np.float64).reshape(-1, 4)
    with np.errstate(invalid="ignore"):
        degenerate = (corners[:, 2:] <= corners[:, :2]).any(axis=1, keepdims=True)
    return np.where(degenerate, corners, corners - np.array([first, first, 0.0, 0.0]))


def from_xywh(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Converts COCO's [N, 4] x, y, width, height to xyxy."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def from_yolo(
    boxes: NDArray[np.float64], height: int | NDArray[np.int64], width: int | NDArray[np.int64]
) -> NDArray[np.float64]:
    """Converts YOLO's [N, 4] centre x, y, width, height, as fractions of the image, to xyxy pixels.

    Args:
        height, width: size of the image, or [N] the image size for each box.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    with np.errstate(invalid="ignore", over="ignore"):
        half = boxes[:, 2:] / 2
        corners = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
        sides = np.stack([np.broadcast_to(width, len(boxes)), np.broadcast_to(height, len(boxes))], axis=1)
        return corners * np.tile(sides.astype(np.float64), 2)
