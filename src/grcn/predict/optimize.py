"""Makes a detector faster for prediction: the same network, computed with less work."""

from __future__ import annotations

from copy import deepcopy

import torch

from grcn.config import Optimization
from grcn.model.backbones.norm import fold_norms
from grcn.model.detector import RCNN


def optimized(model: RCNN, how: Optimization) -> RCNN:
    """Returns a copy of `model` for prediction only; it can be neither trained nor saved.

    Args:
        how: `fold` merges batch norm, which is linear in prediction, into the convolutions; the detections stay the
            same up to rounding (0.002 pixels seen). `bf16` also stores weights and feature maps in bfloat16: this takes
            half the time and memory if the processor computes in bfloat16, and detections differ slightly. `none`
            returns `model` itself.
    """
    if how == "none":
        return model
    model = deepcopy(model).eval().requires_grad_(False)
    fold_norms(model)
    if how == "bf16":
        for part in (model.separation, *model.rpn.children(), model.roi):
            part.to(torch.bfloat16)  # not the whole: anchors and image statistics keep their precision
    return model.to(memory_format=torch.channels_last)
