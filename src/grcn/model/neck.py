"""The neck: a pyramid of maps, each as wide as the other and as sure of what it sees (Lin et al. 2017, section 3).

    conv5 -> 1x1 -+-> 3x3 -> P5 -> every second cell -> P6
                  | twice as large
    conv4 -> 1x1 -+-> 3x3 -> P4
                  |
    conv3 -> 1x1 -+-> 3x3 -> P3
                  |
    conv2 -> 1x1 -+-> 3x3 -> P2

Structure and names of the weights are those of torchvision's FeaturePyramidNetwork with LastLevelMaxPool. RoIs are
pooled from all levels but the last, which is the RPN's alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy

from torch import Tensor, nn
from torch.nn import functional as F

from grcn.config import Separation

Pyramid = list[Tensor]


class Neck(nn.Module):
    """The pyramid that each task reads, or the one that both do; a task's own parts start as copies of each other.

    Args:
        separation: `conv4`: each task has a pyramid over stages of its own. `neck`: each has its own outputs of one way
            down. `none`, `roi`: both read the same.
        inputs, channels, norm: as `FPN` has them.
    """

    def __init__(self, separation: Separation, inputs: Sequence[int], channels: int, *, norm: bool = False) -> None:
        super().__init__()
        self.separation, fpn = separation, FPN(inputs, channels, norm=norm)
        if separation == "conv4":
            self.cls, self.loc = fpn, deepcopy(fpn)
            return
        self.inner_blocks = fpn.inner_blocks
        if separation == "neck":
            self.cls_blocks, self.loc_blocks = fpn.layer_blocks, deepcopy(fpn.layer_blocks)
        else:
            self.layer_blocks = fpn.layer_blocks

    def forward(self, cls: Sequence[Tensor], loc: Sequence[Tensor]) -> tuple[Pyramid, Pyramid]:
        """The pyramids of classification and localization, each as from `FPN`.

        Args:
            cls, loc: the stages' maps as each task has them; but for `conv4` they are the same, and `cls` is read.
        """
        if self.separation == "conv4":
            return self.cls(cls), self.loc(loc)
        merged = self.inner_blocks(cls)
        if self.separation == "neck":
            return self.cls_blocks(merged), self.loc_blocks(merged)
        pyramid = self.layer_blocks(merged)
        return pyramid, pyramid


class FPN(nn.Module):
    """A feature pyramid network.

    Args:
        inputs: channels of the maps that it reads, finest first.
        channels: of every map that it gives.
        norm: batch norm after each convolution, which then has no bias.
    """

    def __init__(self, inputs: Sequence[int], channels: int, *, norm: bool = False) -> None:
        super().__init__()
        self.inner_blocks = TopDown(_layer(each, channels, 1, norm) for each in inputs)
        self.layer_blocks = Outputs(_layer(channels, channels, 3, norm) for _ in inputs)

    def forward(self, maps: Sequence[Tensor]) -> Pyramid:
        """Maps [B, C_i, H_i, W_i], finest first, to as many of the same sizes and one half as large as the last."""
        pyramid: Pyramid = self.layer_blocks(self.inner_blocks(maps))
        return pyramid


class TopDown(nn.ModuleList):
    """The way down: every map, narrowed, plus what the coarser ones have seen."""

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i], finest first, to maps [B, C, H_i, W_i]."""
        merged = [layer(each) for layer, each in zip(self, maps, strict=True)]
        for i in range(len(merged) - 2, -1, -1):
            merged[i] = merged[i] + F.interpolate(merged[i + 1], size=merged[i].shape[2:], mode="nearest")
        return merged


class Outputs(nn.ModuleList):
    """What is read of a pyramid: one convolution a level, which takes the steps out of enlarged maps."""

    def forward(self, merged: Sequence[Tensor]) -> Pyramid:
        """Maps [B, C, H_i, W_i] to as many and one more, of every second row and column of the last."""
        pyramid = [layer(each) for layer, each in zip(self, merged, strict=True)]
        return [*pyramid, F.max_pool2d(pyramid[-1], kernel_size=1, stride=2)]


def _layer(inputs: int, outputs: int, kernel: int, norm: bool) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    norms: Iterable[nn.Module] = [nn.BatchNorm2d(outputs)] if norm else []
    return nn.Sequential(conv, *norms)
