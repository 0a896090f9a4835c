"""Stages conv1..conv5 of ResNet and VGG16, with the strides that a detector asks for.

ResNet (He et al. 2016): conv1 is the stem, conv2..conv5 are torchvision's layer1..layer4 (max pooling opens conv2).
VGG16 (Simonyan and Zisserman 2015): each stage opens with the pooling layer before it, so that a stage's stride is
set where the stage begins; pool5 stands after conv5.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models import VGG, ResNet
from torchvision.ops import FrozenBatchNorm2d

from grcn.config import Backbone, Norm, stage_stride

NORMS: dict[Norm, Callable[[int], nn.Module]] = {
    "frozen_bn": FrozenBatchNorm2d,
    "bn": nn.BatchNorm2d,
    "group": partial(nn.GroupNorm, 32),
}


class FoldedConv2d(nn.Conv2d):
    """A convolution and the frozen norm after it, at once: that norm only scales and shifts each channel.

    The norm's passes over the map, forward and backward, cost as much as the 1x1 convolutions of a ResNet do. Its
    numbers stay where they were (`FoldedNorm`), so that weights are called as in torchvision.
    """

    norm: FrozenBatchNorm2d

    def forward(self, input: Tensor) -> Tensor:
        norm = self.norm
        scale: Tensor = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        output: Tensor = self._conv_forward(input, self.weight * scale[:, None, None, None], shift)
        return output


class FoldedNorm(FrozenBatchNorm2d):  # type: ignore[misc]
    """The numbers of a norm that the convolution before it has applied already."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def norm_pairs(network: nn.Module) -> list[tuple[nn.Module, str, str]]:
    """Each convolution that a batch norm follows at once: the module that holds both, and their names in it."""
    kinds = nn.BatchNorm2d | FrozenBatchNorm2d
    return [
        (parent, first, second)
        for parent in network.modules()
        for (first, conv), (second, norm) in pairwise(parent.named_children())  # in ResNet's and VGG's order of use
        if isinstance(conv, nn.Conv2d) and isinstance(norm, kinds)
    ]


def _fold_frozen(network: nn.Module) -> None:
    """Makes each convolution apply the frozen norm after it."""
    for parent, first, second in norm_pairs(network):
        conv, norm = getattr(parent, first), getattr(parent, second)
        conv.__class__, norm.__class__ = FoldedConv2d, FoldedNorm
        # Not a submodule: the norm has its place, and its names, in the parent.
        conv.__dict__["norm"] = norm


def build_classifier(backbone: Backbone, norm: Norm) -> ResNet | VGG:
    """torchvision's classification network, with random weights, whose stages and layers a detector takes."""
    network = _build(backbone, norm)
    if norm == "frozen_bn":
        _fold_frozen(network)
    return network


def _build(backbone: Backbone, norm: Norm) -> ResNet | VGG:
    if backbone == "vgg16":
        if norm == "none":
            return torchvision.models.vgg16(weights=None)
        vgg = torchvision.models.vgg16_bn(weights=None)
        for i, layer in enumerate(vgg.features):
            if isinstance(layer, nn.BatchNorm2d):
                vgg.features[i] = NORMS[norm](layer.num_features)
        return vgg
    network: ResNet = getattr(torchvision.models, backbone)(weights=None, norm_layer=NORMS[norm])
    return network


def split_stages(network: ResNet | VGG) -> list[nn.Sequential]:
    """The five stages of `network`, conv1 first; they share its parameters."""
    if isinstance(network, ResNet):
        stem = nn.Sequential(network.conv1, network.bn1, network.relu)
        return [stem, nn.Sequential(network.maxpool, *network.layer1), network.layer2, network.layer3, network.layer4]
    stages: list[list[nn.Module]] = [[]]
    for layer in network.features:
        if isinstance(layer, nn.MaxPool2d):
            stages.append([])
        stages[-1].append(layer)
    return [nn.Sequential(*stage) for stage in stages[:5]]  # what follows the fifth is pool5


def set_stride(backbone: Backbone, stage: nn.Sequential, number: int, before: int, after: int, dilation: bool) -> None:
    """Makes stage conv`number` turn a map of stride `before` into one of stride `after`, in place.

    Dilation by (the backbone's own stride / the stride in use) keeps each convolution looking at the same input
    pixels, so that a reduced stage computes what the original does, only more densely. A reduced stage of VGG16 also
    loses its pooling layer, so it takes single cells where the original takes the largest of four.

    Args:
        before, after: input pixels per cell; `after` is `before` or twice that.
        dilation: whether to dilate at all.
    """
    first = stage_stride(backbone, number - 1) // before if dilation else 1
    rest = stage_stride(backbone, number) // after if dilation else 1
    if backbone == "vgg16":
        if before == after:
            del stage[0]  # the pooling layer that opens the stage
        for layer in stage:
            if isinstance(layer, nn.Conv2d):
                _dilate(layer, rest)
        return
    block: Any  # BasicBlock or Bottleneck
    for block in stage:
        if block.downsample is not None and block.downsample[0].stride != (1, 1):
            block.downsample[0].stride = (after // before,) * 2
        for layer in (m for m in block.children() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)):
            opens = layer.stride != (1, 1)  # the one convolution of the stage that halves the map
            if opens:
                layer.stride = (after // before,) * 2
            _dilate(layer, first if opens else rest)


def _dilate(layer: nn.Conv2d, dilation: int) -> None:
    layer.dilation = layer.padding = (dilation, dilation)


def out_channels(backbone: Backbone, number: int) -> int:
    """Channels of stage conv`number`, 2..5."""
    if backbone == "vgg16":
        return min(64 << (number - 1), 512)
    return (64 if backbone in ("resnet18", "resnet34") else 256) << (number - 2)
