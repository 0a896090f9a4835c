"""Levels by hand; the golden tests compare them with torchvision's."""

import pytest
import torch

from grcn.geometry.levels import roi_levels


def squares(*sides: float) -> torch.Tensor:
    return torch.tensor([[10.0, 20, 10 + side, 20 + side] for side in sides])


@pytest.mark.parametrize(
    ("cells", "sides"),
    [
        # The side at which each of the maps of strides 8, 16 and 32 has that many cells for the first time.
        (14, (112, 224, 448)),
        (3.5, (28, 56, 112)),
        (7, (56, 112, 224)),
        (28, (224, 448, 896)),
    ],
)
def test_a_roi_reads_the_coarsest_map_on_which_it_spans_so_many_cells(cells: float, sides: tuple[float, ...]) -> None:
    for level, side in enumerate(sides, start=1):
        # Just below, at, and far above; what is short of it by rounding alone is not below.
        found = roi_levels(squares(side - 0.01, side, side * 1.99), cells, 4, 4)
        assert found.tolist() == [level - 1, level, level]
    assert roi_levels(squares(1, 1e5), cells, 4, 4).tolist() == [0, 3]


def test_the_side_is_the_root_of_the_area() -> None:
    boxes = torch.tensor([[0.0, 0, 7, 28], [0, 0, 28, 7], [0, 0, 13, 14]])  # sides 14, 14, 13.49
    assert roi_levels(boxes, 3.5, 4, 4).tolist() == [0, 0, 0]
    assert roi_levels(2 * boxes, 3.5, 4, 4).tolist() == [1, 1, 0]
    assert roi_levels(4 * boxes, 3.5, 4, 4).tolist() == [2, 2, 1]


def test_levels_count_from_the_finest_map() -> None:
    boxes = squares(20, 60, 120, 250, 500, 1000)
    assert roi_levels(boxes, 7, 4, 4).tolist() == [0, 1, 2, 3, 3, 3]
    assert roi_levels(boxes, 7, 8, 3).tolist() == [0, 0, 1, 2, 2, 2]
    assert roi_levels(boxes, 7, 8, 1).tolist() == [0] * 6


def test_padding_reads_the_finest_map() -> None:
    boxes = torch.zeros(2, 3, 4)
    boxes[0, 0] = torch.tensor([0.0, 0, 500, 500])
    boxes[1, 2] = torch.tensor([5.0, 5, 5, 90])
    boxes[1, 1] = torch.tensor([9.0, 5, 5, 90])  # inside out
    levels = roi_levels(boxes, 14, 4, 4)
    assert levels.dtype == torch.int64
    assert levels.tolist() == [[3, 0, 0], [0, 0, 0]]
    assert roi_levels(torch.zeros(0, 4), 14, 4, 4).shape == (0,)
