"""What must hold for every preset: gradients everywhere, batches equal single images, any size, any objects."""

from __future__ import annotations

import pytest
import torch

from building import EACH_PRESET, build, enlivened, objects, random_images, small, total
from grcn.model.detector import RCNN

LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}


@pytest.fixture(scope="module", params=EACH_PRESET)
def model(request: pytest.FixtureRequest) -> RCNN:
    """The preset with random weights, trainable norm and lively answers."""
    torch.manual_seed(0)
    model = build(small(request.param))
    enlivened(model, random_images((96, 128), (96, 128)))
    return model


def test_every_parameter_receives_a_gradient(model: RCNN) -> None:
    torch.manual_seed(1)
    model.train().zero_grad()
    losses = model(random_images((96, 96), (64, 80)), [objects(4), objects(2)])
    assert losses.keys() == LOSSES
    assert all(loss.isfinite() and loss.ndim == 0 and loss > 0 for loss in losses.values())
    total(losses).backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_a_batch_without_objects_reaches_every_parameter_too(model: RCNN) -> None:
    """With zeros if need be: in distributed training a parameter without gradient is an error."""
    torch.manual_seed(1)
    model.train().zero_grad(set_to_none=True)
    losses = model(random_images((64, 64), (48, 70)), [objects(0), objects(0)])
    assert losses["loss_objectness"] > 0
    assert losses["loss_classifier"] > 0
    assert losses["loss_rpn_box_reg"] == losses["loss_box_reg"] == 0
    total(losses).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_batch_equals_single_images(model: RCNN) -> None:
    torch.manual_seed(2)
    images = random_images((96, 128), (96, 128))
    with torch.no_grad():
        together = model.eval()(images)
        alone = [model([image])[0] for image in images]
        batch = model.double().batch([image[:, :64, :64] for image in images])[0]
        for maps, *own in zip(model.separation(batch), *[model.separation(one[None]) for one in batch], strict=True):
            for level, *each in zip(maps, *own, strict=True):
                torch.testing.assert_close(level, torch.cat(each), rtol=1e-9, atol=1e-9)
        model.float()
    assert sum(len(found["scores"]) for found in alone) >= 16
    for one, other in zip(together, alone, strict=True):
        assert len(one["scores"].unique()) == len(one["scores"])
        # A hundred layers of sums, whose order goes with the shape of the batch: in float32 that shows.
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=0, atol=2e-2)
        torch.testing.assert_close(one["scores"], other["scores"], rtol=0, atol=2e-4)
        assert torch.equal(one["labels"], other["labels"])


def test_odd_sizes(model: RCNN) -> None:
    torch.manual_seed(3)
    sizes = ((97, 131), (33, 40), (1, 57))
    with torch.no_grad():
        found = model.eval()(random_images(*sizes))
    assert len(found) == 3
    for (height, width), detections in zip(sizes, found, strict=True):
        boxes, scores = detections["boxes"], detections["scores"]
        assert boxes.isfinite().all()
        assert (boxes >= 0).all()
        assert (boxes[:, 0::2] <= width).all()
        assert (boxes[:, 1::2] <= height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (scores.diff() <= 0).all()
        assert ((scores > 0.05) & (scores <= 1)).all()
        assert set(detections["labels"].tolist()) <= {0, 1, 2}
    assert sum(len(detections["scores"]) for detections in found) >= 5
