"""Tiles: each object is found once, wherever the seams run; memory stays with the photo's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from grcn import Detections, Detector, Tiles
from grcn.config import InputConfig
from networks import Looking

NAMES = ("thing", "other")
COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)], np.uint8)
"""Of objects, on black: the even ones are things, the odd ones others."""

Box = tuple[int, int, int, int]


class Sees(Looking):
    """Finds each colour in what it is given, as far as that shows it, and remembers the sizes that it was given.

    Args:
        side: of the pictures that it takes as they are; larger ones are made smaller for it.
        blind: whether it finds nothing in pictures of another size than of tiles.
    """

    def __init__(self, side: int, surest: float = 0.9, blind_to: tuple[int, int] | None = None) -> None:
        super().__init__(self.find, len(NAMES))
        self.config = replace(self.config, input=InputConfig(side, side))
        self.surest, self.blind_to, self.given = surest, blind_to, []

    def find(self, image: np.ndarray):
        self.given.append(image.shape[:2])
        boxes, scores, class_ids = [], [], []
        for i, colour in enumerate(COLOURS):
            rows, columns = np.nonzero((image == colour).all(axis=2))
            if len(rows) and image.shape[:2] != self.blind_to:
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                scores.append(self.surest - 0.1 * i)
                class_ids.append(i % 2)
        return boxes, scores, np.array(class_ids, np.int64)


def photo_of(height: int, width: int, *boxes: Box) -> np.ndarray:
    photo = np.zeros((height, width, 3), np.uint8)
    for colour, (x1, y1, x2, y2) in zip(COLOURS, boxes, strict=False):
        photo[y1:y2, x1:x2] = colour
    return photo


def assert_found(found: Detections, boxes: list[Box], within: float = 0) -> None:
    assert len(found) == len(boxes), found.boxes
    left = [list(map(float, box)) for box in boxes]
    for box in found.boxes.tolist():
        near = min(left, key=lambda other: np.abs(np.subtract(box, other)).max())
        assert np.abs(np.subtract(box, near)).max() <= within, (box, near)
        left.remove(near)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[int, int, Tiles, list[Box]]:
    """A photo's size, tiles, and one object, or two that do not touch, of any sizes and places."""
    tiles = Tiles(draw(st.integers(32, 90)), draw(st.floats(0.1, 0.5)))
    height, width = draw(st.integers(20, 330)), draw(st.integers(20, 330))

    def span(first: int, last: int) -> tuple[int, int]:
        start = draw(st.integers(first, last - 4))
        return start, draw(st.integers(start + 4, last))

    boxes = []
    middle = draw(st.integers(8, width - 8)) if draw(st.booleans()) else None
    for first, last in [(0, width)] if middle is None else [(0, middle - 1), (middle + 1, width)]:
        x, y = span(first, last), span(0, height)
        boxes.append((x[0], y[0], x[1], y[1]))
    return height, width, tiles, boxes


@settings(max_examples=300, deadline=None)
@given(scenes())
def test_an_object_anywhere_is_found_once_and_whole(scene: tuple[int, int, Tiles, list[Box]]) -> None:
    height, width, tiles, boxes = scene
    network = Sees(side=40)
    found = Detector(network, NAMES).predict(photo_of(height, width, *boxes), tiles=tiles)
    # One that only the smaller photo shows whole is as exact as its pixels.
    factor = max(1, int(max(height, width) / 40))
    assert_found(found, boxes, within=factor)
