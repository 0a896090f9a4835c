"""What prediction computes less of changes no detection."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from building import build, enlivened, random_images, small
from grcn.predict.optimize import optimized
from grcn.presets import PRESETS


@pytest.mark.parametrize("name", ["faster_rcnn_r18_c4", "faster_rcnn_r50_c5", "grcn_r18", "grcn_lite0", "grcn_vgg16"])
@pytest.mark.parametrize("pretrained", [False, True])
def test_folding_leaves_the_detections(name: str, pretrained: bool) -> None:
    torch.manual_seed(0)
    images = random_images((96, 128), (80, 100))
    model = enlivened(build(small(name), pretrained=pretrained), images)
    for module in model.modules():  # not the identity that a new norm layer is
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            module.weight.data.uniform_(0.9, 1.1)
            module.bias.data.uniform_(-0.1, 0.1)
    model.double()  # so that nothing but the folding can make a difference
    folded = optimized(model, "fold")
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    with torch.no_grad():
        for ours, expected in zip(folded(images), model(images), strict=True):
            assert len(expected["boxes"]) >= 8
            torch.testing.assert_close(ours["boxes"], expected["boxes"], atol=1e-4, rtol=0)
            torch.testing.assert_close(ours["scores"], expected["scores"], atol=1e-6, rtol=0)
            assert torch.equal(ours["labels"], expected["labels"])


def test_group_norm_is_left() -> None:
    model = build(small("paper_r18", norm="group"))
    assert sum(isinstance(m, nn.GroupNorm) for m in optimized(model, "fold").modules()) == sum(
        isinstance(m, nn.GroupNorm) for m in model.modules()
    )


def test_bfloat16_is_near_and_keeps_anchors_and_statistics() -> None:
    torch.manual_seed(0)
    images = random_images((96, 128))
    model = enlivened(build(small("paper_r18")), images)
    half = optimized(model, "bf16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in half.buffers() if b.is_floating_point()} == {torch.float32}
    assert torch.equal(half.rpn.cells, model.rpn.cells)
    with torch.no_grad():
        batch, _ = model.batch(images)
        (exact,), (rounded,) = model.separation(batch).cls, half.separation(batch.bfloat16()).cls
        assert (exact - rounded.float()).norm() / exact.norm() < 0.1
        found = half(images)[0]
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    assert len(found["boxes"])


@pytest.mark.parametrize("how", ["fold", "bf16"])
def test_the_model_itself_is_left_alone(how: str) -> None:
    model = build(small("paper_r18")).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = optimized(model, how)
    assert model.training
    assert not fast.training
    assert all(p.requires_grad for p in model.parameters())
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert optimized(model, "none") is model


@pytest.mark.parametrize("name", PRESETS)
def test_every_norm_layer_of_every_preset_is_folded(name: str) -> None:
    with torch.device("meta"):
        model = build(small(name), pretrained=False)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert not [m for m in optimized(model, "fold").modules() if isinstance(m, nn.BatchNorm2d)]
