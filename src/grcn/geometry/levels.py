"""Chooses the map of a pyramid from which a RoI is pooled (after Lin et al. 2017, section 4.2).

A stride alone does not say much, so the rule counts cells. A RoI reads the coarsest map on which its side, the square
root of its area, spans at least a given number of cells. With 14 cells, this is the rule of Lin et al. and of
torchvision: a RoI of 224 pixels, the size of ImageNet's photos, reads the map of stride 16.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grcn.geometry.boxes import area

# Tolerance for rounding, added to the logarithm to base 2, as in torchvision.
_EPS = 1e-6


def roi_levels(boxes: Tensor, cells: float, finest: int, count: int) -> Tensor:
    """The level of each RoI.

    Args:
        boxes: [..., 4] in input pixels. A box without area, such as padding, reads the finest map.
        cells: a RoI reads the coarsest map on which its side spans at least this many cells.
        finest: input pixels per cell of level 0, a power of two.
        count: number of levels; each has twice the stride of the one before.

    Returns:
        [...] int64, 0 to count - 1. A RoI that is too small for the rule reads the finest map.
    """
    side = area(boxes).clamp(min=0).sqrt()
    # The exponent of the stride, counted from stride 16, so that even the last bit is the same as in torchvision.
    stride = torch.floor(4 + torch.log2(side / (16 * cells)) + _EPS)
    first = finest.bit_length() - 1
    return stride.clamp(first, first + count - 1).long() - first
