"""Assigns each anchor or proposal to an object, or to the background."""

from __future__ import annotations

import torch
from torch import Tensor

from grcn.geometry.boxes import iou

BACKGROUND = -1
IGNORED = -2
PAIRS = 1 << 20
"""Pairs of object and box whose overlaps are computed at a time. This bounds the memory for any number of objects."""


def match(
    objects: Tensor,
    valid: Tensor,
    boxes: Tensor,
    *,
    foreground: float,
    background: float,
    keep_best: bool,
) -> Tensor:
    """Assigns boxes to objects by overlap (Ren et al. 2015, section 3.1.2).

    Args:
        objects: [B, G, 4]; valid: [B, G] bool, False where `objects` is padding.
        boxes: [A, 4], the same for every image, or [B, A, 4].
        foreground: a box at or above this IoU with its best object is assigned to it.
        background: a box below this IoU is background; a box between the two is ignored.
        keep_best: also assign every box that has the highest IoU with some object, if that is above 0. As in the
            reference implementations, such a box goes to the object with which its own IoU is highest.

    Returns:
        [B, A] int64: index of the object, or BACKGROUND, or IGNORED.
    """
    images, count = objects.shape[0], boxes.shape[-2]
    best = torch.full((images, count), -1.0, dtype=boxes.dtype, device=boxes.device)  # [B, A]
    index = torch.zeros((images, count), dtype=torch.int64, device=boxes.device)
    is_best = torch.zeros((images, count), dtype=torch.bool, device=boxes.device)
    step = max(1, PAIRS // max(1, images * count))
    for first in range(0, objects.shape[1], step):
        block = slice(first, first + step)
        overlaps = iou(objects[:, block], boxes).masked_fill_(~valid[:, block, None], -1.0)  # [B, G, A]
        value, place = overlaps.max(dim=1)
        better = value > best  # on a tie the first object wins, as within a block
        best, index = torch.where(better, value, best), torch.where(better, place + first, index)
        if keep_best and count:
            most = overlaps.amax(dim=2, keepdim=True)  # [B, G, 1]
            is_best |= (overlaps == most.masked_fill_(most <= 0, 2.0)).any(dim=1)  # 2 equals no IoU
    result = index.masked_fill(best < background, BACKGROUND)
    result = result.masked_fill((best >= background) & (best < foreground), IGNORED)
    return torch.where(is_best, index, result)
