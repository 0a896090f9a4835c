"""Whole detectors with a pyramid against torchvision's, same weights, same photos: detections, losses and gradients.

Theirs have COCO's 91 logits, ours 80 classes and ten logits that are never shown.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection import FasterRCNN

from grcn.model.detector import RCNN
from grcn.predict.checkpoint import filled
from grcn.predict.published import CATEGORY_IDS, CLASS_NAMES, as_detector, convert
from peers import fpn, no_resize, spread_answers

from .photos import photo

NAMED = torch.tensor(CATEGORY_IDS)
MEAN, STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def v1(image: Tensor) -> FasterRCNN:
    model = fpn(image, 90)
    detection.faster_rcnn.overwrite_eps(model, 0.0)  # as torchvision does for its published weights
    return model


def v2(image: Tensor) -> FasterRCNN:
    model: FasterRCNN = detection.fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=91)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        model.backbone.train()(((image - mean) / std)[None])
    for norm in norms:
        norm.momentum = 0.1
    spread_answers(model, image)
    return model


@pytest.fixture(scope="module", params=[v1, v2])
def theirs(request: pytest.FixtureRequest, shared_data: Path) -> FasterRCNN:
    torch.manual_seed(0)
    model: FasterRCNN = request.param(photo(shared_data, 1, (100, 100, 420, 340)).image)
    return model.double()


def ours(theirs: FasterRCNN, **rpn: Any) -> RCNN:
    """Ours with their weights and nothing frozen, in float64."""
    converted = convert(theirs.state_dict(), "theirs")
    config = as_detector(converted, "theirs").model.config
    config = replace(config, frozen_stages=0, rpn=replace(config.rpn, **rpn))
    config = replace(config, roi=replace(config.roi, batch_per_image=10**6))
    model = filled(config, CLASS_NAMES, converted.tensors, "theirs").double()
    for name, values in (("mean", MEAN), ("std", STD)):
        getattr(model, name).data = torch.tensor(values, dtype=torch.float64).view(3, 1, 1)
    return model


def test_detections(theirs: FasterRCNN, shared_data: Path) -> None:
    """Of a batch of mixed sizes, neither a multiple of 64. Theirs keeps 100 with, ours without what has no name."""
    crops = ((0, (0, 0, 320, 230)), (12, (300, 50, 533, 370)))
    images = [photo(shared_data, n, crop).image.double() for n, crop in crops]
    no_resize(theirs, images)
    # Proposals of five maps, of which so many stay: fewer than are found.
    theirs.roi_heads.detections_per_img, theirs.rpn._post_nms_top_n["testing"] = 10**4, 200
    with torch.no_grad():
        expected = theirs.eval()(images)
        found = ours(theirs, post_nms_test=200).eval()(images)
    for own, other in zip(found, expected, strict=True):
        named = torch.isin(other["labels"], NAMED)
        assert 0 < int(named.sum()) < len(named)
        assert len(own["scores"]) == 100
        assert own["scores"].max() - own["scores"].min() > 0.2
        assert len(own["labels"].unique()) > 5
        for key, tolerance in (("boxes", 1e-3), ("scores", 1e-5)):
            wanted = other[key][named][:100]
            torch.testing.assert_close(own[key], wanted, rtol=0, atol=tolerance, check_dtype=False)
        assert torch.equal(NAMED[own["labels"]], other["labels"][named][:100])


def test_losses_and_gradients(theirs: FasterRCNN, shared_data: Path) -> None:
    """With every sample in both stages; batch norm, in v2's head too, counts the same RoIs."""
    few = {"batch_per_image": 10**6, "pre_nms_train": 100, "post_nms_train": 32}
    samples = [photo(shared_data, n, crop) for n, crop in ((5, (100, 160, 340, 360)), (5, (120, 140, 360, 340)))]
    images = [sample.image.double() for sample in samples]
    number = min(len(sample.target["boxes"]) for sample in samples)
    assert number >= 2
    boxes = [sample.target["boxes"][:number].double() for sample in samples]
    labels = [torch.arange(number) + 20 * i for i in range(2)]
    no_resize(theirs, images)
    theirs.rpn._pre_nms_top_n["training"], theirs.rpn._post_nms_top_n["training"] = 100, 32
    theirs.rpn.fg_bg_sampler.batch_size_per_image = theirs.roi_heads.fg_bg_sampler.batch_size_per_image = 10**6
    model = ours(theirs, **few).train()  # before their statistics move
    theirs.train()
    expected = theirs(images, [{"boxes": b, "labels": NAMED[n]} for b, n in zip(boxes, labels, strict=True)])
    losses = model(images, [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)])
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert loss > 1e-4
        torch.testing.assert_close(loss, expected[name], rtol=1e-6, atol=1e-7, check_dtype=False)
    named = dict(model.named_parameters())
    own = dict(zip(named, torch.autograd.grad(sum(losses.values()), list(named.values())), strict=True))
    keys, tensors = zip(*theirs.named_parameters(), strict=True)
    gradients = dict(zip(keys, torch.autograd.grad(sum(expected.values()), tensors), strict=True))
    wanted = convert(theirs.state_dict() | gradients, "gradients").tensors  # under our names
    assert named.keys() <= wanted.keys()
    assert len(named) == len(keys)
    for name, gradient in own.items():
        assert gradient.abs().max() > 0, name
        difference = (gradient - wanted[name]).norm() / wanted[name].norm()
        assert difference < 1e-8, (name, difference)
