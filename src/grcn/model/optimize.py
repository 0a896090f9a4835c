"""A detector made ready to predict: the same network, computed with less work."""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from grcn.model.detector import RCNN

Optimization = Literal["none", "fold", "bf16"]


def optimized(model: RCNN, how: Optimization) -> RCNN:
    """A copy of `model` for prediction alone: it can be neither trained nor saved.

    Args:
        how: `fold`: batch norm, which is linear in prediction, is multiplied into the convolutions; the detections are
            the same up to rounding (a thousandth of a pixel). `bf16`: folded, and weights and maps in bfloat16: half
            the time and memory where the processor multiplies it, with detections that differ a little. `none`: `model`
            itself.
    """
    if how == "none":
        return model
    model = deepcopy(model).eval().requires_grad_(False)
    _fold_norm(model)
    if how == "bf16":
        for parameter in model.parameters():  # not the buffers: anchors and image statistics keep their precision
            parameter.data = parameter.data.to(torch.bfloat16)
    return model.to(memory_format=torch.channels_last)


def _fold_norm(model: nn.Module) -> None:
    """Multiplies each batch norm into the convolution before it, in place. Group norm stays: it is not linear."""
    for parent in list(model.modules()):
        before: nn.Module | None = None
        # The order of children is that of computation in ResNet's blocks and in sequences.
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d | FrozenBatchNorm2d) and isinstance(before, nn.Conv2d):
                before.weight, before.bias = fuse_conv_bn_weights(
                    before.weight,
                    before.bias,
                    child.running_mean,  # type: ignore[arg-type]
                    child.running_var,  # type: ignore[arg-type]
                    child.eps,
                    child.weight,
                    child.bias,
                )
                setattr(parent, name, nn.Identity())
            before = child
