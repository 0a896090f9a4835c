"""Which object, if any, each anchor or proposal stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from grcn.geometry.boxes import iou

BACKGROUND = -1
IGNORED = -2


def match(
    objects: Tensor,
    real: Tensor,
    boxes: Tensor,
    *,
    foreground: float,
    background: float,
    keep_best: bool,
) -> Tensor:
    """Assigns boxes to objects by overlap (Ren et al. 2015, section 3.1.2).

    Args:
        objects: [B, G, 4]; real: [B, G] bool, False where `objects` is padding.
        boxes: [A, 4], the same for every image, or [B, A, 4].
        foreground: a box at or above this IoU with its best object is assigned to it.
        background: a box below this is background; between the two it is ignored.
        keep_best: also assign the boxes that overlap some object best, however little (but not zero). As in the
            reference implementations such a box goes to its own best object.

    Returns:
        [B, A] int64: index of the object, or BACKGROUND, or IGNORED.
    """
    images, count = objects.shape[:2]
    if count == 0:
        return torch.full((images, boxes.shape[-2]), BACKGROUND, device=boxes.device)
    overlaps = iou(objects, boxes).masked_fill(~real[..., None], -1.0)  # [B, G, A]
    best, index = overlaps.max(dim=1)  # [B, A]
    result = index.masked_fill(best < background, BACKGROUND)
    result = result.masked_fill((best >= background) & (best < foreground), IGNORED)
    if keep_best:
        most = overlaps.amax(dim=2, keepdim=True)  # [B, G, 1]
        is_best = ((overlaps == most) & (most > 0)).any(dim=1)
        result = torch.where(is_best, index, result)
    return result
