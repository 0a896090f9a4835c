"""Anchors by hand; the golden tests compare them with torchvision's."""

import torch

from grcn.geometry.anchors import cell_anchors, grid_anchors, pyramid_anchors


def test_cell_anchors_by_hand() -> None:
    assert cell_anchors((32, 64), (1.0, 4.0)).tolist() == [
        [-16, -16, 16, 16],
        [-32, -32, 32, 32],
        [-8, -32, 8, 32],
        [-16, -64, 16, 64],
    ]


def test_grid_runs_row_by_row_and_cell_by_cell() -> None:
    cells = torch.tensor([[-1.0, -2, 1, 2], [-3, -3, 3, 3]])
    anchors = grid_anchors(cells, (2, 3), 16)
    assert anchors.shape == (12, 4)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centres[::2].tolist() == [[0, 0], [16, 0], [32, 0], [0, 16], [16, 16], [32, 16]]
    assert torch.equal(centres[::2], centres[1::2])
    assert torch.equal(anchors[0], cells[0])
    assert torch.equal(anchors[11], cells[1] + torch.tensor([32.0, 16, 32, 16]))


def test_anchors_of_a_pyramid_are_image_size_over_map_size_apart() -> None:
    """An image of 96x128 has 3x4 cells at stride 32, of which every second is 2x2: 48 pixels apart, and 64."""
    cells = [torch.tensor([[-1.0, -1, 1, 1]]), torch.tensor([[-2.0, -2, 2, 2]])]
    fine, coarse = pyramid_anchors(cells, [(3, 4), (2, 2)], (96, 128))
    assert torch.equal(fine, grid_anchors(cells[0], (3, 4), 32))
    assert coarse.tolist() == [[-2, -2, 2, 2], [62, -2, 66, 2], [-2, 46, 2, 50], [62, 46, 66, 50]]
