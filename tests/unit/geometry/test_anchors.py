"""Anchors by hand; the golden tests compare them with torchvision's."""

import torch

from grcn.geometry.anchors import cell_anchors, grid_anchors


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
