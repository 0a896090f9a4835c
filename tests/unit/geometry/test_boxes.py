"""What torchvision's functions, which the golden tests compare with, say nothing about: batches, padding, nothing."""

from __future__ import annotations

import math

import pytest
import torch

from grcn.geometry import boxes as box_ops


def test_overlap_of_empty_boxes_is_zero() -> None:
    point = torch.tensor([[3.0, 3, 3, 3]])
    assert box_ops.iou(point, point).item() == 0
    assert box_ops.iou(point, torch.tensor([[0.0, 0, 9, 9]])).item() == 0


def test_overlaps_of_a_batch_are_those_of_each_image() -> None:
    torch.manual_seed(0)
    corners = torch.rand(3, 5, 2) * 20
    a = torch.cat((corners, corners + 1 + torch.rand(3, 5, 2) * 20), dim=-1)
    b = a[0, :4] + 2
    assert torch.equal(box_ops.iou(a, b), torch.stack([box_ops.iou(one, b) for one in a]))
    assert torch.equal(box_ops.iou(a, a), torch.stack([box_ops.iou(one, one) for one in a]))
    assert torch.allclose(box_ops.iou(a, a).diagonal(dim1=1, dim2=2), torch.ones(3, 5))


def test_half_overlap() -> None:
    assert box_ops.iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]])).item() == pytest.approx(1 / 3)


def test_pad() -> None:
    boxes = [torch.rand(2, 4), torch.zeros(0, 4), torch.rand(3, 4)]
    padded, real = box_ops.pad(boxes)
    assert padded.shape == (3, 3, 4)
    assert real.sum(dim=1).tolist() == [2, 0, 3]
    for image, own in enumerate(boxes):
        assert torch.equal(padded[image, real[image]], own)
        assert (padded[image, ~real[image]] == 0).all()


def test_pad_of_nothing() -> None:
    padded, real = box_ops.pad([torch.zeros(0, 4), torch.zeros(0, 4)])
    assert padded.shape == (2, 0, 4)
    assert real.shape == (2, 0)


def test_coding_by_hand() -> None:
    reference, box = torch.tensor([0.0, 0, 10, 20]), torch.tensor([5.0, 0, 25, 10])
    deltas = box_ops.encode(box, reference, (1, 1, 1, 1))
    assert torch.allclose(deltas, torch.tensor([1.0, -0.25, math.log(2), -math.log(2)]))
    weights = (10.0, 10.0, 5.0, 5.0)
    weighted = box_ops.encode(box, reference, weights)
    assert torch.allclose(weighted, deltas * torch.tensor(weights))
    assert torch.allclose(box_ops.decode(weighted, reference, weights), box)


def test_decoding_caps_growth_and_stays_finite() -> None:
    found = box_ops.decode(torch.tensor([0.0, 0, 1e4, 1e4]), torch.tensor([0.0, 0, 16, 16]))
    assert torch.allclose(found, torch.tensor([-492.0, -492, 508, 508]))
