"""RoI heads: turn the features of a RoI, [R, C, S, S], into a vector of `channels` numbers, [R, F]."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grcn.config import DetectorConfig
from grcn.errors import ConfigError
from grcn.model.backbones import Backbone
from grcn.model.ops import by_cell, whole_rois
from grcn.model.separation import run


class ConvHead(nn.Module):
    """Protocol C4: conv5 on each RoI's 14x14 features, then the average over its 7x7 cells."""

    def __init__(self, conv5: nn.Module, channels: int) -> None:
        super().__init__()
        self.conv5, self.channels = conv5, channels
        self.checkpoint = False  # as `Separation.checkpoint`

    def forward(self, features: Tensor) -> Tensor:
        return run([self.conv5], features, self.checkpoint).mean(dim=(2, 3))


class FCHead(nn.Module):
    """Two fully connected layers; dropout as in VGG16's fc6 and fc7.

    fc6 is stored as a convolution over the whole RoI, which computes the same. Its weight then has the memory layout of
    RoI features.

    Args:
        inputs: channels of the RoI features; size: their cells per side; channels: of both layers.
    """

    def __init__(self, inputs: int, size: int, channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc6, self.fc7 = nn.Conv2d(inputs, channels, size), nn.Linear(channels, channels)
        self.dropout, self.channels = dropout, channels
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        assert self.fc6.bias is not None
        hidden = whole_rois(features, self.fc6.weight, self.fc6.bias)
        hidden = F.dropout(torch.relu(hidden), self.dropout, self.training)
        return F.dropout(torch.relu(self.fc7(hidden)), self.dropout, self.training)

    def as_matrix(self) -> None:
        """Stores fc6 as a matrix, for exported graphs only: other runtimes compute this form fastest."""
        self.fc6.weight.data = by_cell(self.fc6.weight.data).contiguous()


class ConvFCHead(nn.Module):
    """Four 3x3 convolutions with batch norm, then a fully connected layer: torchvision's v2 (after Wu and He 2018).

    Args:
        inputs: channels of the RoI features; size: their cells per side; channels: of the last layer.
    """

    def __init__(self, inputs: int, size: int, channels: int) -> None:
        super().__init__()
        widths = [inputs, *[_CONV_WIDTH] * 4]
        self.convs = nn.Sequential(*(_conv(*each) for each in pairwise(widths)))
        self.fc6, self.channels = nn.Conv2d(_CONV_WIDTH, channels, size), channels
        nn.init.kaiming_uniform_(self.fc6.weight, a=1)
        nn.init.zeros_(self.fc6.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        assert self.fc6.bias is not None
        return torch.relu(whole_rois(self.convs(features), self.fc6.weight, self.fc6.bias))

    def as_matrix(self) -> None:
        """See `FCHead.as_matrix`."""
        self.fc6.weight.data = by_cell(self.fc6.weight.data).contiguous()


_CONV_WIDTH = 256


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class AverageHead(nn.Module):
    """The average over the cells of a RoI, which loses all positions in the RoI; kept for the study."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))


def make_head(config: DetectorConfig, backbone: Backbone, channels: int) -> nn.Module:
    """Builds one RoI head, with its own copy of the layers that it takes from the backbone.

    Args:
        channels: channels of the map that its RoIs are pooled from.

    Raises:
        ConfigError: if the backbone has no fully connected layers and the head needs them.
    """
    if config.head == "conv5":
        before, after = backbone.strides[3:]
        return ConvHead(backbone.stage(5, before, after, dilation=config.dilation), backbone.channels[4])
    if config.head == "avgpool":
        return AverageHead(channels)
    if config.head == "conv_fc":
        return ConvFCHead(channels, config.roi_size, config.fc_channels)
    width = config.roi.reduce_channels if config.head == "light_fc2" else channels
    head = FCHead(width, config.roi_size, config.fc_channels, dropout=0.5 if config.head == "vgg_fc" else 0.0)
    if takes_fc(config, backbone):
        layers: list[nn.Conv2d | nn.Linear] = [head.fc6, head.fc7]
        for layer, source in zip(layers, backbone.fc, strict=True):
            layer.load_state_dict({"weight": source.weight.reshape_as(layer.weight), "bias": source.bias})
    return head


def takes_fc(config: DetectorConfig, backbone: Backbone) -> bool:
    """Whether the head starts from the fully connected layers of `backbone`: yes if they are as wide as its own.

    Raises:
        ConfigError: if the head needs them and the backbone has none.
    """
    if config.head != "vgg_fc":
        return False
    if not backbone.fc:
        raise ConfigError(f"head 'vgg_fc' with backbone '{backbone.name}': it has no fc6 and fc7; use head 'light_fc2'")
    return config.fc_channels == backbone.fc[0].out_features
