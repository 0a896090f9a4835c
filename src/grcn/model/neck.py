"""The neck: a feature pyramid of maps with equal width and high-level features (Lin et al. 2017, section 3).

    conv5 -> 1x1 -+-> 3x3 -> P5 -> every second cell -> P6
                  | twice as large
    conv4 -> 1x1 -+-> 3x3 -> P4
                  |
    conv3 -> 1x1 -+-> 3x3 -> P3
                  |
    conv2 -> 1x1 -+-> 3x3 -> P2

The structure and the names of the weights are those of torchvision's FeaturePyramidNetwork with LastLevelMaxPool. RoIs
are pooled from all levels except the last, which only the RPN uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy

from torch import Tensor, nn
from torch.nn import functional as F

from grcn.config import Separation

Pyramid = list[Tensor]


class Neck(nn.Module):
    """One pyramid for each task, or one for both. The tasks' own parts start as copies of each other.

    Args:
        separation: with `conv4`, each task has a pyramid over its own stages; with `neck`, each has its own output
            convolutions on one top-down path; with `none` and `roi`, both share one pyramid.
        inputs, channels, norm: as in `FPN`.
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
            cls, loc: the maps of the stages for each task; except for `conv4` they are equal, and `cls` is used.
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
        inputs: channels of the input maps, finest first.
        channels: channels of each output map.
        norm: batch norm after each convolution, which then has no bias.
    """

    def __init__(self, inputs: Sequence[int], channels: int, *, norm: bool = False) -> None:
        super().__init__()
        self.inner_blocks = TopDown(_layer(each, channels, 1, norm) for each in inputs)
        self.layer_blocks = Outputs(_layer(channels, channels, 3, norm) for _ in inputs)

    def forward(self, maps: Sequence[Tensor]) -> Pyramid:
        """Maps [B, C_i, H_i, W_i], finest first, to maps of the same sizes and one more, half as large as the last."""
        pyramid: Pyramid = self.layer_blocks(self.inner_blocks(maps))
        return pyramid


class TopDown(nn.ModuleList):
    """The top-down path: each map, narrowed, plus the enlarged coarser maps."""

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i], finest first, to maps [B, C, H_i, W_i]."""
        merged = [layer(each) for layer, each in zip(self, maps, strict=True)]
        for i in range(len(merged) - 2, -1, -1):
            merged[i] = merged[i] + F.interpolate(merged[i + 1], size=merged[i].shape[2:], mode="nearest")
        return merged


class Outputs(nn.ModuleList):
    """The outputs of a pyramid: one convolution per level, which smooths the enlarged maps."""

    def forward(self, merged: Sequence[Tensor]) -> Pyramid:
        """Maps [B, C, H_i, W_i] to as many maps and one more, with every second row and column of the last."""
        pyramid = [layer(each) for layer, each in zip(self, merged, strict=True)]
        return [*pyramid, F.max_pool2d(pyramid[-1], kernel_size=1, stride=2)]


def _layer(inputs: int, outputs: int, kernel: int, norm: bool) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    norms: Iterable[nn.Module] = [nn.BatchNorm2d(outputs)] if norm else []
    return nn.Sequential(conv, *norms)
