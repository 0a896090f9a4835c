"""Which map of a pyramid a RoI is pooled from (after Lin et al. 2017, section 4.2).

A stride means something only beside an object's size, so the rule is in cells: the coarsest map on which the RoI's
side, the square root of its area, spans at least so many cells. Of 14 cells it is the rule of Lin et al. and of
torchvision: a RoI of 224 pixels, ImageNet's photo, reads the map of stride 16.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grcn.geometry.boxes import area

# A side that is short of so many cells by no more than rounding spans them: in powers of two, as in torchvision.
_EPS = 1e-6


def roi_levels(boxes: Tensor, cells: float, finest: int, count: int) -> Tensor:
    """The level of each RoI.

    Args:
        boxes: [..., 4] in input pixels; one without area, such as padding, reads the finest map.
        cells: a RoI reads the coarsest map on which its side spans at least so many.
        finest: input pixels per cell of level 0, a power of two; count: of levels, each half as fine as the one before.

    Returns:
        [...] int64, 0 to count - 1: a RoI too small for the rule reads the finest map.
    """
    side = area(boxes).clamp(min=0).sqrt()
    # The stride that suits it, as a power of two; counted from 16, so that the last bit is torchvision's too.
    stride = torch.floor(4 + torch.log2(side / (16 * cells)) + _EPS)
    first = finest.bit_length() - 1
    return stride.clamp(first, first + count - 1).long() - first
