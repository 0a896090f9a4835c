"""The readings of the RoI losses, by hand and against torchvision's GIoU."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou

from grcn.config import RoIConfig
from grcn.geometry.boxes import decode, encode
from grcn.model.losses import FILLING, roi_losses

WEIGHTS = RoIConfig().box_weights
LABELS = torch.tensor([2, 0, 1, FILLING])
BOXES = torch.tensor([[0.0, 0, 10, 10], [30, 30, 50, 60], [5, 5, 25, 15], [0, 0, 0, 0]])
OBJECTS = torch.tensor([[2.0, 0, 12, 10], [30, 30, 50, 60], [4, 5, 24, 18], [0, 0, 1, 1]])
TARGETS = encode(OBJECTS, torch.where(LABELS[:, None] == FILLING, OBJECTS, BOXES), WEIGHTS)


def answers() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits, deltas = torch.randn(4, 3, generator=generator), torch.randn(4, 2, 4, generator=generator)
    return logits.requires_grad_(), deltas.requires_grad_()


def predicted(deltas: Tensor) -> Tensor:
    """The boxes of the two positives, each by the deltas of its class."""
    return decode(torch.stack((deltas[0, 1], deltas[2, 0])), BOXES[[0, 2]], WEIGHTS)


def test_the_class_gets_the_iou_and_the_background_the_rest() -> None:
    logits, deltas = answers()
    found = roi_losses(logits, deltas, LABELS, BOXES, TARGETS, RoIConfig(class_target="iou"))
    first, second = box_iou(predicted(deltas), OBJECTS[[0, 2]]).diagonal().tolist()
    assert 0.1 < first < 0.9
    wanted = torch.tensor([[1 - first, 0, first], [1, 0, 0], [1 - second, second, 0]])
    expected = F.cross_entropy(logits[:3], wanted, reduction="sum") / 3
    torch.testing.assert_close(found["loss_classifier"], expected)
    found["loss_classifier"].backward()
    assert deltas.grad is None  # localization does not learn from it
    assert torch.equal(logits.grad[3], torch.zeros(3))  # type: ignore[index]


def test_a_perfect_box_makes_the_target_one_hot() -> None:
    logits, deltas = answers()
    deltas = TARGETS[:, None].expand(-1, 2, -1)
    found = roi_losses(logits, deltas, LABELS, BOXES, TARGETS, RoIConfig(class_target="iou"))
    usual = roi_losses(logits, deltas, LABELS, BOXES, TARGETS, RoIConfig())
    torch.testing.assert_close(found["loss_classifier"], usual["loss_classifier"])


@pytest.mark.parametrize("weight", [1.0, 10.0])
def test_giou_is_of_the_predicted_boxes(weight: float) -> None:
    logits, deltas = answers()
    config = RoIConfig(box_loss="giou", box_loss_weight=weight)
    loss = roi_losses(logits, deltas, LABELS, BOXES, TARGETS, config)["loss_box_reg"]
    expected = (1 - generalized_box_iou(predicted(deltas), OBJECTS[[0, 2]]).diagonal()).sum() / 3
    torch.testing.assert_close(loss, weight * expected)
    loss.backward()
    assert deltas.grad is not None
    moved = deltas.grad.flatten(0, 1).abs().sum(dim=1) > 0
    assert moved.tolist() == [False, True, False, False, True, False, False, False]  # each of its own class
    assert deltas.grad.isfinite().all()


def test_the_weight_counts_for_smooth_l1_too() -> None:
    logits, deltas = answers()
    once, twice = (roi_losses(logits, deltas, LABELS, BOXES, TARGETS, RoIConfig(box_loss_weight=w)) for w in (1.0, 2.0))
    assert math.isclose(2 * once["loss_box_reg"].item(), twice["loss_box_reg"].item(), rel_tol=1e-6)
    assert once["loss_classifier"] == twice["loss_classifier"]
