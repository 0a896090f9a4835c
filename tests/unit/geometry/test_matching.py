"""Matching by hand; the golden tests compare it with torchvision's."""

import torch

from grcn.geometry.matching import BACKGROUND, IGNORED, match

OBJECTS = torch.tensor([[[0.0, 0, 10, 10], [100, 100, 110, 110]]])
BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 60], [100, 100, 120, 120], [50, 50, 60, 60]])
BOTH = torch.ones(1, 2, dtype=torch.bool)


def test_thresholds() -> None:
    found = match(OBJECTS, BOTH, BOXES, foreground=0.7, background=0.3, keep_best=False)
    assert found.tolist() == [[0, IGNORED, BACKGROUND, BACKGROUND, BACKGROUND]]  # IoU 1, 0.5, 1/6, 1/4, 0
    exactly = match(OBJECTS, BOTH, BOXES, foreground=0.5, background=0.25, keep_best=False)
    assert exactly.tolist() == [[0, 0, BACKGROUND, IGNORED, BACKGROUND]]  # a threshold belongs to what is above it


def test_the_best_box_of_an_object_is_kept() -> None:
    found = match(OBJECTS, BOTH, BOXES, foreground=0.7, background=0.3, keep_best=True)
    assert found.tolist() == [[0, IGNORED, BACKGROUND, 1, BACKGROUND]]


def test_padding_is_no_object() -> None:
    real = torch.tensor([[False, True]])
    found = match(OBJECTS, real, BOXES, foreground=0.7, background=0.2, keep_best=True)
    assert found.tolist() == [[BACKGROUND, BACKGROUND, BACKGROUND, 1, BACKGROUND]]


def test_without_objects_or_boxes() -> None:
    nothing = match(
        torch.zeros(2, 0, 4), torch.zeros(2, 0).bool(), BOXES, foreground=0.5, background=0.5, keep_best=True
    )
    assert nothing.dtype == torch.int64
    assert (nothing == BACKGROUND).all()
    assert nothing.shape == (2, 5)
    assert match(OBJECTS, BOTH, BOXES[:0], foreground=0.5, background=0.5, keep_best=False).shape == (1, 0)
