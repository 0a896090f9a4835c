"""Tiles: each object is found once, wherever the seams run."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from grcn import Detections, Detector
from grcn.config import InputConfig, Tiles
from grcn.errors import ConfigError, ImageError
from grcn.predict.header import Header
from grcn.predict.runtimes import Exported
from networks import Looking

NAMES = ("thing", "other")
COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)], np.uint8)
"""Of objects, on black: the even ones are things, the odd ones others."""

Box = tuple[int, int, int, int]


class Sees(Looking):
    """Finds each colour in what it is given, as far as that shows it, and remembers the sizes that it was given.

    Args:
        side: of the pictures that it takes as they are; larger ones are made smaller for it.
        blind_to: height and width of pictures in which it finds nothing.
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


@settings(max_examples=80, deadline=None)
@given(scenes())
@example((240, 20, Tiles(32, 0.5), [(0, 195, 10, 217)]))
def test_an_object_anywhere_is_found_once_and_whole(scene: tuple[int, int, Tiles, list[Box]]) -> None:
    height, width, tiles, boxes = scene
    network = Sees(side=40)
    found = Detector(network, NAMES).predict(photo_of(height, width, *boxes), tiles=tiles)
    # One that only the smaller photo shows whole is as exact as its pixels.
    factor = max(1, int(max(height, width) / 40))
    assert_found(found, boxes, within=factor)
    if max(height, width) > tiles.size:
        assert (-(-height // factor), -(-width // factor)) in network.given


@pytest.mark.parametrize("offset", range(-70, 71, 7))
@pytest.mark.parametrize("size", [10, 60, 110, 330])
def test_an_object_that_no_tile_and_not_the_whole_photo_shows_is_put_together(offset: int, size: int) -> None:
    """Across the seams of four tiles, and more than the overlap; the smaller photo shows nothing."""
    x, y = 192 + offset - size // 2, 150 - offset - min(size, 80) // 2
    box = (max(x, 0), max(y, 0), min(x + size, 400), y + min(size, 80))
    network = Sees(side=100, blind_to=(75, 100))
    found = Detector(network, NAMES).predict(photo_of(300, 400, box), tiles=Tiles(100, 0.2))
    assert_found(found, [box])


def test_parts_raise_no_other_object() -> None:
    """Beside one that is cut by every tile lie a small one of its class, and one of another class in its place."""
    boxes = [(20, 100, 380, 180), (60, 60, 90, 80), (190, 182, 220, 200)]
    found = Detector(Sees(side=100), NAMES).predict(photo_of(300, 400, *boxes), tiles=Tiles(100, 0.2))
    assert_found(found, boxes, within=4)
    assert sorted(found.names) == ["other", "thing", "thing"]


def test_a_weak_box_of_the_whole_does_not_hide_sure_ones() -> None:
    """The smaller photo shows three objects as one, of which the network is not sure; tiles show them in parts."""

    class Groups(Sees):
        def find(self, image: np.ndarray):
            if image.shape[:2] == (75, 100):
                return [[5, 25, 95, 45]], [0.2], np.array([0])
            return super().find(image)

    boxes = [(20, 100, 130, 180), (260, 100, 380, 180)]  # blue, the third colour, is a thing as red is
    photo = photo_of(300, 400, boxes[0])
    photo[100:180, 260:380] = COLOURS[2]
    found = Detector(Groups(side=100), NAMES).predict(photo, tiles=Tiles(100, 0.2))
    assert_found(found.above(0.5), boxes)


def test_every_tile_has_its_size_and_they_overlap() -> None:
    for length in (100, 101, 119, 180, 181, 1000):
        network = Sees(side=100)
        Detector(network, NAMES).predict(np.zeros((100, length, 3), np.uint8), tiles=Tiles(100, 0.2))
        *tiles, whole = network.given if length > 100 else [*network.given, (100, 100)]
        assert set(tiles) == {(100, 100)}
        assert len(tiles) == max(1, -(-(length - 20) // 80))
        assert whole == (-(-100 // max(1, length // 100)), -(-length // max(1, length // 100)))


def test_a_photo_no_larger_than_a_tile_is_looked_at_as_ever() -> None:
    picture = photo_of(50, 70, (3, 4, 30, 40))
    network = Sees(side=32)
    detector = Detector(network, NAMES)
    plain, tiled = detector.predict(picture), detector.predict(picture, tiles=70)
    assert network.given == [(50, 70), (50, 70)]
    np.testing.assert_array_equal(plain.boxes, tiled.boxes)


def test_tiles_are_batched_and_a_broken_photo_costs_itself_alone(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no photo")
    batches = []

    class Batches(Sees):
        def detect(self, images, class_names, score=None):
            batches.append(len(images))
            return super().detect(images, class_names, score)

    boxes = [(90, 20, 130, 60)]
    detector = Detector(Batches(side=400), NAMES)
    sources = [photo_of(100, 260, *boxes), tmp_path / "broken.png", photo_of(100, 260, *boxes)]
    results = list(detector.stream(sources, tiles=Tiles(100, 0.2), batch_size=2))
    assert batches == [2, 1, 1] * 2  # the whole photo has another size
    assert isinstance(results[1][1], ImageError)
    for at in (0, 2):
        assert results[at][0] is sources[at]
        assert_found(results[at][1], boxes)


def test_a_tensor_and_a_list_are_cut_too() -> None:
    boxes = [(90, 20, 130, 60)]
    picture = photo_of(100, 260, *boxes)
    detector = Detector(Sees(side=100), NAMES)
    for found in detector.predict([torch.from_numpy(picture).permute(2, 0, 1), picture], tiles=100):
        assert_found(found, boxes)


@pytest.mark.parametrize("wrong", [{"size": 31}, {"overlap": 0.04}, {"overlap": 0.51}, {"overlap": float("nan")}])
def test_wrong_tiles_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} .*: needs"):
        Tiles(**wrong)


class Fixed(Exported):
    """An exported network that takes one size alone, and sees what `Sees` does."""

    device = "cpu"

    def __init__(self, height: int, width: int) -> None:
        self.eyes = Sees(side=64)
        super().__init__(Path("fixed.onnx"), Header(self.eyes.config, NAMES, ""), (1, height, width, 3))

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        boxes, scores, class_ids = self.eyes.find(images[0])
        return [np.reshape(boxes, (1, -1, 4)), np.reshape(scores, (1, -1)), class_ids[None]]


@pytest.mark.parametrize(("height", "width"), [(300, 400), (70, 400), (300, 60), (64, 96), (30, 40)])
def test_a_file_for_one_size_gets_tiles_of_it(height: int, width: int) -> None:
    boxes = [(5, 6, width - 20, height - 8)]
    network = Fixed(64, 96)
    found = Detector(network, NAMES).predict(photo_of(height, width, *boxes), tiles=Tiles(overlap=0.3))
    assert set(network.eyes.given) == {(64, 96)}
    assert_found(found, boxes, within=5)
    with pytest.raises(ConfigError, match="tiles of 64: the file takes only 96x64"):
        Detector(network, NAMES).predict(photo_of(height, width), tiles=64)


def test_many_boxes_are_merged_in_little_time_and_memory() -> None:
    """Six thousand, as a bad detector finds in a large photo: what is compared is what lies near."""

    class Much(Sees):
        def find(self, image: np.ndarray):
            at = np.random.default_rng(image.size).uniform(0, 90, (40, 2))
            return np.hstack([at, at + 9]), np.linspace(0.9, 0.1, 40), np.zeros(40, np.int64)

    tracemalloc.start()
    try:
        found = Detector(Much(side=100), NAMES).predict(np.zeros((1000, 1000, 3), np.uint8), tiles=Tiles(100, 0.1))
        assert len(found) > 3_000
        assert tracemalloc.get_traced_memory()[1] < 25 * 2**20
    finally:
        tracemalloc.stop()
