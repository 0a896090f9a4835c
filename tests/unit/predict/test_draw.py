"""Drawn detections: the picture stays, boxes and labels are where they belong and can be read."""

import numpy as np
import pytest

from grcn.palette import PALETTE
from grcn.predict import draw
from grcn.predict.draw import MIN_SIDE, draw_detections
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
        label = drawn[y1 - 12 : y1 - 2, x1 + 2 : x1 + 60].reshape(-1, 3)
        text = 255 if draw.ink(PALETTE[class_id]) == "white" else 0
        assert (np.abs(label.astype(int) - text).max(axis=1) < 50).any(), "its text"
    assert (drawn[:150] == 128).all()


@pytest.mark.parametrize("ground", [0, 255])
@pytest.mark.parametrize("class_id", range(len(PALETTE)))
def test_lines_are_seen_on_black_and_on_white(ground: int, class_id: int) -> None:
    """They have their colour and, outside it, an edge in black or white."""
    image = np.full((600, 800, 3), ground, dtype=np.uint8)
    names = tuple(f"c{i}" for i in range(len(PALETTE)))
    drawn = draw_detections(image, Detections([[100, 200, 300, 400]], [0.9], [class_id], names))
    across = drawn[300, 90:110].astype(int)
    assert (across == color(class_id)).all(axis=1).any()
    assert np.ptp(across.sum(axis=1)) > 250, "light beside dark"


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
def test_the_whole_label_is_in_the_picture(
    box: tuple[float, float, float, float], class_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def plain(label: draw._Label, color: str) -> np.ndarray:
        sizes.append(label.width * label.height)
        return np.full((label.height, label.width, 3), (1, 2, 3), np.uint8)

    monkeypatch.setattr(draw, "_draw_label", plain)
    drawn = draw_detections(np.zeros((600, 800, 3), np.uint8), Detections(np.array([box]), [0.9], [class_id], NAMES))
    assert [(drawn == (1, 2, 3)).all(axis=2).sum()] == sizes


@pytest.mark.parametrize("size", [(600, 800), (1200, 300), (100, 1600)])
def test_labels_lie_on_no_other(size: tuple[int, int]) -> None:
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


# The first and last pixels of boxes, the first that of the label that is looked at; where the label, 50 x 15, lies in a
# picture of 200 x 100.
PLACES = {
    "above, flush with its left side": ([(100, 40, 140, 60)], (100, 25)),
    "above, shifted into the picture": ([(180, 40, 199, 60)], (150, 25)),
    "no room above: below": ([(100, 5, 140, 60)], (100, 61)),
    "another object above: below": ([(100, 40, 140, 60), (60, 10, 190, 35)], (100, 61)),
    "another object above its left half: above its right": ([(50, 40, 149, 60), (40, 20, 99, 35)], (100, 25)),
    "no room above or below: to the right": ([(100, 5, 140, 95)], (141, 5)),
    "nor to the right: to the left": ([(120, 5, 190, 95)], (70, 5)),
    "nor there: over its upper line, where it covers least": ([(10, 5, 190, 95)], (10, 0)),
    "all of the picture: inside": ([(0, 0, 199, 99)], (0, 0)),
    "others on all sides: on them, not on its own": ([(60, 20, 139, 79)] + 30 * [(0, 0, 199, 99)], (60, 5)),
}


@pytest.mark.parametrize(("boxes", "place"), PLACES.values(), ids=PLACES)
def test_a_label_is_above_else_below_else_beside_else_inside(
    boxes: list[tuple[int, int, int, int]], place: tuple[int, int]
) -> None:
    sizes = np.array([(50, 15), *[(1, 1)] * (len(boxes) - 1)])
    assert tuple(draw._places(np.array(boxes), sizes, (200, 100))[0].tolist()) == place


def test_a_label_leaves_its_place_to_one_of_a_surer_box() -> None:
    """Two boxes at the same place: above and below; a third beside them."""
    boxes, sizes = np.array([(50, 40, 99, 59)] * 3), np.array([(50, 15)] * 3)
    assert draw._places(boxes, sizes, (200, 100)).tolist() == [[50, 25], [50, 60], [100, 40]]


def luminance(color: str) -> float:
    """WCAG 2's relative luminance, by its definition."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("color", PALETTE)
def test_text_on_the_palette_can_be_read(color: str) -> None:
    """By WCAG's contrast for text, 4.5; and the colours can be seen on white paper."""
    ground, text = luminance(color), {"black": 0.0, "white": 1.0}[draw.ink(color)]
    assert (max(ground, text) + 0.05) / (min(ground, text) + 0.05) >= 4.5
    assert 1.05 / (ground + 0.05) > 2


def test_the_better_of_black_and_white_is_taken() -> None:
    assert [draw.ink(color) for color in ("#ffffff", "#777777", "#707070", "#000000")] == ["black"] * 2 + ["white"] * 2


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
