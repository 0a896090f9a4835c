"""The idea of G-RCN: classification and localization share a trunk, then each has its own late features.

    image -> conv1 .. conv4 -+-> conv5, large stride   -> cls map -> + global context -> class scores
             (trunk)         +-> conv5, small stride   -> loc map ->                     box deltas

With a neck, the maps of conv2 to conv5 go through it, and each task has a pyramid in place of a map (`model.neck`).

A large stride helps to tell what an object is, but makes it harder to tell where it ends. So each task has a branch, a
copy of the same pretrained stages, with the stride that suits it (Luo and Xiao 2020, abstract). Which stages are
copied, the strides and the dilation are our reading of the paper, and fields of the configuration. Without separation,
this module is the feature extractor of Faster R-CNN.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from grcn.config import DetectorConfig, branch_strides, rpn_stride, trunk_stride
from grcn.errors import ConfigError
from grcn.model.backbones import Backbone
from grcn.model.backbones.norm import FrozenNorm
from grcn.model.neck import Neck, Pyramid


class Maps(NamedTuple):
    """The feature maps of a batch, [B, C, H, W] each, for each user: one map, or all maps of a pyramid, finest first.

    A shared map is the same tensor for all users. Only the RPN uses the last map of a pyramid.
    """

    rpn: Pyramid
    cls: Pyramid
    loc: Pyramid


class Separation(nn.Module):
    """Trunk and branches.

    Args:
        backbone: gives the stages; each branch gets a copy, so both start equal.

    Attributes:
        strides: input pixels per cell of the maps; channels: their width; both in the order of `Maps`.
        checkpoint: in training, store only the input of each block and compute the rest again in the backward pass
            (activation checkpointing, Chen et al. 2016): less memory, a third more time, the same numbers.

    Raises:
        ConfigError: on strides that the backbone cannot have.
    """

    strides: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    channels: tuple[int, int, int]

    def __init__(self, config: DetectorConfig, backbone: Backbone) -> None:
        super().__init__()
        check_strides(config, backbone)
        end, last, stride = config.trunk_end, config.last_stage, trunk_stride(config, backbone.strides)
        cls_stride, loc_stride = branch_strides(config, backbone.strides)
        self.trunk = _chain(config, backbone, 1, end, 1, stride)
        self.cls_branch = _chain(config, backbone, end + 1, last, stride, cls_stride)
        self.loc_branch = _chain(config, backbone, end + 1, last, stride, loc_stride)
        self.source, self.checkpoint, levels = config.rpn.source, False, config.level_strides
        self.neck: Neck | None = None
        if levels:
            width = config.neck_channels
            self.neck = Neck(config.separation, backbone.channels[-len(levels) :], width, norm=config.neck_norm)
            self.shared = [f"conv{number}" for number in range(6 - len(levels), end + 1)]
            self.strides, self.channels = ((*levels, 2 * levels[-1]), levels, levels), (width, width, width)
        else:
            at = {"trunk": end, "cls": last, "loc": last}.get(self.source) or int(self.source[-1])
            seen, width = backbone.channels[at - 1], backbone.channels[last - 1]
            self.strides = (rpn_stride(config, backbone.strides),), (cls_stride,), (loc_stride,)
            self.channels = seen, width, width
        for norm in self.modules():
            if isinstance(norm, FrozenNorm) and config.norm_eps is not None:
                norm.eps = config.norm_eps

    def forward(self, images: Tensor) -> Maps:
        """Images [B, 3, H, W], H and W multiples of 32, to maps of H / stride by W / stride cells."""
        maps, trunk = {}, images
        for name, stage in self.trunk.named_children():
            trunk = maps[name] = run([stage], trunk, self.checkpoint)
        maps["trunk"] = trunk
        maps["cls"] = cls = run(self.cls_branch, trunk, self.checkpoint)
        maps["loc"] = loc = run(self.loc_branch, trunk, self.checkpoint)
        if self.neck is None:
            return Maps([maps[self.source]], [cls], [loc])
        shared = [maps[name] for name in self.shared]
        has_branches = len(self.cls_branch) > 0
        of_cls, of_loc = self.neck(*([*shared, x] if has_branches else shared for x in (cls, loc)))
        return Maps(of_cls if self.source == "cls" else of_loc, of_cls[:-1], of_loc[:-1])


def run(stages: Iterable[nn.Module], x: Tensor, checkpointed: bool) -> Tensor:
    """Runs `x` through the stages one after the other; `checkpointed`: see `Separation.checkpoint`."""
    for stage in stages:
        if not (checkpointed and torch.is_grad_enabled()):
            x = stage(x)
            continue
        # Block by block, as in a ResNet. A stage of single layers, as in VGG16, runs as a whole.
        parts = list(stage.children())
        has_blocks = any(True for part in parts for _ in part.children())
        for part in parts if has_blocks else [stage]:
            x = checkpoint(
                part,
                x,
                use_reentrant=False,
                context_fn=partial(_contexts, part),
            )
    return x


def _contexts(part: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts in which the first and the second computation of `part` run."""
    return nullcontext(), _statistics_as_they_are(part)


@contextmanager
def _statistics_as_they_are(part: nn.Module) -> Iterator[None]:
    """Keeps the statistics of batch norm unchanged, because it has counted the batch already."""
    norms = [module for module in part.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, count) in zip(norms, before, strict=True):
        norm.momentum, norm.num_batches_tracked = 0.0, None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def check_strides(config: DetectorConfig, backbone: Backbone) -> None:
    """Raises ConfigError if the stages of `backbone` cannot have the strides that `config` asks for."""
    if config.neck != "none":
        if backbone.strides[1:] != (4, 8, 16, 32):
            raise ConfigError(
                f"neck '{config.neck}' with backbone '{backbone.name}': its conv2 to conv5 have strides "
                f"{', '.join(map(str, backbone.strides[1:]))}; a pyramid needs 4, 8, 16, 32"
            )
        return
    finest, end = trunk_stride(config, backbone.strides), config.trunk_end
    # pool5 is one more pooling layer than the stages of VGG16 need; it serves the largest stride only.
    pooled = 2 if backbone.pool5 and config.head != "conv5" else 1
    reach = finest * backbone.strides[config.last_stage - 1] * pooled // backbone.strides[end - 1]
    if config.separation in ("none", "roi", "conv5"):
        reach = backbone.strides[end - 1] * pooled
    for task, stride in (("cls", config.cls_stride), ("loc", config.loc_stride)):
        if stride > reach:
            raise ConfigError(
                f"{task}_stride {stride} after a trunk of stride {finest} that ends at conv{end} of "
                f"'{backbone.name}': its branch can reach at most {reach}; separate earlier or bring the strides closer"
            )


def _chain(config: DetectorConfig, backbone: Backbone, first: int, last: int, before: int, after: int) -> nn.Sequential:
    """Copies of the stages conv`first`..conv`last`, changed to lead from stride `before` to stride `after`."""
    chain: OrderedDict[str, nn.Module] = OrderedDict()
    stride = before
    for number in range(first, last + 1):
        wanted = min(backbone.strides[number - 1], after)
        chain[f"conv{number}"] = backbone.stage(number, stride, wanted, dilation=config.dilation)
        stride = wanted
    if stride < after:
        chain["pool5"] = nn.MaxPool2d(2)  # only for VGG16, whose conv5 ends at stride 16
    return nn.Sequential(chain)
