"""The interface of a backbone: its stages conv1..conv5, each as a fresh copy at the stride that a map needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from grcn.config import Norm

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(ABC):
    """A network in five stages. Subclass it to bring your own (docs/tutorials/new-backbone.md).

    If a module has a batch norm right after a convolution among its children, the norm has to be applied directly to
    the output of the convolution. Prediction multiplies it into the convolution
    (`grcn.model.backbones.norm.norm_pairs`).

    Attributes:
        name: its name in `DetectorConfig.backbone` and in the header of a weights file.
        channels: output channels of each stage, conv1 to conv5.
        strides: input pixels per cell after each stage of the unmodified network. A network that starts coarser leaves
            conv1 empty: 3 channels, stride 1.
        mean, std: mean and deviation of the input, RGB in 0..1: the network sees (image - mean) / std.
        norm: its norm layers; `frozen_bn`: their statistics and weights do not change in training.
        pool5: whether conv5 may be followed by a 2x2 pooling that halves its map once more.
        fc: the two fully connected layers from which a head `vgg_fc` takes its weights; empty: it has none.
        behind: how the names of layers after the stages begin, in a file of its weights.
        network: holds the parameters that the stages copy, under the names in a file of its weights; None: it does not
            accept such a file.
        url: address of its ImageNet weights, a state dict with the names of `network`. The file name ends with the
            first letters of its SHA-256. None: they are not published.
    """

    name: str
    channels: tuple[int, int, int, int, int]
    strides: tuple[int, int, int, int, int]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    norm: Norm = "none"
    pool5: ClassVar[bool] = False
    fc: tuple[nn.Linear, ...] = ()
    behind: tuple[str, ...] = ()
    network: nn.Module | None = None
    url: str | None = None

    @abstractmethod
    def stage(self, number: int, before: int, after: int, *, dilation: bool = True) -> nn.Sequential:
        """A copy of stage conv`number` that turns a map of stride `before` into one of stride `after`.

        Copies share no parameter with each other or with the network, and start equal.

        Args:
            number: 1..5.
            before, after: input pixels per cell, `before` <= `after` <= the stage's own stride.
            dilation: if `after` is below the network's own stride, dilate the convolutions, so that each reads the same
                input pixels as in the network.

        Raises:
            ConfigError: if the network does not allow this.
        """
