"""Detections drawn on pictures, readable on small and large ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from grcn import fonts
from grcn.palette import PALETTE
from grcn.types import Array, Detections

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MIN_SIDE = 512
"""Smaller pictures are enlarged to this longer side, in pixels, so that labels do not cover everything."""
LEAST_LETTERS = 13
"""The least size of letters, in pixels of the drawn picture."""


def ink(color: str) -> str:
    """`black` or `white`, whichever has the higher contrast with a colour by WCAG's measure.

    Args:
        color: as `#rrggbb`.
    """
    shares = np.array(ImageColor.getrgb(color)[:3]) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"


def draw_detections(image: NDArray[np.uint8], detections: Detections, view: int | None = None) -> NDArray[np.uint8]:
    """Returns a copy of the picture with the box, class name and score of each detection, and its track number if any.

    A label lies above its box, otherwise below or beside it, and inside the box only if there is no other room. It is
    completely in the picture and, if possible, covers no other label. Lines have an edge in the colour of their label's
    text, so that they are visible on any background. Classes whose names no font can write are called by their number
    (`grcn.fonts`).

    Args:
        image: [H, W, 3] uint8 RGB.
        detections: detections in pixels of the picture; the one with the highest score is drawn last, on top.
        view: longer side, in pixels, of the part that is viewed at once; lines and letters are sized for it. None: the
            whole picture.

    Returns:
        [H', W', 3] uint8 RGB; larger than `image` if its longer side is below `MIN_SIDE`.
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
    view = min(view or max(size), max(size), 4 * min(size))  # a long strip is viewed in parts
    thickness = max(2, round(view / 500))
    for others, color in thin:
        for box in _outlines(others * scale, size, thickness // 2).tolist():
            _draw_lines(picture, box, thickness // 2, ImageColor.getrgb(color))
    if not marks:
        return picture
    outlines = _outlines(boxes * scale, size, thickness)
    labels = _labels(marks, class_names, max(LEAST_LETTERS, round(view / 50)), size[0])
    edges = outlines + _edge(thickness) * np.array((-1, -1, 1, 1))
    places = _places(edges, np.array([(label.width, label.height) for label in labels]), size)
    first_last = range(len(labels) - 1, -1, -1)
    for i in first_last:
        _draw_box(picture, outlines[i].tolist(), thickness, marks[i].color)
    for i in first_last:
        x, y = places[i].tolist()
        tile = _draw_label(labels[i], marks[i].color)[: size[1] - y, : size[0] - x]
        picture[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return picture


def _edge(thickness: int) -> int:
    """The thickness of the edge of a line."""
    return max(1, thickness // 3)


def _draw_box(picture: NDArray[np.uint8], box: Sequence[int], thickness: int, color: str) -> None:
    """Draws the lines of a box, inwards from its first and last pixels, and an edge around them."""
    edge, (left, top, right, bottom) = _edge(thickness), box
    around = (left - edge, top - edge, right + edge, bottom + edge)
    _draw_lines(picture, around, edge, ImageColor.getrgb(ink(color)))
    _draw_lines(picture, box, thickness, ImageColor.getrgb(color))


def _draw_lines(picture: NDArray[np.uint8], box: Sequence[int], thickness: int, color: tuple[int, ...]) -> None:
    """Draws the four lines of a box, inwards from its first and last pixels, without parts outside the picture."""
    left, top, right, bottom = (max(value, 0) for value in (box[0], box[1], box[2] + 1, box[3] + 1))
    lines = (
        (left, top, right, min(box[1] + thickness, bottom)),
        (left, max(box[3] + 1 - thickness, top), right, bottom),
        (left, top, min(box[0] + thickness, right), bottom),
        (max(box[2] + 1 - thickness, left), top, right, bottom),
    )
    for x1, y1, x2, y2 in lines:
        picture[y1 : max(y2, 0), x1 : max(x2, 0)] = color


def _draw_label(label: _Label, color: str) -> NDArray[np.uint8]:
    """A label as a separate picture, [height, width, 3]."""
    tile = Image.new("RGB", (label.width, label.height), color)
    where = (label.padding, label.padding // 2)
    ImageDraw.Draw(tile).text(where, label.text, fill=ink(color), font=label.font)
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
    beyond = 2.0 * max(size)  # far outside the picture, but small enough for an integer
    corners = np.clip(boxes, -beyond, beyond).astype(np.int64)
    first, last = np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])
    return np.concatenate([first - thickness // 2, last + (thickness - 1) // 2], axis=1)


def _places(boxes: Array, sizes: Array, size: tuple[int, int]) -> Array:
    """The places of the labels, [N, 2] int64: left and top. The first label gets the best place for it.

    The best place covers least of the label's own box and of the labels before it; among such places, least of other
    boxes; among those, it is the first of: above, below, to the right, to the left, inside.

    Args:
        boxes: [N, 4], first and last pixels.
        sizes: [N, 2], width and height of the labels.
        size: width and height of the picture.
    """
    areas = np.concatenate([boxes[:, :2], boxes[:, 2:] + 1], axis=1)  # half-open
    taken = np.empty_like(areas)
    for i, ((left, top, right, bottom), (w, h)) in enumerate(zip(areas.tolist(), sizes.tolist(), strict=True)):
        columns, rows = (left, right - w, (left + right - w) // 2), (top, bottom - h, (top + bottom - h) // 2)
        around = [(x, y) for y in (top - h, bottom) for x in columns] + [
            (x, y) for x in (right, left - w) for y in rows
        ]
        inside = [(x, y) for y in rows[:2] for x in columns[:2]]
        first = np.clip(around + inside, 0, (max(size[0] - w, 0), max(size[1] - h, 0)))
        label = np.concatenate([first, first + np.array((w, h))], axis=1)  # [16, 4]
        on_boxes = _shared(label, areas)
        own = on_boxes[:, i]
        worst = own + _shared(label, taken[:i]).sum(axis=1)
        taken[i] = label[np.lexsort((on_boxes.sum(axis=1) - own, worst))[0]]
    return taken[:, :2]


def _shared(areas: Array, others: Array) -> Array:
    """The number of pixels that each of [M, 4] areas shares with each of [N, 4] other areas: [M, N]."""
    first = np.maximum(areas[:, None, :2], others[:, :2])
    last = np.minimum(areas[:, None, 2:], others[:, 2:])
    shared: Array = np.clip(last - first, 0, None).prod(axis=2)
    return shared
