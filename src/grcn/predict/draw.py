"""Draws detections on pictures, so that they are readable on small and large ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from grcn import fonts
from grcn.types import Array, Detections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Dark enough for white text on them, told apart also where red and green are not (by lightness).
PALETTE = ("#c2271f", "#1f5fb4", "#1b7f3a", "#8a3fb5", "#b85c00", "#0e7490", "#b0186b", "#5b6b12", "#6f4326", "#374151")
MIN_SIDE = 512
"""Pictures whose longer side is shorter are enlarged to it, so that labels leave something to see."""

# What a label's place costs by the share of it that lies on each.
_ON_LABELS, _ON_ITS_OBJECT, _ON_OTHERS = 12.0, 10.0, 1.0


def draw_detections(image: NDArray[np.uint8], detections: Detections, view: int | None = None) -> NDArray[np.uint8]:
    """Returns a copy of the picture with the box, class name and score of each detection, and its track number if any.

    Labels lie inside the picture and do not overlap each other; a label lies beside its box if there is room. If no
    installed font has the letters of a class name, the class is shown by its number (`grcn.fonts`).

    Args:
        image: [H, W, 3] uint8 RGB.
        detections: detections in pixels of the picture; the one with the highest score is drawn last, on top.
        view: longer side, in pixels, of the part that is viewed at once; lines and letters are sized for it. None: the
            whole picture.

    Returns:
        [H', W', 3] uint8 RGB; larger than `image` where its longer side is below `MIN_SIDE`.
    """
    tracks = [-1] * len(detections) if detections.track_ids is None else detections.track_ids.tolist()
    marks = [
        Mark(class_id, f"{score:.2f}", PALETTE[class_id % len(PALETTE)], f"#{track}" if track >= 0 else "")
        for class_id, score, track in zip(detections.class_ids.tolist(), detections.scores, tracks, strict=True)
    ]
    return draw_marks(image, detections.boxes, marks, detections.class_names, view=view)


class Mark(NamedTuple):
    """How a box is drawn.

    Args:
        class_id: the class whose name is on the label.
        note: text after the name.
        color: color of box and label, as `#rrggbb`.
        word: text before the name.
    """

    class_id: int
    note: str
    color: str
    word: str = ""


def draw_marks(
    image: NDArray[np.uint8],
    boxes: Array,
    marks: Sequence[Mark],
    class_names: tuple[str, ...],
    thin: Sequence[tuple[Array, str]] = (),
    view: int | None = None,
) -> NDArray[np.uint8]:
    """Returns a copy of the picture with boxes and their labels, as in `draw_detections`.

    Args:
        image: [H, W, 3] uint8 RGB.
        boxes: [N, 4] in pixels of the picture; the first is drawn last, on top.
        marks: how each box is drawn.
        class_names: the C names.
        thin: boxes [M, 4] that are drawn thinner, without a label and below the others, and their color.
        view: as in `draw_detections`.
    """
    height, width = image.shape[:2]
    scale = max(1.0, MIN_SIDE / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    picture = image.copy() if scale == 1 else np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    view = min(view or max(size), max(size))
    thickness = max(2, round(view / 500))
    for others, color in thin:
        for box in _outlines(others * scale, size, thickness // 2).tolist():
            _draw_box(picture, box, thickness // 2, ImageColor.getrgb(color))
    if not marks:
        return picture
    outlines = _outlines(boxes * scale, size, thickness)
    labels = _labels(marks, class_names, max(12, round(view / 55)), size[0])
    places = _places(outlines, np.array([(label.width, label.height) for label in labels]), size)
    colors = [ImageColor.getrgb(mark.color) for mark in marks]
    first_last = range(len(labels) - 1, -1, -1)
    for i in first_last:
        _draw_box(picture, outlines[i].tolist(), thickness, colors[i])
    for i in first_last:
        x, y = places[i].tolist()
        tile = _draw_label(labels[i], colors[i])[: size[1] - y, : size[0] - x]
        picture[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return picture


def _draw_box(picture: NDArray[np.uint8], box: Sequence[int], thickness: int, color: tuple[int, ...]) -> None:
    """Draws the lines of a box, inwards from its outermost pixels; parts outside the picture are left out."""
    left, top, right, bottom = (max(value, 0) for value in (box[0], box[1], box[2] + 1, box[3] + 1))
    lines = (
        (left, top, right, min(box[1] + thickness, bottom)),
        (left, max(box[3] + 1 - thickness, top), right, bottom),
        (left, top, min(box[0] + thickness, right), bottom),
        (max(box[2] + 1 - thickness, left), top, right, bottom),
    )
    for x1, y1, x2, y2 in lines:
        picture[y1 : max(y2, 0), x1 : max(x2, 0)] = color


def _draw_label(label: _Label, color: tuple[int, ...]) -> NDArray[np.uint8]:
    """A label as a picture of its own, [height, width, 3]."""
    tile = Image.new("RGB", (label.width, label.height), color)
    where = (label.padding, label.padding // 2)
    ImageDraw.Draw(tile).text(where, label.text, fill="white", font=label.font)
    return np.asarray(tile)


class _Label(NamedTuple):
    text: str
    font: ImageFont.FreeTypeFont
    width: int
    height: int
    padding: int


def _labels(marks: Sequence[Mark], class_names: tuple[str, ...], font_size: int, most: int) -> list[_Label]:
    """The text on the label of each mark, at most `most` pixels wide if possible."""
    names = fonts.drawable(class_names)
    at_hand, padding = fonts.fonts_for(names), max(2, font_size // 5)
    labels = []
    for mark in marks:
        name = names[mark.class_id]
        font = fonts.load(at_hand.path(name), font_size)
        text = f"{mark.word} {name} {mark.note}".strip()
        while name and font.getlength(text) + 2 * padding > most:
            name = name[: -max(1, len(name) // 10)]
            text = f"{mark.word} {name}… {mark.note}".strip()
        width, height = round(font.getlength(text)) + 2 * padding, sum(font.getmetrics()) + padding
        labels.append(_Label(text, font, width, height, padding))
    return labels


def _outlines(boxes: Array, size: tuple[int, int], thickness: int) -> Array:
    """The first and last pixels of the boxes' lines, [N, 4] int64: left, top, right, bottom."""
    beyond = 2.0 * max(size)  # far outside, and no number too large for an integer
    corners = np.clip(boxes, -beyond, beyond).astype(np.int64)
    first, last = np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])
    return np.concatenate([first - thickness // 2, last + (thickness - 1) // 2], axis=1)


def _places(boxes: Array, sizes: Array, size: tuple[int, int]) -> Array:
    """The places of the labels, [N, 2] int64: left and top. The first label gets the best place for it.

    Args:
        boxes: [N, 4], from `_outlines`.
        sizes: [N, 2], width and height of the labels.
        size: width and height of the picture.
    """
    areas = np.concatenate([boxes[:, :2], boxes[:, 2:] + 1], axis=1)  # half-open
    taken = np.empty_like(areas)
    for i, ((left, top, right, bottom), (w, h)) in enumerate(zip(areas.tolist(), sizes.tolist(), strict=True)):
        beside = [(left, top - h), (right - w, top - h), (right, top), (left - w, top)]
        beside += [(left, bottom), (right - w, bottom), (right, bottom - h), (left - w, bottom - h), (left, top)]
        first = np.clip(beside, 0, (max(size[0] - w, 0), max(size[1] - h, 0)))
        label = np.concatenate([first, first + np.array((w, h))], axis=1)  # [9, 4]
        on_boxes = _shared(label, areas)
        cost = _ON_OTHERS * on_boxes.sum(axis=1) + (_ON_ITS_OBJECT - _ON_OTHERS) * on_boxes[:, i]
        cost += _ON_LABELS * _shared(label, taken[:i]).sum(axis=1)
        taken[i] = label[int(cost.argmin())]
    return taken[:, :2]


def _shared(areas: Array, others: Array) -> Array:
    """The number of pixels that each of [M, 4] areas shares with each of [N, 4] other areas: [M, N]."""
    first = np.maximum(areas[:, None, :2], others[:, :2])
    last = np.minimum(areas[:, None, 2:], others[:, 2:])
    shared: Array = np.clip(last - first, 0, None).prod(axis=2)
    return shared
