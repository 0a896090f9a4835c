"""VGG16 (Simonyan and Zisserman 2015)."""

from __future__ import annotations

from copy import deepcopy

import torchvision
from torch import nn

from grcn.config import Norm
from grcn.model.backbones.base import Backbone
from grcn.model.backbones.norm import freeze_norms
from grcn.presets import stage_strides


class VGG16(Backbone):
    """Each stage begins with the pooling layer before it, so that its stride is set at its beginning.

    A stage with a reduced stride loses that pooling layer, so it reads each cell where the original reads the largest
    of four.

    Args:
        norm: `none`, as published, or `frozen_bn`, `bn` or `group` (with 32 groups) after each convolution; `auto`:
            `none` if `pretrained`, otherwise `bn`.
    """

    name = "vgg16"
    channels = (64, 128, 256, 512, 512)
    strides = stage_strides("vgg16")
    pool5 = True
    behind = ("classifier.",)

    def __init__(self, norm: Norm = "auto", *, pretrained: bool = False) -> None:
        if norm == "auto":
            norm = "none" if pretrained else "bn"
        kind = "vgg16" if norm == "none" else "vgg16_bn"
        network = getattr(torchvision.models, kind)(weights=None)
        if norm == "group":
            for i, layer in enumerate(network.features):
                if isinstance(layer, nn.BatchNorm2d):
                    network.features[i] = nn.GroupNorm(32, layer.num_features)
        elif norm == "frozen_bn":
            freeze_norms(network)
        self.norm, self.network = norm, network
        self.url = torchvision.models.get_model_weights(kind)["IMAGENET1K_V1"].url
        self.fc = (network.classifier[0], network.classifier[3])
        stages: list[list[nn.Module]] = [[]]
        for layer in network.features:
            if isinstance(layer, nn.MaxPool2d):
                stages.append([])
            stages[-1].append(layer)
        self._stages = stages[:5]  # what follows the fifth is pool5

    def stage(self, number: int, before: int, after: int, *, dilation: bool = True) -> nn.Sequential:
        stage = deepcopy(nn.Sequential(*self._stages[number - 1]))
        if number > 1 and before == after:
            del stage[0]  # the pooling layer
        rest = self.strides[number - 1] // after if dilation else 1
        for layer in stage:
            if isinstance(layer, nn.Conv2d):
                layer.dilation = layer.padding = (rest, rest)
        return stage
