"""Single stages against torchvision's, on the same inputs: proposals, RoI features, losses, detections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from grcn.config import DetectorConfig, RoIConfig, RPNConfig
from grcn.geometry import boxes as box_ops
from grcn.model.detector import _objects, _unpadded
from grcn.model.heads import AverageHead
from grcn.model.losses import FILLING, roi_losses
from grcn.model.roi import Predictions, RoIStage
from grcn.model.rpn import RPN, Objects, Proposals

SIZES = [(96, 128), (81, 100)]
EVERYTHING = 10**6
STRIDE, CHANNELS, CLASSES = 16, 8, 4
SEEDS = st.integers(0, 2**31)
ANCHORS = {"anchor_sizes": (16.0, 32.0, 64.0), "anchor_ratios": (0.5, 1.0, 2.0)}


def rpn_pair(**options: Any) -> tuple[RPN, RegionProposalNetwork]:
    """The same RPN twice, with answers that spread."""
    config = RPNConfig(**ANCHORS, pre_nms_train=90, pre_nms_test=70, post_nms_train=30, post_nms_test=20, **options)
    ours = RPN(config, CHANNELS, (STRIDE,))
    for layer, std in ((ours.conv, 0.2), (ours.objectness, 0.5), (ours.deltas, 0.1)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.normal_(layer.bias, std=std)
    theirs = RegionProposalNetwork(
        AnchorGenerator((config.anchor_sizes,), (config.anchor_ratios,)),
        RPNHead(CHANNELS, ours.cells.shape[1]),
        fg_iou_thresh=config.foreground_iou,
        bg_iou_thresh=config.background_iou,
        batch_size_per_image=config.batch_per_image,
        positive_fraction=config.positive_fraction,
        pre_nms_top_n={"training": config.pre_nms_train, "testing": config.pre_nms_test},
        post_nms_top_n={"training": config.post_nms_train, "testing": config.post_nms_test},
        nms_thresh=config.nms,
    )
    layers = (theirs.head.conv[0][0], theirs.head.cls_logits, theirs.head.bbox_pred)
    for layer, own in zip(layers, (ours.conv, ours.objectness, ours.deltas), strict=True):
        layer.load_state_dict(own.state_dict())
    return ours, theirs


def random_targets(count: int) -> list[dict[str, Tensor]]:
    """`count` objects in the first image, none in the second."""
    corner = torch.rand(count, 2) * 60
    boxes = torch.cat((corner, corner + 8 + torch.rand(count, 2) * 25), dim=1)
    return [
        {"boxes": boxes, "labels": torch.randint(CLASSES, (count,))},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]


@given(SEEDS, st.booleans(), st.sampled_from((1e-3, 12.0)))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_proposals(seed: int, training: bool, min_size: float) -> None:
    torch.manual_seed(seed)
    ours, theirs = rpn_pair(min_size=min_size)
    theirs.min_size = min_size
    ours.train(training)
    theirs.train(training)
    features = torch.randn(2, CHANNELS, 6, 8)
    with torch.no_grad():
        padded, _ = ours([features], box_ops.image_rois(SIZES, features))
        found = [boxes[valid] for boxes, valid in zip(*padded, strict=True)]
        logits, deltas = theirs.head([features])
        anchors = theirs.anchor_generator(ImageList(torch.zeros(2, 3, 96, 128), SIZES), [features])
        logits, deltas = logits[0].permute(0, 2, 3, 1).reshape(2, -1), deltas[0].permute(0, 2, 3, 1).reshape(-1, 4)
        boxes = theirs.box_coder.decode(deltas, anchors).view(2, -1, 4)
        expected, _ = theirs.filter_proposals(boxes, logits, SIZES, [logits.shape[1]])
    for proposals, wanted in zip(found, expected, strict=True):
        assert len(wanted) >= 5
        torch.testing.assert_close(proposals, wanted, rtol=0, atol=1e-5)


@given(SEEDS, st.integers(1, 6), st.sampled_from((1.0, 0.5)))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_rpn_losses(seed: int, count: int, positive_fraction: float) -> None:
    torch.manual_seed(seed)
    ours, theirs = rpn_pair(batch_per_image=EVERYTHING, positive_fraction=positive_fraction)
    features = torch.randn(2, CHANNELS, 6, 8)
    targets = random_targets(count)
    padded = torch.stack((targets[0]["boxes"], torch.zeros(count, 4)))
    real = torch.tensor([[True] * count, [False] * count])
    _, found = ours(
        [features], box_ops.image_rois(SIZES, features), Objects(padded, real, torch.zeros_like(real).long())
    )
    _, expected = theirs(ImageList(torch.zeros(2, 3, 96, 128), SIZES), {"0": features}, targets)
    assert found.keys() == expected.keys()
    assert found["loss_rpn_box_reg"] > 0
    for name, loss in found.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-5, atol=1e-6)


def as_objects(targets: list[dict[str, Tensor]]) -> Objects:
    return _objects(targets, torch.zeros(()))


class Constant(nn.Module):
    """Answers the same, whatever it sees."""

    def __init__(self, *answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *_: Any) -> Any:
        return self.answer


def roi_pair(**options: Any) -> tuple[RoIStage, RoIHeads]:
    roi = RoIConfig(**options)
    config = DetectorConfig(backbone="resnet18", head="avgpool", roi=roi)
    ours = RoIStage(config, CLASSES, (CHANNELS, CHANNELS), ((STRIDE,), (STRIDE,)), {"shared": AverageHead(CHANNELS)})
    theirs = RoIHeads(
        MultiScaleRoIAlign(["0"], config.roi_size, roi.sampling_ratio),
        nn.Identity(),
        nn.Identity(),
        roi.foreground_iou,
        roi.foreground_iou,
        roi.batch_per_image,
        roi.positive_fraction,
        roi.box_weights,
        roi.score_threshold,
        roi.nms,
        roi.detections_per_image,
    )
    return ours, theirs


def random_proposals(*counts: int) -> list[Tensor]:
    corners = [torch.rand(n, 2) * 70 for n in counts]
    return [torch.cat((c, c + 4 + torch.rand(len(c), 2) * 50), dim=1) for c in corners]


def random_answers(count: int, spread: float = 2.0) -> Predictions:
    return Predictions(torch.randn(count, 1 + CLASSES) * spread, torch.randn(count, CLASSES, 4) * spread)


def with_background(deltas: Tensor) -> Tensor:
    """[R, C, 4] as torchvision lays it out, [R, 4 * (1 + C)]; what it predicts for background must not matter."""
    return torch.cat((torch.full_like(deltas[:, :1], 77.0), deltas), dim=1).flatten(1)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_roi_features(sampling_ratio: int, stride: int) -> None:
    torch.manual_seed(0)
    ours, _ = roi_pair(aligned=False, sampling_ratio=sampling_ratio)
    features = torch.randn(2, CHANNELS, 96 // stride, 128 // stride)
    proposals = random_proposals(9, 4)
    index = torch.tensor([0.0] * 9 + [1.0] * 4)[:, None]
    path = replace(ours.paths["cls"], strides=(stride,))
    found = ours._pool([features], torch.cat((index, torch.cat(proposals)), dim=1), path)
    pool = MultiScaleRoIAlign(["0"], 7, sampling_ratio)
    expected = pool({"0": features}, proposals, [(96, 128), (96, 128)])
    assert pool.scales == [1 / stride]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@given(SEEDS, st.integers(1, 6), st.integers(0, 40))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_roi_losses(seed: int, objects: int, count: int) -> None:
    """Everything is sampled; the order in which it is does not matter to losses, so answers go by box."""
    torch.manual_seed(seed)
    ours, theirs = roi_pair(batch_per_image=EVERYTHING, positive_fraction=1.0)
    targets, proposals = random_targets(objects), random_proposals(count, 7)
    counted = [t | {"labels": t["labels"] + 1} for t in targets]
    boxes, _, labels, wanted = theirs.select_training_samples(proposals, counted)
    logits, deltas = random_answers(sum(map(len, boxes)))
    theirs.box_roi_pool, theirs.box_predictor = Constant(), Constant(logits, with_background(deltas))
    theirs.box_head = nn.Identity()
    _, expected = theirs.train()({}, proposals, SIZES, counted)
    assigned = ours.assign(Proposals(*box_ops.pad(proposals)), as_objects(targets))
    real = assigned.labels != FILLING
    sampled = [b[r] for b, r in zip(assigned.boxes, real, strict=True)]
    own_labels, own_wanted = (part[real] for part in assigned[1:])
    assert [len(s) for s in sampled] == [count + objects, 7]
    image = torch.repeat_interleave(torch.arange(2), torch.tensor([count + objects, 7]))[:, None]
    order = [
        int(torch.cat((image, torch.cat(boxes)), dim=1).eq(row).all(dim=1).nonzero()[0])
        for row in torch.cat((image, torch.cat(sampled)), dim=1)
    ]
    assert sorted(order) == list(range(len(order)))
    assert torch.equal(own_labels, torch.cat(labels)[order])
    positive = own_labels > 0
    torch.testing.assert_close(own_wanted[positive], torch.cat(wanted)[order][positive], rtol=1e-5, atol=1e-5)

    found = roi_losses(logits[order], deltas[order], own_labels, torch.cat(sampled), own_wanted, RoIConfig())
    assert found.keys() == expected.keys()
    for name, loss in found.items():
        assert loss > 0
        torch.testing.assert_close(loss, expected[name], rtol=1e-5, atol=1e-6)


@given(SEEDS, st.integers(0, 60), st.sampled_from((0.05, 0.3)), st.sampled_from((7, 100)), st.floats(0.1, 4))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_detections(seed: int, count: int, threshold: float, most: int, spread: float) -> None:
    torch.manual_seed(seed)
    ours, theirs = roi_pair(score_threshold=threshold, detections_per_image=most, nms=0.4)
    proposals, answers = random_proposals(count, 20), random_answers(count + 20, spread)
    boxes, valid = box_ops.pad(proposals)
    padded = [answer.new_zeros(valid.numel(), *answer.shape[1:]) for answer in answers]
    for part, answer in zip(padded, answers, strict=True):
        part[valid.flatten()] = answer
    found = _unpadded(ours.detect(Predictions(*padded), Proposals(boxes, valid), box_ops.image_rois(SIZES, boxes)))
    expected = theirs.postprocess_detections(answers.logits, with_background(answers.deltas), proposals, SIZES)
    for own, boxes, scores, labels in zip(found, *expected, strict=True):
        torch.testing.assert_close(own["boxes"], boxes, rtol=0, atol=1e-4)
        torch.testing.assert_close(own["scores"], scores, rtol=0, atol=1e-6)
        assert torch.equal(own["labels"], labels - 1)
    if threshold < 0.1 and spread > 1:
        assert len(found[1]["scores"]) >= min(most, 10)


def test_a_batch_is_sampled_as_torchvision_does() -> None:
    """Counts only: which boxes are drawn is chance."""
    torch.manual_seed(0)
    ours, theirs = roi_pair(batch_per_image=24, positive_fraction=0.25)
    targets = random_targets(5)
    proposals = [torch.cat((random_proposals(60)[0], targets[0]["boxes"].repeat(4, 1) + 0.5)), random_proposals(9)[0]]
    counted = [t | {"labels": t["labels"] + 1} for t in targets]
    _, _, theirs_labels, _ = theirs.select_training_samples(proposals, counted)
    labels = ours.assign(Proposals(*box_ops.pad(proposals)), as_objects(targets)).labels
    own = [row[row != FILLING] for row in labels]
    for image in range(2):
        assert len(theirs_labels[image]) == len(own[image])
        assert (theirs_labels[image] > 0).sum() == (own[image] > 0).sum() == (6, 0)[image]
