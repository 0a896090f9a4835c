"""torchvision's ResNets (He et al. 2016), ResNeXts (Xie et al. 2017), Wide ResNets (Zagoruyko, Komodakis 2016)."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import torchvision
from torch import nn

from grcn.config import Norm
from grcn.errors import ConfigError
from grcn.model.backbones.base import Backbone
from grcn.model.backbones.norm import freeze_norms

NAMES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)


class ResNet(Backbone):
    """conv1 is the stem, conv2..conv5 are torchvision's layer1..layer4, and conv2 begins with the max pooling.

    Args:
        name: one of NAMES.
        norm: `frozen_bn`, `bn` or `group` (with 32 groups); `auto`: `frozen_bn` if `pretrained`, otherwise `bn`.

    Raises:
        ConfigError: on another norm.
    """

    strides = (2, 4, 8, 16, 32)
    behind = ("fc.",)

    def __init__(self, name: str, norm: Norm = "auto", *, pretrained: bool = False) -> None:
        if norm == "auto":
            norm = "frozen_bn" if pretrained else "bn"
        if norm not in ("frozen_bn", "bn", "group"):
            raise ConfigError(f"norm '{norm}' with backbone '{name}': ResNet has norm layers; use 'frozen_bn'")
        layer = partial(nn.GroupNorm, 32) if norm == "group" else nn.BatchNorm2d
        network: Any = getattr(torchvision.models, name)(weights=None, norm_layer=layer)
        if norm == "frozen_bn":
            freeze_norms(network)
        self.name, self.norm, self.network = name, norm, network
        self.url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
        widest = network.fc.in_features
        self.channels = (64, widest // 8, widest // 4, widest // 2, widest)

    def stage(self, number: int, before: int, after: int, *, dilation: bool = True) -> nn.Sequential:
        network: Any = self.network
        if number == 1:
            return deepcopy(nn.Sequential(network.conv1, network.bn1, network.relu))
        if number == 2:
            return deepcopy(nn.Sequential(network.maxpool, *network.layer1))
        stage: nn.Sequential = deepcopy(getattr(network, f"layer{number - 1}"))
        first = self.strides[number - 2] // before if dilation else 1
        rest = self.strides[number - 1] // after if dilation else 1
        block: Any  # BasicBlock or Bottleneck
        for block in stage:
            if block.downsample is not None and block.downsample[0].stride != (1, 1):
                block.downsample[0].stride = (after // before,) * 2
            for layer in (m for m in block.children() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)):
                opens = layer.stride != (1, 1)  # the one convolution of the stage that halves the map
                if opens:
                    layer.stride = (after // before,) * 2
                layer.dilation = layer.padding = (first if opens else rest,) * 2
        return stage
