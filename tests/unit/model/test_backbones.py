"""Stages are the classification network's own, and what dilation makes of them is the same, only denser."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from grcn.config import Backbone, Norm, stage_stride
from grcn.model.backbone import FoldedConv2d, FoldedNorm, build_classifier, out_channels, set_stride, split_stages

NORM: dict[Backbone, Norm] = {"resnet18": "bn", "resnet50": "bn", "vgg16": "none"}


@pytest.fixture(scope="module", params=list(NORM))
def stages(request: pytest.FixtureRequest) -> tuple[Backbone, list[nn.Sequential]]:
    """A backbone's name and its stages, in evaluation mode, with biases and norms that do something."""
    torch.manual_seed(0)
    network = build_classifier(request.param, NORM[request.param]).eval()
    for name, tensor in network.named_parameters():
        if "bias" in name:
            nn.init.normal_(tensor, std=0.3)
    return request.param, split_stages(network)


def chain(stages: list[nn.Sequential], x: Tensor) -> list[Tensor]:
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return maps


def test_stages_have_the_strides_and_widths_that_are_said_of_them(
    stages: tuple[Backbone, list[nn.Sequential]],
) -> None:
    backbone, parts = stages
    with torch.no_grad():
        maps = chain(parts, torch.rand(1, 3, 64, 96))
    for number, features in enumerate(maps, start=1):
        stride = stage_stride(backbone, number)
        assert features.shape[2:] == (64 // stride, 96 // stride)
        if number >= 2:
            assert features.shape[1] == out_channels(backbone, number)


def test_stages_compute_what_the_network_does(stages: tuple[Backbone, list[nn.Sequential]]) -> None:
    backbone, parts = stages
    torch.manual_seed(0)
    network = build_classifier(backbone, NORM[backbone]).eval()
    image = torch.rand(1, 3, 64, 64)
    answers = nn.Flatten()
    with torch.no_grad():
        last = chain(split_stages(network), image)[-1]
        if backbone == "vgg16":
            ours = network.classifier(answers(network.avgpool(nn.functional.max_pool2d(last, 2))))
        else:
            ours = network.fc(answers(network.avgpool(last)))
        torch.testing.assert_close(ours, network(image))
    assert len(parts) == 5


@pytest.mark.parametrize("height", [16, 17])
def test_a_dilated_stage_is_the_original_seen_more_densely(
    stages: tuple[Backbone, list[nn.Sequential]], height: int
) -> None:
    """The a-trous property: at even positions the output is the original's. VGG loses its pooling layer besides."""
    backbone, parts = stages
    stage, stride = parts[4], stage_stride(backbone, 4)
    features = torch.randn(2, out_channels(backbone, 4), height, 12)
    dense, plain = deepcopy(stage), deepcopy(stage)
    set_stride(backbone, dense, 5, stride, stride, dilation=True)
    set_stride(backbone, plain, 5, stride, stride, dilation=False)
    with torch.no_grad():
        original = stage[1:](features[:, :, ::2, ::2]) if backbone == "vgg16" else stage(features)
        found, undilated = dense(features), plain(features)
    assert found.shape == undilated.shape == (2, original.shape[1], height, 12)
    assert original.std() > 0.01
    torch.testing.assert_close(found[:, :, ::2, ::2], original, rtol=1e-4, atol=1e-4 * original.abs().max().item())
    assert (undilated[:, :, ::2, ::2] - original).abs().max() > 0.01 * original.abs().max()


@pytest.mark.parametrize("stages", ["resnet18", "resnet50"], indirect=True)
def test_a_stage_after_a_dilated_one_keeps_to_its_cells(stages: tuple[Backbone, list[nn.Sequential]]) -> None:
    """conv4 and conv5 of ResNet, both denser: every fourth cell of conv5 is the original's, or every other where
    conv5 halves the denser map."""
    backbone, parts = stages
    features = torch.randn(1, out_channels(backbone, 3), 16, 16)
    with torch.no_grad():
        original = parts[4](parts[3](features))  # stride 32
        conv4 = deepcopy(parts[3])
        set_stride(backbone, conv4, 4, 8, 8, dilation=True)
        dense = conv4(features)
        for after in (8, 16):
            conv5 = deepcopy(parts[4])
            set_stride(backbone, conv5, 5, 8, after, dilation=True)
            found = conv5(dense)[:, :, :: 32 // after, :: 32 // after]
            assert found.shape == original.shape
            torch.testing.assert_close(found, original, rtol=1e-4, atol=1e-4 * original.abs().max().item())


def test_the_backbones_own_stride_changes_nothing(stages: tuple[Backbone, list[nn.Sequential]]) -> None:
    backbone, parts = stages
    for number in (3, 4, 5):
        stage = deepcopy(parts[number - 1])
        set_stride(
            backbone, stage, number, stage_stride(backbone, number - 1), stage_stride(backbone, number), dilation=True
        )
        assert str(stage) == str(parts[number - 1])


@pytest.mark.parametrize(("norm", "kind"), [("frozen_bn", FoldedNorm), ("bn", nn.BatchNorm2d), ("group", nn.GroupNorm)])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "vgg16"])
def test_norm_kinds(backbone: Backbone, norm: Norm, kind: type[nn.Module]) -> None:
    with torch.device("meta"):
        network = build_classifier(backbone, norm)
    kinds = {type(m) for m in network.modules()} & {FoldedNorm, nn.BatchNorm2d, nn.GroupNorm}
    assert kinds == {kind}
    assert all(m.num_groups == 32 for m in network.modules() if isinstance(m, nn.GroupNorm))


def test_vgg_without_norm_is_the_published_network() -> None:
    with torch.device("meta"):
        network = build_classifier("vgg16", "none")
    assert not [m for m in network.modules() if isinstance(m, FrozenBatchNorm2d | nn.BatchNorm2d | nn.GroupNorm)]
    assert len([m for m in network.features if isinstance(m, nn.Conv2d)]) == 13


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "vgg16"])
def test_frozen_norm_inside_the_convolutions_is_torchvisions(backbone: Backbone) -> None:
    torch.manual_seed(0)
    ours = build_classifier(backbone, "frozen_bn")
    if backbone == "vgg16":
        theirs = torchvision.models.vgg16_bn(weights=None)
        for i, layer in enumerate(theirs.features):
            if isinstance(layer, nn.BatchNorm2d):
                theirs.features[i] = FrozenBatchNorm2d(layer.num_features)
    else:
        theirs = getattr(torchvision.models, backbone)(weights=None, norm_layer=FrozenBatchNorm2d)
    for name, buffer in theirs.named_buffers():
        buffer.uniform_(0.5, 1.5) if "var" in name or "weight" in name else buffer.normal_(std=0.1)
    assert ours.load_state_dict(theirs.state_dict())
    copied = deepcopy(ours)
    for network in (ours, theirs, copied):
        network.double()
    for stage in split_stages(copied):
        for conv in (m for m in stage.modules() if isinstance(m, FoldedConv2d)):
            assert any(conv.norm is norm for norm in stage.modules())  # its own copy, not the original's
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    outputs, gradients = [], []
    for network in (ours, theirs, copied):
        maps = chain(split_stages(network), image)
        outputs.append(maps[-1])
        convs = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d)]
        gradients.append(torch.autograd.grad(maps[-1].square().mean(), convs))
    for k in (0, 2):
        torch.testing.assert_close(outputs[k], outputs[1])
        for mine, other in zip(gradients[k], gradients[1], strict=True):
            torch.testing.assert_close(mine, other)
