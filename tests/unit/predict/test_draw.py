"""Drawn detections: the picture stays, boxes and labels are where they belong and can be read."""

import numpy as np
import pytest

from grcn.predict import draw
from grcn.predict.draw import MIN_SIDE, PALETTE, draw_detections
from grcn.types import Detections

NAMES = ("RBC", "café", "a rather long name of a class", "狗")


def detections(*boxes: tuple[float, float, float, float], classes: tuple[int, ...] | None = None) -> Detections:
    n = len(boxes)
    return Detections(np.array(boxes).reshape(n, 4), np.linspace(0.9, 0.4, n), classes or (0,) * n, NAMES)


def color(class_id: int) -> list[int]:
    return list(bytes.fromhex(PALETTE[class_id % len(PALETTE)][1:]))


def test_a_box_is_drawn_in_its_class_color_at_its_place() -> None:
    image = np.full((600, 800, 3), 128, dtype=np.uint8)
    drawn = draw_detections(image, detections((100, 200, 300, 400), (500, 300, 700, 500), classes=(0, 1)))
    assert drawn.shape == image.shape
    assert (image == 128).all(), "the picture given is not drawn upon"
    for class_id, (x1, y1, x2, y2) in enumerate([(100, 200, 300, 400), (500, 300, 700, 500)]):
        for x, y in [(x1, (y1 + y2) // 2), (x2, (y1 + y2) // 2), ((x1 + x2) // 2, y2)]:
            assert np.abs(drawn[y, x].astype(int) - color(class_id)).max() <= 2
        assert (drawn[y1 + 10 : y2 - 10, x1 + 10 : x2 - 10] == 128).all(), "what is inside stays to be seen"
        label = drawn[y1 - 12 : y1, x1 + 2 : x1 + 60].reshape(-1, 3)
        assert (label.min(axis=1) > 200).any(), "white text"
    assert (drawn[:150] == 128).all()


def test_labels_of_boxes_at_the_border_stay_in_the_picture() -> None:
    image = np.zeros((600, 800, 3), dtype=np.uint8)
    drawn = draw_detections(image, detections((700, 0, 800, 300), classes=(2,)))
    assert (drawn[:30].min(axis=2) > 200).sum() > 100, "the text of the label, though the box begins at the top"


EDGES = {
    "top left": (0, 0, 120, 90),
    "top right": (680, 0, 800, 90),
    "bottom left": (0, 510, 120, 600),
    "bottom right": (680, 510, 800, 600),
    "a sliver at the left": (0, 200, 3, 400),
    "a sliver at the right": (797, 200, 800, 400),
    "a sliver below": (300, 597, 500, 600),
    "all of it": (0, 0, 800, 600),
    "beyond all sides": (-50, -40, 900, 700),
    "outside": (810, 610, 900, 700),
    "huge numbers": (-1e30, -1e30, 1e30, 1e30),
}


@pytest.mark.parametrize("box", EDGES.values(), ids=EDGES)
@pytest.mark.parametrize("class_id", [0, 2])
def test_the_whole_label_is_in_the_picture(box: tuple[float, float, float, float], class_id: int) -> None:
    """It has the same pixels as that of a box in the middle."""

    def label(box: tuple[float, float, float, float]) -> np.ndarray:
        image = np.zeros((600, 800, 3), dtype=np.uint8)
        found = Detections(np.array([box]), [0.9], [class_id], NAMES)
        drawn = draw_detections(image, found)
        rows, columns = np.nonzero(drawn.min(axis=2) > 150)  # its text
        return drawn[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]

    np.testing.assert_array_equal(label(box), label((300, 250, 500, 350)))


@pytest.mark.parametrize("size", [(600, 800), (1200, 300), (100, 1600)])
def test_labels_lie_on_no_other_and_beside_their_boxes_where_there_is_room(size: tuple[int, int]) -> None:
    height, width = size
    rng = np.random.default_rng(0)
    for count in (1, 3, 6):
        corners = rng.uniform(0, 1, (count, 2, 2)) * (width, height)
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.int64)
        labels = np.array([[rng.integers(20, 60), 15] for _ in range(count)])
        places = draw._places(boxes, labels, (width, height))
        areas = np.concatenate([places, places + labels], axis=1)
        assert (areas[:, :2] >= 0).all()
        assert (areas[:, 2:] <= (width, height)).all()
        shared = draw._shared(areas, areas)
        assert shared.sum() == np.prod(labels, axis=1).sum(), "each with itself alone"
    alone = draw._places(np.array([[100, 40, 140, 60]]), np.array([[50, 15]]), (width, height))
    assert alone.tolist() == [[100, 25]], "above, flush with its left side"
    high = draw._places(np.array([[100, 5, 140, 60]]), np.array([[50, 15]]), (width, height))
    assert high.tolist() == [[141, 5]], "no room above: to its right"


def test_the_surest_is_on_top() -> None:
    image = np.zeros((600, 600, 3), dtype=np.uint8)
    drawn = draw_detections(image, detections((100, 100, 400, 400), (100, 100, 400, 400), classes=(1, 0)))
    assert np.abs(drawn[300, 100].astype(int) - color(1)).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (20, 30), (1, 700), (900, 2), (1500, 2500)])
def test_any_size_is_drawn(size: tuple[int, int]) -> None:
    height, width = size
    image = np.zeros((height, width, 3), dtype=np.uint8)
    drawn = draw_detections(image, detections((0, 0, width, height), (0, 0, width / 2, height / 2), classes=(1, 3)))
    assert max(drawn.shape[:2]) == max(height, width, MIN_SIDE)
    assert drawn.any()


def test_small_pictures_are_enlarged_with_their_boxes() -> None:
    image = np.zeros((64, 128, 3), dtype=np.uint8)
    drawn = draw_detections(image, detections((32, 32, 96, 60)))
    assert drawn.shape == (256, 512, 3)
    assert np.abs(drawn[180, 128].astype(int) - color(0)).max() <= 2  # at x 32, four times as far


def test_nothing_found_leaves_the_picture() -> None:
    image = np.random.default_rng(0).integers(0, 256, (600, 700, 3), dtype=np.uint8)
    np.testing.assert_array_equal(draw_detections(image, detections()), image)


def test_labels_are_made_for_what_is_looked_at() -> None:
    """Of a large photo a tile: letters for the whole of it would hide all."""
    image = np.full((3000, 4000, 3), 128, np.uint8)
    found = Detections([[1000, 1000, 1100, 1080]], [0.9], [0], ("car",))
    drawn = [int((draw_detections(image, found, view) != image).any(axis=2).sum()) for view in (None, 9000, 800)]
    assert drawn[0] == drawn[1] > 5 * drawn[2] > 0
