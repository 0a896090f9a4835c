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

from torch import Tensor, nn
from torch.nn import functional as F


class FPN(nn.Module):
    """A feature pyramid network.

    Args:
        inputs: channels of the maps that it reads, finest first.
        channels: of every map that it gives.
        norm: batch norm after each convolution, which then has no bias.

    Attributes:
        inner_blocks: what tasks share that have only their own outputs; layer_blocks: the outputs.
    """

    def __init__(self, inputs: Sequence[int], channels: int, *, norm: bool = False) -> None:
        super().__init__()
        self.inner_blocks = TopDown(_layer(each, channels, 1, norm) for each in inputs)
        self.layer_blocks = Outputs(_layer(channels, channels, 3, norm) for _ in inputs)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, C_i, H_i, W_i], finest first, to as many of the same sizes and one half as large as the last."""
        pyramid: list[Tensor] = self.layer_blocks(self.inner_blocks(maps))
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

    def forward(self, merged: Sequence[Tensor]) -> list[Tensor]:
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
