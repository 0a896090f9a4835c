"""The idea of G-RCN: classification and localization share a trunk, then each has its own late features.

    image -> conv1 .. conv4 -+-> conv5, large stride   -> cls map -> + global context -> class scores
             (trunk)         +-> conv5, small stride   -> loc map ->                     box deltas

A large stride helps to tell what an object is and harms telling where it ends; so each task's branch, a copy of the
same pretrained stages, takes the stride that suits it (Luo and Xiao 2020, abstract). Which stages are copied, the
strides and the dilation are our reading and fields of the configuration. With no separation this module is the
feature extractor of Faster R-CNN.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck

from grcn.config import DetectorConfig, stage_stride, trunk_stride
from grcn.model.backbone import out_channels, set_stride


class Maps(NamedTuple):
    """Feature maps of a batch, [B, C, H, W] each; one tensor where the tasks share it."""

    trunk: Tensor
    cls: Tensor
    loc: Tensor


class Separation(nn.Module):
    """Trunk and branches.

    Args:
        stages: conv1..conv5 of the backbone; each branch takes a copy of its stages, so both start equal.

    Attributes:
        strides: input pixels per cell of each map; channels: width of each map; both as (trunk, cls, loc).
        checkpoint: in training, keep only what enters each block and compute the rest again in the backward pass
            (activation checkpointing, Chen et al. 2016): less memory, a third more time, the same numbers.
    """

    def __init__(self, config: DetectorConfig, stages: list[nn.Sequential]) -> None:
        super().__init__()
        end, last, stride = config.trunk_end, _last_stage(config), trunk_stride(config)
        self.trunk = _chain(config, stages, 1, end, 1, stride)
        self.cls_branch = _chain(config, stages, end + 1, last, stride, config.cls_stride)
        self.loc_branch = _chain(config, stages, end + 1, last, stride, config.loc_stride)
        self.strides = (stride, config.cls_stride, config.loc_stride)
        self.channels = (out_channels(config.backbone, end), *[out_channels(config.backbone, last)] * 2)
        self.checkpoint = False

    def forward(self, images: Tensor) -> Maps:
        """Images [B, 3, H, W], H and W multiples of 32, to maps of H / stride by W / stride cells."""
        trunk = run(self.trunk, images, self.checkpoint)
        return Maps(trunk, run(self.cls_branch, trunk, self.checkpoint), run(self.loc_branch, trunk, self.checkpoint))


def run(stages: Iterable[nn.Module], x: Tensor, checkpointed: bool) -> Tensor:
    """`x` through stages one after the other; `checkpointed`: as `Separation.checkpoint` has it."""
    for stage in stages:
        if not (checkpointed and torch.is_grad_enabled()):
            x = stage(x)
            continue
        # Blocks of a ResNet; the stages of VGG16 and the stem have single layers inside, and are taken whole.
        is_blocks = any(isinstance(part, BasicBlock | Bottleneck) for part in stage.children())
        for part in list(stage.children()) if is_blocks else [stage]:
            x = checkpoint(
                part,
                x,
                use_reentrant=False,
                preserve_rng_state=False,  # nothing random in them
                context_fn=partial(_contexts, part),
            )
    return x


def _contexts(part: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What the first and the second computation of `part` run in."""
    return nullcontext(), _statistics_as_they_are(part)


@contextmanager
def _statistics_as_they_are(part: nn.Module) -> Iterator[None]:
    """Batch norm has counted the batch already."""
    norms = [module for module in part.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, count) in zip(norms, before, strict=True):
        norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def _last_stage(config: DetectorConfig) -> int:
    return 4 if config.head == "conv5" else 5


def _chain(
    config: DetectorConfig, stages: list[nn.Sequential], first: int, last: int, before: int, after: int
) -> nn.Sequential:
    """Copies of stages conv`first`..conv`last`, which take a map from stride `before` to stride `after`."""
    chain: OrderedDict[str, nn.Module] = OrderedDict()
    stride = before
    for number in range(first, last + 1):
        stage = deepcopy(stages[number - 1])
        wanted = min(stage_stride(config.backbone, number), after)
        if number >= 3:  # no detector here asks for a map finer than stride 8
            set_stride(config.backbone, stage, number, stride, wanted, config.dilation)
        stride = wanted
        chain[f"conv{number}"] = stage
    if stride < after:
        chain["pool5"] = nn.MaxPool2d(2)  # VGG16 alone gets here: its conv5 ends at stride 16
    return nn.Sequential(chain)
